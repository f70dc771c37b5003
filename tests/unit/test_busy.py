"""A container with connections that are being opened: the moment of its freeze, and the migration that tries again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coat_ryu.errors import IN_FLIGHT, NodeError
from coat_ryu.node import freezer, gate, settling
from coat_ryu.node.freezer import group
from coat_ryu.node.sockets import Unsettled
from coat_ryu.runner import TRIES
from tests.unit.migrating import SPEC, WAYS, Controller, controller_with_web

BUSY, QUIET = Unsettled(unaccepted=(80,)), Unsettled()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / freezer.SWITCH).write_text("0")
    return tmp_path


def frozen(own: Path) -> bool:
    return (own / freezer.SWITCH).read_text() == "1"


class Looks:
    """What is seen, one look after the other, and whether the container was frozen then; the last for ever."""

    def __init__(self, own: Path, *seen: Unsettled) -> None:
        self._own, self._seen, self.frozen = own, list(seen), [False][:0]

    def __call__(self) -> Unsettled:
        self.frozen.append(frozen(self._own))
        return self._seen.pop(0) if len(self._seen) > 1 else self._seen[0]


def freeze(own: Path, looks: Looks, going_on: bool = True) -> settling.Settled:
    return settling.freeze(own, looks, 0.0, lambda: going_on)


def test_a_container_is_frozen_once_its_queues_are_empty(own: Path) -> None:
    looks = Looks(own, BUSY, BUSY, QUIET)
    settled = freeze(own, looks)
    assert frozen(own) and not settled.left and settled.tries == 1
    assert looks.frozen == [False, False, False, True], "and it is looked at again when it is frozen"


def test_a_connection_that_slips_in_before_the_freeze_lets_it_run_on(own: Path) -> None:
    looks = Looks(own, QUIET, BUSY, BUSY, QUIET)
    settled = freeze(own, looks)
    assert looks.frozen == [False, True, False, False, True] and settled.tries == 2 and not settled.left


def test_one_that_never_accepts_is_told_after_a_bounded_time(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "PATIENCE", 0.05)
    settled = freeze(own, Looks(own, BUSY))
    assert settled.left == BUSY and 0.05 <= settled.waited < 5


def test_a_checkpoint_that_has_ended_is_waited_for_no_longer(own: Path) -> None:
    assert freeze(own, Looks(own, BUSY), going_on=False).waited < settling.PATIENCE


def test_there_is_quiet_only_after_a_while_without_openings(own: Path) -> None:
    looks = Looks(own, QUIET, BUSY, QUIET)
    settling.freeze(own, looks, 0.02, lambda: True)
    assert looks.frozen.count(False) > 3


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/libpod_parent/libpod-c0ffee", "libpod_parent/libpod-c0ffee"),
        ("/libpod_parent/libpod-c0ffee/init.scope", "libpod_parent/libpod-c0ffee"),
        ("/machine.slice/libpod-c0ffee.scope/container", "machine.slice/libpod-c0ffee.scope/container"),
        ("/machine.slice/libpod-c0ffee.scope/container/init.scope", "machine.slice/libpod-c0ffee.scope/container"),
        ("/a.slice/of/somebody", "a.slice/of/somebody"),
    ],
)
def test_the_container_s_own_cgroup_is_frozen_not_one_below(path: str, own: str) -> None:
    assert group(path, "c0ffee") == own


class NoGaps:
    def count(self) -> int:
        return 0

    def wait_until_filled(self, patience: float) -> float:
        return 0.0


def test_a_server_that_does_not_accept_is_turned_back_at_the_gate(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bytes] = []
    monkeypatch.setattr(settling, "PATIENCE", 0.02)
    monkeypatch.setattr(settling, "looking", lambda pid: (lambda: BUSY, lambda: None))
    monkeypatch.setattr(freezer, "directory", lambda pid, identity: own)
    monkeypatch.setattr(gate.os, "write", lambda descriptor, word: said.append(word))  # type: ignore[attr-defined]
    one = gate.Gate()
    one.open(NoGaps(), None, 5)  # type: ignore[arg-type]
    one.hear("pre-dump", 7)
    assert one._work is not None
    one._work.join(5)
    assert said == [gate.TURN_BACK] and not frozen(own)
    assert one.refusal is not None and one.refusal.cause == IN_FLIGHT == gate.IN_FLIGHT
    assert one.frozen_at is None


# ---- the migration


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    yield controller_with_web(tmp_path)


def refuse(controller: Controller, times: int, cause: str = IN_FLIGHT) -> None:
    left = [times]

    def fault(number: int, node: str, verb: str) -> None:
        if verb in ("checkpoint", "checkpoint_send", "lazy_checkpoint") and left[0]:
            left[0] -= 1
            raise NodeError("it was busy", node=node, cause=cause)

    controller.world.before = fault


@pytest.mark.parametrize("way", WAYS)
def test_a_busy_container_is_moved_at_a_later_try(controller: Controller, way: tuple[Any, Any]) -> None:
    refuse(controller, TRIES - 1)
    record = controller.run(mode=way[0], memory=way[1])
    assert (record.state, record.tries, record.error) == ("succeeded", TRIES, None)
    assert controller.world.running("web") == ["b"] and controller.world.most_copies == 1
    assert not [step.name for step in record.steps if step.name.startswith("undo_")]
    again = controller.journal.migration(record.id)
    assert again is not None and again.tries == TRIES
    assert controller.fabric.bindings["web"].place.node == "b" and controller.fabric.bindings["web"].hold is None


@pytest.mark.parametrize("way", WAYS)
def test_one_that_stays_busy_is_given_up_and_runs_on(controller: Controller, way: tuple[Any, Any]) -> None:
    refuse(controller, 99)
    record = controller.run(mode=way[0], memory=way[1])
    assert record.state == "rolled_back" and record.tries == TRIES
    assert record.error is not None and record.error.cause == IN_FLIGHT
    assert controller.world.running("web") == ["a"] and controller.world.residue("a") == []
    assert controller.containers.resident(SPEC.name).node == "a"


def test_what_is_no_matter_of_being_busy_is_not_tried_again(controller: Controller) -> None:
    refuse(controller, 1, "command_failed")
    record = controller.run()
    assert record.state == "rolled_back" and record.tries == 1


@pytest.mark.parametrize("way", WAYS)
def test_an_abort_between_two_tries_is_heeded(controller: Controller, way: tuple[Any, Any]) -> None:
    refuse(controller, 99)

    def abort(seconds: float) -> None:
        (move,) = controller.migrator.runner.under_way.values()
        controller.migrator.abort(move.record.id)

    controller.migrator.runner._sleep = abort
    record = controller.run(mode=way[0], memory=way[1])
    assert record.state == "rolled_back" and record.tries == 2
    assert record.error is not None and record.error.cause == "aborted"
    assert controller.world.running("web") == ["a"]


@pytest.mark.parametrize("way", WAYS)
def test_an_abort_while_a_try_is_taken_back_is_heeded(controller: Controller, way: tuple[Any, Any]) -> None:
    refuse(controller, 99)
    world, busy = controller.world, controller.world.before

    def before(number: int, node: str, verb: str) -> None:
        move = next(iter(controller.migrator.runner.under_way.values()), None)
        if verb == "hold_close" and move is not None and not move.abort.is_set():
            controller.migrator.abort(move.record.id)
        busy(number, node, verb)

    world.before = before
    record = controller.run(mode=way[0], memory=way[1])
    assert record.error is not None
    assert (record.state, record.tries, record.error.cause) == ("rolled_back", 2, "aborted")
    assert world.running("web") == ["a"] and world.residue("a") == []
