"""What may be in a migration's way before it begins: no image, a name that is taken, an address that somebody claims.

Each is a context manager: made with the means of an administrator, and gone afterwards. It yields a function of the
migration's record at its end: whether the obstacle was met, and what has become of it that should not have, in words.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from mininet_scenarios.upkeep import Pulse

EDGES, DEVICE = ("edge1", "edge2"), "device"
GUEST, GUEST_CLIENT, GUEST_IMAGE = "guest-server", "guest-client", "localhost/coat-guest"
GUEST_PORT = "11112"
GUEST_COMMAND = ["sockperf", "server", "--tcp", "--ip", "0.0.0.0", "--port", GUEST_PORT]
CONNECT_TIMEOUT = 20.0

_QUIET = {"stdin": -3, "stdout": -3, "stderr": -3}  # subprocess.DEVNULL


@dataclass(frozen=True, slots=True)
class Scene:
    """One migration: who moves, from where to where. ``ip`` is the container's."""

    lab: Lab
    container: str
    source: str
    destination: str
    ip: str


Look = Callable[[dict[str, Any]], tuple[bool, list[str]]]


@contextmanager
def guest(lab: Lab, controller: Controller, source: str) -> Iterator[None]:
    """A server on ``source`` whose image no other host has, with a client's live connection."""
    _drop_image(lab)
    make = f"podman create --name=seed localhost/coat-sockperf && podman commit --quiet seed {GUEST_IMAGE}"
    lab.exec(source, ["sh", "-c", f"{make} && podman rm seed"], timeout=120)
    client = None
    try:
        server = controller.post(
            "/v1.0/containers", {"name": GUEST, "node": source, "image": GUEST_IMAGE, "command": GUEST_COMMAND}
        )
        idle = {"image": "localhost/coat-sockperf", "command": ["sleep", "infinity"]}
        controller.post("/v1.0/containers", {"name": GUEST_CLIENT, "node": DEVICE, **idle})
        ask = ["sockperf", "ping-pong", "--tcp", "--ip", server["ip"], "--port", GUEST_PORT, "--mps", "100"]
        client = lab.popen(DEVICE, ["podman", "exec", GUEST_CLIENT, *ask, "--time", "7200"], **_QUIET)
        deadline = time.monotonic() + CONNECT_TIMEOUT
        while not Pulse.of(lab, DEVICE, GUEST_CLIENT).counts:
            if time.monotonic() > deadline:
                raise RuntimeError("the guest's client did not connect")
            time.sleep(0.2)
        yield
    finally:
        if client is not None:
            client.kill()
            client.wait()
        there = {one["name"] for one in controller.get("/v1.0/containers")}
        for name in {GUEST, GUEST_CLIENT} & there:
            controller.call("DELETE", f"/v1.0/containers/{name}")
        _drop_image(lab)


def _drop_image(lab: Lab) -> None:
    for host in EDGES:
        lab.exec(host, ["podman", "rmi", "--force", "--ignore", GUEST_IMAGE], check=False)


def _brought(record: dict[str, Any]) -> tuple[bool, list[str]]:
    brought = any(step["name"] == "image" and step["detail"].get("brought") for step in record["steps"])
    return brought, [] if record["state"] == "succeeded" else ["the image was not brought"]


@contextmanager
def image_missing(scene: Scene) -> Iterator[Look]:
    """The destination does not have it, and is brought it."""
    yield _brought


@contextmanager
def image_gone(scene: Scene) -> Iterator[Look]:
    """Besides, somebody has taken its name away at the source while the container runs: it is brought all the same."""
    show = ["podman", "image", "inspect", "--format={{.Id}}", GUEST_IMAGE]
    identity = scene.lab.exec(scene.source, show).stdout.strip()
    scene.lab.exec(scene.source, ["podman", "untag", GUEST_IMAGE, GUEST_IMAGE])
    try:
        yield _brought
    finally:  # by name it is found and removed
        for host in EDGES:
            scene.lab.exec(host, ["podman", "tag", identity, GUEST_IMAGE], check=False)


@contextmanager
def name_in_use(scene: Scene) -> Iterator[Look]:
    """A container that is none of ours runs there under that name."""
    yield from _stranger(scene, ["run", "--detach"], "running", "name_in_use")


@contextmanager
def name_of_another(scene: Scene) -> Iterator[Look]:
    """The same, but it has never been started."""
    yield from _stranger(scene, ["create"], "created", "conflict")


def _stranger(scene: Scene, make: list[str], state: str, cause: str) -> Iterator[Look]:
    options = ["--network=none", "--pids-limit=0", f"--name={scene.container}"]
    command = ["podman", *make, *options, "localhost/coat-iperf3", "sleep", "infinity"]
    identity = scene.lab.exec(scene.destination, command).stdout.strip()

    def look(record: dict[str, Any]) -> tuple[bool, list[str]]:
        show = ["podman", "inspect", "--format={{.Id}} {{.State.Status}}", scene.container]
        now = scene.lab.exec(scene.destination, show, check=False).stdout.strip()
        touched = [] if now == f"{identity} {state}" else [f"{scene.destination}: the stranger is now {now!r}"]
        return bool(record["error"]), touched + _refused(record, cause)

    try:
        yield look
    finally:
        scene.lab.exec(scene.destination, ["podman", "rm", "--force", "--time=0", identity])


CLAIM = """\
import socket, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
mine, ip = wire.getsockname()[4], socket.inet_aton(sys.argv[1])
while True:
    for operation in (b"\\0\\1", b"\\0\\2"):  # RFC 826: announcements as request and as reply
        head = b"\\xff" * 6 + mine + b"\\x08\\x06" + b"\\0\\1\\x08\\0\\x06\\x04" + operation
        wire.send(head + mine + ip + b"\\xff" * 6 + ip)
    time.sleep(0.02)
"""


@contextmanager
def address_in_use(scene: Scene) -> Iterator[Look]:
    """Somebody at the destination's bridge has the container's address, and says so all the time."""
    host, lab = scene.destination, scene.lab
    make = """\
set -e
ip netns add stranger
ip link add x-stranger type veth peer name eth0 netns stranger
ip -n stranger address add $1/24 dev eth0
ip -n stranger link set eth0 up
ip link set x-stranger up
ovs-vsctl add-port coat x-stranger"""
    lab.exec(host, ["sh", "-c", make, "sh", scene.ip])
    claim = ["nsenter", "--net=/run/netns/stranger", "python3", "-c", CLAIM, scene.ip]
    claimer = lab.popen(host, claim, **_QUIET)
    try:
        yield lambda record: (claimer.poll() is None, [])
    finally:
        claimer.kill()
        claimer.wait()
        lab.exec(host, ["sh", "-c", "ovs-vsctl del-port coat x-stranger; ip netns del stranger"])


def _refused(record: dict[str, Any], cause: str | None) -> list[str]:
    """It must have been, with this cause."""
    told = (record["error"] or {}).get("cause")
    if record["state"] in ("rolled_back", "refused") and (cause is None or told == cause):
        return []
    return [f"it was not refused as {cause}, but {record['state']} as {told}"]


OBSTACLES: dict[str, Callable[[Scene], AbstractContextManager[Look]]] = {
    one.__name__: one for one in (image_missing, image_gone, name_in_use, name_of_another, address_in_use)
}
