"""The paper's way: a container comes to life with a new MAC address, and whoever talks to it learns that."""

import json
from functools import partial
from typing import Any

import pytest

from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from tests.lab.helpers import ADDRESSES, MODES, explain, journey_in_time, wait_for, workload


@pytest.mark.parametrize(("kind", "ipv6"), [("iperf3-forward", True), ("iperf3-reverse", False), ("sockperf", False)])
def test_connections_survive_a_new_mac(lab: Lab, controller: Controller, kind: str, ipv6: bool) -> None:
    server = f"{kind.partition('-')[0]}-server"
    before = controller.get(f"/v1.0/containers/{server}")
    make = partial(workload, lab, kind, ipv6=ipv6)
    one = journey_in_time(controller, make, MODES[:2], quick=12, slow=60, mac="renew")
    assert one.good, explain(one)
    after = controller.get(f"/v1.0/containers/{server}")
    assert after["mac"] != before["mac"]
    assert after["mac"] == inside(lab, after["node"], server)
    (binding,) = [each for each in controller.get("/v1.0/bindings") if each["container"] == server]
    assert (binding["mac"], binding["node"]) == (after["mac"], after["node"])
    assert all(finish(record)["announced"] > 0 for record in one.migrations)


def test_a_peer_learns_the_new_mac_and_one_that_never_hears_of_it_is_served(lab: Lab, controller: Controller) -> None:
    """A peer that is told nothing is any that has a permanent entry: its frames to the old MAC still arrive."""
    server, client = "iperf3-server", "iperf3-client"
    old = controller.get(f"/v1.0/containers/{server}")
    for address in ADDRESSES["iperf3"]:
        ping(lab, client, address)
        assert neighbour(lab, client, address) == old["mac"]
    stubborn = [
        "ip",
        "neigh",
        "replace",
        ADDRESSES["iperf3"][0],
        "lladdr",
        old["mac"],
        "dev",
        "eth0",
        "nud",
        "permanent",
    ]
    within(lab, "device", "sockperf-client", *stubborn)
    to = {"edge1": "edge2", "edge2": "edge1"}[old["node"]]
    record = controller.migrate(server, to, mac="renew")
    assert record["state"] == "succeeded", record
    new = controller.get(f"/v1.0/containers/{server}")["mac"]
    for address in ADDRESSES["iperf3"]:
        ping(lab, client, address)
        wait_for(partial(knows, lab, client, address, new), what=f"{address} at {new}")
    assert finish(record)["announced"] > 0
    # an entry that is permanent is told by nobody but the explicit clearing, so it is put back for the last question
    within(lab, "device", "sockperf-client", *stubborn)
    ping(lab, "sockperf-client", ADDRESSES["iperf3"][0])
    within(lab, "device", "sockperf-client", "ip", "neigh", "flush", "all", "nud", "permanent")


def finish(record: dict[str, Any]) -> dict[str, Any]:
    (step,) = [step for step in record["steps"] if step["name"] == "finish"]
    return dict(step["detail"])


def within(lab: Lab, host: str, container: str, *command: str) -> str:
    return lab.exec(host, ["nsenter", f"--net=/run/netns/coat-{container}", *command]).stdout


def inside(lab: Lab, host: str, container: str) -> str:
    """The MAC that a container really has."""
    return str(json.loads(within(lab, host, container, "ip", "-json", "link", "show", "eth0"))[0]["address"])


def ping(lab: Lab, client: str, address: str) -> None:
    within(lab, "device", client, "ping", "-c", "2", "-i", "0.2", "-W", "5", address)


def neighbour(lab: Lab, client: str, address: str) -> str | None:
    """The MAC in the client's table, whatever its state."""
    found = json.loads(within(lab, "device", client, "ip", "-json", "neigh", "show", address))
    return found[0].get("lladdr") if found else None


def knows(lab: Lab, client: str, address: str, mac: str) -> bool:
    return neighbour(lab, client, address) == mac
