"""Holds on a real switch: what arrives waits in order and within bounds, and is delivered when released.

A sender and a receiver in namespaces, numbered datagrams between them. The switch sends what is for the receiver into
the hold, and what comes out of the hold to the receiver, as the controller's flows do in a migration.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from coat_ryu.remote import Remote
from mininet_scenarios.lab import Lab
from tests.node.conftest import wait_until

pytestmark = pytest.mark.lab

HOLD = {"bridge": "held", "port": "h-web"}
ENDS = {"sender": ("192.168.50.1", "02:00:00:00:00:01"), "receiver": ("192.168.50.2", "02:00:00:00:00:02")}
PORT = 9

RECEIVE = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 1 << 27)  # SO_RCVBUFFORCE
s.bind(("", 9))
s.settimeout(float(sys.argv[1]))
print("ready", flush=True)
try:
    while True: print(int.from_bytes(s.recv(65536)[:8], "big"))
except TimeoutError: pass
"""

SEND = """
import socket, sys, time
first, count, size = map(int, sys.argv[1:])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(first, first + count):
    s.sendto(n.to_bytes(8, "big").ljust(size, b"."), ("192.168.50.2", 9))
    if n % 100 == 99: time.sleep(0.005)  # the way into the hold has buffers too, which are not what is tested
"""

FLOOD = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
n, end = 0, time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for n in range(n, n + 4): s.sendto(n.to_bytes(8, "big").ljust(100, b"."), ("192.168.50.2", 9))
    n += 1
    time.sleep(0.0005)
