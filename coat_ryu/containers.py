"""The containers of the overlay: which exist, where they live, how they come and go.

A container is *resident* from the moment it is in the journal until it is removed. The topology file declares some;
``POST /v1.0/containers`` adds others. What a node says decides what is true; the journal says what should be.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from coat_ryu.census import ALIVE, whereabouts
from coat_ryu.config import complete
from coat_ryu.errors import CoatError, Conflict, NotFound
from coat_ryu.fabric import Fabric
from coat_ryu.feed import Tell, silent
from coat_ryu.journal import Journal, Resident
from coat_ryu.model import LIMITS, Binding, ContainerSpec, Network, Topology, binding_of, cidr, namespace_name
from coat_ryu.nodes import Nodes, Site, endpoint_name
from coat_ryu.preflight import limit_refusals, refuse
from coat_ryu.saga import Migration
from coat_ryu.sweep import Sweeper
from coat_ryu.voice import Voice

LOG = logging.getLogger(__name__)

QUICK, RUN_TIMEOUT = 30.0, 120.0
LOST = ("missing", "checkpointed")
"""States in which nobody leaves a container on purpose."""
AGAIN = (1.0, 5.0, 30.0, 120.0)
"""Seconds after which it is tried again to remove what could not be made, as often as there are."""
ASKED_AT_ONCE = 16
"""Nodes that are asked at once whether they have a container."""


class Unasked(CoatError):
    """A node could not be asked, and it might have the container."""


def endpoint_args(spec: ContainerSpec, network: Network, mtu: int) -> dict[str, Any]:
    """Arguments of the hook's ``endpoint_ensure`` for a container with a completed spec."""
    addresses = [cidr(address, network) for address in (spec.ip, spec.ip6) if address is not None]
    return {**endpoint_name(spec.name), "addresses": addresses, "mac": spec.mac, "mtu": mtu}


def create_args(spec: ContainerSpec, image: str | None = None) -> dict[str, Any]:
    """Arguments of the hook's ``container_create`` and ``container_run``; ``image``: an id, if no other will do."""
    args = {
        "name": spec.name,
        "image": image or spec.image,
        "command": list(spec.command),
        "env": spec.env,
        "netns": namespace_name(spec.name),
        # Without the limits that are not asked for: the label of a container that an earlier version made is the same.
        "spec": spec.model_dump_json(exclude=set(LIMITS) - spec.limits.keys()),
    }
    return {**args, "limits": spec.limits} if spec.limits else args


