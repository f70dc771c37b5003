"""Post-copy: the container is restored without its memory, which follows while it runs (CRIU's lazy pages).

Podman does not know of it. On the source the runtime is asked directly, so that Podman does not hold the container
until the last page has gone. On the destination Podman restores it, through a runtime that is told ``--lazy-pages`` in
this one command (CONTAINERS_CONF_OVERRIDE, Podman 4.4). The pages themselves are the pagers' affair (``pager``).
"""

import contextlib
import contextvars
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from coat_ryu.node import (
    bound,
    checkpoint,
    criu,
    criulog,
    freezer,
    gate,
    hold,
    options,
    pager,
    podman,
    repair,
    state,
    steady,
)
from coat_ryu.node import netns as namespaces
from coat_ryu.node.failure import Failure
from coat_ryu.node.podman import Place
from coat_ryu.node.process import remaining, run
from coat_ryu.node.readable import readable
from coat_ryu.node.transfer import TransferId, received, send
from coat_ryu.node.verbs import Ifname, Name, Netns, Text, verb
from coat_ryu.node.verbs import address as check_address

DIRECTORY = Path("/run/coat")
PREFIX = "pages-"
PIPE_LIMIT = Path("/proc/sys/fs/pipe-max-size")
PIPE_SIZE = 4 << 20
"""What CRIU's page server needs (criu/include/page-pipe.h, PIPE_MAX_SIZE). Root may have pipes of any size unless it
lacks CAP_SYS_RESOURCE, as in a lab within a container; there the limit is raised.
"""
FEATURES = ("uffd", "uffd-noncoop")
END_TIMEOUT = 30.0
POLL = 0.001
LOST = ("lost", "failed", "taken_back")

_WRAPPER = """#!/bin/sh
for word; do
    shift
    set -- "$@" "$word"
    [ -z "$found" ] && [ "$word" = restore ] && found=yes && set -- "$@" --lazy-pages
done
[ -z "$found" ] || cp --recursive --preserve=mode,ownership,timestamps {bound}/. {run}/ || exit
exec {runtime} "$@"
"""


class Pager:
    """A pager that this hook has started."""

    def __init__(self, directory: Path, role: str, **order: Any) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700, parents=True)
        ours = str(Path(__file__).parents[2])
        code = f"import sys; sys.path.insert(0, {ours!r}); from coat_ryu.node.pager import main; main()"
        argv = [sys.executable, "-I", "-c", code, directory.name]
        with open(directory / "pager.log", "wb") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                text=True,
                start_new_session=True,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self.restores = False
        self._in: IO[str] = self._process.stdin
        self._out: IO[str] = self._process.stdout
        threading.Thread(target=self._process.wait, daemon=True).start()
        self.tell(role=role, directory=str(directory), **order)

    def tell(self, **order: Any) -> None:
        try:
            self._in.write(json.dumps(order) + "\n")
            self._in.flush()
        except OSError as error:
            raise Failure("internal", f"the pager has ended: {error}") from error

    def hear(self, act: Any = lambda: None, patience: float = 0.0) -> dict[str, Any]:
        """Its next word. ``act`` is called all the while. Raises Failure with what went wrong over there.

        ``patience``: seconds beyond the request's own time.
        """
        give_up = time.monotonic() + remaining(podman.TIMEOUT) + patience
        while not readable([self._out], POLL):
            act()
            if time.monotonic() > give_up:
                raise Failure("timeout", "the pager does not answer")
        line = self._out.readline()
        said: dict[str, Any] = json.loads(line) if line else {"error": "the pager has ended", "stderr": ""}
        if "error" in said:
            raise Failure("command_failed", said["error"], stderr=said["stderr"])
        return said


_pagers: dict[str, Pager] = {}
_offered: dict[str, dict[str, Any]] = {}
"""What was answered when a transfer's memory was offered: to dump it again would end the pager that gives it."""


def _directory(transfer: str) -> Path:
    return DIRECTORY / f"{PREFIX}{transfer}"


@verb
def memory_features() -> dict[str, Any]:
    """What this node can do about memory: ``lazy`` is None, or why there are no lazy pages; ``dirty_tracking`` whether
    the kernel tells which pages were written.
    """
    missing = [feature for feature in FEATURES if not criu.has(feature)]
    lazy = f"CRIU's check says that the kernel lacks {' and '.join(missing)}" if missing else None
    if lazy is None and not _has_large_pipes() and not os.access(PIPE_LIMIT, os.W_OK):
        lazy = f"{PIPE_LIMIT} is less than {PIPE_SIZE}, and may not be raised"
    return {"lazy": lazy, "dirty_tracking": criu.has("mem_dirty_track")}


def _has_large_pipes() -> bool:
    ends = os.pipe()
    try:
        fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        return False
    finally:
        for end in ends:
            os.close(end)
    return True


