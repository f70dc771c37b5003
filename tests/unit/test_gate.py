"""Who opens the gate: the node when its switch has turned, but not one that is alone and has nobody to go on."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from coat_ryu.node import checkpoint, gate, lazy, podman
from coat_ryu.node.failure import Failure
from coat_ryu.node.process import deadline


class NoGaps:
    def count(self) -> int:
        return 0

    def wait_until_filled(self, patience: float) -> float:
        return 0.0


class Turn:
    def __init__(self, works: bool = True) -> None:
        self.works, self.made = works, 0

    def sift(self) -> bool:
        return False

    def unsift(self) -> None: ...

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
    one.hear("network-lock")
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
    one.hear("network-lock")
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


def asked(**more: str) -> dict[str, object]:
    """What freeze_wait answers within its time."""
    with deadline(5.0):
        return dict(gate.freeze_wait(name="web", **more))


def test_a_checkpoint_that_fails_before_its_gate_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, asking = threading.Event(), ThreadPoolExecutor(1)

    def gone(name: str) -> None:
        waiting.wait(5)
        raise Failure("not_found", "name: there is no container web")

    monkeypatch.setattr(checkpoint, "place", gone)
    with asking:
        answer = asking.submit(asked, attempt="m1/1")
        failing = threading.Thread(target=_failing, args=("m1/1",))
        failing.start()
        waiting.set()
        assert answer.result(5) == {"frozen_at": None, "turned_s": None}
        failing.join(5)


def _failing(attempt: str | None) -> None:
    with pytest.raises(Failure):
        checkpoint.checkpoint(name="web", port="c-web", attempt=attempt)


def test_who_asks_after_a_checkpoint_has_failed_hears_that_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> None:
        raise Failure("not_found", "name: there is no container web")

    monkeypatch.setattr(checkpoint, "place", gone)
    _failing("m2/1")
    assert asked(attempt="m2/1") == {"frozen_at": None, "turned_s": None}
    with pytest.raises(Failure, match="has not been frozen"), deadline(0.05):
        gate.freeze_wait(name="web", attempt="m2/2")  # the next one's gate is another
    monkeypatch.setattr(podman, "place", gone)
    with pytest.raises(Failure):
        lazy.lazy_checkpoint(name="web", port="c-web", transfer="t", to={}, pages_to={}, tls={}, attempt="m3/1")
    assert asked(attempt="m3/1") == {"frozen_at": None, "turned_s": None}


def test_gates_that_nobody_asks_for_any_more_are_forgotten() -> None:
    for number in range(gate.KEPT + 50):
        with gate.announced(f"web-{number}", "m/1"):
            pass
    assert len(gate._gates) <= gate.KEPT + 1
