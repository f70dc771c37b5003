"""A container's state on its way: packed, also while it is still written, unpacked and put in place."""

import contextlib
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coat_ryu.node import bound, layer, overlayfs, podman, state
from coat_ryu.node.failure import Failure
from coat_ryu.node.podman import Place


def place(root: Path) -> Place:
    bundle, run, upper = root / "bundle", root / "run", root / "storage" / "diff"
    for directory in (bundle, run, upper):
        directory.mkdir(parents=True)
    return Place("id", bundle, run, upper, bundle / "ctr.log")


def test_a_state_goes_through_a_stream_and_into_place(tmp_path: Path) -> None:
    source, destination = place(tmp_path / "a"), place(tmp_path / "b")
    (source.bundle / "checkpoint").mkdir()
    (source.bundle / "checkpoint" / "inventory.img").write_bytes(b"i" * 3_000_000)
    for one in (source, destination):
        (one.bundle / "shm").mkdir()
    (source.bundle / "shm" / "shared").write_text("between processes")
    (source.bundle / "config.json").write_text("source")
    (destination.bundle / "config.json").write_text("destination")
    assert source.upper is not None and destination.upper is not None
    (source.upper / "sub").mkdir(mode=0o711)
    (source.upper / "sub" / "file").write_text("new")
    (destination.upper / "old").write_text("old")
    stream = io.BytesIO()
    state.pack(source, stream)
    stream.seek(0)
    state.unpack(stream, tmp_path / "received" / "one")
    state.install(tmp_path / "received" / "one", destination)
    assert (destination.bundle / "checkpoint" / "inventory.img").read_bytes() == b"i" * 3_000_000
    with tarfile.open(destination.bundle / "devshm-checkpoint.tar") as archive:
        assert archive.getnames() == ["shared"]
    assert (destination.bundle / "config.json").read_text() == "destination"
    assert [path.name for path in sorted(destination.upper.rglob("*"))] == ["sub", "file"]
    assert (destination.upper / "sub").stat().st_mode & 0o777 == 0o711
    state.remove_checkpoint(destination)
    assert {path.name for path in destination.bundle.iterdir()} == {"config.json", "shm"}


def test_a_checkpoint_is_packed_while_it_is_written(tmp_path: Path) -> None:
    """The image with memory grows between the looks, and the last of the images come at the very end."""
    source = place(tmp_path / "a")
    (source.bundle / "shm").mkdir()
    (source.bundle / "checkpoint").mkdir()
    pages, looks = source.bundle / "checkpoint" / "pages-1.img", iter(range(5))

    def ended() -> bool:
        look = next(looks)
        with pages.open("ab") as file:
            file.write(bytes([look]) * (state.PIECE + 1000 * look))
        if look == 4:
            (source.bundle / "checkpoint" / "inventory.img").write_bytes(b"last")
        return look == 4

    stream = io.BytesIO()
    state.pack(source, stream, ended)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        assert [member.name for member in tar].count("checkpoint/pages-1.img") > 2
    stream.seek(0)
    state.unpack(stream, tmp_path / "received" / "one")
    received = tmp_path / "received" / "one" / "checkpoint"
    assert (received / "pages-1.img").read_bytes() == pages.read_bytes()
    assert (received / "inventory.img").read_bytes() == b"last"


