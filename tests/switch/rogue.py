"""Somebody at the OpenFlow port who says that it is a switch, with a socket and nothing behind it."""

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator

HEADER = struct.Struct("!BBHI")
HELLO, FEATURES_REQUEST, FEATURES_REPLY, MULTIPART_REQUEST, MULTIPART_REPLY = 0, 5, 6, 18, 19


@contextlib.contextmanager
def rogue(port: int, dpid: int | None, tls: ssl.SSLContext | None = None) -> Iterator[socket.socket]:
    """A connection that has introduced itself as ``dpid``, without ports; None: that says nothing at all."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    with plain if tls is None else tls.wrap_socket(plain, server_hostname="localhost") as peer:
        if dpid is not None:
            _introduce(peer, dpid)
        yield peer


def is_closed(peer: socket.socket, timeout: float) -> bool:
    """Whether the other side hangs up within that time, whatever it says before."""
    peer.settimeout(timeout)
    try:
        while peer.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def _introduce(peer: socket.socket, dpid: int) -> None:
    peer.sendall(HEADER.pack(4, HELLO, 8, 1))
    with peer.makefile("rb") as stream:
        while True:
            head = stream.read(HEADER.size)
            if len(head) < HEADER.size:
                raise ConnectionResetError("hung up on before it had introduced itself")
            _, kind, length, xid = HEADER.unpack(head)
            body = stream.read(length - HEADER.size)
            if kind == FEATURES_REQUEST:
                peer.sendall(HEADER.pack(4, FEATURES_REPLY, 32, xid) + struct.pack("!QIBB2xII", dpid, 0, 254, 0, 0, 0))
            elif kind == MULTIPART_REQUEST:
                peer.sendall(HEADER.pack(4, MULTIPART_REPLY, 16, xid) + body[:2] + bytes(6))  # no ports
                return
