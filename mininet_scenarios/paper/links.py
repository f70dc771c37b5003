"""Whether the links are as the topology file says: measured before a campaign, which does not start when they are not.

A round trip is the sum of what both ends add, and must be within 5 % of it; a rate is what one TCP connection carries,
and must be within 10 %. In the lab, what the hosts themselves take of a round trip is taken off the delay that is set.
"""

import json
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from coat_ryu.config import parse_topology
from mininet_scenarios.images import IMAGES
from mininet_scenarios.paper.trial import DESTINATION, DEVICE, SOURCE
from mininet_scenarios.place import Place
from mininet_scenarios.plan import LinkSpec, parse_section

RTT_TOLERANCE, RATE_TOLERANCE = 0.05, 0.10
PINGS = 60
RATE_SECONDS, PORT = 2, "5303"
TRIES = 3
"""A busy moment is no property of a link."""


@dataclass(frozen=True, slots=True)
class Check:
    """``unit`` is ms for the round trip between two hosts, Mbit/s for the rate from one to the other."""

    hosts: tuple[str, str]
    unit: str
    asked: float
    measured: float

    @property
    def good(self) -> bool:
        tolerance = RTT_TOLERANCE if self.unit == "ms" else RATE_TOLERANCE
        return abs(self.measured - self.asked) <= tolerance * self.asked

    def __str__(self) -> str:
        what = "round trip" if self.unit == "ms" else "rate"
        ends = " to ".join(self.hosts)
        return f"{what} {ends}: {self.measured:.2f} {self.unit}, asked for {self.asked:g}"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "good": self.good}


def links_of(topology: Path) -> dict[str, LinkSpec]:
    """The ``lab.links`` of a topology file. Raises TopologyError."""
    source = str(topology)
    names = tuple(image.name for image in IMAGES)
    return dict(parse_section(parse_topology(topology.read_text(), source), source, names).links)


def asked(links: Mapping[str, LinkSpec]) -> list[tuple[tuple[str, str], str, float]]:
    """What there is to measure: (hosts, unit, value). Pure."""
    delay = {host: links[host].delay_ms if host in links else 0.0 for host in (SOURCE, DESTINATION, DEVICE)}
    trips = [((DEVICE, edge), "ms", delay[DEVICE] + delay[edge]) for edge in (SOURCE, DESTINATION)]
    rates = [
        ((host, DESTINATION if host == DEVICE else DEVICE), "Mbit/s", links[host].rate_mbit)
        for host in (SOURCE, DESTINATION, DEVICE)
        if host in links
    ]
    return [(hosts, unit, value) for hosts, unit, value in (*trips, *rates) if value]


def verify(place: Place, links: Mapping[str, LinkSpec], say: Callable[[str], None]) -> list[Check]:
    """Every check, the best of a few tries."""
    checks = []
    for hosts, unit, value in asked(links):
        measure = round_trip_ms if unit == "ms" else rate_mbit_s
        for _ in range(TRIES):
            check = Check(hosts, unit, value, measure(place, *hosts))
            say(f"link: {check}{'' if check.good else ', which is too far off'}")
            if check.good:
                break
        checks.append(check)
    return checks


def round_trip_ms(place: Place, host: str, peer: str) -> float:
    """The median of many pings between two hosts' own addresses."""
    ping = ["ping", "-n", "-c", str(PINGS), "-i", "0.02", place.address(peer)]
    found = re.findall(r"time=([\d.]+) ms", place.exec(host, ping, check=False).stdout)
    return statistics.median(map(float, found)) if found else float("nan")


def rate_mbit_s(place: Place, host: str, peer: str) -> float:
    """What one TCP connection from one host to another carries, in a container each, on the hosts' own network."""
    podman = ["podman", "run", "--rm", "--network", "host", "localhost/coat-iperf3", "iperf3"]
    server = place.popen(
        peer, ["timeout", "20", *podman, "-s", "-1", "-p", PORT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        client = [*podman, "-c", place.address(peer), "-p", PORT, "-t", str(RATE_SECONDS), "-O", "1", "-J"]
        for _ in range(20):
            report = json.loads(place.exec(host, client, check=False).stdout or "{}")
            if "sum_received" in report.get("end", {}):
                return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6
            time.sleep(0.3)  # the server is not there yet
        return float("nan")
    finally:
        server.terminate()
        server.communicate(timeout=20)


def corrected(topology: Path, checks: list[Check], target: Path) -> Path:
    """The topology with each edge host's delay less what its round trip was too long. Written to ``target``."""
    document = yaml.safe_load(topology.read_text())
    for check in checks:
        if check.unit == "ms":
            link = document["lab"]["links"].setdefault(check.hosts[1], {})
            link["delay_ms"] = round(max(0.0, link.get("delay_ms", 0) - (check.measured - check.asked)), 3)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(yaml.safe_dump(document, sort_keys=False))
    return target
