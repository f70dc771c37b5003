"""The benchmark measures what it says: a floor and a migration side by side, and nothing of it stays."""

import math
from typing import Any

from mininet_scenarios import bench_report, growth
from mininet_scenarios.bench import KINDS, PLAIN, measure
from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from mininet_scenarios.loads import Redis
from tests.lab.helpers import EDGES, explain, wait_for


def test_floor_and_migration_are_measured_side_by_side(lab: Lab, controller: Controller) -> None:
    before = controller.get("/v1.0/containers")
    pairs = list(measure(lab, ["redis"], 1, print))
    result = bench_report.summarise(pairs, {})
    assert result["resumed"] == result["runs"] == 1, [explain(pair.one) for pair in pairs]
    for pair, row in zip(pairs, result["per_run"], strict=True):
        assert pair.trouble is None and pair.floor is not None, pair.trouble
        parts = pair.floor["checkpoint_s"] + pair.floor["rm_s"] + pair.floor["restore_s"]
        assert math.isclose(parts, pair.floor["floor_s"], rel_tol=0.05)
        assert math.isclose(sum(row["freeze"].values()), row["downtime_s"], rel_tol=0.01)
        assert 0 < row["disruption_s"] < row["duration_s"] + 1
        missing = [name for name in bench_report.METRICS if row[name] is None]
        assert missing == [], explain(pair.one)
    assert [one["name"] for one in controller.get("/v1.0/containers")] == [one["name"] for one in before]
    assert PLAIN not in lab.exec(EDGES[0], ["podman", "ps", "--all", "--format={{.Names}}"]).stdout


def test_redis_clients_that_wait_in_vain_are_seen(lab: Lab, made: Any) -> None:
    server = made("redis-paused", EDGES[0], "redis", *KINDS["redis"].command)
    made("redis-waiting", "device", "redis", "sleep", "infinity")
    load = Redis(lab, "redis-paused", "redis-waiting", server["ip"])
    wait_for(lambda: "PONG" in _ping(lab, server["ip"]), what="redis")
    load.start()
    lab.exec(EDGES[0], ["podman", "pause", "redis-paused"])
    outcome = load.finish()
    lab.exec(EDGES[0], ["podman", "unpause", "redis-paused"])
    assert (outcome.resumed, outcome.detail["stalled"]) == (False, 10), outcome
    assert outcome.lost_bytes == 10 * Redis.VALUE


def _ping(lab: Lab, address: str) -> str:
    ask = ["podman", "exec", "redis-waiting", "redis-cli", "-h", address, "ping"]
    return str(lab.exec("device", ask, check=False).stdout)


def test_growth_is_measured_over_memory_and_connections(lab: Lab) -> None:
    found = list(growth.measure(lab, [("memory", 10), ("memory", 60), ("connections", 50)], 1, print))
    rates = [one for one in found if isinstance(one, float)]
    points = [one for one in found if isinstance(one, growth.Point)]
    result = growth.summarise(points, rates, {})
    assert result["resumed"] == result["runs"] == 3, [explain(point.pair.one) for point in points]
    assert [row["size"] for row in result["per_run"]] == [10, 60, 50]
    assert points[2].pair.one.outcome.detail["connections"] == 50
    # each MB is in the state, whatever else is
    assert math.isclose(result["growth"]["memory"]["checkpoint_bytes"]["slope"], 1 << 20, rel_tol=0.1)
    assert result["growth"]["memory"]["copy_s_per_unit"] > 0
