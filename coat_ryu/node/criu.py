"""What CRIU is told, and the statistics that it leaves behind (its logs: ``criulog``)."""

import contextlib
import functools
import struct
from collections.abc import Iterator
from pathlib import Path

from coat_ryu.node.failure import Failure
from coat_ryu.node.process import run, write_if_other

MAGIC = (0x55105940, 0x57093306)
"""CRIU's "service" and "stats" magics (criu/include/magic.h)."""

# Field numbers of dump_stats_entry and restore_stats_entry (CRIU, images/stats.proto). Times in microseconds.
DUMP_FIELDS = {
    1: "freezing_time",
    2: "frozen_time",
    3: "memdump_time",
    4: "memwrite_time",
    5: "pages_scanned",
    6: "pages_skipped_parent",
    7: "pages_written",
}
RESTORE_FIELDS = {
    1: "pages_compared",
    2: "pages_skipped_cow",
    3: "forking_time",
    4: "restore_time",
    5: "pages_restored",
}
ENTRIES = {1: DUMP_FIELDS, 2: RESTORE_FIELDS}

DIRECTORY = Path("/run/coat/criu")
"""Configuration files, one a container: what they say overrides what the runtime asks of CRIU."""

# A checkpoint names the cgroup of its container, and CRIU would put the processes there, where the runtime does
# not find them to freeze them again. Left alone, they stay in the one that was made for the destination's container.
ALWAYS = (
    "manage-cgroups=ignore",
    # Deleted files are kept in the checkpoint up to this size (CRIU's own is 1 MiB); what has another name
    # gets one more for the time being (``state`` brings it along).
    "ghost-limit=1G",
    "link-remap",
)
NO_LOCK = "network-lock=skip"
"""For a restore, while a hold keeps every packet away."""


def annotation(name: str) -> str:
    """What makes a runtime (runc and crun know it) tell CRIU of the container's configuration file."""
    return f"org.criu.config={_file(name)}"


def _file(name: str) -> Path:
    return DIRECTORY / f"{name}.conf"


def configure(name: str, *settings: str) -> None:
    """Writes the container's configuration file: what holds always, and further ``settings``, an option each."""
    write_if_other(_file(name), "".join(f"{line}\n" for line in (*ALWAYS, *settings)), 0o600)


@contextlib.contextmanager
def configured(name: str, *settings: str) -> Iterator[None]:
    """CRIU has these settings meanwhile; afterwards an operator's own checkpoint is an ordinary one again."""
    configure(name, *settings)
    try:
        yield
    finally:
        configure(name)


def forget(name: str) -> None:
    _file(name).unlink(missing_ok=True)


@functools.cache
def network_lock() -> str:
    """How connections are kept still during a dump: by nftables where CRIU can, in a millisecond; its default starts
    iptables-restore four times, which takes 20 to 80 ms (criu(8), --network-lock).
    """
    return f"network-lock={'nftables' if has('network_lock_nftables') else 'iptables'}"


def has(feature: str) -> bool:
    """Whether CRIU says that it and the kernel can do this (criu(8), check --feature)."""
    try:
        run(["criu", "check", "--feature", feature])
    except Failure:
        return False
    return True


def read_stats(path: Path) -> dict[str, int]:
    """The numbers in ``stats-dump`` or ``stats-restore``. Raises ValueError for another file, OSError."""
    raw = path.read_bytes()
    if len(raw) < 12 or struct.unpack_from("<II", raw) != MAGIC:
        raise ValueError(f"{path}: not CRIU's statistics")
    (size,) = struct.unpack_from("<I", raw, 8)
    for number, value in _fields(raw[12 : 12 + size]):
        if number in ENTRIES and isinstance(value, bytes):
            names = ENTRIES[number]
            return {names[key]: number for key, number in _fields(value) if key in names and isinstance(number, int)}
    return {}


def _fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """Field numbers and values of a message of varints and submessages only (protobuf.dev, "Encoding")."""
    found: list[tuple[int, int | bytes]] = []
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        value, position = _varint(message, position)
        if tag & 7 == 0:
            found.append((tag >> 3, value))
        elif tag & 7 == 2:
            found.append((tag >> 3, message[position : position + value]))
            position += value
        else:
            raise ValueError(f"protobuf wire type {tag & 7} is not expected in CRIU's statistics")
    return found


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message):
            raise ValueError("CRIU's statistics are cut off")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