def test_images_go_together_unless_they_are_large(tmp_path: Path) -> None:
    source = place(tmp_path / "a")
    (source.bundle / "shm").mkdir()
    images = source.bundle / "checkpoint"
    images.mkdir()
    sizes = {
        "inventory.img": 50,
        "core-1.img": 0,
        "mm-1.img": state.SMALL,
        "tmpfs.img": state.SMALL + 1,
        "pages-1.img": 7,
    }
    for name, size in sizes.items():
        (images / name).write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
    stream = io.BytesIO()
    state.pack(source, stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        assert [name for name in tar.getnames() if "/" in name] == ["checkpoint/tmpfs.img"]
    stream.seek(0)
    state.unpack(stream, tmp_path / "received" / "one")
    received = tmp_path / "received" / "one" / "checkpoint"
    assert {path.name: path.read_bytes() for path in received.iterdir()} == {
        path.name: path.read_bytes() for path in images.iterdir()
    }
    assert {path.stat().st_mode & 0o777 for path in received.iterdir() if path.name != "tmpfs.img"} == {0o600}


@pytest.mark.parametrize(
    "index",
    [{"../victim": 4}, {"a/b": 4}, {"..": 4}, {"": 4}, {"a": 5}, {"a": -1, "b": 5}, {".": 4}, {"a": "4"}, ["a"], 4],
)
def test_images_that_do_not_fit_are_refused(tmp_path: Path, index: object) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(state.IMAGES)
        member.size, member.pax_headers = 4, {state.TOGETHER: json.dumps(index)}
        tar.addfile(member, io.BytesIO(b"four"))
    stream.seek(0)
    with pytest.raises(Failure, match="does not fit"):
        state.unpack(stream, tmp_path / "in" / "one")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_images_that_are_too_large_to_go_together_are_refused(tmp_path: Path) -> None:
    size, stream = state.SMALL + 1, io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(state.IMAGES)
        member.size, member.pax_headers = size, {state.TOGETHER: json.dumps({"a": size})}
        tar.addfile(member, io.BytesIO(bytes(size)))
    stream.seek(0)
    with pytest.raises(Failure, match="does not fit"):
        state.unpack(stream, tmp_path / "in" / "one")


def test_images_cannot_leave_their_directory(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        link = tarfile.TarInfo(state.CHECKPOINT)
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        tar.addfile(link)
        member = tarfile.TarInfo(state.IMAGES)
        member.size, member.pax_headers = 4, {state.TOGETHER: json.dumps({"a": 4})}
        tar.addfile(member, io.BytesIO(b"four"))
    stream.seek(0)
    with pytest.raises((Failure, OSError)):
        state.unpack(stream, tmp_path / "in" / "one")
    assert [*(tmp_path / "outside").iterdir()] == []


@pytest.mark.parametrize("offset", [0, 3, 5])
def test_a_piece_that_does_not_fit_is_refused(tmp_path: Path, offset: int) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for start in (None, offset):
            member = tarfile.TarInfo("checkpoint/pages-1.img")
            member.size = 4
            if start is not None:
                member.pax_headers = {state.OFFSET: str(start)}
            tar.addfile(member, io.BytesIO(b"four"))
    stream.seek(0)
    with pytest.raises(Failure, match="does not fit"):
        state.unpack(stream, tmp_path / "in" / "one")


def test_a_state_is_put_in_place_once(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="used before"):
        state.install(tmp_path, place(tmp_path / "b"))


def test_without_a_checkpoint_there_is_no_state(tmp_path: Path) -> None:
    nowhere = place(tmp_path)
    (nowhere.bundle / "shm").mkdir()
    with pytest.raises(Failure, match="has no checkpoint"):
        state.pack(nowhere, io.BytesIO())


MOUNTS = r"""
36 35 0:33 / /var/lib/a\040b/1/merged rw,nodev,relatime shared:1 - overlay overlay rw,lowerdir=l/X:l/Y,upperdir=1/diff
37 35 0:34 / /var/lib/a\040b/2/merged ro - overlay overlay rw,lowerdir=/l
38 35 0:35 / /tmp rw - tmpfs tmpfs rw
""".strip()


def test_an_overlay_is_found_as_it_was_mounted() -> None:
    found = overlayfs.find(Path("/var/lib/a b/1/merged"), MOUNTS)
    assert found is not None and found.options == "rw,lowerdir=l/X:l/Y,upperdir=1/diff"
    assert found.flags == overlayfs.FLAGS["nodev"] | overlayfs.FLAGS["relatime"]
    assert overlayfs.find(Path("/tmp"), MOUNTS) is None


@pytest.mark.parametrize("kind", ["path", "absolute", "symbolic link", "hard link"])
def test_a_member_cannot_leave_its_directory(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    member = tarfile.TarInfo({"path": "../victim", "absolute": str(victim)}.get(kind, "way"))
    if kind == "hard link":
        member.type, member.linkname = tarfile.LNKTYPE, "../victim"
    if kind == "symbolic link":
        member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(member)
        tar.addfile(tarfile.TarInfo("way/victim"))
    stream.seek(0)
    with pytest.raises((Failure, OSError)):
        state.unpack(stream, tmp_path / "in" / "one")
    assert victim.read_text() == "kept" and victim.stat().st_nlink == 1


def test_names_that_criu_makes_while_the_state_is_sent_come_along(tmp_path: Path) -> None:
    source, destination = place(tmp_path / "a"), place(tmp_path / "b")
    checkpoint, shm = source.bundle / "checkpoint", source.bundle / "shm"
    for directory in (checkpoint, shm, destination.bundle / "shm"):
        directory.mkdir()
    assert source.upper is not None and destination.upper is not None
    (source.upper / "two").write_text("linked")
    (shm / "sem.gate").write_text("semaphore")

    def ended() -> bool:
        (source.upper or shm).joinpath("link_remap.3").hardlink_to((source.upper or shm) / "two")
        (shm / "link_remap.4").hardlink_to(shm / "sem.gate")
        (checkpoint / "files.img").write_bytes(b"\x08\x03 link_remap.3 \x08\x04 dev/shm/link_remap.4")
        (checkpoint / "inventory.img").touch()
        return True

    def settle() -> None:
        with tarfile.open(source.bundle / "devshm-checkpoint.tar", "w") as archive:
            for path in sorted(shm.iterdir()):
                archive.add(path, path.name)

    stream = io.BytesIO()
    state.pack(source, stream, ended, settle)
    stream.seek(0)
    state.unpack(stream, tmp_path / "received" / "one")
    state.install(tmp_path / "received" / "one", destination)
    assert (destination.upper / "link_remap.3").samefile(destination.upper / "two")
    with tarfile.open(destination.bundle / "devshm-checkpoint.tar") as archive:
        assert [member.name for member in archive if member.isreg()] == ["link_remap.4"]
        assert archive.getmember("sem.gate").linkname == "link_remap.4"


def test_names_of_a_criu_that_was_killed_are_removed(tmp_path: Path) -> None:
    one, root = place(tmp_path / "a"), tmp_path / "root"
    assert one.upper is not None
    for directory in (one.bundle / "checkpoint", one.bundle / "shm", one.upper / "tmp", root / "tmp"):
        directory.mkdir(parents=True)
    names = [one.upper / "tmp" / "link_remap.3", root / "tmp" / "link_remap.3", one.bundle / "shm" / "link_remap.4"]
    for name in names:
        name.touch()
    state.remove_remaps(one, root)
    assert all(name.exists() for name in names)  # nothing says that CRIU made them
    (one.bundle / "checkpoint" / "files.img").write_bytes(b" link_remap.3 ")
    state.remove_remaps(one, root)
    assert [name.exists() for name in names] == [True, False, False]  # the layer itself is seen through the overlay


def carried(tmp_path: Path, make: Callable[[Path], None]) -> tuple[Path, Path, int]:
    """A layer at the source, that at the destination, and how many bytes went over."""
    source, destination = place(tmp_path / "a"), place(tmp_path / "b")
    (source.bundle / "checkpoint").mkdir()
    (source.bundle / "checkpoint" / "inventory.img").write_bytes(b"i")
    for one in (source, destination):
        (one.bundle / "shm").mkdir()
    assert source.upper is not None and destination.upper is not None
    make(source.upper)
    stream = io.BytesIO()
    state.pack(source, stream)
    stream.seek(0)
    state.unpack(stream, tmp_path / "received" / "one")
    state.install(tmp_path / "received" / "one", destination)
    return source.upper, destination.upper, stream.tell()


HOLE = 3 << 30


def end_only(file: BinaryIO) -> None:
    file.seek(HOLE)
    file.write(b"last")


def nothing(file: BinaryIO) -> None:
    file.truncate(HOLE)


def islands(file: BinaryIO) -> None:
    for number in range(1, 300):
        file.seek(number << 20)
        file.write(bytes([number % 256]) * 5000)
    file.truncate(HOLE)


@pytest.mark.parametrize("fill", [end_only, nothing, islands])
def test_holes_stay_holes_and_cost_nothing(tmp_path: Path, fill: Callable[[BinaryIO], None]) -> None:
    def make(upper: Path) -> None:
        with (upper / "big").open("wb") as file:
            fill(file)
        (upper / "next").write_text("what comes after it is found")

    there, here, sent = carried(tmp_path, make)
    before, after = (there / "big").stat(), (here / "big").stat()
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)
    assert sent < before.st_blocks * 512 + 100_000
    assert (here / "next").read_text() == "what comes after it is found"
    with (there / "big").open("rb") as one, (here / "big").open("rb") as other:
        for position in (0, (1 << 20) - 10, 1 << 20, (299 << 20) + 4990, HOLE - 10):
            for file in (one, other):
                file.seek(position)
            assert one.read(10_000) == other.read(10_000)
    assert layer.look(there).allocated == layer.look(here).allocated < 1 << 22


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 9000)), max_size=12), tail=st.integers(0, 50_000))
def test_any_file_arrives_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, int]], tail: int
) -> None:
    def make(upper: Path) -> None:
        with (upper / "file").open("wb") as file:
            for number, (page, length) in enumerate(pieces, 1):
                file.seek(page << 12)
                file.write(bytes([number]) * length)
            file.seek(0, 2)
            file.truncate(file.tell() + tail)

    there, here, _ = carried(tmp_path_factory.mktemp("run"), make)
    assert (here / "file").read_bytes() == (there / "file").read_bytes()


