"""`coat`, the command, against the lab's controller; and `coat doctor` where the truth is known."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coat_ryu.node import inside
from mininet_scenarios import rootfs
from mininet_scenarios.lab import Lab
from tests.lab.helpers import EDGES

COAT = str(Path(sys.prefix, "bin", "coat"))


def coat(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [COAT, "--url", lab.rest, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def told(lab: Lab, *arguments: str) -> Any:
    done = coat(lab, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_container_s_life_from_the_command_line(lab: Lab) -> None:
    assert [(node["name"], node["ready"]) for node in told(lab, "nodes")] == [
        (name, True) for name in (*EDGES, "device")
    ]
    done = coat(lab, "run", "--env", "LANG=C.UTF-8", "typed", EDGES[0], "localhost/coat-python", "sleep", "600")
    assert done.returncode == 0, done.stderr
    try:
        moved = coat(lab, "migrate", "typed", EDGES[1], "--watch")
        assert moved.returncode == 0, moved.stderr
        lines = [line.split() for line in moved.stdout.splitlines()]
        assert {"preflight", "checkpoint", "transfer", "restore", "finish"} <= {line[0] for line in lines}
        assert (lines[-1][0], "frozen" in lines[-1]) == ("succeeded", True)
        record = told(lab, "migrations", "--limit", "1")[0]
        assert (record["container"], record["destination"]) == ("typed", EDGES[1])
        assert "restore" in coat(lab, "migrations", record["id"]).stdout
        late = coat(lab, "abort", record["id"])
        assert (late.returncode, late.stdout) == (3, ""), late.stderr
        places = {one["name"]: one["node"] for one in told(lab, "containers")}
        assert places["typed"] == EDGES[1]
    finally:
        assert coat(lab, "remove", "typed").returncode == 0
    assert coat(lab, "remove", "typed").returncode == 4


def test_doctor_finds_the_lab_s_hosts_in_order(lab: Lab) -> None:
    """Over SSH, from where the controller is."""
    network = ["nsenter", f"--net=/proc/{lab.state.pid}/ns/net", "--"]
    keys = ["--ssh-key", str(lab.folder / "id_ed25519"), "--known-hosts", str(lab.folder / "known_hosts")]
    command = [*network, COAT, "doctor", "--topology", lab.state.topology, *keys, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    machines = {one["node"]: one for one in json.loads(done.stdout)}
    assert list(machines) == [*EDGES, "device"]
    ailing = [finding for one in machines.values() for finding in one["findings"] if finding["state"] != "ok"]
    # The hosts' root is this machine's, which in a container may lack what a few workloads want.
    lacking = [] if inside.has_capability(inside.CAP_SYS_RESOURCE) else ["root lacks CAP_SYS_RESOURCE"] * len(machines)
    assert [finding["found"] for finding in ailing] == lacking
    assert done.returncode == 0, "nothing is missing that every container needs"
    assert {"criu", "criu check", "storage", "ovs-vswitchd", "sshd"} <= {
        finding["name"] for finding in machines["edge1"]["findings"]
    }


@pytest.fixture(scope="module")
def bare_facts() -> str:
    """What the doctor's script says in a Debian 13 that has nothing but itself, on this machine's kernel."""
    script = subprocess.run([COAT, "doctor", "--script"], capture_output=True, text=True, timeout=30, check=True).stdout
    inside = 'for part in proc sys dev; do mount --rbind "/$part" "$1/$part"; done; exec chroot "$1" sh -s'
    command = ["unshare", "--mount", "sh", "-ec", inside, "sh", str(rootfs.ensure_bare())]
    return subprocess.run(command, input=script, capture_output=True, text=True, timeout=60, check=True).stdout


def test_doctor_tells_a_bare_debian_13_what_to_install(bare_facts: str) -> None:
    command = [COAT, "doctor", "--facts", "-", "--json"]
    done = subprocess.run(command, input=bare_facts, capture_output=True, text=True, timeout=30, check=False)
    (machine,) = json.loads(done.stdout)
    findings = {one["name"]: one for one in machine["findings"]}
    assert findings["system"]["found"].startswith("Debian GNU/Linux 13")
    lacking = {"python3", "podman", "runc", "criu", "firewall", "openvswitch", "sshd"}
    assert {name for name in lacking if findings[name]["state"] == "missing"} == lacking
    assert all("apt-get install --yes" in findings[name]["mend"] for name in lacking)
    assert "criu/forky" in findings["criu"]["mend"]
    assert (findings["tun"]["state"] == "ok") == Path("/dev/net/tun").exists()
    assert (machine["ok"], done.returncode) == (False, 1)
