"""One member of an archive that somebody else made, into a directory and never outside it.

The standard library's filters (PEP 706) will not do: ``data`` takes away devices, which are whiteouts here, owners and
setuid bits, and ``tar`` follows a link that an earlier member has made when it sets a hard link's mode.
"""

import os
import shutil
import stat
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from coat_ryu.node.failure import Failure

FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE)
PLAIN = frozenset({*FILES, tarfile.DIRTYPE})
LINKED = PLAIN | {tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE}
EVERYTHING = LINKED | {tarfile.CHRTYPE, tarfile.BLKTYPE}


DEEPEST = 500
"""Directories in one another, at the most: what is much deeper the standard library cannot remove up to Python 3.12."""


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """One after the other, and none is remembered. Raises Failure for one that leads back: Python before 3.11.14,
    3.12.12 and 3.13.6 follows a negative size for ever.
    """
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        if member.size < 0 or tar.offset < member.offset_data:
            raise _refused(member, "has a size that is none")
        yield member


def parts(name: str) -> tuple[str, ...]:
    """A member's name, taken apart. Raises Failure unless it is one below the archive's directory."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
        raise Failure("transfer_failed", f"the state has a member outside its directory: {name!r}")
    if len(path.parts) > DEEPEST:
        raise Failure("transfer_failed", f"the state has a member that is more than {DEEPEST} directories deep")
    return path.parts


def extract(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, kinds: Collection[bytes]) -> Path:
    """Writes a member of one of these ``kinds``, which must be new there unless it is a directory, with its owner and
    mode; where it is. Raises Failure. Nothing else may write to ``root`` meanwhile.
    """
    where = parts(member.name)
    if member.type not in kinds:
        raise _refused(member, f"is of type {member.type!r}, and none such may be there")
    directory = _directory(root, where[:-1], member)
    target = directory / where[-1]
    if _mode(target) is not None and not (member.isdir() and _is_directory(target)):
        raise _refused(member, "comes twice")
    if member.islnk():
        _link(root, member, target)
        return target
    member.name = "/".join(where)
    tar.extraction_filter = lambda member, path: member
    tar.extract(member, root, numeric_owner=True)
    return target


def append(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, start: str, buffer: int) -> None:
    """A further piece of a file that has come so far already, to ``start``. Raises Failure."""
    where = parts(member.name)
    target = _directory(root, where[:-1], member) / where[-1]
    piece = tar.extractfile(member) if member.isreg() else None
    if piece is None or not stat.S_ISREG(_mode(target) or 0) or str(target.stat().st_size) != start:
        raise Failure("transfer_failed", f"the state has a piece of {member.name!r} that does not fit")
    with target.open("ab") as file:
        shutil.copyfileobj(piece, file, buffer)


def _link(root: Path, member: tarfile.TarInfo, target: Path) -> None:
    """A hard link has the mode and the owner of what it is a link to, and may be one to a symbolic link."""
    of = parts(member.linkname)
    original = _directory(root, of[:-1], member) / of[-1]
    if _mode(original) is None or _is_directory(original):
        raise _refused(member, f"is a link to {member.linkname!r}, which may not be linked")
    os.link(original, target, follow_symlinks=False)


def _directory(root: Path, names: tuple[str, ...], member: tarfile.TarInfo) -> Path:
    """The directory below ``root``, made if it is missing, with no link on the way to it."""
    directory = root
    for name in names:
        directory /= name
        if _mode(directory) is None:
            directory.mkdir(mode=0o700)
        elif not _is_directory(directory):
            raise _refused(member, f"is said to be in {name!r}, which is no directory")
    return directory


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def _is_directory(path: Path) -> bool:
    return stat.S_ISDIR(_mode(path) or 0)


def _refused(member: tarfile.TarInfo, why: str) -> Failure:
    return Failure("transfer_failed", f"the state has a member that is not taken: {member.name!r} {why}")
