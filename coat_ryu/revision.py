"""What a new topology would change, and what stands in the way of that."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping

from pydantic import BaseModel

from coat_ryu.model import ContainerSpec, Node, Topology
from coat_ryu.overlay import tunnels


class Changes(BaseModel):
    """Names; tunnels as ``A-B``. ``nodes_moved`` are those of ``nodes_changed`` whose address or switch is another."""

    nodes_added: list[str]
    nodes_removed: list[str]
    nodes_changed: list[str]
    nodes_moved: list[str]
    networks_added: list[str]
    networks_removed: list[str]
    networks_changed: list[str]
    tunnels_added: list[str]
    tunnels_removed: list[str]
    containers_added: list[str]
    settings_changed: list[str]

    @property
    def any(self) -> bool:
        return any(self.model_dump().values())


def revision_of(topology: Topology) -> str:
    """16 hex digits that stand for all that the controller reads of a topology."""
    return hashlib.sha256(topology.model_dump_json(exclude={"lab"}).encode()).hexdigest()[:16]


def changes(old: Topology, new: Topology) -> Changes:
    nodes = _compare({node.name: node for node in old.nodes}, {node.name: node for node in new.nodes})
    networks = _compare({one.name: one for one in old.networks}, {one.name: one for one in new.networks})
    before, after = tunnels(old), tunnels(new)
    return Changes(
        nodes_added=nodes[0],
        nodes_removed=nodes[1],
        nodes_changed=nodes[2],
        nodes_moved=[name for name in nodes[2] if _place(old.node(name)) != _place(new.node(name))],
        networks_added=networks[0],
        networks_removed=networks[1],
        networks_changed=networks[2],
        tunnels_added=sorted("-".join(ends) for ends in after if before.get(ends) != after[ends]),
        tunnels_removed=sorted("-".join(ends) for ends in before.keys() - after.keys()),
        containers_added=sorted({c.name for c in new.containers} - {c.name for c in old.containers}),
        settings_changed=[key for key in ("name", "underlay_mtu") if getattr(old, key) != getattr(new, key)],
    )


def _place(node: Node) -> tuple[object, ...]:
    return (node.address, node.switch, node.datapath)


def _compare(old: Mapping[str, object], new: Mapping[str, object]) -> tuple[list[str], list[str], list[str]]:
    both = old.keys() & new.keys()
    changed = sorted(name for name in both if old[name] != new[name])
    return sorted(new.keys() - both), sorted(old.keys() - both), changed


def obstacles(wanted: Changes, residents: Iterable[tuple[ContainerSpec, str]], busy: Collection[str]) -> Iterator[str]:
    """Reasons not to make these changes. ``residents`` are containers with their nodes; ``busy`` nodes have a migration
    under way.
    """
    lives: dict[str, list[str]] = {}
    attached: dict[str, list[str]] = {}
    for spec, node in residents:
        lives.setdefault(node, []).append(spec.name)
        attached.setdefault(spec.network or "", []).append(spec.name)
    fixed = {*wanted.nodes_removed, *wanted.nodes_moved}
    for what, names in (("removed", wanted.nodes_removed), ("changed", wanted.nodes_changed)):
        for name in names:
            if name in lives and name in fixed:
                yield f"node {name} cannot be {what}: {', '.join(sorted(lives[name]))} lives there; move it away first"
            elif name in busy:
                yield f"node {name} cannot be {what}: a migration under way needs it"
    for what, names in (("removed", wanted.networks_removed), ("changed", wanted.networks_changed)):
        for name in names:
            if name in attached:
                yield f"network {name} cannot be {what}: {', '.join(sorted(attached[name]))} is attached to it"
    if "underlay_mtu" in wanted.settings_changed and lives:
        there = ", ".join(sorted(name for names in lives.values() for name in names))
        yield f"underlay_mtu cannot be changed: the interfaces of {there} were made for the present one"


def orphans(topology: Topology, residents: Iterable[tuple[ContainerSpec, str]]) -> Iterator[str]:
    """Containers, with their nodes, that have no place in a topology."""
    nodes, networks = {node.name for node in topology.nodes}, {network.name for network in topology.networks}
    for spec, node in residents:
        if node not in nodes:
            yield f"{spec.name} lives on node {node}, which the topology does not have"
        elif spec.network not in networks:
            yield f"{spec.name} is attached to network {spec.network}, which the topology does not have"
