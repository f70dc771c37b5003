"""What CRIU leaves undone when it fails after the dump itself, as a page server that is let down does: the processes
live, but their connections are still in repair mode and its lock is still on their network (criu/cr-dump.c,
cr_dump_finish: unlocking comes before the pages).
"""

import contextlib
import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator

from coat_ryu.node.freezer import directory

SYS_PIDFD_GETFD = 438  # the same number on every architecture
TCP_REPAIR, TCP_REPAIR_OFF = 19, 0  # linux/tcp.h
UNHOOK = "*filter\n:CRIU - [0:0]\n-D INPUT -j CRIU\n-D OUTPUT -j CRIU\nCOMMIT\n"
REMOVE = "*filter\n:CRIU - [0:0]\n-X CRIU\nCOMMIT\n"
"""As CRIU itself unlocks (criu/net.c, iptables_network_unlock_internal)."""


def mend(pid: int, identity: str) -> int:
    """The container ``identity``, whose first process is ``pid``, can talk again as soon as it is thawed. Answers how
    many connections it has.
    """
    _unlock(pid)
    return sum(_mend_process(one) for one in _family(pid, identity))


def _unlock(pid: int) -> None:
    for family in ("iptables", "ip6tables"):
        if _inside(pid, family, "-w", "-S", "CRIU").returncode == 0:
            for text in (UNHOOK, REMOVE):
                _inside(pid, f"{family}-restore", "-w", "--noflush", said=text).check_returncode()
    for line in _inside(pid, "nft", "list", "tables").stdout.splitlines():
        if line.split()[-1].startswith("CRIU"):
            _inside(pid, "nft", "delete", *line.split()).check_returncode()


def _inside(pid: int, *argv: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """A command in the container's network."""
    whole = ["nsenter", f"--net=/proc/{pid}/ns/net", *argv]
    return subprocess.run(whole, input=said, capture_output=True, text=True, check=False)


def _family(pid: int, identity: str) -> Iterator[int]:
    """All processes of the container: those of its cgroup and of the groups below."""
    group = directory(pid, identity)
    if group is None:
        yield pid
        return
    for file in group.rglob("cgroup.procs"):
        yield from map(int, file.read_text().split())


def _mend_process(pid: int) -> int:
    mended = 0
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(entry.path).startswith("socket:"):
                    mended += _mend_socket(pidfd, int(entry.name))
    finally:
        os.close(pidfd)
    return mended


def _mend_socket(pidfd: int, descriptor: int) -> bool:
    copy = ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, pidfd, descriptor, 0)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    with socket.socket(fileno=copy) as borrowed:
        if borrowed.family not in (socket.AF_INET, socket.AF_INET6) or borrowed.type != socket.SOCK_STREAM:
            return False
        if not borrowed.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR):
            return False
        borrowed.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF)
        return True
