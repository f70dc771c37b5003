"""What a container may do and use at the most, on real hosts: in force from the start and after a move, or refused."""

from collections.abc import Callable
from typing import Any

import pytest

from mininet_scenarios.experiment import Controller, Refused
from mininet_scenarios.lab import Lab
from tests.lab.helpers import EDGES

pytestmark = pytest.mark.lab

SOURCE, DESTINATION = EDGES
IDLE = "import signal; signal.pause()"
CAP_CHOWN, CAP_NET_RAW = 1 << 0, 1 << 13
PIDS = 40


def confined(lab: Lab, host: str, process: str) -> dict[str, str]:
    """Of /proc/PID/status, in the container, what says how far a process is confined."""
    argv = ["podman", "exec", "limited", "grep", "-E", "^(Cap(Prm|Eff|Bnd)|NoNewPrivs)", f"/proc/{process}/status"]
    return dict(line.split(":\t") for line in lab.exec(host, argv).stdout.splitlines())


def test_what_a_container_may_not_do_it_may_not_do_after_a_move(
    lab: Lab, controller: Controller, made: Callable[..., dict[str, Any]]
) -> None:
    limits = {"cap_drop": ["NET_RAW", "cap_chown"], "security_opt": ["no-new-privileges:true"]}
    made("limited", SOURCE, "python", "python3", "-c", IDLE, **limits)
    before = {process: confined(lab, SOURCE, process) for process in ("1", "self")}
    for found in before.values():
        assert found["NoNewPrivs"] == "1"
        assert not int(found["CapBnd"], 16) & (CAP_CHOWN | CAP_NET_RAW)
        assert int(found["CapBnd"], 16), "the others are left"
    record = controller.migrate("limited", DESTINATION)
    assert (record["state"], record["error"]) == ("succeeded", None)
    assert {process: confined(lab, DESTINATION, process) for process in ("1", "self")} == before


def test_a_limit_is_in_force_after_a_move_or_is_refused_at_once(
    lab: Lab, controller: Controller, made: Callable[..., dict[str, Any]]
) -> None:
    """By what the hosts have: a kernel may keep its controllers in cgroup v1, where containers have none of them."""
    controllers = lab.exec(SOURCE, ["cat", "/sys/fs/cgroup/cgroup.controllers"]).stdout.split()
    if "pids" not in controllers:
        body = {"name": "limited", "node": SOURCE, "image": "localhost/coat-python", "pids_limit": PIDS}
        with pytest.raises(Refused) as refused:
            controller.post("/v1.0/containers", body)
        assert (refused.value.status, refused.value.answer["cause"]) == (409, "no_cgroup_controller")
        assert "pids_limit" in refused.value.answer["message"] and SOURCE in refused.value.answer["message"]
        assert "limited" not in [one["name"] for one in controller.get("/v1.0/containers")]
        assert not lab.exec(SOURCE, ["sh", "-c", "ls -d /run/netns/coat-limited 2>&- || true"]).stdout
        return
    made("limited", SOURCE, "python", "python3", "-c", IDLE, pids_limit=PIDS)
    assert controller.migrate("limited", DESTINATION)["state"] == "succeeded"
    look = ["podman", "exec", "limited", "cat", "/sys/fs/cgroup/pids.max"]
    assert lab.exec(DESTINATION, look).stdout == f"{PIDS}\n"
