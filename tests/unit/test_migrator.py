"""The saga against nodes in memory: what a migration does, and what is refused."""

import sqlite3
from pathlib import Path

import pytest

from coat_ryu import containers
from coat_ryu.config import MigrateRequest
from coat_ryu.errors import Conflict, NodeError, NotFound
from coat_ryu.journal import JournalError
from tests.unit.migrating import MODES, SPEC, Controller, wait_for


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mac", ["keep", "renew"])
@pytest.mark.parametrize("turns", [True, False])
def test_a_migration_moves_the_container_and_all_that_is_known_of_it(
    controller: Controller, mode: str, mac: str, turns: bool
) -> None:
    controller.world.nodes["a"].turns = turns
    before = controller.containers.resident("web").spec.mac
    record = controller.run(mode=mode, mac=mac)
    assert (record.state, record.error) == ("succeeded", None)
    assert controller.world.running("web") == ["b"]
    assert controller.world.residue(home="b") == []
    assert controller.world.most_copies == 1
    resident = controller.containers.resident("web")
    assert resident.node == "b"
    assert (resident.spec.mac == before) == (mac == "keep")
    binding = controller.fabric.bindings["web"]
    assert (binding.place.node, binding.mac, binding.hold, len(binding.origins)) == ("b", resident.spec.mac, None, 1)
    assert len(controller.fabric.announced) == (mac == "renew")
    assert controller.fabric.turned == turns
    (step,) = (step for step in record.steps if step.name == "checkpoint")
    assert step.detail["turned_by"] == ("node" if turns else "controller")
    assert record.downtime_s == pytest.approx(0.5)
    assert (record.checkpoint_bytes, record.held_packets, record.replayed_packets) == (7, 4, 4)
    assert all(step.duration_s is not None for step in record.steps)


def test_the_paper_s_order_is_kept(controller: Controller) -> None:
    record = controller.run(mode="sequential")
    names = [step.name for step in record.steps]
    paper = ["checkpoint", "clear_namespace", "transfer", "create_namespace", "flow_update", "restore"]
    assert [name for name in names if name in paper] == paper


def test_lazy_memory_is_awaited_before_anything_of_the_source_goes(controller: Controller) -> None:
    record = controller.run(memory="lazy")
    assert (record.state, record.error) == ("succeeded", None)
    names = [step.name for step in record.steps]
    assert names[names.index("restore") :] == ["restore", "pages", "clear_namespace", "finish"]
    assert record.steps[names.index("pages")].detail["bytes"] == 8
    assert controller.world.running("web") == ["b"] and controller.world.residue(home="b") == []


def test_memory_that_is_lost_after_the_pivot_is_told_and_not_tried_again(controller: Controller) -> None:
    controller.world.nodes["b"].memory_lost = True
    record = controller.run(memory="lazy")
    assert record.state == "failed" and record.error is not None
    assert record.error.cause == "memory_lost" and "no copy of web runs" in record.error.message
    assert [step.attempts for step in record.steps if step.name == "pages"] == [1]
    assert controller.world.running("web") == []
    assert all(not node.pagers and "web" not in node.containers for node in controller.world.nodes.values())


@pytest.mark.parametrize(("memory", "cause"), [("precopy", "no_dirty_tracking"), ("lazy", "no_lazy_pages")])
def test_memory_that_cannot_move_so_is_refused_before_anything_is_touched(
    controller: Controller, memory: str, cause: str
) -> None:
    lacking = {"lazy": "no userfaultfd", "dirty_tracking": False}
    controller.world.nodes["b"].memory_features = lambda: lacking  # type: ignore[method-assign]
    record = controller.run(memory=memory)
    assert record.error is not None and (record.state, record.error.cause) == ("rolled_back", cause)
    assert [step.name for step in record.steps] == ["preflight"]


def test_the_image_is_brought_before_the_freeze(controller: Controller) -> None:
    controller.world.nodes["b"].images.clear()
    record = controller.run(mode="sequential")
    verbs = [verb for _, verb in controller.world.calls]
    assert record.state == "succeeded"
    assert controller.world.residue("b") == []
    assert verbs.index("send_image") < verbs.index("checkpoint")
    assert controller.world.nodes["b"].images == {"img": "id-of-img"}


@pytest.mark.parametrize("mode", MODES)
def test_another_build_under_the_same_tag_is_not_used(controller: Controller, mode: str) -> None:
    """The container keeps the image that it runs, and the destination's tag stays where it was."""
    there = controller.world.nodes["b"]
    there.images = {"img": "id-of-another-build"}
    record = controller.run(mode=mode)
    assert record.state == "succeeded"
    assert there.containers["web"]["image_id"] == "id-of-img" and there.containers["web"]["image"] == "img"
    assert there.images == {"img": "id-of-another-build", "id-of-img": "id-of-img"}


