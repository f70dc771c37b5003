"""The moment of the freeze, for whoever must act in it: CRIU waits while the overlay turns what still arrives away.

Before CRIU freezes a container it runs the action script "pre-dump", in which ours freezes it (``freezer`` says why)
and tells this hook so through a FIFO. From then on the frames can be redirected: it no longer answers, and none is lost
yet. What its sockets still miss is waited for first (``gaps``). Then the node turns its switch (``turn``), or else the
controller does. Before CRIU closes the sockets to the network it runs "network-lock" (criu(8), --action-script), in
which ours waits at another FIFO until all that is done. All waits have an end: a controller that dies in between costs
the container a moment, not its life.
"""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from coat_ryu.node import steady
from coat_ryu.node.failure import Failure
from coat_ryu.node.gaps import Gaps
from coat_ryu.node.process import remaining, write_if_other
from coat_ryu.node.turn import Turn, made_ready
from coat_ryu.node.verbs import Name, verb

SCRIPT = Path("/run/coat/criu-action")
PATIENCE = 10.0
"""Seconds that a frozen container waits to be let through. Then the checkpoint fails and it runs on: if its sockets
went while frames still come, the kernel would answer those with RST (RFC 9293, section 3.5.2).
"""
GAP_PATIENCE = 0.1
"""Seconds that a frozen container is given for the gaps in its connections."""
ALONE = threading.Event()
"""Set when the controller's connection has ended."""
FROZEN, PASS, FREEZING = "coat-frozen", "coat-pass", "coat-freezing"
"""Two FIFOs, and the file whose time is the moment of the freeze."""

# CRTOOLS_IMAGE_DIR is the checkpoint's directory, as /proc/PID/fd/N when the runtime has opened it (hence -P). The
# FIFOs lie beside it, and only while somebody waits at the gate; one that was killed there reads nothing, so none is
# opened for writing alone, which waits for a reader (fifo(7)).
_TEXT = f"""#!/bin/sh
case "$CRTOOLS_SCRIPT_ACTION" in pre-dump|network-lock) ;; *) exit 0 ;; esac
cd -P "$CRTOOLS_IMAGE_DIR/.." && [ -p {FROZEN} ] || exit 0
if [ "$CRTOOLS_SCRIPT_ACTION" = network-lock ]; then
    echo waiting 1<>{FROZEN}
    timeout {PATIENCE:g} head -c 1 {PASS} >/dev/null
    exit
fi
echo freezing 1<>{FROZEN}
while IFS= read -r line; do
    case "$line" in 0::/?*) group="${{line#0::}}" ;; esac
done <"/proc/$CRTOOLS_INIT_PID/cgroup"
for switch in /sys/fs/cgroup"$group"/cgroup.freeze /sys/fs/cgroup/unified"$group"/cgroup.freeze; do
    [ -n "$group" ] && [ -w "$switch" ] && : >{FREEZING} && echo 1 >"$switch" && echo frozen 1<>{FROZEN} && exit 0
done
exit 0
"""


class Gate:
    """One checkpoint's. ``reached`` is set when the container is frozen, or when it is clear that it will not be.

    ``gaps_s`` is how long it was given to fill gaps, ``gaps_left`` how many connections had one when it was let
    through. ``turned_s`` is how long the node took to turn its switch, None when it did not. A node that is ``alone``
    turns it only if what follows was handed to it as well: else nobody would, and the container runs on instead.
    """

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.frozen_at: float | None = None
        self.gaps_s = 0.0
        self.gaps_left = 0
        self.turned_s: float | None = None
        self._gaps: Gaps | None = None
        self._turn: Turn | None = None
        self._handed_on = False
        self._let_through: int | None = None
        self._waiting_since = self._passed_at = 0.0
        self._lock = threading.Lock()
        self._filling: threading.Thread | None = None

    def as_json(self) -> dict[str, Any]:
        """For the record; ``gate_s`` is how long CRIU stood still until it was let through, in seconds."""
        known = self._passed_at and self._waiting_since
        waited = max(0.0, self._passed_at - self._waiting_since) if known else 0.0
        return {"gate_s": waited, "gaps_s": self.gaps_s, "gaps_left": self.gaps_left}

    def open(self, gaps: Gaps, turn: Turn | None, let_through: int, handed_on: bool = False) -> None:
        """From here on it can be passed: by a byte written to ``let_through``."""
        with self._lock:
            self._gaps, self._turn, self._let_through = gaps, turn, let_through
            self._handed_on = handed_on

    def close(self) -> None:
        with self._lock:
            self._gaps = self._let_through = None
        if self._filling is not None:
            self._filling.join()
        self.reached.set()

    def let_pass(self) -> None:
        with self._lock:
            if self._gaps is not None and self._let_through is not None and not self._passed_at:
                self.gaps_left = self._gaps.count()
                self._passed_at = steady.now()
                os.write(self._let_through, b".")

    def hear(self, word: str) -> None:
        """What the script says it is doing."""
        assert self._gaps is not None
        if word == "freezing":
            self._gaps.count()  # what was said long before goes, so that what is said in the freeze finds room
        if word == "waiting":
            self._waiting_since = steady.now()
        # Where the script finds no freezer, CRIU has frozen all when it comes to the gate.
        if word in ("frozen", "waiting") and self.frozen_at is None:
            self.frozen_at = steady.now()
            self._filling = threading.Thread(target=self._fill, args=(self._gaps,), daemon=True)
            self._filling.start()

    def _fill(self, gaps: Gaps) -> None:
        self.gaps_s = gaps.wait_until_filled(GAP_PATIENCE)
        if self._turn is not None and self._may_turn():
            began = time.monotonic()
            with contextlib.suppress(OSError):
                self._turn.make()
                self.turned_s = time.monotonic() - began
                self.let_pass()
        self.reached.set()

    def _may_turn(self) -> bool:
        with self._lock:  # a checkpoint that has failed meanwhile needs no frames turned away
            return self._let_through is not None and (self._handed_on or not ALONE.is_set())


