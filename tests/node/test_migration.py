"""A container with live connections between two hosts, verb by verb, with Podman, CRIU and Open vSwitch."""

import json
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from coat_ryu.errors import NodeError
from coat_ryu.remote import Remote
from mininet_scenarios.lab import Lab
from tests.names import ASK, LEFT, NAMES, WHOLE
from tests.node.conftest import wait_until
from tests.node.journey import MTU, NETNS, PLACE, RELEASE, SERVER, STORAGE, Journey

pytestmark = pytest.mark.lab

PYTHON = "localhost/coat-python"

ECHO = """
import os, socket, threading
print("started", flush=True)
listener = socket.create_server(("", 7))
def serve(connection):
    while data := connection.recv(65536): connection.sendall(data)
while True: threading.Thread(target=serve, args=listener.accept()[:1]).start()
"""

# Numbered lines there and back, one after the other, until standard input closes.
PING = f"""
import socket, sys, threading
connection = socket.create_connection(("{SERVER}", 7))
connection.settimeout(60)
stream = connection.makefile("rw")
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
number = 0
while not ended.wait(0.001):
    print(number, file=stream, flush=True)
    answer = stream.readline()
    assert answer == f"{{number}}\\n", (number, answer)
    number += 1
    if number == 1: print("connected", flush=True)
print(number, flush=True)
"""


@pytest.fixture
def journey(lab: Lab, left: Remote, right: Remote) -> Iterator[Journey]:
    journey = Journey(lab, left, right)
    journey.set_up()
    yield journey
    journey.tear_down()


@pytest.fixture
def echo(journey: Journey) -> Journey:
    journey.run(PYTHON, "python3", "-c", ECHO)
    wait_until(lambda: ":7 " in journey.inside("ss", "-Htln"), "the server")
    return journey


def begin(journey: Journey) -> subprocess.Popen[str]:
    client = journey.client("python3", "-c", PING)
    assert client.stdout is not None and client.stdout.readline() == "connected\n"
    return client


def end(client: subprocess.Popen[str]) -> int:
    """How many lines went there and back. Fails if the connection did."""
    out, _ = client.communicate(timeout=90)
    assert client.returncode == 0
    return int(out)


def test_a_connection_follows_its_container(echo: Journey) -> None:
    client = begin(echo)
    for there in ("right", "left", "right", "left"):
        moved = echo.move()
        assert echo.where == there
        assert 0 < moved["resumed_at"] - moved["frozen_at"] < 30
        assert moved["frozen_at"] < moved["finished_at"] < moved["resumed_at"]
        assert moved["criu"]["restore_time"] > 0 and moved["criu"]["pages_restored"] > 0
        assert moved["held"] == moved["replayed"] > 0 and moved["dropped"] == 0
    assert end(client) > 4


def test_the_restored_container_is_a_whole_one(echo: Journey) -> None:
    """What Podman says and does on the destination, and that nothing of the container is left on the source."""
    echo.move()
    assert echo.inspect("left") is None
    there = echo.inspect("right")
    assert there is not None and there["state"] == "running" and there["spec"] == {"image": PYTHON}
    assert there["image"].startswith(PYTHON)
    assert [entry["name"] for entry in echo.remotes["right"].call("container_list").result] == ["server"]
    assert echo.execute("sh", "-c", "hostname; echo $COLOUR").splitlines() == ["server", "green and blue"]
    (listed,) = json.loads(echo.lab.exec("right", ["podman", "ps", "--format=json"]).stdout)
    assert listed["Id"] == there["id"] and listed["State"] == "running"
    cgroup = echo.lab.exec("right", ["cat", f"/proc/{there['pid']}/cgroup"]).stdout
    assert there["id"] in cgroup, "the processes are in the cgroup of the container that they belong to"
    echo.lab.exec("right", ["podman", "kill", "--signal=KILL", "server"])
    wait_until(lambda: (echo.inspect("right") or {}).get("state") == "stopped", "its end to be noticed")
    assert echo.remotes["right"].call("container_remove", {"name": "server"}).result == {"removed": True}
    assert echo.remotes["right"].call("container_remove", {"name": "server"}).result == {"removed": False}


