"""One migration under way: its record, its two ends, and the binding that fits each moment of it."""

import contextvars
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coat_ryu.containers import Containers
from coat_ryu.errors import CoatError, NodeUnreachable
from coat_ryu.fabric import Fabric
from coat_ryu.keys import Identity, one_time_pair
from coat_ryu.model import Binding, ContainerSpec, Hold, Place, container_port, hold_port
from coat_ryu.nodes import Site
from coat_ryu.saga import Migration, timestamp, unix_time
from coat_ryu.voice import Voice

QUICK = 30.0
BULK = 600.0
"""Seconds that one request may take at the most: a namespace or a port; a checkpoint, a transfer or a restore."""

Request = tuple[str, dict[str, Any]]
"""A verb and its arguments."""


@dataclass
class Tally:
    """What one step's requests cost in remote control, and what is worth telling about it."""

    overhead: float
    detail: dict[str, Any]


@dataclass
class Move:
    """One migration under way: its record and everything its steps need. ``spec`` has the MAC of before the move,
    ``since`` is when the record begins, on a clock that runs evenly.
    """

    record: Migration
    spec: ContainerSpec
    new_mac: str
    source: Site
    destination: Site
    containers: Containers
    fabric: Fabric
    inner_mtu: int
    hold_packets: int
    hold_bytes: int
    voice: Voice
    since: float
    bulk: float = BULK
    repair_mss: bool = True

    def __post_init__(self) -> None:
        self.abort = threading.Event()
        self.writing = threading.Lock()
        self.going_back = False
        self.key: tuple[str, str] | None = None  # the caller's Idempotency-Key, and what it asked for
        self.image = self.spec.image  # from the preflight on the id of the one that the container runs
        self.image_is_there = False  # whether its name means that one at the destination
        self.found_running = False  # its restore was never answered, and may have been cut short in tidying up
        self.destination_gone = False  # its host is taken for dead
        self.failed_of: CoatError | None = None  # what it is that it has failed of, if it is taken up again
        self.ended: CoatError | None = None  # why there is nothing to go back to: it ended, or was removed by hand
        self.handed_ahead = threading.Event()
        self.finished = threading.Event()
        self.thread: threading.Thread | None = None
        self._identities: tuple[Identity, Identity] | None = None
        self._frozen_at: float | None = None
        self._resumed_at: float | None = None

    def stamp(self, at: float) -> str:
        """An instant as the record has it: its own times follow each other evenly, whatever becomes of the clock."""
        return timestamp(unix_time(self.record.started_at) + at - self.since)

    def instant(self, stamp: str) -> float:
        """The reverse of ``stamp``."""
        return self.since + unix_time(stamp) - unix_time(self.record.started_at)

    def downtime(self) -> float | None:
        """Seconds from the freeze on the source to the first instruction on the destination."""
        if self._frozen_at is None or self._resumed_at is None:
            return None
        return self._resumed_at - self._frozen_at

    def note_frozen(self, at: float) -> None:
        """``at`` is the source's clock; kept on the controller's."""
        self._frozen_at = at + self.source.remote.clock_offset

    def note_resumed(self, at: float) -> None:
        self._resumed_at = at + self.destination.remote.clock_offset

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def transfer(self) -> str:
        return self.record.transfer

    @property
    def moved_spec(self) -> ContainerSpec:
        return self.spec.model_copy(update={"mac": self.new_mac})

    @property
    def tap(self) -> Place:
        return Place(self.record.destination, hold_port(self.name))

    def begin_again(self) -> None:
        """As if nothing had been done yet, after all of it was undone."""
        self.record.tries += 1
        self.record.steps = []
        self.voice.take_over()
        self.going_back = self.image_is_there = False
        self.handed_ahead.clear()
        self._identities = self._frozen_at = self._resumed_at = None

    def fenced(self, args: dict[str, Any]) -> dict[str, Any]:
        """Arguments that a node refuses once it has seen a later epoch of the container: a dead controller's last
        words.
        """
        return self.voice.fenced(args)

    @property
    def fence(self) -> dict[str, Any]:
        return self.voice.fence

    def call(self, tally: Tally, site: Site, verb: str, args: dict[str, Any], timeout: float = QUICK) -> Any:
        reply = self.voice.call(site, verb, args, timeout)
        tally.overhead += reply.remote_overhead_s
        return reply

    def chained(self, *requests: Request) -> dict[str, Any]:
        """The arguments of a ``chain`` of requests: one message, and one answer, for all of them."""
        return {"steps": [{"verb": verb, "args": self.fenced(args)} for verb, args in requests]}

    def call_all(self, tally: Tally, site: Site, *requests: Request, timeout: float = QUICK) -> list[Any]:
        """The results of requests that the node works through in order."""
        reply = self.call(tally, site, "chain", self.chained(*requests), timeout)
        return [step["result"] for step in reply.result["steps"]]

    def ask_both(self, tally: Tally, of_source: Sequence[Request], of_destination: Sequence[Request]) -> list[Any]:
        """The results of requests that the two ends work through at the same time: the source's, the destination's.

        Of the two answers only the dearer counts as remote control: no more than one is on the critical path.
        """
        here, there = Tally(0.0, tally.detail), Tally(0.0, tally.detail)
        ahead = Ahead(lambda: self.call_all(there, self.destination, *of_destination))
        try:
            results = [self.call_all(here, self.source, *of_source), ahead.result()]
        finally:
            ahead.settle()
            tally.overhead += max(here.overhead, there.overhead)
        return results

    def tidy(self, tally: Tally, site: Site, verb: str, args: dict[str, Any]) -> Any:
        """A request whose only purpose is to leave nothing behind; None when the node is away.

        What is left there then is swept when the node comes back (``Containers.on_ready``).
        """
        try:
            return self.call(tally, site, verb, args, self.bulk).result
        except NodeUnreachable as error:
            tally.detail.setdefault("left_behind", []).append(str(error))
            return None

    @property
    def left_behind(self) -> bool:
        """Whether a node was away when something had to be tidied there."""
        return self.record.left_behind

    def binding_now(self) -> Binding:
        """The binding that fits how far the record says the move has come; a controller that starts anew begins with
        it.
        """
        begun, destination = self.record.begun(), self.record.past_pivot
        if destination:
            return self.crossing(filling=False)
        if any(step.name.startswith("undo_") for step in self.record.steps):
            return self.at_source()
        if "checkpoint" not in begun:
            return self.at_source()
        return self.crossing(filling=True) if "flow_update" in begun else self.waiting(filling=True)

    def identities(self) -> tuple[Identity, Identity]:
        """TLS identities of the sender and the receiver of the state. Made once; they never reach the disk here."""
        if self._identities is None:
            self._identities = one_time_pair(self.transfer)
        return self._identities

    # ---- the binding through the move (docs/architecture.md, "A cut-over")

    def at_source(self) -> Binding:
        return self.containers.binding(self.spec, self.record.source)

    def at_destination(self) -> Binding:
        settled = self.containers.binding(self.moved_spec, self.record.destination)
        return settled if self.new_mac == self.spec.mac else replace(settled, former_macs=(str(self.spec.mac),))

    def crossing(self, *, filling: bool) -> Binding:
        """Bound to the destination; until the restore its frames wait in the hold. Both ends may send."""
        settled = self.at_destination()
        origins = (*settled.origins, Place(self.record.source, container_port(self.name)))
        return replace(settled, origins=origins, hold=Hold(self.tap, filling))

    def expecting(self) -> Binding:
        """Bound to the source, with all that the destination needs in its switch already."""
        origins = (*self.at_source().origins, *self.at_destination().origins)
        return replace(self.waiting(filling=False), origins=origins)

    def waiting(self, *, filling: bool) -> Binding:
        """Bound to the source; frames wait in the hold or, when it is not filling, what waited there comes back."""
        return replace(self.at_source(), hold=Hold(self.tap, filling))


class Ahead:
    """A call that runs beside its caller. ``result`` waits for it and raises what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._outcome: Any = None
        self._error: Exception | None = None
        self._work = work
        # what it logs belongs to the caller's migration; a thread begins without context
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._run,), daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._work()
        except Exception as error:  # raised again by result()
            self._error = error

    def settle(self, timeout: float = BULK) -> None:
        self._thread.join(timeout)

    def result(self) -> Any:
        self.settle()
        if self._error is not None:
            raise self._error
        return self._outcome


def fresh_mac() -> str:
    """A random locally administered unicast MAC, as the paper's re-created interface gets one (section III, step 3)."""
    return ":".join(f"{byte:02x}" for byte in b"\x02" + secrets.token_bytes(5))
