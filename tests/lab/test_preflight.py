"""Every reason not to move a container, on hosts that really have it: told by its cause, and nothing was touched.

What a lab cannot have for real is said of a host by what tells of it: a command's ``--version``, /proc/cpuinfo and
/proc/meminfo (which are the machine's) are doctored on that host. ``unaccepted_connections`` is in ``test_hard``.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mininet_scenarios.experiment import Refused
from mininet_scenarios.faults import Bench
from mininet_scenarios.lab import Lab
from mininet_scenarios.obstacles import OBSTACLES, Scene
from mininet_scenarios.upkeep import Pulse, residue
from tests.lab.helpers import wait_for

SOURCE, DESTINATION, DEVICE = "edge1", "edge2", "device"
SERVER = "sockperf-server"
CLIENTS = {SERVER: "sockperf-client", "odd": "odd-client"}
PORT = "11112"
SERVE = ["sockperf", "server", "--tcp", "--ip", "0.0.0.0", "--port", PORT]
MOVES = 60.0
"""Seconds in which every connection must move data again."""


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Lab(name="tests-preflight") as lab:
        made = Bench(lab)
        yield made
        made.close()


def sh(bench: Bench, host: str, script: str, *arguments: str, **options: Any) -> str:
    return bench.lab.exec(host, ["sh", "-ec", script, "sh", *arguments], **options).stdout


def new_hook(bench: Bench, host: str) -> None:
    """What a hook knows of its node's programs and processor it has asked once."""
    before = bench.saboteur.hook(host)
    bench.saboteur.kill_hook(host)

    def another() -> bool:
        ready = all(node["ready"] for node in bench.controller.get("/v1.0/nodes"))
        return bench.saboteur.hooks(host) == 1 and bench.saboteur.hook(host) != before and ready

    wait_for(another, what=f"a new hook on {host}")


@contextmanager
def version(bench: Bench, host: str, command: str, shown: str) -> Iterator[None]:
    """``COMMAND --version`` writes that; an empty text: it fails. All else it does as ever."""
    path = {"criu": "/usr/sbin/criu", "podman": "/usr/bin/podman"}[command]
    answer = f'echo "{shown}"; exit' if shown else "exit 127"
    text = f'#!/bin/sh\n[ "$*" != --version ] || {{ {answer}; }}\nexec {path} "$@"\n'
    sh(bench, host, f"cat >/usr/local/sbin/{command}", input=text)
    new_hook(bench, host)
    try:
        yield
    finally:
        bench.saboteur.install(host)
        new_hook(bench, host)


@contextmanager
def doctored(bench: Bench, host: str, file: str, change: Callable[[str], str]) -> Iterator[None]:
    """Another text in a file of /proc."""
    sh(bench, host, 'cat >/run/doctored; mount --bind /run/doctored "$1"', file, input=change(Path(file).read_text()))
    try:
        new_hook(bench, host)
        yield
    finally:
        sh(bench, host, 'umount "$1"; rm /run/doctored', file)
        new_hook(bench, host)


def without_a_feature(cpuinfo: str) -> str:
    """Of all processors, the last of the first one's."""
    found = re.search(r"^(?:flags|Features)\s*: (.*)$", cpuinfo, re.MULTILINE)
    assert found is not None
    return cpuinfo.replace(found[1], found[1].rsplit(" ", 1)[0])


def without_memory(meminfo: str) -> str:
    return re.sub(r"MemAvailable: +\d+", "MemAvailable: 1000", meminfo)


@contextmanager
def full_disk(bench: Bench, host: str) -> Iterator[None]:
    bench.saboteur.fill_disk(host)
    try:
        yield
    finally:
        bench.saboteur.empty_disk(host)


@contextmanager
def small_mtu(bench: Bench, host: str) -> Iterator[None]:
    """Of the interface with the host's underlay address."""
    address = bench.lab.state.hosts[host].address
    found = json.loads(sh(bench, host, "ip -json address show"))
    name = next(one["ifname"] for one in found if any(of["local"] == address for of in one["addr_info"]))
    before = next(one["mtu"] for one in found if one["ifname"] == name)
    sh(bench, host, 'ip link set "$1" mtu 1450', name)
    try:
        yield
    finally:
        sh(bench, host, 'ip link set "$1" mtu "$2"', name, str(before))


