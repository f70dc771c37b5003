"""Twenty containers between four hosts at once: all arrive, doubles are refused, and the event loop keeps turning."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mininet_scenarios.experiment import Controller, Refused
from mininet_scenarios.lab import Lab
from mininet_scenarios.upkeep import residue
from tests.lab.helpers import wait_for

COUNT = 20
HOSTS = ("edge1", "edge2", "edge3", "edge4")
NAMES = [f"many{number:02}" for number in range(COUNT)]


@pytest.fixture(scope="module")
def star() -> Iterator[Lab]:
    with Lab(Path(__file__).parents[2] / "topologies/star.yaml", name="tests-many") as lab:
        yield lab


@pytest.fixture(scope="module")
def controller(star: Lab) -> Controller:
    made = Controller(star.rest)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: _create(made, number), range(COUNT)))
    return made


def _create(controller: Controller, number: int) -> None:
    body = {"name": NAMES[number], "node": HOSTS[number % 4], "network": "red", "image": "localhost/coat-iperf3"}
    controller.post("/v1.0/containers", {**body, "command": ["iperf3", "--server"]})


def _next(host: str) -> str:
    return HOSTS[(HOSTS.index(host) + 1) % 4]


def _start(controller: Controller, name: str, **options: Any) -> dict[str, Any]:
    body = {"container": name, "to": _next(controller.where(name)), **options}
    record: dict[str, Any] = controller.post("/migrate", body)
    return record


def _end(controller: Controller, record: dict[str, Any]) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        now: dict[str, Any] = controller.get(f"/v1.0/migrations/{record['id']}")
        return now if now["state"] != "running" else None

    found = wait_for(ended, 240, f"migration {record['id']}")
    assert found is not None
    return found


def test_twenty_at_once_all_succeed_and_doubles_are_refused(star: Lab, controller: Controller, capsys: Any) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(COUNT) as pool:
        records = list(pool.map(lambda name: _start(controller, name), NAMES))
        with pytest.raises(Refused) as refusal:
            _start(controller, NAMES[-1])
        ended = list(pool.map(lambda record: _end(controller, record), records))
    took = time.monotonic() - began
    assert (refusal.value.status, refusal.value.answer["cause"]) == (409, "already_migrating")
    failed = [record for record in ended if record["state"] != "succeeded"]
    assert not failed, json.dumps(failed, indent=1)
    for host in HOSTS:
        here = [one["name"] for one in controller.get("/v1.0/containers") if one["node"] == host]
        assert len([name for name in here if name in NAMES]) == COUNT // 4
        assert residue(star, host, here) == []
    lags = _lags(controller)
    with capsys.disabled():
        print(f"\n{COUNT} migrations at once in {took:.1f} s; the event loop was late by {lags} at the most")


def _lags(controller: Controller) -> dict[str, float]:
    from urllib.request import urlopen

    with urlopen(controller.base + "/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("coat_event_loop"))
    count = float(values["coat_event_loop_lag_seconds_count"])
    late = count - float(values['coat_event_loop_lag_seconds_bucket{le="0.05"}'])
    return {
        "max_s": float(values["coat_event_loop_lag_max_seconds"]),
        "own_max_s": float(values["coat_event_loop_own_lag_max_seconds"]),
        "looks": count,
        "above_50_ms": late,
    }


def test_aborts_before_the_pivot_are_honoured(star: Lab, controller: Controller) -> None:
    """More are asked for than one node takes at once, so some have not begun when they are told to stop."""
    names = [name for name in NAMES if controller.where(name) == HOSTS[0]]
    before = {name: controller.where(name) for name in names}
    records = [_start(controller, name, mode="sequential") for name in names]
    aborted = []
    for record in reversed(records):
        try:
            controller.call("DELETE", f"/v1.0/migrations/{record['id']}")
            aborted.append(record["id"])
        except Refused as refusal:
            assert (refusal.status, refusal.answer["cause"]) in ((409, "past_pivot"), (409, "already_finished"))
    ended = [_end(controller, record) for record in records]
    assert aborted, "no migration could be aborted"
    for record in ended:
        if record["id"] in aborted:
            assert record["state"] == "rolled_back", record["error"]
            assert record["error"]["cause"] == "aborted"
            assert controller.where(record["container"]) == before[record["container"]]
        else:
            assert record["state"] == "succeeded", record["error"]
