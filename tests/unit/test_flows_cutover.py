"""During every prefix of a cut-over's messages each frame reaches exactly one of source, hold and destination.

Frames are sent by every other container, and also from the middle of nowhere: out of every tunnel into every switch, as
if they had been on their way when something changed. Switches outside the ordered part may be arbitrarily late, so that
several moves are under way at once.
"""

import itertools
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coat_ryu import cutover, flows
from coat_ryu.model import Hold, Place, container_port, hold_port, tunnel_port
from coat_ryu.overlay import Overlay
from coat_ryu.tracks import Track
from tests.unit.overlay_sim import Network, bound, ipv4, mac, overlays

NAME = "one"
SYN, ACK = 0x02, 0x10
TUNNELLED = {"tunnel_id": 42}


class Run:
    """An overlay with a mover and one peer on every node, and the versions that its switches have."""

    def __init__(self, overlay):
        self.overlay = overlay
        self.network = Network(overlay)
        self.peers = {node: replace(bound("two", node, 2), container=f"peer-{node}") for node in overlay.nodes}
        self.track = Track(bound(NAME, overlay.nodes[0], 1), 1)
        self.versions = dict.fromkeys(overlay.nodes, 1)
        for node in overlay.nodes:
            self.show(node)

    def show(self, node):
        """Makes a switch's flows those of the version it has."""
        switch = self.network.switches[node]
        binding = self.track.at(self.versions[node])
        tables = flows.base(self.overlay, switch)
        # A peer of its own on every node, all with the same addresses: only its node's switch knows it.
        tables.update(flows.container(self.overlay, switch, self.peers[node]))
        tables.update(flows.container(self.overlay, switch, binding))
        self.network.put(node, tables)

    def allowed(self):
        versions = range(min(self.versions.values()), self.track.version + 1)
        known = [self.track.at(version) for version in versions]
        turned = {binding.hold.tap for binding in known if binding.hold and binding.hold.turned}
        return {binding.delivery for binding in known} | turned

    def sifted(self):
        """Where what opens a connection may come besides."""
        versions = range(min(self.versions.values()), self.track.version + 1)
        holds = (self.track.at(version).hold for version in versions)
        return {hold.tap for hold in holds if hold and hold.sifting}

    def check(self):
        mover = self.track.newest
        for node in self.overlay.nodes:
            known = self.track.at(self.versions[node])
            for destination in (known.mac, *known.former_macs):
                frame = ipv4(self.peers[node], mover, eth_dst=destination)
                places = [Place(node, container_port("two"))]
                places += [Place(node, tunnel_port(peer)) for peer in self.overlay.peers(node)]
                for place, flags in itertools.product(places, (ACK, SYN, SYN | ACK)):
                    vni = 0 if place == places[0] else mover.vni
                    self.reaches_one(place, {**frame, "tunnel_id": vni, "tcp_flags": flags})
            # A hold is taken away only when it is empty.
            stays = known.hold and mover.hold and known.hold.tap == mover.hold.tap
            if known.hold and stays and known.hold.tap.node == node:
                (out,) = self.network.send(known.hold.tap, ipv4(mover, mover))
                assert out[0] in {known.place, mover.place}
                assert out[1]["eth_dst"] in (mover.mac, *mover.former_macs, known.mac)

    def reaches_one(self, place, frame):
        out = [at for at, _ in self.network.send(place, frame)]
        allowed = self.allowed() | (self.sifted() if frame["tcp_flags"] == SYN else set())
        assert len(out) == 1 and out[0] in allowed, (frame, place, out)

    def advance(self, node, version):
        self.versions[node] = version
        self.show(node)
        self.check()

    def reachable(self, node):
        return self.track.reachable(self.overlay, node, self.versions[node], self.versions)


