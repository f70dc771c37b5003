"""A container's state as one tar stream: its checkpoint and its writable layer.

The writable layer goes as files (``layer``). A checkpoint has some sixty images of a few hundred bytes, and a member of
its own for each costs 30 ms of the freeze: they go together in one, whose record says how long each is.
"""

import contextlib
import errno
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from coat_ryu.node import bound, layer, overlayfs, untar
from coat_ryu.node.failure import Failure
from coat_ryu.node.podman import LOG_MOVES, Place
from coat_ryu.node.process import run, start_of
from coat_ryu.node.stream import BUFFER

CHECKPOINT = "checkpoint"
INVENTORY = "inventory.img"
"""CRIU writes it last of its images."""
PAGES = "pages-"
"""How CRIU's images with memory begin: nearly all of a checkpoint, and written from front to back."""
SHM_ARCHIVE, SHM = "devshm-checkpoint.tar", "shm"
"""Podman keeps /dev/shm of a checkpointed container as the one, of a running one as the other."""
SHM_AFTER = "devshm-after.tar"
"""What takes the first one's place, where CRIU has changed /dev/shm in the dump."""
FILES, REMAP = "files.img", "link_remap."
"""CRIU's image with the names of files, and how a name begins that it gives a file whose own one is gone (--link-remap,
criu/files-reg.c). It makes them in the dump, and removes them when it has failed, and after the restore.
"""
LAYER = "layer"
OFFSET, TOGETHER = "COAT.offset", "COAT.images"
LOG = "earlier.log"
"""The end of what ``podman logs`` has of before."""
IMAGES, SMALL = "images", 1 << 18
"""The member with many images, and what size they are at the most."""
PIECE = 1 << 20
"""Bytes that a growing image must have grown by before more of it is sent."""
GROWTH_POLL = 0.001


class Writable(Protocol):
    def write(self, data: bytes, /) -> int: ...
    def tell(self) -> int: ...


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def tell(self) -> int: ...
    def seek(self, position: int, /) -> object: ...


def pack(
    place: Place,
    stream: Writable,
    ended: Callable[[], bool] = lambda: True,
    settle: Callable[[], None] = lambda: None,
) -> None:
    """Writes the state of a container that is frozen or checkpointed: its writable layer, /dev/shm, its checkpoint.

    The checkpoint may still be written meanwhile, until ``ended``; ``settle`` returns when Podman is done with it too.
    Raises Failure if there is none.
    """
    if place.upper is None:
        raise Failure("conflict", "name: containers on a storage driver other than overlay cannot be moved")
    with _tar(stream, "w") as tar:
        layer.add(tar, place.upper, LAYER)
        _add_shm(tar, place.bundle)
        _add(tar, bound.ARCHIVE, bound.archive(place.bundle, place.run))
        _add_checkpoint(tar, place.bundle / CHECKPOINT, ended)
        if _has_remaps(place):
            settle()
            _add_remaps(tar, place)
        _add(tar, LOG, _end_of(place.log))  # last: Podman's monitor has read all that was said before the freeze


