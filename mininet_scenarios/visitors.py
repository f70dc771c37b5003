"""Clients of a busy web server: new connections at a steady rate, each for one request, and some that stay.

Sent to a host as text (``python3 -c``): the standard library only. Arguments: address, port, new connections a second,
connections that stay. A line on standard input ends it, and what each request came to is counted on standard output.
"""

import collections
import contextlib
import heapq
import json
import select
import socket
import sys
import time
from typing import Any

PATIENCE = 60.0
"""Seconds after which a request that was not answered counts as an error."""
PAUSE = 0.05
"""Seconds between two requests of a connection that stays."""
TICK = 0.002
BODY = b"coat"
REQUEST = "GET / HTTP/1.1\r\nHost: server\r\nConnection: {}\r\n\r\n"


class Visit:
    """One connection and the request that is under way on it."""

    def __init__(self, stays: bool, where: int) -> None:
        self.stays, self.asked, self.got, self.begun = stays, False, b"", time.monotonic()
        self.socket = socket.socket(where)
        self.socket.setblocking(False)

    @property
    def answered(self) -> bool:
        head, end, body = self.got.partition(b"\r\n\r\n")
        return bool(end) and head.startswith(b"HTTP/1.1 200") and body == BODY


class Crowd:
    def __init__(self, address: str, port: int, rate: float, staying: int) -> None:
        self.where = (address, port)
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.rate, self.poll = rate, select.epoll()
        self.visits: dict[int, Visit] = {}
        self.errors: collections.Counter[str] = collections.Counter()
        self.examples: list[tuple[float, float, str]] = []
        self.slowest = 0.0
        self.requests = self.connections = 0
        self.pauses: list[tuple[float, int, Visit]] = []
        for _ in range(staying):
            self.begin(True)

    def begin(self, stays: bool) -> None:
        visit = Visit(stays, self.family)
        self.connections += 1
        try:
            visit.socket.connect(self.where)
        except BlockingIOError:
            pass
        except OSError as error:
            return self.end(visit, error)
        self.visits[visit.socket.fileno()] = visit
        self.poll.register(visit.socket, select.EPOLLOUT)

    def ask(self, visit: Visit) -> None:
        visit.begun, visit.got = time.monotonic(), b""
        self.poll.modify(visit.socket, select.EPOLLIN)
        visit.socket.sendall(REQUEST.format("keep-alive" if visit.stays else "close").encode())
        visit.asked = True

    def turn(self, visit: Visit) -> None:
        """Raises OSError."""
        if not visit.asked:
            if number := visit.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, "connect")
            return self.ask(visit)
        data = visit.socket.recv(65536)
        visit.got += data
        if visit.answered and (visit.stays or not data):
            self.requests += 1
            self.slowest = max(self.slowest, time.monotonic() - visit.begun)
            if not visit.stays:
                return self.end(visit)
            self.poll.modify(visit.socket, 0)
            heapq.heappush(self.pauses, (time.monotonic() + PAUSE, id(visit), visit))
        elif not data:
            raise ConnectionError("closed in the middle of it")

    def end(self, visit: Visit, error: OSError | None = None) -> None:
        self.visits.pop(visit.socket.fileno(), None)
        visit.socket.close()
        if error is not None:
            kind = f"{'stays' if visit.stays else 'asked' if visit.asked else 'connecting'}: {error}"
            self.errors[kind] += 1
            if len(self.examples) < 20:
                self.examples.append((time.time(), round(time.monotonic() - visit.begun, 3), kind))
            if visit.stays:
                self.begin(True)

    def look(self, timeout: float) -> None:
        for number, _ in self.poll.poll(timeout):
            visit = self.visits.get(number)
            if visit is not None:
                try:
                    self.turn(visit)
                except OSError as error:
                    self.end(visit, error)
        now = time.monotonic()
        while self.pauses and self.pauses[0][0] < now:
            visit = heapq.heappop(self.pauses)[2]
            if visit.socket.fileno() in self.visits:
                try:
                    self.ask(visit)
                except OSError as error:
                    self.end(visit, error)

    def give_up(self) -> None:
        waiting = {id(visit) for _, _, visit in self.pauses}
        for visit in list(self.visits.values()):
            if id(visit) not in waiting and time.monotonic() - visit.begun > PATIENCE:
                self.end(visit, TimeoutError("not answered"))

    def run(self) -> dict[str, Any]:
        begun = time.monotonic()
        started, checked = 0, begun
        self.poll.register(0, select.EPOLLIN)
        while True:
            now = time.monotonic()
            while started < (now - begun) * self.rate:
                self.begin(False)
                started += 1
            self.look(TICK)
            if now > checked + 1:
                checked = now
                self.give_up()
            if select.select([0], [], [], 0)[0]:
                break
        give_up = time.monotonic() + PATIENCE + 2
        while not all(visit.stays for visit in self.visits.values()) and time.monotonic() < give_up:
            self.look(0.05)
            self.give_up()
        return {
            "requests": self.requests,
            "connections": self.connections,
            "errors": sum(self.errors.values()),
            "kinds": self.errors,
            "examples": self.examples,
            "slowest_s": self.slowest,
            "seconds": time.monotonic() - begun,
        }


if __name__ == "__main__":
    address, port, rate, staying = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        print(json.dumps(Crowd(address, int(port), float(rate), int(staying)).run()))
