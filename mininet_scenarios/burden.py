"""A container with everything that is hard to move, and the client that knows how it should look afterwards.

``burden.py serve`` is the container's program; ``burden.py drive ADDRESS`` its client, which reads one JSON object a
line (``do`` and arguments) and answers each with one. Half of the work is done before a migration and half after it:
every ``*_before`` leaves something under way that its ``*_after`` completes and checks. Standard library only: it runs
in containers.
"""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tty
from collections.abc import Callable
from contextlib import closing
from typing import Any

ORDERS, ECHO, LATE, HOARD, HALF = range(7000, 7005)
MEGABYTE = 1 << 20
PATIENCE = 120.0
BACKLOG = 16
ECHO_BLOCK = 1024


def pattern(number: int, size: int) -> bytes:
    """Bytes that no other number has."""
    return (number.to_bytes(8, "big") * (size // 8 + 1))[:size]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---- the container


class Memory:
    """Blocks of a megabyte, rewritten all the time; each says which rewriting it is from."""

    def __init__(self, megabytes: int, rate: float) -> None:
        self._blocks = [bytearray(pattern(number, MEGABYTE)) for number in range(megabytes)]
        self._numbers = list(range(megabytes))
        self._rate, self._lock = rate, threading.Lock()
        self.written = 0
        if rate:
            threading.Thread(target=self._rewrite, daemon=True).start()

    def _rewrite(self) -> None:
        began = time.monotonic()
        while True:
            with self._lock:
                which, number = self.written % len(self._blocks), len(self._blocks) + self.written
                self._blocks[which][:] = pattern(number, MEGABYTE)
                self._numbers[which] = number
                self.written += 1
            time.sleep(max(0.0, began + self.written / self._rate - time.monotonic()))

    def check(self) -> dict[str, Any]:
        with self._lock:
            pairs = zip(self._blocks, self._numbers, strict=True)
            bad = sum(block != pattern(number, MEGABYTE) for block, number in pairs)
            return {"bad": bad, "megabytes": len(self._blocks), "written": self.written}


class Belongings:
    """Children behind pipes, a terminal and a Unix socket; files open, deleted and half written; a thread."""

    def __init__(self) -> None:
        self._piped = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._terminal, slave = os.openpty()
        tty.setraw(slave)
        self._shell = subprocess.Popen(["cat"], stdin=slave, stdout=slave, start_new_session=True)
        os.close(slave)
        self._unix, far = socket.socketpair()
        self._socketed = subprocess.Popen(["cat"], stdin=far.fileno(), stdout=far.fileno())
        far.close()
        self._named = socket.socket(socket.AF_UNIX)
        self._named.bind("/tmp/named")
        self._named.listen()
        self._growing = open("/tmp/growing", "w+b", buffering=0)  # noqa: SIM115
        self._growing.write(pattern(1, 100_000))
        self._growing.seek(1000)
        self._deleted = tempfile.TemporaryFile(dir="/tmp", buffering=0)  # noqa: SIM115
        self._deleted.write(pattern(2, 200_000))
        self._ticks = 0
        threading.Thread(target=self._tick, daemon=True).start()
        self._children = [self._piped.pid, self._shell.pid, self._socketed.pid]
        # what is in a pipe, in a terminal and in a Unix socket at the moment must come along
        self._say(b"before\n")

    def _tick(self) -> None:
        while True:
            self._ticks += 1
            time.sleep(0.01)

    def _say(self, line: bytes) -> None:
        assert self._piped.stdin is not None
        self._piped.stdin.write(line)
        self._piped.stdin.flush()
        os.write(self._terminal, line)
        self._unix.sendall(line)

    def check(self) -> dict[str, bool]:
        """Whether each is as it was and still works."""
        ticks = self._ticks
        self._say(b"after\n")
        wanted = b"before\nafter\n"
        assert self._piped.stdout is not None
        position = self._growing.tell()
        self._growing.seek(0)
        found = {
            "pipe": _exactly(self._piped.stdout.fileno(), len(wanted)) == wanted,
            "terminal": _exactly(self._terminal, len(wanted)) == wanted,
            "unix_socket": _exactly(self._unix.fileno(), len(wanted)) == wanted,
            "position": position == 1000,
            "file": self._growing.read() == pattern(1, 100_000),
            "named_socket": self._reach("/tmp/named"),
            "children": [child.poll() for child in (self._piped, self._shell, self._socketed)] == [None] * 3,
        }
        self._deleted.seek(0)
        found["deleted_file"] = self._deleted.read() == pattern(2, 200_000)
        time.sleep(0.1)
        found["thread"] = self._ticks > ticks
        return found

    def _reach(self, path: str) -> bool:
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(path)
            server, _ = self._named.accept()
            with closing(server):
                client.sendall(b"x")
                return server.recv(1) == b"x"


def _exactly(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := os.read(descriptor, size - len(data))):
        data += part
    return data


class Container:
    """What the orders of the client are carried out on."""

    def __init__(self) -> None:
        self._memory = Memory(1, 0)
        self._belongings: Belongings | None = None
        self._servers = {port: socket.create_server(("", port), backlog=BACKLOG) for port in (LATE, HOARD, HALF)}
        self._hoarded: list[socket.socket] = []
        self._halves: list[socket.socket] = []

    def fill(self, megabytes: int, rate: float) -> dict[str, Any]:
        self._memory = Memory(megabytes, rate)
        return {}

    def memory(self) -> dict[str, Any]:
        return self._memory.check()

    def gather(self) -> dict[str, Any]:
        self._belongings = Belongings()
        return {}

    def belongings(self) -> dict[str, Any]:
        assert self._belongings is not None
        return dict(self._belongings.check())

    def accept_late(self, count: int) -> dict[str, Any]:
        """Connections that have waited in the backlog, and what they have said meanwhile."""
        return {"digests": sorted(digest(_to_the_end(self._take(LATE))) for _ in range(count))}

    def hoard(self) -> dict[str, Any]:
        """Reads nothing, and writes until nobody takes it any more."""
        connection = self._take(HOARD)
        connection.settimeout(0.5)
        written = 0
        try:
            while True:
                written += connection.send(pattern(3, MEGABYTE)[written % 8 :])
        except TimeoutError:
            pass
        self._hoarded.append(connection)
        return {"written": written}

    def unpack(self) -> dict[str, Any]:
        connection = self._hoarded.pop()
        connection.settimeout(PATIENCE)
        connection.shutdown(socket.SHUT_WR)
        return {"digest": digest(_to_the_end(connection))}

    def half(self, say_first: bool) -> dict[str, Any]:
        connection = self._take(HALF)
        if say_first:
            connection.sendall(pattern(5, 50_000))
            connection.shutdown(socket.SHUT_WR)
        self._halves.append(connection)
        return {}

    def other_half(self, say: bool) -> dict[str, Any]:
        connection = self._halves.pop(0)
        with closing(connection):
            found = digest(_to_the_end(connection, close=False))
            if say:
                connection.sendall(pattern(5, 50_000))
            return {"digest": found}

    def _take(self, port: int) -> socket.socket:
        connection, _ = self._servers[port].accept()
        connection.settimeout(PATIENCE)
        return connection


def _to_the_end(connection: socket.socket, close: bool = True) -> bytes:
    data = bytearray()
    while part := connection.recv(1 << 16):
        data += part
    if close:
        connection.close()
    return bytes(data)


def serve() -> None:
    threading.Thread(target=lambda: asyncio.run(_echo()), daemon=True).start()
    container = Container()
    with socket.create_server(("", ORDERS)) as server:
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rw") as lines:
                for line in lines:
                    order = json.loads(line)
                    answer = getattr(container, order.pop("do"))(**order)
                    print(json.dumps(answer), file=lines, flush=True)


async def _echo() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "", ECHO, backlog=1024)
    await server.serve_forever()


# ---- the client


class Client:
    """Talks to the container; every method answers what should be looked at."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._orders = self._connect(ORDERS)
        self._lines = self._orders.makefile("rw")
        self._late: list[socket.socket] = []
        self._stop = threading.Event()
        self._result: dict[str, Any] = {}

    def _connect(self, port: int) -> socket.socket:
        return socket.create_connection((self._address, port), PATIENCE)

    def tell(self, **order: Any) -> dict[str, Any]:
        print(json.dumps(order), file=self._lines, flush=True)
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    # many connections

    def crowd_before(self, count: int, pause: float = 0.2) -> dict[str, Any]:
        """Connections that all talk, in turn, each in blocks of its own that must come back as they were.

        ``pause`` are the seconds between a block's return and the next.
        """
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._talk(count, pause, ready)))
        self._thread.start()
        assert ready.wait(PATIENCE)
        return {"connections": count}

    def crowd_after(self) -> dict[str, Any]:
        self._stop.set()
        self._thread.join(PATIENCE)
        return self._result

    async def _talk(self, count: int, pause: float, ready: threading.Event) -> None:
        rounds = [0] * count
        wrong: list[str] = []

        async def one(which: int) -> None:
            reader, writer = await asyncio.open_connection(self._address, ECHO)
            try:
                await asyncio.sleep(pause * which / count)
                while not self._stop.is_set():
                    block = pattern(which << 32 | rounds[which], ECHO_BLOCK)
                    writer.write(block)
                    if await asyncio.wait_for(reader.readexactly(ECHO_BLOCK), PATIENCE) != block:
                        wrong.append(f"{which}: another block came back")
                        return
                    rounds[which] += 1
                    await asyncio.sleep(pause)
            except (OSError, EOFError, TimeoutError) as error:
                wrong.append(f"{which}: {error!r}")
            writer.close()

        async def all_said() -> None:
            while min(rounds) == 0 and not wrong:
                await asyncio.sleep(0.05)
            ready.set()

        await asyncio.gather(all_said(), *(one(which) for which in range(count)))
        self._result = {"wrong": wrong[:5], "connections": count, "rounds": min(rounds)}

    # what stands in sockets

    def late_before(self, count: int) -> dict[str, Any]:
        """Connections nobody has accepted yet, with data, some of them closed for sending already."""
        for number in range(count):
            connection = self._connect(LATE)
            connection.sendall(pattern(number, 10_000 + number))
            if number % 2:
                connection.shutdown(socket.SHUT_WR)
            self._late.append(connection)
        return {"digests": sorted(digest(pattern(number, 10_000 + number)) for number in range(count))}

    def late_after(self) -> dict[str, Any]:
        for connection in self._late[::2]:
            connection.shutdown(socket.SHUT_WR)
        return self.tell(do="accept_late", count=len(self._late))

    def hoard_before(self) -> dict[str, Any]:
        """Both ends send as much as there is room for, and neither reads."""
        self._hoard = self._connect(HOARD)
        self._hoard.settimeout(0.5)
        self._said = bytearray()
        try:
            while True:
                block = pattern(4, MEGABYTE)[len(self._said) % 8 :]
                self._said += block[: self._hoard.send(block)]
        except TimeoutError:
            pass
        self._expected = self.tell(do="hoard")["written"]
        return {"said": len(self._said), "heard": self._expected}

    def hoard_after(self) -> dict[str, Any]:
        self._hoard.settimeout(PATIENCE)
        heard = bytearray()
        reader = threading.Thread(target=lambda: heard.extend(_to_the_end(self._hoard, close=False)))
        reader.start()
        self._hoard.shutdown(socket.SHUT_WR)
        answer = self.tell(do="unpack")
        reader.join(PATIENCE)
        whole = bytes(heard) == pattern(3, self._expected)
        return {"heard": whole, "said": answer["digest"] == digest(bytes(self._said)), "bytes": len(heard)}

    def halves_before(self) -> dict[str, Any]:
        self._said_first = self._connect(HALF)
        self._said_first.sendall(pattern(6, 60_000))
        self._said_first.shutdown(socket.SHUT_WR)
        self.tell(do="half", say_first=False)
        self._heard_first = self._connect(HALF)
        self.tell(do="half", say_first=True)
        return {}

    def halves_after(self) -> dict[str, Any]:
        first = self.tell(do="other_half", say=True)["digest"] == digest(pattern(6, 60_000))
        answer = _to_the_end(self._said_first) == pattern(5, 50_000)
        heard = _to_the_end(self._heard_first, close=False) == pattern(5, 50_000)
        self._heard_first.sendall(pattern(7, 70_000))
        self._heard_first.close()
        last = self.tell(do="other_half", say=False)["digest"] == digest(pattern(7, 70_000))
        return {"ours_closed": first and answer, "theirs_closed": heard and last}


def drive(address: str) -> None:
    client = Client(address)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        method: Callable[..., dict[str, Any]] | None = getattr(client, order["do"], None)
        answer = client.tell(**order) if method is None else method(**{k: v for k, v in order.items() if k != "do"})
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else drive(sys.argv[2])
