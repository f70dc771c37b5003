"""The saga against nodes in memory: whatever breaks, and whenever, one copy runs in the end and nothing is left."""

import itertools
import threading
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coat_ryu.errors import NodeError, NodeUnreachable, SwitchGone, SwitchTimeout
from coat_ryu.journal import JournalError
from coat_ryu.model import Node, Ssh
from coat_ryu.recovery import DEAD_AFTER, Silence
from coat_ryu.runner import RETRY_LAST
from coat_ryu.saga import Migration
from tests.unit.fakes import FakeLoan, FakeReply, World
from tests.unit.migrating import MODES, SPEC, TOPOLOGY, WAYS, Controller, controller_with_web, wait_for, world_with_web


@settings(max_examples=120, deadline=None)
@given(
    way=st.sampled_from(WAYS),
    position=st.integers(0, 34),
    moment=st.sampled_from(["before", "after"]),
    error=st.sampled_from([NodeError, NodeUnreachable]),
)
def test_a_request_that_fails_once_leaves_one_copy_and_no_residue(
    tmp_path_factory: pytest.TempPathFactory, way: tuple[str, str], position: int, moment: str, error: type[NodeError]
) -> None:
    world = world_with_web()
    controller = Controller(world, tmp_path_factory.mktemp("run") / "journal.db")
    controller.containers.create(SPEC)
    target = len(world.calls) + 1 + position  # the first call of a migration is its inspection of the container

    def fault(number: int, node: str, verb: str) -> None:
        if number == target and verb != "chain":
            raise error(f"{verb} broke", node=node)

    setattr(world, moment, fault)
    record = controller.run(mode=way[0], memory=way[1])
    assert record.state in ("succeeded", "rolled_back"), record.error
    home = "b" if record.state == "succeeded" else "a"
    assert world.running("web") == [home]
    assert world.most_copies == 1
    world.before = world.after = lambda number, node, verb: None
    wait_for(lambda: controller.swept(home))  # what a lost node keeps is swept when it comes back
    assert controller.containers.resident("web").node == home
    assert world.nodes[home].endpoints["coat-web"]["mtu"] == TOPOLOGY.inner_mtu
    assert controller.fabric.bindings["web"].place.node == home
    assert controller.fabric.bindings["web"].hold is None
    if "undo_checkpoint" in (step.name for step in record.steps):
        assert controller.fabric.doubted, "the source may have turned its switch unheard"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@settings(max_examples=150, deadline=None)
@given(way=st.sampled_from(WAYS), position=st.integers(0, 34), moment=st.sampled_from(["before", "after"]))
def test_a_controller_that_is_killed_at_any_moment_is_succeeded_by_one_that_puts_things_right(
    tmp_path_factory: pytest.TempPathFactory, way: tuple[str, str], position: int, moment: str
) -> None:
    world = world_with_web()
    journal = tmp_path_factory.mktemp("run") / "journal.db"
    first = Controller(world, journal)
    first.containers.create(SPEC)
    target = len(world.calls) + 1 + position

    def fault(number: int, node: str, verb: str) -> None:
        if number == target:
            first.killed.set()

    setattr(world, moment, fault)
    first.run(mode=way[0], memory=way[1])
    world.before = world.after = lambda number, node, verb: None

    second = Controller(world, journal)
    second.migrator.recover()
    record = second.migrator.wait(second.migrator.migrations()[0])
    assert record.state in ("succeeded", "rolled_back"), record.error
    home = "b" if record.state == "succeeded" else "a"
    assert world.running("web") == [home]
    assert world.most_copies == 1
    assert world.residue(home) == []
    assert second.containers.resident("web").node == home
    assert second.fabric.bindings["web"].place.node == home


def goes_dark(world: World, node: str, position: int) -> None:
    """From one of the calls of the migration on, nobody hears of a node any more."""
    target = len(world.calls) + 1 + position

    def fault(number: int, _node: str, verb: str) -> None:
        if number >= target:
            world.dark.add(node)

    world.before = fault


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    node=st.sampled_from(["a", "b"]),
    position=st.integers(0, 28),
    anew=st.booleans(),
)
def test_what_failed_because_a_node_was_away_is_taken_up_when_it_is_back(
    tmp_path_factory: pytest.TempPathFactory, mode: str, node: str, position: int, anew: bool
) -> None:
    """``anew``: the controller too has died and started again in between."""
    world = world_with_web()
    journal = tmp_path_factory.mktemp("run") / "journal.db"
    controller = Controller(world, journal)
    controller.containers.create(SPEC)
    goes_dark(world, node, position)
    record = controller.run(mode=mode)
    assert world.most_copies == 1
    if anew:
        controller.killed.set()
        world.dark.clear()
        world.before = lambda number, node, verb: None
        controller = Controller(world, journal)
        controller.migrator.recover()
    else:
        controller.light()
    record = controller.migrator.wait(record)
    assert record.state in ("succeeded", "rolled_back"), record.error
    assert (record.error is None) == (record.state == "succeeded")
    home = "b" if record.state == "succeeded" else "a"
    wait_for(lambda: controller.swept(home))
    assert world.running("web") == [home]
    assert world.most_copies == 1
    assert controller.containers.resident("web").node == home
    assert controller.fabric.bindings["web"].hold is None


