"""WSGI applications over HTTP on loopback: a real controller on nodes in memory, or answers that a test has written."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from webob import Request, Response

from coat_ryu import rest
from coat_ryu.control import Control
from coat_ryu.feed import Feed
from coat_ryu.metrics import Metrics
from coat_ryu.reload import Reload
from tests.unit.fakes import World
from tests.unit.migrating import TOPOLOGY, controller_with_web, health_of

Answer = tuple[int, Any]


class _Server(ThreadingMixIn, WSGIServer):
    """Its end waits for the requests that are being answered."""


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None: ...

    def handle(self) -> None:
        with suppress(ssl.SSLError):  # a client that does not trust us, or that we do not trust
            super().handle()

    def finish(self) -> None:
        with suppress(ssl.SSLError):
            super().finish()


@contextmanager
def served(answer: Callable[[Request], Response], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The URL at which ``answer`` answers."""

    def application(environ: dict[str, Any], start: Any) -> Any:
        return answer(Request(environ))(environ, start)

    with make_server("127.0.0.1", 0, application, _Server, _Quiet) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def controller(folder: Path) -> Iterator[tuple[str, World]]:
    """The URL of a controller with nodes a and b, and container web on a; and the world that its nodes are in."""
    made = controller_with_web(folder)
    control = Control(
        made.nodes,
        made.containers,
        made.fabric,  # type: ignore[arg-type]
        made.migrator,
        made.journal,
        Metrics(),
        Feed(),
        Reload(TOPOLOGY, None, [], made.containers.places, made.migrator.busy),
        health_of(made),
    )
    with served(lambda request: rest.dispatch(control, request)) as url:
        yield url, made.world
    made.journal.close()


@contextmanager
def scripted(answers: dict[str, Answer], asked: list[Request] | None = None) -> Iterator[str]:
    """A server that has these answers, ``"GET /path"`` to status and JSON or text, and no others."""

    def answer(request: Request) -> Response:
        if asked is not None:
            request.make_body_seekable()  # it can be read when the connection has gone, too
            asked.append(request)
        missing = {"cause": "no_such_path", "message": f"there is nothing at {request.path}", "response": 404}
        status, body = answers.get(f"{request.method} {request.path}", (404, missing))
        if isinstance(body, str):
            return Response(body, status=status, content_type="text/event-stream")
        return Response(json.dumps(body), status=status, content_type="application/json", charset="utf-8")

    with served(answer) as url:
        yield url
