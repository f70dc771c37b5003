"""Podman by its command line: images and containers of ours."""

import contextlib
import functools
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coat_ryu.node import bound, criu, inside, layer, standing
from coat_ryu.node import netns as namespaces
from coat_ryu.node.failure import Failure
from coat_ryu.node.limits import options as limit_options
from coat_ryu.node.process import run
from coat_ryu.node.unseen import unseen
from coat_ryu.node.verbs import Capability, Image, Name, Netns, Text, Variable, checked, verb

TIMEOUT = 120
LABEL_NAME, LABEL_SPEC = "coat.container", "coat.spec"
NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time: Podman's way to say that something has not happened."""

NO_LOG = ("none", "passthrough", "passthrough-tty")
LOG_MOVES = 1 << 16
"""Bytes of what ``podman logs`` has of before that go along with a move: they are sent in the freeze."""

LOOKS = 5
"""How often it is asked what containers there are, when one goes between the list and the look at it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where Podman keeps a container: ``bundle`` holds config.json and checkpoints, ``run`` the files that are bound
    into it, ``upper`` its writable layer, ``log`` what it has written, if that is a file.
    """

    id: str
    bundle: Path
    run: Path
    upper: Path | None
    log: Path | None

    @property
    def mounted(self) -> bool:
        """Whether the container is in use: Podman mounts its root file system beside the writable layer."""
        return self.upper is not None and self.upper.with_name("merged").is_mount()


_places: dict[str, Place] = {}
"""Spares the critical path a `podman inspect` (50 ms). An entry is good while its bundle is there."""
_last: dict[str, dict[str, Any]] = {}
"""What Podman said last of each container: what can be told of one that it keeps locked."""


def podman(*arguments: str, environment: Mapping[str, str | bytes] | None = None) -> str:
    return run(["podman", *arguments], timeout=TIMEOUT, environment=environment)


@functools.cache
def runtime() -> str:
    """The OCI runtime for our containers: runc where there is one, for it restores on cgroup v1 and v2 without help."""
    return "runc" if shutil.which("runc") else podman("info", "--format={{.Host.OCIRuntime.Name}}").strip()


@functools.cache
def graph_root() -> Path:
    """Podman's storage."""
    return Path(podman("info", "--format={{.Store.GraphRoot}}").strip())


def inspect(name: str) -> dict[str, Any] | None:
    """`podman inspect` of a container, None if there is none."""
    return _inspect("container", name)


