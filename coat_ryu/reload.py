"""The topology while the controller runs: read anew, checked, compared, applied; the last good one stays in force."""

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from coat_ryu.answers import PreconditionFailed
from coat_ryu.config import parse_topology
from coat_ryu.errors import CoatError, Conflict, TopologyError
from coat_ryu.model import ContainerSpec, Topology
from coat_ryu.revision import Changes, changes, obstacles, orphans, revision_of

LOG = logging.getLogger(__name__)


class Adopter(Protocol):
    """Whoever follows the topology."""

    def adopt(self, topology: Topology) -> None: ...


class NotWritten(CoatError):
    default_cause = "topology_not_written"
    response = 503


class Reload:
    """``adopters`` follow in their order. ``beside`` makes a call where the time it takes holds up nobody but the
    caller: a large file takes long to read, and the disk some time to have it. ``error`` says why the last change was
    not made; None when all is well.
    """

    def __init__(
        self,
        topology: Topology,
        path: Path | None,
        adopters: Sequence[Adopter],
        residents: Callable[[], Iterable[tuple[ContainerSpec, str]]],
        busy: Callable[[], set[str]],
        beside: Callable[..., Any] = lambda call, *args: call(*args),
    ) -> None:
        self.topology = topology
        self.error: str | None = None
        self._path = path
        self._adopters = adopters
        self._residents, self._busy = residents, busy
        self._beside = beside
        self._lock = threading.Lock()

    @property
    def revision(self) -> str:
        return revision_of(self.topology)

    def from_file(self) -> None:
        """Takes up what the file says now; what cannot be is kept in ``error`` and logged."""
        try:
            if self._path is None:
                raise TopologyError("there is no topology file to read: [coat] topology names none")
            made = self._change(self._beside(read_topology, self._path), None)
            LOG.info("the topology was read anew: %s", made.model_dump_json(exclude_defaults=True))
        except CoatError as error:
            self.error = str(error)
            LOG.error("the topology was not changed, the last good one stays: %s", error)

    def replace(self, text: str, dry_run: bool, revision: str | None = None) -> Changes:
        """Makes a text the topology, and writes it to the file. ``dry_run`` only says what would change. Only a
        topology of that ``revision`` is replaced, where one is named.

        Raises TopologyError, Conflict (containers are in the way), PreconditionFailed or NotWritten; then nothing has
        changed.
        """
        topology: Topology = self._beside(parse_topology, text, "the body")
        if dry_run:
            return self._checked(topology)
        return self._change(topology, text, revision)

    def _checked(self, topology: Topology) -> Changes:
        wanted: Changes = self._beside(changes, self.topology, topology)
        reasons = list(obstacles(wanted, self._residents(), self._busy()))
        if reasons:
            raise Conflict("; ".join(reasons), cause="topology_in_use")
        return wanted

    def _change(self, topology: Topology, text: str | None, revision: str | None = None) -> Changes:
        with self._lock:
            if revision not in (None, self.revision):
                raise PreconditionFailed(f"If-Match: somebody was faster; the topology has {self.revision} now")
            wanted = self._checked(topology)
            if text is not None and self._path is not None:
                self._beside(write_topology, self._path, text)
            self.topology, self.error = topology, None
            if wanted.any:
                for adopter in self._adopters:
                    adopter.adopt(topology)
            return wanted


def read_topology(path: Path) -> Topology:
    """Raises TopologyError."""
    try:
        return parse_topology(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{path}: cannot be read: {error}") from None


def refuse_orphans(topology: Topology, residents: Iterable[tuple[ContainerSpec, str]]) -> None:
    """Raises TopologyError when the journal knows containers that a topology leaves without a place."""
    lost = list(orphans(topology, residents))
    if lost:
        raise TopologyError("; ".join(lost) + "; put it back, or move or remove them under the old topology first")


def write_topology(path: Path, text: str) -> None:
    """All of it or nothing, with the mode of the file that was there; where a link points to. Raises NotWritten."""
    part = None
    try:
        target = path.resolve()
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        # a name that nobody can foresee, and put a link of theirs there
        opened, part = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(opened, "w") as file:
            os.fchmod(opened, mode)
            file.write(text)
            file.flush()
            os.fsync(opened)
        os.replace(part, target)
    except OSError as error:
        if part is not None:
            with contextlib.suppress(OSError):
                os.unlink(part)
        raise NotWritten(
            f"the topology file {path} cannot be written: {error.strerror}; it must lie where the controller may write"
        ) from None
