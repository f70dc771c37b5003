"""New environments, made for real: what these tests promise is what a newcomer's pip does."""

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUPPORTED = ("3.11", "3.12", "3.13")
SHIPPED = ("coat_ryu", "tools", "setup.cfg", "setup.py", "pyproject.toml", "requirements", "coat_ryu.pth")
ALSO_SHIPPED = ("Makefile", "LICENSE", "README.md")
# They run beside the lab's tests and yield to them.
PIP_TIMEOUT_S = 900


def interpreters() -> dict[str, str]:
    """One Python of each supported minor version that this machine has: the running one, PATH's and pyenv's."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": os.path.realpath(sys.executable)}
    for version in SUPPORTED:
        candidates = [*sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python")), shutil.which(f"python{version}")]
        usable = [path for path in candidates if path and _has_venv(path)]
        if usable:
            found.setdefault(version, usable[0])
    return found


def _has_venv(python: str) -> bool:
    """Debian's Python may come without ensurepip, and pyenv's shims without a Python behind them."""
    return subprocess.run([python, "-c", "import ensurepip"], capture_output=True, timeout=60).returncode == 0


def run(*command: str | Path, cwd: Path, timeout: float = PIP_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def check(*command: str | Path, cwd: Path) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is shipped: builds leave files behind, and not in the tree that is tested."""
    copy = tmp_path_factory.mktemp("checkout") / "coat"
    copy.mkdir()
    for name in (*SHIPPED, *(name for name in ALSO_SHIPPED if (ROOT / name).exists())):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    return copy


@pytest.fixture(scope="session")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    check(sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--wheel-dir", target, checkout, cwd=target)
    (built,) = target.glob("coat_ryu-*.whl")
    return built