@contextmanager
def other_runtime(bench: Bench, host: str) -> Iterator[None]:
    """The same runc under another name: CRIU's images of another runtime could not be had here (crun needs more)."""
    conf = '[engine]\nruntime = "other"\n[engine.runtimes]\nother = ["/usr/sbin/other"]\n'
    sh(
        bench,
        host,
        "mkdir -p /etc/containers/containers.conf.d; cat >/etc/containers/containers.conf.d/x.conf",
        input=conf,
    )
    sh(bench, host, "mv /usr/sbin/runc /usr/sbin/other; rm /usr/local/sbin/runc")
    try:
        new_hook(bench, host)
        yield
    finally:
        sh(bench, host, "mv /usr/sbin/other /usr/sbin/runc; rm -r /etc/containers/containers.conf.d")
        bench.saboteur.install(host)
        new_hook(bench, host)


Trouble = Callable[[Bench], AbstractContextManager[None]]
TROUBLES: dict[str, tuple[str, Trouble]] = {
    "no criu here": ("no_criu", lambda bench: version(bench, SOURCE, "criu", "")),
    "old criu there": ("old_criu", lambda bench: version(bench, DESTINATION, "criu", "Version: 4.1.1")),
    "no podman there": ("no_podman", lambda bench: version(bench, DESTINATION, "podman", "")),
    "old podman there": ("old_podman", lambda bench: version(bench, DESTINATION, "podman", "podman version 3.4.4")),
    "another runtime there": ("runtime_differs", lambda bench: other_runtime(bench, DESTINATION)),
    "a lesser processor there": (
        "cpu_features",
        lambda bench: doctored(bench, DESTINATION, "/proc/cpuinfo", without_a_feature),
    ),
    "no disk here": ("no_disk", lambda bench: full_disk(bench, SOURCE)),
    "no disk there": ("no_disk", lambda bench: full_disk(bench, DESTINATION)),
    "no memory there": ("no_memory", lambda bench: doctored(bench, DESTINATION, "/proc/meminfo", without_memory)),
    "a small MTU here": ("small_mtu", lambda bench: small_mtu(bench, SOURCE)),
    "a small MTU there": ("small_mtu", lambda bench: small_mtu(bench, DESTINATION)),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_node_that_will_not_do_is_told_and_nothing_is_touched(bench: Bench, trouble: str) -> None:
    cause, make = TROUBLES[trouble]
    with make(bench), untouched(bench, SERVER):
        refused(bench, SERVER, cause)


@pytest.mark.parametrize(("kind", "cause"), [("name_in_use", "name_in_use"), ("name_of_another", "conflict")])
def test_a_name_that_is_taken_there_is_told_and_its_owner_is_left_alone(bench: Bench, kind: str, cause: str) -> None:
    scene = Scene(bench.lab, SERVER, SOURCE, DESTINATION, "")
    with OBSTACLES[kind](scene) as look:
        identity = identify(bench, SERVER)
        assert look(refused(bench, SERVER, cause)) == (True, [])
        assert identify(bench, SERVER) == identity
    with untouched(bench, SERVER):
        pass


@pytest.fixture
def odd(bench: Bench) -> Iterator[Callable[..., str]]:
    """Makes a container of ours anew with options that the API does not have, and gives it a client."""
    controller, clients = bench.controller, []
    body = {"name": "odd", "node": SOURCE, "image": "localhost/coat-sockperf", "command": SERVE}
    ip = controller.post("/v1.0/containers", body)["ip"]
    controller.post(
        "/v1.0/containers", {**body, "name": CLIENTS["odd"], "node": DEVICE, "command": ["sleep", "infinity"]}
    )

    def make(*options: str) -> str:
        label = sh(bench, SOURCE, "podman inspect --format='{{index .Config.Labels \"coat.spec\"}}' odd").strip()
        bench.lab.exec(SOURCE, ["podman", "rm", "--force", "--time=0", "odd"])
        ours = ["--name=odd", "--label=coat.container=odd", f"--label=coat.spec={label}", "--pids-limit=0"]
        place = ["--hostname=odd", "--network=ns:/run/netns/coat-odd", *options]
        command = ["podman", "run", "--detach", *ours, *place, body["image"], *SERVE]
        bench.lab.exec(SOURCE, [str(word) for word in command])
        ask = ["sockperf", "ping-pong", "--tcp", "--ip", ip, "--port", PORT, "--mps", "50", "--time", "3600"]
        clients.append(
            bench.lab.popen(DEVICE, ["podman", "exec", CLIENTS["odd"], *ask], stdin=-3, stdout=-3, stderr=-3)
        )
        wait_for(lambda: Pulse.of(bench.lab, DEVICE, CLIENTS["odd"]).counts, what="the client")
        return "odd"

    yield make
    for client in clients:
        client.kill()
        client.wait()
    for name in ("odd", CLIENTS["odd"]):
        controller.call("DELETE", f"/v1.0/containers/{name}")
    sh(bench, SOURCE, "podman pod rm --force --ignore pod >/dev/null")


@pytest.mark.parametrize(
    ("cause", "options"),
    [
        ("has_mounts", ["--volume=/srv:/data"]),
        ("has_devices", ["--device=/dev/null:/dev/odd"]),
        ("in_a_pod", ["--pod=pod"]),
        ("has_tty", ["--tty"]),
        ("shares_namespaces", ["--ipc=host"]),
    ],
)
def test_a_container_that_cannot_move_is_told_and_stays(
    bench: Bench, odd: Callable[..., str], cause: str, options: list[str]
) -> None:
    sh(bench, SOURCE, 'podman pod create --infra=false --share="" --name=pod')
    name = odd(*options)
    with untouched(bench, name):
        refused(bench, name, cause)


def test_a_container_that_does_not_run_is_not_moved(bench: Bench, odd: Callable[..., str]) -> None:
    name = odd()
    bench.lab.exec(SOURCE, ["podman", "pause", name])
    try:
        with pytest.raises(Refused) as refusal:
            bench.controller.migrate(name, DESTINATION)
        assert (refusal.value.status, refusal.value.answer["cause"]) == (409, "not_running")
    finally:
        bench.lab.exec(SOURCE, ["podman", "unpause", name])
    with untouched(bench, name):
        pass


def refused(bench: Bench, name: str, cause: str) -> dict[str, Any]:
    record = bench.controller.migrate(name, DESTINATION)
    assert (record["state"], record["error"]["cause"]) == ("rolled_back", cause), record["error"]
    assert [step["name"] for step in record["steps"]] == ["preflight"]
    return record


def identify(bench: Bench, name: str) -> str:
    """The container on the source: its process is the one that it was."""
    show = ["podman", "inspect", "--format={{.Id}} {{.State.Status}} {{.State.Pid}} {{.State.StartedAt}}", name]
    return bench.lab.exec(SOURCE, show).stdout


@contextmanager
def untouched(bench: Bench, name: str) -> Iterator[None]:
    """The container runs on as the same process, every connection moves, and nothing lies about."""
    identity, before = identify(bench, name), Pulse.of(bench.lab, DEVICE, CLIENTS[name]).counts
    yield
    assert identify(bench, name) == identity and " running " in identity

    def all_move() -> bool:
        now = Pulse.of(bench.lab, DEVICE, CLIENTS[name]).counts
        assert set(before) <= set(now), "a connection is gone"
        return all(now[port] > before[port] for port in before)

    assert before
    wait_for(all_move, MOVES, "every connection to move")
    residents = bench.controller.get("/v1.0/containers")
    for host in (SOURCE, DESTINATION):
        assert residue(bench.lab, host, [one["name"] for one in residents if one["node"] == host]) == []
