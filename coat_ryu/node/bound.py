"""The files that Podman makes for a container and binds into it, /etc/hosts and its like.

They are outside the container's layer, and Podman writes them anew at each restore. What its programs have written
there is brought along, and put into the same files when Podman has done so: one may be open, and CRIU compares its
size.
"""

import base64
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from coat_ryu.node.failure import Failure
from coat_ryu.node.process import start_of

NAMES = ("hosts", "resolv.conf", "hostname", ".containerenv")
LONGEST = 4 << 20
"""Bytes of each: a container may make them as long as the node has memory."""
ARCHIVE = "bound.json"
"""What they are kept in, beside the checkpoint and on their way."""
ARCHIVE_LONGEST = len(NAMES) * 2 * LONGEST

Files = dict[str, dict[str, Any]]


def read(directory: Path) -> Files:
    return {name: file for name in NAMES if (file := _read(directory / name)) is not None}


def too_long(directory: Path) -> list[str]:
    """Those that do not come along."""
    found = {name: directory / name for name in NAMES}
    return [name for name, path in found.items() if path.is_file() and path.stat().st_size > LONGEST]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        here, content = os.fstat(descriptor), file.read(LONGEST + 1)
    if len(content) > LONGEST:
        return None
    text = base64.b64encode(content).decode()
    return {"content": text, "mode": here.st_mode, "owner": [here.st_uid, here.st_gid], "at": here.st_mtime_ns}


def archive(bundle: Path, directory: Path) -> bytes:
    """As they were when they were kept, else as they are: a restore that failed has changed them."""
    if (bundle / ARCHIVE).exists():
        return (bundle / ARCHIVE).read_bytes()
    return json.dumps(read(directory)).encode()


def keep(bundle: Path, directory: Path) -> Files:
    """What is kept from now on, or was. With a full disk it is not: then they are as they are until a restore."""
    if (bundle / ARCHIVE).exists():
        return kept(bundle)
    part, found = bundle / f".{ARCHIVE}", read(directory)
    try:
        part.write_text(json.dumps(found))
        part.rename(bundle / ARCHIVE)
    except OSError:
        part.unlink(missing_ok=True)
    return found


def kept(bundle: Path) -> Files:
    """Raises Failure for what is none of ours: another node has sent it."""
    try:
        raw = start_of(bundle / ARCHIVE, ARCHIVE_LONGEST + 1)
        if len(raw) > ARCHIVE_LONGEST:
            raise ValueError("it is too long")
        found: Files = json.loads(raw)
        for file in found.values():
            uid, gid = file["owner"]
            base64.b64decode(file["content"])
            if not all(isinstance(number, int) for number in (uid, gid, file["mode"], file["at"])):
                raise ValueError("a number is wanted")
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Failure("transfer_failed", f"the state has a {ARCHIVE} that is none: {error!r}") from None
    return found


def put(directory: Path, files: Files, *, new: bool = False) -> None:
    """Into the files that are there, in place, for they are bound into the container; or as ``new`` ones."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if new else os.O_TRUNC)
    for name in NAMES:
        if name in files:
            with suppress(FileNotFoundError):
                _write(os.open(directory / name, flags, 0o600), files[name])


def _write(descriptor: int, wanted: dict[str, Any]) -> None:
    with open(descriptor, "wb") as file:
        file.write(base64.b64decode(wanted["content"]))
        file.flush()
        os.fchown(descriptor, *wanted["owner"])
        os.fchmod(descriptor, wanted["mode"] & 0o7777)
        os.utime(descriptor, ns=(wanted["at"], wanted["at"]))
