"""The channel to the hook, over a real sshd: what it carries, what it refuses and how it comes back."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from coat_ryu import shipment
from coat_ryu.errors import NodeError, NodeTimeout, NodeUnreachable
from coat_ryu.keys import one_time_pair
from coat_ryu.remote import Remote
from coat_ryu.ssh import Login, open_transport
from mininet_scenarios.lab import Lab
from tests.node.conftest import CONNECT_TIMEOUT, Connection, login, wait_until

pytestmark = pytest.mark.lab


@pytest.fixture
def left(lab: Lab, network: None) -> Iterator[Remote]:
    """A connection of each test's own, for here they are cut."""
    with Connection("left", login(lab, "left")) as remote:
        yield remote


def pids(lab: Lab, host: str, pattern: str) -> list[str]:
    return lab.exec(host, ["pgrep", "--full", pattern], check=False).stdout.split()


def test_hello_tells_what_the_node_is(left: Remote) -> None:
    reply = left.call("hello")
    hello = reply.result
    assert hello["hostname"] == "left"
    assert set(hello["versions"]) == {"podman", "criu", "ovs", "runtime", "python", "kernel"}
    assert all(hello["versions"].values())
    assert hello["versions"]["kernel"] == os.uname().release
    assert hello["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert hello["controller"].startswith("10.9.")
    assert hello["memory_free"] > 0 and hello["disk_free"] > 0 and hello["cpu_flags"]
    assert reply.elapsed >= reply.remote_overhead_s >= 0
    assert reply.started_at <= reply.finished_at


def test_node_times_are_told_on_the_controllers_clock(left: Remote) -> None:
    """Both clocks are the same here: what was measured must be next to nothing, and calls lie between their ends."""
    assert abs(left.status()["clock_offset_s"]) < 1
    before = time.monotonic()
    reply = left.call("clock")
    assert before - 1 < reply.started_at <= reply.finished_at < time.monotonic() + 1


def test_requests_run_side_by_side(left: Remote) -> None:
    """One that waits does not hold up the others, and each gets its own answer."""
    with ThreadPoolExecutor(40) as pool:
        waiting = pool.submit(left.call, "receive_wait", {"transfer": "nobody", "timeout": 5})
        answers = list(pool.map(lambda n: left.call("image_inspect", {"image": f"nothing-{n}"}).result, range(30)))
        assert answers == [{"id": None, "size": 0}] * 30
        with pytest.raises(NodeError, match="nobody is not open"):
            waiting.result()


def test_the_hook_is_sent_once(lab: Lab) -> None:
    for _ in range(2):
        with Connection("left", login(lab, "left")) as remote:
            remote.call("clock")
    found = lab.exec("left", ["sh", "-c", "stat -c '%a %n' /run/coat /run/coat/*.pyz"]).stdout.split()
    assert found[0::2] == ["700", "600"]


def test_errors_name_node_command_and_reason(left: Remote) -> None:
    arguments = {"bridge": "nothere", "tunnels": {}}
    with pytest.raises(NodeError) as raised:
        left.call("tunnels_ensure", arguments)
    error = raised.value
    assert error.node == "left" and "left" in str(error) and "tunnels_ensure" in str(error)
    assert error.command.startswith("ovs-vsctl ") and "no bridge named nothere" in error.stderr
    assert error.cause == "node_failed"


@pytest.mark.parametrize(
    ("verb", "args", "named"),
    [
        ("nothing", {}, "nothing"),
        ("container_remove", {}, "name: missing"),
        ("container_remove", {"name": 1}, "name: str is wanted"),
        ("container_remove", {"name": "../x"}, "name: '../x' is not"),
        ("container_remove", {"name": "x", "nmae": "x"}, "nmae: no such argument"),
        ("container_remove", {"name": "x", "fence": {"container": "x"}}, "epoch: missing"),
        ("endpoint_remove", {"bridge": "coat", "netns": "other", "port": "p"}, "netns: 'other' is not"),
        ("bridge_ensure", {"bridge": "coat", "dpid": "1", "controllers": []}, "dpid: '1' is not"),
        ("bridge_ensure", {"bridge": "coat", "dpid": "0" * 16, "controllers": ["tcp:x y"]}, r"controllers\[0\]"),
        ("tunnels_ensure", {"bridge": "coat", "tunnels": {"t-x": "10.9"}}, "tunnels.t-x"),
        ("hold_open", {"bridge": "coat", "port": "h-x", "max_packets": -1, "max_bytes": 1}, "max_packets"),
        ("receive_open", {"transfer": "x", "address": "10.9.0.1", "tls": {}, "what": "all"}, "what: allowed are state"),
        ("chain", {"steps": [{"verb": "clock"}, {"verb": "nothing"}]}, r"step 2 \(nothing\)"),
    ],
)
def test_bad_arguments_are_named(left: Remote, verb: str, args: dict[str, object], named: str) -> None:
    with pytest.raises(NodeError, match=named) as raised:
        left.call(verb, args)
    assert raised.value.cause in ("bad_args", "unknown_verb")


def test_an_unknown_host_key_is_refused(lab: Lab, tmp_path: Path) -> None:
    empty = tmp_path / "known_hosts"
    empty.write_text("")
    remote = Remote("left", replace(login(lab, "left"), known_hosts=str(empty)))
    remote.start()
    wait_until(lambda: "no host key of 10.9.0.1" in (remote.status()["error"] or ""), "the refusal")
    assert str(empty) in remote.status()["error"] and "left" in remote.status()["error"]
    with pytest.raises(NodeUnreachable, match="no host key"):
        remote.call("clock")
    remote.close()


def test_a_wrong_host_key_is_refused_with_both_fingerprints(lab: Lab, tmp_path: Path) -> None:
    right = next(line for line in (lab.folder / "known_hosts").read_text().splitlines() if "10.9.0.2" in line)
    swapped = tmp_path / "known_hosts"
    swapped.write_text(right.replace("right", "left").replace("10.9.0.2", "10.9.0.1") + "\n")
    expected = paramiko.HostKeys(str(swapped)).lookup("10.9.0.1")
    with pytest.raises(ValueError, match="host key mismatch") as raised:
        open_transport(replace(login(lab, "left"), known_hosts=str(swapped)))
    got = paramiko.HostKeys(str(lab.folder / "known_hosts")).lookup("10.9.0.1")
    assert expected is not None and got is not None
    assert expected["ssh-ed25519"].fingerprint in str(raised.value) and got["ssh-ed25519"].fingerprint in str(
        raised.value
    )


def test_a_wrong_private_key_is_refused(lab: Lab, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(private_key())
    with pytest.raises(ValueError, match=f"root was not let in with {key}"):
        open_transport(replace(login(lab, "left"), key=str(key)))
    with pytest.raises(ValueError, match="no private key"):
        open_transport(replace(login(lab, "left"), key=str(tmp_path / "none")))


@pytest.fixture
def forced(lab: Lab, tmp_path: Path) -> Iterator[Login]:
    """A key that may do nothing on the left host but bring our hook, as docs/locks.md has it."""
    key = tmp_path / "forced"
    key.write_text(private_key())
    key.chmod(0o600)
    public = paramiko.PKey.from_path(key)
    line = f'restrict,command="/usr/local/sbin/coat-hook" {public.get_name()} {public.get_base64()} coat'
    before = lab.exec("left", ["cat", "/root/.ssh/authorized_keys"]).stdout
    install = "cat > /usr/local/sbin/coat-hook && chmod 755 /usr/local/sbin/coat-hook"
    lab.exec("left", ["mkdir", "-p", "/usr/local/sbin"])
    lab.exec("left", ["sh", "-c", install], input=shipment.forced_command())
    lab.exec("left", ["sh", "-c", "cat > /root/.ssh/authorized_keys"], input=f"{before}{line}\n")
    yield replace(login(lab, "left"), key=str(key))
    lab.exec("left", ["sh", "-c", "cat > /root/.ssh/authorized_keys"], input=before)


def test_a_forced_command_brings_our_hook_and_nothing_else(forced: Login) -> None:
    with Connection("left", forced) as remote:
        assert remote.call("hello").result["hostname"] == "left"
    for wanted in ("podman ps", "python3 -c 'print(1)'", "sftp-server"):
        transport = open_transport(forced)
        channel = transport.open_session(timeout=20)
        channel.exec_command(wanted)
        channel.sendall(b'{"sha256": "%s", "size": 4}\nevil' % (b"0" * 64))
        assert b"".join(iter(lambda: channel.recv(4096), b"")).startswith(b"this node takes the hook ")  # noqa: B023
        assert channel.recv_exit_status() == 1
        transport.close()


def private_key() -> str:
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    return ed25519.Ed25519PrivateKey.generate().private_bytes(*formats).decode()


def test_a_host_that_is_not_there_is_reported_and_tried_again(lab: Lab, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text((lab.folder / "known_hosts").read_text().replace("10.9.0.1 ", "[10.9.0.1]:2222 "))
    connection = Connection("left", replace(login(lab, "left"), port=2222, known_hosts=str(known)))
    remote = connection.remote
    remote.start()
    wait_until(lambda: "port 2222" in (remote.status()["error"] or ""), "the report")
    with pytest.raises(NodeUnreachable, match="left is not connected"):
        remote.call("clock")
    server = lab.popen("left", ["/usr/sbin/sshd", "-D", "-p", "2222"])
    try:
        assert connection.up.wait(CONNECT_TIMEOUT), remote.status()
    finally:
        remote.close()
        server.terminate()
        server.wait()


def test_the_connection_comes_back(lab: Lab) -> None:
    connection = Connection("left", login(lab, "left"))
    with connection as remote:
        remote.call("clock")
        connection.up.clear()
        lab.exec("left", ["kill", "-9", *pids(lab, "left", "sshd-session: root")])
        assert connection.down.wait(CONNECT_TIMEOUT)
        assert connection.up.wait(CONNECT_TIMEOUT)
        assert remote.call("clock").result > 0


def test_a_hook_that_dies_is_started_again_and_its_callers_are_told(lab: Lab) -> None:
    connection = Connection("left", login(lab, "left"))
    with connection as remote, ThreadPoolExecutor(1) as pool:
        remote.call("receive_open", open_args("stuck"))
        waiting = pool.submit(remote.call, "receive_wait", {"transfer": "stuck", "timeout": 30})
        wait_until(lambda: pids(lab, "left", "hook-"), "the hook")
        time.sleep(0.2)  # the request is on its way
        connection.up.clear()
        lab.exec("left", ["kill", "-9", *pids(lab, "left", "python3 .*/run/coat/hook-")])
        with pytest.raises(NodeUnreachable, match="the connection was lost during receive_wait"):
            waiting.result()
        assert connection.up.wait(CONNECT_TIMEOUT)
        assert remote.call("clock").result > 0


def open_args(transfer: str) -> dict[str, object]:
    tls = one_time_pair(transfer)[1].as_args()
    return {"transfer": transfer, "address": "10.9.0.1", "tls": tls, "what": "state"}


def test_a_request_that_takes_too_long_ends_as_a_time_out(left: Remote) -> None:
    left.call("receive_open", open_args("slow"))
    with pytest.raises(NodeTimeout, match="left: receive_wait"):
        left.call("receive_wait", {"transfer": "slow", "timeout": 60}, timeout=0.5)
    assert left.call("transfer_discard", {"transfer": "slow"}).result == {"removed": True}


def test_a_silent_hook_is_given_up_for_the_callers(lab: Lab, left: Remote) -> None:
    """A stopped hook says nothing: the call ends after its time and the grace, and the hook serves again afterwards."""
    hooks = pids(lab, "left", "python3 .*/run/coat/hook-")
    lab.exec("left", ["kill", "-STOP", *hooks])
    try:
        with pytest.raises(NodeTimeout, match="clock took over"):
            left.call("clock", timeout=0.2)
    finally:
        lab.exec("left", ["kill", "-CONT", *hooks])
    assert left.call("clock").result > 0


def test_the_hook_ends_with_its_connection(lab: Lab) -> None:
    with Connection("left", login(lab, "left")) as remote:
        remote.call("clock")
    wait_until(lambda: not pids(lab, "left", "python3 .*/run/coat/hook-"), "the end of the hook")


def test_a_hook_without_a_controller_ends_what_it_has_begun_and_no_more(lab: Lab) -> None:
    """A wait for a delivery that never comes ends before its own time is up, and a hold is free for the next hook."""
    hold = {"bridge": "orphan", "port": "h-orphan", "max_packets": 10, "max_bytes": 10_000}
    with Connection("left", login(lab, "left")) as remote:
        remote.call("bridge_ensure", {"bridge": "orphan", "dpid": "c0a700000000000f", "controllers": []})
        remote.call("hold_open", hold)
        remote.call("receive_open", open_args("orphan"))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(remote.call, "receive_wait", {"transfer": "orphan", "timeout": 600}, 600)
            time.sleep(0.2)
            lab.exec("left", ["kill", "-9", *pids(lab, "left", "sshd-session: root")])
            with pytest.raises(NodeUnreachable):
                waiting.result()
        wait_until(lambda: remote.connected, "the next hook")
        remote.call("hold_open", hold)
        wait_until(lambda: len(pids(lab, "left", "python3 .*/run/coat/hook-")) == 1, "the end of the other hook")
        remote.call("hold_close", {"bridge": "orphan", "port": "h-orphan"})
    lab.exec("left", ["ovs-vsctl", "del-br", "orphan"])


def test_it_works_under_eventlet(lab: Lab) -> None:
    """As in ryu-manager: many callers, every answer to the one who asked, and an event loop that goes round."""
    keys = [str(lab.folder / "id_ed25519"), str(lab.folder / "known_hosts")]
    script = [sys.executable, "-W", "ignore", "-m", "tests.node.green", *keys]
    done = subprocess.run(script, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["calls"] == 400 and seen["wrong"] == []
    assert seen["longest_stall"] < 5, "a call must not block the whole controller"
