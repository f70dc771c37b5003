"""Why _compat.py restores ALREADY_HANDLED as an empty list: Ryu answers with it when a WebSocket closes."""

import base64
import os
import socket
import sys
import textwrap
import time
from pathlib import Path

from tests.install.manager import Manager, running

APP = """
    from ryu.app.wsgi import ControllerBase, Response, WSGIApplication, route, websocket
    from ryu.base import app_manager
    from ryu.controller import ofp_handler  # an app without event handlers ends at once


    class Echo(ControllerBase):
        @route("health", "/healthz", methods=["GET"])
        def health(self, request, **_):
            return Response(content_type="application/json", charset="UTF-8", text="{}")

        @websocket("echo", "/echo")
        def echo(self, channel):
            while (message := channel.wait()) is not None:
                channel.send(message)


    class App(app_manager.RyuApp):
        _CONTEXTS = {"wsgi": WSGIApplication}

        def __init__(self, *args, wsgi, **kwargs):
            super().__init__(*args, **kwargs)
            wsgi.register(Echo)
"""


def test_a_closed_websocket_is_no_error(tmp_path: Path) -> None:
    app = tmp_path / "echo_app.py"
    app.write_text(textwrap.dedent(APP))
    with running(Path(sys.prefix), str(app), tmp_path / "run") as manager:
        assert manager.get("/healthz") == (200, {})
        assert echo(manager, b"to and fro") == b"to and fro"
        log = log_once_it_has(manager, "GET /echo ")
    assert "Traceback" not in log
    assert " 500 " not in log


def echo(manager: Manager, text: bytes) -> bytes:
    """One message there and back over a WebSocket, closed properly (RFC 6455, sections 4.1 and 5.2)."""
    key = base64.b64encode(os.urandom(16)).decode()
    request = f"GET /echo HTTP/1.1\r\nHost: {manager.rest[0]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    request += f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    with socket.create_connection(manager.rest, timeout=20) as connection, connection.makefile("rb") as answers:
        connection.sendall(request.encode())
        assert b" 101 " in answers.readline()
        while answers.readline() != b"\r\n":
            pass
        connection.sendall(frame(0x1, text))
        _, length = answers.read(2)
        answer = answers.read(length)
        connection.sendall(frame(0x8, (1000).to_bytes(2, "big")))
        answers.read()
    return answer


def frame(opcode: int, payload: bytes) -> bytes:
    """A final, masked frame with a short payload; a mask of zeros is a mask."""
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


def log_once_it_has(manager: Manager, text: str, timeout: float = 20) -> str:
    deadline = time.monotonic() + timeout
    while text not in (log := manager.log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert text in log
    return log
