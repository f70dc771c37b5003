"""A node turns its own switch by what the controller lent it: on three real switches in a row, as in test_cutover."""

import contextlib
import socket
import time
from dataclasses import replace

import pytest

from coat_ryu.flows import held_mac
from coat_ryu.model import Place
from coat_ryu.node.failure import Failure
from coat_ryu.node.turn import Turn, made_ready
from tests.switch.scene import LINE, bound, eventually, held
from tests.switch.test_cutover import MOVED, MOVER, PEER, SETTLE, Row, far_ovs  # noqa: F401

BOTH = (*MOVER.origins, *MOVED.origins)
EXPECTED = replace(MOVER, origins=BOTH, hold=held(MOVER, "c", False))
SECOND = bound("second", "a", 3)
FILLING = replace(MOVED, origins=BOTH, hold=held(MOVER, "c", True))


SELDOM = 600.0
often = pytest.mark.parametrize("row", [0.2], indirect=True)
"""Seconds between two audits: seldom, they put nothing right that something else should."""


@pytest.fixture
def row(ovs, far_ovs, controller, openflow_port, monkeypatch, request):  # noqa: F811
    monkeypatch.setenv("OVS_RUNDIR", str(ovs.directory))
    fabric = controller(LINE, [MOVER, PEER], audit_interval=getattr(request, "param", SELDOM), timeout=2.0)
    standing = Row(ovs, far_ovs, fabric, f"tcp:127.0.0.1:{openflow_port}")
    fabric.settle(["a", "b", "c"], SETTLE)
    fabric.cut_over(EXPECTED, 10)
    fabric.settle(["a", "b", "c"], SETTLE)
    yield standing
    standing.remove()


def ready(loan):
    return contextlib.closing(Turn("a", **{part: [message.hex() for message in loan[part]] for part in loan}))


def turn(loan):
    with ready(loan) as turning:
        turning.make()


def sends(row):
    """Where the place's switch sends what opens a connection, over IPv4 and IPv6, and all else."""
    return [row.sends("a", opening=opening) for opening in ("tcp", "tcp6", "")]


def repairs(row):
    return [row.fabric.node_status(node)["repairs"] for node in "abc"]


@often
def test_the_place_s_switch_alone_sends_into_the_hold(row):
    loan = row.fabric.lend("mover")
    assert [row.sends(node) for node in "abc"] == ["c-mover", "t-a", "t-b"]
    turn(loan)
    assert [row.sends(node) for node in "abc"] == ["t-b", "t-a", "t-b"]
    label = replace(MOVER, mac=held_mac(42, "mover"))
    assert f"set_field:{label.mac}->eth_dst" in "".join(row.ovs["a"].flows("a", f"table=4,dl_dst={MOVER.mac}"))
    assert [row.sends(node, label) for node in "abc"] == ["t-b", "t-c", "h-mover"]
    assert "set_field" not in "".join(row.ovs["c"].flows("c", f"table=4,dl_dst={label.mac}")), "the hold is to see it"
    time.sleep(1.0)  # a few audits: what was lent is nobody's tampering, whether it was applied or not
    assert [row.sends(node) for node in "abc"] == ["t-b", "t-a", "t-b"]
    row.fabric.call("loan.made")
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert [row.sends(node) for node in "abc"] == ["t-b", "t-a", "t-b"]
    row.fabric.bind(FILLING)
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert [row.sends(node) for node in "abc"] == ["t-b", "t-c", "h-mover"]
    row.fabric.cut_over(replace(FILLING, hold=held(MOVER, "c", False)), 10)
    row.fabric.bind(MOVED)
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert [row.sends(node) for node in "abc"] == ["t-b", "t-c", "c-mover"]
    assert repairs(row) == [0, 0, 0]


@often
def test_what_opens_a_connection_is_turned_first_and_alone(row):
    with ready(row.fabric.lend("mover")) as turning:
        assert turning.sift()
        assert sends(row) == ["t-b", "t-b", "c-mover"]
        time.sleep(0.5)  # an audit: this is nobody's tampering either
        assert sends(row) == ["t-b", "t-b", "c-mover"]
        turning.unsift()
        assert sends(row) == ["c-mover"] * 3
        turning.sift()
        turning.make()
        assert sends(row) == ["t-b"] * 3
    row.fabric.call("loan.made")
    row.fabric.cut_over(MOVER, 10)
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert sends(row) == ["c-mover"] * 3
    assert repairs(row) == [0, 0, 0]


def test_a_sift_that_nobody_took_back_is_taken_back(row):
    with ready(row.fabric.lend("mover")) as turning:
        turning.sift()
    row.fabric.call("loan.void")
    eventually(lambda: sends(row) == ["c-mover"] * 3, "new connections come to the place again")


def test_a_turn_can_be_taken_back(row):
    turn(row.fabric.lend("mover"))
    row.fabric.call("loan.made")
    row.fabric.cut_over(MOVER, 10)
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert [row.sends(node) for node in "abc"] == ["c-mover", "t-a", "t-b"]
    assert repairs(row) == [0, 0, 0]


