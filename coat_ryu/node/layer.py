"""A container's changed files as members of a tar archive that keeps what the format does not.

Extended attributes, where overlayfs has its marks (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
directories"), and sockets without a process travel as pax records of our own; holes as GNU tar has them ("Storing
Sparse Files", PAX format 0.1), which the standard library reads and does not write; times to the nanosecond, of which
the library makes a float.
"""

import base64
import contextlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

from coat_ryu.node.failure import Failure
from coat_ryu.node.untar import DEEPEST

XATTR, SOCKET = "COAT.xattr.", "COAT.socket"
MTIME = "mtime"
BLOCK = 512  # of st_blocks, stat(2)
LONGEST = 3500
"""Bytes of a path: no more than 4,096 are possible (PATH_MAX), and at the other node it begins otherwise."""
LARGEST = 1 << 33
"""Bytes of data from which on tar says a size twice, of which a reader of sparse files takes the wrong one."""


def add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """Adds a file, or a directory with all that is in it. Raises Failure where that is too deep."""
    if name.count("/") >= DEEPEST or len(os.fsencode(path)) > LONGEST:
        raise Failure("transfer_failed", f"its directories are more than {DEEPEST} deep, or {LONGEST} bytes long")
    member = tar.gettarinfo(path, name) or _socket(path, name)
    member.pax_headers = {**member.pax_headers, MTIME: _seconds(path.lstat().st_mtime_ns), **_xattrs(path)}
    if member.isreg() and SOCKET not in member.pax_headers:
        with path.open("rb") as file:
            tar.addfile(member, _sparse(member, file))
    else:
        tar.addfile(member)
    if member.isdir():
        for entry in sorted(os.listdir(path)):
            add(tar, path / entry, f"{name}/{entry}")


def _socket(path: Path, name: str) -> tarfile.TarInfo:
    """The library leaves out what tar has no type for."""
    here, member = path.lstat(), tarfile.TarInfo(name)
    member.mode, member.uid, member.gid = stat.S_IMODE(here.st_mode), here.st_uid, here.st_gid
    member.pax_headers = {SOCKET: "1"}
    return member


def _seconds(ns: int) -> str:
    return f"{Decimal(ns).scaleb(-9):f}"


def _nanoseconds(seconds: str) -> int:
    if not re.fullmatch(r"-?\d{1,12}(\.\d{1,9})?", seconds):
        raise Failure("transfer_failed", f"the state has a time that is none: {seconds[:40]!r}")
    return int(Decimal(seconds).scaleb(9))


def _xattrs(path: Path) -> dict[str, str]:
    return {
        XATTR + key: base64.b64encode(os.getxattr(path, key, follow_symlinks=False)).decode()
        for key in os.listxattr(path, follow_symlinks=False)
        if key != "security.selinux"  # the destination's own policy labels it
    }


def _sparse(member: tarfile.TarInfo, file: BinaryIO) -> BinaryIO:
    """What the member's content is read from; if the file has holes, only what is between them."""
    if os.fstat(file.fileno()).st_blocks * BLOCK >= member.size:
        return file
    pieces = list(_pieces(file.fileno(), member.size))
    data = sum(length for _, length in pieces)
    if data == member.size or data >= LARGEST:
        file.seek(0)
        return file
    numbers = [number for piece in (*pieces, (member.size, 0)) for number in piece]
    member.pax_headers = {
        **member.pax_headers,
        "GNU.sparse.size": str(member.size),
        "GNU.sparse.numblocks": str(len(pieces) + 1),
        "GNU.sparse.map": ",".join(map(str, numbers)),
    }
    member.size = data
    return io.BufferedReader(_Pieces(file, pieces), 1 << 20)


def _pieces(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, and how much (lseek(2), SEEK_DATA)."""
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # ENXIO: none any more
            return
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        yield start, end - start


class _Pieces(io.RawIOBase):
    """Pieces of a file, one after the other."""

    def __init__(self, file: BinaryIO, pieces: list[tuple[int, int]]) -> None:
        self._file, self._left = file, pieces[::-1]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._left:
            return 0
        start, length = self._left.pop()
        self._file.seek(start)
        got = self._file.readinto(buffer[: min(length, len(buffer))])  # type: ignore[attr-defined]
        if 0 < got < length:
            self._left.append((start + got, length - got))
        return int(got)


class Marks:
    """Puts on what was extracted what its member has besides."""

    def __init__(self) -> None:
        self._directories: list[tuple[Path, int]] = []

    def put(self, member: tarfile.TarInfo, target: Path) -> None:
        if SOCKET in member.pax_headers:
            target.unlink()
            os.mknod(target, stat.S_IFSOCK | member.mode)
            os.chown(target, member.uid, member.gid)
            target.chmod(member.mode)
        for key, value in member.pax_headers.items():
            if key.startswith(XATTR):
                os.setxattr(target, key.removeprefix(XATTR), base64.b64decode(value), follow_symlinks=False)
        if MTIME in member.pax_headers:
            at = _nanoseconds(member.pax_headers[MTIME])
            if member.isdir():
                self._directories.append((target, at))
            else:
                os.utime(target, ns=(at, at), follow_symlinks=False)

    def finish(self) -> None:
        """A directory's time is what it was before its files came."""
        for directory, at in self._directories:
            os.utime(directory, ns=(at, at), follow_symlinks=False)


@dataclass(frozen=True, slots=True)
class Look:
    """``allocated``: bytes that a directory and all in it take up: no holes, and a file with several names once."""

    allocated: int
    too_deep: bool


def look(root: Path) -> Look:
    found: dict[tuple[int, int], int] = {}
    waiting, too_deep = [(os.fspath(root), 1)], False
    while waiting:
        directory, depth = waiting.pop()
        if depth > DEEPEST or len(os.fsencode(directory)) > LONGEST:
            too_deep = True
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # the container runs
                    here = entry.stat(follow_symlinks=False)
                    found[here.st_dev, here.st_ino] = here.st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
    return Look(sum(found.values()) * BLOCK, too_deep)
