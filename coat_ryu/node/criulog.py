"""CRIU's log, for a person: the line that made it fail, a plain sentence for what is known, and the log itself kept.

The messages are CRIU's own (``pr_err`` in its sources); a pattern here is as much of one as tells it from others.
"""

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

from coat_ryu.node.failure import Failure

DIRECTORY = Path("/var/log/coat/criu")
"""Logs of checkpoints and restores that failed. They name files and addresses of the container, so root alone reads."""
KEPT, SIZE = 20, 1 << 20
"""How many logs, and how much of each: its end, where the reason is."""
READ = 16 << 20
"""Bytes of a log that are looked through for the reason: its end, too."""
ERRORS_SHOWN = 12

HARMLESS = "rlimit: Can't setup RLIMIT_NOFILE for self"
"""Said wherever root lacks CAP_SYS_RESOURCE, and CRIU goes on."""
CONSEQUENCE = re.compile(
    r"(Dump|Collect|Restor|Pre-dump)\w* \S+( \S+)? \(pid: \d+\) failed|(Dumping|Restoring) FAILED|For Go programs"
    r"|\d+ (exited|killed)|Can't cure"
)
"""What CRIU says after the reason."""
_ERROR = re.compile(r"Error \([^)]*\): *(.*)")
_COMMAND = re.compile(r"`(\S+) (\S+)[^`]*`")


@dataclass(frozen=True, slots=True)
class Known:
    """A message of CRIU's; ``cause`` and ``sentence`` say it to a program and to a person."""

    pattern: str
    cause: str
    sentence: str


KNOWN = (
    Known(
        "Can't dump ghost file",
        "deleted_file",
        "it has a deleted file of more than 1 GiB open",
    ),
    Known("Can't create link remap|Can't link remap", "deleted_name", "it has a file open under a name that is gone"),
    Known(
        "fsnotify: .*(Can't dump that handle|Can't find suitable path)",
        "watched_file",
        "it watches a file or directory by inotify that CRIU cannot find by its handle",
    ),
    Known(r"Can't lookup mount=\d+ for fd=\d+ path=/dev/(pts/|console)", "has_tty", "it has a terminal of this node"),
    Known(
        r"Can't lookup mount=",
        "foreign_file",
        "it has a file open that is in no mount of its own: a POSIX message queue, or a file handed to it from outside",
    ),
    Known(
        "Unsupported proto 262",
        "mptcp_socket",
        "it has an MPTCP socket; let it use TCP (Go programs: GODEBUG=multipathtcp=0)",
    ),
    Known("Unsupported proto|Unsupported socket", "unknown_socket", "it has a socket of a kind that CRIU cannot move"),
    Known(
        "Can't dump corked dgram socket", "corked_udp", "it has a UDP socket with UDP_CORK and an unfinished datagram"
    ),
    Known(
        "Non-empty write queue on an in-flight socket",
        "unaccepted_unix",
        "it has a Unix connection with data in it that its server has not accepted yet",
    ),
    Known(
        "In-flight connection",
        "connections_in_flight",
        "it has not accepted all its connections, and CRIU cannot move those; it is tried again by itself",
    ),
    Known(
        "External socket is used|Can't dump half of stream unix|name-less external socket",
        "outside_unix",
        "it has a Unix connection to a process outside of it",
    ),
    Known("The socket has data to read", "netlink_data", "it has a netlink socket with messages that it has not read"),
    Known(
        "tty: (Don't have tty|Found dangling tty|Found slave peer)|ctty inheritance detected",
        "has_tty",
        "it has a terminal (podman run -t), which stays on this node",
    ),
    Known(
        r"zombie \d+ .*found while seizing|Unseizable non-zombie",
        "is_traced",
        "a debugger or tracer (strace, gdb) holds one of its processes",
    ),
    Known(
        r"Can't get rlimit",
        "no_cap_sys_resource",
        "one of its processes is of another user or group, and root on this node lacks CAP_SYS_RESOURCE",
    ),
    Known(r"\[io_uring\]", "io_uring", "it uses io_uring, which CRIU cannot move"),
    Known(r"Can't dump file \d+ of that type", "unknown_file", "it has a file open of a kind that CRIU cannot move"),
    Known(
        "session leader of .* is outside of its pid namespace",
        "has_exec_sessions",
        "a process in it was started from outside (podman exec)",
    ),
    Known(
        "Can't restore sub-task in NS",
        "foreign_time",
        "a process in it was started from outside (podman exec) after a move, in another time namespace",
    ),
    Known(
        "Can't bind inet socket|Can't connect inet socket",
        "address_lost",
        "it has a connection over an address that cannot be bound here",
    ),
    Known(r"File \S+ has bad (size|mode)", "file_changed", "a file that it has open is another one here"),
    Known("action scripts? failed", "not_let_through", "its frames were not turned away in time, so it runs on"),
)


def explain(failure: Failure, log: Path, name: str) -> None:
    """Podman and the runtime only say that CRIU failed, with a long command; why is in its log, which is kept."""
    found = errors(log)
    failure.stderr += "\n".join(found[-ERRORS_SHOWN:])
    line = reason(found)
    if line is None:
        failure.args = (_COMMAND.sub(r"\1 \2", str(failure)),)
        return
    kept = keep(log, name)
    sentence = "CRIU failed" if failure.cause == "command_failed" else str(failure)
    known = known_as(line)
    if known is not None and failure.cause == "command_failed":
        failure.cause, sentence = known.cause, known.sentence
    failure.args = (f"{sentence}; CRIU: {line}" + (f"; its log is {kept}" if kept else ""),)


def errors(log: Path) -> list[str]:
    """The lines with errors in CRIU's log; none where there is no log."""
    try:
        lines = _end(log, READ).decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if "Error (" in line and HARMLESS not in line]


def _end(log: Path, size: int) -> bytes:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read(size)


def reason(found: list[str]) -> str | None:
    """Of such lines what the one behind the others says: one that is known, else the first that is no consequence."""
    said = [match[1].strip() for line in found if (match := _ERROR.search(line))]
    telling = [line for line in said if not CONSEQUENCE.search(line)]
    return next((line for line in telling if known_as(line)), next(iter([*telling, *said]), None))


def known_as(line: str) -> Known | None:
    return next((one for one in KNOWN if re.search(one.pattern, line)), None)


def keep(log: Path, name: str, directory: Path | None = None) -> Path | None:
    """The log's end in a place of its own, where the last ``KEPT`` are. None where it cannot be written: the failure
    itself is what matters.
    """
    directory = directory or DIRECTORY
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = _end(log, SIZE)
        kept = directory / f"{time.time_ns()}-{name}-{log.name}"
        kept.touch(mode=0o600, exist_ok=False)
        kept.write_bytes(text)
        for old in sorted(directory.iterdir())[:-KEPT]:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()
    except OSError:
        return None
    return kept
