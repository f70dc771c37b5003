"""When the source's pager lets go of CRIU's page server: to let go is to end the frozen processes."""

import socket
import ssl
import threading
import time
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
    status = 0

    def poll(self) -> int | None:
        return self.status if self.over else None


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
        self.far = context.wrap_socket(far, server_side=True, suppress_ragged_eofs=False)
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


def test_page_server_that_ends_by_itself_is_heard_to_its_last_word(source: Source) -> None:
    """CRIU tells it to end when it has all (PS_IOV_FORCE_CLOSE): it answers, and the runtime ends a moment later."""
    exchange(source)
    source.dump.over = True
    source.criu.sendall(b"so be it")
    source.criu.close()
    assert source.far.recv(100) == b"so be it"
    assert source.far.recv(100) == b"", "that was all, and no cut"


def test_dump_that_failed_is_no_end_of_its_pages(source: Source) -> None:
    exchange(source)
    source.dump.over, source.dump.status = True, 1
    source.criu.close()
    with pytest.raises(ssl.SSLEOFError):
        source.far.recv(100)


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


# ---- the destination


class Restore:
    """A restore that has succeeded, or not ended yet."""

    returncode: int | None = 0

    def poll(self) -> int | None:
        return self.returncode


class Destination:
    """A taker between the other node and CRIU's daemon, both played by the test."""

    def __init__(self, directory: Path) -> None:
        ours, theirs = one_time_pair("t")
        near, far = socket.socketpair()
        server, self.criu = socket.socketpair()
        self.criu.settimeout(PATIENCE)
        self.taker = object.__new__(pager.Taker)
        self.taker._status = pager.Status(directory, state="fetching")
        self.taker._status.told, self.taker._unwanted = True, False
        self.taker._patience, self.taker._order = time.monotonic() + 60, {"log": str(directory / "log"), "timeout": 60}
        (directory / "log").touch()
        self.restore = Restore()
        self.cut: pager.Cut | None = None

        def relay() -> None:
            context = tls_context(ssl.PROTOCOL_TLS_SERVER, theirs.as_args())
            with server, context.wrap_socket(near, server_side=True, suppress_ragged_eofs=False) as peer:
                try:
                    self.taker._relay(peer, server, self.restore)  # type: ignore[arg-type]
                except pager.Cut as cut:
                    self.cut = cut

        self.thread = threading.Thread(target=relay, daemon=True)
        self.thread.start()
        self.far = tls_context(ssl.PROTOCOL_TLS_CLIENT, ours.as_args()).wrap_socket(far)
        self.far.settimeout(PATIENCE)

    def over(self) -> pager.Cut | None:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self.cut


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[Destination]:
    made = Destination(tmp_path)
    yield made
    made.criu.close()
    made.thread.join(PATIENCE)


LAST_WORD = pager.LAST_WORDS[2]


@pytest.mark.parametrize("last_word", pager.LAST_WORDS)
def test_source_may_go_when_the_daemon_has_all(destination: Destination, last_word: bytes) -> None:
    """Whether it says so or is cut off: a busy machine's daemon ends later."""
    destination.criu.sendall(b"a request" + last_word)
    heard = b""
    while len(heard) < 9 + len(last_word):
        heard += destination.far.recv(100)
    assert heard == b"a request" + last_word
    destination.far.sendall(b"so be it")
    destination.far.shutdown(socket.SHUT_RDWR)
    assert destination.criu.recv(100) == b"so be it"
    assert destination.criu.recv(100) == b"", "the daemon is not kept waiting for more"
    assert destination.over() is None


@pytest.mark.parametrize("status", [0, 1])
def test_source_is_told_to_end_when_the_restore_has_succeeded(destination: Destination, status: int) -> None:
    """The daemon says that it wants nothing more also when its restore has failed; then the source is wanted back."""
    destination.taker._status.told, destination.restore.returncode = False, None
    destination.criu.sendall(LAST_WORD)
    destination.far.settimeout(0.5)
    with pytest.raises(TimeoutError):
        destination.far.recv(100)
    destination.restore.returncode = status
    destination.far.settimeout(PATIENCE)
    if status == 0:
        assert destination.far.recv(100) == LAST_WORD
        destination.criu.close()
        assert destination.over() is None
    else:
        assert "restore failed" in str(destination.over())


def test_source_that_is_cut_off_is_told_as_that(destination: Destination) -> None:
    destination.far.sendall(b"a page")
    assert destination.criu.recv(100) == b"a page"
    destination.far.shutdown(socket.SHUT_RDWR)
    assert destination.over() is not None


def test_daemon_that_has_ended_is_believed_before_a_source_that_is_cut_off(destination: Destination) -> None:
    """Both have ended when somebody looks; whether all is there, the daemon's exit status tells."""
    destination.criu.close()
    destination.far.shutdown(socket.SHUT_RDWR)
    assert destination.over() is None
