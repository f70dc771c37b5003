"""The channel to a node's hook: one SSH transport that stays open, requests side by side on one channel.

Works with plain threads and with eventlet's (ryu-manager patches before it loads applications). A connection that is
lost is opened again in the background; until then requests fail at once.
"""

import collections
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import paramiko

from coat_ryu import shipment
from coat_ryu.errors import NodeError, NodeTimeout, NodeUnreachable
from coat_ryu.lines import Lines, check_answer
from coat_ryu.ssh import Login as Login
from coat_ryu.ssh import open_transport

LOG = logging.getLogger(__name__)

CONNECT_TIMEOUT = 15.0
"""Seconds for each of: the channel, the hook's first answer, its end."""
BACKOFF_FIRST, BACKOFF_LAST = 0.5, 30.0
PULSE_INTERVAL, PULSE_TIMEOUT = 3.0, 15.0
"""Seconds between signs of life, and how long one may take before the connection is given up. A host that is gone is
noticed sooner (``ssh.SILENCE``): its kernel does not acknowledge them, whereas a busy hook's does."""
GRACE = 2.0
"""Seconds that the node's own word about a time-out is waited for."""
STDERR_KEPT = 4000
LINE_MAX = 8 << 20
"""Bytes of one answer, at the most. The longest are lists of containers, some kilobytes each."""
FIRST_LINE_MAX = 4096
"""Bytes of what the bootstrap says."""
CLOCK_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Reply:
    """A hook's answer. Times in seconds.

    ``started_at`` and ``finished_at``, when the node worked on it, are on the controller's clock (``time.monotonic``,
    which nobody sets); ``elapsed`` is how
    long the caller waited, ``remote_overhead_s`` the part of it that was not the node's work.
    """

    result: Any
    started_at: float
    finished_at: float
    elapsed: float
    remote_overhead_s: float


@dataclass(slots=True)
class _Waiting:
    sent_at: float
    done: threading.Event = field(default_factory=threading.Event)
    answer: dict[str, Any] | None = None
    received_at: float = 0.0


class Clock:
    """How far a node's clock is ahead of ours (``time.monotonic``), by the last samples' best (RFC 5905, section 8:
    least delay wins).
    """

    def __init__(self) -> None:
        self._samples: collections.deque[tuple[float, float]] = collections.deque(maxlen=CLOCK_SAMPLES)

    def sample(self, sent: float, started: float, finished: float, received: float) -> None:
        delay = (received - sent) - (finished - started)
        self._samples.append((delay, ((started - sent) + (finished - received)) / 2))

    @property
    def delay(self) -> float | None:
        return min(self._samples)[0] if self._samples else None

    @property
    def offset(self) -> float:
        """Seconds, the node's clock less ours."""
        return min(self._samples)[1] if self._samples else 0.0


