"""UDP through a migration: who sends gets no acknowledgement, so what is lost is lost. Every datagram has a number."""

import json
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mininet_scenarios import datagrams
from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from tests.lab.helpers import wait_for

SOURCE = Path(datagrams.__file__).read_text()
RATE = 2000
ON_THE_WAY_TO_THE_SOURCE = 0.15
"""Seconds from the freeze until the switches turn away what comes, at the most; a few milliseconds on an idle machine.
"""
SETTLE = 1.5
"""Seconds of the stream before and after a migration."""


@pytest.mark.parametrize("mode", ["prepared", "sequential"])
def test_what_was_on_the_network_during_the_freeze_arrives_in_order(
    lab: Lab, controller: Controller, made: Any, mode: str
) -> None:
    server = made("udp-server", "edge1", "python", "python3", "-c", SOURCE, "listen")
    made("udp-client", "device", "python", "sleep", "infinity")
    wait_for(lambda: listens(lab), what="the listener")
    record, runs, sent_at = stream_through(lab, controller, server["ip"], mode)
    assert record["state"] == "succeeded", record
    print(f"{mode}: {report(record, runs, sent_at)}")
    steps = {step["name"]: step["detail"] for step in record["steps"]}
    frozen, resumed = steps["checkpoint"]["frozen_at"], steps["restore"]["resumed_at"]
    assert runs == sorted(runs), "out of order, or twice"
    assert runs[0][0] == 0 and runs[-1][1] == len(sent_at) - 1, "the stream has lost its ends"
    # One gap at the most: what the frozen socket had taken in and its program had not read. CRIU does not keep that.
    assert len(runs) <= 2, runs
    for number in lost(runs):
        assert sent_at[number] < frozen + ON_THE_WAY_TO_THE_SOURCE, f"{number}, {sent_at[number] - frozen:.3f} s after"
    # All that came later waited and was replayed; the bound was far away.
    waited = sum(frozen + ON_THE_WAY_TO_THE_SOURCE < at < resumed for at in sent_at)
    assert record["dropped_packets"] == 0 and record["replayed_packets"] == record["held_packets"] >= waited
    assert record["held_packets"] > 100, "a freeze that says nothing"


def lost(runs: list[list[int]]) -> list[int]:
    return [number for one, other in pairwise(runs) for number in range(one[1] + 1, other[0])]


def report(record: dict[str, Any], runs: list[list[int]], sent_at: list[float]) -> str:
    return (
        f"{len(sent_at)} sent at {RATE}/s, downtime {record['downtime_s']:.3f} s, held {record['held_packets']}, "
        f"replayed {record['replayed_packets']}, lost unread in the frozen socket {len(lost(runs))}"
    )


def stream_through(
    lab: Lab, controller: Controller, address: str, mode: str
) -> tuple[dict[str, Any], list[list[int]], list[float]]:
    """(record, runs that arrived, when each number was sent) of a migration under the stream."""
    send = ["podman", "exec", "-i", "udp-client", "python3", "-c", SOURCE, "send", address, str(RATE)]
    pipe = subprocess.PIPE
    with lab.popen("device", send, stdin=pipe, stdout=pipe, text=True) as sender:
        time.sleep(SETTLE)
        record = controller.migrate("udp-server", "edge2", mode=mode)
        time.sleep(SETTLE)
        said = json.loads(sender.communicate(timeout=60)[0])
    return record, said["runs"], said["sent_at"]


def listens(lab: Lab) -> bool:
    inside = ["nsenter", "--net=/run/netns/coat-udp-server", "ss", "-Huln"]
    return str(datagrams.PORT) in lab.exec("edge1", inside).stdout
