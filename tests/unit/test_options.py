"""What CRIU forgets of sockets and timers, read from real ones and set again: those of this process."""

import ctypes
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coat_ryu.node import options

LOOPBACK = struct.pack("@I4x128s", 1, struct.pack("@HH4s", socket.AF_INET, 0, socket.inet_aton("239.1.2.3")))
ME = os.getpid()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as one,
    ):
        yield listener, one


@pytest.fixture(autouse=True)
def itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "_family", lambda init: {1: init})
    monkeypatch.setattr(options, "first_process", lambda netns: ME)


def read() -> dict[str, Any]:
    return options.read(ME, time.monotonic() + 10)[0]


def of(found: dict[str, Any], one: socket.socket | int) -> dict[str, Any]:
    number = one if isinstance(one, int) else one.fileno()
    return next((told for kind in found.values() for told in kind if told["fd"] == number), {})


def test_options_that_differ_from_a_new_sockets_are_kept_and_set_again(pair: Any) -> None:
    listener, one = pair
    assert of(read(), one) == {} and of(read(), listener) == {}
    listener.setsockopt(6, 9, 5)
    wanted = {(6, 18): 54321, (6, 25): 8192, (6, 8): 20, (6, 16): 1, (0, 10): 3, (0, 11): 1}
    usual = {key: one.getsockopt(*key) for key in wanted}
    for (level, option), value in wanted.items():
        one.setsockopt(level, option, value)
    one.setsockopt(6, 13, b"reno")
    kept = json.loads(json.dumps(read()))
    kept["sockets"] = [of(kept, one), of(kept, listener)]
    for (level, option), value in usual.items():
        one.setsockopt(level, option, value)
    listener.setsockopt(6, 9, 0)
    done = options.set_again(kept, Path("/"))
    assert {key: one.getsockopt(*key) for key in wanted} == wanted
    assert one.getsockopt(6, 13, 16).rstrip(b"\0") == b"reno" and listener.getsockopt(6, 9) > 0
    assert (done["options_set"], done["options_lost"]) == (7, [])


@pytest.mark.parametrize("sources", [(), ("10.0.0.1", "10.0.0.2")])
def test_a_membership_is_kept_and_joined_again(sources: tuple[str, ...]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(0, 42, LOOPBACK)
        if sources:
            rows = b"".join(struct.pack("@HH4s120x", socket.AF_INET, 0, socket.inet_aton(source)) for source in sources)
            rule = struct.pack("@I4x128sII", 1, LOOPBACK[8:], 1, len(sources)) + rows
            one.setsockopt(0, 48, rule)
        kept = of(read(), one)
        assert [told["interface"] for told in kept["groups"]] == ["lo"] and len(kept["groups"][0]["sources"]) == len(
            sources
        )
        one.setsockopt(0, 45, LOOPBACK)  # MCAST_LEAVE_GROUP
        assert of(read(), one) == {}
        assert options.set_again({"sockets": [kept]}, Path("/")) == {"options_set": 1, "options_lost": []}
        assert of(read(), one) == kept


def test_a_timer_that_is_due_fires_again() -> None:
    timer = timerfd(0.01, 1.0)
    try:
        give_up = time.monotonic() + 10
        while not (due := read()["timers"]):
            assert time.monotonic() < give_up
        (kept,) = due
        assert (kept["pid"], kept["fd"], tuple(kept["interval"])) == (1, timer, (1, 0))
        set_timer(timer, 0, 0)  # as CRIU leaves it
        assert options.set_again({"timers": [kept]}, Path("/"))["options_lost"] == []
        for _ in range(2):
            assert struct.unpack("Q", os.read(timer, 8))[0] > 0
        assert read()["timers"] == []  # it was read just now
    finally:
        os.close(timer)


def timerfd(first: float, interval: float) -> int:
    made = options._libc.timerfd_create(1, 0)
    set_timer(made, first, interval)
    return int(made)


def set_timer(timer: int, first: float, interval: float) -> None:
    value = (ctypes.c_long * 4)(*divmod(int(interval * 1e9), 10**9), *divmod(int(first * 1e9), 10**9))
    assert options._libc.timerfd_settime(timer, 0, value, None) == 0


def test_sockets_of_a_crowd_are_all_read(pair: Any) -> None:
    listener, _ = pair
    many = [socket.create_connection(listener.getsockname()) for _ in range(20)]
    for one in many:
        one.setsockopt(6, 18, 1000)
    found, looked_at, left_out = options.read(ME, time.monotonic() + 10)
    assert {one.fileno() for one in many} <= {told["fd"] for told in found["sockets"]}
    assert looked_at >= 20 and left_out == 0
    for one in many:
        one.close()


def test_what_there_is_no_time_for_is_counted(pair: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert options.read(ME, time.monotonic() - 1)[1:] == (0, options.read(ME, time.monotonic() + 10)[1])
    monkeypatch.setattr(options, "MOST", 1)
    said = options.keep(ME, tmp_path)
    assert said["sockets"] == 1 and said["sockets_left_out"] >= 1
    assert options.load(tmp_path).keys() == {"sockets", "timers"}
    assert (tmp_path / options.FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"sockets": 5}', '{"sockets": [5, {}, {"pid": 1, "fd": 9999, "options": {}}]}', "{",
     '{"sockets": [{"pid": 1, "fd": 1.5, "options": {}}, {"pid": 1, "fd": 1180591620717411303424, "options": {}}]}',
     '{"timers": [{"pid": 1, "fd": 0, "interval": [1e400, 0]}]}', "[" * 100000,
     '{"sockets": [{"pid": 7, "fd": 0, "options": {"1/1": "zz"}}], "timers": [{"pid": 1, "fd": 0, "interval": "x"}]}'],
)  # fmt: skip
def test_a_list_that_is_none_of_ours_does_no_harm(tmp_path: Path, text: str) -> None:
    (tmp_path / options.FILE).write_text(text)
    assert options.set_again(options.load(tmp_path), Path("/"))["options_set"] == 0
    assert options.load(tmp_path / "none") == {}


