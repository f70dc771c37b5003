"""A restore that is begun before there is anything to restore.

`podman container restore` needs a tenth of a second until its runtime even starts: the program itself, its storage,
mounts, conmon. None of that needs the state. So it is started ahead, and a program that stands before the runtime, for
this one command only (containers.conf(5), ``engine.runtimes``), asks this hook at a Unix socket whether it may go on.
A socket that closes says no; so a hook that dies leaves nothing waiting.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from coat_ryu.node.failure import Failure
from coat_ryu.node.process import finish, remaining, write_if_other
from coat_ryu.node.readable import readable

DIRECTORY = Path("/run/coat/standing")
USHER = Path("/run/coat/usher")
CONFIGURATION = Path("/run/coat/containers.conf")
POLL = 0.02
"""Seconds between looks whether Podman has ended before its runtime stands."""
ARRIVAL = 60.0
"""Seconds that Podman may need until its runtime stands, and to end when it is told to."""
RESTORE_TIMEOUT = 120.0
"""Seconds that the restore itself may take, as any command of Podman's (``podman.TIMEOUT``)."""

# Python ignores SIGPIPE, and what a process ignores its successor ignores too (execve(2)).
_USHER = f"""#!{sys.executable} -IS
import os, signal, socket, sys
RUNTIME = {{runtime!r}}
if "restore" in sys.argv:
    with socket.socket(socket.AF_UNIX) as door:
        door.connect("{DIRECTORY}/" + sys.argv[-1])
        if not door.recv(1):
            sys.exit("coat_ryu: nothing came to be restored")
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execv(RUNTIME, [RUNTIME, *sys.argv[1:]])
"""


class Standing:
    """A `podman container restore` (``argv``) of the container ``identity``, whose ``runtime`` waits."""

    def __init__(self, transfer: str, argv: list[str], identity: str, runtime: str) -> None:
        self.transfer = transfer
        self._argv = argv
        _install(runtime)
        path = DIRECTORY / identity
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env={**os.environ, "CONTAINERS_CONF_OVERRIDE": str(CONFIGURATION)},
                start_new_session=True,
            )
            try:
                self._door = self._await(listener)
            finally:
                path.unlink()

    def _await(self, listener: socket.socket) -> socket.socket:
        """Returns when the runtime is at the door. Raises Failure when Podman has ended before, or takes too long."""
        give_up = time.monotonic() + remaining(ARRIVAL)
        while self.alive and time.monotonic() < give_up:
            if readable([listener], POLL):
                return listener.accept()[0]
        finish(self._process, self._argv, 1.0)
        raise Failure("command_failed", "podman: the restore did not ask its runtime for anything")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def go_on(self) -> None:
        """Lets it through; returns when it has ended. Raises Failure as any command does."""
        with self._door, contextlib.suppress(OSError):  # if it has ended, it says itself why
            self._door.sendall(b".")
        finish(self._process, self._argv, remaining(RESTORE_TIMEOUT))

    def abandon(self) -> None:
        """It ends without having restored anything."""
        self._door.close()
        with contextlib.suppress(Failure):
            finish(self._process, self._argv, ARRIVAL)


_standing: dict[str, Standing] = {}
_at_work: list[str] = []
_lock = threading.Lock()


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Meanwhile Podman keeps everybody waiting who asks for the container: it is checkpointed, or restored."""
    _at_work.append(name)
    try:
        yield
    finally:
        _at_work.remove(name)


def begin(name: str, transfer: str, argv: list[str], identity: str, runtime: str) -> None:
    """The container's restore stands ready for the state that ``transfer`` brings. Raises Failure."""
    there = take(name, transfer) or Standing(transfer, argv, identity, runtime)
    with _lock:
        _standing[name] = there


def take(name: str, transfer: str) -> Standing | None:
    """The container's restore, for whoever will let it through. None if none stands, or its patience is at an end."""
    with _lock:
        there = _standing.pop(name, None)
    if there is None or (there.alive and there.transfer == transfer):
        return there
    there.abandon()
    return None


def names() -> list[str]:
    """Containers whose restore stands or that are ``locked``: whoever asks Podman for one of these waits that long."""
    return [*_standing, *_at_work]


def abandon(name: str) -> None:
    with _lock:
        if there := _standing.pop(name, None):
            there.abandon()


def abandon_transfer(transfer: str) -> None:
    for name, there in list(_standing.items()):
        if there.transfer == transfer:
            abandon(name)


def _install(runtime: str) -> None:
    """The program before the runtime, and the configuration that names it."""
    DIRECTORY.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_if_other(USHER, _USHER.format(runtime=shutil.which(runtime) or runtime), 0o700)
    write_if_other(CONFIGURATION, f'[engine.runtimes]\n{runtime} = ["{USHER}"]\n', 0o600)
