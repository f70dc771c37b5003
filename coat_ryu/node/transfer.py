"""State and images from node to node, straight from one hook to the other."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from coat_ryu.node import incoming, podman, standing, state
from coat_ryu.node.door import Door, connect
from coat_ryu.node.failure import Failure
from coat_ryu.node.process import remaining
from coat_ryu.node.stream import BUFFER, Receiver, Sender, tls_context
from coat_ryu.node.verbs import Image, Name, Rule, Text, verb
from coat_ryu.node.verbs import address as check_address

TransferId = Annotated[str, Rule(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}", "an id of at most 64 letters, digits and _-")]
What = Literal["state", "image"]

IDLE_TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up."""
LISTEN_TIMEOUT = 3600.0
END_PATIENCE = 10.0
"""Seconds that a Podman which is not wanted any more has for putting things away."""

RECEIVE_BUFFER = 8 << 20
SO_RCVBUFFORCE = 33  # asm-generic/socket.h


class Inbox:
    """One transfer at its receiving end: listens until a peer with the right certificate has delivered everything."""

    def __init__(
        self,
        transfer: str,
        where: str,
        context: ssl.SSLContext,
        what: What,
        peer: str | None = None,
        image: str | None = None,
    ) -> None:
        self.directory = podman.graph_root() / "coat" / transfer
        self.changed = threading.Condition()
        self.result: dict[str, Any] | None = None
        self.error: Failure | None = None
        self.closed = False
        self.waited_for = False
        self._take = {"state": self._take_state, "image": self._take_image}[what]
        self._image = image
        self._turn = threading.Lock()
        self._door = Door(where, peer, context)
        _make_room(self._door.listener)
        self.port = self._door.port
        self._door.open(self._hear, f"receive {transfer}")

    @property
    def receiving(self) -> bool:
        """Whether a delivery is under way or done."""
        return self._turn.locked() or self.result is not None

    def close(self) -> bool:
        """Listens no more and removes what came. False if there was nothing to remove."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self._door.turn_out()
        with self._turn:  # a delivery under way has ended
            return discard(self.directory)

    def wait(self, timeout: float) -> dict[str, Any]:
        """What arrived. Raises Failure as soon as a delivery has failed; the next one may still succeed."""
        self.waited_for = True
        with self.changed:
            self.changed.wait_for(lambda: self.result or self.error or self.closed, timeout)
            if self.closed:
                raise Failure("transfer_failed", "the transfer was discarded")
            if self.result is not None:
                return self.result
            if self.error is None:
                raise Failure("timeout", f"nothing was delivered within {timeout:.0f} s")
            error, self.error = self.error, None
            raise error

    def _hear(self, connection: ssl.SSLSocket) -> None:
        with connection:
            receiver = Receiver(connection)
            connection.settimeout(LISTEN_TIMEOUT)  # a sender comes long before it has anything to say
            if receiver.begin():
                connection.settimeout(IDLE_TIMEOUT)
                with self._turn:
                    if not self.closed and self.result is None:
                        self._serve(receiver)

    def _serve(self, receiver: Receiver) -> None:
        try:
            self._take(receiver)
            digest = receiver.finish()
            receiver.acknowledge()
            return self._report({"bytes": receiver.bytes, "sha256": digest}, None)
        except Failure as failure:
            error = failure
        except Exception as other:  # the disk is full, the archive is broken: whoever waits must hear of it
            error = Failure("transfer_failed", f"receiving failed: {type(other).__name__}: {other}")
        discard(self.directory)
        self._report(None, error)

    def _report(self, result: dict[str, Any] | None, error: Failure | None) -> None:
        with self.changed:
            self.result, self.error = self.result or result, error
            self.changed.notify_all()
        if self.result is not None:
            self._door.close()

    def _take_state(self, receiver: Receiver) -> None:
        state.unpack(receiver, self.directory)

    def _take_image(self, receiver: Receiver) -> None:
        with _podman_pipe(["podman", "load", "--quiet"], stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            with process.stdin as pipe, contextlib.suppress(BrokenPipeError):  # it says why on its standard error
                incoming.pass_on(receiver, pipe, self._image)


@contextlib.contextmanager
def _podman_pipe(
    argv: list[str], stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """A command that is fed or read by us. Raises Failure when it does not succeed."""
    with subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, cwd="/") as process:
        try:
            yield process
        except BaseException:
            _end(process)
            raise
        assert process.stderr is not None
        stderr = process.stderr.read().decode(errors="replace")
        if process.wait(remaining()) != 0:
            raise Failure("command_failed", f"{argv[0]} {argv[1]} failed", command=" ".join(argv), stderr=stderr)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Killed, Podman would leave what it has read in /var/tmp; when its input ends too early it removes that."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(END_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()


def discard(directory: Path) -> bool:
    if not directory.exists():
        return False
    shutil.rmtree(directory)
    with contextlib.suppress(OSError):  # others are in it still
        directory.parent.rmdir()
    return True


_inboxes: dict[str, Inbox] = {}
_sent: dict[str, dict[str, Any]] = {}
_early: dict[str, Sender] = {}
_lock = threading.Lock()


def received(transfer: str) -> Path:
    """The directory of a state that has arrived whole. Raises Failure if it has not."""
    inbox = _inboxes.get(transfer)
    if inbox is None or inbox.result is None:
        raise Failure("conflict", f"transfer: {transfer} has not arrived")
    return inbox.directory


def give_up() -> None:
    """Nothing that has not begun to arrive is waited for any more."""
    for transfer, inbox in list(_inboxes.items()):
        if not inbox.receiving:
            standing.abandon_transfer(transfer)
            inbox.close()


def abandon_unwanted() -> None:
    """Nobody will let those restores through whose state nobody waits for."""
    for transfer, inbox in list(_inboxes.items()):
        if not inbox.waited_for:
            standing.abandon_transfer(transfer)


def _make_room(listener: socket.socket) -> None:
    """Room in the kernel for more than one look at it: a reader on a busy node comes late, and a peer that waits for it
    takes the link for slow.
    """
    with contextlib.suppress(PermissionError):  # nobody but root may have more than net.core.rmem_max
        listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)


@verb
def receive_open(
    *,
    transfer: TransferId,
    address: Text,
    tls: dict[str, str],
    what: What,
    peer: Text | None = None,
    image: Image | None = None,
) -> dict[str, Any]:
    """Listens on ``address``, for who comes from the address ``peer`` if that is given; answers the TCP ``port``.

    An image arrives without names, and if ``image``, an id, is given no other is taken.
    """
    check_address("address", address)
    if peer is not None:
        check_address("peer", peer)
    with _lock:
        if transfer not in _inboxes:
            context = tls_context(ssl.PROTOCOL_TLS_SERVER, tls)
            _inboxes[transfer] = Inbox(transfer, address, context, what, peer, image)
    return {"port": _inboxes[transfer].port}


@verb
def receive_wait(*, transfer: TransferId, timeout: float) -> dict[str, Any]:
    """Waits until everything has arrived and is checked: ``bytes``, ``sha256``."""
    if transfer not in _inboxes:
        raise Failure("not_found", f"transfer: {transfer} is not open")
    return _inboxes[transfer].wait(min(timeout, remaining(timeout)))


@verb
def send_open(*, transfer: TransferId, to: dict[str, Any], tls: dict[str, str]) -> dict[str, Any]:
    """Connects to the receiving end ahead, so that who sends later need not wait for it; ``link_bytes_per_s``."""
    if transfer not in _early and transfer not in _sent:
        sender = _connect(to, tls)
        try:
            sender.probe()
        except OSError as error:
            sender.close()
            raise Failure("transfer_failed", f"sending failed: {error}") from error
        with _lock:
            _early[transfer] = sender
    early = _early.get(transfer)
    return {"link_bytes_per_s": early and early.rate}


@verb
def send_state(*, transfer: TransferId, name: Name, to: dict[str, Any], tls: dict[str, str]) -> dict[str, Any]:
    """Sends the checkpoint and the writable layer of a container; ``to`` is ``address`` and ``port``."""
    place = podman.place(name)
    return send(transfer, to, tls, lambda sender: state.pack(place, sender))


@verb
def send_image(
    *, transfer: TransferId, image: Image, to: dict[str, Any], tls: dict[str, str], name: Image | None = None
) -> dict[str, Any]:
    """Sends an image; without its names if ``image`` is an id, so that it takes no name from another.

    Answers as ``send`` does, and with the ``name`` in full, null if that means another image here, or none.
    """

    def fill(sender: Sender) -> None:
        with _podman_pipe(["podman", "save", "--quiet", image], stdout=subprocess.PIPE) as process:
            pipe: IO[bytes] | None = process.stdout
            assert pipe is not None
            while data := pipe.read(BUFFER):
                sender.write(data)

    sent = send(transfer, to, tls, fill)
    return {**sent, "name": podman.name_of_image(image, name) if name else None}


def send(transfer: str, to: dict[str, Any], tls: dict[str, str], fill: Callable[[Sender], None]) -> dict[str, Any]:
    """Sends what ``fill`` writes, if that has not been done already: ``bytes``, ``wire_bytes``, ``sha256``."""
    if transfer in _sent:
        return _sent[transfer]
    with _lock:
        early = _early.pop(transfer, None)
    with contextlib.closing(early or _connect(to, tls)) as sender:
        try:
            fill(sender)
            digest = sender.finish()
            _sent[transfer] = {"sha256": digest, "bytes": sender.bytes, "wire_bytes": sender.wire_bytes}
        except OSError as error:
            raise Failure("transfer_failed", f"sending failed: {error}") from error
    return _sent[transfer]


def _connect(to: dict[str, Any], tls: dict[str, str]) -> Sender:
    context = tls_context(ssl.PROTOCOL_TLS_CLIENT, tls)
    try:
        return Sender(context.wrap_socket(connect(to, remaining(IDLE_TIMEOUT))))
    except OSError as error:
        raise Failure("transfer_failed", f"sending to {to['address']} port {to['port']} failed: {error}") from error


@verb
def transfer_discard(*, transfer: TransferId) -> dict[str, Any]:
    """Nothing of the transfer is left on this node, neither what came nor the memory that it was sent."""
    standing.abandon_transfer(transfer)
    with _lock:
        inbox, sent, early = _inboxes.pop(transfer, None), _sent.pop(transfer, None), _early.pop(transfer, None)
    if early is not None:
        early.close()
    kept = inbox.close() if inbox else discard(podman.graph_root() / "coat" / transfer)
    return {"removed": kept or any(one is not None for one in (inbox, sent, early))}