def dark_at_the_restore(controller: Controller, reached: bool) -> None:
    controller.world.reached = reached

    def fault(number: int, node: str, verb: str) -> None:
        if verb == "restore":
            controller.world.dark.add("b")

    controller.world.before = fault


def test_a_destination_that_may_be_alive_is_not_given_up(controller: Controller) -> None:
    """Its copy runs on and the migration has failed, until the node is back."""
    dark_at_the_restore(controller, reached=True)
    record = controller.run(mode="sequential")
    assert record.state == "failed" and record.error is not None
    assert "it is decided when both are connected again" in record.error.message
    assert controller.world.running("web") == ["b"]
    controller.light()
    record = controller.migrator.wait(record)
    assert (record.state, record.error) == ("succeeded", None)
    assert controller.world.running("web") == ["b"] and controller.world.residue("b") == []


def test_a_failed_migration_stays_so_while_a_node_is_away_or_when_the_container_is_gone(controller: Controller) -> None:
    dark_at_the_restore(controller, reached=True)
    failed = controller.run(mode="sequential")
    controller.world.dark.clear()
    controller.nodes.sites["a"].ready = False
    controller.migrator.on_ready(controller.nodes.sites["b"])
    assert controller.migrator.migration(failed.id).state == "failed"
    controller.nodes.sites["a"].ready = True
    controller.containers.remove("web")
    controller.light()
    assert controller.migrator.migration(failed.id).state == "failed"


@pytest.mark.parametrize("reached", [True, False])
def test_a_dead_destination_is_told_as_soon_as_its_silence_has_lasted(tmp_path: Path, reached: bool) -> None:
    """Not before DEAD_AFTER, and long before all patience is at an end, unless somebody still reaches it."""
    controller = controller_with_web(tmp_path)
    now = [1000.0]
    controller.migrator.runner.clock = lambda: now[0]
    controller.migrator.runner._sleep = lambda seconds: now.__setitem__(0, now[0] + seconds)
    dark_at_the_restore(controller, reached)
    before = 2  # the hold is known, and the binding is the destination's; that it fills is left to the source
    record = controller.run(mode="sequential")
    waited = now[0] - 1000
    if reached:
        assert record.state == "failed" and waited > 30
    else:
        assert record.state == "rolled_back" and DEAD_AFTER <= waited < DEAD_AFTER + RETRY_LAST
        assert controller.fabric.cut_overs == before, "a dead host's switch confirms nothing"
        assert controller.world.running("web") == ["a", "b"]  # the fake's b lives on; to everybody it is dead


def test_a_silence_that_was_broken_begins_anew(tmp_path: Path) -> None:
    controller = Controller(world_with_web(), tmp_path / "journal.db")
    now = [0.0]
    sites = controller.nodes.sites
    silence = Silence(sites["b"], [*sites.values()], lambda: now[0])
    for at, reached, lasted in ((0, False, 0), (6, False, 6), (9, True, -1), (12, False, 0), (20, False, 8)):
        now[0], controller.world.reached = at, reached
        assert silence.look() == lasted
    sites["a"].ready = False  # nobody can be asked: nothing is known
    assert silence.look() == -1


def test_what_a_lost_hook_still_does_is_outlasted_by_the_next_controller_too(tmp_path: Path) -> None:
    world = world_with_web()
    first = Controller(world, tmp_path / "journal.db")
    first.containers.create(SPEC)
    world.before = lambda number, node, verb: world.dark.add("b") if verb == "checkpoint" else None
    record = first.run(mode="sequential")
    assert record.state == "rolled_back" and record.left_behind
    first.killed.set()
    world.dark.clear()
    world.before = lambda number, node, verb: None

    second = Controller(world, tmp_path / "journal.db")
    second.migrator.recover()
    before, heard = len(world.calls), world.nodes["b"].epochs["web"]
    second.containers.sweeper.sweep(second.nodes.sites["b"], "known")
    assert world.calls[before : before + 2] == [("b", "clock"), ("b", "residue_list")]
    assert world.nodes["b"].epochs["web"] > heard


@settings(max_examples=50, deadline=None)
@given(mode=st.sampled_from(MODES), mac=st.sampled_from(["keep", "renew"]), chosen=st.sets(st.integers(0, 40)))
def test_the_same_command_delivered_twice_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, mode: str, mac: str, chosen: set[int]
) -> None:
    """Any of a migration's requests, of which the first answer was lost; and the migration ends as ever."""
    controller = controller_with_web(tmp_path_factory.mktemp("run"))
    world, numbers = controller.world, itertools.count()
    world.nodes["b"].images.clear()
    world.again = lambda node, verb: next(numbers) in chosen
    record = controller.run(mode=mode, mac=mac)
    world.again = lambda node, verb: False
    assert (record.state, record.error) == ("succeeded", None)
    assert world.running("web") == ["b"] and world.most_copies == 1 and world.residue("b") == []
    # side by side, other requests change the world between two looks at it
    if mode == "sequential":
        assert [verb for verb, before, after in world.repeated if before != after] == []


