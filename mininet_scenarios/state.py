"""Where a lab keeps its files on the machine, and who holds it.

``/run/coat-lab/NAME/`` (0700) belongs to the lab's supervisor, which holds a lock on ``lock`` as long as it lives: a
directory whose lock is free was left behind by a supervisor that was killed.
"""

import fcntl
import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from mininet_scenarios import cgroups

RUN = Path("/run/coat-lab")


@dataclass(frozen=True, slots=True)
class HostState:
    """``pid`` is the host's process 1 as the machine sees it, ``cgroup`` where a process of the host belongs."""

    pid: int
    cgroup: str
    address: str
    ssh_host: str
    ssh_port: int


@dataclass(frozen=True, slots=True)
class LabState:
    """What the supervisor publishes once the lab is up: ``rest`` is the base URL of the controller's REST API."""

    name: str
    topology: str
    rest: str
    supervisor: int
    pid: int
    hosts: dict[str, HostState]


def directory(name: str) -> Path:
    return RUN / name


def lock(name: str) -> IO[str] | None:
    """Make the state directory and lock it. None if a living supervisor holds it."""
    folder = directory(name)
    while True:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            file = (folder / "lock").open("w")
        except FileNotFoundError:  # its last owner has just removed it
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if (folder / "lock").exists() and (folder / "lock").samefile(f"/proc/self/fd/{file.fileno()}"):
            return file
        file.close()  # removed between open and flock


def is_up(name: str) -> bool:
    """Whether a living supervisor holds the lab, ready or not."""
    try:
        with (directory(name) / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def is_stopping(name: str) -> bool:
    """Whether its supervisor is about to end."""
    return (directory(name) / "stopping").exists()


def mark_stopping(name: str) -> None:
    (directory(name) / "stopping").touch()


def publish(state: LabState) -> None:
    file = directory(state.name) / "lab.json"
    new = file.with_suffix(".new")
    new.write_text(json.dumps(asdict(state)))
    new.rename(file)


def read(name: str) -> LabState | None:
    """The state of a lab that is up, or None."""
    if not is_up(name):
        return None
    with suppress(FileNotFoundError):
        fields = json.loads((directory(name) / "lab.json").read_text())
        fields["hosts"] = {host: HostState(**value) for host, value in fields["hosts"].items()}
        return LabState(**fields)
    return None


def clean_abandoned() -> None:
    """Remove what is left of labs whose supervisors were killed, whatever their names."""
    for folder in RUN.iterdir() if RUN.exists() else ():
        if not is_up(folder.name) and (held := lock(folder.name)) is not None:
            remove(folder.name)
            held.close()


def remove(name: str) -> None:
    """Remove a lab's cgroups and its files; all else went with its namespaces.

    The caller holds the lock, which goes last: without it somebody else would begin to remove the same. Raises
    TimeoutError.
    """
    cgroups.remove(cgroups.directory(name))
    for entry in directory(name).iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != "lock":
            entry.unlink()
    (directory(name) / "lock").unlink()
    with suppress(OSError):  # somebody may have locked it anew, and other labs' directories may be there
        directory(name).rmdir()
        RUN.rmdir()
