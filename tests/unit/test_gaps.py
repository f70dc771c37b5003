"""What a frame says about gaps: only a selective acknowledgement of something new means that its sender waits."""

import socket

import pytest

from coat_ryu.node.failure import Failure
from coat_ryu.node.gaps import Gaps, gap_in
from tests.segments import ACK, TIMESTAMPS, ipv4, ipv6, sack, segment


@pytest.mark.parametrize("carry", [ipv4, ipv6, lambda payload: ipv4(payload, options=bytes(8))])
@pytest.mark.parametrize(
    ("options", "waits"),
    [
        (b"", False),
        (TIMESTAMPS, False),
        (TIMESTAMPS + sack((ACK + 10, ACK + 20)), True),
        (sack((ACK + 300, ACK + 400)), True),  # beyond the wrap of the sequence numbers
        (TIMESTAMPS + sack((ACK - 20, ACK - 10)), False),  # a duplicate (RFC 2883)
        (TIMESTAMPS + sack((ACK - 20, ACK), (ACK + 10, ACK + 20)), True),
        (bytes([5, 40, 0, 0]), False),  # cut off
        (bytes([8, 0, 0, 0]), False),
        (bytes(4), False),
    ],
)
def test_a_block_above_the_acknowledgement_is_a_gap(carry, options, waits) -> None:
    found = gap_in(carry(segment(options)))
    assert found is not None and found[1] is waits


def test_connections_are_told_apart() -> None:
    one, other, again = (gap_in(ipv4(segment(TIMESTAMPS, client))) for client in (4000, 4001, 4000))
    assert one is not None and other is not None and one == again and one[0] != other[0]


@pytest.mark.parametrize("frame", [b"", bytes(14), ipv4(bytes(20), protocol=17), ipv4(b""), ipv6(bytes(8))])
def test_what_is_not_a_tcp_segment_says_nothing(frame: bytes) -> None:
    assert gap_in(frame) is None


def test_an_interface_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(socket.socket):
        def __init__(self, *_: object) -> None:
            super().__init__()

        def setsockopt(self, *_: object) -> None:
            raise OSError(19, "No such device")

    monkeypatch.setattr("socket.socket", Deaf)
    with pytest.raises(Failure, match="port: c-nobody cannot be listened to: No such device"):
        Gaps("c-nobody")
