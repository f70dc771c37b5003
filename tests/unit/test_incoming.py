"""An image's archive that another node made: no name in it reaches Podman, and no other image than the right one."""

import hashlib
import io
import json
import tarfile
from typing import Any

import pytest

from coat_ryu.node import incoming
from coat_ryu.node.failure import Failure

LAYER = b"layer" * 1000
LAYER_NAME = hashlib.sha256(LAYER).hexdigest() + ".tar"
CONFIGURATION = json.dumps({"rootfs": {"type": "layers", "diff_ids": ["sha256:" + LAYER_NAME[:64]]}}).encode()
ID = hashlib.sha256(CONFIGURATION).hexdigest()
MANIFEST = [{"Config": f"{ID}.json", "RepoTags": ["docker.io/library/nginx:latest"], "Layers": [LAYER_NAME]}]


def archive(*members: tuple[str, Any]) -> io.BytesIO:
    """Members by name: bytes, what becomes JSON, or a link's target as a tuple of one."""
    buffer = io.BytesIO()
    with tarfile.TarFile(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                member.type, member.linkname = tarfile.SYMTYPE, content[0]
                tar.addfile(member)
                continue
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    buffer.seek(0)
    return buffer


BLOBS = ((LAYER_NAME, LAYER), (f"{ID}.json", CONFIGURATION))
GOOD = (*BLOBS, ("manifest.json", MANIFEST), ("repositories", {"docker.io/library/nginx": {"latest": "x"}}))


def passed_on(*members: tuple[str, Any], wanted: str | None = None) -> dict[str, bytes]:
    sink = io.BytesIO()
    assert incoming.pass_on(archive(*members), sink, wanted) == ID
    sink.seek(0)
    with tarfile.open(fileobj=sink, mode="r:") as tar:
        names = tar.getnames()
        assert len(names) == len(set(names)) and all(member.isreg() for member in tar.getmembers())
        return {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]


@pytest.mark.parametrize("wanted", [None, ID, f"sha256:{ID}"])
def test_an_image_arrives_whole_and_without_names(wanted: str | None) -> None:
    made = passed_on(*GOOD, wanted=wanted)
    assert set(made) == {LAYER_NAME, f"{ID}.json", "manifest.json"}
    assert made[LAYER_NAME] == LAYER and made[f"{ID}.json"] == CONFIGURATION
    assert json.loads(made["manifest.json"]) == [{**MANIFEST[0], "RepoTags": []}]


@pytest.mark.parametrize(
    "more",
    [
        [("index.json", {"manifests": []}), ("oci-layout", {"imageLayoutVersion": "1.0.0"})],
        [("manifest.json", MANIFEST)],
        [("./manifest.json", MANIFEST)],
        [("x/manifest.json", MANIFEST)],
        [("blobs/sha256/" + "0" * 64, b"x"), ("repositories", {})],
        [("manifest.json", ("evil.json",)), ("evil.json", MANIFEST)],
        [(LAYER_NAME, b"another")],
    ],
)
def test_nothing_else_in_the_archive_reaches_podman(more: list[tuple[str, Any]]) -> None:
    made = passed_on(*GOOD, *more)
    assert set(made) == {LAYER_NAME, f"{ID}.json", "manifest.json"} and made[LAYER_NAME] == LAYER
    assert b"nginx" not in made["manifest.json"]


OTHER = hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize(
    ("members", "wanted", "why"),
    [
        (GOOD, "0" * 64, "not 0000"),
        (((LAYER_NAME, LAYER), (f"{OTHER}.json", CONFIGURATION), ("manifest.json", MANIFEST)), None, "lacks the conf"),
        (((LAYER_NAME, LAYER + b"evil"), *GOOD[1:]), None, "another SHA-256"),
        (GOOD[1:], None, "lacks a layer"),
        (((LAYER_NAME, (f"{ID}.json",)), *GOOD[1:]), None, "lacks a layer"),
        (((f"../{LAYER_NAME}", LAYER), *GOOD[1:]), None, "lacks a layer"),
        (BLOBS, None, "not that of one image"),
        ((*BLOBS, ("manifest.json", MANIFEST * 2)), None, "not that of one image"),
        ((*BLOBS, ("manifest.json", [])), None, "not that of one image"),
        ((*BLOBS, ("manifest.json", {"a": 1})), None, "not that of one image"),
        ((*BLOBS, ("manifest.json", b"[" * 100_000)), None, "not that of one image"),
        ((*BLOBS, ("manifest.json", [{"Config": "../x"}])), None, "lacks the conf"),
        ((*BLOBS, ("manifest.json", [{"Config": []}])), None, "lacks the conf"),
        ((*BLOBS, ("manifest.json", b" " * (incoming.MANIFEST_MAX + 1))), None, "too large"),
        (((f"{ID}.json", bytes(incoming.CONFIGURATION_MAX + 1)),), None, "too large"),
        (((f"{OTHER}.json", b"{}"), ("manifest.json", [{"Config": f"{OTHER}.json"}])), None, "has no layers"),
    ],
)
def test_what_is_no_such_image_is_refused_and_cannot_be_loaded(members: Any, wanted: str | None, why: str) -> None:
    sink = io.BytesIO()
    with pytest.raises(Failure, match=why) as raised:
        incoming.pass_on(archive(*members), sink, wanted)
    assert raised.value.cause == "transfer_failed"
    assert b"RepoTags" not in sink.getvalue()


def test_a_configuration_that_lies_about_its_name_is_told_by_what_it_is() -> None:
    """Whoever sends may call it what they like: the id is made from the content."""
    evil = CONFIGURATION + b" "
    manifest = [{"Config": f"{ID}.json", "Layers": [LAYER_NAME]}]
    members = ((LAYER_NAME, LAYER), (f"{ID}.json", evil), ("manifest.json", manifest))
    with pytest.raises(Failure, match="the image that came is sha256:" + hashlib.sha256(evil).hexdigest()):
        incoming.pass_on(archive(*members), io.BytesIO(), ID)


def test_configurations_are_not_collected_without_a_bound() -> None:
    many = [(f"{number:064x}.json", bytes(1 << 20)) for number in range(20)]
    with pytest.raises(Failure, match="too large"):
        incoming.pass_on(archive(*many, *GOOD), io.BytesIO(), ID)


def test_a_layer_of_holes_is_refused_before_it_is_written() -> None:
    """A header says how long a sparse file is, and may say exabytes."""
    holes = tarfile.TarInfo(LAYER_NAME)
    holes.pax_headers = {"GNU.sparse.size": str(1 << 24), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "16777216,0"}
    came, sink = io.BytesIO(), io.BytesIO()
    with tarfile.TarFile(fileobj=came, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(holes)
    came.seek(0)
    with pytest.raises(Failure):
        incoming.pass_on(came, sink, ID)
    assert len(sink.getvalue()) < 1 << 20
