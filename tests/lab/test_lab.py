"""The lab itself: hosts that are worlds of their own, and nothing left of them afterwards, however they end."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from coat_ryu.errors import TopologyError
from mininet_scenarios import images, rootfs, state
from mininet_scenarios.lab import CHECKOUT, Lab, LabError
from tests.lab.helpers import NAMESPACES, Footprint, Machine, get, wait_for

COMMAND = str(CHECKOUT / "coat-lab")
HOSTS = ("edge1", "edge2", "device")
NAME = f"life-{os.getpid()}"

SHAPED = """
nodes:
  - {name: far, address: 10.9.0.1, ssh: {host: 10.8.0.1}}
  - {name: near, address: 10.9.0.2, ssh: {host: 10.8.0.2, port: 2222}}
  - {name: lossy, address: 10.9.0.3, ssh: {host: 10.8.0.3}}
  - {name: slow, address: 10.9.0.4, ssh: {host: 10.8.0.4}}
networks: [{name: apps, vni: 42, subnet: 192.168.50.0/24}]
lab:
  links:
    far: {delay_ms: 20}
    near: {delay_ms: 5}
    lossy: {loss_percent: 100}
    slow: {rate_mbit: 20}
  hosts:
    near: {images: [], disk_mb: 128}
    far: {images: [sockperf]}