@settings(max_examples=40, deadline=None)
@given(mode=st.sampled_from(MODES), position=st.integers(0, 24), chosen=st.sets(st.integers(0, 60)))
def test_the_way_back_delivered_twice_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, mode: str, position: int, chosen: set[int]
) -> None:
    controller = controller_with_web(tmp_path_factory.mktemp("run"))
    world, numbers = controller.world, itertools.count()
    target = len(world.calls) + 1 + position

    def fault(number: int, node: str, verb: str) -> None:
        if number >= target and verb in ("checkpoint", "restore", "hold_open", "receive_open", "endpoint_ensure"):
            world.before = lambda number, node, verb: None
            world.again = lambda node, verb: next(numbers) in chosen
            raise NodeError(f"{verb} broke", node=node)

    world.before = fault
    record = controller.run(mode=mode)
    home = "b" if record.state == "succeeded" else "a"
    assert record.state in ("succeeded", "rolled_back"), record.error
    assert world.running("web") == [home] and world.most_copies == 1 and world.residue(home) == []
    assert controller.fabric.bindings["web"].hold is None


@pytest.mark.parametrize("error", [SwitchTimeout, SwitchGone])
@pytest.mark.parametrize("way", WAYS)
def test_a_switch_that_lends_nothing_leaves_nothing_waiting(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, way: tuple[str, str], error: type[SwitchGone]
) -> None:
    def away(container: str) -> FakeLoan:
        raise error("the switch of node a is away")

    monkeypatch.setattr(controller.fabric, "lend", away)
    record = controller.run(mode=way[0], memory=way[1])
    assert record.state == "rolled_back" and record.error is not None
    assert record.error.cause == error.default_cause
    assert controller.world.running("web") == ["a"] and controller.world.residue("a") == []


@pytest.mark.parametrize("node", ["a", "b"])
@pytest.mark.parametrize("way", WAYS)
def test_a_switch_that_is_away_is_a_reason_against_the_move(
    controller: Controller, way: tuple[str, str], node: str
) -> None:
    controller.fabric.switch_problems[node] = "its switch is not connected"
    record = controller.run(mode=way[0], memory=way[1])
    assert record.state == "rolled_back" and [step.name for step in record.steps] == ["preflight"]
    assert record.error is not None and record.error.cause == "switch_gone" and f"node {node}" in record.error.message
    assert controller.world.running("web") == ["a"] and controller.world.residue("a") == []


def test_a_journal_that_fails_at_the_freeze_leaves_nothing_waiting(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = controller.journal.put_migration

    def full(record: Migration, context: dict[str, Any]) -> None:
        if record.state == "running" and "checkpoint" in record.begun():
            raise JournalError("the disk is full")
        put(record, context)

    monkeypatch.setattr(controller.journal, "put_migration", full)
    record = controller.run(mode="prepared")
    assert (record.state, controller.world.running("web")) == ("rolled_back", ["a"])
    assert controller.world.residue("a") == []


def test_clock_that_is_set_between_two_looks_makes_no_dead_host(controller: Controller) -> None:
    """The controller's clock jumps ahead an hour at each look; the even one goes on as ever."""
    now = [1000.0]
    controller.migrator.runner.wall = lambda: now.__setitem__(0, now[0] + 3600) or now[0]
    controller.migrator.runner.clock = lambda: 5.0
    dark_at_the_restore(controller, reached=False)
    record = controller.run(mode="sequential")
    assert record.state == "failed" and controller.world.running("web") == ["b"]


def test_witnesses_are_asked_at_once_and_at_every_address_of_ssh() -> None:
    """However many there are, a look takes no longer than the slowest of them."""
    asked: list[tuple[str, str, int]] = []
    all_asked = threading.Barrier(60, timeout=10)

    class Witness:
        ready = True

        def __init__(self, number: int) -> None:
            ssh = Ssh(host="192.0.2.7", port=2222)
            self.node = Node(name=f"n{number}", address=IPv4Address(f"10.0.0.{number + 1}"), ssh=ssh)

        def call(self, verb: str, args: dict[str, Any], timeout: float) -> FakeReply:
            asked.append((self.node.name, args["address"], args["port"]))
            all_asked.wait()
            return FakeReply({"reached": self.node.name == "n9" and args["address"] == "192.0.2.7"})

    sites: list[Any] = [Witness(number) for number in range(31)]
    assert Silence(sites[0], sites, lambda: 0.0).look() == -1, "one of them reaches it where it is logged in to"
    assert {name for name, _, _ in asked} == {site.node.name for site in sites[1:]}
    assert {(address, port) for _, address, port in asked} == {("10.0.0.1", 2222), ("192.0.2.7", 2222)}
