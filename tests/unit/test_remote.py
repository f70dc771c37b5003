"""What the channel to a node does without a node: clocks, settings, the archive, the fake."""

import base64
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from coat_ryu import shipment
from coat_ryu.errors import NodeError, NodeUnreachable
from coat_ryu.model import Node, Ssh
from coat_ryu.remote import Clock, FakeRemote, Remote
from coat_ryu.ssh import Login, check_host_key, known_keys


def test_a_clock_trusts_the_quickest_sample() -> None:
    clock = Clock()
    assert clock.offset == 0.0 and clock.delay is None
    clock.sample(100.0, 160.5, 160.6, 101.1)  # ahead by 60, on the way for 0.5 s each way
    assert clock.offset == pytest.approx(60.0) and clock.delay == pytest.approx(1.0)
    clock.sample(200.0, 260.001, 260.002, 200.003)
    clock.sample(300.0, 363.0, 363.0, 303.1)  # slow on the way there only: a bad sample
    assert clock.offset == pytest.approx(60.0, abs=1e-3) and clock.delay == pytest.approx(0.002)


def test_a_clock_forgets_old_samples() -> None:
    clock = Clock()
    clock.sample(0, 5, 5, 0)
    for second in range(8):
        clock.sample(second, second + 9.5, second + 9.5, second + 1)
    assert clock.offset == pytest.approx(9.0)


def test_a_login_takes_what_the_file_says_and_else_the_defaults() -> None:
    plain = Node(name="a", address="10.0.0.1")  # type: ignore[arg-type]
    assert Login.of(plain, "/key", "/hosts") == Login("10.0.0.1", 22, "root", "/key", "/hosts")
    ssh = Ssh(host="h", port=2, user="u", key="k", known_hosts="n")
    full = Node(name="a", address="10.0.0.1", ssh=ssh)  # type: ignore[arg-type]
    assert Login.of(full, "/key", "/hosts") == Login("h", 2, "u", "k", "n")


def public_key(private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> str:
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return private.public_key().public_bytes(encoding, form).decode()


def test_host_keys_are_looked_up_as_openssh_does(tmp_path: Path) -> None:
    key = public_key(ed25519.Ed25519PrivateKey.generate())
    file = tmp_path / "known_hosts"
    file.write_text(f"name,10.0.0.1 {key}\n[10.0.0.2]:2222 {key}\n")
    assert list(known_keys(Login("10.0.0.1", 22, "root", None, str(file)))) == ["ssh-ed25519"]
    assert list(known_keys(Login("10.0.0.2", 2222, "root", None, str(file)))) == ["ssh-ed25519"]
    for host, port in (("10.0.0.1", 2222), ("10.0.0.2", 22), ("10.0.0.3", 22)):
        with pytest.raises(ValueError, match=f"no host key of .*{host}"):
            known_keys(Login(host, port, "root", None, str(file)))
    with pytest.raises(ValueError, match="No such file"):
        known_keys(Login("10.0.0.1", 22, "root", None, str(tmp_path / "none")))


def test_a_key_of_another_kind_is_as_wrong_as_another_key() -> None:
    def key(private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> paramiko.PKey:
        kind, blob = public_key(private).split()[:2]
        return paramiko.PKey.from_type_string(kind, base64.b64decode(blob))

    one, other = key(ed25519.Ed25519PrivateKey.generate()), key(ed25519.Ed25519PrivateKey.generate())
    curve = key(ec.generate_private_key(ec.SECP256R1()))
    login = Login("h", 22, "root", None, "file")
    check_host_key(login, {"ssh-ed25519": one}, one)
    for got in (other, curve):
        with pytest.raises(ValueError, match="mismatch") as raised:
            check_host_key(login, {"ssh-ed25519": one}, got)
        assert one.fingerprint in str(raised.value) and got.fingerprint in str(raised.value)


def test_without_a_connection_a_call_fails_at_once() -> None:
    remote = Remote("edge", Login("127.0.0.1", 1, "root", None, "/none"))
    assert not remote.connected and remote.status()["error"] == "not connected yet"
    with pytest.raises(NodeUnreachable, match="node edge is not connected: not connected yet") as raised:
        remote.call("clock")
    assert raised.value.node == "edge" and raised.value.command == "clock" and raised.value.response == 503


def test_the_archive_is_the_same_every_time_and_whole() -> None:
    first = shipment.archive()
    shipment.archive.cache_clear()
    assert shipment.archive() == first
    names = set(zipfile.ZipFile(io.BytesIO(first.content)).namelist())
    ours = {f"coat_ryu/node/{path.name}" for path in Path(shipment.__file__).parent.glob("node/*.py")}
    assert names >= ours | {"__main__.py", "coat_ryu/__init__.py", "pyroute2/__init__.py"}
    assert not any(name.startswith("coat_ryu/") for name in names - ours - {"coat_ryu/__init__.py"})


@pytest.mark.parametrize("answer", ["want", "have"])
def test_the_archive_is_sent_when_wanted(answer: str) -> None:
    sent: list[bytes] = []
    answers = iter([answer, "have"])
    shipment.deliver(sent.append, lambda: next(answers))
    assert json.loads(sent[0])["sha256"] == shipment.archive().sha256
    assert sent[1:] == ([shipment.archive().content] if answer == "want" else [])


@pytest.mark.parametrize(("answer", "told"), [("", "is python3 there"), ("python3 is 3.9", "python3 is 3.9")])
def test_a_node_that_does_not_take_the_hook_is_told(answer: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        shipment.deliver(lambda data: None, lambda: answer)


def test_the_archive_runs_as_a_hook(tmp_path: Path) -> None:
    file = tmp_path / "hook.pyz"
    file.write_bytes(shipment.archive().content)
    request = b'{"id": 1, "verb": "clock", "args": {}}\n'
    done = subprocess.run([sys.executable, "-I", file], input=request, capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout)["ok"] is True and done.stderr == b""


def test_the_fake_answers_by_its_functions() -> None:
    def refuse(args: dict[str, object]) -> None:
        raise NodeError("no", node="fake")

    fake = FakeRemote({"double": lambda args: args["n"] * 2, "refuse": refuse})
    reply = fake.call("double", {"n": 4})
    assert reply.result == 8 and reply.started_at <= reply.finished_at
    with pytest.raises(NodeError):
        fake.call("refuse")
    assert fake.calls == [("double", {"n": 4}), ("refuse", {})]
    fake.close()
    with pytest.raises(NodeUnreachable):
        fake.call("double", {"n": 1})


def test_a_hook_that_was_not_told_whom_it_obeys_is_not_connected_yet() -> None:
    remote = Remote("edge", Login("127.0.0.1", 1, "root", None, "/none"))
    error = remote._failure("hold_close", {"cause": "not_told", "message": "not yet", "command": "", "stderr": ""})
    assert isinstance(error, NodeUnreachable) and error.cause == "node_unreachable"
