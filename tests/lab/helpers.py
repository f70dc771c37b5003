"""What several lab tests need: waiting, REST, and looking for what a lab has left on the machine."""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests

from mininet_scenarios import cgroups, state
from mininet_scenarios.experiment import Controller, Run
from mininet_scenarios.lab import Lab
from mininet_scenarios.workloads import Iperf3, Sockperf, Workload

EDGES = ("edge1", "edge2")
MODES = ("sequential", "prepared", "parallel")
ADDRESSES = {"iperf3": ("192.168.50.10", "fd00:50::10"), "sockperf": ("192.168.50.11", "fd00:50::11")}
"""Of the servers of topologies/paper.yaml, IPv4 and IPv6."""

T = TypeVar("T")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
REST_TIMEOUT = 120.0


def wait_for(condition: Callable[[], T], timeout: float = 30.0, what: str = "the condition") -> T:
    """Ask until the answer is truthy, and return it. Fails the test when time is up."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s in vain for {what}"
        time.sleep(0.05)
    return answer


def call(lab: Lab, method: str, path: str, body: Any = None) -> requests.Response:
    """One REST request to the lab's controller; ``path`` starts with a slash."""
    return requests.request(method, lab.rest + path, json=body, timeout=REST_TIMEOUT)


def get(lab: Lab, path: str) -> Any:
    """The JSON answer of a GET that must succeed."""
    response = call(lab, "GET", path)
    assert response.status_code == 200, response.text
    return response.json()


def workload(lab: Lab, kind: str, seconds: float, ipv6: bool = False, rate: str = "0") -> Workload:
    """iperf3-forward, iperf3-reverse or sockperf, between the containers of topologies/paper.yaml.

    ``rate`` is iperf3's.
    """
    program = kind.partition("-")[0]
    ends = (f"{program}-server", f"{program}-client", ADDRESSES[program][ipv6])
    if kind == "sockperf":
        return Sockperf(lab, *ends, seconds=seconds)
    return Iperf3(lab, *ends, reverse=kind == "iperf3-reverse", rate=rate, seconds=seconds)


WARM_UP = 3.0
"""Seconds that sockperf takes before it logs what it sends."""


def journey(
    controller: Controller,
    load: Workload,
    modes: Sequence[str],
    pause: float = 0.0,
    reserve: float = 0.0,
    **options: Any,
) -> Run:
    """Moves the workload's server there and back between the edges under its client, once in each of ``modes``.

    ``pause`` are the seconds after each. No migration begins when the client has less than ``reserve`` seconds left.
    """
    load.start()
    try:
        records = []
        time.sleep(WARM_UP)
        for mode in modes:
            if load.time_left() < reserve:
                break
            to = EDGES[controller.where(load.server) == EDGES[0]]
            records.append(controller.migrate(load.server, to, mode=mode, **options))
            time.sleep(pause)
        too_late = load.over()
        return Run(load.name, load.finish(), records, 0.0, too_late)
    finally:
        load.stop()


QUICK = 6.0
"""Seconds that a migration may take where nothing else goes on."""


def journey_in_time(
    controller: Controller,
    make: Callable[[float], Workload],
    modes: Sequence[str],
    quick: float,
    slow: float,
    **options: Any,
) -> Run:
    """A journey under a client of ``quick`` seconds, or where a busy machine took longer under one of ``slow``.

    Fails the test for what the first client saw all the same.
    """
    one = journey(controller, make(quick), modes, reserve=QUICK, **options)
    if len(one.migrations) == len(modes) and not one.too_late:
        return one
    assert one.good or one.too_late, explain(one)
    return journey(controller, make(slow), modes, **options)


def explain(one: Run) -> str:
    """What a failed test shows of a run."""
    return json.dumps(one.as_json(), indent=1, default=str)


@dataclass(frozen=True)
class Machine:
    """What a lab could leave behind in the machine's own namespaces."""

    mounts: frozenset[str]
    interfaces: frozenset[str]

    @classmethod
    def now(cls) -> "Machine":
        mounts = (line.split(" ", 1)[1] for line in Path("/proc/self/mountinfo").read_text().splitlines())
        return cls(frozenset(mounts), frozenset(os.listdir("/sys/class/net")))


@dataclass(frozen=True)
class Footprint:
    """A running lab's processes and namespaces, and all other processes that were there at the same time.

    Processes by number and start time, namespaces by identity, which the kernel gives to new ones once it is free:
    after the end only processes that were there before can tell that a namespace still lives.
    """

    name: str
    processes: frozenset[tuple[int, str]]
    namespaces: frozenset[str]
    everybody: frozenset[tuple[int, str]]

    @classmethod
    def of(cls, name: str) -> "Footprint":
        """Everything that descends from the lab's supervisor: what its hosts orphan stays below their process 1."""
        found = state.read(name)
        assert found is not None
        stats = {pid: stat for pid in _pids() if (stat := _stat(pid))}
        family, size = {found.supervisor}, 0
        while len(family) > size:
            size = len(family)
            family |= {pid for pid, stat in stats.items() if int(stat[1]) in family}
        spaces = {space for pid in family for space in _namespaces(pid)} - _namespaces(os.getpid())
        everybody = frozenset((pid, stat[19]) for pid, stat in stats.items())
        return cls(name, frozenset(one for one in everybody if one[0] in family), frozenset(spaces), everybody)

    def remains(self) -> list[str]:
        """What is left of it, in words."""
        alive = {(pid, stat[19]) for pid in _pids() if (stat := _stat(pid))}
        left = [f"process {pid}" for pid, _ in self.processes & alive]
        for pid, _ in self.everybody & alive:
            left += [f"{space}, which process {pid} is in" for space in self.namespaces & _namespaces(pid)]
        if cgroups.directory(self.name).exists():
            left.append("cgroup")
        if state.directory(self.name).exists():
            left.append("state directory")
        return left


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (proc_pid_stat(5)): 1 is the parent, 19 the start time."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields if fields[0] != "Z" else []
    return []


def _namespaces(pid: int) -> set[str]:
    found = set()
    for kind in NAMESPACES:
        with suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
    return found
