"""``make faults``: everything that can break, at every step of every mode, under live connections.

Each case lays a trap (``sabotage``), migrates, waits for the end, and judges from outside: the record's state, the
copies that run (sampled all the while), the connections of an iperf3 and a sockperf client, what is left lying about.
Exit status 0 only if every case was survived.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

from rich.console import Console

from mininet_scenarios import report
from mininet_scenarios.clocks import Clocks, uneven
from mininet_scenarios.experiment import Controller, Refused
from mininet_scenarios.lab import Lab
from mininet_scenarios.matrix import (
    CLOCKS,
    DESTINATION,
    ENDING,
    ENDINGS,
    HOUR,
    LOSSES,
    MOMENTS,
    PAIRS,
    SOURCE,
    SPECIALS,
    WIRE,
    Case,
    cases,
)
from mininet_scenarios.obstacles import GUEST, GUEST_CLIENT, GUEST_COMMAND, OBSTACLES, Look, Scene, guest
from mininet_scenarios.sabotage import LATE, Saboteur
from mininet_scenarios.upkeep import Pulse, Sampler, goes_on, keep_evidence, residue
from mininet_scenarios.wiretap import tamper

RESULTS = Path("results/faults")
EDGES, DEVICE = ("edge1", "edge2"), "device"
OPTIONS = {"step_timeout": "10"}
"""Commands that hang are given up soon, so that the matrix takes minutes and not days."""
END_TIMEOUT, SETTLE_TIMEOUT, ALIVE_TIMEOUT = 180.0, 30.0, 90.0
ENDING_COMMAND = ["python3", "-c", "import time; time.sleep(86400)"]
ENDING_TIMEOUT = 15.0
"""Seconds that such a migration may take on a busy machine."""

# container: its server's command line, its client, the client's command (topologies/paper.yaml)
SERVERS = {
    "iperf3-server": ["iperf3", "--server"],
    "sockperf-server": ["sockperf", "server", "--tcp", "--ip", "0.0.0.0"],
}
CLIENTS = {
    "iperf3-server": (
        "iperf3-client",
        "iperf3 --client 192.168.50.10 --reverse --bitrate 20M --time 86400 --interval 60",
    ),
    "sockperf-server": ("sockperf-client", "sockperf ping-pong --tcp --ip 192.168.50.11 --mps 100 --time 7200"),
}


@dataclass
class Verdict:
    case: Case
    sprung: bool
    state: str
    most_copies: int
    copies: int
    alive: bool
    left: list[str]
    seconds: float
    error: Any = None
    steps: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        if self.case.kind in ENDINGS:
            told = self.error and self.error["cause"] in ("has_ended", "is_gone")
            return bool(self.sprung and told) and self.state == "rolled_back" and not (self.copies or self.left)
        whole = self.copies == 1 and self.most_copies <= 1 and self.alive and not self.left
        return self.sprung and self.state in ("succeeded", "rolled_back", "refused") and whole

    def as_json(self) -> dict[str, Any]:
        values = {"survived": self.survived, "sprung": self.sprung, "state": self.state, "copies": self.copies}
        values |= {"most_copies": self.most_copies, "connection_went_on": self.alive, "residue": self.left}
        case = {"step": self.case.step, "mode": self.case.mode, "kind": self.case.kind}
        return {**case, **values, "seconds": self.seconds, "error": self.error, "steps": self.steps}


class Bench:
    """One lab with its live connections; a case after the other."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.saboteur = Saboteur(lab)
        self.clocks = Clocks(lab)
        self.controller = Controller(lab.rest)
        self.clients = []
        self._turn = 0
        for host in EDGES:
            self.saboteur.install(host)
        for name, command in CLIENTS.values():
            self.clients.append(lab.popen(DEVICE, ["podman", "exec", name, *command.split()], **_QUIET))
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while not all(Pulse.of(lab, DEVICE, name).counts for name, _ in CLIENTS.values()):
            if time.monotonic() > deadline:
                raise RuntimeError("the clients did not connect")
            time.sleep(0.2)

    def close(self) -> None:
        for client in self.clients:
            client.kill()
            client.wait()

    def run(self, case: Case) -> Verdict:
        """One case, on whichever container's turn it is, or on a guest."""
        if case.kind in CLOCKS:
            self.clocks.install(EDGES)
        self._await_nodes()
        with ExitStack() as stack:
            if case.brings_image:
                stack.enter_context(guest(self.lab, self.controller, EDGES[self._turn % 2]))
                return self._judge(case, GUEST, GUEST_COMMAND, GUEST_CLIENT)
            if case.kind in ENDINGS:
                return self._judge_ending(case)
            container = list(SERVERS)[self._turn % len(SERVERS)]
            return self._judge(case, container, SERVERS[container], CLIENTS[container][0])

    def _judge(self, case: Case, container: str, command: list[str], client: str) -> Verdict:
        self._turn += 1
        source = self.controller.where(container)
        ends = {SOURCE: source, DESTINATION: EDGES[source == EDGES[0]]}
        before = Pulse.of(self.lab, DEVICE, client)
        began = time.monotonic()
        with self._obstacle(case, container, ends) as look, Sampler(lambda: len(self._copies(command))) as sampler:
            record, sprung = self._suffer(case, container, ends)
            met, trouble = look(record)
        seconds = time.monotonic() - began
        for host in self._hosts():
            self.saboteur.clear(host)
            self.clocks.clear(host)
        copies = len(self._copies(command))
        alive = goes_on(self.lab, DEVICE, client, before, ALIVE_TIMEOUT)
        steps = [step["name"] for step in record["steps"]]
        left = trouble + self._residue() + list(uneven(record))
        return Verdict(
            case, sprung and met, record["state"], sampler.most, copies, alive, left, seconds, record["error"], steps
        )

    def _judge_ending(self, case: Case) -> Verdict:
        """A container that ends before it is frozen: it is told as that, at once, and nothing is left of it."""
        ends = {SOURCE: EDGES[0], DESTINATION: EDGES[1]}
        body = {"name": ENDING, "node": ends[SOURCE], "image": "localhost/coat-python", "command": ENDING_COMMAND}
        self.controller.post("/v1.0/containers", body)
        try:
            began = time.monotonic()
            record, sprung = self._suffer(case, ENDING, ends)
            seconds = time.monotonic() - began
            for host in EDGES:
                self.saboteur.clear(host)
            copies = len(self._copies(ENDING_COMMAND))
        finally:
            self.controller.call("DELETE", f"/v1.0/containers/{ENDING}")
        left = self._residue() + ([f"it took {seconds:.0f} s"] if seconds > ENDING_TIMEOUT else [])
        steps = [step["name"] for step in record["steps"]]
        return Verdict(case, sprung, record["state"], copies, copies, True, left, seconds, record["error"], steps)

    def _copies(self, command: list[str]) -> list[str]:
        return self.saboteur.running(command)

    def _obstacle(self, case: Case, container: str, ends: dict[str, str]) -> AbstractContextManager[Look]:
        if case.kind not in OBSTACLES:
            return nullcontext(lambda record: (True, []))
        ip = self.controller.get(f"/v1.0/containers/{container}")["ip"]
        return OBSTACLES[case.kind](Scene(self.lab, container, ends[SOURCE], ends[DESTINATION], ip))

    def _suffer(self, case: Case, container: str, ends: dict[str, str]) -> tuple[dict[str, Any], bool]:
        """The migration with its fault: the record at its end, and whether the fault came to pass."""
        end, pattern, reaction = case.trap or (SOURCE, "", "before")
        pair = PAIRS[case.kind][1] if case.kind in PAIRS else ()
        if pattern:
            self.saboteur.lay(ends[end], pattern, reaction)
        for side, refused in pair:
            self.saboteur.lay(ends[side], refused, "fail")
        body = {"container": container, "to": ends[DESTINATION], **case.request}
        try:
            identifier = self.controller.post("/migrate", body)["id"]
        except Refused as refusal:
            return {"state": "refused", "error": refusal.answer, "steps": []}, case.kind in OBSTACLES
        sprung = True
        if case.kind in WIRE:
            sprung = self._tamper(case, ends, identifier)
        elif case.kind not in (*OBSTACLES, *PAIRS) and reaction in ("before", "during", "after"):
            sprung = self._strike(case, ends, ends[end], identifier)
        record = self._wait(identifier)
        if reaction in ("fail", "hang", "late"):
            sprung = self.saboteur.sprung(ends[end])
        for side, _ in pair:
            sprung &= self.saboteur.sprung(ends[side])
        if reaction == "late":
            time.sleep(LATE)
        return record, sprung

    def _tamper(self, case: Case, ends: dict[str, str], identifier: str) -> bool:
        hook, peer = self.saboteur.hook(ends[SOURCE]), self.lab.state.hosts[ends[DESTINATION]].address
        probed = case.step == "transfer" and case.mode == "prepared"
        return tamper(self.lab, ends[SOURCE], hook, peer, case.kind, lambda: self._over(identifier), probed=probed)

    def _await_nodes(self) -> None:
        """What the case before has cut off is connected again."""
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while not all(node["ready"] and node["switch"]["in_sync"] for node in self.controller.get("/v1.0/nodes")):
            if time.monotonic() > deadline:
                raise RuntimeError("the nodes did not come back")
            time.sleep(0.2)

    def _hosts(self) -> list[str]:
        return [host for host in EDGES if self.lab.exec(host, ["true"], check=False).returncode == 0]

    def _strike(self, case: Case, ends: dict[str, str], trapped: str, identifier: str) -> bool:
        strikes = {
            "ssh_lost": self.saboteur.drop_ssh,
            "hook_killed": self.saboteur.kill_hook,
            "disk_full": self.saboteur.fill_disk,
            "ovs_restarted": self.saboteur.restart_ovs,
            "openflow_lost": self.saboteur.drop_openflow,
        }
        where = ends[(SPECIALS | LOSSES)[case.kind][1]] if case.kind in SPECIALS | LOSSES else trapped
        act = strikes.get(case.kind) or strikes.get(case.kind.rpartition("_")[0])
        if case.kind in CLOCKS:
            return self._set_clock(case, trapped, identifier)
        if case.step in MOMENTS:
            time.sleep(MOMENTS[case.step])
            self.lab.kill_controller()
            self.lab.start_controller()
            return True
        if case.kind.startswith("controller_killed"):
            sprung = self.saboteur.at_trap(trapped, self.lab.kill_controller, lambda: self._over(identifier))
            self.lab.start_controller()
            return sprung
        if case.kind in ENDINGS:
            end_it = lambda: self.saboteur.end_container(ends[SOURCE], ENDING, ENDING_COMMAND, case.kind)  # noqa: E731
            return self.saboteur.at_trap(trapped, end_it, lambda: self._over(identifier))
        if case.kind in LOSSES:
            return self.saboteur.at_trap(trapped, lambda: self.lab.kill_host(where), lambda: self._over(identifier))
        if case.kind == "network_cut":
            return self._cut(trapped, identifier)
        assert act is not None
        sprung = self.saboteur.at_trap(trapped, lambda: act(where), lambda: self._over(identifier))
        if case.kind.startswith("disk_full"):
            self._wait(identifier)
            self.saboteur.empty_disk(where)
        return sprung

    def _set_clock(self, case: Case, trapped: str, identifier: str) -> bool:
        """Whether it was set, as the product sees it."""
        who, seconds, killed = CLOCKS[case.kind]
        host = trapped if who == "node" else None

        def act() -> None:
            self.clocks.set(host, seconds)
            if killed:
                self.lab.kill_controller()

        sprung = self.saboteur.at_trap(trapped, act, lambda: self._over(identifier))
        self.lab.start_controller()  # unless it runs
        return sprung and abs(self.clocks.ahead(host) - seconds) < HOUR / 4

    def _cut(self, source: str, identifier: str) -> bool:
        """Between the two hosts nothing passes for some seconds, from just before the checkpoint."""
        peer = self.lab.state.hosts[EDGES[source == EDGES[0]]].address
        route = ["ip", "route", "add", "blackhole", f"{peer}/32"]
        sprung = self.saboteur.at_trap(source, lambda: self._do(source, route), lambda: self._over(identifier))
        time.sleep(4)
        self.lab.exec(source, ["ip", "route", "del", "blackhole", f"{peer}/32"])
        return sprung

    def _do(self, host: str, argv: list[str]) -> None:
        self.lab.exec(host, argv)

    def _over(self, identifier: str) -> bool:
        try:
            return bool(self.controller.get(f"/v1.0/migrations/{identifier}")["state"] != "running")
        except (Refused, URLError, OSError, json.JSONDecodeError):
            return False

    def _wait(self, identifier: str) -> dict[str, Any]:
        deadline = time.monotonic() + END_TIMEOUT
        while time.monotonic() < deadline:
            if self._over(identifier):
                break
            time.sleep(0.1)
        record: dict[str, Any] = self.controller.get(f"/v1.0/migrations/{identifier}")
        return record

    def _residue(self) -> list[str]:
        """What is left when the sweeps have had their time; on hosts that are there."""
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while True:
            containers = self.controller.get("/v1.0/containers")
            left = []
            for host in self._hosts():
                left += residue(self.lab, host, [one["name"] for one in containers if one["node"] == host])
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.5)


