"""Brings every node into shape and keeps it there: its bridge, its tunnels, the controller's address.

A node that cannot be reached is reported and tried again; the others do not wait for it.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from coat_ryu.errors import CoatError, Conflict, NodeError, NotFound
from coat_ryu.feed import Tell, silent
from coat_ryu.journal import Reign
from coat_ryu.model import Node, Topology, container_port, namespace_name, tunnel_port
from coat_ryu.overlay import Overlay

LOG = logging.getLogger(__name__)

BRIDGE = "coat"
OTHER_CONTROLLER = "other_controller"
PREPARE_TIMEOUT = 60.0
RETRY_FIRST, RETRY_LAST = 1.0, 30.0


def endpoint_name(container: str) -> dict[str, str]:
    """How a container's connection to its node is called, for the hook's ``endpoint_`` verbs."""
    return {"bridge": BRIDGE, "netns": namespace_name(container), "port": container_port(container)}


class Reply(Protocol):
    """A hook's answer. Times in seconds; ``started_at`` and ``finished_at`` on the controller's even clock."""

    result: Any
    started_at: float
    finished_at: float
    remote_overhead_s: float


class Remote(Protocol):
    """The channel to one node's hook.

    ``call`` raises NodeError, NodeUnreachable or NodeTimeout. ``clock_offset`` is what must be
    added to the node's clock to get the controller's, in seconds.
    """

    @property
    def connected(self) -> bool: ...
    @property
    def clock_offset(self) -> float: ...
    def call(self, verb: str, args: dict[str, Any] | None = None, timeout: float = 30.0) -> Any: ...
    def start(self) -> None: ...
    def close(self) -> None: ...
    def status(self) -> dict[str, Any]: ...


@dataclass
class Site:
    """A node as the controller has it: what the file says, the channel to it, and how it is."""

    node: Node
    remote: Remote
    ready: bool = False
    error: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def call(self, verb: str, args: dict[str, Any] | None = None, timeout: float = 30.0) -> Any:
        try:
            return self.remote.call(verb, args, timeout)
        except NodeError as error:
            if error.cause == OTHER_CONTROLLER:  # it was taken over, and is not ours to work with
                self.ready, self.error = False, str(error)
            raise


class Nodes:
    """All sites. ``make_remote(node, on_up, on_down)`` opens the channel; ``on_ready(site)`` is called when one is in
    shape; ``reign`` is whom nodes are told to obey.
    """

    def __init__(
        self,
        topology: Topology,
        make_remote: Callable[[Node, Callable[[], None], Callable[[], None]], Remote],
        openflow: Callable[[str], str],
        on_ready: Callable[[Site], None],
        reign: Reign | None = None,
    ) -> None:
        self._reign = reign
        self._topology = topology
        self._overlay = Overlay.of(topology)
        self._make_remote = make_remote
        self._openflow = openflow
        self._on_ready = on_ready
        self._closing = threading.Event()
        self.tell: Tell = silent
        self.sites = {node.name: self._site(node) for node in topology.nodes}

    def start(self) -> None:
        for site in self.sites.values():
            site.remote.start()

    def close(self) -> None:
        self._closing.set()
        for site in self.sites.values():
            site.remote.close()

    def adopt(self, topology: Topology) -> None:
        """Follows a new topology: sites come and go, and those that stay are brought into shape again."""
        before = self.sites
        self._topology, self._overlay = topology, Overlay.of(topology)
        # a new mapping, for somebody may be walking through the old one
        self.sites = {
            node.name: before[node.name] if node.name in before and before[node.name].node == node else self._site(node)
            for node in topology.nodes
        }
        for name, site in before.items():
            if self.sites.get(name) is not site:
                threading.Thread(target=self._leave, args=(site,), daemon=True).start()
        for name, site in self.sites.items():
            if before.get(name) is not site:
                site.remote.start()
            elif site.remote.connected:
                threading.Thread(target=self._prepare, args=(site, lambda site: None), daemon=True).start()

    def _site(self, node: Node) -> Site:
        remote = self._make_remote(node, lambda: self._up(site), lambda: self._down(site))
        site = Site(node, remote)
        return site

    def _leave(self, site: Site) -> None:
        """A node that is no longer ours, or is reached in another way now, keeps no tunnels of ours."""
        site.ready = False
        if site.node.name not in self.sites:
            self.tell("node", node=site.node.name, ready=False, removed=True)
            try:
                site.call("tunnels_ensure", {"bridge": BRIDGE, "tunnels": {}}, PREPARE_TIMEOUT)
            except CoatError as error:
                LOG.warning("node %s keeps its tunnels: %s", site.node.name, error)
        site.remote.close()

    def site(self, name: str, field_name: str = "") -> Site:
        """Raises NotFound, which begins with the name of the field."""
        if name not in self.sites:
            known = ", ".join(self.sites) or "none"
            where = f"{field_name}: " if field_name else ""
            raise NotFound(f"{where}there is no node {name!r}; there are: {known}", cause="no_such_node")
        return self.sites[name]

    def ready(self, name: str, field_name: str = "node") -> Site:
        """The site if it can be worked with now. Raises NotFound, Conflict."""
        site = self.site(name)
        if not site.ready:
            why = site.error or site.remote.status().get("error") or "it has not been reached yet"
            raise Conflict(f"{field_name}: node {name} is not connected: {why}", cause="node_not_connected")
        return site

    def take_over(self, name: str) -> str | None:
        """The node obeys this controller from now on, whomever it obeyed before; that is returned. Raises NotFound,
        Conflict, NodeError.
        """
        site = self.site(name)
        if not site.remote.connected:
            why = site.remote.status().get("error")
            raise Conflict(f"name: node {name} is not connected: {why}", cause="node_not_connected")
        before = self._command(site, take_over=True)
        LOG.warning("node %s was taken over; it obeyed %s before", name, before or "nobody")
        if not site.ready:
            self._up(site)
        return before

    def _command(self, site: Site, take_over: bool = False) -> str | None:
        if self._reign is None:
            return None
        args = {"bridge": BRIDGE, **asdict(self._reign), "take_over": take_over}
        before: str | None = site.call("obey", args, PREPARE_TIMEOUT).result["before"]
        return before

    def _up(self, site: Site) -> None:
        threading.Thread(target=self._prepare, args=(site, self._on_ready), daemon=True).start()

    def _down(self, site: Site) -> None:
        site.ready = False
        self.tell("node", node=site.node.name, ready=False, error=site.remote.status().get("error"))

    def _prepare(self, site: Site, then: Callable[[Site], None]) -> None:
        """Tries until it works, the channel goes down (a new one starts anew) or the controller ends."""
        delay = RETRY_FIRST
        while site.remote.connected and not self._closing.is_set():
            try:
                self._shape(site)
                site.error, site.ready = None, True
                LOG.info("node %s is in shape", site.node.name)
                self.tell("node", node=site.node.name, ready=True, error=None)
                then(site)
                return
            except CoatError as error:
                site.error = str(error)
                LOG.warning(
                    "node %s could not be brought into shape, again in %.0f s: %s", site.node.name, delay, error
                )
            except Exception as error:  # what it says cannot be understood; it may be another version's hook
                site.error = f"internal error: {error!r}"
                LOG.exception("node %s could not be brought into shape, again in %.0f s", site.node.name, delay)
            self._closing.wait(delay)
            if site.ready:  # it was taken over meanwhile, and brought into shape then
                return
            delay = min(delay * 2, RETRY_LAST)

    def _shape(self, site: Site) -> None:
        node = site.node
        site.facts = site.call("hello").result
        self._command(site)
        bridge = {
            "bridge": BRIDGE,
            "dpid": node.switch,
            "controllers": [self._openflow(site.facts["controller"])],
            "datapath": node.datapath,
            "master": self._reign.mark if self._reign else None,
        }
        site.facts["datapath"] = site.call("bridge_ensure", bridge, PREPARE_TIMEOUT).result["datapath"]
        tunnels = {tunnel_port(peer): str(self._topology.node(peer).address) for peer in self._overlay.peers(node.name)}
        ends = {"bridge": BRIDGE, "tunnels": tunnels, "local": str(node.address)}
        site.call("tunnels_ensure", ends, PREPARE_TIMEOUT)
