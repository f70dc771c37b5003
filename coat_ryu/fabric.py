"""Keeps every connected switch equal to what ``flows`` computes, and moves containers between places in the right
order.

Whatever the occasion (a switch connects, a port appears, a binding changes, somebody tampers), what is wanted is
computed, compared with what is there, and the difference applied (``keeper``, ``member``). A cut-over goes the same
way, only in order and for one container.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from ryu.controller.handler import DEAD_DISPATCHER, MAIN_DISPATCHER
from ryu.lib import hub

from coat_ryu import cutover, frames, wire
from coat_ryu.errors import CoatError, NotFound
from coat_ryu.feed import Tell, silent
from coat_ryu.flows_edge import ipv6_addresses
from coat_ryu.flowview import as_ofctl
from coat_ryu.keeper import Keeper
from coat_ryu.member import Member, Plan
from coat_ryu.model import Binding, Topology
from coat_ryu.openflow import Change, Key, Role
from coat_ryu.overlay import Overlay, Pair, pair, tunnels
from coat_ryu.switches import Switchboard
from coat_ryu.tracks import Track

LOG = logging.getLogger(__name__)

ANSWER_TIMEOUT = 2.0
"""Seconds in which a switch that is well has answered."""
REROUTE_DELAY = 0.02  # the ports of one node mostly come and go together


class Waiter:
    """A change on its way to the switches."""

    def __init__(self, fabric: "Fabric", done: Callable[[], bool], what: str) -> None:
        self._fabric, self._done, self._what = fabric, done, what

    def wait(self, timeout: float) -> None:
        """Until every connected switch has it. Raises SwitchTimeout after ``timeout`` seconds."""
        self._fabric._keeper.until(self._done, timeout, self._what)


class Loan:
    """What turns a container's frames into its hold at the switch of its place, for that node to apply: first, with
    ``sift``, what opens a connection, which ``unsift`` takes back; then, with ``messages``, all else.
    """

    def __init__(self, fabric: "Fabric", old: Binding, new: Binding) -> None:
        self._fabric, self._old, self._new = fabric, old, new
        self._member = fabric._member(old.place.node)
        changes = self._member.lend(old, new)
        first = [change for change in changes if change.flow.role == Role.SIFT]
        self.sift = _encoded(first)
        self.unsift = _encoded(Change("delete", change.flow) for change in first)
        self.messages = _encoded(change for change in changes if change not in first)

    def made(self) -> None:
        """The node has applied them. Nothing changes for the other switches."""
        self._fabric._turned(self._old, self._new, self._member)

    def void(self) -> None:
        """It has not, or nobody knows: the switch is looked at again."""
        self._fabric.doubt(self._member.node, self._old.container)


def _encoded(changes: Iterable[Change]) -> list[bytes]:
    return [wire.encode_change(change, number) for number, change in enumerate(changes, 1)]


class Fabric:
    """The overlay of one topology.

    ``timeout`` bounds the wait for one switch's answer, ``audit_interval`` is the time between two looks at what the
    switches really hold (both seconds). ``bundles`` and ``advertise`` False do without what a switch may lack.

    Switches are not touched before ``ready()``: with half of the bindings known, a controller that restarts would
    remove the flows of the other half.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        timeout: float = 5.0,
        audit_interval: float = 10.0,
        bundles: bool = True,
        advertise: bool = True,
    ) -> None:
        names = {int(node.switch, 16): node.name for node in topology.nodes}
        self.board = Switchboard(names, timeout=timeout, bundles=bundles)
        self.board.on_placed = self._placed
        self._weights = tunnels(topology)
        vnis = tuple(network.vni for network in topology.networks)
        self._plan = Plan(Overlay.of(topology), vnis, advertise=advertise)
        self._members, self._tracks = self._plan.members, self._plan.tracks
        for dpid, name in names.items():
            self._members[name] = Member(name, dpid, self.board, self._plan)
        self._births = 0
        self._moving: dict[str, Any] = {}
        self._dead_ends: set[tuple[str, str]] = set()
        self._reroute = hub.Event()
        self._keeper = Keeper(self._plan, audit_interval)
        self._router: Any = None
        self.tell: Tell = silent

    # --- life

    def start(self) -> None:
        self._keeper.start()
        self._router = hub.spawn(self._work_on_routes)

    def stop(self) -> None:
        """Ends the greenthreads; the flows stay in the switches, and traffic goes on."""
        self._keeper.stop()
        if self._router is not None:
            hub.kill(self._router)

    def adopt(self, topology: Topology) -> None:
        """Follows a new topology: switches come and go, tunnels and networks change."""
        names = {node.name: int(node.switch, 16) for node in topology.nodes}
        for node, member in list(self._members.items()):
            if names.get(node) != member.dpid:
                self._keeper.remove(node)
                del self._members[node]
        self.board.rename({dpid: name for name, dpid in names.items()})
        for node in names.keys() - self._members.keys():
            member = self._members[node] = Member(node, names[node], self.board, self._plan)
            self._keeper.add(member)
        self._weights = tunnels(topology)
        self._plan.vnis = tuple(network.vni for network in topology.networks)
        self._dead_ends = set()
        self._plan.overlay = Overlay(self._members, self._weights)
        for member in self._connected_members():
            self._ports_changed(member.node)
        self._keeper.mark(self._members)

    def ready(self) -> None:
        """All bindings are known: from now on the switches are made equal to them."""
        self._keeper.begin()

    # --- what Ryu tells us; none of these blocks

    def on_state(self, event: Any) -> None:
        if event.state == MAIN_DISPATCHER:
            if node := self.board.attach(event.datapath):
                self._placed(node)
        elif event.state == DEAD_DISPATCHER and (node := self.board.detach(event.datapath)):
            LOG.warning("switch of %s disconnected; its flows stay as they are", node)
            self.tell("node", node=node, switch_connected=False)
            self._members[node].fresh = False
            self._keeper.notify()

    def _placed(self, node: str) -> None:
        LOG.info("switch of %s connected from %s", node, self.board.address(node))
        self.tell("node", node=node, switch_connected=True)
        self._members[node].fresh = False
        self._ports_changed(node)

    def on_port(self, event: Any) -> None:
        if node := self.board.on_port(event.msg):
            self._ports_changed(node)

    def on_reply(self, event: Any) -> None:
        self.board.on_reply(event.msg)

    def on_flow_removed(self, event: Any) -> None:
        node = self.board.node_of(event.msg.datapath)
        removed = wire.decode_flow_removed(bytes(event.msg.buf))
        if node and removed and self._members[node].removed(Key(*removed)):
            self._keeper.mark([node])

    def on_packet_in(self, event: Any) -> None:
        """A neighbour solicitation from a switch that cannot answer it by flow."""
        node = self.board.node_of(event.msg.datapath)
        asked = frames.parse_solicitation(bytes(event.msg.data))
        if node is None or asked is None:
            return
        vni = event.msg.match.get("tunnel_id")
        for track in self._tracks.values():
            if track.newest.vni == vni and str(asked.target) in ipv6_addresses(track.newest):
                answer = frames.advertisement(track.newest.mac, asked)
                self.board.send_packets(node, event.msg.match["in_port"], [answer])
                return

    # --- bindings

    @property
    def bindings(self) -> Mapping[str, Binding]:
        return {name: track.newest for name, track in self._tracks.items()}

    def binding(self, container: str) -> Binding:
        """Raises NotFound."""
        if container not in self._tracks:
            raise NotFound(f"no container {container} is bound")
        return self._tracks[container].newest

    def bind(self, binding: Binding) -> Waiter:
        """A new binding, or a change of one that may take its time; every switch still follows in a safe order."""
        name = binding.container
        track = self._tracks.get(name)
        if track is None:
            # A switch that was away may remember versions of a container of the same name: start far beyond those.
            self._births += 1
            track = self._tracks[name] = Track(binding, self._births << 32)
            self._tell_binding(binding)
            self._keeper.mark(self._members)
        elif track.newest != binding:
            for step in cutover.stages(track.newest, binding):
                self._push(track, step)
            self._keeper.mark(self._members)
        version = track.version
        return Waiter(self, lambda: self._everywhere(name, version), f"the binding of {name}")

    def unbind(self, container: str) -> Waiter:
        """Removes a binding; nothing happens when there is none."""
        if self._tracks.pop(container, None):
            self.tell("binding", container=container, node=None, port=None, mac=None, holding=False)
            self._keeper.mark(self._members)

        def gone() -> bool:
            return container in self._tracks or all(
                container not in member.versions for member in self._connected_members()
            )

        return Waiter(self, gone, f"the removal of {container}")

    def cut_over(self, binding: Binding, timeout: float) -> None:
        """Moves a container, and returns when every switch that matters for it has confirmed: the new place, those on
        the way to the old one, and the old one, which redirects from then on. All others follow by themselves.

        Raises SwitchGone, SwitchTimeout or SwitchError with the node: frames then reach the old place or the new one,
        and a cut-over to either settles it. Raises NotFound for a container that is not bound.
        """
        name, deadline = binding.container, time.monotonic() + timeout
        self.binding(name)
        with self._moving.setdefault(name, hub.Semaphore()):
            track = self._tracks[name]
            try:
                for step in cutover.stages(track.newest, binding):
                    order = cutover.chain(self._plan.overlay, track.newest, step)
                    version = self._push(track, step)
                    for node in order:
                        self._advance(self._members[node], track, version, deadline)
            finally:
                self._keeper.mark(self._members)

    def lend(self, container: str) -> Loan | None:
        """What turns a container's frames into its hold, which is known and not filling yet; None when it is not.

        Raises NotFound, and SwitchGone, SwitchTimeout or SwitchError of the switch at its place.
        """
        now = self.binding(container)
        if now.hold is None or now.hold.filling:
            return None
        turned = replace(now, hold=replace(now.hold, turned=True))
        version = self._tracks[container].version
        way = self._plan.overlay.path(now.place.node, now.hold.tap.node)
        if not way or any(self._members[node].versions.get(container) != version for node in way):
            return None
        return Loan(self, now, turned)

    def doubt(self, node: str, container: str) -> None:
        """The node may have applied what was lent to it for a container when nobody listened any more: its switch is
        read again.
        """
        self._member(node).doubt(container)
        self._keeper.mark([node])

    def announce(self, binding: Binding) -> int:
        """Tells every container of the network, at its own port, which MAC the binding has now; returns how many."""
        told = 0
        news = [
            frames.gratuitous_arp(binding.mac, ip)
            if isinstance(ip, IPv4Address)
            else frames.unsolicited_advertisement(binding.mac, ip)
            for ip in binding.ips
        ]
        for peer in self.bindings.values():
            port = self.board.ports(peer.place.node).get(peer.place.port)
            if peer.vni == binding.vni and peer.container != binding.container and port:
                self.board.send_packets(peer.place.node, port.number, news)
                told += 1
        return told

    # --- waiting

    def settle(self, nodes: Iterable[str], timeout: float) -> None:
        """Until the switches of these nodes are connected and hold exactly what is wanted. Raises SwitchTimeout."""
        members = [self._member(node) for node in nodes]
        what = "the switches of " + ", ".join(member.node for member in members)
        self._keeper.until(lambda: self._keeper.is_ready and all(member.settled for member in members), timeout, what)

    def wait_port(self, node: str, port: str, timeout: float) -> None:
        """Until the switch of a node has a port. Raises SwitchTimeout."""
        member = self._member(node)
        self._keeper.until(lambda: port in member.ports, timeout, f"port {port} of {node}")

    # --- looking

    def neighbours(self, node: str) -> tuple[str, ...]:
        """The nodes that this one should have a tunnel to."""
        return self._plan.overlay.peers(node)

    def status(self) -> dict[str, Any]:
        """All of it, for people and for ``/v1.0/topology``."""
        return {
            "ready": self._keeper.is_ready,
            "nodes": {node: self.node_status(node) for node in self._members},
            "tunnels": [self._tunnel_status(ends, weight) for ends, weight in self._weights.items()],
            "partitions": [list(group) for group in self._plan.overlay.partitions()],
            "repairs": sum(member.repairs for member in self._members.values()),
        }

    def node_status(self, node: str) -> dict[str, Any]:
        return self._member(node).status(self._keeper.is_ready)

    def switch_problem(self, node: str) -> str | None:
        """What is wrong with a node's switch; cheap, for /healthz is open to everybody."""
        member = self._members.get(node)  # a node may come before its switch, or go after it
        if member is None or member.connected:
            return f"its switch: {member.error}" if member is not None and member.error else None
        return "its switch is not connected"

    def unanswered(self, node: str) -> str | None:
        """What is wrong with a node's switch, which is asked for it."""
        if problem := self.switch_problem(node):
            return problem
        try:
            self.board.ask(node, ANSWER_TIMEOUT)
        except CoatError as error:
            return f"its switch: {error}"
        return None

    def denied(self, node: str) -> int:
        """Packets dropped at the ports of a node because their source was not the port's own, as of the last audit."""
        return self._member(node).denied

    def flows(self, dpid: str) -> list[dict[str, Any]]:
        """All entries in a switch right now, foreign ones too, in the shape of Ryu's ``ofctl_rest``.

        Raises NotFound for a datapath id that is not in the topology, SwitchGone, SwitchTimeout.
        """
        for member in self._members.values():
            if f"{member.dpid:016x}" == dpid:
                return [as_ofctl(entry) for entry in self.board.read(member.node, ours_only=False)]
        raise NotFound(f"no node has a switch with the datapath id {dpid}")

    # --- inside

    def _advance(self, member: Member, track: Track, version: int, deadline: float) -> None:
        def may() -> bool:
            return member.reachable(track) >= version

        if not may():
            self._keeper.mark(self._members)
            what = f"the switches between {member.node} and the new place of {track.newest.container}"
            self._keeper.until(may, deadline - time.monotonic(), what)
        member.advance(track, version)

    def _turned(self, old: Binding, new: Binding, member: Member) -> None:
        name = new.container
        with self._moving.setdefault(name, hub.Semaphore()):
            track = self._tracks.get(name)
            if track is None or track.newest != old:
                return self.doubt(member.node, name)
            version = self._push(track, new)
            member.take_back(name, version)
            for other in self._members.values():  # the same flows under another number
                if other.versions.get(name) == version - 1:
                    other.versions[name] = version

    def _push(self, track: Track, step: Binding) -> int:
        if track.is_long:
            track.forget(min(member.versions.get(step.container, track.version) for member in self._members.values()))
        self._tell_binding(step)
        return track.push(step)

    def _tell_binding(self, binding: Binding) -> None:
        holding = bool(binding.hold and binding.hold.filling)
        place = binding.place
        self.tell(
            "binding",
            container=binding.container,
            node=place.node,
            port=place.port,
            mac=binding.mac,
            holding=holding,
        )

    def _ports_changed(self, node: str) -> None:
        member = self._members[node]
        member.take_ports()
        before = {end for end in self._dead_ends if end[0] == node}
        dead = member.dead_ends()
        if dead != before:
            self._dead_ends = self._dead_ends - before | dead
            self._reroute.set()
        self._keeper.mark([node])
        self._keeper.notify()

    def _work_on_routes(self) -> None:
        """A tunnel is dead when either end says so; a switch that is not connected keeps the last word it said."""
        while True:
            self._reroute.wait()
            hub.sleep(REROUTE_DELAY)
            self._reroute.clear()
            dead: frozenset[Pair] = frozenset(pair(*end) for end in self._dead_ends)
            before = self._plan.overlay.dead
            if dead == before:
                continue
            self._plan.overlay = Overlay(self._members, self._weights, dead)
            for ends in sorted(dead ^ before):
                self.tell("tunnel", between=list(ends), up=ends not in dead)
            parts = self._plan.overlay.partitions()
            LOG.warning("tunnels down: %s; partitions: %d", sorted(dead) or "none", len(parts))
            self._keeper.mark(self._members)
            self._keeper.notify()

    def _everywhere(self, name: str, version: int) -> bool:
        return name not in self._tracks or all(
            member.versions.get(name, -1) >= version for member in self._connected_members()
        )

    def _connected_members(self) -> list[Member]:
        return [member for member in self._members.values() if member.connected]

    def _member(self, node: str) -> Member:
        if node not in self._members:
            raise NotFound(f"there is no node {node}")
        return self._members[node]

    def _tunnel_status(self, ends: Pair, weight: float) -> dict[str, Any]:
        down = [node for node, peer in (ends, ends[::-1]) if (node, peer) in self._dead_ends]
        return {"between": list(ends), "weight": weight, "up": not down, "down_at": down}
