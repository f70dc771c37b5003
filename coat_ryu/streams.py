"""Events over a WebSocket (RFC 6455), a JSON object a message."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from ryu.app.wsgi import _AlreadyHandledResponse
from ryu.lib import hub
from webob import Request

from coat_ryu.errors import InputError
from coat_ryu.feed import Event

FRAME_LIMIT = 4096
"""Bytes of a message from the client, who has nothing to say here."""


def is_upgrade(request: Request) -> bool:
    return str(request.headers.get("Upgrade", "")).lower() == "websocket"


def check_handshake(request: Request) -> None:
    """Raises InputError for an upgrade that is not RFC 6455's (section 4.2.1)."""
    headers = request.headers
    connection = [word.strip().lower() for word in str(headers.get("Connection", "")).split(",")]
    if "upgrade" not in connection or not headers.get("Sec-WebSocket-Key"):
        raise InputError("Upgrade: a WebSocket wants Connection: Upgrade and a Sec-WebSocket-Key besides")
    if headers.get("Sec-WebSocket-Version") != "13":
        raise InputError("Sec-WebSocket-Version: 13 is wanted")


def websocket(request: Request, events: Iterator[Event | None]) -> Any:
    """Takes the connection over until one of both sides ends it."""
    server = hub.WebSocketWSGI(lambda socket: _send_all(socket, events))
    server.max_frame_length = FRAME_LIMIT
    server(request.environ, request.start_response)
    return _AlreadyHandledResponse()


def _send_all(socket: Any, events: Iterator[Event | None]) -> None:
    ended = hub.Event()
    listener = hub.spawn(_listen, socket, ended)
    try:
        with contextlib.suppress(OSError):  # the client is gone, or has taken nothing for too long
            for event in events:
                if ended.is_set():
                    return
                if event is not None:
                    socket.send(json.dumps(event, default=str))
    finally:
        hub.kill(listener)
        events.close()  # type: ignore[attr-defined]


def _listen(socket: Any, ended: Any) -> None:
    """Reads, for only so a close is noticed."""
    while True:
        try:
            if socket.wait() is None:
                break
        except TimeoutError:
            continue
        except Exception:  # whatever it was: nobody speaks WebSocket there
            break
    ended.set()
