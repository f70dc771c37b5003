"""The paper's experiments, one run of some of them: in the lab, and on its hosts as if they were real ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mininet_scenarios.lab import CHECKOUT, Lab
from mininet_scenarios.paper.authors import TABLE_I
from mininet_scenarios.paper.road import EDGES

CAMPAIGN = [sys.executable, "-m", "mininet_scenarios.paper", "1", "--links", "any"]
"""Whatever links a busy machine has: whether they are refused is the unit tests' affair."""


def campaign(results: Path, only: str, *more: str, beside: tuple[str, ...] = ()) -> dict[str, Any]:
    """Its summary. Fails the test when it does not succeed."""
    command = [*beside, *CAMPAIGN, "--results", str(results), "--only", only, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    summary: dict[str, Any] = json.loads((results / "summary.json").read_text())
    return summary


@pytest.mark.timeout(600)
def test_the_paper_s_figures_and_what_is_beyond_them(tmp_path: Path) -> None:
    found = campaign(tmp_path, "latency control-sockperf baseline client-side-iperf3 follow")
    assert found["runs"] == found["resumed"] == 3 + 2 + 1
    assert found["lost_bytes"] == found["resets"] == 0
    for mode, told in found["metrics"]["sockperf"]["modes"].items():
        assert told["runs"] == 1, mode
        assert 0 < told["remote_share"]["mean"] < TABLE_I["sockperf"].remote_share, (mode, told)
    assert found["metrics"]["sockperf"]["coat_share"]["mean"] == 0  # nothing but 1, 2.2 and 4 in the freeze
    assert found["without_coat"]["runs"] == 2 and found["without_coat"]["resumed"] == 0
    (control,) = found["remote_control"]["per_run"]
    for step, seconds in control["login_s"].items():
        assert seconds > control["channel_s"][step], control
    (followed,) = (run for run in found["per_run"] if run["experiment"] == "follow")
    assert [record["destination"] for record in followed["migrations"]] == list(EDGES[1:])
    report = (tmp_path / "report.md").read_text()
    for title in ("Table I", "Fig. 5", "Fig. 6", "Fig. 7", "Fig. 8"):
        assert f"## {title}" in report
    for name in ("fig5-rtt", "fig7-remote-control", "fig8-breakdown", "follow"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()


@pytest.mark.timeout(600)
def test_the_same_runs_on_hosts_that_are_only_known_by_their_ssh(tmp_path: Path) -> None:
    """A lab without a controller stands for them; the campaign has the lab's network and nothing else of it."""
    with Lab(name="tests-hosts", controller=False) as lab:
        document = yaml.safe_load(lab.topology.read_text())
        for node in document["nodes"]:
            login = lab.login(node["name"])
            node["ssh"] |= {"key": login["key"], "known_hosts": login["known_hosts"]}
        hosts = tmp_path / "hosts.yaml"
        hosts.write_text(yaml.safe_dump(document))
        results = tmp_path / "results"
        found = campaign(results, "chain", "--topology", str(hosts), beside=tuple(lab.beside_controller([])))
        assert found["runs"] == found["resumed"] == 3
        assert found["lost_bytes"] == found["resets"] == 0
        left = lab.exec("device", ["pgrep", "-a", "tcpdump"], check=False)
        assert left.stdout == ""
