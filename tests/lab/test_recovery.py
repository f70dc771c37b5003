"""A controller that is killed and comes back, at moments that nobody chose; and what lies about on a host."""

import json
from collections.abc import Iterator

import pytest

from mininet_scenarios.faults import OPTIONS, Bench, describe
from mininet_scenarios.lab import Lab
from mininet_scenarios.matrix import MODES, MOMENTS, Case
from mininet_scenarios.upkeep import look, residue
from tests.lab.helpers import call, get, wait_for


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Lab(name="tests-recovery", options=OPTIONS) as lab:
        made = Bench(lab)
        yield made
        made.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("moment", [*MOMENTS][:4])
def test_a_killed_controller_is_succeeded_by_one_that_puts_things_right(bench: Bench, mode: str, moment: str) -> None:
    verdict = bench.run(Case(moment, mode, "controller_killed"))
    assert verdict.survived, describe(verdict)


LITTER = """\
set -e
podman create --name=$1 --label=coat.container=$1 localhost/coat-iperf3 sleep infinity
ip netns add coat-$1
ip link add c-litter type veth peer name eth0 netns coat-$1
ovs-vsctl add-port coat c-litter -- set interface c-litter external_ids:coat=container external_ids:coat-name=$1
ip tuntap add h-litter mode tap
ovs-vsctl add-port coat h-litter -- set interface h-litter external_ids:coat=hold
ip link del h-litter
mkdir -p /var/lib/containers/storage/coat/litter
"""


def test_cleanup_shows_what_lies_about_and_removes_it_when_told(lab: Lab) -> None:
    lab.exec("device", ["sh", "-c", LITTER, "sh", "litter"])
    kinds = ["container", "endpoint", "hold", "transfer"]
    answer = call(lab, "POST", "/v1.0/cleanup", {}).json()
    assert [stray["kind"] for stray in answer["found"] if stray["node"] == "device"] == kinds
    assert not any(stray["removed"] for stray in answer["found"])
    assert answer["unreachable"] == {}
    assert "litter" in look(lab, "device")["containers"]

    answer = call(lab, "POST", "/v1.0/cleanup", {"remove": True}).json()
    assert [stray["removed"] for stray in answer["found"] if stray["node"] == "device"] == [True] * 4
    assert call(lab, "POST", "/v1.0/cleanup", {}).json()["found"] == []
    here = [one["name"] for one in get(lab, "/v1.0/containers") if one["node"] == "device"]
    assert residue(lab, "device", here) == []


def test_a_running_copy_of_nobody_is_reported_and_left_running(lab: Lab) -> None:
    make = ["podman", "run", "--detach", "--network=none", "--pids-limit=0", "--cgroups=no-conmon", "--name=stranger"]
    lab.exec("device", [*make, "--label=coat.container=stranger", "localhost/coat-iperf3", "sleep", "infinity"])
    try:
        (stray,) = call(lab, "POST", "/v1.0/cleanup", {"remove": True}).json()["found"]
        assert (stray["name"], stray["removed"]) == ("stranger", False)
        assert "running" in stray["keep"]
        assert any("stranger" in problem for problem in get(lab, "/healthz")["problems"])
    finally:
        lab.exec("device", ["podman", "rm", "--force", "--time=0", "stranger"])
    call(lab, "POST", "/v1.0/cleanup", {})
    assert get(lab, "/healthz")["status"] == "ok"


def test_what_an_absent_node_keeps_is_swept_when_it_comes_back(lab: Lab) -> None:
    """An old copy of a container that lives elsewhere by now."""
    elsewhere = next(one for one in get(lab, "/v1.0/containers") if one["node"] != "device")["name"]
    make = ["podman", "create", f"--name={elsewhere}", f"--label=coat.container={elsewhere}"]
    lab.exec("device", [*make, "localhost/coat-iperf3", "sleep", "infinity"])
    lab.exec("device", ["pkill", "-KILL", "-f", "sshd-session: root@"])
    wait_for(lambda: elsewhere not in look(lab, "device")["containers"], 40, "the sweep")
    assert json.dumps(get(lab, "/healthz")["problems"]) == "[]"
