"""Cut-overs on three real switches in a row: a - b - c, where a and c have an Open vSwitch each."""

import time
from dataclasses import replace

import pytest

from coat_ryu.errors import NotFound, SwitchGone, SwitchTimeout
from coat_ryu.model import Place
from tests.switch.scene import LINE, bound, eventually, held, private_ovs

MOVER, PEER = bound("mover", "a", 1), bound("peer", "c", 2)
MOVED = replace(MOVER, place=Place("c", "c-mover"), origins=(Place("c", "c-mover"),))
PORTS = {
    "a": {"t-b": "vxlan", "c-mover": "", "c-second": ""},
    "b": {"t-a": "vxlan", "t-c": "vxlan"},
    "c": {"t-b": "vxlan", "c-peer": "", "c-mover": "", "h-mover": "", "h-second": ""},
}
SETTLE = 20.0


@pytest.fixture(scope="module")
def far_ovs():
    """Interface names are unique in one Open vSwitch, and both a and c have a tunnel port t-b."""
    with private_ovs() as switch:
        yield switch


class Row:
    def __init__(self, near, far, fabric, target):
        self.ovs = {"a": near, "b": near, "c": far}
        self.fabric, self.target = fabric, target
        for node, ports in PORTS.items():
            self.ovs[node].add_bridge(node, LINE.node(node).switch, ports, target)

    def sends(self, node, binding=MOVER, opening=""):
        """The port by which a switch sends frames for the mover; ``opening`` a connection over tcp or tcp6."""
        wanted = f"tun_id=0x2a,dl_dst={binding.mac}"
        known = [flow for flow in self.ovs[node].flows(node, "table=4") if wanted in flow]
        special = [flow for flow in known if "tcp_flags=+syn-ack" in flow]
        mine = [flow for flow in special if opening and f"{opening}," in flow]
        (flow,) = mine or [flow for flow in known if flow not in special]
        number = int(flow.rsplit("output:", 1)[1])
        return next(port for port in PORTS[node] if self.ovs[node].ofport(port) == number)

    def disconnect(self, node):
        self.ovs[node].lose_controller(node)
        eventually(lambda: not self.fabric.node_status(node)["connected"], f"{node} is gone")

    def connect(self, node):
        self.ovs[node].vsctl("set-controller", node, self.target)

    def remove(self):
        for node in PORTS:
            self.ovs[node].vsctl("--if-exists", "del-br", node)


@pytest.fixture
def row(ovs, far_ovs, controller, openflow_port):
    fabric = controller(LINE, [MOVER, PEER], audit_interval=60, timeout=2.0)
    standing = Row(ovs, far_ovs, fabric, f"tcp:127.0.0.1:{openflow_port}")
    fabric.settle(["a", "b", "c"], SETTLE)
    yield standing
    standing.remove()


def test_a_whole_migration_and_its_way_back(row):
    fabric = row.fabric
    assert [row.sends(node) for node in "abc"] == ["c-mover", "t-a", "t-b"]
    fabric.cut_over(replace(MOVER, origins=(*MOVER.origins, *MOVED.origins), hold=held(MOVER, "c", True)), 10)
    assert [row.sends(node) for node in "abc"] == ["t-b", "t-c", "h-mover"]
    fabric.cut_over(replace(MOVED, hold=held(MOVER, "c", True)), 10)
    assert [row.sends(node) for node in "abc"] == ["t-b", "t-c", "h-mover"]
    fabric.cut_over(replace(MOVED, hold=held(MOVER, "c", False)), 10)
    assert [row.sends(node) for node in "abc"] == ["t-b", "t-c", "c-mover"]
    fabric.bind(MOVED)
    fabric.settle(["a", "b", "c"], SETTLE)
    fabric.cut_over(MOVER, 10)
    assert [row.sends(node) for node in "abc"] == ["c-mover", "t-a", "t-b"]
    fabric.settle(["a", "b", "c"], SETTLE)
    assert sum(fabric.node_status(node)["repairs"] for node in "abc") == 0


def test_a_switch_on_the_way_that_is_gone_fails_the_cut_over_and_strands_no_frame(row):
    """b is on the way: a must go on delivering, for b still sends to it."""
    row.disconnect("b")
    with pytest.raises(SwitchGone, match="node b"):
        row.fabric.cut_over(MOVED, 10)
    assert [row.sends(node) for node in "abc"] == ["c-mover", "t-a", "c-mover"]
    row.connect("b")
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert [row.sends(node) for node in "abc"] == ["t-b", "t-c", "c-mover"]


def test_the_way_back_needs_nothing_of_a_switch_that_never_moved(row):
    row.disconnect("b")
    with pytest.raises(SwitchGone):
        row.fabric.cut_over(MOVED, 10)
    row.fabric.cut_over(MOVER, 10)
    assert [row.sends(node) for node in "abc"] == ["c-mover", "t-a", "t-b"]


def test_a_switch_that_does_not_matter_may_be_away(row):
    """The mover goes from b to c; a is beyond, learns of it late, and its frames are redirected by b."""
    at_b = replace(MOVER, place=Place("b", "c-mover"), origins=())
    row.fabric.bind(replace(at_b, place=Place("b", "t-a")))  # any port of b will do
    row.fabric.settle(["a", "b", "c"], SETTLE)
    row.disconnect("a")
    row.fabric.cut_over(MOVED, 10)
    assert [row.sends(node) for node in "abc"] == ["t-b", "t-c", "c-mover"]
    row.connect("a")
    row.fabric.settle(["a"], SETTLE)


def test_a_switch_follows_only_after_its_next_hop(row):
    """c is to send to the mover at a by b, which is away and would send it back."""
    row.fabric.cut_over(MOVED, 10)
    row.fabric.settle(["a", "b", "c"], SETTLE)
    row.disconnect("b")
    row.fabric.bind(MOVER)
    eventually(lambda: row.sends("a") == "c-mover", "a has the new binding")
    time.sleep(0.5)
    assert row.sends("c") == "c-mover"
    with pytest.raises(SwitchTimeout):
        row.fabric.settle(["c"], 0.2)
    row.connect("b")
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert [row.sends(node) for node in "abc"] == ["c-mover", "t-a", "t-b"]


def test_a_container_that_is_not_bound_cannot_be_moved(row):
    with pytest.raises(NotFound):
        row.fabric.cut_over(bound("nobody", "a", 9), 1)
    with pytest.raises(NotFound):
        row.fabric.settle(["nowhere"], 1)
