"""Where the frames of a released hold go: straight into the container's port, or back to the switch."""

import errno
import os
import socket
import time
from pathlib import Path

PATIENCE = 0.05
"""Seconds to wait for a switch or an interface that does not take frames, before going on regardless."""
PAUSE = 0.0002


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


class Port:
    """The container's own port, on the node that has the hold too. Whoever they were for, frames go to ``mac``.

    Its other end takes each frame within ``send``, so there is nothing to wait for.
    """

    def __init__(self, name: str, mac: str) -> None:
        self.name, self.mac = name, octets(mac)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._socket.bind((name, 0))
        except OSError:
            self._socket.close()
            raise

    def write(self, frame: bytes) -> None:
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                self._socket.send(self.mac + frame[len(self.mac) :])
                return
            except OSError as error:  # the other end's queue is full (net/core/dev.c, enqueue_to_backlog)
                if error.errno != errno.ENOBUFS or time.monotonic() > give_up:
                    raise
            time.sleep(PAUSE)

    def wait(self) -> None:
        pass

    def behind(self) -> bool:
        return False

    def close(self) -> None:
        self._socket.close()


class Switch:
    """Out of the TAP again: the flows send it on. Keeps a burst from overrunning the switch.

    A userspace datapath reads the TAP through a bounded packet socket. The kernel's takes each frame within ``write``
    and has no such socket.
    """

    def __init__(self, tap: int, index: int) -> None:
        self._tap, self._index = tap, str(index)
        self._limit = int(Path("/proc/sys/net/core/rmem_default").read_text()) // 4

    def write(self, frame: bytes) -> None:
        os.write(self._tap, frame)

    def wait(self) -> None:
        give_up = time.monotonic() + PATIENCE
        while self._waiting() > self._limit and time.monotonic() < give_up:
            time.sleep(PAUSE)

    def behind(self) -> bool:
        """Whether the switch has not taken yet what was written."""
        return self._waiting() > 0

    def _waiting(self) -> int:
        """Bytes in the fullest packet socket on the TAP (packet(7); net/packet/af_packet.c, packet_seq_show)."""
        with open("/proc/net/packet") as table:
            rows = [line.split() for line in table]
        return max((int(row[6]) for row in rows if row[4] == self._index), default=0)
