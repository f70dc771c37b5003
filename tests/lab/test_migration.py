"""Live connections follow their container: real switches, Podman, CRIU, iperf3 and sockperf, watched at the client."""

import textwrap
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mininet_scenarios import stream
from mininet_scenarios.experiment import Controller, Run, run
from mininet_scenarios.lab import Lab
from mininet_scenarios.measure import rate_between
from mininet_scenarios.workloads import Stream, Workload
from tests.lab.helpers import EDGES, MODES, explain, journey_in_time, wait_for, workload

MEGABYTE = 1 << 20
INNER_MTU = 1450
TCP_TIMESTAMPS, HEADERS = 12, 40


@pytest.mark.parametrize("kind", ["iperf3-reverse", "iperf3-forward", "sockperf"])
def test_ten_migrations_in_a_row_under_one_connection(lab: Lab, controller: Controller, kind: str) -> None:
    """There and back, in every mode; the capture at the client has no RST and no SYN but the first."""
    one = journey_in_time(controller, partial(workload, lab, kind), (MODES * 4)[:10], quick=30, slow=120)
    assert one.good, explain(one)
    assert _turned_by(one) == ["node"] * 10


def test_a_switch_that_its_node_cannot_turn_is_turned_by_the_controller(lab: Lab, controller: Controller) -> None:
    """There and back, with the sockets away by which a node speaks to its own switch."""
    socket = "/var/run/openvswitch/coat.mgmt"
    for edge in EDGES:
        lab.exec(edge, ["mv", socket, f"{socket}.away"])
    try:
        load = partial(workload, lab, "iperf3-reverse")
        one = journey_in_time(controller, load, ["prepared", "sequential"], quick=15, slow=60)
    finally:
        for edge in EDGES:
            lab.exec(edge, ["mv", f"{socket}.away", socket])
    assert one.good, explain(one)
    assert _turned_by(one) == ["controller"] * 2


def _turned_by(one: Run) -> list[str]:
    steps = [step for record in one.migrations for step in record["steps"] if step["name"] == "checkpoint"]
    return [step["detail"]["turned_by"] for step in steps]


def test_every_byte_of_a_stream_survives_two_migrations(lab: Lab, controller: Controller, made: Any) -> None:
    size = 500 * MEGABYTE
    source = Path(stream.__file__).read_text()
    server = made("stream-server", "edge1", "python", "python3", "-c", source, "serve", str(size), str(25 * MEGABYTE))
    made("stream-client", "device", "python", "sleep", "infinity")
    load = Stream(lab, "stream-server", "stream-client", server["ip"], size=size, seconds=60)
    one = run(controller, load, EDGES, times=2, before=2, mode="sequential")
    assert one.good, explain(one)
    assert one.outcome.detail["right"] == size


@pytest.mark.parametrize(
    ("image", "serve", "use", "said", "mode"),
    [
        ("iperf3", ["--server"], ["iperf3", "--time", "12", "--client"], "iperf Done.", "sequential"),
        ("iperf3", ["--server"], ["iperf3", "--time", "12", "--reverse", "--client"], "iperf Done.", "parallel"),
        (
            "sockperf",
            ["server", "--tcp", "--ip", "0.0.0.0"],
            ["sockperf", "ping-pong", "--tcp", "--time", "12", "--ip"],
            "# dropped messages = 0",
            "prepared",
        ),
    ],
    ids=["iperf3", "iperf3-reverse", "sockperf"],
)
def test_a_client_migrates_and_finishes(
    lab: Lab, controller: Controller, made: Any, image: str, serve: list[str], use: list[str], said: str, mode: str
) -> None:
    server = made("far-server", "device", image, image, *serve)
    wait_for(lambda: _listens(lab, "far-server"), what="the server")
    made("moving-client", "edge1", image, *use, server["ip"])
    record = controller.migrate("moving-client", "edge2", mode=mode)
    assert record["state"] == "succeeded", record
    wait_for(lambda: controller.get("/v1.0/containers/moving-client")["state"] == "stopped", 40, "the client's end")
    status = lab.exec("edge2", ["podman", "inspect", "--format={{.State.ExitCode}}", "moving-client"]).stdout.strip()
    logs = lab.exec("edge2", ["podman", "logs", "moving-client"])
    assert status == "0", logs.stdout + logs.stderr
    assert said in logs.stdout


def _listens(lab: Lab, container: str) -> bool:
    """Without connecting: iperf3 would take that for a client."""
    inside = ["nsenter", f"--net=/run/netns/coat-{container}"]
    return "LISTEN" in lab.exec("device", [*inside, "ss", "-tln"]).stdout


