"""Flows at the edge, where containers are plugged in: who may send as whom, and answers to "who has this address?".

Every frame that a container sends passes ADMIT (its own MAC and addresses only), IPv6 also CLAIM (neighbour discovery
may speak of its own addresses only), and requests for addresses that are bound are answered in ANSWER, so that they
never cross the overlay. Frames from tunnels have passed the edge of another node and go straight to FORWARD.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from coat_ryu.model import Binding
from coat_ryu.openflow import (
    OFPP_CONTROLLER,
    OFPP_IN_PORT,
    Flow,
    Key,
    Move,
    Output,
    Role,
    SetField,
    Value,
    keyed,
    match,
)

ADMIT, CLAIM, ANSWER, ADVERTISE, FORWARD = range(5)
"""The tables, in the order in which a frame passes them."""

ETH_IPV4, ETH_ARP, ETH_IPV6 = 0x0800, 0x0806, 0x86DD
TCP, ICMPV6 = 6, 58
ROUTER_ADVERTISEMENT, SOLICITATION, ADVERTISEMENT, REDIRECT, MLD2_REPORT = 134, 135, 136, 137, 143
NO_MAC = "00:00:00:00:00:00"

SOLICITED_AND_OVERRIDE = 0x60000000  # RFC 4861, section 4.4
TARGET_LINK_LAYER_ADDRESS = 2  # RFC 4861, section 4.6.1


def link_local(mac: str) -> str:
    """The link-local address that an interface with this MAC gives itself (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


def macs(binding: Binding) -> tuple[str, ...]:
    return (binding.mac, *binding.former_macs)


def ipv4_addresses(binding: Binding) -> tuple[str, ...]:
    return tuple(str(ip) for ip in binding.ips if isinstance(ip, IPv4Address))


def ipv6_addresses(binding: Binding) -> tuple[str, ...]:
    """Its IPv6 addresses and the link-local one of each of its MACs: any other link-local address is spoofed."""
    own = tuple(str(ip) for ip in binding.ips if isinstance(ip, IPv6Address))
    return tuple(dict.fromkeys(own + tuple(link_local(mac) for mac in macs(binding))))


@lru_cache(maxsize=1)
def base() -> Mapping[Key, Flow]:
    """What every switch has, whatever is bound."""
    return keyed(_base())


def _base() -> Iterator[Flow]:
    tagged = match(vlan_vid="0x1000/0x1000")  # any VLAN tag would slip an eth_type past the checks
    yield Flow(ADMIT, 900, tagged, role=Role.DENY)
    yield Flow(ADMIT, 0, (), role=Role.UNKNOWN)
    nd = {"eth_type": ETH_IPV6, "ip_proto": ICMPV6}
    # Duplicate address detection of an admitted address: bindings are unique, silence is the answer (RFC 4862, 5.4).
    yield Flow(CLAIM, 90, match(**nd, icmpv6_type=SOLICITATION, ipv6_src="::"), role=Role.ANSWER)
    for kind in (ROUTER_ADVERTISEMENT, SOLICITATION, ADVERTISEMENT, REDIRECT):
        yield Flow(CLAIM, 10, match(**nd, icmpv6_type=kind), role=Role.DENY)
    yield Flow(CLAIM, 0, (), goto=FORWARD)
    yield Flow(ANSWER, 0, (), goto=FORWARD)
    yield Flow(FORWARD, 0, (), role=Role.UNKNOWN)
    # The second half of an advertisement: Open vSwitch lets nd_tll be set only where the match says type 136.
    advertisement = match(**nd, icmpv6_type=ADVERTISEMENT)
    yield Flow(ADVERTISE, 10, advertisement, (Move("eth_src", "nd_tll"), Output(OFPP_IN_PORT)), role=Role.ANSWER)


def admission(binding: Binding, port: int) -> Iterator[Flow]:
    """What may come in at a container's port; all else is dropped and counted."""
    enter = (SetField("tunnel_id", binding.vni),)
    for mac in macs(binding):
        source: dict[str, Value] = {"in_port": port, "eth_src": mac}
        for ip in ipv4_addresses(binding):
            arp = match(**source, eth_type=ETH_ARP, arp_sha=mac, arp_spa=ip)
            yield Flow(ADMIT, 500, arp, enter, ANSWER, Role.ADMIT)
            yield Flow(ADMIT, 500, match(**source, eth_type=ETH_IPV4, ipv4_src=ip), enter, FORWARD, Role.ADMIT)
        probe = match(**source, eth_type=ETH_ARP, arp_op=1, arp_sha=mac, arp_spa="0.0.0.0")  # RFC 5227, section 1.1
        yield Flow(ADMIT, 500, probe, enter, ANSWER, Role.ADMIT)
        for ip in ipv6_addresses(binding):
            yield Flow(ADMIT, 500, match(**source, eth_type=ETH_IPV6, ipv6_src=ip), enter, CLAIM, Role.ADMIT)
        # The two messages that are sent before there is an address (RFC 4861, 4.3; RFC 3810, 5.2.13).
        for kind, table in ((SOLICITATION, CLAIM), (MLD2_REPORT, FORWARD)):
            unspecified = match(**source, eth_type=ETH_IPV6, ip_proto=ICMPV6, icmpv6_type=kind, ipv6_src="::")
            yield Flow(ADMIT, 500, unspecified, enter, table, Role.ADMIT)
    yield Flow(ADMIT, 100, match(in_port=port), role=Role.DENY)
    yield from _claims(binding, port)


def _claims(binding: Binding, port: int) -> Iterator[Flow]:
    """Which link-layer addresses neighbour discovery may announce; an absent option reads as zero."""
    nd = {"in_port": port, "eth_type": ETH_IPV6, "ip_proto": ICMPV6}
    for mac in (*macs(binding), NO_MAC):
        solicitation = match(**nd, icmpv6_type=SOLICITATION, nd_sll=mac)
        yield Flow(CLAIM, 50, solicitation, goto=ANSWER, role=Role.ADMIT)
        for ip in ipv6_addresses(binding):
            advertisement = match(**nd, icmpv6_type=ADVERTISEMENT, nd_target=ip, nd_tll=mac)
            yield Flow(CLAIM, 50, advertisement, goto=FORWARD, role=Role.ADMIT)
    for ip in ipv4_addresses(binding):
        # A gratuitous request or a probe for its own address: an answer would look like a duplicate.
        own = match(in_port=port, eth_type=ETH_ARP, arp_op=1, arp_tpa=ip)
        yield Flow(ANSWER, 50, own, role=Role.ANSWER)


@lru_cache(maxsize=1 << 15)
def answers(binding: Binding, advertise: bool) -> Mapping[Key, Flow]:
    """ARP and neighbour discovery for a bound address: the same flows, and the same objects, for every switch.

    ``advertise`` False is for a switch whose datapath cannot rewrite a solicitation into an advertisement (the
    kernel's, see ``wire``): there the controller answers.
    """
    return keyed(_answers(binding, advertise))


def _answers(binding: Binding, advertise: bool) -> Iterator[Flow]:
    for ip in ipv4_addresses(binding):
        request = match(tunnel_id=binding.vni, eth_type=ETH_ARP, arp_op=1, arp_tpa=ip)
        yield Flow(ANSWER, 20, request, _arp_reply(binding.mac, ip), role=Role.ANSWER)
    for ip in ipv6_addresses(binding):
        asked = {"tunnel_id": binding.vni, "eth_type": ETH_IPV6, "ip_proto": ICMPV6, "icmpv6_type": SOLICITATION}
        if not advertise:
            yield Flow(ANSWER, 20, match(**asked, nd_target=ip), (Output(OFPP_CONTROLLER),), role=Role.ANSWER)
            continue
        turned = _advertisement(binding.mac, ip)
        with_option = (*turned, SetField("nd_options_type", TARGET_LINK_LAYER_ADDRESS))
        yield Flow(ANSWER, 20, match(**asked, nd_target=ip), with_option, ADVERTISE, Role.ANSWER)
        # A unicast solicitation may lack the option, and then so does its answer (RFC 4861, sections 4.3 and 4.4).
        bare = match(**asked, nd_target=ip, nd_sll=NO_MAC)
        yield Flow(ANSWER, 30, bare, (*turned, Output(OFPP_IN_PORT)), role=Role.ANSWER)


def _arp_reply(mac: str, ip: str) -> tuple[Move | SetField | Output, ...]:
    return (
        Move("eth_src", "eth_dst"),
        SetField("eth_src", mac),
        SetField("arp_op", 2),
        Move("arp_sha", "arp_tha"),
        SetField("arp_sha", mac),
        Move("arp_spa", "arp_tpa"),
        SetField("arp_spa", ip),
        Output(OFPP_IN_PORT),
    )


def _advertisement(mac: str, ip: str) -> tuple[Move | SetField, ...]:
    return (
        Move("eth_src", "eth_dst"),
        SetField("eth_src", mac),
        Move("ipv6_src", "ipv6_dst"),
        SetField("ipv6_src", ip),
        SetField("icmpv6_type", ADVERTISEMENT),
        SetField("nd_reserved", SOLICITED_AND_OVERRIDE),
    )


def ports_of(binding: Binding, node: str, ports: Mapping[str, int]) -> Iterator[int]:
    """The ports on this node that may send as the binding, as far as the switch has them."""
    for origin in binding.origins:
        if origin.node == node and origin.port in ports:
            yield ports[origin.port]
