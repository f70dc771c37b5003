"""What comes to a receiving end and should not: strangers, half a state, a changed one, one that wants out."""

import hashlib
import io
import json
import socket
import ssl
import struct
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from coat_ryu.errors import NodeError
from coat_ryu.keys import Identity, one_time_pair
from coat_ryu.node.failure import Failure
from coat_ryu.node.stream import Sender, tls_context
from coat_ryu.remote import Remote
from mininet_scenarios.lab import Lab
from tests.node.conftest import wait_until

pytestmark = pytest.mark.lab

TRANSFER = "test"
PLACE = f"/var/lib/containers/storage/coat/{TRANSFER}"
WAIT = {"transfer": TRANSFER, "timeout": 20}


@pytest.fixture
def inbox(lab: Lab, left: Remote) -> Iterator["Inbox"]:
    yield Inbox(lab, left)
    left.call("transfer_discard", {"transfer": TRANSFER})
    assert lab.exec("left", ["ls", "-A", "/var/lib/containers/storage/coat"], check=False).stdout == ""


class Inbox:
    """An open receiving end on the left host, and what it takes to send to it from here."""

    def __init__(self, lab: Lab, left: Remote, **more: str) -> None:
        self.lab, self.left = lab, left
        self.silent: socket.socket | None = None
        self.sender, receiver = one_time_pair(TRANSFER)
        address = lab.state.hosts["left"].address
        args = {"transfer": TRANSFER, "address": address, "tls": receiver.as_args(), "what": "state", **more}
        self.place = address, left.call("receive_open", args).result["port"]
        assert left.call("receive_open", args).result["port"] == self.place[1], "opening again changes nothing"

    def connect(self, identity: Identity | None = None) -> ssl.SSLSocket:
        context = tls_context(ssl.PROTOCOL_TLS_CLIENT, (identity or self.sender).as_args())
        return context.wrap_socket(socket.create_connection(self.place, 20))

    def deliver(self, content: bytes) -> str:
        with self.connect() as connection:
            sender = Sender(connection)
            sender.write(content)
            return sender.finish()

    def wait(self) -> Any:
        return self.left.call("receive_wait", WAIT).result

    def holds(self) -> str:
        return self.lab.exec("left", ["find", PLACE, "-type", "f"], check=False).stdout


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


GOOD = archive(**{"checkpoint/a": b"x" * 100_000})


def test_what_arrives_whole_is_kept(inbox: Inbox) -> None:
    digest = inbox.deliver(GOOD)
    assert inbox.wait() == {"bytes": len(GOOD), "sha256": digest}
    assert inbox.holds() == f"{PLACE}/checkpoint/a\n"
    assert inbox.lab.exec("left", ["stat", "-c", "%a", PLACE]).stdout == "700\n"


def not_tls(inbox: Inbox) -> None:
    with socket.create_connection(inbox.place, 20) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")


def silent(inbox: Inbox) -> None:
    inbox.silent = socket.create_connection(inbox.place, 20)


def wrong_certificate(inbox: Inbox) -> None:
    stranger, _ = one_time_pair("stranger")
    identity = Identity(stranger.cert, stranger.key, inbox.sender.peer)
    with pytest.raises((ssl.SSLError, OSError)), inbox.connect(identity) as connection:
        connection.sendall(GOOD)
        if connection.recv(1) == b"":
            raise ConnectionResetError


def no_certificate(inbox: Inbox) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(OSError), context.wrap_socket(socket.create_connection(inbox.place, 20)) as connection:
        connection.sendall(GOOD)
        if connection.recv(1) == b"":
            raise ConnectionResetError


@pytest.mark.parametrize("stranger", [not_tls, silent, wrong_certificate, no_certificate])
def test_a_stranger_is_refused_and_ends_nothing(inbox: Inbox, stranger: Callable[[Inbox], None]) -> None:
    stranger(inbox)
    assert inbox.holds() == ""
    digest = inbox.deliver(GOOD)
    assert inbox.wait()["sha256"] == digest


def test_what_was_delivered_once_is_not_taken_again(inbox: Inbox) -> None:
    """Somebody who has got hold of the sender's key, after the fact."""
    digest = inbox.deliver(GOOD)
    assert inbox.wait()["sha256"] == digest
    with pytest.raises((OSError, Failure)):
        inbox.deliver(archive(**{"checkpoint/a": b"evil"}))
    assert inbox.wait()["sha256"] == digest
    assert inbox.lab.exec("left", ["wc", "-c", f"{PLACE}/checkpoint/a"]).stdout.split()[0] == "100000"