class Containers:
    def __init__(self, topology: Topology, nodes: Nodes, fabric: Fabric, journal: Journal) -> None:
        self.topology = topology
        self._nodes = nodes
        self._fabric = fabric
        self._journal = journal
        self._residents: dict[str, Resident] = journal.residents()
        self.problems: dict[str, str] = {}
        self._lost: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self.tell: Tell = silent
        self._attended: set[str] = set()
        self._waiting: set[str] = set()  # containers that wait for nodes to be asked
        self._again: set[str] = set()
        self._claims: dict[str, str] = {}
        self._lock = threading.Lock()
        self.sweeper = Sweeper(nodes, self, journal)
        for resident in self._residents.values():
            fabric.bind(self.binding(resident.spec, resident.node))

    def binding(self, spec: ContainerSpec, node: str) -> Binding:
        assert spec.network is not None
        return binding_of(spec, self.topology.network(spec.network), node)

    def network(self, spec: ContainerSpec) -> Network:
        assert spec.network is not None
        return self.topology.network(spec.network)

    def resident(self, name: str) -> Resident:
        """Raises NotFound."""
        if name not in self._residents:
            known = ", ".join(sorted(self._residents)) or "none"
            raise NotFound(f"container: there is no container {name!r}; there are: {known}", cause="no_such_container")
        return self._residents[name]

    def places(self) -> list[tuple[ContainerSpec, str]]:
        """Every container with its node."""
        return [(resident.spec, resident.node) for resident in self._residents.values()]

    def homes(self) -> dict[str, Resident]:
        return dict(self._residents)

    def peers(self, spec: ContainerSpec) -> Iterator[tuple[Site, str]]:
        """All other containers of its network, with their nodes."""
        for name, resident in self.homes().items():
            if name != spec.name and resident.spec.network == spec.network:
                yield self._nodes.sites[resident.node], name

    def adopt(self, topology: Topology) -> None:
        """Follows a new topology. Containers that it declares and that are not there are made; none is removed."""
        self.topology = topology
        for spec in topology.containers:
            site = self._nodes.sites[spec.node]
            if spec.name not in self._residents and site.ready:
                self._attend(spec.name, self._launch, spec, site)

    def purpose(self, name: str) -> str | None:
        """What somebody is doing with the container now: ``migrating``, ``being_removed`` and so on."""
        with self._lock:
            return self._claims.get(name)

    def claimed(self) -> set[str]:
        """Containers that somebody is working on."""
        with self._lock:
            return set(self._claims)

    def move(self, spec: ContainerSpec, node: str) -> None:
        """From now on the container lives on ``node``. Raises JournalError when that is only in mind, not on disk."""
        self._residents[spec.name] = Resident(spec, node)
        self.tell("container", name=spec.name, node=node, state="placed")
        self._journal.put_resident(spec, node)

    @contextmanager
    def claim(self, name: str, purpose: str) -> Iterator[None]:
        """Nobody else changes the container meanwhile. Raises Conflict with the cause ``already_<purpose>``."""
        self.take(name, purpose)
        try:
            yield
        finally:
            self.give_back(name)

    def take(self, name: str, purpose: str) -> None:
        with self._lock:
            if name in self._claims:
                raise Conflict(
                    f"container: {name} is {self._claims[name]} already", cause=f"already_{self._claims[name]}"
                )
            self._claims[name] = purpose

    def give_back(self, name: str) -> None:
        with self._lock:
            self._claims.pop(name, None)

    def create(self, spec: ContainerSpec) -> dict[str, Any]:
        """Namespace, port, binding, then the container in it; all of it is taken back when one of them fails."""
        with self.claim(spec.name, "being_created"):
            if spec.name in self._residents:
                where = self._residents[spec.name].node
                raise Conflict(f"name: there is a container {spec.name} on {where}", cause="name_in_use")
            spec = self._complete(spec)
            site = self._nodes.ready(spec.node)
            refuse(limit_refusals(site.node.name, site.facts, spec.limits))
            self._refuse_known(spec.name)
            try:
                self.move(spec, spec.node)
                self._run(spec, site)
            except CoatError:
                self._take_back(spec, site)
                raise
        return self.describe(spec.name)

    def _complete(self, spec: ContainerSpec) -> ContainerSpec:
        """As ``config.complete``; a MAC address that frames may still come to is nobody else's yet."""
        spec = complete(spec, self.topology, [resident.spec for resident in self._residents.values()])
        vni = self.network(spec).vni
        for name, binding in self._fabric.bindings.items():
            if name != spec.name and binding.vni == vni and spec.mac in binding.former_macs:
                message = f"mac: {spec.mac} was {name}'s on network {spec.network}, and is still in use"
                raise Conflict(message, cause="address_in_use")
        return spec

    def _take_back(self, spec: ContainerSpec, site: Site) -> None:
        """Nothing is left of what could not be made. Where its node does not do that now, its name is kept from others
        until it has, for a copy may run there.
        """
        try:
            self._forget(spec, site)
        except CoatError as error:
            LOG.warning("container %s could not be made, and not be removed: %s", spec.name, error)
            self.problems[spec.name] = f"it could not be made, and not be removed: {error}"
            threading.Thread(target=self._take_back_later, args=(spec, site), daemon=True).start()

    def _take_back_later(self, spec: ContainerSpec, site: Site) -> None:
        for delay in AGAIN:
            time.sleep(delay)
            with suppress(CoatError), self.claim(spec.name, "being_removed"):
                if self._residents.get(spec.name) == Resident(spec, site.node.name):
                    self._forget(spec, site)
                self.problems.pop(spec.name, None)
                return

    def _refuse_known(self, name: str) -> None:
        """Raises Conflict when a node has one already, which the journal does not know."""
        for node, info in self._seek(name)[0].items():
            if info["state"] in (*ALIVE, "checkpointed"):
                message = f"name: {node} has a container {name}, {info['state']}, that the journal does not know"
                raise Conflict(message, cause="name_in_use")

    def remove(self, name: str) -> None:
        self.resident(name)
        with self.claim(name, "being_removed"):
            resident = self.resident(name)  # as it is when nobody moves it any more
            site = self._nodes.ready(resident.node, "container")
            self._forget(resident.spec, site)
            last = self._journal.latest(name)
            if last is not None and last.state == "failed":
                for node in {last.source, last.destination} & self._nodes.sites.keys():
                    self.sweeper.later(self._nodes.sites[node])

    def _run(self, spec: ContainerSpec, site: Site) -> None:
        refuse(limit_refusals(site.node.name, site.facts, spec.limits))
        voice = Voice(spec.name, self._journal)
        mtu = self.topology.inner_mtu
        voice.call(site, "endpoint_ensure", endpoint_args(spec, self.network(spec), mtu), QUICK)
        self._fabric.bind(self.binding(spec, site.node.name))
        voice.call(site, "container_run", create_args(spec), RUN_TIMEOUT)
        self.tell("container", name=spec.name, node=site.node.name, state="running")

    def _forget(self, spec: ContainerSpec, site: Site) -> None:
        voice = Voice(spec.name, self._journal)
        voice.call(site, "container_remove", {"name": spec.name}, RUN_TIMEOUT)
        voice.call(site, "endpoint_remove", endpoint_name(spec.name), QUICK)
        self._fabric.unbind(spec.name)
        self._residents.pop(spec.name, None)
        self._journal.drop_resident(spec.name)
        for troubles in (self.problems, self._lost, self._failed):
            troubles.pop(spec.name, None)
        self.tell("container", name=spec.name, node=site.node.name, state="removed")

    # ---- what the topology file declares

    def pending(self) -> list[str]:
        """Declared containers that nobody has looked after yet."""
        return [spec.name for spec in self.topology.containers if spec.name not in self._attended]

    def on_ready(self, site: Site) -> None:
        """A node has come into shape: what should live there is looked after, what should not is removed."""
        self.sweeper.later(site)
        for name, resident in self.homes().items():
            if resident.node == site.node.name or name in self._waiting:
                self._attend(name, self._revive, resident, unless=partial(self._is_alive, resident))
        for spec in self.topology.containers:
            if spec.name not in self._residents and self._nodes.sites[spec.node].ready:
                self._attend(spec.name, self._launch, spec, self._nodes.sites[spec.node])
        threading.Thread(target=self._recognise, args=(site,), daemon=True).start()

    def start(self, name: str) -> dict[str, Any]:
        """Somebody has said that the container is to run, though not every node can be asked whether it has it."""
        declared = {spec.name: spec for spec in self.topology.containers}
        with self.claim(name, "being_created"):
            if name not in self._residents and name in declared:
                self._launch(declared[name], self._nodes.ready(declared[name].node), asked=True)
            else:
                self._revive(self.resident(name), asked=True)
            self.problems.pop(name, None)
            self._waiting.discard(name)
            self._attended.add(name)
        return self.describe(name)

    def _attend(self, name: str, work: Any, *args: Any, unless: Callable[[], bool] = lambda: False) -> None:
        """``unless`` is looked at before anybody else is kept away from the container, which would be refused."""

        def run() -> None:
            if unless() or self._do(name, work, *args):
                self._attended.add(name)

        threading.Thread(target=run, daemon=True).start()

    def _do(self, name: str, work: Any, *args: Any) -> bool:
        """False when nodes have to be waited for, or somebody does the same already: then it is done once more."""
        settled = True
        self._again.add(name)
        while name in self._again:
            try:
                self.take(name, "being_created")
            except Conflict as conflict:  # whoever works on it looks after it
                return conflict.cause != "already_being_created"
            self._again.discard(name)
            try:
                work(*args)
                self.problems.pop(name, None)
                self._waiting.discard(name)
                settled = True
            except CoatError as error:
                self.problems[name] = str(error)
                settled = not isinstance(error, Unasked)
                (self._waiting.discard if settled else self._waiting.add)(name)
                LOG.warning("container %s: %s", name, error)
            finally:
                self.give_back(name)
        return settled

    def _is_alive(self, resident: Resident) -> bool:
        name, site = resident.spec.name, self._nodes.sites[resident.node]
        try:
            there = site.call("container_inspect", {"name": name}).result
        except CoatError:
            return False  # why, is found out again, and told
        if there is None or there["state"] not in ALIVE:
            return False
        self.problems.pop(name, None)
        self._waiting.discard(name)
        return True

    def _recognise(self, site: Site) -> None:
        """What runs here and is thought to live elsewhere may have moved since the journal was copied."""
        with suppress(CoatError):  # it is asked again when it is back
            here = {info["name"] for info in site.call("container_list").result if info["state"] in ALIVE}
            for name, resident in self.homes().items():
                if name in here and resident.node != site.node.name:
                    self._attend(name, self._revive, resident, unless=partial(self._is_alive, resident))

    def _revive(self, resident: Resident, asked: bool = False) -> None:
        """A container that is not where it should be is looked for everywhere; a declared one that is nowhere (its
        node was reinstalled, say) is made again. One that ended is left alone.
        """
        name = resident.spec.name
        if self._residents.get(name) != resident:
            return  # it has been moved since the node came into shape
        found, unasked = self._seek(name)
        self._insist(name, unasked if resident.node in unasked else [], asked)
        forsaken = [node for node in found if self.sweeper.is_forsaken(name, node)]
        states = {node: info["state"] for node, info in found.items()}
        where = whereabouts(name, states, resident.node, forsaken)
        if where is not None:
            if where != resident.node:
                self._adopt(resident.spec, found[where], where)
            return
        if asked or any(spec.name == name for spec in self.topology.containers):
            self._insist(name, unasked, asked)
            LOG.info("container %s is gone from %s and is made again", name, resident.node)
            self._run(resident.spec, self._nodes.ready(resident.node))

    def _launch(self, declared: ContainerSpec, site: Site, asked: bool = False) -> None:
        spec = self._complete(declared)
        found, unasked = self._seek(spec.name)
        where = whereabouts(spec.name, {node: info["state"] for node, info in found.items()})
        if where is not None:  # the journal is younger than the container
            self._adopt(spec, found[where], where)
            return
        self._insist(spec.name, unasked, asked)
        self.move(spec, site.node.name)
        self._run(spec, site)

    def _adopt(self, thought: ContainerSpec, info: dict[str, Any], node: str) -> None:
        """It lives on a node, as that says; its label has what it was made of, and that may have changed since."""
        spec = thought
        with suppress(ValueError, TypeError):  # somebody's own label
            said = ContainerSpec.model_validate(info.get("spec"))
            spec = said if said.network in {one.name for one in self.topology.networks} else thought
        before = self._residents.get(spec.name)
        LOG.warning("container %s is on %s already", spec.name, node)
        self.move(spec, node)
        self._fabric.bind(self.binding(spec, node))
        for name in {node, before.node} if before else {node}:
            self.sweeper.later(self._nodes.sites[name])

    def _seek(self, name: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """What each node says of the container, of those that have one; and the nodes that could not be asked."""
        sites = list(self._nodes.sites.values())

        def ask(site: Site) -> tuple[Site, Any]:
            with suppress(CoatError):
                if site.ready:
                    return site, (site.call("container_inspect", {"name": name}).result,)
            return site, None

        with ThreadPoolExecutor(min(ASKED_AT_ONCE, len(sites) or 1)) as pool:
            answers = list(pool.map(ask, sites))
        found = {site.node.name: answer[0] for site, answer in answers if answer is not None and answer[0] is not None}
        return found, [site.node.name for site, answer in answers if answer is None]

    @staticmethod
    def _insist(name: str, unasked: list[str], asked: bool) -> None:
        """Raises Unasked: a second copy of a container with the same addresses is worse than none."""
        if unasked and not asked:
            raise Unasked(
                f"it is not started, for {', '.join(unasked)} cannot be asked and may have it; it will be when "
                f"all have answered, or now with `coat start {name}`"
            )

    # ---- what is

    def troubles(self) -> dict[str, str]:
        """What is wrong with which container: it could not be started, it is lost, its last migration failed."""
        kinds = (self.problems, self._lost, self._failed)
        names = {name for kind in kinds for name in kind}
        return {name: "; ".join(kind[name] for kind in kinds if name in kind) for name in sorted(names)}

    def seen(self, name: str, node: str, state: str) -> None:
        """What a node has of a container that should be there, unless somebody is working on it."""
        resident = self._residents.get(name)
        if resident is None or resident.node != node or self.purpose(name) is not None:
            return
        if state in LOST:
            self._lost[name] = f"it is {state} on {node}"
        else:
            self._lost.pop(name, None)

    def ended(self, record: Migration) -> None:
        """The container's newest migration, as it has ended or is going on."""
        if record.state == "failed" and record.error is not None:
            self._failed[record.container] = f"migration {record.id} failed: {record.error.message}"
        else:
            self._failed.pop(record.container, None)

    def describe(self, name: str) -> dict[str, Any]:
        """One container as REST shows it. Raises NotFound."""
        resident = self.resident(name)
        site = self._nodes.site(resident.node)
        if not site.ready:
            return self._record(resident, None, "unknown")
        found = site.call("container_inspect", {"name": name}).result
        self.seen(name, resident.node, found["state"] if found else "missing")
        return self._record(resident, found, "missing")

    def list(self) -> list[dict[str, Any]]:
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for site in self._nodes.sites.values():
            if site.ready:
                found |= {(site.node.name, info["name"]): info for info in site.call("container_list").result}
        records = []
        for name, resident in sorted(self._residents.items()):
            absent = "missing" if self._nodes.site(resident.node).ready else "unknown"
            records.append(self._record(resident, found.get((resident.node, name)), absent))
        return records

    def _record(self, resident: Resident, info: dict[str, Any] | None, absent: str) -> dict[str, Any]:
        spec = resident.spec
        state = info["state"] if info else absent
        if self._claims.get(spec.name) == "migrating":
            state = "migrating"
        return {
            "name": spec.name,
            "id": info["id"] if info else None,
            "image": spec.image,
            "node": resident.node,
            "network": spec.network,
            "ip": str(spec.ip),
            "ip6": str(spec.ip6) if spec.ip6 else None,
            "mac": spec.mac,
            "state": state,
            "problem": self.troubles().get(spec.name),
        }
