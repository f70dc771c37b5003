"""The moment of the freeze, for whoever must act in it: CRIU waits while the overlay turns what still arrives away.

CRIU runs our action script at "pre-dump", before it freezes anything (criu(8), --action-script). The script tells this
hook so through a FIFO and waits at another. Now what opens a connection is turned to the hold, those that are being
opened come to their end, and the container is frozen (``settling``; ``freezer`` says why we do that). From then on the
frames can be redirected: it no longer answers, and none is lost yet. What its sockets still miss is waited for first
(``gaps``). Then the node turns its switch (``turn``), or else the controller does. Before CRIU closes the sockets to
the network it runs the script at "network-lock", where it waits until all that is done. All waits have an end: a
controller that dies in between costs the container a moment, not its life.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from coat_ryu.node import freezer, options, settling, state, steady
from coat_ryu.node.failure import Failure
from coat_ryu.node.gaps import Gaps
from coat_ryu.node.podman import Place
from coat_ryu.node.process import remaining, write_if_other
from coat_ryu.node.readable import readable
from coat_ryu.node.settling import Settled
from coat_ryu.node.turn import Turn, made_ready
from coat_ryu.node.verbs import Name, Text, verb

SCRIPT = Path("/run/coat/criu-action")
PATIENCE = 10.0
"""Seconds that a frozen container waits to be let through. Then the checkpoint fails and it runs on: if its sockets
went while frames still come, the kernel would answer those with RST (RFC 9293, section 3.5.2).
"""
GAP_PATIENCE = 0.1
"""Seconds that a frozen container is given for the gaps in its connections."""
IN_FLIGHT = "connections_in_flight"
"""The cause of a failure that is none of the container's: it has connections that are being opened. Try again."""
ALONE = threading.Event()
"""Set when the controller's connection has ended."""
KEPT = 256
"""Gates of checkpoints that have ended, for whoever asks late."""
ARRIVED, PASS = "coat-arrived", "coat-pass"
"""Two FIFOs: what the script says, and what it waits for."""
GO_ON, TURN_BACK = b".", b"x"

# CRTOOLS_IMAGE_DIR is the checkpoint's directory, as /proc/PID/fd/N when the runtime has opened it (hence -P). The
# FIFOs lie beside it, and only while somebody waits at the gate; one that was killed there reads nothing, so none is
# opened for writing alone, which waits for a reader (fifo(7)).
_TEXT = f"""#!/bin/sh
case "$CRTOOLS_SCRIPT_ACTION" in pre-dump|network-lock) ;; *) exit 0 ;; esac
cd -P "$CRTOOLS_IMAGE_DIR/.." && [ -p {ARRIVED} ] || exit 0
echo "$CRTOOLS_SCRIPT_ACTION ${{CRTOOLS_INIT_PID:-0}}" 1<>{ARRIVED}
[ "$(timeout {PATIENCE:g} head -c 1 {PASS})" = {GO_ON.decode()} ]
"""


