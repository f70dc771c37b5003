"""A port that one other node may come to, and nobody else keeps shut.

Who comes from another address is hung up on at once. Of those that say nothing, or nothing sensible, the oldest has to
go when there are many: the true peer needs a round trip, so it is never among these.
"""

import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from coat_ryu.node.failure import Failure
from coat_ryu.node.verbs import address as check_address

HANDSHAKES = 16
"""Connections at once that have not shown a certificate yet."""
KNOWN = 8
"""Connections at once that have: a sender has one, and another when it tries again."""
HANDSHAKE_TIMEOUT = 5.0
LISTEN_TIMEOUT = 3600.0
PAUSE = 0.1
"""Seconds until it is tried again when there were no descriptors, or no memory, for a connection."""


class Door:
    """Listens on the address ``where`` for ``peer``, an address too (None: anybody who has the certificate)."""

    def __init__(self, where: str, peer: str | None, context: ssl.SSLContext, *, ragged_eofs: bool = True) -> None:
        self._peer = peer and ipaddress.ip_address(peer)
        self._context, self._ragged_eofs = context, ragged_eofs
        self.listener = socket.create_server((where, 0), family=socket.AF_INET6 if ":" in where else socket.AF_INET)
        self.port: int = self.listener.getsockname()[1]
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._greeted: dict[ssl.SSLSocket, None] = {}
        self._known: set[ssl.SSLSocket] = set()

    def open(self, take: Callable[[ssl.SSLSocket], None], name: str) -> None:
        """From now on ``take`` is called, in a thread of its own, with each connection of the peer's; it closes it."""
        threading.Thread(target=self._listen, args=(take,), name=name, daemon=True).start()

    def close(self) -> None:
        """Nobody comes in any more. Those who are inside stay."""
        self._closing.set()
        with self._lock:
            _end(self.listener, *self._greeted)

    def turn_out(self) -> None:
        """Closes, and hangs up on whoever is inside."""
        self.close()
        with self._lock:
            _end(*self._known)

    def _listen(self, take: Callable[[ssl.SSLSocket], None]) -> None:
        self.listener.settimeout(LISTEN_TIMEOUT)
        with self.listener:
            while not self._closing.is_set():
                try:
                    connection, address = self.listener.accept()
                except TimeoutError:
                    return
                except OSError:  # accept(2): the network's errors of that connection, or no descriptor for it
                    self._closing.wait(PAUSE)
                    continue
                if self._peer in (None, ipaddress.ip_address(address[0].partition("%")[0])):
                    self._begin(connection, take)
                else:
                    connection.close()

    def _begin(self, connection: socket.socket, take: Callable[[ssl.SSLSocket], None]) -> None:
        ragged = self._ragged_eofs
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = self._context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=ragged
            )
        except OSError:  # it has gone already
            return connection.close()
        with self._lock:
            if len(self._greeted) >= HANDSHAKES:
                oldest = next(iter(self._greeted))
                del self._greeted[oldest]
                _end(oldest)
            self._greeted[secured] = None
        try:
            threading.Thread(target=self._greet, args=(secured, take), daemon=True).start()
        except RuntimeError:  # there are no more threads
            with self._lock:
                self._greeted.pop(secured, None)
            secured.close()
        return None

    def _greet(self, connection: ssl.SSLSocket, take: Callable[[ssl.SSLSocket], None]) -> None:
        welcome = self._is_peer(connection)
        with self._lock:
            self._greeted.pop(connection, None)
            welcome = welcome and len(self._known) < KNOWN and not self._closing.is_set()
            if welcome:
                self._known.add(connection)
        if not welcome:
            return connection.close()
        try:
            take(connection)
        finally:
            with self._lock:
                self._known.discard(connection)
        return None

    def _is_peer(self, connection: ssl.SSLSocket) -> bool:
        connection.settimeout(HANDSHAKE_TIMEOUT)  # for all of it, however slowly it goes on
        try:
            connection.do_handshake()
        except OSError:
            return False
        return True


def connect(to: dict[str, Any], timeout: float) -> socket.socket:
    """A connection to a door: at ``address`` and ``port``, from the address ``own`` where that is given, for a host may
    have several and the door expects one. Raises Failure for what is no such place, OSError.
    """
    where, port, own = to.get("address"), to.get("port"), to.get("own")
    if not isinstance(where, str) or not isinstance(port, int) or not isinstance(own, str | None):
        raise Failure("bad_args", "to: address and port are wanted, and own may be given")
    for key, text in (("to.address", where), ("to.own", own or where)):
        check_address(key, text)
    connection = socket.create_connection((where, port), timeout, source_address=own and (own, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
