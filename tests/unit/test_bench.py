"""What a record says about where a migration's time went, and what the runs of a benchmark say together."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coat_ryu.saga import timestamp
from mininet_scenarios import bench_report, growth, shares
from mininet_scenarios.bench_report import Pair
from mininet_scenarios.experiment import Run
from mininet_scenarios.floor import criu_statistics
from mininet_scenarios.loads import alive
from mininet_scenarios.measure import Gap, round_trips_between, time_left
from mininet_scenarios.workloads import Outcome

FROZEN = 1000.0


def a_step(name: str, start: float, seconds: float, **detail: Any) -> dict[str, Any]:
    """``start`` is seconds from the freeze."""
    return {"name": name, "started_at": timestamp(FROZEN + start), "duration_s": seconds, "detail": detail}


def a_record(*between: dict[str, Any], **checkpoint: Any) -> dict[str, Any]:
    """Frozen for a second: 0.4 s of checkpoint, 0.1 s of transfer, 0.5 s of restore, of which CRIU has 0.2 s each."""
    criu = {"freezing_time": 1_000, "frozen_time": 199_000, "memdump_time": 49_000}
    steps = [
        a_step("create_namespace", -2.0, 0.5),
        a_step("flow_update", -1.0, 0.5),
        a_step("checkpoint", -0.25, 0.65, frozen_at=FROZEN, criu=criu, **checkpoint),
        *(between or (a_step("transfer", 0.4, 0.1),)),
        a_step("restore", 0.5, 0.75, criu={"forking_time": 2, "restore_time": 200_000}),
        a_step("clear_namespace", 1.25, 0.5),
    ]
    return {
        "steps": steps,
        "state": "succeeded",
        "error": None,
        "downtime_s": 1.0,
        "prediction_error": -0.25,
        "duration_s": 4.0,
        "remote_overhead_s": 0.02,
        "checkpoint_bytes": 1_000_000,
    }


def a_pair(workload: str = "sockperf", disruption: float = 1.25, **more: Any) -> Pair:
    outcome = Outcome(True, 0, 0, 0, Gap(FROZEN, disruption), detail={})
    floor = {
        "floor_s": 2.5,
        "checkpoint_s": 1.5,
        "rm_s": 0.25,
        "restore_s": 0.75,
        "checkpoint_criu": {"freezing_time": 100_000, "frozen_time": 400_000},
        "restore_criu": {"restore_time": 250_000},
    }
    pair = Pair(Run(workload, outcome, [a_record(gate_s=0.05)], FROZEN - 3, False), (90.0, 100.0), floor, None)
    return replace(pair, **more)


# ---- shares


def test_each_moment_belongs_to_the_step_that_began_last() -> None:
    spans = [("early", -5.0, -1.0), ("a", 0.0, 4.0), ("b", 3.0, 6.0), ("late", 8.0, 20.0)]
    found = shares.attribute(spans, 1.0, 10.0)
    assert found == {"a": 2.0, "b": 3.0, shares.BETWEEN: 2.0, "late": 2.0}
    assert sum(found.values()) == 9.0


def test_the_freeze_is_divided_and_nothing_of_it_is_lost() -> None:
    found = shares.pieces(a_record(gate_s=0.05))
    assert found == pytest.approx(
        {
            shares.DUMP: 0.15,
            shares.GATE: 0.05,
            shares.AROUND_DUMP: 0.2,
            "transfer": 0.1,
            shares.AROUND_RESTORE: 0.3,
            shares.REVIVE: 0.2,
        },
        abs=1e-6,
    )
    assert math.isclose(sum(found.values()), 1.0)


def test_criu_has_no_more_than_the_step_that_ran_it() -> None:
    slow = a_record()
    slow["steps"][2]["detail"]["criu"]["frozen_time"] = 9_000_000
    found = shares.pieces(slow)
    assert found[shares.DUMP] == pytest.approx(0.4, abs=1e-6)
    assert found[shares.AROUND_DUMP] == 0.0


def test_a_migration_that_never_froze_has_no_shares() -> None:
    record = {"steps": [a_step("preflight", 0, 1)], "downtime_s": None, "duration_s": 1.0, "remote_overhead_s": 0.0}
    assert shares.freeze(record) == {}
    assert shares.coat_share(record) is None
    assert shares.remote_share(record) == 0.0


def test_ours_is_what_the_frozen_container_waited_for() -> None:
    """What is done before the freeze costs the container nothing; what is done in it does, unless another step began
    after it and ran beside it.
    """
    assert shares.coat_share(a_record(gate_s=0.05)) == pytest.approx(0.05)
    in_the_freeze = [a_step("clear_namespace", 0.4, 0.05), a_step("flow_update", 0.45, 0.05)]
    assert shares.coat_share(a_record(*in_the_freeze, gate_s=0.05)) == pytest.approx(0.15, abs=1e-5)
    beside = [a_step("clear_namespace", 0.4, 0.1), a_step("transfer", 0.41, 0.09)]
    assert shares.coat_share(a_record(*beside, gate_s=0.0)) == pytest.approx(0.01, abs=1e-5)


def test_without_its_word_the_gate_is_an_upper_bound() -> None:
    assert shares.gate(a_record(gate_s=0.0)) == (0.0, True)
    seconds, known = shares.gate(a_record())
    assert math.isclose(seconds, 0.15) and not known
    assert shares.coat_share(a_record()) == pytest.approx(0.15)


def test_the_floor_is_divided_likewise() -> None:
    floor = a_pair().floor
    assert floor is not None
    found = shares.floor_pieces(floor)
    assert found == {
        shares.DUMP: 0.5,
        shares.AROUND_DUMP: 1.0,
        shares.REMOVE: 0.25,
        shares.AROUND_RESTORE: 0.5,
        shares.REVIVE: 0.25,
    }
    assert sum(found.values()) == floor["floor_s"]


def test_ratios_of_nothing_are_none() -> None:
    assert shares.over(1.0, 4.0) == 0.25
    assert [
        shares.over(*pair) for pair in ((None, 1.0), (1.0, None), (1.0, 0.0), (math.nan, 1.0), (1.0, math.nan))
    ] == [None] * 5


def test_a_slope_is_that_of_least_squares() -> None:
    assert shares.slope([(0, 1.0), (10, 21.0)]) == {"slope": 2.0, "intercept": 1.0}
    fitted = shares.slope([(0, 0.0), (1, 3.0), (2, 0.0), (3, 3.0)])
    assert fitted == pytest.approx({"slope": 0.6, "intercept": 0.6})
    assert shares.slope([(1, 2.0), (1, 3.0)]) is None


def test_a_piece_that_a_run_lacks_is_none_of_its_time() -> None:
    assert shares.medians([{"a": 1.0, "b": 5.0}, {"a": 3.0}, {"a": 8.0}]) == {"a": 3.0, "b": 0.0}


# ---- what programs print


def test_a_connection_is_alive_when_it_was_answered_lately() -> None:
    lines = ["cubic lastsnd:4 lastrcv:4 ...", "cubic lastsnd:900 lastrcv:900 ...", "cubic rcv_space:14480 lastack:4"]
    assert alive("\n".join(f"0 0 10.0.0.2:4000{n} 10.0.0.1:6379 {line}" for n, line in enumerate(lines))) == 2
    assert alive("") == 0


def test_podman_s_statistics_have_criu_s_in_them() -> None:
    printed = {"container_statistics": [{"Id": "x", "criu_statistics": {"frozen_time": 5}}]}
    assert criu_statistics(json.dumps(printed)) == {"frozen_time": 5}


def test_the_time_left_is_told_once_it_can_be_guessed() -> None:
    assert time_left(0, 10, 5.0) == ""
    assert time_left(2, 10, 20.0) == ", 80 s left"
    assert time_left(1, 10, 60.0) == ", 9 min left"


def test_round_trips_a_second_are_their_median_s() -> None:
    assert round_trips_between([(0.0, 9.0), (1.0, 0.5), (2.0, 0.25), (3.0, 0.125)], 1.0, 9.0) == 4.0
    assert math.isnan(round_trips_between([], 0.0, 1.0))


# ---- together


def test_a_summary_has_the_contract_s_figures_for_each_workload(tmp_path: Path) -> None:
    broken = a_pair("redis", floor=None, paces=(1.0, math.nan), trouble="podman failed")
    broken.one.outcome.resumed, broken.one.outcome.trouble = False, "it waits for a reply"
    result = bench_report.summarise([a_pair(), a_pair(disruption=2.25), broken], {"kernel": "6"})
    assert (result["experiment"], result["runs"], result["resumed"], len(result["per_run"])) == ("bench", 3, 2, 3)
    sockperf = result["metrics"]["sockperf"]
    medians = {name: sockperf[name]["median"] for name in bench_report.METRICS}
    assert medians == pytest.approx(
        {
            "floor_s": 2.5,
            "disruption_s": 1.75,
            "downtime_s": 1.0,
            "duration_s": 4.0,
            "disruption_over_floor": 0.7,
            "remote_overhead_s": 0.02,
            "remote_share": 0.005,
            "coat_share": 0.05,
            "resume_lag_s": 0.75,
            "plan_error": 0.25,
            "throughput_after_over_fresh": 0.9,
            "checkpoint_bytes": 1_000_000,
        }
    )
    assert sockperf["resume_lag_s"]["max"] == 1.25
    assert (sockperf["runs"], sockperf["resumed"]) == (2, 2)
    redis = result["metrics"]["redis"]
    assert redis["throughput_after_over_fresh"]["median"] is None
    assert (redis["disruption_s"]["median"], redis["floor_s"]["median"], redis["resumed"]) == (None, None, 0)
    bench_report.write(tmp_path, result)
    written = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert written["metrics"] == result["metrics"]
    text = (tmp_path / "report.md").read_text()
    assert "| sockperf | 2500 ms | 1750 ms | 0.70 |" in text
    assert bench_report.UPPER_BOUND not in text
    named = {f"{name}.{suffix}" for name in bench_report.PICTURES for suffix in ("png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "report.md", *named}


def test_the_report_says_when_our_share_is_a_bound_only() -> None:
    pair = a_pair()
    pair.one.migrations[0] = a_record()
    assert bench_report.UPPER_BOUND in bench_report.markdown(bench_report.summarise([pair], {}))


def test_growth_is_set_beside_one_copy_of_the_state(tmp_path: Path) -> None:
    """Two milliseconds and two million bytes for each step, over a link of a thousand million bytes a second."""
    points = []
    for size in (10, 100):
        pair = a_pair(f"memory-{size}", disruption=1 + 0.002 * size)
        pair.record["checkpoint_bytes"] = 2_000_000 * size
        points.append(growth.Point("memory", size, pair))
    result = growth.summarise(points, [0.5e9, 1.5e9], {})
    fit = result["growth"]["memory"]
    assert fit["disruption_s"] == {"slope": pytest.approx(0.002), "intercept": pytest.approx(1.0)}
    assert fit["copy_s_per_unit"] == pytest.approx(0.002)
    assert fit["disruption_slope_over_copy"] == pytest.approx(1.0)
    growth.write(tmp_path, result)
    assert "| memory | 2.000 | 0.000 | 2.000 | 1.00 |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "memory.png").exists() and (tmp_path / "memory.svg").exists()