def test_files_that_podman_makes_come_along(tmp_path: Path) -> None:
    """Into the very files that are bound into the container already, modes too; none is made, no link followed."""
    source, destination = place(tmp_path / "a"), place(tmp_path / "b")
    written = {"hosts": "192.0.2.7 database\n" * 1000, "resolv.conf": "", "hostname": "web\n"}
    for name, text in written.items():
        (source.run / name).write_text(text)
        (source.run / name).chmod(0o640)
    os.utime(source.run / "hosts", ns=(5, 1_111_111_111_111_111_111))
    (destination.run / "hosts").write_text("as Podman makes it")
    (destination.run / "resolv.conf").write_text("nameserver 192.0.2.1")
    before = (destination.run / "hosts").stat().st_ino
    bound.keep(source.bundle, source.run)
    (source.run / "hosts").write_text("a restore that failed has written this")
    bound.keep(source.bundle, source.run)
    bound.put(destination.run, bound.kept(source.bundle))
    after = (destination.run / "hosts").stat()
    assert {path.name: path.read_text() for path in destination.run.iterdir()} == {
        name: text for name, text in written.items() if name != "hostname"
    }
    assert (after.st_ino, after.st_mode & 0o777, after.st_mtime_ns) == (before, 0o640, 1_111_111_111_111_111_111)
    (destination.run / "hostname").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        bound.put(destination.run, bound.kept(source.bundle))
    assert not (tmp_path / "elsewhere").exists()


