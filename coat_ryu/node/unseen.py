"""What must stand on no command line, for those are everybody's to read (proc_pid_cmdline(5)): a container's variables,
and its spec, which has them too.

Podman reads both from files, a line each. Ours are in memory, at /proc/PID/fd, which nobody but root opens, and are
gone with the hook. A value that would not come through a line as it is goes through Podman's own environment instead,
which is root's to read as well; but not under a name that means something to Podman itself.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from coat_ryu.node.failure import Failure

LINE_MAX = 60_000
"""Bytes of a line that Podman reads whole (Go's bufio.MaxScanTokenSize is 64 KiB)."""
VALUE_MAX = 100_000
"""Bytes of a variable and its name, in any case: a process may be given no more than 128 KiB in one (execve(2))."""
PODMANS = re.compile(
    r"(LD|GO|GLIBC|XDG|DBUS|LISTEN|NOTIFY|STORAGE|REGISTRY|BUILDAH|PODMAN|CONTAINERS?|DOCKER)(_.*|[A-Z]*)"
    r"|_.*|PATH|HOME|USER|TMPDIR|SHELL|TERM"
)


@dataclass(frozen=True, slots=True)
class Unseen:
    """Options for a command line, and the environment that the command must have."""

    options: list[str]
    environment: dict[str, str | bytes]


@contextlib.contextmanager
def unseen(variables: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[Unseen]:
    """For one start of Podman. Raises Failure for what cannot be given to a container so."""
    lines, inherited = _sorted(variables)
    for key, value in labels.items():
        if not _fits_a_line(key, value):
            raise Failure("bad_args", f"{key}: one line of at most {LINE_MAX} bytes is possible")
    with _file(lines) as file, _file(labels) as label_file:
        options = [f"--label-file={label_file}", f"--env-file={file}", *(f"--env={key}" for key in inherited)]
        yield Unseen(options, {**os.environ, **{key: _bytes(value) for key, value in inherited.items()}})


def _sorted(variables: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Those that fit a line, and those that go through the environment."""
    lines: dict[str, str] = {}
    inherited: dict[str, str] = {}
    for key, value in variables.items():
        if len(_bytes(f"{key}={value}")) > VALUE_MAX:
            raise Failure("bad_args", f"env.{key}: at most {VALUE_MAX} bytes are possible, with the name")
        if _fits_a_line(key, value):
            lines[key] = value
        elif key in os.environ or PODMANS.fullmatch(key):
            raise Failure(
                "bad_args",
                f"env.{key}: under this name one line of at most {LINE_MAX} bytes is possible, no line break",
            )
        else:
            inherited[key] = value
    return lines, inherited


def _fits_a_line(key: str, value: str) -> bool:
    return not {"\n", "\r"} & set(value) and len(_bytes(f"{key}={value}")) <= LINE_MAX


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # whatever this node's own encoding is


@contextlib.contextmanager
def _file(lines: Mapping[str, str]) -> Iterator[str]:
    """The path of a file with these lines, as long as this is open."""
    with os.fdopen(os.memfd_create("unseen", os.MFD_CLOEXEC), "wb") as file:
        file.write(b"".join(_bytes(f"{key}={value}\n") for key, value in lines.items()))
        file.flush()
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}"
