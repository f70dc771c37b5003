"""Table I of our runs: how a record's steps become the paper's rows, and what goes into ``metrics``. Pure.

All that counts is the critical path while the container is frozen: in ``sequential`` all six steps, one after the
other; in ``parallel`` the longest of 2.1, 2.2 and 2.3; in ``prepared`` checkpoint, transfer and restore.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from mininet_scenarios.measure import summary
from mininet_scenarios.paper.authors import ADDITIONS, STEPS

SIDE_BY_SIDE = ("clear_namespace", "transfer", "create_namespace")
IN_FREEZE = {
    "sequential": STEPS,
    "parallel": STEPS,
    "prepared": ("checkpoint", "transfer", "restore"),
}
ROWS = {
    "coat_s": "COAT migration duration",
    "remote_s": "Remote control (the paper: SSH delay)",
    "total_s": "Total migration duration",
    "disruption_s": "Service disruption duration",
    "remote_share": "Remote control overhead",
    "coat_share": "COAT overhead",
    "gate_share": "COAT overhead with the wait at the gate",
}


def own(record: dict[str, Any]) -> dict[str, float]:
    """Seconds of each of the paper's steps less what remote control added."""
    return {
        step["name"]: max(0.0, step["duration_s"] - step["remote_overhead_s"])
        for step in record["steps"]
        if step["name"] in STEPS and step["duration_s"] is not None
    }


def remote(record: dict[str, Any]) -> dict[str, float]:
    """Seconds that remote control added to each of the paper's steps."""
    return {step["name"]: step["remote_overhead_s"] for step in record["steps"] if step["name"] in STEPS}


def critical(record: dict[str, Any]) -> tuple[str, ...]:
    """The steps that the frozen container waits for, one after the other."""
    steps = IN_FREEZE[record["mode"]]
    if record["mode"] != "parallel":
        return steps
    seconds = {step["name"]: step["duration_s"] or 0.0 for step in record["steps"]}
    longest = max(SIDE_BY_SIDE, key=lambda name: seconds.get(name, 0.0))
    return tuple(step for step in steps if step not in SIDE_BY_SIDE or step == longest)


def gate_s(record: dict[str, Any]) -> float:
    """Seconds that CRIU stood still at the gate until frames were turned away: COAT's, though within the checkpoint."""
    details = [step["detail"] for step in record["steps"] if step["name"] == "checkpoint"]
    return float(sum(detail.get("gate_s", 0.0) for detail in details))


def table_i(record: dict[str, Any], disruption_s: float) -> dict[str, float]:
    """The rows of Table I of one run, by the paper's own rules (``authors``), on the critical path.

    ``gate_share`` counts the wait at the gate among COAT's additions: the paper has none.
    """
    path, work, added = critical(record), own(record), remote(record)
    coat = sum(work.get(step, 0.0) for step in path)
    control = sum(added.get(step, 0.0) for step in path)
    additions = sum(work.get(step, 0.0) for step in path if step in ADDITIONS)
    return {
        "coat_s": coat,
        "remote_s": control,
        "total_s": coat + control,
        "disruption_s": disruption_s,
        "remote_share": control / disruption_s if disruption_s else 0.0,
        "coat_share": additions / coat if coat else 0.0,
        "gate_share": (additions + gate_s(record)) / coat if coat else 0.0,
    }


def usable(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs with a disruption and one finished migration; the others are counted, but there is nothing to average."""
    return [row for row in rows if row.get("disruption_s") is not None and _finished(row)]


def _finished(row: dict[str, Any]) -> bool:
    return bool(row.get("migrations")) and row["migrations"][0]["state"] == "succeeded"


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Metrics of the runs of one workload in one mode."""
    good = usable(rows)
    records = [row["migrations"][0] for row in good]
    tables = [table_i(record, row["disruption_s"]) for record, row in zip(records, good, strict=True)]
    works, controls = [own(record) for record in records], [remote(record) for record in records]
    steps = {
        step: {
            "duration_s": summary(work[step] + control[step] for work, control in _having(works, controls, step)),
            "own_s": summary(work[step] for work, _ in _having(works, controls, step)),
            "remote_overhead_s": summary(control[step] for _, control in _having(works, controls, step)),
        }
        for step in STEPS
    }
    return {
        "runs": len(rows),
        "resumed": sum(bool(row["resumed"]) for row in rows),
        **{name: summary([one[name] for one in tables], "" if name.endswith("share") else "s") for name in ROWS},
        "downtime_s": summary(record["downtime_s"] for record in records),
        "duration_s": summary(record["duration_s"] for record in records),
        "remote_overhead_s": summary(record["remote_overhead_s"] for record in records),
        "gate_s": summary(gate_s(record) for record in records),
        "checkpoint_bytes": summary([record["checkpoint_bytes"] for record in records], "bytes"),
        "steps": steps,
    }


def _having(
    works: Sequence[dict[str, float]], controls: Sequence[dict[str, float]], step: str
) -> list[tuple[dict[str, float], dict[str, float]]]:
    return [(work, control) for work, control in zip(works, controls, strict=True) if step in work]
