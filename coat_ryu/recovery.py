"""What has become of a container whose migration was interrupted: asked of the nodes, never guessed.

An answer that did not come says nothing about the work: a restore may have succeeded although its connection was lost.
So before a migration goes back, its nodes are taken over (a later epoch, see ``node.fence``: what was asked before is
refused from then on, and what is under way has ended) and the destination is asked whether the container runs there.
"""

import logging
import socket
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Any

from coat_ryu import memory
from coat_ryu.errors import CoatError, MemoryLost, NodeError, NodeTimeout, NodeUnreachable
from coat_ryu.journal import Journal
from coat_ryu.moves import Ahead, Move, Tally
from coat_ryu.nodes import Site
from coat_ryu.saga import Migration

LOG = logging.getLogger(__name__)

REACH_TIMEOUT = 3.0
"""Seconds that a witness tries to reach a node."""
DEAD_AFTER = 10.0
"""Seconds between the first and the last look of the witnesses that make a lost node a dead one. It has been silent
for ``ssh.SILENCE`` before the first. By a clock that nobody sets."""

AGAIN = "it is tried again for some minutes, and whenever one of the two connects anew or the controller starts"

Context = dict[str, Any]
"""What the journal keeps beside a record."""


def undecided(journal: Journal, homes: Container[str], sites: Mapping[str, Site]) -> list[tuple[Migration, Context]]:
    """Failed migrations between nodes that are still ours, of containers that nobody has removed or moved since."""
    return [
        (record, context)
        for record, context in journal.newest("failed")
        if record.source in sites
        and record.destination in sites
        and record.container in homes
        and not context.get("removed")
        and not (record.error and record.error.cause == MemoryLost.default_cause)
    ]


def owed(journal: Journal) -> Iterator[tuple[str, str]]:
    """Nodes on which an earlier controller's requests may still be under way, each with the container concerned."""
    for state in ("succeeded", "rolled_back"):
        for record, _ in journal.newest(state, "left_behind"):
            if not record.left_behind:  # the word is somewhere else, in a name
                continue
            yield from ((node, record.container) for node in (record.source, record.destination))


def advice(record: Migration, cause: str, second: CoatError | None) -> str:
    """What state everything is in when a migration has failed, and what becomes of it. ``second`` is what kept it from
    being decided, or the container from running at its source again.
    """
    name, source, destination = record.container, record.source, record.destination
    if cause == MemoryLost.default_cause:
        return f"no copy of {name} runs any more: remove it with DELETE /v1.0/containers/{name} and create it anew"
    if record.past_pivot:
        return f"{name} runs on {destination}, but tidying up did not finish; {AGAIN}"
    away = isinstance(second, NodeUnreachable)
    if not any(step.name == "undo_checkpoint" for step in record.steps):
        where = f"{name} may run on {destination} or on {source}, which keeps its checkpoint"
        when = "both are connected again" if away else f"{destination} can say whether it runs there"
        return f"{where}: it is decided when {when}; {AGAIN}"
    kept = f"no copy of {name} is known to run: {source} keeps its checkpoint"
    if away:
        return f"{kept}, and it goes on there when {source} is connected again"
    return f"{kept}, but could not restore it; {AGAIN}, and DELETE /v1.0/containers/{name} removes it"


class Silence:
    """How long a node has been out of reach of everybody: for the controller and for all ``witnesses`` at once."""

    def __init__(self, lost: Site, witnesses: Sequence[Site], clock: Callable[[], float]) -> None:
        self._lost, self._witnesses, self._clock = lost, witnesses, clock
        self._since: float | None = None

    def look(self) -> float:
        """Seconds since the first of the looks without a break in which nobody reached it; -1 if somebody did."""
        at = self._clock()
        if not _is_gone(self._lost, self._witnesses):
            self._since = None
            return -1.0
        self._since = at if self._since is None else self._since
        return at - self._since

    def broken(self) -> None:
        """It was heard."""
        self._since = None


def runs_at_destination(
    move: Move,
    witnesses: Sequence[Site],
    patiently: Callable[[Callable[[], None]], None],
    clock: Callable[[], float],
) -> bool:
    """Whether the container has come to life at its destination. From here on the move has a later epoch.

    ``patiently`` repeats an action until it succeeds or patience is at an end. Whenever the destination cannot be asked
    the ``witnesses`` are: a host that none of them has reached for DEAD_AFTER is taken for dead, its copy with it, and
    ``move.destination_gone`` is set. Raises NodeUnreachable or NodeTimeout when it may be alive: to go back could make
    a second copy.
    """
    seen: list[bool] = []
    silence = Silence(move.destination, witnesses, clock)

    def ask() -> None:
        try:
            # first what stands ready there, for whom Podman would wait; memory that follows has nothing that stands
            if not memory.is_lazy(move):
                with suppress(NodeError):  # who cannot be asked is told by the next question
                    move.call(Tally(0.0, {}), move.destination, "transfer_discard", {"transfer": move.transfer})
            there = move.call(Tally(0.0, {}), move.destination, "container_inspect", {"name": move.name}).result
        except NodeUnreachable:
            if silence.look() < DEAD_AFTER:
                raise
            move.destination_gone = True
            return
        except CoatError:
            silence.broken()
            raise
        seen.append(there is not None and there["state"] == "running")

    move.voice.take_over()
    try:
        patiently(ask)
    except (NodeUnreachable, NodeTimeout):
        if silence.look() < DEAD_AFTER:
            raise
        move.destination_gone = True
    if move.destination_gone:
        LOG.warning("node %s is taken for dead", move.record.destination)
        return False
    return seen[-1]


def _is_gone(lost: Site, witnesses: Sequence[Site]) -> bool:
    """Whether no witness reaches the node, where its tunnels end or where it is logged in to. All are asked at once.

    Without a witness that could be asked, nothing is known.
    """
    doors = _doors(lost)
    asked = [witness for witness in witnesses if witness is not lost and witness.ready]
    answers = [Ahead(partial(_reaches, witness, lost, door)) for witness in asked for door in doors]
    heard = [answer.result() for answer in answers]
    return any(one is not None for one in heard) and not any(heard)


def _reaches(witness: Site, lost: Site, door: tuple[str, int]) -> bool | None:
    """None when the witness could not be asked."""
    args = {"address": door[0], "port": door[1], "timeout": REACH_TIMEOUT}
    try:
        return bool(witness.call("reach", args, REACH_TIMEOUT * 2).result["reached"])
    except CoatError as error:
        LOG.warning("node %s could not look for %s: %s", witness.node.name, lost.node.name, error)
        return None


def _doors(lost: Site) -> set[tuple[str, int]]:
    """Addresses and ports that the node's SSH may be reached at. A loopback address means another machine to each."""
    node, found = lost.node, {str(lost.node.address)}
    with suppress(OSError):  # a name that nobody knows now
        found |= {str(info[4][0]) for info in socket.getaddrinfo(node.ssh.host, None, socket.AF_INET)}
    return {(address, node.ssh.port) for address in found if not ip_address(address).is_loopback}
