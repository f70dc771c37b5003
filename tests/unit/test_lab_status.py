"""`./coat-lab status` of a host whose Podman does not answer, or answers nonsense."""

import json
import subprocess
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from mininet_scenarios import cli
from mininet_scenarios.lab import Lab

GOOD = json.dumps([{"Names": ["web"], "Id": "1", "Image": "i", "State": "running"}])


@pytest.mark.parametrize(
    ("podman", "containers", "problem"),
    [
        (GOOD, [{"name": "web", "id": "1", "image": "i", "state": "running"}], None),
        ("", [], None),
        (subprocess.TimeoutExpired("podman", 15), [], "podman has not answered within 15 s"),
        (subprocess.CalledProcessError(125, "podman", stderr="Error:\nno lock"), [], "podman failed: Error: no lock"),
        ("<html>", [], "podman has answered something else than JSON"),
    ],
)
def test_what_podman_says_or_does_not_is_told(podman: Any, containers: list[Any], problem: str | None) -> None:
    def answer(*_: Any, **options: Any) -> Any:
        assert options["timeout"] == cli.PODMAN_TIMEOUT
        if isinstance(podman, Exception):
            raise podman
        return SimpleNamespace(stdout=podman)

    lab = cast(Lab, SimpleNamespace(exec=answer))
    assert cli.list_containers(lab, "edge1") == (containers, problem)


def test_a_hanging_podman_is_a_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    host = {"name": "edge1", "ssh_host": "10.8.0.1", "ssh_port": 22, "pid": 1, "containers": [], "problem": "hangs"}
    report = {"name": "x", "topology": "t", "controller": {"pid": None, "rest": "http://x"}, "hosts": [host]}
    monkeypatch.setattr(cli, "describe", lambda lab: report)
    monkeypatch.setattr(Lab, "attach", lambda name: None)
    result = CliRunner().invoke(cli.main, ["status"])
    assert result.exit_code == 0 and "hangs" in result.output
