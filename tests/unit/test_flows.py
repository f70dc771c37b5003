"""What the computed flows do to frames, on every overlay with every bindings."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from coat_ryu import flows, wire
from coat_ryu.flows_edge import ADMIT, link_local
from coat_ryu.model import Place
from coat_ryu.openflow import COOKIE, Change, Flow, Output, apply, diff, match
from coat_ryu.overlay import Overlay
from tests.unit.overlay_sim import (
    VNIS,
    Network,
    arp_request,
    bindings,
    bound,
    ipv4,
    mac,
    overlays,
    solicitation,
)


@st.composite
def scenes(draw):
    overlay = draw(overlays())
    bound_here = draw(bindings(overlay))
    network = Network(overlay)
    network.install(bound_here)
    return network, bound_here


@st.composite
def flow_sets(draw):
    """Two flow sets that one switch might have, one after the other."""
    overlay = draw(overlays())
    switch = Network(overlay).switches[draw(st.sampled_from(overlay.nodes))]
    return [flows.switch_flows(overlay, switch, VNIS, draw(bindings(overlay, least=0))) for _ in range(2)]


@given(flow_sets(), st.data())
def test_the_difference_applied_gives_what_is_wanted(pair, data):
    have, want = pair
    for key in data.draw(st.sets(st.sampled_from(sorted(have, key=str)), max_size=5)):
        have.pop(key)
    changes = diff(have, want)
    assert apply(changes, have) == want
    assert apply(changes, want) == want
    assert diff(want, want) == ()
    assert not [change for change in changes if have.get(change.flow.key) == change.flow and change.verb == "add"]


@given(flow_sets())
def test_flows_survive_the_way_through_their_bytes(pair):
    for flow in pair[0].values():
        message = wire.encode_change(Change("add", flow), 1)
        assert len(message) % 8 == 0 and int.from_bytes(message[2:4], "big") == len(message)
        match, used = wire.decode_match(message[48:])
        assert match == flow.match
        stats_body = message[48 : 48 + used] + message[48 + used :]
        head = (48 + len(stats_body)).to_bytes(2, "big") + bytes([flow.table, 0]) + bytes(8)
        head += flow.priority.to_bytes(2, "big") + bytes(10) + (COOKIE | flow.role).to_bytes(8, "big") + bytes(16)
        (entry,) = wire.decode_stats(head + stats_body)
        assert entry.flow == flow


def test_ports_that_have_gone_are_forgotten():
    """Each migration's ports have numbers of their own."""
    for number in range(wire.KEPT + 1000):
        wire.encode_change(Change("add", Flow(ADMIT, 100, match(in_port=number), (Output(number),))), 1)
    kept = [cached.cache_info().currsize for cached in vars(wire).values() if hasattr(cached, "cache_info")]
    assert max(kept) < 20_000


@given(scenes())
def test_every_pair_has_exactly_one_way_and_networks_never_mix(scene):
    network, bound_here = scene
    for sender in bound_here:
        for receiver in bound_here:
            came_out = [place for place, _ in network.send(sender.place, ipv4(sender, receiver))]
            reachable = sender.vni == receiver.vni and sender != receiver
            assert came_out == ([receiver.place] if reachable else [])


@given(scenes())
def test_a_broadcast_reaches_everybody_of_the_network_once(scene):
    network, bound_here = scene
    for sender in bound_here:
        frame = ipv4(sender, sender, eth_dst="ff:ff:ff:ff:ff:ff")
        came_out = [place for place, _ in network.send(sender.place, frame)]
        others = [peer.place for peer in bound_here if peer.vni == sender.vni and peer != sender]
        assert sorted(came_out, key=str) == sorted(others, key=str)


@given(scenes())
def test_known_addresses_are_answered_at_the_edge_and_nowhere_else(scene):
    network, bound_here = scene
    for sender in bound_here:
        for peer in bound_here:
            answered = network.send(sender.place, arp_request(sender, str(peer.ips[0])))
            if peer == sender or sender.vni != peer.vni:
                assert sender.place not in [place for place, _ in answered]
                continue
            ((place, reply),) = answered
            assert place == sender.place
            assert (reply["arp_op"], reply["arp_sha"], reply["arp_spa"]) == (2, peer.mac, str(peer.ips[0]))
            assert (reply["eth_dst"], reply["arp_tha"], reply["arp_tpa"]) == (
                sender.mac,
                sender.mac,
                str(sender.ips[0]),
            )
            for target in (str(peer.ips[1]), link_local(peer.mac)):
                ((place, reply),) = network.send(sender.place, solicitation(sender, target))
                assert place == sender.place
                assert (reply["icmpv6_type"], reply["nd_target"], reply["nd_tll"]) == (136, target, peer.mac)
                assert (reply["nd_options_type"], reply["nd_reserved"]) == (2, 0x60000000)
                assert (reply["ipv6_src"], reply["ipv6_dst"]) == (target, str(sender.ips[1]))


