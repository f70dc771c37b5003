"""What the lab builds for a topology: addresses and link settings, as plain data for the part that runs inside."""

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from pydantic import Field

from coat_ryu.config import parse_body
from coat_ryu.errors import InputError, TopologyError
from coat_ryu.model import Document, Name, Topology
from coat_ryu.ssh import Login


class LinkSpec(Document):
    """A host's link to the underlay, for what the host sends (the paper, IV.B, shapes "the outgoing traffic").

    ``delay_ms`` is added one way: two hosts with 20 and 2 have a round trip of 22 ms. ``queue_ms`` is how much a rate
    lets wait before it drops.
    """

    delay_ms: float = Field(default=0, ge=0, le=10_000)
    jitter_ms: float = Field(default=0, ge=0, le=10_000)
    loss_percent: float = Field(default=0, ge=0, le=100)
    rate_mbit: float | None = Field(default=None, gt=0, le=100_000)
    queue_ms: float = Field(default=50, gt=0, le=10_000)


class HostSpec(Document):
    """``images``: the lab's container images that the host has from the start, by short name; None means all.

    ``disk_mb`` bounds all that the host writes, Podman's storage and checkpoints among it.
    """

    images: tuple[str, ...] | None = None
    disk_mb: int | None = Field(default=None, ge=64)


class LabSpec(Document):
    """The ``lab`` section of a topology file."""

    underlay: IPv4Network | None = None
    controller: IPv4Address | None = None
    links: dict[Name, LinkSpec] = {}
    hosts: dict[Name, HostSpec] = {}


class _Section(Document):
    lab: LabSpec


def parse_section(topology: Topology, source: str, images: tuple[str, ...]) -> LabSpec:
    """The topology's ``lab`` section. Raises TopologyError that names the field and what is allowed."""
    try:
        spec = parse_body(_Section, json.dumps({"lab": topology.lab}).encode()).lab
    except InputError as error:
        raise TopologyError(f"{source}: {error}") from None
    names = [node.name for node in topology.nodes]
    for section, keys in (("links", spec.links), ("hosts", spec.hosts)):
        for name in keys:
            if name not in names:
                raise TopologyError(f"{source}: lab.{section}.{name}: no such node; there are {', '.join(names)}")
    for name, host in spec.hosts.items():
        for image in host.images or ():
            if image not in images:
                raise TopologyError(
                    f"{source}: lab.hosts.{name}.images: {image!r} is none of the lab's images: {', '.join(images)}"
                )
    return spec


def underlay_network(addresses: list[IPv4Address]) -> IPv4Network:
    """The smallest network, /24 at most, that holds all addresses and leaves its last host address free."""
    for length in range(24, -1, -1):
        network = IPv4Network((addresses[0], length), strict=False)
        if all(address in network for address in addresses) and network.broadcast_address - 1 not in addresses:
            return network
    raise AssertionError("0.0.0.0/0 holds every address")


def login_addresses(topology: Topology, source: str) -> list[IPv4Address]:
    """Where the hosts are logged in to: all of them where their tunnels end, or none. Raises TopologyError."""
    found = []
    for node in topology.nodes:
        try:
            found.append(IPv4Address(Login.of(node).host))
        except ValueError:
            raise TopologyError(
                f"{source}: nodes.{node.name}.ssh.host: {node.ssh.host!r}: an IPv4 address is wanted in the lab"
            ) from None
    if len({login == node.address for login, node in zip(found, topology.nodes, strict=True)}) > 1:
        raise TopologyError(f"{source}: nodes.*.ssh.host: all hosts of a lab have one beside their address, or none")
    return found


def make_plan(topology: Topology, spec: LabSpec, source: str) -> dict[str, Any]:
    """Everything that ``inside`` needs to know, ready for JSON. Raises TopologyError."""
    addresses = [node.address for node in topology.nodes]
    underlay = spec.underlay or underlay_network(addresses)
    logins = login_addresses(topology, source)
    apart = logins != addresses
    control = underlay_network(logins) if apart else underlay
    controller = spec.controller or control.broadcast_address - 1
    for node in topology.nodes:
        if node.address not in underlay:
            raise TopologyError(
                f"{source}: lab.underlay: {underlay} does not hold {node.name}'s address {node.address}"
            )
    if apart and control.overlaps(underlay):
        raise TopologyError(f"{source}: nodes.*.ssh.host: {control} must be apart from the underlay, {underlay}")
    if controller in [*addresses, *logins] or controller not in control:
        raise TopologyError(f"{source}: lab.controller: {controller} must be a free address of {control}")
    return {
        "hosts": [
            {
                "name": node.name,
                "address": str(node.address),
                "ssh_host": str(login),
                "ssh_port": node.ssh.port,
                "datapath": node.datapath,
                "link": spec.links.get(node.name, LinkSpec()).model_dump(),
                **spec.hosts.get(node.name, HostSpec()).model_dump(),
            }
            for node, login in zip(topology.nodes, logins, strict=True)
        ],
        "prefix_length": underlay.prefixlen,
        "control_prefix_length": control.prefixlen,
        "controller": str(controller),
        "mtu": topology.underlay_mtu,
    }
