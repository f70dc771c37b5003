"""What the lab makes of a topology: addresses of the underlay, and where cgroups are."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coat_ryu.config import parse_topology
from coat_ryu.errors import TopologyError
from mininet_scenarios.cgroups import mount_point
from mininet_scenarios.plan import make_plan, parse_section, underlay_network

IMAGES = ("iperf3", "sockperf")
BASE = """
underlay_mtu: 1400
nodes: [{name: a, address: 10.9.0.1}, {name: b, address: 10.9.0.2, ssh: {port: 2222}, datapath: netdev}]
networks: [{name: apps, vni: 42, subnet: 192.168.50.0/24}]
"""


def plan(lab: str, base: str = BASE) -> dict[str, Any]:
    topology = parse_topology(base + lab, "t.yaml")
    return make_plan(topology, parse_section(topology, "t.yaml", IMAGES), "t.yaml")


def test_without_a_section_all_has_a_default() -> None:
    made = plan("")
    assert (made["controller"], made["prefix_length"], made["mtu"]) == ("10.9.0.254", 24, 1400)
    assert made["control_prefix_length"] == 24
    assert [host["ssh_host"] for host in made["hosts"]] == ["10.9.0.1", "10.9.0.2"]
    assert [(host["name"], host["address"], host["ssh_port"], host["datapath"]) for host in made["hosts"]] == [
        ("a", "10.9.0.1", 22, None),
        ("b", "10.9.0.2", 2222, "netdev"),
    ]
    assert made["hosts"][0]["images"] is None and made["hosts"][0]["disk_mb"] is None
    assert not any(made["hosts"][0]["link"][key] for key in ("delay_ms", "jitter_ms", "loss_percent", "rate_mbit"))


def test_a_section_is_taken_over() -> None:
    made = plan(
        "lab: {underlay: 10.9.0.0/16, controller: 10.9.7.7, links: {b: {rate_mbit: 100}}, hosts: {a: {images: []}}}"
    )
    assert (made["controller"], made["prefix_length"], made["control_prefix_length"]) == ("10.9.7.7", 16, 16)
    assert made["hosts"][1]["link"]["rate_mbit"] == 100
    assert made["hosts"][0]["images"] == ()


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("links: {b: {rate_mbit: 0}}", "lab.links.b.rate_mbit"),
        ("links: {b: {queue_ms: 0}}", "lab.links.b.queue_ms"),
        ("links: {b: fast}", "lab.links.b"),
        ("hosts: {c: {}}", "lab.hosts.c: no such node; there are a, b"),
        ("hosts: {a: {disk_mb: 1}}", "lab.hosts.a.disk_mb"),
        ("hosts: {a: {images: [x]}}", "lab.hosts.a.images: 'x' is none of the lab's images: iperf3, sockperf"),
        ("lnks: {}", "lab.lnks"),
        ("underlay: 10.9.0.0/31", "lab.underlay"),
        ("controller: 10.10.0.1", "lab.controller"),
    ],
)
def test_mistakes_are_refused_by_file_and_field(section: str, complaint: str) -> None:
    with pytest.raises(TopologyError) as refusal:
        plan(f"lab: {{{section}}}")
    assert str(refusal.value).startswith("t.yaml: ") and complaint in str(refusal.value)


def with_ssh(a: str, b: str, lab: str = "") -> dict[str, Any]:
    return plan(
        lab, BASE.replace("10.9.0.1}", f"10.9.0.1, ssh: {{host: {a}}}}}").replace("{port", f"{{host: {b}, port")
    )


def test_hosts_that_are_logged_in_to_elsewhere_have_both_addresses() -> None:
    made = with_ssh("10.8.0.1", "10.8.0.130")
    assert (made["controller"], made["prefix_length"], made["control_prefix_length"]) == ("10.8.0.254", 24, 24)
    assert [(host["address"], host["ssh_host"]) for host in made["hosts"]] == [
        ("10.9.0.1", "10.8.0.1"),
        ("10.9.0.2", "10.8.0.130"),
    ]
    assert with_ssh("10.8.0.1", "10.8.0.2", "lab: {controller: 10.8.0.9}")["controller"] == "10.8.0.9"
    assert with_ssh("10.9.0.1", "10.9.0.2") == plan("")


@pytest.mark.parametrize(
    ("hosts", "lab", "complaint"),
    [
        (("10.8.0.1", "10.9.0.2"), "", "nodes.*.ssh.host: all hosts of a lab have one beside their address, or none"),
        (("10.8.0.1", "b.example.net"), "", "nodes.b.ssh.host: 'b.example.net': an IPv4 address is wanted in the lab"),
        (("10.9.0.7", "10.9.0.8"), "", "nodes.*.ssh.host: 10.9.0.0/24 must be apart from the underlay, 10.9.0.0/24"),
        (("10.8.0.1", "10.8.0.2"), "lab: {controller: 10.9.0.9}", "lab.controller: 10.9.0.9 must be a free address"),
        (("10.8.0.1", "10.8.0.2"), "lab: {controller: 10.8.0.2}", "lab.controller: 10.8.0.2 must be a free address"),
    ],
)
def test_a_way_in_that_the_lab_cannot_have_is_refused(hosts: tuple[str, str], lab: str, complaint: str) -> None:
    with pytest.raises(TopologyError) as refusal:
        with_ssh(*hosts, lab)
    assert str(refusal.value).startswith("t.yaml: ") and complaint in str(refusal.value)


@given(st.lists(st.ip_addresses(network=IPv4Network("10.0.0.0/8")).map(IPv4Address), min_size=1, max_size=20))
def test_the_underlay_holds_every_node_and_a_free_address(addresses: list[IPv4Address]) -> None:
    network = underlay_network(addresses)
    assert all(address in network for address in addresses)
    assert network.broadcast_address - 1 not in addresses
    assert network.prefixlen <= 24


HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:10 master:1 - cgroup2 cgroup2 rw
"""
PURE = "35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(("text", "path"), [(HYBRID, "/sys/fs/cgroup/unified"), (PURE, "/sys/fs/cgroup"), ("", "None")])
def test_cgroup_v2_is_found_where_it_is_mounted(text: str, path: str) -> None:
    assert str(mount_point(text)) == path