@verb
def pages_open(*, transfer: TransferId, address: Text, tls: dict[str, str], peer: Text | None = None) -> dict[str, Any]:
    """At the destination: waits on ``address`` for the memory's giver, from ``peer`` if that is given; answers
    the TCP ``port``.
    """
    for key, text in (("address", address), ("peer", peer or address)):
        check_address(key, text)
    discard(transfer)
    one = _pagers[transfer] = Pager(_directory(transfer), "take", address=address, peer=peer, tls=tls)
    return one.hear()


@verb
def lazy_checkpoint(
    *,
    name: Name,
    port: Ifname,
    transfer: TransferId,
    to: dict[str, Any],
    pages_to: dict[str, Any],
    tls: dict[str, str],
    turn: dict[str, Any] | None = None,
    attempt: Text | None = None,
) -> dict[str, Any]:
    """Freezes the container and sends its state but for its memory, which is offered to ``pages_to`` from now on.

    Answers as ``checkpoint_send`` does. The container stays frozen, its processes alive, until all pages have gone or
    it is wanted back (``pages_take_back``).
    """
    if transfer in _offered:
        return _offered[transfer]
    with gate.announced(name, attempt) as stopped:
        where = podman.place(name)
        done = _dump(where, name, transfer, {"to": pages_to, "tls": tls}, stopped, port, turn)
    _offered[transfer] = {"checkpoint": done, "sent": send(transfer, to, tls, lambda sender: state.pack(where, sender))}
    return _offered[transfer]


def _dump(
    where: Place,
    name: str,
    transfer: str,
    giving: dict[str, Any],
    stopped: gate.Gate,
    port: str,
    turn: dict[str, Any] | None,
) -> dict[str, Any]:
    settings = (criu.network_lock(), f"action-script={gate.install()}", pager.PAGE_SOCKET_SETTING)
    if not _has_large_pipes():
        PIPE_LIMIT.write_text(str(PIPE_SIZE))
    state.remove_checkpoint(where)
    images = where.bundle / state.CHECKPOINT
    paths = ["--image-path", str(images), "--work-path", str(where.bundle)]
    argv = [podman.runtime(), "checkpoint", *paths, *checkpoint.OPTIONS]
    discard(transfer)
    directory = _directory(transfer)
    order = {**giving, "argv": argv, "id": where.id, "log": str(directory / "runtime.log")}
    try:
        with criu.configured(name, *settings), gate.closed(stopped, where, port, turn, handed_on=True):
            one = _pagers[transfer] = Pager(directory, "give", **order)
            one.hear()
    except Failure as failure:
        # It may have failed late, or only be slow. In its own time: that of the request may be used up.
        contextvars.Context().run(_run_on, transfer, name)
        raise checkpoint.why(failure, stopped, where, name) from failure
    finished_at = steady.now()
    size = sum(file.stat().st_size for file in images.iterdir())
    moments = {"frozen_at": stopped.frozen_at or finished_at, "finished_at": finished_at}
    return {"bytes": size, **moments, "criu": {}, **stopped.as_json()}


def _run_on(transfer: str, name: str) -> None:
    pages_take_back(transfer=transfer, name=name)
    raw = podman.require(name)
    freezer.thaw_container(raw["State"]["Pid"], raw["Id"])


@verb
def lazy_restore(
    *,
    name: Name,
    netns: Netns,
    mtu: int,
    transfer: TransferId,
    release: dict[str, Any] | None = None,
    repair_mss: bool = True,
) -> dict[str, Any]:
    """As ``restore``, from a state whose memory comes afterwards."""
    release_hold = hold.releasing(release)
    where = podman.place(name)
    one = _pagers.get(transfer)
    if one is None or one.restores:
        return _restored_already(name, netns, mtu, release_hold)
    one.restores = True
    if not where.mounted:
        state.install(received(transfer), where)
    stats = where.bundle / "stats-restore"
    stats.unlink(missing_ok=True)
    seen: list[float] = []
    kept, again = options.load(where.bundle / state.CHECKPOINT), dict[str, Any]()

    def look() -> None:
        if not seen and stats.exists():
            seen.append(steady.now())
            again.update(checkpoint.resumed(netns, mtu, release_hold, kept))

    checkpoint.widen(netns, mtu, repair_mss)
    settings = [] if release is None else [criu.NO_LOCK]
    try:
        with criu.configured(name, *settings):
            one.tell(**_restore_order(name, where, _directory(transfer)))
            one.hear(look, END_TIMEOUT)
        look()
    except Failure as failure:
        criulog.explain(failure, where.bundle / "restore.log", name)
        raise
    finally:
        namespaces.set_mtu(netns, mtu)
    resumed_at = seen[0] if seen else steady.now()
    return {"id": where.id, "resumed_at": resumed_at, "criu": criu.read_stats(stats), **again}


