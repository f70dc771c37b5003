"""What a node is and has, for the controller's preflight and for its clock."""

import functools
import os
import platform
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from coat_ryu.node import fence, inside, limits, netns, podman, steady
from coat_ryu.node.failure import Failure
from coat_ryu.node.process import remaining, run
from coat_ryu.node.verbs import Name, Text, verb
from coat_ryu.node.verbs import address as check_address

COMMANDS = {
    "podman": ["podman", "--version"],
    "criu": ["criu", "--version"],
    "ovs": ["ovs-vsctl", "--version"],
}


@verb
def hello(*, address: Text | None = None) -> dict[str, Any]:
    """Versions (None for what is missing), identity, clock, free memory and disk in bytes.

    ``lacks`` are capabilities that root does not have here, of those that CRIU wants for some containers only.
    ``mtu`` is that of the interface with ``address``, where tunnels end; None if there is none.
    """
    if address is not None:
        check_address("address", address)
    memory = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/meminfo").read_text()))
    return {
        "versions": _versions(),
        "hostname": socket.gethostname(),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "controller": os.environ.get("SSH_CONNECTION", "").partition(" ")[0] or None,
        "cpu_flags": _cpu_flags(),
        "lacks": [] if inside.has_capability(inside.CAP_SYS_RESOURCE) else ["CAP_SYS_RESOURCE"],
        "cgroup_controllers": limits.controllers(),
        "memory_free": int(memory["MemAvailable"]) * 1024,
        "disk_free": shutil.disk_usage(podman.graph_root()).free if _versions()["podman"] else 0,
        "mtu": address and netns.mtu_of(address),
        "clock": time.time(),
    }


@verb
def clock() -> float:
    """The node's clock (``steady``) and nothing else, so that the answer is quick."""
    return steady.now()


@verb
def epoch_heard(*, container: Name) -> dict[str, int]:
    """The highest epoch of the container that this node has heard: whoever is refused as ``fenced`` asks for it."""
    return {"epoch": fence.heard(container)}


@verb
def reach(*, address: Text, port: int, timeout: float) -> dict[str, Any]:
    """Whether anybody answers at a TCP port of another host, if only to refuse; tells a dead host from a lost hook."""
    check_address("address", address)
    try:
        socket.create_connection((address, port), remaining(timeout)).close()
    except ConnectionRefusedError:
        return {"reached": True}
    except OSError:
        return {"reached": False}
    return {"reached": True}


@functools.cache
def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {name: _version(argv) for name, argv in COMMANDS.items()}
    found["runtime"] = f"{podman.runtime()} {_version([podman.runtime(), '--version'])}" if found["podman"] else None
    return found | {"python": platform.python_version(), "kernel": platform.release()}


def _version(argv: list[str]) -> str | None:
    """The first version number that the command prints. None if it is not installed or fails."""
    try:
        return next(iter(re.findall(r"\d+(?:\.\d+)+", run(argv, timeout=20))), None)
    except Failure:
        return None


@functools.cache
def _cpu_flags() -> list[str]:
    """Features of the first processor: ``flags`` on x86, ``Features`` on Arm."""
    match = re.search(r"^(?:flags|Features)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return sorted(match[1].split()) if match else []
