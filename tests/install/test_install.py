"""Install, run, uninstall, in new environments; and `make install`, interrupted and taken up again."""

import base64
import hashlib
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.install.conftest import PIP_TIMEOUT_S, ROOT, check, interpreters, run
from tests.install.manager import running

pytestmark = pytest.mark.timeout(1200)

IMPORTED_AT_START = "import sys; print(*sorted(name for name in sys.modules if name.partition('.')[0] in %r))"
REPAIRED = "import eventlet.wsgi; eventlet.wsgi.ALREADY_HANDLED = []; from ryu.cmd import manager; manager.main()"


@pytest.mark.parametrize("version", interpreters())
def test_wheel_runs_and_leaves_without_a_trace(version: str, wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    check(interpreters()[version], "-m", "venv", environment, cwd=tmp_path)
    for options in locked():
        check(environment / "bin/pip", "install", "-qq", "--no-compile", *options, cwd=ROOT)
    check(environment / "bin/pip", "install", "-qq", "--no-compile", "--no-deps", wheel, cwd=tmp_path)
    check(environment / "bin/pip", "check", cwd=tmp_path)
    assert_serves(environment, tmp_path / "run")
    assert_costs_nothing(environment, tmp_path)
    assert "Usage" in check(environment / "bin/coat", "--help", cwd=tmp_path)
    assert_leaves(environment, tmp_path)


def test_the_wheel_has_all_of_the_page(wheel: Path) -> None:
    page = {f"coat_ryu/ui/{path.name}" for path in (ROOT / "coat_ryu/ui").iterdir()}
    assert page and page <= set(zipfile.ZipFile(wheel).namelist())


def test_make_install_survives_a_kill(checkout: Path, tmp_path: Path) -> None:
    make = ["make", "-C", str(checkout), "install", f"PYTHON={os.path.realpath(sys.executable)}"]
    environment = checkout / ".venv"
    kill_half_way(make, environment)
    assert not (environment / "finished").exists()
    check(*make, cwd=tmp_path)
    assert_serves(environment, tmp_path / "run")
    assert check(*make, cwd=tmp_path).count("install:") == 0, "a second make install has nothing to do"
    assert_leaves(environment, tmp_path)


def test_this_checkout_serves(tmp_path: Path) -> None:
    assert_serves(Path(sys.prefix), tmp_path / "run")


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 14, 0)])
def test_make_install_refuses_other_pythons(version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(ROOT / "tools" / "make_venv.py"))
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit, match=r"Python 3\.11, 3\.12 or 3\.13 is needed"):
        script["check_python"](None)


def locked() -> list[list[str]]:
    """The README's way to what coat_ryu needs: the options of each `pip install` before its own."""
    lines = re.findall(r"^\S+/pip install (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert lines[-1].endswith(" .") and len(lines) == 3
    return [line.split() for line in lines[:-1]]


def assert_serves(environment: Path, directory: Path) -> None:
    """Plain ryu-manager, outside the checkout, answers over HTTP in JSON."""
    with running(environment, "coat_ryu.app", directory) as manager:
        status, answer = manager.get("/healthz")
        assert status in (200, 503)
        assert isinstance(answer, dict)
        status, answer = manager.get("/v1.0/nothing-here")
        assert status == 404
        assert isinstance(answer, dict)
        assert answer["response"] == 404
        kind, content = manager.page()
        assert kind == "text/html" and b"ui/app.js" in content
    assert "Traceback" not in manager.log.read_text()


def assert_costs_nothing(environment: Path, tmp_path: Path) -> None:
    """A Python that has no use for eventlet loads the hook and nothing behind it."""
    ours = ("coat_ryu", "eventlet", "ryu", "greenlet", "pydantic")
    loaded = check(environment / "bin/python", "-c", IMPORTED_AT_START % (ours,), cwd=tmp_path)
    assert loaded.split() == ["coat_ryu", "coat_ryu._compat"]


def assert_leaves(environment: Path, tmp_path: Path) -> None:
    """After pip uninstall nothing of ours is there, and Ryu is as it was released: it misses one name again."""
    check(environment / "bin/python", "-m", "pip", "uninstall", "-qq", "--yes", "coat_ryu", cwd=tmp_path)
    (packages,) = environment.glob("lib/python3.*/site-packages")
    left = [path for folder in (packages, environment / "bin") for path in folder.iterdir() if "coat" in path.name]
    assert left == []
    assert altered(packages, "ryu") == altered(packages, "eventlet") == []
    check(environment / "bin/python", "-c", "import ryu", cwd=tmp_path)
    plain = run(environment / "bin/ryu-manager", "--version", cwd=tmp_path)
    assert plain.returncode == 1
    assert "cannot import name 'ALREADY_HANDLED'" in plain.stderr
    assert "coat" not in plain.stderr.replace(str(environment), "")
    repaired = run(environment / "bin/python", "-c", REPAIRED, "--version", cwd=tmp_path)
    assert repaired.returncode == 0, repaired.stderr


def altered(packages: Path, name: str) -> list[str]:
    """The files of an installed distribution that are not as its RECORD says (PEP 376: urlsafe base64, no padding)."""
    (record,) = packages.glob(f"{name}-*.dist-info/RECORD")
    entries = re.findall(r"^(.+),sha256=([\w-]+),\d+$", record.read_text(), re.MULTILINE)
    assert len(entries) > 10
    return [path for path, digest in entries if _digest(packages / path) != digest]


def _digest(path: Path) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode().rstrip("=")


def kill_half_way(make: list[str], environment: Path) -> None:
    """Start it, and kill it and all it started when the environment is there and what belongs into it is not."""
    process = subprocess.Popen(make, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + PIP_TIMEOUT_S
        while not (environment / "bin" / "pip").exists():
            assert process.poll() is None, "make install ended before it could be interrupted"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
