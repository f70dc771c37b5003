"""An image that comes from another node, on its way into `podman load`: without its names, and none but the right one.

`podman load` takes whatever names an archive has away from the images here, and knows several formats that can tell
them. So the archive is made anew: of what came only layers and the configuration pass, and the manifest (of the format
docker-archive, as `podman save` has it) is written here. An image's id is the SHA-256 of its configuration, which has
those of its layers.
"""

import hashlib
import io
import json
import re
import tarfile
from pathlib import PurePosixPath
from typing import IO, Any, Protocol

from coat_ryu.node import untar
from coat_ryu.node.failure import Failure
from coat_ryu.node.stream import BUFFER

MANIFEST = "manifest.json"
MANIFEST_MAX, CONFIGURATION_MAX = 4 << 20, 16 << 20
"""Bytes, at the most, of all together; Podman's own limit is 4 MiB for either."""
BLOB = re.compile(r"[0-9a-f]{64}(\.tar|\.json)")


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def tell(self) -> int: ...
    def seek(self, position: int, /) -> object: ...


class Writable(Protocol):
    def write(self, data: bytes, /) -> int: ...


class _Counted:
    """What tarfile wants of a file that it writes to."""

    def __init__(self, stream: Writable) -> None:
        self._stream, self._position = stream, 0

    def write(self, data: bytes) -> int:
        self._stream.write(data)
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position


def pass_on(stream: Readable, sink: Writable, wanted: str | None) -> str:
    """Reads an archive of one image and writes one without names; its id. Raises Failure when it is none, or another
    image than ``wanted``; then what was written has no manifest, and nobody can load it.
    """
    configurations: dict[str, bytes] = {}
    seen: set[str] = set()
    manifest = b""
    with _tar(stream, "r") as came, _tar(_Counted(sink), "w") as goes:
        for member in untar.members(came):
            name = PurePosixPath(member.name).name if "/" not in member.name else ""
            if not member.isreg() or member.issparse():
                continue
            if name == MANIFEST and not manifest:
                manifest = _whole(came, member, MANIFEST_MAX)
            elif BLOB.fullmatch(name) and name not in seen:
                seen.add(name)
                if name.endswith(".json"):
                    left = CONFIGURATION_MAX - sum(map(len, configurations.values()))
                    configurations[name] = _whole(came, member, left)
                else:
                    _copy(came, member, goes)
        configuration = configurations.get(_configuration(manifest), b"")
        found = hashlib.sha256(configuration).hexdigest()
        if wanted is not None and wanted.removeprefix("sha256:") != found:
            raise Failure("transfer_failed", f"the image that came is sha256:{found}, not {wanted}")
        layers = [f"{digest}.tar" for digest in _layers(configuration)]
        if not seen.issuperset(layers):
            raise _garbled("it lacks a layer that its configuration has")
        _add(goes, f"{found}.json", configuration)
        _add(goes, MANIFEST, json.dumps([{"Config": f"{found}.json", "RepoTags": [], "Layers": layers}]).encode())
    return found


def _tar(stream: Any, mode: Any) -> tarfile.TarFile:
    return tarfile.TarFile(fileobj=stream, mode=mode, format=tarfile.PAX_FORMAT, copybufsize=BUFFER)


def _whole(tar: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes:
    content = tar.extractfile(member)
    if content is None or member.size > limit:
        raise _garbled(f"{member.name!r} is too large")
    return content.read()


def _copy(came: tarfile.TarFile, member: tarfile.TarInfo, goes: tarfile.TarFile) -> None:
    """A layer, which is called by the SHA-256 of its content. Raises Failure when it is not."""
    content = came.extractfile(member)
    assert content is not None
    hashed, layer = _Hashed(content), tarfile.TarInfo(member.name)
    layer.size = member.size
    goes.addfile(layer, hashed)  # type: ignore[arg-type]
    if f"{hashed.digest.hexdigest()}.tar" != member.name:
        raise _garbled(f"{member.name!r} has another SHA-256")


class _Hashed:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.digest.update(data)
        return data


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _configuration(manifest: bytes) -> str:
    """The name of the one image's configuration."""
    try:
        (image,) = json.loads(manifest)
        return str(image["Config"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _garbled(f"its {MANIFEST} is not that of one image") from None


def _layers(configuration: bytes) -> list[str]:
    """The digests of an image's layers, the lowest first."""
    try:
        return [str(digest).removeprefix("sha256:") for digest in json.loads(configuration)["rootfs"]["diff_ids"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _garbled("it lacks the configuration that it names, or that has no layers") from None


def _garbled(why: str) -> Failure:
    return Failure("transfer_failed", f"what came is no archive of an image: {why}")
