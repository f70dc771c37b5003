"""Whatever an archive has, nothing outside its directory changes: made-up archives, and those that once got through."""

import base64
import contextlib
import io
import json
import os
import stat
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coat_ryu.node import layer, state, transfer, untar
from coat_ryu.node.failure import Failure
from coat_ryu.node.podman import Place

OUTSIDE = "{base}/outside"
"""Stands in names for a directory that must stay as it is."""

PARTS = st.sampled_from(["layer", "checkpoint", "x", "y", "..", ".", "", "inventory.img", "devshm-checkpoint.tar"])
NAMES = st.one_of(
    st.lists(PARTS, min_size=1, max_size=4).map("/".join),
    st.sampled_from(["layer", "layer/x", "layer/x", "layer/x/y", "layer/y", "checkpoint/x", "checkpoint", "images"]),
    st.sampled_from([OUTSIDE, OUTSIDE + "/secret", "layer/../../../outside/secret", "layer/x/secret", "layer/../.."]),
    st.sampled_from(
        ["/", ".", "..", "layer/.", "layer/..", "layer//x", "checkpoint/secret", "a\0b", "devshm-checkpoint.tar"]
    ),
)
TARGETS = st.one_of(
    st.sampled_from([OUTSIDE, OUTSIDE + "/secret", "/", "..", ".", "../../outside/secret", "../../../outside", "x"]),
    NAMES,
)
TYPES = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
    + [tarfile.BLKTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, b"Z"]
)
RECORDS: st.SearchStrategy[dict[str, str]] = st.one_of(
    st.just({}),
    st.just({}),
    st.just({layer.XATTR + "user.evil": base64.b64encode(b"1").decode()}),
    st.sampled_from(
        [{layer.SOCKET: "1"}, {layer.MTIME: "-1.5"}, {"GNU.sparse.map": "1,3,9,0", "GNU.sparse.size": "9"}]
    ),
    st.sampled_from(["0", "1", "4", "-1", "x"]).map(lambda offset: {state.OFFSET: offset}),
    st.dictionaries(st.sampled_from(["x", "secret", "..", ".", "a/b", ""]), st.integers(0, 4)).map(
        lambda index: {state.TOGETHER: json.dumps(index)}
    ),
)
Member = tuple[str, bytes, str, int, bytes, dict[str, str]]
MEMBERS: st.SearchStrategy[Member] = st.tuples(
    NAMES, TYPES, TARGETS, st.sampled_from([0o600, 0o777, 0o4755, 0o1777, 0]), st.sampled_from([b"", b"evil"]), RECORDS
)