def test_what_it_prints_is_in_its_log_before_and_after_a_move(journey: Journey) -> None:
    journey.run(
        PYTHON, "python3", "-uc", "import itertools, time\nfor n in itertools.count(): print(n); time.sleep(0.1)"
    )
    wait_until(lambda: "2\n" in journey.lab.exec("left", ["podman", "logs", "server"]).stdout, "a first line")
    said = 0
    for there in ("right", "left"):
        journey.move()
        seen = [int(line) for line in journey.lab.exec(there, ["podman", "logs", "server"]).stdout.split()]
        assert len(seen) > max(said, 2) and seen == list(range(len(seen))), "no line is missing, twice or out of order"
        wait_until(
            lambda: len(journey.lab.exec(there, ["podman", "logs", "server"]).stdout.split()) > len(seen) + 2,  # noqa: B023
            "lines after the move",
        )
        said = len(seen)


@pytest.mark.parametrize("direction", ["--reverse", "--bidir"])
def test_the_real_mss_comes_back_and_the_mtu_stays(journey: Journey, direction: str) -> None:
    journey.run("localhost/coat-iperf3", "iperf3", "--server")
    wait_until(lambda: ":5201" in journey.inside("ss", "-Htln"), "the server")
    _bring_image(journey)
    client = journey.client("iperf3", "--client", SERVER, direction, "--time", "60", "--json")
    try:
        wait_until(lambda: _mss(journey), "a sender")
        fresh = _mss(journey)
        assert fresh == MTU - 40 - 12  # IPv4 and TCP headers, and the time stamps in each segment
        for _ in range(4):
            journey.move()
            wait_until(lambda: _mss(journey) == fresh, f"an MSS of {fresh}, not {_mss(journey)}")
            link = json.loads(journey.inside("ip", "-json", "link", "show", "eth0"))[0]
            assert link["mtu"] == MTU
    finally:
        client.terminate()
        client.wait()


def _bring_image(journey: Journey, name: str = "localhost/coat-iperf3") -> str:
    """The image's id. It comes without a name, and gets that where no other image has it."""
    left, right = journey.remotes["left"], journey.remotes["right"]
    sending, waiting = journey.open("right", "image")
    sent = left.call("send_image", {**sending, "image": name}, 60).result
    assert right.call("receive_wait", waiting, 60).result.items() <= sent.items()
    found = str(left.call("image_inspect", {"image": name}).result["id"])
    right.call("image_tag", {"image": found, "name": name})
    return found


def _mss(journey: Journey) -> int:
    """The segment size of the server's connection that has sent most."""
    lines = [line for line in journey.inside("ss", "-Htin").splitlines() if "bytes_sent:" in line]
    if not lines:
        return 0
    busiest = max(lines, key=lambda line: int(re.findall(r"bytes_sent:(\d+)", line)[0]))
    return int(re.findall(r"\bmss:(\d+)", busiest)[0])


def test_an_image_that_is_missing_is_brought(journey: Journey) -> None:
    image = {"image": "localhost/coat-sockperf"}
    right = journey.remotes["right"]
    assert right.call("image_inspect", image).result == {"id": None, "size": 0}
    assert _bring_image(journey, image["image"]) == right.call("image_inspect", image).result["id"]
    with pytest.raises(NodeError, match="podman save failed"):
        sending, _ = journey.open("right", "image")
        journey.remotes["left"].call("send_image", {**sending, "image": "localhost/none"}, 60)
    journey.lab.exec("right", ["podman", "rmi", image["image"]])


@pytest.mark.parametrize("removed", [False, True], ids=["namespace kept", "namespace removed"])
def test_a_rollback_in_place_keeps_the_connection(echo: Journey, removed: bool) -> None:
    client = begin(echo)
    for _ in range(3):
        echo.flow("left", "in_port=c-client")  # dropped: nobody must answer for the frozen container
        echo.freeze()
        assert (echo.inspect("left") or {})["state"] == "checkpointed"
        if removed:
            echo.remotes["left"].call("endpoint_remove", PLACE)
            echo.endpoint("left")
        assert echo.thaw()["resumed_at"] > 0
        echo.deliver("left", "c-server")
        link = json.loads(echo.inside("ip", "-json", "link", "show", "eth0"))[0]
        assert link["mtu"] == MTU
    echo.move()
    assert end(client) > 1


def test_container_that_has_ended_is_told_and_not_restored(echo: Journey) -> None:
    """It may have ended anywhere between preflight and freeze; no older checkpoint is taken for its state."""
    left = echo.remotes["left"]
    echo.freeze()
    echo.thaw()
    echo.lab.exec("left", ["podman", "kill", "server"])
    with pytest.raises(NodeError, match="server has ended, with exit status 137") as told:
        echo.thaw()
    assert told.value.cause == "has_ended"
    left.call("container_remove", {"name": "server"})
    with pytest.raises(NodeError) as told:
        echo.thaw()
    assert told.value.cause == "not_found"


