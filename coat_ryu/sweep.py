"""What lies on a node and belongs to no living container and no running migration: found, shown, removed.

A migration removes what it leaves behind itself; what it could not reach is swept when the node comes back, and by
``coat cleanup``. Nothing is touched that a resident container or a migration under way could need, and no running
container is ended unless its own migration took that copy back.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from coat_ryu.census import ALIVE, HAS_RUN
from coat_ryu.errors import CoatError, Conflict
from coat_ryu.journal import Journal, Resident
from coat_ryu.model import hold_port
from coat_ryu.nodes import BRIDGE, Nodes, Site, endpoint_name
from coat_ryu.voice import Voice

LOG = logging.getLogger(__name__)

LIST_TIMEOUT, REMOVE_TIMEOUT = 30.0, 120.0
AGAIN = (1.0, 5.0, 30.0, 120.0)
"""Seconds after which a node that did not remove everything is swept again, as often as there are."""
IMAGE_SUFFIX = "-image"

Scope = Literal["none", "known", "all"]
"""What a sweep removes. ``known``: no container that this controller has never heard of, for its journal may be young.
"""
Kind = Literal["container", "endpoint", "hold", "transfer"]


@dataclass(frozen=True, slots=True)
class Stray:
    """One thing too many on a node. ``keep`` says why it is not for us to remove, None that it may go."""

    node: str
    kind: Kind
    name: str
    keep: str | None = None
    removed: bool = False


class Guard(Protocol):
    """Who knows which containers there are, and keeps others away from one."""

    def homes(self) -> dict[str, Resident]: ...
    def claimed(self) -> set[str]: ...
    def take(self, name: str, purpose: str) -> None: ...
    def give_back(self, name: str) -> None: ...


def strays(
    node: str, found: dict[str, Any], homes: dict[str, str], busy: set[str], transfers: set[str], forsaken: set[str]
) -> Iterator[Stray]:
    """What of ``found`` (the hook's ``residue_list``) nobody needs.

    ``homes`` is container to node; ``busy`` containers are being worked on; ``transfers`` are under way; ``forsaken``
    containers have a copy here that their migration has taken back.
    """
    mine = {name for name, home in homes.items() if home == node} | busy
    containers: dict[str, str] = found["containers"]
    for name, state in containers.items():
        if name not in mine:
            unknown = state in ALIVE and name not in forsaken
            lives = f"lives on {homes[name]}" if name in homes else "is not known to the controller"
            yield Stray(node, "container", name, f"it is {state} here, though {name} {lives}" if unknown else None)
    kept = {name for name, state in containers.items() if state in ALIVE} - forsaken
    names = {*found["namespaces"], *(name for name in found["ports"].values() if name)}
    for name in sorted(names - mine - kept):
        yield Stray(node, "endpoint", name)
    held = {hold_port(name) for name in busy}
    yield from (Stray(node, "hold", port) for port in found["holds"] if port not in held)
    yield from (
        Stray(node, "transfer", key) for key in found["transfers"] if key.removesuffix(IMAGE_SUFFIX) not in transfers
    )


class Sweeper:
    """``problems`` is what was found and must not be removed: node to sentences."""

    def __init__(self, nodes: Nodes, guard: Guard, journal: Journal) -> None:
        self._nodes, self._guard, self._journal = nodes, guard, journal
        self.problems: dict[str, list[str]] = {}
        self._unfenced: dict[str, set[str]] = {}
        self._waiting: dict[str, set[str]] = {}  # home, of which something has to be known, to nodes to be swept then

    def look(self, site: Site) -> list[Stray]:
        """What lies about on one node. Raises NodeError, JournalError."""
        found = site.call("residue_list", {"bridge": BRIDGE}, LIST_TIMEOUT).result
        # In this order: what came to the node after the look is not in it, whatever is decided then.
        homes = {name: resident.node for name, resident in self._guard.homes().items()}
        transfers = {migration.transfer for migration, _ in self._journal.unfinished()}
        # the memory of a container that runs already may still be on its way
        transfers |= {migration.transfer for migration, _ in self._journal.newest("failed") if migration.past_pivot}
        strange = {name for name in found["containers"] if homes.get(name) != site.node.name}
        forsaken = {name for name in strange if self.is_forsaken(name, site.node.name)}
        return list(strays(site.node.name, found, homes, self._guard.claimed(), transfers, forsaken))

    def is_forsaken(self, container: str, node: str) -> bool:
        """Whether the last that a container was moved was to this node, and was undone while the node was away; or had
        failed between this node and another when the container was removed, whatever has its name now.
        """
        last = self._journal.latest(container)
        if last is None:
            return False
        home = self._guard.homes().get(container)
        if last.state == "failed" and (home is None or self._journal.outlived(container)):
            return node in {last.source, last.destination} - ({home.node} if home else set())
        return home is not None and last.state == "rolled_back" and last.destination == node

    def sweep(self, site: Site, remove: Scope) -> list[Stray]:
        """Looks, and removes what may go. Raises NodeError, JournalError."""
        if remove != "none":
            self._outlast(site)
        done: list[Stray] = []
        spared: set[str] = set()
        for stray in self.look(site):  # a container comes before its endpoint
            orphan = stray.kind != "endpoint" or stray.name not in spared
            done.append(self._remove(site, stray) if orphan and self._may_go(stray, remove) else stray)
            if stray.kind == "container" and not done[-1].removed:
                spared.add(stray.name)
        self.problems[site.node.name] = [f"{stray.name}: {stray.keep}" for stray in done if stray.keep]
        return done

    def _may_go(self, stray: Stray, remove: Scope) -> bool:
        foreign = stray.kind in ("container", "endpoint") and stray.name not in self._guard.homes()
        foreign = foreign and not self.is_forsaken(stray.name, stray.node)
        return stray.keep is None and (remove == "all" or (remove == "known" and not foreign))

    def cleanup(self, remove: bool) -> dict[str, Any]:
        """All nodes that answer: ``found`` strays, and ``unreachable`` nodes with the reason."""
        found: list[Stray] = []
        unreachable: dict[str, str] = {}
        for name in self._nodes.sites:
            try:
                found += self.sweep(self._nodes.ready(name), "all" if remove else "none")
            except CoatError as error:
                unreachable[name] = str(error)
        return {"found": [asdict(stray) for stray in found], "unreachable": unreachable}

    def _outlast(self, site: Site) -> None:
        """A hook whose connection was lost finishes what it was told: not after we have looked. Raises NodeError."""
        for container in list(self._unfenced.get(site.node.name, ())):
            with suppress(Conflict), self._claimed(container):  # what somebody works on is left alone anyway
                Voice(container, self._journal).call(site, "clock", {}, REMOVE_TIMEOUT)
                self._unfenced[site.node.name].discard(container)

    def owe(self, site: Site, container: str) -> None:
        """Before the next look, what the container's last migration may still do on the node is outlasted."""
        self._unfenced.setdefault(site.node.name, set()).add(container)

    def later(self, site: Site, container: str | None = None) -> None:
        """Sweeps in the background; what cannot be done now is tried again, and when the node comes back.

        ``container``: requests of its last migration may still be under way on the node.
        """
        if container is not None:
            self.owe(site, container)

        waiting = [
            self._nodes.sites[name] for name in self._waiting.pop(site.node.name, ()) if name in self._nodes.sites
        ]

        def run() -> None:
            for delay in (*AGAIN, 0.0):
                swept = [self._is_swept(one) for one in (site, *waiting)]
                if all(swept):
                    return
                time.sleep(delay)

        threading.Thread(target=run, daemon=True).start()

    def _is_swept(self, site: Site) -> bool:
        """Whether nothing is left that may go, or the node is away: then its return will do."""
        try:
            left = self.sweep(site, "known")
        except CoatError as error:
            LOG.warning("node %s could not be swept: %s", site.node.name, error)
            return not site.ready
        return not any(self._may_go(stray, "known") and not stray.removed for stray in left)

    def _remove(self, site: Site, stray: Stray) -> Stray:
        """What was seen may have come into use since: it goes while nobody works on its container."""
        name = self._container_of(stray)
        try:
            with nullcontext() if name is None else self._claimed(name):
                keep = self._why_keep(site, stray, name)
                if keep is not None:
                    return replace(stray, keep=keep or None)
                verb, args = _request(stray)
                if name is None:  # of no container that we know, so nobody can be refused in its name
                    site.call(verb, args, REMOVE_TIMEOUT)
                else:
                    Voice(name, self._journal).call(site, verb, args, REMOVE_TIMEOUT)
        except Conflict:
            return stray
        except CoatError as error:
            LOG.warning("%s: the %s %s could not be removed: %s", stray.node, stray.kind, stray.name, error)
            return stray
        LOG.warning("%s: removed the %s %s, which belonged to nobody", stray.node, stray.kind, stray.name)
        return replace(stray, removed=True)

    def _container_of(self, stray: Stray) -> str | None:
        if stray.kind in ("container", "endpoint"):
            return stray.name
        if stray.kind == "hold":
            return next((name for name in self._guard.homes() if hold_port(name) == stray.name), None)
        migration = self._journal.migration(stray.name.removesuffix(IMAGE_SUFFIX))
        return None if migration is None else migration.container

    def _why_keep(self, site: Site, stray: Stray, name: str | None) -> str | None:
        """None if it may go; else the reason, or "" where it is no stray any more. Its container is claimed."""
        if stray.kind == "transfer":
            migration = self._journal.migration(stray.name.removesuffix(IMAGE_SUFFIX))
            return "" if migration is not None and migration.state == "running" else None
        if stray.kind == "hold":
            return None
        home = self._guard.homes().get(stray.name)
        if home is not None and home.node == site.node.name:
            return ""
        return self._last_copy(site, stray.name, home.node) if stray.kind == "container" and home is not None else None

    def _last_copy(self, site: Site, name: str, home: str) -> str | None:
        """Why a copy must stay: nothing as good as it is known to be where the container lives. The journal alone is
        not believed: it may have been restored, and be older than the last move.
        """
        lives = self._nodes.sites.get(home)
        if lives is None or not lives.ready:
            self._waiting.setdefault(home, set()).add(site.node.name)
            return f"{name} lives on {home}, which cannot be asked whether it has it"
        there, here = (one.call("container_inspect", {"name": name}, LIST_TIMEOUT).result for one in (lives, site))
        good = ALIVE if here is not None and here["state"] in ALIVE else HAS_RUN
        if there is None or there["state"] not in good:
            found = "missing" if there is None else there["state"]
            return f"{name} lives on {home}, but is {found} there, and this may be the last copy"
        return None

    @contextmanager
    def _claimed(self, name: str) -> Iterator[None]:
        """Raises Conflict when somebody works on the container."""
        self._guard.take(name, "being_swept")
        try:
            yield
        finally:
            self._guard.give_back(name)


def _request(stray: Stray) -> tuple[str, dict[str, Any]]:
    """What removes it: a verb and its arguments."""
    match stray.kind:
        case "container":
            return "container_remove", {"name": stray.name}
        case "endpoint":
            return "endpoint_remove", dict(endpoint_name(stray.name))
        case "hold":
            return "hold_close", {"bridge": BRIDGE, "port": stray.name}
        case "transfer":
            gone = {"transfer": stray.name}
            return "chain", {"steps": [{"verb": verb, "args": gone} for verb in ("transfer_discard", "pages_discard")]}