_QUIET = {"stdin": -3, "stdout": -3, "stderr": -3}  # subprocess.DEVNULL


def run(chosen: list[Case], say: Callable[[str], None], name: str = "faults") -> tuple[list[Verdict], dict[str, Any]]:
    """All cases, in as few labs as possible: a case that was not survived, or that costs a host, ends its lab."""
    verdicts: list[Verdict] = []
    environment: dict[str, Any] = {}
    waiting = sorted(chosen, key=lambda case: case.kind in LOSSES)
    while waiting:
        with Lab(name=name, options=OPTIONS) as lab:
            environment = environment or report.environment(lab)
            bench = Bench(lab)
            try:
                while waiting:
                    case = waiting.pop(0)
                    verdict = _run(bench, case)
                    verdicts.append(verdict)
                    say(f"{len(verdicts):3} of {len(chosen)}: {describe(verdict)}")
                    if not verdict.survived:
                        keep_evidence(lab, EDGES, RESULTS / f"{str(case).replace('/', '-')}.log")
                    if not verdict.survived or case.kind in LOSSES:
                        break
            finally:
                bench.close()
    return verdicts, environment


def _run(bench: Bench, case: Case) -> Verdict:
    """The verdict; a case that our own tools could not carry through is not survived, and the others go on."""
    try:
        return bench.run(case)
    except (OSError, RuntimeError, subprocess.SubprocessError, Refused) as error:
        return Verdict(case, False, "unknown", 0, 0, False, [], 0.0, f"the scenario itself: {error}")


