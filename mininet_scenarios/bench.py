"""``make bench``: how long a connection is disrupted, beside what Podman alone takes on one host, in the same run.

For each workload in turn, RUNS times: the floor (``floor``: checkpoint, rm and restore of such a container on one host,
under the same load), and a migration, with a fresh connection to the same server afterwards. They alternate, so that
what else the machine does hits all alike. Exit status 0 only if every connection went on with nothing lost.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from coat_ryu.errors import CoatError
from coat_ryu.saga import unix_time
from mininet_scenarios import bench_report, burden, floor, report
from mininet_scenarios.bench_report import Pair
from mininet_scenarios.experiment import Controller, Refused, Run, run
from mininet_scenarios.lab import Lab, LabError
from mininet_scenarios.loads import BURDEN, Memory, Redis
from mininet_scenarios.measure import time_left
from mininet_scenarios.rootfs import RootfsError
from mininet_scenarios.workloads import SETTLE, Iperf3, Sockperf, Workload

RESULTS = Path("results/bench")
EDGES, DEVICE = ("edge1", "edge2"), "device"
RUNS = 20
SECONDS, BEFORE = 10.0, 2.0
"""How long a client works, and how long before its server moves."""
FLOOR_SECONDS, FRESH_SECONDS = 5.0, 3.0
LISTEN_TIMEOUT = 20.0
TURNOVER = 0.2
"""The part of its memory that a server writes anew each second."""
SERVER, HOLDER, PLAIN = "bench-server", "bench-floor", "bench-plain"
"""The container that migrates; one that only has a namespace, and the one that Podman alone has put into that."""


@dataclass(frozen=True)
class Kind:
    """A workload: its server's image, command and port; ``load`` and ``fresh`` make the client (``Workload``'s
    arguments), ``fresh`` for a server that has been used already.
    """

    image: str
    command: tuple[str, ...]
    port: int
    load: Callable[..., Workload]
    fresh: Callable[..., Workload]


def memory(megabytes: int, **options: Any) -> Kind:
    """A server with so much memory of its own, and a client that compares what it echoes (``loads.Memory``)."""
    load = partial(Memory, megabytes=megabytes, rate=megabytes * TURNOVER, **options)
    return Kind("python", (*BURDEN, "serve"), burden.ECHO, load, partial(Memory, **options))


def plain(image: str, command: tuple[str, ...], port: int, load: Callable[..., Workload]) -> Kind:
    return Kind(image, command, port, load, load)


IPERF3 = ("iperf3", ("iperf3", "--server"), 5201)
KINDS = {
    "iperf3-reverse": plain(*IPERF3, partial(Iperf3, reverse=True)),
    "iperf3-forward": plain(*IPERF3, partial(Iperf3, reverse=False)),
    "sockperf": plain("sockperf", ("sockperf", "server", "--tcp", "--ip", "0.0.0.0"), 11111, Sockperf),
    "redis": plain("redis", ("redis-server", "--protected-mode", "no", "--save", ""), 6379, Redis),
    **{f"memory-{megabytes}": memory(megabytes) for megabytes in (10, 100, 500)},
}


class Bench:
    """The servers and clients of one lab that is up; only one server stands at a time."""

    def __init__(self, lab: Lab, images: Sequence[str]) -> None:
        self.lab = lab
        self.controller = Controller(lab.rest)
        self._images = images

    @contextmanager
    def clients(self) -> Iterator[None]:
        """A container for the clients of each image, on the device."""
        with ExitStack() as stack:
            for image in self._images:
                stack.enter_context(self._container(_client(image), DEVICE, image, ("sleep", "infinity")))
            yield

    def pair(self, kind: Kind, floor_first: bool) -> Pair:
        if floor_first:
            measured, trouble = self.floor(kind)
            one, paces = self.migration(kind)
        else:
            one, paces = self.migration(kind)
            measured, trouble = self.floor(kind)
        return Pair(one, paces, measured, trouble)

    def floor(self, kind: Kind) -> tuple[dict[str, Any] | None, str | None]:
        """What Podman alone takes on one host, and why it is not known or its connection did not go on."""
        with self._container(HOLDER, EDGES[0], kind.image, ("sleep", "infinity")) as address:
            image, netns = f"localhost/coat-{kind.image}", f"ns:{_netns(HOLDER)}"
            start = ["podman", "run", "--detach", "--pull=never", f"--name={PLAIN}", f"--network={netns}", image]
            load = kind.load(self.lab, PLAIN, _client(kind.image), address, seconds=FLOOR_SECONDS)
            try:
                self.lab.exec(EDGES[0], [*start, *kind.command])
                self._await_listening(HOLDER, kind.port)
                load.start()
                time.sleep(BEFORE)
                argv = ["python3", "-c", Path(floor.__file__).read_text(), PLAIN]
                measured = json.loads(self.lab.exec(EDGES[0], argv, timeout=floor.TIMEOUT).stdout)
                return measured, load.finish().trouble
            except subprocess.CalledProcessError as error:
                return None, error.stderr.strip()[-500:]
            finally:
                load.stop()
                self.lab.exec(EDGES[0], ["podman", "rm", "--force", "--time=0", "--ignore", PLAIN])

    def migration(self, kind: Kind, compare: bool = True) -> tuple[Run, tuple[float, float] | None]:
        """A migration, and the paces after it and of a fresh connection to the same server, if they are wanted."""
        with self._container(SERVER, EDGES[0], kind.image, kind.command) as address:
            self._await_listening(SERVER, kind.port)
            ends = (self.lab, SERVER, _client(kind.image), address)
            load = kind.load(*ends, seconds=SECONDS)
            one = run(self.controller, load, EDGES, before=BEFORE)
            if not one.good or not compare:
                return one, None
            after = load.pace(one.outcome, unix_time(one.migrations[0]["finished_at"]) + SETTLE)
            return one, (after, self._fresh(kind.fresh(*ends, seconds=FRESH_SECONDS)))

    def _fresh(self, load: Workload) -> float:
        try:
            load.start()
            return load.pace(load.finish())
        finally:
            load.stop()

    @contextmanager
    def _container(self, name: str, node: str, image: str, command: Sequence[str]) -> Iterator[str]:
        """A container of the controller's for a while; yields its address."""
        body = {"name": name, "node": node, "image": f"localhost/coat-{image}", "command": list(command)}
        try:
            yield str(self.controller.post("/v1.0/containers", body)["ip"])
        finally:
            with suppress(Refused):
                self.controller.call("DELETE", f"/v1.0/containers/{name}")

    def _await_listening(self, name: str, port: int) -> None:
        look = ["nsenter", f"--net={_netns(name)}", "ss", "-Hltn", f"sport = :{port}"]
        give_up = time.monotonic() + LISTEN_TIMEOUT
        while not self.lab.exec(EDGES[0], look).stdout:
            if time.monotonic() > give_up:
                raise LabError(f"the server in {name} does not listen on port {port}")
            time.sleep(0.05)