def test_the_receiver_must_be_the_right_one_too(inbox: Inbox) -> None:
    other, _ = one_time_pair("other")
    identity = Identity(inbox.sender.cert, inbox.sender.key, other.peer)
    with pytest.raises(ssl.SSLCertVerificationError):
        inbox.connect(identity)


def chunk(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def hang_up(connection: ssl.SSLSocket) -> None:
    """Without a word, but what was sent arrives: a connection that is closed with something unread, such as TLS's
    tickets, is reset, and the peer loses what it had not read either (RFC 1122, section 4.2.2.13).
    """
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(1 << 16):
        pass


def cut_off(connection: ssl.SSLSocket) -> None:
    connection.sendall(chunk(GOOD[:50_000]))
    hang_up(connection)


def cut_off_in_a_chunk(connection: ssl.SSLSocket) -> None:
    connection.sendall(chunk(GOOD)[:50_000])
    hang_up(connection)


def cut_off_at_the_end(connection: ssl.SSLSocket) -> None:
    """The archive is whole, but its end was not told."""
    connection.sendall(chunk(GOOD))
    hang_up(connection)


def changed(connection: ssl.SSLSocket) -> None:
    connection.sendall(chunk(GOOD) + struct.pack(">I", 0) + bytes(32))
    connection.recv(1)


def garbled(connection: ssl.SSLSocket) -> None:
    connection.sendall(b"\xff" * 100)
    connection.recv(1)


def no_archive(connection: ssl.SSLSocket) -> None:
    sender = Sender(connection)
    sender.write(b"?" * 10_000)
    with pytest.raises((Failure, OSError)):
        sender.finish()


def outside(connection: ssl.SSLSocket) -> None:
    sender = Sender(connection)
    sender.write(archive(**{"checkpoint/a": b"", "../../../../../../tmp/evil": b"evil"}))
    with pytest.raises((Failure, OSError)):
        sender.finish()


@pytest.mark.parametrize(
    ("delivery", "reason"),
    [
        (cut_off, "cut off"),
        (cut_off_in_a_chunk, "cut off"),
        (cut_off_at_the_end, "cut off"),
        (changed, "does not match its SHA-256"),
        (garbled, "garbled"),
        (no_archive, "receiving failed"),
        (outside, "outside its directory"),
    ],
)
def test_a_bad_delivery_is_told_and_removed(
    inbox: Inbox, delivery: Callable[[ssl.SSLSocket], None], reason: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(inbox.wait)
        with inbox.connect() as connection:
            delivery(connection)
        with pytest.raises(NodeError, match=reason) as raised:
            waiting.result()
    assert raised.value.cause == "transfer_failed"
    assert inbox.holds() == ""
    assert inbox.lab.exec("left", ["find", "/tmp", "-name", "evil"]).stdout == ""
    digest = inbox.deliver(GOOD)  # the peer may try again
    assert inbox.wait()["sha256"] == digest


def test_who_waits_hears_of_the_end_at_once(inbox: Inbox) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(inbox.wait)
        time.sleep(0.2)
        inbox.left.call("transfer_discard", {"transfer": TRANSFER})
        with pytest.raises(NodeError, match="discarded"):
            waiting.result()
    with pytest.raises(NodeError, match="not open"):
        inbox.wait()
    with pytest.raises(OSError):
        inbox.connect()


def test_a_delivery_under_way_ends_with_the_transfer(inbox: Inbox) -> None:
    with inbox.connect() as connection:
        connection.sendall(chunk(GOOD[:50_000]))
        time.sleep(0.2)
        inbox.left.call("transfer_discard", {"transfer": TRANSFER})
        with pytest.raises(OSError):
            while True:
                connection.sendall(chunk(GOOD))
    assert inbox.holds() == ""


def test_keys_are_on_no_disk(inbox: Inbox) -> None:
    inbox.deliver(GOOD)
    found = inbox.lab.exec("left", ["grep", "-rl", "PRIVATE KEY-", "/run", "/tmp", "/var/lib/containers"], check=False)
    assert found.stdout == ""


@pytest.mark.parametrize("damage", ["cert", "key", "peer"])
def test_what_is_no_pem_is_refused(left: Remote, damage: str) -> None:
    tls = {**one_time_pair("x")[1].as_args(), damage: "no PEM"}
    with pytest.raises(NodeError, match="tls: ") as raised:
        left.call("receive_open", {"transfer": "x", "address": "10.9.0.1", "tls": tls, "what": "state"})
    assert raised.value.cause == "bad_args"


def test_a_receiver_that_is_not_there_is_told(left: Remote) -> None:
    tls = one_time_pair("x")[0].as_args()
    to = {"address": "10.9.0.2", "port": 1}
    with pytest.raises(NodeError, match=r"sending to 10\.9\.0\.2 port 1 failed"):
        left.call("send_image", {"transfer": "x", "image": "localhost/coat-python", "to": to, "tls": tls})


# ---- an image


LAYER = archive(word=b"evil")
LAYER_ID = hashlib.sha256(LAYER).hexdigest()
CONFIGURATION = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{LAYER_ID}"]},
    }
).encode()
IMAGE_ID = hashlib.sha256(CONFIGURATION).hexdigest()
TAKEN = "localhost/coat-iperf3:latest"


