"""The memory that follows a container which runs already: one process on each side, which outlives the hook.

CRIU's page server on the source and its lazy-pages daemon on the destination speak in the clear, each over a socket
whose other end only a pager has; between the two pagers is TLS with the migration's one-time keys. The hook starts a
pager (``lazy``), writes JSON lines to it and reads JSON lines; what a later hook has to know is in a file.

CRIU takes a page server's client that goes for one that has everything, and ends the frozen processes. So the source's
pager lets go of it in two cases only: the other side says that all pages are there (TLS's close_notify), or the hook
wants the container back (SIGTERM): then CRIU is told nonsense, fails, and leaves the processes alive. CRIU's daemon has
such a last word, too, and says it also when its restore has failed; so that is kept until the restore has succeeded.
Once it is said, all pages are there or the daemon tells that they are not: what becomes of the source matters no more.

Memory that has not come reads as zeros once CRIU's daemon has gone (userfaultfd(2)). So when pages stop coming, the
destination's pager first ends the container and then the daemon.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coat_ryu.node import remains
from coat_ryu.node.door import Door, connect
from coat_ryu.node.readable import readable
from coat_ryu.node.stream import BUFFER, tls_context

STATUS = "status.json"
SILENCE = 15.0
"""Seconds after which a peer that does not acknowledge is given up."""
CONNECT_TIMEOUT = 30.0
TICK = 0.1
RESTORE_PATIENCE = 2.0
"""Seconds that a restore is given to end after pages have stopped coming: it hangs, or is nearly through."""
END_PATIENCE = 10.0
NONSENSE = b"\xff" * 64
"""A command of the page server's (``struct page_server_iov``, criu/page-xfer.c) that does not exist."""
LAST_WORDS = [struct.pack("=I", command) + bytes(rest) for command in (0x1023, 0x1024) for rest in (20, 28)]
"""PS_IOV_CLOSE and PS_IOV_FORCE_CLOSE of the page server's, with nothing else in the structure, whose number of pages
is of 32 bits or, in later versions, of 64 (criu/page-xfer.c, disconnect_from_page_server).
"""
REPORTS_EVERY = 0.5
PAGE_SOCKET = 100
"""The descriptor of CRIU's end on the source. The runtime has no word for it, so CRIU's configuration file names it
(``PAGE_SOCKET_SETTING``), and it must be the same there and in the runtime that passes it on.
"""
PAGE_SOCKET_SETTING = f"ps-socket={PAGE_SOCKET}"


class Cut(Exception):
    """The other side has gone without a word."""


class Status:
    """What became of the pages, in a file that whoever asks can read."""

    def __init__(self, directory: Path, **first: Any) -> None:
        self._path = directory / STATUS
        self._said: dict[str, Any] = {"pid": os.getpid(), "bytes": 0, "error": None, **first}
        self._written = 0.0
        self.told = False
        self.set()

    def set(self, **changes: Any) -> None:
        self._said.update(changes)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._said))
        part.rename(self._path)
        self._written = time.monotonic()

    def count(self, size: int) -> None:
        self._said["bytes"] += size
        if time.monotonic() - self._written > REPORTS_EVERY:
            self.set()


def _say(**words: Any) -> None:
    with contextlib.suppress(OSError):  # the hook has gone; the pages come all the same
        sys.stdout.write(json.dumps(words) + "\n")
        sys.stdout.flush()


