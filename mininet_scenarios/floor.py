"""Runs on a lab host (standard library only): what Podman takes, by itself, to move a container from a host to itself.

``floor.py NAME`` checkpoints the container into an archive, removes it and restores it from there, with Podman's
default options. Prints a line of JSON: ``checkpoint_s``, ``rm_s``, ``restore_s`` and ``floor_s`` in all; ``bytes`` of
the archive; ``checkpoint_criu`` and ``restore_criu``, CRIU's statistics in microseconds.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

TIMEOUT = 300


def timed(*arguments: str) -> tuple[float, str]:
    """Seconds that Podman takes for it, and what it prints."""
    began = time.monotonic()
    done = subprocess.run(["podman", *arguments], stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT)
    return time.monotonic() - began, done.stdout


def criu_statistics(printed: str) -> dict[str, int]:
    """CRIU's share of what ``--print-stats`` prints (podman-container-checkpoint(1))."""
    (container,) = json.loads(printed)["container_statistics"]
    return dict(container["criu_statistics"])


def measure(name: str, archive: str) -> dict[str, Any]:
    began = time.monotonic()
    options = ("--tcp-established", "--print-stats")
    checkpoint, dumped = timed("container", "checkpoint", f"--export={archive}", *options, name)
    rm, _ = timed("rm", name)
    restore, restored = timed("container", "restore", f"--import={archive}", *options)
    return {
        "floor_s": time.monotonic() - began,
        "checkpoint_s": checkpoint,
        "rm_s": rm,
        "restore_s": restore,
        "bytes": os.path.getsize(archive),
        "checkpoint_criu": criu_statistics(dumped),
        "restore_criu": criu_statistics(restored),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        print(json.dumps(measure(sys.argv[1], os.path.join(directory, "archive.tar"))), flush=True)
