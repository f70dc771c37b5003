"""Point by point what a real switch does at the edge: ``ofproto/trace``, and frames put in at a port.

The bridge is node a's; "one" and "two" are plugged in there, "far" at node b, "alien" has one's addresses in another
network.
"""

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from coat_ryu import frames
from coat_ryu.flows import direct_mac
from coat_ryu.flows_edge import link_local
from coat_ryu.model import Binding
from tests.switch.scene import TOPOLOGY, bound, eventually, held, mac

PORTS = {"t-b": "vxlan", "t-c": "vxlan", "c-one": "", "c-two": "", "c-alien": "", "h-one": "", "h-far": ""}
ONE, TWO, FAR = bound("one", "a", 1), bound("two", "a", 2), bound("far", "b", 3)
ALIEN = replace(bound("alien", "a", 4, vni=43), ips=ONE.ips)
SETTLE = 20.0
DROPPED = "Datapath actions: drop"


@pytest.fixture
def fabric(ovs, controller, openflow_port):
    started = controller(TOPOLOGY, [ONE, TWO, FAR, ALIEN], audit_interval=0.3)
    ovs.add_bridge("a", TOPOLOGY.node("a").switch, PORTS, f"tcp:127.0.0.1:{openflow_port}")
    started.settle(["a"], SETTLE)
    yield started
    ovs.vsctl("del-br", "a")


@pytest.fixture
def trace(ovs, fabric):
    """Traces a frame that comes in at a port; the answer is the ports it leaves by and the whole trace."""
    numbers = {name: ovs.ofport(name) for name in PORTS}
    names = {number: name for name, number in numbers.items()}

    def run(port, flow):
        text = ovs.trace("a", f"in_port={numbers[port]},{flow}")
        numbers_out = re.findall(r"^\s+output:(\d+)$(?!\n\s+>> skipping output to input port)", text, re.MULTILINE)
        out = [names[int(number)] for number in numbers_out]
        if re.search(r"^\s+IN_PORT$", text, re.MULTILINE):
            out.append(port)
        assert not out or DROPPED not in text or "t-" in "".join(out)  # no route to a tunnel's far end in here
        return out, text

    return run


def udp(source, destination, **changed):
    fields = {"dl_src": source.mac, "dl_dst": destination.mac, "nw_src": source.ips[0], "nw_dst": destination.ips[0]}
    return "udp," + ",".join(f"{name}={value}" for name, value in {**fields, **changed}.items())


def arp(source, target, **changed):
    fields = {"dl_src": source.mac, "dl_dst": "ff:ff:ff:ff:ff:ff", "arp_op": 1, "arp_sha": source.mac}
    fields |= {"arp_spa": source.ips[0], "arp_tpa": target}
    return "arp," + ",".join(f"{name}={value}" for name, value in {**fields, **changed}.items())


def test_a_known_address_is_answered_at_the_port(trace):
    for peer in (TWO, FAR):
        out, text = trace("c-one", arp(ONE, peer.ips[0]))
        assert out == ["c-one"]
        assert f"arp_op=2,arp_sha={peer.mac},arp_tha={ONE.mac}" in text.split("Final flow")[1].replace("\n", "")


def test_a_neighbour_solicitation_is_answered_at_the_port(ovs, fabric):
    """``ofproto/trace`` cannot be told of options, so real frames: the answer is compared byte for byte."""
    for target in (six(FAR), IPv6Address(link_local(FAR.mac))):
        asked = solicitation_frame(ONE, target)
        answered = ovs.exchange("c-one", asked)
        wanted = frames.advertisement(FAR.mac, frames.Solicitation(ONE.mac, six(ONE), target))
        assert answered == [wanted]


def test_duplicate_address_detection_is_met_with_silence(ovs, fabric):
    probe = solicitation_frame(replace(ONE, ips=(ONE.ips[0], IPv6Address("::"))), ONE.ips[1], option=False)
    assert ovs.exchange("c-one", probe) == []


