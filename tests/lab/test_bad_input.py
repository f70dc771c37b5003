"""What ``POST /migrate`` refuses, through real HTTP: the contract's error shape, and nothing changed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from tests.lab.helpers import REST_TIMEOUT, wait_for

GOOD = {"container": "iperf3-server", "to": "edge2"}


@pytest.fixture
def unchanged(lab: Lab) -> Iterator[None]:
    """Where everything is, and what has been migrated, stays as it is."""
    controller = Controller(lab.rest)

    def look() -> Any:
        return [controller.get(path) for path in ("/v1.0/bindings", "/v1.0/containers", "/v1.0/migrations")]

    before = look()
    yield
    assert look() == before


def refused(response: requests.Response, status: int, cause: str, said: str) -> None:
    assert response.headers["Content-Type"] == "application/json", response.text
    answer = response.json()
    assert set(answer) == {"cause", "message", "response"}
    assert (response.status_code, answer["response"], answer["cause"]) == (status, status, cause), answer
    assert said in answer["message"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("body", "status", "cause", "said"),
    [
        ("{", 400, "bad_json", "not JSON"),
        ("", 400, "bad_json", "not JSON"),
        ("[]", 400, "bad_json", "object"),
        ('"edge2"', 400, "bad_json", "object"),
        ({"to": "edge2"}, 400, "bad_input", "container: missing"),
        ({"container": "iperf3-server"}, 400, "bad_input", "to: missing"),
        ({**GOOD, "speed": "high"}, 400, "bad_input", "speed: unknown field"),
        ({**GOOD, "container": 7}, 400, "bad_input", "container: "),
        ({**GOOD, "to": ["edge2"]}, 400, "bad_input", "to: "),
        ({**GOOD, "wait": "yes"}, 400, "bad_input", "wait: "),
        ({**GOOD, "mode": "fast"}, 400, "bad_input", "'prepared', 'parallel' or 'sequential'"),
        ({**GOOD, "mac": "random"}, 400, "bad_input", "'keep' or 'renew'"),
        ({**GOOD, "container": "../../etc"}, 400, "bad_input", "container: "),
        ({**GOOD, "container": "nobody"}, 404, "no_such_container", "nobody"),
        ({**GOOD, "to": "nowhere"}, 404, "no_such_node", "to: there is no node 'nowhere'"),
    ],
)
def test_a_body_that_cannot_be_is_refused(lab: Lab, body: Any, status: int, cause: str, said: str) -> None:
    data = body if isinstance(body, str) else json.dumps(body)
    refused(requests.post(lab.rest + "/migrate", data=data, timeout=REST_TIMEOUT), status, cause, said)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_a_wrong_method_is_refused_with_the_right_ones(lab: Lab, method: str) -> None:
    response = requests.request(method, lab.rest + "/migrate", timeout=REST_TIMEOUT)
    refused(response, 405, "method_not_allowed", "POST")
    assert response.headers["Allow"] == "POST"


@pytest.mark.usefixtures("unchanged")
def test_an_unknown_path_is_refused(lab: Lab) -> None:
    refused(requests.post(lab.rest + "/migrates", json=GOOD, timeout=REST_TIMEOUT), 404, "no_such_path", "/migrates")


def test_a_container_that_is_there_already_is_refused(lab: Lab) -> None:
    here = Controller(lab.rest).where("iperf3-server")
    body = {**GOOD, "to": here}
    refused(requests.post(lab.rest + "/migrate", json=body, timeout=REST_TIMEOUT), 409, "already_there", here)


def test_a_container_that_does_not_run_is_refused(lab: Lab) -> None:
    controller = Controller(lab.rest)
    ends_at_once = {"name": "short", "node": "edge1", "image": "localhost/coat-iperf3", "command": ["true"]}
    controller.post("/v1.0/containers", ends_at_once)
    try:
        body = {"container": "short", "to": "edge2"}
        refused(requests.post(lab.rest + "/migrate", json=body, timeout=REST_TIMEOUT), 409, "not_running", "short")
    finally:
        controller.call("DELETE", "/v1.0/containers/short")


def test_a_container_that_is_migrating_already_is_refused(lab: Lab) -> None:
    controller = Controller(lab.rest)
    to = "edge2" if controller.where("sockperf-server") == "edge1" else "edge1"
    body = {"container": "sockperf-server", "to": to}
    first = requests.post(lab.rest + "/migrate", json=body, timeout=REST_TIMEOUT)
    assert first.status_code == 202
    refused(requests.post(lab.rest + "/migrate", json=body, timeout=REST_TIMEOUT), 409, "already_migrating", "sockperf")
    assert controller.get(first.headers["Location"])["state"] in ("running", "succeeded")
    _finished(controller, first.headers["Location"])


def _finished(controller: Controller, location: str) -> None:
    wait_for(lambda: controller.get(location)["state"] != "running")
    assert controller.get(location)["state"] == "succeeded"


def test_a_destination_that_is_not_connected_is_refused() -> None:
    with Lab(name="tests-lost") as lab:
        lab.kill_host("edge2")
        controller = Controller(lab.rest)

        def gone() -> bool:
            return not {node["name"]: node["ready"] for node in controller.get("/v1.0/nodes")}["edge2"]

        wait_for(gone, 60)
        answer = requests.post(lab.rest + "/migrate", json=GOOD, timeout=REST_TIMEOUT)
        refused(answer, 409, "node_not_connected", "edge2")
        assert controller.where("iperf3-server") == "edge1"
