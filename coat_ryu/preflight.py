"""May a container be moved at all: decided from what both nodes say of themselves, before anything is touched.

``facts`` are the hook's ``hello``, ``needs`` its ``container_needs``. A feature that cannot be known (a node that does
not say) is no reason to refuse.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coat_ryu.errors import Conflict
from coat_ryu.model import Memory
from coat_ryu.node.limits import CONTROLLERS

CRIU_LEAST, PODMAN_LEAST = (4, 2), (4, 4)
"""CRIU 4.1 fails on the sockets of current kernels; Podman 4.4 can be given another runtime for one command."""

LAZY_RUNTIME = "runc"
"""The runtime that knows of lazy pages."""

RESERVE = 64 << 20
"""Bytes of disk and memory that a migration leaves alone."""

SHOWN = 3
"""How many of many things of one kind are named."""


@dataclass(frozen=True, slots=True)
class Refusal:
    cause: str
    message: str


def check(
    source: str, destination: str, here: dict[str, Any], there: dict[str, Any], needs: dict[str, Any], mtu: int
) -> None:
    """Raises Conflict with the first reason, if there is one."""
    refuse(refusals(source, destination, here, there, needs, mtu))


def refuse(reasons: Iterable[Refusal]) -> None:
    """Raises Conflict with the first of them, if there is one."""
    for refusal in reasons:
        raise Conflict(refusal.message, cause=refusal.cause)


def refusals(
    source: str, destination: str, here: dict[str, Any], there: dict[str, Any], needs: dict[str, Any], mtu: int
) -> Iterator[Refusal]:
    """Every reason not to move a container from ``source`` to ``destination``; ``mtu`` is what tunnels must carry."""
    yield from _versions(source, here["versions"])
    yield from _versions(destination, there["versions"])
    yield from _runtimes(source, destination, here["versions"], there["versions"])
    yield from _processors(source, destination, here, there)
    yield from _room(source, destination, here, there, needs)
    yield from _tunnels(source, here, mtu)
    yield from _tunnels(destination, there, mtu)
    yield from _users(source, here, needs)
    yield from _container(needs)
    yield from _processes(needs)
    yield from limit_refusals(destination, there, needs.get("spec") or {})


def limit_refusals(node: str, facts: Mapping[str, Any], limits: Mapping[str, Any]) -> Iterator[Refusal]:
    """Limits that the node cannot carry out. ``limits`` may be a whole spec."""
    there = facts.get("cgroup_controllers")
    for limit, controller in CONTROLLERS.items():
        if limits.get(limit) is not None and there is not None and controller not in there:
            message = f"{limit}: containers on node {node} have no cgroup controller {controller}"
            yield Refusal("no_cgroup_controller", f"{message}; they have {', '.join(there) or 'none'}")


def memory_refusals(
    memory: Memory, nodes: Mapping[str, dict[str, Any]], facts: Mapping[str, dict[str, Any]]
) -> Iterator[Refusal]:
    """Every reason not to move memory this way. ``nodes`` and ``facts``: each node's ``memory_features`` and ``hello``,
    by name.
    """
    for node, features in nodes.items():
        runtime = (facts[node]["versions"].get("runtime") or "").partition(" ")[0]
        if memory == "precopy" and not features["dirty_tracking"]:
            message = f"memory: the kernel of node {node} does not tell which pages were written"
            yield Refusal("no_dirty_tracking", f"{message} (CONFIG_MEM_SOFT_DIRTY), so there is no pre-copy")
        if memory == "lazy":
            if features["lazy"]:
                yield Refusal("no_lazy_pages", f"memory: node {node} has no lazy pages: {features['lazy']}")
            if runtime != LAZY_RUNTIME:
                message = f"memory: node {node} runs containers with {runtime or 'nothing'}; lazy pages need"
                yield Refusal("no_lazy_pages", f"{message} {LAZY_RUNTIME}")
    if memory == "precopy":
        yield Refusal("not_implemented", "memory: pre-copy is not implemented, though these kernels could do it")


def is_in_full(name: str, asked_for: str) -> bool:
    """Whether ``name``, which a source says an image has, is what was asked for, with a registry and a tag."""
    wanted = asked_for if ":" in asked_for.rpartition("/")[2] else f"{asked_for}:latest"
    return name in (asked_for, wanted) or name.endswith(f"/{wanted}")


def presence(
    container: str, source: str, destination: str, here: dict[str, Any] | None, there: dict[str, Any] | None
) -> Iterator[Refusal]:
    """Reasons that lie in where copies are; ``here`` and ``there`` are the hook's ``container_inspect``."""
    if here is None or here["state"] != "running":
        state = "not there" if here is None else here["state"]
        yield Refusal("not_running", f"container: {container} is {state} on {source}, not running")
    if there is not None and there["state"] == "running":
        message = f"to: {destination} runs a container {container} already; end that one first"
        yield Refusal("name_in_use", message)