def test_an_unknown_address_is_asked_for_in_its_network_only(trace):
    out, _ = trace("c-one", arp(ONE, "10.0.0.99"))
    assert sorted(out) == ["c-two", "t-b", "t-c"]


SPOOFED = [
    udp(ONE, TWO, dl_src=TWO.mac),
    udp(ONE, TWO, nw_src=TWO.ips[0]),
    udp(ONE, TWO, nw_src="0.0.0.0"),
    arp(ONE, "10.0.0.9", arp_spa=TWO.ips[0]),
    arp(ONE, "10.0.0.9", arp_sha=TWO.mac),
    arp(ONE, "10.0.0.9", arp_op=2, arp_spa=TWO.ips[0], arp_tpa="10.0.0.3"),
    f"icmp6,dl_src={ONE.mac},dl_dst={TWO.mac},ipv6_src={TWO.ips[1]},ipv6_dst=fd00::2,icmpv6_type=128",
    f"icmp6,dl_src={ONE.mac},dl_dst={TWO.mac},ipv6_src=fe80::1,ipv6_dst=fd00::2,icmpv6_type=128",
    f"icmp6,dl_src={ONE.mac},dl_dst=33:33:00:00:00:01,ipv6_src={ONE.ips[1]},ipv6_dst=ff02::1,icmpv6_type=134",
    f"dl_src={ONE.mac},dl_dst={TWO.mac},dl_type=0x88cc",
    f"dl_src={ONE.mac},dl_dst={TWO.mac},dl_vlan=5,ip,nw_src={ONE.ips[0]}",
]


def test_a_spoofed_source_is_dropped(trace):
    for flow in SPOOFED:
        out, text = trace("c-one", flow)
        assert out == [] and DROPPED in text, flow
        assert "0xc0a7000000000003" in text, flow  # Role.DENY: the entry whose packets are counted as denied


def test_spoofed_frames_are_counted(ovs, fabric):
    wrong = frames.gratuitous_arp(TWO.mac, IPv4Address("10.0.0.1"))
    assert fabric.denied("a") == 0
    for _ in range(3):
        ovs.receive("c-one", wrong)
    eventually(lambda: fabric.denied("a") == 3, "three denied frames are counted")
    assert fabric.node_status("a")["denied_packets"] == 3


def test_a_known_destination_gets_its_frames_and_an_unknown_one_costs_nothing(trace):
    assert trace("c-one", udp(ONE, TWO))[0] == ["c-two"]
    assert trace("c-one", udp(ONE, FAR))[0] == ["t-b"]
    out, text = trace("c-one", udp(ONE, FAR, dl_dst=mac(99)))
    assert out == [] and "0xc0a7000000000008" in text  # Role.UNKNOWN


def test_networks_do_not_meet(trace, ovs):
    assert trace("c-alien", udp(ALIEN, TWO))[0] == []
    assert trace("c-one", udp(ONE, ALIEN))[0] == []
    assert sorted(trace("c-alien", udp(ALIEN, TWO, dl_dst="ff:ff:ff:ff:ff:ff"))[0]) == ["t-b", "t-c"]
    inside = f"tun_src=10.9.0.2,tun_dst=10.9.0.1,{udp(FAR, ONE)}"
    assert trace("t-b", f"tun_id=42,{inside}")[0] == ["c-one"]
    assert trace("t-b", f"tun_id=43,{inside}")[0] == []
    assert trace("t-b", f"tun_id=44,{inside}")[0] == []


def test_a_broadcast_from_a_tunnel_does_not_go_back(trace):
    broadcast = udp(FAR, ONE, dl_dst="ff:ff:ff:ff:ff:ff")
    out, _ = trace("t-b", f"tun_id=42,tun_src=10.9.0.2,tun_dst=10.9.0.1,{broadcast}")
    assert sorted(out) == ["c-one", "c-two", "t-c"]


