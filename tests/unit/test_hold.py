"""Every frame of a hold is delivered or counted as dropped, however it ends; its TAP is played by the test."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from coat_ryu.node import hold, netns, outlets, vswitch

CLOSE = {"bridge": "br", "port": "h-web"}
INTO = {"port": "h-web", "into": "c-web", "mac": "02:00:00:00:00:07"}


@dataclass
class Scene:
    """The TAP's far end, which is the switch's, and what came to the container."""

    switch: socket.socket
    container: list[bytes] = field(default_factory=list)
    slowness: float = 0.0
    at_removal: Callable[[], None] = lambda: None

    def send(self, *numbers: int) -> None:
        for number in numbers:
            self.switch.send(number.to_bytes(20, "big"))

    def heard(self) -> list[int]:
        return [int.from_bytes(frame, "big") for frame in self.container]

    def back(self) -> list[int]:
        """What came out of the TAP again."""
        self.switch.setblocking(False)
        found = []
        with contextlib.suppress(BlockingIOError):
            while frame := self.switch.recv(100):
                found.append(int.from_bytes(frame, "big"))
        return found


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    far, tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tap.setblocking(False)
    made = Scene(far)

    class Port:
        name, mac = "c-web", b""

        def __init__(self, name: str, mac: str) -> None: ...

        def write(self, frame: bytes) -> None:
            time.sleep(made.slowness)
            made.container.append(frame)

        def wait(self) -> None: ...

        def behind(self) -> bool:
            return False

        def close(self) -> None: ...

    def none(tap: str) -> Any:
        raise OSError("this kernel has no shortcut")

    monkeypatch.setattr(hold, "_open_tap", lambda port: tap.detach())
    monkeypatch.setattr(hold, "_bring_up", lambda *args: 1)
    monkeypatch.setattr(hold, "Shortcut", none)
    monkeypatch.setattr(hold, "Port", Port)
    monkeypatch.setattr(outlets.Switch, "_waiting", lambda switch: 0)
    monkeypatch.setattr(netns, "transmit_drops", lambda port: 0)
    monkeypatch.setattr(vswitch, "add_port", lambda *args: None)
    monkeypatch.setattr(vswitch, "delete_ports", lambda *args: made.at_removal())
    monkeypatch.setattr(hold, "QUIET_PATIENCE", 0.2)
    hold.hold_open(**CLOSE, max_packets=1000, max_bytes=1 << 20)
    yield made
    hold.close_all()
    far.close()


def held(number: int) -> None:
    give_up = time.monotonic() + 5
    while hold._holds["h-web"].held < number:
        assert time.monotonic() < give_up
        time.sleep(0.001)


class Way:
    """A shortcut that only counts."""

    given = handed_over = 0

    def __init__(self, tap: str) -> None: ...

    def open(self, into: str, mac: bytes) -> None: ...

    def done(self, frames: int) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("lost", [0, 30])
def test_release_answers_when_what_was_still_in_the_tap_is_out_too(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """``lost``: the TAP's own queue had no room for so many."""
    monkeypatch.setattr(hold, "Shortcut", Way)
    monkeypatch.setattr(hold.Hold, "_read", lambda late: time.sleep(0.001))
    monkeypatch.setattr(netns, "transmit_drops", lambda port: lost)
    hold.hold_close(**CLOSE)
    near, tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tap.setblocking(False)
    monkeypatch.setattr(hold, "_open_tap", lambda port: tap.detach())
    hold.hold_open(**CLOSE, max_packets=1000, max_bytes=1 << 20)
    scene.switch.close()
    scene.switch, scene.slowness = near, 0.001
    scene.send(*range(100))
    hold._holds["h-web"]._shortcut.given = 100 + lost  # type: ignore[union-attr, misc]
    assert hold.hold_release(**INTO) == {"held": 100 + lost, "replayed": 100, "dropped": lost}
    assert scene.heard() == [*range(100)]


def test_hold_that_is_closed_unreleased_counts_its_frames_as_dropped(scene: Scene) -> None:
    scene.send(1, 2, 3)
    held(3)
    assert hold.hold_close(**CLOSE) == {"held": 3, "replayed": 0, "dropped": 3}


def test_hold_with_more_than_can_be_delivered_soon_is_waited_for(scene: Scene) -> None:
    """Its thread is late, as on a busy node: far longer than one waits for senders to be quiet."""
    scene.slowness = 0.005
    scene.send(*range(100))
    held(100)
    hold.releasing(INTO)()
    assert hold.hold_close(**CLOSE) == {"held": 100, "replayed": 100, "dropped": 0}
    assert scene.heard() == [*range(100)]


def test_frames_that_came_before_the_port_went_are_delivered(scene: Scene) -> None:
    scene.send(1)
    hold.hold_release(**INTO)
    scene.at_removal = lambda: scene.send(2, 3)
    assert hold.hold_close(**CLOSE) == {"held": 3, "replayed": 3, "dropped": 0}
    assert scene.heard() == [1, 2, 3]


def test_frames_that_no_switch_takes_back_any_more_are_dropped(scene: Scene) -> None:
    """The container is on another node, and the way there has gone with the port."""
    scene.send(1)
    hold.hold_release(port="h-web")
    assert scene.back() == [1]
    scene.at_removal = lambda: scene.send(2, 3)
    assert hold.hold_close(**CLOSE) == {"held": 3, "replayed": 1, "dropped": 2}
    assert scene.back() == []


def test_container_that_takes_nothing_keeps_nobody_waiting(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "DRAIN_PATIENCE", 0.3)
    monkeypatch.setattr(hold, "LAST_PATIENCE", 0.1)
    scene.slowness = 0.05
    scene.send(*range(200))
    held(200)
    hold.releasing(INTO)()
    began = time.monotonic()
    counts = hold.hold_close(**CLOSE)
    assert time.monotonic() - began < 5
    assert counts["held"] == 200 == counts["replayed"] + counts["dropped"] and counts["dropped"] > 0
