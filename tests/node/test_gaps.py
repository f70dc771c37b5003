"""Listening for gaps on a real interface: what the container says counts, what is said to it does not."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from pyroute2 import IPRoute

from coat_ryu.node import netns
from coat_ryu.node.gaps import Gaps
from tests.segments import ACK, ipv4, sack, segment

pytestmark = pytest.mark.lab

NETNS, PORT, INSIDE = "coat-gaps", "c-gaps", "inside"
WHOLE, WAITING, OTHER = (
    ipv4(segment(options, client))
    for options, client in ((b"", 4000), (sack((ACK + 10, ACK + 20)), 4000), (sack((ACK + 1, ACK + 2)), 4001))
)


@pytest.fixture
def gaps() -> Iterator[Gaps]:
    """Listening at the bridge's end of a container's interface."""
    netns.create(NETNS)
    try:
        with netns.inside(NETNS):
            with IPRoute() as route:
                route.link("add", ifname=PORT, kind="veth", peer={"ifname": INSIDE})
                for name in (PORT, INSIDE):
                    route.link("set", index=route.link_lookup(ifname=name)[0], state="up")
            with contextlib.closing(Gaps(PORT)) as gaps:
                yield gaps
    finally:
        netns.remove(NETNS)


def say(interface: str, *frames: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end:
        end.bind((interface, 0))
        for frame in frames:
            end.send(frame)


def test_the_last_word_of_each_connection_counts(gaps: Gaps) -> None:
    assert gaps.count() == 0
    say(INSIDE, WHOLE, WAITING, OTHER)
    assert gaps.count() == 2
    say(PORT, WHOLE)  # from the peer
    assert gaps.count() == 2
    say(INSIDE, WHOLE)
    assert gaps.count() == 1


def test_waiting_ends_when_the_gap_is_filled_and_in_any_case(gaps: Gaps) -> None:
    assert gaps.wait_until_filled(5) < 0.1
    say(INSIDE, WAITING)
    assert 0.2 <= gaps.wait_until_filled(0.2) < 2
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end:
        end.bind((INSIDE, 0))
        threading.Timer(0.3, end.send, [WHOLE]).start()
        assert 0.2 < gaps.wait_until_filled(30) < 10
