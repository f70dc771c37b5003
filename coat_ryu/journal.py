"""What the controller must not forget: containers and migrations, in SQLite, written before they are acted on.

One row a container (its completed spec and the node it lives on) and one a migration (its record, and what recovery
needs besides it); and counters, whose numbers are on the disk before anybody uses them. Write-ahead logging with
``synchronous=FULL``: a row that was written survives a power cut (https://www.sqlite.org/wal.html).
"""

import fcntl
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_ryu.errors import CoatError
from coat_ryu.model import ContainerSpec
from coat_ryu.saga import Migration, unix_time

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS containers (name TEXT PRIMARY KEY, spec TEXT NOT NULL, node TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS migrations (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL, state TEXT NOT NULL, record TEXT NOT NULL, context TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS migrations_by_key ON migrations (json_extract(context, '$.key'));
CREATE TABLE IF NOT EXISTS identity (id INTEGER PRIMARY KEY CHECK (id = 0), journal TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS pulse (id INTEGER PRIMARY KEY, at TEXT);
CREATE INDEX IF NOT EXISTS migrations_by_state ON migrations (state);
CREATE INDEX IF NOT EXISTS migrations_by_container ON migrations (json_extract(record, '$.container'), serial);
CREATE INDEX IF NOT EXISTS migrations_by_end ON migrations (json_extract(record, '$.finished_at'));
"""
"""Without the indexes each end of a migration would look through all that are remembered: with 10,000 of them 100 ms
in which the event loop stands still."""


EPOCH, STARTS = "epoch", "starts"
"""Counters: of the epochs that fences carry (``node.fence``), and of the controllers that were started."""
LOCK_PATIENCE = 2.0

_TIMES = """
SELECT max(at) FROM (
    SELECT json_extract(record, '$.started_at') AS at FROM migrations
    UNION ALL SELECT json_extract(record, '$.finished_at') FROM migrations
    UNION ALL SELECT json_extract(step.value, '$.started_at') FROM migrations, json_each(record, '$.steps') AS step
)
"""
DAY_MS = 86_400_000

PORTION = 20
"""Records that are read at once where there may be many."""

_HAS_MOVED_SINCE = (
    "EXISTS (SELECT 1 FROM migrations AS later WHERE later.serial > migrations.serial"
    " AND json_extract(later.record, '$.container') = json_extract(migrations.record, '$.container'))"
)
_TOO_MANY = "max(0, (SELECT count(*) FROM migrations) - ?)"


class JournalError(CoatError):
    default_cause = "journal_failed"
    response = 503


@dataclass(frozen=True, slots=True)
class Resident:
    """A container that exists: its completed spec, and the node it was last known on."""

    spec: ContainerSpec
    node: str


@dataclass(frozen=True, slots=True)
class Reign:
    """One controller from its start to its end, as nodes know it (``node.master``): its journal, how often one was
    started with that, and something of this start alone.
    """

    journal: str
    start: int
    run: str

    @property
    def mark(self) -> str:
        return f"{self.journal}.{self.start}.{self.run}"


class Journal:
    """The file. Every method raises JournalError when it cannot be read or written.

    ``beside`` makes a call where its waiting for the disk holds up nobody but the caller. ``alone``: a controller's,
    which no second one may have.
    """

    def __init__(
        self, path: Path, beside: Callable[..., Any] = lambda call, *args: call(*args), *, alone: bool = False
    ) -> None:
        self.path = path
        self._beside = beside
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Never closed before the database is: that would give up SQLite's own locks (fcntl(2)).
            self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            if alone:
                self._lock()
            # whoever works beside does it in another thread
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                raise JournalError(
                    f"{path} has journal version {version}; this coat_ryu writes version {SCHEMA_VERSION}"
                )
            self._db.executescript(_SCHEMA + f"PRAGMA user_version={SCHEMA_VERSION};")
            self._db.execute("INSERT OR IGNORE INTO identity VALUES (0, ?)", (secrets.token_hex(16),))
            self._begin_counting()
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"the journal {path} cannot be opened: {error}") from error

    def _lock(self) -> None:
        """For as long as this process lives. One that is ending just now is waited for."""
        give_up = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise JournalError(
                        f"the journal {self.path} is that of a controller that runs: one journal is for one controller"
                    ) from None
                time.sleep(LOCK_PATIENCE / 20)

    def reign(self) -> Reign:
        """Who the controller is that starts now, for the nodes."""
        return Reign(self.identity, self.count(STARTS), secrets.token_hex(16))

    @property
    def identity(self) -> str:
        """Random, and this journal's and its copies' alone."""
        return str(self._do("SELECT journal FROM identity")[0][0])

    def succeed(self, identity: str, start: int) -> None:
        """This journal is made anew of one that was lost, with which controllers were started that often."""
        self._do("UPDATE identity SET journal = ?", identity)
        self.count(STARTS, start)

    def _begin_counting(self) -> None:
        """A journal that does not count yet is from when epochs were the milliseconds of its controller's clock: above
        all of these, and above what may have been said without a record.
        """
        if not self._db.execute("SELECT 1 FROM counters WHERE name = ?", (EPOCH,)).fetchone():
            newest = self._db.execute(_TIMES).fetchone()[0]
            spoken = 0 if newest is None else int(unix_time(newest) * 1000) + DAY_MS
            self._db.execute("INSERT OR IGNORE INTO counters VALUES (?, ?)", (EPOCH, spoken))

    def count(self, name: str, above: int = 0) -> int:
        """The counter's next number, higher than all before it and than ``above``."""
        statement = (
            "INSERT INTO counters VALUES (?1, ?2 + 1) ON CONFLICT (name)"
            " DO UPDATE SET value = max(value, ?2) + 1 RETURNING value"
        )
        return int(self._do(statement, name, above)[0][0])

    def busy_timeout(self, seconds: float) -> None:
        """How long a write waits for another process that holds the file."""
        self._do(f"PRAGMA busy_timeout={int(seconds * 1000)}")

    def check(self) -> None:
        """Writes a row, the only way to know that one can be written (a full disk). Raises JournalError."""
        self._do("INSERT OR REPLACE INTO pulse VALUES (0, datetime())")

    def residents(self) -> dict[str, Resident]:
        rows = self._do("SELECT name, spec, node FROM containers ORDER BY name")
        return {name: Resident(ContainerSpec.model_validate_json(spec), node) for name, spec, node in rows}

    def put_resident(self, spec: ContainerSpec, node: str) -> None:
        self._do("INSERT OR REPLACE INTO containers VALUES (?, ?, ?)", spec.name, spec.model_dump_json(), node)

    def drop_resident(self, name: str) -> None:
        """Forgets a container. What its last migration left undecided is no affair of a later one of the same name."""
        self._do(
            "UPDATE migrations SET context = json_set(context, '$.removed', json('true')) WHERE serial ="
            " (SELECT max(serial) FROM migrations WHERE json_extract(record, '$.container') = ?)",
            name,
        )
        self._do("DELETE FROM containers WHERE name = ?", name)

    def put_migration(self, migration: Migration, context: dict[str, Any]) -> None:
        """Writes the record. ``context`` is JSON that recovery needs and no reader of the record does."""
        self._do(
            "INSERT INTO migrations (id, state, record, context) VALUES (?, ?, ?, ?) ON CONFLICT (id)"
            " DO UPDATE SET state = excluded.state, record = excluded.record, context = excluded.context",
            migration.id,
            migration.state,
            migration.model_dump_json(),
            json.dumps(context),
        )

    def migration(self, identifier: str) -> Migration | None:
        rows = self._do("SELECT record FROM migrations WHERE id = ?", identifier)
        return Migration.model_validate_json(rows[0][0]) if rows else None

    def migrations(self) -> list[Migration]:
        """All records, the newest first."""
        return self.page()[0]

    def page(
        self,
        limit: int = -1,
        offset: int = 0,
        state: str | None = None,
        container: str | None = None,
        node: str | None = None,
    ) -> tuple[list[Migration], int]:
        """Records that fit, the newest first, and how many there are without ``limit`` (-1: none) and ``offset``.

        ``node`` is their source or their destination.
        """
        where = (
            " FROM migrations WHERE (?1 IS NULL OR state = ?1)"
            " AND (?2 IS NULL OR json_extract(record, '$.container') = ?2)"
            " AND (?3 IS NULL OR ?3 IN (json_extract(record, '$.source'), json_extract(record, '$.destination')))"
        )
        wanted = (state, container, node)
        total = self._do("SELECT count(*)" + where, *wanted)[0][0]
        rows = self._do("SELECT record" + where + " ORDER BY serial DESC LIMIT ?4 OFFSET ?5", *wanted, limit, offset)
        return [Migration.model_validate_json(record) for (record,) in rows], total

    def succeeded(self, mode: str, count: int) -> Iterator[Migration]:
        """The newest migrations of a mode that succeeded, few at a time: all at once they take 2 MB."""
        statement = (
            "SELECT record FROM migrations WHERE state = 'succeeded' AND json_extract(record, '$.mode') = ?"
            " ORDER BY serial DESC LIMIT ?"
        )
        try:
            found = self._beside(self._db.execute, statement, (mode, count))
            while rows := self._beside(found.fetchmany, PORTION):
                yield from (Migration.model_validate_json(record) for (record,) in rows)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def by_key(self, key: str) -> tuple[Migration, str] | None:
        """The migration that was begun under a key, and what was asked for with it."""
        columns = "record, json_extract(context, '$.request')"
        rows = self._do(f"SELECT {columns} FROM migrations WHERE json_extract(context, '$.key') = ?", key)
        return (Migration.model_validate_json(rows[0][0]), rows[0][1]) if rows else None

    def latest(self, container: str) -> Migration | None:
        """The container's newest migration."""
        rows = self._do(
            "SELECT record FROM migrations WHERE json_extract(record, '$.container') = ? ORDER BY serial DESC LIMIT 1",
            container,
        )
        return Migration.model_validate_json(rows[0][0]) if rows else None

    def outlived(self, container: str) -> bool:
        """Whether the newest migration of that name was of a container that has been removed since."""
        rows = self._do(
            "SELECT json_extract(context, '$.removed') FROM migrations WHERE json_extract(record, '$.container') = ?"
            " ORDER BY serial DESC LIMIT 1",
            container,
        )
        return bool(rows and rows[0][0])

    def newest(self, state: str, word: str = "") -> list[tuple[Migration, dict[str, Any]]]:
        """Of all containers' newest migrations those that ended in that state and have a word anywhere in their
        record, the oldest first.
        """
        rows = self._do(
            "SELECT record, context FROM migrations AS one WHERE state = ? AND instr(record, ?) AND NOT EXISTS"
            " (SELECT 1 FROM migrations AS later WHERE later.serial > one.serial"
            " AND json_extract(later.record, '$.container') = json_extract(one.record, '$.container')) ORDER BY serial",
            state,
            word,
        )
        return [(Migration.model_validate_json(record), json.loads(context)) for record, context in rows]

    def unfinished(self) -> list[tuple[Migration, dict[str, Any]]]:
        """Migrations that a controller left running, the oldest first."""
        rows = self._do("SELECT record, context FROM migrations WHERE state = 'running' ORDER BY serial")
        return [(Migration.model_validate_json(record), json.loads(context)) for record, context in rows]

    def prune(self, keep: int, finished_before: str = "") -> int:
        """Forgets finished migrations: all but the newest ``keep``, and those that ended before a time (RFC 3339, UTC).

        Returns how many went. What a container's last migration has left undecided is not forgotten by a date: the
        clock may have been set.
        """
        before = self._db.total_changes
        for which, bound in (
            (
                f"json_extract(record, '$.finished_at') < ? AND (state != 'failed' OR {_HAS_MOVED_SINCE})",
                finished_before,
            ),
            (f"serial IN (SELECT serial FROM migrations ORDER BY serial LIMIT {_TOO_MANY})", keep),
        ):
            self._do(f"DELETE FROM migrations WHERE state != 'running' AND {which}", bound)
        return self._db.total_changes - before

    def close(self) -> None:
        self._beside(self._db.close)
        os.close(self._file)

    def _do(self, statement: str, *values: str | int | None) -> list[Any]:
        try:
            return self._beside(self._fetch, statement, values)  # type: ignore[no-any-return]
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _fetch(self, statement: str, values: tuple[str | int | None, ...]) -> list[Any]:
        return self._db.execute(statement, values).fetchall()

    def _failed(self, error: sqlite3.Error) -> JournalError:
        return JournalError(f"the journal {self.path} cannot be used: {error}")