class Gate:
    """One checkpoint's. ``reached`` is set when the container is frozen, or when it is clear that it will not be.

    ``gaps_s`` is how long it was given to fill gaps, ``gaps_left`` how many connections had one when it was let
    through. ``turned_s`` is how long the node took to turn its switch, None when it did not. A node that is ``alone``
    turns it only if what follows was handed to it as well: else nobody would, and the container runs on instead.
    ``refusal`` is why the container was not frozen. ``kept`` is set when what CRIU forgets has been written down
    (``options``), which is done while CRIU is at work.
    """

    def __init__(self, attempt: str | None = None) -> None:
        self.attempt = attempt
        self.reached, self.kept = threading.Event(), threading.Event()
        self.frozen_at: float | None = None
        self.gaps_s = 0.0
        self.gaps_left = 0
        self.turned_s: float | None = None
        self.refusal: Failure | None = None
        self._settled: Settled | None = None
        self._place: Place | None = None
        self._options: dict[str, Any] = {}
        self._gaps: Gaps | None = None
        self._turn: Turn | None = None
        self._handed_on = False
        self._let_through: int | None = None
        self._waiting_since = self._passed_at = 0.0
        self._lock = threading.Lock()
        self._work: threading.Thread | None = None

    def as_json(self) -> dict[str, Any]:
        """For the record; ``gate_s`` is how long CRIU stood still until it was let through, in seconds."""
        known = self._passed_at and self._waiting_since
        waited = max(0.0, self._passed_at - self._waiting_since) if known else 0.0
        told: dict[str, Any] = {"gate_s": waited, "gaps_s": self.gaps_s, "gaps_left": self.gaps_left}
        if self._settled is not None:
            left = self._settled.left
            told |= {"settle_s": self._settled.waited, "freezes": self._settled.tries}
            told |= {"half_open": left.half_open, "leaving": left.leaving}
        return told | self._options

    def open(
        self, gaps: Gaps, turn: Turn | None, let_through: int, handed_on: bool = False, where: Place | None = None
    ) -> None:
        """From here on it can be passed: by a byte written to ``let_through``. ``where`` is the container's place."""
        with self._lock:
            self._gaps, self._turn, self._let_through = gaps, turn, let_through
            self._handed_on, self._place = handed_on, where

    def close(self) -> None:
        with self._lock:
            self._gaps = self._let_through = None
        if self._work is not None:
            self._work.join()
        if self._turn is not None and self.turned_s is None:
            with contextlib.suppress(OSError):  # then the controller puts it right
                self._turn.unsift()
        self._turn = None
        self.reached.set()
        self.kept.set()

    def let_pass(self) -> None:
        with self._lock:
            if self._gaps is not None and self._let_through is not None and not self._passed_at:
                self.gaps_left = self._gaps.count()
                self._passed_at = steady.now()
                os.write(self._let_through, GO_ON)

    def hear(self, what: str, pid: int = 0) -> None:
        """Where the script is: the name of its action, and the container's first process."""
        assert self._gaps is not None
        if what == "pre-dump":
            self._begin(self._prepare, self._gaps, pid)
        elif what == "network-lock":
            self._waiting_since = steady.now()
            if self.frozen_at is None:  # there was no freezer: by now CRIU has frozen all
                self.frozen_at = self._waiting_since
                self._begin(self._fill, self._gaps, pid)

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        self._work = threading.Thread(target=work, args=arguments, daemon=True)
        self._work.start()

    def _prepare(self, gaps: Gaps, pid: int) -> None:
        """Freezes the container when none of its connections is being opened."""
        own = freezer.directory(pid, self._place.id if self._place else "")
        if own is None:
            return self._answer(GO_ON)
        gaps.count()  # what was said long before goes, so that what is said in the freeze finds room
        look, end = settling.looking(pid)
        try:
            quiet = settling.QUIET if self._sift() else 0.0
            settled = self._settled = settling.freeze(own, look, quiet, self._is_open)
        except OSError:  # it has ended
            return self._answer(GO_ON)
        finally:
            end()
        if settled.left.unaccepted:
            freezer.set_frozen(own, False)
            ports = ", ".join(map(str, settled.left.unaccepted))
            said = f"name: it does not accept its connections at port {ports}, and CRIU cannot move those"
            self.refusal = Failure(IN_FLIGHT, said)
            return self._answer(TURN_BACK)
        self.frozen_at = settled.frozen_at
        self._answer(GO_ON)
        self._fill(gaps, pid)

    def _answer(self, word: bytes) -> None:
        with self._lock:
            if self._let_through is not None:
                os.write(self._let_through, word)

    def _is_open(self) -> bool:
        return self._let_through is not None

    @property
    def ended(self) -> bool:
        """Whether nobody can be let through any more."""
        return self.reached.is_set() and self._let_through is None

    def _sift(self) -> bool:
        """What opens a connection goes to the hold from now on. Whether the switch has said so."""
        try:
            return self._turn is not None and self._may_turn() and self._turn.sift()
        except OSError:
            return False

    def _fill(self, gaps: Gaps, pid: int) -> None:
        self.gaps_s = gaps.wait_until_filled(GAP_PATIENCE)
        if self._turn is not None and self._may_turn():
            began = time.monotonic()
            with contextlib.suppress(OSError):
                self._turn.make()
                self.turned_s = time.monotonic() - began
                self.let_pass()
        self.reached.set()
        if pid and self._place is not None:
            self._options = options.keep(pid, self._place.bundle / state.CHECKPOINT)
        self.kept.set()

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
def announced(name: str, attempt: str | None) -> Iterator[Gate]:
    """Around the whole of a checkpoint: whoever waits for its freeze hears that it has ended, however early.

    One that names its ``attempt`` is remembered, for who asks about the same attempt afterwards.
    """
    gate = _gate(name, attempt)
    try:
        yield gate
    finally:
        gate.close()
        with _lock:
            if attempt is None and _gates.get(name) is gate:
                del _gates[name]
            ended = [one for one, known in _gates.items() if known.reached.is_set()]
            for one in ended[: len(_gates) - KEPT]:
                del _gates[one]


