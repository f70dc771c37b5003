"""One private Open vSwitch for all switch tests; a bridge and a controller for each."""

import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mininet_scenarios.private_ovs import PrivateOvs
from tests.switch.controller import Controller
from tests.switch.scene import private_ovs


@pytest.fixture(scope="session")
def ovs() -> Iterator[PrivateOvs]:
    with private_ovs() as switch:
        yield switch


@pytest.fixture
def openflow_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def controller(openflow_port: int) -> Iterator[Callable[..., Controller]]:
    """Starts a controller on the test's OpenFlow port; a second call is another process on the same port."""
    started: list[Controller] = []
    directory = Path(tempfile.mkdtemp(prefix="coat-ctl-"))

    def start(*args: Any, **kwargs: Any) -> Controller:
        started.append(Controller(directory, openflow_port, *args, **kwargs).start())
        return started[-1]

    yield start
    for one in started:
        one.kill()
    print((directory / "controller.log").read_text())
    shutil.rmtree(directory)
