"""Gaps: data that a container's sockets have taken out of order, and whose predecessors are still under way.

A checkpoint leaves such data behind: repair mode shows a socket's queue only up to the first gap (CRIU, soccr). But
the peer was told that it arrived (SACK, RFC 2018), and sends it again no sooner than its retransmission timer fires
(section 8), which the freeze itself has made long. TCP fills a gap within a round trip, so waiting costs far less.

The kernel tells nobody about a socket's gaps but its peer; so the peer's side of the wire is where we look.
"""

import socket
import struct
import time

from coat_ryu.node.failure import Failure
from coat_ryu.node.readable import readable

SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23  # linux/socket.h, linux/if_packet.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD  # linux/if_ether.h
ETHERNET, IPV6_HEADER, TCP_HEADER = 14, 40, 20
TCP = 6
END_OF_OPTIONS, NO_OPERATION, SACK = 0, 1, 5  # RFC 9293, section 3.1; RFC 2018, section 3
HEADERS = 160
"""Bytes of a frame that are looked at."""
BUFFER = 4 << 20


class Gaps:
    """Listens, from now on, to what a container says through its interface on the bridge. Raises Failure."""

    def __init__(self, port: str) -> None:
        self._open: set[bytes] = set()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            # ETH_P_ALL: a kernel datapath takes a frame before a listener to one protocol would see it.
            self._socket.bind((port, ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            raise Failure("not_found", f"port: {port} cannot be listened to: {error.strerror}") from error

    def close(self) -> None:
        self._socket.close()

    def count(self) -> int:
        """Connections whose last word was that they wait for something."""
        while True:
            try:
                found = gap_in(self._socket.recv(HEADERS))
            except BlockingIOError:
                return len(self._open)
            if found is not None:
                connection, waits = found
                (self._open.add if waits else self._open.discard)(connection)

    def wait_until_filled(self, patience: float) -> float:
        """Returns when no connection waits, or after ``patience`` seconds. The answer is how long that took."""
        start = time.monotonic()
        while self.count() and (left := start + patience - time.monotonic()) > 0:
            readable([self._socket], left)
        return time.monotonic() - start


def gap_in(frame: bytes) -> tuple[bytes, bool] | None:
    """Which connection a frame is of, and whether its sender has data beyond a gap; None if it is not TCP."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == ETH_P_IP and frame[23:24] == bytes([TCP]):
        addresses, start = frame[26:34], ETHERNET + (frame[ETHERNET] & 0x0F) * 4
    elif kind == ETH_P_IPV6 and frame[20:21] == bytes([TCP]):
        addresses, start = frame[22:54], ETHERNET + IPV6_HEADER
    else:
        return None
    segment = frame[start:]
    if len(segment) < TCP_HEADER:
        return None
    acknowledged = int.from_bytes(segment[8:12], "big")
    ends = _sack_ends(segment[TCP_HEADER : (segment[12] >> 4) * 4])
    # A block below the acknowledgement only reports a duplicate (RFC 2883).
    return addresses + segment[:4], any(0 < (end - acknowledged) % 2**32 < 2**31 for end in ends)


def _sack_ends(options: bytes) -> list[int]:
    """The right edges of the blocks in a selective acknowledgement."""
    while options and options[0] != END_OF_OPTIONS:
        if options[0] == NO_OPERATION:
            options = options[1:]
            continue
        length = options[1] if len(options) > 1 else 0
        if length < 2 or length > len(options):
            break
        if options[0] == SACK:
            return [edge for (edge,) in struct.iter_unpack("!4xI", options[2 : length - (length - 2) % 8])]
        options = options[length:]
    return []
