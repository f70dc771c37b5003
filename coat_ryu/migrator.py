"""Migrations as they are asked for: which may begin, which are under way, which were left by an earlier controller.

How one goes is the ``runner``'s affair.
"""

import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coat_ryu import recovery
from coat_ryu.config import MigrateRequest, MigrationsQuery
from coat_ryu.containers import Containers
from coat_ryu.errors import CoatError, Conflict, NotFound
from coat_ryu.fabric import Fabric
from coat_ryu.journal import Journal
from coat_ryu.model import ContainerSpec, Topology
from coat_ryu.moves import Move, fresh_mac
from coat_ryu.nodes import Nodes, Site
from coat_ryu.runner import Runner
from coat_ryu.saga import Migration, timestamp, unix_time
from coat_ryu.voice import Voice

LOG = logging.getLogger(__name__)

AGAIN = (15.0, 30.0, 60.0, 120.0, 240.0)
"""Seconds after which a migration that failed is taken up again though neither node was away, as often as there are."""


class Migrator:
    def __init__(
        self,
        topology: Topology,
        nodes: Nodes,
        containers: Containers,
        fabric: Fabric,
        journal: Journal,
        runner: Runner,
    ) -> None:
        self._topology = topology
        self._nodes = nodes
        self._containers = containers
        self._fabric = fabric
        self._journal = journal
        self.runner = runner
        self._tries: dict[str, int] = {}
        runner.on_failed = self._later
        self._keys: dict[str, tuple[threading.Lock, int]] = {}

    def adopt(self, topology: Topology) -> None:
        """Migrations that begin from now on are of this topology."""
        self._topology = topology

    def busy(self) -> set[str]:
        """Nodes that a migration under way needs."""
        return {
            name for move in self.runner.under_way.values() for name in (move.record.source, move.record.destination)
        }

    def migrate(self, request: MigrateRequest, key: str | None = None, who: str | None = None) -> Migration:
        """Checks what can be checked at once and starts the migration. Raises NotFound or Conflict; then nothing has
        changed.

        ``key`` is the caller's name for this very request: with one that is known already, nothing is begun and the
        record that it stands for comes back. ``who`` asks.
        """
        with self._only(key):
            return self._known(request, key) or self._begin(request, key, who)

    @contextmanager
    def _only(self, key: str | None) -> Iterator[None]:
        """A request that is sent again while the first is being looked at waits, and finds what that has begun."""
        if key is None:
            yield
            return
        lock, users = self._keys.get(key, (threading.Lock(), 0))
        self._keys[key] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            lock, users = self._keys.pop(key)
            if users > 1:
                self._keys[key] = lock, users - 1

    def _begin(self, request: MigrateRequest, key: str | None, who: str | None) -> Migration:
        resident = self._containers.resident(request.container)
        self._nodes.site(request.to, "to")
        if resident.node == request.to:
            raise Conflict(f"to: {request.container} is on {request.to} already", cause="already_there")
        source = self._nodes.ready(resident.node, "container")
        self._nodes.ready(request.to, "to")
        self._containers.take(request.container, "migrating")
        try:
            if self._containers.resident(request.container) != resident:
                raise Conflict(f"container: {request.container} has been moved or made anew this moment")
            here = source.call("container_inspect", {"name": request.container}).result
            if here is None or here["state"] != "running":
                state = "missing" if here is None else here["state"]
                message = f"container: {request.container} is {state} on {resident.node}; only a running one can move"
                raise Conflict(message, cause="not_running")
            record = Migration(
                id=secrets.token_hex(8),
                container=request.container,
                source=resident.node,
                destination=request.to,
                mode=request.mode,
                mac=request.mac,
                memory=request.memory,
                started_at=timestamp(self.runner.wall()),
                requested_by=who,
            )
            new_mac = fresh_mac() if request.mac == "renew" else str(resident.spec.mac)
            move = self._move(record, resident.spec, new_mac)
            move.key = None if key is None else (key, _fingerprint(request))
            self.runner.save(move)
        except CoatError:
            self._containers.give_back(request.container)
            raise
        self.runner.start(move, self.runner.forward)
        return record

    def _move(self, record: Migration, spec: ContainerSpec, new_mac: str) -> Move:
        age = max(record.latest(), self.runner.wall()) - unix_time(record.started_at)
        return Move(
            record=record,
            spec=spec,
            new_mac=new_mac,
            source=self._nodes.site(record.source),
            destination=self._nodes.site(record.destination),
            containers=self._containers,
            fabric=self._fabric,
            inner_mtu=self._topology.inner_mtu,
            hold_packets=self.runner.limits.hold_packets if self.runner.limits.hold else 0,
            hold_bytes=self.runner.limits.hold_bytes,
            voice=Voice(record.container, self._journal),
            since=self.runner.clock() - age,
            bulk=self.runner.limits.step_timeout,
            repair_mss=self.runner.limits.repair_mss,
        )

    def _known(self, request: MigrateRequest, key: str | None) -> Migration | None:
        """The migration that was begun with this key. Raises Conflict when that was another request."""
        found = None if key is None else self._journal.by_key(key)
        if found is None:
            return None
        record, fingerprint = found
        if fingerprint != _fingerprint(request):
            message = f"Idempotency-Key: {key} stands for another request already, that of migration {record.id}"
            raise Conflict(message, cause="key_reused")
        return self.migration(record.id)

    def wait(self, migration: Migration) -> Migration:
        """The finished record. Every step has a timeout, so this ends."""
        move = self.runner.under_way.get(migration.id)
        if move is not None:
            move.finished.wait()
        return self.migration(migration.id)

    def move(self, identifier: str) -> Move | None:
        """The migration's move, while it is under way."""
        return self.runner.under_way.get(identifier)

    def migration(self, identifier: str) -> Migration:
        move = self.runner.under_way.get(identifier)
        found = move.record if move else self._journal.migration(identifier)
        if found is None:
            raise NotFound(f"there is no migration {identifier!r}", cause="no_such_migration")
        return found

    def migrations(self) -> list[Migration]:
        """All records, the newest first; those under way as they are this moment."""
        return self.page(MigrationsQuery())[0]

    def page(self, wanted: MigrationsQuery) -> tuple[list[Migration], int]:
        """The records that are wanted, and how many there are without ``limit`` and ``offset``."""
        found, total = self._journal.page(
            -1 if wanted.limit is None else wanted.limit, wanted.offset, wanted.state, wanted.container, wanted.node
        )
        return [self._as_it_is(record) for record in found], total

    def _as_it_is(self, record: Migration) -> Migration:
        move = self.runner.under_way.get(record.id)
        return move.record if move else record

    def abort(self, identifier: str) -> Migration:
        """Asks a migration to go back. Raises Conflict when it is past the point where it could."""
        record = self.migration(identifier)
        move = self.runner.under_way.get(identifier)
        if move is None or record.state != "running":
            raise Conflict(f"migration {identifier} has {record.state} already", cause="already_finished")
        if record.past_pivot or move.handed_ahead.is_set():
            raise Conflict(f"migration {identifier} is restoring already; it can only go forward", cause="past_pivot")
        move.abort.set()
        return record

    # ---- what a controller before this one left

    def recover(self) -> None:
        """Takes up every migration that the journal says is unfinished, and those that failed: their container's state
        is not known. Called before the switches are touched.
        """
        homes = self._containers.homes()
        for record, context in self._journal.newest("failed"):
            if record.container in homes and not context.get("removed"):
                self._containers.ended(record)
        failed = recovery.undecided(self._journal, homes, self._nodes.sites)
        for record, context in [*self._journal.unfinished(), *failed]:
            self._take_up(record, context)
        for node, container in recovery.owed(self._journal):
            if node in self._nodes.sites:
                self._containers.sweeper.owe(self._nodes.sites[node], container)

    def on_ready(self, site: Site) -> None:
        """A node is back: what failed because it was away is taken up again when both are there."""

        self._tries.clear()  # patience anew, also for those whose container somebody works on now
        self._take_up_failed(lambda record: site.node.name in (record.source, record.destination))

    def _take_up_failed(self, which: Callable[[Migration], bool]) -> None:
        try:
            failed = recovery.undecided(self._journal, self._containers.homes(), self._nodes.sites)
        except CoatError as error:
            LOG.warning("no failed migration is taken up: %s", error)
            return
        for record, context in failed:
            ends = [self._nodes.sites[name] for name in (record.source, record.destination)]
            if which(record) and all(end.ready for end in ends):  # else the one's return will do
                try:
                    self._take_up(record, context)
                except CoatError as error:  # the journal; or somebody works on the container
                    LOG.warning("migration %s stays failed for now: %s", record.id, error)
                    self._later(record)

    def _later(self, record: Migration) -> None:
        tries = self._tries.get(record.id, 0)
        if tries < len(AGAIN):
            self._tries[record.id] = tries + 1
            timer = threading.Timer(AGAIN[tries], self._try_again, (record.id,))
            timer.daemon = True
            timer.start()

    def _try_again(self, identifier: str) -> None:
        self._take_up_failed(lambda record: record.id == identifier)

    def _take_up(self, record: Migration, context: recovery.Context) -> None:
        """Raises Conflict."""
        move = self._move(record, ContainerSpec.model_validate_json(context["spec"]), context["new_mac"])
        move.key = (context["key"], context["request"]) if "key" in context else None
        if "failed_of" in context:
            cause, message = context["failed_of"]
            move.failed_of = CoatError(message, cause=cause)
        self._containers.take(record.container, "migrating")
        try:
            if record.state == "failed" and not self._is_undecided(record):
                raise Conflict(f"{record.container} has been removed or moved meanwhile")
            record.state, record.error, record.finished_at, record.duration_s = "running", None, None, None
            self._containers.ended(record)
            self._fabric.bind(move.binding_now())
        except CoatError:
            self._containers.give_back(record.container)
            raise
        LOG.warning("migration %s of %s was left unfinished and is taken up", record.id, record.container)
        self.runner.start(move, self.runner.resume)

    def _is_undecided(self, record: Migration) -> bool:
        """Asked when nobody else can change it any more."""
        found = recovery.undecided(self._journal, self._containers.homes(), self._nodes.sites)
        return record.id in (one.id for one, _ in found)


def _fingerprint(request: MigrateRequest) -> str:
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()