def test_files_podman_binds_that_are_huge_do_not_fill_memory(tmp_path: Path) -> None:
    """A program in the container can make them as long as it likes, and so can a node what it sends of them."""
    there = place(tmp_path / "a")
    (there.run / "resolv.conf").write_text("small")
    with (there.run / "hosts").open("wb") as hosts:
        hosts.truncate(1 << 40)
    assert bound.read(there.run).keys() == {"resolv.conf"}
    assert bound.too_long(there.run) == ["hosts"]
    with (tmp_path / bound.ARCHIVE).open("wb") as archive:
        archive.truncate(1 << 40)
    with pytest.raises(Failure, match="that is none"):
        bound.kept(tmp_path)


def test_a_full_disk_does_not_keep_a_container_from_its_restore(tmp_path: Path) -> None:
    """The way back needs these files, and not that they are on the disk a second time."""
    there = place(tmp_path / "a")
    (there.run / "hosts").write_text("192.0.2.7 database")
    (there.bundle / f".{bound.ARCHIVE}").symlink_to("/dev/full")
    files = bound.keep(there.bundle, there.run)
    (there.run / "hosts").write_text("as Podman writes it anew")
    bound.put(there.run, files)
    assert (there.run / "hosts").read_text() == "192.0.2.7 database"
    assert list(there.bundle.iterdir()) == []


@pytest.mark.parametrize("wrong", ["", "[1]", '{"hosts": 1}', '{"hosts": {"content": "", "mode": 1}}', "\\xff"])
def test_files_that_podman_did_not_make_are_refused(tmp_path: Path, wrong: str) -> None:
    (tmp_path / bound.ARCHIVE).write_text(wrong)
    with pytest.raises(Failure, match="that is none"):
        bound.kept(tmp_path)


