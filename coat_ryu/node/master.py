"""One controller: a node is changed by the controller of its own journal alone, and of its latest start.

A controller says on its connection who it is (``obey``): its journal's identity, how often one was started with that
journal, and something of this start alone. Another journal's is refused, and so is an earlier start, for that is a
controller that was thought dead, or one with a copy of the journal: until it is told to take the node over. Each
request but those that only look is compared with what the node obeys now, so whoever was in command before is so no
more from the next request on.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from coat_ryu.node import vswitch
from coat_ryu.node.failure import Failure
from coat_ryu.node.verbs import Ifname, Rule, verb

FILE = Path("/run/coat/master")
"""Gone after a reboot; the bridge remembers it then."""

REFUSED, NOT_TOLD = "other_controller", "not_told"
"""``not_told``: a connection is not complete before its controller has said who it is."""

LOOKING = frozenset(
    ("obey", "hello", "clock", "reach", "epoch_heard", "image_inspect", "memory_features", "residue_list")
    + ("container_inspect", "container_list", "container_needs", "obeyed")
)
"""Verbs that change nothing: anybody who got in may look."""

Id = Annotated[str, Rule(r"[0-9a-f]{32}", "32 hex digits")]


@dataclass(frozen=True, slots=True)
class Master:
    """Who commands: a journal, the number of the start with it, and what tells two starts of one number apart."""

    journal: str
    start: int
    run: str

    def __str__(self) -> str:
        return f"journal {self.journal[:8]}, start {self.start}"

    def as_text(self) -> str:
        return f"{self.journal}.{self.start}.{self.run}"

    @classmethod
    def parse(cls, text: str) -> "Master | None":
        """None for what nobody can have written whole."""
        try:
            journal, start, run = text.strip().strip('"').split(".")
            return cls(journal, int(start), run)
        except ValueError:
            return None


def objection(known: Master | None, new: Master) -> str | None:
    """Why the node does not obey a newcomer, None if it does."""
    if known is None or known == new or (known.journal == new.journal and known.start < new.start):
        return None
    if known.journal != new.journal:
        return f"this node obeys the controller of another journal ({known}), not this one ({new})"
    if known.start > new.start:
        return (
            f"this node has heard a later controller of this journal ({known}), and this is {new}: "
            "the journal is a copy, or was restored"
        )
    return f"this node obeys another controller with a copy of this journal ({known})"


class Allegiance:
    """Whom the node obeys, and who is at the other end of this hook's connection."""

    def __init__(self, file: Path = FILE, of_bridge: Callable[[str], str] = vswitch.master_of) -> None:
        self._file, self._of_bridge = file, of_bridge
        self._ours: Master | None = None

    def obey(self, bridge: str, new: Master, take_over: bool) -> Master | None:
        """Returns who was obeyed before. Raises Failure."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            known = self.known() or Master.parse(self._of_bridge(bridge))
            reason = objection(known, new)
            if reason is not None and not take_over:
                raise Failure(REFUSED, reason)
            part = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            part.write_text(new.as_text())
            part.replace(self._file)
            self._ours = new
        return known

    def known(self) -> Master | None:
        try:
            return Master.parse(self._file.read_text(errors="replace"))
        except FileNotFoundError:
            return None

    def check(self, name: object) -> None:
        """Raises Failure when a verb would change something, and it is not this connection's controller to say so."""
        known = None if isinstance(name, str) and name in LOOKING else self.known()
        if known is not None and known != self._ours:
            said = "one that has not said who it is" if self._ours is None else f"{self._ours}"
            cause = NOT_TOLD if self._ours is None else REFUSED
            raise Failure(cause, f"{name}: this node obeys another controller ({known}), not {said}")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self._file.with_name(f"{self._file.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


OURS = Allegiance()


@verb
def obey(*, bridge: Ifname, journal: Id, start: int, run: Id, take_over: bool = False) -> dict[str, Any]:
    """From now on this node is changed by nobody but this connection's controller; ``before``: whom it obeyed."""
    before = OURS.obey(bridge, Master(journal, start, run), take_over)
    return {"before": None if before is None else str(before)}


@verb
def obeyed(*, bridge: Ifname) -> dict[str, Any] | None:
    """``journal`` and ``start`` of the controller that this node obeys; None if none has claimed it."""
    known = OURS.known() or Master.parse(vswitch.master_of(bridge))
    return None if known is None else {"journal": known.journal, "start": known.start}
