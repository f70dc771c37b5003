"""``make bench-overlay``: how long one cut-over takes, and how fast all switches are resynchronised, by their number.

The switches are bridges of real Open vSwitch processes that speak OpenFlow 1.3 over TCP with a ryu-manager; their ports
are dummies, as no frame is sent. They form a binary tree, and the container moves between two nodes that are four hops
apart in every size, so that only the number of switches differs. A resynchronisation starts with empty switches.
"""

import argparse
import http.client
import json
import os
import pickle
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console

from coat_ryu.model import Binding, Network, Node, Place, Topology, Tunnel, container_port, default_mac, tunnel_port
from coat_ryu.overlay import tunnels
from mininet_scenarios import bench_app, rootfs
from mininet_scenarios.measure import summary
from mininet_scenarios.private_ovs import PrivateOvs, die_with_parent

mpl.use("Agg")
from matplotlib import pyplot

SIZES = (10, 100, 400)
CONTAINERS = 20
CUT_OVERS = 20
RESYNCS = 3
MOVER = "mover"
SUBNET, SUBNET6 = IPv4Network("10.0.0.0/16"), IPv6Network("fd00::/64")
BRIDGES_EACH = 10
"""Bridges in one Open vSwitch process. Its main loop visits all of them for every message, which no real node does: so
the same few whatever the size of the overlay, with idle ones where there are not enough."""
HEALTH_EVERY = 0.02
START_TIMEOUT = 60.0
CONNECT_TIMEOUT = 180.0
RESULTS = Path("results/bench-overlay")