@given(scenes(), st.data())
def test_nobody_sends_as_somebody_else(scene, data):
    network, bound_here = scene
    sender, victim = bound_here[0], bound_here[1]
    wrong = data.draw(
        st.sampled_from(
            [
                ipv4(sender, victim, eth_src=victim.mac),
                ipv4(sender, victim, ipv4_src=str(victim.ips[0])),
                ipv4(sender, victim, vlan_vid=0x1005),
                ipv4(sender, victim, eth_type=0x88CC),
                arp_request(sender, "10.0.0.99", arp_spa=str(victim.ips[0])),
                arp_request(sender, "10.0.0.99", arp_sha=victim.mac),
                arp_request(sender, "10.0.0.99", eth_src=victim.mac, arp_sha=victim.mac),
                arp_request(sender, str(sender.ips[0]), arp_op=2, arp_spa=str(victim.ips[0])),
                solicitation(sender, "fd00::99", ipv6_src=str(victim.ips[1])),
                solicitation(sender, "fd00::99", ipv6_src="fe80::bad"),
                solicitation(sender, "fd00::99", nd_sll=victim.mac),
                solicitation(sender, str(victim.ips[1]), icmpv6_type=136, nd_tll=sender.mac),
                solicitation(sender, str(sender.ips[1]), icmpv6_type=136, nd_tll=victim.mac),
                solicitation(sender, "::", icmpv6_type=134),
                solicitation(sender, "::", icmpv6_type=137),
            ]
        )
    )
    assert network.send(sender.place, wrong) == []


@given(scenes())
def test_duplicate_address_detection_is_met_with_silence(scene):
    network, bound_here = scene
    for sender in bound_here:
        probe = solicitation(sender, str(sender.ips[1]), ipv6_src="::", nd_sll="00:00:00:00:00:00")
        assert network.send(sender.place, probe) == []
        assert network.send(sender.place, arp_request(sender, str(sender.ips[0]), arp_spa="0.0.0.0")) == []


@given(scenes())
def test_frames_to_a_former_mac_arrive_with_the_present_one(scene):
    network, bound_here = scene
    renewed = replace(bound_here[0], mac=mac(99), former_macs=(bound_here[0].mac,))
    peers = [peer for peer in bound_here[1:] if peer.vni == renewed.vni]
    network.install([renewed, *bound_here[1:]])
    for peer in peers:
        for destination in (renewed.mac, *renewed.former_macs):
            ((place, frame),) = network.send(peer.place, ipv4(peer, renewed, eth_dst=destination))
            assert (place, frame["eth_dst"]) == (renewed.place, renewed.mac)


def test_a_flow_whose_port_is_not_there_is_left_out():
    overlay = overlays_of_two()
    whole = flows.Switch("a", {"t-b": 1, "c-one": 2})
    one, two = bound("one", "a", 1), bound("two", "b", 2)
    without_port = flows.switch_flows(overlay, flows.Switch("a", {"t-b": 1}), VNIS, [one, two])
    numbers = {value for key in without_port for name, value in key.match if name == "in_port"}
    assert numbers == {1}
    assert flows.switch_flows(overlay, whole, VNIS, [one, two]).keys() > without_port.keys()


def test_an_unknown_address_is_asked_for_in_the_whole_network_and_an_unknown_mac_is_dropped():
    network = Network(overlays_of_two())
    one, two, other = bound("one", "a", 1), bound("two", "b", 2), bound("three", "b", 3, vni=43)
    network.install([one, two, other])
    assert [place for place, _ in network.send(one.place, arp_request(one, "10.0.0.9"))] == [two.place]
    assert network.send(one.place, ipv4(one, two, eth_dst=mac(77))) == []


def test_a_switch_that_cannot_advertise_asks_the_controller():
    overlay = overlays_of_two()
    network = Network(overlay)
    network.switches["a"] = replace(network.switches["a"], advertise=False)
    one, two = bound("one", "a", 1), bound("two", "b", 2)
    network.install([one, two])
    ((place, _),) = network.send(one.place, solicitation(one, str(two.ips[1])))
    assert place == Place("a", "controller")


def overlays_of_two():
    return Overlay("ab", {("a", "b"): 1.0})
