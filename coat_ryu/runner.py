"""Runs one migration: asks the saga what is next, does it, writes it down, and turns back when it must.

A step's intention is in the journal before the step is begun, its result with the next one's intention; see
``recovery`` for what becomes of a migration whose controller died.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from coat_ryu import logs, recovery, saga, steps, together
from coat_ryu.containers import Containers
from coat_ryu.errors import IN_FLIGHT, CoatError, MemoryLost
from coat_ryu.feed import Tell, silent
from coat_ryu.journal import Journal, JournalError
from coat_ryu.moves import BULK, Ahead, Move, Tally
from coat_ryu.nodes import Nodes
from coat_ryu.prediction import error as error_of
from coat_ryu.saga import Batch, Failure, Migration, Predicted, StepRecord, timestamp

LOG = logging.getLogger(__name__)

ATTEMPTS, TIDY_ATTEMPTS = 8, 3
RETRY_FIRST, RETRY_LAST = 0.5, 8.0
"""How often a step that must succeed is tried, and one that only tidies up, for a sweep follows; and the seconds before
the second attempt, doubled up to the last."""

TRIES = 4
TRY_AGAIN = 0.5
"""How often a migration is begun that fails only for connections that are being opened, and the seconds before its
second try, doubled before each further one.
"""

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


class Runner:
    """``on_end`` is told of each migration that has ended, ``on_failed`` of one that failed; ``predict`` is asked after
    its preflight.

    ``clock`` runs evenly and is what decides; ``wall`` may be set back or forth at any time, and only dates records.
    """

    def __init__(
        self,
        nodes: Nodes,
        containers: Containers,
        journal: Journal,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.limits = limits
        self.clock, self.wall = clock, wall
        self._nodes = nodes
        self._containers = containers
        self._journal = journal
        self._sleep = sleep
        self._slots: dict[str, threading.BoundedSemaphore] = defaultdict(
            lambda: threading.BoundedSemaphore(limits.per_node)
        )
        self.under_way: dict[str, Move] = {}
        self.on_end: Callable[[Migration], None] = lambda migration: None
        self.on_failed: Callable[[Migration], None] = lambda migration: None
        self.predict: Callable[[Migration], Predicted | None] = lambda migration: None
        self.tell: Tell = silent

    def start(self, move: Move, way: Callable[[Move], None]) -> None:
        """Runs it in a thread of its own, ``forward`` or to ``resume``."""
        self.under_way[move.record.id] = move
        move.thread = threading.Thread(target=self._run, args=(move, way), daemon=True)
        move.thread.start()

    def forward(self, move: Move) -> None:
        source, destination = (self._slots[name] for name in sorted((move.record.source, move.record.destination)))
        with source, destination:
            for batch in saga.plan(move.record.mode, move.record.memory):
                self._batch(move, batch)

    def resume(self, move: Move) -> None:
        """Finishes what is past the pivot; what to do with all else is ``_fail``'s affair."""
        deadline = self.clock() + RECOVERY_PATIENCE
        while not (move.source.ready and move.destination.ready) and self.clock() < deadline:
            self._sleep(0.1)
        if not move.record.past_pivot:
            raise move.failed_of or Interrupted("the controller ended in the middle of it")
        self._finish(move)

    def _finish(self, move: Move) -> None:
        for name in saga.after_pivot(move.record.mode, move.record.done(), move.record.memory):
            self._step(move, name)

    def _note_pivot(self, move: Move) -> None:
        """The container was found running at its destination: its restore succeeded, only nobody wrote it down."""
        step = next((step for step in move.record.steps if step.name == saga.PIVOT), None)
        step = step or self._begin(move, self.clock(), saga.PIVOT)[saga.PIVOT]
        step.detail["found_running"] = move.found_running = True
        self._end(move, step, move.instant(step.started_at), self.clock(), Tally(0.0, {}))

    def _run(self, move: Move, way: Callable[[Move], None]) -> None:
        record = move.record
        logs.MIGRATION.set(record.id)
        LOG.info("migration %s: %s from %s to %s", record.id, record.container, record.source, record.destination)
        self._tell_of(record)
        try:
            while not self._has_ended(move, way):
                self._sleep(TRY_AGAIN * 2 ** (record.tries - 1))
                move.begin_again()
                way = self.forward
        finally:
            self._close(move)

    def _has_ended(self, move: Move, way: Callable[[Move], None]) -> bool:
        """Goes one way. False when it was taken back and should be tried again."""
        try:
            way(move)
            move.record.state = "succeeded"
        except CoatError as error:
            return self._fail(move, error)
        except Exception as error:
            LOG.exception("migration %s failed in an unforeseen way", move.record.id)
            return self._fail(move, CoatError(f"unforeseen: {error!r}", cause="internal"))
        return True

    def _close(self, move: Move) -> None:
        record = move.record
        finished = self.clock()
        record.finished_at, record.duration_s = move.stamp(finished), finished - move.since
        record.remote_overhead_s = sum(step.remote_overhead_s for step in record.steps)
        if record.predicted is not None and record.downtime_s:
            record.prediction_error = error_of(record.predicted.downtime_s, record.downtime_s)
        LOG.info("migration %s: %s after %.3f s", record.id, record.state, record.duration_s)
        try:
            self.save(move)
            self._journal.prune(KEEP_RECORDS, timestamp(self.wall() - self.limits.keep_days * DAY))
            self.under_way.pop(record.id, None)
        except CoatError as error:  # it stays in memory, so that its outcome can still be read
            LOG.error("migration %s: %s", record.id, error)
        self._containers.ended(record)
        self._containers.give_back(record.container)
        if move.left_behind:
            self._containers.sweeper.later(move.source, move.name)
            self._containers.sweeper.later(move.destination, move.name)
        self.on_end(record)
        self._tell_of(record)
        move.finished.set()
        if record.state == "failed":
            self.on_failed(record)

    def _tell_of(self, record: Migration) -> None:
        self.tell("migration", **record.model_dump(exclude={"steps"}))

    def _tell_step(self, move: Move, step: StepRecord) -> None:
        self.tell("step", migration=move.record.id, container=move.name, **step.model_dump())

    def _batch(self, move: Move, batch: Batch) -> None:
        if batch.pace == "side_by_side":
            self._refuse_if_aborted(move)
            running = [Ahead(lambda name=name: self._step(move, name)) for name in batch.steps]  # type: ignore[misc]
            for ahead in running:
                ahead.settle()
            for ahead in running:
                ahead.result()
        elif batch.pace == "in_one":
            self._refuse_if_aborted(move)
            self._in_one(move, batch)
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
        """One step, written down before it is begun. After the pivot a failing step is tried again: there is no way
        back.
        """
        begun = self._begin(move, self.clock(), name)[name]
        tally = Tally(0.0, begun.detail)
        attempts = ATTEMPTS if move.record.past_pivot else 1
        began = self.clock()
        self._persist(lambda: steps.DO[name](move, tally), attempts, begun)
        self._end(move, begun, began, self.clock(), tally)

    def _in_one(self, move: Move, batch: Batch) -> None:
        """Steps that are begun together; written down before the first of them, and noted as each has ended."""
        began = self.clock()
        begun = self._begin(move, began, *batch.steps)

        def ended(name: str, tally: Tally, since: float | None = None, until: float | None = None) -> None:
            step = begun[name]
            step.detail.update(tally.detail)
            if since is not None:
                step.started_at = move.stamp(since)
            self._end(move, step, began if since is None else since, until or self.clock(), tally)

        attempts = ATTEMPTS if move.record.past_pivot else 1
        self._persist(lambda: together.DO[batch.steps](move, ended), attempts, begun[batch.steps[-1]])

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
        at = self.clock()
        open_steps = {"checkpoint": (self._begin(move, at, "checkpoint")["checkpoint"], at)}

        def began(name: str, at: float) -> None:
            open_steps[name] = (self._note(move, name, at), at)
            self._tell_step(move, open_steps[name][0])

        def ended(name: str, at: float, tally: Tally) -> None:
            step, since = open_steps[name]
            step.detail.update(tally.detail)
            self._end(move, step, since, at, tally)

        together.relay(move, began, ended)

    def _begin(self, move: Move, at: float, *names: str) -> dict[str, StepRecord]:
        """The intention, saved before anything is done."""
        begun = {name: self._note(move, name, at) for name in names}
        self.save(move)
        for step in begun.values():
            self._tell_step(move, step)
        return begun

    @staticmethod
    def _note(move: Move, name: str, at: float) -> StepRecord:
        step = StepRecord(name=name, node=move.record.node_of(name), started_at=move.stamp(at))
        move.record.steps.append(step)
        return step

    def _end(self, move: Move, step: StepRecord, began: float, ended: float, tally: Tally) -> None:
        """Notes the result. It is saved with the next step's intention, which follows at once, or with the end."""
        step.duration_s, step.remote_overhead_s = ended - began, tally.overhead
        if step.name == saga.PIVOT:
            move.record.downtime_s = move.downtime()
            self._tolerating(lambda: self._containers.move(move.moved_spec, move.record.destination))
        elif step.name == "preflight":
            move.record.predicted = self.predict(move.record)
        self._tell_step(move, step)

    def save(self, move: Move) -> None:
        # steps side by side write the same record: none may overwrite what it has not seen
        with move.writing:
            context: dict[str, Any] = {"spec": move.spec.model_dump_json(), "new_mac": move.new_mac}
            if move.key is not None:
                context |= {"key": move.key[0], "request": move.key[1]}
            if move.failed_of is not None:
                context |= {"failed_of": [move.failed_of.cause, str(move.failed_of)]}
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

    def _fail(self, move: Move, error: CoatError) -> bool:
        """Forward if the container has arrived in spite of it, else back. False when it should be tried again."""
        record = move.record
        LOG.warning("migration %s: %s", record.id, error)
        try:
            if not record.past_pivot and self._has_arrived(move):
                self._note_pivot(move)
                self._finish(move)
                record.state = "succeeded"
                return True
            second = None if record.past_pivot else self._back(move)
        except CoatError as undecided:
            second = undecided
        if second is None and not record.past_pivot:
            if self._is_worth_another_try(move, error):
                return False
            why = f"{move.ended}; {error}" if move.ended else str(error)
            record.state, record.error = "rolled_back", Failure(cause=(move.ended or error).cause, message=why)
            return True
        record.state, move.failed_of = "failed", error
        why = str(error)
        if second is not None:
            LOG.error("migration %s cannot be brought to its end: %s", record.id, second)
            why = f"{error}; then: {second}"
        told = recovery.advice(record, error.cause, second)
        record.error = Failure(cause=error.cause, message=f"{why}; {told}")
        return True

    @staticmethod
    def _is_worth_another_try(move: Move, error: CoatError) -> bool:
        """Its container was busy: in a moment it may not be. An abort is heeded at the next step."""
        tidy = not (move.left_behind or move.destination_gone or move.ended)
        return error.cause == IN_FLIGHT and tidy and move.record.tries < TRIES

    def _has_arrived(self, move: Move) -> bool:
        """Asked of the destination, where a copy could have come to life."""
        if not saga.may_run_at_destination(move.record.mode, move.record.begun()):
            move.voice.take_over()  # what is under way on the nodes ends before they are told to undo it
            return False
        return recovery.runs_at_destination(move, [*self._nodes.sites.values()], self._persist, self.clock)

    def _back(self, move: Move) -> CoatError | None:
        """Takes back every step that was begun, whatever becomes of the others; what is left is swept.

        Returns why the container could not be made to run at the source, None if it does or has ended.
        """
        move.going_back = True
        move.handed_ahead.clear()  # it is taken back, and may be aborted before it is tried again
        stuck: CoatError | None = None
        for name in saga.undo_order(move.record.mode, move.record.begun()):
            error = self._undo(move, name)
            if name == "checkpoint" and error is not None:
                stuck = error
                with suppress(CoatError):
                    steps.seal(move)
        home = self._containers.homes().get(move.name)
        if home is not None and home.node != move.record.source:  # written down before a controller died, and not true
            self._tolerating(lambda: self._containers.move(move.spec, move.record.source))
        return stuck

    def _undo(self, move: Move, name: str) -> CoatError | None:
        """One step of the way back; the error that it ended with, noted in the record."""
        began = self.clock()
        step = StepRecord(name=f"undo_{name}", node=move.record.node_of(name), started_at=move.stamp(began))
        move.record.steps.append(step)
        self._tell_step(move, step)
        tally = Tally(0.0, step.detail)
        error: CoatError | None = None
        try:
            attempts = ATTEMPTS if name == "checkpoint" else TIDY_ATTEMPTS
            self._persist(lambda: steps.UNDO[name](move, tally), attempts, step)
        except CoatError as failed:
            error = failed
        except Exception as unforeseen:
            LOG.exception("migration %s: %s failed in an unforeseen way", move.record.id, step.name)
            error = CoatError(f"unforeseen: {unforeseen!r}", cause="internal")
        if error is not None:
            LOG.error("migration %s: %s: %s", move.record.id, step.name, error)
            step.detail.setdefault("left_behind", []).append(str(error))
        step.duration_s, step.remote_overhead_s = self.clock() - began, tally.overhead
        self.save(move)
        self._tell_step(move, step)
        return error
