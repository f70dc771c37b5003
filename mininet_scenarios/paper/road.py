"""Devices that drive along a row of edge hosts: where a device is decides which of its tunnels is in use.

A device has a tunnel to every edge host. The one to where it is carries its frames; at the other end of all others it
says that it is not to be reached that way (BFD's "concatenated path down", RFC 5880, section 4.1, which Open vSwitch
calls ``bfd:cpath_down``). Both tunnels are open during a handover, so that no frame is lost in it.
"""

import time
from pathlib import Path
from typing import Any

from mininet_scenarios import echo
from mininet_scenarios.paper.trial import Scene
from mininet_scenarios.soak import Echo

EDGES = tuple(f"edge{number}" for number in range(1, 7))
DEVICES = ("device1", "device2", "device3")
IMAGE = {"image": "localhost/coat-python"}
NOTICED = 15.0
"""Seconds that a change of a tunnel may take to be known."""


class Device:
    """One of them. It begins at the first edge host."""

    def __init__(self, scene: Scene, host: str) -> None:
        self._scene = scene
        self.host = host
        self.at = EDGES[0]
        for edge in EDGES:
            self._set(edge, reachable=edge == self.at)
        self._await({self.at})

    def drive(self, to: str) -> float:
        """Goes over to another edge host; returns the seconds until the whole overlay knows."""
        began = time.monotonic()
        self._set(to, reachable=True)
        self._await({self.at, to})
        self._set(self.at, reachable=False)
        self.at = to
        self._await({to})
        return time.monotonic() - began

    def _set(self, edge: str, *, reachable: bool) -> None:
        down = str(not reachable).lower()
        self._scene.place.exec(self.host, ["ovs-vsctl", "set", "interface", f"t-{edge}", f"bfd:cpath_down={down}"])

    def _await(self, reachable: set[str]) -> None:
        give_up = time.monotonic() + NOTICED
        while (found := self._reachable()) != reachable:
            if time.monotonic() > give_up:
                raise RuntimeError(f"{self.host} reaches {sorted(found)}, not {sorted(reachable)}, after {NOTICED} s")
            time.sleep(0.05)

    def _reachable(self) -> set[str]:
        tunnels = self._scene.controller.get("/v1.0/topology")["tunnels"]
        mine = (set(tunnel["between"]) - {self.host} for tunnel in tunnels if self.host in tunnel["between"])
        up = {tuple(sorted(tunnel["between"])) for tunnel in tunnels if tunnel["up"]}
        return {edge for (edge,) in mine if tuple(sorted((self.host, edge))) in up}


def service(name: str, node: str) -> dict[str, Any]:
    """A container that sends back what it gets."""
    return {"name": name, "node": node, "command": ["python3", "-c", Path(echo.__file__).read_text(), "serve"], **IMAGE}


def passenger(name: str, node: str) -> dict[str, Any]:
    """The container in which a service's client will run."""
    return {"name": name, "node": node, "command": ["sleep", "infinity"], **IMAGE}


def connection(scene: Scene, server: dict[str, Any], client: dict[str, Any]) -> Echo:
    """One TCP connection from client to server, every byte of it checked both ways. Not started yet."""
    return Echo(scene.place, server["name"], client["name"], server["ip"], host=client["node"], seconds=86_400)
