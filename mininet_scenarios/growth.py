"""``make bench-growth``: how the disruption grows with the container's memory, and with its connections.

RUNS times each size in turn: a server with so much memory that changes, or with so many connections whose every byte
is compared, migrates. In the same run a plain TCP stream between the same two hosts tells what copying the state once
would take. Exit status 0 only if every connection went on with nothing lost.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from rich.console import Console

from coat_ryu.errors import CoatError
from mininet_scenarios import burden, report, shares
from mininet_scenarios.bench import EDGES, Bench, Kind, memory
from mininet_scenarios.bench_report import METRICS, Pair, figures, ms, ratio, save
from mininet_scenarios.experiment import Refused
from mininet_scenarios.lab import Lab, LabError
from mininet_scenarios.measure import summary, time_left
from mininet_scenarios.rootfs import RootfsError

RESULTS = Path("results/bench-growth")
RUNS = 5
SIZES = (10, 30, 100, 300, 1000)
"""Megabytes (2^20 bytes) of memory."""
COUNTS = (1, 10, 100, 300, 1000)
BLOCKS = 500
"""Blocks a second that all connections of a server send in turn, so that a silence is seen to a few milliseconds."""
COPIED = 256 * burden.MEGABYTE
"""Bytes of the plain copy."""
COPY_TIMEOUT = 60
SERIES = {"memory": "memory (MB)", "connections": "connections"}
SHOWN = ("disruption_s", "downtime_s", "duration_s", "checkpoint_bytes")


@dataclass(frozen=True)
class Point:
    """One migration at one place of a series."""

    series: str
    size: int
    pair: Pair


def kind_of(series: str, size: int) -> Kind:
    """Every server has memory that changes; the connections are those of the other end that is checked."""
    return memory(size) if series == "memory" else memory(1, count=size, pause=size / BLOCKS)


def copy_rate(lab: Lab) -> float:
    """Bytes a second of one plain TCP stream between the edges' underlay addresses, the way that the state goes."""
    there = lab.state.hosts[EDGES[1]].address
    listen = ["timeout", str(COPY_TIMEOUT), "iperf3", "--server", "--one-off", "--forceflush"]
    with lab.popen(EDGES[1], listen, text=True, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        any("listening" in line for line in server.stdout)
        argv = ["iperf3", "--client", there, "--bytes", str(COPIED), "--json"]
        received = json.loads(lab.exec(EDGES[0], argv, timeout=COPY_TIMEOUT).stdout)["end"]["sum_received"]
        server.communicate()
    return float(received["bits_per_second"]) / 8


def measure(
    lab: Lab, places: Sequence[tuple[str, int]], rounds: int, say: Callable[[str], None]
) -> Iterator[Point | float]:
    """Each round a copy rate, and a point for every place of the series, in a lab that is up."""
    bench = Bench(lab, ["python"])
    began, total = time.monotonic(), rounds * len(places)
    with bench.clients():
        for number in range(total):
            series, size = places[number % len(places)]
            if number % len(places) == 0:
                yield copy_rate(lab)
            left = time_left(number, total, time.monotonic() - began)
            say(f"round {number // len(places) + 1} of {rounds}: {series} {size}{left}")
            one, _ = bench.migration(kind_of(series, size), compare=False)
            one.workload = f"{series}-{size}"
            pair = Pair(one, None, None, None)
            say(f"   disruption {ms(pair.disruption)}, frozen {ms(pair.record['downtime_s'])}")
            yield Point(series, size, pair)


def fits(points: Sequence[Point], rate: float) -> dict[str, Any]:
    """By series: the slopes of disruption and time frozen over its size, and that of copying the state once."""
    found: dict[str, Any] = {}
    for series in dict.fromkeys(point.series for point in points):
        mine = [point for point in points if point.series == series]
        fitted = {name: _slope(mine, name) for name in ("disruption_s", "downtime_s", "checkpoint_bytes")}
        state = fitted["checkpoint_bytes"]
        copy = state["slope"] / rate if state else None
        disruption = fitted["disruption_s"]
        over = shares.over(disruption["slope"] if disruption else None, copy)
        found[series] = {**fitted, "copy_s_per_unit": copy, "disruption_slope_over_copy": over}
    return found


def _slope(points: Sequence[Point], name: str) -> dict[str, float] | None:
    known = [(float(point.size), figures(point.pair)[name]) for point in points]
    return shares.slope([(size, value) for size, value in known if value is not None])


def summarise(points: Sequence[Point], rates: Sequence[float], environment: dict[str, Any]) -> dict[str, Any]:
    """The contract's summary; ``growth`` has the slopes."""
    result = report.summarise("bench-growth", [point.pair.one for point in points], environment)
    metrics: dict[str, Any] = {}
    for workload in dict.fromkeys(point.pair.one.workload for point in points):
        rows = [figures(point.pair) for point in points if point.pair.one.workload == workload]
        metrics[workload] = {name: summary((row[name] for row in rows), METRICS[name][0]) for name in SHOWN}
    copied = summary(rates, "bytes/s")
    per_run = [
        {**point.pair.one.as_json(), **figures(point.pair), "series": point.series, "size": point.size}
        for point in points
    ]
    growth = fits(points, sum(rates) / len(rates))
    return {**result, "metrics": metrics, "copy_rate": copied, "growth": growth, "per_run": per_run}


def markdown(result: dict[str, Any]) -> str:
    rate = result["copy_rate"]["median"]
    lines = [
        "# Growth",
        "",
        "Medians. *copy*: what copying the same state once takes over a plain TCP stream between the two hosts,",
        f"measured in the same run: {rate / 1e6:.0f} million bytes a second.",
        "",
        "| | disruption | frozen | whole | state | copy |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for workload, values in result["metrics"].items():
        state = values["checkpoint_bytes"]["median"]
        cells = [workload, *(ms(values[name]["median"]) for name in SHOWN[:3])]
        cells += ["-", "-"] if state is None else [f"{state / burden.MEGABYTE:.1f} MB", ms(state / rate)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Least squares over all runs, milliseconds for each MB (2^20 bytes) or connection:", ""]
    lines += ["| series | disruption | frozen | copy | disruption / copy |", "| --- | ---: | ---: | ---: | ---: |"]
    for series, fit in result["growth"].items():
        slopes = [fit[name] and fit[name]["slope"] for name in ("disruption_s", "downtime_s")]
        cells = [series, *(ratio(one and one * 1000, 3) for one in (*slopes, fit["copy_s_per_unit"]))]
        lines.append("| " + " | ".join([*cells, ratio(fit["disruption_slope_over_copy"])]) + " |")
    lines += ["", *(f"![{series}]({series}.png)\n" for series in result["growth"])]
    counts = ", ".join(f"{name}: {result[name]}" for name in ("runs", "resumed", "lost_bytes", "resets"))
    return "\n".join([*lines, f"{counts}."]) + "\n"


def draw(result: dict[str, Any], series: str) -> Any:
    """Every run, the fitted line of the disruption, and what copying the state once would take."""
    rows = [row for row in result["per_run"] if row["series"] == series]
    fit = result["growth"][series]
    figure, axes = pyplot.subplots(figsize=(6, 3.8), layout="constrained")
    for name, mark, label in (("disruption_s", "o", "disruption"), ("downtime_s", "x", "frozen")):
        points = [(row["size"], row[name] * 1000) for row in rows if row[name] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), mark, color="black", alpha=0.6, markersize=4, label=label)
    ends = (0, max(row["size"] for row in rows))
    if fit["disruption_s"]:
        slope, intercept = fit["disruption_s"]["slope"] * 1000, fit["disruption_s"]["intercept"] * 1000
        line = [intercept + slope * size for size in ends]
        axes.plot(ends, line, color="tab:red", label=f"disruption, fitted: {slope:.2f} ms for each")
        copy = fit["copy_s_per_unit"] * 1000
        copied = [intercept + copy * size for size in ends]
        axes.plot(ends, copied, "--", color="tab:blue", label=f"one copy of the state: {copy:.2f} ms for each")
    axes.set_xlabel(SERIES[series])
    axes.set_ylabel("time (ms)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    return figure


def write(directory: Path, result: dict[str, Any]) -> None:
    report.write(directory, result)
    (directory / "report.md").write_text(markdown(result))
    for series in result["growth"]:
        save(directory, series, draw(result, series))


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-growth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=int, nargs="?", default=RUNS, help=f"runs of each size (default {RUNS})")
    parser.add_argument("--memory", type=int, nargs="*", default=SIZES, metavar="MB")
    parser.add_argument("--connections", type=int, nargs="*", default=COUNTS, metavar="COUNT")
    arguments = parser.parse_args()
    say = partial(Console(stderr=True, highlight=False).print, markup=False, soft_wrap=True)
    places = [(series, size) for series in SERIES for size in getattr(arguments, series)]
    points: list[Point] = []
    rates: list[float] = []
    environment: dict[str, Any] = {}
    try:
        with Lab(name="bench-growth", progress=say) as lab:
            environment = report.environment(lab)
            for found in measure(lab, places, arguments.runs, say):
                if isinstance(found, float):
                    rates.append(found)
                else:
                    points.append(found)
    except (LabError, CoatError, RootfsError, Refused) as error:
        sys.exit(f"bench-growth: {error}")
    finally:  # also of one that was interrupted: what it has measured is measured
        if points:
            write(RESULTS, summarise(points, rates, environment))
    print(f"{(RESULTS / 'report.md').read_text()}\nsummary and plots: {RESULTS}/")
    troubles = [f"{point.pair.one.workload}: {point.pair.one.trouble}" for point in points if not point.pair.one.good]
    if troubles:
        sys.exit("bench-growth: not every connection went on:\n" + "\n".join(troubles))


if __name__ == "__main__":
    main()
