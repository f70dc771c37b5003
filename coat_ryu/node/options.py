"""What CRIU forgets of a container's sockets and timers: read at the gate, set again after the restore.

CRIU keeps the options that it knows of (criu/sockets.c, sk-inet.c, sk-tcp.c) and no membership of a multicast group.
All can be read and set from outside, on a duplicate of the descriptor (pidfd_getfd(2)). Sockets are found again by the
numbers that the container itself has for process and descriptor. The list lies among CRIU's images, and goes with them.
"""

import contextlib
import ctypes
import functools
import itertools
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_ryu.node.process import start_of

FILE = "coat-sockets.json"
MOST, BUDGET = 5000, 0.1
"""How many sockets are looked at, and the seconds that this may take while CRIU is at work beside it."""
GROUPS = 1000
"""How many groups each of them is asked for, of IPv4 and of IPv6."""
SIZE, PATIENCE = 16 << 20, 2.0
"""Bytes of a list that is taken from another node, and the seconds for setting what is in it."""

SYS_PIDFD_GETFD = 438  # asm-generic/unistd.h
TCP, IP, IPV6, UDP = socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_UDP
# linux/tcp.h, in.h, in6.h, udp.h, asm-generic/socket.h. Not TCP_WINDOW_CLAMP, which the kernel changes by itself, and
# not TCP_QUICKACK, which is a state.
SYNCNT, LINGER2, DEFER_ACCEPT, CONGESTION, THIN, USER_TIMEOUT, FASTOPEN, LOWAT = 7, 8, 9, 13, 16, 18, 23, 25
OF_TCP = [(TCP, option) for option in (SYNCNT, LINGER2, DEFER_ACCEPT, CONGESTION, THIN, USER_TIMEOUT, FASTOPEN, LOWAT)]
OF_UDP = [(UDP, 103), (UDP, 104)]  # UDP_SEGMENT, UDP_GRO
OF_ALL = [(socket.SOL_SOCKET, 47)]  # SO_MAX_PACING_RATE
# IP_MTU_DISCOVER, IP_RECVERR, IP_RECVTTL, IP_RECVTOS, IP_MINTTL; IP_MULTICAST_IF,
# IP_MULTICAST_TTL, IP_MULTICAST_LOOP, IP_MULTICAST_ALL
OF_IP, TO_MANY = ([(IP, option) for option in options] for options in ((10, 11, 12, 13, 21), (32, 33, 34, 49)))
# IPV6_UNICAST_HOPS, IPV6_MTU_DISCOVER, IPV6_RECVERR, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_TCLASS;
# IPV6_MULTICAST_HOPS, IPV6_MULTICAST_LOOP, IPV6_MULTICAST_ALL
OF_IPV6, TO_MANY6 = ([(IPV6, option) for option in options] for options in ((16, 23, 25, 51, 66, 67), (18, 19, 29)))
KNOWN = frozenset([*OF_TCP, *OF_UDP, *OF_ALL, *OF_IP, *OF_IPV6, *TO_MANY, *TO_MANY6])
OUT6 = (IPV6, 17)  # IPV6_MULTICAST_IF: a number, which the same interface may not have elsewhere
LONGEST = 16  # TCP_CA_NAME_MAX

