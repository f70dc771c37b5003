"""What the switchboard makes of switches that are slow, gone, or do not know what is asked of them."""

import struct
import time
from types import SimpleNamespace

import pytest
from ryu.lib import hub
from ryu.ofproto import ofproto_v1_3 as of
from ryu.ofproto import ofproto_v1_3_parser as parser

from coat_ryu import southbound, wire
from coat_ryu.errors import NotFound, SwitchError, SwitchGone, SwitchTimeout
from coat_ryu.openflow import Change, Flow, Output, match
from coat_ryu.refusals import Refusals
from coat_ryu.switches import STRANGERS, Switchboard
from coat_ryu.tls import Keys, Tls

DPID = 0xA
CHANGES = [Change("add", Flow(4, number, match(in_port=number), (Output(1),))) for number in range(1, 4)]


class FakeDatapath:
    """A connection that keeps what was sent, and whose switch answers every message by ``answer``."""

    id, xid, address = DPID, 7, ("10.0.0.1", 1)
    certified: frozenset[str] | None = None

    def __init__(self, answer):
        self.sent, self.answer, self.open, self.closed = [], answer, True, False
        self.ports = {1: parser.OFPPort(1, "", b"c-one", 0, of.OFPPS_LIVE, 0, 0, 0, 0, 0, 0)}

    def send(self, data):
        while data and self.open:
            _, kind, length, xid = wire.HEADER.unpack_from(data)
            self.sent.append((kind, data[:length]))
            hub.spawn(self.answer, self, kind, xid, data[:length])
            data = data[length:]
        return self.open

    def close(self):
        self.open, self.closed = False, True


@pytest.fixture
def connect():
    def run(answer, **options):
        board = Switchboard({DPID: "edge1"}, timeout=0.3, **options)
        datapath = FakeDatapath(lambda *args: answer(board, *args))
        assert board.attach(datapath) == "edge1"
        return board, datapath

    return run


def reply(datapath, kind, xid, **fields):
    return SimpleNamespace(datapath=datapath, msg_type=kind, xid=xid, **fields)


def obedient(board, datapath, kind, xid, data):
    if kind == of.OFPT_BARRIER_REQUEST:
        board.on_reply(reply(datapath, of.OFPT_BARRIER_REPLY, xid))


def silent(board, datapath, kind, xid, data):
    pass


def without_bundles(board, datapath, kind, xid, data):
    if kind == of.OFPT_EXPERIMENTER:
        fields = {"type": of.OFPET_BAD_REQUEST, "code": of.OFPBRC_BAD_EXPERIMENTER}
        board.on_reply(reply(datapath, of.OFPT_ERROR, xid, **fields))
    obedient(board, datapath, kind, xid, data)


def picky(board, datapath, kind, xid, data):
    """Takes no flow of priority 2."""
    if kind == of.OFPT_EXPERIMENTER and len(data) > 60 and struct.unpack_from("!H", data, 24 + 30)[0] == 2:
        fields = {"type": of.OFPET_BAD_ACTION, "code": of.OFPBAC_BAD_OUT_PORT}
        board.on_reply(reply(datapath, of.OFPT_ERROR, xid, **fields))
    obedient(board, datapath, kind, xid, data)


def kinds(datapath):
    return [kind for kind, _ in datapath.sent]


def bundle_messages(datapath):
    """The types of the bundle control messages that were sent (ONF extension 230, section 4.1)."""
    return [struct.unpack_from("!H", data, 20)[0] for kind, data in datapath.sent if kind == of.OFPT_EXPERIMENTER
            and struct.unpack_from("!I", data, 12)[0] == of.ONF_ET_BUNDLE_CONTROL]  # fmt: skip


def test_changes_go_out_as_one_bundle(connect):
    board, datapath = connect(obedient)
    board.apply("edge1", CHANGES)
    assert bundle_messages(datapath) == [of.ONF_BCT_OPEN_REQUEST, of.ONF_BCT_COMMIT_REQUEST]
    assert kinds(datapath).count(of.OFPT_FLOW_MOD) == 0


def test_a_single_change_needs_no_bundle_and_none_needs_nothing(connect):
    board, datapath = connect(obedient)
    board.apply("edge1", [])
    assert datapath.sent == []
    board.apply("edge1", CHANGES[:1])
    assert kinds(datapath) == [of.OFPT_FLOW_MOD, of.OFPT_BARRIER_REQUEST]


def test_a_bad_change_is_named_and_the_bundle_discarded(connect):
    board, datapath = connect(picky)
    with pytest.raises(SwitchError, match=r"node edge1 \(dpid 000000000000000a\).*BAD_OUT_PORT.*priority=2"):
        board.apply("edge1", CHANGES)
    assert bundle_messages(datapath) == [of.ONF_BCT_OPEN_REQUEST, of.ONF_BCT_DISCARD_REQUEST]