@pytest.mark.parametrize("images", [{"img": "id-of-a-rebuild", "id-of-img": "id-of-img"}, {"id-of-img": "id-of-img"}])
def test_an_image_whose_tag_was_taken_from_it_moves(controller: Controller, images: dict[str, str]) -> None:
    controller.world.nodes["a"].images = dict(images)
    controller.world.nodes["b"].images = {}
    record = controller.run()
    there = controller.world.nodes["b"]
    assert (record.state, there.containers["web"]["image_id"]) == ("succeeded", "id-of-img")
    assert there.images == {"id-of-img": "id-of-img"}, "the tag means another image now, or none"


def test_an_image_without_a_name_is_brought_once(controller: Controller) -> None:
    for node in controller.world.nodes.values():
        node.images = {"id-of-img": "id-of-img"}
    assert controller.run().state == "succeeded"
    assert "send_image" not in [verb for _, verb in controller.world.calls]


def test_an_image_that_arrives_as_another_is_told(controller: Controller) -> None:
    there = controller.world.nodes["b"]
    there.images = {}
    looks = there.image_inspect
    there.image_inspect = lambda image: {**looks(image), "id": None}  # type: ignore[method-assign]
    record = controller.run()
    assert record.error is not None and (record.state, record.error.cause) == ("rolled_back", "image_differs")


def test_what_cannot_be_is_refused_and_nothing_changes(controller: Controller) -> None:
    migrate = controller.migrator.migrate
    with pytest.raises(NotFound, match="no container 'none'; there are: web"):
        migrate(MigrateRequest(container="none", to="b"))
    with pytest.raises(NotFound, match="to: there is no node 'z'; there are: a, b"):
        migrate(MigrateRequest(container="web", to="z"))
    with pytest.raises(Conflict, match="on a already"):
        migrate(MigrateRequest(container="web", to="a"))
    controller.containers.take("web", "migrating")
    with pytest.raises(Conflict) as refusal:
        migrate(MigrateRequest(container="web", to="b"))
    assert refusal.value.cause == "already_migrating"
    controller.containers.give_back("web")
    controller.nodes.sites["b"].ready = False
    with pytest.raises(Conflict, match="to: node b is not connected"):
        migrate(MigrateRequest(container="web", to="b"))
    controller.nodes.sites["b"].ready = True
    controller.world.nodes["a"].containers["web"]["state"] = "stopped"
    with pytest.raises(Conflict, match="web is stopped on a"):
        migrate(MigrateRequest(container="web", to="b"))
    assert controller.migrator.migrations() == []


def test_a_journal_that_cannot_be_written_refuses_new_migrations(controller: Controller, tmp_path: Path) -> None:
    blocker = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    controller.journal.busy_timeout(0.05)
    with pytest.raises(JournalError) as refusal:
        controller.run()
    assert (refusal.value.response, refusal.value.cause) == (503, "journal_failed")
    with pytest.raises(JournalError):  # what /healthz asks
        controller.journal.check()
    blocker.execute("ROLLBACK")
    assert controller.world.running("web") == ["a"]
    assert controller.run().state == "succeeded"


def test_former_mac_that_a_peer_may_still_use_is_given_to_nobody(controller: Controller) -> None:
    old = controller.containers.resident("web").spec.mac
    assert controller.run(mac="renew").state == "succeeded"
    assert controller.fabric.bindings["web"].former_macs == (old,)
    with pytest.raises(Conflict, match="was web's"):
        controller.containers.create(SPEC.model_copy(update={"name": "other", "ip": None, "mac": old}))
    assert "other" not in controller.containers.homes()


def test_create_that_cannot_be_undone_keeps_its_error_and_not_its_name(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "AGAIN", (0.05,) * 50)
    world, refusals = controller.world, iter("xxx")

    def fault(number: int, node: str, verb: str) -> None:
        if verb == "container_run" or (verb == "container_remove" and next(refusals, None)):
            raise NodeError(f"{verb} is refused", node=node)

    world.before = fault
    spec = SPEC.model_copy(update={"name": "other", "ip": None})
    with pytest.raises(NodeError, match="container_run is refused"):
        controller.containers.create(spec)
    wait_for(lambda: "other" not in controller.containers.homes())
    world.before = lambda number, node, verb: None
    wait_for(lambda: controller.containers.purpose("other") is None)
    controller.containers.create(spec)
    assert world.running("other") == ["a"] and "other" not in controller.containers.problems