"""


class Scene:
    """The two ends and the switch between them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def switch(self, *flows: str) -> None:
        for flow in flows:
            self.lab.exec("left", ["ovs-ofctl", "-OOpenFlow13", "--names", "add-flow", "held", flow])

    def held(self, port: str = "h-web") -> None:
        """What is for the receiver goes into the hold, what comes out of it to the receiver."""
        self.switch(
            f"priority=2,in_port=c-sender,udp,actions=output:{port}",
            f"priority=2,in_port={port},actions=output:c-receiver",
        )

    def send(self, first: int, count: int, size: int = 100) -> None:
        command = ["nsenter", "--net=/run/netns/coat-sender", "python3", "-c", SEND, str(first), str(count), str(size)]
        self.lab.exec("left", command)

    @contextlib.contextmanager
    def flood(self, seconds: float) -> Iterator[None]:
        command = ["nsenter", "--net=/run/netns/coat-sender", "python3", "-c", FLOOD, str(seconds)]
        with self.lab.popen("left", command) as process:
            yield
            assert process.wait(60) == 0

    def receiver(self, patience: float = 2) -> subprocess.Popen[str]:
        command = ["nsenter", "--net=/run/netns/coat-receiver", "python3", "-c", RECEIVE, str(patience)]
        process = self.lab.popen("left", command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process


def numbers(process: subprocess.Popen[str]) -> list[int]:
    return [int(line) for line in process.communicate(timeout=60)[0].split()]


@pytest.fixture
def scene(lab: Lab, left: Remote) -> Iterator[Scene]:
    left.call("bridge_ensure", {"bridge": "held", "dpid": "c0a7000000000002", "controllers": []})
    peers = {"sender": "receiver", "receiver": "sender"}
    for name, (address, mac) in ENDS.items():
        place = {"bridge": "held", "netns": f"coat-{name}", "port": f"c-{name}"}
        left.call("endpoint_ensure", {**place, "addresses": [f"{address}/24"], "mac": mac, "mtu": 1450})
    for name, peer in peers.items():
        address, mac = ENDS[peer]
        neighbour = ["ip", "-n", f"coat-{name}", "neighbour", "replace", address, "lladdr", mac, "dev", "eth0"]
        lab.exec("left", neighbour)
    yield Scene(lab)
    left.call("hold_close", HOLD)
    for name in ENDS:
        left.call("endpoint_remove", {"bridge": "held", "netns": f"coat-{name}", "port": f"c-{name}"})
    lab.exec("left", ["ovs-vsctl", "--if-exists", "del-br", "held"])


def test_what_is_held_comes_back_in_order_and_then_passes(left: Remote, scene: Scene) -> None:
    left.call("hold_open", {**HOLD, "max_packets": 10_000, "max_bytes": 10_000_000})
    scene.held()
    receiver = scene.receiver()
    scene.send(0, 500)
    time.sleep(0.2)
    assert left.call("hold_release", {"port": "h-web"}).result == {"held": 500, "replayed": 500, "dropped": 0}
    scene.send(500, 100)
    assert numbers(receiver) == list(range(600))
    assert left.call("hold_close", HOLD).result == {"held": 600, "replayed": 600, "dropped": 0}


def test_nothing_is_overtaken_when_the_switch_goes_back_to_the_direct_way(left: Remote, scene: Scene) -> None:
    """A sender that never pauses, so that frames are on every way at every moment: in the hold, and past it."""
    left.call("hold_open", {**HOLD, "max_packets": 100_000, "max_bytes": 100_000_000})
    scene.held()
    receiver = scene.receiver()
    with scene.flood(seconds=3):
        time.sleep(0.5)
        into = {"port": "h-web", "into": "c-receiver", "mac": ENDS["receiver"][1]}
        released = left.call("hold_release", into).result
        time.sleep(1)
        scene.switch("priority=2,in_port=c-sender,udp,actions=output:c-receiver")
        closed = left.call("hold_close", HOLD).result
    arrived = numbers(receiver)
    assert released["held"] > 1000 and closed["replayed"] == closed["held"] and closed["dropped"] == 0
    assert arrived == sorted(arrived), [one for one, next_ in pairwise(arrived) if next_ < one][:10]
    assert arrived == list(range(len(arrived))) and len(arrived) > 10_000
    assert closed["held"] < len(arrived) / 2, "most of them should have been handed over within the kernel"


def test_what_took_the_longer_way_goes_first(left: Remote, scene: Scene) -> None:
    """The sender's switch was turned when its first frames were still under way to the container's former place."""
    label = "0a:00:00:00:00:01"
    left.call("hold_open", {**HOLD, "max_packets": 10_000, "max_bytes": 10_000_000, "first": label})
    scene.held()
    receiver = scene.receiver()
    scene.send(100, 50)
    scene.switch(f"priority=2,in_port=c-sender,udp,actions=set_field:{label}->eth_dst,output:h-web")
    scene.send(0, 100)
    time.sleep(0.2)
    into = {"port": "h-web", "into": "c-receiver", "mac": ENDS["receiver"][1]}
    assert left.call("hold_release", into).result == {"held": 150, "replayed": 150, "dropped": 0}
    assert numbers(receiver) == list(range(150))


def test_nothing_comes_out_before_the_release(left: Remote, scene: Scene) -> None:
    left.call("hold_open", {**HOLD, "max_packets": 100, "max_bytes": 1_000_000})
    scene.held()
    receiver = scene.receiver(patience=1)
    scene.send(0, 10)
    assert numbers(receiver) == []


def test_many_large_frames_are_all_replayed(left: Remote, scene: Scene) -> None:
    """More than any buffer of the switch takes at once: the replay must wait for it."""
    left.call("hold_open", {**HOLD, "max_packets": 20_000, "max_bytes": 100_000_000})
    scene.held()
    receiver = scene.receiver(patience=10)
    scene.send(0, 10_000, 1400)
    held = left.call("hold_release", {"port": "h-web"}).result
    assert held["replayed"] == held["held"] and held["dropped"] == 0
    assert held["held"] > 9_000
    arrived = numbers(receiver)
    assert len(arrived) == held["held"] and arrived == sorted(arrived)


@pytest.mark.parametrize(("bounds", "kept"), [({"max_packets": 20}, 20), ({"max_bytes": 5 * 142}, 5)])
def test_when_a_bound_is_reached_the_oldest_stay(left: Remote, scene: Scene, bounds: dict[str, int], kept: int) -> None:
    left.call("hold_open", {**HOLD, "max_packets": 1000, "max_bytes": 1_000_000, **bounds})
    scene.held()
    receiver = scene.receiver()
    scene.send(0, 50, 100)  # 142 bytes each with their headers
    time.sleep(0.2)
    assert left.call("hold_release", {"port": "h-web"}).result == {"held": 50, "replayed": kept, "dropped": 50 - kept}
    assert numbers(receiver) == list(range(kept))


def test_verbs_can_be_repeated(lab: Lab, left: Remote, scene: Scene) -> None:
    bounds = {"max_packets": 100, "max_bytes": 1_000_000}
    left.call("hold_open", {**HOLD, **bounds})
    scene.held()
    scene.send(0, 5)
    time.sleep(0.2)
    left.call("hold_open", {**HOLD, **bounds})
    for _ in range(2):
        assert left.call("hold_release", {"port": "h-web"}).result["held"] == 5
    left.call("hold_close", HOLD)
    nothing = {"held": 0, "replayed": 0, "dropped": 0}
    assert left.call("hold_close", HOLD).result == nothing
    assert left.call("hold_release", {"port": "h-web"}).result == nothing
    assert "h-web" not in lab.exec("left", ["sh", "-c", "ip link; ovs-vsctl show"]).stdout


def test_a_hold_that_lost_its_hook_is_swept_and_can_be_opened_again(lab: Lab, left: Remote, scene: Scene) -> None:
    bounds = {"max_packets": 100, "max_bytes": 1_000_000}
    left.call("hold_open", {**HOLD, **bounds})
    since = left.status()["since"]
    lab.exec("left", ["pkill", "-9", "-f", "python3 .*/run/coat/hook-"])
    wait_until(lambda: left.connected and left.status()["since"] != since, "the next hook")
    left.call("bridge_ensure", {"bridge": "held", "dpid": "c0a7000000000002", "controllers": []})
    assert "h-web" not in lab.exec("left", ["ovs-vsctl", "list-ports", "held"]).stdout
    left.call("hold_open", {**HOLD, **bounds})
    scene.held()
    receiver = scene.receiver()
    scene.send(0, 3)
    time.sleep(0.2)
    left.call("hold_release", {"port": "h-web"})
    assert numbers(receiver) == [0, 1, 2]


def test_the_host_itself_does_not_speak_on_a_hold(lab: Lab, left: Remote, scene: Scene) -> None:
    """Its router solicitations would be held and replayed to the container."""
    left.call("hold_open", {**HOLD, "max_packets": 100, "max_bytes": 1_000_000})
    time.sleep(3)
    assert left.call("hold_close", HOLD).result["held"] == 0
