"""A device drives along six edge hosts and its service follows it, hop by hop, over one TCP connection."""

import time
from typing import Any

from mininet_scenarios.experiment import Run
from mininet_scenarios.paper.road import DEVICES, EDGES, Device, connection, passenger, service
from mininet_scenarios.paper.trial import ROAD, Scene, Trial, frozen_from, numbered

STAY = 0.5
"""Seconds at each edge host before and after the service has come."""


def around(record: dict[str, Any]) -> tuple[float, float]:
    """When a silence of this migration's can have begun: Unix seconds."""
    frozen = frozen_from(record)
    return frozen - 0.1, frozen + (record["downtime_s"] or 0.0)


class Follow(Trial):
    name = "follow"
    title = "A service follows its device along six edge hosts"
    setting = ROAD
    needs = (*EDGES, DEVICES[0])
    guess = 30.0

    def keys(self, runs: int) -> list[str]:
        return numbered(("follow",), runs, most=5)

    def run(self, scene: Scene, key: str) -> dict[str, Any]:
        device = Device(scene, DEVICES[0])
        with scene.containers(service("follower", EDGES[0]), passenger("followed", device.host)) as (server, client):
            load = connection(scene, server, client)
            started_at, records, handovers = time.time(), [], []
            load.start()
            try:
                for edge in EDGES[1:]:
                    time.sleep(STAY)
                    handovers.append(device.drive(edge))
                    records.append(scene.controller.migrate(server["name"], edge))
                    time.sleep(STAY)
                one = Run("echo", load.finish(), records, started_at, too_late=False)
            finally:
                load.stop()
        waits = [one.outcome.silence_in(*around(record)) for record in records]
        return {**one.as_json(), "handover_s": handovers, "hop_disruption_s": [gap.seconds for gap in waits]}
