"""What a migration would come to, without touching anything: reasons against it, and how long it would take."""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

from coat_ryu import caveats, prediction
from coat_ryu.caveats import Caveat
from coat_ryu.config import PlanRequest
from coat_ryu.containers import Containers
from coat_ryu.errors import Conflict, SwitchGone
from coat_ryu.journal import Journal, Resident
from coat_ryu.model import Mode
from coat_ryu.nodes import Nodes, Site
from coat_ryu.prediction import Expected
from coat_ryu.preflight import Refusal, memory_refusals, presence, refusals, state_size
from coat_ryu.saga import Failure, Migration, Predicted

HISTORY = 100
"""Migrations of one mode that are read for a prediction."""


class Plan(BaseModel):
    """The answer to ``POST /v1.0/plan``. ``expected`` is null when the container's node cannot be asked, and when its
    memory would not come along.
    """

    container: str
    source: str
    destination: str
    mode: Mode
    possible: bool
    refusals: list[Failure]
    warnings: list[Caveat]
    expected: Expected | None


class Plans:
    """``switch_problem`` says what is wrong with a node's switch."""

    def __init__(
        self,
        nodes: Nodes,
        containers: Containers,
        journal: Journal,
        switch_problem: Callable[[str], str | None] = lambda node: None,
    ) -> None:
        self._switch_problem = switch_problem
        self._nodes = nodes
        self._containers = containers
        self._journal = journal

    def plan(self, wanted: PlanRequest) -> Plan:
        """Raises NotFound, and NodeError when a node that is connected does not answer."""
        resident = self._containers.resident(wanted.container)
        self._nodes.site(wanted.to, "to")
        against = list(self._claims(wanted, resident))
        needs: dict[str, Any] | None = None
        sites: list[Site] = []
        for field, name in (("container", resident.node), ("to", wanted.to)):
            try:
                sites.append(self._nodes.ready(name, field))
            except Conflict as error:
                against.append(Refusal(error.cause, str(error)))
                continue
            if wrong := self._switch_problem(name):
                against.append(Refusal(SwitchGone.default_cause, f"{field}: node {name}: {wrong}"))
        if sites and sites[0].node.name == resident.node:
            needs = sites[0].call("container_needs", {"name": wanted.container}).result
        if len(sites) == 2:
            against += self._look(wanted, sites[0], sites[1], needs)
        return Plan(
            container=wanted.container,
            source=resident.node,
            destination=wanted.to,
            mode=wanted.mode,
            possible=not against,
            refusals=[Failure(cause=one.cause, message=one.message) for one in against],
            warnings=caveats.warnings(needs or {}),
            expected=None
            if needs is None or wanted.memory != "full"
            else self._expected(wanted.container, wanted.mode, state_size(needs)),
        )

    def predict(self, record: Migration) -> Predicted | None:
        """What is expected of a migration that has passed its preflight; None where memory does not come along."""
        known = prediction.state_of(record)
        if known is None or record.memory != "full":
            return None
        expected = self._expected(record.container, record.mode, known)
        return Predicted(downtime_s=expected.downtime_s, duration_s=expected.duration_s, basis=expected.basis)

    def _expected(self, container: str, mode: Mode, size: int) -> Expected:
        history = (one for one in self._journal.succeeded(mode, HISTORY) if one.memory == "full")
        return prediction.predict(container, mode, size, history)

    def _claims(self, wanted: PlanRequest, resident: Resident) -> Iterator[Refusal]:
        if resident.node == wanted.to:
            yield Refusal("already_there", f"to: {wanted.container} is on {wanted.to} already")
        purpose = self._containers.purpose(wanted.container)
        if purpose is not None:
            yield Refusal(f"already_{purpose}", f"container: {wanted.container} is {purpose} already")

    def _look(
        self, wanted: PlanRequest, source: Site, destination: Site, needs: dict[str, Any] | None
    ) -> Iterator[Refusal]:
        if needs is None or source is not destination:
            there = destination.call("container_inspect", {"name": wanted.container}).result
            yield from presence(wanted.container, source.node.name, destination.node.name, needs, there)
        if needs is None:
            return
        mine, theirs = (
            site.call("hello", {"address": str(site.node.address)}).result for site in (source, destination)
        )
        mtu = self._containers.topology.underlay_mtu
        yield from refusals(source.node.name, destination.node.name, mine, theirs, needs, mtu)
        if wanted.memory != "full":
            facts = {source.node.name: mine, destination.node.name: theirs}
            features = {site.node.name: site.call("memory_features").result for site in (source, destination)}
            yield from memory_refusals(wanted.memory, features, facts)
