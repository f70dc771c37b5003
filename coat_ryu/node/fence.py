"""Fencing: a node obeys nobody whose word on a container is older than one that it has heard already.

A controller that was thought dead may still speak, or its last commands arrive late. A request about a container may
carry the epoch of the migration it belongs to; epochs only grow (Kleppmann, "Designing Data-Intensive Applications",
chapter 8, "Fencing tokens"). Whoever brings a later epoch waits until work under earlier ones has ended, so that what
it finds stays as it is. The hook of a connection that was lost may be doing that work, hence locks on files.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from coat_ryu.node.failure import Failure
from coat_ryu.node.process import remaining

DIRECTORY = Path("/run/coat/epochs")
"""Outlives the hook, and goes at a reboot as the containers do."""

WAITING_VERBS = ("chain", "freeze_pass", "freeze_wait", "receive_wait")
"""They change nothing themselves and may last: nobody waits for them. A chain's steps have fences of their own."""

POLL = 0.005


@contextlib.contextmanager
def fence(verb: str, container: str, epoch: int, directory: Path = DIRECTORY) -> Iterator[None]:
    """Work on a container under an epoch. Raises Failure ``fenced`` if a later epoch was heard."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(directory / container, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if verb in WAITING_VERBS:
            _check(file, container, epoch)
            yield
            return
        # First the lock, then the look: whoever writes a later epoch in between finds the lock taken and waits.
        fcntl.flock(file, fcntl.LOCK_SH)
        if _check(file, container, epoch) < epoch:
            _announce(file, epoch)
        yield
    finally:
        os.close(file)


def heard(container: str, directory: Path = DIRECTORY) -> int:
    """The highest epoch of a container that this node has heard, 0 if none."""
    try:
        return int((directory / container).read_bytes() or b"0")
    except FileNotFoundError:
        return 0


def _check(file: int, container: str, epoch: int) -> int:
    latest = int(os.pread(file, 32, 0) or b"0")
    if epoch < latest:
        raise Failure("fenced", f"fence: epoch {epoch} of {container} is over, {latest} was heard")
    return latest


def _announce(file: int, epoch: int) -> None:
    """From now on earlier epochs are refused; returns when their work under way has ended."""
    os.pwrite(file, b"%032d" % epoch, 0)
    give_up = time.monotonic() + remaining()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_SH)  # a failed conversion gives up the lock (flock(2))
            if time.monotonic() > give_up:
                raise Failure("timeout", "fence: earlier work on the container does not end") from None
            time.sleep(POLL)
    fcntl.flock(file, fcntl.LOCK_SH)
