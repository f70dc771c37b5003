"""What a container's processes are and have, as far as CRIU cannot move it: seen from outside, in /proc (proc(5)).

Nothing is touched, and what cannot be read is no reason: a process may end at any moment.
"""

import contextlib
import ipaddress
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_ryu.node import sockets
from coat_ryu.node.failure import Failure, printable

PROC = Path("/proc")
TCP_LISTEN, TCP_TIME_WAIT = "0A", "06"  # net/tcp_states.h, as in /proc/net/tcp
PATIENCE = 1.0
"""Seconds that a server is given to accept the connections that wait for it, and a short `podman exec` to end."""
FILES = 50_000
"""How many open files are looked at, all processes together."""
UNKNOWN_PROTOCOLS = ("MPTCP", "SMC", "SCTP", "DCCP", "XDP")
"""Whose sockets CRIU refuses (criu/sk-inet.c, can_dump_ipproto), as /proc/net/protocols calls them."""
UNKNOWN_FILES = ("[io_uring]", "[perf_event]", "[userfaultfd]", "[landlock-ruleset]", "seccomp notify", "bpf-prog")
"""Anonymous inodes that CRIU has no image for, as /proc/PID/fd calls them."""
CAP_SYS_RESOURCE = 24  # linux/capability.h
SLEEPS = "hrtimer_nanosleep"
"""Where the kernel has a process that sleeps (kernel/time/hrtimer.c), as /proc/PID/wchan says."""


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    name: str

    def __str__(self) -> str:
        return f"{printable(self.name)} (pid {self.pid})"

    @property
    def directory(self) -> Path:
        return PROC / str(self.pid)


def look(init: int) -> dict[str, Any]:
    """Of the container whose first process is ``init``, each as a list of what a person can find again:

    ``exec_sessions``: processes that did not come from it (`podman exec`); ``foreign_time``: those in another time
    namespace; ``traced``; ``other_users``: those of another user or group than root; ``link_local``: TCP ports of
    connections over link-local addresses; ``protocols`` and ``files``: kinds that CRIU does not know;
    ``queues``: open POSIX message queues; ``sleepers``: `sleep` commands; ``unaccepted``: TCP ports with connections
    that were not accepted, though the server was given a second.
    """
    not_accepted = unaccepted(init)
    _patiently(lambda: outsiders(init, processes(init)))
    found = processes(init)
    files, queues = _files(init, found)
    return {
        "unaccepted": not_accepted,
        "exec_sessions": [str(one) for one in outsiders(init, found)],
        "foreign_time": [str(one) for one in found if _namespace(one.pid, "time") != _namespace(init, "time")],
        "traced": [str(one) for one in found if _traced(one)],
        "other_users": [str(one) for one in found if _is_other(one)],
        "link_local": link_local(init),
        "protocols": protocols(init),
        "files": files,
        "queues": queues,
        "sleepers": [str(one) for one in found if one.name == "sleep" and _read(one.directory / "wchan") == SLEEPS],
    }


def _patiently(ask: Callable[[], list[Any]]) -> list[Any]:
    give_up = time.monotonic() + PATIENCE
    while (found := ask()) and time.monotonic() < give_up:
        time.sleep(PATIENCE / 20)
    return found


def processes(init: int) -> list[Process]:
    """Everything in the container's process namespace."""
    space = _namespace(init, "pid")
    numbers = (int(entry) for entry in os.listdir(PROC) if entry.isdigit())
    found = (_process(pid) for pid in numbers if space is not None and _namespace(pid, "pid") == space)
    return [one for one in found if one is not None]


def _process(pid: int) -> Process | None:
    """None when it has ended, also as a zombie, which has nothing any more."""
    before, _, after = _read(PROC / str(pid) / "stat").rpartition(")")
    state, parent, *_ = (*after.split(), "Z", "0")
    return None if state in "ZX" else Process(pid, int(parent), before.partition("(")[2])


def outsiders(init: int, found: Iterable[Process]) -> list[Process]:
    """Processes that neither are the first one nor come from it."""
    parents = {one.pid: one.parent for one in found}

    def comes_from_init(pid: int) -> bool:
        seen = set()
        while pid in parents and pid != init and pid not in seen:
            seen.add(pid)
            pid = parents[pid]
        return pid == init

    return [one for one in found if not comes_from_init(one.pid)]


