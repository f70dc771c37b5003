"""A wire between two TAP devices with delay, jitter, loss and rate one way, for kernels without netem.

    delayline.py FROM TO [--delay-ms MS] [--jitter-ms MS] [--loss-percent PCT] [--rate-mbit MBIT] [--queue-ms MS]

What FROM sends reaches TO late; what TO sends reaches FROM at once. Makes both devices, writes "ready" and runs until
it is killed. The devices carry no offloads, so the kernel hands over finished packets of MTU size at most.
"""

import argparse
import contextlib
import ctypes
import fcntl
import gc
import os
import random
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
PR_SET_TIMERSLACK = 29  # linux/prctl.h

MAX_FRAME = 65_550
BATCH = 64
"""Frames read from one side before the other gets its turn."""


@dataclass(slots=True)
class Line:
    """When each frame of one direction is due. Pure: time and chance are arguments; times are seconds, sizes bytes.

    A frame waits until the line is free, takes ``size / rate`` to be sent, then ``delay`` (and jitter) to arrive; order
    is kept. A frame that would wait longer than ``queue`` to be sent is dropped, as is one that ``loss`` hits.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    rate: float = 0.0  # bytes per second; 0: without limit
    queue: float = 0.05
    chance: Callable[[], float] = random.random
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    dropped: int = 0
    free_at: float = 0.0

    def put(self, frame: bytes, now: float) -> None:
        if self.loss and self.chance() < self.loss:
            self.dropped += 1
            return
        due = now
        if self.rate:
            start = max(now, self.free_at)
            if start - now > self.queue:
                self.dropped += 1
                return
            due = self.free_at = start + len(frame) / self.rate
        due += self.delay
        if self.jitter:
            due = max(now, due + self.jitter * (2 * self.chance() - 1))
        if self.waiting and due < self.waiting[-1][0]:
            due = self.waiting[-1][0]
        self.waiting.append((due, frame))

    def take(self, now: float) -> bytes | None:
        """The next frame that is due, or None."""
        if self.waiting and self.waiting[0][0] <= now:
            return self.waiting.popleft()[1]
        return None

    @property
    def next_due(self) -> float | None:
        return self.waiting[0][0] if self.waiting else None


def open_tap(name: str) -> int:
    """Make the TAP device and return its file descriptor; the device lives as long as that."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def forward(source: int, target: int, line: Line) -> None:
    """The loop, for ever: frames of ``source`` go through the line, those of ``target`` straight back."""
    clock, wait = time.monotonic, select.select
    both = [source, target]
    while True:
        due = line.next_due
        ready = wait(both, (), (), None if due is None else max(0.0, due - clock()))[0]
        if target in ready:
            for frame in _frames(target):
                _write(source, frame)
        if source in ready:
            for frame in _frames(source):
                line.put(frame, clock())
        while (frame_due := line.take(clock())) is not None:
            _write(target, frame_due)


def _frames(tap: int) -> list[bytes]:
    frames: list[bytes] = []
    with contextlib.suppress(OSError):  # EAGAIN: that was all; EIO: the device is down
        while len(frames) < BATCH:
            frames.append(os.read(tap, MAX_FRAME))
    return frames


def _write(tap: int, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # EIO: down; EAGAIN: its queue is full: a wire drops then
        os.write(tap, frame)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("target")
    for option, default in (("delay-ms", 0), ("jitter-ms", 0), ("loss-percent", 0), ("rate-mbit", 0), ("queue-ms", 50)):
        parser.add_argument(f"--{option}", type=float, default=default)
    return parser.parse_args(arguments)


def line_of(options: argparse.Namespace) -> Line:
    return Line(
        delay=options.delay_ms / 1e3,
        jitter=options.jitter_ms / 1e3,
        loss=options.loss_percent / 100,
        rate=options.rate_mbit * 1e6 / 8,
        queue=options.queue_ms / 1e3,
    )


def main() -> None:
    options = parse(sys.argv[1:])
    source, target = open_tap(options.source), open_tap(options.target)
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0)  # wake up within 1 us of the time, not 50
    gc.disable()  # nothing here makes cycles, and a collection would be seen as jitter
    print("ready", flush=True)
    forward(source, target, line_of(options))


if __name__ == "__main__":
    main()
