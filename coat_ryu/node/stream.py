"""A stream between two nodes that arrives whole and unchanged, or not at all.

Mutual TLS with keys made for one transfer. Inside it: chunks, each after a word of 32 bits, big-endian, that holds its
kind in the uppermost two and its length in the others; a plain chunk of no length ends them and is followed by the
SHA-256 of their content. The receiver answers with the same digest when everything is in its place.
"""

import fcntl
import hashlib
import os
import ssl
import struct
import time
import zlib

from coat_ryu.node.failure import Failure

LENGTH = struct.Struct(">I")
BUFFER = 1 << 20
CHUNK_MAX = 1 << 26
PLAIN, PADDING, DEFLATED, KINDS = 0, 1 << 30, 2 << 30, 3 << 30
"""Kinds of chunks: as it is; to be ignored; in zlib's format (RFC 1950)."""

PROBE, PROBE_PIECE = 1 << 20, 1 << 16
"""Bytes that are sent to see how fast the link is, and to open TCP's congestion window, while there is time."""
PROBE_PATIENCE = 0.5
"""Seconds for it; what has been seen by then must do."""
SAMPLE = 1 << 16
"""Bytes of each chunk that are deflated to see whether the rest is worth it."""
SIOCOUTQ = 0x5411  # linux/sockios.h; bytes that the peer has not acknowledged (tcp(7))


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
    """The writable end, as far as tarfile wants a file. ``bytes`` is what was written so far, ``wire_bytes`` what it
    took; ``rate`` the link's in bytes a second, None when it was not probed.
    """

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._hash = hashlib.sha256()
        self._buffer = bytearray(LENGTH.size)
        self.bytes = self.wire_bytes = 0
        self.rate: float | None = None

    def close(self) -> None:
        self._connection.close()

    def probe(self) -> None:
        """Sees how fast the link is, before anything is sent that matters.

        Its second half tells: the first opens the congestion window, and the last piece may be acknowledged late (RFC
        1122, section 4.2.3.2).
        """
        began = halfway = now = time.monotonic()
        sent = arrived = before = 0
        while arrived < PROBE - PROBE_PIECE and now < began + PROBE_PATIENCE:
            if sent < PROBE:
                self._connection.sendall(LENGTH.pack(PADDING | PROBE_PIECE) + bytes(PROBE_PIECE))
                sent += PROBE_PIECE
            else:
                time.sleep(0.0002)
            now, arrived = time.monotonic(), sent - self._unacknowledged()
            if arrived <= PROBE // 2:
                halfway, before = now, arrived
        passed, took = (arrived - before, now - halfway) if arrived > before else (arrived, now - began)
        self.rate = max(passed, 0) / took

    def _unacknowledged(self) -> int:
        return struct.unpack("i", fcntl.ioctl(self._connection, SIOCOUTQ, bytes(4)))[0]  # type: ignore[no-any-return]

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
        packed = zlib.compress(content, 1) if self._is_worth_it(content[:SAMPLE]) else None
        if packed is None or len(packed) >= len(content):
            LENGTH.pack_into(self._buffer, 0, PLAIN | len(content))
            self._send(self._buffer)
        else:
            self._send(LENGTH.pack(DEFLATED | len(packed)) + packed)
        self._hash.update(content)
        self._buffer = bytearray(LENGTH.size)

    def _is_worth_it(self, sample: memoryview) -> bool:
        """Whether it takes less time to deflate this and to send what remains than to send it as it is."""
        if self.rate is None:
            return False
        began = time.monotonic()
        saved = len(sample) - len(zlib.compress(sample, 1))
        return (time.monotonic() - began) * self.rate < saved

    def _send(self, data: bytes | bytearray) -> None:
        self._connection.sendall(data)
        self.wire_bytes += len(data)

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
        self._inflated = memoryview(b"")
        self._ended = False
        self._word: int | None = None
        self.bytes = 0

    def begin(self) -> bool:
        """Waits for the first word that matters. False when the sender has hung up without one."""
        try:
            while first := self._connection.recv(1):
                (self._word,) = LENGTH.unpack(first + _exactly(self._connection, LENGTH.size - 1))
                if self._word & KINDS != PADDING:
                    return True
                self._next_chunk()
        except (OSError, Failure):
            pass  # nothing was ever sent that could be missed
        return False

    def read(self, size: int) -> bytes:
        """``size`` bytes, fewer only at the end. Raises Failure when it was cut off or does not match its digest.

        Also for a size that no reader of ours asks for: an archive's header may claim to be of any length.
        """
        if size > CHUNK_MAX:
            raise Failure("transfer_failed", f"the stream is garbled: a piece of {size} bytes")
        parts = bytearray()
        while len(parts) < size and self._has_more():
            wanted = size - len(parts)
            if self._left:
                part: bytes | bytearray | memoryview = _exactly(self._connection, min(wanted, self._left))
                self._left -= len(part)
            else:
                part, self._inflated = self._inflated[:wanted], self._inflated[wanted:]
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
        while not (self._left or self._inflated or self._ended):
            self._next_chunk()
        return not self._ended

    def _next_chunk(self) -> None:
        if self._word is None:
            (self._word,) = LENGTH.unpack(_exactly(self._connection, LENGTH.size))
        kind, length = self._word & KINDS, self._word & ~KINDS
        self._word = None
        if length > CHUNK_MAX or kind == KINDS:
            raise Failure("transfer_failed", "the stream is garbled")
        if kind == PLAIN:
            self._left, self._ended = length, length == 0
            return
        content = _exactly(self._connection, length)
        if kind == DEFLATED:
            self._inflated = memoryview(_inflate(content))

    def finish(self) -> str:
        """Reads to the end and returns the digest in hex."""
        while self.read(BUFFER):
            pass
        if _exactly(self._connection, self._hash.digest_size) != self._hash.digest():
            raise Failure("transfer_failed", "the stream does not match its SHA-256")
        return self._hash.hexdigest()

    def acknowledge(self) -> None:
        self._connection.sendall(self._hash.digest())


def _inflate(content: bytes | bytearray) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(content, CHUNK_MAX)
    except zlib.error as error:
        raise Failure("transfer_failed", f"the stream is garbled: {error}") from None
    if not inflater.eof or not plain:
        raise Failure("transfer_failed", "the stream is garbled: a chunk that is no whole one")
    return plain


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
