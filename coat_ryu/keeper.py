"""Keeps every switch equal to what is wanted of it: a greenthread for each, woken when its switch is marked."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from ryu.lib import hub

from coat_ryu.errors import SwitchError, SwitchGone, SwitchTimeout
from coat_ryu.member import Member, Plan

LOG = logging.getLogger(__name__)

SLOTS = 3
"""Switches resynchronised at the same time: more would not be faster, and would keep everybody else waiting."""

FIRST_RETRY, LAST_RETRY = 0.2, 30.0


class Keeper:
    """``audit_interval`` is the time between two looks at what the switches really hold (seconds).

    Nothing is touched before ``begin``.
    """

    def __init__(self, plan: Plan, audit_interval: float) -> None:
        self.is_ready = False
        self._plan = plan
        self._audit_interval = audit_interval
        self._marked = hub.Event()
        self._changed = hub.Event()
        self._slots = hub.Semaphore(SLOTS)
        self._threads: list[Any] = []
        self._workers: dict[str, Any] = {}

    def start(self) -> None:
        for member in self._plan.members.values():
            self.add(member)
        self._threads += [hub.spawn(self._work_on_marks), hub.spawn(self._work_on_audits)]

    def stop(self) -> None:
        for thread in (*self._threads, *self._workers.values()):
            hub.kill(thread)
        self._threads.clear()
        self._workers.clear()

    def add(self, member: Member) -> None:
        self._workers[member.node] = hub.spawn(self._work, member)

    def remove(self, node: str) -> None:
        hub.kill(self._workers.pop(node))

    def begin(self) -> None:
        """What is wanted is known."""
        self.is_ready = True
        self.mark(self._plan.members)

    def mark(self, nodes: Iterable[str]) -> None:
        """These switches are to be looked at."""
        for node in nodes:
            self._plan.members[node].dirty = True
        self._marked.set()

    def notify(self) -> None:
        """Something has changed: those who wait look again."""
        changed, self._changed = self._changed, hub.Event()
        changed.set()

    def until(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        """Returns when ``done`` says so. Raises SwitchTimeout after ``timeout`` seconds of waiting for ``what``."""
        deadline = time.monotonic() + timeout
        while not done():
            left = deadline - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                if done():
                    return
                raise SwitchTimeout(f"waited {timeout:.1f} s in vain for {what}")

    def _work_on_marks(self) -> None:
        """Waking hundreds takes milliseconds, for which nobody has to wait who only marks them."""
        while True:
            self._marked.wait()
            self._marked.clear()
            for member in self._plan.members.values():
                if member.dirty:
                    member.wake.set()

    def _work(self, member: Member) -> None:
        delay = FIRST_RETRY
        while True:
            member.wake.wait()
            member.wake.clear()
            if not self.is_ready or not member.connected:
                continue
            try:
                with self._slots:
                    hub.sleep(0)  # a switch without changes would not wait for anything, nor would the next hundred
                    member.dirty = False
                    self._sync(member)
                delay, member.error = FIRST_RETRY, None
            except SwitchGone:
                continue  # it marks itself when it is back
            except SwitchError as error:
                LOG.warning("%s; next try in %.1f s", error, delay)
                member.fresh, member.error = False, str(error)
                hub.sleep(delay)
                delay = min(2 * delay, LAST_RETRY)
                self.mark([member.node])
            except Exception as error:  # a defect here must not end the care for this switch
                LOG.exception("could not bring the switch of %s up to date", member.node)
                member.fresh, member.error = False, f"internal error: {error}"
                hub.sleep(LAST_RETRY)
                self.mark([member.node])

    def _sync(self, member: Member) -> None:
        if member.sync():
            peers = self._plan.overlay.peers(member.node)
            self.mark(peer for peer in peers if self._plan.members[peer].lagging)
        self.notify()

    def _work_on_audits(self) -> None:
        while True:
            hub.sleep(self._audit_interval)
            for member in list(self._plan.members.values()):
                if not self.is_ready or not member.fresh or not member.connected:
                    continue
                try:
                    with self._slots:
                        if member.audit():
                            self.mark([member.node])
                except SwitchError as error:
                    LOG.warning("could not look at what the switch of %s holds: %s", member.node, error)
