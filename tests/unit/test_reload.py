"""A topology that changes under a controller: what may, what may not, and that a refusal changes nothing."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coat_ryu.answers import PreconditionFailed
from coat_ryu.config import complete, parse_topology
from coat_ryu.errors import Conflict, TopologyError
from coat_ryu.model import ContainerSpec, Node, Topology
from coat_ryu.nodes import Nodes
from coat_ryu.reload import NotWritten, Reload, refuse_orphans
from coat_ryu.revision import changes, revision_of
from tests.unit.migrating import wait_for

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


def test_two_changes_of_one_revision_the_second_is_refused(here: Installation) -> None:
    """Both were let in when the topology still was as they knew it."""
    seen = here.reload.revision
    first, second = (BEFORE.replace("10.0.0.3", address) for address in ("10.0.0.4", "10.0.0.5"))
    here.reload.replace(first, dry_run=False, revision=seen)
    with pytest.raises(PreconditionFailed, match="somebody was faster"):
        here.reload.replace(second, dry_run=False, revision=seen)
    assert here.path.read_text() == first and len(here.follower.seen) == 1
    here.reload.replace(second, dry_run=False, revision=here.reload.revision)


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


def test_a_topology_is_written_through_no_link_but_its_own(here: Installation) -> None:
    """Others may write in the directory, and can guess what a file of ours would be called."""
    victim, real = here.path.parent / "victim", here.path.parent / "real.yaml"
    victim.write_text("precious")
    (here.path.parent / f".{here.path.name}.{os.getpid()}").symlink_to(victim)
    here.path.rename(real)
    here.path.symlink_to(real)
    text = BEFORE.replace("name: spare", "name: other")
    here.reload.replace(text, dry_run=False)
    assert victim.read_text() == "precious"
    assert here.path.is_symlink() and real.read_text() == text


def test_what_takes_long_is_done_beside_the_event_loop(here: Installation) -> None:
    beside: list[str] = []

    def do(call: Callable[..., Any], *args: Any) -> Any:
        beside.append(call.__name__)
        return call(*args)

    reload = Reload(here.reload.topology, here.path, [], list, set, do)
    reload.replace(BEFORE.replace("name: spare", "name: other"), dry_run=False)
    reload.from_file()
    assert beside == ["parse_topology", "changes", "write_topology", "read_topology", "changes"]


def test_the_lab_s_own_section_changes_nothing() -> None:
    one, other = (parse_topology(BEFORE + f"lab: {{underlay: {net}}}", "x") for net in ("10.0.0.0/24", "10.0.0.0/16"))
    assert not changes(one, other).any
    assert revision_of(one) == revision_of(other)


class Channel:
    """A channel to a node that only remembers."""

    connected = True
    clock_offset = 0.0

    def __init__(self, node: Node) -> None:
        self.node = node
        self.calls: list[tuple[str, Any]] = []
        self.started = self.closed = False

    def call(self, verb: str, args: dict[str, Any] | None = None, timeout: float = 30.0) -> Any:
        self.calls.append((verb, args))
        return SimpleNamespace(result={"controller": "127.0.0.1", "datapath": "netdev"})

    def start(self) -> None:
        self.started = True

    def close(self) -> None:
        self.closed = True

    def status(self) -> dict[str, Any]:
        return {"connected": True, "error": None}


def test_nodes_come_and_go_and_those_that_stay_get_their_new_tunnels() -> None:
    made: list[Channel] = []

    def channel(node: Node, up: Any, down: Any) -> Channel:
        made.append(Channel(node))
        return made[-1]

    nodes = Nodes(parse_topology(BEFORE, "before"), channel, lambda seen: "tcp:127.0.0.1:6653", lambda site: None)
    before = nodes.sites
    text = BEFORE.replace("name: c, address: 10.0.0.3", "name: d, address: 10.0.0.4").replace(
        "address: 10.0.0.2", "address: 10.0.0.2, ssh: {port: 2222}"
    )
    nodes.adopt(parse_topology(text, "after"))
    assert list(nodes.sites) == ["a", "b", "d"]
    assert nodes.sites["a"] is before["a"], "what has not changed keeps its connection"
    assert nodes.sites["b"] is not before["b"], "another way to reach it is another connection"
    a, b, c, new_b, d = made
    wait_for(lambda: c.closed and b.closed and len(a.calls) == 3)
    assert (new_b.started, d.started, a.closed) == (True, True, False)
    assert c.calls == [("tunnels_ensure", {"bridge": "coat", "tunnels": {}})]
    assert b.calls == []
    assert dict(a.calls)["tunnels_ensure"]["tunnels"] == {"t-b": "10.0.0.2", "t-d": "10.0.0.4"}
    assert dict(a.calls)["tunnels_ensure"]["local"] == "10.0.0.1"


def test_a_controller_does_not_start_with_a_topology_that_has_no_place_for_a_container() -> None:
    topology = parse_topology(BEFORE, "before")
    web = complete(ContainerSpec(name="web", node="a", image="i"), topology, [])
    refuse_orphans(topology, [(web, "a")])
    with pytest.raises(TopologyError, match="web lives on node z, which the topology does not have"):
        refuse_orphans(topology, [(web, "z")])
    with pytest.raises(TopologyError, match="web is attached to network apps"):
        refuse_orphans(parse_topology(BEFORE.replace("name: apps", "name: other"), "after"), [(web, "a")])
