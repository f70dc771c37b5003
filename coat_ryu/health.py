"""Whether the controller, its nodes and its containers are well: what is known is told, and nobody is asked for it.

Whoever likes may ask for /healthz, so an answer costs neither a node nor the disk anything: containers are looked at
all the while, and the journal is tried at most every few seconds.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, ClassVar

from coat_ryu.containers import Containers
from coat_ryu.errors import CoatError
from coat_ryu.fabric import Fabric
from coat_ryu.journal import Journal, JournalError
from coat_ryu.nodes import Nodes, Site

LOG = logging.getLogger(__name__)

START_GRACE = 30.0
"""Seconds after which a node or a container that is not up counts as broken, not as on its way."""
JOURNAL_EVERY = 5.0
LOOK_EVERY = 30.0
"""Seconds between two looks at the containers of a node; each costs it a Podman command."""


class Starting(CoatError):
    default_cause: ClassVar[str] = "starting"
    response: ClassVar[int] = 503


class Health:
    """``busy`` has the nodes that a migration under way needs, ``topology_error`` says why the last topology was
    refused.
    """

    def __init__(
        self,
        nodes: Nodes,
        containers: Containers,
        fabric: Fabric,
        journal: Journal,
        busy: Callable[[], set[str]],
        topology_error: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nodes, self._containers, self._fabric, self._journal = nodes, containers, fabric, journal
        self._busy, self._topology_error = busy, topology_error
        self._clock = clock
        self._started, self._has_started = clock(), False
        self._tried: float | None = None
        self._fault: JournalError | None = None

    def report(self) -> dict[str, Any]:
        """How all is. Raises Starting until all that the topology declares is up, JournalError without a journal.

        A node that stays away keeps nobody waiting for longer than START_GRACE: from then on, and once all has been
        up, it is only a problem.
        """
        problems = []
        for name, site in self._nodes.sites.items():
            if not site.ready:
                problems.append(f"node {name} is not ready")
            elif away := self._fabric.switch_problem(name):
                problems.append(f"node {name}: {away}")
        pending = problems + [f"container {name} is not up yet" for name in self._containers.pending()]
        self._try_journal()
        self._has_started = self._has_started or not pending
        if not self._has_started and self._clock() - self._started < START_GRACE:
            raise Starting("starting: " + "; ".join(pending))
        problems += [f"container {name}: {why}" for name, why in self._containers.troubles().items()]
        for name, found in self._containers.sweeper.problems.items():
            problems += [f"node {name}: {what}" for what in found]
        if self._topology_error() is not None:
            problems.append(f"topology: the last good one is in force: {self._topology_error()}")
        return {"status": "degraded" if problems else "ok", "problems": problems, "nodes": len(self._nodes.sites)}

    def look(self) -> None:
        """Asks every node for its containers, unless a migration is under way there, which it would hold up."""
        for site in list(self._nodes.sites.values()):
            if site.ready and site.node.name not in self._busy():
                try:
                    self._look_at(site)
                except CoatError as error:
                    LOG.warning("the containers of node %s could not be looked at: %s", site.node.name, error)
                except Exception:  # whatever a node says, the others are looked at, now and later
                    LOG.exception("what node %s says of its containers cannot be understood", site.node.name)

    def _look_at(self, site: Site) -> None:
        before = self._containers.homes()
        states = {info["name"]: info["state"] for info in site.call("container_list").result}
        for name, resident in self._containers.homes().items():
            if resident.node == site.node.name and before.get(name) is resident:
                self._containers.seen(name, site.node.name, states.get(name, "missing"))

    def _try_journal(self) -> None:
        """Raises JournalError, of now or of a moment ago."""
        now = self._clock()
        if self._tried is None or now - self._tried >= JOURNAL_EVERY:
            self._tried = now
            try:
                self._journal.check()
                self._fault = None
            except JournalError as error:
                self._fault = error
        if self._fault is not None:
            raise self._fault
