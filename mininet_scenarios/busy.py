"""``make busy``: web servers that are busy with new connections move there and back; no client may see an error.

Two servers, gunicorn with four workers and haproxy, each over IPv4 and IPv6, in every mode. Exit status 0 only if every
migration succeeded at the first try and no request failed.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mininet_scenarios import report, visitors
from mininet_scenarios.experiment import Controller, Refused
from mininet_scenarios.lab import Lab
from mininet_scenarios.measure import summary

RESULTS = Path("results/busy")
EDGES, DEVICE = ("edge1", "edge2"), "device"
MODES: dict[str, dict[str, str]] = {
    "prepared": {"mode": "prepared"},
    "parallel": {"mode": "parallel"},
    "sequential": {"mode": "sequential"},
    "lazy": {"mode": "prepared", "memory": "lazy"},
}
FAMILIES = ("ip", "ip6")
RUNS, RATE, STAYING = 30, 200.0, 20
PORT = 8000
SERVER_IP6, CLIENT_IP6 = "fd00:50::b5", "fd00:50::b6"
"""Of the network in topologies/paper.yaml: who asks for none gets none."""
BETWEEN = 0.3
"""Seconds of undisturbed traffic before and after each migration."""
READY, END = 20.0, 90.0

APP = """\
def application(environ, respond):
    respond("200 OK", [("Content-Length", "4")])
    return [b"coat"]
"""
HAPROXY = f"""\
defaults
    mode http
    timeout client 600s
    timeout http-request 60s
    timeout http-keep-alive 600s
frontend web
    bind :::{PORT} v4v6
    http-request return status 200 content-type text/plain string coat
