"""``make demo``: three hosts, servers that move while their connections are in use, a table, plots.

An iperf3 server moves while it sends and while it receives, then a sockperf server; RUNS rounds of the three. Exit
status 0 only if every connection went on, with nothing lost.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from coat_ryu.errors import CoatError
from mininet_scenarios import report
from mininet_scenarios.experiment import Controller, Run, run
from mininet_scenarios.lab import Lab, LabError
from mininet_scenarios.rootfs import RootfsError
from mininet_scenarios.workloads import Iperf3, Sockperf, Workload

EDGES = ("edge1", "edge2")
SECONDS, BEFORE = 14.0, 3.0
RESULTS = Path("results/demo")


def workloads(lab: Lab) -> list[Workload]:
    """Containers and addresses are topologies/paper.yaml's."""
    iperf3 = (lab, "iperf3-server", "iperf3-client", "192.168.50.10")
    return [
        Iperf3(*iperf3, reverse=True, seconds=SECONDS),
        Iperf3(*iperf3, reverse=False, seconds=SECONDS),
        Sockperf(lab, "sockperf-server", "sockperf-client", "192.168.50.11", seconds=SECONDS),
    ]


def demonstrate(rounds: int, say: Console) -> list[Run]:
    """Brings the lab up, runs, tears it down, writes what came of it."""
    runs = []
    with Lab(name="demo", progress=lambda line: say.print(line, markup=False)) as lab:
        controller = Controller(lab.rest)
        for number in range(rounds):
            for workload in workloads(lab):
                say.print(f"round {number + 1} of {rounds}: {workload.name} for {SECONDS:.0f} s, migrated on the way")
                runs.append(run(controller, workload, EDGES, before=BEFORE))
        environment = report.environment(lab)
    report.write(RESULTS, report.summarise("demo", runs, environment))
    for number, one in enumerate(runs, 1):
        if not one.outcome.trouble:
            report.plot(RESULTS, number, one)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description="Migrates servers under live TCP connections.")
    parser.add_argument("runs", type=int, nargs="?", default=1, help="rounds of the three workloads (default 1)")
    rounds = parser.parse_args().runs
    say = Console(stderr=True, highlight=False)
    try:
        runs = demonstrate(rounds, say)
    except (LabError, CoatError, RootfsError) as error:
        sys.exit(f"demo: {error}")
    report.table(runs)
    print(f"summary and plots: {RESULTS}/")
    troubles = [f"{run.workload}: {run.trouble}" for run in runs if not run.good]
    if troubles:
        sys.exit("demo: not every connection went on:\n" + "\n".join(troubles))


if __name__ == "__main__":
    main()
