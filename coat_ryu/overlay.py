"""The overlay as a graph of nodes and tunnels: where a frame goes next, and along which tree broadcasts travel.

Everything here is deterministic: the same topology and the same dead tunnels give the same paths on every run, so that
a controller that restarts computes the flows that are already in the switches.
"""

import heapq
from collections.abc import Iterable, Mapping
from itertools import combinations

import networkx as nx

from coat_ryu.model import Topology

Pair = tuple[str, str]
"""Two nodes joined by a tunnel, in alphabetical order."""


def pair(a: str, b: str) -> Pair:
    return (a, b) if a < b else (b, a)


def tunnels(topology: Topology) -> dict[Pair, float]:
    """Every tunnel that the topology asks for, with its weight; a tunnel listed twice keeps its smaller weight."""
    if topology.tunnels == "full-mesh":
        return {pair(a.name, b.name): 1.0 for a, b in combinations(topology.nodes, 2)}
    weights: dict[Pair, float] = {}
    for tunnel in topology.tunnels:
        ends = pair(*tunnel.between)
        weights[ends] = min(tunnel.weight, weights.get(ends, tunnel.weight))
    return weights


DEAD = 1e12
"""What a dead tunnel adds to the weight of a flood tree."""


class Overlay:
    """Paths over tunnels; dead ones only where there is no other way.

    ``nodes`` are names, ``weights`` the cost of every tunnel, ``dead`` the tunnels that seem to carry nothing now.
    Where nothing else is left a dead tunnel is tried all the same: it may be that only its liveness check was late, and
    a frame that is lost in it is not worse off than one that was dropped before.
    """

    def __init__(self, nodes: Iterable[str], weights: Mapping[Pair, float], dead: Iterable[Pair] = ()) -> None:
        self.nodes = tuple(sorted(nodes))
        self.dead = frozenset(dead)
        self.graph: nx.Graph[str] = nx.Graph()
        self.graph.add_nodes_from(self.nodes)
        for (a, b), weight in sorted(weights.items()):
            self.graph.add_edge(a, b, weight=weight, dead=(a, b) in self.dead)
        self._peers: dict[str, list[str]] = {node: [] for node in self.nodes}
        for a, b in sorted(weights):
            self._peers[a].append(b)
            self._peers[b].append(a)
        self._towards: dict[str, dict[str, str]] = {}
        self._tree: dict[str, tuple[str, ...]] | None = None

    @classmethod
    def of(cls, topology: Topology, dead: Iterable[Pair] = ()) -> "Overlay":
        return cls((node.name for node in topology.nodes), tunnels(topology), dead)

    def next_hop(self, node: str, destination: str) -> str | None:
        """The neighbour to hand a frame for ``destination`` to; None when it is here already or cannot be reached."""
        if destination not in self._towards:
            self._towards[destination] = self._tree_towards(destination)
        return self._towards[destination].get(node)

    def path(self, source: str, destination: str) -> tuple[str, ...]:
        """All nodes from source to destination, both included; empty when there is no way."""
        hops = [source]
        while hops[-1] != destination:
            hop = self.next_hop(hops[-1], destination)
            if hop is None:
                return ()
            hops.append(hop)
        return tuple(hops)

    def peers(self, node: str) -> tuple[str, ...]:
        """All nodes at the far end of this node's tunnels, dead ones too."""
        return tuple(self._peers[node])

    def flood_neighbours(self, node: str) -> tuple[str, ...]:
        """The neighbours that broadcasts go to: those in the minimum spanning tree (a forest when partitioned)."""
        if self._tree is None:
            cost: nx.Graph[str] = nx.Graph()
            cost.add_nodes_from(self.nodes)
            for a, b, edge in self.graph.edges(data=True):
                cost.add_edge(a, b, weight=edge["weight"] + DEAD * edge["dead"])
            tree = nx.minimum_spanning_tree(cost)
            self._tree = {name: tuple(sorted(tree[name])) for name in self.nodes}
        return self._tree[node]

    def partitions(self) -> tuple[tuple[str, ...], ...]:
        """The groups of nodes that reach each other over tunnels that are alive, largest first."""
        alive = nx.restricted_view(self.graph, [], self.dead)
        groups = (tuple(sorted(group)) for group in nx.connected_components(alive))
        return tuple(sorted(groups, key=lambda group: (-len(group), group)))

    def _tree_towards(self, root: str) -> dict[str, str]:
        """Dijkstra from the root; each node's parent is its next hop, so forwarding by destination is a tree: no loops.

        Costs are (dead tunnels, weight, hops, name of the parent): hops keep the order strict even where a tiny weight
        vanishes in the rounding of a large sum, names make the choice between equal paths the same every time.
        """
        parents: dict[str, str] = {}
        frontier: list[tuple[int, float, int, str, str]] = [(0, 0.0, 0, "", root)]
        done: set[str] = set()
        while frontier:
            dead, distance, hops, parent, node = heapq.heappop(frontier)
            if node in done:
                continue
            done.add(node)
            if node != root:
                parents[node] = parent
            for neighbour, edge in self.graph[node].items():
                if neighbour not in done:
                    cost = (dead + edge["dead"], distance + edge["weight"], hops + 1)
                    heapq.heappush(frontier, (*cost, node, neighbour))
        return parents
