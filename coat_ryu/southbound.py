"""The OpenFlow door: who may speak there, how many at once, and how long they may take to say who they are.

Ryu's own server forgets its TLS context after the first connection, waits for ever in a handshake, and ends when a
connection cannot be accepted; so it is replaced here before Ryu makes it.
"""

import _socket
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any

import eventlet
from ryu.base import app_manager  # noqa: F401  # before the controller, for they import each other
from ryu.controller import controller, ofp_event
from ryu.controller.handler import DEAD_DISPATCHER, MAIN_DISPATCHER
from ryu.lib import hub
from ryu.ofproto import ofproto_parser

from coat_ryu import tls
from coat_ryu.doors import is_loopback
from coat_ryu.places import neighbourhood
from coat_ryu.refusals import Refusals
from coat_ryu.tls import Keys, OpenDoor, Tls

LOG = logging.getLogger(__name__)

HANDSHAKE = 10.0
"""Seconds until a connection has to be a switch that is known: TLS, and OpenFlow's own greeting."""
PENDING, PENDING_OF_ONE = 512, 32
"""Connections that are not that far yet: in all, and from one address that is not this machine's."""
ECHO_INTERVAL, UNANSWERED = 10.0, 1
"""Seconds between two echo requests to a switch, and how many may be without an answer when the next one is due: a
switch whose host lost its power is known to be away after 20 s.
"""
controller.CONF.set_default("echo_request_interval", ECHO_INTERVAL)
controller.CONF.set_default("maximum_unreplied_echo_requests", UNANSWERED)
MALFORMED = 16
"""Messages that cannot be read, of one connection, before it is hung up on."""
PORTS = 4096
"""That one switch may have: each is kept."""
HEADER_SIZE = 8
logging.getLogger("OFPHandler").setLevel(logging.ERROR)  # it warns of each error message that a switch has cut short
ACCEPT_PAUSE = 0.1
"""Seconds before the next try when a connection could not be accepted, mostly for want of file descriptors."""


def files(conf: Any, crl: str | None) -> Tls:
    """What Ryu's options say of TLS for OpenFlow."""
    options = ("--ctl-cert", "--ctl-privkey", "--ca-certs", "[coat] openflow_crl")
    return Tls(conf.ctl_cert, conf.ctl_privkey, conf.ca_certs, crl, options)


def refuse_open_door(host: str, dials: bool, locks: Tls, open_on_purpose: bool) -> None:
    """Raises OpenDoor when anybody could be a switch. ``dials``: we connect to switches, in clear."""
    if (is_loopback(host) or locks.client_ca) and not dials:
        return
    if not open_on_purpose:
        where = "connect to switches in clear" if dials else f"listen on {host or 'every address'}"
        raise OpenDoor(
            f"OpenFlow would {where}, where anybody could be a switch: give --ctl-cert, --ctl-privkey and --ca-certs"
            " (docs/locks.md), or leave --ofp-listen-host on loopback, or say [coat] openflow_open = true"
        )
    LOG.warning("OpenFlow is open: whoever reaches %s can be any switch that is not connected", host or "any address")


def accept(listener: Any) -> tuple[Any, Any]:
    """The next connection of a listening socket, whatever befalls one or the other."""
    while True:
        try:
            connection, address = listener.accept()
            return connection, address
        except OSError as error:
            if listener.fileno() < 0:
                raise
            LOG.warning("a connection could not be accepted: %s", error)
            hub.sleep(ACCEPT_PAUSE)


