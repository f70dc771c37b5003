"""Gives Open vSwitch's packet sockets room for a burst.

The userspace datapath reads interfaces through AF_PACKET sockets with the kernel's default receive buffer of 208 KiB,
about 90 packets: less than two TCP bursts. Measured between two containers, one TCP connection: 350 Mbit/s with 8 % of
the packets lost on each hop, 760 Mbit/s and 1 % with 2 MiB. Open vSwitch has no setting for it, and
net.core.rmem_default is the whole machine's, so the sockets are borrowed with pidfd_getfd(2) and enlarged one by one.
"""

import asyncio
import ctypes
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mininet_scenarios.inside.host import EdgeHost

RECEIVE_BUFFER = 1 << 20  # the kernel doubles it (socket(7), SO_RCVBUF)
INTERVAL = 0.1
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
SYS_PIDFD_GETFD = 438  # the same number on every architecture


async def keep_enlarged(hosts: Iterable[EdgeHost]) -> None:
    """Watch for new packet sockets on the hosts and enlarge them, for ever."""
    known: dict[str, str] = {}
    while True:
        for host in hosts:
            with suppress(OSError):  # the host or its switch is gone; another may come
                sockets = Path(f"/proc/{host.pid}/net/packet").read_text()
                if sockets != known.get(host.name) and (pid := host.switch_pid()) is not None:
                    enlarge(pid)
                    known[host.name] = sockets
        await asyncio.sleep(INTERVAL)


def enlarge(pid: int) -> None:
    """Enlarge the receive buffer of every packet socket of a process. Raises OSError."""
    pidfd = os.pidfd_open(pid)
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                if os.readlink(entry.path).startswith("socket:"):
                    _enlarge_if_packet(pidfd, int(entry.name))
    finally:
        os.close(pidfd)


def _enlarge_if_packet(pidfd: int, descriptor: int) -> None:
    copy = ctypes.CDLL(None).syscall(SYS_PIDFD_GETFD, pidfd, descriptor, 0)
    if copy < 0:  # closed meanwhile
        return
    with socket.socket(fileno=copy) as borrowed:
        if borrowed.family == socket.AF_PACKET:
            borrowed.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
