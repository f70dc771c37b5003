"""``make soak``: one connection carried through many migrations, byte by byte, while memory and open files are watched.

Exit status 0 only if every migration succeeded and the connection went on with nothing lost.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from mininet_scenarios import echo, report
from mininet_scenarios.experiment import Controller, Refused
from mininet_scenarios.lab import Lab
from mininet_scenarios.measure import summary
from mininet_scenarios.sabotage import Saboteur, figures
from mininet_scenarios.workloads import Outcome, Workload, byte_exact

RESULTS = Path("results/soak")
EDGES, DEVICE = ("edge1", "edge2"), "device"
MODES = ("prepared", "prepared", "parallel", "sequential")
RATE = 1 << 20
"""Bytes a second each way."""
RUNS = 200
END = 60.0


class Echo(Workload):
    """Both ends are checked: what the client sends comes back through the server that migrates."""

    name = "echo"

    def command(self) -> list[str]:
        return ["python3", "-c", Path(echo.__file__).read_text(), "check", self.address, str(RATE)]

    def finish(self) -> Outcome:
        """Tells the client to end first."""
        self.seconds, self._time_is_up = END, time.time()
        self.lab.exec(self.host, ["podman", "exec", self.client, "touch", echo.STOP])
        return super().finish()

    def judge(self, output: str, errors: str, watched: dict[str, Any]) -> Outcome:
        count = json.loads(output)
        return byte_exact(count["sent"], count, watched)


def soak(lab: Lab, runs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The summary of ``runs`` migrations of one server under one connection, in a lab that is up."""
    controller, watch = Controller(lab.rest), Saboteur(lab)
    image = "localhost/coat-python"
    command = ["python3", "-c", Path(echo.__file__).read_text(), "serve"]
    body = {"name": "soak-server", "node": EDGES[0], "image": image, "command": command}
    server = controller.post("/v1.0/containers", body)
    controller.post(
        "/v1.0/containers", {"name": "soak-client", "node": DEVICE, "image": image, "command": ["sleep", "infinity"]}
    )
    time.sleep(1)
    load = Echo(lab, "soak-server", "soak-client", server["ip"], host=DEVICE, seconds=86_400)
    load.start()
    try:
        rows = []
        for number, mode in zip(range(runs), itertools.cycle(MODES)):
            to = EDGES[(number + 1) % 2]
            record = controller.migrate("soak-server", to, mode=mode)
            rows.append({**record, **_figures(lab, watch)})
            say(f"{number + 1:4} of {runs}: {mode}, {record['state']} in {record['duration_s']:.2f} s")
            if record["state"] != "succeeded" or load.over():
                break
        outcome = load.finish()
    finally:
        load.stop()
        for name in ("soak-server", "soak-client"):
            with suppress(Refused):
                controller.call("DELETE", f"/v1.0/containers/{name}")
    return _summary(rows, outcome, report.environment(lab))


def _figures(lab: Lab, watch: Saboteur) -> dict[str, Any]:
    pid = lab.controller_pid()
    assert pid is not None, "the controller has ended"
    resident, files = figures(pid)
    hooks = {host: watch.hook_figures(host) for host in EDGES}
    return {
        "controller_resident_bytes": resident,
        "controller_open_files": files,
        "hook_resident_bytes": max(one for one, _ in hooks.values()),
        "hook_open_files": max(one for _, one in hooks.values()),
    }


WATCHED = ("controller_resident_bytes", "controller_open_files", "hook_resident_bytes", "hook_open_files")


def _summary(rows: list[dict[str, Any]], outcome: Outcome, environment: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in WATCHED:
        values = [row[name] for row in rows]
        tenth = max(1, len(values) // 10)
        early, late = values[tenth : 2 * tenth] or values[:1], values[-tenth:]
        flat |= {f"{name}_start": values[0], f"{name}_end": values[-1]}
        flat[f"{name}_last_tenth_over_second"] = statistics.mean(late) / statistics.mean(early)
    succeeded = sum(row["state"] == "succeeded" for row in rows)
    metrics = {name: summary(row[name] for row in rows) for name in ("duration_s", "downtime_s", "remote_overhead_s")}
    return {
        "experiment": "soak",
        "runs": len(rows),
        "migrations": succeeded,
        "resumed": succeeded if outcome.resumed and not outcome.resets and not outcome.reconnects else 0,
        "lost_bytes": outcome.lost_bytes,
        "resets": outcome.resets + outcome.reconnects,
        "bytes": outcome.detail.get("sent"),
        "trouble": outcome.trouble,
        **flat,
        "metrics": {"echo": {**metrics, "disruption_s": summary([outcome.disruption.seconds])}},
        "per_run": rows,
        "environment": environment,
    }


def good(result: dict[str, Any]) -> bool:
    whole = result["lost_bytes"] == 0 and result["resets"] == 0
    return bool(whole and result["migrations"] == result["runs"] == result["resumed"])


def _report(result: dict[str, Any]) -> Iterable[str]:
    yield "# Soak\n"
    yield f"{result['migrations']} of {result['runs']} migrations of one server under one connection.\n"
    for name in ("resumed", "bytes", "lost_bytes", "resets"):
        yield f"- {name}: {result[name]}"
    yield "\n| watched | start | end | last tenth over second |\n| --- | --- | --- | --- |"
    for name in WATCHED:
        start, end, ratio = (result[name + end] for end in ("_start", "_end", "_last_tenth_over_second"))
        yield f"| {name} | {start} | {end} | {ratio:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=int, nargs="?", default=RUNS, help=f"migrations (default {RUNS})")
    runs = parser.parse_args().runs
    say = Console(stderr=True, highlight=False)
    with Lab(name="soak", progress=lambda line: say.print(line, markup=False)) as lab:
        result = soak(lab, runs, lambda line: say.print(line, markup=False))
    report.write(RESULTS, result)
    (RESULTS / "report.md").write_text("\n".join(_report(result)) + "\n")
    print(f"{result['migrations']} of {runs} migrations; {RESULTS}/report.md")
    if not good(result):
        sys.exit(f"soak: {result['trouble'] or 'not every migration succeeded'}")


if __name__ == "__main__":
    main()