MCAST_JOIN_GROUP, MCAST_MSFILTER = 42, 48  # linux/in.h
EXCLUDE = 0
GROUP_REQ, GROUP_FILTER = struct.Struct("@I4x128s"), struct.Struct("@I4x128sII")
SOURCES = 64
"""How many sources of a filter are kept."""
EVERYBODY = (bytes([224, 0, 0, 1]), bytes.fromhex("ff020000000000000000000000000001"))
"""Groups that the kernel itself is a member of."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Group:
    """A multicast group that somebody in a network namespace is a member of, at an interface."""

    interface: str
    index: int
    address: bytes

    @property
    def level(self) -> int:
        return IP if len(self.address) == 4 else IPV6

    @property
    def name(self) -> bytes:
        """As a sockaddr."""
        if len(self.address) == 4:
            return struct.pack("@HH4s", socket.AF_INET, 0, self.address)
        return struct.pack("@HHI16sI", socket.AF_INET6, 0, 0, self.address, 0)


# ---- at the gate


def keep(init: int, images: Path) -> dict[str, Any]:
    """Writes down what the frozen container whose first process is ``init`` has; for the record, how many sockets were
    looked at, how many were not, and how long that took.
    """
    began = time.monotonic()
    found, looked_at, left_out = read(init, began + BUDGET)
    part = images / f"{FILE}.part"
    with contextlib.suppress(OSError):  # the checkpoint has failed meanwhile
        part.write_text(json.dumps(found))
        part.chmod(0o600)
        part.rename(images / FILE)
    return {"sockets": looked_at, "sockets_left_out": left_out, "sockets_s": time.monotonic() - began}


def read(init: int, give_up: float) -> tuple[dict[str, list[Any]], int, int]:
    """Sockets with their options and groups, timers that are due and were not read; how many sockets were looked at,
    and how many were left out.
    """
    joined = _groups(init)
    groups = [one for one in joined if one.address not in EVERYBODY]
    interfaces = {one.index: one.interface for one in joined}
    sockets: list[dict[str, Any]] = []
    timers: list[dict[str, Any]] = []
    seen: set[str] = set()
    left_out = 0
    for inner, pid in _family(init).items():
        for number, target in _descriptors(pid):
            if target.startswith("socket:[") and target not in seen:
                seen.add(target)
                if len(seen) > MOST or time.monotonic() > give_up:
                    left_out += 1
                    continue
                with contextlib.suppress(OSError), _borrowed(pid, number) as fd:
                    if told := _told(fd, groups, interfaces):
                        sockets.append({"pid": inner, "fd": number, **told})
            elif target == "anon_inode:[timerfd]" and (interval := _due(pid, number)):
                timers.append({"pid": inner, "fd": number, "interval": interval})
    return {"sockets": sockets, "timers": timers}, len(seen) - left_out, left_out


def _told(fd: int, groups: list[Group], interfaces: dict[int, str]) -> dict[str, Any]:
    """Empty for a socket that is as new ones are."""
    with _as_socket(fd) as one:
        options = _options(one)
        if not options:
            return {}
        usual = _usual(one.family, one.type, one.proto)
        values = {(level, option): _get(one, level, option) for level, option in options}
        changed = {key: value for key, value in values.items() if value and value != usual.get(key)}
        told: dict[str, Any] = {
            "options": {f"{level}/{option}": changed[level, option].hex() for level, option in changed}
        }
        if one.type == socket.SOCK_DGRAM and (
            joined := [found for group in groups if (found := _membership(fd, group))]
        ):
            told["groups"] = joined
        out = _get(one, *OUT6) if one.type == socket.SOCK_DGRAM and one.family == socket.AF_INET6 else None
        if out and (name := interfaces.get(int.from_bytes(out, sys.byteorder))):
            told["out"] = name
    return told if changed or len(told) > 1 else {}


@functools.cache
def _usual(family: int, kind: int, protocol: int) -> dict[tuple[int, int], bytes | None]:
    """The options of a socket that nobody has touched."""
    try:
        with socket.socket(family, kind, protocol) as one:
            return {(level, option): _get(one, level, option) for level, option in _options(one)}
    except OSError:
        return {}


def _options(one: socket.socket) -> list[tuple[int, int]]:
    if one.family not in (socket.AF_INET, socket.AF_INET6):
        return []
    found = [*OF_ALL, *OF_IP]  # a socket for IPv6 may speak IPv4, too
    if one.family == socket.AF_INET6:
        found += OF_IPV6
    if one.type == socket.SOCK_STREAM:
        return [*found, *OF_TCP]
    return [*found, *OF_UDP, *TO_MANY, *(TO_MANY6 if one.family == socket.AF_INET6 else [])]


def _get(one: socket.socket, level: int, option: int) -> bytes | None:
    try:
        return one.getsockopt(level, option, LONGEST)
    except OSError:  # not for this kind, or not known to this kernel
        return None


def _membership(fd: int, group: Group) -> dict[str, Any] | None:
    """The filter that the socket has for the group, if it is a member."""
    size = 128 * SOURCES
    buffer = ctypes.create_string_buffer(GROUP_FILTER.pack(group.index, group.name, 0, SOURCES) + bytes(size))
    length = ctypes.c_uint(GROUP_FILTER.size + size)
    if _libc.getsockopt(fd, group.level, MCAST_MSFILTER, buffer, ctypes.byref(length)) != 0:
        return None
    _, _, mode, count = GROUP_FILTER.unpack_from(buffer)
    start = GROUP_FILTER.size
    sources = [buffer.raw[start + 128 * at : start + 128 * (at + 1)].hex() for at in range(min(count, SOURCES))]
    return {"interface": group.interface, "address": group.address.hex(), "mode": mode, "sources": sources}


def _due(pid: int, number: int) -> tuple[int, int] | None:
    """The interval of a periodic timer that is due and was not read. The kernel sets it anew when it is read
    (fs/timerfd.c), and CRIU takes it for one that is not set.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines()
        told = dict(line.split(": ", 1) for line in lines if ": " in line)
        (value, interval) = (tuple(map(int, told[key].strip("()").split(", "))) for key in ("it_value", "it_interval"))
        if int(told["ticks"]) and value == (0, 0) and interval != (0, 0):
            return interval[0], interval[1]
    return None


