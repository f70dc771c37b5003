"""Events over a WebSocket (RFC 6455), a JSON object a message."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from ryu.app.wsgi import _AlreadyHandledResponse
from ryu.lib import hub
from webob import Request

from coat_ryu.feed import Event

FRAME_LIMIT = 4096
"""Bytes of a message from the client, who has nothing to say here."""


def is_upgrade(request: Request) -> bool:
    return str(request.headers.get("Upgrade", "")).lower() == "websocket"


def websocket(request: Request, events: Iterator[Event | None]) -> Any:
    """Takes the connection over until one of both sides ends it."""
    server = hub.WebSocketWSGI(lambda socket: _send_all(socket, events))
    server.max_frame_length = FRAME_LIMIT
    refused = server(request.environ, request.start_response)
    if refused:  # a handshake that is none; it has been answered
        return lambda environ, start_response: refused
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
