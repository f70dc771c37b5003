"""What a restore that was given up leaves at work.

Podman runs conmon in a process group of its own, conmon the runtime, and that CRIU: none of them ends with Podman.
CRIU would go on, and bring a container to life that everybody has turned away from.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

PATIENCE = 10.0
"""Seconds that killed processes may take to be gone."""


def end(container: str, runtime: str) -> list[int]:
    """Ends every conmon of a container (its id), all that it has started, and what the runtime knows of it.

    Returns the processes. For a container that does not run as Podman sees it.
    """
    ended: list[int] = []
    give_up = time.monotonic() + PATIENCE
    while (found := _at_work(container)) and time.monotonic() < give_up:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended += [pid for pid in found if pid not in ended]
        time.sleep(0.01)
    if ended:  # in its own time, for that of the request may be used up
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [runtime, "delete", "--force", container], capture_output=True, timeout=PATIENCE, check=False
            )
    return ended


def _at_work(container: str) -> list[int]:
    """The conmons first: what they have started comes after them."""
    found = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_conmon(pid, container.encode())]
    for pid in found:  # grows meanwhile
        found += _children(pid)
    return found


def _is_conmon(pid: int, container: bytes) -> bool:
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.path.basename(argv[0]) == b"conmon" and container in argv


def _children(pid: int) -> list[int]:
    """Of all its threads (proc_pid_task(5), children)."""
    children: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += map(int, file.read_text().split())
    return children