def test_a_hold_takes_the_frames_and_gives_them_back(trace, fabric):
    """One is frozen here and goes to b, or comes from there: the hold is at a in both cases."""
    straggler = f"tun_id=42,tun_src=10.9.0.2,tun_dst=10.9.0.1,{udp(FAR, ONE)}"
    fabric.cut_over(replace(ONE, hold=held(ONE, "a", True)), 10)
    assert trace("c-two", udp(TWO, ONE))[0] == ["h-one"]
    assert trace("t-b", straggler)[0] == ["h-one"]
    assert trace("h-one", udp(TWO, ONE))[0] == ["c-one"]
    assert trace("c-two", udp(TWO, ONE, dl_dst="ff:ff:ff:ff:ff:ff"))[0] == ["t-b", "t-c"]
    fabric.cut_over(replace(ONE, hold=held(ONE, "a", False)), 10)
    assert trace("c-two", udp(TWO, ONE))[0] == ["c-one"]
    assert trace("h-one", udp(TWO, ONE))[0] == ["c-one"]


def test_what_leaves_a_hold_finds_a_place_elsewhere(trace, fabric, controller):
    fabric.kill()
    controller(TOPOLOGY, [ONE, replace(FAR, hold=held(FAR, "a", True))]).settle(["a"], SETTLE)
    assert trace("c-one", udp(ONE, FAR))[0] == ["h-far"]
    out, text = trace("h-far", udp(ONE, FAR))
    assert out == ["t-b"] and f"set_field:{direct_mac(42, 'far')}->eth_dst" in text


def test_stragglers_are_sent_on_even_where_they_came_from(trace, fabric, controller):
    """One has left for b: frames for it that b sent here go back through the same tunnel."""
    gone = replace(ONE, place=replace(ONE.place, node="b"), origins=(replace(ONE.place, node="b"),))
    fabric.kill()
    controller(TOPOLOGY, [gone, TWO, FAR]).settle(["a"], SETTLE)
    assert trace("t-b", f"tun_id=42,tun_src=10.9.0.2,tun_dst=10.9.0.1,{udp(FAR, ONE)}")[0] == ["t-b"]
    assert trace("c-one", udp(ONE, TWO))[0] == []  # it may not send here any more


def test_a_new_mac_is_announced_and_the_old_one_still_works(ovs, trace, fabric):
    renewed = replace(ONE, mac=mac(0x51), former_macs=(ONE.mac,))
    fabric.cut_over(renewed, 10)
    for destination in (renewed.mac, ONE.mac):
        out, text = trace("c-two", udp(TWO, ONE, dl_dst=destination))
        assert out == ["c-one"]
        assert f"dl_dst={renewed.mac}" in text.split("Final flow")[1]
    with ovs.captured("c-two") as heard:
        assert fabric.announce(renewed) == 1
        eventually(lambda: len(heard()) >= 2, "both announcements come out")
    assert heard() == [
        frames.gratuitous_arp(renewed.mac, four(ONE)),
        frames.unsolicited_advertisement(renewed.mac, six(ONE)),
    ]


def test_a_switch_that_cannot_advertise_has_its_answers_from_the_controller(ovs, controller, fabric):
    fabric.kill()
    asking = controller(TOPOLOGY, [ONE, TWO, FAR, ALIEN], advertise=False)
    asking.settle(["a"], SETTLE)
    answered = ovs.exchange("c-one", solicitation_frame(ONE, FAR.ips[1]))
    assert answered == [frames.advertisement(FAR.mac, frames.Solicitation(ONE.mac, six(ONE), six(FAR)))]


def four(binding: Binding) -> IPv4Address:
    return IPv4Address(binding.ips[0])


def six(binding: Binding) -> IPv6Address:
    return IPv6Address(binding.ips[1])


def solicitation_frame(source, target, option=True):
    """RFC 4861, section 4.3. Made from an advertisement: only type, flags and option type differ."""
    made = bytearray(frames.unsolicited_advertisement(source.mac, target))
    made[22:38] = source.ips[1].packed
    made[54], made[58], made[78] = 135, 0, 1
    if not option:
        del made[78:]
        made[18:20] = (24).to_bytes(2, "big")
    return bytes(made)
