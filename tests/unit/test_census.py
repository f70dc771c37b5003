"""Where a container is, from what nodes say: the copy that runs, and never a second one."""

import pytest

from coat_ryu.census import Doubled, whereabouts


@pytest.mark.parametrize(
    ("found", "home", "forsaken", "where"),
    [
        ({}, None, (), None),
        ({}, "a", (), None),
        ({"a": "running"}, "a", (), "a"),
        ({"b": "running"}, "a", (), "b"),  # it has moved since the journal was copied
        ({"a": "stopped", "b": "running"}, "a", (), "b"),
        ({"a": "checkpointed", "b": "paused"}, "a", (), "b"),
        ({"a": "running", "b": "running"}, "a", (), "a"),
        ({"a": "stopped", "b": "running"}, "a", ("b",), "a"),  # a copy that was taken back is none
        ({"b": "running"}, "a", ("b",), "b"),  # but better than nothing
        ({"a": "stopped"}, "a", (), "a"),  # it ended
        ({"a": "created", "b": "checkpointed"}, "a", (), "b"),
        ({"a": "created", "b": "created"}, "a", (), "a"),
        ({"a": "created"}, None, (), None),  # what never ran is no container to be taken over
        ({"a": "stopped", "b": "checkpointed"}, None, (), "b"),
    ],
)
def test_the_copy_that_counts_is_found(
    found: dict[str, str], home: str | None, forsaken: tuple[str, ...], where: str | None
) -> None:
    assert whereabouts("web", found, home, forsaken) == where


def test_two_running_copies_are_for_a_person_to_judge() -> None:
    with pytest.raises(Doubled, match="web runs on a and on b"):
        whereabouts("web", {"a": "running", "b": "running"})