def archive(members: list[Member], base: Path) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.TarFile(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, target, mode, content, records in members:
            member = tarfile.TarInfo(name.format(base=base))
            member.type, member.linkname, member.mode = kind, target.format(base=base), mode
            member.pax_headers = dict(records)
            member.size = len(content) if kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) else 0
            tar.addfile(member, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def seen(root: Path) -> dict[str, Any]:
    """Everything that can be told of a tree from outside but the times of looking at it."""
    found = {}
    for path in (root, *sorted(root.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        attributes = sorted(os.listxattr(path, follow_symlinks=False))
        of = status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns
        found[str(path.relative_to(root))] = (*of, content, attributes)
    return found


@contextlib.contextmanager
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="coat-untar-") as name:
        root = Path(name)
        (root / "outside").mkdir()
        (root / "outside" / "secret").write_text("kept")
        (root / "storage" / "coat").mkdir(parents=True, mode=0o700)
        yield root


def unpack(members: list[Member], root: Path) -> Path | None:
    """Where it landed; None when it was refused."""
    directory = root / "storage" / "coat" / "one"
    try:
        state.unpack(archive(members, root), directory)
    except (Failure, OSError, ValueError, tarfile.TarError):
        return None
    return directory


def put_in_place(directory: Path, root: Path) -> None:
    bundle, upper = root / "bundle", root / "layers" / "diff"
    for path in (bundle / "shm", upper):
        path.mkdir(parents=True)
    with contextlib.suppress(Failure, OSError):
        state.install(directory, Place("id", bundle, bundle, upper, None))
    for path in (bundle, upper.parent):
        assert stat.S_ISDIR(path.lstat().st_mode)
    for path in (upper, bundle / state.CHECKPOINT):
        assert not path.is_symlink(), "what Podman takes for a directory of its own leads elsewhere"


DIRECTORY: Member = ("layer", tarfile.DIRTYPE, "", 0o755, b"", {})


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    return (name, kind, to, 0o777, b"", {})


def file(name: str, records: dict[str, str] | None = None, mode: int = 0o666) -> Member:
    return (name, tarfile.REGTYPE, "", mode, b"evil", records or {})


ATTRIBUTE = {layer.XATTR + "user.evil": base64.b64encode(b"1").decode()}
INVENTORY = file("checkpoint/inventory.img")


@settings(max_examples=100, deadline=None)
@given(st.lists(MEMBERS, max_size=6))
@example([DIRECTORY, link("layer/x", OUTSIDE + "/secret"), file("layer/x")])
@example([DIRECTORY, ("layer/../..", tarfile.DIRTYPE, "", 0o777, b"", {})])
@example([DIRECTORY, link("layer/x", OUTSIDE + "/secret"), link("layer/y", "layer/x", tarfile.LNKTYPE)])
@example([DIRECTORY, link("layer/x", OUTSIDE), ("layer/x", tarfile.DIRTYPE, "", 0o700, b"", {})])
@example([DIRECTORY, link("layer/x", OUTSIDE), file("layer/x/y")])
@example([DIRECTORY, link("layer/x", OUTSIDE), file("layer/x/secret", {state.OFFSET: "4"})])
@example([link("checkpoint", OUTSIDE), ("images", tarfile.REGTYPE, "", 0o600, b"evil", {state.TOGETHER: '{"y": 4}'})])
@example([link("layer", OUTSIDE), INVENTORY, file("devshm-checkpoint.tar")])
@example([link("checkpoint/inventory.img", OUTSIDE + "/secret"), DIRECTORY, file("devshm-checkpoint.tar")])
@example([link("devshm-checkpoint.tar", OUTSIDE + "/secret"), DIRECTORY, INVENTORY])
@example([link("layer/x", OUTSIDE + "/secret", tarfile.LNKTYPE)])
@example([DIRECTORY, (OUTSIDE, tarfile.DIRTYPE, "", 0o777, b"", ATTRIBUTE)])
def test_an_archive_changes_nothing_outside_its_directory(members: list[Member]) -> None:
    with base() as root:
        outside, transfers = seen(root / "outside"), (root / "storage" / "coat").stat().st_mode
        directory = unpack(members, root)
        assert seen(root / "outside") == outside
        assert (root / "storage" / "coat").stat().st_mode == transfers
        assert {path.name for path in root.iterdir()} == {"outside", "storage"}
        assert {path.name for path in (root / "storage" / "coat").iterdir()} <= {"one"}
        if directory is not None:
            assert directory.stat().st_mode & 0o7777 == 0o700
            put_in_place(directory, root)
            assert seen(root / "outside") == outside


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([DIRECTORY, link("layer/x", OUTSIDE + "/secret"), file("layer/x")], "twice"),
        ([DIRECTORY, file("layer/x"), file("layer/x")], "twice"),
        ([DIRECTORY, file("layer/../x")], "outside"),
        ([file(OUTSIDE + "/x")], "outside"),
        ([DIRECTORY, link("layer/x", "."), file("layer/x/y")], "no directory"),
        ([link("layer", OUTSIDE)], "may be there"),
        ([link("checkpoint/x", OUTSIDE)], "may be there"),
        ([("checkpoint/x", tarfile.CHRTYPE, "", 0o666, b"", {})], "may be there"),
        ([("checkpoint/x", tarfile.FIFOTYPE, "", 0o666, b"", {})], "may be there"),
        ([DIRECTORY, ("layer/x", b"Z", "", 0o666, b"", {})], "may be there"),
        ([file("checkpoint/x"), file("checkpoint/x", {state.OFFSET: "3"})], "does not fit"),
        ([DIRECTORY, file("layer/x"), file("layer/x", {state.OFFSET: "4"})], "twice"),
        ([DIRECTORY, link("layer/x", "checkpoint/x", tarfile.LNKTYPE)], "link"),
    ],
)
def test_a_member_that_may_not_be_there_is_named(members: list[Member], why: str, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=why) as raised:
        state.unpack(archive(members, tmp_path), tmp_path / "coat" / "one")
    assert raised.value.cause == "transfer_failed"


