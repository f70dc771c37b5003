"""Epochs are counted, not read off a clock; who is refused goes above what was heard; and no clock decides anything."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coat_ryu.cli import main
from coat_ryu.errors import Conflict, NodeError, NodeUnreachable
from coat_ryu.feed import last_number
from coat_ryu.journal import EPOCH, Journal, JournalError
from coat_ryu.node import steady
from coat_ryu.node.master import LOOKING
from coat_ryu.remote import FakeRemote
from coat_ryu.saga import Migration
from coat_ryu.voice import OUTBIDS, Voice
from tests.unit.fakes import FakeReply, World
from tests.unit.migrating import MODES, SPEC, WAYS, Controller, controller_with_web, wait_for, world_with_web

HOUR = 3600.0
AHEAD = 10**15
"""An epoch above any that the milliseconds of a clock could have made in the next thousand years."""
READING = {*LOOKING, "chain", "freeze_wait"}
"""A chain's steps have fences of their own."""


class Node:
    """Remembers an epoch and obeys no lower one. ``deaf``: it tells less than it has heard."""

    def __init__(self, heard: int = 0, deaf: bool = False) -> None:
        self.heard, self.deaf, self.asked = heard, deaf, list[str]()
        self.between: Callable[[], None] = lambda: None

    def call(self, verb: str, args: dict[str, Any] | None = None, timeout: float = 30.0) -> Any:
        self.asked.append(verb)
        if verb == "epoch_heard":
            return FakeReply({"epoch": 0 if self.deaf else self.heard})
        assert args is not None
        fences = [args["fence"], *(step["args"]["fence"] for step in args.get("steps", []))]
        self.between()
        if any(fence["epoch"] < self.heard for fence in fences):
            raise NodeError("over", node="n", cause="fenced")
        self.heard = fences[0]["epoch"]
        return FakeReply(args)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


def test_epochs_grow_over_every_restart_and_are_on_the_disk_first(tmp_path: Path) -> None:
    given: list[int] = []
    for _ in range(3):
        journal = Journal(tmp_path / "journal.db")  # no close: the process was killed
        given += [journal.count(EPOCH), journal.count(EPOCH, above=given[-1] + 5 if given else 0)]
    assert given == sorted(set(given))


