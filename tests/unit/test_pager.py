"""When the source's pager lets go of CRIU's page server: to let go is to end the frozen processes."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coat_ryu.keys import one_time_pair
from coat_ryu.node import pager
from coat_ryu.node.stream import tls_context

PATIENCE = 5.0


class Dump:
    """The runtime's checkpoint, which lives as long as its page server has somebody to serve."""

    over = False

    def poll(self) -> int | None:
        return 0 if self.over else None


class Source:
    """A giver between a page server and the other node, both played by the test."""

    def __init__(self, directory: Path) -> None:
        ours, theirs = one_time_pair("t")
        near, far = socket.socketpair()
        server, self.criu = socket.socketpair()
        self.criu.settimeout(PATIENCE)
        self.dump = Dump()
        self.giver = pager.Giver({})
        self.status = pager.Status(directory, state="giving")

        def give() -> None:
            context = tls_context(ssl.PROTOCOL_TLS_CLIENT, ours.as_args())
            with server, context.wrap_socket(near, suppress_ragged_eofs=False) as peer:
                self.giver._give(peer, server, self.dump, self.status)  # type: ignore[arg-type]

        self.thread = threading.Thread(target=give, daemon=True)
        self.thread.start()
        context = tls_context(ssl.PROTOCOL_TLS_SERVER, theirs.as_args())
        self.far = context.wrap_socket(far, server_side=True)
        self.far.settimeout(PATIENCE)

    def close(self) -> None:
        self.dump.over = True
        self.thread.join(PATIENCE)
        self.criu.close()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # a signal's handler is the whole process's
    made = Source(tmp_path)
    yield made
    made.close()


def exchange(source: Source) -> None:
    source.far.sendall(b"request")
    assert source.criu.recv(100) == b"request"
    source.criu.sendall(b"page")
    assert source.far.recv(100) == b"page"


def is_held(criu: Any) -> bool:
    """Whether nobody has let go of it."""
    criu.settimeout(0.5)
    try:
        return bool(criu.recv(100))
    except TimeoutError:
        return True


def test_when_all_is_said_the_page_server_may_end(source: Source) -> None:
    exchange(source)
    source.far.unwrap()
    assert source.criu.recv(100) == b""


def test_what_is_wanted_back_is_taken_back_with_nonsense(source: Source) -> None:
    exchange(source)
    source.giver._want_back()
    assert source.criu.recv(100) == pager.NONSENSE
    source.thread.join(PATIENCE)
    assert not source.thread.is_alive()


def test_a_peer_that_is_cut_off_leaves_the_frozen_processes_alive_and_they_can_be_taken_back(source: Source) -> None:
    exchange(source)
    source.far.shutdown(socket.SHUT_RDWR)  # TCP's end, and no close_notify before it
    assert is_held(source.criu)
    source.giver._want_back()
    source.criu.settimeout(PATIENCE)
    assert source.criu.recv(100) == pager.NONSENSE
