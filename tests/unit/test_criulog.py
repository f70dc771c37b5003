"""Why CRIU failed, told to a person; the lines are those that CRIU 4.2.1 wrote for containers that had it."""

from pathlib import Path

import pytest

from coat_ryu.node import criulog
from coat_ryu.node.failure import Failure

BEFORE = "(00.000721) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted"
AFTER = """(00.112855) Error (criu/cr-dump.c:1545): Dump files (pid: 366) failed with -1
(00.137104) Error (criu/cr-dump.c:1975): Dumping FAILED."""
PODMAN = (
    f"podman: Error: `/usr/bin/runc checkpoint --image-path /var/lib/{'c' * 300} {'8dd29d' * 10}` failed: exit status 1"
)

LINES = {
    "files-reg.c:1031): Can't dump ghost file /tmp/gone-2097152 of 2097152 size, increase limit": "deleted_file",
    "files-reg.c:1122): Can't create link remap for /tmp/one. Use link-remap option.": "deleted_name",
    "fsnotify.c:284): fsnotify: \tCan't dump that handle": "watched_file",
    "files-reg.c:1790): Can't lookup mount=120 for fd=3 path=/queue": "foreign_file",
    "sk-inet.c:137): inet: Unsupported proto 262 for socket a50a": "mptcp_socket",
    "sk-inet.c:504): inet: Can't dump corked dgram socket b05a": "corked_udp",
    "sk-unix.c:506): unix: Non-empty write queue on an in-flight socket 0xbd21": "unaccepted_unix",
    "sk-inet.c:185): inet: In-flight connection (l) for 3a5f": "connections_in_flight",
    "tty.c:1010): tty: Don't have tty to inherit session from, aborting": "has_tty",
    "seize.c:335): zombie 5021 (comm python3) found while seizing": "is_traced",
    "cr-dump.c:388): Can't get rlimit 0: Operation not permitted": "no_cap_sys_resource",
    "files-ext.c:96): Can't dump file 5 of that type [600] (Unknown anon_inode:[io_uring])": "io_uring",
    "cr-dump.c:1681): A session leader of 5(5) is outside of its pid namespace": "has_exec_sessions",
    "cr-restore.c:1412): Can't restore sub-task in NS (cflags 80)": "foreign_time",
    "sk-inet.c:1059): inet: Can't bind inet socket back: Invalid argument": "address_lost",
    "files-reg.c:2175): File etc/hosts has bad size 157 (expect 180)": "file_changed",
    "action-scripts.c:147): One of more action scripts failed": "not_let_through",
}


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(criulog, "DIRECTORY", tmp_path / "kept")
    return tmp_path / "kept"


def failed(tmp_path: Path, *lines: str, cause: str = "command_failed") -> Failure:
    log = tmp_path / "dump.log"
    log.write_text("".join(f"{line}\n(00.1) fine\n" for line in lines))
    failure = Failure(cause, PODMAN, stderr="said before\n")
    criulog.explain(failure, log, "web")
    return failure


@pytest.mark.parametrize(("line", "cause"), LINES.items())
def test_each_known_reason_has_its_cause_and_sentence(tmp_path: Path, line: str, cause: str) -> None:
    failure = failed(tmp_path, BEFORE, f"(00.107488) Error (criu/{line}", *AFTER.splitlines())
    assert failure.cause == cause
    (known,) = {one.sentence for one in criulog.KNOWN if one.cause == cause and criulog.known_as(line) is one}
    shown = line.partition("): ")[2].strip()
    assert str(failure).startswith(f"{known}; CRIU: {shown}; its log is {tmp_path}/kept/")


def test_every_known_cause_was_seen(tmp_path: Path) -> None:
    not_made_here = {"unknown_socket", "outside_unix", "netlink_data", "unknown_file"}
    assert {one.cause for one in criulog.KNOWN} == set(LINES.values()) | not_made_here


def test_a_reason_not_known_is_told_without_what_surrounds_it(tmp_path: Path) -> None:
    failure = failed(tmp_path, BEFORE, "(00.2) Error (criu/new.c:1): odd: something else", *AFTER.splitlines())
    assert failure.cause == "command_failed"
    assert str(failure).startswith("CRIU failed; CRIU: odd: something else; its log is ")
    assert failure.stderr.startswith("said before\n") and "RLIMIT_NOFILE" not in failure.stderr


def test_a_failure_without_a_log_is_told_without_the_long_command(tmp_path: Path) -> None:
    failure = Failure("command_failed", PODMAN)
    criulog.explain(failure, tmp_path / "none", "web")
    assert str(failure) == "podman: Error: /usr/bin/runc checkpoint failed: exit status 1"


def test_a_time_out_stays_one_and_has_the_reason(tmp_path: Path) -> None:
    failure = failed(
        tmp_path, "(00.2) Error (criu/seize.c:335): zombie 5 (comm x) found while seizing", cause="timeout"
    )
    assert failure.cause == "timeout" and "zombie 5" in str(failure)


def test_logs_are_kept_for_root_alone_and_bounded(tmp_path: Path, kept: Path) -> None:
    for number in range(criulog.KEPT + 5):
        failed(tmp_path, f"(00.2) Error (criu/x.c:{number}): number {number}", "x" * (2 * criulog.SIZE))
    logs = sorted(kept.iterdir())
    assert len(logs) == criulog.KEPT and kept.stat().st_mode & 0o777 == 0o700
    assert all(log.stat().st_mode & 0o777 == 0o600 and log.stat().st_size <= criulog.SIZE for log in logs)
    assert all(log.name.endswith("-web-dump.log") for log in logs)


def test_a_log_that_is_huge_is_read_from_its_end(tmp_path: Path) -> None:
    """It has a line for each file and page map of the container, which may have any number of them."""
    log = tmp_path / "dump.log"
    with log.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, 2)
        file.write(b"\n(00.2) Error (criu/x.c:1): the reason\n")
    assert criulog.reason(criulog.errors(log)) == "the reason"
