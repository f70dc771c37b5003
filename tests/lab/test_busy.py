"""Servers that are busy with new connections move at the first try, and no client sees an error."""

from typing import Any

import pytest

from mininet_scenarios import busy
from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab

RATE = 100.0


@pytest.mark.parametrize(
    "case", [busy.Case("gunicorn", "ip", "prepared"), busy.Case("haproxy", "ip6", "parallel")], ids=str
)
def test_a_busy_server_moves_and_no_client_sees_an_error(lab: Lab, controller: Controller, case: busy.Case) -> None:
    with busy.served(controller, case.server) as server:
        one = busy.there_and_back(lab, server, case, 2, RATE)
    assert one["succeeded"] == 2, one["refusals"]
    assert one["first_try"] == 2
    assert one["seen"]["errors"] == 0 and one["seen"]["requests"] > RATE, one["seen"]


def test_an_init_in_a_cgroup_of_its_own_does_not_hang_the_checkpoint(
    lab: Lab, controller: Controller, made: Any
) -> None:
    """As systemd makes one for itself, below the container's: CRIU thaws the container's only."""
    made("scoped", "edge1", "python", "sleep", "infinity")
    make = """\
set -e
pid=$(podman inspect --format='{{.State.Pid}}' scoped)
own=$(sed -n 's/^0:://p' /proc/$pid/cgroup)
for mount in /sys/fs/cgroup /sys/fs/cgroup/unified; do
    [ -e "$mount$own/cgroup.freeze" ] || continue
    mkdir "$mount$own/init.scope"
    echo $pid >"$mount$own/init.scope/cgroup.procs"
done
grep init.scope /proc/$pid/cgroup"""
    assert "init.scope" in lab.exec("edge1", ["sh", "-c", make], check=False).stdout
    record = controller.migrate("scoped", "edge2")
    assert record["state"] == "succeeded" or "undo_checkpoint" in [step["name"] for step in record["steps"]]
    assert record["duration_s"] < 60
    assert controller.get("/v1.0/containers/scoped")["state"] == "running"
