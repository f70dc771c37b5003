"""What /healthz, /v1.0/nodes and the plan say of a switch that is away, and of a container that is lost."""

from typing import Any

from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from tests.lab.helpers import get, wait_for

AWAY = "its switch is not connected"


def problems(lab: Lab) -> list[str]:
    found: list[str] = get(lab, "/healthz")["problems"]
    return found


def node(lab: Lab, name: str) -> dict[str, Any]:
    return next(one for one in get(lab, "/v1.0/nodes") if one["name"] == name)


def test_a_switch_without_its_controller_is_known_everywhere(lab: Lab, controller: Controller) -> None:
    here = controller.where("iperf3-server")
    other = "edge2" if here == "edge1" else "edge1"
    target = lab.exec(other, ["ovs-vsctl", "get-controller", "coat"]).stdout.strip()
    assert target
    lab.exec(other, ["ovs-vsctl", "del-controller", "coat"])
    try:
        wait_for(lambda: problems(lab) == [f"node {other}: {AWAY}"], what="the switch to be missed")
        assert (node(lab, other)["ready"], node(lab, other)["error"]) == (False, AWAY)
        plan = controller.post("/v1.0/plan", {"container": "iperf3-server", "to": other})
        assert "switch_gone" in [refusal["cause"] for refusal in plan["refusals"]]
    finally:
        lab.exec(other, ["ovs-vsctl", "set-controller", "coat", target])
    wait_for(lambda: node(lab, other)["ready"] and not problems(lab), what="the switch to be back")


def test_a_container_that_is_lost_is_known_until_it_is_removed(lab: Lab, controller: Controller) -> None:
    body = {"name": "lost", "node": "edge1", "image": "localhost/coat-python", "command": ["sleep", "600"]}
    controller.post("/v1.0/containers", body)
    lab.exec("edge1", ["podman", "rm", "--force", "--time=0", "lost"])
    assert get(lab, "/v1.0/containers/lost")["problem"] == "it is missing on edge1"
    assert problems(lab) == ["container lost: it is missing on edge1"]
    controller.call("DELETE", "/v1.0/containers/lost")
    assert problems(lab) == []
