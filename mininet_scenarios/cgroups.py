"""The lab's part of the machine's cgroup v2 tree: one directory a lab, one below it a host.

Version 1 hierarchies, where a machine still has some, are left alone.
"""

import os
import signal
import time
from pathlib import Path

PREFIX = "coat-lab-"


def mount_point(mountinfo: str) -> Path | None:
    """Where cgroup v2 is mounted, from the text of /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[0] == "cgroup2":
            return Path(fields.split()[4])
    return None


def directory(lab: str) -> Path:
    """The lab's directory, whether or not it exists. Raises RuntimeError on a machine without cgroup v2."""
    root = mount_point(Path("/proc/self/mountinfo").read_text())
    if root is None:
        raise RuntimeError("cgroup v2 is not mounted anywhere; mount it: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
    return root / (PREFIX + lab)


def processes(tree: Path) -> list[int]:
    """All processes in the directory and below."""
    found: list[int] = []
    for folder, _, _ in os.walk(tree):
        try:
            found += map(int, (Path(folder) / "cgroup.procs").read_text().split())
        except OSError:  # it went away meanwhile
            continue
    return found


def remove(tree: Path, timeout: float = 10.0) -> None:
    """Kill what runs in the directory and below, and remove them. Raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while tree.exists():
        for pid in processes(tree):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for folder, _, _ in os.walk(tree, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:  # not empty yet: processes take a moment to die
                continue
        if time.monotonic() > deadline:
            raise TimeoutError(f"{tree} still holds processes {processes(tree)}")
        if tree.exists():
            time.sleep(0.02)
