"""What a container may use and do at the most, as options of Podman's."""

from pathlib import Path
from typing import Any

from coat_ryu.node.failure import Failure

CGROUP2 = Path("/sys/fs/cgroup/cgroup.controllers")
CGROUP1 = Path("/proc/cgroups")
CONTROLLERS = {"mem_limit": "memory", "cpus": "cpu", "pids_limit": "pids"}
"""Which cgroup controller carries out a limit."""


def controllers() -> list[str]:
    """The cgroup controllers that containers have here (cgroups(7)): those of cgroup2 where it is mounted, for there
    Podman looks, though a kernel may keep some in cgroup v1 beside it.
    """
    try:
        if CGROUP2.exists():
            return sorted(CGROUP2.read_text().split())
        rows = [line.split() for line in CGROUP1.read_text().splitlines() if not line.startswith("#")]
    except OSError:
        return []
    return sorted(row[0] for row in rows if row[3:] == ["1"])


def options(limits: dict[str, Any]) -> list[str]:
    """Raises Failure for a limit that this node cannot carry out."""
    there = controllers()
    for limit, controller in CONTROLLERS.items():
        if limits.get(limit) is not None and controller not in there:
            raise Failure("conflict", f"{limit}: this node's containers have no cgroup controller {controller}")
    # Podman's own default for processes needs the controller.
    pids = limits.get("pids_limit") or (None if "pids" in there else 0)
    given = {"--memory": limits.get("mem_limit"), "--cpus": limits.get("cpus"), "--pids-limit": pids}
    return [
        *(f"{option}={value}" for option, value in given.items() if value is not None),
        *(f"--cap-drop={name}" for name in limits.get("cap_drop", ())),
        *(f"--security-opt={option}" for option in limits.get("security_opt", ())),
    ]