class Remote:
    """One node. ``on_up`` and ``on_down`` are called from a thread of the channel's own; they must not block."""

    def __init__(
        self,
        name: str,
        login: Login,
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._login = login
        self._on_up, self._on_down = on_up, on_down
        self._clock = Clock()
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._sending = threading.Lock()
        self._closing = threading.Event()
        self._channel: paramiko.Channel | None = None
        self._transport: paramiko.Transport | None = None
        self._stderr = ""
        self._error: str | None = "not connected yet"
        self._since = time.time()
        self._connected = False
        self._thread: threading.Thread | None = None

    @property
    def connected(self) -> bool:
        return self._connected

    def status(self) -> dict[str, Any]:
        """``since`` is when it last changed (seconds since the epoch), ``error`` why it is down; ``clock_offset_s`` is
        to be added to the hook's clock to have the time of day here.
        """
        return {
            "connected": self._connected,
            "since": self._since,
            "error": self._error,
            "clock_offset_s": self.clock_offset + time.time() - time.monotonic() if self._connected else None,
            "round_trip_s": self._clock.delay if self._connected else None,
        }

    def start(self) -> None:
        """Connects in the background and keeps connected until ``close``."""
        self._thread = threading.Thread(target=self._supervise, name=f"remote {self.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._hang_up()
        if self._thread is not None:
            self._thread.join(CONNECT_TIMEOUT)

    @property
    def clock_offset(self) -> float:
        """Seconds to add to a time of the node's to have it on our clock."""
        return -self._clock.offset

    def call(self, verb: str, args: Mapping[str, Any] | None = None, timeout: float = 30.0) -> Reply:
        """Asks the hook and waits for its answer.

        Raises NodeUnreachable when there is no connection or it is lost meanwhile (the work may have been done: verbs
        can be repeated), NodeTimeout, or NodeError with the command and its standard error when the node fails.
        """
        slot = self._ask(verb, args or {}, timeout, timeout + GRACE)
        if slot.answer is None:
            raise NodeUnreachable(
                f"node {self.name}: the connection was lost during {verb}: {self._error}",
                node=self.name,
                command=verb,
                stderr=self._stderr,
            )
        return self._reply(verb, slot)

    def _ask(self, verb: str, args: Mapping[str, Any], timeout: float, patience: float) -> _Waiting:
        """Sends a request and waits. What it returns has no answer when the connection was lost meanwhile."""
        number = next(self._ids)
        slot = self._waiting[number] = _Waiting(time.monotonic())
        try:
            self._send(json.dumps({"id": number, "verb": verb, "args": args, "timeout": timeout}), verb, slot)
            if not slot.done.wait(patience):
                raise NodeTimeout(f"node {self.name}: {verb} took over {timeout:g} s", node=self.name, command=verb)
        finally:
            self._waiting.pop(number, None)
        return slot

    def _send(self, line: str, verb: str, slot: _Waiting) -> None:
        channel = self._channel
        if channel is None:
            raise NodeUnreachable(f"node {self.name} is not connected: {self._error}", node=self.name, command=verb)
        try:
            with self._sending:
                slot.sent_at = time.monotonic()
                channel.sendall(line.encode() + b"\n")
        except OSError as error:
            message = f"node {self.name}: {verb} could not be sent: {error}"
            raise NodeUnreachable(message, node=self.name, command=verb) from error

    def _reply(self, verb: str, slot: _Waiting) -> Reply:
        answer = slot.answer
        assert answer is not None
        if not answer["ok"]:
            raise self._failure(verb, answer["error"])
        started, finished = answer["started_at"], answer["finished_at"]
        elapsed = slot.received_at - slot.sent_at
        overhead = max(0.0, elapsed - (finished - started))
        offset = self.clock_offset
        return Reply(answer["result"], started + offset, finished + offset, elapsed, overhead)

    def _failure(self, verb: str, error: dict[str, str]) -> NodeError:
        kind = {"timeout": NodeTimeout, "not_told": NodeUnreachable}.get(error["cause"], NodeError)
        cause = None if error["cause"] in ("timeout", "not_told", "command_failed") else error["cause"]
        message = f"node {self.name}: {verb}: {error['message'][:STDERR_KEPT]}"
        return kind(message, node=self.name, command=error["command"] or verb, stderr=error["stderr"], cause=cause)

    # ---- keeping the connection

    def _supervise(self) -> None:
        delay = BACKOFF_FIRST
        while not self._closing.is_set():
            try:
                reader = self._connect()
            except NodeUnreachable as error:
                self._went_down(str(error))
                LOG.warning("%s; again in %.1f s", error, delay)
                self._closing.wait(delay)
                delay = min(delay * 2, BACKOFF_LAST)
                continue
            delay = BACKOFF_FIRST
            self._pulse(reader)
            self._went_down(self._stderr.strip().rpartition("\n")[2] or "the connection was closed")
            if not self._closing.is_set():
                LOG.warning("node %s: the connection was lost: %s", self.name, self._error)
                self._closing.wait(BACKOFF_FIRST)

    def _connect(self) -> threading.Thread:
        """Opens transport, channel and hook; returns the thread that reads the answers. Raises NodeUnreachable."""
        try:
            self._transport = open_transport(self._login)
            channel = self._transport.open_session(timeout=CONNECT_TIMEOUT)
            channel.settimeout(CONNECT_TIMEOUT)
            channel.exec_command(shipment.COMMAND)
            self._stderr = ""
            threading.Thread(target=self._read_stderr, args=(channel,), daemon=True).start()
            shipment.deliver(channel.sendall, lambda: _read_line(channel))
            channel.settimeout(None)
            reader = threading.Thread(target=self._read, args=(channel,), daemon=True)
            reader.start()
            self._channel = channel
            self._clock = Clock()  # the last hook's clock need not be this one's
            for _ in range(CLOCK_SAMPLES):
                self._sample_clock(CONNECT_TIMEOUT)
        except (NodeError, paramiko.SSHException, OSError, EOFError, ValueError) as error:
            self._hang_up()
            reason = f"{error}" or type(error).__name__
            where = f"{self._login.user}@{self._login.host} port {self._login.port}"
            raise NodeUnreachable(f"node {self.name} ({where}): {reason}", node=self.name) from error
        self._error, self._since, self._connected = None, time.time(), True
        LOG.info("node %s: connected", self.name)
        self._on_up()
        return reader

    def _pulse(self, reader: threading.Thread) -> None:
        """Until the channel ends; a node that is silent for too long is hung up on."""
        while reader.is_alive() and not self._closing.is_set():
            reader.join(PULSE_INTERVAL)
            try:
                if reader.is_alive() and not self._closing.is_set():
                    self._sample_clock(PULSE_TIMEOUT)
            except NodeError as error:
                self._note(f"{error}")
                break
        self._hang_up()
        reader.join(CONNECT_TIMEOUT)

    def _sample_clock(self, timeout: float) -> None:
        slot = self._ask("clock", {}, timeout, timeout)
        if slot.answer is None:
            raise NodeUnreachable("the connection was lost", node=self.name, command="clock")
        self._clock.sample(slot.sent_at, slot.answer["started_at"], slot.answer["finished_at"], slot.received_at)

    def _hang_up(self) -> None:
        transport, self._transport, self._channel = self._transport, None, None
        if transport is not None:
            transport.close()

    def _went_down(self, error: str) -> None:
        was_connected, self._connected, self._error = self._connected, False, error
        for slot in list(self._waiting.values()):
            slot.done.set()
        if was_connected:
            self._since = time.time()
            self._on_down()

    def _read(self, channel: paramiko.Channel) -> None:
        lines = Lines(LINE_MAX)
        try:
            while data := channel.recv(1 << 16):
                received_at = time.monotonic()
                for line in lines.feed(data):
                    self._take(json.loads(line), received_at)
        except (OSError, ValueError, RecursionError) as error:
            odd = isinstance(error, (ValueError, RecursionError))
            self._note(f"what the node says is no answer of our hook: {error}" if odd else f"{error}")
        channel.close()  # nobody listens any more
        for slot in list(self._waiting.values()):
            slot.done.set()

    def _take(self, answer: Any, received_at: float) -> None:
        number = check_answer(answer).get("id")
        slot = self._waiting.pop(number, None) if isinstance(number, int) else None
        if slot is not None:  # else nobody waits any more
            slot.answer, slot.received_at = answer, received_at
            slot.done.set()

    def _note(self, text: str) -> None:
        self._stderr = f"{self._stderr}\n{text}"[-STDERR_KEPT:]

    def _read_stderr(self, channel: paramiko.Channel) -> None:
        try:
            while data := channel.recv_stderr(1 << 12):
                text = data.decode(errors="replace")
                LOG.debug("node %s says: %s", self.name, text.rstrip())
                self._stderr = (self._stderr + text)[-STDERR_KEPT:]
        except OSError:
            pass  # the channel's reader tells


def _read_line(channel: paramiko.Channel) -> str:
    """A line of the bootstrap's, a byte at a time: what follows is the hook's. Empty at the end of the channel.

    Raises ValueError for one that does not end.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = channel.recv(1)
        if not byte:
            break
        line += byte
        if len(line) > FIRST_LINE_MAX:
            raise ValueError(f"the node's first line is over {FIRST_LINE_MAX} bytes")
    return line.decode(errors="replace").strip()


class FakeRemote:
    """A remote without a node: ``verbs`` are functions of the arguments. For tests of what is built on remotes."""

    def __init__(self, verbs: Mapping[str, Callable[[dict[str, Any]], Any]], name: str = "fake") -> None:
        self.name = name
        self.connected = True
        self.clock_offset = 0.0
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._verbs = verbs

    def start(self) -> None:
        self.connected = True

    def close(self) -> None:
        self.connected = False

    def status(self) -> dict[str, Any]:
        return {"connected": self.connected, "since": 0.0, "error": None, "clock_offset_s": 0.0, "round_trip_s": 0.0}

    def call(self, verb: str, args: Mapping[str, Any] | None = None, timeout: float = 30.0) -> Reply:
        """As Remote's; what the function raises is raised."""
        if not self.connected:
            raise NodeUnreachable(f"node {self.name} is not connected", node=self.name, command=verb)
        self.calls.append((verb, dict(args or {})))
        started = time.monotonic()
        result = self._verbs[verb](dict(args or {}))
        finished = time.monotonic()
        return Reply(result, started, finished, finished - started, 0.0)
