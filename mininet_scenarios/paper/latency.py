"""Fig. 5: sockperf's round trips around a migration, 20 ms on the source's link and 2 ms on the others' (IV.B)."""

from typing import Any

from mininet_scenarios.experiment import Run
from mininet_scenarios.paper.trial import LATENCY, MODES, Scene, Trial, kind_of, numbered

MIGRATED, WINDOW = 80, 160
"""Section V: "a measurement window of 160 samples [...] with packet with sequence number 80 being the one transferred
during the migration".
"""


class Latency(Trial):
    name = "latency"
    title = "Latency (Fig. 5): sockperf, 20 ms to the source, 2 ms to the others"
    setting = LATENCY

    def keys(self, runs: int) -> list[str]:
        return numbered(MODES, runs)

    def run(self, scene: Scene, key: str) -> dict[str, Any]:
        one = scene.move_under(scene.sockperf(), mode=kind_of(key))
        return {**one.as_json(), "mode": kind_of(key), **round_trips(one)}


def round_trips(one: Run) -> dict[str, Any]:
    """``rtt_ms`` by number, the migrated packet at ``MIGRATED``, and the medians before and after it, in ms."""
    if one.outcome.trouble:
        return {}
    trips = [value * 1e3 for _, value in one.outcome.moments]
    migrated = max(range(len(trips)), key=trips.__getitem__)
    first = migrated - MIGRATED
    shown = [round(trips[i], 3) if 0 <= i < len(trips) else None for i in range(first, first + WINDOW)]
    return {
        "rtt_ms": shown,
        "rtt_before_ms": _median(trips[max(0, first) : migrated]),
        "rtt_after_ms": _median(trips[migrated + 1 :][-MIGRATED:]),
    }


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
