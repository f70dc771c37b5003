"""TCP connections of a container that no checkpoint has: those that are being opened, and those that it has closed
while the last of them is still under way.

CRIU dumps what processes have open. A connection in a listener's queue, or one whose handshake is not complete, belongs
to no process yet (CRIU refuses the former: criu/sk-inet.c, "In-flight connection"), and one that was closed with data
not acknowledged yet belongs to none any more. The kernel finishes each within a round trip, if it is let.
"""

import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coat_ryu.node import netns as namespaces

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20  # linux/netlink.h, linux/sock_diag.h
NLM_F_REQUEST, NLM_F_DUMP, NLMSG_ERROR, NLMSG_DONE = 0x1, 0x300, 2, 3  # linux/netlink.h
ESTABLISHED, SYN_RECV, FIN_WAIT1, LAST_ACK, LISTEN, CLOSING = 1, 3, 4, 9, 10, 11  # net/tcp_states.h
RETRIED = 1
"""What was not answered at a second try either is of somebody who is gone, or of a flood: it is not waited for."""
BUFFER = 1 << 18

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48x")
_SOCKET = struct.Struct("=4B2s2s16s16s12sIIIII")
"""nlmsghdr; inet_diag_req_v2; inet_diag_msg (linux/inet_diag.h)."""


@dataclass(frozen=True, slots=True)
class Unsettled:
    """``unaccepted``: ports whose listener has connections in its queue. ``half_open``: handshakes under way.
    ``leaving``: closed connections whose last data, or whose end, is not acknowledged yet.
    """

    unaccepted: tuple[int, ...] = ()
    half_open: int = 0
    leaving: int = 0

    def __bool__(self) -> bool:
        return bool(self.unaccepted or self.half_open or self.leaving)


@dataclass(frozen=True, slots=True)
class Connection:
    state: int
    retransmits: int
    local: int
    peer: bytes
    queued: int
    inode: int


class Sockets:
    """Looks at the TCP sockets in a network, as in /proc/PID/ns/net. Raises Failure when there is none."""

    def __init__(self, network: Path) -> None:
        with namespaces.visiting(network):  # a socket stays in the namespace that it was made in
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
        self._socket.settimeout(1.0)

    def close(self) -> None:
        self._socket.close()

    def unsettled(self) -> Unsettled:
        """Raises OSError."""
        found = list(self._of(LISTEN, SYN_RECV, FIN_WAIT1, LAST_ACK, CLOSING))
        waiting = {one.local for one in found if one.state == LISTEN and one.queued}
        lively = [one for one in found if one.retransmits <= RETRIED]
        half_open = sum(one.state == SYN_RECV for one in lively)
        leaving = sum(one.state not in (LISTEN, SYN_RECV) and not one.inode for one in lively)
        return Unsettled(tuple(sorted(waiting)), half_open, leaving)

    def unaccepted(self) -> set[tuple[int, bytes]]:
        """Connections that nobody has accepted: the listener's port, and whose they are. Raises OSError."""
        found = list(self._of(LISTEN, ESTABLISHED))
        listening = {one.local for one in found if one.state == LISTEN and one.queued}
        return {
            (one.local, one.peer)
            for one in found
            if one.state == ESTABLISHED and not one.inode and one.local in listening
        }

    def _of(self, *states: int) -> Iterator[Connection]:
        mask = sum(1 << state for state in states)
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, mask)
            head = _HEADER.pack(_HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, family, 0)
            self._socket.send(head + body)
            yield from self._answers()

    def _answers(self) -> Iterator[Connection]:
        while True:
            data = self._socket.recv(BUFFER)
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    (number,) = struct.unpack_from("=i", data, _HEADER.size)
                    raise OSError(-number, "sock_diag")
                yield _connection(data[_HEADER.size : length])
                data = data[(length + 3) & ~3 :]


def _connection(body: bytes) -> Connection:
    _, state, _, retransmits, local, port, _, peer, _, _, queued, _, _, inode = _SOCKET.unpack_from(body)
    return Connection(state, retransmits, int.from_bytes(local, "big"), peer + port, queued, inode)


def stuck(network: Path, patience: float, looks: int = 20) -> list[int]:
    """Ports with connections that are not accepted in ``patience`` seconds. A server that is merely busy has none:
    others may wait in its queue all the time, but none of them stays. Raises Failure, OSError.
    """
    sockets = Sockets(network)
    try:
        staying, give_up = sockets.unaccepted(), time.monotonic() + patience
        while staying and time.monotonic() < give_up:
            time.sleep(patience / looks)
            staying &= sockets.unaccepted()
    finally:
        sockets.close()
    return sorted({port for port, _ in staying})