def _namespace(pid: int, kind: str) -> str | None:
    try:
        return os.readlink(PROC / str(pid) / "ns" / kind)
    except OSError:
        return None


def _traced(process: Process) -> bool:
    """Any of its threads."""
    return any(
        line.startswith("TracerPid:") and line.split()[1] != "0"
        for thread in _children(process.directory / "task")
        for line in _read(thread / "status").splitlines()
    )


def _is_other(process: Process) -> bool:
    """Whether prlimit(2) wants CAP_SYS_RESOURCE of root for it: any of its real, effective and saved ids is not 0."""
    lines = _read(process.directory / "status").splitlines()
    ids = [number for line in lines if line.startswith(("Uid:", "Gid:")) for number in line.split()[1:4]]
    return any(number != "0" for number in ids)


def has_capability(number: int) -> bool:
    """Whether this process has it, and so CRIU."""
    lines = dict(line.split(":\t", 1) for line in _read(PROC / "self/status").splitlines() if ":\t" in line)
    return bool(int(lines["CapEff"], 16) >> number & 1)


def backlogs(init: int) -> list[int]:
    """Ports of listening sockets whose receive queue, which counts connections, is not empty (proc_pid_net(5), tcp)."""
    return sorted(
        {port for _, port, state, queue in _connections(init, "tcp", "tcp6") if state == TCP_LISTEN and queue}
    )


def unaccepted(init: int) -> list[int]:
    """Ports with connections that wait to be accepted for all our patience. In the queue of a busy server others may
    wait all the time, but none of them stays.
    """
    if not backlogs(init):
        return []
    try:
        return sockets.stuck(PROC / str(init) / "ns/net", PATIENCE)
    except (Failure, OSError):  # they cannot be told from each other
        return _patiently(lambda: backlogs(init))


def link_local(init: int) -> list[int]:
    """Ports of TCP connections over link-local addresses: CRIU binds such an address without its interface."""
    found = [one for one in _connections(init, "tcp6") if one[2] not in (TCP_LISTEN, TCP_TIME_WAIT)]
    return sorted({port for ip, port, *_ in found if ip.is_link_local})


def _connections(init: int, *files: str) -> Iterator[tuple[Address, int, str, int]]:
    """Local address and port, state and receive queue of all TCP sockets in the container's network."""
    for file in files:
        for line in _read(PROC / str(init) / "net" / file).splitlines()[1:]:
            _, local, _, state, queues, *_ = line.split()
            address, _, port = local.rpartition(":")
            # words of 32 bits, each as the processor has it
            words = (int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8))
            yield ipaddress.ip_address(b"".join(words)), int(port, 16), state, int(queues.partition(":")[2], 16)


def protocols(init: int) -> list[str]:
    """Kinds of sockets in the container's network that CRIU refuses."""
    rows = (line.split() for line in _read(PROC / str(init) / "net/protocols").splitlines()[1:])
    return [row[0] for row in rows if row[0].startswith(UNKNOWN_PROTOCOLS) and row[2] not in ("0", "-1")]


def _files(init: int, found: list[Process]) -> tuple[list[str], list[str]]:
    """Of the open files those that CRIU refuses, and message queues: both with the process that has them."""
    queue_device = _device(PROC / str(init) / "root/dev/mqueue")
    unknown: list[str] = []
    queues: list[str] = []
    left = FILES
    for process in found:
        for file in _children(process.directory / "fd"):
            left -= 1
            if left < 0:
                return unknown, queues
            with contextlib.suppress(OSError):
                name = os.readlink(file)
                kind = name.removeprefix("anon_inode:")
                if kind != name and kind in UNKNOWN_FILES:
                    unknown.append(f"{kind.strip('[]')} of {process}")
                elif name.startswith("/") and name.count("/") == 1 and _device(file) == queue_device is not None:
                    queues.append(f"{printable(name)} of {process}")
    return unknown, queues


def _device(path: Path) -> int | None:
    try:
        return path.stat().st_dev
    except OSError:
        return None


def _children(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    """Empty when the process has ended, or may not be looked at."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