"""


def coat_lab(*arguments: str, timeout: float = 180, **options: object) -> subprocess.CompletedProcess[str]:
    defaults = {"capture_output": True, "text": True}
    return subprocess.run([COMMAND, *arguments], check=False, timeout=timeout, **(defaults | options))  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def machine() -> Iterator[Machine]:
    """What the machine is like before the test, which must be what it is like after it."""
    before = Machine.now()
    yield before
    assert Machine.now() == before


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    topology = tmp_path_factory.mktemp("shaped") / "shaped.yaml"
    topology.write_text(SHAPED)
    with Lab(topology, name=f"shaped-{os.getpid()}", controller=False) as lab:
        yield lab


# Hosts


def test_each_host_has_namespaces_of_its_own(lab: Lab) -> None:
    for kind in NAMESPACES:
        seen = {lab.exec(host, ["readlink", f"/proc/self/ns/{kind}"]).stdout for host in HOSTS}
        assert len(seen | {os.readlink(f"/proc/self/ns/{kind}") + "\n"}) == 4, kind


def test_each_host_has_its_own_switch_podman_and_files(lab: Lab) -> None:
    uuids = {lab.exec(host, ["ovs-vsctl", "get", "open_vswitch", ".", "_uuid"]).stdout for host in HOSTS}
    assert len(uuids) == 3
    lab.exec("edge1", ["touch", "/etc/only-here", "/tmp/only-here", "/run/only-here", "/var/lib/containers/only-here"])
    for place in ("/etc", "/tmp", "/run", "/var/lib/containers"):
        assert lab.exec("edge2", ["test", "-e", f"{place}/only-here"], check=False).returncode == 1, place
    assert not (rootfs.path() / "etc/only-here").exists()


def test_a_host_sees_its_own_processes_and_cgroups_only(lab: Lab) -> None:
    assert "init.py edge1" in lab.exec("edge1", ["cat", "/proc/1/cmdline"]).stdout.replace("\0", " ")
    assert lab.exec("edge1", ["cat", "/proc/self/cgroup"]).stdout.splitlines()[-1] == "0::/init"


def test_hosts_and_controller_reach_each_other_over_the_underlay(lab: Lab) -> None:
    for peer in ("edge2", "device", "controller"):
        lab.exec("edge1", ["ping", "-c", "1", "-W", "10", peer])


def test_full_frames_pass_and_the_address_answers_once(lab: Lab) -> None:
    """The kernel sees the frames that the userspace switch takes as well; it must not answer them a second time."""
    report = lab.exec("edge1", ["ping", "-c", "3", "-i", "0.2", "-s", "1472", "-M", "do", "edge2"]).stdout
    assert "3 received" in report and "duplicates" not in report


def test_plain_podman_run_works(lab: Lab) -> None:
    done = lab.exec("device", ["podman", "run", "--rm", "localhost/coat-python", "python3", "-c", "print(6 * 7)"])
    assert done.stdout == "42\n"


@pytest.mark.parametrize(
    ("image", "command"),
    [
        ("iperf3", ["iperf3", "--version"]),
        ("sockperf", ["sockperf", "--version"]),
        ("redis", ["redis-server", "--version"]),
        ("python", ["python3", "-c", "import asyncio, ssl, sqlite3"]),
    ],
)
def test_images_hold_what_their_programs_need(lab: Lab, image: str, command: list[str]) -> None:
    lab.exec("edge2", ["podman", "run", "--rm", f"localhost/coat-{image}", *command])


# The command line


def test_exec_passes_everything_through(lab: Lab) -> None:
    script = "cat; echo problem >&2; exit 7"
    done = coat_lab("exec", "--name", lab.name, "edge1", "--", "sh", "-c", script, input="a\nb\n")
    assert (done.stdout, done.stderr, done.returncode) == ("a\nb\n", "problem\n", 7)


def test_exec_of_an_unknown_host_names_the_hosts(lab: Lab) -> None:
    done = coat_lab("exec", "--name", lab.name, "edge9", "--", "true")
    assert done.returncode == 1 and "edge1, edge2, device" in done.stderr and "Traceback" not in done.stderr


def test_a_command_ends_with_the_process_that_asked_for_it(lab: Lab) -> None:
    def sleeps() -> bool:
        return "sleep 4242" in lab.exec("edge1", ["ps", "axo", "args"]).stdout.splitlines()

    asked = lab.popen("edge1", ["sleep", "4242"])
    wait_for(sleeps)
    asked.kill()
    asked.wait(10)
    wait_for(lambda: not sleeps())


def test_status_tells_programs_and_people(lab: Lab) -> None:
    report = json.loads(coat_lab("status", "--name", lab.name, "--json").stdout)
    assert [host["name"] for host in report["hosts"]] == list(HOSTS)
    assert report["controller"] == {"pid": lab.controller_pid(), "rest": lab.rest}
    # on whichever edge host earlier tests have left them
    running = {one["name"] for host in report["hosts"] for one in host["containers"] if one["state"] == "running"}
    assert {"iperf3-server", "sockperf-server", "iperf3-client", "sockperf-client"} <= running
    text = coat_lab("status", "--name", lab.name).stdout
    assert "edge1" in text and "iperf3-server" in text and lab.rest in text


def test_commands_without_a_lab_say_so() -> None:
    for command in (["exec", "edge1", "--", "true"], ["status"], ["logs"], ["controller", "kill"]):
        done = coat_lab(command[0], "--name", "nowhere", *command[1:])
        assert done.returncode == 1
        assert done.stderr == "Error: lab 'nowhere' is not up; ./coat-lab up --name nowhere brings it up\n"
    assert coat_lab("down", "--name", "nowhere").returncode == 0


# The controller


def test_the_controller_is_reached_through_loopback_only(lab: Lab) -> None:
    assert requests.get(lab.rest + "/healthz", timeout=30).status_code == 200
    assert lab.rest.startswith("http://127.0.0.1:")
    ports = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()}
    assert f"0100007F:{int(lab.rest.rsplit(':', 1)[1]):04X}" in ports
    assert not any(port.endswith(":19FD") for port in ports), "OpenFlow (6653) must not be heard by the machine"


def test_the_controller_can_be_killed_and_started_alone(lab: Lab) -> None:
    before = lab.controller_pid()
    lab.kill_controller()
    assert lab.controller_pid() is None
    with pytest.raises(requests.ConnectionError):
        requests.get(lab.rest + "/healthz", timeout=30)
    lab.start_controller()
    assert lab.controller_pid() not in (None, before)
    assert {node["name"] for node in get(lab, "/v1.0/nodes")} == set(HOSTS)


# Links and disks


def test_delay_is_added_one_way_for_what_a_host_sends(shaped: Lab) -> None:
    report = shaped.exec("far", ["ping", "-c", "5", "-i", "0.2", "10.9.0.2"]).stdout
    assert "5 received" in report
    assert float(report.rsplit("=", 1)[1].split("/")[0]) >= 25


def test_loss_is_applied_one_way(shaped: Lab) -> None:
    assert shaped.exec("lossy", ["ping", "-c", "2", "-W", "1", "10.9.0.1"], check=False).returncode == 1
    heard = shaped.popen("lossy", ["timeout", "20", "tcpdump", "-c1", "-ni", "eth0", "icmp"], stderr=subprocess.PIPE)
    assert heard.stderr is not None
    heard.stderr.readline()
    shaped.exec("far", ["ping", "-c", "2", "-W", "1", "10.9.0.3"], check=False)
    assert heard.wait(30) == 0, "what is sent to a host must not be shaped by its own link"
    heard.stderr.close()


def test_the_rate_of_a_link_is_a_limit(shaped: Lab) -> None:
    server = shaped.popen("far", ["iperf3", "--server", "--one-off"], stdout=subprocess.DEVNULL)
    wait_for(lambda: ":5201" in shaped.exec("far", ["ss", "-ltn"]).stdout)
    client = shaped.exec("slow", ["iperf3", "--client", "10.9.0.1", "--time", "4", "--json"])
    assert server.wait(30) == 0
    assert json.loads(client.stdout)["end"]["sum_received"]["bits_per_second"] < 21e6


def test_the_shaping_outlives_a_restart_of_the_switch(shaped: Lab) -> None:
    before = shaped.exec("slow", ["tc", "qdisc", "show", "dev", "eth0"]).stdout
    assert "tbf" in before
    shaped.exec("slow", ["ovs-appctl", "-t", "ovs-vswitchd", "exit"])
    shaped.exec("slow", ["ovs-vswitchd", "--detach", "--no-chdir", "--pidfile", "--log-file"])
    wait_for(lambda: "br-phy" in shaped.exec("slow", ["ovs-appctl", "dpif/show"]).stdout)
    assert shaped.exec("slow", ["tc", "qdisc", "show", "dev", "eth0"]).stdout == before


def test_images_can_be_withheld_and_loaded(shaped: Lab) -> None:
    listing = ["podman", "images", "--format", "{{.Repository}}"]
    assert shaped.exec("far", listing).stdout.split() == ["localhost/coat-sockperf"]
    assert shaped.exec("near", listing).stdout == ""
    archive = rootfs.path() / images.IMAGES[0].archive.relative_to("/")
    with archive.open("rb") as file:
        done = coat_lab("exec", "--name", shaped.name, "near", "--", "podman", "load", stdin=file)
    assert done.returncode == 0, done.stderr
    assert shaped.exec("near", listing).stdout.split() == [images.IMAGES[0].reference]


def test_a_disk_can_be_full(shaped: Lab) -> None:
    done = shaped.exec("near", ["dd", "if=/dev/zero", "of=/var/lib/containers/big", "bs=1M", "count=200"], check=False)
    assert done.returncode == 1 and "No space left" in done.stderr
    shaped.exec("near", ["rm", "/var/lib/containers/big"])


def test_a_host_is_logged_in_to_past_its_switch(shaped: Lab) -> None:
    """Each of its addresses answers with its own MAC, and the one of SSH without Open vSwitch."""
    addresses = ("10.9.0.2", "10.8.0.2")
    for address in addresses:
        shaped.exec("far", ["ping", "-c", "1", "-W", "10", address])
    neighbours = [shaped.exec("far", ["ip", "neighbour", "show", address]).stdout.split() for address in addresses]
    assert len({words[words.index("lladdr") + 1] for words in neighbours}) == len(addresses), neighbours
    assert shaped.login("near")["host"] == "10.8.0.2"
    shaped.exec("near", ["pkill", "-STOP", "ovs-vswitchd"])
    try:
        shaped.exec("far", ["ping", "-c", "1", "-W", "10", "10.8.0.2"])
    finally:
        shaped.exec("near", ["pkill", "-CONT", "ovs-vswitchd"])


def test_a_host_can_be_lost(shaped: Lab) -> None:
    shaped.kill_host("lossy")
    with pytest.raises(subprocess.CalledProcessError):
        shaped.exec("lossy", ["true"])
    shaped.exec("far", ["ping", "-c", "1", "-W", "10", "10.9.0.2"])


# Refusals


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("links: {edge9: {delay_ms: 1}}", "lab.links.edge9"),
        ("links: {edge1: {delay_ms: -1}}", "lab.links.edge1.delay_ms"),
        ("links: {edge1: {loss_percent: 101}}", "lab.links.edge1.loss_percent"),
        ("links: {edge1: {dely_ms: 1}}", "lab.links.edge1.dely_ms"),
        ("hosts: {edge1: {images: [nginx]}}", "lab.hosts.edge1.images"),
        ("underlay: 10.8.0.0/24", "lab.underlay"),
        ("controller: 10.9.0.1", "lab.controller"),
    ],
)
def test_a_broken_lab_section_is_refused_by_field(tmp_path: Path, section: str, complaint: str) -> None:
    topology = tmp_path / "broken.yaml"
    node = "nodes: [{name: edge1, address: 10.9.0.1}]\nnetworks: [{name: a, vni: 1, subnet: 10.0.0.0/24}]\n"
    topology.write_text(f"{node}lab: {{{section}}}\n")
    with pytest.raises(TopologyError, match=f"{topology}: {complaint}"):
        Lab(topology, name=NAME).up()
    assert not state.directory(NAME).exists()


def test_a_port_that_is_taken_is_refused(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = coat_lab("up", "--name", NAME, "--rest-port", str(port), "--no-controller")
    assert done.returncode == 1 and f"127.0.0.1:{port}: Address already in use" in done.stderr
    assert not state.directory(NAME).exists()


def test_a_controller_that_does_not_start_takes_the_lab_with_it(machine: Machine) -> None:
    done = coat_lab("up", "--name", NAME, "--rest-port", "0", "--set", "journal=/proc/nowhere/journal.db")
    assert done.returncode == 1 and "ryu-manager" in done.stderr and "/proc/nowhere" in done.stderr
    assert not state.directory(NAME).exists()


def test_a_lab_that_is_up_is_not_brought_up_again(lab: Lab) -> None:
    with pytest.raises(LabError, match="is up already"):
        Lab(name=lab.name, controller=False).up()
    lab.exec("edge1", ["true"])


# Ends


def test_two_runs_in_a_row_leave_nothing(machine: Machine) -> None:
    for _ in range(2):
        up = coat_lab("up", "--name", NAME, "--rest-port", "0")
        assert up.returncode == 0, up.stderr
        lab = Lab.attach(NAME)
        lab.exec("edge1", ["podman", "run", "--detach", "localhost/coat-iperf3"])
        footprint = Footprint.of(NAME)
        assert len(footprint.processes) > 20
        down = coat_lab("down", "--name", NAME)
        assert down.returncode == 0, down.stderr
        assert footprint.remains() == []


@pytest.mark.parametrize("victims", ["supervisor", "lab", "all"])
def test_after_kill_9_the_next_run_works_and_nothing_is_left(machine: Machine, victims: str) -> None:
    Lab(name=NAME).up().detach()
    footprint = Footprint.of(NAME)
    found = Lab.attach(NAME).state
    chosen = {"supervisor": [found.supervisor], "lab": [found.pid], "all": [pid for pid, _ in footprint.processes]}
    for pid in chosen[victims]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # the kernel was faster
            continue
    with Lab(name=NAME, controller=False) as lab:
        lab.exec("edge1", ["true"])
        again = Footprint.of(NAME)
    assert footprint.remains() == [] and again.remains() == []


OWNER = """
import sys, time
from mininet_scenarios.lab import Lab
lab = Lab(name=sys.argv[1], controller=False).up()
print("up", flush=True)
time.sleep(600)
"""


def test_a_lab_ends_when_its_owner_is_killed(machine: Machine) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, NAME], stdout=subprocess.PIPE, cwd=CHECKOUT) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"up\n"
        footprint = Footprint.of(NAME)
        owner.kill()
    wait_for(lambda: footprint.remains() == [], what="the lab to end with its owner")


def test_an_interrupted_start_leaves_nothing(machine: Machine) -> None:
    with subprocess.Popen([COMMAND, "up", "--name", NAME, "--rest-port", "0"], stderr=subprocess.PIPE) as starting:
        assert starting.stderr is not None
        while b"host" not in starting.stderr.readline():
            pass
        starting.kill()
    wait_for(lambda: not state.directory(NAME).exists(), what="the half-started lab to end")
