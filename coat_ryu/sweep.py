"""What lies on a node and belongs to no living container and no running migration: found, shown, removed.

A migration removes what it leaves behind itself; what it could not reach is swept when the node comes back, and by
``coat cleanup``. Nothing is touched that a resident container or a migration under way could need, and no running
container is ended unless its own migration took that copy back.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from coat_ryu.errors import CoatError, Conflict, NodeError
from coat_ryu.journal import Journal, Resident
from coat_ryu.model import hold_port
from coat_ryu.nodes import BRIDGE, Nodes, Site, endpoint_name

LOG = logging.getLogger(__name__)

LIST_TIMEOUT, REMOVE_TIMEOUT = 30.0, 120.0
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
            unknown = state in ("running", "paused") and name not in forsaken
            lives = f"lives on {homes[name]}" if name in homes else "is not known to the controller"
            yield Stray(node, "container", name, f"it is {state} here, though {name} {lives}" if unknown else None)
    kept = {name for name, state in containers.items() if state in ("running", "paused")} - forsaken
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
        self._unfenced: dict[str, dict[str, dict[str, Any]]] = {}

    def look(self, site: Site) -> list[Stray]:
        """What lies about on one node. Raises NodeError, JournalError."""
        found = site.call("residue_list", {"bridge": BRIDGE}, LIST_TIMEOUT).result
        # In this order: what came to the node after the look is not in it, whatever is decided then.
        homes = {name: resident.node for name, resident in self._guard.homes().items()}
        transfers = {migration.id for migration, _ in self._journal.unfinished()}
        running = {name for name in found["containers"] if homes.get(name) not in (None, site.node.name)}
        forsaken = {name for name in running if self._taken_back(name, site.node.name)}
        return list(strays(site.node.name, found, homes, self._guard.claimed(), transfers, forsaken))

    def _taken_back(self, container: str, node: str) -> bool:
        """Whether the last that a container was moved was to this node, and was undone while the node was away."""
        last = self._journal.latest(container)
        return last is not None and last.state == "rolled_back" and last.destination == node

    def sweep(self, site: Site, remove: Scope) -> list[Stray]:
        """Looks, and removes what may go. Raises NodeError, JournalError."""
        if remove != "none":
            self._outlast(site)
        seen = self.look(site)
        self.problems[site.node.name] = [f"{stray.name}: {stray.keep}" for stray in seen if stray.keep]
        return [self._remove(site, stray) if self._may_go(stray, remove) else stray for stray in seen]

    def _may_go(self, stray: Stray, remove: Scope) -> bool:
        foreign = stray.kind in ("container", "endpoint") and stray.name not in self._guard.homes()
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
        for container, fence in list(self._unfenced.get(site.node.name, {}).items()):
            try:
                site.call("clock", {"fence": fence}, REMOVE_TIMEOUT)
            except NodeError as error:
                if error.cause != "fenced":  # else a later migration has waited
                    raise
            self._unfenced[site.node.name].pop(container, None)

    def owe(self, site: Site, fence: dict[str, Any]) -> None:
        """Before the next look, what this fence's migration may still do on the node is outlasted."""
        self._unfenced.setdefault(site.node.name, {})[fence["container"]] = fence

    def later(self, site: Site, fence: dict[str, Any] | None = None) -> None:
        """Sweeps in the background; what cannot be done now is tried when the node comes back.

        ``fence`` (``Move.fence``) is of a migration whose requests may still be under way on the node.
        """
        if fence is not None:
            self.owe(site, fence)

        def run() -> None:
            try:
                self.sweep(site, "known")
            except CoatError as error:
                LOG.warning("node %s could not be swept: %s", site.node.name, error)

        threading.Thread(target=run, daemon=True).start()

    def _remove(self, site: Site, stray: Stray) -> Stray:
        name = stray.name if stray.kind in ("container", "endpoint") else None
        try:
            if name is None:
                _REMOVE[stray.kind](site, stray.name)
            elif not self._remove_guarded(site, stray.kind, name):
                return stray
        except CoatError as error:
            LOG.warning("%s: the %s %s could not be removed: %s", stray.node, stray.kind, stray.name, error)
            return stray
        LOG.warning("%s: removed the %s %s, which belonged to nobody", stray.node, stray.kind, stray.name)
        return Stray(stray.node, stray.kind, stray.name, removed=True)

    def _remove_guarded(self, site: Site, kind: Kind, name: str) -> bool:
        """Nobody may bring the container here meanwhile. False if somebody has since the look."""
        try:
            self._guard.take(name, "being_swept")
        except Conflict:
            return False
        try:
            home = self._guard.homes().get(name)
            if home is not None and home.node == site.node.name:
                return False
            _REMOVE[kind](site, name)
            return True
        finally:
            self._guard.give_back(name)


_REMOVE: dict[str, Callable[[Site, str], Any]] = {
    "container": lambda site, name: site.call("container_remove", {"name": name}, REMOVE_TIMEOUT),
    "endpoint": lambda site, name: site.call("endpoint_remove", endpoint_name(name), REMOVE_TIMEOUT),
    "hold": lambda site, port: site.call("hold_close", {"bridge": BRIDGE, "port": port}, REMOVE_TIMEOUT),
    "transfer": lambda site, key: site.call("transfer_discard", {"transfer": key}, REMOVE_TIMEOUT),
}
