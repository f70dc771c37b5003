"""How long a migration will take and how long its container will stand still, from its state's size and from history.

The form is that of A. Calagna, Y. Yu, P. Giaccone, C. F. Chiasserini, "Processing-aware Migration Model for Stateful
Edge Microservices", IEEE ICC 2023: each step takes a constant time for its processing and a time in proportion to the
size of the state, and the transfer's proportion is the link's rate. Its constants are of its authors' machines; here
they are learned from the migrations that the journal remembers, and stand on ``PRIOR`` until there are some.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Literal

from pydantic import BaseModel

from coat_ryu.model import Mode
from coat_ryu.saga import Migration

Basis = Literal["history", "model"]

REST = "rest"
"""The part of a total that is no step's: what lies between steps, less what of a step lies outside."""

FROZEN: dict[Mode, tuple[str, ...]] = {
    "prepared": ("checkpoint", "transfer", "restore"),
    "parallel": ("checkpoint", "clear_namespace", "transfer", "create_namespace", "flow_update", "restore"),
    "sequential": ("checkpoint", "clear_namespace", "transfer", "create_namespace", "flow_update", "restore"),
}
"""The steps of each mode in which the container stands still."""

LEAST = 256 << 10
"""Bytes of the smallest checkpoint."""
SPREAD = 8 << 20
"""Bytes by which two states must differ before their times say anything of the proportion."""
RECENT = 20
"""Migrations of one kind that are looked at: a machine changes."""


@dataclass(frozen=True, slots=True)
class Line:
    """``constant`` seconds, and ``slope`` seconds a byte."""

    constant: float
    slope: float = 0.0

    def at(self, size: float) -> float:
        return self.constant + self.slope * size


# Ours, measured in the lab on the README's machine: states of 0.8 and 107 MB, the link that between two namespaces.
# For comparison the logs of 50 runs each that the authors published with their MedComNet paper, states of 0.81 and 8.91
# MB: checkpoint 0.781 and 0.852 s (8.8 ns a byte), restore 0.217 and 0.231 s (1.8), transfer at 100 Mbit/s 0.618 and
# 1.186 s (70).
PRIOR: Mapping[str, Line] = {
    "preflight": Line(0.1),
    "image": Line(0.02),
    "hold": Line(0.05),
    "create_namespace": Line(0.06),
    "prepare": Line(0.25),
    "flow_update": Line(0.02),
    "checkpoint": Line(0.13, 1.2e-9),
    "clear_namespace": Line(0.06),
    "transfer": Line(0.02, 13e-9),
    "restore": Line(0.1, 1.0e-9),
    "finish": Line(0.15),
}


class Expected(BaseModel):
    """``samples`` is how many migrations it was learned from."""

    downtime_s: float
    duration_s: float
    checkpoint_bytes: int
    basis: Basis
    samples: int


@dataclass(frozen=True, slots=True)
class _Past:
    """What a prediction needs of a migration: a hundred whole records take 2 MB, which nobody gives back for good."""

    container: str
    downtime_s: float
    duration_s: float
    checkpoint_bytes: int
    state: int | None
    steps: Mapping[str, float]

    @classmethod
    def of(cls, record: Migration) -> "_Past":
        steps = {one.name: one.duration_s for one in record.steps if one.duration_s is not None and one.name in PRIOR}
        return cls(
            record.container,
            record.downtime_s or 0.0,
            record.duration_s or 0.0,
            record.checkpoint_bytes or 0,
            state_of(record),
            steps,
        )

    def rest(self, total: float, names: Iterable[str]) -> float:
        return total - sum(self.steps.get(name, 0.0) for name in names)


def predict(container: str, mode: Mode, state: int, history: Iterable[Migration]) -> Expected:
    """What to expect of moving a container whose memory and changed files are ``state`` bytes now.

    ``history`` is the newest first. Of it the most telling is taken: the same container in the same mode, else any in
    the same mode, else nothing but the prior.
    """
    same_mode = [_Past.of(record) for record in history if record.mode == mode and _tells(record)]
    own = [past for past in same_mode if past.container == container]
    samples = (own or same_mode)[:RECENT]
    size = _size(state, samples)
    lines = {name: _line(name, samples, same_mode) for name in PRIOR}
    downtime = sum(lines[name].at(size) for name in FROZEN[mode])
    taken = {name for past in samples for name in past.steps} or PRIOR.keys()
    duration = sum(lines[name].at(size) for name in taken)
    if samples:
        downtime += median(past.rest(past.downtime_s, FROZEN[mode]) for past in samples)
        duration += median(past.rest(past.duration_s, past.steps) for past in samples)
    return Expected(
        downtime_s=max(downtime, 0.0),
        duration_s=max(duration, downtime, 0.0),
        checkpoint_bytes=round(size),
        basis="history" if samples else "model",
        samples=len(samples),
    )


def error(predicted: float, measured: float) -> float:
    """The prediction's error in proportion to what was measured: 0.1 means a tenth too much."""
    return (predicted - measured) / measured if measured else 0.0


def state_of(past: Migration) -> int | None:
    """Bytes of memory and changed files that a container had when its migration was looked at."""
    for step in past.steps:
        if step.name == "preflight":
            known = step.detail.get("state")
            return known if isinstance(known, int) else None
    return None


def _tells(past: Migration) -> bool:
    return past.state == "succeeded" and bool(past.downtime_s) and bool(past.checkpoint_bytes)


def _size(state: int, samples: Sequence[_Past]) -> float:
    """Bytes that will go over: what a container has of its program in memory is on the other side already."""
    spared = [past.state - past.checkpoint_bytes for past in samples if past.state is not None]
    return max(state - median(spared), LEAST) if spared else state


def _line(name: str, samples: Sequence[_Past], wider: Sequence[_Past]) -> Line:
    slope = _slope(name, wider[: 2 * RECENT])
    constants = [past.steps[name] - slope * past.checkpoint_bytes for past in samples if name in past.steps]
    return Line(median(constants), slope) if constants else Line(PRIOR[name].constant, slope)


def _slope(name: str, history: Sequence[_Past]) -> float:
    """The median slope over all pairs that are far enough apart (Theil and Sen): a straggler does not move it."""
    points = [(past.checkpoint_bytes, past.steps[name]) for past in history if name in past.steps]
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if abs(x2 - x1) >= SPREAD]
    return max(0.0, median(slopes)) if slopes else PRIOR[name].slope
