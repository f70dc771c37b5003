"""Several devices and services at random: devices drive a step, services move anywhere, often several at once.

The seed is fixed, so that every campaign draws the same moves; how many there are depends on how fast they are.
"""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from coat_ryu.model import Mode
from mininet_scenarios.paper.road import DEVICES, EDGES, Device, connection, passenger, service
from mininet_scenarios.paper.trial import MODES, ROAD, Scene, Trial
from mininet_scenarios.workloads import Outcome

SEED = 10168849
SECONDS_A_RUN, MOST = 12.0, 600.0
"""Ten minutes from 50 runs on, and less for fewer."""
PAUSE = 0.5

Move = tuple[str, str, Mode]
"""A container, where it goes, the mode."""


def draw(chance: random.Random, at: list[str], services: list[str]) -> tuple[list[str], list[Move]]:
    """One turn: where each device is next, and which services move. Pure: chance is an argument."""
    nexts = []
    for place in at:
        step = chance.choice((-1, 0, 1))
        nexts.append(EDGES[min(max(EDGES.index(place) + step, 0), len(EDGES) - 1)])
    moves = [(name, chance.choice(EDGES), chance.choice(MODES)) for name in services if chance.random() < 0.6]
    return nexts, moves


class RandomWalk(Trial):
    name = "random-walk"
    title = "Devices and services at random"
    setting = ROAD
    needs = (*EDGES, *DEVICES)

    def __init__(self, runs: int) -> None:
        self.guess = min(SECONDS_A_RUN * runs, MOST)

    def keys(self, runs: int) -> list[str]:
        return [f"seed-{SEED}"]

    def run(self, scene: Scene, key: str) -> dict[str, Any]:
        devices = [Device(scene, host) for host in DEVICES]
        servers = [service(f"service{number}", EDGES[2 * number]) for number in range(len(devices))]
        clients = [passenger(f"user{number}", device.host) for number, device in enumerate(devices)]
        with scene.containers(*servers, *clients) as made:
            pairs = list(zip(made[: len(servers)], made[len(servers) :], strict=True))
            loads = [connection(scene, server, client) for server, client in pairs]
            try:
                for load in loads:
                    load.start()
                records, handovers = self._walk(scene, devices, [server["name"] for server, _ in pairs])
                outcomes = [load.finish() for load in loads]
            finally:
                for load in loads:
                    load.stop()
        return judged(records, handovers, outcomes)

    def _walk(self, scene: Scene, devices: list[Device], services: list[str]) -> tuple[list[dict[str, Any]], int]:
        chance, records, handovers = random.Random(SEED), [], 0
        give_up = time.monotonic() + self.guess
        with ThreadPoolExecutor(len(devices) + len(services)) as pool:
            while time.monotonic() < give_up:
                nexts, moves = draw(chance, [device.at for device in devices], services)
                drives = [(device, to) for device, to in zip(devices, nexts, strict=True) if to != device.at]
                real = [move for move in moves if scene.controller.where(move[0]) != move[1]]
                driven = [pool.submit(device.drive, to) for device, to in drives]
                moved = [pool.submit(scene.controller.migrate, name, to, mode=mode) for name, to, mode in real]
                handovers += len([future.result() for future in driven])
                records += [future.result() for future in moved]
                time.sleep(PAUSE)
        return records, handovers


def judged(records: list[dict[str, Any]], handovers: int, outcomes: list[Outcome]) -> dict[str, Any]:
    """All connections together: one that did not go on spoils the run."""
    failed = [record["error"]["message"] for record in records if record["error"]]
    troubles = failed + [outcome.trouble for outcome in outcomes if outcome.trouble]
    return {
        "workload": "echo",
        "resumed": all(outcome.resumed for outcome in outcomes),
        "lost_bytes": sum(outcome.lost_bytes for outcome in outcomes),
        "resets": sum(outcome.resets for outcome in outcomes),
        "reconnects": sum(outcome.reconnects for outcome in outcomes),
        "bytes": sum(outcome.detail.get("sent", 0) for outcome in outcomes),
        "disruption_s": max(outcome.disruption.seconds for outcome in outcomes),
        "handovers": handovers,
        "trouble": "; ".join(troubles) or None,
        "migrations": records,
    }
