"""``make test`` runs two pytests: neither's failure is lost, nor what it said."""

import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "run_tests.py"


@pytest.fixture
def run() -> Callable[[list[str], list[str]], int]:
    found: Callable[[list[str], list[str]], int] = runpy.run_path(str(SCRIPT))["run"]
    return found


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(("measured", "beside", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (2, 0, 2)])
def test_a_failure_of_either_is_one(
    run: Callable[[list[str], list[str]], int], measured: int, beside: int, status: int
) -> None:
    assert run(python(f"raise SystemExit({measured})"), python(f"raise SystemExit({beside})")) == status


def test_what_ran_beside_speaks_last_and_gave_way(
    run: Callable[[list[str], list[str]], int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(python("print('measured')"), python("import os; print('beside at', os.nice(0))")) == 0
    first, *_, last = capfd.readouterr().out.splitlines()
    assert (first, last) == ("measured", f"beside at {min(os.nice(0) + 19, 19)}")


def test_who_is_interrupted_leaves_nobody_behind(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    beside = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)"
    measured = python("import time; time.sleep(60)")
    ours = f"import runpy; runpy.run_path({str(SCRIPT)!r})['run']({measured}, {python(beside)})"
    process = subprocess.Popen(python(ours), stderr=subprocess.DEVNULL, start_new_session=True)
    while not (pid.exists() and pid.read_text()):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(30)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
