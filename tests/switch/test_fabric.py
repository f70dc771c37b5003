"""The fabric against a real switch: what it installs, and that it keeps it so."""

import time
from ipaddress import IPv4Address

import pytest

from coat_ryu.errors import NotFound, SwitchError, SwitchGone
from coat_ryu.model import Node
from coat_ryu.openflow import Change, Flow, Output, match
from tests.switch.scene import TOPOLOGY, bound, eventually

A = TOPOLOGY.node("a")
PORTS = {"t-b": "vxlan", "t-c": "vxlan", "c-one": "", "c-two": ""}
BINDINGS = [bound("one", "a", 1), bound("two", "a", 2), bound("far", "b", 3)]
SETTLE = 20.0


@pytest.fixture
def bridge(ovs, openflow_port):
    yield "a"
    ovs.vsctl("--if-exists", "del-br", "a")


@pytest.fixture
def connect(ovs, openflow_port):
    return lambda: ovs.add_bridge("a", A.switch, PORTS, f"tcp:127.0.0.1:{openflow_port}")


@pytest.fixture
def fabric(bridge, controller, connect):
    started = controller(TOPOLOGY, BINDINGS, audit_interval=0.3)
    connect()
    started.settle(["a"], SETTLE)
    return started


def test_what_is_installed_is_what_was_computed(fabric, ovs, bridge):
    status = fabric.node_status("a")
    assert status["connected"] and status["in_sync"] and not status["error"]
    assert status["flows_wanted"] == status["flows_installed"] == len(ovs.flows(bridge)) > 40
    assert status["ports_missing"] == []


def test_a_switch_that_comes_back_is_brought_up_to_date(fabric, ovs, bridge):
    controllers = ovs.vsctl("get-controller", bridge).strip()
    ovs.lose_controller(bridge)
    eventually(lambda: not fabric.node_status("a")["connected"], "the switch is seen to be gone")
    fabric.bind(bound("late", "b", 9))
    ovs.ofctl("del-flows", bridge, "cookie=0xc0a7000000000005/-1")  # forwarding
    ovs.vsctl("set-controller", bridge, controllers)
    fabric.settle(["a"], SETTLE)
    installed = ovs.flows(bridge)
    assert len([flow for flow in installed if "dl_dst=02:" in flow]) == len(BINDINGS) + 1
    assert fabric.node_status("a")["flows_installed"] == len(installed)
    with pytest.raises(NotFound):
        fabric.flows("00000000000000ff")
    with pytest.raises(SwitchGone):
        fabric.flows(TOPOLOGY.node("b").switch)


def test_a_new_controller_leaves_right_flows_alone(fabric, ovs, bridge, controller):
    """Every entry keeps its age, and frames pass all the while: none is removed and written again."""
    frame = bytes.fromhex("0200000000020200000000010800") + bytes.fromhex("4500001c000000004011") + bytes(36)
    frame = frame[:26] + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + frame[34:]
    before, sent = ovs.counters(bridge), ovs.sent("c-two")
    put = 0

    def put_frames(count):
        nonlocal put
        for _ in range(count):
            ovs.receive("c-one", frame)
            put += 1

    put_frames(20)
    fabric.kill()
    put_frames(20)
    again = controller(TOPOLOGY, BINDINGS)
    put_frames(20)
    again.settle(["a"], SETTLE)
    put_frames(20)
    eventually(lambda: ovs.sent("c-two") - sent >= put, "all frames come out")
    after = ovs.counters(bridge)
    assert after.keys() == before.keys()
    assert all(after[key][1] > before[key][1] for key in before)
    assert again.node_status("a")["repairs"] == 0


def test_nothing_is_touched_before_the_bindings_are_known(fabric, ovs, bridge, controller):
    before = ovs.flows(bridge)
    fabric.kill()
    young = controller(TOPOLOGY)
    eventually(lambda: young.node_status("a")["connected"], "the switch connects")
    young.bind(BINDINGS[0])
    time.sleep(0.5)
    assert ovs.flows(bridge) == before
    for binding in BINDINGS[1:]:
        young.bind(binding)
    young.ready()
    young.settle(["a"], SETTLE)
    assert ovs.flows(bridge) == before