def _prompt(connection: socket.socket) -> None:
    """Requests are small: a second one would wait for the acknowledgement of the first (Nagle), 40 ms a page."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _watchful(connection: socket.socket) -> None:
    _prompt(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 3), (socket.TCP_KEEPINTVL, 3), (socket.TCP_KEEPCNT, 4)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE * 1000))


def _receive(peer: ssl.SSLSocket) -> bytes | None:
    """What has come; b"" when the peer has said that this was all, None when it was less than a record. Raises Cut."""
    peer.setblocking(False)
    try:
        return peer.recv(BUFFER)
    except (ssl.SSLWantReadError, BlockingIOError):
        return None
    except OSError as error:
        raise Cut(str(error)) from error


def _send(peer: ssl.SSLSocket, data: bytes) -> None:
    peer.settimeout(SILENCE * 2)
    try:
        peer.sendall(data)
    except OSError as error:
        raise Cut(str(error)) from error


def _close(peer: ssl.SSLSocket) -> None:
    """Says that all has been said."""
    peer.settimeout(SILENCE)
    with contextlib.suppress(OSError):
        peer.unwrap()
    peer.close()


def _readable(peer: ssl.SSLSocket | None, other: socket.socket) -> list[socket.socket]:
    """What is of this host comes first: who ends here has his reasons, and the peer may end for them."""
    if peer is None:
        return readable([other], TICK)
    return [peer] if peer.pending() else readable([other, peer], TICK)


# ---- the source


class Giver:
    """Dumps all but the memory, then gives that page by page."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._wanted_back = False
        signal.signal(signal.SIGTERM, self._want_back)

    def _want_back(self, *_: Any) -> None:
        self._wanted_back = True

    def run(self) -> None:
        status = Status(Path(self._order["directory"]), state="dumping")
        context = tls_context(ssl.PROTOCOL_TLS_CLIENT, self._order["tls"])
        plain = connect(self._order["to"], CONNECT_TIMEOUT)
        _watchful(plain)
        peer = context.wrap_socket(plain, suppress_ragged_eofs=False)
        with self._dump() as (dump, server):
            if server is None:
                status.set(state="failed")
                return _say(error="the runtime's checkpoint failed", stderr=self._stderr())
            status.set(state="giving")
            _say(ready=True)
            self._give(peer, server, dump, status)
        done = dump.returncode == 0
        status.set(state="done" if done else "taken_back", error=None if done else self._stderr())

    def _stderr(self) -> str:
        return Path(self._order["log"]).read_text(errors="replace")

    @contextlib.contextmanager
    def _dump(self) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket | None]]:
        """The runtime's checkpoint, and a connection to CRIU's page server; None when it ended before.

        CRIU would listen on a port and serve whoever comes first, so it is handed its end of a connection that has no
        other (``PAGE_SOCKET``).
        """
        server, theirs = socket.socketpair()
        _number(theirs, PAGE_SOCKET)
        ready, tell = os.pipe()
        argv = [*self._order["argv"], "--lazy-pages", "--status-fd", str(tell), self._order["id"]]
        with open(self._order["log"], "wb") as log:
            dump = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[tell, PAGE_SOCKET],
                cwd="/",
                start_new_session=True,
            )
        for end in (tell, PAGE_SOCKET):
            os.close(end)
        with dump, server:
            serves = self._serves(ready, dump)
            os.close(ready)
            if not serves:
                dump.wait()
            yield dump, server if serves else None

    def _serves(self, ready: int, dump: subprocess.Popen[bytes]) -> bool:
        """Whether CRIU has said that it is about to serve pages. A dump that hangs ends when it is wanted back."""
        while not readable([ready], TICK):
            if self._wanted_back:
                os.killpg(dump.pid, signal.SIGKILL)
                return False
        return os.read(ready, 1) == b"\0"

    def _give(self, peer: ssl.SSLSocket, server: socket.socket, dump: subprocess.Popen[bytes], status: Status) -> None:
        try:
            while not self._wanted_back:
                over = dump.poll() is not None  # what it has said is there before we look
                ready = _readable(peer, server)
                for end in ready:
                    data = _receive(peer) if end is peer else server.recv(BUFFER)
                    if data and end is peer:
                        with contextlib.suppress(OSError):  # it has ended by itself
                            server.sendall(data)
                    elif data:
                        _send(peer, data)
                        status.count(len(data))
                    elif data is not None:
                        return _close(peer) if end is peer else self._part(peer, dump)
                if over and not ready:
                    return self._part(peer, dump)
        except Cut as cut:
            # It may be wanted back, or be lost: that is not ours to decide.
            status.set(state="cut", error=str(cut))
            peer.close()
        self._await(dump)
        if self._wanted_back:
            with contextlib.suppress(OSError):
                server.sendall(NONSENSE)

    def _part(self, peer: ssl.SSLSocket, dump: subprocess.Popen[bytes]) -> None:
        """The page server has ended by itself: it was told that all pages are there, or it has failed."""
        self._await(dump)
        if dump.poll() == 0:
            _close(peer)
        else:
            peer.close()

    def _await(self, dump: subprocess.Popen[bytes]) -> None:
        while dump.poll() is None and not self._wanted_back:
            time.sleep(TICK)


