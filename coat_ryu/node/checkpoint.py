"""Checkpoint and restore with Podman and CRIU in place: no archive, and a source that stays restorable."""

import contextlib
import contextvars
import functools
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from coat_ryu.node import bound, criu, criulog, freezer, gate, hold, options, remains, standing, state, steady
from coat_ryu.node import netns as namespaces
from coat_ryu.node.failure import Failure
from coat_ryu.node.podman import NEVER, Place, place, podman, require, runtime
from coat_ryu.node.podman import state as state_of
from coat_ryu.node.process import remaining
from coat_ryu.node.stream import Sender
from coat_ryu.node.transfer import LISTEN_TIMEOUT, TransferId, received, send
from coat_ryu.node.verbs import Ifname, Name, Netns, Text, verb

OPTIONS = ("--tcp-established", "--file-locks")
RESTORE = ("podman", "container", "restore", "--keep", *OPTIONS)
DUMPED, RESTORED = "stats-dump", "stats-restore"
"""CRIU's last words, beside the checkpoint."""

Fill = Callable[[Sender], None]
Beside = Callable[[Place, gate.Gate | None], contextlib.AbstractContextManager[object]]

POLL = 0.001
"""Seconds between looks whether CRIU has let the processes run."""
POLL_END = 0.005
"""Seconds between looks whether a checkpoint has failed that has all but ended."""


@verb
def checkpoint(
    *, name: Name, port: Ifname | None = None, turn: dict[str, Any] | None = None, attempt: Text | None = None
) -> dict[str, Any]:
    """Freezes the container and writes its state beside it, from where it can be sent or restored in place.

    With ``port``, its interface on the bridge, it waits in between to be let through, or opens the way with ``turn``
    (``gate``). ``attempt`` is what ``freeze_wait`` asks by.
    ``bytes`` is the checkpoint's size; ``frozen_at`` is the moment its processes stopped, ``finished_at`` the one
    when all was written, on the node's clock; ``criu`` CRIU's own statistics in microseconds; ``gate_s`` how long CRIU
    stood still at the gate.
    """
    with gate.announced(name, attempt) as stopped:
        return _checkpoint(name, port, turn, stopped, lambda where, at_gate: contextlib.nullcontext())


@verb
def checkpoint_send(
    *,
    name: Name,
    port: Ifname,
    transfer: TransferId,
    to: dict[str, Any],
    tls: dict[str, str],
    turn: dict[str, Any] | None = None,
    attempt: Text | None = None,
) -> dict[str, Any]:
    """As ``checkpoint``, and sends the state while it is written: ``checkpoint`` and ``sent`` are the two results."""
    sendings: list[Sending] = []

    def beside(where: Place, stopped: gate.Gate | None) -> contextlib.AbstractContextManager[object]:
        assert stopped is not None
        sendings.append(Sending(where, stopped, lambda fill: send(transfer, to, tls, fill)))
        return sendings[0]

    with gate.announced(name, attempt) as announced:
        done = _checkpoint(name, port, turn, announced, beside, handed_on=True)
    if not sendings or sendings[0].nothing_to_send:  # it was checkpointed before
        return {"checkpoint": done, "sent": send(transfer, to, tls, lambda sender: state.pack(place(name), sender))}
    return {"checkpoint": done, "sent": sendings[0].result()}


class Sending:
    """Sends a container's state from the moment it is frozen, beside the checkpoint that it is opened around."""

    def __init__(self, where: Place, stopped: gate.Gate, send_it: Callable[[Fill], dict[str, Any]]) -> None:
        self.nothing_to_send = False
        self._where, self._gate, self._send = where, stopped, send_it
        self._given_up, self._done = threading.Event(), threading.Event()
        self._sent: dict[str, Any] | None = None
        self._error: Failure | None = None
        self._thread = threading.Thread(target=self._run, name=f"send {where.id}", daemon=True)

    def __enter__(self) -> "Sending":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        (self._done if kind is None else self._given_up).set()

    def result(self) -> dict[str, Any]:
        """Waits for its end. Raises Failure."""
        self._thread.join(remaining(LISTEN_TIMEOUT))
        if self._error is not None:
            raise self._error
        if self._sent is None:
            raise Failure("timeout", "the state was not sent in time")
        return self._sent

    def _run(self) -> None:
        self._gate.reached.wait()
        if self._gate.frozen_at is None:
            self.nothing_to_send = True
            return
        try:
            self._sent = self._send(lambda stream: state.pack(self._where, stream, self._ended, self._settle))
        except Failure as failure:
            self._error = failure

    def _ended(self) -> bool:
        """CRIU writes its statistics last, and only if all went well and the processes are gone; Podman and the runtime
        are busy for a while after (criu/cr-dump.c, cr_dump_finish).
        """
        if self._given_up.is_set():
            raise Failure("transfer_failed", "the checkpoint failed")
        return (self._where.bundle / DUMPED).exists() and self._gate.kept.is_set()

    def _settle(self) -> None:
        """Podman takes /dev/shm away when CRIU has ended, and keeps what was in it: soon that is there whole."""
        give_up = time.monotonic() + remaining(LISTEN_TIMEOUT)
        while not self._done.wait(POLL_END):
            if self._given_up.is_set() or time.monotonic() > give_up:
                raise Failure("transfer_failed", "the checkpoint failed")


