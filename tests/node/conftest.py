"""Two of the lab's hosts, and the channel to the hook on each. The tests run in the lab's network."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyroute2 import netns

from coat_ryu.remote import Remote
from coat_ryu.ssh import Login
from mininet_scenarios.lab import Lab

CONNECT_TIMEOUT = 60.0


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with Lab(Path(__file__).with_name("pair.yaml"), name="node-tests", controller=False) as lab:
        yield lab


@contextlib.contextmanager
def in_network(lab: Lab) -> Iterator[None]:
    """This thread, and those that it starts, are in the lab's network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    netns.setns(f"/proc/{lab.state.pid}/ns/net", flags=0)
    try:
        yield
    finally:
        netns.setns(home)
        os.close(home)


@pytest.fixture(autouse=True)
def network(lab: Lab) -> Iterator[None]:
    with in_network(lab):
        yield


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + CONNECT_TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def login(lab: Lab, host: str) -> Login:
    state = lab.state.hosts[host]
    return Login(state.address, state.ssh_port, "root", str(lab.folder / "id_ed25519"), str(lab.folder / "known_hosts"))


class Connection:
    """A remote whose comings and goings can be waited for."""

    def __init__(self, name: str, login: Login) -> None:
        self.up, self.down = threading.Event(), threading.Event()
        self.remote = Remote(name, login, self.up.set, self.down.set)

    def __enter__(self) -> Remote:
        self.remote.start()
        assert self.up.wait(CONNECT_TIMEOUT), self.remote.status()
        return self.remote

    def __exit__(self, *_: object) -> None:
        self.remote.close()


@pytest.fixture(scope="module")
def left(lab: Lab) -> Iterator[Remote]:
    with in_network(lab), Connection("left", login(lab, "left")) as remote:
        yield remote


@pytest.fixture(scope="module")
def right(lab: Lab) -> Iterator[Remote]:
    with in_network(lab), Connection("right", login(lab, "right")) as remote:
        yield remote
