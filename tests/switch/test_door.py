"""Strangers at the OpenFlow port, beside real switches."""

import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest

from coat_ryu import southbound
from coat_ryu.switches import PROOF
from tests.switch.rogue import HEADER, is_closed, rogue
from tests.switch.scene import TOPOLOGY, bound, eventually

SILENCE = southbound.ECHO_INTERVAL * (southbound.UNANSWERED + 1)
PORTS = {"t-b": "vxlan", "t-c": "vxlan", "c-one": ""}
DPID = int(TOPOLOGY.node("a").switch, 16)


@pytest.fixture
def ours(ovs, controller, openflow_port):
    """A controller; ``connect`` gives it the real switch of node a."""
    started = controller(TOPOLOGY, [bound("one", "a", 1)])
    started.connect = lambda: ovs.add_bridge("a", f"{DPID:016x}", PORTS, f"tcp:127.0.0.1:{openflow_port}")
    yield started
    ovs.vsctl("--if-exists", "del-br", "a")


def test_a_stranger_with_a_live_switch_s_dpid_is_turned_away(ours, ovs, openflow_port):
    ours.connect()
    ours.settle(["a"], 30)
    flows = ovs.flows("a")
    for _ in range(3):
        with rogue(openflow_port, DPID) as stranger:
            assert is_closed(stranger, 10)
    assert ours.node_status("a")["connected"]
    ours.bind(bound("two", "a", 2))
    ours.settle(["a"], 30)
    assert len(ovs.flows("a")) > len(flows) > 10
    assert ours.call("board.refusals.counts") == {("a", "rival"): 3}


def test_a_switch_gets_in_though_its_dead_connection_still_stands(ours, openflow_port):
    """The first says nothing more after its introduction, as a host that lost its power."""
    with rogue(openflow_port, DPID) as dead:
        eventually(lambda: ours.node_status("a")["connected"], "it has the place")
        began = time.monotonic()
        ours.connect()
        ours.settle(["a"], PROOF + 20)
        assert time.monotonic() - began < PROOF + 20
        assert is_closed(dead, 5)


def test_a_switch_that_says_nothing_any_more_is_known_to_be_away(ours, openflow_port):
    with rogue(openflow_port, DPID) as dead:
        eventually(lambda: ours.node_status("a")["connected"], "it has the place")
        eventually(lambda: not ours.node_status("a")["connected"], "it has lost it", SILENCE + 10)
        assert is_closed(dead, 5)


def test_a_switch_that_answers_stays(ours):
    ours.connect()
    ours.settle(["a"], 30)
    time.sleep(SILENCE + 3)
    assert ours.node_status("a")["connected"] and ours.log().count("switch of a connected") == 1


def test_who_does_not_say_which_switch_it_is_is_hung_up_on(ours, openflow_port):
    with rogue(openflow_port, None) as mute, rogue(openflow_port, None) as noise:
        noise.sendall(b"GET / HTTP/1.1\r\n\r\n" * 2000)
        assert is_closed(noise, southbound.HANDSHAKE / 2)
        assert is_closed(mute, southbound.HANDSHAKE + 5)
    assert ours.call("board.refusals.counts") == {("", "handshake"): 2}
    assert "Traceback" not in ours.log()


def test_connections_that_are_nobody_yet_are_bounded_and_switches_get_in_after(ours, openflow_port):
    with ExitStack() as many:
        for _ in range(southbound.PENDING):
            many.enter_context(socket.create_connection(("127.0.0.1", openflow_port), timeout=20))
        with rogue(openflow_port, None) as one_more:
            assert is_closed(one_more, 5)
    ours.connect()
    ours.settle(["a"], 30)
    assert ours.call("board.refusals.counts")[("", "limit")] == 1


@pytest.mark.parametrize("dpid", [0, 0xDEAD])
def test_a_switch_of_nobody_s_is_left_alone(ours, openflow_port, dpid):
    ours.connect()
    with rogue(openflow_port, dpid) as stranger:
        ours.settle(["a"], 30)
        assert not is_closed(stranger, 0.5)
    assert ours.call("board.refusals.counts") == {}


@pytest.mark.parametrize("kind", [13, 99])
@pytest.mark.parametrize("length", [8, 65535])
def test_messages_that_cannot_be_read_hold_nobody_up_and_fill_no_log(ours, openflow_port, kind, length):
    ours.connect()
    ours.settle(["a"], 30)
    with rogue(openflow_port, 0xDEAD) as noise, suppress(OSError):
        for _ in range(100):
            noise.sendall((HEADER.pack(4, kind, length, 7) + bytes(length - 8)) * 10)
    with rogue(openflow_port, 0xDEAD) as noise:
        with suppress(OSError):
            noise.sendall(HEADER.pack(4, kind, length, 7) + bytes(length - 8))
        assert not is_closed(noise, 1)  # one is forgiven
    assert "Traceback" not in ours.log() and len(ours.log()) < 20_000
    assert "messages that cannot be read" in ours.log()


def test_a_flood_of_messages_keeps_nobody_from_their_turn(ours, openflow_port):
    ours.connect()
    ours.settle(["a"], 30)
    replies = HEADER.pack(4, 3, 8, 7) * 2_000_000  # to echo requests that nobody has sent

    def send(noise):
        with suppress(OSError):
            noise.sendall(replies)

    with rogue(openflow_port, 0xDEAD) as noise:
        sender = threading.Thread(target=send, args=(noise,))
        sender.start()
        time.sleep(0.2)
        began = time.monotonic()
        assert ours.node_status("a")["connected"]
        took = time.monotonic() - began
        assert sender.is_alive() and took < 0.4
        noise.shutdown(socket.SHUT_RDWR)
        sender.join(60)