def test_foreign_flows_are_never_touched(fabric, ovs, bridge):
    foreign = ["priority=7,udp,tp_dst=53,actions=drop", "cookie=0xc0a8000000000001,table=4,dl_vlan=3,actions=NORMAL"]
    for flow in foreign:
        ovs.ofctl("add-flow", bridge, flow)
    ours = len(ovs.flows(bridge)) - len(foreign)
    fabric.bind(bound("more", "c", 77))
    fabric.settle(["a"], SETTLE)
    fabric.unbind("more")
    eventually(lambda: len(ovs.flows(bridge)) == ours + len(foreign), "the flows are ours and the foreign ones again")
    kept = "\n".join(ovs.flows(bridge))
    assert "udp,tp_dst=53" in kept and "dl_vlan=3" in kept
    shown = fabric.flows(A.switch)
    assert len(shown) == ours + len(foreign)
    assert {"dl_vlan": "3"} in [flow["match"] for flow in shown]


@pytest.mark.parametrize(
    "damage",
    [
        ["del-flows", "table=4"],
        ["mod-flows", "table=0,actions=drop"],
        ["add-flow", "table=4,priority=500,tun_id=42,dl_dst=02:00:00:00:00:02,actions=drop"],
        ["add-flow", "cookie=0xc0a7000000000005,table=4,priority=600,tun_id=42,actions=drop"],
    ],
    ids=["removed", "altered", "replaced", "added in our name"],
)
def test_tampering_is_noticed_and_repaired(fabric, ovs, bridge, damage):
    before = ovs.flows(bridge)
    ovs.ofctl(damage[0], bridge, *damage[1:])
    eventually(lambda: ovs.flows(bridge) == before, "the flows are as they were")
    eventually(lambda: fabric.node_status("a")["repairs"] > 0, "the repair is counted")
    fabric.settle(["a"], SETTLE)


def test_a_bundle_with_one_bad_change_changes_nothing(fabric, ovs, bridge):
    before = ovs.flows(bridge)
    good = Flow(4, 77, match(tunnel_id=42, eth_dst="02:00:00:00:00:77"), (Output(1),))
    bad = Flow(4, 78, match(tunnel_id=42), (Output(0xFFFFFF00 + 0x10),))  # no such port number can be
    with pytest.raises(SwitchError, match=f"node a.*{A.switch}.*priority=78"):
        fabric.call("board.apply", "a", [Change("add", good), Change("add", bad), Change("add", good)])
    assert ovs.flows(bridge) == before
    fabric.settle(["a"], SETTLE)


def test_a_switch_without_bundles_gets_the_same_flows(bridge, ovs, controller, connect):
    plain = controller(TOPOLOGY, BINDINGS, bundles=False)
    connect()
    plain.settle(["a"], SETTLE)
    flows = ovs.flows(bridge)
    plain.kill()
    ovs.ofctl("del-flows", bridge)
    controller(TOPOLOGY, BINDINGS).settle(["a"], SETTLE)
    assert ovs.flows(bridge) == flows


def test_a_port_that_comes_later_gets_its_flows(fabric, ovs, bridge):
    fabric.bind(bound("three", "a", 5))
    fabric.settle(["a"], SETTLE)
    assert fabric.node_status("a")["ports_missing"] == ["c-three"]
    ovs.add_port(bridge, "c-three")
    fabric.wait_port("a", "c-three", SETTLE)
    fabric.settle(["a"], SETTLE)
    assert fabric.node_status("a")["ports_missing"] == []
    number = ovs.ofport("c-three")
    assert [flow for flow in ovs.flows(bridge, "table=0") if f"in_port={number}," in flow]
    ovs.vsctl("del-port", "c-three")
    eventually(lambda: fabric.node_status("a")["ports_missing"] == ["c-three"], "the port is missed")
    fabric.settle(["a"], SETTLE)
    assert not [flow for flow in ovs.flows(bridge, "table=0") if f"in_port={number}," in flow]


