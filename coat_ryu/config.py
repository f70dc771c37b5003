"""Topology files and request bodies, checked and turned into the model.

Every complaint names the place (``nodes.1.address``), what is wrong with it and what is allowed, and all complaints
about one document come together.
"""

import ipaddress
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from coat_ryu.errors import Conflict, InputError, NotFound, TopologyError
from coat_ryu.model import (
    ContainerSpec,
    ContainerState,
    Document,
    MacPolicy,
    Memory,
    Mode,
    Name,
    Network,
    State,
    Topology,
    default_mac,
)

D = TypeVar("D", bound=BaseModel)

SPEC_LIMIT = 128_000
"""Bytes of a container's spec: Linux takes 131,072 for one argument of a command (MAX_ARG_STRLEN in binfmts.h)."""

PREFIXES = (8, 30), (8, 126)
"""The shortest and the longest prefix of a subnet that containers can live in, IPv4 and IPv6."""


class PlanRequest(Document):
    """Body of ``POST /v1.0/plan``."""

    container: Name
    to: Name
    mode: Mode = "prepared"
    mac: MacPolicy = "keep"
    memory: Memory = "full"

    @field_validator("memory")
    @classmethod
    def _goes_with_mode(cls, memory: Memory, info: ValidationInfo) -> Memory:
        if memory != "full" and info.data.get("mode", "prepared") != "prepared":
            raise ValueError("anything but full needs mode prepared")
        return memory


class MigrateRequest(PlanRequest):
    """Body of ``POST /migrate``."""

    wait: bool = Field(default=False, strict=True)


class CleanupRequest(Document):
    """Body of ``POST /v1.0/cleanup``. Without ``remove`` it only looks."""

    remove: bool = Field(default=False, strict=True)


class Query(Document):
    """What may stand behind the ``?`` of a path: nothing, unless a subclass says so."""


class PageQuery(Query):
    """Part of a list: ``limit`` of its entries (None: all), without the first ``offset``."""

    limit: int | None = Field(default=None, ge=1, le=10_000)
    offset: int = Field(default=0, ge=0, le=2**53)


class MigrationsQuery(PageQuery):
    """``node`` is the source or the destination."""

    state: State | None = None
    container: Name | None = None
    node: Name | None = None


class ContainersQuery(PageQuery):
    node: Name | None = None
    state: ContainerState | None = None


class EventsQuery(Query):
    """``since`` is the number of the last event that is known already."""

    since: int | None = Field(default=None, ge=0, le=2**53)


class TopologyQuery(Query):
    """With ``dry_run`` nothing is changed, and the answer says what would be."""

    dry_run: bool = False


def parse_query(model: type[D], pairs: Iterable[tuple[str, str]]) -> D:
    """Query parameters as the model. Raises InputError that names the parameter."""
    document: dict[str, str] = {}
    for name, value in pairs:
        if name in document:
            raise InputError(f"{name}: given twice")
        document[name] = value
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise InputError(_complaints(error)) from None