def switches(problems: Mapping[str, str | None]) -> Iterator[Refusal]:
    """``problems``: what is wrong with each node's switch, by the node's name. Without both nothing can be moved."""
    for node, problem in problems.items():
        if problem:
            yield Refusal("switch_gone", f"node {node}: {problem}")


def _versions(node: str, versions: dict[str, str | None]) -> Iterator[Refusal]:
    for name, least in (("criu", CRIU_LEAST), ("podman", PODMAN_LEAST)):
        have = versions.get(name)
        wanted = ".".join(map(str, least))
        if have is None:
            yield Refusal(f"no_{name}", f"node {node} has no {name}; {wanted} or newer is wanted")
        elif _number(have) < least:
            yield Refusal(f"old_{name}", f"node {node} has {name} {have}; {wanted} or newer is wanted")


def _runtimes(
    source: str, destination: str, here: dict[str, str | None], there: dict[str, str | None]
) -> Iterator[Refusal]:
    mine, theirs = ((versions.get("runtime") or "").partition(" ")[0] for versions in (here, there))
    if mine != theirs:
        message = f"{source} runs containers with {mine or 'nothing'} and {destination} with {theirs or 'nothing'}"
        yield Refusal("runtime_differs", f"{message}; a checkpoint of one cannot be restored by the other")


def _processors(source: str, destination: str, here: dict[str, Any], there: dict[str, Any]) -> Iterator[Refusal]:
    """A process may use whatever its processor had when it started (criu(8), --cpu-cap)."""
    lacking = sorted(set(here.get("cpu_flags") or ()) - set(there.get("cpu_flags") or here.get("cpu_flags") or ()))
    if lacking:
        message = f"the processor of {destination} lacks what that of {source} has: {' '.join(lacking)}"
        yield Refusal("cpu_features", message)


def _room(
    source: str, destination: str, here: dict[str, Any], there: dict[str, Any], needs: dict[str, Any]
) -> Iterator[Refusal]:
    memory, layer = needs.get("memory", 0), needs.get("layer", 0)
    wants = (
        (source, "disk", here.get("disk_free"), memory),
        (destination, "disk", there.get("disk_free"), memory + 2 * layer),  # as it comes, and where it goes
        (destination, "memory", there.get("memory_free"), memory),
    )
    for node, kind, free, wanted in wants:
        if free is not None and free < wanted + RESERVE:
            have, want = free >> 20, (wanted + RESERVE) >> 20
            yield Refusal(f"no_{kind}", f"node {node} has {have} MiB of {kind} left; the move needs {want} MiB")


def _tunnels(node: str, facts: dict[str, Any], mtu: int) -> Iterator[Refusal]:
    have = facts.get("mtu")
    if have is not None and have < mtu:
        message = f"node {node} carries {have} bytes a packet where its tunnels end"
        yield Refusal("small_mtu", f"{message}; the topology's underlay_mtu is {mtu}")


