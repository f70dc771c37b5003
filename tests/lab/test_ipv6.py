"""TCP over IPv6 follows its container as TCP over IPv4 does: neighbour discovery instead of ARP, all else alike."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mininet_scenarios import stream
from mininet_scenarios.experiment import Controller, run
from mininet_scenarios.lab import Lab
from mininet_scenarios.workloads import Stream
from tests.lab.helpers import EDGES, MODES, explain, journey_in_time, workload

MEGABYTE = 1 << 20


@pytest.mark.parametrize("kind", ["iperf3-forward", "iperf3-reverse"])
def test_a_connection_survives_each_mode(lab: Lab, controller: Controller, kind: str) -> None:
    one = journey_in_time(controller, partial(workload, lab, kind, ipv6=True), MODES, quick=14, slow=60)
    assert one.good, explain(one)


def test_every_byte_of_a_stream_arrives(lab: Lab, controller: Controller, made: Any) -> None:
    size = 160 * MEGABYTE
    source = Path(stream.__file__).read_text()
    serve = ["python3", "-c", source, "serve", str(size), str(20 * MEGABYTE)]
    server = made("stream-server", "edge1", "python", *serve, ip6="fd00:50::30")
    made("stream-client", "device", "python", "sleep", "infinity", ip6="fd00:50::31")
    load = Stream(lab, "stream-server", "stream-client", server["ip6"], size=size, seconds=60)
    one = run(controller, load, EDGES, times=2, before=1, mode="prepared")
    assert one.good, explain(one)
    assert one.outcome.detail["right"] == size
