"""A small overlay for the switch tests: nodes a, b, c in a full mesh, two networks, and bindings made by name."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from pathlib import Path

from coat_ryu.model import Binding, Hold, Network, Node, Place, Topology, Tunnel, container_port, hold_port
from mininet_scenarios import rootfs
from mininet_scenarios.private_ovs import PrivateOvs

TOPOLOGY = Topology(
    nodes=tuple(Node(name=name, address=IPv4Address(f"10.9.0.{number}")) for number, name in enumerate("abc", 1)),
    networks=(
        Network(name="apps", vni=42, subnet=IPv4Network("10.0.0.0/24"), subnet6=IPv6Network("fd00::/64")),
        Network(name="other", vni=43, subnet=IPv4Network("10.0.0.0/24"), subnet6=IPv6Network("fd00::/64")),
    ),
)
LINE = TOPOLOGY.model_copy(update={"tunnels": (Tunnel(between=("a", "b")), Tunnel(between=("b", "c")))})


def mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def bound(name: str, node: str, number: int, vni: int = 42, **more: object) -> Binding:
    """The container ``name`` with address 10.0.0.number and fd00::number."""
    place = Place(node, container_port(name))
    ips = (ip_address(f"10.0.0.{number}"), ip_address(f"fd00::{number}"))
    return Binding(name, vni, mac(number), ips, place, (place,), **more)  # type: ignore[arg-type]


def held(binding: Binding, node: str, filling: bool) -> Hold:
    return Hold(Place(node, hold_port(binding.container)), filling)


def eventually(probe: Callable[[], bool], what: str, timeout: float = 15.0) -> None:
    """Fails the test when ``probe`` does not become true in time."""
    deadline = time.monotonic() + timeout
    while not probe():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.05)


@contextmanager
def private_ovs() -> Iterator[PrivateOvs]:
    # Unix socket paths are short (108 bytes): pytest's own directories may not be.
    directory = Path(tempfile.mkdtemp(prefix="coat-ovs-"))
    switch = PrivateOvs(rootfs.ensure(), directory)
    try:
        switch.start()
        yield switch
    finally:
        switch.stop()
        shutil.rmtree(directory)
