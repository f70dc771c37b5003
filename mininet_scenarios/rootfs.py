"""The root file system of the lab's hosts: Debian 13 with CRIU from testing, made once with mmdebstrap and cached.

Why not the machine's own programs: CRIU 3.17 (Debian 12) cannot dump the vDSO of current kernels, and 4.1.1 (Debian 13)
refuses sockets with SO_PASSCRED, which conmon and systemd leave behind; 4.2 handles both.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from mininet_scenarios import apt, images

CACHE_VARIABLE = "COAT_LAB_CACHE"
MIRROR_VARIABLE = "COAT_LAB_MIRROR"
DEFAULT_CACHE = Path("/var/cache/coat-lab")

SUITE, NEWER = "trixie", "forky"
FROM_NEWER = "criu libcompel1 libnl-3-200 libnl-route-3-200 libnl-genl-3-200 python3-pycriu"
# runc, not crun: under crun CRIU restores cgroup v1 hierarchies too, into the machine's, where it has any.
PACKAGES = """
    criu podman runc conmon netavark nftables iptables
    openvswitch-switch mininet bridge-utils iproute2 ethtool iputils-ping tcpdump procps
    openssh-server openssh-client python3 python3-pyroute2 python3-yaml
    busybox-static iperf3 sockperf redis-server redis-tools gunicorn haproxy
""".split()
PINS = f"""\
Package: *
Pin: release n={NEWER}
Pin-Priority: 100

Package: {FROM_NEWER}
Pin: release n={NEWER}
Pin-Priority: 990
"""
KEPT = 86_400.0
"""Seconds that one of another recipe is kept after its last use: two checkouts shall not take turns building."""
RECIPE_VERSION = 2
"""Raise it when the code that builds changes what is built; the data above changes the recipe's hash by itself."""

Progress = Callable[[str], None]


class RootfsError(Exception):
    """The root file system could not be made; the message says which command failed and how."""


def cache_directory() -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE)


def recipe_hash() -> str:
    recipe = [RECIPE_VERSION, SUITE, NEWER, PACKAGES, PINS, [asdict(image) for image in images.IMAGES]]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def path() -> Path:
    """Where the root file system of this recipe is, or will be."""
    return cache_directory() / f"rootfs-{recipe_hash()}"


def ensure(progress: Progress = lambda line: None) -> Path:
    """The root file system, made first if it is not in the cache, which takes about a minute.

    ``progress`` is called with one line of text whenever there is something to show. Processes that call this at the
    same time wait for the one that builds. Raises RootfsError.
    """
    target = path()
    if _made(target, _build, progress):
        _prune(target)
    return target


def ensure_bare(progress: Progress = lambda line: None) -> Path:
    """A Debian of the hosts' release with nothing of what a node needs, made and cached in the same way."""
    target = cache_directory() / f"bare-{SUITE}"
    _made(target, _build_bare, progress)
    return target


def _made(target: Path, build: Callable[[Path, Progress], None], progress: Progress) -> bool:
    """Whether ``target`` had to be made, which ``build`` did, elsewhere: it is there as a whole or not at all."""
    if target.is_dir():
        return False
    if os.geteuid() != 0:
        raise RootfsError(f"{target} is not there yet, and only root can make it: run this as root once")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(target.name + ".lock"), progress):
        if target.is_dir():
            return False
        for remains in target.parent.glob(f".{target.name}.*"):  # of a build that was killed
            shutil.rmtree(remains)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            build(work, progress)
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return True


def hold(root: Path) -> IO[str]:
    """Keep that root file system from being pruned for as long as the returned file is open."""
    file = root.with_name(root.name + ".lock").open("w")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def _prune(current: Path) -> None:
    """Remove the root file systems of other recipes that no lab uses, nor has used lately."""
    for lock in current.parent.glob("rootfs-*.lock"):
        old = lock.with_suffix("")
        if old != current and time.time() - lock.stat().st_mtime > KEPT:
            with lock.open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(old, ignore_errors=True)
                lock.unlink()


@contextmanager
def _locked(lock: Path, progress: Progress) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that is making the root file system")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(work: Path, progress: Progress) -> None:
    _ensure_mmdebstrap(progress)
    progress(f"Debian {SUITE} with CRIU from {NEWER}")
    work.chmod(0o755)
    _run(_recipe(work), progress)
    try:
        images.build_all(work, progress)
    except subprocess.CalledProcessError as error:
        raise RootfsError(
            f"{' '.join(error.cmd)} failed in the new root file system: {error.stderr.strip()}"
        ) from error


def _build_bare(work: Path, progress: Progress) -> None:
    _ensure_mmdebstrap(progress)
    progress(f"Debian {SUITE}, bare")
    work.chmod(0o755)
    options = ['APT::Install-Recommends "false";', *apt.proxy_options()]
    _run([*_mmdebstrap("minbase", options), SUITE, str(work), *_mirror()], progress)


def _ensure_mmdebstrap(progress: Progress) -> None:
    if shutil.which("mmdebstrap"):
        return
    progress("installing mmdebstrap")
    _run(["apt-get", "update"], progress)
    _run(["apt-get", "install", "--yes", "--no-install-recommends", "mmdebstrap", "debian-archive-keyring"], progress)


def _recipe(work: Path) -> list[str]:
    options = ['Acquire::Check-Valid-Until "false";', 'APT::Install-Recommends "false";', *apt.proxy_options()]
    command = [*_mmdebstrap("apt", options), f"--include={','.join(PACKAGES)}"]
    # With no mirror given, mmdebstrap knows Debian's; the hook then adds the newer suite from the same place.
    command += ['--setup-hook=mkdir -p "$1/etc/apt/preferences.d"']
    command += [f"--setup-hook=printf %s '{PINS}' > \"$1/etc/apt/preferences.d/criu\""]
    newer = f'sed "s/{SUITE}/{NEWER}/" "$1/etc/apt/sources.list" > "$1/etc/apt/sources.list.d/newer.list"'
    command.append(f"--setup-hook={newer}")
    return [*command, SUITE, str(work), *_mirror()]


def _mmdebstrap(variant: str, options: list[str]) -> list[str]:
    """The command, without what it is to fill. In mounts and processes of its own, so that a killed build leaves
    neither.
    """
    command = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    command += ["mmdebstrap", f"--variant={variant}", "--mode=root", "--format=directory"]
    return [*command, *(f"--aptopt={option}" for option in options)]


def _mirror() -> list[str]:
    """The line of sources.list for Debian: from the environment, else the machine's, else mmdebstrap's own."""
    address = os.environ.get(MIRROR_VARIABLE)
    source = apt.Source(address, (), ()) if address else apt.debian_source(apt.read_sources())
    if source is None:
        return []
    keyring = f"[signed-by={source.keyring}] " if source.keyring else ""
    return [f"deb {keyring}{source.uri} {SUITE} main"]


def _run(argv: list[str], progress: Progress) -> None:
    """Run a command, showing each line it writes. Raises RootfsError with the last of them."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    tail: list[str] = []
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tail = [*tail[-19:], line.rstrip()]
            progress(line.rstrip())
    if process.returncode:
        name = "mmdebstrap" if "mmdebstrap" in argv else argv[0]
        raise RootfsError(f"{name} failed with status {process.returncode}:\n" + "\n".join(tail))