_gates: dict[str, Gate] = {}
_lock = threading.Lock()


def install() -> Path:
    """The action script's path; written if it is not there."""
    write_if_other(SCRIPT, _TEXT, 0o700)
    return SCRIPT


@contextlib.contextmanager
def closed(
    name: str, bundle: Path, port: str, turn: dict[str, Any] | None = None, *, handed_on: bool = False
) -> Iterator[Gate]:
    """While this is open, a checkpoint of the container stops at the gate until it is let through, or time is up.

    ``port`` is the container's on the bridge. ``turn``: ``bridge`` and ``messages`` that turn its frames away. When the
    switch has confirmed these the gate opens by itself. ``handed_on``: what follows needs no controller.
    """
    gate = _gate(name)
    try:
        with (
            contextlib.closing(Gaps(port)) as gaps,
            made_ready(turn) as ready,
            _watched(gate, bundle, lambda through: gate.open(gaps, ready, through, handed_on)),
        ):
            yield gate
    finally:
        with _lock:
            _gates.pop(name, None)
        gate.close()


@contextlib.contextmanager
def _watched(gate: Gate, bundle: Path, begin: Callable[[int], None]) -> Iterator[None]:
    paths = [bundle / FROZEN, bundle / PASS]
    _remove([*paths, bundle / FREEZING])
    for path in paths:
        os.mkfifo(path, 0o600)
    # Both ends are ours as well, so that neither the script nor this thread can block in open(2) (fifo(7)).
    frozen, let_through = (os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) for path in paths)
    ended, end = os.pipe2(os.O_CLOEXEC)
    begin(let_through)
    thread = threading.Thread(target=_listen, args=(gate, frozen, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(end)
        thread.join()
        gate.close()
        _remove(paths)
        for descriptor in (frozen, let_through, ended):
            os.close(descriptor)


def _listen(gate: Gate, frozen: int, ended: int) -> None:
    """Hears CRIU's script until the checkpoint ends."""
    told = b""
    while frozen in select.select([frozen, ended], [], [])[0]:
        *lines, told = (told + os.read(frozen, 256)).split(b"\n")
        for line in lines:
            gate.hear(line.decode())


def _gate(name: str) -> Gate:
    with _lock:
        return _gates.setdefault(name, Gate())


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


@verb
def freeze_wait(*, name: Name) -> dict[str, Any]:
    """Answers when the container is frozen and waits at the gate. May be asked before its checkpoint begins.

    ``frozen_at`` is None when the checkpoint ended without coming here, ``turned_s`` how long the node's switch took to
    turn the frames away; None when that is left to the controller, and ``freeze_pass`` has to follow.
    """
    gate = _gate(name)
    if not gate.reached.wait(remaining()):
        raise Failure("timeout", f"name: {name} has not been frozen")
    return {"frozen_at": gate.frozen_at, "turned_s": gate.turned_s}


@verb
def freeze_pass(*, name: Name) -> dict[str, Any]:
    """Lets a frozen container's checkpoint go on."""
    with _lock:
        gate = _gates.get(name)
    if gate is not None:
        gate.let_pass()
    return {"passed": gate is not None}
