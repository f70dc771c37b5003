"""A topology that changes under a controller: what may, what may not, and that a refusal changes nothing."""

import stat
from pathlib import Path

import pytest

from coat_ryu.config import complete, parse_topology
from coat_ryu.errors import Conflict, TopologyError
from coat_ryu.model import ContainerSpec, Topology
from coat_ryu.reload import NotWritten, Reload
from coat_ryu.revision import changes, revision_of

BEFORE = """
underlay_mtu: 1500
networks:
  - {name: apps, vni: 42, subnet: 192.168.50.0/24}
  - {name: spare, vni: 43, subnet: 192.168.51.0/24}
nodes:
  - {name: a, address: 10.0.0.1}
  - {name: b, address: 10.0.0.2}
  - {name: c, address: 10.0.0.3}
"""


class Follower:
    def __init__(self) -> None:
        self.seen: list[Topology] = []

    def adopt(self, topology: Topology) -> None:
        self.seen.append(topology)


class Installation:
    """One container, web, on node a; node b has a migration under way."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "topology.yaml"
        self.path.write_text(BEFORE)
        self.path.chmod(0o640)
        topology = parse_topology(BEFORE, "before")
        web = complete(ContainerSpec(name="web", node="a", image="i"), topology, [])
        self.follower = Follower()
        self.reload = Reload(topology, self.path, [self.follower], lambda: [(web, "a")], lambda: {"b"})


@pytest.fixture
def here(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def test_a_change_is_followed_and_written(here: Installation) -> None:
    text = "# mine\n" + BEFORE.replace("name: c, address: 10.0.0.3", "name: d, address: 10.0.0.4")
    made = here.reload.replace(text, dry_run=False)
    assert (made.nodes_added, made.nodes_removed, made.nodes_changed) == (["d"], ["c"], [])
    assert (made.tunnels_added, made.tunnels_removed) == (["a-d", "b-d"], ["a-c", "b-c"])
    assert [topology.nodes[2].name for topology in here.follower.seen] == ["d"]
    assert here.path.read_text() == text
    assert stat.S_IMODE(here.path.stat().st_mode) == 0o640
    assert here.reload.revision == revision_of(here.follower.seen[0])


def test_a_dry_run_says_it_and_does_nothing(here: Installation) -> None:
    made = here.reload.replace(BEFORE.replace("name: c", "name: d"), dry_run=True)
    assert made.any
    assert here.follower.seen == []
    assert here.path.read_text() == BEFORE


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  - {name: a, address: 10.0.0.1}\n", "", "node a cannot be removed: web lives there"),
        ("10.0.0.1", "10.0.0.9", "node a cannot be changed: web lives there"),
        ("  - {name: b, address: 10.0.0.2}\n", "", "node b cannot be removed: a migration under way"),
        ("192.168.50.0/24", "192.168.52.0/24", "network apps cannot be changed: web is attached"),
        ("vni: 42", "vni: 44", "network apps cannot be changed: web is attached"),
        ("underlay_mtu: 1500", "underlay_mtu: 9000", "underlay_mtu cannot be changed"),
    ],
)
def test_what_is_in_use_cannot_go(here: Installation, old: str, new: str, said: str) -> None:
    with pytest.raises(Conflict) as refusal:
        here.reload.replace(BEFORE.replace(old, new), dry_run=False)
    assert refusal.value.cause == "topology_in_use"
    assert said in str(refusal.value)
    assert here.follower.seen == []
    assert here.path.read_text() == BEFORE


def test_a_node_may_be_reached_in_another_way_while_it_has_containers(here: Installation) -> None:
    here.reload.replace(BEFORE.replace("10.0.0.1}", "10.0.0.1, ssh: {port: 2222}}"), dry_run=False)
    assert here.follower.seen[0].node("a").ssh.port == 2222


def test_the_last_good_one_stays_and_the_reason_is_kept(here: Installation) -> None:
    here.path.write_text("nodes: [")
    here.reload.from_file()
    assert here.reload.error is not None and "not YAML" in here.reload.error
    assert here.reload.topology.nodes[0].name == "a"
    here.path.write_text(BEFORE.replace("name: spare", "name: other"))
    here.reload.from_file()
    assert here.reload.error is None
    assert here.reload.topology.networks[1].name == "other"


def test_nonsense_is_refused(here: Installation) -> None:
    with pytest.raises(TopologyError, match=r"nodes\.0\.address"):
        here.reload.replace(BEFORE.replace("10.0.0.1", "10.0.0.300"), dry_run=False)


def test_what_cannot_be_written_is_not_done(here: Installation) -> None:
    here.path.unlink()
    here.path.mkdir()
    with pytest.raises(NotWritten):
        here.reload.replace(BEFORE.replace("name: spare", "name: other"), dry_run=False)
    assert here.follower.seen == []
    assert [entry.name for entry in here.path.parent.iterdir()] == ["topology.yaml"]


def test_the_lab_s_own_section_changes_nothing() -> None:
    one, other = (parse_topology(BEFORE + f"lab: {{underlay: {net}}}", "x") for net in ("10.0.0.0/24", "10.0.0.0/16"))
    assert not changes(one, other).any
    assert revision_of(one) == revision_of(other)
