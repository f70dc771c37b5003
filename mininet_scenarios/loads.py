"""More connections to move under, for the benchmarks: redis, and a server with memory that changes (``burden``)."""

import json
import math
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mininet_scenarios import burden
from mininet_scenarios.measure import gaps, longest_gap
from mininet_scenarios.workloads import LONG, Outcome, Workload

STALLED_MS = 500
"""Milliseconds without a reply after which a connection that asks all the time has lost one."""
AFTER = 3.0
"""Seconds that a client goes on after the migration."""

BURDEN = ["python3", "-c", Path(burden.__file__).read_text()]


def alive(shown: str) -> int:
    """How many of the connections that ``ss -iO`` shows, one a line, have had a reply lately. It leaves out a zero."""
    silent = (re.search(r"\blastrcv:(\d+)", line) for line in shown.splitlines())
    return sum(found is None or int(found[1]) < STALLED_MS for found in silent)


class Endless(Workload):
    """A client that goes on until ``finish``, and ends when its standard input does."""

    exec_options = ("--interactive",)

    def start(self) -> None:
        super().start()
        self._time_is_up = math.inf

    def finish(self) -> Outcome:
        time.sleep(AFTER)
        self.last_look()
        self._time_is_up = time.time()
        return super().finish()

    def last_look(self) -> None:
        """While the client is still at work."""


class Redis(Endless):
    """redis-benchmark: each of its connections asks again as soon as it is answered, so a lost reply stops it for good.

    It knows no time, only a number of requests, so a shell ends it: that must find it running.
    """

    name = "redis"
    connections = 10
    others = 1  # on which it asks for the server's configuration (redis-benchmark.c, getRedisConfig)
    VALUE, ENDLESS = 64, 2_000_000_000
    stalled = 0

    def command(self) -> list[str]:
        load = f"redis-benchmark -h {self.address} -c {self.connections} -t get -d {self.VALUE} -n {self.ENDLESS} --csv"
        return ["sh", "-c", f"{load} & read _; kill $!; wait $!; [ $? = {128 + signal.SIGTERM} ]"]

    def last_look(self) -> None:
        self.stalled = max(0, self.connections - alive(self._sockets("-HtniO")))

    def judge(self, output: str, errors: str, watched: dict[str, Any]) -> Outcome:
        return Outcome(
            resumed=self.stalled == 0,
            lost_bytes=self.stalled * self.VALUE,
            resets=0,
            reconnects=0,
            disruption=longest_gap(watched["arrivals"]),
            silences=gaps(watched["arrivals"], LONG),
            moments=[(sample[0], sample[1]) for sample in watched["bytes"]],
            detail={"connections": self.connections, "stalled": self.stalled},
            trouble=f"{self.stalled} connections wait for a reply that does not come" if self.stalled else None,
        )


class Memory(Endless):
    """A server of ``burden`` with so many ``megabytes`` (2^20 bytes), of which ``rate`` are written anew each second.

    ``count`` connections send blocks and compare what comes back, each ``pause`` seconds after the last; one more gives
    orders. Without megabytes the server's memory is left as it is.
    """

    def __init__(self, *args: Any, megabytes: int = 0, rate: float = 0, count: int = 1, pause: float = 0, **more: Any):
        super().__init__(*args, **more)
        self.name = f"memory-{megabytes}"
        self.megabytes, self.rate, self.count, self.pause = megabytes, rate, count, pause
        self.others = count

    def command(self) -> list[str]:
        return [*BURDEN, "drive", self.address]

    def start(self) -> None:
        super().start()
        self._await_line("client", "stdout", "ready")
        if self.megabytes:
            self._tell(do="fill", megabytes=self.megabytes, rate=self.rate)
        self._tell(do="crowd_before", count=self.count, pause=self.pause)
        self._connected_at = time.time()

    def last_look(self) -> None:
        with suppress(BrokenPipeError):  # of a client that has ended
            self._order(do="crowd_after")
            if self.megabytes:
                self._order(do="memory")

    def judge(self, output: str, errors: str, watched: dict[str, Any]) -> Outcome:
        crowd, *memory = (json.loads(line) for line in output.splitlines())
        bad = sum(one["bad"] for one in memory)
        arrivals = [at for at in watched["arrivals"] if self._connected_at <= at <= self._time_is_up]
        wrong = "; ".join(crowd["wrong"])
        trouble = wrong or (f"{bad} blocks of memory are not as they were" if bad else None)
        return Outcome(
            resumed=trouble is None,
            lost_bytes=len(crowd["wrong"]) * burden.ECHO_BLOCK + bad * burden.MEGABYTE,
            resets=0,
            reconnects=0,
            disruption=longest_gap(arrivals),
            silences=gaps(arrivals, LONG),
            moments=[(sample[0], sample[1]) for sample in watched["bytes"]],
            detail={**crowd, "memory": memory[0] if memory else None},
            trouble=trouble,
        )

    def _order(self, **order: Any) -> None:
        stdin = self._processes["client"].stdin
        assert stdin is not None
        print(json.dumps(order), file=stdin, flush=True)

    def _tell(self, **order: Any) -> None:
        """An order, and the client's word that it is done. Raises RuntimeError when it has ended."""
        self._order(**order)
        stdout = self._processes["client"].stdout
        assert stdout is not None
        if not stdout.readline():
            raise RuntimeError(f"the client did not {order['do']}: {self._processes['client'].communicate()}")