def _checkpoint(
    name: str,
    port: str | None,
    turn: dict[str, Any] | None,
    announced: gate.Gate,
    beside: Beside,
    *,
    handed_on: bool = False,
) -> dict[str, Any]:
    where = place(name)
    settings = [criu.network_lock()]
    stop: contextlib.AbstractContextManager[gate.Gate | None] = contextlib.nullcontext()
    if port is not None:
        settings.append(f"action-script={gate.install()}")
        stop = gate.closed(announced, where, port, turn, handed_on=handed_on)
    if where.mounted:  # what an earlier one left is not this one's
        state.remove_checkpoint(where)
    try:
        with criu.configured(name, *settings), stop as stopped, beside(where, stopped), standing.locked(name):
            podman("container", "checkpoint", "--keep", *OPTIONS, name)
    except Failure as failure:
        raw = require(name)
        if state_of(raw) != "checkpointed":
            freezer.thaw_container(raw["State"]["Pid"], where.id)
            raise why(failure, announced, where, name) from failure
    bound.keep(where.bundle, where.run)
    stats_file = where.bundle / DUMPED
    stats = criu.read_stats(stats_file)
    written_at = steady.at(stats_file.stat().st_mtime)
    size = sum(file.stat().st_size for file in (where.bundle / state.CHECKPOINT).iterdir())
    frozen_at = announced.frozen_at or written_at - (stats["freezing_time"] + stats["frozen_time"]) / 1e6
    done = {"bytes": size, "frozen_at": frozen_at, "finished_at": written_at, "criu": stats}
    return done if port is None else done | announced.as_json()


def why(failure: Failure, announced: gate.Gate, where: Place, name: str) -> Failure:
    """The true reason of a checkpoint that has failed."""
    if announced.refusal is not None:
        return announced.refusal
    criulog.explain(failure, where.bundle / "dump.log", name)
    return failure


@verb
def restore_open(
    *, name: Name, netns: Netns, mtu: int, transfer: TransferId, repair_mss: bool = True
) -> dict[str, Any]:
    """The container's restore stands ready for the state that ``transfer`` will bring (``standing``)."""
    where = place(name)
    # Podman looks whether there is a checkpoint before it begins.
    state.remove_checkpoint(where)
    (where.bundle / state.CHECKPOINT).mkdir(mode=0o700)
    (where.bundle / state.CHECKPOINT / state.INVENTORY).touch(mode=0o600)
    standing.begin(name, transfer, [*RESTORE, name], where.id, runtime())
    widen(netns, mtu, repair_mss)
    return {}


def widen(netns: str, mtu: int, repair_mss: bool) -> None:
    """CRIU leaves sockets with an MSS made from defaults. The kernel corrects it at the next send if the path's MTU is
    not the one it was made with (net/ipv4/tcp_output.c, tcp_current_mss), so it is lowered after the restore.
    """
    if repair_mss:
        namespaces.set_mtu(netns, mtu + 1)


