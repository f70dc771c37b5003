"""The client's container moves instead of the server's, and both at once.

A client that is to move is its container's own program. What it says it says at its end, into the container's log,
wherever it is by then.
"""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mininet_scenarios.measure import rtt_disruption
from mininet_scenarios.paper.trial import (
    AFTER,
    BEFORE,
    DESTINATION,
    DEVICE,
    LATENCY,
    SOURCE,
    THROUGHPUT,
    Scene,
    Setting,
    Trial,
    kind_of,
    numbered,
)
from mininet_scenarios.workloads import Sockperf

SERVERS = {"iperf3": "192.168.50.10", "sockperf": "192.168.50.11"}
INTERVAL = 0.1
GRACE = 60.0
PACE = "--mps 400"
"""Without it sockperf reserves 145 MB for its log, and that is what would be moved."""
ENDED = 0.5
"""Seconds of silence at its end that mean that a connection did not go on."""


class ClientSide(Trial):
    """``client``: it goes from the device to the destination. ``both``: it goes to the source, while the server goes
    from there to the destination.
    """

    guess = 15.0

    def __init__(self, workload: str, setting: Setting) -> None:
        self.name = f"client-side-{workload}"
        self.title = f"The client moves, and both move: {workload}"
        self.setting = setting
        self._workload = workload

    def keys(self, runs: int) -> list[str]:
        return numbered(("client", "both"), runs, most=5)

    def run(self, scene: Scene, key: str) -> dict[str, Any]:
        server, client = f"{self._workload}-server", f"moving-{self._workload}"
        scene.send(server, SOURCE)
        moves = {client: DESTINATION} if kind_of(key) == "client" else {client: SOURCE, server: DESTINATION}
        seconds = BEFORE + 2 * scene.patience + AFTER
        body = {"name": client, "node": DEVICE, "image": f"localhost/coat-{self._workload}"}
        with scene.containers({**body, "command": command(self._workload, seconds)}):
            time.sleep(BEFORE + (Sockperf.warm_up if self._workload == "sockperf" else 0.0))
            with ThreadPoolExecutor(len(moves)) as pool:
                records = list(pool.map(lambda move: scene.controller.migrate(*move), moves.items()))
            output = last_words(scene, client, seconds + GRACE)
        judged = judge(self._workload, output)
        failed = next((record["error"]["message"] for record in records if record["error"]), None)
        return {"workload": self._workload, "moved": kind_of(key), **judged, "migrations": records} | (
            {"trouble": failed} if failed else {}
        )


def client_sides() -> list[Trial]:
    return [ClientSide("sockperf", LATENCY), ClientSide("iperf3", THROUGHPUT)]


def command(workload: str, seconds: float) -> list[str]:
    """The client's; it waits a moment, for the container is up before its flows are."""
    if workload == "iperf3":
        client = f"iperf3 -c {SERVERS[workload]} -t {seconds:.0f} -i {INTERVAL} -J -R"
    else:
        client = f"sockperf ping-pong --tcp --ip {SERVERS[workload]} --time {seconds:.0f} {PACE} --full-log /tmp/log"
        return ["sh", "-c", f"sleep 0.5; {client}; cat /tmp/log"]
    return ["sh", "-c", f"sleep 0.5; exec {client}"]


def last_words(scene: Scene, client: str, timeout: float) -> str:
    """The container's log, once its program has ended. Raises RuntimeError when it does not."""
    give_up = time.monotonic() + timeout
    while scene.controller.get(f"/v1.0/containers/{client}")["state"] == "running":
        if time.monotonic() > give_up:
            raise RuntimeError(f"{client} is still running when its time is long up")
        time.sleep(0.2)
    return scene.place.exec(scene.controller.where(client), ["podman", "logs", client]).stdout


def judge(workload: str, output: str) -> dict[str, Any]:
    """What the client saw. iperf3's silence is known to its interval only."""
    try:
        return _iperf3(json.loads(output)) if workload == "iperf3" else _sockperf(output)
    except (ValueError, KeyError) as error:
        return {"resumed": False, "lost_bytes": 0, "trouble": f"{error!r}: the client said: {output[-200:]}"}


def _iperf3(report: dict[str, Any]) -> dict[str, Any]:
    if "error" in report:
        return {"resumed": False, "lost_bytes": 0, "trouble": report["error"]}
    silent = longest = 0.0
    for interval in (one["sum"] for one in report["intervals"]):
        # one that was frozen itself has an interval that is too long
        silent += interval["seconds"] if interval["bytes"] == 0 else max(0.0, interval["seconds"] - INTERVAL)
        longest = max(longest, silent)
        silent = silent if interval["bytes"] == 0 else 0.0
    resumed = silent < ENDED
    trouble = None if resumed else "no byte arrived at the end"
    return {"resumed": resumed, "lost_bytes": 0, "disruption_s": longest, "trouble": trouble}


def _sockperf(output: str) -> dict[str, Any]:
    rows = re.findall(r"^\d+, ([\d.]+), ([\d.]+)", output, re.MULTILINE)
    dropped = re.findall(r"# dropped messages = (\d+)", output)
    if len(rows) < 100 or not dropped:
        return {"resumed": False, "lost_bytes": 0, "trouble": f"{len(rows)} answers: {output[-300:]}"}
    disruption = rtt_disruption([(float(sent), float(answered)) for sent, answered in rows])
    resumed = sum(float(sent) > disruption.at for sent, _ in rows) > 10
    trouble = None if resumed else "nothing was answered after the migration"
    return {"resumed": resumed, "lost_bytes": int(dropped[0]), "disruption_s": disruption.seconds, "trouble": trouble}
