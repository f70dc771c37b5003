"""Plans, predictions, keys and events of a real migrator on nodes in memory."""

import threading
import time
from typing import Any

import pytest

from coat_ryu.config import MigrateRequest, MigrationsQuery, PlanRequest
from coat_ryu.errors import Conflict, NotFound
from coat_ryu.feed import Feed
from coat_ryu.plans import Plans
from tests.unit.migrating import Controller, wait_for

TO_B = MigrateRequest(container="web", to="b")


def plans(controller: Controller) -> Plans:
    return Plans(controller.nodes, controller.containers, controller.journal)


def migrate(controller: Controller, to: str, key: str | None = None) -> Any:
    request = MigrateRequest(container="web", to=to)
    return controller.migrator.wait(controller.migrator.migrate(request, key))


def test_a_plan_touches_nothing(controller: Controller) -> None:
    begun = len(controller.world.calls)
    plan = plans(controller).plan(PlanRequest(container="web", to="b"))
    assert (plan.source, plan.destination, plan.possible, plan.refusals) == ("a", "b", True, [])
    assert plan.expected is not None and plan.expected.basis == "model"
    asked = {verb for _, verb in controller.world.calls[begun:]}
    assert asked == {"container_needs", "container_inspect", "hello"}


def test_a_plan_has_every_reason_at_once(controller: Controller) -> None:
    controller.world.nodes["a"].containers["web"]["state"] = "stopped"
    controller.world.nodes["b"].containers["web"] = {"name": "web", "state": "running"}
    controller.containers.take("web", "being_swept")
    causes = [one.cause for one in plans(controller).plan(PlanRequest(container="web", to="b")).refusals]
    assert causes == ["already_being_swept", "not_running", "name_in_use"]


def test_a_plan_and_the_record_warn_of_what_is_lost(controller: Controller) -> None:
    assert plans(controller).plan(PlanRequest(container="web", to="b")).warnings == []
    controller.world.nodes["a"].containers["web"]["log"] = {"bytes": 70_000, "moves": 65_536}
    (foreseen,) = plans(controller).plan(PlanRequest(container="web", to="b")).warnings
    record = migrate(controller, "b")
    assert (record.state, record.warnings) == ("succeeded", [foreseen])
    assert foreseen.cause == "log_cut" and "last 64 come along" in foreseen.message
    controller.world.nodes["b"].containers["web"]["log"] = {"bytes": None, "moves": 65_536}
    (foreseen,) = plans(controller).plan(PlanRequest(container="web", to="a")).warnings
    assert foreseen.cause == "log_left_behind"


def test_a_plan_for_memory_that_follows_asks_for_what_it_needs(controller: Controller) -> None:
    plan = plans(controller).plan(PlanRequest(container="web", to="b", memory="lazy"))
    assert (plan.possible, plan.expected) == (True, None)
    controller.world.nodes["b"].lazy_pages = "no userfaultfd"
    (refusal,) = plans(controller).plan(PlanRequest(container="web", to="b", memory="lazy")).refusals
    assert refusal.cause == "no_lazy_pages" and "node b" in refusal.message


def test_a_plan_for_what_is_not_there(controller: Controller) -> None:
    del controller.world.nodes["a"].containers["web"]
    plan = plans(controller).plan(PlanRequest(container="web", to="b"))
    assert [one.cause for one in plan.refusals] == ["not_running"] and plan.expected is None


def test_a_plan_to_where_nobody_answers(controller: Controller) -> None:
    controller.nodes.sites["b"].ready = False
    plan = plans(controller).plan(PlanRequest(container="web", to="b"))
    assert [one.cause for one in plan.refusals] == ["node_not_connected"]
    assert plan.expected is not None
    controller.nodes.sites["a"].ready = False
    assert plans(controller).plan(PlanRequest(container="web", to="b")).expected is None
    with pytest.raises(NotFound, match="to: there is no node 'z'"):
        plans(controller).plan(PlanRequest(container="web", to="z"))
    with pytest.raises(NotFound, match="no container 'db'"):
        plans(controller).plan(PlanRequest(container="db", to="b"))


