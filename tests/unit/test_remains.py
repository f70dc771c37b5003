"""What a killed Podman leaves at work is found by its conmon and ended; nothing else is."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from coat_ryu.node import remains

ID, OTHER = "c0ffee" * 10, "beef00" * 10


def conmon(identity: str) -> subprocess.Popen[bytes]:
    """A process of that name with a child and a grandchild that are in sessions of their own."""
    script = "setsid sh -c 'sleep 300 & wait' & wait"
    argv = ["conmon", "-c", script, "conmon", "-c", identity]
    return subprocess.Popen(argv, executable="/bin/sh", start_new_session=True)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_conmon_and_all_that_it_started_is_ended() -> None:
    mine, other = conmon(ID), conmon(OTHER)
    try:
        for one in (mine, other):
            wait_for(lambda pid=one.pid: len(_family(pid)) == 3)  # type: ignore[misc]
        family, others = _family(mine.pid), _family(other.pid)
        ended = _while_reaped(mine)
        assert set(ended) == set(family)
        wait_for(lambda: not any(alive(pid) for pid in family))
        assert all(alive(pid) for pid in others)
        assert remains.end(ID, "true") == []
    finally:
        for pid in _family(other.pid):
            os.kill(pid, 9)
        other.wait()


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        found += remains._children(one)
    return found


def _while_reaped(process: subprocess.Popen[bytes]) -> list[int]:
    """On a node, process 1 reaps; here we are the parent."""
    reaper = threading.Thread(target=process.wait)
    reaper.start()
    ended = remains.end(ID, "true")
    reaper.join(10)
    return ended
