"""Fig. 7: the delay that remote control adds to each step, three ways in the same run.

An SSH login for each command, as in the paper; our open channel to each node, as in mode ``sequential``; nodes that
were told everything ahead and drive each other, as in mode ``prepared``. The login runs ``true``: all of its time is
added delay.
"""

import json
import subprocess
import sys
from typing import Any

from mininet_scenarios.lab import CHECKOUT
from mininet_scenarios.paper.trial import DESTINATION, LATENCY, SOURCE, THROUGHPUT, Scene, Setting, Trial, numbered

COMMANDS = {
    "checkpoint": SOURCE,
    "clear_namespace": SOURCE,
    "transfer": SOURCE,
    "create_namespace": DESTINATION,
    "restore": DESTINATION,
}
"""Where the paper's script logs in for each step (section IV.B); the flow update was local to it."""
LOGINS_TIMEOUT = 120.0


class Control(Trial):
    guess = 8.0

    def __init__(self, workload: str, setting: Setting) -> None:
        self.name = f"control-{workload}"
        self.title = f"Remote control (Fig. 7): {workload}'s server"
        self.setting = setting
        self._workload = workload

    def keys(self, runs: int) -> list[str]:
        return numbered((self._workload,), runs, most=10)

    def run(self, scene: Scene, key: str) -> dict[str, Any]:
        server = f"{self._workload}-server"
        records = {}
        for mode in ("sequential", "prepared"):
            scene.send(server, SOURCE)
            records[mode] = scene.send(server, DESTINATION, mode=mode)
        return {
            "workload": self._workload,
            "resumed": all(record and record["state"] == "succeeded" for record in records.values()),
            "lost_bytes": 0,
            "trouble": None,
            "login_s": logins(scene),
            "channel_s": overheads(records["sequential"]),
            "ahead_s": overheads(records["prepared"]),
            "migrations": list(records.values()),
        }


def controls() -> list[Trial]:
    return [Control("sockperf", LATENCY), Control("iperf3", THROUGHPUT)]


def overheads(record: dict[str, Any] | None) -> dict[str, float]:
    """Of each of the paper's steps, in seconds."""
    steps = record["steps"] if record else []
    return {step["name"]: step["remote_overhead_s"] for step in steps if step["name"] in (*COMMANDS, "flow_update")}


def logins(scene: Scene) -> dict[str, float]:
    """Seconds of a login that runs ``true``, one for each command of the paper's script."""
    argv = scene.place.beside_controller([sys.executable, "-m", "mininet_scenarios.paper.login"])
    order = "\n".join(json.dumps(scene.place.login(host)) for host in COMMANDS.values())
    done = subprocess.run(
        argv, input=order, capture_output=True, text=True, check=True, cwd=CHECKOUT, timeout=LOGINS_TIMEOUT
    )
    return dict(zip(COMMANDS, map(float, done.stdout.split()), strict=True))
