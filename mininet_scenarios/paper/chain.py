"""A chain of three services, in which the middle one moves: it is a client and a server at once."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mininet_scenarios import echo, pass_on
from mininet_scenarios.experiment import Run
from mininet_scenarios.paper.road import IMAGE, connection, passenger, service
from mininet_scenarios.paper.trial import (
    AFTER,
    DESTINATION,
    DEVICE,
    MODES,
    SOURCE,
    THROUGHPUT,
    Scene,
    Trial,
    kind_of,
    numbered,
)


class Chain(Trial):
    name = "chain"
    title = "A chain of three services whose middle one moves"
    setting = THROUGHPUT
    guess = 12.0

    def keys(self, runs: int) -> list[str]:
        return numbered(MODES, runs, most=5)

    def run(self, scene: Scene, key: str) -> dict[str, Any]:
        with (
            scene.containers(service("last", SOURCE), passenger("user", DEVICE)) as (last, user),
            scene.containers(relay("middle", SOURCE, last["ip"])) as (middle,),
            scene.containers(relay("first", DESTINATION, middle["ip"])) as (first,),
        ):
            one = _under(scene, first, user, kind_of(key))
        waited = starved(one.outcome.moments, echo.BLOCK)
        return {**one.as_json(), "disruption_s": waited, "mode": kind_of(key)}


def starved(moments: Sequence[tuple[float, float]], enough: float) -> float:
    """The longest time in which fewer than ``enough`` bytes came, from (time, bytes so far). The neighbour in the chain
    goes on acknowledging, so arrivals alone say nothing. Pure.
    """
    longest, first = 0.0, 0
    for at, count in moments:
        while count - moments[first][1] >= enough:
            first += 1
        longest = max(longest, at - moments[first][0])
    return longest


def _under(scene: Scene, first: dict[str, Any], user: dict[str, Any], mode: str) -> Run:
    load = connection(scene, first, user)
    started_at = time.time()
    time.sleep(0.5)  # the last of the chain must listen when the first is asked
    load.start()
    try:
        time.sleep(1)
        record = scene.controller.migrate("middle", DESTINATION, mode=mode)
        time.sleep(AFTER)
        return Run("echo", load.finish(), [record], started_at, too_late=False)
    finally:
        load.stop()


def relay(name: str, node: str, to: str) -> dict[str, Any]:
    """A container that passes on what it gets to another, and back what that answers."""
    command = ["python3", "-c", Path(pass_on.__file__).read_text(), str(echo.PORT), to]
    return {"name": name, "node": node, "command": command, **IMAGE}
