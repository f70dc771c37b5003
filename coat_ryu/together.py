"""Steps that are asked for together: a message costs time, and in the freeze nobody shall be asked anything.

Each step still has a record of its own, with the times of the node that did it.
"""

from collections.abc import Callable
from typing import Any, Protocol

from coat_ryu import memory
from coat_ryu.containers import create_args
from coat_ryu.errors import CoatError, NodeUnreachable
from coat_ryu.model import container_port
from coat_ryu.moves import QUICK, Ahead, Move, Tally
from coat_ryu.nodes import Site, endpoint_name
from coat_ryu.steps import (
    PORT_TIMEOUT,
    checkpoint_args,
    endpoint_request,
    hold_request,
    leaving,
    note_checkpoint,
    note_restore,
    receiving,
    restore_args,
    restoring,
    sending,
    settle_in,
    turn_away,
)

DELIVERY_PATIENCE = 20.0
"""Seconds that the destination may need for its part after the connection to the source was lost."""


class Ended(Protocol):
    """Is told of each step that has ended, in order. Times are the controller's; None: since all began, until now."""

    def __call__(self, name: str, tally: Tally, since: float | None = None, until: float | None = None) -> None: ...


def make_ready(move: Move, ended: Ended) -> None:
    """The hold, the namespace, the container and its restore stand ready at the destination, and both ends of the
    transfer are connected. The switches learn of it by the flow update.
    """
    tally = Tally(0.0, {})
    receiver = receiving(move, move.transfer, move.identities()[1], "state")
    requests = [hold_request(move), endpoint_request(move, move.moved_spec)]
    requests += [("container_create", create_args(move.moved_spec, move.image)), receiver]
    if not memory.is_lazy(move):
        requests.append(("restore_open", restore_args(move)))
    done = move.call(tally, move.destination, "chain", move.chained(*requests), move.bulk).result["steps"]
    hold, endpoint, created, listening, *_ = done
    for port in (move.tap.port, container_port(move.name)):
        move.fabric.wait_port(move.record.destination, port, PORT_TIMEOUT)
    ended("hold", Tally(0.0, {}), *_span(move.destination, hold))
    ended("create_namespace", Tally(0.0, {}), *_span(move.destination, endpoint))
    to = tally.detail["to"] = memory.where(receiver[1], listening["result"])
    if memory.is_lazy(move):
        memory.prepare(move, tally)
    else:
        tally.detail.update(move.call(tally, move.source, "send_open", sending(move, to)).result)
    ended("prepare", tally, since=_span(move.destination, created)[0])


def relay(move: Move, began: Callable[[str, float], None], ended: Callable[[str, float, Tally], None]) -> None:
    """Checkpoint, transfer and restore, handed to both nodes before the first of them starts: the nodes drive each
    other and the controller only watches.

    ``began(step, at)`` and ``ended(step, at, tally)`` are told of each step, in order, on the controller's clock.
    """
    to = next(step.detail["to"] for step in move.record.steps if step.name == "prepare")
    waiting = ("receive_wait", {"transfer": move.transfer, "timeout": move.bulk})
    ahead: Ahead | None = None
    try:
        loan = move.fabric.lend(move.name)
        verb, args = memory.checkpoint(move, {**checkpoint_args(move, loan), **sending(move, to)})
        ahead = Ahead(lambda: move.destination.call("chain", move.chained(waiting, *restoring(move)), move.bulk))
        sending_ahead = Ahead(lambda: move.source.call(verb, move.fenced(args), move.bulk))
        turned = turn_away(move, loan, move.crossing(filling=True))
        sent = sending_ahead.result()
    except CoatError as error:
        if ahead is not None and isinstance(error, NodeUnreachable) and error.node == move.record.source:
            ahead.settle(DELIVERY_PATIENCE)  # the nodes need no controller for what they were handed
        # the receiver, and the restore that stands, wait for a state that will not come
        try:
            move.destination.call("transfer_discard", move.fenced({"transfer": move.transfer}), QUICK)
        except CoatError as second:
            raise error from second  # who goes back ends it all again
        if ahead is not None:
            ahead.settle()
        raise
    received = ahead.result()
    dumped, passed = sent.result["checkpoint"], sent.result["sent"]
    arrived, restored, released = received.result["steps"]
    here, there = move.source.remote.clock_offset, move.destination.remote.clock_offset
    tally = Tally(0.0, {})
    note_checkpoint(move, tally, {**dumped, **turned})
    ended("checkpoint", dumped["finished_at"] + here, tally)
    began("transfer", dumped["finished_at"] + here)
    move.record.checkpoint_bytes = passed["bytes"]
    ended("transfer", arrived["finished_at"] + there, Tally(0.0, dict(passed)))
    began("restore", restored["started_at"] + there)
    tally = Tally(sent.remote_overhead_s, {})
    note_restore(move, tally, restored["result"], released["result"])
    ended("restore", restored["finished_at"] + there, tally)


def farewell(move: Move, ended: Ended) -> None:
    """Clears the source's namespace and finishes. The source is told once, and leaves while the destination settles."""
    tally = Tally(0.0, {})
    left = Tally(0.0, tally.detail)
    away = move.chained(("endpoint_remove", endpoint_name(move.name)), *leaving(move))
    ahead = Ahead(lambda: move.tidy(left, move.source, "chain", away))
    try:
        settle_in(move, tally)
        gone = ahead.result()
    finally:
        ahead.settle()
    tally.overhead = max(tally.overhead, left.overhead)  # no more than one of the two is on the critical path
    ended("clear_namespace", Tally(0.0, {}), *(_span(move.source, gone["steps"][0]) if gone else ()))
    ended("finish", tally)


def _span(site: Site, done: dict[str, Any]) -> tuple[float, float]:
    """When one of a chain's requests was begun and ended, on the controller's clock."""
    offset = site.remote.clock_offset
    return done["started_at"] + offset, done["finished_at"] + offset


DO: dict[tuple[str, ...], Callable[[Move, Ended], None]] = {
    ("hold", "create_namespace", "prepare"): make_ready,
    ("clear_namespace", "finish"): farewell,
}
