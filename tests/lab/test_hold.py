"""What arrives for a frozen container is held and delivered when it runs: nobody waits for a retransmission timer.

Every migration is judged by itself: the client's longest silence around it, less the record's ``downtime_s``.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from coat_ryu.saga import unix_time
from mininet_scenarios.experiment import Controller, Run
from mininet_scenarios.lab import Lab
from tests.lab.helpers import WARM_UP, explain, journey, workload

MIGRATIONS = 10
CLIENT_SECONDS, RESERVE = 36.0, 12.0
"""How long one client runs at the most, and how long a migration may take. On a busy machine ten need more than one
client."""

EACH = 2.5
"""Seconds that a migration and the pause after it take where nothing else goes on."""

SLACK = 0.05
"""Seconds that a disruption may last beyond the downtime and one round trip."""

RTO_MIN = 0.2
"""Seconds that TCP waits before it sends again, at the least (Linux, TCP_RTO_MIN)."""

RECOVERY = 1.0
"""Seconds after a migration in which a silence is still its doing; the pause between two is longer."""

RATE = "100M"
"""What iperf3 sends, bits a second. As fast as it goes it overruns a userspace datapath, and what is lost there just
when the hold ends can cost a retransmission timer (docs/architecture.md, "The end of the freeze"): not judged here.
"""

KINDS = ("sockperf", "iperf3-forward")


@dataclass
class Row:
    """One migration as its client felt it. ``settled`` is when the last silence that was its doing ended, in seconds
    after the container ran again; ``round_trip`` the run's usual one.
    """

    record: dict[str, Any]
    disruption: float
    settled: float
    round_trip: float

    @property
    def beyond(self) -> float:
        return self.disruption - float(self.record["downtime_s"])

    def __str__(self) -> str:
        return (
            f"{self.record['mode']:10} downtime {self.record['downtime_s']:.3f} s, disruption {self.disruption:.3f} s, "
            f"beyond it {1000 * self.beyond:+.0f} ms; all well after {1000 * self.settled:+.0f} ms; "
            f"held {self.record['held_packets']}, replayed {self.record['replayed_packets']}"
        )


def rows(one: Run) -> Iterator[Row]:
    for record in one.migrations:
        start, end = unix_time(record["started_at"]), unix_time(record["finished_at"]) + RECOVERY
        longest = one.outcome.silence_in(start, end)
        assert longest.seconds > 0, "the client did not notice: was it running?"
        (resumed,) = [step["detail"]["resumed_at"] for step in record["steps"] if step["name"] == "restore"]
        timers = [each for each in one.outcome.silences if each.seconds >= RTO_MIN and start < each.at < end]
        settled = max(each.at + each.seconds for each in (longest, *timers))
        yield Row(record, longest.seconds, settled - resumed, one.outcome.detail["round_trip_s"])


def migrate_often(lab: Lab, kind: str, modes: list[str], migrations: int) -> list[Row]:
    """All of them, under as many clients, one after the other, as it takes."""
    found: list[Row] = []
    while len(found) < migrations:
        left = (modes * migrations)[len(found) : migrations]
        seconds = min(CLIENT_SECONDS, WARM_UP + EACH * len(left) + RESERVE)
        load = workload(lab, kind, seconds=seconds, rate=RATE)
        one = journey(Controller(lab.rest), load, left, pause=RECOVERY, reserve=RESERVE)
        assert one.good, explain(one)
        found += rows(one)
    print(kind, *found, sep="\n")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_disruption_ends_with_the_downtime(lab: Lab, kind: str) -> None:
    found = migrate_often(lab, kind, ["prepared", "sequential"], MIGRATIONS)
    for row in found:
        assert row.beyond <= SLACK + row.round_trip, row
        assert row.settled <= SLACK + row.round_trip, f"a retransmission timer after the restore: {row}"
        assert row.record["held_packets"] == row.record["replayed_packets"]
    # A ping that the server's kernel acknowledged before the gate is not sent again: there is nothing to hold.
    assert (all if kind == "iperf3-forward" else any)(row.record["held_packets"] > 0 for row in found)


COMING_AND_GOING = """
for _ in $(seq 100); do
    ip tuntap add x0 mode tap; ip link set x0 up; ovs-vsctl add-port coat x0; sleep 0.03
    ovs-vsctl del-port x0; ip link del x0
done
"""


def test_interfaces_that_come_and_go_on_a_node_cost_nobody_a_frame(lab: Lab, controller: Controller) -> None:
    """Each migration makes and removes some, while other containers talk through the same node's tunnels."""
    load = workload(lab, "sockperf", seconds=24)
    load.start()
    try:
        time.sleep(WARM_UP)
        lab.exec(controller.where(load.server), ["sh", "-c", COMING_AND_GOING], timeout=120)
        outcome = load.finish()
    finally:
        load.stop()
    assert outcome.resumed and outcome.lost_bytes == 0
    assert [silence for silence in outcome.silences if silence.seconds >= RTO_MIN] == []


@pytest.fixture(scope="module")
def without_hold() -> Iterator[Lab]:
    with Lab(name="tests-no-hold", options={"hold": "false"}) as lab:
        yield lab


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_hold_the_connection_goes_on_all_the_same(without_hold: Lab, kind: str) -> None:
    """What was sent in the freeze is lost, and a timer has to notice, which has doubled meanwhile (RFC 6298)."""
    found = migrate_often(without_hold, kind, ["sequential"], MIGRATIONS // 2)
    tails = [row.settled for row in found]
    print(f"{kind} without the hold: back-off tail median {statistics.median(tails):.3f} s, longest {max(tails):.3f} s")
    assert all(row.record["held_packets"] == row.record["replayed_packets"] == 0 for row in found)
    assert all(row.record["dropped_packets"] > 0 for row in found if kind == "iperf3-forward")
