"""The paper's figures by number, as PNG and SVG that can be read in print: shapes and greys tell series apart."""

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl

from mininet_scenarios.measure import summary
from mininet_scenarios.paper.authors import STEPS, WORKLOADS, Authors
from mininet_scenarios.paper.latency import MIGRATED, WINDOW
from mininet_scenarios.paper.table import figures, usable
from mininet_scenarios.paper.trial import MODES

mpl.use("Agg")
from matplotlib import pyplot

Rows = Sequence[dict[str, Any]]
LOOKS = {"prepared": ("black", "o", "-"), "parallel": ("tab:blue", "s", "--"), "sequential": ("tab:orange", "^", "-.")}
PAPER = ("0.6", "x", ":")
BARS = {
    "prepared": ("black", ""),
    "parallel": ("tab:blue", "//"),
    "sequential": ("tab:orange", ".."),
    "paper": ("0.75", "xx"),
}
SIZE = (7.0, 3.4)
NAMES = {
    "checkpoint": "checkpoint\n(1)",
    "clear_namespace": "clear ns\n(2.1)",
    "transfer": "transfer\n(2.2)",
    "create_namespace": "create ns\n(2.3)",
    "flow_update": "flow update\n(3)",
    "restore": "restore\n(4)",
}


def save(folder: Path, name: str, figure: Any) -> str:
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"{name}.{suffix}", dpi=160)
    pyplot.close(figure)
    return name


def middle_run(rows: Rows) -> dict[str, Any] | None:
    """The one whose disruption is nearest to the median."""
    good = usable(rows)
    if not good:
        return None
    median = statistics.median(row["disruption_s"] for row in good)
    return min(good, key=lambda row: abs(row["disruption_s"] - median))


def fig5(folder: Path, rows: Rows, authors: Authors) -> str:
    """Round trips by packet number; of each mode the middle run, and one of the authors'."""
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    if authors.series:
        peak = max(range(len(authors.series)), key=lambda i: authors.series[i][1])
        shown = [(i - peak + MIGRATED, trip) for i, (_, trip) in enumerate(authors.series)]
        _trips(axes, [one for one in shown if 0 <= one[0] < WINDOW], PAPER, "the paper's authors")
    for mode in reversed(MODES):
        one = middle_run([row for row in rows if row["mode"] == mode])
        if one is not None:
            points = [(i, trip) for i, trip in enumerate(one["rtt_ms"]) if trip is not None]
            # Those that go step by step wait nearly as long: one label on each side.
            _trips(axes, points, LOOKS[mode], mode, left=mode == "sequential")
    axes.set_yscale("log")
    axes.set_xlabel("packet sequence number")
    axes.set_ylabel("round trip (ms)")
    axes.set_title("Fig. 5: sockperf around a migration (packet 80)")
    axes.legend(fontsize="small", loc="upper right")
    axes.grid(axis="y", which="major", color="0.9")
    return save(folder, "fig5-rtt", figure)


def _trips(
    axes: Any, points: Sequence[tuple[float, float]], look: tuple[str, str, str], label: str, *, left: bool = False
) -> None:
    color, marker, line = look
    axes.plot(*zip(*points, strict=True), color=color, linestyle=line, linewidth=0.9, label=f"{label}")
    peak = max(points, key=lambda point: point[1])
    axes.plot(*peak, color=color, marker=marker, markersize=6)
    axes.annotate(
        f"{peak[1]:.0f} ms",
        peak,
        xytext=(-7 if left else 7, -3),
        horizontalalignment="right" if left else "left",
        textcoords="offset points",
        fontsize="x-small",
        color=color,
    )


def fig6(folder: Path, rows: Rows, authors: Authors) -> str:
    """Throughput each 100 ms: the mean over the runs of each mode with its 90 % interval, and a run of the authors'."""
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    if authors.series:
        zero = next((at for at, rate in authors.series if rate == 0), 0.0)
        shown = [(at - zero, rate) for at, rate in authors.series if -1.5 <= at - zero <= 5]
        axes.plot(*zip(*shown, strict=True), color=PAPER[0], linestyle=PAPER[2], label="the paper's authors, one run")
    for mode in reversed(MODES):
        curve = mean_curve([row for row in rows if row["mode"] == mode and row.get("mbit_s")])
        if curve:
            at, mean, half = zip(*curve, strict=True)
            color, _, line = LOOKS[mode]
            axes.plot(at, mean, color=color, linestyle=line, linewidth=1.2, label=mode)
            low, high = (
                [m - h for m, h in zip(mean, half, strict=True)],
                [m + h for m, h in zip(mean, half, strict=True)],
            )
            axes.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set_xlabel("time from the checkpoint (s)")
    axes.set_ylabel("throughput (Mbit/s)")
    axes.set_title("Fig. 6: iperf3 around a migration from 100 to 500 Mbit/s")
    axes.legend(fontsize="small", loc="upper left")
    axes.grid(axis="y", color="0.9")
    return save(folder, "fig6-throughput", figure)


