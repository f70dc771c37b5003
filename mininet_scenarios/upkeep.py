"""What is left on a lab's hosts besides the containers that should be there, and whether connections still go on.

Asked of the hosts themselves, not of the controller.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_ryu.model import container_port
from mininet_scenarios.lab import Lab

SAMPLE = 0.1

LOOK = """\
import glob, json, os, subprocess
def out(*argv): return subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout
containers = json.loads(out("/usr/bin/podman", "ps", "-a", "--format=json") or "[]")
storage = "/var/lib/containers/storage/"
print(json.dumps({
    "containers": {one["Names"][0]: one["State"] for one in containers},
    "namespaces": [n for n in os.listdir("/run/netns")] if os.path.isdir("/run/netns") else [],
    "ports": [p for p in out("/usr/bin/ovs-vsctl", "list-ports", "coat").split() if p[:2] in ("c-", "h-")],
    "links": [n for n in os.listdir("/sys/class/net") if n[:2] in ("c-", "h-")],
    "transfers": os.listdir(storage + "coat") if os.path.isdir(storage + "coat") else [],
    "checkpoints": glob.glob(storage + "overlay-containers/*/userdata/checkpoint"),
    "hooks": int(out("pgrep", "-fc", "^[^ ]*python3 -I /run/coat/hook-") or 0),
}))
"""


def look(lab: Lab, host: str) -> dict[str, Any]:
    """What of the product's is on a host."""
    found: dict[str, Any] = json.loads(lab.exec(host, ["python3", "-c", LOOK], timeout=60).stdout)
    return found


def residue(lab: Lab, host: str, residents: Iterable[str]) -> list[str]:
    """What is too much on a host where only ``residents`` should be, in words; what is missing too."""
    found, wanted = look(lab, host), set(residents)
    running = {name for name, state in found["containers"].items() if state == "running"}
    said = [f"{host}: {name} is {state}" for name, state in found["containers"].items() if name not in wanted]
    said += [f"{host}: {name} does not run" for name in wanted - running]
    spaces = {name.removeprefix("coat-") for name in found["namespaces"]}
    said += [f"{host}: namespace {name}" for name in spaces ^ wanted]
    ports = {container_port(name) for name in wanted}
    said += [f"{host}: port {name}" for name in set(found["ports"]) ^ ports]
    said += [f"{host}: interface {name}" for name in set(found["links"]) - ports]
    said += [f"{host}: transfer {name}" for name in found["transfers"]]
    said += [f"{host}: {name}" for name in found["checkpoints"]]
    return said + ([f"{host}: {found['hooks']} hooks"] if found["hooks"] != 1 else [])


@dataclass(frozen=True, slots=True)
class Pulse:
    """Connections of a client container at one moment: local port to bytes received and acknowledged so far."""

    counts: dict[int, int]

    @classmethod
    def of(cls, lab: Lab, host: str, client: str) -> "Pulse":
        inside = ["nsenter", f"--net=/run/netns/coat-{client}", "ss", "-tinHO", "state", "established"]
        counts = {}
        for line in lab.exec(host, inside).stdout.splitlines():
            numbers = re.findall(r"bytes_(?:received|acked):(\d+)", line)
            counts[int(line.split()[2].rpartition(":")[2])] = sum(map(int, numbers))
        return cls(counts)


def goes_on(lab: Lab, host: str, client: str, before: Pulse, timeout: float) -> bool:
    """Whether every connection of before is there still, and the busiest moves data, within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    now = Pulse.of(lab, host, client)
    while set(before.counts) <= set(now.counts):
        later = Pulse.of(lab, host, client)
        if sum(later.counts.values()) > sum(now.counts.values()):
            return set(before.counts) <= set(later.counts)
        if time.monotonic() > deadline:
            break
        time.sleep(0.3)
    return False


EVIDENCE = """\
podman ps -a; podman inspect $(podman ps -aq); podman events --stream=false --since=10m
for name in $(podman ps -aq); do podman logs --tail=5 "$name" 2>&1; done
ovs-vsctl show; ip -all netns exec ss -tinoe; ps -ef; dmesg | tail -n 20"""


def keep_evidence(lab: Lab, hosts: Iterable[str], file: Path) -> None:
    """What somebody wants to see of a case that went wrong, before its lab goes: the controller's log, the hosts."""
    parts = [(lab.folder / "controller.log").read_text(errors="replace")]
    parts += [f"==== {host}\n{lab.exec(host, ['sh', '-c', EVIDENCE], check=False).stdout}" for host in hosts]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(parts))


class Sampler:
    """Asks over and over while it is open; ``most`` is the largest answer."""

    def __init__(self, ask: Callable[[], int]) -> None:
        self.most = 0
        self._ask = ask
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE):
            with suppress(OSError):
                self.most = max(self.most, self._ask())

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
