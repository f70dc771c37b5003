"""What a machine lacks, judged from facts; and this machine, as far as it can be known in another way."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from coat_ryu import doctor
from coat_ryu.cli import main
from coat_ryu.doctor import Finding, judge, parse

NOW = 1_790_000_000.0
GOOD = {
    "os": "debian 13",
    "os_name": "Debian GNU/Linux 13 (trixie)",
    "kernel": "6.12.0",
    "user": "0",
    "clock": str(NOW + 1),
    "capabilities": "000001ffffffffff",
    "python3": "3.13.5",
    "podman": "5.4.2",
    "runc": "1.1.15",
    "storage": "overlay",
    "criu": "4.2.1",
    "criu_check": "ok",
    "iptables": "1.8.11",
    "ovs": "3.5.0",
    "ovs_runs": "yes",
    "sshd": "installed",
    "sshd_runs": "yes",
    "cgroup": "v2",
    "tun": "yes",
    "network_namespaces": "yes",
    "checkpoint_restore": "yes",
    "userfaultfd": "yes",
}
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def found(facts: Mapping[str, str]) -> dict[str, Finding]:
    return {finding.name: finding for finding in judge(dict(facts), NOW)}


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in GOOD.items() if name not in names}


def test_a_good_machine_has_nothing_to_mend() -> None:
    assert [finding for finding in judge(GOOD, NOW) if finding.state != "ok" or finding.mend] == []


def test_a_node_does_without_the_one_capability_that_few_containers_want() -> None:
    lacks_one, lacks_more = (GOOD | {"capabilities": text} for text in ("000001fffeffffff", "000001fffedfffff"))
    assert not found(lacks_one)["capabilities"].bad and "CAP_SYS_RESOURCE" in found(lacks_one)["capabilities"].found
    assert "CapabilityBoundingSet" in found(lacks_one)["capabilities"].mend
    assert found(lacks_more)["capabilities"].bad and "CAP_SYS_ADMIN" in found(lacks_more)["capabilities"].found


@pytest.mark.parametrize(
    ("facts", "name", "state", "mend"),
    [
        (without("capabilities"), "capabilities", "wrong", ""),
        (without("python3"), "python3", "missing", "apt-get install --yes python3"),
        (GOOD | {"python3": "3.9.2"}, "python3", "too old", "apt-get"),
        (without("podman"), "podman", "missing", "apt-get install --yes podman"),
        (GOOD | {"podman": "3.0.1"}, "podman", "too old", "apt-get"),
        (without("runc"), "runc", "missing", "apt-get install --yes runc"),
        (GOOD | {"storage": "vfs"}, "storage", "wrong", "storage.conf"),
        (without("criu"), "criu", "missing", "criu/forky"),
        (GOOD | {"criu": "4.1.1"}, "criu", "too old", "criu/forky"),
        (GOOD | {"os": "debian 12", "criu": "3.17.1"}, "criu", "too old", "upgrade to Debian 13"),
        (without("criu") | {"os": "ubuntu 24.04"}, "criu", "missing", "Ubuntu 24.04 has no criu"),
        (GOOD | {"criu_check": "Error (criu/cr-check.c:1): no"}, "criu check", "wrong", "kernel"),
        (without("iptables"), "firewall", "missing", "nftables"),
        (without("ovs"), "openvswitch", "missing", "apt-get install --yes openvswitch-switch"),
        (without("ovs_runs"), "ovs-vswitchd", "wrong", "systemctl enable --now openvswitch-switch"),
        (without("sshd", "sshd_runs"), "sshd", "missing", "apt-get install --yes openssh-server"),
        (without("sshd_runs"), "sshd", "wrong", "systemctl enable --now ssh"),
        (GOOD | {"cgroup": "v1"}, "cgroup", "too old", "unified_cgroup_hierarchy"),
        (GOOD | {"cgroup": ""}, "cgroup", "missing", "unified_cgroup_hierarchy"),
        (without("tun"), "tun", "missing", "modprobe tun"),
        (without("checkpoint_restore"), "kernel", "wrong", "kernel"),
        (GOOD | {"clock": str(NOW - 2 * doctor.CLOCK_LIMIT)}, "clock", "wrong", "timedatectl"),
        (without("clock"), "clock", "wrong", ""),
        (GOOD | {"user": "1000"}, "root", "wrong", "root"),
    ],
)
def test_what_is_wrong_is_named_alone_and_can_be_mended(
    facts: dict[str, str], name: str, state: str, mend: str
) -> None:
    findings = found(facts)
    assert [one.name for one in findings.values() if one.bad] == [name]
    assert findings[name].state == state
    assert mend in findings[name].mend


def test_what_a_node_can_do_without_is_not_held_against_it() -> None:
    findings = found(without("userfaultfd") | {"os": "arch "})
    assert {name for name, one in findings.items() if one.state != "ok"} == {"userfaultfd", "system"}
    assert not any(one.bad for one in findings.values())
    assert "apt-get" not in found({"os": "arch ", "kernel": "7"})["podman"].mend


def test_facts_are_read_and_anything_else_is_refused() -> None:
    assert parse("os\tdebian 13\nkernel\t6.12\nodd\nmore\ta\tb\n") == {
        "os": "debian 13",
        "kernel": "6.12",
        "more": "a\tb",
    }
    with pytest.raises(ValueError, match="our script did not run"):
        parse("sh: not found\n")


def test_this_machine_is_told_what_it_is() -> None:
    """Compared with what Python sees of it."""
    result = CliRunner().invoke(main, ["doctor", "--json"])
    (machine,) = json.loads(result.stdout)
    findings = {one["name"]: one for one in machine["findings"]}
    for name, program in (("podman", "podman"), ("runc", "runc"), ("criu", "criu"), ("openvswitch", "ovs-vsctl")):
        there = shutil.which(program) or shutil.which(program, path=SBIN)
        assert (findings[name]["state"] == "missing") == (there is None), name
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    assert findings["system"]["found"] == release["PRETTY_NAME"].strip('"')
    unified = any(
        line.split()[1:3] == ["/sys/fs/cgroup", "cgroup2"] for line in Path("/proc/mounts").read_text().splitlines()
    )
    assert (findings["cgroup"]["found"] == "v2") == unified
    assert (findings["tun"]["state"] == "ok") == Path("/dev/net/tun").is_char_device()
    assert findings["python3"]["state"] == findings["clock"]["state"] == "ok"
    ok = not any(one["needed"] and one["state"] != "ok" for one in findings.values())
    assert (machine["ok"], result.exit_code) == (ok, 0 if ok else 1)


def test_the_script_and_its_facts_go_by_any_way() -> None:
    """As one would for a machine behind others: print the script, run it there, bring back what it says."""
    script = CliRunner().invoke(main, ["doctor", "--script"]).stdout
    facts = subprocess.run(["sh"], input=script, capture_output=True, text=True, timeout=90, check=True)
    assert facts.stderr == ""
    result = CliRunner().invoke(main, ["doctor", "--facts", "-", "--json"], input=facts.stdout)
    assert [one["node"] for one in json.loads(result.stdout)] == ["here"]


def test_a_host_that_cannot_be_asked_is_not_in_order(tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.touch()
    result = CliRunner().invoke(main, ["doctor", "--host", "127.0.0.1:1", "--known-hosts", str(known)])
    assert result.exit_code == 1
    assert "no host key of [127.0.0.1]:1" in result.stdout
    assert "not in order: 127.0.0.1:1: reached" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["edge1"], 2, "--topology"),
        (["--host", "a@b@c"], 2, "[USER@]HOST"),
        (["--host", "x", "--facts", "-"], 2, "exclude"),
        (["--topology", "topologies/paper.yaml", "edge9"], 1, "edge1, edge2, device"),
    ],
)
def test_wrong_usage_is_refused(arguments: list[str], code: int, said: str) -> None:
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert result.exit_code == code and said in result.stderr


def test_nodes_that_do_not_reach_each_other_are_told() -> None:
    """A refusal is an answer; no way to an address is none."""
    nowhere = "255.255.255.255"
    tail = doctor.reaching("here", {"here": ("127.0.0.1", 22), "near": ("127.0.0.1", 1), "far": (nowhere, 22)})
    script = f"{CliRunner().invoke(main, ['doctor', '--script']).stdout.partition('[ ! -r /etc/os')[0]}{tail}"
    done = subprocess.run(["sh"], input=script, capture_output=True, text=True, timeout=60, check=True)
    facts = dict(line.split("\t") for line in done.stdout.splitlines())
    assert facts["reach near"] == "ok" and "TCP port 22" in facts["reach far"] and "reach here" not in facts
    findings = found(GOOD | facts)
    assert findings["reach near"].state == "ok" and findings["reach far"].bad
    assert "open all TCP ports" in findings["reach far"].mend


def test_each_node_of_a_large_topology_tries_some_and_is_tried() -> None:
    doors = {f"n{number:03}": (f"10.0.0.{number}", 22) for number in range(200)}
    tried = [re.findall(r"'reach (n\d+)'", doctor.reaching(name, doors)) for name in doors]
    assert {len(names) for names in tried} == {doctor.PEERS}
    assert {name for names in tried for name in names} == set(doors)
