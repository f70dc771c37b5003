"""A node that comes into shape is given what should live there, unless somebody works on that already."""

import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from coat_ryu.cli import main
from coat_ryu.config import parse_topology
from coat_ryu.containers import Containers
from coat_ryu.errors import Conflict, NotFound
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
    def __init__(self, journal: Path, world: World | None = None) -> None:
        self.world = world or World("a", "b")
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
        self.fabric = FakeFabric()
        self.containers = Containers(TOPOLOGY, self.nodes, self.fabric, Journal(journal))  # type: ignore[arg-type]

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
    scene.containers._revive(before)
    assert scene.world.running("web") == []


# ---- a journal that knows less than the nodes


def successor(scene: Scene, journal: Path, *away: str) -> Scene:
    """Another controller on the same nodes, with another journal; all nodes come into shape but those away."""
    other = Scene(journal, scene.world)
    for name in away:
        other.nodes.sites[name].ready = False
    for name in other.nodes.sites:
        if name not in away:
            other.back(name)
    return other


def backup(journal: Path, copy: Path) -> None:
    done = CliRunner().invoke(main, ["journal", "backup", str(copy), "--journal", str(journal)])
    assert done.exit_code == 0, done.output


def settled(scene: Scene) -> None:
    wait_for(lambda: scene.containers.pending() == [] and scene.containers.claimed() == set())


def moved(scene: Scene) -> None:
    """The container goes to b, as a migration leaves it."""
    nodes = scene.world.nodes
    nodes["b"].containers["web"] = nodes["a"].containers.pop("web")
    nodes["b"].endpoints["coat-web"] = nodes["a"].endpoints.pop("coat-web")


def test_a_restored_journal_makes_no_second_copy(scene: Scene, tmp_path: Path) -> None:
    backup(tmp_path / "journal.db", tmp_path / "backup.db")
    moved(scene)
    other = successor(scene, tmp_path / "backup.db")
    wait_for(lambda: other.containers.resident("web").node == "b")
    settled(other)
    assert scene.world.running("web") == ["b"] and scene.world.most_copies == 1
    assert other.containers.binding(other.containers.resident("web").spec, "b") == other.fabric.bindings["web"]


def test_a_restored_journal_waits_for_a_home_that_cannot_be_asked(scene: Scene, tmp_path: Path) -> None:
    backup(tmp_path / "journal.db", tmp_path / "backup.db")
    moved(scene)
    other = successor(scene, tmp_path / "backup.db", "a")
    wait_for(lambda: "a cannot be asked" in other.containers.problems.get("web", ""))
    assert other.containers.resident("web").node == "a"
    other.nodes.sites["a"].ready = True
    other.back("a")
    wait_for(lambda: other.containers.resident("web").node == "b" and other.containers.problems == {})
    assert scene.world.running("web") == ["b"]


def test_a_new_journal_makes_no_second_copy_while_a_node_is_away(scene: Scene, tmp_path: Path) -> None:
    moved(scene)
    other = successor(scene, tmp_path / "new.db", "b")
    wait_for(lambda: "b cannot be asked" in other.containers.problems.get("web", ""))
    assert other.containers.pending() == ["web"], "/healthz is not to be content with it"
    assert scene.world.running("web") == ["b"]
    other.nodes.sites["b"].ready = True
    other.back("b")
    settled(other)
    assert other.containers.resident("web").node == "b" and other.containers.problems == {}
    assert scene.world.most_copies == 1


def test_a_declared_container_is_started_when_all_have_been_asked(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "journal.db")
    scene.nodes.sites["b"].ready = False
    scene.back("a")
    wait_for(lambda: "coat start web" in scene.containers.problems.get("web", ""))
    assert scene.world.running("web") == []
    scene.nodes.sites["b"].ready = True
    scene.back("b")
    wait_for(lambda: scene.world.running("web") == ["a"])


def test_a_declared_container_is_started_when_somebody_says_so(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "journal.db")
    scene.nodes.sites["b"].ready = False
    scene.back("a")
    wait_for(lambda: "web" in scene.containers.problems and scene.containers.claimed() == set())
    assert scene.containers.start("web")["state"] == "running"
    assert scene.world.running("web") == ["a"] and scene.containers.problems == {}
    assert scene.containers.start("web")["state"] == "running", "once more it changes nothing"
    with pytest.raises(NotFound):
        scene.containers.start("nobody")


def test_one_that_is_gone_is_made_again_only_when_all_have_been_asked(scene: Scene) -> None:
    scene.world.nodes["a"].containers.clear()
    scene.nodes.sites["b"].ready = False
    scene.back("a")
    wait_for(lambda: "b cannot be asked" in scene.containers.problems.get("web", ""))
    assert scene.world.running("web") == []
    scene.nodes.sites["b"].ready = True
    scene.back("b")
    wait_for(lambda: scene.world.running("web") == ["a"] and scene.containers.problems == {})


def test_a_container_that_a_node_has_and_the_journal_does_not_is_not_made(scene: Scene, tmp_path: Path) -> None:
    other = Scene(tmp_path / "new.db", scene.world)
    spec = scene.containers.resident("web").spec.model_copy(update={"node": "b"})
    with pytest.raises(Conflict, match="that the journal does not know") as refused:
        other.containers.create(spec)
    assert refused.value.cause == "name_in_use"
    assert scene.world.running("web") == ["a"]


def test_two_nodes_that_come_at_once_start_it_once(tmp_path: Path) -> None:
    """The second comes while the first's look, which has not seen it, goes on."""
    scene = Scene(tmp_path / "journal.db")
    scene.nodes.sites["b"].ready = False
    looking, go_on = threading.Event(), threading.Event()

    def before(number: int, node: str, verb: str) -> None:
        if verb == "container_inspect" and not looking.is_set():
            looking.set()
            go_on.wait(10)

    scene.world.before = before
    scene.back("a")
    assert looking.wait(10)
    scene.nodes.sites["b"].ready = True
    scene.back("b")
    time.sleep(0.05)
    go_on.set()
    wait_for(lambda: scene.world.running("web") == ["a"])
    assert scene.world.most_copies == 1