class _Twice(ValueError):
    """A key that a mapping has twice, of which a parser would drop one without a word."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # a tenth of the time
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise _Twice(f"line {key.start_mark.line + 1}: {_shorten(key.value)}: given twice")
                seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(f"{_shorten(next(name for name in names if names.count(name) > 1))} is given twice")
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def parse_topology(text: str, source: str) -> Topology:
    """The topology that a YAML text describes.

    ``source`` is the file's name for messages. Raises TopologyError.
    """
    try:
        document = yaml.load(text, _Loader)
    except _Twice as error:
        raise TopologyError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise TopologyError(f"{source}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise TopologyError(f"{source}: must be a mapping with the keys nodes and networks, not {_kind(document)}")
    try:
        topology = Topology.model_validate(document)
    except ValidationError as error:
        raise TopologyError(f"{source}: {_complaints(error)}") from None
    problems = list(_inconsistencies(topology))
    if problems:
        raise TopologyError(f"{source}: " + "; ".join(problems))
    return topology


def parse_body(model: type[D], body: bytes) -> D:
    """A request body, JSON in UTF-8 (RFC 8259, section 8.1), as the model. Raises InputError that names the field."""
    try:
        document = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON: {error}", cause="bad_json") from None
    if not isinstance(document, dict):
        raise InputError(f"the body must be a JSON object, not {_kind(document)}", cause="bad_json")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise InputError(_complaints(error)) from None


def complete(spec: ContainerSpec, topology: Topology, others: Iterable[ContainerSpec]) -> ContainerSpec:
    """The spec with everything that was left out chosen: network, address, MAC.

    ``others`` are the completed specs of all containers that exist. Raises NotFound for an unknown node or network,
    Conflict for a name, address or MAC that is taken, InputError for an address outside its subnet.
    """
    others = [other for other in others if other.name != spec.name]
    if spec.node not in {node.name for node in topology.nodes}:
        known = ", ".join(node.name for node in topology.nodes) or "none"
        raise NotFound(f"node: there is no node {spec.node!r}; there are: {known}", cause="no_such_node")
    network = _network(spec, topology)
    same = [other for other in others if other.network == network.name]
    ip = spec.ip or _free_address(network, {other.ip for other in same})
    for problem in _address_problems(ip, spec.ip6, network):
        raise InputError(problem)
    size = len(spec.model_dump_json().encode())
    if size > SPEC_LIMIT:
        raise InputError(f"command: with env it takes {size} bytes as JSON; at most {SPEC_LIMIT} are taken")
    mac = spec.mac or default_mac(network.vni, ip)
    for other in same:
        if other.ip == ip or (spec.ip6 and other.ip6 == spec.ip6):
            raise Conflict(f"ip: {ip} is {other.name}'s on network {network.name}", cause="address_in_use")
        if other.mac == mac:
            raise Conflict(f"mac: {mac} is {other.name}'s on network {network.name}", cause="address_in_use")
    return spec.model_copy(update={"network": network.name, "ip": ip, "mac": mac})


def _network(spec: ContainerSpec, topology: Topology) -> Network:
    if not topology.networks:
        raise NotFound("network: the topology has no network", cause="no_such_network")
    if spec.network is None:
        return topology.networks[0]
    try:
        return topology.network(spec.network)
    except KeyError:
        known = ", ".join(network.name for network in topology.networks)
        raise NotFound(
            f"network: there is no network {spec.network!r}; there are: {known}", cause="no_such_network"
        ) from None


def _free_address(network: Network, taken: set[IPv4Address | None]) -> IPv4Address:
    for address in network.subnet.hosts():
        if address not in taken:
            return address
    raise Conflict(f"ip: no address is free in {network.subnet} of network {network.name}", cause="subnet_full")


def _address_problems(ip: IPv4Address, ip6: IPv6Address | None, network: Network) -> Iterator[str]:
    if not _usable(ip, network.subnet):
        yield f"ip: {ip} is not a host address of {network.subnet} (network {network.name})"
    if ip6 is not None and network.subnet6 is None:
        yield f"ip6: network {network.name} has no subnet6"
    elif ip6 is not None and network.subnet6 is not None and not _usable(ip6, network.subnet6):
        yield f"ip6: {ip6} is not a host address of {network.subnet6} (network {network.name})"


def _usable(address: IPv4Address | IPv6Address, subnet: IPv4Network | IPv6Network) -> bool:
    if address not in subnet:
        return False
    reserved = {subnet.network_address}
    if isinstance(subnet, ipaddress.IPv4Network):
        reserved.add(subnet.broadcast_address)
    return address not in reserved


def _is_host(address: IPv4Address | IPv6Address) -> bool:
    """Whether a host can have the address on a network (RFC 6890 has those that none has)."""
    if isinstance(address, IPv4Address) and address in IPv4Network("0.0.0.0/8"):
        return False
    odd = (address.is_loopback, address.is_multicast, address.is_unspecified, address.is_reserved)
    return not any(odd) and not (isinstance(address, IPv6Address) and address.is_link_local)


def _subnet_problems(network: Network, topology: Topology) -> Iterator[str]:
    for field, subnet, (shortest, longest) in zip(
        ("subnet", "subnet6"), (network.subnet, network.subnet6), PREFIXES, strict=True
    ):
        if subnet is None:
            continue
        if not shortest <= subnet.prefixlen <= longest:
            yield f"{field}: {subnet} is not usable; its prefix may have {shortest} to {longest} bits"
        elif not (_is_host(subnet.network_address) and _is_host(subnet.broadcast_address)):
            yield f"{field}: {subnet} is no network that hosts have addresses in"
    for node in topology.nodes:
        if node.address in network.subnet:
            yield f"subnet: {network.subnet} is the underlay's, for node {node.name} has {node.address}"
            return


def _inconsistencies(topology: Topology) -> Iterator[str]:
    """What each field on its own cannot tell."""
    if not topology.nodes:
        yield "nodes: at least one is needed"
    if not topology.networks:
        yield "networks: at least one is needed"
    for index, node in enumerate(topology.nodes):
        if not _is_host(node.address):
            yield f"nodes.{index}.address: {node.address} is no address at which other hosts reach this one"
    for index, network in enumerate(topology.networks):
        yield from (f"networks.{index}.{problem}" for problem in _subnet_problems(network, topology))
    yield from _doubles("nodes", "name", topology.nodes, lambda node: node.name)
    yield from _doubles("nodes", "address", topology.nodes, lambda node: node.address)
    yield from _doubles("nodes", "dpid", topology.nodes, lambda node: node.switch)
    yield from _doubles("networks", "name", topology.networks, lambda network: network.name)
    yield from _doubles("networks", "vni", topology.networks, lambda network: network.vni)
    yield from _doubles("containers", "name", topology.containers, lambda container: container.name)
    yield from _tunnel_problems(topology)
    seen: list[ContainerSpec] = []
    for index, container in enumerate(topology.containers):
        try:
            seen.append(complete(container, topology, seen))
        except (InputError, NotFound, Conflict) as error:
            yield f"containers.{index}.{error}"


def _doubles(where: str, field: str, items: Iterable[D], key: Callable[[D], object]) -> Iterator[str]:
    first: dict[object, int] = {}
    for index, item in enumerate(items):
        value = key(item)
        if value in first:
            yield f"{where}.{index}.{field}: {value} is already {where}.{first[value]}'s; each must differ"
        first.setdefault(value, index)


def _tunnel_problems(topology: Topology) -> Iterator[str]:
    if topology.tunnels == "full-mesh":
        return
    names = {node.name for node in topology.nodes}
    seen: set[frozenset[str]] = set()
    for index, tunnel in enumerate(topology.tunnels):
        unknown = [name for name in tunnel.between if name not in names]
        ends = frozenset(tunnel.between)
        if unknown:
            yield f"tunnels.{index}.between: there is no node {unknown[0]!r}; there are: {', '.join(sorted(names))}"
        elif len(ends) == 1:
            yield f"tunnels.{index}.between: the ends must differ"
        elif ends in seen:
            yield f"tunnels.{index}.between: this pair of nodes has a tunnel already"
        seen.add(ends)


def _complaints(error: ValidationError) -> str:
    return "; ".join(_complaint(detail) for detail in error.errors(include_url=False, include_context=False))


def _complaint(detail: Any) -> str:
    # pydantic adds the branch of a union to the location; a reader of the file knows nothing of that
    where = ".".join(str(part) for part in detail["loc"] if part not in ("constrained-str",) and "[" not in str(part))
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown field"
    if detail["type"] == "missing":
        return f"{where}: missing"
    if detail["type"] == "string_pattern_mismatch":
        return f"{where}: {detail['input']!r} is not allowed; {detail['msg'][0].lower()}{detail['msg'][1:]}"
    return f"{where}: {detail['msg'][0].lower()}{detail['msg'][1:]}, not {_shorten(detail['input'])}"


def _shorten(value: object) -> str:
    text = reprlib.repr(value)  # bounded, for a few lines of YAML can stand for more than fits into memory
    return text if len(text) <= 60 else text[:57] + "..."


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