def test_a_switch_that_knows_no_bundles_is_asked_once(connect):
    board, datapath = connect(without_bundles)
    board.apply("edge1", CHANGES)
    board.apply("edge1", CHANGES)
    assert bundle_messages(datapath) == [of.ONF_BCT_OPEN_REQUEST]
    assert kinds(datapath).count(of.OFPT_FLOW_MOD) == 2 * len(CHANGES)


def test_no_answer_is_a_timeout_that_names_the_switch(connect):
    board, _ = connect(silent)
    for ask in (lambda: board.apply("edge1", CHANGES), lambda: board.read("edge1")):
        with pytest.raises(SwitchTimeout, match=r"node edge1 \(dpid 000000000000000a\)"):
            ask()


def test_who_waits_is_told_when_the_connection_ends(connect):
    board, _ = connect(lambda board, datapath, *_: board.detach(datapath))
    with pytest.raises(SwitchGone, match="edge1"):
        board.apply("edge1", CHANGES)
    with pytest.raises(SwitchGone, match="edge1"):
        board.send_packets("edge1", 1, [b"frame"])
    with pytest.raises(NotFound):
        board.read("edge9")


def second(board, answer=obedient, certified=None):
    """Another connection that says it is the same switch."""
    datapath = FakeDatapath(lambda *args: answer(board, *args))
    datapath.certified = certified
    assert board.attach(datapath) is None
    return datapath


def wait_for(condition):
    for _ in range(200):
        if condition():
            return
        hub.sleep(0.01)
    raise AssertionError("waited in vain")


def test_a_second_connection_of_a_live_switch_is_refused_and_unplugs_nobody(connect):
    board, first = connect(obedient)
    rival = second(board)
    wait_for(lambda: rival.closed)
    board.send_packets("edge1", 1, [b"frame"])
    assert kinds(first)[-1] == of.OFPT_PACKET_OUT and kinds(rival) == []
    assert board.detach(rival) is None and board.connected("edge1") and not first.closed
    assert board.refusals.counts == {("edge1", "rival"): 1}


def test_a_rival_changes_nothing_while_the_first_is_asked_for_a_sign_of_life(connect):
    board, first = connect(silent)
    rival = second(board)
    hub.sleep(0.05)
    board.send_packets("edge1", 1, [b"frame"])
    assert kinds(first)[-1] == of.OFPT_PACKET_OUT and kinds(rival) == []


def test_a_switch_whose_connection_died_silently_gets_in_again_in_bounded_time(connect):
    board, old = connect(silent, proof=0.1)
    placed: list[str] = []
    board.on_placed = placed.append
    new = second(board)
    wait_for(lambda: placed)
    board.apply("edge1", CHANGES)
    assert placed == ["edge1"] and old.closed and bundle_messages(new)
    assert board.detach(old) is None and board.connected("edge1")
    assert board.detach(new) == "edge1" and not board.connected("edge1")


def test_a_sign_of_life_of_any_kind_is_one(connect):
    board, old = connect(silent, proof=0.2)
    new = second(board)
    hub.sleep(0.05)
    board.on_reply(reply(old, of.OFPT_BARRIER_REPLY, 12345))  # to nobody's question
    wait_for(lambda: new.closed)
    assert board.connected("edge1") and not old.closed


def test_when_the_first_ends_meanwhile_the_second_is_in_at_once(connect):
    board, old = connect(silent, proof=30)
    placed: list[str] = []
    board.on_placed = placed.append
    new = second(board)
    hub.sleep(0.05)
    assert board.detach(old) == "edge1"
    wait_for(lambda: placed)
    assert board.detach(new) == "edge1"


def test_a_rival_that_ends_meanwhile_gets_no_place(connect):
    board, old = connect(silent, proof=0.1)
    rival = second(board)
    hub.sleep(0.02)
    assert board.detach(rival) is None
    hub.sleep(0.2)
    assert board.connected("edge1") and not old.closed
    last = second(board)
    wait_for(lambda: old.closed)
    assert board.detach(last) == "edge1"


def test_one_rival_at_a_time_is_weighed_the_others_are_refused_at_once(connect):
    board, _ = connect(silent, proof=30)
    first, others = second(board), [second(board) for _ in range(3)]
    assert not first.closed and all(other.closed for other in others)
    assert board.refusals.counts == {("edge1", "rival"): 3}


def test_a_certificate_of_another_node_is_no_switch_of_this_one():
    board = Switchboard({DPID: "edge1"}, timeout=0.3)
    for names in (frozenset({"edge2"}), frozenset({"edge1.example.net", "Edge1"}), frozenset[str]()):
        second(board, certified=names)
        assert not board.connected("edge1")
    assert board.refusals.counts == {("edge1", "certificate"): 3}
    right = FakeDatapath(silent)
    right.certified = frozenset({"edge1", "localhost"})
    assert board.attach(right) == "edge1"