def test_container_whose_restore_stands_keeps_nobody_waiting(echo: Journey) -> None:
    right = echo.remotes["right"]
    echo.endpoint("right")
    echo.create("right")
    transfer = echo.open("right")[0]["transfer"]
    right.call("restore_open", {"name": "server", "netns": NETNS, "mtu": MTU, "transfer": transfer}, 60)
    try:
        seen = right.call("container_inspect", {"name": "server"}, 10).result
        assert seen["state"] == "created"
        assert right.call("container_list", {}, 10).result == [seen]
        assert right.call("residue_list", {"bridge": PLACE["bridge"]}, 10).result["containers"] == {"server": "created"}
    finally:
        right.call("transfer_discard", {"transfer": transfer}, 60)


def test_verbs_can_be_repeated(echo: Journey) -> None:
    """A controller that did not hear the answer asks again."""
    left, right = echo.remotes["left"], echo.remotes["right"]
    echo.run(PYTHON, "python3", "-c", ECHO)
    echo.endpoint("right")
    assert echo.create("right") == echo.create("right")
    first, again = echo.freeze(), echo.freeze()
    assert again == {**first, **{name: pytest.approx(first[name], abs=1e-3) for name in ("frozen_at", "finished_at")}}
    sending, waiting = echo.open("right")
    sent = left.call("send_state", {**sending, "name": "server"}, 60).result
    assert left.call("send_state", {**sending, "name": "server"}, 60).result == sent
    arrived = right.call("receive_wait", waiting).result
    assert right.call("receive_wait", waiting).result == arrived and arrived.items() <= sent.items()
    left.call("container_remove", {"name": "server"})
    echo.where = "right"
    transfer = sending["transfer"]
    restored = echo.thaw(transfer=transfer)
    again = echo.thaw(transfer=transfer)
    assert again["id"] == restored["id"] == echo.create("right")
    assert abs(again["resumed_at"] - restored["resumed_at"]) < 5
    assert echo.execute("hostname") == "server\n"
    assert right.call("transfer_discard", {"transfer": transfer}).result == {"removed": True}
    assert right.call("transfer_discard", {"transfer": transfer}).result == {"removed": False}
    # as a hook is asked that came after the restore, and knows of no transfer
    assert echo.thaw(transfer=transfer)["id"] == restored["id"]


def test_files_go_along(echo: Journey) -> None:
    """The writable layer with all the marks that overlayfs makes, extended attributes, and /dev/shm."""
    script = """set -e
        mkdir -p /data/sub; echo hello > /data/sub/file; ln /data/sub/file /data/hard; ln -s sub/file /data/soft
        chown 12:34 /data/sub/file; chmod 4750 /data/sub/file; mkfifo /data/pipe
        rm /bin/hostname; cd /usr/lib/python3.13; rm -r json; mkdir json; touch json/new
        echo shared > /dev/shm/memory"""
    echo.execute("sh", "-c", script)
    echo.execute("python3", "-c", "import os; os.setxattr('/data/sub/file', 'user.colour', bytes(range(256)))")
    odd = """import os, socket
socket.socket(socket.AF_UNIX).bind('/data/socket')
with open('/data/hole', 'wb') as file:
    file.seek(3 << 30)
    file.write(b'end\\n')
os.utime('/data/sub', ns=(0, -14182939_876543211))"""
    echo.execute("python3", "-c", odd)

    def look() -> str:
        found = "find /data /dev/shm /usr/lib/python3.13/json | sort | xargs stat -c '%n %F %a %u %g %s %h'"
        times = "find /data | sort | xargs stat -c '%n %b %y'; tail -c4 /data/hole"
        listing = f"{found}; {times}; cat /data/soft /dev/shm/memory; test -e /bin/hostname || echo deleted"
        attribute = "import os; print(os.getxattr('/data/sub/file', 'user.colour'))"
        return echo.execute("sh", "-c", listing) + echo.execute("python3", "-c", attribute)

    before = look()
    for expected in (
        "/data/pipe fifo",
        "/data/sub/file regular file 4750 12 34 6 2",
        "/data/socket socket",
        "/data/hole 8 ",
        "/data/sub 0 1969-07-20 20:17:40.123456789",
        "deleted",
        "shared",
    ):
        assert expected in before
    assert "json/decoder.py" not in before
    for _ in range(2):
        moved = echo.move()
        assert look() == before
        assert moved["bytes"] < 50_000_000


