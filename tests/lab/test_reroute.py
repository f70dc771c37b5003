"""A tunnel or a node that fails is routed around, and a partition is reported; connections outlive all of it.

The tree has one tunnel to spare, between its two aggregation nodes, which is used only when the way over the core is
down.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mininet_scenarios import echo
from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from mininet_scenarios.soak import Echo
from mininet_scenarios.upkeep import Pulse, goes_on
from tests.lab.helpers import wait_for

SERVER, CLIENT = "north1", "south2"
NOTICED = 15.0
"""Seconds that a failure, or its end, may take to be seen: BFD's, a reconnect's, and some for a busy machine."""
PATIENCE = 60.0
"""Seconds in which a connection must move again: TCP's retransmission timer may have backed off meanwhile."""


@pytest.fixture(scope="module")
def tree() -> Iterator[Lab]:
    with Lab(Path(__file__).parents[2] / "topologies/tree.yaml", name="tests-reroute") as lab:
        wait_for(lambda: not down(lab) and partitions(lab) == 1, NOTICED, "every tunnel's first sign of life")
        yield lab


@pytest.fixture(scope="module")
def load(tree: Lab) -> Iterator[Echo]:
    controller = Controller(tree.rest)
    image = {"image": "localhost/coat-python"}
    serve = ["python3", "-c", Path(echo.__file__).read_text(), "serve"]
    server = controller.post("/v1.0/containers", {"name": "e-server", "node": SERVER, "command": serve, **image})
    controller.post("/v1.0/containers", {"name": "e-client", "node": CLIENT, "command": ["sleep", "infinity"], **image})
    load = Echo(tree, "e-server", "e-client", server["ip"], host=CLIENT, seconds=3600)
    load.start()
    yield load
    load.stop()


def test_a_cut_tunnel_is_routed_around_and_taken_again(tree: Lab, load: Echo) -> None:
    before = pulse(tree)
    with cut(tree, "core", "north"):
        wait_for(lambda: down(tree) == {("core", "north")}, NOTICED, "the tunnel to be down")
        wait_for(lambda: partitions(tree) == 1, NOTICED, "one overlay")
        assert moves(tree, before)
        assert carried(tree, "north", "south") and not carried(tree, "north", "core")
    wait_for(lambda: not down(tree), NOTICED, "the tunnel to be up")
    wait_for(lambda: carried(tree, "north", "core") and not carried(tree, "north", "south"), NOTICED, "the proper way")
    assert moves(tree, before)


def test_a_partition_is_reported_and_heals(tree: Lab, load: Echo) -> None:
    before = pulse(tree)
    with cut(tree, "core", "north"), cut(tree, "north", "south"):
        wait_for(lambda: partitions(tree) == 2, NOTICED, "the partition")
        groups = Controller(tree.rest).get("/v1.0/topology")["partitions"]
        assert sorted(map(sorted, groups)) == [["core", "south", "south1", "south2"], ["north", "north1", "north2"]]
    wait_for(lambda: partitions(tree) == 1, NOTICED, "one overlay")
    assert moves(tree, before)


def test_a_lost_node_is_routed_around_and_reported(tree: Lab, load: Echo) -> None:
    """The last test of this lab, for the core does not come back; at the end every byte is accounted for."""
    before = pulse(tree)
    tree.kill_host("core")
    wait_for(lambda: {("core", "north"), ("core", "south")} <= down(tree), NOTICED, "the core's tunnels to be down")
    assert moves(tree, before)
    assert carried(tree, "north", "south")
    groups = Controller(tree.rest).get("/v1.0/topology")["partitions"]
    assert sorted(map(len, groups)) == [1, 6]
    wait_for(lambda: not node(tree, "core")["ready"], 60, "the core to be reported")
    outcome = load.finish()
    assert outcome.resumed and outcome.lost_bytes == outcome.resets == outcome.reconnects == 0, outcome


@contextmanager
def cut(lab: Lab, one: str, other: str) -> Iterator[None]:
    """Nothing passes between two hosts' tunnel ends. Their SSH, OpenFlow and all other tunnels go on."""
    address = {host: lab.state.hosts[host].address for host in (one, other)}
    matches = {
        host: [f"udp,tp_dst=4789,nw_{end}={address[peer]}" for end in ("src", "dst")]
        for host, peer in ((one, other), (other, one))
    }
    for host, flows in matches.items():
        for match in flows:
            lab.exec(host, ["ovs-ofctl", "add-flow", "br-phy", f"priority=100,{match},actions=drop"])
    yield
    for host, flows in matches.items():
        for match in flows:
            lab.exec(host, ["ovs-ofctl", "del-flows", "br-phy", match])


def carried(lab: Lab, host: str, peer: str) -> bool:
    """Whether the tunnel from ``host`` carries the connection just now: more than BFD's few packets."""
    before = _sent(lab, host, peer)
    time.sleep(1)
    return _sent(lab, host, peer) - before > 100_000


def _sent(lab: Lab, host: str, peer: str) -> int:
    """Bytes so far (ovs-ofctl(8), dump-ports; the database's statistics are up to 5 s old)."""
    shown = lab.exec(host, ["ovs-ofctl", "-OOpenFlow13", "dump-ports", "coat", f"t-{peer}"]).stdout
    return int(re.findall(r"tx pkts=\d+, bytes=(\d+)", shown)[0])


def down(lab: Lab) -> set[tuple[str, str]]:
    tunnels = Controller(lab.rest).get("/v1.0/topology")["tunnels"]
    return {(min(one["between"]), max(one["between"])) for one in tunnels if not one["up"]}


def partitions(lab: Lab) -> int:
    return len(Controller(lab.rest).get("/v1.0/topology")["partitions"])


def node(lab: Lab, name: str) -> dict[str, object]:
    return next(one for one in Controller(lab.rest).get("/v1.0/nodes") if one["name"] == name)


def pulse(lab: Lab) -> Pulse:
    return Pulse.of(lab, CLIENT, "e-client")


def moves(lab: Lab, before: Pulse) -> bool:
    return goes_on(lab, CLIENT, "e-client", before, PATIENCE)