@contextlib.contextmanager
def closed(
    gate: Gate,
    where: Place,
    port: str,
    turn: dict[str, Any] | None = None,
    *,
    handed_on: bool = False,
) -> Iterator[Gate]:
    """While this is open, a checkpoint of the container stops at the gate until it is let through, or time is up.

    ``port`` is the container's on the bridge. ``turn``: ``bridge`` and ``messages`` that turn its frames away. When the
    switch has confirmed these the gate opens by itself. ``handed_on``: what follows needs no controller.
    """
    with (
        contextlib.closing(Gaps(port)) as gaps,
        made_ready(turn) as ready,
        _watched(gate, where.bundle, lambda through: gate.open(gaps, ready, through, handed_on, where)),
    ):
        yield gate


@contextlib.contextmanager
def _watched(gate: Gate, bundle: Path, begin: Callable[[int], None]) -> Iterator[None]:
    paths = [bundle / ARRIVED, bundle / PASS]
    _remove(paths)
    for path in paths:
        os.mkfifo(path, 0o600)
    # Both ends are ours as well, so that neither the script nor this thread can block in open(2) (fifo(7)).
    arrived, let_through = (os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) for path in paths)
    ended, end = os.pipe2(os.O_CLOEXEC)
    begin(let_through)
    thread = threading.Thread(target=_listen, args=(gate, arrived, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(end)
        thread.join()
        gate.close()
        _remove(paths)
        for descriptor in (arrived, let_through, ended):
            os.close(descriptor)


def _listen(gate: Gate, arrived: int, ended: int) -> None:
    """Hears CRIU's script until the checkpoint ends."""
    told = b""
    while arrived in readable([arrived, ended], None):
        *lines, told = (told + os.read(arrived, 256)).split(b"\n")
        for line in lines:
            what, _, pid = line.decode().partition(" ")
            gate.hear(what, int(pid or 0))


def _gate(name: str, attempt: str | None) -> Gate:
    with _lock:
        known = _gates.get(name)
        if known is None or known.attempt != attempt:
            known = _gates[name] = Gate(attempt)
        return known


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


@verb
def freeze_wait(*, name: Name, attempt: Text | None = None) -> dict[str, Any]:
    """Answers when the container is frozen and waits at the gate. May be asked before its checkpoint begins and, with
    the ``attempt`` that its checkpoint names too, after it has ended.

    ``frozen_at`` is None when the checkpoint ended without coming here, ``turned_s`` how long the node's switch took to
    turn the frames away; None when that is left to the controller, and ``freeze_pass`` has to follow.
    """
    gate = _gate(name, attempt)
    if not gate.reached.wait(remaining()):
        raise Failure("timeout", f"name: {name} has not been frozen")
    return {"frozen_at": gate.frozen_at, "turned_s": gate.turned_s}


@verb
def freeze_pass(*, name: Name) -> dict[str, Any]:
    """Lets a frozen container's checkpoint go on."""
    with _lock:
        gate = _gates.get(name)
    passed = gate is not None and not gate.ended
    if gate is not None:
        gate.let_pass()
    return {"passed": passed}
