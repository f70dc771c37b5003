"""Runs migrations: asks the saga what is next, does it, writes it down.

A step's intention is in the journal before the step is begun and its result after; see ``recovery`` for what
becomes of a migration whose controller died.
"""

import hashlib
import logging
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from coat_ryu import logs, recovery, saga, steps
from coat_ryu.config import MigrateRequest, MigrationsQuery
from coat_ryu.containers import Containers
from coat_ryu.errors import CoatError, Conflict, MemoryLost, NotFound
from coat_ryu.fabric import Fabric
from coat_ryu.feed import Tell, silent
from coat_ryu.journal import Journal, JournalError
from coat_ryu.model import ContainerSpec, Topology
from coat_ryu.moves import BULK, Ahead, Move, Tally, fresh_mac
from coat_ryu.nodes import Nodes, Site
from coat_ryu.prediction import error as error_of
from coat_ryu.saga import Batch, Failure, Migration, Predicted, StepRecord, timestamp, unix_time

LOG = logging.getLogger(__name__)

ATTEMPTS = 8
RETRY_FIRST, RETRY_LAST = 0.5, 8.0
"""How often a step that must succeed is tried, and the seconds before its second attempt, doubled up to the last."""

RECOVERY_PATIENCE = 60.0
"""Seconds that a controller that starts anew waits for the two nodes of a migration that it finds unfinished."""

KEEP_RECORDS = 10_000
DAY = 86_400


class Aborted(CoatError):
    default_cause = "aborted"
    response = 409


