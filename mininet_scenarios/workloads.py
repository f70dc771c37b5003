"""Connections to move under: iperf3, sockperf and a stream of which every byte is known. Each runs in containers.

A workload starts its client against a server that runs already, and says at the end whether the connection went on. The
client's namespace is watched from beside it: a capture of RST and SYN segments, and a meter of arrivals (``meter``).
"""

import json
import math
import signal
import statistics
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mininet_scenarios import meter, stream
from mininet_scenarios.measure import (
    Gap,
    begun_before,
    clock_shift,
    gaps,
    long_trips,
    longest_gap,
    rate_between,
    round_trips_between,
    rtt_disruption,
)
from mininet_scenarios.place import Place

CONNECT_TIMEOUT = 15.0

GRACE = 20.0
"""Seconds that a client may take beyond its own time before it counts as dead."""

LONG = 0.02
"""Seconds of silence that are worth a mention."""

SETTLE = 0.5
"""Seconds after a migration, or a client's start, that count for no pace."""

SOCKET_BUFFERS = 16 << 20
"""Bytes that an iperf3 sender may have written and its receiver not read when the time is up (tcp_wmem and tcp_rmem).
"""

# SYN or RST (RFC 9293, section 3.1), seen from the client; tcpdump reads no further into IPv6 than its fixed header.
FILTER = "tcp[tcpflags] & (tcp-rst|tcp-syn) != 0 or (ip6 and ip6[6] = 6 and ip6[53] & 6 != 0)"


@dataclass
class Outcome:
    """What a client saw. ``moments`` are (time, value) for the plots: round trips in s, or bytes so far; ``silences``
    all times of ``LONG`` and more in which it had to wait, of which ``disruption`` is the longest.
    """

    resumed: bool
    lost_bytes: int
    resets: int
    reconnects: int
    disruption: Gap
    moments: list[tuple[float, float]] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)
    trouble: str | None = None
    silences: list[Gap] = field(default_factory=list)

    def silence_in(self, start: float, end: float) -> Gap:
        """The longest silence that began between two moments; one of no length where there is none."""
        return max(
            (one for one in self.silences if start <= one.at <= end), key=lambda one: one.seconds, default=Gap(start, 0)
        )


