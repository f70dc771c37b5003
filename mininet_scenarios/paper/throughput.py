"""Fig. 6: what an iperf3 client receives around a migration, 100 Mbit/s from the source, 500 from the others (IV.B)."""

import math
from typing import Any

from mininet_scenarios.experiment import Run
from mininet_scenarios.measure import rate_between
from mininet_scenarios.paper.trial import MODES, THROUGHPUT, Scene, Trial, frozen_from, kind_of, numbered
from mininet_scenarios.report import rates_of

SHOWN = (1.5, 3.0)
"""Seconds before and after the checkpoint's beginning that are kept."""
SETTLED = 0.5
"""Seconds after a disruption from which the throughput counts as that of the new place."""


class Throughput(Trial):
    name = "throughput"
    title = "Throughput (Fig. 6): iperf3 -R, 100 Mbit/s from the source, 500 Mbit/s from the others"
    setting = THROUGHPUT

    def keys(self, runs: int) -> list[str]:
        return numbered(MODES, runs)

    def run(self, scene: Scene, key: str) -> dict[str, Any]:
        one = scene.move_under(scene.iperf3(), mode=kind_of(key))
        return {**one.as_json(), "workload": "iperf3", "mode": kind_of(key), **rates(one)}


def _known(rate: float) -> float | None:
    return None if math.isnan(rate) else rate


def rates(one: Run) -> dict[str, Any]:
    """``mbit_s`` as (seconds from the checkpoint, Mbit/s) each 100 ms, and the rates before and after it."""
    if one.outcome.trouble:
        return {}
    moments, zero = one.outcome.moments, frozen_from(one.migrations[0])
    samples = [(at, int(count)) for at, count in moments]
    back = one.outcome.disruption.at + one.outcome.disruption.seconds + SETTLED
    shown = rates_of(moments, zero - SHOWN[0], min(zero + SHOWN[1], moments[-1][0]), zero)
    return {
        "mbit_s": [(round(at, 3), round(rate, 1)) for at, rate in shown],
        "rate_before_mbit_s": _known(rate_between(samples, zero - SHOWN[0], zero) / 1e6),
        "rate_after_mbit_s": _known(rate_between(samples, back, moments[-1][0] - 0.1) / 1e6),
    }
