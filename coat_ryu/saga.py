"""The migration as a table: what is done in which order in each mode, what is undone, and where there is no way back.

The paper's steps (section III, Fig. 3) keep their names: checkpoint (1), clear_namespace (2.1), transfer (2.2),
create_namespace (2.3), flow_update (3) and restore (4). Around them stand ``preflight`` (may this be done at all),
``image`` (the destination has the container's image), ``hold`` (a queue for what arrives while it is frozen),
``receive`` and ``prepare`` (the destination is ready for the state) and ``finish`` (nothing is left of the old
place).

Before the pivot a migration can be undone; after it there is only forward.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from coat_ryu.caveats import Caveat
from coat_ryu.model import MacPolicy, Memory, Mode, State

Site = Literal["source", "destination", "controller"]
Pace = Literal["one_by_one", "side_by_side", "in_one", "handed_ahead"]

PIVOT = "restore"


@dataclass(frozen=True, slots=True)
class Step:
    """One row: ``site`` is where its work is done."""

    name: str
    site: Site


STEPS = {
    step.name: step
    for step in (
        Step("preflight", "controller"),
        Step("image", "source"),  # never undone: an image that was brought is a cache, not state
        Step("hold", "destination"),
        Step("create_namespace", "destination"),
        Step("prepare", "destination"),
        Step("flow_update", "controller"),
        Step("checkpoint", "source"),
        Step("clear_namespace", "source"),
        Step("transfer", "source"),
        Step("restore", "destination"),
        Step("pages", "destination"),
        Step("finish", "controller"),
    )
}


@dataclass(frozen=True, slots=True)
class Batch:
    """Steps that belong together in time.

    Those ``side_by_side`` run at once, those ``in_one`` are asked for together, those ``handed_ahead`` are given to
    both nodes before the first of them starts, and the nodes drive each other.
    """

    steps: tuple[str, ...]
    pace: Pace = "one_by_one"


PLANS: dict[Mode, tuple[Batch, ...]] = {
    # section III: "all steps will be executed sequentially" in the paper's evaluation
    "sequential": (
        Batch(("preflight", "image", "hold", "checkpoint", "clear_namespace", "transfer")),
        Batch(("create_namespace", "flow_update", "restore", "finish")),
    ),
    # section III: "Steps 2.1, 2.2, and 2.3 in Figure 3 may be executed in parallel"
    "parallel": (
        Batch(("preflight", "image", "hold", "checkpoint")),
        Batch(("clear_namespace", "transfer", "create_namespace"), "side_by_side"),
        Batch(("flow_update", "restore", "finish")),
    ),
    "prepared": (
        Batch(("preflight", "image")),
        Batch(("hold", "create_namespace", "prepare"), "in_one"),
        Batch(("flow_update",)),
        Batch(("checkpoint", "transfer", "restore"), "handed_ahead"),
        Batch(("clear_namespace", "finish"), "in_one"),
    ),
}


def plan(mode: Mode, memory: Memory = "full") -> tuple[Batch, ...]:
    """The mode's batches. Lazy memory comes when the container runs, and the source keeps what it has until then."""
    if memory != "lazy":
        return PLANS[mode]
    *before, last = PLANS[mode]
    return (*before, Batch(("pages",)), last)


class StepRecord(BaseModel):
    """One step as it went. Durations in seconds; ``remote_overhead_s`` is the part of ``duration_s`` that was not its
    own work.
    """

    name: str
    node: str
    started_at: str
    duration_s: float | None = None
    remote_overhead_s: float = 0.0
    attempts: int = 1
    detail: dict[str, Any] = Field(default_factory=dict)


class Failure(BaseModel):
    cause: str
    message: str


class Predicted(BaseModel):
    """What was expected of a migration before it touched anything; ``basis`` says what it was learned from."""

    downtime_s: float
    duration_s: float
    basis: Literal["history", "model"]


class Migration(BaseModel):
    """The record of one migration, as REST shows it and as the journal keeps it."""

    id: str
    container: str
    source: str
    destination: str
    mode: Mode
    mac: MacPolicy
    memory: Memory = "full"
    requested_by: str | None = None
    state: State = "running"
    started_at: str
    finished_at: str | None = None
    duration_s: float | None = None
    downtime_s: float | None = None
    remote_overhead_s: float = 0.0
    checkpoint_bytes: int | None = None
    held_packets: int = 0
    replayed_packets: int = 0
    dropped_packets: int = 0
    predicted: Predicted | None = None
    prediction_error: float | None = None
    warnings: list[Caveat] = Field(default_factory=list)
    tries: int = 1
    steps: list[StepRecord] = Field(default_factory=list)
    error: Failure | None = None

    def begun(self) -> list[str]:
        return [step.name for step in self.steps if step.name in STEPS]

    def done(self) -> list[str]:
        return [step.name for step in self.steps if step.name in STEPS and step.duration_s is not None]

    def latest(self) -> float:
        """The last of its times, in seconds since the epoch: it cannot be earlier now, whatever a clock says."""
        return max(map(unix_time, (self.started_at, *(step.started_at for step in self.steps))))

    @property
    def transfer(self) -> str:
        """What its state is called on the nodes; another at every try, for they refuse one that was given up."""
        return self.id if self.tries == 1 else f"{self.id}-{self.tries}"

    @property
    def past_pivot(self) -> bool:
        return PIVOT in self.done()

    @property
    def left_behind(self) -> bool:
        """Whether a node was away when something had to be tidied there."""
        return any("left_behind" in step.detail for step in self.steps)

    def node_of(self, step: str) -> str:
        sites = {"source": self.source, "destination": self.destination, "controller": "controller"}
        return sites[STEPS[step].site]


# The container first, tidying after: no copy at the destination, the binding back, the copy at the source running, its
# frames delivered; then what the destination had been given.
UNDO_ORDER = (
    "restore",
    "flow_update",
    "clear_namespace",
    "checkpoint",
    "hold",
    "transfer",
    "prepare",
    "create_namespace",
)


def undo_order(mode: Mode, begun: Iterable[str]) -> Iterator[str]:
    """The steps to take back, in order. All that were begun: an interrupted one may have done half its work."""
    started = set(begun)
    if may_run_at_destination(mode, started):
        started.add(PIVOT)
    return (name for name in UNDO_ORDER if name in started)


def after_pivot(mode: Mode, done: Iterable[str], memory: Memory = "full") -> list[str]:
    """What remains to be done once the container runs at its destination, in the mode's order."""
    order = [name for batch in plan(mode, memory) for name in batch.steps]
    finished = set(done)
    return [name for name in order[order.index(PIVOT) + 1 :] if name not in finished]


def may_run_at_destination(mode: Mode, begun: Iterable[str]) -> bool:
    """Whether a copy could have come to life there: once its restore was begun, or handed ahead with its batch."""
    started = set(begun)
    ahead = next(batch for batch in PLANS[mode] if PIVOT in batch.steps)
    return (ahead.steps[0] if ahead.pace == "handed_ahead" else PIVOT) in started


def timestamp(unix: float) -> str:
    """RFC 3339 in UTC with microseconds, from seconds since the epoch."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def unix_time(text: str) -> float:
    """Seconds since the epoch, from what ``timestamp`` wrote."""
    return datetime.fromisoformat(text).timestamp()
