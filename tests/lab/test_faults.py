"""One case of ``make faults`` for every step and every kind of fault; the whole matrix is a scenario of its own."""

from collections.abc import Iterator

import pytest

from mininet_scenarios.faults import OPTIONS, Bench, describe
from mininet_scenarios.lab import Lab
from mininet_scenarios.matrix import (
    CRIU_KINDS,
    ENDINGS,
    KINDS,
    LOSSES,
    OBSTACLES,
    PAIRS,
    SPECIALS,
    TRAPS,
    WIRE,
    WIRE_STEPS,
    Case,
)

FAILS = {"parallel": ("restore", "criu_restore", "hold"), "sequential": ("clear_namespace", "criu_dump", "image")}
CASES = [
    *(
        Case(step, next((mode for mode, steps in FAILS.items() if step in steps), "prepared"), "fails")
        for step in TRAPS
    ),
    Case("checkpoint", "prepared", "hangs"),
    Case("checkpoint", "sequential", "controller_killed_before"),
    Case("restore", "prepared", "controller_killed_during"),
    Case("restore", "parallel", "controller_killed_after"),
    Case("restore", "prepared", "ssh_lost"),
    Case("restore_open", "prepared", "hook_killed"),
    Case("checkpoint", "prepared", "hook_killed"),
    Case("checkpoint", "prepared", "disk_full_source"),
    Case("checkpoint", "parallel", "disk_full_destination"),
    Case("checkpoint", "prepared", "ovs_restarted_source"),
    Case("checkpoint", "sequential", "ovs_restarted_destination"),
    Case("checkpoint", "prepared", "openflow_lost_source"),
    Case("checkpoint", "parallel", "openflow_lost_destination"),
    Case("checkpoint", "prepared", "network_cut"),
    Case("checkpoint", "prepared", "controller_clock_back"),
    Case("restore", "sequential", "controller_clock_forth"),
    Case("checkpoint", "parallel", "node_clock_back"),
    Case("restore", "prepared", "node_clock_forth"),
    Case("checkpoint", "sequential", "clock_back_and_killed"),
    Case("criu_dump", "sequential", "late"),
    Case("criu_restore", "prepared", "late"),
    Case("transfer", "prepared", "cut_off"),
    Case("transfer", "sequential", "corrupted"),
    Case("image", "prepared", "cut_off"),
    Case("image", "parallel", "corrupted"),
    *(Case(step, "prepared", kind) for kind, step in OBSTACLES.items()),
    *(Case(step, "prepared", kind) for kind, (step, _) in PAIRS.items()),
    Case("criu_dump", "prepared", "container_killed"),
    Case("checkpoint", "sequential", "container_stopped"),
    Case("checkpoint", "prepared", "container_removed"),
]


class Benches:
    """The lab of the case before, or a new one when that case has broken it."""

    def __init__(self) -> None:
        self._lab: Lab | None = None
        self._bench: Bench | None = None

    def get(self) -> Bench:
        if self._bench is None:
            self._lab = Lab(name="tests-faults", options=OPTIONS).up()
            self._bench = Bench(self._lab)
        return self._bench

    def close(self) -> None:
        if self._bench is not None:
            self._bench.close()
        if self._lab is not None:
            self._lab.down()
        self._lab = self._bench = None


@pytest.fixture(scope="module")
def benches() -> Iterator[Benches]:
    made = Benches()
    yield made
    made.close()


def test_every_step_and_kind_has_a_case() -> None:
    assert {case.step for case in CASES} == {*TRAPS, *WIRE_STEPS}
    assert {case.kind for case in CASES} == {*KINDS, *CRIU_KINDS, *SPECIALS, *WIRE, *OBSTACLES, *PAIRS, *ENDINGS}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fault_is_survived(benches: Benches, case: Case) -> None:
    verdict = benches.get().run(case)
    if not verdict.survived:
        benches.close()
    assert verdict.survived, describe(verdict)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_host_that_is_gone_for_good_takes_nobody_with_it(kind: str) -> None:
    with Lab(name="tests-loss", options=OPTIONS) as lab:
        bench = Bench(lab)
        try:
            verdict = bench.run(Case(LOSSES[kind][0], "prepared", kind))
        finally:
            bench.close()
    assert verdict.survived, describe(verdict)