def describe(verdict: Verdict) -> str:
    told = "survived" if verdict.survived else "NOT SURVIVED"
    words = f"{verdict.case}: {told}, {verdict.state} in {verdict.seconds:.1f} s"
    if verdict.survived:
        return words
    return f"{words}; {json.dumps(verdict.as_json())}"


def summarise(verdicts: list[Verdict], environment: dict[str, Any]) -> dict[str, Any]:
    """The contract's summary of ``make faults``."""
    return {
        "experiment": "faults",
        "runs": len(verdicts),
        "injected": sum(verdict.sprung for verdict in verdicts),
        "survived": sum(verdict.survived for verdict in verdicts),
        "two_copies": sum(verdict.most_copies > 1 or verdict.copies > 1 for verdict in verdicts),
        "no_copy": sum(verdict.copies == 0 for verdict in verdicts),
        "residue": sum(bool(verdict.left) for verdict in verdicts),
        "resumed": sum(verdict.alive for verdict in verdicts),
        "per_run": [verdict.as_json() for verdict in verdicts],
        "environment": environment,
    }


def write(result: dict[str, Any]) -> None:
    report.write(RESULTS, result)
    counts = ("runs", "injected", "survived", "two_copies", "no_copy", "residue", "resumed")
    lines = ["# Faults\n", "A fault at a step, under live connections; see docs/lab.md.\n"]
    lines += [f"- {count}: {result[count]}" for count in counts]
    lines += ["", "| step | mode | fault | end | survived | seconds |", "| --- | --- | --- | --- | --- | --- |"]
    for row in result["per_run"]:
        told = "yes" if row["survived"] else "no"
        lines.append(
            f"| {row['step']} | {row['mode']} | {row['kind']} | {row['state']} | {told} | {row['seconds']:.1f} |"
        )
    (RESULTS / "report.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=int, nargs="?", default=1, help="how often the whole matrix is run (default 1)")
    parser.add_argument("--only", default="*", help="a shell pattern of STEP/MODE/KIND")
    arguments = parser.parse_args()
    say = Console(stderr=True, highlight=False)
    chosen = list(cases(arguments.only)) * arguments.runs
    if not chosen:
        sys.exit(f"faults: nothing fits {arguments.only!r}; there are: {' '.join(map(str, cases()))}")
    verdicts, environment = run(chosen, lambda line: say.print(line, markup=False, soft_wrap=True))
    result = summarise(verdicts, environment)
    write(result)
    print(f"{result['survived']} of {len(verdicts)} survived; {RESULTS}/report.md")
    if result["survived"] != len(verdicts):
        sys.exit(1)


if __name__ == "__main__":
    main()
