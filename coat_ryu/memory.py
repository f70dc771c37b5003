"""Memory that moves after its container (post-copy): what is different in the steps of such a migration.

The pivot is the restore, as ever, but from then until the last page has come the container needs both nodes. What goes
wrong in between cannot be repaired: the source's copy is of the moment of the freeze, and the world has seen a later
one. So the container is ended, and the migration has failed.
"""

import time
from typing import Any

from coat_ryu import preflight
from coat_ryu.errors import Conflict, MemoryLost, NodeError, NodeTimeout, NodeUnreachable
from coat_ryu.moves import Move, Tally

SLICE = 5.0
"""Seconds that one request waits for pages: what has come so far is shown in between."""


def is_lazy(move: Move) -> bool:
    return move.record.memory == "lazy"


def may_move(move: Move, tally: Tally, here: dict[str, Any], there: dict[str, Any]) -> None:
    """Raises Conflict when memory cannot move as is wanted. ``here`` and ``there`` are the nodes' ``hello``."""
    if move.record.memory == "full":
        return
    sites = {move.record.source: move.source, move.record.destination: move.destination}
    facts = {move.record.source: here, move.record.destination: there}
    features = {name: move.call(tally, site, "memory_features", {}).result for name, site in sites.items()}
    for refusal in preflight.memory_refusals(move.record.memory, features, facts):
        raise Conflict(refusal.message, cause=refusal.cause)


def ends(move: Move) -> dict[str, Any]:
    """Where the destination listens, and the only address that it lets in."""
    return {"address": str(move.destination.node.address), "peer": str(move.source.node.address)}


def where(args: dict[str, Any], opened: dict[str, Any]) -> dict[str, Any]:
    """Where the sender finds what was ``opened`` with ``args``, and the address that it must come from."""
    return {"address": args["address"], "own": args["peer"], "port": opened["port"]}


def prepare(move: Move, tally: Tally) -> None:
    """The receiver of the pages listens."""
    if is_lazy(move):
        args = {"transfer": move.transfer, **ends(move), "tls": move.identities()[1].as_args()}
        tally.detail["pages_to"] = where(args, move.call(tally, move.destination, "pages_open", args).result)


def undo_prepare(move: Move, tally: Tally) -> None:
    if is_lazy(move):
        move.tidy(tally, move.destination, "pages_discard", {"transfer": move.transfer})


def checkpoint(move: Move, args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The verb that checkpoints and sends, and its arguments; ``args`` are those for memory that comes along."""
    if not is_lazy(move):
        return "checkpoint_send", args
    pages_to = next(step.detail["pages_to"] for step in move.record.steps if step.name == "prepare")
    return "lazy_checkpoint", {**args, "pages_to": pages_to}


def restore(move: Move) -> str:
    """The verb that restores at the destination."""
    return "lazy_restore" if is_lazy(move) else "restore"


def undo_checkpoint(move: Move, tally: Tally) -> None:
    """The frozen processes are the source's again, with their connections."""
    if is_lazy(move):
        move.call(tally, move.source, "pages_take_back", {"transfer": move.transfer, "name": move.name}, move.bulk)


def await_pages(move: Move, tally: Tally) -> None:
    """Until the last page has come. Raises MemoryLost when none comes any more; then no copy is left."""
    give_up, came = time.monotonic() + move.bulk, 0
    args = {"transfer": move.transfer, "name": move.name, "timeout": SLICE}
    while True:
        try:
            found = move.call(tally, move.destination, "pages_wait", args, SLICE * 4).result
        except (NodeUnreachable, NodeTimeout):
            raise  # they come without us: it is asked again
        except NodeError as error:
            if error.cause != MemoryLost.default_cause:
                raise
            why = str(error)
            break
        tally.detail["bytes"] = found["bytes"]
        if found["done"]:
            return
        if found["bytes"] > came:
            give_up, came = time.monotonic() + move.bulk, found["bytes"]
        if time.monotonic() > give_up:
            why = f"{move.name} lacks memory, and none came for {move.bulk:.0f} s (step_timeout)"
            break
    move.call(tally, move.destination, "container_remove", {"name": move.name}, move.bulk)
    finish(move, tally)
    move.tidy(tally, move.source, "container_remove", {"name": move.name})
    raise MemoryLost(why)


def finish(move: Move, tally: Tally) -> None:
    """Nobody gives or takes pages any more."""
    if is_lazy(move):
        for site in (move.destination, move.source):
            move.tidy(tally, site, "pages_discard", {"transfer": move.transfer})
