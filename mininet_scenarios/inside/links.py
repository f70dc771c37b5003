"""Links of the underlay: a veth pair, shaped at the host's end by tc where the kernel can, else a delay line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from mininet.link import Intf, Link

from mininet_scenarios.inside.host import EdgeHost

DELAY_LINE = Path(__file__).with_name("delayline.py")


def netem_works() -> bool:
    """Whether this kernel has the netem qdisc. Mininet's own TCLink only prints an error where it is missing."""
    add = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
    works = subprocess.run(add, capture_output=True, check=False, timeout=10).returncode == 0
    if works:
        subprocess.run(["tc", "qdisc", "delete", "dev", "lo", "root"], check=True, timeout=10)
    return works


def tbf(spec: dict[str, Any]) -> list[str]:
    """Arguments of tc-tbf(8) for a link that only has a rate; the burst is what it sends in a millisecond."""
    burst = max(int(spec["rate_mbit"] * 125), 2 * 1600)
    return ["tbf", "rate", f"{spec['rate_mbit']}mbit", "burst", str(burst), "latency", f"{spec['queue_ms']}ms"]


def netem(spec: dict[str, Any]) -> list[str]:
    """Arguments of tc-netem(8) for the whole link."""
    arguments = ["netem", "delay", f"{spec['delay_ms']}ms"]
    if spec["jitter_ms"]:
        arguments.append(f"{spec['jitter_ms']}ms")
    if spec["loss_percent"]:
        arguments += ["loss", f"{spec['loss_percent']}%"]
    if spec["rate_mbit"]:
        arguments += ["rate", f"{spec['rate_mbit']}mbit"]
    return [*arguments, "limit", str(_packets_in_flight(spec))]


def _packets_in_flight(spec: dict[str, Any]) -> int:
    """Room for what is under way and for the queue, in packets of 1500 bytes."""
    seconds = (spec["delay_ms"] + spec["jitter_ms"] + spec["queue_ms"]) / 1000
    return max(1000, int((spec["rate_mbit"] or 10_000) * 1e6 * seconds / 12_000))


class DelayLink(Link):  # type: ignore[misc]  # Mininet has no types
    """Two TAPs in place of the veth pair, joined by delayline.py: what netem does, on a kernel without it."""

    def __init__(self, *args: Any, spec: dict[str, Any], **params: Any) -> None:
        self.spec = spec
        super().__init__(*args, fast=False, **params)  # fast: the peer is born in its host; a TAP must be moved there

    def makeIntfPair(self, intfname1: str, intfname2: str, *_: Any, **__: Any) -> None:
        keys = ("delay_ms", "jitter_ms", "loss_percent", "rate_mbit", "queue_ms")
        settings = [f"--{key.replace('_', '-')}={self.spec[key]}" for key in keys if self.spec[key]]
        command = [sys.executable, "-SE", str(DELAY_LINE), intfname2, intfname1, *settings]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{' '.join(command)} ended with status {self.process.wait(10)}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        super().stop()


def connect(net: Any, switch: Any, host: EdgeHost, netem_there: bool) -> Intf:
    """Join a host to the underlay with a link as its plan says. Returns the switch's interface."""
    spec = host.spec["link"]
    shaped = spec["delay_ms"] or spec["jitter_ms"] or spec["loss_percent"]
    # The switch comes first: Mininet makes the pair there, where the host's process 1 can be named.
    if shaped and not netem_there:
        return net.addLink(switch, host, cls=DelayLink, spec=spec, intfName2="eth0").intf1
    link = net.addLink(switch, host, cls=Link, intfName2="eth0")
    if shaped or spec["rate_mbit"]:
        host.run("tc", "qdisc", "add", "dev", "eth0", "root", *(netem(spec) if shaped else tbf(spec)))
    return link.intf1
