"""`make test`: the unit and install tests beside those that need switches and labs, which wait more than they work.

    .venv/bin/python tools/run_tests.py

The second kind measures time, so the first one yields to it. Status 0 only if both have succeeded.
"""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from mininet_scenarios.private_ovs import die_with_parent

PYTEST = [sys.executable, "-m", "pytest"]
MEASURED = ("tests/lab", "tests/node", "tests/switch")
BESIDE = ("tests/unit", "tests/install")
NICE = 19
STOP_TIMEOUT = 30


def main() -> int:
    # One cache of pytest's for both would have the last one's failures only.
    return run([*PYTEST, *MEASURED], [*PYTEST, "-p", "no:cacheprovider", *BESIDE])


def run(measured: list[str], beside: list[str]) -> int:
    """The status of the one that failed. What ``beside`` says is kept until the other has said all."""
    with tempfile.TemporaryFile() as said:
        other = subprocess.Popen(
            beside,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=give_way,
        )
        try:
            status = subprocess.run(measured).returncode
            if other.poll() is None:
                print("waiting for what ran beside", flush=True)
            status = other.wait() or status
        finally:
            stop(other)
        said.seek(0)
        sys.stdout.write(said.read().decode(errors="replace"))
    return status


def give_way() -> None:
    die_with_parent()
    os.nice(NICE)
    # A nice value counts among the processes of one session only; this one is the session's (sched(7), autogroup).
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICE))


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C does not reach another session: pytest is told, so that it tidies up."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