# ---- the destination


class Taker:
    """Waits for the giver, then restores the container and fetches what it has not got."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._status = Status(Path(order["directory"]), state="waiting")
        context = tls_context(ssl.PROTOCOL_TLS_SERVER, order["tls"])
        self._door = Door(order["address"], order["peer"], context, ragged_eofs=False)
        self._peers: list[ssl.SSLSocket] = []
        self._arrived = threading.Event()
        self._fetching = self._unwanted = False
        signal.signal(signal.SIGTERM, self._give_up)

    def _give_up(self, *_: Any) -> None:
        """Ends at once, or ends first what it has begun."""
        self._unwanted = True
        if not self._fetching:
            sys.exit()

    def run(self) -> None:
        self._door.open(self._take, "pages")
        _say(port=self._door.port)
        line = sys.stdin.readline()
        if not line:  # there will be no restore
            return
        self._order = json.loads(line)
        self._patience = time.monotonic() + self._order["timeout"]
        self._status.set(state="restoring", container=self._order["id"])
        if not self._arrived.wait(min(CONNECT_TIMEOUT, self._order["timeout"])):
            return self._failed("the source's pages are not offered")
        self._fetching = True
        self._fetch(self._peers[0])

    def _take(self, peer: ssl.SSLSocket) -> None:
        """The first that comes; all that follows is the main thread's."""
        self._door.close()
        _watchful(peer)
        self._peers.append(peer)
        self._arrived.set()

    def _failed(self, why: str, stderr: str = "") -> None:
        self._status.set(state="failed", error=why)
        _say(error=why, stderr=stderr)

    def _fetch(self, peer: ssl.SSLSocket) -> None:
        server, client = socket.socketpair()
        daemon = self._daemon(client)
        client.close()
        if daemon is None:
            return self._failed("CRIU's lazy-pages daemon did not start")
        with open(self._order["log"], "wb") as log:
            env = {**os.environ, **self._order["env"]}
            restore = subprocess.Popen(self._order["argv"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
        try:
            self._relay(peer, server, restore)
            daemon.wait(END_PATIENCE)
            if daemon.returncode != 0:
                raise Cut(f"CRIU's lazy-pages daemon ended with status {daemon.returncode}")
        except (Cut, OSError, subprocess.TimeoutExpired) as error:
            return self._lost(restore, daemon, str(error))
        restore.wait()
        self._tell(restore)
        if restore.returncode == 0:
            _close(peer)
            self._status.set(state="done")

    def _daemon(self, client: socket.socket) -> subprocess.Popen[bytes] | None:
        work = Path(self._order["work"])
        meeting = work / "lazy-pages.socket"
        meeting.unlink(missing_ok=True)
        where = ["--images-dir", self._order["images"], "--work-dir", str(work), "--log-file", "lazy-pages.log"]
        argv = ["criu", "lazy-pages", "--page-server", "--ps-socket", str(client.fileno()), *where]
        quiet = subprocess.DEVNULL
        daemon = subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, pass_fds=[client.fileno()], cwd="/")
        give_up = time.monotonic() + CONNECT_TIMEOUT
        while not meeting.exists():
            if daemon.poll() is not None or time.monotonic() > give_up:
                daemon.kill()
                daemon.wait()
                return None
            time.sleep(0.001)
        return daemon

    def _relay(self, peer: ssl.SSLSocket, server: socket.socket, restore: subprocess.Popen[bytes]) -> None:
        """Until CRIU's daemon has ended, or need not be given anything more. Raises Cut when it lacks something."""
        source: ssl.SSLSocket | None = peer
        last_word, said_at = b"", 0.0
        while True:
            self._refuse(restore)
            if last_word and self._status.told and not said_at:
                said_at = time.monotonic()
                with contextlib.suppress(Cut):
                    _send(peer, last_word)
            if said_at and (source is None or time.monotonic() > said_at + END_PATIENCE):
                return server.shutdown(socket.SHUT_WR)
            for end in _readable(source, server):
                if end is server:
                    asked = server.recv(BUFFER)
                    if not asked:
                        return None
                    last_word = next((word for word in LAST_WORDS if asked.endswith(word)), last_word)
                    _send(peer, asked.removesuffix(last_word))
                elif not self._pass_on(peer, server, bool(last_word)):
                    source = None

    def _refuse(self, restore: subprocess.Popen[bytes]) -> None:
        """Raises Cut when the container is not wanted, or was not restored."""
        if self._unwanted:
            raise Cut("nobody wants the container here any more")
        if not self._status.told and restore.poll() is not None:
            self._tell(restore)
            if restore.returncode != 0:
                raise Cut("the restore failed")
        if not self._status.told and time.monotonic() > self._patience:
            raise Cut(f"the restore did not end within {self._order['timeout']:.0f} s")

    def _pass_on(self, peer: ssl.SSLSocket, server: socket.socket, has_all: bool) -> bool:
        """What has come, to the daemon. False when the source has ended, which only one who ``has_all`` may."""
        try:
            data = _receive(peer)
            if data == b"":
                raise Cut("the source has ended")
        except Cut:
            if not has_all:
                raise
            return False
        if data:
            with contextlib.suppress(OSError):  # it has ended; its exit status tells whether that is well
                server.sendall(data)
            self._status.count(len(data))
        return True

    def _tell(self, restore: subprocess.Popen[bytes]) -> None:
        """The hook that waits for the restore hears how it went, once."""
        if self._status.told:
            return
        self._status.told = True
        if restore.returncode == 0:
            self._status.set(state="fetching")
            _say(restored=True)
        else:
            self._failed("the restore failed", Path(self._order["log"]).read_text(errors="replace"))

    def _lost(self, restore: subprocess.Popen[bytes], daemon: subprocess.Popen[bytes], why: str) -> None:
        """The container ends before it can read a page that is not there, and so does a restore that hangs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            restore.wait(RESTORE_PATIENCE)
        if restore.poll() is None:
            restore.kill()
            remains.end(self._order["id"], self._order["runtime"])
        self._kill_container()
        daemon.kill()
        daemon.wait()
        restore.wait()
        if not self._status.told:
            return self._failed(why, Path(self._order["log"]).read_text(errors="replace"))
        if restore.returncode == 0:
            self._status.set(state="lost", error=why)

    def _kill_container(self) -> None:
        quiet = subprocess.DEVNULL
        kill = [self._order["runtime"], "kill", "--all", self._order["id"], "KILL"]
        subprocess.run(kill, stdin=quiet, stdout=quiet, stderr=quiet, check=False)


def _number(end: socket.socket, number: int) -> None:
    """The socket gets this descriptor, for it is named elsewhere. Raises OSError when something else has that."""
    with end:
        got = fcntl.fcntl(end, fcntl.F_DUPFD, number)
    if got != number:
        os.close(got)
        raise OSError(errno.EBUSY, f"descriptor {number} is in use")


def main() -> None:
    """Entry point; the first line of standard input says which side this is."""
    order = json.loads(sys.stdin.readline())
    try:
        if order.pop("role") == "give":
            Giver(order).run()
        else:
            Taker(order).run()
    except Exception as error:
        _say(error=f"{type(error).__name__}: {error}", stderr="")
        raise