def image_archive(configuration: bytes = CONFIGURATION) -> bytes:
    """An image of another node's that claims a name of this one's."""
    manifest = [{"Config": f"{IMAGE_ID}.json", "RepoTags": [TAKEN], "Layers": [f"{LAYER_ID}.tar"]}]
    files = {
        f"{LAYER_ID}.tar": LAYER,
        f"{IMAGE_ID}.json": configuration,
        "manifest.json": json.dumps(manifest).encode(),
    }
    return archive(**files)


def images(lab: Lab) -> set[str]:
    listing = ["podman", "images", "--no-trunc", "--format={{.Repository}}:{{.Tag}} {{.ID}}"]
    return set(lab.exec("left", listing).stdout.splitlines())


@pytest.fixture
def image_inbox(lab: Lab, left: Remote) -> Iterator[Callable[..., Inbox]]:
    yield lambda **more: Inbox(lab, left, what="image", **more)
    left.call("transfer_discard", {"transfer": TRANSFER})
    lab.exec("left", ["podman", "rmi", "--force", "--ignore", IMAGE_ID])


def test_an_image_takes_no_name_from_another(lab: Lab, image_inbox: Callable[..., Inbox]) -> None:
    before = images(lab)
    inbox = image_inbox()
    inbox.deliver(image_archive())
    inbox.wait()
    assert images(lab) == before | {f"<none>:<none> sha256:{IMAGE_ID}"}


def test_images_that_are_refused_fill_no_disk(lab: Lab, image_inbox: Callable[..., Inbox]) -> None:
    """Podman keeps what it reads in a file of its own until it has read it; killed, it would leave that there."""

    def kept() -> str:
        return lab.exec("left", ["find", "/var/tmp", "/tmp", "/var/lib/containers/storage/tmp"], check=False).stdout

    before, inbox = kept(), image_inbox(image=IMAGE_ID)
    content = archive(**{f"{LAYER_ID}.tar": LAYER, "padding": bytes(3 << 20), f"{IMAGE_ID}.json": b"another"})
    with inbox.connect() as connection:
        sender = Sender(connection)
        sender.write(content[: 2 << 20])
        wait_until(lambda: "podman load" in lab.exec("left", ["ps", "-eo", "args"]).stdout, "Podman")
        time.sleep(1)  # it has begun to read
        assert kept() != before
        sender.write(content[2 << 20 :])
        with pytest.raises((Failure, OSError)):
            sender.finish()
    with pytest.raises(NodeError):
        inbox.wait()
    assert kept() == before


def test_another_image_than_the_announced_one_is_not_loaded(lab: Lab, image_inbox: Callable[..., Inbox]) -> None:
    before = images(lab)
    inbox = image_inbox(image=IMAGE_ID)
    with pytest.raises((Failure, OSError)):
        inbox.deliver(image_archive(CONFIGURATION + b" "))
    with pytest.raises(NodeError, match=f"not {IMAGE_ID}"):
        inbox.wait()
    assert images(lab) == before
    inbox.deliver(image_archive())
    inbox.wait()
    assert images(lab) == before | {f"<none>:<none> sha256:{IMAGE_ID}"}


def test_a_sender_from_another_address_is_not_let_in(lab: Lab, left: Remote) -> None:
    """Even with the key: here the tests stand where the relay stands, and the right host is the one expected."""
    inbox = Inbox(lab, left, peer=lab.state.hosts["right"].address)
    with pytest.raises(OSError):
        inbox.deliver(GOOD)
    left.call("transfer_discard", {"transfer": TRANSFER})