def next_bindings(now, nodes, number):
    """What a migrator may do next with a binding, right or wrong: a hold here or there, place moved, back again."""
    candidates = []
    for node in nodes:
        place = Place(node, container_port(NAME))
        tap = Place(node, hold_port(NAME))
        both = tuple(dict.fromkeys((now.place, place)))
        held = now.hold and replace(now.hold, turned=False)
        candidates += [
            replace(now, hold=Hold(tap, filling=False, turned=True), origins=both),
            replace(now, hold=Hold(tap, filling=False, sifting=True), origins=both),
            replace(now, hold=Hold(tap, True), origins=both),
            replace(now, hold=Hold(tap, False), origins=both),
            replace(now, place=place, origins=(place,), hold=Hold(tap, True)),
            replace(now, place=place, origins=(place,), hold=None),
            replace(now, place=place, origins=both, hold=held),
            replace(
                now,
                place=place,
                origins=(place,),
                hold=held,
                mac=mac(100 + number),
                former_macs=(now.mac, *now.former_macs),
            ),
        ]
    return candidates


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(overlays(most=5), st.data())
def test_every_prefix_of_every_cut_over_delivers_each_frame_once(overlay, data):
    run = Run(overlay)
    run.check()
    for number in range(data.draw(st.integers(1, 4), "moves")):
        new = data.draw(st.sampled_from(next_bindings(run.track.newest, overlay.nodes, number)), "binding")
        for step in cutover.stages(run.track.newest, new):
            order = cutover.chain(overlay, run.track.newest, step)
            version = run.track.push(step)
            for node in order:
                catch_up(run, node, version)
                run.advance(node, version)
        late = data.draw(st.permutations(overlay.nodes), "order of the others")
        for node in late[: data.draw(st.integers(0, len(late)), "how many of them in time")]:
            if (version := run.reachable(node)) > run.versions[node]:
                run.advance(node, version)
    for _ in overlay.nodes:
        for node in overlay.nodes:
            if (version := run.reachable(node)) > run.versions[node]:
                run.advance(node, version)
    assert set(run.versions.values()) == {run.track.version}


def catch_up(run, node, version):
    """What the fabric waits for before it moves a switch: that those before it have what they need."""
    while run.reachable(node) < version:
        before = dict(run.versions)
        for other in run.overlay.nodes:
            now = min(run.reachable(other), version - 1)
            if now > run.versions[other]:
                run.advance(other, now)
        assert run.versions != before, "no switch may go on: a deadlock"


def test_the_destination_is_first_and_the_source_last():
    overlay = line()
    old = bound(NAME, "a", 1)
    tap = Place("d", hold_port(NAME))
    new = replace(old, hold=Hold(tap, True))
    before, filling = cutover.stages(old, new)
    assert before.hold == Hold(tap, False) and filling == new
    assert cutover.chain(overlay, old, before) == ("a", "b", "c", "d")
    assert cutover.chain(overlay, before, filling) == ("d", "c", "b", "a")


def test_what_opens_a_connection_is_held_and_nothing_else_while_it_is_sifted():
    run = Run(line())
    tap = Place("d", hold_port(NAME))
    for hold in (Hold(tap, False), Hold(tap, False, sifting=True)):
        run.track.push(replace(run.track.newest, hold=hold))
        for node in run.overlay.nodes:
            run.advance(node, run.track.version)
    mover = run.track.newest
    for node, kind in itertools.product(run.overlay.nodes, (0x0800, 0x86DD)):
        frame = ipv4(run.peers[node], mover, eth_type=kind)
        if kind == 0x86DD:
            frame["ipv6_src"] = str(mover.ips[1])
        sent = {
            flags: [at for at, _ in run.network.send(Place("a", tunnel_port("b")), {**frame, **TUNNELLED, **flags_of})]
            for flags, flags_of in ((flags, {"tcp_flags": flags}) for flags in (SYN, SYN | ACK, ACK))
        }
        assert sent == {SYN: [tap], SYN | ACK: [mover.place], ACK: [mover.place]}
        datagram = {**frame, **TUNNELLED, "ip_proto": 17}
        assert [at for at, _ in run.network.send(Place("a", tunnel_port("b")), datagram)] == [mover.place]


def test_nothing_to_do_is_no_stage():
    binding = bound(NAME, "a", 1)
    assert cutover.stages(binding, binding) == ()


def line():
    return Overlay("abcde", {("a", "b"): 1.0, ("b", "c"): 1.0, ("c", "d"): 1.0, ("d", "e"): 1.0})
