"""One node's switch: what it should hold, what it holds, and how the one becomes the other."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ryu.lib import hub

from coat_ryu import flows, wire
from coat_ryu.errors import SwitchError, SwitchGone, SwitchTimeout
from coat_ryu.flows_edge import ANSWER, ETH_IPV6, ICMPV6, SOLICITATION, TARGET_LINK_LAYER_ADDRESS
from coat_ryu.model import Binding, tunnel_port
from coat_ryu.openflow import COOKIE, COOKIE_MASK, Change, Flow, Key, Role, SetField, diff, keyed, match
from coat_ryu.overlay import Overlay
from coat_ryu.switches import Port, Switchboard
from coat_ryu.tracks import Track

LOG = logging.getLogger(__name__)

# Only Open vSwitch's userspace datapath can set this field; a switch that refuses the flow has its answers from the
# controller.
_PROBE = Flow(
    ANSWER,
    1,
    match(tunnel_id=0xFFFFFFFF, eth_type=ETH_IPV6, ip_proto=ICMPV6, icmpv6_type=SOLICITATION),
    (SetField("icmpv6_type", 136), SetField("nd_options_type", TARGET_LINK_LAYER_ADDRESS)),
)


@dataclass(eq=False)
class Plan:
    """What is wanted of all switches together."""

    overlay: Overlay
    vnis: tuple[int, ...]
    tracks: dict[str, Track] = field(default_factory=dict)
    members: dict[str, "Member"] = field(default_factory=dict)
    advertise: bool = True  # whether switches that can answer neighbour solicitations by flow shall


class Member:
    """A switch and its flows. ``lock`` is held while they change; ``dirty`` says that they should be looked at, and
    ``wake`` that it is time to.
    """

    def __init__(self, node: str, dpid: int, board: Switchboard, plan: Plan) -> None:
        self.node, self.dpid = node, dpid
        self._board, self._plan = board, plan
        self.lock = hub.Semaphore()
        self.dirty = False
        self.wake = hub.Event()
        self.busy = False
        self.fresh = False  # whether ``installed`` was read or written over the present connection
        self.lagging = False  # whether a binding waits for another switch
        self.ports: dict[str, Port] = {}
        self.installed: dict[Key, Flow] = {}
        # container: what its node may write by itself, over what ``installed`` has or does not have
        self.lent: dict[str, dict[Key, Flow]] = {}
        self.versions: dict[str, int] = {}
        self.wanted = 0
        self.repairs = 0
        self.denied = 0
        self.error: str | None = None
        self._switch = flows.Switch(node, {})
        self._parts: dict[str, tuple[object, dict[Key, Flow]]] = {}
        self._basis: object = None  # the overlay and the ports for which ``installed`` was last computed as a whole

    @property
    def connected(self) -> bool:
        return self._board.connected(self.node)

    @property
    def settled(self) -> bool:
        return self.connected and self.fresh and not (self.dirty or self.busy or self.lagging)

    def dead_ends(self) -> set[tuple[str, str]]:
        """This node with each peer that its tunnel does not reach, as far as its own switch can tell."""
        peers = self._plan.overlay.peers(self.node)
        return {(self.node, peer) for peer in peers if not self._is_up(tunnel_port(peer))}

    def missing_ports(self) -> list[str]:
        """Ports that the bindings and tunnels name and the switch does not have."""
        needed = {tunnel_port(peer) for peer in self._plan.overlay.peers(self.node)}
        for track in self._plan.tracks.values():
            places = {track.newest.place, *track.newest.origins}
            needed.update(place.port for place in places if place.node == self.node)
        return sorted(needed - self.ports.keys())

    def take_ports(self) -> None:
        """Reads the ports that the switch has reported."""
        self.ports = self._board.ports(self.node)
        self._describe(self._switch.advertise)

    def status(self, is_ready: bool) -> dict[str, Any]:
        """For people and for REST; ``is_ready`` says whether switches are being kept up to date at all."""
        return {
            "dpid": f"{self.dpid:016x}",
            "connected": self.connected,
            "in_sync": is_ready and self.settled,
            "flows_wanted": self.wanted,
            "flows_installed": len(self.installed),
            "ports_missing": self.missing_ports(),
            "denied_packets": self.denied,
            "repairs": self.repairs,
            "error": self.error,
        }

    def sync(self) -> bool:
        """Brings the switch up to date, with every binding as new as it may have; whether any became newer.

        Raises SwitchGone, SwitchTimeout, SwitchError.
        """
        with self.lock:
            self.busy = True
            try:
                if not self.fresh:
                    self._learn()
                tracks = self._plan.tracks
                versions = {name: self.reachable(track) for name, track in tracks.items()}
                # Said before the switch is waited for: whoever goes on meanwhile wakes those who lag.
                self.lagging = any(tracks[name].version > at for name, at in versions.items())
                self._apply(self._changes(versions))
                advanced = versions != self.versions
                self.versions = versions
                return advanced
            finally:
                self.busy = False

    def reachable(self, track: Track) -> int:
        """The newest version of a binding that this switch may have now."""
        name = track.newest.container
        have = self.versions.get(name)
        if have == track.version:
            return have
        return track.reachable(self._plan.overlay, self.node, have, _Confirmed(self._plan.members, name))

    def advance(self, track: Track, version: int) -> None:
        """Gives the switch one version of one binding, and nothing else. Raises as ``sync``."""
        versions = {**self.versions, track.newest.container: version}
        with self.lock:
            if not self.fresh and self.connected:
                self._learn()
            self._apply(self._moves(versions))
            self.versions = versions

    def lend(self, old: Binding, new: Binding) -> tuple[Change, ...]:
        """What turns one binding of a container into the other here, for the node to apply whenever it likes.

        Raises as ``sync``.
        """
        with self.lock:
            if not self.fresh:
                self._learn()
            have, want = (flows.container(self._plan.overlay, self._switch, binding) for binding in (old, new))
            changes = diff(have, want)
            self.lent[old.container] = {change.flow.key: change.flow for change in changes}
            return changes

    def take_back(self, container: str, version: int) -> None:
        """The node has applied what was lent: the binding has this version."""
        lent = self.lent.pop(container, {})
        self.versions[container] = version
        self.installed.update(lent)
        before = self._parts.get(container, (None, {}))[1]
        self.wanted += len(self._part(container, version)) - len(before)  # what was lent is ours to delete
        self.fresh = self.fresh and bool(lent)  # else we have written over it, and it was put right

    def doubt(self, container: str) -> None:
        """Nobody knows whether the node has applied what was lent: the switch has to be read again."""
        self.fresh = False
        self.lent.pop(container, None)

    def audit(self) -> bool:
        """Looks at what the switch really holds; whether that is not what it should be. Raises as ``sync``."""
        with self.lock:
            entries = self._board.read(self.node)
            found = self._but_for_lent(_ours(entries))
            wrong = {key for key in {*found, *self.installed} if found.get(key) != self.installed.get(key)}
            if wrong:
                self.installed, self._basis = found, None
            self.denied = sum(entry.packets for entry in entries if entry.cookie & ~COOKIE_MASK == Role.DENY)
        if wrong:
            self.repairs += len(wrong)
            LOG.warning("%d flows of %s were changed behind our back, restoring them", len(wrong), self.node)
        return bool(wrong)

    def _but_for_lent(self, found: dict[Key, Flow]) -> dict[Key, Flow]:
        """What we know of, where a node has written what was lent to it: until that is taken back, or doubted, nobody
        else undoes it.
        """
        lent = {key for one in self.lent.values() for key, flow in one.items() if found.get(key) == flow}
        known = {key: self.installed[key] for key in lent if key in self.installed}
        return {key: flow for key, flow in found.items() if key not in lent} | known

    def removed(self, key: Key) -> bool:
        """The switch says that an entry is gone; whether that should not be."""
        if self.installed.pop(key, None) is None:
            return False
        self._basis = None
        self.repairs += 1
        LOG.warning("a flow of %s was removed behind our back, restoring it: %s", self.node, key)
        return True

    def _is_up(self, port: str) -> bool:
        return port in self.ports and self.ports[port].up

    def _describe(self, advertise: bool) -> None:
        numbers = {name: port.number for name, port in self.ports.items()}
        if (numbers, advertise) != (self._switch.ports, self._switch.advertise):
            self._switch = flows.Switch(self.node, numbers, advertise)

    def _learn(self) -> None:
        """Reads what the switch holds, and what its datapath can do."""
        self.installed, self._basis = self._but_for_lent(_ours(self._board.read(self.node))), None
        self.fresh = True
        self._describe(self._plan.advertise and self._can_advertise())

    def _can_advertise(self) -> bool:
        try:
            self._board.apply(self.node, [Change("add", _PROBE), Change("delete", _PROBE)])
        except (SwitchGone, SwitchTimeout):
            raise
        except SwitchError:
            return False
        return True

    def _apply(self, changes: tuple[Change, ...]) -> None:
        """Applies changes and keeps the record; when that fails the record is void, and the switch is read again."""
        for change in changes:
            if change.verb == "delete":  # before the switch reports it as removed
                self.installed.pop(change.flow.key, None)
            for container in [name for name, lent in self.lent.items() if change.flow.key in lent]:
                del self.lent[container]
        try:
            self._board.apply(self.node, changes)
        except SwitchError:
            self.fresh = False
            raise
        for change in changes:
            if change.verb == "add":
                self.installed[change.flow.key] = change.flow

    def _changes(self, versions: Mapping[str, int]) -> tuple[Change, ...]:
        """What makes the switch hold these versions; only what has moved is looked at when nothing else is new."""
        basis = (self._plan.overlay, self._switch)
        if self._basis == basis:
            return self._moves(versions)
        want = flows.base(*basis)
        for name, version in versions.items():
            want.update(self._part(name, version))
        for vni in self._plan.vnis:
            entry = self._flood(vni, versions)
            want[entry.key] = entry
        self._basis, self.wanted = basis, len(want)
        self._parts = {name: part for name, part in self._parts.items() if name in versions}
        return diff(self.installed, want)

    def _moves(self, versions: Mapping[str, int]) -> tuple[Change, ...]:
        """The changes that some bindings' other versions make, and nothing else."""
        moved = {name for name in {*versions, *self.versions} if versions.get(name) != self.versions.get(name)}
        if not moved:
            return ()
        old = [self._parts.pop(name)[1] for name in moved if name in self._parts]
        want: dict[Key, Flow] = {}
        for name in moved & versions.keys():
            want.update(self._part(name, versions[name]))
        for vni in self._plan.vnis:
            entry = self._flood(vni, versions)
            want[entry.key] = entry
        have = {key: self.installed[key] for part in (*old, want) for key in part if key in self.installed}
        self.wanted += len(want) - len({*have})
        return diff(have, want)

    def _part(self, name: str, version: int) -> dict[Key, Flow]:
        """One container's flows; computed again only when something that they depend on has changed."""
        stamp = (version, self._plan.overlay, self._switch)
        known = self._parts.get(name)
        if known is None or known[0] != stamp:
            binding = self._plan.tracks[name].at(version)
            known = self._parts[name] = (stamp, flows.container(self._plan.overlay, self._switch, binding))
        return known[1]

    def _flood(self, vni: int, versions: Mapping[str, int]) -> Flow:
        tracks = self._plan.tracks
        bound = (tracks[name].at(version) for name, version in versions.items() if name in tracks)
        places = [place for binding in bound if binding.vni == vni for place in flows.audience(binding)]
        return flows.flood(self._plan.overlay, self._switch, vni, places)


class _Confirmed(Mapping[str, int]):
    """The version of one binding that each switch has confirmed."""

    def __init__(self, members: Mapping[str, Member], container: str) -> None:
        self._members, self._container = members, container

    def __getitem__(self, node: str) -> int:
        return self._members[node].versions[self._container]

    def __iter__(self) -> Any:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def _ours(entries: Iterable[wire.Entry]) -> dict[Key, Flow]:
    """Our entries by key. One that was altered beyond recognition counts as missing, and is written again."""
    return keyed(entry.flow for entry in entries if entry.flow and entry.cookie & COOKIE_MASK == COOKIE)