def test_a_dead_tunnel_is_routed_around(fabric, ovs, bridge):
    def way_to_b():
        return ovs.trace(
            bridge,
            f"in_port={ovs.ofport('c-one')},udp,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:03,"
            "nw_src=10.0.0.1,nw_dst=10.0.0.3",
        )

    direct, around = f"output:{ovs.ofport('t-b')}", f"output:{ovs.ofport('t-c')}"
    assert direct in way_to_b()
    ovs.vsctl("del-port", "t-b")
    eventually(lambda: around in way_to_b(), "frames for b go by c")
    status = fabric.status()
    assert [tunnel["between"] for tunnel in status["tunnels"] if not tunnel["up"]] == [["a", "b"]]
    assert status["partitions"] == [["a", "b", "c"]]
    ovs.vsctl("del-port", "t-c")
    eventually(lambda: fabric.status()["partitions"] == [["b", "c"], ["a"]], "the partition is reported")
    ovs.add_port(bridge, "t-b", "vxlan")
    eventually(lambda: fabric.status()["partitions"] == [["a", "b", "c"]], "the overlay is whole again")


def test_a_tunnel_whose_link_goes_down_is_routed_around(fabric, ovs, bridge):
    ovs.appctl("netdev-dummy/set-admin-state", "c-two", "down")  # no tunnel: nothing to route around
    eventually(lambda: fabric.status()["tunnels"][0]["up"], "t-b is up")
    ovs.vsctl("set", "interface", "t-b", "type=dummy")
    eventually(lambda: fabric.node_status("a")["in_sync"], "the port has been replaced")
    ovs.appctl("netdev-dummy/set-admin-state", "t-b", "down")
    eventually(lambda: fabric.status()["tunnels"][0]["down_at"] == ["a"], "the tunnel is seen to be down")
    ovs.appctl("netdev-dummy/set-admin-state", "t-b", "up")
    eventually(lambda: fabric.status()["tunnels"][0]["up"], "the tunnel is up again")


def test_a_new_topology_is_followed(fabric, ovs, bridge):
    """A network goes, a node goes with its tunnel, another one comes; what stays is untouched meanwhile."""
    kept = {flow for flow in ovs.flows(bridge) if "dl_dst=02:00:00:00:00:03" in flow}
    assert kept
    new = Node(name="d", address=IPv4Address("10.9.0.4"))
    fabric.adopt(TOPOLOGY.model_copy(update={"nodes": (*TOPOLOGY.nodes[:2], new), "networks": TOPOLOGY.networks[:1]}))
    fabric.settle(["a"], SETTLE)
    status = fabric.status()
    assert sorted(status["nodes"]) == ["a", "b", "d"]
    assert [tunnel["between"] for tunnel in status["tunnels"]] == [["a", "b"], ["a", "d"], ["b", "d"]]
    assert fabric.node_status("a")["ports_missing"] == ["t-d"]
    now = ovs.flows(bridge)
    assert kept <= set(now)
    assert not [flow for flow in now if "tun_id=0x2b" in flow], "nothing of the network that went"
    assert fabric.node_status("a")["flows_installed"] == len(now)
    fabric.adopt(TOPOLOGY)
    fabric.settle(["a"], SETTLE)
    assert [flow for flow in ovs.flows(bridge) if "tun_id=0x2b" in flow]


def test_a_switch_of_a_node_that_went_is_left_alone_and_may_come_back(fabric, ovs, bridge):
    before = ovs.flows(bridge)
    fabric.adopt(TOPOLOGY.model_copy(update={"nodes": TOPOLOGY.nodes[1:]}))
    with pytest.raises(NotFound):
        fabric.node_status("a")
    assert ovs.flows(bridge) == before
    ovs.ofctl("del-flows", bridge, "cookie=0xc0a7000000000005/-1")
    fabric.adopt(TOPOLOGY)
    fabric.settle(["a"], SETTLE)
    assert len(ovs.flows(bridge)) == len(before)
