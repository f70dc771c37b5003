"""A node obeys one journal's controller, and of that journal the latest start; anybody else may only look."""

from pathlib import Path

import pytest

from coat_ryu.node.failure import Failure
from coat_ryu.node.master import LOOKING, Allegiance, Master, objection
from coat_ryu.node.verbs import VERBS

OURS, THEIRS = "a" * 32, "b" * 32
FIRST, SECOND = Master(OURS, 1, "1" * 32), Master(OURS, 2, "2" * 32)
COPY, STRANGER = Master(OURS, 2, "3" * 32), Master(THEIRS, 9, "4" * 32)


class Node:
    """One node's file and bridge; a hook for each connection."""

    def __init__(self, folder: Path) -> None:
        self.file, self.bridge = folder / "coat" / "master", ""

    def hook(self) -> Allegiance:
        return Allegiance(self.file, lambda bridge: self.bridge)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize(
    ("known", "new", "told"),
    [
        (None, FIRST, None),
        (FIRST, FIRST, None),  # its connection was lost
        (FIRST, SECOND, None),  # it was started anew
        (FIRST, STRANGER, "another journal"),
        (SECOND, FIRST, "was restored"),
        (SECOND, COPY, "a copy of this journal"),
    ],
)
def test_who_comes_is_obeyed_or_told_why_not(known: Master | None, new: Master, told: str | None) -> None:
    reason = objection(known, new)
    assert reason is None if told is None else told in (reason or "")


def test_another_controller_may_look_and_change_nothing_until_it_takes_over(node: Node) -> None:
    first, second = node.hook(), node.hook()
    assert first.obey("coat", FIRST, False) is None
    with pytest.raises(Failure, match="another journal") as refused:
        second.obey("coat", STRANGER, False)
    assert refused.value.cause == "other_controller"
    for verb in LOOKING:
        second.check(verb)
    with pytest.raises(Failure, match="container_remove: this node obeys another"):
        second.check("container_remove")
    first.check("container_remove")

    assert second.obey("coat", STRANGER, True) == FIRST
    second.check("container_remove")
    with pytest.raises(Failure, match="obeys another") as refused:
        first.check("container_remove")
    assert refused.value.cause == "other_controller"


def test_an_earlier_start_is_obeyed_no_more(node: Node) -> None:
    before, after = node.hook(), node.hook()
    before.obey("coat", FIRST, False)
    after.obey("coat", SECOND, False)
    with pytest.raises(Failure, match="obeys another"):
        before.check("hold_close")


def test_a_hook_whose_controller_said_nothing_changes_nothing_of_anothers(node: Node) -> None:
    node.hook().check("container_remove")  # a node that nobody has claimed yet
    node.hook().obey("coat", FIRST, False)
    with pytest.raises(Failure, match="not said who it is") as refused:
        node.hook().check("container_remove")
    assert refused.value.cause == "not_told", "a connection that is not complete, not another controller's"


def test_a_node_that_was_rebooted_remembers_by_its_bridge(node: Node) -> None:
    node.bridge = f'"{SECOND.as_text()}"\n'
    with pytest.raises(Failure, match="another journal"):
        node.hook().obey("coat", STRANGER, False)
    assert node.hook().obey("coat", SECOND, False) == SECOND


@pytest.mark.parametrize("text", ["", "half", "a.b.c", "a.1"])
def test_what_was_not_written_whole_binds_nobody(node: Node, text: str) -> None:
    node.file.parent.mkdir()
    node.file.write_text(text)
    node.hook().check("container_remove")
    node.hook().obey("coat", FIRST, False)


@pytest.mark.parametrize("name", [None, 7, [], {}])
def test_a_verb_that_is_none_is_no_way_in(node: Node, name: object) -> None:
    node.hook().obey("coat", FIRST, False)
    with pytest.raises(Failure, match="obeys another"):
        node.hook().check(name)


def test_verbs_that_only_look_exist() -> None:
    import coat_ryu.node.hook  # noqa: F401  # registers them all

    assert set(VERBS) >= LOOKING


def test_a_file_that_nobody_wrote_is_nobodys_word(tmp_path: Path) -> None:
    (tmp_path / "master").write_bytes(b"\xff\xfe")
    assert Allegiance(tmp_path / "master", lambda bridge: "").known() is None