@verb
def restore(
    *,
    name: Name,
    netns: Netns,
    mtu: int,
    transfer: TransferId | None = None,
    release: dict[str, Any] | None = None,
    repair_mss: bool = True,
) -> dict[str, Any]:
    """Lets the container run again, from a state that has arrived or, without ``transfer``, from its own checkpoint.
    Raises Failure ``has_ended`` where it has none and does not run.

    ``mtu`` is the namespace's proper one. ``release``: arguments of the ``hold_release`` that is begun the moment the
    processes run. Without ``repair_mss`` sockets stay as CRIU leaves them.
    Answers ``resumed_at``, that moment on the node's clock, CRIU's statistics in microseconds, and what of its sockets
    was set again (``options.set_again``).
    """
    release_hold = hold.releasing(release)
    where = place(name)
    ready = None if transfer is None else _ready(name, netns, mtu, transfer, repair_mss)
    if ready is None:
        _refuse_what_has_ended(name, where)
        widen(netns, mtu, repair_mss)
        go_on: Callable[[], object] = functools.partial(_restore_in_place, name, where)
    else:
        go_on = ready.go_on
    stats_file = where.bundle / RESTORED
    kept, again = options.load(where.bundle / state.CHECKPOINT), dict[str, Any]()

    def attempt(*settings: str) -> float:
        stats_file.unlink(missing_ok=True)
        seeing = _watching(stats_file, lambda: again.update(resumed(netns, mtu, release_hold, kept)))
        with criu.configured(name, *settings), seeing as seen, standing.locked(name):
            return _restore(name, where, go_on, seen)

    try:
        if ready is None and release is None:
            resumed_at = _without_lock_at_last(attempt)
        else:
            resumed_at = attempt(*([] if release is None else [criu.NO_LOCK]))
    finally:
        namespaces.set_mtu(netns, mtu)
    stats = criu.read_stats(stats_file) if stats_file.exists() else {}
    state.remove_checkpoint(where)
    return {"id": where.id, "resumed_at": resumed_at, "criu": stats, **again}


def _refuse_what_has_ended(name: str, where: Place) -> None:
    """Raises Failure for a container that neither runs nor has a checkpoint of its last run."""
    raw = require(name)
    said, dumped = raw["State"], where.bundle / DUMPED
    if state_of(raw) in ("running", "paused", "checkpointed"):
        return
    # Podman may have been ended between the dump and the word of it. CRIU writes its statistics if all went well.
    began = max(datetime.fromisoformat(said.get(key) or NEVER).timestamp() for key in ("StartedAt", "RestoredAt"))
    if dumped.exists() and dumped.stat().st_mtime > began:
        return
    state.remove_checkpoint(where)  # half of one, or an older run's
    raise Failure("has_ended", f"{name} has ended, with exit status {said['ExitCode']}")


def _without_lock_at_last(attempt: Callable[..., float]) -> float:
    """A connection that meets the kernel's RST is lost, a container that is not restored is all lost."""
    try:
        return attempt()
    except Failure as failure:
        if failure.cause == "timeout":
            raise
        return attempt(criu.NO_LOCK)


def _restore_in_place(name: str, where: Place) -> None:
    files = bound.keep(where.bundle, where.run)
    ready = standing.Standing("", [*RESTORE, name], where.id, runtime())
    try:
        bound.put(where.run, files)
    except BaseException:
        ready.abandon()
        raise
    ready.go_on()


def _ready(name: str, netns: str, mtu: int, transfer: str, repair_mss: bool) -> standing.Standing | None:
    """The container's restore, with the state that has arrived in its place. None if it was restored before."""
    where, ready = place(name), standing.take(name, transfer)
    if ready is None:
        if where.mounted:
            return None
        received(transfer)  # before anything is begun
        restore_open(name=name, netns=netns, mtu=mtu, transfer=transfer, repair_mss=repair_mss)
        ready = standing.take(name, transfer)
    if ready is not None:
        try:
            state.install(received(transfer), where)
        except BaseException:
            ready.abandon()
            raise
    return ready


def resumed(netns: str, mtu: int, release_hold: Callable[[], None], kept: dict[str, Any]) -> dict[str, Any]:
    """What is done as soon as the processes run; what they wait for comes first."""
    namespaces.set_mtu(netns, mtu)
    release_hold()
    return options.set_again(kept, namespaces.path(netns))


def _restore(name: str, where: Place, go_on: Callable[[], object], seen: list[float]) -> float:
    """Runs the restore and returns when the processes ran. A container that was restored already is as good."""
    try:
        go_on()
    except Failure as failure:
        raw = contextvars.Context().run(require, name)  # in its own time: that of the request may be used up
        if state_of(raw) != "running" or not raw["State"].get("Restored"):
            if failure.cause == "timeout":
                remains.end(where.id, runtime())
            criulog.explain(failure, where.bundle / "restore.log", name)
            raise
        return steady.at(datetime.fromisoformat(raw["State"]["RestoredAt"]).timestamp())
    return seen[0] if seen else steady.now()


@contextlib.contextmanager
def _watching(file: Path, act: Callable[[], None]) -> Iterator[list[float]]:
    """Acts as soon as CRIU writes its statistics, which it does when the processes run: Podman returns much later.

    Yields a list that gets the time when that was seen.
    """
    seen: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set() or file.exists():
            if file.exists():
                seen.append(steady.now())
                return act()
            time.sleep(POLL)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
