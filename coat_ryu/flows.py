"""The flows of a switch, computed from the overlay and the bindings.

A switch's whole set is a base, one contribution per container and one flood entry per network, so that a cut-over
recomputes one container's part only. Forwarding is by (VNI, destination MAC) towards the node of the binding. The VNI
travels in tunnel_id: the edge sets it, VXLAN carries it, every table matches it, so networks cannot mix. Frames to a
MAC that nobody has are dropped: all MACs are known, so there is nobody to find by flooding; broadcast and multicast go
along the flood tree.

While a container is held, frames that come out of its hold must reach its place even where switches still send the
container's frames into the hold. So between hold and place they carry a MAC of their own (``direct_mac``), which every
switch forwards to the place, and which the last one turns back. In the same way ``held_mac`` leads into the hold, even
where switches still send the container's frames to its place: so that the place's switch alone can turn them. They keep
it in the hold, which so knows those that took the longer way.

Just before the freeze the place's switch alone sends into the hold what opens a TCP connection (``Hold.sifting``): a
frozen kernel would answer it, and no checkpoint has a connection that nobody has accepted.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from coat_ryu import flows_edge
from coat_ryu.flows_edge import ADMIT, ETH_IPV4, ETH_IPV6, FORWARD, TCP
from coat_ryu.model import Binding, Hold, Place, tunnel_port
from coat_ryu.openflow import Action, Flow, Key, Load, Output, Role, SetField, keyed, match
from coat_ryu.overlay import Overlay

SYN_ALONE = "0x2/0x12"
"""Matches the TCP flags of what opens a connection: SYN, but not ACK (RFC 9293, section 3.5)."""
GROUP = "01:00:00:00:00:00/01:00:00:00:00:00"
"""Matches broadcast and multicast destinations (IEEE 802, the I/G bit)."""


@dataclass(frozen=True)
class Switch:
    """What is known of one switch: its node, its ports (name -> number) and what its datapath can do."""

    node: str
    ports: Mapping[str, int]
    advertise: bool = True


def direct_mac(vni: int, container: str) -> str:
    """The MAC under which a container's frames travel from its hold to its place."""
    return _label("direct", vni, container)


def held_mac(vni: int, container: str) -> str:
    """The MAC under which a container's frames travel from its place to its hold."""
    return _label("held", vni, container)


@lru_cache(maxsize=4096)
def _label(what: str, vni: int, container: str) -> str:
    tail = hashlib.sha256(f"{what}/{vni}/{container}".encode()).digest()[:5]
    return ":".join(f"{byte:02x}" for byte in b"\x0a" + tail)


def base(overlay: Overlay, switch: Switch) -> dict[Key, Flow]:
    """What a switch has whatever is bound: the tables' last entries, and its tunnels, dead ones too (they may come
    back).
    """
    return {**flows_edge.base(), **keyed(_tunnels(overlay, switch))}


def _tunnels(overlay: Overlay, switch: Switch) -> Iterator[Flow]:
    for peer in overlay.peers(switch.node):
        if (number := switch.ports.get(tunnel_port(peer))) is not None:
            yield Flow(ADMIT, 800, match(in_port=number), goto=FORWARD)


def container(overlay: Overlay, switch: Switch, binding: Binding) -> dict[Key, Flow]:
    """What one container contributes to a switch."""
    return {**flows_edge.answers(binding, switch.advertise), **keyed(_delivery(overlay, switch, binding))}


def _delivery(overlay: Overlay, switch: Switch, binding: Binding) -> Iterator[Flow]:
    for number in flows_edge.ports_of(binding, switch.node, switch.ports):
        yield from flows_edge.admission(binding, number)
    for mac in flows_edge.macs(binding):
        if actions := _forward(overlay, switch, binding, mac):
            yield Flow(FORWARD, 500, match(tunnel_id=binding.vni, eth_dst=mac), actions, role=Role.FORWARD)
    if binding.hold:
        yield from _hold(overlay, switch, binding, binding.hold.tap)
        yield from _sift(overlay, switch, binding, binding.hold)


def _forward(overlay: Overlay, switch: Switch, binding: Binding, mac: str) -> tuple[Action, ...]:
    if binding.hold and _turns(switch, binding, binding.hold):
        return _to_hold(overlay, switch, binding, binding.hold.tap)
    into_hold = binding.delivery != binding.place
    rewrite = () if mac == binding.mac or into_hold else (SetField("eth_dst", binding.mac),)
    return _towards(overlay, switch, binding.delivery, rewrite)


