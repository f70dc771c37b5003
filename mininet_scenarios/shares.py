"""Where the time of a migration goes: pure functions of its record (rest_api.md, "The record"), times in seconds.

The record's times are the controller's clock, and ``frozen_at`` is the source's: the lab's hosts share one.
"""

import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from coat_ryu.saga import unix_time

OWN_STEPS = ("clear_namespace", "create_namespace", "flow_update")
"""What is ours and neither Podman's, nor CRIU's, nor the copying of the state."""
BETWEEN = "between steps"
MICRO = 1e-6

DUMP, GATE, AROUND_DUMP = "checkpoint: CRIU", "checkpoint: wait for the switches", "checkpoint: Podman, runtime"
AROUND_RESTORE, REVIVE = "restore: Podman, runtime", "restore: CRIU"
REMOVE = "podman rm"

Span = tuple[str, float, float]
"""A step's name, beginning and end."""


def step(record: dict[str, Any], name: str) -> dict[str, Any]:
    """The step of that name, the last if it was repeated; empty when there is none."""
    return next((one for one in reversed(record["steps"]) if one["name"] == name), {})


def attribute(spans: Iterable[Span], begin: float, end: float) -> dict[str, float]:
    """Each moment between ``begin`` and ``end`` to the step under way that began last; the sum is all of the time."""
    known = [(name, max(start, begin), min(stop, end)) for name, start, stop in spans if start < end and stop > begin]
    cuts = sorted({begin, end, *(at for _, *bounds in known for at in bounds)})
    found: dict[str, float] = {}
    for here, there in pairwise(cuts):
        under_way = [span for span in known if span[1] <= here and there <= span[2]]
        name = max(under_way, key=lambda span: span[1])[0] if under_way else BETWEEN
        found[name] = found.get(name, 0.0) + there - here
    return found


def freeze(record: dict[str, Any]) -> dict[str, float]:
    """Seconds of the downtime by step. Empty for a record without a downtime."""
    frozen_at = step(record, "checkpoint").get("detail", {}).get("frozen_at")
    if frozen_at is None or record["downtime_s"] is None:
        return {}
    spans = []
    for one in record["steps"]:
        if one["duration_s"] is not None:
            start = unix_time(one["started_at"])
            spans.append((one["name"], start, start + one["duration_s"]))
    return attribute(spans, frozen_at, frozen_at + record["downtime_s"])


def gate(record: dict[str, Any]) -> tuple[float, bool]:
    """Seconds that CRIU waited for the switches, and whether the record says so.

    If it does not, all that CRIU did with the container frozen besides copying its memory is taken: at most that.
    """
    detail = step(record, "checkpoint").get("detail", {})
    if detail.get("gate_s") is not None:
        return detail["gate_s"], True
    criu = detail.get("criu", {})
    return max(0.0, criu.get("frozen_time", 0) - criu.get("memdump_time", 0)) * MICRO, False


def pieces(record: dict[str, Any]) -> dict[str, float]:
    """The downtime in pieces, those of checkpoint and restore divided between CRIU and what runs it."""
    found = freeze(record)
    dump, revive = found.pop("checkpoint", 0.0), found.pop("restore", 0.0)
    statistics_of = {name: step(record, name).get("detail", {}).get("criu", {}) for name in ("checkpoint", "restore")}
    waited, known = gate(record)
    waited = min(waited, dump) if known else 0.0
    dumped = min(max(0.0, _dump_time(statistics_of["checkpoint"]) - waited), dump - waited)
    revived = min(_revive_time(statistics_of["restore"]), revive)
    ends = {AROUND_RESTORE: revive - revived, REVIVE: revived}
    return {DUMP: dumped, GATE: waited, AROUND_DUMP: dump - waited - dumped, **found, **ends}


def floor_pieces(floor: dict[str, Any]) -> dict[str, float]:
    """Likewise of what ``floor`` has measured."""
    dumped = min(_dump_time(floor["checkpoint_criu"]), floor["checkpoint_s"])
    revived = min(_revive_time(floor["restore_criu"]), floor["restore_s"])
    return {
        DUMP: dumped,
        AROUND_DUMP: floor["checkpoint_s"] - dumped,
        REMOVE: floor["rm_s"],
        AROUND_RESTORE: floor["restore_s"] - revived,
        REVIVE: revived,
    }


def _dump_time(criu: dict[str, int]) -> float:
    return (criu.get("freezing_time", 0) + criu.get("frozen_time", 0)) * MICRO


def _revive_time(criu: dict[str, int]) -> float:
    return criu.get("restore_time", 0) * MICRO


def coat_share(record: dict[str, Any]) -> float | None:
    """The part of the downtime that is our own: clearing, creating and the switches, as far as the container waited.

    None without a downtime.
    """
    found = freeze(record)
    if not found or not record["downtime_s"]:
        return None
    return (sum(found.get(name, 0.0) for name in OWN_STEPS) + gate(record)[0]) / float(record["downtime_s"])


def remote_share(record: dict[str, Any]) -> float | None:
    """The part of the whole migration that was remote control and not the steps' own work."""
    return record["remote_overhead_s"] / record["duration_s"] if record["duration_s"] else None


def over(value: float | None, base: float | None) -> float | None:
    """``value / base``; None when either is missing or not a number, or there is nothing to divide by."""
    if value is None or base is None or value != value or base != base or not base:
        return None
    return value / base


def slope(points: Sequence[tuple[float, float]]) -> dict[str, float] | None:
    """Least squares over (x, y): ``slope`` and ``intercept``. None when all lie at one x."""
    if len({x for x, _ in points}) < 2:
        return None
    fitted = statistics.linear_regression(*zip(*points, strict=True))
    return {"slope": fitted.slope, "intercept": fitted.intercept}


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each piece over the runs; a run that lacks a piece counts with none of it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: statistics.median(row.get(name, 0.0) for row in rows) for name in names}
