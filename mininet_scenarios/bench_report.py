"""What came of ``make bench``: its figures, a report and pictures."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes

from mininet_scenarios import report, shares
from mininet_scenarios.experiment import Run
from mininet_scenarios.measure import summary


@dataclass
class Pair:
    """One run: a migration, and Podman's own on one host beside it, before or after.

    ``paces`` are the workload's after the migration and of a fresh connection; ``floor`` has what ``floor.py`` prints.
    Either is None where it could not be told; ``trouble`` is that of the floor or of its connection, if any.
    """

    one: Run
    paces: tuple[float, float] | None
    floor: dict[str, Any] | None
    trouble: str | None

    @property
    def record(self) -> dict[str, Any]:
        return self.one.migrations[0]

    @property
    def disruption(self) -> float | None:
        return None if self.one.outcome.trouble else self.one.outcome.disruption.seconds

    @property
    def floor_s(self) -> float | None:
        return self.floor["floor_s"] if self.floor else None

    @property
    def resume_lag(self) -> float | None:
        downtime = self.record["downtime_s"]
        return None if self.disruption is None or downtime is None else self.disruption - downtime


METRICS: dict[str, tuple[str, Callable[[Pair], float | None]]] = {
    "floor_s": ("s", lambda pair: pair.floor_s),
    "disruption_s": ("s", lambda pair: pair.disruption),
    "downtime_s": ("s", lambda pair: pair.record["downtime_s"]),
    "duration_s": ("s", lambda pair: pair.record["duration_s"]),
    "disruption_over_floor": ("ratio", lambda pair: shares.over(pair.disruption, pair.floor_s)),
    "remote_overhead_s": ("s", lambda pair: pair.record["remote_overhead_s"]),
    "remote_share": ("ratio", lambda pair: shares.remote_share(pair.record)),
    "coat_share": ("ratio", lambda pair: shares.coat_share(pair.record)),
    "resume_lag_s": ("s", lambda pair: pair.resume_lag),
    "throughput_after_over_fresh": ("ratio", lambda pair: shares.over(*pair.paces) if pair.paces else None),
    "plan_error": ("ratio", lambda pair: magnitude(pair.record.get("prediction_error"))),
    "checkpoint_bytes": ("bytes", lambda pair: pair.record["checkpoint_bytes"]),
}
"""Unit and value of each figure of a run; None where a run does not have it."""


def magnitude(value: float | None) -> float | None:
    return None if value is None else abs(value)


def figures(pair: Pair) -> dict[str, float | None]:
    return {name: value(pair) for name, (_, value) in METRICS.items()}


def summarise(pairs: Sequence[Pair], environment: dict[str, Any]) -> dict[str, Any]:
    """The contract's summary. Every run is in it."""
    metrics: dict[str, dict[str, Any]] = {}
    for workload, mine in by_workload(pairs).items():
        rows = [figures(pair) for pair in mine]
        metrics[workload] = {name: summary((row[name] for row in rows), unit) for name, (unit, _) in METRICS.items()}
        metrics[workload] |= {"runs": len(mine), "resumed": sum(pair.one.good for pair in mine)}
    result = report.summarise("bench", [pair.one for pair in pairs], environment)
    per_run = [
        {
            **pair.one.as_json(),
            **figures(pair),
            "gate_known": shares.gate(pair.record)[1],
            "freeze": shares.pieces(pair.record),
            "paces": [None if math.isnan(pace) else pace for pace in pair.paces or ()],
            "floor": pair.floor,
            "floor_trouble": pair.trouble,
        }
        for pair in pairs
    ]
    return {**result, "metrics": metrics, "per_run": per_run}


