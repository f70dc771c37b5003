"""What a campaign leaves: ``summary.json``, ``runs.csv``, the figures and ``report.md``, from the files of its runs."""

import csv
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mininet_scenarios import report
from mininet_scenarios.measure import summary
from mininet_scenarios.paper import authors, plots, prose, table
from mininet_scenarios.paper.authors import default_logs as default_logs
from mininet_scenarios.paper.campaign import rows
from mininet_scenarios.paper.prose import APART
from mininet_scenarios.paper.trial import MODES, Trial

MAIN = {"sockperf": "latency", "iperf3": "throughput"}
"""Where the runs of each workload are that the paper's figures and Table I are made of."""


COLUMNS = ("experiment", "key", "workload", "mode", "resumed", "disruption_s", "lost_bytes", "resets", "trouble")
OF_MIGRATION = ("state", "downtime_s", "duration_s", "remote_overhead_s", "checkpoint_bytes", "held_packets")
"""Of the first migration in a run."""


def write_runs(file: Path, found: Sequence[dict[str, Any]]) -> None:
    """Every run in a line, for whoever wants to count anew."""
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, [*COLUMNS, *OF_MIGRATION], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in found:
            first = (row.get("migrations") or [{}])[0]
            writer.writerow(
                {name: row.get(name) for name in COLUMNS} | {name: first.get(name) for name in OF_MIGRATION}
            )


def summarise(found: Sequence[dict[str, Any]], environment: dict[str, Any]) -> dict[str, Any]:
    """The contract's summary. ``metrics`` of a workload are those of mode ``prepared``; ``modes`` has them all.

    Runs without COAT, which are not expected to go on, and those of remote control, which have no client, stand apart.
    """
    apart = {what: [row for row in found if row["experiment"] in names] for what, names in APART.items()}
    with_coat = [row for row in found if all(row["experiment"] not in names for names in APART.values())]
    metrics: dict[str, Any] = {}
    for workload, experiment in MAIN.items():
        mine = [row for row in with_coat if row["experiment"] == experiment]
        modes = {mode: table.figures([row for row in mine if row.get("mode") == mode]) for mode in MODES}
        metrics[workload] = {**modes["prepared"], "modes": modes}
    others = dict.fromkeys(row["experiment"] for row in with_coat if row["experiment"] not in MAIN.values())
    for name in others:
        mine = [row for row in with_coat if row["experiment"] == name]
        metrics[name] = {"disruption_s": summary(row["disruption_s"] for row in mine if row.get("disruption_s"))}
    metrics["remote_control"] = {workload: _control(apart["remote_control"], workload) for workload in MAIN}
    return {
        "experiment": "paper",
        **_counts(with_coat),
        "metrics": metrics,
        "per_run": with_coat,
        **{what: {**_counts(mine), "per_run": mine} for what, mine in apart.items()},
        "environment": environment,
    }


def _control(found: Sequence[dict[str, Any]], workload: str) -> dict[str, Any]:
    """What each way of remote control adds to each step."""
    mine = [row for row in found if row["workload"] == workload and "login_s" in row]
    return {
        way: {step: summary(row[way].get(step) for row in mine) for step in authors.STEPS}
        for way in ("login_s", "channel_s", "ahead_s")
    }


def _counts(found: Sequence[dict[str, Any]]) -> dict[str, int]:
    return {
        "runs": len(found),
        "resumed": sum(bool(row["resumed"]) for row in found),
        "lost_bytes": sum(row["lost_bytes"] for row in found),
        "resets": sum((row.get("resets") or 0) + (row.get("reconnects") or 0) for row in found),
    }


def write_all(results: Path, trials: Sequence[Trial], logs: Path, runs: int) -> dict[str, Any]:
    """Writes everything; returns the summary."""
    found = rows(results, [trial.name for trial in trials])
    links = {file.stem: json.loads(file.read_text()) for file in sorted((results / "links").glob("*.json"))}
    told = results / "environment.json"
    environment = json.loads(told.read_text()) if told.exists() else {}
    environment |= {
        "links": links,
        "runs_asked": runs,
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    result = summarise(found, environment)
    theirs = authors.read(logs)
    report.write(results, result)
    write_runs(results / "runs.csv", found)
    draw(results, found, theirs)
    (results / "report.md").write_text(
        "\n".join(prose.report(result, theirs, {trial.name: trial.title for trial in trials}))
    )
    return result


def draw(folder: Path, found: Sequence[dict[str, Any]], theirs: dict[str, authors.Authors]) -> None:
    """Every figure for which there are runs."""
    of = {name: [row for row in found if row["experiment"] == name and "failure" not in row] for name in _names(found)}
    if of.get("latency"):
        plots.fig5(folder, [row for row in of["latency"] if row.get("rtt_ms")], theirs["sockperf"])
    if of.get("throughput"):
        plots.fig6(folder, of["throughput"], theirs["iperf3"])
    if control := [row for name in ("control-sockperf", "control-iperf3") for row in of.get(name, [])]:
        plots.fig7(folder, control, theirs)
    if main := [row for name in MAIN.values() for row in of.get(name, [])]:
        plots.fig8(folder, main, theirs)
    if of.get("follow"):
        plots.follow(folder, of["follow"])


def _names(found: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["experiment"] for row in found))


def publish(results: Path, target: Path) -> None:
    """The report and its figures go into the documentation. Raises SystemExit when there is no report."""
    if not (results / "report.md").exists():
        raise SystemExit(f"paper: there is no {results}/report.md; make paper makes it")
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(results.iterdir()):
        if file.suffix in (".png", ".svg") or file.name in ("report.md", "runs.csv"):
            shutil.copy(file, target / file.name)
    print(f"{target}/report.md and {len(os.listdir(target)) - 1} more files")
