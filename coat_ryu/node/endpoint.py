"""A container's place on the overlay: its namespace, its interface, its port on the bridge."""

from typing import Any

from coat_ryu.node import netns as namespaces
from coat_ryu.node import vswitch
from coat_ryu.node.verbs import Ifname, Mac, Netns, address, verb

PREFIX = "coat-"
"""Namespaces of ours are called so, and then like the container."""


@verb
def endpoint_ensure(
    *, bridge: Ifname, netns: Netns, port: Ifname, addresses: list[str], mac: Mac, mtu: int
) -> dict[str, Any]:
    """Namespace, veth, addresses (CIDR), MAC, MTU and OVS port are as asked for; ``created``: some were missing."""
    for number, text in enumerate(addresses):
        address(f"addresses[{number}]", text, interface=True)
    created = namespaces.create(netns)
    created |= namespaces.ensure_pair(netns, port, mtu)
    namespaces.configure(netns, addresses, mac, mtu)
    vswitch.add_port(bridge, port, "container", f"external_ids:coat-name={netns.removeprefix(PREFIX)}")
    return {"created": created}


@verb
def neighbour_flush(*, netns: Netns, addresses: list[str]) -> dict[str, Any]:
    """The container asks anew who has these addresses. ``flushed`` counts the entries that were there."""
    for number, text in enumerate(addresses):
        address(f"addresses[{number}]", text)
    flushed = namespaces.forget_neighbours(netns, addresses) if namespaces.exists(netns) else 0
    return {"flushed": flushed}


@verb
def endpoint_remove(*, bridge: Ifname, netns: Netns, port: Ifname) -> dict[str, Any]:
    """Nothing of it is left; ``removed`` says whether there was anything."""
    vswitch.delete_ports(bridge, [port])
    had_link = namespaces.delete_link(port)
    return {"removed": namespaces.remove(netns) or had_link}