def _add(tar: tarfile.TarFile, name: str, content: bytes, **pax_headers: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.pax_headers = len(content), 0o600, pax_headers
    tar.addfile(member, io.BytesIO(content))


def _end_of(log: Path | None) -> bytes:
    """Whole lines, ``LOG_MOVES`` bytes at the most."""
    if log is None or not log.exists():
        return b""
    with log.open("rb") as file:
        start = max(0, log.stat().st_size - LOG_MOVES)
        file.seek(max(0, start - 1))
        if start:
            file.readline()
        return file.read(LOG_MOVES)


def _has_remaps(place: Place) -> bool:
    try:
        return REMAP.encode() in (place.bundle / CHECKPOINT / FILES).read_bytes()
    except FileNotFoundError:
        return False


def _add_remaps(tar: tarfile.TarFile, place: Place) -> None:
    """Names that came to be while the rest was sent. In the stream they are hard links, as on the disk."""
    assert place.upper is not None
    sent = set(tar.getnames())
    for path in sorted(place.upper.rglob(f"{REMAP}*")):
        name = f"{LAYER}/{path.relative_to(place.upper)}"
        if name not in sent:
            layer.add(tar, path, name)
    if (place.bundle / SHM_ARCHIVE).exists():
        tar.add(place.bundle / SHM_ARCHIVE, SHM_AFTER)


def remove_remaps(place: Place, root: Path) -> None:
    """Names that a CRIU which was killed could not remove itself; ``root`` is the running container's."""
    if place.upper is None or not _has_remaps(place):
        return
    for upper, there in ((place.upper, root), (place.bundle / SHM, place.bundle / SHM)):
        for path in upper.rglob(f"{REMAP}*"):
            _unlink(there, path.relative_to(upper))


def _unlink(root: Path, name: Path) -> None:
    """A file of a running container, which may put a link in the way at any moment."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in name.parts[:-1]:
            above, flags = directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            directory = os.open(part, flags, dir_fd=above)
            os.close(above)
        os.unlink(name.name, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        pass  # it is not there any more
    finally:
        os.close(directory)


def _add_shm(tar: tarfile.TarFile, bundle: Path) -> None:
    if (bundle / SHM_ARCHIVE).exists():
        return tar.add(bundle / SHM_ARCHIVE, SHM_ARCHIVE)
    archive = io.BytesIO()
    with tarfile.TarFile(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as inner:
        for path in (bundle / SHM).iterdir():
            layer.add(inner, path, path.name)
    _add(tar, SHM_ARCHIVE, archive.getvalue())


def _add_checkpoint(tar: tarfile.TarFile, directory: Path, ended: Callable[[], bool]) -> None:
    """The images; those with memory piece by piece as they grow, all others when they are complete."""
    sent: dict[str, int] = {}
    while True:
        complete = ended()  # first the word, then the look
        names = sorted(os.listdir(directory)) if directory.exists() else []
        if complete:
            break
        for name in names:
            if name.startswith(PAGES):
                _add_growth(tar, directory / name, sent, at_least=PIECE)
        time.sleep(GROWTH_POLL)
    if INVENTORY not in names:
        raise Failure("conflict", "name: the container has no checkpoint")
    small: dict[str, bytes] = {}
    for name in names:  # one each connection, so there may be thousands
        path = directory / name
        if name not in sent and path.is_file() and path.stat().st_size <= SMALL:
            small[name] = path.read_bytes()
        else:
            _add_growth(tar, path, sent, at_least=0)
    _add_together(tar, small)


def _add_together(tar: tarfile.TarFile, images: dict[str, bytes]) -> None:
    lengths = json.dumps({name: len(image) for name, image in images.items()})
    _add(tar, IMAGES, b"".join(images.values()), **{TOGETHER: lengths})


def _add_growth(tar: tarfile.TarFile, path: Path, sent: dict[str, int], at_least: int) -> None:
    """What the file has more than was ``sent``, as a member that says where it belongs."""
    start, size = sent.get(path.name, 0), path.stat().st_size
    if (path.name in sent and size == start) or size - start < at_least:
        return
    member = tar.gettarinfo(path, f"{CHECKPOINT}/{path.name}")
    member.size = size - start
    if start:
        member.pax_headers = {OFFSET: str(start)}
    with path.open("rb") as file:
        file.seek(start)
        tar.addfile(member, file)
    sent[path.name] = size


def _tar(stream: Writable | Readable, mode: str) -> tarfile.TarFile:
    # Not tarfile's own mode for streams: it moves its whole buffer for each block, which takes seconds for 100 MB.
    return tarfile.TarFile(fileobj=stream, mode=mode, format=tarfile.PAX_FORMAT, copybufsize=BUFFER)  # type: ignore[arg-type]


def unpack(stream: Readable, directory: Path) -> None:
    """Reads a state into a new directory. Raises Failure for a member that would land outside it, or may not be there:
    only the container's own layer has more than plain files.
    """
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir(mode=0o700)
    root = directory.resolve()
    with _tar(stream, "r") as tar:
        marks = layer.Marks()
        for member in untar.members(tar):
            _extract(tar, member, root, marks)
        marks.finish()


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, marks: layer.Marks) -> None:
    if TOGETHER in member.pax_headers:
        return _separate(tar, member, root / CHECKPOINT)
    where = untar.parts(member.name)
    if where[0] == LAYER:
        if member.islnk() and untar.parts(member.linkname)[0] != LAYER:
            raise Failure("transfer_failed", f"the state has a link out of its layer: {member.name!r}")
        target = untar.extract(tar, member, root, untar.EVERYTHING if where[1:] else {tarfile.DIRTYPE})
        return marks.put(member, target)
    member.mode, member.uid, member.gid = 0o700 if member.isdir() else 0o600, os.geteuid(), os.getegid()
    if OFFSET in member.pax_headers:
        untar.append(tar, member, root, member.pax_headers[OFFSET], BUFFER)
    else:
        untar.extract(tar, member, root, untar.PLAIN)


def _separate(tar: tarfile.TarFile, member: tarfile.TarInfo, directory: Path) -> None:
    images = json.loads(member.pax_headers[TOGETHER])
    content = tar.extractfile(member) if member.isreg() else None
    if content is None or not _fits(images, member.size):
        raise Failure("transfer_failed", f"the state has a member that does not fit: {member.name!r}")
    directory.mkdir(mode=0o700, exist_ok=True)
    for name, size in images.items():
        image = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(image, "wb") as file:
            file.write(content.read(size))


def _fits(images: object, size: int) -> bool:
    if not isinstance(images, dict) or not all(
        isinstance(each, int) and 0 <= each <= SMALL for each in images.values()
    ):
        return False
    return sum(images.values()) == size and all(name not in ("", ".", "..") and "/" not in name for name in images)


def install(directory: Path, place: Place) -> None:
    """Puts a state that was received where Podman looks for it; the checkpoint, which is large, by renaming."""
    if place.upper is None:
        raise Failure("conflict", "name: containers on a storage driver other than overlay cannot be moved")
    if not (directory / CHECKPOINT / INVENTORY).exists():
        raise Failure("conflict", "transfer: its state is not there, or was used before")
    files = (SHM_ARCHIVE, bound.ARCHIVE, LOG)
    if not ((directory / LAYER).is_dir() and all((directory / name).is_file() for name in files)):
        raise Failure("conflict", f"transfer: its state is not whole, it lacks {LAYER} or one of {', '.join(files)}")
    remove_checkpoint(place)
    (directory / CHECKPOINT).rename(place.bundle / CHECKPOINT)
    archive = next(path for path in (directory / SHM_AFTER, directory / SHM_ARCHIVE) if path.exists())
    if place.mounted:
        _fill_shm(archive, (place.bundle / SHM).resolve())
    else:  # Podman does it when it mounts
        archive.rename(place.bundle / SHM_ARCHIVE)
    _install_beside(directory, place)
    with overlayfs.lifted(place.upper.with_name("merged")):
        shutil.rmtree(place.upper)
        _move(directory / LAYER, place.upper)


def _install_beside(directory: Path, place: Place) -> None:
    """What is in no layer. Podman's monitor has the log open already, and appends to it as we do."""
    (directory / bound.ARCHIVE).rename(place.bundle / bound.ARCHIVE)
    if place.mounted:  # else Podman would write them anew
        bound.put(place.run, bound.kept(place.bundle))
    if place.log is not None and (earlier := start_of(directory / LOG, LOG_MOVES)):
        with place.log.open("ab") as log:
            log.write(earlier)


def _fill_shm(archive: Path, root: Path) -> None:
    marks = layer.Marks()
    with tarfile.open(archive, "r:") as tar:
        for member in untar.members(tar):
            if os.path.normpath(member.name) != ".":
                marks.put(member, untar.extract(tar, member, root, untar.LINKED))
    marks.finish()


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
    for name in (
        SHM_ARCHIVE,
        "network.status",
        "stats-dump",
        "stats-restore",
        "dump.log",
        "restore.log",
        bound.ARCHIVE,
    ):
        with contextlib.suppress(FileNotFoundError):
            (place.bundle / name).unlink()
