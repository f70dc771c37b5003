"""Connections that no checkpoint has, as the kernel tells of them: in a network of their own, with real sockets."""

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coat_ryu.node import netns
from coat_ryu.node.sockets import Sockets, Unsettled, stuck
from tests.switch.scene import eventually

OPEN = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"]


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A process in a network namespace with nothing but a loopback interface."""
    with subprocess.Popen(OPEN, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        yield Path(f"/proc/{process.pid}/ns/net")
        process.kill()


def unsettled(network: Path) -> Unsettled:
    looking = Sockets(network)
    try:
        return looking.unsettled()
    finally:
        looking.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connections_that_nobody_accepts_are_seen_until_somebody_does(elsewhere: Path, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.visiting(elsewhere), socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        assert not unsettled(elsewhere)
        with socket.create_connection((address, port)):
            assert unsettled(elsewhere) == Unsettled(unaccepted=(port,))
            assert stuck(elsewhere, 0.1) == [port]
            server.accept()[0].close()
            assert stuck(elsewhere, 0.1) == [] and not unsettled(elsewhere).unaccepted


def test_a_server_that_is_merely_busy_is_not_stuck(elsewhere: Path) -> None:
    over = threading.Event()
    with netns.visiting(elsewhere), socket.create_server(("127.0.0.1", 0)) as server:
        waiting = [socket.create_connection(server.getsockname()) for _ in range(3)]

        def turn_over() -> None:
            while not over.wait(0.005):  # one is accepted for each that comes: the queue is never empty
                with socket.create_connection(server.getsockname()):
                    server.accept()[0].close()

        busy = threading.Thread(target=_in_network, args=(elsewhere, turn_over))
        busy.start()
        try:
            assert unsettled(elsewhere).unaccepted
            assert stuck(elsewhere, 2.0) == []
            assert unsettled(elsewhere).unaccepted, "all the while some wait"
        finally:
            over.set()
            busy.join()
            for one in waiting:
                one.close()


def _in_network(network: Path, work: Callable[[], None]) -> None:
    with netns.visiting(network):
        work()


def test_a_closed_connection_is_seen_until_its_peer_is_given_up(elsewhere: Path) -> None:
    with (
        netns.visiting(elsewhere),
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        accepted = listener.accept()[0]
        subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
        accepted.sendall(b"the last word")
        accepted.close()
        assert unsettled(elsewhere).leaving == 1
        eventually(lambda: unsettled(elsewhere).leaving == 0, "who does not answer is not waited for")
