"""The controller as REST sees it: one object that knows whom to ask."""

from collections.abc import Iterator
from typing import Any

from coat_ryu.config import CleanupRequest, MigrateRequest, MigrationsQuery, PlanRequest
from coat_ryu.containers import Containers
from coat_ryu.fabric import Fabric
from coat_ryu.feed import Event, Feed
from coat_ryu.health import Health
from coat_ryu.journal import Journal
from coat_ryu.metrics import Metrics
from coat_ryu.migrator import Migrator
from coat_ryu.model import ContainerSpec
from coat_ryu.nodes import Nodes
from coat_ryu.plans import Plan, Plans
from coat_ryu.reload import Reload
from coat_ryu.revision import Changes
from coat_ryu.saga import Migration


class Control:
    """Implements ``rest.Services``."""

    def __init__(
        self,
        nodes: Nodes,
        containers: Containers,
        fabric: Fabric,
        migrator: Migrator,
        journal: Journal,
        metrics: Metrics,
        feed: Feed,
        reload: Reload,
        health: Health,
    ) -> None:
        self._nodes = nodes
        self._containers = containers
        self._fabric = fabric
        self._migrator = migrator
        self._journal = journal
        self._metrics = metrics
        self._feed = feed
        self._reload = reload
        self._health = health
        self._plans = Plans(nodes, containers, journal, fabric.unanswered)
        migrator.runner.predict = self._plans.predict

    def migrate(self, request: MigrateRequest, key: str | None = None, who: str | None = None) -> Migration:
        return self._migrator.migrate(request, key, who)

    def plan(self, request: PlanRequest) -> Plan:
        return self._plans.plan(request)

    def wait_for(self, migration: Migration) -> Migration:
        return self._migrator.wait(migration)

    def abort(self, identifier: str) -> Migration:
        return self._migrator.abort(identifier)

    def migration(self, identifier: str) -> Migration:
        return self._migrator.migration(identifier)

    def migrations(self, wanted: MigrationsQuery) -> tuple[list[Migration], int]:
        return self._migrator.page(wanted)

    def events(self, since: int | None) -> Iterator[Event | None]:
        return self._feed.follow(since)

    def create_container(self, spec: ContainerSpec) -> dict[str, Any]:
        return self._containers.create(spec)

    def remove_container(self, name: str) -> None:
        self._containers.remove(name)

    def container(self, name: str) -> dict[str, Any]:
        return self._containers.describe(name)

    def containers(self) -> list[dict[str, Any]]:
        return self._containers.list()

    def start_container(self, name: str) -> dict[str, Any]:
        return self._containers.start(name)

    def take_over(self, name: str) -> dict[str, Any]:
        return {"node": name, "before": self._nodes.take_over(name)}

    def cleanup(self, request: CleanupRequest) -> dict[str, Any]:
        return self._containers.sweeper.cleanup(request.remove)

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "address": str(site.node.address),
                "dpid": site.node.switch,
                "ready": site.ready and self._fabric.switch_problem(name) is None,
                "error": site.error or site.remote.status().get("error") or self._fabric.switch_problem(name),
                "ssh": site.remote.status(),
                "switch": self._fabric.node_status(name),
                "facts": site.facts,
            }
            for name, site in self._nodes.sites.items()
        ]

    def topology(self) -> dict[str, Any]:
        now = self._reload.topology
        described = now.model_dump(mode="json", include={"name", "underlay_mtu", "networks"})
        return {**described, "revision": self._reload.revision, **self._fabric.status()}

    def replace_topology(self, text: str, dry_run: bool, revision: str | None) -> Changes:
        return self._reload.replace(text, dry_run, revision)

    def bindings(self) -> list[dict[str, Any]]:
        return [
            {
                "container": binding.container,
                "vni": binding.vni,
                "mac": binding.mac,
                "ips": [str(ip) for ip in binding.ips],
                "node": binding.place.node,
                "port": binding.place.port,
                "holding": bool(binding.hold and binding.hold.filling),
            }
            for binding in self._fabric.bindings.values()
        ]

    def flows(self, dpid: str) -> list[dict[str, Any]]:
        return self._fabric.flows(dpid)

    def health(self) -> dict[str, Any]:
        return self._health.report()

    def metrics(self) -> bytes:
        self._metrics.look(
            {name: (site.ready, self._fabric.node_status(name)) for name, site in self._nodes.sites.items()},
            topology_failed=self._reload.error is not None,
            readers=self._feed.readers,
        )
        return self._metrics.text()
