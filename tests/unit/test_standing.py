"""A restore that is to stand ready, and whose Podman does something else."""

import time
from pathlib import Path

import pytest

from coat_ryu.node import standing
from coat_ryu.node.failure import Failure

PATIENCE = 20.0


@pytest.mark.parametrize("before", ["", "sleep 0.2; "])
def test_restore_that_podman_refuses_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Its runtime never comes to the door: nobody waits there until all patience is at an end."""
    for name in ("DIRECTORY", "USHER", "CONFIGURATION"):
        monkeypatch.setattr(standing, name, tmp_path / name.lower())
    monkeypatch.setattr(standing, "ARRIVAL", PATIENCE)
    began = time.monotonic()
    with pytest.raises(Failure, match="no such checkpoint"):
        standing.Standing("", ["sh", "-c", f"{before}echo no such checkpoint >&2; exit 125"], "web", "true")
    assert time.monotonic() - began < PATIENCE / 2
