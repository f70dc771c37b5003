"""Topology files and request bodies: what is taken, and what each refusal says."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from coat_ryu.config import MigrateRequest, complete, parse_body, parse_topology
from coat_ryu.errors import Conflict, InputError, NotFound, TopologyError
from coat_ryu.model import ContainerSpec, Topology

TOPOLOGIES = Path(__file__).parents[2] / "topologies"

LIMIT = "at most 128000 are taken"
NO_HOSTS = ("127.0.0.1", "0.0.0.0", "0.0.0.5", "239.0.0.1", "255.255.255.255", "240.0.0.1")
SMALL = """
networks:
  - {name: apps, vni: 42, subnet: 192.168.50.0/30}
nodes:
  - {name: a, address: 10.0.0.1}
  - {name: b, address: 10.0.0.2}
"""


def small() -> Topology:
    return parse_topology(SMALL, "small.yaml")


@pytest.mark.parametrize("path", sorted(TOPOLOGIES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_topology_that_comes_with_the_project_is_accepted(path: Path) -> None:
    assert parse_topology(path.read_text(), path.name).nodes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("10.0.0.1", "10.0.0.300"), "nodes.0.address"),
        (("name: b", "name: a"), "nodes.1.name: a is already nodes.0's"),
        (("10.0.0.2", "10.0.0.1"), "nodes.1.address: 10.0.0.1 is already"),
        (("vni: 42", "vni: 0"), "networks.0.vni"),
        (("vni: 42", "vnii: 42"), "networks.0.vnii: unknown field"),
        (("vni: 42, ", ""), "networks.0.vni: missing"),
        (("name: apps", "name: 'a b'"), "networks.0.name: 'a b' is not allowed"),
        (
            ("nodes:", "tunnels: [{between: [a, c]}]\nnodes:"),
            "tunnels.0.between: there is no node 'c'; there are: a, b",
        ),
        (("nodes:", "tunnels: [{between: [a, a]}]\nnodes:"), "tunnels.0.between: the ends must differ"),
        (("nodes:", "tunnels: star\nnodes:"), "tunnels"),
        (("nodes:", "containers: [{name: x, node: z, image: i}]\nnodes:"), "containers.0.node: there is no node 'z'"),
        (("nodes:", "containers: [{name: x, node: a, image: i, ip: 10.1.1.1}]\nnodes:"), "containers.0.ip: 10.1.1.1"),
        (("nodes:", "containers: [{name: x, node: a, image: i, ip: 192.168.50.3}]\nnodes:"), "not a host address"),
        ((SMALL, "[]"), "must be a mapping"),
        (("nodes:", "nodes: [{name: c, address: 10.0.0.9}]\nnodes:"), "line 5: 'nodes': given twice"),
        (("name: b", "name: b, name: c"), "line 6: 'name': given twice"),
        *((("10.0.0.1", bad), f"nodes.0.address: {bad} is no address at which") for bad in NO_HOSTS),
        (("10.0.0.1", "5"), "nodes.0.address: value error, input should be an address in words"),
        (("name: b", "name: b, dpid: '0000000000000000'"), "nodes.1.dpid: value error, 0 is no datapath id"),
        (("vni: 42", "vni: true"), "networks.0.vni: input should be a valid integer"),
        (("nodes:", "tunnels: [{between: [a, b], weight: .inf}]\nnodes:"), "weight"),
        (("nodes:", "tunnels: [{between: [a, b], weight: true}]\nnodes:"), "weight"),
        *((("192.168.50.0/30", bad), "may have 8 to 30 bits") for bad in ("0.0.0.0/0", "10.9.9.8/31", "10.9.9.9")),
        *((("192.168.50.0/30", bad), "no network that hosts have") for bad in ("127.0.0.0/8", "224.0.0.0/24")),
        (("192.168.50.0/30", "0.0.0.0/8"), "no network that hosts have"),
        (
            ("192.168.50.0/30", "10.0.0.0/24"),
            "subnet: 10.0.0.0/24 is the underlay's, for node a has 10.0.0.1",
        ),
        (("/30}", "/30, subnet6: 'fe80::/64'}"), "subnet6: fe80::/64 is no network that hosts have"),
        (("/30}", "/30, subnet6: 'ff05::/64'}"), "subnet6: ff05::/64 is no network that hosts have"),
        (("/30}", "/30, subnet6: '::/0'}"), "may have 8 to 126 bits"),
        (("nodes:", f"containers: [{{name: x, node: a, image: i, command: [{'y' * 140_000}]}}]\nnodes:"), LIMIT),
        ((SMALL, "a: [b"), "not YAML"),
        ((SMALL, "nodes: []\nnetworks: []"), "nodes: at least one is needed"),
    ],
)
def test_a_broken_topology_is_refused_with_file_field_and_reason(change: tuple[str, str], said: str) -> None:
    with pytest.raises(TopologyError) as refusal:
        parse_topology(SMALL.replace(*change), "small.yaml")
    assert str(refusal.value).startswith("small.yaml: ")
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object, not a list"),
        (b"null", "must be a JSON object, not nothing"),
        (b'{"to": "b"}', "container: missing"),
        (b'{"container": "x", "to": "b", "fast": true}', "fast: unknown field"),
        (b'{"container": 7, "to": "b"}', "container: input should be a valid string, not 7"),
        (
            b'{"container": "x", "to": "b", "mode": "quick"}',
            "mode: input should be 'prepared', 'parallel' or 'sequential'",
        ),
        (b'{"container": "x", "to": "b", "memory": "all"}', "memory: input should be 'full', 'lazy' or 'precopy'"),
        (
            b'{"container": "x", "to": "b", "mode": "sequential", "memory": "lazy"}',
            "memory: value error, anything but full needs mode prepared, not 'lazy'",
        ),
        (b'{"container": "x", "to": "b", "wait": "yes"}', "wait: input should be a valid boolean"),
        (b'{"container": "x; rm -rf /", "to": "b"}', "container: 'x; rm -rf /' is not allowed"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_body_is_refused_with_the_field(body: bytes, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_body(MigrateRequest, body)
    assert said in str(refusal.value)


def test_what_a_container_leaves_out_is_chosen() -> None:
    first = complete(ContainerSpec(name="x", node="a", image="i"), small(), [])
    second = complete(ContainerSpec(name="y", node="b", image="i"), small(), [first])
    assert (first.network, first.ip, second.ip) == ("apps", IPv4Address("192.168.50.1"), IPv4Address("192.168.50.2"))
    assert first.mac != second.mac
    with pytest.raises(Conflict, match="no address is free"):
        complete(ContainerSpec(name="z", node="a", image="i"), small(), [first, second])


def test_what_is_taken_or_unknown_is_refused() -> None:
    first = complete(ContainerSpec(name="x", node="a", image="i"), small(), [])
    with pytest.raises(Conflict, match=r"192\.168\.50\.1 is x's"):
        complete(ContainerSpec(name="y", node="a", image="i", ip=IPv4Address("192.168.50.1")), small(), [first])
    with pytest.raises(Conflict, match="mac: "):
        complete(ContainerSpec(name="y", node="a", image="i", mac=first.mac), small(), [first])
    with pytest.raises(NotFound, match="no network 'n'; there are: apps"):
        complete(ContainerSpec(name="y", node="a", image="i", network="n"), small(), [])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"container": "web", "to": "a", "to": "b"}', "'to' is given twice"),
        ('{"container": "web", "to": "b"}'.encode("utf-16"), "not JSON"),
        ('{"container": "web", "to": "b"}'.encode("utf-16-le"), "not JSON"),
        ('{"container": "web", "to": "b"}'.encode("utf-32"), "not JSON"),
        (b'{"container": "web", "to": NaN}', "NaN is no JSON"),
        (b'{"container": {"a": 1, "a": 2}, "to": "b"}', "'a' is given twice"),
    ],
)
def test_a_body_that_others_read_otherwise_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        parse_body(MigrateRequest, body)
    assert refusal.value.cause == "bad_json"


def test_a_capability_that_is_no_word_is_refused_in_words() -> None:
    with pytest.raises(InputError, match=r"cap_drop.0: value error, a capability"):
        parse_body(ContainerSpec, b'{"name": "x", "node": "a", "image": "i", "cap_drop": [{}]}')


def test_a_merged_key_is_no_double() -> None:
    text = SMALL.replace("{name: a, address", "&one {name: a, address").replace("- {name: b,", "- {<<: *one, name: b,")
    assert [str(node.address) for node in parse_topology(text, "merged").nodes] == ["10.0.0.1", "10.0.0.2"]


def test_a_command_as_long_as_a_node_can_run_is_taken() -> None:
    spec = ContainerSpec(name="x", node="a", image="i", command=("y" * 100_000,))
    assert complete(spec, small(), []).ip
    with pytest.raises(InputError, match=f"140_?\\d+ bytes as JSON; {LIMIT}"):
        complete(spec.model_copy(update={"command": ("y" * 100_000, "y" * 40_000)}), small(), [])
