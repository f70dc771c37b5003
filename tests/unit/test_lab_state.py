"""A lab's state directory: whoever removes it holds it to the end."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mininet_scenarios import cgroups, state


def test_a_lab_is_held_until_nothing_of_it_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(state, "RUN", tmp_path / "run")
    monkeypatch.setattr(cgroups, "remove", lambda directory: None)
    held = state.lock("one")
    assert held is not None
    folder = state.directory("one")
    (folder / "work" / "edge1").mkdir(parents=True)
    (folder / "lab.json").touch()
    really, seen = shutil.rmtree, []

    def slowly(path: Any) -> None:
        really(path)
        seen.append(state.is_up("one"))
        state.clean_abandoned()  # another "down" at the same time

    monkeypatch.setattr(shutil, "rmtree", slowly)
    state.remove("one")
    held.close()
    assert seen == [True]
    assert not folder.exists() and not state.RUN.exists()