def _inspect(kind: str, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(podman("inspect", f"--type={kind}", name))[0]
    except Failure as failure:
        if _is_absent(failure):
            return None
        raise
    return found


def _is_absent(failure: Failure) -> bool:
    """Podman's exit status is the same for what is not there and for what failed, so the message must tell."""
    return any(text in failure.stderr for text in ("no such container", "no such object", "image not known"))


def place(name: str) -> Place:
    """Where the container is kept. Raises Failure if there is none of that name, or it is not ours."""
    known = _places.get(name)
    if known is None or not known.bundle.exists():
        require(name)
    return _places[name]


def require(name: str) -> dict[str, Any]:
    """`podman inspect` of a container of ours. Raises Failure if there is none."""
    raw = _ours(name)
    if raw is None:
        raise Failure("not_found", f"name: there is no container {name}")
    return raw


def _ours(name: str) -> dict[str, Any] | None:
    """Raises Failure if somebody else's container has the name."""
    raw = inspect(name)
    if raw is None:
        return None
    if _labels(raw).get(LABEL_NAME) != name:
        raise Failure("conflict", f"name: the container {name} is not one of ours: it lacks the label {LABEL_NAME}")
    _last[name] = raw
    driver = raw["GraphDriver"]
    upper = Path(driver["Data"]["UpperDir"]) if driver["Name"] == "overlay" else None
    run_directory = Path(raw["ConmonPidFile"]).parent
    _places[name] = Place(raw["Id"], Path(raw["StaticDir"]), run_directory, upper, _log(raw))
    return raw


def _labels(raw: dict[str, Any]) -> dict[str, str]:
    return raw["Config"].get("Labels") or {}


def state(raw: dict[str, Any]) -> str:
    """``created``, ``running``, ``stopped``, ``checkpointed`` or ``paused``, from `podman inspect`."""
    said = raw["State"]
    if said["Status"] in ("running", "paused"):
        return str(said["Status"])
    if said.get("Checkpointed"):
        return "checkpointed"
    # A restore does not count as a start; both are missing where nothing of ours ever ran.
    ran = said["StartedAt"] != NEVER or said.get("RestoredAt", NEVER) != NEVER
    return "stopped" if ran else "created"


def _summary(raw: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": raw["Name"],
        "id": raw["Id"],
        "image": _image_name(raw),
        "image_id": raw["Image"],
        "state": state(raw),
        "pid": raw["State"]["Pid"] or None,
        "spec": _spec(raw),
    }


def _image_name(raw: dict[str, Any]) -> str:
    """As it was asked for: a container that was moved is made from an image's id, and has no other name of Podman's."""
    spec = _spec(raw)
    return str(spec["image"] if isinstance(spec, dict) and spec.get("image") else raw["ImageName"])


def _spec(raw: dict[str, Any]) -> Any:
    """What the label holds, None if there is none or it is not JSON: a person may have set it."""
    try:
        return json.loads(_labels(raw)[LABEL_SPEC])
    except (KeyError, ValueError):
        return None


@verb
def image_inspect(*, image: Image) -> dict[str, Any]:
    """``id`` is None when the image is not here; ``size`` in bytes."""
    found = _inspect("image", image)
    return {"id": found["Id"], "size": found["Size"]} if found else {"id": None, "size": 0}


@verb
def image_tag(*, image: Image, name: Image) -> dict[str, Any]:
    """The image has this name, unless another has it already: ``tagged`` is False then, and when it had it before."""
    if _inspect("image", name) is not None:
        return {"tagged": False}
    podman("tag", image, name)
    return {"tagged": True}


def name_of_image(image: str, name: str) -> str | None:
    """What ``name`` is in full, if it is a name of this image here: not of another, and no id or digest."""
    found = _inspect("image", name)
    if found is None or found["Id"] != image:
        return None
    wanted = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    names: list[str] = found["RepoTags"] or []
    return next((full for full in names if full == wanted or full.endswith(f"/{wanted}")), None)


def _limits(
    *,
    cap_drop: list[Capability] = [],  # noqa: B006  # never written to
    security_opt: list[Literal["no-new-privileges"]] = [],  # noqa: B006
    mem_limit: int | None = None,
    cpus: float | None = None,
    pids_limit: int | None = None,
) -> None:
    """What ``limits`` are made of; memory in bytes."""


def _options(name: str, netns: str) -> list[str]:
    # The host name is in the checkpoint; Podman's default, the container's id, would differ from node to node.
    identity = [f"--name={name}", f"--hostname={name}", f"--network=ns:{namespaces.path(netns)}"]
    label = f"--label={LABEL_NAME}={name}"
    return [*identity, f"--annotation={criu.annotation(name)}", "--pull=never", label]


def _make(
    verb: str,
    name: str,
    image: str,
    command: list[str],
    env: dict[str, str],
    netns: str,
    spec: str,
    limits: dict[str, Any] | None,
) -> str:
    """`podman run` or `podman create`; the container's id."""
    limiting = limit_options(checked(_limits, limits or {}))
    criu.configure(name)
    with unseen(env, {LABEL_SPEC: spec}) as rest:
        options = [*_options(name, netns), *limiting, *rest.options]
        arguments = ["--runtime", runtime(), *verb.split(), *options, image, *command]
        return podman(*arguments, environment=rest.environment).strip()


def _gone_or_same(name: str, spec: str, wanted: str) -> str | None:
    """The id of a container that is there already as wanted. What an interrupted creation left is removed."""
    if inspect(name) is None:
        return None
    raw = require(name)
    found = state(raw)
    # One that is restored already is as good as one that waits for it.
    ready = found == "running" or (found == wanted and raw["State"]["Status"] == "exited")
    if ready and _labels(raw).get(LABEL_SPEC) == spec:
        return str(raw["Id"])
    if found != "created":
        raise Failure("conflict", f"name: there is a container {name} already, {found}")
    podman("rm", "--force", "--time=0", name)
    return None


@verb
def container_run(
    *,
    name: Name,
    image: Image,
    command: list[Text],
    env: dict[Variable, Text],
    netns: Netns,
    spec: Text,
    limits: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Runs a container in a namespace that is there already; ``spec`` is kept in its label for whoever asks."""
    there = _gone_or_same(name, spec, "running")
    if there is None:
        there = _make("run --detach", name, image, command, env, netns, spec, limits)
    return {"id": there}


@verb
def container_create(
    *,
    name: Name,
    image: Image,
    command: list[Text],
    env: dict[Variable, Text],
    netns: Netns,
    spec: Text,
    limits: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A container that a state can be restored into: all is made ready, but the image's command has never run."""
    there = _gone_or_same(name, spec, "created")
    if there is None:
        there = _make("create", name, image, command, env, netns, spec, limits)
        # Restoring in place wants a stopped container with its config.json written (libpod's restore()).
        podman("init", name)
        podman("stop", "--time=0", name)
        require(name)
    return {"id": there}


@verb
def container_inspect(*, name: Name) -> dict[str, Any] | None:
    """None if there is none. One that Podman keeps locked, for it is checkpointed or restored or its restore stands, is
    as it was before: nobody waits for it, who does not wait for that work by its fence.
    """
    raw = _last[name] if name in standing.names() and name in _last else inspect(name)
    return _summary(raw) if raw else None


@verb
def container_needs(*, name: Name) -> dict[str, Any] | None:
    """``container_inspect``, and what a move must bring or cannot: ``memory`` and ``layer`` in bytes that are taken up,
    ``too_deep`` directories in it, ``too_long`` files of those in ``bound``, ``pod``, ``mounts`` and ``devices`` of
    its own, ``tty``, ``shares``: namespaces that are not its own; ``log``: ``bytes`` that Podman has of what it has
    written, None if not in a file, and how many of them a move ``moves``; and what its processes have (``inside``).
    None if there is no such container.
    """
    raw = _ours(name)
    if raw is None:
        return None
    where = _places[name]
    files = layer.look(where.upper) if where.upper else layer.Look(0, too_deep=False)
    return {
        **_summary(raw),
        "memory": _resident(raw["State"]["Pid"]),
        "layer": files.allocated,
        "too_deep": files.too_deep,
        "too_long": bound.too_long(where.run),
        "pod": raw.get("Pod") or None,
        "mounts": [mount["Destination"] for mount in raw.get("Mounts") or []],
        "devices": [device["PathInContainer"] for device in raw["HostConfig"].get("Devices") or []],
        "tty": raw["Config"].get("Tty", False),
        "shares": _shares(raw["HostConfig"]),
        **(inside.look(raw["State"]["Pid"]) if raw["State"]["Pid"] else {}),
        "log": _logged(raw),
    }


def _shares(config: dict[str, Any]) -> list[str]:
    """Namespaces of the node or of other containers, as Podman was asked for them."""
    asked = {kind: config.get(f"{kind}Mode") or "private" for kind in ("Ipc", "Pid", "UTS")}
    return [f"{kind.lower()}={mode}" for kind, mode in asked.items() if mode not in ("private", "shareable")]


def _logged(raw: dict[str, Any]) -> dict[str, Any]:
    path = _log(raw)
    size = path.stat().st_size if path and path.exists() else 0
    elsewhere = path is None and raw["HostConfig"]["LogConfig"]["Type"] not in NO_LOG
    return {"bytes": None if elsewhere else size, "moves": LOG_MOVES}


def _log(raw: dict[str, Any]) -> Path | None:
    """Only the driver ``k8s-file``, or ``json-file`` as it was called, has a file."""
    path = raw["HostConfig"]["LogConfig"].get("Path")
    return Path(path) if path else None


def _resident(pid: int) -> int:
    """Bytes of memory of a process and its descendants (proc_pid_status(5), VmRSS)."""
    total, family = 0, [pid]
    while family:
        one = family.pop()
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{one}/status").read_text()
            total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))
            family += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return total