def mean_curve(rows: Rows, every: float = 0.1) -> list[tuple[float, float, float]]:
    """(time, mean, half of the 90 % interval) of series of (time, value), by the nearest multiple of ``every``."""
    columns: dict[int, list[float]] = {}
    for row in rows:
        for at, value in row["mbit_s"]:
            columns.setdefault(round(at / every), []).append(value)
    curve = []
    for number, values in sorted(columns.items()):
        if len(values) * 2 > len(rows):
            told = summary(values)
            curve.append((number * every, float(str(told["mean"])), float(str(told["ci90"] or 0.0))))
    return curve


def fig7(folder: Path, control: Rows, authors: dict[str, Authors]) -> str:
    """The delay that remote control adds to each step, three ways, and the paper's."""
    ways = {
        "the paper: SSH": ("0.75", "xx", None),
        "SSH login": ("tab:orange", "..", "login_s"),
        "open channel": ("tab:blue", "//", "channel_s"),
        "told ahead": ("black", "", "ahead_s"),
    }
    figure, panels = pyplot.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained", sharey=True)
    for axes, workload in zip(panels, WORKLOADS, strict=True):
        mine = [row for row in control if row["workload"] == workload and row.get("login_s")]
        bars: list[tuple[str, str, str, Callable[[str], dict[str, object]]]] = []
        for label, (color, hatch, field) in ways.items():
            bars.append((label, color, hatch, _control_bar(mine, field, authors[workload])))
        _grouped(axes, bars)
        axes.set_title(workload)
    panels[0].set_ylabel("added delay (s)")
    panels[1].legend(fontsize="x-small", loc="upper right", ncols=2)
    figure.suptitle("Fig. 7: delay added by remote control to each step (no bar: none)")
    return save(folder, "fig7-remote-control", figure)


def _control_bar(rows: Rows, field: str | None, authors: Authors) -> Callable[[str], dict[str, object]]:
    def bar(step: str) -> dict[str, object]:
        if field is None:
            return summary([authors.ssh_s[step]] if step in authors.ssh_s else [])
        return summary(row[field][step] for row in rows if step in row[field])

    return bar


def fig8(folder: Path, rows: Rows, authors: dict[str, Authors]) -> str:
    """Each step's own duration in each mode, and the paper's."""
    figure, panels = pyplot.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained", sharey=True)
    for axes, workload in zip(panels, WORKLOADS, strict=True):
        bars: list[tuple[str, str, str, Callable[[str], dict[str, object]]]] = []
        theirs = authors[workload].own_s
        bars.append(("the paper", *BARS["paper"], partial(_quoted, theirs)))
        for mode in reversed(MODES):
            found = figures([row for row in rows if row["workload"] == workload and row["mode"] == mode])["steps"]
            bars.append((mode, *BARS[mode], partial(_own, found)))
        _grouped(axes, bars)
        axes.set_title(workload)
    panels[0].set_ylabel("duration (s)")
    panels[1].legend(fontsize="x-small", loc="upper right", ncols=2)
    figure.suptitle("Fig. 8: each step's own duration (prepared: only 1, 2.2 and 4 are in the freeze)")
    return save(folder, "fig8-breakdown", figure)


def _quoted(steps: dict[str, float], step: str) -> dict[str, object]:
    return summary([steps[step]])


def _own(steps: dict[str, Any], step: str) -> dict[str, object]:
    return dict(steps[step]["own_s"])


def _grouped(axes: Any, bars: Sequence[tuple[str, str, str, Callable[[str], dict[str, object]]]]) -> None:
    width = 0.8 / len(bars)
    for number, (label, color, hatch, told) in enumerate(bars):
        means = [told(step) for step in STEPS]
        at = [place + (number - (len(bars) - 1) / 2) * width for place in range(len(STEPS))]
        heights = [float(str(one["mean"])) if one["mean"] is not None else math.nan for one in means]
        errors = [float(str(one["ci90"])) if one["ci90"] is not None else 0.0 for one in means]
        axes.bar(at, heights, width, yerr=errors, color=color, hatch=hatch, edgecolor="white", label=label, capsize=1.5)
    axes.set_yscale("log")
    axes.set_xlim(-0.6, len(STEPS) - 0.4)
    axes.set_xticks(range(len(STEPS)), [NAMES[step] for step in STEPS], fontsize="x-small")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)


def follow(folder: Path, rows: Rows) -> str:
    """How long the client waited at each hop of the service that follows it."""
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    hops = [row["hop_disruption_s"] for row in rows if row.get("hop_disruption_s")]
    for number, at_hop in enumerate(zip(*hops, strict=True), 1):
        axes.plot([number] * len(at_hop), [seconds * 1e3 for seconds in at_hop], "o", color="black", markersize=4)
    count = len(hops[0]) if hops else 0
    axes.set_xticks(range(1, count + 1), [f"edge{n} to edge{n + 1}" for n in range(1, count + 1)], fontsize="small")
    axes.set_xlim(0.4, count + 0.6)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("client waited (ms)")
    axes.set_title("A service follows its device: one TCP connection, every run")
    axes.grid(axis="y", color="0.9")
    return save(folder, "follow", figure)
