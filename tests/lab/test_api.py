"""The API on a real controller: plans, keys, events, and strangers' words; a topology that changes under traffic."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from tests.lab.helpers import EDGES, REST_TIMEOUT, call, get, wait_for

EVIL = [
    "; id",
    "$(id)",
    "`id`",
    "a b",
    "-rf",
    "--help",
    "../../etc",
    "a\nb",
    "a\x00b",
    "'",
    '"',
    "|",
    "&&id",
    "é",
    "\\",
    "",
]


def ask(lab: Lab, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
    """``headers`` have _ for -."""
    data = body if isinstance(body, str | None) else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.request(method, lab.rest + path, data=data, headers=named, timeout=REST_TIMEOUT)


@pytest.fixture
def unchanged(lab: Lab) -> Iterator[None]:
    """What is, where it is, and nobody has left anything on a host."""
    paths = ("/v1.0/bindings", "/v1.0/containers", "/v1.0/migrations")

    def look() -> Any:
        left = [
            lab.exec(host, ["sh", "-c", "ls /tmp /root /run/coat /run/netns"], check=False).stdout for host in EDGES
        ]
        return [get(lab, path) for path in paths], left, call(lab, "POST", "/v1.0/cleanup").json()["found"]

    before = look()
    yield
    assert look() == before


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("word", EVIL)
def test_no_field_becomes_a_command(lab: Lab, word: str) -> None:
    """Every string field of every body and path with what a shell, a path or an option would take amiss."""
    good = {"name": "x", "node": "edge1", "image": "localhost/coat-python", "command": ["true"]}
    bodies = [
        *(
            ("/migrate", {"container": "iperf3-server", "to": "edge2", field: word})
            for field in ("container", "to", "mode", "mac")
        ),
        *(
            ("/v1.0/plan", {"container": "iperf3-server", "to": "edge2", field: word})
            for field in ("container", "to", "mode", "mac")
        ),
        *(
            ("/v1.0/containers", {**good, field: word})
            for field in ("name", "node", "image", "network", "ip", "ip6", "mac")
        ),
        ("/v1.0/containers", {**good, "env": {word: "1"}}),
    ]
    for path, body in bodies:
        answer = ask(lab, "POST", path, body)
        assert answer.status_code == 400, (path, body, answer.text)
        assert set(answer.json()) == {"cause", "message", "response"}
    quoted = requests.utils.quote(word, safe="")  # type: ignore[attr-defined]
    for method, path in (("GET", "containers"), ("DELETE", "containers"), ("GET", "flows"), ("GET", "migrations")):
        answer = ask(lab, method, f"/v1.0/{path}/{quoted}")
        assert answer.status_code in ((404, 200, 405) if not word else (404,)), (path, answer.text)
    assert (
        ask(lab, "PUT", "/v1.0/topology", f"nodes: [{{name: {json.dumps(word)}, address: 10.9.0.1}}]").status_code
        == 400
    )


def test_a_plan_comes_true(lab: Lab, controller: Controller) -> None:
    """Nothing is touched by asking; what is expected is on the record, with its error."""
    here = controller.where("iperf3-server")
    to = EDGES[here == EDGES[0]]
    controller.migrate("iperf3-server", to)
    controller.migrate("iperf3-server", here)
    before = get(lab, "/v1.0/bindings")
    plan = ask(lab, "POST", "/v1.0/plan", {"container": "iperf3-server", "to": to}).json()
    assert get(lab, "/v1.0/bindings") == before
    assert (plan["possible"], plan["refusals"], plan["source"]) == (True, [], here)
    assert plan["expected"]["basis"] == "history" and plan["expected"]["samples"] >= 2
    record = controller.migrate("iperf3-server", to)
    assert record["predicted"]["basis"] == "history"
    wrong = record["predicted"]["downtime_s"] / record["downtime_s"] - 1
    assert record["prediction_error"] == pytest.approx(wrong)
    assert abs(wrong) < 1.0, "a machine whose load changes may be off, not by this much"
    controller.migrate("iperf3-server", here)


def test_a_plan_says_all_that_is_against_it(lab: Lab, controller: Controller) -> None:
    here = controller.where("sockperf-server")
    plan = ask(lab, "POST", "/v1.0/plan", {"container": "sockperf-server", "to": here}).json()
    assert (plan["possible"], [one["cause"] for one in plan["refusals"]]) == (False, ["already_there"])


def test_a_key_stands_for_one_request_also_after_a_restart(lab: Lab, controller: Controller) -> None:
    here = controller.where("sockperf-server")
    body = {"container": "sockperf-server", "to": EDGES[here == EDGES[0]], "wait": True}
    first = ask(lab, "POST", "/migrate", body, Idempotency_Key="lab-1")
    count = len(get(lab, "/v1.0/migrations"))
    lab.kill_controller()
    lab.start_controller()
    again = ask(lab, "POST", "/migrate", body, Idempotency_Key="lab-1")
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()
    assert len(get(lab, "/v1.0/migrations")) == count
    other = ask(lab, "POST", "/migrate", {**body, "to": here}, Idempotency_Key="lab-1")
    assert (other.status_code, other.json()["cause"]) == (409, "key_reused")
    controller.migrate("sockperf-server", here)


def test_events_tell_a_migration_from_its_first_step_to_its_end(lab: Lab, controller: Controller) -> None:
    here = controller.where("iperf3-server")
    found: list[dict[str, Any]] = []
    with requests.get(lab.rest + "/v1.0/events", stream=True, timeout=60) as stream:
        reader = threading.Thread(target=_read, args=(stream, found), daemon=True)
        reader.start()
        record = controller.migrate("iperf3-server", EDGES[here == EDGES[0]])
        reader.join(30)
    numbers = [event["number"] for event in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    steps = [event["name"] for event in found if event["kind"] == "step" and event["duration_s"] is not None]
    assert steps == [step["name"] for step in record["steps"]]
    ours = [event for event in found if event["kind"] == "migration"]
    assert [event["state"] for event in ours] == ["running", "succeeded"]
    assert ours[1]["downtime_s"] == record["downtime_s"]
    assert any(event["kind"] == "binding" and event["holding"] for event in found)
    controller.migrate("iperf3-server", here)


def _read(stream: requests.Response, found: list[dict[str, Any]]) -> None:
    for line in stream.iter_lines():
        if line.startswith(b"data: "):
            found.append(json.loads(line[6:]))
            if found[-1]["kind"] == "migration" and found[-1]["state"] != "running":
                return


def test_a_topology_changes_under_a_running_controller(tmp_path: Path) -> None:
    """A host and a network come, are used, and cannot go while they are; then they go."""
    whole = yaml.safe_load(Path("topologies/paper.yaml").read_text())
    less = {**whole, "nodes": whole["nodes"][::2], "containers": []}
    path = tmp_path / "topology.yaml"
    path.write_text(yaml.safe_dump({**whole, "containers": []}))
    with Lab(path, name="tests-reload") as lab:
        put = lambda document: ask(lab, "PUT", "/v1.0/topology", yaml.safe_dump(document))  # noqa: E731
        assert put(less).json()["changes"]["nodes_removed"] == ["edge2"]
        assert [node["name"] for node in get(lab, "/v1.0/nodes")] == ["edge1", "device"]
        wait_for(lambda: "t-edge2" not in lab.exec("edge1", ["ovs-vsctl", "list-ports", "coat"]).stdout)
        more = {**whole, "containers": []}
        more["networks"] = [*whole["networks"], {"name": "more", "vni": 77, "subnet": "10.77.0.0/24"}]
        assert put(more).json()["changes"]["networks_added"] == ["more"]
        wait_for(lambda: all(node["ready"] and node["switch"]["in_sync"] for node in get(lab, "/v1.0/nodes")))
        for name, node in (("one", "edge1"), ("two", "edge2")):
            body = {"name": name, "node": node, "image": "localhost/coat-python", "command": ["sleep", "600"]}
            assert ask(lab, "POST", "/v1.0/containers", {**body, "network": "more"}).status_code == 201
        there = get(lab, "/v1.0/containers/two")["ip"]
        pid = lab.exec("edge1", ["podman", "inspect", "-f", "{{.State.Pid}}", "one"]).stdout.strip()
        ping = ["nsenter", "-t", pid, "-n", "ping", "-c", "3", "-i", "0.2", "-W", "5", there]
        assert " 0% packet loss" in lab.exec("edge1", ping).stdout
        refused = put(less)
        assert (refused.status_code, refused.json()["cause"]) == (409, "topology_in_use")
        assert "two lives there" in refused.json()["message"] and "network more" in refused.json()["message"]
        assert " 0% packet loss" in lab.exec("edge1", ping).stdout
        Controller(lab.rest).migrate("two", "edge1")
        for name in ("one", "two"):
            assert ask(lab, "DELETE", f"/v1.0/containers/{name}").status_code == 204
        assert put(less).status_code == 200
        time.sleep(1)
        assert get(lab, "/healthz")["status"] == "ok"