def test_a_migrated_server_sends_as_fast_as_before_with_its_real_mss(tmp_path: Path) -> None:
    """Links of the same speed, slower than the processor: what changes the rate is the connection alone."""
    topology = tmp_path / "shaped.yaml"
    paper = (Path(__file__).parents[2] / "topologies/paper.yaml").read_text()
    limits = "".join(f"    {host}: {{rate_mbit: 100}}\n" for host in ("edge1", "edge2", "device"))
    topology.write_text(paper + textwrap.dedent("\nlab:\n  links:\n") + limits)
    with Lab(topology, name="tests-shaped") as lab:
        controller = Controller(lab.rest)
        load = workload(lab, "iperf3-reverse", seconds=16)
        load.start()
        try:
            record = run_one(controller, load)
            mss = _data_socket_mss(lab, record["destination"])
            outcome = load.finish()
        finally:
            load.stop()
    one = Run(load.name, outcome, [record], 0.0, too_late=False)
    assert one.good, explain(one)
    samples = [(at, int(count)) for at, count in outcome.moments]
    silence = outcome.disruption
    before = rate_between(samples, silence.at - 3, silence.at - 0.2)
    after = rate_between(samples, samples[-1][0] - 4, samples[-1][0] - 0.5)
    assert after >= 0.9 * before, f"{before / 1e6:.0f} Mbit/s before, {after / 1e6:.0f} after"
    assert mss == INNER_MTU - HEADERS - TCP_TIMESTAMPS


def run_one(controller: Controller, load: Workload) -> dict[str, Any]:
    wait_for(lambda: controller.where(load.server) == "edge1")
    time.sleep(4)
    return controller.migrate(load.server, "edge2", mode="sequential")


def _data_socket_mss(lab: Lab, host: str) -> int:
    """The MSS that the server's sending socket uses now (ss(8): mss)."""
    inside = ["nsenter", "--net=/run/netns/coat-iperf3-server"]

    def sizes() -> list[int]:
        # Two lines for each socket. One that has sent nothing since the restore has no bytes_sent.
        shown = lab.exec(host, [*inside, "ss", "-Htin", "state", "established"]).stdout.splitlines()
        details = [dict(word.split(":", 1) for word in line.split() if ":" in word) for line in shown[1::2]]
        return [int(one["mss"]) for one in details if int(one.get("bytes_sent", 0)) > MEGABYTE]

    return wait_for(sizes, what="a socket that sends")[0]


def test_where_a_container_is_can_be_read_off_bindings_and_flows(lab: Lab, controller: Controller) -> None:
    here = controller.where("iperf3-server")
    to = EDGES[here == EDGES[0]]
    record = controller.migrate("iperf3-server", to)
    assert record["state"] == "succeeded", record
    assert (record["source"], record["destination"]) == (here, to)
    (binding,) = [one for one in controller.get("/v1.0/bindings") if one["container"] == "iperf3-server"]
    assert (binding["node"], binding["holding"]) == (to, False)
    delivers = [node["name"] for node in controller.get("/v1.0/nodes") if _delivers(lab, controller, node, binding)]
    assert delivers == [to]
    assert controller.get(f"/v1.0/migrations/{record['id']}") == record
    assert controller.get("/v1.0/migrations")[0] == record
    assert controller.get("/v1.0/containers/iperf3-server")["state"] == "running"
    assert all(step["duration_s"] is not None for step in record["steps"])


def _delivers(lab: Lab, controller: Controller, node: dict[str, Any], binding: dict[str, Any]) -> bool:
    """Whether the node's switch has a flow that puts the container's frames out at the container's own port."""
    find = ["ovs-vsctl", "--if-exists", "get", "interface", binding["port"], "ofport"]
    port = lab.exec(node["name"], find).stdout.strip()
    flows = controller.get(f"/v1.0/flows/{node['dpid']}")
    towards = [flow["actions"] for flow in flows if flow["match"].get("dl_dst") == binding["mac"]]
    assert towards, f"{node['name']} knows nothing of {binding['mac']}"
    return any(f"OUTPUT:{port}" in actions for actions in towards)


def test_an_image_that_the_destination_lacks_is_brought_before_the_freeze(tmp_path: Path) -> None:
    topology = tmp_path / "bare.yaml"
    paper = (Path(__file__).parents[2] / "topologies/paper.yaml").read_text()
    topology.write_text(paper + "\nlab: {hosts: {edge2: {images: []}}}\n")
    with Lab(topology, name="tests-bare") as lab:
        controller = Controller(lab.rest)
        assert "coat-iperf3" not in lab.exec("edge2", ["podman", "images"]).stdout
        one = run(controller, workload(lab, "iperf3-reverse", seconds=15), EDGES, mode="sequential")
        assert one.good, explain(one)
        steps = {step["name"]: step for step in one.migrations[0]["steps"]}
        assert steps["image"]["detail"]["brought"] is True
        assert "coat-iperf3" in lab.exec("edge2", ["podman", "images"]).stdout