def _client(image: str) -> str:
    return f"bench-{image}-client"


def _netns(name: str) -> str:
    return f"/run/netns/coat-{name}"


def measure(lab: Lab, names: Sequence[str], rounds: int, say: Callable[[str], None]) -> Iterator[Pair]:
    """All pairs, one after the other, in a lab that is up."""
    bench = Bench(lab, list(dict.fromkeys(KINDS[name].image for name in names)))
    began, total = time.monotonic(), rounds * len(names)
    with bench.clients():
        for number in range(total):
            turn, name = number // len(names), names[number % len(names)]
            left = time_left(number, total, time.monotonic() - began)
            say(f"round {turn + 1} of {rounds}: {name}{left}")
            pair = bench.pair(KINDS[name], floor_first=turn % 2 == 0)
            pair.one.workload = name
            say(f"   {bench_report.line(pair)}")
            yield pair


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=int, nargs="?", default=RUNS, help=f"runs of each workload (default {RUNS})")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="WORKLOAD")
    arguments = parser.parse_args()
    say = partial(Console(stderr=True, highlight=False).print, markup=False, soft_wrap=True)
    pairs: list[Pair] = []
    environment: dict[str, Any] = {}
    try:
        with Lab(name="bench", progress=say) as lab:
            environment = report.environment(lab)
            for pair in measure(lab, arguments.only, arguments.runs, say):
                pairs.append(pair)
    except (LabError, CoatError, RootfsError, Refused) as error:
        sys.exit(f"bench: {error}")
    finally:  # also of one that was interrupted: what it has measured is measured
        if pairs:
            bench_report.write(RESULTS, bench_report.summarise(pairs, environment))
    print(f"{(RESULTS / 'report.md').read_text()}\nsummary and pictures: {RESULTS}/")
    troubles = [f"{pair.one.workload}: {pair.one.trouble}" for pair in pairs if not pair.one.good]
    if troubles:
        sys.exit("bench: not every connection went on:\n" + "\n".join(troubles))


if __name__ == "__main__":
    main()
