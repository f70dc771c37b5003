"""A container's state as one tar stream: its checkpoint and its writable layer.

The tar format (POSIX.1-2001 pax) keeps everything but extended attributes, where overlayfs has its marks
(Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories"); those travel as pax records of our own.
"""

import base64
import contextlib
import errno
import os
import shutil
import tarfile
from pathlib import Path
from typing import Protocol

from coat_ryu.node.failure import Failure
from coat_ryu.node.podman import Place
from coat_ryu.node.process import run
from coat_ryu.node.stream import BUFFER

CHECKPOINT = "checkpoint"
SIDE_FILES = ("devshm-checkpoint.tar", "network.status")
"""What Podman writes beside a checkpoint and reads when it restores."""
LAYER = "layer"
XATTR = "COAT.xattr."


class Writable(Protocol):
    def write(self, data: bytes, /) -> int: ...
    def tell(self) -> int: ...


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def tell(self) -> int: ...
    def seek(self, position: int, /) -> object: ...


def pack(place: Place, stream: Writable) -> None:
    """Writes the state of a checkpointed container. Raises Failure if it has none."""
    if not (place.bundle / CHECKPOINT / "inventory.img").exists():
        raise Failure("conflict", "name: the container has no checkpoint")
    if place.upper is None:
        raise Failure("conflict", "name: containers on a storage driver other than overlay cannot be moved")
    with _tar(stream, "w") as tar:
        for name in (CHECKPOINT, *SIDE_FILES):
            if (place.bundle / name).exists():
                tar.add(place.bundle / name, name)
        tar.add(place.upper, LAYER, filter=lambda member: _with_xattrs(place.upper, member))


def _tar(stream: Writable | Readable, mode: str) -> tarfile.TarFile:
    # Not tarfile's own mode for streams: it moves its whole buffer for each block, which takes seconds for 100 MB.
    return tarfile.TarFile(fileobj=stream, mode=mode, format=tarfile.PAX_FORMAT, copybufsize=BUFFER)  # type: ignore[arg-type]


def _with_xattrs(root: Path | None, member: tarfile.TarInfo) -> tarfile.TarInfo:
    assert root is not None
    path = root / os.path.relpath(member.name, LAYER)
    for key in os.listxattr(path, follow_symlinks=False):
        if key != "security.selinux":  # the destination's own policy labels it
            value = os.getxattr(path, key, follow_symlinks=False)
            member.pax_headers = {**member.pax_headers, XATTR + key: base64.b64encode(value).decode()}
    return member


def unpack(stream: Readable, directory: Path) -> None:
    """Reads a state into a new directory. Raises Failure for a member that would land outside it."""
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir(mode=0o700)
    root = directory.resolve()
    with _tar(stream, "r") as tar:
        for member in tar:
            _extract(tar, member, root)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    target = root / member.name
    links_to = [root / member.linkname] if member.islnk() else []
    if any(root not in (path.parent.resolve() / path.name).parents for path in (target, *links_to)):
        raise Failure("transfer_failed", f"the state has a member outside its directory: {member.name!r}")
    # Checked above. The library's own filters also take away setuid bits and device nodes, which are whiteouts here.
    tar.extraction_filter = lambda member, path: member
    tar.extract(member, root, numeric_owner=True)
    for key, value in member.pax_headers.items():
        if key.startswith(XATTR):
            os.setxattr(target, key.removeprefix(XATTR), base64.b64decode(value), follow_symlinks=False)


def install(directory: Path, place: Place) -> None:
    """Puts a state that was received where Podman looks for it; the checkpoint, which is large, by renaming."""
    if place.upper is None:
        raise Failure("conflict", "name: containers on a storage driver other than overlay cannot be moved")
    remove_checkpoint(place)
    for name in (*SIDE_FILES, CHECKPOINT):
        if (directory / name).exists():
            (directory / name).rename(place.bundle / name)
    if (directory / LAYER).exists():
        shutil.rmtree(place.upper)
        _move(directory / LAYER, place.upper)


def _move(source: Path, target: Path) -> None:
    """Renames a directory. From the first mount on, Podman's layers are a mount point of their own (containers/storage,
    drivers/overlay: MakePrivate), into which nothing can be renamed (rename(2), EXDEV): then it is copied.
    """
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        run(["cp", "--archive", "--no-target-directory", str(source), str(target)])


def remove_checkpoint(place: Place) -> None:
    """Removes a checkpoint: it holds the process's memory."""
    shutil.rmtree(place.bundle / CHECKPOINT, ignore_errors=True)
    for name in (*SIDE_FILES, "stats-dump", "stats-restore", "dump.log", "restore.log"):
        with contextlib.suppress(FileNotFoundError):
            (place.bundle / name).unlink()
