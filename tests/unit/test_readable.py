"""Descriptors beyond 1,023, of which select(2) knows nothing."""

import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import coat_ryu
from coat_ryu.node.readable import readable

FIRST = 1024


@pytest.fixture
def high() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A pair of sockets with such descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * FIRST), hard))
    plain = socket.socketpair()
    for number, one in enumerate(plain):
        os.dup2(one.fileno(), FIRST + number)
        one.close()
    ends = socket.socket(fileno=FIRST), socket.socket(fileno=FIRST + 1)
    yield ends
    for end in ends:
        end.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_descriptors_beyond_select_are_waited_for(high: tuple[socket.socket, socket.socket]) -> None:
    here, there = high
    began = time.monotonic()
    assert readable([here, there], 0.05) == [] and time.monotonic() - began >= 0.05
    assert readable([here], 0) == []
    there.send(b"x")
    assert readable([here, there], None) == [here]
    assert readable([here.fileno()], 0) == [here.fileno()]
    there.close()
    here.recv(1)
    assert readable([here], 1) == [here]


def test_the_product_never_selects() -> None:
    """A node under load, or under attack, has more than 1,024 descriptors, and then select(2) is a ValueError."""
    sources = Path(coat_ryu.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if "select.select(" in path.read_text()] == []
