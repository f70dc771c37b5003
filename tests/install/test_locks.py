"""The controller as it really runs, before strangers: TLS, tokens, slow and large bodies, events, a new topology."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coat_ryu import handlers
from coat_ryu.listen import LINGER
from coat_ryu.places import PLACES, SHARE
from tests.install.certificates import authority, certificate, revoke
from tests.install.manager import Manager, free_port, running
from tests.install.test_websocket import frame, log_once_it_has
from tests.switch.rogue import is_closed, rogue

ENVIRONMENT = Path(sys.prefix)
SECRET = "5e" * 32
OPEN_TLS = ("--ctl-cert", "{place}/server.pem", "--ctl-privkey", "{place}/server.key")
LOCKS = Path(__file__).parents[2] / "docs/locks.md"
TOPOLOGY = """
networks: [{name: apps, vni: 42, subnet: 192.168.50.0/24}]
nodes: [{name: a, address: 192.0.2.2, ssh: {host: 127.0.0.2, port: %d}}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A topology whose one node never answers, tokens, and certificates."""
    directory = tmp_path_factory.mktemp("locks")
    (directory / "topology.yaml").write_text(TOPOLOGY % free_port())
    tokens = directory / "tokens"
    lines = [
        f"{role}er {role} sha256:{hashlib.sha256((SECRET + role).encode()).hexdigest()}" for role in ("read", "admin")
    ]
    tokens.write_text("\n".join(lines) + "\n")
    tokens.chmod(0o600)
    for name in ("ca", "stranger"):
        authority(directory, name)
    for name, ca in (("server", "ca"), ("client", "ca"), ("mallory", "stranger")):
        certificate(directory, name, ca)
    certificate(directory, "edge1", usage="clientAuth")
    certificate(directory, "posing", names=("client",), usage="serverAuth")
    return directory


@pytest.fixture(scope="module")
def open_one(place: Path) -> Iterator[Manager]:
    """On loopback, open to everybody on this machine, with log lines in JSON."""
    options = f"topology = {place}/topology.yaml\nlog_format = json\nrequests_per_second = 0\ntrust_loopback = true"
    with running(ENVIRONMENT, "coat_ryu.app", place / "open", options) as manager:
        assert manager.get("/openapi.json")[0] == 200
        yield manager


@pytest.fixture(scope="module")
def locked(place: Path) -> Iterator[Manager]:
    """TLS with client certificates, and tokens."""
    options = f"tokens = {place}/tokens\ntls_cert = {place}/server.pem\ntls_key = {place}/server.key\n"
    options += f"tls_client_ca = {place}/ca.pem\nrequests_per_second = 20"
    with running(ENVIRONMENT, "coat_ryu.app", place / "locked", options) as manager:
        wait_for(lambda: "wsgi starting up" in manager.log.read_text())
        yield manager


def wait_for(condition: Callable[[], Any], timeout: float = 30.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def secure(place: Path, client: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(place / "ca.pem"))
    if client:
        context.load_cert_chain(place / f"{client}.pem", place / f"{client}.key")
    return context


def ask(
    manager: Manager,
    path: str,
    context: ssl.SSLContext | None = None,
    method: str = "GET",
    body: bytes | None = None,
    **headers: str,
) -> tuple[int, Any, dict[str, str]]:
    host, port = manager.rest
    connection = http.client.HTTPConnection(host, port, timeout=60)
    if context is not None:
        connection = http.client.HTTPSConnection(host, port, timeout=60, context=context)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None, dict(answer.getheaders())


# ---- locks


NOBODY = 65534


def test_by_default_only_who_may_read_its_token_is_let_in(tmp_path: Path) -> None:
    """Root here; anybody else on the machine, and whoever makes a server here ask loopback, gets no further."""
    with running(ENVIRONMENT, "coat_ryu.app", tmp_path / "run") as manager:
        manager.get("/healthz")
        status, answer, _ = ask(manager, "/v1.0/containers", None, "POST", b"{}")
        assert (status, answer["cause"]) == (401, "unauthorized")
        program = (
            "import encodings.idna, os, sys; from coat_ryu.cli import main; os.setuid(int(sys.argv.pop(1))); main()"
        )
        url = f"http://{manager.rest[0]}:{manager.rest[1]}"
        coat = [sys.executable, "-c", program]
        for user, code in ((os.geteuid(), 0), (NOBODY, 5)):
            command = [*coat, str(user), "--url", url, "containers"]
            found = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert found.returncode == code, found.stderr
        assert (tmp_path / "run/journal.token").read_text().strip() not in manager.log.read_text()


@pytest.mark.parametrize("client", [None, "mallory"])
def test_without_a_certificate_of_ours_nobody_gets_as_far_as_http(locked: Manager, place: Path, client: str) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        ask(locked, "/v1.0/nodes", secure(place, client))


def test_plain_http_gets_nothing(locked: Manager) -> None:
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(locked, "/v1.0/nodes")


@pytest.mark.parametrize(
    ("token", "method", "status", "cause"),
    [
        ("", "GET", 401, "unauthorized"),
        (f"Bearer {SECRET}x", "GET", 401, "unauthorized"),
        (f"Bearer {SECRET}read", "GET", 200, None),
        (f"Bearer {SECRET}read", "POST", 403, "forbidden"),
        (f"Bearer {SECRET}admin", "POST", 400, "bad_json"),
    ],
)
def test_with_a_certificate_the_token_decides(
    locked: Manager, place: Path, token: str, method: str, status: int, cause: str | None
) -> None:
    headers = {"Authorization": token} if token else {}
    found = ask(locked, "/v1.0/containers", secure(place, "client"), method, None, **headers)
    assert found[0] == status, found
    assert cause is None or found[1]["cause"] == cause


def test_the_log_says_whose_token_and_certificate_changed_something(locked: Manager, place: Path) -> None:
    ask(locked, "/v1.0/cleanup", secure(place, "client"), "POST", b"{}", Authorization=f"Bearer {SECRET}admin")
    said = "token adminer, certificate client: POST /v1.0/cleanup: 200"
    assert wait_for(lambda: said in locked.log.read_text())


def test_a_silent_handshake_keeps_nobody_waiting(locked: Manager, place: Path) -> None:
    with socket.create_connection(locked.rest):
        assert ask(locked, "/openapi.json", secure(place, "client"))[0] == 200


def test_who_asks_too_often_is_told_to_wait(locked: Manager, place: Path) -> None:
    context = secure(place, "client")
    connection = http.client.HTTPSConnection(*locked.rest, timeout=60, context=context)
    statuses = set()
    with contextlib.closing(connection):
        for _ in range(120):
            connection.request("GET", "/v1.0/bindings", headers={"Authorization": f"Bearer {SECRET}read"})
            answer = connection.getresponse()
            answer.read()
            statuses.add(answer.status)
            if answer.status == 429:
                assert int(answer.headers["Retry-After"]) >= 1
    assert statuses == {200, 429}
    assert ask(locked, "/openapi.json", context, Authorization=f"Bearer {SECRET}admin")[0] == 200


def test_no_secret_is_in_the_log(locked: Manager) -> None:
    text = locked.log.read_text()
    assert "GET /v1.0/containers" in text
    assert SECRET not in text and "Traceback" not in text


@pytest.mark.parametrize(
    ("options", "arguments", "said"),
    [
        ("", ("--wsapi-host", "0.0.0.0"), "REST would listen on 0.0.0.0 for everybody"),
        ("tokens = {place}/nothing", (), "cannot be read"),
        ("tokens = {place}/loose", (), "others can read it; chmod 600"),
        ("", ("--ofp-listen-host", "0.0.0.0"), "OpenFlow would listen on 0.0.0.0"),
        ("", ("--ofp-listen-host", ""), "OpenFlow would listen on every address"),
        ("", ("--ofp-switch-address-list", "127.0.0.9:6653"), "OpenFlow would connect to switches in clear"),
        ("", (*OPEN_TLS, "--ofp-listen-host", "0.0.0.0"), "OpenFlow would listen on 0.0.0.0"),
        ("", OPEN_TLS[:2], "--ctl-cert and --ctl-privkey belong together"),
        ("openflow_crl = {place}/ca.pem", (*OPEN_TLS, "--ca-certs", "{place}/ca.pem"), "no list of revoked"),
        (
            "tls_cert = {place}/server.pem\ntls_key = {place}/server.key\ntls_client_ca = {place}/ca.pem",
            (),
            "say whose certificates may do what",
        ),
        ("tls_cert = {place}/server.pem", (), "belong together"),
        ("tls_cert = {place}/server.pem\ntls_key = {place}/client.key", (), "cannot be used"),
    ],
)
def test_a_door_that_does_not_lock_keeps_it_from_starting(
    place: Path, tmp_path: Path, options: str, arguments: tuple[str, ...], said: str
) -> None:
    (place / "loose").write_text("x")
    (place / "loose").chmod(0o644)
    arguments = tuple(argument.format(place=place) for argument in arguments)
    with running(ENVIRONMENT, "coat_ryu.app", tmp_path, options.format(place=place), *arguments) as manager:
        assert manager.process.wait(60) != 0
    text = manager.log.read_text()
    assert f"coat_ryu: {text.partition('coat_ryu: ')[2]}" in text and said in text
    assert "Traceback" not in text


# ---- what comes in


def raw(manager: Manager, *parts: bytes, pause: float = 0.0, timeout: float = 60.0) -> bytes:
    with socket.create_connection(manager.rest, timeout=timeout) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        with contextlib.suppress(ConnectionResetError):
            answer = b""
            while data := connection.recv(1 << 16):
                answer += data
        return answer


BAD_LENGTHS = (b"", b"-1", b"+2", b"2_0", b"two", b"0x2", b"2, 2")
TWO_MEANINGS = (
    b"Content-Length : 2",
    b"nonsense",
    b": x",
    b"X: a\rContent-Length: 2",
    b"X: a\r\n b",
    b"X\0: a",
    b"X: \x1b",
)
"""Lines that a relay in front of us may understand in another way than we do."""
HEAD = b"POST /migrate HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"


def test_a_slow_body_is_given_up(open_one: Manager) -> None:
    began = time.monotonic()
    answer = raw(open_one, HEAD + b"Content-Length: 100\r\n\r\n{", timeout=handlers.BODY_PATIENCE + 30)
    assert b" 408 " in answer.partition(b"\r\n")[0] and b'"slow_body"' in answer
    assert time.monotonic() - began < handlers.BODY_PATIENCE + 15


@pytest.mark.parametrize(
    ("request_", "status", "cause"),
    [
        (HEAD + b"Content-Length: 99999999999\r\n\r\n{", b" 413 ", b"body_too_large"),
        (HEAD + b"Content-Length: 1048577\r\n\r\n" + b" " * 1048577, b" 413 ", b"body_too_large"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b" 400 ", b"length_required"),
        (b"nonsense\r\n\r\n", b" 400 ", b"bad_request"),
        *((HEAD + b"Content-Length: %s\r\n\r\n" % length, b" 400 ", b"one whole number") for length in BAD_LENGTHS),
        (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", b" 400 ", b"one whole number"),
        (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", b" 400 ", b"not allowed together"),
        *((HEAD + line + b"\r\n\r\n", b" 400 ", b"header line") for line in TWO_MEANINGS),
        (HEAD + b"Host: evil.example\r\n\r\n", b" 400 ", b"Host: one is wanted"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b" 400 ", b"Host: one is wanted"),
        (b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b" 400 ", b"begins with /"),
        *(
            (HEAD + b"Transfer-Encoding: %s\r\n\r\n" % one, b" 400 ", b"length_required")
            for one in (b"x", b"gzip, chunked")
        ),
        (HEAD + b"\r\n", b" 400 ", b"length_required"),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", b" 414 ", b"uri_too_long"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b" 431 ", b"headers_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", b" 431 ", b"headers_too_large"),
        (b"GET / HTTP/9.9\r\n\r\n", b" 505 ", b"bad_request"),
        (
            b"GET /v1.0/contain\xc3ers HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            b" 404 ",
            b"no_such_path",
        ),
        (b"GET /v1.0/nodes HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", b" 403 ", b"foreign_host"),
    ],
)
def test_what_cannot_be_is_refused_in_the_api_s_shape(
    open_one: Manager, request_: bytes, status: bytes, cause: bytes
) -> None:
    answer = raw(open_one, request_)
    assert status in answer.partition(b"\r\n")[0], answer
    assert cause in answer and b"Traceback" not in answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head.lower() and set(json.loads(body)) == {"cause", "message", "response"}


def test_a_crowd_that_says_nothing_shuts_nobody_out(open_one: Manager) -> None:
    """Answered and idle, or with half of a request: they are of one address, and the newest wins."""
    with contextlib.ExitStack() as crowd:
        for number in range(PLACES + 20):
            guest = crowd.enter_context(socket.create_connection(open_one.rest, timeout=10))
            guest.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"\r\n" * (number % 2))
            if number % 2:
                guest.recv(1 << 16)
        began = time.monotonic()
        assert ask(open_one, "/v1.0/bindings")[0] == 200
        assert time.monotonic() - began < 5
    assert b"Traceback" not in open_one.log.read_bytes()


def test_bodies_that_nobody_wanted_and_never_end_shut_nobody_out(open_one: Manager) -> None:
    with contextlib.ExitStack() as crowd:
        guests = [crowd.enter_context(socket.create_connection(open_one.rest, timeout=10)) for _ in range(SHARE)]
        for guest in guests:
            guest.sendall(b"DELETE /v1.0/nodes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 60000\r\n\r\nx")
            assert guest.recv(1 << 16).startswith(b"HTTP/1.1 405 ")
        assert ask(open_one, "/v1.0/bindings")[0] == 200


@pytest.mark.parametrize("length", [b"Content-Length: 99999999999999", b"Transfer-Encoding: chunked"])
def test_a_body_without_an_end_holds_nobody_up(open_one: Manager, length: bytes) -> None:
    def send(guest: socket.socket) -> None:
        with contextlib.suppress(OSError):
            guest.sendall(b"DELETE /v1.0/nodes HTTP/1.1\r\nHost: 127.0.0.1\r\n" + length + b"\r\n\r\n")
            while True:
                guest.sendall(b"1\r\nx\r\n" * 10_000)

    with socket.create_connection(open_one.rest, timeout=10) as guest:
        sender = threading.Thread(target=send, args=(guest,))
        sender.start()
        sender.join(LINGER + 10)
        assert not sender.is_alive()
    began = time.monotonic()
    assert ask(open_one, "/v1.0/bindings")[0] == 200
    assert time.monotonic() - began < 5


def test_handshakes_that_never_end_shut_nobody_out(locked: Manager, place: Path) -> None:
    with contextlib.ExitStack() as crowd:
        for _ in range(PLACES + 20):
            crowd.enter_context(socket.create_connection(locked.rest, timeout=10))
        assert ask(locked, "/openapi.json", secure(place, "client"))[0] == 200
    assert b"Traceback" not in locked.log.read_bytes()


# ---- events


def test_events_come_to_curl(open_one: Manager) -> None:
    """The node that never answers is told of by nobody, so a topology that changes has to do."""
    with socket.create_connection(open_one.rest, timeout=30) as connection, connection.makefile("rb") as lines:
        connection.sendall(b"GET /v1.0/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b" 200 " in lines.readline()
        while not lines.readline().startswith(b": here they come"):
            pass
        remove_and_add(open_one)
        while not (line := lines.readline()).startswith(b"data: "):
            pass
        event = json.loads(line[6:])
    assert (event["kind"], event["node"], event["removed"]) == ("node", "b", True)


def test_events_come_over_a_websocket_and_can_be_taken_up_again(open_one: Manager) -> None:
    since = 0
    for turn in range(2):
        with websocket(open_one, f"/v1.0/events?since={since}" if turn else "/v1.0/events") as answers:
            if not turn:
                remove_and_add(open_one)
            number = json.loads(message(answers))["number"]
        assert not turn or number == since + 1
        since = number - 1


def test_an_event_that_is_no_longer_there_is_gone(open_one: Manager) -> None:
    status, answer, _ = ask(open_one, "/v1.0/events?since=1")
    assert (status, answer["cause"]) == (410, "events_gone")


def remove_and_add(manager: Manager) -> None:
    """A node comes and goes."""
    text = ask_topology_text(manager)
    more = text.replace("nodes: [", "nodes: [{name: b, address: 192.0.2.3, ssh: {host: 127.0.0.3, port: 1}}, ")
    for body in (more, text):
        assert ask(manager, "/v1.0/topology", None, "PUT", body.encode())[0] == 200


def ask_topology_text(manager: Manager) -> str:
    return (manager.log.parent.parent / "topology.yaml").read_text()


@contextlib.contextmanager
def websocket(manager: Manager, path: str) -> Iterator[Any]:
    key = base64.b64encode(os.urandom(16)).decode()
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    request += f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    with socket.create_connection(manager.rest, timeout=30) as connection, connection.makefile("rb") as answers:
        connection.sendall(request.encode())
        assert b" 101 " in answers.readline()
        while answers.readline() != b"\r\n":
            pass
        yield answers
        connection.sendall(frame(0x8, (1000).to_bytes(2, "big")))


def message(answers: Any) -> bytes:
    _, length = answers.read(2)
    if length == 126:
        (length,) = struct.unpack("!H", answers.read(2))
    text: bytes = answers.read(length)
    return text


# ---- a topology that changes


def test_after_sighup_a_connection_of_before_has_to_come_in_anew(locked: Manager, place: Path) -> None:
    """Its certificate may be one that counts no more."""
    connection = http.client.HTTPSConnection(*locked.rest, timeout=30, context=secure(place, "client"))
    with contextlib.closing(connection):
        connection.request("GET", "/openapi.json")
        connection.getresponse().read()
        before = locked.log.read_text().count("topology was not changed")
        locked.process.send_signal(signal.SIGHUP)
        wait_for(lambda: locked.log.read_text().count("topology was not changed") > before)
        time.sleep(0.2)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            connection.request("GET", "/openapi.json")
            connection.getresponse()
    assert ask(locked, "/openapi.json", secure(place, "client"))[0] == 200


def test_sighup_ends_what_follows_with_a_token_that_is_gone(place: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text((place / "tokens").read_text())
    tokens.chmod(0o600)
    request = f"GET /v1.0/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {SECRET}read\r\n\r\n"
    with running(ENVIRONMENT, "coat_ryu.app", tmp_path / "run", f"tokens = {tokens}") as manager:
        manager.get("/healthz")
        with socket.create_connection(manager.rest, timeout=30) as connection, connection.makefile("rb") as lines:
            connection.sendall(request.encode())
            while not lines.readline().startswith(b": here they come"):
                pass
            tokens.write_text("".join(line for line in (place / "tokens").open() if " read " not in line))
            began = time.monotonic()
            manager.process.send_signal(signal.SIGHUP)
            lines.read()
            assert time.monotonic() - began < 5


def test_sighup_reads_the_topology_and_keeps_the_last_good_one(open_one: Manager, place: Path) -> None:
    path = place / "topology.yaml"
    good = path.read_text()
    try:
        path.write_text("nodes: [")
        open_one.process.send_signal(signal.SIGHUP)
        log_once_it_has(open_one, "the last good one stays")
        assert b"coat_topology_reload_failed 1.0" in raw(
            open_one, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        )
        assert list(ask(open_one, "/v1.0/topology")[1]["nodes"]) == ["a"]
        path.write_text(good.replace("name: apps", "name: other"))
        open_one.process.send_signal(signal.SIGHUP)
        wait_for(lambda: ask(open_one, "/v1.0/topology")[1]["networks"][0]["name"] == "other")
    finally:
        path.write_text(good)
        open_one.process.send_signal(signal.SIGHUP)
        wait_for(lambda: ask(open_one, "/v1.0/topology")[1]["networks"][0]["name"] == "apps")


def test_a_topology_is_replaced_only_as_it_was_seen(open_one: Manager) -> None:
    seen = ask(open_one, "/v1.0/topology")[2]["Etag"]
    remove_and_add(open_one)  # ends as it began
    same = ask_topology_text(open_one).encode()
    assert ask(open_one, "/v1.0/topology", None, "PUT", same, **{"If-Match": seen})[0] == 200
    changed = same.replace(b"192.168.50.0", b"192.168.60.0")
    assert ask(open_one, "/v1.0/topology", None, "PUT", changed, **{"If-Match": seen})[0] == 200
    status, answer, _ = ask(open_one, "/v1.0/topology", None, "PUT", same, **{"If-Match": seen})
    assert (status, answer["cause"]) == (412, "precondition_failed")
    assert ask(open_one, "/v1.0/topology", None, "PUT", same)[0] == 200


def test_log_lines_are_json(open_one: Manager) -> None:
    lines = [line for line in open_one.log.read_text().splitlines() if line.startswith("{")]
    assert lines
    assert all({"at", "level", "logger", "message"} <= json.loads(line).keys() for line in lines)
    assert "Traceback" not in open_one.log.read_text()


# ---- OpenFlow


def greeting(place: Path, client: str, port: int) -> tuple[int, int]:
    return hello(secure(place, client), port)


def hello(context: ssl.SSLContext, port: int) -> tuple[int, int]:
    """Version and type of the first message."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    with context.wrap_socket(plain, server_hostname="localhost") as switch:
        said = switch.recv(8)
        if not said:
            raise ConnectionResetError
        return said[0], said[1]


def test_openflow_over_tls_takes_our_switches_and_more_than_one(place: Path, tmp_path: Path) -> None:
    """The greeting of OpenFlow 1.3 (type 0) comes to each of two connections, and to no stranger."""
    port = free_port()
    arguments = ["--ctl-privkey", str(place / "server.key"), "--ctl-cert", str(place / "server.pem")]
    arguments += ["--ca-certs", str(place / "ca.pem"), "--ofp-ssl-listen-port", str(port)]
    with running(ENVIRONMENT, "coat_ryu.app", tmp_path, "", *arguments) as manager:
        manager.get("/openapi.json")
        for _ in range(2):
            assert greeting(place, "client", port) == (4, 0)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            greeting(place, "mallory", port)
    assert "Traceback" not in manager.log.read_text()


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands of docs/locks.md make, for a controller on loopback."""
    directory = tmp_path_factory.mktemp("documented")
    blocks = re.findall(r"^```sh\n(.*?)^```$", LOCKS.read_text(), re.MULTILINE | re.DOTALL)
    script = "".join(block for block in blocks if "openssl req" in block or "openssl ca" in block)
    script = script.replace("192.0.2.1", "127.0.0.1")
    script += "authority rest-ca -gencrl -crldays 365 -out rest-ca.crl\n"
    subprocess.run(["bash", "-euc", script], cwd=directory, check=True, capture_output=True, timeout=120)
    return directory


def at(documented: Path, client: str, ca: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(documented / f"{ca}.pem"))
    context.load_cert_chain(documented / f"{client}.pem", documented / f"{client}.key")
    context.check_hostname = False
    return context


def test_the_documents_certificates_open_their_own_door_alone(documented: Path, tmp_path: Path) -> None:
    """An operator's opens REST, a node's OpenFlow, a revoked one and one of the other authority nothing."""
    server, port = documented / "controller.example.net", free_port()
    options = f"tls_cert = {server}.pem\ntls_key = {server}.key\ntls_client_ca = {documented}/rest-ca.pem\n"
    options += f"tls_clients = alice:admin, bob:read\ntls_crl = {documented}/rest-ca.crl\n"
    options += f"openflow_crl = {documented}/openflow-ca.crl"
    arguments = ["--ctl-privkey", f"{documented}/openflow.key", "--ctl-cert", f"{documented}/openflow.pem"]
    arguments += ["--ca-certs", f"{documented}/openflow-ca.pem", "--ofp-ssl-listen-port", str(port)]
    closed = (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)
    with running(ENVIRONMENT, "coat_ryu.app", tmp_path, options, *arguments) as manager:
        wait_for(lambda: "wsgi starting up" in manager.log.read_text(), 120)
        assert ask(manager, "/v1.0/nodes", at(documented, "alice", "rest-ca"))[0] == 200
        with pytest.raises(closed):
            ask(manager, "/v1.0/nodes", at(documented, "edge1", "rest-ca"))
        assert hello(at(documented, "edge1", "openflow-ca"), port) == (4, 0)
        for client in ("alice", "device"):
            with pytest.raises(closed):
                hello(at(documented, client, "openflow-ca"), port)
    assert "Traceback" not in manager.log.read_text()


def test_a_switch_whose_certificate_is_revoked_is_hung_up_on(place: Path, tmp_path: Path) -> None:
    certificate(place, "leaver", usage="clientAuth")
    revoke(place)
    port = free_port()
    arguments = ["--ctl-privkey", f"{place}/server.key", "--ctl-cert", f"{place}/server.pem"]
    arguments += ["--ca-certs", f"{place}/ca.pem", "--ofp-ssl-listen-port", str(port)]
    with running(ENVIRONMENT, "coat_ryu.app", tmp_path, f"openflow_crl = {place}/ca.crl", *arguments) as manager:
        manager.get("/openapi.json")
        with (
            rogue(port, 0xDEAD, secure(place, "leaver")) as leaver,
            rogue(port, 0xBEEF, secure(place, "edge1")) as other,
        ):
            assert not is_closed(leaver, 0.5)
            revoke(place, "leaver")
            manager.process.send_signal(signal.SIGHUP)
            assert is_closed(leaver, 8) and not is_closed(other, 0.5)
    assert "its certificate was revoked" in manager.log.read_text()


def test_with_one_authority_names_and_usages_still_keep_the_doors_apart(place: Path, tmp_path: Path) -> None:
    options = f"tls_cert = {place}/server.pem\ntls_key = {place}/server.key\ntls_client_ca = {place}/ca.pem\n"
    with running(ENVIRONMENT, "coat_ryu.app", tmp_path, options + "tls_clients = client:read") as manager:
        wait_for(lambda: "wsgi starting up" in manager.log.read_text(), 120)
        assert ask(manager, "/v1.0/nodes", secure(place, "client"))[0] == 200
        assert ask(manager, "/v1.0/containers", secure(place, "client"), "POST")[1]["cause"] == "forbidden"
        status, answer, _ = ask(manager, "/healthz", secure(place, "edge1"))
        assert (status, answer["cause"]) == (403, "unknown_certificate")
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            ask(manager, "/healthz", secure(place, "posing"))
        certificate(place, "server")  # renewed: what was handed out before is not shown any more
        manager.process.send_signal(signal.SIGHUP)
        wait_for(lambda: shown(manager) == (place / "server.pem").read_text().split(), 30)


def shown(manager: Manager) -> list[str]:
    """The certificate that REST shows, word by word."""
    return ssl.get_server_certificate(manager.rest).split()


def test_the_forced_command_takes_nothing_but_our_hook(tmp_path: Path) -> None:
    """What stands in authorized_keys, without an sshd around it."""
    program = tmp_path / "coat-hook"
    module = [sys.executable, "-m", "coat_ryu.shipment"]
    program.write_bytes(subprocess.run(module, capture_output=True, check=True, timeout=60).stdout)
    other = json.dumps({"sha256": hashlib.sha256(b"evil").hexdigest(), "size": 4}).encode() + b"\nevil"
    done = subprocess.run([sys.executable, "-I", program], input=other, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout.startswith(b"this node takes the hook ")
