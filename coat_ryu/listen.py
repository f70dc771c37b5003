"""The REST door: Ryu's server with TLS and time limits, neither of which Ryu takes as options. So its class is replaced
here before it makes it, and that of its OpenFlow server with it (``southbound``).
"""

import contextlib
import functools
import json
import logging
import os
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import eventlet
from ryu.app import wsgi
from ryu.base import app_manager  # noqa: F401  # before the controller, for they import each other
from ryu.controller import controller
from ryu.lib import hub

from coat_ryu import southbound, tls
from coat_ryu.doors import is_loopback
from coat_ryu.errors import CoatError
from coat_ryu.places import GREETINGS, PLACES, Places
from coat_ryu.tls import Keys, OpenDoor, Tls

LOG = logging.getLogger(__name__)

SILENCE = 30.0
"""Seconds that a client may be silent within a request, or take nothing of its answer."""
IDLE = 75.0
"""Seconds that a connection may wait for its next request."""
HANDSHAKE = 10.0
"""Seconds that a TLS handshake may take."""
LINGER, LINGER_READS = 1.0, 256
"""Seconds in which a client may take its refusal, before what it still sends makes the kernel throw that away; and how
often 64 KB of that are read.
"""
SPARE = 64 << 10
"""Bytes of a body that nobody wanted which are read all the same, so that the connection may stay."""
FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r?\n")
"""A header line (RFC 9112, section 5): no space before the colon, no folding, no control character."""
ANSWERED = "coat.answered"
"""In a request's environment: what to call when its whole answer is there, and only has to be sent."""
GONE = ("BrokenPipeError", "ConnectionResetError", "TimeoutError", "ssl.SSL")
"""How the last line of a traceback begins that tells of a client and not of us."""


def refuse_open_door(host: str, tls: Tls, has_tokens: bool) -> None:
    """Raises OpenDoor when REST would serve strangers. Whoever may use it is root on the nodes."""
    if is_loopback(host):
        return
    if not (has_tokens or tls.client_ca):
        raise OpenDoor(
            f"REST would listen on {host or 'every address'} for everybody: set [coat] tokens, or tls_client_ca with"
            " tls_cert and tls_key, or leave --wsapi-host on loopback"
        )
    if not tls.cert:
        LOG.warning("REST listens on %s without TLS: whoever is on the way can read the tokens", host)


class TooManyConnections(CoatError):
    default_cause = "too_many_connections"
    response = 503


