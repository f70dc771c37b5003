"""Memory that follows its container: whole, with every fault before the pivot taken back, and a loss after it told."""

from collections.abc import Iterator
from typing import Any

import pytest

from mininet_scenarios import burden
from mininet_scenarios.experiment import Controller
from mininet_scenarios.faults import OPTIONS
from mininet_scenarios.lab import Lab
from mininet_scenarios.sabotage import Reaction, Saboteur
from tests.lab.helpers import wait_for
from tests.lab.test_hard import NAME, PROGRAM, Pair

CROWD = 20
MEGABYTES = 200


class Scene:
    """A lab with a container on edge1 that has memory and connections."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.controller, self.sabotage = lab, Controller(lab.rest), Saboteur(lab)
        for host in ("edge1", "edge2"):
            self.sabotage.install(host)
        server = self._make(NAME, "edge1", [*PROGRAM, "serve"])
        self._make("burden-client", "device", ["sleep", "infinity"])
        listens = ["nsenter", f"--net=/run/netns/coat-{NAME}", "ss", "-tlnH", f"sport = :{burden.ORDERS}"]
        wait_for(lambda: lab.exec("edge1", listens).stdout, what="the server")
        self.pair = Pair(lab, self.controller, server["ip"])

    def _make(self, name: str, node: str, command: list[str]) -> dict[str, Any]:
        body = {"name": name, "node": node, "image": "localhost/coat-python", "command": command}
        answer: dict[str, Any] = self.controller.post("/v1.0/containers", body)
        return answer

    def migrate(self, to: str, **options: Any) -> dict[str, Any]:
        return self.controller.migrate(NAME, to, **{"memory": "lazy", **options})

    def begin(self, to: str, step: str) -> str:
        """Begins a migration, and returns its path when it has come to the step."""
        begun = self.controller.post("/migrate", {"container": NAME, "to": to, "memory": "lazy"})
        path = f"/v1.0/migrations/{begun['id']}"
        wait_for(lambda: step in [one["name"] for one in self.controller.get(path)["steps"]], what=step)
        return path

    def end(self, path: str) -> dict[str, Any]:
        def over() -> Any:
            record = self.controller.get(path)
            return record if record["state"] != "running" else None

        record: dict[str, Any] = wait_for(over, 120, "the end of the migration")
        return record

    def copies(self) -> list[str]:
        return [host for host in self.sabotage.running([*PROGRAM, "serve"]) if host.startswith("edge")]

    def pagers(self) -> list[str]:
        """Hosts where somebody still cares for pages."""
        argv = ["sh", "-c", "ls -d /run/coat/pages-* 2>/dev/null; pgrep -f 'coat_ryu.node.[p]ager|criu [l]azy-pages'"]
        return [host for host in self.lab.state.hosts if self.lab.exec(host, argv, check=False).stdout]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Lab(name="tests-lazy", options=OPTIONS) as lab:
        scene = Scene(lab)
        scene.pair.do("crowd_before", count=CROWD)
        yield scene
        scene.pair.process.kill()
        scene.pair.process.communicate()


def test_memory_follows_while_it_changes_and_the_downtime_does_not_grow(scene: Scene) -> None:
    scene.pair.do("fill", megabytes=MEGABYTES, rate=50)
    full = scene.migrate("edge2", memory="full")
    lazy = scene.migrate("edge1")
    assert (full["state"], lazy["state"]) == ("succeeded", "succeeded"), lazy["error"]
    found = scene.pair.do("memory")
    assert found["bad"] == 0 and found["megabytes"] == MEGABYTES
    assert lazy["memory"] == "lazy" and lazy["downtime_s"] < full["downtime_s"] / 2, (full, lazy)
    pages = next(step for step in lazy["steps"] if step["name"] == "pages")
    assert pages["detail"]["bytes"] > MEGABYTES << 20 > lazy["checkpoint_bytes"]
    assert scene.copies() == ["edge1"] and scene.pagers() == []


@pytest.mark.parametrize(("command", "reaction"), [("criu swrk *", "fail"), ("runc *restore *", "hang")])
def test_without_a_restore_the_source_runs_on_with_its_memory_and_connections(
    scene: Scene, command: str, reaction: Reaction
) -> None:
    source = scene.controller.where(NAME)
    destination = "edge2" if source == "edge1" else "edge1"
    scene.sabotage.lay(destination, command, reaction)
    record = scene.migrate(destination)
    sprung = scene.sabotage.sprung(destination)
    scene.sabotage.clear(destination)
    assert sprung and record["state"] == "rolled_back", record
    assert scene.pair.do("memory")["bad"] == 0
    assert scene.copies() == [source] and scene.pagers() == []
    assert scene.migrate(destination)["state"] == "succeeded"


def test_pages_come_without_the_controller(scene: Scene) -> None:
    source = scene.controller.where(NAME)
    destination = "edge2" if source == "edge1" else "edge1"
    path = scene.begin(destination, "pages")
    scene.lab.kill_controller()
    scene.lab.start_controller()
    record = scene.end(path)
    assert record["state"] == "succeeded", record
    assert scene.pair.do("memory")["bad"] == 0
    assert scene.copies() == [destination]


def test_connections_have_gone_on_through_all_of_it(scene: Scene) -> None:
    found = scene.pair.do("crowd_after")
    assert found["wrong"] == [] and found["rounds"] > 0, found


def test_a_source_that_dies_before_the_last_page_takes_the_container_with_it(scene: Scene) -> None:
    """The last test of this lab, for the host does not come back."""
    source = scene.controller.where(NAME)
    scene.pair.do("fill", megabytes=MEGABYTES, rate=0)
    path = scene.begin("edge2" if source == "edge1" else "edge1", "pages")
    scene.lab.kill_host(source)
    record = scene.end(path)
    assert record["state"] == "failed" and record["error"]["cause"] == "memory_lost", record
    assert "no copy of burden runs" in record["error"]["message"]
    assert scene.copies() == [] and scene.pagers() == []


def test_precopy_is_refused_for_what_the_kernel_lacks(lab: Lab, controller: Controller) -> None:
    there = "edge2" if controller.where("sockperf-server") == "edge1" else "edge1"
    record = controller.migrate("sockperf-server", there, memory="precopy")
    assert record["state"] == "rolled_back" and [step["name"] for step in record["steps"]] == ["preflight"]
    tracks = lab.exec("edge1", ["criu", "check", "--feature", "mem_dirty_track"], check=False).returncode == 0
    assert record["error"]["cause"] == ("not_implemented" if tracks else "no_dirty_tracking")
