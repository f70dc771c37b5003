"""The connection between two hooks, tampered with while it carries something.

Root may have a copy of another process's file descriptor (pidfd_getfd(2)): with it the sending hook's socket is ended,
or is given bytes that the hook never wrote, so that what arrives is not what was sent.
"""

import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from coat_ryu.node.stream import PROBE
from mininet_scenarios.lab import Lab

PIDFD_GETFD = 438  # asm-generic/unistd.h
BYTES_ACKED = struct.Struct("<120xQ")  # linux/tcp.h, struct tcp_info, tcpi_bytes_acked
SO_SNDBUFFORCE = 32  # asm-generic/socket.h
BEGINNING = 16 << 10
"""Bytes, more than TLS needs to begin."""
RATE = ["tbf", "rate", "40mbit", "burst", "16kb", "latency", "100ms"]
"""Slows what the sending host sends, that its middle can be found."""
PATIENCE = 60.0

_libc = ctypes.CDLL(None, use_errno=True)


def tamper(lab: Lab, host: str, hook: int, peer: str, kind: str, over: Callable[[], bool], *, probed: bool) -> bool:
    """Waits until the hook of ``host`` (a process of this machine) sends to ``peer``, and ``cut_off`` or ``corrupted``.

    ``probed``: the link is probed before anything is sent that matters. False if the migration is ``over`` before.
    """
    lab.exec(host, ["tc", "qdisc", "replace", "dev", "eth0", "root", *RATE])
    try:
        connection = _find(hook, peer, over)
        return connection is not None and _strike(connection, kind, BEGINNING + (PROBE if probed else 0))
    finally:
        lab.exec(host, ["tc", "qdisc", "del", "dev", "eth0", "root"])


def _strike(connection: socket.socket, kind: str, after: int) -> bool:
    """Once the peer has so many bytes. False if all was sent before there was a middle."""
    with connection:
        give_up = time.monotonic() + PATIENCE
        while _acknowledged(connection) < after:
            if time.monotonic() > give_up:
                return False
        try:
            if kind == "cut_off":
                connection.shutdown(socket.SHUT_RDWR)
            else:
                connection.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 1 << 24)  # the hook has filled what it had
                connection.send(b"\0" * 64, socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True


def _find(hook: int, peer: str, over: Callable[[], bool]) -> socket.socket | None:
    process = os.pidfd_open(hook)
    known: set[str] = set()
    asked = time.monotonic()
    try:
        while True:
            for name, link in _descriptors(hook):
                if link not in known and (found := _copy(process, int(name))) is not None:
                    with suppress(OSError):  # it is not connected yet
                        if found.getpeername()[:1] == (peer,):
                            return found
                        known.add(link)
                    found.close()
            if time.monotonic() > asked + 0.5:
                if over():
                    return None
                asked = time.monotonic()
    finally:
        os.close(process)


def _descriptors(pid: int) -> list[tuple[str, str]]:
    found = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            link = os.readlink(entry.path)
            if link.startswith("socket:"):
                found.append((entry.name, link))
    return found


def _copy(process: int, descriptor: int) -> socket.socket | None:
    copy = _libc.syscall(PIDFD_GETFD, process, descriptor, 0)
    return socket.socket(fileno=copy) if copy >= 0 else None


def _acknowledged(connection: socket.socket) -> int:
    return int(BYTES_ACKED.unpack(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED.size))[0])
