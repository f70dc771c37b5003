"""A node that comes into shape is given what should live there, unless somebody works on that already."""

import threading
from pathlib import Path

import pytest

from coat_ryu.config import parse_topology
from coat_ryu.containers import Containers
from coat_ryu.journal import Journal
from coat_ryu.nodes import Nodes
from tests.unit.fakes import FakeFabric, FakeRemote, World
from tests.unit.migrating import wait_for

TOPOLOGY = parse_topology(
    """
networks: [{name: apps, vni: 42, subnet: 192.168.50.0/24}]
nodes: [{name: a, address: 10.0.0.1}, {name: b, address: 10.0.0.2}]
containers: [{name: web, node: a, image: img}]
""",
    "test.yaml",
)


class Scene:
    def __init__(self, journal: Path) -> None:
        self.world = World("a", "b")
        for node in self.world.nodes.values():
            node.images["img"] = "id-of-img"
        alive = threading.Event()
        self.nodes = Nodes(
            TOPOLOGY,
            lambda node, up, down: FakeRemote(self.world.nodes[node.name], alive),
            lambda seen: "tcp:127.0.0.1:6653",
            lambda site: None,
        )
        for site in self.nodes.sites.values():
            site.ready = True
        self.containers = Containers(TOPOLOGY, self.nodes, FakeFabric(), Journal(journal))  # type: ignore[arg-type]

    def back(self, node: str) -> None:
        self.containers.on_ready(self.nodes.sites[node])


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path / "journal.db")
    scene.back("a")
    wait_for(lambda: scene.containers.pending() == [] and scene.containers.claimed() == set())
    assert scene.world.running("web") == ["a"]
    return scene


def test_a_declared_container_that_is_gone_is_made_again(scene: Scene) -> None:
    scene.world.nodes["a"].containers.clear()
    scene.back("a")
    wait_for(lambda: scene.world.running("web") == ["a"])


def test_one_that_is_being_moved_is_no_problem_and_left_alone(scene: Scene) -> None:
    """What its migration makes of it is the migration's affair; /healthz would tell a problem that nobody solves."""
    scene.world.nodes["a"].containers.clear()
    with scene.containers.claim("web", "migrating"):
        scene.containers._attended.clear()
        scene.back("a")
        wait_for(lambda: scene.containers.pending() == [])
    assert scene.containers.problems == {}
    assert scene.world.running("web") == []


def test_one_that_has_moved_meanwhile_is_not_made_a_second_time(scene: Scene) -> None:
    before = scene.containers.resident("web")
    scene.world.nodes["a"].containers.clear()
    scene.containers.move(before.spec, "b")
    scene.containers._revive(before, scene.nodes.sites["a"])
    assert scene.world.running("web") == []
