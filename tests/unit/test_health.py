"""/healthz, /v1.0/nodes and the plan know what is wrong, and cost nothing to ask."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from coat_ryu.config import PlanRequest
from coat_ryu.errors import NodeError
from coat_ryu.health import JOURNAL_EVERY, START_GRACE, Health, Starting
from coat_ryu.journal import JournalError
from coat_ryu.nodes import Site
from coat_ryu.plans import Plans
from tests.unit.fakes import FakeFabric
from tests.unit.migrating import Controller, health_of
from tests.unit.served import controller as serving
from tests.unit.test_cli import coat, told


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(controller: Controller, clock: Clock) -> Health:
    made = health_of(controller, clock=clock)
    clock.now += START_GRACE
    return made


def problems(health: Health) -> list[str]:
    found: list[str] = health.report()["problems"]
    return found


def test_all_is_well_with_a_container_that_runs(health: Health) -> None:
    health.look()
    assert health.report() == {"status": "ok", "problems": [], "nodes": 2}


def test_a_switch_that_is_away_is_a_problem_everywhere(controller: Controller, health: Health) -> None:
    controller.fabric.switch_problems["b"] = "its switch is not connected"
    assert problems(health) == ["node b: its switch is not connected"]
    plans = Plans(controller.nodes, controller.containers, controller.journal, controller.fabric.switch_problem)
    plan = plans.plan(PlanRequest(container="web", to="b"))
    assert [(one.cause, one.message) for one in plan.refusals] == [
        ("switch_gone", "to: node b: its switch is not connected")
    ]


def test_a_node_without_its_switch_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = "its switch is not connected"
    monkeypatch.setattr(FakeFabric, "switch_problem", lambda self, node: away if node == "b" else None)
    with serving(tmp_path) as (url, _):
        nodes = told(coat(url, "nodes", "--json"))
    assert [(node["ready"], node["error"]) for node in nodes] == [(True, None), (False, away)]


def test_a_start_waits_for_the_switches_but_not_for_ever(controller: Controller, clock: Clock) -> None:
    health = health_of(controller, clock=clock)
    controller.fabric.switch_problems["a"] = "its switch is not connected"
    with pytest.raises(Starting, match="node a: its switch is not connected"):
        health.report()
    clock.now += START_GRACE
    assert health.report()["status"] == "degraded"


def test_what_has_been_up_once_is_not_starting_again(controller: Controller, clock: Clock) -> None:
    health = health_of(controller, clock=clock)
    assert health.report()["status"] == "ok"
    controller.fabric.switch_problems["a"] = "its switch is not connected"
    assert health.report()["status"] == "degraded"


@pytest.mark.parametrize("state", [None, "checkpointed"])
def test_a_lost_container_is_a_problem_until_it_is_there_again(
    controller: Controller, health: Health, state: str | None
) -> None:
    there = controller.world.nodes["a"].containers
    container = there.pop("web")
    if state:
        there["web"] = {**container, "state": state}
    health.look()
    assert problems(health) == [f"container web: it is {state or 'missing'} on a"]
    assert controller.containers.describe("web")["problem"] == f"it is {state or 'missing'} on a"
    there["web"] = container
    health.look()
    assert problems(health) == []


def test_a_container_that_ended_by_itself_is_no_problem(controller: Controller, health: Health) -> None:
    controller.world.nodes["a"].containers["web"]["state"] = "stopped"
    health.look()
    assert problems(health) == []


def test_a_look_leaves_a_migration_alone(controller: Controller, health: Health) -> None:
    asked = len(controller.world.calls)
    health._busy = lambda: {"a", "b"}
    health.look()
    assert len(controller.world.calls) == asked
    controller.containers.take("web", "migrating")
    controller.containers.seen("web", "a", "missing")
    assert problems(health) == []


def test_a_failed_migration_is_a_problem_until_its_container_goes(controller: Controller, health: Health) -> None:
    controller.world.nodes["b"].memory_lost = True
    record = controller.run(memory="lazy")
    assert record.state == "failed"
    (told_now,) = problems(health)
    assert f"container web: migration {record.id} failed: " in told_now
    controller.containers.remove("web")
    assert problems(health) == []


def test_a_failed_migration_is_known_to_the_next_controller(controller: Controller, tmp_path: Path) -> None:
    """Here one that nobody can take up, for its destination has gone from the topology."""
    controller.world.nodes["b"].memory_lost = True
    record = controller.run(memory="lazy")
    controller.journal.put_migration(record.model_copy(update={"destination": "gone"}), {})
    heir = Controller(controller.world, tmp_path / "journal.db")
    heir.migrator.recover()
    assert record.id in heir.containers.troubles()["web"]
    heir.containers.ended(record.model_copy(update={"state": "running"}))
    assert heir.containers.troubles() == {}


def test_problems_end_with_their_container(controller: Controller, health: Health) -> None:
    controller.containers.problems["web"] = "its image is missing"
    assert problems(health) == ["container web: its image is missing"]
    controller.containers.remove("web")
    assert problems(health) == [] and controller.containers.problems == {}


def test_asking_often_writes_the_journal_seldom(
    controller: Controller, health: Health, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(controller.journal, "check", lambda: tried.append(clock.now))
    for _ in range(1000):
        health.report()
    assert len(tried) == 1
    clock.now += JOURNAL_EVERY
    health.report()
    assert len(tried) == 2


def test_a_journal_that_fails_is_told_and_that_it_is_well_again(
    controller: Controller, health: Health, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise JournalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(controller.journal, "check", full)
        for _ in range(2):
            with pytest.raises(JournalError, match="disk full"):
                health.report()
    clock.now += JOURNAL_EVERY
    assert problems(health) == []


def test_a_node_that_does_not_answer_the_look_is_no_end_of_it(controller: Controller, health: Health) -> None:
    def before(number: int, node: str, verb: str) -> None:
        if (node, verb) == ("a", "container_list"):
            raise NodeError("no answer", node="a")

    controller.world.before = before
    health.look()
    assert problems(health) == []


@pytest.mark.parametrize("odd", [None, 5, [5], [{"name": "web"}], {"name": []}])
def test_a_node_that_talks_nonsense_keeps_no_other_from_being_looked_at(
    controller: Controller, health: Health, monkeypatch: pytest.MonkeyPatch, odd: object
) -> None:
    asked: list[str] = []

    def say(site: Site, verb: str, *_: object) -> SimpleNamespace:
        asked.append(site.node.name)
        return SimpleNamespace(result=odd)

    monkeypatch.setattr(Site, "call", say)
    health.look()
    assert asked == list(controller.nodes.sites)
