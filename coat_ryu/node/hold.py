"""Holds: what arrives for a frozen container waits in order at its new place and is delivered when it runs again.

A hold is a TAP on the bridge and a thread that reads it. The TAP lives as long as the hook's file descriptor, so a hold
can never outlive the hook. What was held goes straight into the container's port, and what still comes takes the
``shortcut`` there. A container on another node gets it by way of the switch: it is written back to the TAP, and the
flows send it on.
"""

import contextlib
import errno
import fcntl
import os
import select
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from coat_ryu.node import netns, vswitch
from coat_ryu.node.failure import Failure
from coat_ryu.node.outlets import Port, Switch, octets
from coat_ryu.node.process import remaining
from coat_ryu.node.readable import readable
from coat_ryu.node.shortcut import Shortcut
from coat_ryu.node.verbs import Ifname, Mac, checked, verb

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
FRAME_MAX = 65536
KERNEL_QUEUE = 1000
BURST = 32
"""Frames delivered before looking whether who takes them keeps up."""
QUIET, QUIET_PATIENCE = 0.05, 2.0
"""A hold that passes frames on is closed when none has come for so long, or after so long at the most: a barrier says
that a switch's tables have changed, and its datapath follows within milliseconds (ovs-vswitchd, revalidators)."""
DRAIN_PATIENCE, LAST_PATIENCE = 10.0, 2.0
"""Seconds that frames which were held may take on their way out, and those that are left when it is closed."""
PREDECESSOR_PATIENCE = 25.0
"""Seconds that another hook may keep a TAP."""
LOOK_FOR_LOSSES = 0.1
"""Seconds between two looks at what the TAP's own queue had no room for."""