def test_refusals_are_told_but_a_flood_of_them_is_told_once(connect):
    board, _ = connect(silent, proof=30)
    told = []
    board.refusals.tell = lambda kind, **data: told.append((kind, data))
    for _ in range(50):
        second(board)
    assert len(told) == 1
    assert told[0][0] == "refused"
    assert told[0][1].items() >= {"node": "edge1", "reason": "rival", "address": "10.0.0.1:1", "count": 1}.items()


def test_an_asked_switch_that_says_nothing_is_away(connect):
    board, _ = connect(silent)
    with pytest.raises(SwitchTimeout, match="edge1"):
        board.ask("edge1", 0.1)
    with pytest.raises(NotFound):
        board.ask("edge9", 0.1)
    board, datapath = connect(obedient)
    board.ask("edge1", 0.1)
    board.detach(datapath)
    with pytest.raises(SwitchGone):
        board.ask("edge1", 0.1)


def test_strangers_are_left_alone(connect):
    board, _ = connect(silent)
    stranger = FakeDatapath(silent)
    stranger.id = 0xB
    assert board.attach(stranger) is None
    board.on_reply(reply(stranger, of.OFPT_BARRIER_REPLY, 1))
    assert stranger.sent == []


@pytest.mark.parametrize("dpid", [0, 0xB])
def test_strangers_are_bounded_in_number(connect, dpid):
    board, _ = connect(silent)
    strangers = [FakeDatapath(silent) for _ in range(STRANGERS + 1)]
    for stranger in strangers:
        stranger.id = dpid
        assert board.attach(stranger) is None
    assert [stranger.closed for stranger in strangers] == [False] * STRANGERS + [True]
    board.detach(strangers[0])
    late = FakeDatapath(silent)
    late.id = 0xC
    board.attach(late)
    assert not late.closed and board.connected("edge1")


def test_all_strangers_that_become_ours_are_hung_up_on(connect):
    board, _ = connect(silent)
    strangers = [FakeDatapath(silent) for _ in range(2)]
    for stranger in strangers:
        stranger.id = 0xB
        board.attach(stranger)
    board.rename({DPID: "edge1", 0xB: "edge2"})
    assert all(stranger.closed for stranger in strangers)


def test_ports_follow_what_the_switch_says(connect):
    board, datapath = connect(silent)
    assert board.ports("edge1")["c-one"].up
    down = parser.OFPPort(1, "", b"c-one", 0, of.OFPPS_LINK_DOWN, 0, 0, 0, 0, 0, 0)
    assert board.on_port(SimpleNamespace(datapath=datapath, reason=of.OFPPR_MODIFY, desc=down)) == "edge1"
    assert not board.ports("edge1")["c-one"].up
    board.on_port(SimpleNamespace(datapath=datapath, reason=of.OFPPR_DELETE, desc=down))
    assert board.ports("edge1") == {}


def test_flow_dumps_of_other_applications_are_parsed_by_ryu():
    empty_match = struct.pack("!HH4x", 1, 4)
    entry = struct.pack("!HBxIIHHHH4xQQQ", 56, 3, 1, 2, 9, 0, 0, 0, 5, 6, 7) + empty_match
    data = struct.pack("!BBHI", 4, of.OFPT_MULTIPART_REPLY, 16 + len(entry), 99) + struct.pack("!HH4x", 1, 0) + entry
    message = parser.OFPMultipartReply.parser(SimpleNamespace(), 4, of.OFPT_MULTIPART_REPLY, len(data), 99, data)
    assert (message.body[0].table_id, message.body[0].priority, message.body[0].packet_count) == (3, 9, 6)


def test_a_switch_that_takes_nothing_is_not_waited_for(connect):
    """It reads a few bytes now and then, so that its connection never fails."""
    board, datapath = connect(silent)
    datapath.send = lambda data: hub.sleep(60)
    began = time.monotonic()
    with pytest.raises(SwitchTimeout, match="took nothing"):
        board.apply("edge1", CHANGES)
    datapath.is_full = True
    board.send_packets("edge1", 1, [b"frame"])
    assert time.monotonic() - began < 2


def test_a_network_of_ipv6_addresses_is_one_that_connects():
    class Patient(southbound.Door):
        def _serve(self, *_):
            hub.sleep(60)

    door, most = Patient(Keys(Tls()), Refusals()), southbound.PENDING_OF_ONE
    closed = []
    guests = [
        hub.spawn(door.meet, SimpleNamespace(close=lambda: closed.append(1)), (f"2001:db8::{number + 1:x}", 1))
        for number in range(most + 3)
    ]
    hub.sleep(0.1)
    assert len(closed) == 3
    for guest in guests:
        hub.kill(guest)
