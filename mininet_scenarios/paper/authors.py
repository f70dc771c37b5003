"""The paper's own figures: from its authors' raw logs where they are at hand, else quoted. And those of MOSE.

Their logs (CSV, from their public repository) hold 50 runs of each workload. Table I comes from them by these rules,
found by computing it anew: the SSH delay is what a command took from the controlling host less
what it took on its own, summed over steps 2.1, 2.2, 2.3 and 4; its share is of the disruption; COAT's share is steps
2.1, 2.3 and 3 of all steps' own durations; a sockperf run counts when its largest round trip is between 1 s and 6 s.
"""

import csv
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

LOGS_VARIABLE = "COAT_PAPER_LOGS"
LOGS = Path("../shared/paper-data/log")
WORKLOADS = ("sockperf", "iperf3")
STEPS = ("checkpoint", "clear_namespace", "transfer", "create_namespace", "flow_update", "restore")
ADDITIONS = ("clear_namespace", "create_namespace", "flow_update")
"""The three steps that COAT adds to a migration (section V)."""

FOLDERS = {"sockperf": ("sockperf_ssh_delay", "sockperf"), "iperf3": ("iperf_ssh_delay", "iperf")}
ANSWERED, STALLED = 1.0, 6.0
"""Seconds: a sockperf run with no round trip longer than the first never went on after its migration; one longer than
the second had to wait for a retransmission timer besides, and is not in the paper's 33 of 50.
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Table I, in seconds and shares."""

    coat_s: float
    remote_s: float
    total_s: float
    disruption_s: float
    remote_share: float
    coat_share: float

    @property
    def gate_share(self) -> float:
        """There is no gate in the paper's migration: packets are lost instead."""
        return self.coat_share


TABLE_I = {
    "sockperf": Table(2.67, 2.41, 5.08, 5.11, 0.4716, 0.1367),
    "iperf3": Table(1.87, 1.95, 3.82, 3.71, 0.5256, 0.1348),
}
"""Yu et al., MedComNet 2023, Table I."""

MOSE_DISRUPTION_S = {"iperf3": 0.79, "sockperf": 0.98}
MOSE_FLOW_UPDATE_S = (0.003, 0.004)
"""MOSE, by the same authors (2025): downtime of the two services, and what an update of flows takes."""


@dataclass(frozen=True)
class Authors:
    """Means over the authors' runs of one workload: each step's own seconds, and what SSH added. ``resumed`` counts
    runs whose connection went on, ``kept`` those that Table I is made of.
    """

    source: str
    own_s: dict[str, float]
    ssh_s: dict[str, float]
    disruption_s: float
    runs: int
    resumed: int
    kept: int
    series: list[tuple[float, float]] = field(default_factory=list)


QUOTED = {
    "sockperf": Authors(
        "quoted: means over the authors' public logs",
        dict(zip(STEPS, (0.852, 0.181, 1.186, 0.078, 0.114, 0.231), strict=True)),
        {"checkpoint": 0.952, "clear_namespace": 0.841, "transfer": 0.520, "create_namespace": 0.497, "restore": 0.548},
        5.11,
        runs=50,
        resumed=38,
        kept=33,
    ),
    "iperf3": Authors(
        "quoted: means over the authors' public logs",
        dict(zip(STEPS, (0.781, 0.128, 0.618, 0.055, 0.069, 0.217), strict=True)),
        {"checkpoint": 0.638, "clear_namespace": 0.543, "transfer": 0.468, "create_namespace": 0.448, "restore": 0.488},
        3.70,
        runs=50,
        resumed=50,
        kept=50,
    ),
}


def default_logs() -> Path:
    return Path(os.environ.get(LOGS_VARIABLE, LOGS))


def read(logs: Path) -> dict[str, Authors]:
    """By workload: from the logs, or quoted where they are not there."""
    return {
        workload: _read(logs / folder, name, workload) if (logs / folder).is_dir() else QUOTED[workload]
        for workload, (folder, name) in FOLDERS.items()
    }


def _read(folder: Path, name: str, workload: str) -> Authors:
    times: dict[str, list[float]] = {}
    for row in _rows(folder / f"{name}_op_time.csv"):
        times.setdefault(row["scenario"], []).append(float(row["elapsed"]))
    mean = {scenario: statistics.fmean(values) for scenario, values in times.items()}
    own = {
        "checkpoint": _mean_of(folder / "podman_dump.csv", "podman_checkpoint_duration"),
        "clear_namespace": mean["ns_clear_real"],
        "transfer": mean["scp_ckpt_real"],
        "create_namespace": mean["create_ns_real"],
        "flow_update": mean["clear_arp"],
        "restore": _mean_of(folder / "podman_restore.csv", "podman_restore_duration"),
    }
    ssh = {
        "checkpoint": mean["perf_ckpt"] - own["checkpoint"],
        "clear_namespace": mean["ns_clear"] - own["clear_namespace"],
        "transfer": mean["scp_ckpt"] - own["transfer"],
        "create_namespace": mean["create_ns"] - own["create_namespace"],
        "restore": mean["perf_restore"] - own["restore"],
    }
    runs = _sockperf_runs(folder) if workload == "sockperf" else _iperf3_runs(folder)
    waits = [wait for wait, _ in runs]
    resumed = [wait for wait in waits if wait > ANSWERED]
    kept = [wait for wait in resumed if workload == "iperf3" or wait < STALLED]
    middle = min((run for run in runs if run[0] in kept), key=lambda run: abs(run[0] - statistics.median(kept)))
    return Authors(
        f"the authors' logs, {folder.name}",
        own,
        ssh,
        statistics.fmean(kept),
        len(runs),
        len(resumed),
        len(kept),
        middle[1],
    )


def _sockperf_runs(folder: Path) -> list[tuple[float, list[tuple[float, float]]]]:
    """(largest round trip in s, [(number, round trip in ms)]); the logs have half the round trip in microseconds."""
    runs = []
    for _, rows in groupby(_rows(folder / "sockperf.csv"), key=lambda row: row["iter"]):
        trips = [float(row["latency"]) * 2 / 1e6 for row in rows]
        runs.append((max(trips), [(float(number), trip * 1e3) for number, trip in enumerate(trips)]))
    return runs


def _iperf3_runs(folder: Path) -> list[tuple[float, list[tuple[float, float]]]]:
    """(longest time without a byte in s, [(time in s, Mbit/s)])."""
    runs = []
    for _, rows in groupby(_rows(folder / "iperf.csv"), key=lambda row: row["iter"]):
        series = [(float(row["start"]), float(row["bps"]) / 1e6) for row in rows]
        silences = [sum(1 for _ in group) for zero, group in groupby(series, key=lambda one: one[1] == 0) if zero]
        runs.append((max(silences, default=0) * 0.1, series))
    return runs


def _mean_of(file: Path, column: str) -> float:
    """Of microseconds, in seconds."""
    return statistics.fmean(float(row[column]) for row in _rows(file)) / 1e6


def _rows(file: Path) -> Iterable[dict[str, str]]:
    with file.open(newline="") as opened:
        yield from csv.DictReader(opened)


def table(authors: Authors) -> Table:
    """Table I computed anew from the means."""
    coat = sum(authors.own_s.values())
    remote = sum(seconds for step, seconds in authors.ssh_s.items() if step != "checkpoint")
    added = sum(authors.own_s[step] for step in ADDITIONS)
    return Table(coat, remote, coat + remote, authors.disruption_s, remote / authors.disruption_s, added / coat)
