"""A migration that failed is taken up again by itself: whatever an operator does meanwhile, no container is lost."""

from pathlib import Path
from typing import Any

import pytest

from coat_ryu import migrator
from coat_ryu.errors import Conflict
from coat_ryu.saga import Migration
from tests.unit.migrating import SPEC, Controller, wait_for


def fails_with_b_away(controller: Controller, verb: str = "restore", **request: Any) -> Migration:
    """b does what it was told, and nobody hears of it."""
    world = controller.world
    world.before = lambda number, node, said: world.dark.add("b") if (node, said) == ("b", verb) else None
    record = controller.run(**{"mode": "sequential", **request})
    assert record.state == "failed" and world.running("web") == ["b"]
    return record


def test_new_container_of_the_name_is_not_the_one_that_failed(controller: Controller) -> None:
    """The operator has removed it and made it anew: the old copy goes when its node is back, and not the new one."""
    failed = fails_with_b_away(controller)
    controller.containers.remove("web")
    controller.containers.create(SPEC)
    assert sorted(controller.world.running("web")) == ["a", "b"]
    controller.light()
    wait_for(lambda: controller.swept("a"))
    assert controller.world.running("web") == ["a"]
    assert controller.containers.resident("web").node == "a"
    assert controller.migrator.migration(failed.id).state == "failed"
    assert controller.containers.sweeper.problems == {"a": [], "b": []}


def test_controller_that_starts_anew_leaves_a_new_container_alone_too(controller: Controller, tmp_path: Path) -> None:
    fails_with_b_away(controller)
    controller.containers.remove("web")
    controller.containers.create(SPEC)
    controller.killed.set()
    controller.world.dark.clear()
    controller.world.before = lambda number, node, verb: None
    second = Controller(controller.world, tmp_path / "journal.db")
    second.migrator.recover()
    assert second.migrator.runner.under_way == {} and second.containers.troubles() == {}
    wait_for(lambda: second.swept("a"))
    assert controller.world.running("web") == ["a"]


def test_container_removed_the_moment_it_is_taken_up_stays_removed(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = fails_with_b_away(controller)
    take, done = controller.containers.take, list[str]()

    def slowly(name: str, purpose: str) -> None:
        if purpose == "migrating" and not done:
            done.append(name)
            controller.containers.remove(name)
        take(name, purpose)

    monkeypatch.setattr(controller.containers, "take", slowly)
    controller.light()
    wait_for(lambda: controller.swept(""))
    assert done and controller.migrator.migration(failed.id).state == "failed"
    assert controller.world.running("web") == [] and controller.fabric.bindings == {}
    assert controller.containers.claimed() == set()


def test_container_that_somebody_works_on_is_taken_up_afterwards(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep, say, which begins when its node is back as well; however long that was away."""
    monkeypatch.setattr(migrator, "AGAIN", ())
    failed = fails_with_b_away(controller)
    controller.migrator._tries[failed.id] = 3
    monkeypatch.setattr(migrator, "AGAIN", (0.01, 0.01, 0.01))
    take, refused = controller.containers.take, list[str]()

    def busy(name: str, purpose: str) -> None:
        if purpose == "migrating" and len(refused) < 2:
            refused.append(name)
            raise Conflict(f"{name} is being swept", cause="already_being_swept")
        take(name, purpose)

    monkeypatch.setattr(controller.containers, "take", busy)
    controller.light()
    wait_for(lambda: controller.migrator.migration(failed.id).state == "succeeded")
    assert controller.world.running("web") == ["b"]


def test_copy_of_a_lost_node_goes_also_when_the_container_was_made_anew(controller: Controller) -> None:
    """Its migration was rolled back without that node."""
    world = controller.world
    world.reached = False
    world.before = lambda number, node, said: world.dark.add("b") if (node, said) == ("b", "restore") else None
    now = [1000.0]
    controller.migrator.runner.clock = lambda: now[0]
    controller.migrator.runner._sleep = lambda seconds: now.__setitem__(0, now[0] + seconds)
    assert controller.run(mode="sequential").state == "rolled_back"
    assert world.running("web") == ["a", "b"]
    controller.containers.remove("web")
    controller.containers.create(SPEC)
    controller.light()
    wait_for(lambda: controller.swept("a"))
    assert world.running("web") == ["a"]