def test_a_journal_that_did_not_count_begins_above_its_clocks_epochs(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    record = Migration(
        id="m", container="web", source="a", destination="b", mode="prepared", mac="keep",
        started_at="2031-01-01T00:00:00.000000Z", finished_at="2031-01-01T00:00:02.000000Z",
    )  # fmt: skip
    journal.put_migration(record, {})
    journal._db.execute("DROP TABLE counters")
    journal.close()
    assert Journal(tmp_path / "journal.db").count(EPOCH) > 1925078402000  # the milliseconds of its end


def test_who_is_refused_asks_and_goes_above_in_a_chain_too(journal: Journal) -> None:
    node = Node(heard=AHEAD)
    voice = Voice("web", journal)
    steps = {"steps": [{"verb": "x", "args": voice.fenced({})}]}
    assert voice.call(node, "chain", steps, 1.0).result["steps"][0]["args"]["fence"]["epoch"] > AHEAD
    assert node.asked == ["chain", "epoch_heard", "chain"]
    assert Voice("web", journal).epoch > AHEAD + 1, "the journal has counted on from there"


def test_who_is_refused_again_and_again_gives_up(journal: Journal) -> None:
    node = Node(heard=AHEAD, deaf=True)
    with pytest.raises(NodeError) as raised:
        Voice("web", journal).call(node, "restore", {}, 1.0)
    assert raised.value.cause == "fenced"
    assert node.asked.count("restore") == OUTBIDS + 1


def test_what_was_taken_over_meanwhile_stays_refused(journal: Journal) -> None:
    node, voice = Node(), Voice("web", journal)

    def take_over() -> None:
        node.between = lambda: None
        voice.take_over()
        node.heard = voice.epoch

    node.between = take_over
    with pytest.raises(NodeError):
        voice.call(node, "restore", {}, 1.0)
    assert node.asked == ["restore"]


def test_a_take_over_does_not_wait_for_a_disk(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    voice = Voice("web", journal)

    def fail(*_: Any) -> int:
        raise JournalError("full")

    monkeypatch.setattr(journal, "count", fail)
    before = voice.epoch
    voice.take_over()
    assert voice.epoch > before
    with pytest.raises(JournalError):
        Voice("web", journal)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_successor_with_another_clock_ends_the_migration(tmp_path: Path, mode: str, step: float) -> None:
    world = world_with_web()
    one = Controller(world, tmp_path / "journal.db")
    one.containers.create(SPEC)

    def kill(number: int, node: str, verb: str) -> None:
        if node == "a" and verb in ("checkpoint", "checkpoint_send"):
            one.killed.set()

    world.after = kill
    one.run(mode=mode)
    world.after = lambda number, node, verb: None
    for node in world.nodes.values():  # as a journal that was lost or restored would find it
        node.epochs["web"] = node.epochs.get("web", 0) + AHEAD
    two = Controller(world, tmp_path / "journal.db")
    two.migrator.runner.wall = lambda: time.time() + step
    two.migrator.recover()
    record = two.migrator.wait(two.migrator.migrations()[0])
    assert record.state in ("succeeded", "rolled_back"), record.error
    assert world.running("web") == [two.containers.resident("web").node]
    assert record.duration_s is not None and record.duration_s >= 0
    assert record.finished_at is not None and record.finished_at >= max(step.started_at for step in record.steps)


@pytest.mark.parametrize("way", WAYS, ids="-".join)
@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_clock_that_is_set_during_every_request_changes_nothing(
    tmp_path: Path, way: tuple[str, str], step: float
) -> None:
    """At each request of a migration in turn the controller's clock is an hour further off."""
    controller = controller_with_web(tmp_path)
    runner, ahead = controller.migrator.runner, [0.0]
    runner.wall = lambda: time.time() + ahead[0]
    controller.world.before = lambda number, node, verb: ahead.__setitem__(0, ahead[0] + step)
    began = time.monotonic()
    record = controller.run(mode=way[0], memory=way[1])
    lasted = time.monotonic() - began
    assert (record.state, record.error) == ("succeeded", None)
    assert controller.world.running("web") == ["b"] and controller.world.most_copies == 1
    assert record.duration_s is not None and 0 < record.duration_s < lasted
    if way[0] != "prepared":  # where the fake's nodes say themselves when they began
        assert all(one.duration_s is not None and 0 <= one.duration_s < 60 for one in record.steps)


def test_the_seconds_of_a_dead_host_are_none_of_the_wall_clocks(tmp_path: Path) -> None:
    """A clock that is set an hour forth between two looks of the witnesses is no silence of an hour."""
    controller = controller_with_web(tmp_path)
    looks = [0]

    def look(number: int, node: str, verb: str) -> None:
        if verb == "restore":
            controller.world.dark.add("b")
        looks[0] += verb == "reach"

    controller.migrator.runner.wall = lambda: time.time() + HOUR * looks[0]
    controller.world.before, controller.world.reached = look, False
    assert controller.run(mode="sequential").state == "failed", "no second of the even clock has passed"
    assert looks[0] > 2


def test_a_nodes_clock_that_is_set_moves_no_time_of_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    real, before = time.time, steady.now()
    monkeypatch.setattr(time, "time", lambda: real() + HOUR)
    assert before <= steady.now() < before + 60
    assert abs(steady.at(time.time() - 5) - (steady.now() - 5)) < 1


def test_the_controllers_clock_that_is_set_moves_no_answers_time(monkeypatch: pytest.MonkeyPatch) -> None:
    remote, real = FakeRemote({"x": lambda args: monkeypatch.setattr(time, "time", lambda: real() + HOUR)}), time.time
    reply = remote.call("x")
    assert 0 <= reply.elapsed < 60 and reply.finished_at - reply.started_at < 60


def test_events_are_numbered_on_after_a_clock_was_set_back(journal: Journal) -> None:
    first = last_number(journal, lambda: 2_000_000_000.0)
    assert last_number(journal, lambda: 1_000_000_000.0) > first
    assert len(str(first)) <= 15, "Last-Event-ID takes 15 digits"


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_all_that_changes_a_node_carries_a_fence(tmp_path: Path, way: tuple[str, str]) -> None:
    controller = controller_with_web(tmp_path)
    world = controller.world
    controller.run(mode=way[0], memory=way[1])
    for node in world.nodes.values():  # what an earlier migration could have left
        node.taps.add("h-web")
    world.nodes["a"].container_create(name="web", image="img", spec='{"image": "img"}')
    world.nodes["a"].endpoint_ensure(netns="coat-web", port="c-web")
    assert {stray["kind"] for stray in controller.containers.sweeper.cleanup(True)["found"]} == {
        "container", "endpoint", "hold",
    }  # fmt: skip
    assert world.residue("b") == []
    controller.containers.remove("web")
    assert {verb for _, verb in world.unfenced} <= READING


def test_a_container_can_be_made_and_removed_where_more_was_heard(tmp_path: Path) -> None:
    world = World("a", "b")
    for node in world.nodes.values():
        node.images["img"] = "id-of-img"
        node.epochs["web"] = AHEAD
    controller = Controller(world, tmp_path / "journal.db")
    controller.containers.create(SPEC)
    assert world.running("web") == ["a"]
    controller.containers.remove("web")
    assert world.running("web") == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_journal_that_says_the_destination_too_early_says_the_source_again(tmp_path: Path) -> None:
    """The controller is killed between the two writes of the pivot, and the destination dies."""
    world = world_with_web()
    one = Controller(world, tmp_path / "journal.db")
    one.containers.create(SPEC)
    put = one.journal.put_resident

    def put_and_die(spec: Any, node: str) -> None:
        put(spec, node)
        one.killed.set()

    one.journal.put_resident = put_and_die  # type: ignore[method-assign]
    one.run(mode="sequential")
    assert world.running("web") == ["b"]
    world.nodes["b"].containers.clear()
    world.dark.add("b")
    world.reached = False

    two, now = Controller(world, tmp_path / "journal.db"), [1000.0]
    two.migrator.runner.clock = lambda: now[0]
    two.migrator.runner._sleep = lambda seconds: now.__setitem__(0, now[0] + seconds)
    assert two.containers.resident("web").node == "b", "what the test is about"
    two.migrator.recover()
    record = two.migrator.wait(two.migrator.migrations()[0])
    assert record.state == "rolled_back" and world.running("web") == ["a"]
    assert two.containers.resident("web").node == two.journal.residents()["web"].node == "a"


# ---- what a sweep may not take


def test_a_sweep_takes_nothing_of_a_migration_that_began_after_its_look(tmp_path: Path) -> None:
    controller = controller_with_web(tmp_path)
    world = controller.world
    world.nodes["b"].taps = {"h-another", "h-web"}
    begun, swept, ended = threading.Event(), threading.Event(), list[Migration]()
    taken: list[tuple[str, bool]] = []

    def migrate() -> None:
        ended.append(controller.run(mode="prepared"))

    def before(number: int, node: str, verb: str) -> None:
        sweeping = threading.current_thread().name == "sweep"
        if sweeping and verb == "hold_close":
            taken.append((verb, begun.is_set()))
            if not begun.is_set():
                threading.Thread(target=migrate).start()
                begun.wait(10)
        if not sweeping and verb == "checkpoint_send":
            begun.set()
            swept.wait(10)

    world.before = before
    site = controller.nodes.sites["b"]
    thread = threading.Thread(target=lambda: controller.containers.sweeper.sweep(site, "known"), name="sweep")
    thread.start()
    thread.join()
    swept.set()
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended and ended[0].state == "succeeded"
    assert taken == [("hold_close", False)], "the hold of the migration that began meanwhile was closed"


def test_a_sweep_leaves_the_transfer_of_what_was_taken_up_again(tmp_path: Path) -> None:
    controller = controller_with_web(tmp_path)
    record = controller.run(mode="sequential")
    node, site = controller.world.nodes["b"], controller.nodes.sites["b"]
    node.transfers[record.id] = threading.Event()
    (seen,) = controller.containers.sweeper.look(site)
    controller.journal.put_migration(record.model_copy(update={"state": "running"}), {})
    assert not controller.containers.sweeper._remove(site, seen).removed
    assert record.id in node.transfers
    with controller.containers.claim("web", "migrating"):
        assert not controller.containers.sweeper._remove(site, seen).removed
    controller.journal.put_migration(record, {})
    assert controller.containers.sweeper._remove(site, seen).removed


@pytest.mark.parametrize("there", [None, "created"])
def test_a_sweep_never_takes_the_last_copy(tmp_path: Path, there: str | None) -> None:
    """A journal that was restored says that the container lives where it came from."""
    controller = controller_with_web(tmp_path)
    world, sweeper = controller.world, controller.containers.sweeper
    world.nodes["b"].containers["web"] = {"name": "web", "state": "checkpointed"}
    world.nodes["b"].endpoints["coat-web"] = {"port": "c-web"}
    del world.nodes["a"].containers["web"]
    if there is not None:
        world.nodes["a"].containers["web"] = {"name": "web", "state": there}
    container, endpoint = sweeper.sweep(controller.nodes.sites["b"], "known")
    assert "may be the last copy" in (container.keep or "")
    assert not endpoint.removed and "web" in world.nodes["b"].containers
    assert "last copy" in sweeper.problems["b"][0]


def test_a_copy_is_swept_when_its_home_can_be_asked(tmp_path: Path) -> None:
    controller = controller_with_web(tmp_path)
    world, sweeper, sites = controller.world, controller.containers.sweeper, controller.nodes.sites
    world.nodes["b"].containers["web"] = {"name": "web", "state": "checkpointed"}
    sites["a"].ready = False
    (stray,) = sweeper.sweep(sites["b"], "known")
    assert "cannot be asked" in (stray.keep or "") and "web" in world.nodes["b"].containers
    sites["a"].ready = True
    sweeper.later(sites["a"])
    deadline = time.monotonic() + 10
    while "web" in world.nodes["b"].containers and time.monotonic() < deadline:
        time.sleep(0.01)
    assert world.running("web") == ["a"] and "web" not in world.nodes["b"].containers


def test_a_running_copy_that_was_taken_back_stays_where_it_is_the_only_one(tmp_path: Path) -> None:
    controller = controller_with_web(tmp_path)
    world = controller.world
    world.before = lambda number, node, verb: (_ for _ in ()).throw(NodeUnreachable("x", node=node)) if (
        verb == "checkpoint_send"
    ) else None  # fmt: skip
    assert controller.run(mode="prepared").state == "rolled_back"
    world.before = lambda number, node, verb: None
    world.nodes["b"].containers["web"] = {"name": "web", "state": "running"}
    world.nodes["a"].containers["web"]["state"] = "stopped"
    (stray, *_) = controller.containers.sweeper.sweep(controller.nodes.sites["b"], "known")
    assert stray.keep is not None and world.running("web") == ["b"]


# ---- two controllers


def test_a_second_controller_of_another_journal_changes_nothing(tmp_path: Path) -> None:
    """It thinks that the container lives where the first is just taking it from, and would sweep its new home."""
    one = controller_with_web(tmp_path)
    world = one.world
    two = Controller(world, tmp_path / "another.db")
    two.containers.move(one.containers.resident("web").spec, "a")
    swept: list[bool] = []

    def sweep(number: int, node: str, verb: str) -> None:
        if verb == "checkpoint_send":
            world.before = lambda number, node, verb: None
            for site in two.nodes.sites.values():
                swept.extend(stray.removed for stray in two.containers.sweeper.sweep(site, "all"))

    world.before = sweep
    world.nodes["b"].taps.add("h-other")
    assert one.run(mode="prepared").state == "succeeded"
    assert world.running("web") == ["b"] and "h-other" in world.nodes["b"].taps
    assert swept and not any(swept)
    assert all(site.error and not site.ready for site in two.nodes.sites.values())
    with pytest.raises(Conflict):
        two.containers.remove("web")

    assert "start 1" in (two.nodes.take_over("b") or "")
    with pytest.raises(NodeError) as refused:
        one.containers.remove("web")
    assert refused.value.cause == "other_controller" and not one.nodes.sites["b"].ready
    assert world.running("web") == ["b"]


def test_a_restored_journal_is_refused_until_told_and_finds_what_moved(tmp_path: Path) -> None:
    """As docs/operate.md has it: a copy, a move, the copy put back, a word for each host."""
    one = controller_with_web(tmp_path)
    copy = tmp_path / "copy.db"
    done = CliRunner().invoke(main, ["journal", "backup", str(copy), "--journal", str(tmp_path / "journal.db")])
    assert done.exit_code == 0, done.output
    assert one.run().state == "succeeded"
    one.killed.set()

    Controller(one.world, tmp_path / "journal.db").killed.set()  # one more start, of which the copy knows nothing

    two = Controller(one.world, copy)
    assert all("copy of this journal" in (site.error or "") and not site.ready for site in two.nodes.sites.values())
    for name in two.nodes.sites:
        assert "start 2" in (two.nodes.take_over(name) or "")
    wait_for(lambda: all(site.ready for site in two.nodes.sites.values()))
    assert two.containers.resident("web").node == "a", "what the copy says"
    for site in two.nodes.sites.values():
        two.containers.on_ready(site)
    wait_for(lambda: two.containers.resident("web").node == "b" and two.containers.claimed() == set())
    assert one.world.running("web") == ["b"] and one.world.most_copies == 1