class Workload(ABC):
    """``server`` and ``client`` are containers, ``host`` the client's, ``address`` the server's.

    ``connections`` are waited for; before or beside them the client opens ``others`` by itself.
    """

    name: str
    connections = 1
    others = 0
    exec_options: tuple[str, ...] = ()
    warm_up = 0.0
    """Seconds that the client takes, at the least, before its time begins."""

    def __init__(
        self, lab: Place, server: str, client: str, address: str, host: str = "device", seconds: float = 8.0
    ) -> None:
        self.lab = lab
        self.server = server
        self.client = client
        self.address = address
        self.host = host
        self.seconds = float(math.ceil(seconds))  # iperf3 and sockperf drop fractions, and would end before their time
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._inside: list[str] = []
        self._connected_at, self._time_is_up = math.nan, math.inf

    def over(self) -> bool:
        """Whether the client has ended already, or would have: it waits for us to read a report longer than a pipe."""
        return self._processes["client"].poll() is not None or self.time_left() <= 0

    def begins_in(self) -> float:
        """Seconds until its time begins, at the least. One without an end has begun."""
        left = self.time_left()
        return max(0.0, left - self.seconds) if math.isfinite(left) else 0.0

    def time_left(self) -> float:
        """Seconds until the client ends by itself, at the least."""
        return self._time_is_up - time.time()

    def pace(self, outcome: Outcome, since: float | None = None) -> float:
        """How fast it went to the client's end, from a moment or from its start on. More is faster, in a unit of the
        workload's own; NaN if unknown.
        """
        start = self._connected_at + SETTLE if since is None else since
        return rate_between([(at, int(count)) for at, count in outcome.moments], start, self._time_is_up)

    @abstractmethod
    def command(self) -> list[str]:
        """The client's argv, inside its container."""

    @abstractmethod
    def judge(self, output: str, errors: str, watched: dict[str, Any]) -> Outcome:
        """What the client's output means; ``watched`` is the meter's."""

    def start(self) -> None:
        """The watchers first, then the client; returns when its connections are up."""
        pid = self.lab.exec(self.host, ["podman", "inspect", "--format={{.State.Pid}}", self.client]).stdout.strip()
        source = Path(meter.__file__).read_text()
        self._spawn("meter", ["python3", "-c", source, pid])
        self._inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        # -Z root: a process that changes its user is no longer told when its parent ends (PR_SET_PDEATHSIG(2const))
        self._spawn(
            "capture",
            [*self._inside, "tcpdump", "-Z", "root", "-n", "-tt", "-l", "--immediate-mode", "-i", "eth0", FILTER],
        )
        self._await_line("meter", "stdout", "ready")
        self._await_line("capture", "stderr", "listening on")
        self._time_is_up = time.time() + self.warm_up + self.seconds
        self._spawn("client", ["podman", "exec", *self.exec_options, self.client, *self.command()])
        self._await_connections()
        self._connected_at = time.time()

    def _sockets(self, options: str) -> str:
        """The client's connections to the server as ``ss`` shows them."""
        target = f"[{self.address}]" if ":" in self.address else self.address  # ss(8), HOST SYNTAX
        show = [*self._inside, "ss", options, "state", "established", "dst", target]
        return str(self.lab.exec(self.host, show).stdout)

    def _await_connections(self) -> None:
        """A client that cannot connect is ``finish``'s affair."""
        give_up = time.monotonic() + CONNECT_TIMEOUT
        while self._processes["client"].poll() is None and time.monotonic() < give_up:
            if len(self._sockets("-Htn").splitlines()) >= self.connections:
                return
            time.sleep(0.02)

    def finish(self) -> Outcome:
        """Waits for the client's own end, or gives it up for dead."""
        client = self._processes["client"]
        try:
            output, errors = client.communicate(timeout=self.seconds + GRACE)
        except subprocess.TimeoutExpired:
            self.stop()
            return self._dead("the client was still waiting when its time was long up")
        watched = json.loads(self._end("meter", close=True).splitlines()[-1])
        captured = self._end("capture").splitlines()
        if client.returncode != 0:
            reason = (errors.strip() or output.strip() or "no word")[-300:]
            outcome = self._dead(f"the client ended with status {client.returncode}: {reason}")
        else:
            outcome = self.judge(output, errors, watched)
        # When its time is up a client closes with data unread, which is answered with RST (RFC 2525, section 2.17).
        segments = [segment for segment in map(_segment, captured) if segment and segment[0] < self._time_is_up]
        outcome.resets = sum("R" in flags for _, flags in segments)
        outcome.reconnects = max(0, sum(flags == "S" for _, flags in segments) - self.connections - self.others)
        return outcome

    def stop(self) -> None:
        """Ends whatever of it is still there."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=GRACE)

    def _dead(self, trouble: str) -> Outcome:
        return Outcome(False, 0, 0, 0, Gap(math.nan, math.nan), trouble=trouble)

    def _spawn(self, role: str, argv: list[str]) -> None:
        pipe = subprocess.PIPE
        self._processes[role] = self.lab.popen(self.host, argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def _await_line(self, role: str, stream_name: str, text: str) -> None:
        for line in getattr(self._processes[role], stream_name):
            if text in line:
                return
        raise RuntimeError(f"the {role} did not start: {self._processes[role].communicate()}")

    def _end(self, role: str, close: bool = False) -> str:
        process = self._processes[role]
        if not close:
            process.send_signal(signal.SIGTERM)
        return process.communicate(timeout=GRACE)[0]


class Iperf3(Workload):
    """TCP throughput. ``reverse``: the server sends, as in the paper (section IV.A). ``rate``: bits a second at most,
    in iperf3's words; "0" is as fast as it goes.
    """

    connections = 2  # control and data

    def __init__(self, *args: Any, reverse: bool, rate: str = "0", **options: Any) -> None:
        super().__init__(*args, **options)
        self.reverse = reverse
        self.rate = rate
        self.name = "iperf3-reverse" if reverse else "iperf3-forward"

    def command(self) -> list[str]:
        argv = ["iperf3", "--client", self.address, "--time", f"{self.seconds:g}", "--bitrate", self.rate]
        argv += ["--interval", "0.1", "--json"]
        return [*argv, "--reverse"] if self.reverse else argv

    def judge(self, output: str, errors: str, watched: dict[str, Any]) -> Outcome:
        """A broken connection shows as zeros to the end, with exit status 0; so the last intervals must have bytes."""
        report = json.loads(output)
        if "error" in report:
            return self._dead(report["error"])
        sent, received = report["end"]["sum_sent"]["bytes"], report["end"]["sum_received"]["bytes"]
        intervals = [interval["sum"]["bytes"] for interval in report["intervals"]]
        column = 1 if self.reverse else 2
        resumed = sum(intervals[-5:]) > 0
        # When its time is up the client reads no more, and what the server still has comes as probes of its window.
        arrivals = begun_before(watched["arrivals"], self._time_is_up)
        return Outcome(
            resumed=resumed,
            lost_bytes=max(0, sent - received - SOCKET_BUFFERS),
            resets=0,
            reconnects=0,
            disruption=longest_gap(arrivals),
            silences=gaps(arrivals, LONG),
            moments=[(sample[0], sample[column]) for sample in watched["bytes"]],
            detail={
                "sent": sent,
                "received": received,
                "retransmits": report["end"]["sum_sent"].get("retransmits"),
                "round_trip_s": report["end"]["streams"][0]["sender"].get("mean_rtt", 0) / 1e6,
            },
            trouble=None if resumed else "no byte arrived in the last half second",
        )


class Sockperf(Workload):
    """TCP ping-pong: one message under way at any time, each round trip logged (section IV.A)."""

    name = "sockperf"
    MESSAGE = 64
    warm_up = 2.0  # it times the processor first

    def pace(self, outcome: Outcome, since: float | None = None) -> float:
        """Round trips a second, from their median. Without a disruption its clock is not known, but it logs no more
        than its own time.
        """
        return round_trips_between(outcome.moments, -math.inf if since is None else since, math.inf)

    def command(self) -> list[str]:
        argv = ["sockperf", "ping-pong", "--tcp", "--ip", self.address, "--time", f"{self.seconds:g}"]
        return [*argv, "--msg-size", str(self.MESSAGE), "--full-log", "/dev/stderr"]

    def judge(self, output: str, errors: str, watched: dict[str, Any]) -> Outcome:
        rows = [line.split(", ") for line in errors.partition("packet, txTime")[2].splitlines() if line[:1].isdigit()]
        trips = [(float(row[1]), float(row[2])) for row in rows]
        dropped = _number_after(output, "# dropped messages = ")
        if len(trips) < 2 or dropped is None:
            return self._dead(f"sockperf's report cannot be read: {output[-300:]}")
        disruption = rtt_disruption(trips)
        silences = long_trips(trips, LONG)
        shift = clock_shift(
            silences or [disruption], gaps(watched["arrivals"], LONG) or [longest_gap(watched["arrivals"])]
        )
        resumed = sum(sent > disruption.at for sent, _ in trips) > 10
        return Outcome(
            resumed=resumed,
            lost_bytes=dropped * self.MESSAGE,
            resets=0,
            reconnects=0,
            disruption=Gap(disruption.at + shift, disruption.seconds),
            silences=[Gap(one.at + shift, one.seconds) for one in silences],
            moments=[(sent + shift, answered - sent) for sent, answered in trips],
            detail={
                "round_trips": len(trips),
                "dropped": dropped,
                "round_trip_s": statistics.median(answered - sent for sent, answered in trips),
            },
            trouble=None if resumed else "nothing was answered after the migration",
        )


class Stream(Workload):
    """The server sends bytes that the client knows; one that differs or is missing counts as lost."""

    name = "stream"

    def __init__(self, *args: Any, size: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.size = size

    def command(self) -> list[str]:
        source = Path(stream.__file__).read_text()
        return ["python3", "-c", source, "check", self.address, str(self.size)]

    def judge(self, output: str, errors: str, watched: dict[str, Any]) -> Outcome:
        return byte_exact(self.size, json.loads(output), watched)


def byte_exact(wanted: int, result: dict[str, int], watched: dict[str, Any]) -> Outcome:
    """Of a client that has compared each byte and says how many were ``right``, in order from the first."""
    lost = wanted - result["right"]
    return Outcome(
        resumed=lost == 0,
        lost_bytes=lost,
        resets=0,
        reconnects=0,
        disruption=longest_gap(watched["arrivals"]),
        silences=gaps(watched["arrivals"], LONG),
        moments=[(sample[0], sample[1]) for sample in watched["bytes"]],
        detail=result,
        trouble=None if lost == 0 else f"{lost} of {wanted} bytes were wrong or missing",
    )


def _segment(line: str) -> tuple[float, str] | None:
    """(time, flags) of a line of ``tcpdump -tt``."""
    head, found, rest = line.partition("Flags [")
    return (float(head.split()[0]), rest.partition("]")[0]) if found else None


def _number_after(text: str, words: str) -> int | None:
    found = text.partition(words)[2].split(";")[0].split()
    return int(found[0]) if found else None
