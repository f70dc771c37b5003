"""A node turns its own switch, by flow changes that the controller made ready: in the freeze nobody has to be asked.

Open vSwitch listens for OpenFlow on a Unix socket of every bridge, BRIDGE.mgmt (ovs-ofctl(8), ovs-vswitchd.conf.db(5)).
The connection is made before the freeze, so that in it there is one round trip between two processes of one host. A
switch that cannot be turned here is turned by the controller, as if nothing had been made ready.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from coat_ryu.node.verbs import Ifname, Rule, checked

Message = Annotated[str, Rule(r"([0-9a-f]{2}){8,}", "an OpenFlow message in hex")]

RUN_DIRECTORY = "/var/run/openvswitch"
"""Where Open vSwitch's sockets are unless OVS_RUNDIR says otherwise (ovs-vswitchd(8))."""
TIMEOUT = 1.0
"""Seconds for a switch of this host to answer; after that the controller is asked, and the container has waited."""
VERSION, HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, BARRIER_REQUEST, BARRIER_REPLY = 4, 0, 1, 2, 3, 20, 21
_HEADER = struct.Struct("!BBHI")
"""Version, type, length, transaction (OpenFlow 1.3.5, section 7.1.1)."""
_BARRIER = 0x7FFFFFFF
"""A transaction that no message made ready has: those count from one."""


class Turn:
    """Messages for one bridge, and a connection to bring them. Raises OSError.

    ``messages`` turn all frames, once ``sift`` has turned those that open connections; ``unsift`` takes the latter
    back.
    """

    def __init__(self, bridge: str, messages: list[str], sift: Sequence[str] = (), unsift: Sequence[str] = ()) -> None:
        self._messages, self._sift, self._unsift = (
            b"".join(map(bytes.fromhex, part)) for part in (messages, sift, unsift)
        )
        self.sifted = False
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(TIMEOUT)
            self._socket.connect(str(Path(os.environ.get("OVS_RUNDIR", RUN_DIRECTORY)) / f"{bridge}.mgmt"))
            self._socket.sendall(_HEADER.pack(VERSION, HELLO, _HEADER.size, 0))
            self._until(HELLO)
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def make(self) -> None:
        """Returns when the switch has confirmed all changes. Raises OSError: then it may have made some of them."""
        self._apply(b"" if self.sifted else self._sift, self._messages)

    def sift(self) -> bool:
        """The same for what opens a connection, and only that: it goes to the hold. Whether there is such a change."""
        if self._sift and not self.sifted:
            self.sifted = True  # or in part
            self._apply(self._sift)
        return self.sifted

    def unsift(self) -> None:
        """New connections come to the container again."""
        if self.sifted:
            self._apply(self._unsift)
            self.sifted = False

    def _apply(self, *parts: bytes) -> None:
        self._socket.sendall(b"".join(parts) + _HEADER.pack(VERSION, BARRIER_REQUEST, _HEADER.size, _BARRIER))
        self._until(BARRIER_REPLY)

    def _until(self, wanted: int) -> None:
        give_up = time.monotonic() + TIMEOUT
        while time.monotonic() < give_up:
            kind, transaction, body = self._next()
            if kind == ERROR:
                raise ConnectionAbortedError(f"the switch refuses: {body[:64].hex()}")
            if kind == ECHO_REQUEST:
                self._socket.sendall(_HEADER.pack(VERSION, ECHO_REPLY, _HEADER.size + len(body), transaction) + body)
            if kind == wanted:
                return
        raise TimeoutError("the switch says much, but not that it is done")

    def _next(self) -> tuple[int, int, bytes]:
        while len(self._received) < _HEADER.size or len(self._received) < self._length():
            more = self._socket.recv(65536)
            if not more:
                raise ConnectionResetError("the switch hung up")
            self._received += more
        _, kind, length, transaction = _HEADER.unpack_from(self._received)
        body, self._received = self._received[_HEADER.size : length], self._received[length:]
        return kind, transaction, body

    def _length(self) -> int:
        return max(_HEADER.size, int(_HEADER.unpack_from(self._received)[2]))


def _order(
    *, bridge: Ifname, messages: list[Message], sift: list[Message] | None = None, unsift: list[Message] | None = None
) -> None:
    """What a turn is made of."""


@contextlib.contextmanager
def made_ready(order: dict[str, Any] | None) -> Iterator[Turn | None]:
    """The turn that was ordered; None when nothing was, or when the switch does not answer. Raises Failure."""
    if order is None:
        yield None
        return
    checked(_order, order)
    try:
        turn = Turn(**order)
    except OSError:
        yield None
        return
    with contextlib.closing(turn):
        yield turn