"""
GUNICORN = f"gunicorn --workers 4 --worker-class gthread --threads 8 --keep-alive 600 --bind [::]:{PORT} app"
SERVERS = {
    "gunicorn": ["sh", "-c", f"cd /tmp && printf %s '{APP}' >app.py && exec {GUNICORN}"],
    "haproxy": ["sh", "-c", f"printf %s '{HAPROXY}' >/tmp/haproxy.cfg && exec haproxy -db -f /tmp/haproxy.cfg"],
}


@dataclass(frozen=True, slots=True)
class Case:
    server: str
    family: str
    mode: str

    def __str__(self) -> str:
        return f"{self.server}/{'IPv6' if self.family == 'ip6' else 'IPv4'}/{self.mode}"


def cases(only: str = "") -> Iterator[Case]:
    every = itertools.starmap(Case, itertools.product(SERVERS, FAMILIES, MODES))
    return (case for case in every if all(word in str(case) for word in only.split()))


@contextmanager
def served(controller: Controller, server: str) -> Iterator[dict[str, Any]]:
    """A container with the server on the first edge, and an idle one on the device to visit it from."""
    image = "localhost/coat-web"
    body = {"name": f"busy-{server}", "node": EDGES[0], "image": image, "command": SERVERS[server], "ip6": SERVER_IP6}
    made = controller.post("/v1.0/containers", body)
    idle = {"name": "busy-client", "node": DEVICE, "image": image, "command": ["sleep", "infinity"], "ip6": CLIENT_IP6}
    try:
        controller.post("/v1.0/containers", idle)
        yield made
    finally:
        there = {one["name"] for one in controller.get("/v1.0/containers")}
        for name in {body["name"], idle["name"]} & there:
            controller.call("DELETE", f"/v1.0/containers/{name}")


class Crowd:
    """``visitors`` in the client's network."""

    def __init__(self, lab: Lab, address: str, rate: float, staying: int = STAYING) -> None:
        program = ["python3", "-c", Path(visitors.__file__).read_text(), address, str(PORT), str(rate), str(staying)]
        inside = ["nsenter", "--net=/run/netns/coat-busy-client", *program]
        _await_server(lab, address)
        self._process = lab.popen(
            DEVICE, inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def end(self) -> dict[str, Any]:
        """What they have seen. Raises RuntimeError."""
        output, errors = self._process.communicate("\n", timeout=END)
        if self._process.returncode:
            raise RuntimeError(f"the clients have failed: {errors}")
        return dict(json.loads(output))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _await_server(lab: Lab, address: str) -> None:
    give_up = time.monotonic() + READY
    look = f"import socket; socket.create_connection(({address!r}, {PORT}), 1)"
    while lab.exec(
        DEVICE, ["nsenter", "--net=/run/netns/coat-busy-client", "python3", "-c", look], check=False
    ).returncode:
        if time.monotonic() > give_up:
            raise RuntimeError(f"nobody serves at {address} after {READY:.0f} s")
        time.sleep(0.1)


def there_and_back(
    lab: Lab, server: dict[str, Any], case: Case, runs: int, rate: float, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """``runs`` migrations of one server in one mode, and what its clients have seen meanwhile."""
    controller, records = Controller(lab.rest), []
    crowd = Crowd(lab, server[case.family], rate)
    try:
        for _ in range(runs):
            time.sleep(BETWEEN)
            to = EDGES[1] if controller.where(server["name"]) == EDGES[0] else EDGES[0]
            try:
                records.append(controller.migrate(server["name"], to, **MODES[case.mode]))
            except Refused as error:
                records.append({"state": "refused", "error": error.answer, "downtime_s": None, "duration_s": None})
        time.sleep(BETWEEN)
        seen = crowd.end()
    finally:
        crowd.kill()
    return {"case": str(case), "rate": rate, "seen": seen, **_figures(records), "migrations": records}


def _figures(records: list[dict[str, Any]]) -> dict[str, Any]:
    done = [record for record in records if record["state"] == "succeeded"]
    waits = [step["detail"] for record in done for step in record["steps"] if step["name"] == "checkpoint"]
    return {
        "runs": len(records),
        "succeeded": len(done),
        "first_try": sum(tries(record) == 1 for record in done),
        "downtime_s": summary(record["downtime_s"] for record in done),
        "duration_s": summary(record["duration_s"] for record in done),
        "settle_s": summary(detail.get("settle_s") for detail in waits),
        "refusals": [record["error"] for record in records if record["error"]],
    }


def tries(record: dict[str, Any]) -> int:
    """How often its container was frozen, or its migration begun, until it moved."""
    return int(record.get("tries", 1))


def good(result: dict[str, Any]) -> bool:
    return all(one["succeeded"] == one["runs"] and not one["seen"]["errors"] for one in result["per_run"])


def busy(lab: Lab, runs: int, rate: float, only: str, say: Callable[[str], None]) -> dict[str, Any]:
    rows = []
    for name, chosen in itertools.groupby(cases(only), key=lambda case: case.server):
        with served(Controller(lab.rest), name) as server:
            for case in chosen:
                rows.append(one := there_and_back(lab, server, case, runs, rate))
                say(_line(one))
    return {
        "experiment": "busy",
        "runs": sum(one["runs"] for one in rows),
        "succeeded": sum(one["succeeded"] for one in rows),
        "first_try": sum(one["first_try"] for one in rows),
        "requests": sum(one["seen"]["requests"] for one in rows),
        "errors": sum(one["seen"]["errors"] for one in rows),
        "metrics": {one["case"]: {key: one[key] for key in ("downtime_s", "duration_s", "settle_s")} for one in rows},
        "per_run": rows,
        "environment": report.environment(lab),
    }


def _line(one: dict[str, Any]) -> str:
    seen, frozen = one["seen"], one["downtime_s"]["median"]
    moved = f"{one['succeeded']} of {one['runs']} moved, {one['first_try']} at the first try"
    rate = seen["requests"] / seen["seconds"]
    asked = f"{seen['requests']} requests ({rate:.0f}/s), {seen['errors']} errors, slowest {seen['slowest_s']:.2f} s"
    return f"{one['case']}: {moved}; {asked}; frozen {frozen or 0:.3f} s {dict(seen['kinds']) or ''}"


def _report(result: dict[str, Any]) -> Iterable[str]:
    yield "# Busy servers\n"
    yield f"{result['succeeded']} of {result['runs']} migrations, {result['first_try']} of them at the first try;"
    yield f"{result['errors']} of {result['requests']} requests failed.\n"
    yield from (f"- {_line(one)}" for one in result["per_run"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=int, nargs="?", default=RUNS, help=f"migrations of each case (default {RUNS})")
    parser.add_argument("--rate", type=float, default=RATE, help=f"new connections a second (default {RATE:.0f})")
    parser.add_argument("--only", default="", help="words that a case's name must have, as in 'haproxy/IPv6/lazy'")
    options = parser.parse_args()
    say = Console(stderr=True, highlight=False)
    with Lab(name="busy", progress=lambda line: say.print(line, markup=False)) as lab:
        result = busy(lab, options.runs, options.rate, options.only, lambda line: say.print(line, markup=False))
    report.write(RESULTS, result)
    (RESULTS / "report.md").write_text("\n".join(_report(result)) + "\n")
    print(f"{result['succeeded']} of {result['runs']} migrations; {RESULTS}/report.md")
    if not good(result):
        sys.exit("busy: not every migration succeeded, or a client has seen an error")


if __name__ == "__main__":
    main()