@verb
def container_list() -> list[dict[str, Any]]:
    """Containers of ours, whatever their state; those that Podman keeps locked as they were before."""
    locked = standing.names()
    others = [f"--filter=label!={LABEL_NAME}={name}" for name in locked]
    found = _inspect_all([f"--filter=label={LABEL_NAME}", *others], LOOKS)
    return [_summary(raw) for raw in [*found, *(_last[name] for name in locked if name in _last)]]


def _inspect_all(filters: list[str], looks: int) -> list[dict[str, Any]]:
    ids = podman("ps", "--all", "--quiet", "--no-trunc", *filters).split()
    if not ids:
        return []
    try:
        found: list[dict[str, Any]] = json.loads(podman("inspect", "--type=container", *ids))
        return found
    except Failure as failure:
        if looks == 1 or not _is_absent(failure):
            raise
        return _inspect_all(filters, looks - 1)


@verb
def container_remove(*, name: Name) -> dict[str, Any]:
    """The container is gone, running or not; ``removed`` is False if there was none."""
    standing.abandon(name)
    if inspect(name) is None:
        return {"removed": False}
    require(name)
    podman("rm", "--force", "--time=0", "--ignore", name)
    _places.pop(name, None)
    _last.pop(name, None)
    criu.forget(name)
    return {"removed": True}
