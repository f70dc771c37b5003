"""Namespaces, ports, bridges and tunnels, as the kernel and the switch see them afterwards."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from coat_ryu.errors import NodeError
from coat_ryu.remote import Remote
from mininet_scenarios.lab import Lab

pytestmark = pytest.mark.lab

BRIDGE: dict[str, Any] = {"bridge": "test", "dpid": "c0a7000000000001", "controllers": ["tcp:127.0.0.1:1"]}
NAME = {"bridge": "test", "netns": "coat-web", "port": "c-web"}
ENDPOINT: dict[str, Any] = {
    **NAME,
    "addresses": ["192.168.50.9/24", "fd00:50::9/64"],
    "mac": "02:00:00:00:00:09",
    "mtu": 1400,
}


@pytest.fixture
def bridge(lab: Lab, left: Remote) -> Iterator[None]:
    left.call("bridge_ensure", BRIDGE)
    yield
    left.call("endpoint_remove", NAME)
    lab.exec("left", ["ovs-vsctl", "--if-exists", "del-br", "test"])


def column(lab: Lab, table: str, record: str, name: str) -> str:
    return lab.exec("left", ["ovs-vsctl", "get", table, record, name]).stdout.strip()


def inside(lab: Lab, *command: str) -> str:
    return lab.exec("left", ["nsenter", "--net=/run/netns/coat-web", *command]).stdout


def link(lab: Lab) -> Any:
    return json.loads(inside(lab, "ip", "-json", "address", "show", "eth0"))[0]


def test_a_bridge_is_made_and_put_right(lab: Lab, left: Remote, bridge: None) -> None:
    lab.exec("left", ["ovs-vsctl", "set-fail-mode", "test", "standalone", "--", "del-controller", "test"])
    assert left.call("bridge_ensure", BRIDGE).result == {"datapath": "netdev"}
    assert column(lab, "bridge", "test", "fail_mode") == "secure"
    assert column(lab, "bridge", "test", "protocols") == "[OpenFlow13]"
    assert column(lab, "bridge", "test", "datapath_id") == BRIDGE["dpid"]
    assert lab.exec("left", ["ovs-vsctl", "get-controller", "test"]).stdout.split() == BRIDGE["controllers"]


def test_a_bridge_that_is_right_keeps_its_controller_connection(lab: Lab, left: Remote, bridge: None) -> None:
    before = column(lab, "bridge", "test", "controller")
    left.call("bridge_ensure", BRIDGE)
    assert column(lab, "bridge", "test", "controller") == before


def test_tunnels_are_exactly_those_wanted(lab: Lab, left: Remote, bridge: None) -> None:
    lab.exec("left", ["ovs-vsctl", "add-port", "test", "foreign", "--", "set", "interface", "foreign", "type=internal"])

    def ensure(**tunnels: str) -> Any:
        wanted = {f"t-{name}": address for name, address in tunnels.items()}
        return left.call("tunnels_ensure", {"bridge": "test", "tunnels": wanted}).result

    assert ensure(a="10.9.0.7", b="10.9.0.8") == {"added": ["t-a", "t-b"], "removed": []}
    assert ensure(a="10.9.0.7", b="10.9.0.8") == {"added": [], "removed": []}
    assert ensure(a="10.9.0.9") == {"added": ["t-a"], "removed": ["t-b"]}
    assert column(lab, "interface", "t-a", "options") == '{key=flow, remote_ip="10.9.0.9"}'
    assert column(lab, "interface", "t-a", "type") == "vxlan"
    assert lab.exec("left", ["ovs-vsctl", "list-ports", "test"]).stdout.split() == ["foreign", "t-a"]


def test_a_tunnel_takes_what_comes_to_the_node_s_own_end_alone(lab: Lab, left: Remote, bridge: None) -> None:
    lab.exec("left", ["ovs-vsctl", "--no-wait", "set", "bridge", "test", "datapath_type=system"])

    def ensure(local: str) -> Any:
        return left.call("tunnels_ensure", {"bridge": "test", "tunnels": {"t-a": "10.9.0.7"}, "local": local}).result

    left.call("tunnels_ensure", {"bridge": "test", "tunnels": {"t-a": "10.9.0.7"}})
    assert ensure("127.0.0.1") == {"added": ["t-a"], "removed": []}
    assert column(lab, "interface", "t-a", "options") == '{key=flow, local_ip="127.0.0.1", remote_ip="10.9.0.7"}'
    assert ensure("127.0.0.1") == {"added": [], "removed": []}
    assert ensure("203.0.113.9") == {"added": ["t-a"], "removed": []}, "no interface has that one"
    assert column(lab, "interface", "t-a", "options") == '{key=flow, remote_ip="10.9.0.7"}'


def test_a_tunnel_in_user_space_has_no_end_that_it_would_not_send_from(lab: Lab, left: Remote, bridge: None) -> None:
    address = lab.address("left")
    told = {"bridge": "test", "tunnels": {"t-a": lab.address("right")}, "local": address}
    left.call("tunnels_ensure", told)
    assert column(lab, "interface", "t-a", "options") == f'{{key=flow, remote_ip="{lab.address("right")}"}}'
    assert left.call("tunnels_ensure", told).result == {"added": [], "removed": []}


def test_a_controller_is_given_time_and_no_flood_of_packets(lab: Lab, left: Remote, bridge: None) -> None:
    settings = ("inactivity_probe", "controller_rate_limit", "controller_burst_limit")
    assert [column(lab, "controller", "test", name) for name in settings] == ["10000", "100", "100"]


def test_an_endpoint_is_as_asked_for(lab: Lab, left: Remote, bridge: None) -> None:
    assert left.call("endpoint_ensure", ENDPOINT).result == {"created": True}
    found = link(lab)
    assert found["address"] == ENDPOINT["mac"] and found["mtu"] == 1400 and "UP" in found["flags"]
    globally = {f"{a['local']}/{a['prefixlen']}": a for a in found["addr_info"] if a["scope"] == "global"}
    assert set(globally) == set(ENDPOINT["addresses"])
    assert not any(address.get("tentative") for address in found["addr_info"])
    assert "UP" in json.loads(inside(lab, "ip", "-json", "link", "show", "lo"))[0]["flags"]
    assert "tx-checksumming: off" in inside(lab, "ethtool", "--show-offload", "eth0")
    assert column(lab, "interface", "c-web", "external_ids") == "{coat=container, coat-name=web}"
    assert int(column(lab, "interface", "c-web", "ofport")) > 0
    outside = json.loads(lab.exec("left", ["ip", "-json", "address", "show", "c-web"]).stdout)[0]
    assert outside["addr_info"] == [], "the host must not speak on a container's port"


def test_an_endpoint_that_is_there_is_put_right(lab: Lab, left: Remote, bridge: None) -> None:
    left.call("endpoint_ensure", ENDPOINT)
    assert left.call("endpoint_ensure", ENDPOINT).result == {"created": False}
    changed = {**ENDPOINT, "addresses": ["192.168.50.10/24"], "mac": "02:00:00:00:00:10", "mtu": 1300}
    left.call("endpoint_ensure", changed)
    found = link(lab)
    assert found["address"] == changed["mac"] and found["mtu"] == 1300
    assert [a["local"] for a in found["addr_info"] if a["scope"] == "global"] == ["192.168.50.10"]


@pytest.mark.parametrize(
    "damage",
    [
        ["ip", "link", "delete", "c-web"],
        ["sh", "-c", "umount /run/netns/coat-web"],
        ["ip", "netns", "delete", "coat-web"],
        ["ovs-vsctl", "del-port", "c-web"],
        ["ip", "-n", "coat-web", "link", "set", "eth0", "down"],
    ],
)
def test_an_endpoint_that_was_damaged_is_mended(lab: Lab, left: Remote, bridge: None, damage: list[str]) -> None:
    """Also what an interrupted creation or removal leaves: a file without its namespace, a veth without its peer."""
    left.call("endpoint_ensure", ENDPOINT)
    lab.exec("left", damage)
    left.call("endpoint_ensure", ENDPOINT)
    found = link(lab)
    assert found["address"] == ENDPOINT["mac"] and "LOWER_UP" in found["flags"]
    assert int(column(lab, "interface", "c-web", "ofport")) > 0


def test_a_container_forgets_a_neighbours_addresses_and_no_others(lab: Lab, left: Remote, bridge: None) -> None:
    left.call("endpoint_ensure", ENDPOINT)
    known = ["192.168.50.1", "fd00:50::1", "192.168.50.2"]
    for address in known:
        inside(lab, "ip", "neigh", "replace", address, "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "reachable")
    order = {"netns": "coat-web", "addresses": ["192.168.50.1", "fd00:50:0::1"]}
    assert left.call("neighbour_flush", order).result == {"flushed": 2}
    assert left.call("neighbour_flush", order).result == {"flushed": 0}
    assert left.call("neighbour_flush", {**order, "netns": "coat-nobody"}).result == {"flushed": 0}
    shown = json.loads(inside(lab, "ip", "-json", "neigh", "show", "nud", "reachable"))
    assert [entry["dst"] for entry in shown] == ["192.168.50.2"]


def test_nothing_is_left_of_a_removed_endpoint(lab: Lab, left: Remote, bridge: None) -> None:
    left.call("endpoint_ensure", ENDPOINT)
    assert left.call("endpoint_remove", NAME).result == {"removed": True}
    assert left.call("endpoint_remove", NAME).result == {"removed": False}
    assert "c-web" not in lab.exec("left", ["sh", "-c", "ip link; ovs-vsctl show; ls /run/netns"]).stdout
    assert "coat-web" not in lab.exec("left", ["sh", "-c", "ls /run/netns; grep netns /proc/self/mountinfo"]).stdout


def test_two_endpoints_reach_each_other_over_both_protocols(lab: Lab, left: Remote, bridge: None) -> None:
    other = {**NAME, "netns": "coat-peer", "port": "c-peer"}
    left.call("endpoint_ensure", ENDPOINT)
    addresses = ["192.168.50.8/24", "fd00:50::8/64"]
    left.call("endpoint_ensure", {**other, "addresses": addresses, "mac": "02:00:00:00:00:08", "mtu": 1400})
    lab.exec("left", ["ovs-ofctl", "-OOpenFlow13", "add-flow", "test", "actions=NORMAL"])
    for address in ("192.168.50.8", "fd00:50::8"):
        inside(lab, "ping", "-c1", "-W5", address)
    left.call("endpoint_remove", other)


def test_what_the_kernel_refuses_is_told(left: Remote, bridge: None) -> None:
    with pytest.raises(NodeError, match="c-web: Invalid argument") as raised:
        left.call("endpoint_ensure", {**ENDPOINT, "mtu": 1})
    assert raised.value.cause == "node_failed"
