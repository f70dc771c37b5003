"""Switches that do what our flows say to symbolic frames: a small reading of OpenFlow 1.3, section 5.

Frames are dicts of field names; tunnels carry ``tunnel_id`` and everything else to the far end. What leaves a port that
is no tunnel is delivered. Hypothesis strategies for overlays and bindings are here too.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from hypothesis import strategies as st

from coat_ryu import flows
from coat_ryu.model import Binding, Place, container_port, hold_port, tunnel_port
from coat_ryu.openflow import OFPP_CONTROLLER, OFPP_IN_PORT, Flow, Key, Load, Match, Move, Output, SetField, Value
from coat_ryu.overlay import Overlay, pair

Frame = dict[str, Value]
Delivery = tuple[Place, Frame]

NAMES = ("one", "two", "three", "four", "five")
VNIS = (42, 43)


class Loops(AssertionError):
    """A frame visited more switches than there are."""


class Network:
    """Every node's switch, without flows until ``put`` or ``install``."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self.switches = {node: flows.Switch(node, _numbers(overlay, node)) for node in overlay.nodes}
        self.names = {node: {n: name for name, n in switch.ports.items()} for node, switch in self.switches.items()}
        self._tables: dict[str, dict[int, list[Flow]]] = {node: {} for node in overlay.nodes}

    def put(self, node: str, entries: Mapping[Key, Flow]) -> None:
        """Replaces all flows of a node."""
        tables: dict[int, list[Flow]] = {}
        for flow in sorted(entries.values(), key=lambda flow: -flow.priority):
            tables.setdefault(flow.table, []).append(flow)
        self._tables[node] = tables

    def install(self, bindings: Iterable[Binding]) -> None:
        bound = list(bindings)
        for node, switch in self.switches.items():
            self.put(node, flows.switch_flows(self.overlay, switch, VNIS, bound))

    def send(self, place: Place, frame: Mapping[str, Value], budget: int | None = None) -> list[Delivery]:
        """Where a frame that comes in at a place comes out. Raises Loops."""
        left = 2 * len(self.switches) if budget is None else budget
        if left == 0:
            raise Loops(f"{dict(frame)} is still on its way at {place}")
        delivered: list[Delivery] = []
        for number, out in self._through(place, frame):
            if number == OFPP_CONTROLLER:
                delivered.append((Place(place.node, "controller"), out))
                continue
            name = self.names[place.node][number]
            if name.startswith("t-"):
                delivered += self.send(Place(name[2:], tunnel_port(place.node)), out, left - 1)
            else:
                delivered.append((Place(place.node, name), {**out, "tunnel_id": 0}))
        return delivered

    def _through(self, place: Place, frame: Mapping[str, Value]) -> list[tuple[int, Frame]]:
        """One switch: the port numbers that the frame leaves through, and what it is then."""
        number = self.switches[place.node].ports[place.port]
        frame = {"tunnel_id": 0, **frame, "in_port": number}
        table, out = 0, []
        while (flow := self._lookup(place.node, table, frame)) is not None:
            for action in flow.actions:
                if isinstance(action, Output):
                    port = number if action.port == OFPP_IN_PORT else action.port
                    # No frame leaves by the port it came from unless in_port is named (section 5.12, OFPP_IN_PORT).
                    if action.port == OFPP_IN_PORT or port != frame["in_port"]:
                        out.append((port, dict(frame)))
                elif isinstance(action, SetField):
                    frame[action.field] = action.value
                elif isinstance(action, Move):
                    frame[action.target] = frame[action.source]
                elif isinstance(action, Load):
                    assert action.field == "in_port_nxm"
                    frame["in_port"] = action.value
            if flow.goto is None:
                break
            assert flow.goto > table
            table = flow.goto
        return out

    def _lookup(self, node: str, table: int, frame: Frame) -> Flow | None:
        return next((flow for flow in self._tables[node].get(table, ()) if matches(flow.match, frame)), None)


def matches(match: Match, frame: Frame) -> bool:
    return all(name in frame and _equal(want, frame[name]) for name, want in match)


def _equal(want: Value, value: Value) -> bool:
    if isinstance(want, str) and "/" in want:
        plain, mask = (_number(part) for part in want.split("/"))
        return _number(value) & mask == plain & mask
    return want == value


def _number(value: Value) -> int:
    if isinstance(value, str):
        return int(value.replace(":", ""), 16) if value.count(":") == 5 else int(value, 0)
    return value


def _numbers(overlay: Overlay, node: str) -> dict[str, int]:
    names = [tunnel_port(peer) for peer in overlay.peers(node)]
    names += [make(name) for name in NAMES for make in (container_port, hold_port)]
    return {name: number for number, name in enumerate(names, 1)}


# --- frames


def mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def ipv4(sender: Binding, receiver: Binding, **fields: Value) -> Frame:
    frame: Frame = {"eth_src": sender.mac, "eth_dst": receiver.mac, "eth_type": 0x0800, "vlan_vid": 0}
    return {**frame, "ipv4_src": str(sender.ips[0]), "ip_proto": 6, **fields}


def arp_request(sender: Binding, ip: str, **fields: Value) -> Frame:
    frame: Frame = {
        "eth_src": sender.mac,
        "eth_dst": "ff:ff:ff:ff:ff:ff",
        "eth_type": 0x0806,
        "vlan_vid": 0,
        "arp_op": 1,
    }
    frame |= {"arp_sha": sender.mac, "arp_spa": str(sender.ips[0]), "arp_tha": "00:00:00:00:00:00", "arp_tpa": ip}
    return {**frame, **fields}


def solicitation(sender: Binding, ip: str, **fields: Value) -> Frame:
    frame: Frame = {"eth_src": sender.mac, "eth_dst": "33:33:ff:00:00:01", "eth_type": 0x86DD, "vlan_vid": 0}
    frame |= {"ip_proto": 58, "icmpv6_type": 135, "ipv6_src": str(sender.ips[1]), "ipv6_dst": "ff02::1:ff00:1"}
    return {**frame, "nd_target": ip, "nd_sll": sender.mac, "nd_tll": "00:00:00:00:00:00", **fields}


# --- strategies


@st.composite
def overlays(draw: st.DrawFn, most: int = 6) -> Overlay:
    """A connected overlay: a random tree and some tunnels more, with weights."""
    nodes = [f"n{i}" for i in range(draw(st.integers(1, most)))]
    weight = st.sampled_from((1.0, 1.0, 2.0, 0.5, 1e-20))
    edges = {
        pair(nodes[number], draw(st.sampled_from(nodes[:number]))): draw(weight) for number in range(1, len(nodes))
    }
    if len(nodes) > 2:
        for a, b in draw(st.lists(st.tuples(st.sampled_from(nodes), st.sampled_from(nodes)), max_size=6)):
            if a != b:
                edges[pair(a, b)] = draw(weight)
    return Overlay(nodes, edges)


@st.composite
def bindings(draw: st.DrawFn, overlay: Overlay, least: int = 2) -> list[Binding]:
    names = NAMES[: draw(st.integers(least, len(NAMES)))]
    places = st.sampled_from(overlay.nodes)
    return [bound(name, draw(places), number, draw(st.sampled_from(VNIS))) for number, name in enumerate(names, 1)]


def bound(name: str, node: str, number: int, vni: int = 42) -> Binding:
    place = Place(node, container_port(name))
    ips = (ip_address(f"10.0.0.{number}"), ip_address(f"fd00::{number}"))
    return Binding(name, vni, mac(number), ips, place, (place,))
