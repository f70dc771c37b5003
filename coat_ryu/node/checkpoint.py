"""Checkpoint and restore with Podman and CRIU in place: no archive, and a source that stays restorable."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from coat_ryu.node import criu, freezer, gate, hold, state
from coat_ryu.node import netns as namespaces
from coat_ryu.node.failure import Failure
from coat_ryu.node.podman import Place, place, podman, require
from coat_ryu.node.podman import state as state_of
from coat_ryu.node.transfer import TransferId, received
from coat_ryu.node.verbs import Ifname, Name, Netns, verb

OPTIONS = ("--tcp-established", "--file-locks")
POLL = 0.001
"""Seconds between looks whether CRIU has let the processes run."""


@verb
def checkpoint(*, name: Name, port: Ifname | None = None) -> dict[str, Any]:
    """Freezes the container and writes its state beside it, from where it can be sent or restored in place.

    With ``port``, its interface on the bridge, it waits in between to be let through (``gate``).
    ``bytes`` is the checkpoint's size; ``frozen_at`` is the moment its processes stopped, ``finished_at`` the one
    when all was written, on the node's clock; ``criu`` CRIU's own statistics in microseconds.
    """
    where = place(name)
    criu.configure()
    stop = contextlib.nullcontext() if port is None else gate.closed(name, where.bundle, port)
    try:
        with stop as stopped:
            podman("container", "checkpoint", "--keep", *OPTIONS, name)
    except Failure as failure:
        raw = require(name)
        if state_of(raw) != "checkpointed":
            freezer.thaw_process(raw["State"]["Pid"])
            criu.explain(failure, where.bundle / "dump.log")
            raise
    stats_file = where.bundle / "stats-dump"
    stats = criu.read_stats(stats_file)
    written_at = stats_file.stat().st_mtime
    size = sum(file.stat().st_size for file in (where.bundle / state.CHECKPOINT).iterdir())
    frozen_at = written_at - (stats["freezing_time"] + stats["frozen_time"]) / 1e6
    if (mark := where.bundle / gate.FREEZING).exists():
        frozen_at = mark.stat().st_mtime
        mark.unlink()
    gaps = {} if stopped is None else {"gaps_s": stopped.gaps_s, "gaps_left": stopped.gaps_left}
    return {"bytes": size, "frozen_at": frozen_at, "finished_at": written_at, "criu": stats, **gaps}


@verb
def restore(
    *,
    name: Name,
    netns: Netns,
    mtu: int,
    transfer: TransferId | None = None,
    release: Ifname | None = None,
    repair_mss: bool = True,
) -> dict[str, Any]:
    """Lets the container run again, from a state that has arrived or, without ``transfer``, from its own checkpoint.

    ``mtu`` is the namespace's proper one. ``release`` names a hold that is released the moment the processes run.
    Without ``repair_mss`` sockets stay as CRIU leaves them.
    Answers ``resumed_at``, that moment on the node's clock, and CRIU's statistics in microseconds.
    """
    where = place(name)
    criu.configure()
    if transfer is not None and not where.mounted:
        state.install(received(transfer), where)
    stats_file = where.bundle / "stats-restore"
    stats_file.unlink(missing_ok=True)
    # CRIU leaves sockets with an MSS made from defaults. The kernel corrects it at the next send if the path's MTU is
    # not the one it was made with (net/ipv4/tcp_output.c, tcp_current_mss), so it is lowered after the restore.
    namespaces.set_mtu(netns, mtu + 1 if repair_mss else mtu)
    try:
        with _watching(stats_file, lambda: _resumed(netns, mtu, release)) as seen:
            resumed_at = _restore(name, where, seen)
    finally:
        namespaces.set_mtu(netns, mtu)
    stats = criu.read_stats(stats_file) if stats_file.exists() else {}
    state.remove_checkpoint(where)
    return {"id": where.id, "resumed_at": resumed_at, "criu": stats}


def _resumed(netns: str, mtu: int, release: str | None) -> None:
    namespaces.set_mtu(netns, mtu)
    if release is not None:
        hold.release(release)


def _restore(name: str, where: Place, seen: list[float]) -> float:
    """Runs the restore and returns when the processes ran. A container that was restored already is as good."""
    try:
        podman("container", "restore", "--keep", *OPTIONS, name)
    except Failure as failure:
        raw = require(name)
        if state_of(raw) != "running" or not raw["State"].get("Restored"):
            criu.explain(failure, where.bundle / "restore.log")
            raise
        return datetime.fromisoformat(raw["State"]["RestoredAt"]).timestamp()
    return seen[0] if seen else time.time()


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
                seen.append(time.time())
                return act()
            time.sleep(POLL)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
