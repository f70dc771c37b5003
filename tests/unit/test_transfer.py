"""A Podman that is fed, and not wanted any more."""

import subprocess
import time
from pathlib import Path

import pytest

from coat_ryu.node import transfer


def test_a_podman_that_is_not_wanted_puts_things_away(tmp_path: Path) -> None:
    """Killed, it would leave what it has read; one that does not end by itself is killed all the same."""
    kept = tmp_path / "podman1234"
    script = f"echo > {kept}; cat > /dev/null; rm {kept}; exit 125"
    with pytest.raises(ValueError), transfer._podman_pipe(["sh", "-c", script], stdin=subprocess.PIPE) as process:
        give_up = time.monotonic() + 10
        while not kept.exists() and time.monotonic() < give_up:
            time.sleep(0.01)
        raise ValueError("the image is another one")
    assert not kept.exists() and process.returncode == 125


def test_a_podman_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "END_PATIENCE", 0.1, raising=False)
    with pytest.raises(ValueError), transfer._podman_pipe(["sleep", "60"], stdin=subprocess.PIPE) as process:
        raise ValueError("the image is another one")
    assert process.returncode == -9