def test_a_record_says_what_was_expected_and_how_wrong_that_was(controller: Controller) -> None:
    controller.migrator.runner.predict = plans(controller).predict
    record = migrate(controller, "b")
    assert record.state == "succeeded" and record.predicted is not None
    assert record.predicted.basis == "model"
    assert record.prediction_error == pytest.approx(record.predicted.downtime_s / record.downtime_s - 1)
    assert migrate(controller, "a").predicted.basis == "history"


def test_memory_that_follows_teaches_nothing_about_memory_that_comes_along(controller: Controller) -> None:
    controller.migrator.runner.predict = plans(controller).predict
    lazy = controller.run(memory="lazy")
    assert lazy.state == "succeeded" and lazy.predicted is None
    assert migrate(controller, "a").predicted.basis == "model"


def test_the_same_key_begins_nothing_new(controller: Controller) -> None:
    first = migrate(controller, "b", "k1")
    assert controller.migrator.migrate(TO_B, "k1") == first
    assert len(controller.migrator.migrations()) == 1
    with pytest.raises(Conflict) as refusal:
        controller.migrator.migrate(MigrateRequest(container="web", to="a"), "k1")
    assert refusal.value.cause == "key_reused"
    assert migrate(controller, "a", "k2").id != first.id


def test_a_retry_that_comes_before_the_first_is_saved_gets_its_answer(controller: Controller) -> None:
    asked, go_on, answers = threading.Event(), threading.Event(), []

    def before(number: int, node: str, verb: str) -> None:
        if verb == "container_inspect" and not asked.is_set():
            asked.set()
            go_on.wait(10)

    controller.world.before = before
    askers = [
        threading.Thread(target=lambda: answers.append(controller.migrator.migrate(TO_B, "k1").id)) for _ in range(3)
    ]
    askers[0].start()
    assert asked.wait(10)
    for asker in askers[1:]:
        asker.start()
    time.sleep(0.1)
    go_on.set()
    for asker in askers:
        asker.join(10)
    assert len(answers) == 3 and len(set(answers)) == 1
    controller.migrator.wait(controller.migrator.migration(answers[0]))
    assert controller.migrator._keys == {}


def test_a_key_is_remembered_by_the_next_controller(controller: Controller) -> None:
    first = migrate(controller, "b", "k1")
    second = Controller(controller.world, controller.journal.path)
    assert second.migrator.migrate(TO_B, "k1").id == first.id


def test_a_refused_request_leaves_its_key_free(controller: Controller) -> None:
    with pytest.raises(Conflict):
        controller.migrator.migrate(MigrateRequest(container="web", to="a"), "k1")
    assert migrate(controller, "b", "k1").state == "succeeded"


def test_events_tell_the_whole_migration(controller: Controller) -> None:
    feed = Feed(clock=lambda: 1.0)
    controller.migrator.runner.tell = feed.tell
    record = migrate(controller, "b")
    wait_for(lambda: feed.newest >= 1000 + 2 + 2 * len(record.steps))
    events = feed.follow(1000, patience=0.01)
    told = [event for event in iter(lambda: next(events), None) if event]
    assert [event["state"] for event in told if event["kind"] == "migration"] == ["running", "succeeded"]
    ended = [event["name"] for event in told if event["kind"] == "step" and event["duration_s"] is not None]
    assert ended == [step.name for step in record.steps]


def test_records_come_filtered_and_in_parts(controller: Controller) -> None:
    ids = [migrate(controller, to).id for to in ("b", "a", "b")]
    page = controller.migrator.page
    assert [one.id for one in page(MigrationsQuery(limit=1, offset=1))[0]] == [ids[1]]
    assert page(MigrationsQuery(limit=1))[1] == 3
    assert page(MigrationsQuery(state="failed")) == ([], 0)
    assert page(MigrationsQuery(container="db"))[1] == 0
    assert page(MigrationsQuery(node="a", container="web", state="succeeded", offset=1))[1] == 3


def test_a_plan_warns_of_a_sleep(controller: Controller) -> None:
    controller.world.nodes["a"].containers["web"]["sleepers"] = ["sleep (pid 5)"]
    (warning,) = plans(controller).plan(PlanRequest(container="web", to="b")).warnings
    assert warning.cause == "sleep_ends_early" and warning.message.startswith("sleep (pid 5) may end early")