@dataclass
class Scene:
    """A tree of ``size`` nodes and what is bound to it."""

    size: int
    topology: Topology = field(init=False)
    bindings: list[Binding] = field(init=False)
    here: str = field(init=False)
    there: str = field(init=False)

    def __post_init__(self) -> None:
        names = [f"s{number:03d}" for number in range(self.size)]
        self.topology = Topology(
            nodes=tuple(Node(name=name, address=IPv4Address(0x0A090001 + n)) for n, name in enumerate(names)),
            networks=(Network(name="net", vni=42, subnet=SUBNET, subnet6=SUBNET6),),
            tunnels=tuple(Tunnel(between=(names[(n - 1) // 2], names[n])) for n in range(1, self.size)),
        )
        first = next(n for n in range(self.size) if 4 * n + 6 >= self.size)  # it lacks one of four grandchildren
        above = (first - 1) // 2
        self.here, self.there = names[4 * above + 3], names[4 * above + 5]
        spread = [names[number * self.size // CONTAINERS] for number in range(CONTAINERS)]
        self.bindings = [_bound(f"c{number}", node, number + 10) for number, node in enumerate(spread)]
        self.bindings.append(_bound(MOVER, self.here, 9))

    def ports(self) -> dict[str, set[str]]:
        """The ports of every node's bridge."""
        found: dict[str, set[str]] = {node.name: set() for node in self.topology.nodes}
        for a, b in tunnels(self.topology):
            found[a].add(tunnel_port(b))
            found[b].add(tunnel_port(a))
        for binding in self.bindings:
            found[binding.place.node].add(binding.place.port)
        found[self.there].add(container_port(MOVER))
        return found

    def moved(self, node: str) -> Binding:
        place = Place(node, container_port(MOVER))
        return replace(self.bindings[-1], place=place, origins=(place,))


def _bound(name: str, node: str, number: int) -> Binding:
    place, ip = Place(node, container_port(name)), IPv4Address(0x0A000000 + number)
    return Binding(name, 42, default_mac(42, ip), (ip, ip_address(f"fd00::{number:x}")), place, (place,))


def colours(ports: dict[str, set[str]]) -> dict[str, int]:
    """Which Open vSwitch process each bridge goes to: interface names are unique in one of them."""
    colour: dict[str, int] = {}
    taken: list[set[str]] = []
    count: list[int] = []
    for node, names in ports.items():
        fitting = (n for n, used in enumerate(taken) if count[n] < BRIDGES_EACH and not used & names)
        number = next(fitting, len(taken))
        if number == len(taken):
            taken.append(set())
            count.append(0)
        taken[number] |= names
        count[number] += 1
        colour[node] = number
    return colour


class Bench:
    """The switches of one scene, and controllers for them."""

    def __init__(self, scene: Scene, stack: ExitStack) -> None:
        self.scene, self._stack = scene, stack
        self._directory = Path(tempfile.mkdtemp(prefix="coat-bench-"))
        stack.callback(shutil.rmtree, self._directory)
        self._openflow, self._rest = _free_ports(2)
        self._processes: list[PrivateOvs] = []
        self._bridges: dict[str, PrivateOvs] = {}

    def build(self) -> None:
        ports = self.scene.ports()
        colour = colours(ports)
        for number in range(max(colour.values()) + 1):
            directory = self._directory / f"ovs{number}"
            directory.mkdir()
            process = PrivateOvs(rootfs.path(), directory)
            self._stack.callback(process.stop)
            process.start()
            self._processes.append(process)
        target = f"tcp:127.0.0.1:{self._openflow}"
        for number, process in enumerate(self._processes):
            mine = [node for node in ports if colour[node] == number]
            commands: list[str] = []
            for node in mine:
                dpid = self.scene.topology.node(node).switch
                commands += ["--", *process.bridge(node, dpid, dict.fromkeys(sorted(ports[node]), ""), target)]
                self._bridges[node] = process
            for idle in range(BRIDGES_EACH - len(mine)):
                commands += ["--", *process.bridge(f"idle{idle}", f"{idle + 1:016x}", {f"i{idle}": ""})]
            process.vsctl(*commands[1:])

    def empty(self) -> None:
        for node, process in self._bridges.items():
            process.ofctl("del-flows", node)

    @contextmanager
    def controller(self) -> Iterator[None]:
        """A ryu-manager that knows all bindings, with every switch connected, and not ready yet."""
        setup = self._directory / "setup.pickle"
        setup.write_bytes(pickle.dumps((self.scene.topology, self.scene.bindings)))
        argv = [sys.executable, str(Path(sys.executable).with_name("ryu-manager")), bench_app.__file__]
        argv += ["--ofp-listen-host=127.0.0.1", f"--ofp-tcp-listen-port={self._openflow}"]
        argv += ["--wsapi-host=127.0.0.1", f"--wsapi-port={self._rest}"]
        environment = {**os.environ, bench_app.SETUP: str(setup)}
        with (self._directory / "controller.log").open("ab") as log:
            process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent)
        try:
            self._wait_connected(process)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def call(self, method: str, path: str, body: bytes = b"") -> Any:
        peer = http.client.HTTPConnection("127.0.0.1", self._rest, timeout=600)
        try:
            peer.request(method, path, body)
            answer = peer.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')[:500]}")
            return json.loads(text)
        finally:
            peer.close()

    def _wait_connected(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT + CONNECT_TIMEOUT
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                if self.call("GET", "/healthz")["connected"] == self.scene.size:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        log = (self._directory / "controller.log").read_text()[-3000:]
        raise RuntimeError(f"not all of {self.scene.size} switches connected:\n{log}")

    @contextmanager
    def health(self) -> Iterator[list[float]]:
        """Seconds that ``GET /healthz`` takes meanwhile, asked for all the time."""
        times: list[float] = []
        done = threading.Event()

        def ask() -> None:
            while not done.wait(HEALTH_EVERY):
                started = time.monotonic()
                self.call("GET", "/healthz")
                times.append(time.monotonic() - started)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield times
        finally:
            done.set()
            thread.join()


def measure(sizes: Sequence[int], cut_overs: int, say: Console) -> list[dict[str, Any]]:
    """All runs. All switches stand all the time and the sizes take turns: what else the machine does hits all alike."""
    runs: list[dict[str, Any]] = []
    with ExitStack() as stack:
        benches = [Bench(Scene(size), stack) for size in sizes]
        for bench in benches:
            say.print(f"{bench.scene.size} switches: starting them")
            bench.build()
        for number in range(RESYNCS):
            with ExitStack() as controllers:
                for bench in benches:
                    bench.empty()
                    controllers.enter_context(bench.controller())
                    runs.append(_resync(bench, say))
                if number == RESYNCS - 1:
                    runs += _cut_overs(benches, cut_overs, say)
    return runs


def _resync(bench: Bench, say: Console) -> dict[str, Any]:
    with bench.health() as times:
        answer = bench.call("POST", "/resync")
    size, rate = bench.scene.size, answer["flows"] / answer["seconds"]
    say.print(f"{size} switches: {answer['flows']} flows in {answer['seconds']:.2f} s, {rate:.0f} flows/s")
    return {"switches": size, "kind": "resync", **answer, "rate": rate, "healthz_s": times}


def _cut_overs(benches: Sequence[Bench], count: int, say: Console) -> list[dict[str, Any]]:
    runs = []
    for number in range(count):
        for bench in benches:
            scene = bench.scene
            body = pickle.dumps(scene.moved((scene.there, scene.here)[number % 2]))
            with bench.health() as times:
                answer = bench.call("POST", "/cut_over", body)
            runs.append({"switches": scene.size, "kind": "cut_over", **answer, "healthz_s": times})
            say.print(f"{scene.size} switches: cut over in {answer['seconds'] * 1000:.1f} ms")
    return runs


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for size in dict.fromkeys(run["switches"] for run in runs):
        mine = [run for run in runs if run["switches"] == size]
        resyncs = [run for run in mine if run["kind"] == "resync"]
        moves = [run for run in mine if run["kind"] == "cut_over"]
        metrics[str(size)] = {
            "cutover_s": summary(run["seconds"] for run in moves),
            "all_switches_s": summary(run["all_after"] for run in moves),
            "resync_flows_per_s": summary((run["rate"] for run in resyncs), "flows/s"),
            "healthz_s": summary(value for run in mine for value in run["healthz_s"]),
            "flows": max(run["flows"] for run in resyncs),
        }
    return {
        "experiment": "bench-overlay",
        "runs": len(runs),
        "metrics": metrics,
        "per_run": runs,
        "environment": {
            "kernel": platform.release(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "load": os.getloadavg()[0],
        },
    }


def report(result: dict[str, Any]) -> str:
    """The figures as a document."""
    lines = ["# Overlay benchmark", "", __doc__ or "", ""]
    columns = ("switches", "flows", "cut-over (ms)", "all switches (ms)", "resync (flows/s)", "/healthz, longest (ms)")
    lines.append("| " + " | ".join(columns) + " |")
    lines.append("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for size, values in result["metrics"].items():
        figures = (
            f"{values['cutover_s']['median'] * 1000:.1f}",
            f"{values['all_switches_s']['median'] * 1000:.0f}",
            f"{values['resync_flows_per_s']['mean']:.0f}",
            f"{values['healthz_s']['max'] * 1000:.0f}",
        )
        lines.append(f"| {size} | {values['flows']} | " + " | ".join(figures) + " |")
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], directory: Path) -> None:
    sizes = list(result["metrics"])
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    moves: dict[str, list[float]] = {size: [] for size in sizes}
    for run in result["per_run"]:
        if run["kind"] == "cut_over":
            moves[str(run["switches"])].append(run["seconds"] * 1000)
    left.boxplot(list(moves.values()), tick_labels=sizes)
    left.set_ylim(bottom=0)
    left.set_xlabel("switches")
    left.set_ylabel("cut-over (ms)")
    right.bar(sizes, [result["metrics"][size]["resync_flows_per_s"]["mean"] for size in sizes], color="grey")
    right.set_xlabel("switches")
    right.set_ylabel("resynchronisation (flows/s)")
    for suffix in ("png", "svg"):
        figure.savefig(directory / f"overlay.{suffix}", dpi=130)
    pyplot.close(figure)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-overlay", description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=CUT_OVERS, help="cut-overs for every number of switches")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="SWITCHES")
    args = parser.parse_args()
    say = Console()
    rootfs.ensure(say.print)
    result = summarise(measure(args.sizes, args.runs, say))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "summary.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / "report.md").write_text(report(result))
    plot(result, RESULTS)
    say.print(report(result))


if __name__ == "__main__":
    main()
