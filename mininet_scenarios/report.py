"""What came of an experiment, for people and for scripts: a table, ``summary.json`` and plots."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from coat_ryu.saga import unix_time
from mininet_scenarios.experiment import Run
from mininet_scenarios.measure import rate_between, summary
from mininet_scenarios.place import Place

mpl.use("Agg")
from matplotlib import pyplot

PLOT_WINDOW = (2.5, 4.0)
"""Seconds before and after a migration's start that a plot shows."""
RATE_EVERY = 0.1
"""The paper's interval (section IV.A)."""


COLUMNS = ("workload", "from", "to", "mode", "state", "total", "frozen", "client waited", "held", "lost", "RST")


def summarise(experiment: str, runs: Sequence[Run], environment: dict[str, Any]) -> dict[str, Any]:
    """The contract's summary. Every run is in it."""
    metrics = {}
    for workload in dict.fromkeys(run.workload for run in runs):
        mine = [run for run in runs if run.workload == workload]
        records = [record for run in mine for record in run.migrations]
        metrics[workload] = {
            "disruption_s": summary(run.outcome.disruption.seconds for run in mine if not run.outcome.trouble),
            "downtime_s": summary(record["downtime_s"] for record in records),
            "duration_s": summary(record["duration_s"] for record in records),
            "remote_overhead_s": summary(record["remote_overhead_s"] for record in records),
        }
    return {
        "experiment": experiment,
        "runs": len(runs),
        "resumed": sum(run.outcome.resumed for run in runs),
        "lost_bytes": sum(run.outcome.lost_bytes for run in runs),
        "resets": sum(run.outcome.resets + run.outcome.reconnects for run in runs),
        "metrics": metrics,
        "per_run": [run.as_json() for run in runs],
        "environment": environment,
    }


def environment(lab: Place) -> dict[str, Any]:
    """What the figures were measured on."""
    host = lab.hosts[0]
    commands = {
        "criu": ["criu", "--version"],
        "podman": ["podman", "--version"],
        "runtime": ["runc", "--version"],
        "ovs": ["ovs-vswitchd", "--version"],
    }
    versions = {name: lab.exec(host, argv).stdout.splitlines()[0] for name, argv in commands.items()}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "commit": commit.stdout.strip() or None,
        **versions,
    }


def write(directory: Path, result: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "summary.json").write_text(json.dumps(result, indent=2, default=str) + "\n")


def table(runs: Sequence[Run]) -> None:
    """One line a migration, on standard output."""
    shown = Table(title="migrations under live TCP connections")
    for column in COLUMNS:
        shown.add_column(column)
    for run in runs:
        for record in run.migrations:
            waited = "-" if run.outcome.trouble else _ms(run.outcome.disruption.seconds)
            values = (
                run.workload,
                record["source"],
                record["destination"],
                record["mode"],
                record["state"],
                _ms(record["duration_s"]),
                _ms(record["downtime_s"]),
                waited,
                str(record["held_packets"]),
                f"{run.outcome.lost_bytes} B",
                str(run.outcome.resets + run.outcome.reconnects),
            )
            shown.add_row(*values)
    Console(width=120).print(shown)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def plot(directory: Path, number: int, run: Run) -> None:
    """The client's view around the migration: round trips for sockperf, throughput for the others. PNG and SVG."""
    record = run.migrations[0]
    marks = {step["name"]: unix_time(step["started_at"]) for step in record["steps"]}
    middle = marks.get("checkpoint", run.started_at)
    start, end = middle - PLOT_WINDOW[0], middle + PLOT_WINDOW[1]
    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    if run.workload == "sockperf":
        points = [(at - middle, value * 1000) for at, value in run.outcome.moments if start <= at <= end]
        axes.semilogy(*zip(*points, strict=True), ".", markersize=2, color="black")
        axes.set_ylabel("round trip (ms)")
    else:
        rates = rates_of(run.outcome.moments, start, end, middle)
        axes.plot(*zip(*rates, strict=True), color="black", drawstyle="steps-mid")
        axes.set_ylabel("throughput (Mbit/s)")
    silent_from = run.outcome.disruption.at - middle
    silent_to = silent_from + run.outcome.disruption.seconds
    axes.axvspan(silent_from, silent_to, color="tab:red", alpha=0.25, label="client waits")
    axes.axvline(0, color="tab:blue", linestyle="--", label="checkpoint begins")
    axes.set_xlabel("time from the checkpoint (s)")
    axes.set_title(f"{run.workload}, {record['mode']}: {record['source']} to {record['destination']}")
    axes.legend(loc="lower left", fontsize="small")
    for suffix in ("png", "svg"):
        figure.savefig(directory / f"{number:02d}-{run.workload}.{suffix}", dpi=130)
    pyplot.close(figure)


def rates_of(
    moments: Sequence[tuple[float, float]], start: float, end: float, zero: float
) -> list[tuple[float, float]]:
    """(seconds from ``zero``, Mbit/s) each ``RATE_EVERY``, from (time, bytes so far)."""
    samples = [(at, int(value)) for at, value in moments]
    steps = int((end - start) / RATE_EVERY)
    edges = [start + step * RATE_EVERY for step in range(steps)]
    # one sample of the meter's on either side, or an interval might hold only one
    rates = [(edge, rate_between(samples, edge - RATE_EVERY / 2, edge + RATE_EVERY * 1.5)) for edge in edges]
    return [(edge - zero, rate / 1e6) for edge, rate in rates if rate == rate]