def test_etc_hosts_as_it_was_changed_comes_along(journey: Journey) -> None:
    """And survives a way back; open files too, whose size CRIU compares."""
    program = """import time
held = [open(name) for name in ("/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/run/.containerenv")]
held.append(open("/etc/hosts", "a"))
while True: time.sleep(0.01)"""
    journey.run(PYTHON, "python3", "-c", program)
    change = """echo 192.0.2.7 database >>/etc/hosts; echo nameserver 192.0.2.8 >/etc/resolv.conf
        echo other >/etc/hostname; chmod 640 /etc/hosts"""
    journey.execute("sh", "-c", change)

    def look() -> str:
        names = "/etc/hosts /etc/resolv.conf /etc/hostname /run/.containerenv"
        return journey.execute("sh", "-c", f"stat -c '%n %a %s %y' {names}; cat {names}")

    before = look()
    assert "192.0.2.7 database" in before and "/etc/hosts 640" in before
    for ahead in (False, True):
        journey.freeze()
        journey.thaw()
        assert look() == before
        journey.move(ahead)
        assert look() == before


def test_nothing_is_left_behind(echo: Journey) -> None:
    places = ["/run/coat", "/run/netns", STORAGE, f"{STORAGE}/overlay-containers", f"{STORAGE}/overlay"]

    def state(host: str) -> list[str]:
        listing = echo.lab.exec(host, ["ls", "-A", *places]).stdout.splitlines()
        groups = echo.lab.exec(host, ["find", "/sys/fs/cgroup", "-name", "libpod-*"]).stdout.splitlines()
        return [line for line in listing if line not in ("epochs", "criu")] + groups

    before = state("right")
    echo.move()
    echo.move()
    assert state("right") == before


def test_the_moments_are_the_true_ones(journey: Journey) -> None:
    """A process that looks at the clock all the time sees the gap where the verbs say that it is."""
    ticker = """import time
last = time.time()
while True:
    now = time.time()
    if now - last > 0.1: open("/gaps", "a").write(f"{last} {now}\\n")
    last = now"""
    journey.run(PYTHON, "python3", "-c", ticker)
    time.sleep(0.5)
    frozen = journey.freeze()
    thawed = journey.thaw()
    gaps: list[list[float]] = []

    def look() -> bool:
        gaps[:] = [[float(moment) for moment in line.split()] for line in journey.execute("cat", "/gaps").splitlines()]
        return any(frozen["frozen_at"] < end for _, end in gaps)

    wait_until(look, "the gap to be seen")
    begin, end = max(gaps, key=lambda gap: gap[1] - gap[0])
    tolerance = 0.05
    assert abs(begin - frozen["frozen_at"]) < tolerance
    assert abs(end - thawed["resumed_at"]) < tolerance


def test_a_state_that_has_not_arrived_is_not_restored(echo: Journey) -> None:
    echo.endpoint("right")
    echo.create("right")
    _, waiting = echo.open("right")
    echo.where = "right"
    with pytest.raises(NodeError, match="has not arrived"):
        echo.thaw(transfer=waiting["transfer"])
    with pytest.raises(NodeError, match="restore"):
        echo.thaw()
    assert (echo.inspect("right") or {})["state"] == "created"
    echo.remotes["right"].call("transfer_discard", {"transfer": waiting["transfer"]})


def test_a_broken_state_leaves_both_ends_as_they_were(echo: Journey) -> None:
    """The destination says why, with CRIU's words, and the source can still go back."""
    client = begin(echo)
    echo.endpoint("right")
    echo.create("right")
    echo.flow("left", "in_port=c-client")
    echo.freeze()
    folder = echo.lab.exec(
        "left", ["sh", "-c", f"echo {STORAGE}/overlay-containers/*/userdata/checkpoint"]
    ).stdout.strip()
    echo.lab.exec("left", ["cp", "-a", folder, "/kept"])
    echo.lab.exec("left", ["sh", "-c", f"head -c 20 /kept/mm-1.img > {folder}/mm-1.img"])
    sending, waiting = echo.open("right")
    echo.remotes["left"].call("send_state", {**sending, "name": "server"}, 60)
    echo.lab.exec("left", ["sh", "-c", f"mv /kept/mm-1.img {folder}/ && rm -r /kept"])
    echo.where = "right"
    with pytest.raises(NodeError, match="restore") as raised:
        echo.thaw(transfer=waiting["transfer"], release=RELEASE)
    assert "Error (criu" in raised.value.stderr
    assert (echo.inspect("right") or {})["state"] != "running"
    echo.where = "left"
    echo.thaw()
    echo.deliver("left", "c-server")
    assert end(client) > 1
    echo.remotes["right"].call("transfer_discard", {"transfer": waiting["transfer"]})