# ---- after the restore

WRONG = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, struct.error, ctypes.ArgumentError)
"""What comes of a list that is none of ours."""


def load(images: Path) -> dict[str, Any]:
    """What was written down; nothing where there is nothing, or it is not ours."""
    try:
        found = json.loads(start_of(images / FILE, SIZE))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def set_again(kept: dict[str, Any], netns: Path) -> dict[str, Any]:
    """Sets what the running container in that network namespace lacks of it: how much, and what could not be."""
    done: dict[str, Any] = {"options_set": 0, "options_lost": []}
    init = first_process(netns) if kept.get("sockets") or kept.get("timers") else None
    if init is None:
        return done
    family = _family(init)
    groups = {one.interface: one.index for one in _groups(init)}
    give_up = time.monotonic() + PATIENCE
    for kind, act in (("sockets", _set_socket), ("timers", _set_timer)):
        told = kept.get(kind)
        for one in told if isinstance(told, list) else ():
            if time.monotonic() > give_up:
                done["options_lost"].append(f"{kind}: there was no time for more of them")
                break
            try:
                with _borrowed(family[one["pid"]], one["fd"]) as fd:
                    act(fd, one, groups, done)
            except (*WRONG, OSError) as error:
                done["options_lost"].append(f"{kind[:-1]} {one!r:.60}: {error}")
    done["options_lost"] = done["options_lost"][-SOURCES:]
    return done


def _set_socket(fd: int, kept: dict[str, Any], interfaces: dict[str, int], done: dict[str, Any]) -> None:
    with _as_socket(fd) as one:
        for key, value in kept["options"].items():
            level, option = map(int, key.split("/"))
            wanted = bytes.fromhex(value)
            if (level, option) in KNOWN and _get(one, level, option) != wanted:
                with _noting(done, f"option {key} of descriptor {kept['fd']}"):
                    one.setsockopt(level, option, wanted)
        if "out" in kept:
            index = struct.pack("@i", interfaces[kept["out"]])
            with _noting(done, f"IPV6_MULTICAST_IF of descriptor {kept['fd']}"):
                one.setsockopt(*OUT6, index)
    for told in kept.get("groups", ()):
        group = Group(told["interface"], interfaces[told["interface"]], bytes.fromhex(told["address"]))
        what = f"membership in {socket.inet_ntop(*_shown(group))} of descriptor {kept['fd']}"
        with _noting(done, what):
            _join(fd, group, told["mode"], [bytes.fromhex(source) for source in told["sources"]])


