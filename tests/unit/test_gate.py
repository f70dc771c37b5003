"""Who opens the gate: the node when its switch has turned, but not one that is alone and has nobody to go on."""

import os
import threading
import time
from collections.abc import Iterator

import pytest

from coat_ryu.node import gate


class NoGaps:
    def count(self) -> int:
        return 0

    def wait_until_filled(self, patience: float) -> float:
        return 0.0


class Turn:
    def __init__(self, works: bool = True) -> None:
        self.works, self.made = works, 0

    def make(self) -> None:
        self.made += 1
        if not self.works:
            raise ConnectionResetError


@pytest.fixture
def way() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_NONBLOCK)
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "ALONE", threading.Event())


@pytest.fixture
def deserted(alone: None) -> None:
    gate.ALONE.set()


def reach(way: tuple[int, int], turn: Turn | None, handed_on: bool) -> tuple[gate.Gate, bool]:
    """A container is frozen; whether it was let through."""
    one = gate.Gate()
    one.open(NoGaps(), turn, way[1], handed_on)  # type: ignore[arg-type]
    one.hear("frozen")
    assert one.reached.wait(5)
    try:
        return one, os.read(way[0], 8) == b"."
    except BlockingIOError:
        return one, False


@pytest.mark.parametrize("handed_on", [True, False])
def test_a_node_that_has_turned_its_switch_opens_the_gate(way: tuple[int, int], handed_on: bool) -> None:
    turn = Turn()
    one, passed = reach(way, turn, handed_on)
    assert passed and turn.made == 1 and one.turned_s is not None


def test_a_checkpoint_that_failed_while_gaps_were_filled_has_nothing_turned(way: tuple[int, int]) -> None:
    filled, turn = threading.Event(), Turn()

    class SlowGaps(NoGaps):
        def wait_until_filled(self, patience: float) -> float:
            filled.wait(5)
            return 0.0

    one = gate.Gate()
    one.open(SlowGaps(), turn, way[1], handed_on=True)  # type: ignore[arg-type]
    one.hear("frozen")
    closing = threading.Thread(target=one.close)
    closing.start()
    while one._let_through is not None:
        time.sleep(0.001)
    filled.set()
    closing.join(5)
    assert one.reached.is_set() and turn.made == 0


@pytest.mark.parametrize("turn", [None, Turn(works=False)], ids=["none", "refused"])
def test_otherwise_it_waits_for_the_controller(way: tuple[int, int], turn: Turn | None) -> None:
    one, passed = reach(way, turn, handed_on=True)
    assert not passed and one.turned_s is None and one.frozen_at is not None
    one.let_pass()
    assert os.read(way[0], 8) == b"."


@pytest.mark.parametrize("handed_on", [True, False])
def test_a_node_that_is_alone_goes_on_only_with_what_was_handed_to_it(
    way: tuple[int, int], deserted: None, handed_on: bool
) -> None:
    turn = Turn()
    _, passed = reach(way, turn, handed_on)
    assert passed == bool(turn.made) == handed_on