def test_containers_of_others_are_left_alone(lab: Lab, left: Remote) -> None:
    lab.exec("left", ["podman", "create", "--name=foreign", PYTHON])
    for verb, args in (
        ("container_remove", {"name": "foreign"}),
        ("checkpoint", {"name": "foreign"}),
        ("restore", {"name": "foreign", "netns": NETNS, "mtu": MTU}),
    ):
        with pytest.raises(NodeError, match="foreign is not one of ours") as raised:
            left.call(verb, args)
        assert raised.value.cause == "conflict"
    lab.exec("left", ["podman", "rm", "foreign"])


def test_what_cannot_be_dumped_runs_on(echo: Journey) -> None:
    """CRIU's reason is told, and the container has not noticed."""
    client = begin(echo)
    pid = (echo.inspect("left") or {})["pid"]
    tracer = echo.lab.popen("left", ["python3", "-c", TRACE, str(pid)], stdout=subprocess.PIPE, text=True)
    assert tracer.stdout is not None and tracer.stdout.readline() == "tracing\n"
    with pytest.raises(NodeError, match="checkpoint") as raised:
        echo.freeze()
    assert "Error (" in raised.value.stderr
    tracer.kill()
    tracer.wait()
    assert (echo.inspect("left") or {})["state"] == "running"
    echo.move()
    assert end(client) > 1


@pytest.mark.parametrize("trouble", [[], ["mptcp"]], ids=["taken back", "failed"])
def test_files_without_a_name_are_whole_after_a_checkpoint(journey: Journey, trouble: list[str]) -> None:
    """One that is taken back, and one that CRIU gives up: the names that it made meanwhile are gone."""
    journey.run(PYTHON, "python3", "-c", NAMES, *trouble)
    wait_until(lambda: ":7 " in journey.inside("ss", "-Htln"), "the program")
    assert journey.inside("python3", "-c", ASK).strip() == WHOLE
    if trouble:
        with pytest.raises(NodeError, match="Unsupported proto 262"):
            journey.freeze()
        journey.remotes["left"].call("thaw", {"name": "server"})
    else:
        journey.freeze()
        journey.thaw()
    assert journey.inside("python3", "-c", ASK).strip() == WHOLE
    assert journey.lab.exec("left", LEFT).stdout == ""


def test_what_made_criu_fail_is_told_and_its_log_is_kept(journey: Journey) -> None:
    """The line that matters, with a plain sentence, and no command before it."""
    listen = "import socket, signal; s = socket.socket(2, 1, 262); s.listen(); signal.pause()"
    journey.run(PYTHON, "python3", "-c", listen)
    pid = (journey.inspect("left") or {})["pid"]
    wait_until(lambda: journey.lab.exec("left", ["ls", "-l", f"/proc/{pid}/fd"]).stdout.count("socket:"), "the socket")
    with pytest.raises(NodeError) as raised:
        journey.freeze()
    assert raised.value.cause == "mptcp_socket"
    said = re.fullmatch(
        r"node left: checkpoint: it has an MPTCP socket; .*; CRIU: inet: Unsupported proto 262 for socket \w+; "
        r"its log is (\S+)",
        str(raised.value),
    )
    assert said, str(raised.value)
    assert journey.lab.exec("left", ["stat", "--format=%a %U", said[1]]).stdout == "600 root\n"
    assert "Unsupported proto 262" in journey.lab.exec("left", ["cat", said[1]]).stdout
    assert (journey.inspect("left") or {})["state"] == "running"


# PTRACE_SEIZE (linux/ptrace.h): a process that is traced already cannot be dumped.
TRACE = """
import ctypes, signal, sys
libc = ctypes.CDLL(None)
assert libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0
print("tracing", flush=True)
signal.pause()
"""