@pytest.mark.parametrize(("lines", "moved"), [(0, 0), (3, 3), (20_000, (1 << 16) // 12)])
def test_the_end_of_the_log_comes_along(tmp_path: Path, lines: int, moved: int) -> None:
    source, destination = place(tmp_path / "a"), place(tmp_path / "b")
    (source.bundle / "checkpoint").mkdir()
    (source.bundle / "checkpoint" / "inventory.img").write_bytes(b"i")
    for one in (source, destination):
        (one.bundle / "shm").mkdir()
    assert source.log is not None and destination.log is not None
    source.log.write_text("".join(f"line {number:06}\n" for number in range(lines)))
    stream = io.BytesIO()
    state.pack(source, stream)
    stream.seek(0)
    state.unpack(stream, tmp_path / "received" / "one")
    with destination.log.open("a") as monitor:
        state.install(tmp_path / "received" / "one", destination)
        monitor.write("later\n")
    wanted = [f"line {number:06}" for number in range(lines - moved, lines)]
    assert destination.log.read_text().splitlines() == [*wanted, "later"]


def test_times_are_kept_to_the_nanosecond(tmp_path: Path) -> None:
    """Before 1970 too, and those of directories, which change as they are filled, and of links."""
    times = {"old": -1_234_567_891, "new": 1_795_814_708_123_456_789, "dir": 1_111_111_111_111_111_111, "link": 12_345}

    def make(upper: Path) -> None:
        for name in ("old", "new"):
            (upper / name).write_text(name)
        (upper / "dir").mkdir()
        (upper / "dir" / "file").touch()
        (upper / "link").symlink_to("old")
        for name, at in times.items():
            os.utime(upper / name, ns=(at, at), follow_symlinks=False)

    _, here, _ = carried(tmp_path, make)
    assert {name: (here / name).lstat().st_mtime_ns for name in times} == times


def test_a_socket_without_its_process_is_kept(tmp_path: Path) -> None:
    def make(upper: Path) -> None:
        os.mknod(upper / "socket", 0o640 | stat.S_IFSOCK)
        (upper / "socket").chmod(0o751)

    _, here, _ = carried(tmp_path, make)
    assert (here / "socket").stat().st_mode == stat.S_IFSOCK | 0o751


@pytest.mark.parametrize("time", ["", "1e9", "now", "1.0000000001", "-"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, time: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("layer")
        member.type, member.pax_headers = tarfile.DIRTYPE, {"mtime": time}
        tar.addfile(member)
    stream.seek(0)
    with pytest.raises(Failure, match="a time that is none"):
        state.unpack(stream, tmp_path / "in" / "one")


def test_a_log_that_is_said_to_be_huge_is_cut(tmp_path: Path) -> None:
    here, came = place(tmp_path / "a"), tmp_path / "came"
    assert here.log is not None
    (came / "layer").mkdir(parents=True)
    with (came / state.LOG).open("wb") as log:
        log.truncate(1 << 40)
    (came / bound.ARCHIVE).write_text("{}")
    state._install_beside(came, here)
    assert here.log.stat().st_size <= podman.LOG_MOVES


def test_directories_that_are_too_deep_are_told(tmp_path: Path) -> None:
    """Programs make them deeper than any path can be: the move is refused before the freeze, not amid it."""
    (tmp_path / "file").write_text("x" * 5000)
    before = layer.look(tmp_path)
    with contextlib.chdir(tmp_path):
        for _ in range(2500):
            os.mkdir("d")
            os.chdir("d")
    after = layer.look(tmp_path)
    with tarfile.TarFile(fileobj=io.BytesIO(), mode="w") as tar, pytest.raises(Failure, match="deep"):
        layer.add(tar, tmp_path, "layer")
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)
    assert (before.too_deep, after.too_deep) == (False, True) and before.allocated >= 5000


def test_a_link_that_a_running_container_makes_leads_nowhere(tmp_path: Path) -> None:
    """In its own root it may put a link where a directory was: an absolute one leads to the node's files."""
    there, root, outside = place(tmp_path / "a"), tmp_path / "root", tmp_path / "outside"
    (there.bundle / "checkpoint").mkdir()
    (there.bundle / "checkpoint" / "files.img").write_bytes(b"link_remap.1")
    (there.bundle / "shm").mkdir()
    assert there.upper is not None
    for directory in (there.upper / "d", there.upper / "own", root / "own", outside):
        directory.mkdir(parents=True)
        (directory / "link_remap.1").touch()
    (root / "d").symlink_to(outside)
    state.remove_remaps(there, root)
    assert (outside / "link_remap.1").exists() and not (root / "own" / "link_remap.1").exists()


def test_files_that_come_and_go_are_no_obstacle_to_a_look(tmp_path: Path) -> None:
    ended = threading.Event()

    def busy() -> None:
        while not ended.is_set():
            (tmp_path / "d").mkdir()
            for number in range(20):
                (tmp_path / "d" / f"{number}").touch()
            shutil.rmtree(tmp_path / "d")

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(2000):
            layer.look(tmp_path)
    finally:
        ended.set()
        thread.join()
