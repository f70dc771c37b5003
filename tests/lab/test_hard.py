"""What is hard to move moves whole: many connections, much memory that changes, files, children, half-done talk.

``mininet_scenarios/burden.py`` is the container's program and its client.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mininet_scenarios import burden
from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from tests.lab.helpers import MODES, wait_for

PROGRAM = ["python3", "-c", Path(burden.__file__).read_text()]
NAME = "burden"


class Pair:
    """The container and its client, which runs in the network of a container on the device."""

    def __init__(self, lab: Lab, controller: Controller, address: str) -> None:
        self._controller = controller
        argv = ["nsenter", "--net=/run/netns/coat-burden-client", *PROGRAM, "drive", address]
        pipe = subprocess.PIPE
        self.process = lab.popen("device", argv, stdin=pipe, stdout=pipe, text=True)
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return str(self.process.stdout.readline()).strip()

    def do(self, what: str, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(json.dumps({"do": what, **arguments}), file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def migrate(self, mode: str = "prepared") -> dict[str, Any]:
        to = "edge2" if self._controller.where(NAME) == "edge1" else "edge1"
        record: dict[str, Any] = self._controller.migrate(NAME, to, mode=mode)
        assert record["state"] == "succeeded", record["error"]
        return record


@pytest.fixture
def pair(lab: Lab, controller: Controller, made: Any) -> Iterator[Pair]:
    server = made(NAME, "edge1", "python", *PROGRAM, "serve")
    made("burden-client", "device", "python", "sleep", "infinity")
    listens = ["nsenter", f"--net=/run/netns/coat-{NAME}", "ss", "-tlnH", f"sport = :{burden.ORDERS}"]
    wait_for(lambda: lab.exec("edge1", listens).stdout, what="the server")
    pair = Pair(lab, controller, server["ip"])
    yield pair
    pair.process.kill()
    pair.process.communicate()


@pytest.mark.parametrize("mode", ["prepared", "sequential"])
def test_five_hundred_connections_go_on(pair: Pair, mode: str) -> None:
    pair.do("crowd_before", count=500)
    record = pair.migrate(mode)
    found = pair.do("crowd_after")
    assert found["wrong"] == [] and found["rounds"] > 0, (found, record)


def test_half_a_gigabyte_that_changes_arrives_as_it_was(pair: Pair) -> None:
    """500 MB, of which 100 MB are written anew each second."""
    pair.do("fill", megabytes=500, rate=100)
    before = pair.do("memory")
    record = pair.migrate()
    found = pair.do("memory")
    assert found["bad"] == 0 and found["megabytes"] == 500
    assert found["written"] > before["written"] > 0
    assert record["checkpoint_bytes"] > 500 << 20


@pytest.mark.parametrize("mode", MODES)
def test_files_children_terminal_and_pipes_come_along(pair: Pair, mode: str) -> None:
    pair.do("gather")
    pair.migrate(mode)
    found = pair.do("belongings")
    assert all(found.values()), found


@pytest.mark.parametrize("mode", MODES)
def test_what_stands_in_sockets_comes_along(pair: Pair, mode: str) -> None:
    """Unread, unsent, and said by one who has closed."""
    full = pair.do("hoard_before")
    pair.do("halves_before")
    assert full["said"] > 100_000 and full["heard"] > 100_000
    pair.migrate(mode)
    found = pair.do("hoard_after")
    assert found == {"heard": True, "said": True, "bytes": full["heard"]}
    assert pair.do("halves_after") == {"ours_closed": True, "theirs_closed": True}


def test_connections_not_accepted_yet_are_refused_and_stay(pair: Pair, lab: Lab, controller: Controller) -> None:
    """CRIU cannot dump them; when they have been accepted the container moves, and they with it."""
    waiting = pair.do("late_before", count=10)
    pair.do("halves_before")
    record = controller.migrate(NAME, "edge2")
    assert record["state"] == "rolled_back"
    assert record["error"]["cause"] == "unaccepted_connections" and str(burden.LATE) in record["error"]["message"]
    assert [step["name"] for step in record["steps"]] == ["preflight"]
    assert pair.do("late_after") == waiting
    pair.migrate()
    assert pair.do("halves_after") == {"ours_closed": True, "theirs_closed": True}
