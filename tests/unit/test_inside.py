"""What /proc tells of a container's processes, from trees made up like it."""

import os
from pathlib import Path

import pytest

from coat_ryu.node import inside
from coat_ryu.node.failure import Failure

OURS, OTHER = "pid:[1]", "pid:[2]"


@pytest.fixture(autouse=True)
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(inside, "PROC", tmp_path)
    monkeypatch.setattr(inside, "PATIENCE", 0.01)
    (tmp_path / "self").mkdir()
    return tmp_path


def process(proc: Path, pid: int, parent: int, name: str = "web", state: str = "S", **other: str) -> Path:
    directory = proc / str(pid)
    for part in ("ns", "fd", "net", f"task/{pid}"):
        (directory / part).mkdir(parents=True)
    for kind, space in (("pid", other.get("pid_ns", OURS)), ("time", other.get("time_ns", "time:[1]"))):
        (directory / "ns" / kind).symlink_to(space)
    (directory / "stat").write_text(f"{pid} ({name}) {state} {parent} 1 1\n")
    text = (
        f"Name:\t{name}\nTracerPid:\t{other.get('tracer', '0')}\nUid:\t{other.get('uids', '0 0 0 0')}\nGid:\t0 0 0 0\n"
    )
    for status in (directory / "status", directory / f"task/{pid}/status"):
        status.write_text(text)
    (directory / "wchan").write_text(other.get("wchan", "0"))
    return directory


def test_a_plain_container_has_nothing_that_is_told(proc: Path) -> None:
    process(proc, 10, 2)
    process(proc, 11, 10, "worker")
    process(proc, 12, 1, "stranger", pid_ns=OTHER, tracer="5", uids="7 7 7 7")
    assert not any(inside.look(10).values())


@pytest.mark.parametrize(
    ("parent", "other", "told"),
    [
        (3, {}, "exec_sessions"),  # its parent is outside
        (10, {"time_ns": "time:[2]"}, "foreign_time"),
        (10, {"tracer": "77"}, "traced"),
        (10, {"uids": "0 33 0 0"}, "other_users"),
    ],
)
def test_each_kind_of_process_is_told_by_its_name(proc: Path, parent: int, other: dict[str, str], told: str) -> None:
    process(proc, 10, 2)
    process(proc, 11, parent, "a (b) c", **other)
    assert {key: value for key, value in inside.look(10).items() if value} == {told: ["a (b) c (pid 11)"]}


def test_children_of_what_came_from_outside_came_from_outside(proc: Path) -> None:
    for pid, parent in ((10, 2), (20, 3), (21, 20), (22, 21), (11, 10)):
        process(proc, pid, parent)
    assert [one.pid for one in inside.outsiders(10, sorted(inside.processes(10), key=lambda one: one.pid))] == [
        20,
        21,
        22,
    ]


def test_zombies_and_what_has_ended_are_nothing(proc: Path) -> None:
    process(proc, 10, 2)
    process(proc, 11, 3, state="Z", tracer="5")
    (process(proc, 12, 3) / "stat").unlink()
    assert not any(inside.look(10).values())
    assert not any(inside.look(99).values())


def test_a_sleep_is_told_only_while_it_sleeps(proc: Path) -> None:
    process(proc, 10, 2, "sleep", wchan="hrtimer_nanosleep")
    process(proc, 11, 10, "sleep", wchan="do_wait")
    process(proc, 12, 10, "python3", wchan="hrtimer_nanosleep")
    assert inside.look(10)["sleepers"] == ["sleep (pid 10)"]


HEAD = "  sl  local_address rem_address   st tx_queue rx_queue\n"
LINK_LOCAL = "000080FE00000000FF0D0C0AFE0B0A02:1BD0"  # fe80::a0c:dff:20a:bfe, as a little-endian machine writes it
LOOPBACK = "00000000000000000000000001000000:1BD1"


def test_connections_and_backlogs_are_read_as_the_kernel_writes_them(proc: Path) -> None:
    net = process(proc, 10, 2) / "net"
    row = "   0: {} 00000000000000000000000000000000:0000 {} 00000000:{} 00:0 0 0 0\n"
    (net / "tcp6").write_text(HEAD + row.format(LINK_LOCAL, "0A", "00000000") + row.format(LOOPBACK, "01", "00000009"))
    (net / "tcp").write_text(HEAD + row.format("0100007F:1F90", "0A", "00000002"))
    told = inside.look(10)
    assert (told["link_local"], told["unaccepted"]) == ([], [8080])
    for state, ports in (("06", []), ("01", [7120]), ("08", [7120])):
        (net / "tcp6").write_text(HEAD + row.format(LINK_LOCAL, state, "00000000"))
        assert inside.look(10)["link_local"] == ports


def test_protocols_and_files_that_criu_does_not_know_are_told(proc: Path) -> None:
    directory = process(proc, 10, 2, "node")
    (directory / "net/protocols").write_text(
        "protocol  size sockets  memory\nMPTCP     1936      1      81\nMPTCPv6   2064      0      81\nTCP  1  7  1\n"
    )
    for number, target in enumerate(("anon_inode:[io_uring]", "anon_inode:[eventpoll]", "socket:[5]", "/etc/hosts")):
        os.symlink(target, directory / f"fd/{number}")
    told = inside.look(10)
    assert (told["protocols"], told["files"], told["queues"]) == (["MPTCP"], ["io_uring of node (pid 10)"], [])


def test_open_files_are_looked_at_up_to_a_bound(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = process(proc, 10, 2)
    for number in range(5):
        os.symlink("anon_inode:[io_uring]", directory / f"fd/{number}")
    monkeypatch.setattr(inside, "FILES", 3)
    assert len(inside.look(10)["files"]) == 3


def test_names_that_a_container_chooses_are_printable() -> None:
    """A process may call itself anything, and a person reads that at a terminal."""
    assert str(inside.Process(5, 1, "\x1b[2J\n\udcff")) == "\\x1b[2J\\n\\udcff (pid 5)"
    failure = Failure("conflict", "CRIU: cannot dump /\x1b]52;c;evil\x07 of \u202egolb, grün")
    assert failure.as_json()["message"] == "CRIU: cannot dump /\\x1b]52;c;evil\\x07 of \\u202egolb, grün"
