"""What an experiment's samples say: pure functions, times in seconds.

Disruption is what the client sees. For sockperf it is the largest round trip less the median of the 50 before it; for
iperf3 the longest time in which no byte arrived. Means come with a 90 % confidence interval over the runs, as in
the paper (section IV.B).
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

MEDIAN_WINDOW = 50

# Two-sided 90 % quantiles of Student's t distribution for 1 to 30 degrees of freedom; beyond that the normal one is
# near.
_T90 = (
    (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
    + (1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725)
    + (1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697)
)
_Z90 = 1.645


@dataclass(frozen=True, slots=True)
class Gap:
    """The longest silence: when it began, and how long it lasted."""

    at: float
    seconds: float


def longest_gap(arrivals: Sequence[float]) -> Gap:
    """The longest time between two arrivals. Raises ValueError when there are fewer than two."""
    if len(arrivals) < 2:
        raise ValueError("a gap needs two arrivals")
    return max(gaps(arrivals), key=lambda gap: gap.seconds)


def begun_before(arrivals: Sequence[float], end: float) -> list[float]:
    """The arrivals that are the ends of gaps which began before ``end``."""
    before = [at for at in arrivals if at < end]
    return [*before, *arrivals[len(before) : len(before) + 1]]


def gaps(arrivals: Sequence[float], at_least: float = 0.0) -> list[Gap]:
    """The times between arrivals, those of some length."""
    return [Gap(before, after - before) for before, after in pairwise(arrivals) if after - before >= at_least]


def rtt_disruption(samples: Sequence[tuple[float, float]]) -> Gap:
    """From (time sent, time answered) of each packet: the largest round trip less the median of those before it."""
    if len(samples) < 2:
        raise ValueError("a disruption needs two round trips")
    rtts = [answered - sent for sent, answered in samples]
    worst = max(range(len(rtts)), key=rtts.__getitem__)
    return _beyond_median(samples[worst][0], rtts, worst)


def long_trips(samples: Sequence[tuple[float, float]], at_least: float) -> list[Gap]:
    """Like ``rtt_disruption``, of every round trip of some length."""
    rtts = [answered - sent for sent, answered in samples]
    return [_beyond_median(samples[i][0], rtts, i) for i, rtt in enumerate(rtts) if rtt >= at_least]


def _beyond_median(at: float, rtts: Sequence[float], index: int) -> Gap:
    before = rtts[max(0, index - MEDIAN_WINDOW) : index] or rtts[index + 1 : index + 1 + MEDIAN_WINDOW]
    return Gap(at, max(0.0, rtts[index] - statistics.median(before)))


def clock_shift(foreign: Sequence[Gap], ours: Sequence[Gap], tolerance: float = 0.02) -> float:
    """What must be added to another clock's times, from silences that both saw: the shift that makes most coincide."""
    longest = max(foreign, key=lambda gap: gap.seconds)

    def agreeing(shift: float) -> int:
        return sum(
            any(max(abs(a.at + shift - b.at), abs(a.seconds - b.seconds)) < tolerance for b in ours) for a in foreign
        )

    by_length = sorted(ours, key=lambda gap: abs(gap.seconds - longest.seconds))
    return max((gap.at - longest.at for gap in by_length), key=agreeing)


def rate_between(samples: Sequence[tuple[float, int]], start: float, end: float) -> float:
    """Bits a second between two moments, from (time, bytes so far); NaN when there are not two samples in between."""
    inside = [(at, count) for at, count in samples if start <= at <= end]
    if len(inside) < 2 or inside[-1][0] == inside[0][0]:
        return math.nan
    return (inside[-1][1] - inside[0][1]) * 8 / (inside[-1][0] - inside[0][0])


def round_trips_between(samples: Sequence[tuple[float, float]], start: float, end: float) -> float:
    """Round trips a second between two moments, one after the other, from the median of (time sent, seconds)."""
    inside = [seconds for at, seconds in samples if start <= at <= end]
    return 1 / statistics.median(inside) if inside else math.nan


def time_left(done: int, total: int, elapsed: float) -> str:
    """ ", N min left" for a line of progress, when the rest takes as long as what is done; nothing before that."""
    if not done:
        return ""
    seconds = elapsed / done * (total - done)
    return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"


def summary(values: Iterable[float | None], unit: str = "s") -> dict[str, object]:
    """Mean, half-width of its 90 % confidence interval, median and extremes of what is known: neither None nor NaN.

    All None when nothing is.
    """
    kept = [value for value in values if value is not None and not math.isnan(value)]
    if not kept:
        return {"mean": None, "ci90": None, "median": None, "min": None, "max": None, "unit": unit}
    return {
        "mean": statistics.fmean(kept),
        "ci90": _ci90(kept),
        "median": statistics.median(kept),
        "min": min(kept),
        "max": max(kept),
        "unit": unit,
    }


def _ci90(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    freedom = len(values) - 1
    quantile = _T90[freedom - 1] if freedom <= len(_T90) else _Z90
    return quantile * statistics.stdev(values) / math.sqrt(len(values))
