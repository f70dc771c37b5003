"""The container's cgroup freezer.

CRIU freezes a cgroup and looks every 100 ms whether it has worked (criu/seize.c, freeze_processes), so every other
checkpoint loses a tenth of a second. A cgroup that is frozen already is taken as it is; the action script (``gate``)
freezes it in "pre-dump", and the kernel needs well under a millisecond. What was frozen before CRIU came, CRIU leaves
frozen when it fails: whoever goes back must thaw.
"""

from pathlib import Path
from typing import Any

from coat_ryu.node import state
from coat_ryu.node.podman import inspect, place
from coat_ryu.node.verbs import Name, verb

MOUNTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
"""Where cgroup2 is mounted: alone, or beside cgroup v1 (systemd's hybrid layout)."""


def thaw_process(pid: int) -> bool:
    """Lets the process's cgroup run on. False when it is not in one that could be frozen."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:  # it has ended
        return False
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    for mount in MOUNTS:
        switch = mount / path / "cgroup.freeze"
        if path and switch.exists():
            switch.write_text("0")
            return True
    return False


@verb
def thaw(*, name: Name) -> dict[str, Any]:
    """A container that a failed checkpoint has left frozen runs on, and what it had written goes: the memory of a
    process that lives. One that was never frozen runs anyway.
    """
    raw = inspect(name)
    pid = raw["State"]["Pid"] if raw else 0
    if pid:
        state.remove_remaps(place(name), Path(f"/proc/{pid}/root"))
        state.remove_checkpoint(place(name))
    return {"thawed": bool(pid) and thaw_process(pid)}
