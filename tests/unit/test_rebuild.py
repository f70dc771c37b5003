"""A journal made anew of what nodes say: all that can be said for certain, and a warning for the rest."""

import json
from pathlib import Path
from typing import Any

import pytest

from coat_ryu.census import Doubled
from coat_ryu.journal import Journal
from coat_ryu.model import ContainerSpec
from coat_ryu.rebuild import Said, conclude, write

JOURNAL = "a" * 32
SPEC = ContainerSpec.model_validate(
    {"name": "web", "node": "a", "image": "img", "network": "apps", "ip": "192.168.50.7", "mac": "02:00:00:00:00:07"}
)


def container(state: str, name: str = "web", **differs: Any) -> dict[str, Any]:
    spec = json.loads(SPEC.model_copy(update={"name": name}).model_dump_json())
    return {"name": name, "state": state, "spec": spec} | differs


def of(start: int, journal: str = JOURNAL) -> dict[str, Any]:
    return {"journal": journal, "start": start}


def test_a_lost_journal_is_made_anew_of_what_nodes_say(tmp_path: Path) -> None:
    said = {"a": Said([container("created")], of(3)), "b": Said([container("running")], of(4))}
    found = conclude(said, {"apps"})
    assert (found.containers, found.warnings) == ([(SPEC, "b")], [])
    write(tmp_path / "j.db", found)
    journal = Journal(tmp_path / "j.db", alone=True)
    assert {name: (one.spec, one.node) for name, one in journal.residents().items()} == {"web": (SPEC, "b")}
    reign = journal.reign()
    assert reign.journal == JOURNAL and reign.start > 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j.db", "j.db-shm", "j.db-wal"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"a": Said([container("checkpointed")], None)}, "web: checkpointed on a"),
        ({"a": Said([container("created")], None)}, "never ran on a"),
        ({"a": Said([container("running", spec=None)], None)}, "does not say what it was made of"),
        ({"a": Said([container("running", spec={"name": "web"})], None)}, "does not say what it was made of"),
        ({"a": Said([], of(1)), "b": Said([], of(1, "b" * 32))}, "do not obey one journal"),
    ],
)
def test_what_is_not_certain_is_told(said: dict[str, Said], told: str) -> None:
    (warning,) = conclude(said, {"apps"}).warnings
    assert told in warning


def test_a_container_that_runs_twice_is_for_a_person_to_judge() -> None:
    with pytest.raises(Doubled, match="web runs on a and on b"):
        conclude({"a": Said([container("running")], None), "b": Said([container("running")], None)}, {"apps"})
