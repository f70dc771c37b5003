"""Who is let in at a port that is opened for one other node, and what strangers can do meanwhile."""

import contextlib
import fcntl
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coat_ryu.keys import one_time_pair
from coat_ryu.node import door, pager, podman, transfer
from coat_ryu.node.door import HANDSHAKES, KNOWN, Door, connect
from coat_ryu.node.failure import Failure
from coat_ryu.node.stream import tls_context

PATIENCE = 10.0
OURS, THEIRS = one_time_pair("t")
STRANGER = "127.0.0.2"


class Port:
    """A door on loopback for 127.0.0.1, which keeps whom it lets in."""

    def __init__(self) -> None:
        self.inside: list[ssl.SSLSocket] = []
        self.door = Door("127.0.0.1", "127.0.0.1", tls_context(ssl.PROTOCOL_TLS_SERVER, THEIRS.as_args()))
        self.door.open(self._take, "test")

    def _take(self, connection: ssl.SSLSocket) -> None:
        self.inside.append(connection)
        with connection, contextlib.suppress(OSError):
            connection.settimeout(PATIENCE)
            while data := connection.recv(100):
                connection.sendall(data)

    def plain(self, own: str = "127.0.0.1") -> socket.socket:
        return connect({"address": "127.0.0.1", "port": self.door.port, "own": own}, PATIENCE)

    def secured(self, own: str = "127.0.0.1") -> ssl.SSLSocket:
        return tls_context(ssl.PROTOCOL_TLS_CLIENT, OURS.as_args()).wrap_socket(self.plain(own))


@pytest.fixture
def port() -> Iterator[Port]:
    made = Port()
    yield made
    made.door.turn_out()


def is_heard(connection: ssl.SSLSocket) -> bool:
    connection.sendall(b"hello")
    return connection.recv(100) == b"hello"