def test_options_beyond_the_known_ones_are_never_set(pair: Any) -> None:
    kept = {"sockets": [{"pid": 1, "fd": pair[1].fileno(), "options": {"1/36": "05000000", "6/18": "07000000"}}]}
    assert options.set_again(kept, Path("/"))["options_set"] == 1  # SO_MARK is not among them
    assert (pair[1].getsockopt(1, 36), pair[1].getsockopt(6, 18)) == (0, 7)


def test_a_list_that_is_endless_takes_a_bounded_time(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the restore waits for this, and another node has made the list."""
    one = {"pid": 1, "fd": pair[1].fileno(), "options": {"6/18": "07000000"}}
    monkeypatch.setattr(options, "PATIENCE", 0.2)
    began = time.monotonic()
    done = options.set_again({"sockets": [one] * 200_000}, Path("/"))
    assert time.monotonic() - began < 2 and done["options_set"] == 1
    assert any("no time" in lost for lost in done["options_lost"])
    with (tmp_path / options.FILE).open("wb") as file:
        file.truncate(1 << 40)
    assert options.load(tmp_path) == {}


def test_groups_of_a_crowd_are_read_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container joins twenty for each socket, and each is looked for in each: that would be time of the freeze."""
    monkeypatch.setattr(options, "GROUPS", 30)
    crowd = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(5)]
    for number, one in enumerate(crowd):
        for other in range(20):
            request = socket.inet_aton(f"239.7.{number}.{other}") + socket.inet_aton("127.0.0.1")
            one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    assert 0 < len([one for one in options._groups(ME) if one.level == socket.IPPROTO_IP]) <= 30
    for one in crowd:
        one.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_where_multicast_goes_out_is_kept(family: socket.AddressFamily) -> None:
    level, option = (0, 32) if family == socket.AF_INET else (41, 17)
    wanted = socket.inet_aton("127.0.0.1") if family == socket.AF_INET else struct.pack("@i", 1)
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.setsockopt(level, option, wanted)
        kept = json.loads(json.dumps(of(read(), one)))
        one.setsockopt(level, option, bytes(4))
        assert options.set_again({"sockets": [kept]}, Path("/")) == {"options_set": 1, "options_lost": []}
        assert one.getsockopt(level, option, 4) == wanted