def test_an_honest_layer_arrives_as_it_was(tmp_path: Path) -> None:
    """With what overlayfs and containers put there: whiteouts, FIFOs, setuid, links of every kind."""
    upper, bundle = tmp_path / "a" / "diff", tmp_path / "a" / "bundle"
    (upper / "sub").mkdir(parents=True, mode=0o711)
    (bundle / "shm").mkdir(parents=True)
    (bundle / "checkpoint").mkdir()
    (bundle / "checkpoint" / "inventory.img").write_bytes(b"last")
    os.mknod(upper / "removed", stat.S_IFCHR, os.makedev(0, 0))
    os.mkfifo(upper / "sub" / "fifo", 0o622)
    (upper / "sub" / "su").write_text("program")
    (upper / "sub" / "su").chmod(0o4755)
    os.setxattr(upper / "sub" / "su", "user.note", b"kept")
    os.link(upper / "sub" / "su", upper / "su-too")
    os.symlink("/etc/passwd", upper / "away")
    os.link(upper / "away", upper / "away-too", follow_symlinks=False)
    stream = io.BytesIO()
    state.pack(Place("id", bundle, bundle, upper, None), stream)
    stream.seek(0)
    state.unpack(stream, tmp_path / "coat" / "one")
    layer = tmp_path / "coat" / "one" / "layer"
    assert {path.name for path in layer.rglob("*")} == {path.name for path in upper.rglob("*")}
    for path in upper.rglob("*"):
        was, there = path.lstat(), (layer / path.relative_to(upper)).lstat()
        assert (was.st_mode, was.st_rdev) == (there.st_mode, there.st_rdev), path
    assert os.readlink(layer / "away-too") == "/etc/passwd"
    assert (layer / "su-too").samefile(layer / "sub" / "su")
    assert os.getxattr(layer / "sub" / "su", "user.note") == b"kept"


def test_what_is_no_part_of_the_layer_is_roots_alone(tmp_path: Path) -> None:
    members = [file("checkpoint/pages-1.img", mode=0o6777), file("devshm-checkpoint.tar", mode=0o777)]
    state.unpack(archive(members, tmp_path), tmp_path / "coat" / "one")
    received = tmp_path / "coat" / "one"
    assert received.joinpath("checkpoint").stat().st_mode & 0o7777 == 0o700
    for name in ("checkpoint/pages-1.img", "devshm-checkpoint.tar"):
        assert received.joinpath(name).stat().st_mode & 0o7777 == 0o600


def test_a_state_without_its_layer_is_not_put_in_place(tmp_path: Path) -> None:
    """The container's own layer is there as before."""
    state.unpack(archive([INVENTORY], tmp_path), tmp_path / "coat" / "one")
    bundle, upper = tmp_path / "bundle", tmp_path / "layers" / "diff"
    for path in (bundle / "shm", upper):
        path.mkdir(parents=True)
    (upper / "kept").write_text("kept")
    with pytest.raises(Failure, match="not whole"):
        state.install(tmp_path / "coat" / "one", Place("id", bundle, bundle, upper, None))
    assert (upper / "kept").read_text() == "kept" and not (bundle / state.CHECKPOINT).exists()


def backwards(name: str) -> bytes:
    """A header whose size is negative, in base 256: what comes next is the header itself (CVE-2025-8194)."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" + (-600).to_bytes(11, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(4096)


@pytest.mark.parametrize("name", [".", "x"])
def test_an_archive_that_leads_back_is_not_read_for_ever(tmp_path: Path, name: str) -> None:
    (tmp_path / "shm.tar").write_bytes(backwards(name))
    (tmp_path / "shm").mkdir()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            state._fill_shm(tmp_path / "shm.tar", tmp_path / "shm")
        except (Failure, tarfile.TarError) as failure:
            failures.append(failure)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert failures and not thread.is_alive()


def test_members_that_were_read_are_not_remembered(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.TarFile(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(50):
            tar.addfile(tarfile.TarInfo(f"x{number}"))
    content.seek(0)
    with tarfile.TarFile(fileobj=content) as tar:
        assert [len(vars(tar)["members"]) for _ in untar.members(tar)] == [0] * 50


def test_directories_too_deep_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    """What is that deep the standard library cannot remove, up to Python 3.12."""
    deep = archive([("layer/" + "/".join("d" * 1500), tarfile.DIRTYPE, "", 0o700, b"", {})], tmp_path)
    with pytest.raises(Failure, match="deep"):
        state.unpack(deep, tmp_path / "received" / "one")
    assert transfer.discard(tmp_path / "received" / "one")


def test_hard_links_in_shared_memory_arrive(tmp_path: Path) -> None:
    for name in ("bundle", "shm"):
        (tmp_path / name).mkdir()
    (tmp_path / "bundle" / "shm").mkdir()
    (tmp_path / "bundle" / "shm" / "a").write_text("both")
    os.link(tmp_path / "bundle" / "shm" / "a", tmp_path / "bundle" / "shm" / "b")
    stream = io.BytesIO()
    with tarfile.TarFile(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        state._add_shm(tar, tmp_path / "bundle")
    stream.seek(0)
    with tarfile.TarFile(fileobj=stream) as tar:
        tar.extract(state.SHM_ARCHIVE, tmp_path)
    state._fill_shm(tmp_path / state.SHM_ARCHIVE, tmp_path / "shm")
    assert (tmp_path / "shm" / "a").samefile(tmp_path / "shm" / "b")
