"""The way back: whatever fails on it, the container comes back, or it is said truthfully where it is."""

from collections.abc import Callable

import pytest

from coat_ryu import migrator, sweep
from coat_ryu.errors import NodeError, NodeTimeout, SwitchTimeout
from tests.unit.fakes import World
from tests.unit.migrating import WAYS, Controller, wait_for

FREEZE = ("checkpoint", "checkpoint_send", "lazy_checkpoint")
TIDYING = ("hold_release", "hold_close", "transfer_discard", "container_remove", "endpoint_remove", "pages_discard")
"""What a way back asks of the destination."""


def once(act: Callable[[], None], *verbs: str) -> Callable[[int, str, str], None]:
    """Acts before the first of these verbs."""
    done: list[str] = []

    def before(number: int, node: str, verb: str) -> None:
        if verb in verbs and not done:
            done.append(verb)
            act()

    return before


def refused(world: World, nodes: str, *verbs: str, error: type[NodeError] = NodeError) -> None:
    """From the freeze on these nodes do not do this any more."""
    frozen: list[str] = []

    def before(number: int, where: str, verb: str) -> None:
        if verb in FREEZE:
            frozen.append(verb)
        if frozen and where in nodes and verb in verbs:
            raise error(f"{verb} is refused", node=where)

    world.before = before


@pytest.mark.parametrize(("mode", "memory"), WAYS)
@pytest.mark.parametrize("verbs", [("hold_open",), FREEZE])
def test_container_that_ends_before_the_freeze_is_told_at_once(
    controller: Controller, mode: str, memory: str, verbs: tuple[str, ...]
) -> None:
    world = controller.world
    waited: list[float] = []
    controller.migrator.runner._sleep = waited.append
    world.before = once(lambda: world.nodes["a"].containers["web"].update(state="stopped"), *verbs)
    record = controller.run(mode=mode, memory=memory)
    assert record.error is not None and (record.state, record.error.cause) == ("rolled_back", "has_ended")
    assert "web has ended" in record.error.message
    assert waited == [] and world.running("web") == [] and world.residue("a") == []
    controller.containers.remove("web")
    assert world.residue("") == []


@pytest.mark.parametrize(("mode", "memory"), WAYS)
def test_container_removed_by_hand_before_the_freeze_is_told_at_once(
    controller: Controller, mode: str, memory: str
) -> None:
    world = controller.world
    waited: list[float] = []
    controller.migrator.runner._sleep = waited.append
    world.before = once(lambda: world.nodes["a"].containers.clear(), *FREEZE)
    record = controller.run(mode=mode, memory=memory)
    assert record.error is not None and (record.state, record.error.cause) == ("rolled_back", "is_gone")
    assert waited == [] and world.residue("a") == []


@pytest.mark.parametrize(("mode", "memory"), WAYS)
@pytest.mark.parametrize("verb", TIDYING)
def test_undo_step_that_fails_stops_no_other_and_is_swept(
    controller: Controller, mode: str, memory: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The destination refuses to restore, and from then on to do one thing of what the way back asks for."""
    monkeypatch.setattr(sweep, "AGAIN", (0.01,) * 50)
    world = controller.world
    refused(world, "b", "restore", "lazy_restore", verb)
    record = controller.run(mode=mode, memory=memory)
    assert record.state == "rolled_back", record.error
    assert world.running("web") == ["a"] and controller.fabric.bindings["web"].hold is None
    assert controller.fabric.bindings["web"].place.node == "a"
    world.before = lambda number, node, verb: None
    wait_for(lambda: world.residue("a") == [])  # by itself


@pytest.mark.parametrize(("mode", "memory"), WAYS)
def test_restore_refused_on_both_sides_once_comes_back(controller: Controller, mode: str, memory: str) -> None:
    world = controller.world
    refusals: set[str] = set()

    def before(number: int, node: str, verb: str) -> None:
        if verb in ("restore", "lazy_restore") and node not in refusals:
            refusals.add(node)
            raise NodeError("CRIU refuses", node=node)

    world.before = before
    record = controller.run(mode=mode, memory=memory)
    assert record.state == "rolled_back" and world.running("web") == ["a"] and world.residue("a") == []


def test_container_that_no_side_restores_is_told_and_nothing_else_left(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = controller.world
    refused(world, "ab", "restore")
    record = controller.run(mode="sequential")
    assert record.state == "failed" and record.error is not None
    assert "a keeps its checkpoint, but could not restore it; it is tried again" in record.error.message
    assert "both are connected" not in record.error.message
    assert world.nodes["a"].containers["web"]["state"] == "checkpointed"
    assert world.residue("a") == []
    assert world.nodes["a"].endpoints == {}, "an empty namespace answers the container's peers with RST"
    world.before = lambda number, node, verb: None
    controller.containers.remove("web")
    assert world.residue("") == []


def test_failed_migration_is_taken_up_again_though_no_node_was_away(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrator, "AGAIN", (0.01, 0.05, 60.0))
    world = controller.world
    failures = iter(["b", *"a" * 9])
    left = [next(failures)]

    def before(number: int, node: str, verb: str) -> None:
        if verb == "restore" and left and node == left[0]:
            left[0:] = [node for node in [next(failures, "")] if node]
            raise NodeError("CRIU refuses", node=node)

    world.before = before
    record = controller.run(mode="sequential")
    wait_for(lambda: controller.migrator.migration(record.id).state == "rolled_back")
    record = controller.migrator.migration(record.id)
    assert record.error is not None and record.error.message == "CRIU refuses"
    assert world.running("web") == ["a"] and world.residue("a") == []
    assert "coat-web" in world.nodes["a"].endpoints


def test_destination_that_does_not_answer_is_not_said_to_be_away(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(controller.world, "b", "restore", "container_inspect", error=NodeTimeout)
    record = controller.run(mode="sequential")
    assert record.state == "failed" and record.error is not None
    assert "it is decided when b can say whether it runs there" in record.error.message
    assert "are connected" not in record.error.message


def test_source_whose_switch_is_away_gets_its_container_back(controller: Controller) -> None:
    refused(controller.world, "b", "restore")
    waits: list[str] = []

    def away(node: str, port: str, timeout: float) -> None:
        waits.append(node)
        if node == "a":
            raise SwitchTimeout("the switch of a is away")

    controller.fabric.wait_port = away  # type: ignore[method-assign]
    record = controller.run(mode="prepared")
    assert record.state == "rolled_back" and controller.world.running("web") == ["a"] and "a" in waits


def test_delete_after_a_failed_migration_ends_the_copy_of_a_lost_node(controller: Controller) -> None:
    """It may run at the destination, which nobody can ask: it goes when that node is back."""
    world = controller.world
    world.before = lambda number, node, verb: world.dark.add("b") if verb == "restore" else None
    record = controller.run(mode="sequential")
    assert record.state == "failed" and world.running("web") == ["b"]
    controller.containers.remove("web")
    controller.light()
    wait_for(lambda: controller.swept(""))
    assert world.running("web") == []
