"""The container's cgroup freezer.

CRIU freezes a cgroup and looks every 100 ms whether it has worked (criu/seize.c, freeze_processes), so every other
checkpoint loses a tenth of a second. A cgroup that is frozen already is taken as it is; while CRIU waits in its
"pre-dump" (``gate``) we freeze it, and the kernel needs well under a millisecond. It must be the very one that the
runtime tells CRIU of: processes in a group that is frozen below it are never thawed, and CRIU waits for them in vain.
What was frozen before CRIU came, CRIU leaves frozen when it fails: whoever goes back must thaw.
"""

from pathlib import Path
from typing import Any

from coat_ryu.node import state
from coat_ryu.node.podman import inspect, place
from coat_ryu.node.verbs import Name, verb

MOUNTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
"""Where cgroup2 is mounted: alone, or beside cgroup v1 (systemd's hybrid layout)."""
SWITCH = "cgroup.freeze"


WITHIN = "container"
"""A group that crun makes within the one that systemd gives it."""


def group(path: str, identity: str) -> str:
    """The container's own cgroup, from that of its first process: an init may sit in one of its own further down."""
    parts = path.strip("/").split("/")
    depth = next((depth for depth, part in enumerate(parts, 1) if identity in part), len(parts))
    return "/".join(parts[: depth + 1] if parts[depth : depth + 1] == [WITHIN] else parts[:depth])


def directory(pid: int, identity: str) -> Path | None:
    """Where the cgroup of the container ``identity`` is, whose first process is ``pid``; None if it has no freezer."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:  # it has ended
        return None
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    if not path:
        return None
    found = (mount / group(path, identity) for mount in MOUNTS)
    return next((one for one in found if (one / SWITCH).exists()), None)


def set_frozen(own: Path, frozen: bool) -> None:
    """Raises OSError when the cgroup is gone."""
    (own / SWITCH).write_text("1" if frozen else "0")


def thaw_container(pid: int, identity: str) -> bool:
    """Lets the container run on. False when it is in no cgroup that could be frozen."""
    own = directory(pid, identity)
    if own is None:
        return False
    try:
        set_frozen(own, False)
    except OSError:  # it has ended meanwhile
        return False
    return True


@verb
def thaw(*, name: Name) -> dict[str, Any]:
    """A container that a failed checkpoint has left frozen runs on, and what it had written goes: the memory of a
    process that lives. One that was never frozen runs anyway.
    """
    raw = inspect(name)
    pid = raw["State"]["Pid"] if raw else 0
    if raw is None or not pid:
        return {"thawed": False}
    state.remove_remaps(place(name), Path(f"/proc/{pid}/root"))
    state.remove_checkpoint(place(name))
    return {"thawed": thaw_container(pid, raw["Id"])}