def by_workload(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(pair.one.workload, []).append(pair)
    return found


def line(pair: Pair) -> str:
    """A run in a line, for whoever waits."""
    if not pair.one.good:
        return f"NOT RESUMED: {pair.one.trouble or pair.record['state']}"
    row = figures(pair)
    words = [f"{name.removesuffix('_s')} {ms(row[name])}" for name in ("floor_s", "disruption_s", "downtime_s")]
    words.append(f"disruption over floor {ratio(row['disruption_over_floor'])}")
    words.append(f"after over fresh {ratio(row['throughput_after_over_fresh'])}")
    return ", ".join(words) + (f"; floor: {pair.trouble}" if pair.trouble else "")


def ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def ratio(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


# ---- the report

INTRODUCTION = """\
Medians of {runs} runs of each workload; floor and migration took turns. *floor*: what Podman takes on one host, with
its default options, to checkpoint such a container into an archive, remove it and restore it, under the same load.
*disruption*: the longest time that the client had to wait. *frozen*: from the freeze to the first instruction at the
new place. *remote*: the part of the whole migration that was remote control; *coat*: the part of the time frozen that
was neither Podman's, nor CRIU's, nor the copying of the state. *lag*: disruption less time frozen. *after / fresh*: how
fast the connection was after the migration, over a new one to the same server. *plan*: by how much of the time frozen
the prediction was wrong, which is made after the preflight from what the migrations before have taught.
"""
UPPER_BOUND = "The records do not tell how long CRIU waited for the switches, so *coat* is no more than an upper bound."
COLUMNS = (
    "workload",
    "floor",
    "disruption",
    "over floor",
    "frozen",
    "whole",
    "remote",
    "coat",
    "lag",
    "worst lag",
    "after / fresh",
    "plan",
    "resumed",
)


def markdown(result: dict[str, Any]) -> str:
    runs = "/".join(sorted({str(values["runs"]) for values in result["metrics"].values()}, key=int))
    lines = ["# Benchmark", "", INTRODUCTION.format(runs=runs)]
    if any(not row["gate_known"] for row in result["per_run"]):
        lines += [UPPER_BOUND, ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
    for workload, values in result["metrics"].items():
        cells = (
            workload,
            ms(values["floor_s"]["median"]),
            ms(values["disruption_s"]["median"]),
            ratio(values["disruption_over_floor"]["median"]),
            ms(values["downtime_s"]["median"]),
            ms(values["duration_s"]["median"]),
            ratio(values["remote_share"]["median"], 4),
            ratio(values["coat_share"]["median"], 3),
            ms(values["resume_lag_s"]["median"]),
            ms(values["resume_lag_s"]["max"]),
            ratio(values["throughput_after_over_fresh"]["median"]),
            ratio(values["plan_error"]["median"]),
            f"{values['resumed']} of {values['runs']}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    counts = ", ".join(f"{name}: {result[name]}" for name in ("runs", "resumed", "lost_bytes", "resets"))
    lines += ["", f"{counts}.", ""]
    lines += [f"![{title}]({name}.png)\n" for name, title in PICTURES.items()]
    lines.append("Measured on: " + ", ".join(f"{key} {value}" for key, value in result["environment"].items()) + ".")
    return "\n".join(lines) + "\n"


def write(directory: Path, result: dict[str, Any]) -> None:
    """summary.json, report.md and the pictures."""
    report.write(directory, result)
    (directory / "report.md").write_text(markdown(result))
    save(directory, "freeze", draw_freeze(result))
    save(directory, "ratios", draw_ratios(result))


# ---- pictures

PICTURES = {
    "freeze": "Where the time goes: the migration's freeze and the floor",
    "ratios": "Every run: disruption over floor, and speed after over fresh",
}
# Lightness tells them apart where colour does not, and the hatched ones are CRIU's own.
LOOKS: dict[str, dict[str, Any]] = {
    shares.DUMP: {"color": "#b5651d", "hatch": "////"},
    shares.GATE: {"color": "#d62728"},
    shares.AROUND_DUMP: {"color": "#f2c48d"},
    "transfer": {"color": "#6f6f6f"},
    shares.REMOVE: {"color": "#2b2b2b"},
    shares.BETWEEN: {"color": "#ffffff"},
    shares.AROUND_RESTORE: {"color": "#c3d9ee"},
    shares.REVIVE: {"color": "#3b78b0", "hatch": "////"},
}
OTHER = {"color": "#9467bd"}
"""A step that is in the freeze in other modes only."""
INVISIBLE = 0.1
"""Milliseconds that no picture shows."""
FAR = 3.0
"""A bar that is so many times longer than the shortest is drawn on another scale."""


def save(directory: Path, name: str, figure: Any) -> None:
    for suffix in ("png", "svg"):
        figure.savefig(directory / f"{name}.{suffix}", dpi=150)
    pyplot.close(figure)


def bars(result: dict[str, Any]) -> dict[str, tuple[dict[str, float], dict[str, float]]]:
    """By workload, the medians of the pieces of the freeze and of the floor."""
    found = {}
    for workload in result["metrics"]:
        rows = [row for row in result["per_run"] if row["workload"] == workload]
        floors = [shares.floor_pieces(row["floor"]) for row in rows if row["floor"]]
        found[workload] = (shares.medians([row["freeze"] for row in rows if row["freeze"]]), shares.medians(floors))
    return found


def draw_freeze(result: dict[str, Any]) -> Any:
    """Stacked bars, a pair for each workload; those that are much longer on a scale of their own."""
    shown = bars(result)
    length = {workload: max(sum(bar.values()) for bar in pair) for workload, pair in shown.items()}
    short = [workload for workload in shown if length[workload] <= FAR * min(length.values())]
    groups = [group for group in (short, [workload for workload in shown if workload not in short]) if group]
    figure, panels = pyplot.subplots(
        1,
        len(groups),
        figsize=(2.2 + 1.5 * len(shown), 4.6),
        layout="constrained",
        squeeze=False,
        gridspec_kw={"width_ratios": [len(group) for group in groups]},
    )
    handles: dict[str, Any] = {}
    for axes, group in zip(panels[0], groups, strict=True):
        for place, workload in enumerate(group):
            for side, bar in zip((-0.21, 0.21), shown[workload], strict=True):
                handles |= _stack(axes, place + side, bar)
        axes.set_xticks([place + side for place in range(len(group)) for side in (-0.21, 0.21)])
        axes.set_xticklabels(["coat", "floor"] * len(group), fontsize=8)
        for place, workload in enumerate(group):
            axes.annotate(
                workload, (place, 0), (0, -26), ("data", "axes fraction"), "offset points", ha="center", fontsize=9
            )
        axes.margins(y=0.08)
    panels[0][0].set_ylabel("time (ms), medians")
    legend = _stacked(handles)[::-1]
    figure.legend([handles[name] for name in legend], legend, loc="outside right upper", fontsize=8)
    return figure


def _stack(axes: Axes, place: float, bar: dict[str, float]) -> dict[str, Any]:
    bottom, handles = 0.0, {}
    for name in _stacked(bar):
        height = bar[name] * 1000
        if height > INVISIBLE:
            look = LOOKS.get(name, OTHER)
            handles[name] = axes.bar(place, height, 0.38, bottom, edgecolor="black", linewidth=0.5, label=name, **look)
            bottom += height
    axes.annotate(f"{bottom:.0f}", (place, bottom), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    return handles


def _stacked(names: Iterable[str]) -> list[str]:
    """From the bottom up."""
    order = [*LOOKS]
    return sorted(names, key=lambda name: order.index(name) if name in order else order.index(shares.BETWEEN))


def draw_ratios(result: dict[str, Any]) -> Any:
    """A point for every run, a line at the median."""
    workloads = list(result["metrics"])
    figure, panels = pyplot.subplots(1, 2, figsize=(2 + 1.5 * len(workloads), 3.6), layout="constrained")
    for axes, name, label in zip(
        panels,
        ("disruption_over_floor", "throughput_after_over_fresh"),
        ("disruption / floor", "speed after / fresh"),
        strict=True,
    ):
        for place, workload in enumerate(workloads):
            rows = [row[name] for row in result["per_run"] if row["workload"] == workload and row[name] is not None]
            axes.plot([place] * len(rows), rows, "o", color="black", alpha=0.45, markersize=4, markeredgewidth=0)
            if (median := result["metrics"][workload][name]["median"]) is not None:
                axes.hlines(median, place - 0.3, place + 0.3, color="tab:red", linewidth=2)
        axes.axhline(1, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xticks(range(len(workloads)), workloads, rotation=30, ha="right", fontsize=8)
        axes.set_xlim(-0.6, len(workloads) - 0.4)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
    return figure