def _container(needs: dict[str, Any]) -> Iterator[Refusal]:
    if needs.get("pod"):
        yield Refusal("in_a_pod", f"container: it is in the pod {needs['pod']}, whose namespaces do not move with it")
    for mount in needs.get("mounts", ()):
        yield Refusal("has_mounts", f"container: what is mounted at {mount} would stay behind; it cannot be moved")
    for device in needs.get("devices", ()):
        yield Refusal("has_devices", f"container: it uses the device {device}, which CRIU cannot move")
    if needs.get("too_deep"):
        message = "container: directories among its files are more than 500 deep, or their path is too long"
        yield Refusal("too_deep", f"{message}; it cannot be moved")
    if found := needs.get("too_long"):
        message = f"container: of the files that Podman binds into it {_some(found)} is longer than 4 MiB"
        yield Refusal("file_too_long", f"{message}; it cannot be moved")
    for port in needs.get("unaccepted", ()):
        # criu/sk-inet.c: "In-flight connection"; to skip them would break them
        message = f"container: it has not accepted all connections at its port {port}; CRIU cannot move those"
        yield Refusal("unaccepted_connections", f"{message}, so try again when it has")


def _users(source: str, here: dict[str, Any], needs: dict[str, Any]) -> Iterator[Refusal]:
    """CRIU asks for every process's limits, and prlimit(2) tells those of another user only to CAP_SYS_RESOURCE."""
    others = needs.get("other_users") or []
    if others and "CAP_SYS_RESOURCE" in here.get("lacks", ()):
        message = f"root on {source} lacks CAP_SYS_RESOURCE, so CRIU cannot move processes of other users and groups"
        yield Refusal("no_cap_sys_resource", f"{message}; the container has {_some(others)}")


def _processes(needs: dict[str, Any]) -> Iterator[Refusal]:
    """What CRIU would refuse when the container is frozen, or could dump and not restore."""
    for told in needs.get("shares", ()):
        message = f"container: it was made with --{told}, so part of its state is not its own"
        yield Refusal("shares_namespaces", f"{message}; it cannot be moved")
    if needs.get("tty"):
        yield Refusal("has_tty", "container: it has a terminal (podman run --tty), which stays on this node")
    for what, cause, told in _WITHIN:
        if found := needs.get(what):
            yield Refusal(cause, "container: " + told.format(_some(found)))
    for kind in needs.get("protocols", ()):
        mptcp = kind.startswith("MPTCP")
        told = "let it use TCP (Go programs: GODEBUG=multipathtcp=0)" if mptcp else "CRIU cannot move those"
        yield Refusal("mptcp_socket" if mptcp else "unknown_socket", f"container: it has {kind} sockets; {told}")
    for file in needs.get("files", ()):
        word = "io_uring" if file.startswith("io_uring") else "unknown_file"
        yield Refusal(word, f"container: it has {file} open, which CRIU cannot move")


_WITHIN = (
    (
        "exec_sessions",
        "has_exec_sessions",
        "{} did not come from its own program (podman exec), and would be ended by a move; end it, or wait for its end",
    ),
    (
        "foreign_time",
        "foreign_time",
        "{} was left by a podman exec after a move, in another time namespace: CRIU could not restore it; end it",
    ),
    ("traced", "is_traced", "{} is traced by a debugger (strace, gdb), and CRIU cannot be another one; end that first"),
    (
        "link_local",
        "link_local_connection",
        "it has connections over link-local addresses (fe80::) at its TCP ports {}, which CRIU cannot restore",
    ),
    ("queues", "message_queue", "it has POSIX message queues open, which CRIU cannot move: {}"),
)
"""What ``container_needs`` may tell, its cause, and the sentence with what was found."""


def _some(found: list[Any]) -> str:
    """The first few of them."""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(map(str, found[:SHOWN])) + more


def state_size(needs: dict[str, Any]) -> int:
    """Bytes of a container's memory and changed files."""
    return int(needs.get("memory") or 0) + int(needs.get("layer") or 0)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
