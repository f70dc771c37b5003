"""The hook: reads requests from standard input, a JSON object a line, and writes the answers to standard output.

Requests are served side by side. When standard input closes, what is under way is finished, for the nodes can end a
migration without their controller; what only waits is given up after a while. Then the hook ends, and its holds with
it, for a TAP lives as long as its file descriptor.
"""

import contextlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock, Timer
from typing import Any, BinaryIO

# Imported for the verbs that they register.
from coat_ryu.node import (  # noqa: F401
    checkpoint,
    endpoint,
    facts,
    freezer,
    gate,
    hold,
    lazy,
    master,
    podman,
    residue,
    steady,
    transfer,
    vswitch,
)
from coat_ryu.node.failure import Failure
from coat_ryu.node.process import deadline
from coat_ryu.node.verbs import call, verb

THREADS = 256
"""Requests served at once: many migrations, each with some that wait for the other node. Threads are made as needed."""

LONGEST = 1e6
"""Seconds that a request may take."""
ORPHAN_PATIENCE = 15.0
"""Seconds that a hook without a controller waits for a delivery that has not begun."""


class Answers:
    """Standard output, kept for answers: one whole line at a time, whichever thread it comes from."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = Lock()

    def write(self, answer: dict[str, Any]) -> None:
        line = json.dumps(answer, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._stream.write(line)
            self._stream.flush()


def serve(requests: Iterable[bytes], answers: Answers) -> None:
    """Serves until ``requests`` end, then waits for those under way: each has its own deadline."""
    with ThreadPoolExecutor(THREADS, "request") as pool:
        for line in requests:
            pool.submit(_serve_one, line, answers)
        gate.ALONE.set()
        transfer.abandon_unwanted()
        giving_up = Timer(ORPHAN_PATIENCE, transfer.give_up)
        giving_up.start()
    giving_up.cancel()


def _serve_one(line: bytes, answers: Answers) -> None:
    started_at = steady.now()
    answer: dict[str, Any] = {"id": None}
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise Failure("bad_args", "a request is a JSON object")
        answer["id"] = request.get("id")
        master.OURS.check(request.get("verb", ""))
        with deadline(_seconds(request.get("timeout"))):
            answer |= {"ok": True, "result": call(request.get("verb", ""), request.get("args", {}))}
    except Failure as failure:
        answer |= {"ok": False, "error": failure.as_json()}
    except ValueError as error:
        answer |= {"ok": False, "error": Failure("bad_args", f"not a JSON line: {error}").as_json()}
    except Exception as error:  # a fault of ours must not leave the controller waiting
        message = f"{type(error).__name__}: {error}"
        answer |= {"ok": False, "error": Failure("internal", message, stderr=traceback.format_exc()).as_json()}
    with contextlib.suppress(OSError):  # the controller may be gone; the work is done all the same
        answers.write(answer | {"started_at": started_at, "finished_at": steady.now()})


def _seconds(timeout: object) -> float | None:
    """The time that a request gives itself. Raises Failure."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout <= LONGEST:
        raise Failure("bad_args", "timeout: a number of seconds is wanted")
    return float(timeout)


@verb
def chain(*, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs verbs one after the other without a word from the controller in between; stops at the first failure."""
    done: list[dict[str, Any]] = []
    for number, step in enumerate(steps):
        name = str(step.get("verb", ""))
        started_at = steady.now()
        try:
            result = call(name, step.get("args", {}))
        except Failure as failure:
            failure.args = (f"step {number + 1} ({name}): {failure}",)
            raise
        done.append({"verb": name, "result": result, "started_at": started_at, "finished_at": steady.now()})
    return {"steps": done}


def _lines(descriptor: int) -> Iterable[bytes]:
    """Lines of a descriptor, without a buffer that the bootstrap might have had to share."""
    with os.fdopen(descriptor, "rb", closefd=False) as stream:
        yield from stream


def _allow_all_descriptors() -> None:
    """sshd's children may have 1,024 as a rule: many migrations at once, or strangers at a port, use that up."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Entry point on the node. Nothing else gets at standard output: a stray print must not break the protocol."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    _allow_all_descriptors()
    serve(_lines(0), Answers(channel))
    hold.close_all()