def _to_hold(overlay: Overlay, switch: Switch, binding: Binding, tap: Place) -> tuple[Action, ...]:
    label = (SetField("eth_dst", held_mac(binding.vni, binding.container)),)
    way = _towards(overlay, switch, tap, ())
    return way if tap.node == switch.node or not way else (*label, *way)


def _sift(overlay: Overlay, switch: Switch, binding: Binding, hold: Hold) -> Iterator[Flow]:
    """Above its delivery. Once all is turned it changes nothing, and stays for the sake of the order of changes."""
    if not (hold.sifting or hold.turned) or binding.place.node != switch.node:
        return
    if actions := _to_hold(overlay, switch, binding, hold.tap):
        for mac in flows_edge.macs(binding):
            for kind in (ETH_IPV4, ETH_IPV6):
                opening = match(tunnel_id=binding.vni, eth_dst=mac, eth_type=kind, ip_proto=TCP, tcp_flags=SYN_ALONE)
                yield Flow(FORWARD, 510, opening, actions, role=Role.SIFT)


def _turns(switch: Switch, binding: Binding, hold: Hold) -> bool:
    """Whether frames for the container may come here as they ever did, and go on into its hold."""
    if hold.turned:
        return binding.place.node == switch.node
    return hold.filling and any(origin.node == switch.node for origin in binding.origins)


def _hold(overlay: Overlay, switch: Switch, binding: Binding, tap: Place) -> Iterator[Flow]:
    direct, held = (label(binding.vni, binding.container) for label in (direct_mac, held_mac))
    back = (SetField("eth_dst", binding.mac),)
    if actions := _towards(overlay, switch, tap, ()):
        yield Flow(FORWARD, 500, match(tunnel_id=binding.vni, eth_dst=held), actions, role=Role.HOLD)
    if actions := _towards(overlay, switch, binding.place, back):
        yield Flow(FORWARD, 500, match(tunnel_id=binding.vni, eth_dst=direct), actions, role=Role.HOLD)
    if tap.node != switch.node or tap.port not in switch.ports:
        return
    out_of_hold = match(in_port=switch.ports[tap.port])
    if binding.place.node != switch.node:
        mark = (SetField("tunnel_id", binding.vni), SetField("eth_dst", direct))
        yield Flow(ADMIT, 700, out_of_hold, mark, FORWARD, Role.HOLD)
    elif actions:
        yield Flow(ADMIT, 700, out_of_hold, actions, role=Role.HOLD)


def _towards(overlay: Overlay, switch: Switch, place: Place, rewrite: tuple[Action, ...]) -> tuple[Action, ...]:
    """Actions that bring a frame nearer to a place, ``rewrite`` done by the last switch; none when there is no way."""
    if place.node == switch.node:
        number = switch.ports.get(place.port)
        return () if number is None else (*rewrite, Output(number))
    hop = overlay.next_hop(switch.node, place.node)
    number = switch.ports.get(tunnel_port(hop)) if hop else None
    if number is None:
        return ()
    # A straggler may have to go back through the tunnel it came from; a switch never sends a frame out of its in_port
    # unless that is forgotten (ovs-fields(7), in_port).
    return (Load("in_port_nxm", 0), Output(number))


def flood(overlay: Overlay, switch: Switch, vni: int, places: Iterable[Place]) -> Flow:
    """Broadcast and multicast of one network: to its containers here and along the tree; not back to where it came
    from.
    """
    tree = {tunnel_port(peer) for peer in overlay.flood_neighbours(switch.node)}
    here = {place.port for place in places if place.node == switch.node}
    numbers = sorted(switch.ports[name] for name in tree | here if name in switch.ports)
    actions = tuple(Output(number) for number in numbers)
    return Flow(FORWARD, 400, match(tunnel_id=vni, eth_dst=GROUP), actions, role=Role.FLOOD)


def audience(binding: Binding) -> tuple[Place, ...]:
    """Where a container hears broadcasts: nowhere while it is frozen."""
    return () if binding.hold and binding.hold.filling else (binding.place,)


def switch_flows(overlay: Overlay, switch: Switch, vnis: Iterable[int], bindings: Iterable[Binding]) -> dict[Key, Flow]:
    """The whole flow set of one switch."""
    bound = list(bindings)
    flows = base(overlay, switch)
    for vni in vnis:
        places = (place for binding in bound if binding.vni == vni for place in audience(binding))
        entry = flood(overlay, switch, vni, places)
        flows[entry.key] = entry
    for binding in bound:
        flows.update(container(overlay, switch, binding))
    return flows