def _restored_already(name: str, netns: str, mtu: int, release_hold: Callable[[], None]) -> dict[str, Any]:
    """What remains to be done when nobody heard of the restore. Raises Failure if there was none."""
    raw = podman.require(name)
    if podman.state(raw) != "running" or not raw["State"].get("Restored"):
        raise Failure("conflict", f"name: {name} has not been restored, and cannot be without its pages")
    namespaces.set_mtu(netns, mtu + 1)
    namespaces.set_mtu(netns, mtu)
    release_hold()
    return {
        "id": raw["Id"],
        "resumed_at": steady.at(datetime.fromisoformat(raw["State"]["RestoredAt"]).timestamp()),
        "criu": {},
    }


def _restore_order(name: str, where: Place, directory: Path) -> dict[str, Any]:
    runtime = podman.runtime()
    wrapper, settings = directory / "runtime", directory / "containers.conf"
    (directory / "bound").mkdir(mode=0o700)
    bound.put(directory / "bound", bound.kept(where.bundle), new=True)
    paths = {"bound": shlex.quote(f"{directory}/bound"), "run": shlex.quote(str(where.run))}
    wrapper.write_text(_WRAPPER.format(runtime=shutil.which(runtime), **paths))
    wrapper.chmod(0o700)
    settings.write_text(f'[engine.runtimes]\n{runtime} = ["{wrapper}"]\n')
    return {
        "id": where.id,
        "images": str(where.bundle / state.CHECKPOINT),
        "work": str(where.bundle),
        "argv": ["podman", "container", "restore", "--keep", *checkpoint.OPTIONS, name],
        "env": {"CONTAINERS_CONF_OVERRIDE": str(settings)},
        "runtime": runtime,
        "timeout": remaining(podman.TIMEOUT),
        "log": str(directory / "podman.log"),
    }


@verb
def pages_wait(*, transfer: TransferId, name: Name, timeout: float) -> dict[str, Any]:
    """At the destination: ``done`` when the last page has come, else after ``timeout``; ``bytes`` that have come.

    Raises Failure ``memory_lost`` when they will not come any more. Then the container has been ended.
    """
    give_up = time.monotonic() + min(timeout, remaining(timeout))
    while True:
        said = _status(transfer)
        if said["state"] == "done":
            state.remove_checkpoint(podman.place(name))
            return {"done": True, "bytes": said["bytes"]}
        alive = _is_pager(said["pid"], transfer)
        if said["state"] in LOST or (not alive and _status(transfer)["state"] != "done"):
            _end_container(name)
            raise Failure("memory_lost", f"the memory of {name} did not come whole: {said['error'] or 'no pager'}")
        if time.monotonic() > give_up:
            return {"done": False, "bytes": said["bytes"]}
        time.sleep(0.02)


def _end_container(name: str) -> None:
    where = podman.place(name)
    with contextlib.suppress(Failure):
        run([podman.runtime(), "kill", "--all", where.id, "KILL"])


@verb
def pages_take_back(*, transfer: TransferId, name: Name) -> dict[str, Any]:
    """At the source, before the pivot: no page is given any more, and the frozen container can be thawed.

    ``mended`` are its connections, which CRIU had taken.
    """
    discard(transfer)
    raw = podman.inspect(name)
    pid = raw["State"]["Pid"] if raw else 0
    return {"mended": repair.mend(pid, raw["Id"]) if raw and pid else 0}


@verb
def pages_discard(*, transfer: TransferId) -> dict[str, Any]:
    """No pager of the transfer is left on this node."""
    return {"removed": discard(transfer)}


def discard(transfer: str) -> bool:
    """Ends the pager, and removes what it wrote. False if there was none."""
    _pagers.pop(transfer, None)
    _offered.pop(transfer, None)
    directory = _directory(transfer)
    if not directory.exists():
        return False
    pid = _status(transfer)["pid"]
    give_up = time.monotonic() + min(END_TIMEOUT, remaining(END_TIMEOUT))
    with contextlib.suppress(ProcessLookupError):
        while _is_pager(pid, transfer):
            os.kill(pid, signal.SIGTERM)
            if time.monotonic() > give_up:
                raise Failure("timeout", f"the pager of {transfer} does not end")
            time.sleep(0.01)
    shutil.rmtree(directory, ignore_errors=True)
    return True


def _status(transfer: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((_directory(transfer) / pager.STATUS).read_text())
    except FileNotFoundError:
        return {"pid": 0, "state": "failed", "bytes": 0, "error": None}
    return found


def _is_pager(pid: int, transfer: str) -> bool:
    """Whether the process lives and is this transfer's, for numbers are used again."""
    try:
        return _directory(transfer).name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
