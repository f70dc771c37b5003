"""The stream between two nodes, over a pair of sockets without TLS: what is sent arrives, compressed or not."""

import random
import socket
import tarfile
import threading
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coat_ryu.node import stream
from coat_ryu.node.failure import Failure
from coat_ryu.node.stream import DEFLATED, LENGTH, PADDING, Receiver, Sender

RANDOM = random.Random(1).randbytes(300_000)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    for end in (left, right):
        end.settimeout(10)
    yield left, right
    left.close()
    right.close()


def carry(parts: list[bytes], rate: float | None, size: int, probe: bool = False) -> tuple[bytes, Sender]:
    """What arrives of ``parts`` when it is read ``size`` bytes at a time, and the sender."""
    left, right = socket.socketpair()
    with left, right:
        sender, receiver = Sender(left), Receiver(right)  # type: ignore[arg-type]
        digests: list[str] = []

        def send() -> None:
            if probe:
                sender.probe()
            sender.rate = rate
            for part in parts:
                sender.write(part)
            digests.append(sender.finish())

        thread = threading.Thread(target=send)
        thread.start()
        assert receiver.begin()
        arrived = b"".join(iter(lambda: receiver.read(size), b""))
        digest = receiver.finish()
        receiver.acknowledge()
        thread.join(10)
        assert digests == [digest]
        return arrived, sender


@given(st.lists(st.binary(max_size=2000), max_size=20), st.sampled_from([None, 1.0, 1e9]), st.integers(1, 5000))
def test_what_is_sent_arrives(parts: list[bytes], rate: float | None, size: int) -> None:
    arrived, sender = carry(parts, rate, size)
    assert arrived == b"".join(parts)
    assert sender.bytes == len(arrived)


@pytest.mark.parametrize(("rate", "least", "most"), [(None, 1.0, 1.1), (1e12, 1.0, 1.1), (1.0, 0.0, 0.1)])
def test_what_is_sooner_deflated_than_sent_is_deflated(rate: float | None, least: float, most: float) -> None:
    content = b"as like as two peas" * 200_000
    arrived, sender = carry([content], rate, 70_000)
    assert arrived == content
    assert least <= sender.wire_bytes / sender.bytes <= most


def test_what_does_not_shrink_goes_as_it_is() -> None:
    arrived, sender = carry([RANDOM], 1.0, 1 << 20)
    assert arrived == RANDOM and sender.wire_bytes == len(RANDOM) + LENGTH.size


def test_a_probe_is_no_content() -> None:
    arrived, sender = carry([b"content"], None, 100, probe=True)
    assert arrived == b"content" and sender.bytes == 7


def test_a_probe_tells_the_rate(ends: tuple[socket.socket, socket.socket]) -> None:
    left, right = ends
    reader = threading.Thread(target=lambda: [*iter(lambda: right.recv(1 << 16), b"")], daemon=True)
    reader.start()
    sender = Sender(left)  # type: ignore[arg-type]
    sender.probe()
    left.close()
    reader.join(10)
    assert sender.rate is not None and sender.rate > 0


def test_a_sender_that_only_probes_is_no_delivery(ends: tuple[socket.socket, socket.socket]) -> None:
    left, right = ends
    left.sendall(LENGTH.pack(PADDING | 3) + b"...")
    left.close()
    assert not Receiver(right).begin()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "chunk",
    [
        b"no zlib",
        zlib.compress(b"cut short")[:-3],
        zlib.compress(bytes(stream.CHUNK_MAX + 1)),
        zlib.compress(b""),
    ],
    ids=["other", "cut", "bomb", "empty"],
)
def test_a_chunk_that_is_no_whole_one_is_refused(ends: tuple[socket.socket, socket.socket], chunk: bytes) -> None:
    left, right = ends
    left.sendall(LENGTH.pack(DEFLATED | len(chunk)) + chunk)
    with pytest.raises(Failure, match="garbled"):
        Receiver(right).read(10)  # type: ignore[arg-type]


def test_a_header_that_claims_gigabytes_is_not_collected(ends: tuple[socket.socket, socket.socket]) -> None:
    """A pax header is read whole: its length is the sender's word."""
    left, right = ends
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 8 << 30
    block = header.tobuf(tarfile.GNU_FORMAT)
    left.sendall(LENGTH.pack(len(block)) + block)
    receiver = Receiver(right)  # type: ignore[arg-type]
    with pytest.raises(Failure, match="garbled"), tarfile.TarFile(fileobj=receiver) as tar:  # type: ignore[arg-type]
        tar.next()
