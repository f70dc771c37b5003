"""The real migrator on fake nodes, for the tests of the saga."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from coat_ryu.config import MigrateRequest, parse_topology
from coat_ryu.containers import Containers
from coat_ryu.errors import NodeError
from coat_ryu.health import Health
from coat_ryu.journal import Journal
from coat_ryu.migrator import Migrator
from coat_ryu.model import ContainerSpec
from coat_ryu.nodes import Nodes
from coat_ryu.runner import Limits, Runner
from coat_ryu.saga import Migration
from tests.unit.fakes import FakeFabric, FakeRemote, Killed, World

TOPOLOGY = parse_topology(
    """
networks: [{name: apps, vni: 42, subnet: 192.168.50.0/24}]
nodes: [{name: a, address: 10.0.0.1}, {name: b, address: 10.0.0.2}]
""",
    "test.yaml",
)
SPEC = ContainerSpec(name="web", node="a", image="img", ip=IPv4Address("192.168.50.7"))
MODES = ("sequential", "parallel", "prepared")
WAYS = [*((mode, "full") for mode in MODES), ("prepared", "lazy")]
"""A mode, and how the memory moves."""


class MortalJournal(Journal):
    """A dead controller writes nothing any more. Nobody here cuts the power, so nothing waits for the disk."""

    def __init__(self, path: Path, killed: threading.Event) -> None:
        self._one = threading.Lock()  # a sweep may still read when the test has ended
        super().__init__(path)
        self._do("PRAGMA synchronous=OFF")
        self._killed = killed

    def _fetch(self, statement: str, values: tuple[str | int | None, ...]) -> list[Any]:
        with self._one:
            return super()._fetch(statement, values)

    def close(self) -> None:
        with self._one:
            super().close()

    def put_migration(self, migration: Migration, context: dict[str, Any]) -> None:
        if self._killed.is_set():
            raise Killed
        super().put_migration(migration, context)

    def count(self, name: str, above: int = 0) -> int:
        if self._killed.is_set():
            raise Killed
        return super().count(name, above)

    def put_resident(self, spec: ContainerSpec, node: str) -> None:
        if self._killed.is_set():
            raise Killed
        super().put_resident(spec, node)


class Controller:
    """The real migrator on fake nodes. Several of them, one after the other, can share a world and a journal."""

    def __init__(self, world: World, journal: Path) -> None:
        self.world = world
        self.killed = threading.Event()
        self.journal = MortalJournal(journal, self.killed)
        self.fabric = FakeFabric()
        self.nodes = Nodes(
            TOPOLOGY,
            lambda node, up, down: FakeRemote(world.nodes[node.name], self.killed),
            lambda seen: "tcp:127.0.0.1:6653",
            lambda site: None,
            self.journal.reign(),
        )
        for site in self.nodes.sites.values():
            with suppress(NodeError):  # the site says why
                self.nodes._command(site)
                site.ready = True
        self.containers = Containers(TOPOLOGY, self.nodes, self.fabric, self.journal)  # type: ignore[arg-type]
        self.migrator = Migrator(
            TOPOLOGY,
            self.nodes,
            self.containers,
            self.fabric,  # type: ignore[arg-type]
            self.journal,
            Runner(self.nodes, self.containers, self.journal, Limits(), sleep=lambda seconds: None),
        )

    def light(self) -> None:
        """All nodes are back."""
        self.world.dark.clear()
        self.world.before = lambda number, node, verb: None
        for site in self.nodes.sites.values():
            self.migrator.on_ready(site)

    def swept(self, home: str) -> bool:
        """Sweeps, beside the sweeps that the migrator may have begun; whether nothing is left."""
        for site in self.nodes.sites.values():
            self.containers.sweeper.sweep(site, "known")
        return self.world.residue(home) == []

    def run(self, **request: Any) -> Migration:
        """Migrates and waits for the end, be it the migration's or the controller's."""
        migration = self.migrator.migrate(MigrateRequest(container="web", to="b", **request))
        move = self.migrator.move(migration.id)
        if move is not None and move.thread is not None:
            move.thread.join(30)
        return self.migrator.migration(migration.id)


def wait_for(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def world_with_web() -> World:
    world = World("a", "b")
    for node in world.nodes.values():
        node.images["img"] = "id-of-img"
    return world


def controller_with_web(folder: Path) -> Controller:
    made = Controller(world_with_web(), folder / "journal.db")
    made.containers.create(SPEC)
    return made


def health_of(made: Controller, **options: Any) -> Health:
    return Health(
        made.nodes,
        made.containers,
        made.fabric,  # type: ignore[arg-type]
        made.journal,
        made.migrator.busy,
        lambda: None,
        **options,
    )