@contextlib.contextmanager
def _noting(done: dict[str, Any], what: str) -> Iterator[None]:
    try:
        yield
        done["options_set"] += 1
    except OSError as error:
        done["options_lost"].append(f"{what}: {error.strerror}")


def _shown(group: Group) -> tuple[socket.AddressFamily, bytes]:
    return (socket.AF_INET if len(group.address) == 4 else socket.AF_INET6), group.address


def _join(fd: int, group: Group, mode: int, sources: list[bytes]) -> None:
    request = GROUP_REQ.pack(group.index, group.name)
    _check(_libc.setsockopt(fd, group.level, MCAST_JOIN_GROUP, request, len(request)))
    if mode != EXCLUDE or sources:
        rule = GROUP_FILTER.pack(group.index, group.name, mode, len(sources)) + b"".join(sources)
        _check(_libc.setsockopt(fd, group.level, MCAST_MSFILTER, rule, len(rule)))


def _set_timer(fd: int, kept: dict[str, Any], _: dict[str, int], done: dict[str, Any]) -> None:
    """Due at once, as it was."""
    seconds, nanoseconds = map(int, kept["interval"])
    wanted = (ctypes.c_long * 4)(seconds, nanoseconds, 0, 1)
    with _noting(done, f"timer {kept['fd']}"):
        _check(_libc.timerfd_settime(fd, 0, wanted, None))


# ---- both


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@contextlib.contextmanager
def _borrowed(pid: int, number: int) -> Iterator[int]:
    """A duplicate of another process's descriptor."""
    process = os.pidfd_open(pid)
    try:
        fd = _check(_libc.syscall(SYS_PIDFD_GETFD, process, number, 0))
    finally:
        os.close(process)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _as_socket(fd: int) -> Iterator[socket.socket]:
    """The descriptor stays its owner's."""
    one = socket.socket(fileno=fd)
    try:
        yield one
    finally:
        one.detach()


def _family(init: int) -> dict[int, int]:
    """All processes of a container: the number that it has for each, and ours."""
    found, waiting = {}, [init]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError, ValueError, IndexError):
            found[_inner(pid)] = pid
            for task in os.listdir(f"/proc/{pid}/task"):
                waiting += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def _inner(pid: int) -> int:
    """Its number in its own namespace (proc_pid_status(5), NSpid)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("NSpid:")).split()[-1])


def first_process(netns: Path) -> int | None:
    """Of the container in a network namespace."""
    try:
        wanted = netns.stat().st_ino
    except OSError:
        return None
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        with contextlib.suppress(OSError, StopIteration):
            if os.stat(f"/proc/{pid}/ns/net").st_ino == wanted and _inner(pid) == 1:
                return pid
    return None


def _descriptors(pid: int) -> Iterator[tuple[int, str]]:
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield int(number), os.readlink(f"/proc/{pid}/fd/{number}")


def _lines(path: str, most: int) -> list[str]:
    with open(path) as file:
        return list(itertools.islice(file, most))


def _groups(init: int) -> list[Group]:
    """Groups in the network of that process (net/ipv4/igmp.c, net/ipv6/mcast.c)."""
    found: list[Group] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        index, interface = 0, ""
        for line in _lines(f"/proc/{init}/net/igmp", GROUPS)[1:]:
            words = line.split()
            if not line.startswith("\t"):
                index, interface = int(words[0]), words[1]
            else:  # the address as the processor has it
                found.append(Group(interface, index, struct.pack("=I", int(words[0], 16))))
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _lines(f"/proc/{init}/net/igmp6", GROUPS):
            index6, name, address, *_ = line.split()
            found.append(Group(name, int(index6), bytes.fromhex(address)))
    return found
