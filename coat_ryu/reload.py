"""The topology while the controller runs: read anew, checked, compared, applied; the last good one stays in force."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

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
    """``adopters`` follow in their order. ``error`` says why the last change was not made; None when all is well."""

    def __init__(
        self,
        topology: Topology,
        path: Path | None,
        adopters: Sequence[Adopter],
        residents: Callable[[], Iterable[tuple[ContainerSpec, str]]],
        busy: Callable[[], set[str]],
    ) -> None:
        self.topology = topology
        self.error: str | None = None
        self._path = path
        self._adopters = adopters
        self._residents, self._busy = residents, busy
        self._lock = threading.Lock()

    @property
    def revision(self) -> str:
        return revision_of(self.topology)

    def from_file(self) -> None:
        """Takes up what the file says now; what cannot be is kept in ``error`` and logged."""
        try:
            if self._path is None:
                raise TopologyError("there is no topology file to read: [coat] topology names none")
            made = self._change(read_topology(self._path), None)
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
        topology = parse_topology(text, "the body")
        if dry_run:
            return self._checked(topology)
        return self._change(topology, text, revision)

    def _checked(self, topology: Topology) -> Changes:
        wanted = changes(self.topology, topology)
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
                write_topology(self._path, text)
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
    """All of it or nothing, with the mode of the file that was there. Raises NotWritten."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise NotWritten(
            f"the topology file {path} cannot be written: {error.strerror}; it must lie where the controller may write"
        ) from None
