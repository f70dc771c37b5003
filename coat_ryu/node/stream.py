"""A stream between two nodes that arrives whole and unchanged, or not at all.

Mutual TLS with keys made for one transfer. Inside it: chunks, each with its length as 32 bits, big-endian; a chunk of
no length ends them and is followed by the SHA-256 of their content. The receiver answers with the same digest when
everything is in its place.
"""

import hashlib
import os
import ssl
import struct

from coat_ryu.node.failure import Failure

LENGTH = struct.Struct(">I")
BUFFER = 1 << 20
CHUNK_MAX = 1 << 26


def tls_context(side: int, tls: dict[str, str]) -> ssl.SSLContext:
    """A context that has one identity and trusts one certificate. Raises Failure for what is no PEM."""
    if set(tls) != {"cert", "key", "peer"}:
        raise Failure("bad_args", "tls: cert, key and peer are wanted, PEM texts")
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the peer is known by its certificate, not by a name
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cadata=tls["peer"])
        # The library reads keys from files only; this one is never on any disk.
        with os.fdopen(os.memfd_create("tls"), "w") as file:
            file.write(f"{tls['cert']}\n{tls['key']}\n")
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    except ssl.SSLError as error:
        raise Failure("bad_args", f"tls: {error.reason or error}") from None
    return context


class Sender:
    """The writable end, as far as tarfile wants a file. ``bytes`` is what was written so far."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._hash = hashlib.sha256()
        self._buffer = bytearray(LENGTH.size)
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        self._buffer += data
        if len(self._buffer) > BUFFER:
            self._flush()
        return len(data)

    def tell(self) -> int:
        return self.bytes

    def _flush(self) -> None:
        content = memoryview(self._buffer)[LENGTH.size :]
        LENGTH.pack_into(self._buffer, 0, len(content))
        self._connection.sendall(self._buffer)
        self._hash.update(content)
        self._buffer = bytearray(LENGTH.size)

    def finish(self) -> str:
        """Ends the stream and waits for the receiver's word. Returns the digest in hex."""
        if len(self._buffer) > LENGTH.size:
            self._flush()
        self._connection.sendall(LENGTH.pack(0) + self._hash.digest())
        if _exactly(self._connection, self._hash.digest_size) != self._hash.digest():
            raise Failure("transfer_failed", "the receiver got something else than was sent")
        return self._hash.hexdigest()


class Receiver:
    """The readable end, as far as tarfile wants a file. ``bytes`` is what was read so far."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._hash = hashlib.sha256()
        self._left = 0
        self._ended = False
        self._first = b""
        self.bytes = 0

    def begin(self) -> bool:
        """Waits for the first word. False when the sender has hung up without one: nothing was ever sent."""
        try:
            self._first = self._connection.recv(1)
        except OSError:
            self._first = b""
        return bool(self._first)

    def read(self, size: int) -> bytes:
        """``size`` bytes, fewer only at the end. Raises Failure when it was cut off or does not match its digest."""
        parts = bytearray()
        while len(parts) < size and self._has_more():
            part = _exactly(self._connection, min(size - len(parts), self._left))
            self._left -= len(part)
            parts += part
        self._hash.update(parts)
        self.bytes += len(parts)
        return bytes(parts)

    def tell(self) -> int:
        return self.bytes

    def seek(self, position: int) -> None:
        """Forward only."""
        while self.bytes < position and self.read(min(BUFFER, position - self.bytes)):
            pass

    def _has_more(self) -> bool:
        if self._left == 0 and not self._ended:
            length = self._first + _exactly(self._connection, LENGTH.size - len(self._first))
            (self._left,), self._first = LENGTH.unpack(length), b""
            self._ended = self._left == 0
            if self._left > CHUNK_MAX:
                raise Failure("transfer_failed", "the stream is garbled")
        return not self._ended

    def finish(self) -> str:
        """Reads to the end and returns the digest in hex."""
        while self.read(BUFFER):
            pass
        if _exactly(self._connection, self._hash.digest_size) != self._hash.digest():
            raise Failure("transfer_failed", "the stream does not match its SHA-256")
        return self._hash.hexdigest()

    def acknowledge(self) -> None:
        self._connection.sendall(self._hash.digest())


def _exactly(connection: ssl.SSLSocket, size: int) -> bytearray:
    content = bytearray(size)
    view, filled = memoryview(content), 0
    while filled < size:
        try:
            got = connection.recv_into(view[filled:])
        except OSError as error:
            raise Failure("transfer_failed", f"the stream was cut off: {error}") from error
        if got == 0:
            raise Failure("transfer_failed", "the stream was cut off")
        filled += got
    return content
