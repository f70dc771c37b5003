"""Running commands: never through a shell, never without a timeout, never with our own standard streams."""

import contextlib
import contextvars
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from coat_ryu.node.failure import Failure

DEFAULT_TIMEOUT = 60.0

_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("deadline", default=None)


@contextlib.contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Everything inside ends within ``seconds``; an earlier deadline around it stays in force."""
    outer = _deadline.get()
    mine = None if seconds is None else time.monotonic() + seconds
    token = _deadline.set(min((limit for limit in (outer, mine) if limit is not None), default=None))
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining(default: float = DEFAULT_TIMEOUT) -> float:
    """Seconds that are left, at most ``default``. Raises Failure when there are none."""
    limit = _deadline.get()
    if limit is None:
        return default
    left = limit - time.monotonic()
    if left <= 0:
        raise Failure("timeout", "the request's time is used up")
    return min(left, default)


def run(
    argv: Sequence[str], *, timeout: float = DEFAULT_TIMEOUT, environment: Mapping[str, str | bytes] | None = None
) -> str:
    """Standard output of a command, in our ``environment`` or this.

    Raises Failure with its argv and standard error when it does not succeed.
    """
    limit = remaining(timeout)
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise Failure("command_failed", f"{argv[0]}: {error.strerror}", command=shlex.join(argv)) from error
    return finish(process, argv, limit)


def finish(process: subprocess.Popen[bytes], argv: Sequence[str], limit: float) -> str:
    """Waits for a command that leads a session of its own; its standard output. Raises Failure as ``run`` does."""
    shown = shlex.join(argv)
    with process:
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            # Its children too: podman leaves CRIU behind when it alone is killed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise Failure("timeout", f"{argv[0]} did not end within {limit:.0f} s", command=shown) from None
    stderr = err.decode(errors="replace")
    if process.returncode != 0:
        reason = stderr.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise Failure("command_failed", f"{argv[0]}: {reason[0]}", command=shown, stderr=stderr)
    return out.decode(errors="replace")


def start_of(path: Path, size: int) -> bytes:
    """At most that many bytes: another node, or a container, may have made a file of any length."""
    with path.open("rb") as file:
        return file.read(size)


def write_if_other(path: Path, text: str, mode: int) -> None:
    """The file has this text and mode, and never only half of it."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{threading.get_ident()}")
        part.write_text(text)
        part.chmod(mode)
        part.rename(path)