@pytest.mark.parametrize("applied", [True, False])
def test_where_nobody_knows_the_switch_is_asked(row, applied):
    loan = row.fabric.lend("mover")
    if applied:
        turn(loan)
    row.fabric.call("loan.void")
    eventually(lambda: row.sends("a") == "c-mover", "frames go to the place again")
    row.fabric.cut_over(FILLING, 10)
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert [row.sends(node) for node in "abc"] == ["t-b", "t-c", "h-mover"]


def test_a_turn_that_comes_when_nobody_counts_on_it_is_found(row):
    loan = row.fabric.lend("mover")
    row.fabric.call("loan.void")
    row.fabric.settle(["a"], SETTLE)
    turn(loan)
    row.fabric.doubt("a", "mover")
    eventually(lambda: row.sends("a") == "c-mover", "frames go to the place again")


def test_a_switch_that_came_back_in_between_is_asked_too(row):
    loan = row.fabric.lend("mover")
    turn(loan)
    row.disconnect("a")
    row.connect("a")
    row.fabric.settle(["a"], SETTLE)  # it stays turned: nobody has said that it was not
    row.fabric.call("loan.made")
    row.fabric.bind(FILLING)
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert [row.sends(node) for node in "abc"] == ["t-b", "t-c", "h-mover"]


@pytest.fixture
def two(row):
    """Two containers leave one node side by side: what was lent for the mover, and for the second."""
    row.fabric.bind(SECOND)
    row.fabric.settle(["a", "b", "c"], SETTLE)
    both = (*SECOND.origins, Place("c", "c-second"))
    row.fabric.cut_over(replace(SECOND, origins=both, hold=held(SECOND, "c", False)), 10)
    row.fabric.settle(["a", "b", "c"], SETTLE)
    return row.fabric.lend("mover"), row.fabric.lend("second")


def test_what_was_lent_for_one_is_not_taken_for_the_other_s(row, two):
    mover, second = two
    turn(mover)
    row.fabric.call("loan_of_mover.made")
    row.fabric.cut_over(MOVER, 10)
    assert sends(row) == ["c-mover"] * 3
    assert row.sends("a", SECOND) == "c-second"
    turn(second)
    row.fabric.call("loan_of_second.made")
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert (row.sends("a"), row.sends("a", SECOND)) == ("c-mover", "t-b")
    row.fabric.cut_over(SECOND, 10)
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert row.sends("a", SECOND, "tcp") == "c-second"
    assert repairs(row) == [0, 0, 0]


def test_a_doubt_about_one_leaves_the_other_turned(row, two):
    """The second was turned by its node, and nobody has said so yet."""
    mover, second = two
    with ready(mover) as turning:
        turning.sift()
    turn(second)
    row.fabric.call("loan_of_mover.void")
    eventually(lambda: sends(row) == ["c-mover"] * 3, "new connections come to the place again")
    assert row.sends("a", SECOND) == "t-b"
    row.fabric.call("loan_of_second.made")
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert row.sends("a", SECOND) == "t-b"
    row.fabric.cut_over(SECOND, 10)
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert row.sends("a", SECOND, "tcp") == "c-second"


@often
def test_an_audit_that_repairs_something_leaves_what_is_lent(row):
    loan = row.fabric.lend("mover")
    turn(loan)
    row.ovs["a"].ofctl("mod-flows", "a", f"table=4,tun_id=0x2a,dl_dst={PEER.mac},actions=drop")
    eventually(lambda: row.fabric.node_status("a")["repairs"] > 0, "the audit has seen it")
    row.fabric.settle(["a"], SETTLE)
    assert sends(row) == ["t-b"] * 3
    row.fabric.call("loan.made")
    assert sends(row) == ["t-b"] * 3


def test_nothing_is_lent_without_a_hold_that_all_on_the_way_know(row):
    row.fabric.bind(MOVER)
    row.fabric.settle(["a", "b", "c"], SETTLE)
    assert row.fabric.lend("mover") is None
    row.disconnect("b")
    row.fabric.bind(EXPECTED)
    assert row.fabric.lend("mover") is None


def test_a_change_that_the_switch_refuses_is_told(row):
    loan = row.fabric.lend("mover")
    broken = bytearray(loan["messages"][0])
    broken[24] = 255  # its table: all of them, which no addition may name
    with pytest.raises(OSError, match="refuses"):
        turn({**loan, "messages": [bytes(broken)]})


def test_no_switch_is_no_turn_and_a_bad_order_a_clear_error(row, tmp_path):
    with made_ready(None) as nothing, made_ready({"bridge": "nowhere", "messages": ["04" * 8]}) as neither:
        assert nothing is None and neither is None
    with pytest.raises(Failure, match="messages"), made_ready({"bridge": "a", "messages": ["xy"]}):
        pass


def test_a_switch_that_says_nothing_is_not_waited_for_long(tmp_path, monkeypatch):
    monkeypatch.setenv("OVS_RUNDIR", str(tmp_path))
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "a.mgmt"))
        mute.listen()
        began = time.monotonic()
        with made_ready({"bridge": "a", "messages": ["04" * 8]}) as nothing:
            assert nothing is None
        assert time.monotonic() - began < 5