class Hold:
    """A TAP, its queues and the thread between them. Counters are frames."""

    def __init__(self, port: str, max_packets: int, max_bytes: int, mtu: int, first: str | None = None) -> None:
        self.held = self.replayed = self.dropped = 0
        self.drained = threading.Event()
        self._port = port
        self._max_packets, self._max_bytes = max_packets, max_bytes
        self._first = octets(first) if first else None
        self._queue: deque[bytes] = deque()
        self._detoured: deque[bytes] = deque()
        self._queued_bytes = 0
        self._releasing = threading.Event()
        self._tap = _open_tap(port)
        self._wake_read, self._wake_write = os.pipe()
        self._closing = self._passing = False
        self._last_frame = 0.0
        self._handed_over = self._lost = 0
        self._looked = 0.0
        self._straight: Port | None = None
        self._shortcut: Shortcut | None = None
        try:
            self._switch = Switch(self._tap, _bring_up(port, max_packets, mtu))
            with contextlib.suppress(OSError):
                self._shortcut = Shortcut(port)
        except Exception:
            self._close_descriptors()
            raise
        self._thread = threading.Thread(target=self._work, name=f"hold {port}", daemon=True)
        self._thread.start()

    def release(self, into: str | None = None, mac: str | None = None) -> None:
        """Delivers all that is held, then whatever comes: into the port ``into``, to ``mac``, or without these to the
        switch. Returns at once, ``drained`` is set later. A second release changes nothing.
        """
        if self._releasing.is_set():
            return
        if into is not None and mac is not None:
            with contextlib.suppress(OSError):  # no such port: the switch will know
                self._straight = Port(into, mac)
        self._releasing.set()
        os.write(self._wake_write, b".")

    @property
    def _waiting(self) -> int:
        return len(self._queue) + len(self._detoured)

    @property
    def _outlet(self) -> Port | Switch:
        return self._straight or self._switch

    def wait_until_quiet(self) -> None:
        """Returns when nobody sends into a released hold any more. One that was not released has nobody to wait for."""
        began = time.monotonic()
        while self._releasing.is_set() and self._busy():
            if time.monotonic() - began > (DRAIN_PATIENCE if self._waiting else QUIET_PATIENCE):
                return
            time.sleep(QUIET / 5)

    def _busy(self) -> bool:
        """Frames have come just now, or wait for the thread or for the switch: either may be late on a busy node."""
        if self._shortcut is not None and self._handed_over != (now := self._shortcut.handed_over):
            self._handed_over, self._last_frame = now, time.monotonic()
        lately = time.monotonic() < self._last_frame + QUIET
        return lately or self._waiting > 0 or bool(readable([self._tap], 0)) or self._outlet.behind()

    def stop(self) -> None:
        """What comes from now on waits until it is closed."""
        self._closing = True
        os.write(self._wake_write, b".")
        self._thread.join()

    def close(self) -> dict[str, int]:
        """What is left goes into the container's port, if that is here; from its bridge the hold has been taken. The
        rest is lost, and counted.
        """
        self.stop()
        if self._straight is not None:
            self._last(self._deliver)
        self._last(self._drop)
        try:
            return self.counts()
        finally:
            self._close_descriptors()

    def _last(self, take: Callable[[bytes], None]) -> None:
        """All that waits here, and then in the TAP, for as long as the patience lasts."""
        give_up = time.monotonic() + LAST_PATIENCE
        if not self._releasing.is_set():
            take = self._drop
        while self._waiting and time.monotonic() < give_up:
            for _ in range(min(BURST, self._waiting)):
                take((self._detoured or self._queue).popleft())
            self._outlet.wait()
        while not self._waiting and time.monotonic() < give_up and self._read_available(take):
            self._outlet.wait()

    def _drop(self, frame: bytes) -> None:
        self.dropped += 1

    def counts(self) -> dict[str, int]:
        """``dropped`` includes what came faster than the thread could read. A hold without room holds nothing, also not
        what it passes on.
        """
        lost = netns.transmit_drops(self._port)
        if self._max_packets == 0:
            return {"held": 0, "replayed": 0, "dropped": self.dropped + lost}
        return {"held": self.held + lost, "replayed": self.replayed, "dropped": self.dropped + lost}

    def _close_descriptors(self) -> None:
        if self._shortcut is not None:
            self._shortcut.close()
        if self._straight is not None:
            self._straight.close()
        for descriptor in (self._tap, self._wake_read, self._wake_write):
            os.close(descriptor)

    def _work(self) -> None:
        poll = select.poll()
        poll.register(self._tap, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while not self._closing:
            ready = dict(poll.poll())
            if self._wake_read in ready:
                os.read(self._wake_read, 64)
            if self._releasing.is_set() and not self._passing:
                self._drain()
            if self._tap in ready:
                self._read()
        if self._releasing.is_set():
            self._last(self._deliver)

    def _drain(self) -> None:
        """All that was there before the release, and what came meanwhile, in the order in which it was sent.

        ``drained`` waits for the former only: who sends as fast as we do keeps us here until the switches send
        elsewhere.
        """
        unread = self._unread()
        aim = self.replayed + self.dropped + self._waiting + unread
        while (self._waiting or self._read_available(self._keep) or self._waiting) and not self._closing:
            for _ in range(min(BURST, self._waiting)):
                frame = (self._detoured or self._queue).popleft()
                self._queued_bytes -= len(frame)
                self._deliver(frame)
            if unread and self.replayed + self.dropped >= aim - unread:  # of those some may have been lost in the TAP
                aim, unread = aim - netns.transmit_drops(self._port), 0
            if self.replayed + self.dropped >= aim:
                self.drained.set()
            self._read_available(self._keep)
            self._outlet.wait()
        self._passing = True
        self.drained.set()
        if self._shortcut is not None and self._straight is not None and not self._waiting:
            self._settle(self._shortcut)
            self._shortcut.open(self._straight.name, self._straight.mac)

    def _unread(self) -> int:
        """Frames that are in the TAP still, for this thread is late; 0 where nobody counts them."""
        return 0 if self._shortcut is None else max(0, self._shortcut.given - self.held)

    def _read(self) -> None:
        if self._passing:
            self._read_available(self._deliver)
            self._outlet.wait()
            if self._shortcut is not None:
                self._settle(self._shortcut)
        else:
            self._read_available(self._keep)

    def _settle(self, shortcut: Shortcut) -> None:
        """Tells the shortcut that nothing of what was read is waiting, nor what there was no room for."""
        if shortcut.given > self.held + self._lost and time.monotonic() > self._looked + LOOK_FOR_LOSSES:
            self._lost, self._looked = netns.transmit_drops(self._port), time.monotonic()
        shortcut.done(self.held + self._lost)

    def _read_available(self, take: Callable[[bytes], None]) -> bool:
        """A burst of what is in the TAP; whether there may be more."""
        for _ in range(BURST):
            try:
                frame = os.read(self._tap, FRAME_MAX)
            except BlockingIOError:
                return False
            self.held += 1
            self._last_frame = time.monotonic()
            take(frame)
        return True

    def _keep(self, frame: bytes) -> None:
        if self._waiting >= self._max_packets or self._queued_bytes + len(frame) > self._max_bytes:
            self.dropped += 1
            return
        detoured = self._first is not None and frame.startswith(self._first)
        (self._detoured if detoured else self._queue).append(frame)
        self._queued_bytes += len(frame)

    def _deliver(self, frame: bytes) -> None:
        try:
            self._outlet.write(frame)
            self.replayed += 1
        except OSError:  # the interface was taken down behind our back
            self.dropped += 1


def _open_tap(port: str) -> int:
    """A hook whose connection was lost may have the TAP still; it ends soon."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    give_up = time.monotonic() + remaining(PREDECESSOR_PATIENCE)
    while True:
        try:
            fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", port.encode(), IFF_TAP | IFF_NO_PI))
            return descriptor
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > give_up:
                os.close(descriptor)
                raise Failure("conflict", f"port: {port} cannot be made: {error.strerror}") from error
            time.sleep(0.05)


def _bring_up(port: str, queue: int, mtu: int) -> int:
    """Returns the interface's index. The kernel's queue is at least as long as ours: the thread may be late."""
    netns.quieten(port)
    with netns.netlink(port) as route:
        index = netns.index_of(route, port)
        if index is None:
            raise Failure("not_found", f"port: {port} went away")
        route.link("set", index=index, txqlen=max(queue, KERNEL_QUEUE), mtu=mtu, state="up")
        return index


NOTHING = {"held": 0, "replayed": 0, "dropped": 0}

_holds: dict[str, Hold] = {}
_lock = threading.Lock()


@verb
def hold_open(
    *, bridge: Ifname, port: Ifname, max_packets: int, max_bytes: int, mtu: int = 1500, first: Mac | None = None
) -> dict[str, Any]:
    """From now on frames sent to ``port`` are kept, the oldest ones up to both bounds. ``mtu`` is the overlay's.

    With ``max_packets`` 0 they are dropped until the release. Frames to the MAC ``first`` took a longer way, while
    later ones of the same sender came straight: they are delivered before the others.
    """
    if not 0 <= max_packets <= 1_000_000 or max_bytes <= 0:
        raise Failure("bad_args", "max_packets: 0 to 1000000 are allowed, and max_bytes above 0")
    if port not in _holds:
        hold = Hold(port, max_packets, max_bytes, mtu, first)
        with _lock:
            _holds[port] = hold
        # A row that an earlier hook left still stands for the TAP it had; ovs-vswitchd must open the new one.
        vswitch.delete_ports(bridge, [port])
    vswitch.add_port(bridge, port, "hold")
    return {}


@verb
def hold_release(*, port: Ifname, into: Ifname | None = None, mac: Mac | None = None) -> dict[str, Any]:
    """Delivers everything in order, then passes on at once what still comes. Answers when what was held is out.

    With ``into``, the container's port on this node, it goes there and to ``mac``; without, back to the switch.
    A hold that is not there, for it went with an earlier hook, has held nothing: the container must run on without it.
    """
    hold = _holds.get(port)
    if hold is None:
        return dict(NOTHING)
    hold.release(into, mac)
    if not hold.drained.wait(remaining()):
        raise Failure("timeout", f"port: {port} did not take back all that was held")
    return hold.counts()


def releasing(order: dict[str, Any] | None) -> Callable[[], None]:
    """What begins the ``hold_release`` of these arguments, without waiting. They are checked now; None: no hold."""
    if order is None:
        return lambda: None
    checked(hold_release, order)

    def begin() -> None:
        if hold := _holds.get(order["port"]):
            hold.release(order.get("into"), order.get("mac"))

    return begin


@verb
def hold_close(*, bridge: Ifname, port: Ifname) -> dict[str, Any]:
    """The TAP and its port are gone; what was still held, and could not be delivered, is lost. Counts are of its whole
    life.
    """
    with _lock:
        hold = _holds.pop(port, None)
    if hold is not None:
        hold.wait_until_quiet()
        hold.stop()
    vswitch.delete_ports(bridge, [port])
    return dict(NOTHING) if hold is None else hold.close()


def close_all() -> None:
    with _lock:
        for hold in _holds.values():
            hold.close()
        _holds.clear()