def is_hung_up(connection: socket.socket) -> bool:
    connection.settimeout(PATIENCE)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def wait_until(condition: Callable[[], Any]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_the_peer_is_let_in(port: Port) -> None:
    with port.secured() as connection:
        assert is_heard(connection)


def test_a_stranger_from_elsewhere_is_hung_up_even_with_the_key(port: Port) -> None:
    with port.plain(STRANGER) as connection:
        assert is_hung_up(connection)
    with pytest.raises(OSError):
        port.secured(STRANGER)
    assert port.inside == []


def test_many_that_say_nothing_keep_no_peer_waiting(port: Port) -> None:
    threads = threading.active_count()
    with contextlib.ExitStack() as held:
        silent = [held.enter_context(port.plain()) for _ in range(HANDSHAKES * 4)]
        began = time.monotonic()
        with port.secured() as connection:
            assert is_heard(connection)
        assert time.monotonic() - began < door.HANDSHAKE_TIMEOUT / 2
        assert threading.active_count() <= threads + HANDSHAKES + 1
        assert is_hung_up(silent[0]), "the oldest has to go first"


def test_a_handshake_that_drips_ends_in_its_time(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HANDSHAKE_TIMEOUT", 0.5)
    with port.plain() as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00")  # a record of 512 bytes is announced
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < PATIENCE:
                connection.sendall(b"\x01")
                time.sleep(0.1)
        assert time.monotonic() - began < 3


def test_a_peer_has_a_bound_too(port: Port) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(KNOWN):
            assert is_heard(held.enter_context(port.secured()))
        assert is_hung_up(held.enter_context(port.secured()))


def test_who_is_inside_stays_when_the_door_closes_and_is_turned_out_when_asked(port: Port) -> None:
    with port.secured() as connection:
        assert is_heard(connection)
        port.door.close()
        assert is_heard(connection)
        wait_until(lambda: port.door.listener.fileno() == -1)
        with pytest.raises(OSError):
            port.plain()
        port.door.turn_out()
        assert is_hung_up(connection)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """No more than are open, until ``resource`` says otherwise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_lack_of_descriptors_closes_no_door(port: Port, few_descriptors: None) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as waiting:
        waiting.settimeout(PATIENCE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
        waiting.connect(("127.0.0.1", port.door.port))  # the kernel takes it; accept(2) cannot
        time.sleep(door.PAUSE * 3)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with port.secured() as connection:
        assert is_heard(connection)


@pytest.mark.parametrize(
    "to",
    [
        {},
        {"address": "127.0.0.1"},
        {"address": 1, "port": 2},
        {"address": "127.0.0.1", "port": 1, "own": 5},
        {"address": "localhost", "port": 1},
        {"address": "127.0.0.1", "port": 1, "own": "elsewhere"},
    ],
)
def test_a_place_that_is_none_is_refused(to: dict[str, Any]) -> None:
    with pytest.raises(Failure) as raised:
        connect(to, 1)
    assert raised.value.cause == "bad_args"


# ---- the receiving ends


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[transfer.Inbox]:
    monkeypatch.setattr(podman, "graph_root", lambda: tmp_path)
    context = tls_context(ssl.PROTOCOL_TLS_SERVER, THEIRS.as_args())
    made = transfer.Inbox("t", "127.0.0.1", context, "state", "127.0.0.1")
    yield made
    made.close()


STRANGERS = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
held = []
for _ in range(300):
    held.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5, source_address=(sys.argv[2], 0)))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("own", ["127.0.0.1", STRANGER])
def test_strangers_starve_no_hook(inbox: transfer.Inbox, few_descriptors: None, own: str) -> None:
    """Three hundred silent connections; commands are started and the sender delivers all the same."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, hard))
    argv = [sys.executable, "-c", STRANGERS, str(inbox.port), own]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as strangers:
        assert strangers.stdin is not None and strangers.stdout is not None
        assert strangers.stdout.readline() == b"held\n"
        subprocess.run(["true"], check=True)
        to = {"address": "127.0.0.1", "port": inbox.port, "own": "127.0.0.1"}
        with contextlib.closing(transfer._connect(to, OURS.as_args())) as sender:
            sender.write(bytes(10240))  # an archive with nothing in it
            sender.finish()
        assert inbox.wait(PATIENCE)["bytes"] == 10240
        strangers.stdin.close()


def test_the_pager_lets_in_the_source_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(pager, "_say", lambda **words: said.append(words))
    order = {"directory": str(tmp_path), "address": "127.0.0.1", "peer": "127.0.0.1", "tls": THEIRS.as_args()}
    taker = pager.Taker(order)
    hold, let_go = os.pipe()
    monkeypatch.setattr("sys.stdin", os.fdopen(hold))
    thread = threading.Thread(target=taker.run, daemon=True)
    thread.start()
    wait_until(lambda: said)
    to = {"address": "127.0.0.1", "port": said[0]["port"]}
    with connect({**to, "own": STRANGER}, PATIENCE) as stranger:
        assert is_hung_up(stranger)
    with connect({**to, "own": "127.0.0.1"}, PATIENCE) as plain:
        with tls_context(ssl.PROTOCOL_TLS_CLIENT, OURS.as_args()).wrap_socket(plain):
            wait_until(lambda: taker._arrived.is_set())
        with pytest.raises(OSError):
            connect({**to, "own": "127.0.0.1"}, PATIENCE).recv(1)
            raise OSError  # nobody takes it out of the queue of a door that is shut
    os.close(let_go)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    for peer in taker._peers:
        peer.close()


# ---- the source's end towards CRIU

RUNTIME = """
import os, socket, sys
argv = sys.argv
tell = int(argv[argv.index("--status-fd") + 1])
ps = socket.socket(fileno=int(open(argv[1]).read()))
listening = [line.split()[9] for line in open("/proc/self/net/tcp") if " 0A " in line]
mine = [os.readlink(path) for fd in range(3, 200) if os.path.exists(path := f"/proc/self/fd/{fd}")]
assert not any(f"socket:[{inode}]" in mine for inode in listening), "it listens"
os.write(tell, bytes(1))
data = ps.recv(100)
print("served", data, flush=True)
ps.sendall(b"page")
"""


@pytest.fixture
def giver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pager.Giver:
    """In this process, where a descriptor of any number may be in use, unlike in a pager's."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    free = fcntl.fcntl(0, fcntl.F_DUPFD, pager.PAGE_SOCKET)
    os.close(free)
    monkeypatch.setattr(pager, "PAGE_SOCKET", free)
    return pager.Giver({"argv": ["false"], "id": "x", "log": str(tmp_path / "log")})


def test_criu_is_handed_its_only_client(tmp_path: Path, giver: pager.Giver) -> None:
    """A runtime that serves pages on the descriptor that CRIU's configuration names, and on no port."""
    assert pager.PAGE_SOCKET_SETTING == "ps-socket=100"
    (tmp_path / "runtime.py").write_text(RUNTIME)
    (tmp_path / "number").write_text(str(pager.PAGE_SOCKET))
    giver._order["argv"] = [sys.executable, str(tmp_path / "runtime.py"), str(tmp_path / "number")]
    with giver._dump() as (dump, server):
        assert server is not None, (tmp_path / "log").read_text()
        assert not any("127.0.0.1" in word for word in Path(f"/proc/{dump.pid}/cmdline").read_text().split("\0"))
        server.sendall(b"request")
        assert server.recv(100) == b"page"
        assert dump.wait(PATIENCE) == 0
    assert "served b'request'" in (tmp_path / "log").read_text()


def test_a_runtime_that_ends_at_once_leaves_nothing_open(giver: pager.Giver) -> None:
    before = os.listdir("/proc/self/fd")
    with giver._dump() as (dump, server):
        assert server is None and dump.returncode == 1
    assert os.listdir("/proc/self/fd") == before


def test_a_descriptor_that_is_in_use_is_left_alone(giver: pager.Giver) -> None:
    os.dup2(0, pager.PAGE_SOCKET)
    try:
        before = os.fstat(pager.PAGE_SOCKET)
        with pytest.raises(OSError, match="in use"), giver._dump():
            pass
        assert os.fstat(pager.PAGE_SOCKET) == before
    finally:
        os.close(pager.PAGE_SOCKET)
