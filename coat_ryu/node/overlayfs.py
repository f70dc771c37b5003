"""Overlay file systems, whose layers must not be changed while they are mounted: what is then seen is undefined
(Documentation/filesystems/overlayfs.rst, "Changes to underlying filesystems").
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coat_ryu.node.failure import Failure

CLONE_FS = 0x200  # linux/sched.h
FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1 << 10, "nodiratime": 1 << 11, "relatime": 1 << 21}
"""Flags of mount(2) as proc_pid_mountinfo(5) calls them."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    """One that is there: ``options`` are the file system's own."""

    path: str
    flags: int
    options: str


def find(path: Path, table: str) -> Mount | None:
    """The overlay that is mounted at ``path``, the uppermost one, from the text of a mountinfo."""
    for line in reversed(table.splitlines()):
        mine, _, kind = line.partition(" - ")
        where, flags = mine.split()[4:6]
        if _plain(where) == str(path) and kind.split()[0] == "overlay":
            return Mount(str(path), sum(FLAGS.get(flag, 0) for flag in flags.split(",")), _plain(kind.split()[2]))
    return None


def _plain(text: str) -> str:
    """Spaces, tabs, line ends and backslashes are written in octal there."""
    return text.encode().decode("unicode_escape").encode("latin-1").decode()


@contextlib.contextmanager
def lifted(path: Path) -> Iterator[None]:
    """What is mounted there is away meanwhile and then back as it was. Raises Failure when somebody is using it."""
    mount = find(path, Path("/proc/self/mountinfo").read_text())
    if mount is None:
        yield
        return
    _check(_libc.umount2(mount.path.encode(), 0), f"{path} cannot be unmounted")
    try:
        yield
    finally:
        _mount(mount, path.parent.parent)


def _mount(mount: Mount, home: Path) -> None:
    """Layers may be named from the driver's own directory, for there is a page for all options together and no more;
    so this is done in a thread with a working directory of its own (unshare(2), CLONE_FS).
    """
    errors: list[Failure] = []

    def work() -> None:
        try:
            _check(_libc.unshare(CLONE_FS), "no working directory of its own")
            os.chdir(home)
            arguments = (b"overlay", mount.path.encode(), b"overlay", mount.flags, mount.options.encode())
            _check(_libc.mount(*arguments), f"{mount.path} cannot be mounted again")
        except (Failure, OSError) as error:
            errors.append(Failure("command_failed", str(error)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _check(result: int, what: str) -> None:
    if result != 0:
        raise Failure("command_failed", f"{what}: {os.strerror(ctypes.get_errno())}")