class _Recorded:
    """A request's header lines, kept as they came: Python's parser ends at one that is none, and says nothing."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines
        self.read: list[bytes] = []

    def readline(self, size: int = -1) -> bytes:
        line: bytes = self._lines.readline(size)
        self.read.append(line)
        return line


class Protocol(eventlet.wsgi.HttpProtocol):  # type: ignore[misc]
    """Errors below the application have the API's shape too, and a connection can be ended from above.

    ``context`` gives the TLS context for a new connection, None for plain HTTP.
    """

    minimum_chunk_size = 0  # an event is sent when it is there, however small

    def __init__(
        self, places: Places, context: Callable[[], ssl.SSLContext | None], conn_state: list[Any], server: Any
    ) -> None:
        self._places, self._context = places, context
        super().__init__(conn_state, server)

    def setup(self) -> None:
        self._leaves_body = False
        context = self._context()
        if context is not None:  # the handshake is each connection's own affair: none waits for another's
            self.request = self.conn_state[1] = context.wrap_socket(
                self.conn_state[1], server_side=True, do_handshake_on_connect=False
            )
        self.is_tls = context is not None
        self.is_current: Callable[[], bool] = lambda: self._context() is context
        super().setup()

    def handle(self) -> None:
        self._visit = self._places.greet(self.client_address[0], lambda: _cut(self.connection))
        try:
            if self.is_tls:
                with hub.Timeout(HANDSHAKE, TimeoutError("the TLS handshake took too long")):
                    self.connection.do_handshake()
            if self._places.seat(self._visit):
                super().handle()
                if self._leaves_body:
                    self._linger()
            elif not self._visit.is_over:
                refusal = TooManyConnections("all connections are in use; try again")
                self.send_error(refusal.response, str(refusal), cause=refusal.cause)
        except (ssl.SSLError, OSError) as error:
            LOG.debug("a connection from %s ended: %s", self.client_address, error)
        finally:
            self._places.leave(self._visit)

    def handle_one_request(self) -> None:
        self._places.wait(self._visit)
        super().handle_one_request()
        if self._visit.is_over:
            self._hang_up()

    def _read_request_line(self) -> Any:
        line = super()._read_request_line()
        if len(line) < eventlet.wsgi.MAX_REQUEST_LINE:
            return line
        self.send_error(414, f"the first line has {eventlet.wsgi.MAX_REQUEST_LINE} bytes or more", cause="uri_too_long")
        return ""

    def parse_request(self) -> bool:
        recorded = _Recorded(self.rfile)  # type: ignore[has-type]
        self.rfile = recorded  # for as long as eventlet has its own in its place
        try:
            if not super().parse_request():
                return False
        except eventlet.wsgi.HeaderLineTooLong:
            limit = eventlet.wsgi.MAX_HEADER_LINE
            self.send_error(431, f"a header line has {limit} bytes or more")
            return False
        except eventlet.wsgi.HeadersTooLarge:
            limit = eventlet.wsgi.MAX_TOTAL_HEADER_SIZE
            self.send_error(431, f"the headers have more than {limit} bytes")
            return False
        if not self.is_current():  # certificates were read anew: who has one of ours may come in again
            self._hang_up()
            return False
        wrong = header_fault(recorded.read) or self._target_fault()
        if wrong:
            self.send_error(400, wrong)
            return False
        wrong = framing_fault(self.headers.get_all("Content-Length", []), self.headers.get_all("Transfer-Encoding", []))
        if wrong:
            self.send_error(400, wrong, cause="length_required" if "Transfer-Encoding" in self.headers else None)
        return wrong is None

    def _target_fault(self) -> str | None:
        hosts = len(self.headers.get_all("Host", []))
        if hosts > 1 or (hosts == 0 and self.request_version == "HTTP/1.1"):
            return "Host: one is wanted"
        return None if self.path.startswith("/") else "the first line: a path that begins with / is wanted"

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None, cause: str | None = None
    ) -> None:
        text = message or "this is no HTTP request"
        cause = cause or ("headers_too_large" if int(code) == 431 else "bad_request")
        body = json.dumps({"cause": cause, "message": text, "response": int(code)}).encode() + b"\n"
        self.close_connection = 1
        self.request_version = "HTTP/1.1"  # what could not be read counts as 0.9, which has no status line
        self.send_response_only(int(code))
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", len(body)),
            ("Connection", "close"),
        ):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        self._linger()

    def _linger(self) -> None:
        """Somebody who sends without an end must not keep everybody else from their turn."""
        if not self.is_tls:
            _cut(self.connection, socket.SHUT_WR)
        with contextlib.suppress(OSError), hub.Timeout(LINGER, False):
            for _ in range(LINGER_READS):
                if not self.connection.recv(1 << 16):
                    return
                hub.sleep(0)

    def get_environ(self) -> Any:
        self._places.serve(self._visit)
        environ = super().get_environ()
        environ |= {"coat.hang_up": self._hang_up, "coat.is_current": self.is_current, ANSWERED: self._answered}
        if self.is_tls:
            whose = tls.names(self.connection.getpeercert())
            environ |= {"wsgi.url_scheme": "https", "HTTPS": "on", tls.NAMES: whose}
        return environ

    def _hang_up(self) -> None:
        self.close_connection = 1

    def _answered(self) -> None:
        """Whether the client takes its answer, and ends its body, is its own affair: it may have to go meanwhile."""
        self._places.wait(self._visit)
        body = self.environ["eventlet.input"]
        if (body.content_length or 0) - body.position > SPARE or (self.close_connection and body.content_length):
            self._leaves_body = True
            self._hang_up()


def header_fault(lines: Sequence[bytes]) -> str | None:
    """Why a header is read differently by different people, in words (the empty line at its end comes last)."""
    for number, line in enumerate(lines, 1):
        if not (FIELD.fullmatch(line) or (number == len(lines) and line in (b"\r\n", b"\n"))):
            return f"header line {number}: NAME: VALUE is wanted, without control characters"
    return None


def framing_fault(lengths: Sequence[str], encodings: Sequence[str]) -> str | None:
    """Why nobody can say where a body ends (RFC 9112, section 6.3), in words; None if that is clear."""
    if lengths and encodings:
        return "Content-Length and Transfer-Encoding are not allowed together"
    if encodings:
        return "the body must come with a Content-Length"
    if len(lengths) > 1 or any(not re.fullmatch("[0-9]{1,18}", length.strip()) for length in lengths):
        return "Content-Length: one whole number is wanted"
    return None


def _cut(connection: Any, how: int = socket.SHUT_RDWR) -> None:
    """Ends a connection that somebody else reads: a TLS socket's own shutdown would take its state from under them."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as twin:
        twin.shutdown(how)


class _Log:
    """What eventlet writes to, as a logger: a line a request, and now and then a traceback."""

    def write(self, message: str) -> None:
        if not message.startswith("Traceback"):
            LOG.info("%s", message.rstrip("\n"))
            return
        last = message.rstrip("\n").rpartition("\n")[2]
        if last.startswith(GONE):
            LOG.debug("a client went before its answer was sent: %s", last)
        else:
            LOG.error("%s", message.rstrip("\n"))


class Turnstile:
    """A WSGI application whose requests begin one at a time, with a turn of the event loop between two.

    A request takes some milliseconds of the loop, and twenty that arrive together would all be worked off in one turn,
    while switches and nodes wait.
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self._gate = hub.Semaphore()

    def __call__(self, environ: Any, start_response: Any) -> Any:
        with self._gate:
            hub.sleep(0)
        answer = self._application(environ, start_response)
        if isinstance(answer, list):  # all of it; a stream goes on
            environ.get(ANSWERED, lambda: None)()
        return answer


class _Listener:
    """A listening socket that a connection which cannot be accepted does not end."""

    def __init__(self, listener: Any) -> None:
        self._listener = listener

    def accept(self) -> tuple[Any, Any]:
        return southbound.accept(self._listener)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


def rest_server(keys: Keys) -> type:
    """The class that Ryu shall make its REST server of."""
    places = Places()

    class Server(hub.WSGIServer):  # type: ignore[misc]
        def __init__(self, application: Any, **config: Any) -> None:
            super().__init__((wsgi.CONF.wsapi_host, wsgi.CONF.wsapi_port), application, **config)

        def __call__(self) -> None:
            self.serve_forever()

        def serve_forever(self) -> None:
            eventlet.wsgi.server(
                _Listener(self.server),
                Turnstile(self.handle),
                _Log(),
                max_size=PLACES + 2 * GREETINGS,  # never reached: then nobody would be let in to be weighed
                protocol=functools.partial(Protocol, places, lambda: keys.context),
                keepalive=IDLE,
                socket_timeout=SILENCE,
                debug=False,
                log_x_forwarded_for=False,
            )

    return Server


def replace_servers(keys: Keys, door: southbound.Door) -> None:
    """From now on Ryu makes its servers of these classes."""
    wsgi.WSGIServer = rest_server(keys)
    controller.StreamServer = southbound.server(door)