class Interrupted(CoatError):
    default_cause = "interrupted"
    response = 503


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what one migration may hold back, of how many may involve one node at once, of the seconds that a
    checkpoint, a transfer or a restore may take, and of how long migrations that ended are remembered.
    """

    hold_packets: int = 20_000
    hold_bytes: int = 64 << 20
    per_node: int = 4
    step_timeout: float = BULK
    keep_days: float = 90
    hold: bool = True
    repair_mss: bool = True


class Migrator:
    def __init__(
        self,
        topology: Topology,
        nodes: Nodes,
        containers: Containers,
        fabric: Fabric,
        journal: Journal,
        limits: Limits,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._topology = topology
        self._nodes = nodes
        self._containers = containers
        self._fabric = fabric
        self._journal = journal
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._moves: dict[str, Move] = {}
        self._slots: dict[str, threading.BoundedSemaphore] = defaultdict(
            lambda: threading.BoundedSemaphore(limits.per_node)
        )
        self.on_end: Callable[[Migration], None] = lambda migration: None
        self.predict: Callable[[Migration], Predicted | None] = lambda migration: None
        self.tell: Tell = silent

    def adopt(self, topology: Topology) -> None:
        """Migrations that begin from now on are of this topology."""
        self._topology = topology

    def busy(self) -> set[str]:
        """Nodes that a migration under way needs."""
        return {name for move in self._moves.values() for name in (move.record.source, move.record.destination)}

    def migrate(self, request: MigrateRequest, key: str | None = None) -> Migration:
        """Checks what can be checked at once and starts the migration. Raises NotFound or Conflict; then nothing has
        changed.

        ``key`` is the caller's name for this very request: with one that is known already, nothing is begun and the
        record that it stands for comes back.
        """
        known = self._known(request, key)
        if known is not None:
            return known
        resident = self._containers.resident(request.container)
        self._nodes.site(request.to, "to")
        if resident.node == request.to:
            raise Conflict(f"to: {request.container} is on {request.to} already", cause="already_there")
        source = self._nodes.ready(resident.node, "container")
        self._nodes.ready(request.to, "to")
        self._containers.take(request.container, "migrating")
        try:
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
                started_at=timestamp(self._clock()),
            )
            new_mac = fresh_mac() if request.mac == "renew" else str(resident.spec.mac)
            move = self._move(record, resident.spec, new_mac)
            move.key = None if key is None else (key, _fingerprint(request))
            self._save(move)
        except CoatError:
            self._containers.give_back(request.container)
            raise
        self._start(move, self._forward)
        return record

    def _move(self, record: Migration, spec: ContainerSpec, new_mac: str) -> Move:
        return Move(
            record=record,
            spec=spec,
            new_mac=new_mac,
            source=self._nodes.site(record.source),
            destination=self._nodes.site(record.destination),
            containers=self._containers,
            fabric=self._fabric,
            inner_mtu=self._topology.inner_mtu,
            hold_packets=self._limits.hold_packets if self._limits.hold else 0,
            hold_bytes=self._limits.hold_bytes,
            epoch=self._epoch(),
            bulk=self._limits.step_timeout,
            repair_mss=self._limits.repair_mss,
        )

    def _start(self, move: Move, way: Callable[[Move], None]) -> None:
        self._moves[move.record.id] = move
        move.thread = threading.Thread(target=self._run, args=(move, way), daemon=True)
        move.thread.start()

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
        move = self._moves.get(migration.id)
        if move is not None:
            move.finished.wait()
        return self.migration(migration.id)

    def move(self, identifier: str) -> Move | None:
        """The migration's move, while it is under way."""
        return self._moves.get(identifier)

    def migration(self, identifier: str) -> Migration:
        move = self._moves.get(identifier)
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
        return [self._moves[record.id].record if record.id in self._moves else record for record in found], total

    def abort(self, identifier: str) -> Migration:
        """Asks a migration to go back. Raises Conflict when it is past the point where it could."""
        record = self.migration(identifier)
        move = self._moves.get(identifier)
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
        failed = recovery.undecided(self._journal, self._containers.homes(), self._nodes.sites)
        for record, context in [*self._journal.unfinished(), *failed]:
            self._take_up(record, context)
        for node, container in recovery.owed(self._journal):
            if node in self._nodes.sites:
                fence = {"container": container, "epoch": self._epoch()}
                self._containers.sweeper.owe(self._nodes.sites[node], fence)

    def on_ready(self, site: Site) -> None:
        """A node is back: what failed because it was away is taken up again when both are there."""
        try:
            for record, context in recovery.undecided(self._journal, self._containers.homes(), self._nodes.sites):
                ends = [self._nodes.sites[name] for name in (record.source, record.destination)]
                if site in ends and all(end.ready for end in ends):
                    self._take_up(record, context)
        except CoatError as error:  # the journal; or somebody works on the container, and the next return will do
            LOG.warning("node %s is back, and a failed migration stays so: %s", site.node.name, error)

    def _take_up(self, record: Migration, context: recovery.Context) -> None:
        """Raises Conflict."""
        move = self._move(record, ContainerSpec.model_validate_json(context["spec"]), context["new_mac"])
        move.key = (context["key"], context["request"]) if "key" in context else None
        self._containers.take(record.container, "migrating")
        record.state, record.error, record.finished_at, record.duration_s = "running", None, None, None
        self._fabric.bind(move.binding_now())
        LOG.warning("migration %s of %s was left unfinished and is taken up", record.id, record.container)
        self._start(move, self._resume)

    def _epoch(self) -> int:
        """A later controller's is higher, also when the journal was lost."""
        return int(self._clock() * 1000)

    def _resume(self, move: Move) -> None:
        """Finishes what is past the pivot; what to do with all else is ``_fail``'s affair."""
        deadline = self._clock() + RECOVERY_PATIENCE
        while not (move.source.ready and move.destination.ready) and self._clock() < deadline:
            self._sleep(0.1)
        if not move.record.past_pivot:
            raise Interrupted("the controller ended in the middle of it")
        self._finish(move)

    def _finish(self, move: Move) -> None:
        for name in saga.after_pivot(move.record.mode, move.record.done(), move.record.memory):
            self._step(move, name)

    def _note_pivot(self, move: Move) -> None:
        """The container was found running at its destination: its restore succeeded, only nobody wrote it down."""
        step = next((step for step in move.record.steps if step.name == saga.PIVOT), None)
        step = step or self._begin(move, saga.PIVOT, self._clock())
        step.detail["found_running"] = move.found_running = True
        self._end(move, step, unix_time(step.started_at), self._clock(), Tally(0.0, {}))

    # ---- one migration

    def _run(self, move: Move, way: Callable[[Move], None]) -> None:
        record = move.record
        logs.MIGRATION.set(record.id)
        LOG.info("migration %s: %s from %s to %s", record.id, record.container, record.source, record.destination)
        self._tell_of(record)
        try:
            way(move)
            record.state = "succeeded"
        except CoatError as error:
            self._fail(move, error)
        except Exception as error:
            LOG.exception("migration %s failed in an unforeseen way", record.id)
            self._fail(move, CoatError(f"unforeseen: {error!r}", cause="internal"))
        finally:
            self._close(move)

    def _close(self, move: Move) -> None:
        record = move.record
        finished = self._clock()
        record.finished_at, record.duration_s = timestamp(finished), finished - unix_time(record.started_at)
        record.remote_overhead_s = sum(step.remote_overhead_s for step in record.steps)
        if record.predicted is not None and record.downtime_s:
            record.prediction_error = error_of(record.predicted.downtime_s, record.downtime_s)
        LOG.info("migration %s: %s after %.3f s", record.id, record.state, record.duration_s)
        try:
            self._save(move)
            self._journal.prune(KEEP_RECORDS, timestamp(finished - self._limits.keep_days * DAY))
            self._moves.pop(record.id, None)
        except CoatError as error:  # it stays in memory, so that its outcome can still be read
            LOG.error("migration %s: %s", record.id, error)
        self._containers.give_back(record.container)
        if move.left_behind:
            self._containers.sweeper.later(move.source, move.fence)
            self._containers.sweeper.later(move.destination, move.fence)
        self.on_end(record)
        self._tell_of(record)
        move.finished.set()

    def _tell_of(self, record: Migration) -> None:
        self.tell("migration", **record.model_dump(exclude={"steps"}))

    def _tell_step(self, move: Move, step: StepRecord) -> None:
        self.tell("step", migration=move.record.id, container=move.name, **step.model_dump())

    def _forward(self, move: Move) -> None:
        source, destination = (self._slots[name] for name in sorted((move.record.source, move.record.destination)))
        with source, destination:
            for batch in saga.plan(move.record.mode, move.record.memory):
                self._batch(move, batch)

    def _batch(self, move: Move, batch: Batch) -> None:
        if batch.pace == "side_by_side":
            self._refuse_if_aborted(move)
            running = [Ahead(lambda name=name: self._step(move, name)) for name in batch.steps]  # type: ignore[misc]
            for ahead in running:
                ahead.settle()
            for ahead in running:
                ahead.result()
        elif batch.pace == "handed_ahead":
            self._refuse_if_aborted(move)
            move.handed_ahead.set()
            self._relay(move)
        else:
            for name in batch.steps:
                self._refuse_if_aborted(move)
                if name == saga.PIVOT:
                    move.handed_ahead.set()
                self._step(move, name)

    @staticmethod
    def _refuse_if_aborted(move: Move) -> None:
        if move.abort.is_set() and not move.record.past_pivot:
            raise Aborted(f"aborted by DELETE /v1.0/migrations/{move.record.id}")

    def _step(self, move: Move, name: str) -> None:
        """One step, written down before and after. After the pivot a failing step is tried again: there is no way
        back.
        """
        begun = self._begin(move, name, self._clock())
        tally = Tally(0.0, begun.detail)
        attempts = ATTEMPTS if move.record.past_pivot else 1
        began = self._clock()
        self._persist(lambda: steps.DO[name](move, tally), attempts, begun)
        self._end(move, begun, began, self._clock(), tally)

    def _persist(self, work: Callable[[], None], attempts: int = ATTEMPTS, step: StepRecord | None = None) -> None:
        for attempt in range(1, attempts + 1):
            if step is not None:
                step.attempts = attempt
            try:
                work()
                return
            except CoatError as error:
                if attempt == attempts or isinstance(error, MemoryLost):
                    raise
                LOG.warning("%s, attempt %d: %s", step.name if step else "recovery", attempt, error)
                self._sleep(min(RETRY_FIRST * 2 ** (attempt - 1), RETRY_LAST))

    def _relay(self, move: Move) -> None:
        open_steps: dict[str, tuple[StepRecord, float]] = {}

        def began(name: str, at: float) -> None:
            open_steps[name] = (self._begin(move, name, at), at)

        def ended(name: str, at: float, tally: Tally) -> None:
            step, since = open_steps[name]
            step.detail.update(tally.detail)
            self._end(move, step, since, at, tally)

        began("checkpoint", self._clock())
        steps.relay(move, began, ended)

    def _begin(self, move: Move, name: str, at: float) -> StepRecord:
        step = StepRecord(name=name, node=move.record.node_of(name), started_at=timestamp(at))
        move.record.steps.append(step)
        self._save(move)
        self._tell_step(move, step)
        return step

    def _end(self, move: Move, step: StepRecord, began: float, ended: float, tally: Tally) -> None:
        step.duration_s, step.remote_overhead_s = ended - began, tally.overhead
        if step.name == saga.PIVOT:
            move.record.downtime_s = move.downtime()
            self._tolerating(lambda: self._containers.move(move.moved_spec, move.record.destination))
        elif step.name == "preflight":
            move.record.predicted = self.predict(move.record)
        self._save(move)
        self._tell_step(move, step)

    def _save(self, move: Move) -> None:
        # steps side by side write the same record: none may overwrite what it has not seen
        with move.writing:
            context = {"spec": move.spec.model_dump_json(), "new_mac": move.new_mac}
            if move.key is not None:
                context |= {"key": move.key[0], "request": move.key[1]}
            if move.record.past_pivot or move.going_back:
                self._tolerating(lambda: self._journal.put_migration(move.record, context))
            else:
                self._journal.put_migration(move.record, context)

    @staticmethod
    def _tolerating(write: Callable[[], None]) -> None:
        """A journal that fails must not stop what has to come to its end; recovery asks the nodes anyway."""
        try:
            write()
        except JournalError as error:
            LOG.error("%s", error)

    # ---- when it goes wrong

    def _fail(self, move: Move, error: CoatError) -> None:
        """Forward if the container has arrived in spite of it, else back."""
        record = move.record
        LOG.warning("migration %s: %s", record.id, error)
        try:
            if not record.past_pivot and self._has_arrived(move):
                self._note_pivot(move)
                self._finish(move)
                record.state = "succeeded"
                return
            if not record.past_pivot:
                self._back(move)
                record.state, record.error = "rolled_back", Failure(cause=error.cause, message=str(error))
                return
        except CoatError as second:
            LOG.error("migration %s cannot be brought to its end: %s", record.id, second)
            error = CoatError(f"{error}; then: {second}", cause=error.cause)
        record.state = "failed"
        record.error = Failure(cause=error.cause, message=f"{error}; {recovery.advice(record, error.cause)}")

    def _has_arrived(self, move: Move) -> bool:
        """Asked of the destination, where a copy could have come to life."""
        if not saga.may_run_at_destination(move.record.mode, move.record.begun()):
            move.epoch += 1  # what is under way on the nodes ends before they are told to undo it
            return False
        return recovery.runs_at_destination(move, [*self._nodes.sites.values()], self._persist, self._clock)

    def _back(self, move: Move) -> None:
        move.going_back = True
        for name in saga.undo_order(move.record.mode, move.record.begun()):
            self._undo(move, name)

    def _undo(self, move: Move, name: str) -> None:
        began = self._clock()
        step = StepRecord(name=f"undo_{name}", node=move.record.node_of(name), started_at=timestamp(began))
        move.record.steps.append(step)
        self._tell_step(move, step)
        tally = Tally(0.0, step.detail)
        self._persist(lambda: steps.UNDO[name](move, tally), step=step)
        step.duration_s, step.remote_overhead_s = self._clock() - began, tally.overhead
        self._save(move)
        self._tell_step(move, step)


def _fingerprint(request: MigrateRequest) -> str:
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()