class _Secured:
    """A TLS socket that is hung up on while somebody else reads it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def shutdown(self, how: int) -> None:
        _socket.socket.shutdown(self._connection, how)  # SSLSocket's own would go on in clear

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class Datapath(controller.Datapath):  # type: ignore[misc]
    """``certified``: the names in the peer's certificate; None where none is asked for. ``on_known`` is called when it
    has said which switch it is.
    """

    def __init__(
        self, connection: Any, address: Any, certified: frozenset[str] | None, on_known: Callable[[], None]
    ) -> None:
        self.certified = certified
        self._on_known = on_known
        super().__init__(connection, address)

    def set_state(self, state: str) -> None:
        super().set_state(state)
        if state == MAIN_DISPATCHER:
            self._on_known()

    @property
    def is_full(self) -> bool:
        """Whether who sends more has to wait."""
        return bool(self._send_q_sem.locked())

    def _recv_loop(self) -> None:
        """Ryu's own lets nobody else have a turn while there is anything to read, and logs all that it cannot read,
        with a traceback each.
        """
        malformed = 0
        while self.state != DEAD_DISPATCHER and (head := self._read(HEADER_SIZE)):
            version, kind, length, xid = ofproto_parser.header(head)
            parse = ofproto_parser._MSG_PARSERS.get(version)
            if parse is None or length < HEADER_SIZE:
                raise ValueError(f"a message of version {version} and {length} bytes, which is no OpenFlow")
            body = self._read(length - HEADER_SIZE)
            if body is None:
                return
            try:
                message = parse(self, version, kind, length, xid, head + body)
            except Exception as error:
                malformed += 1
                LOG.debug("%s sent a message of type %d that cannot be read: %r", self.address, kind, error)
                if malformed == MALFORMED:
                    raise ValueError(f"{malformed} messages that cannot be read, the last one of type {kind}") from None
                continue
            self._tell(message)
            if len(self._ports or ()) > PORTS:
                raise ValueError(f"it says that it has more than {PORTS} ports")
            hub.sleep(0)

    def _tell(self, message: Any) -> None:
        event = ofp_event.ofp_msg_to_ev(message)
        self.ofp_brick.send_event_to_observers(event, self.state)
        for handler in list(self.ofp_brick.get_handlers(event, self.state)):  # one may change the state
            handler(event)

    def _read(self, size: int) -> bytes | None:
        """So many bytes; None when the connection has ended."""
        data = b""
        while len(data) < size:
            try:
                part = self.socket.recv(size - len(data))
            except (TimeoutError, ssl.SSLError):  # silent for a while; the next echo request tells whether it lives
                if self.state == DEAD_DISPATCHER:
                    return None
                continue
            except OSError:
                return None
            if not part:
                return None
            data += part
        return data

    def close(self) -> None:
        """Hangs up, whether or not the other side does."""
        super().close()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class Door:
    """Meets all OpenFlow connections, at whichever port."""

    def __init__(self, keys: Keys, refusals: Refusals) -> None:
        self.keys = keys
        self._refusals = refusals
        self._pending: Counter[str] = Counter()
        self._certificates: dict[Datapath, bytes] = {}

    def read_again(self) -> None:
        """Takes certificates and lists as they are now, and hangs up on whose certificate was revoked meanwhile. Raises
        OpenDoor, and then all stays as it was.
        """
        self.keys.read_again()
        if self.keys.files.crl is None:
            return
        for datapath, certificate in list(self._certificates.items()):
            if tls.is_revoked(certificate, self.keys.files.crl):
                self._refusals.note("certificate", datapath.address, "its certificate was revoked")
                datapath.close()

    def meet(self, connection: Any, address: Any) -> None:
        """Serves one connection until it ends. Never raises."""
        host = neighbourhood(str(address[0])) if address else ""
        mine = self._pending[host]
        if self._pending.total() >= PENDING or (mine >= PENDING_OF_ONE and not is_loopback(str(address[0]))):
            message = f"{self._pending.total()} have not said who they are yet, {mine} of them from there"
            self._refusals.note("limit", address, message)
            connection.close()
            return
        self._pending[host] += 1
        patience = eventlet.Timeout(HANDSHAKE)
        pending = True

        def on_known() -> None:
            nonlocal pending
            patience.cancel()
            if pending:
                pending = False
                self._pending -= Counter([host])

        try:
            self._serve(connection, address, on_known)
        except eventlet.Timeout:
            self._refusals.note("handshake", address, f"it has not said within {HANDSHAKE:g} s which switch it is")
        except Exception as error:
            if pending:
                self._refusals.note("handshake", address, f"{type(error).__name__}: {error}")
            else:
                LOG.warning("the OpenFlow connection from %s ended: %s", address, error)
        finally:
            on_known()

    def _serve(self, connection: Any, address: Any, on_known: Callable[[], None]) -> None:
        certified = certificate = None
        try:
            if self.keys.context is not None:
                connection = self.keys.context.wrap_socket(connection, server_side=True)
                if self.keys.files.client_ca:
                    certified = frozenset(tls.names(connection.getpeercert()))
                    certificate = connection.getpeercert(binary_form=True)
                connection = _Secured(connection)
            with contextlib.closing(Datapath(connection, address, certified, on_known)) as datapath:
                if certificate is not None:
                    self._certificates[datapath] = certificate
                try:
                    datapath.serve()
                finally:
                    self._certificates.pop(datapath, None)
        finally:
            connection.close()


def server(door: Door) -> type:
    """The class that Ryu shall make its OpenFlow server of."""

    class Server(hub.StreamServer):  # type: ignore[misc]
        def __init__(self, listen_info: Any, handle: Any = None, **of_ryu: Any) -> None:
            super().__init__(listen_info, door.meet)

        def serve_forever(self) -> None:
            while True:
                hub.spawn(self.handle, *accept(self.server))

    return Server
