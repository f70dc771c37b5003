"""Paths and trees, on every overlay that hypothesis thinks of."""

from itertools import pairwise

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from coat_ryu.model import Topology
from coat_ryu.overlay import Overlay, tunnels
from tests.unit.overlay_sim import overlays


@given(overlays(most=9))
def test_every_path_is_a_shortest_one_and_ends_where_it_should(overlay):
    for source in overlay.nodes:
        best = nx.single_source_dijkstra_path_length(overlay.graph, source)
        for destination in overlay.nodes:
            path = overlay.path(source, destination)
            assert path[0] == source and path[-1] == destination
            assert len(set(path)) == len(path)
            assert abs(nx.path_weight(overlay.graph, path, "weight") - best[destination]) < 1e-9


@given(overlays(most=9))
def test_a_rest_of_a_path_is_the_path_from_there(overlay):
    """What makes forwarding by destination right: no switch disagrees with the one before it."""
    for source in overlay.nodes:
        for destination in overlay.nodes:
            path = overlay.path(source, destination)
            assert all(overlay.path(node, destination) == path[at:] for at, node in enumerate(path))


@given(overlays(most=9))
def test_the_flood_tree_reaches_everybody_without_a_cycle(overlay):
    edges = {(node, peer) for node in overlay.nodes for peer in overlay.flood_neighbours(node)}
    assert all((peer, node) in edges for node, peer in edges)
    tree = nx.Graph(list(edges))
    tree.add_nodes_from(overlay.nodes)
    assert nx.is_tree(tree)


@given(overlays(most=9), st.data())
def test_dead_tunnels_are_a_last_resort_and_partitions_are_told(overlay, data):
    weights = {tuple(sorted(edge)): 1.0 for edge in overlay.graph.edges}
    dead = data.draw(st.sets(st.sampled_from(sorted(weights)))) if weights else set()
    wounded = Overlay(overlay.nodes, weights, dead)
    groups = wounded.partitions()
    assert sorted(node for group in groups for node in group) == sorted(overlay.nodes)
    for source in overlay.nodes:
        assert wounded.peers(source) == overlay.peers(source)
        for destination in overlay.nodes:
            path = wounded.path(source, destination)
            together = any(source in group and destination in group for group in groups)
            used = {tuple(sorted(hop)) for hop in pairwise(path)} & dead
            assert path[-1] == destination and together == (not used)
    tree = {tuple(sorted((node, peer))) for node in overlay.nodes for peer in wounded.flood_neighbours(node)}
    assert len(tree & dead) == len(groups) - 1


def test_the_same_overlay_gives_the_same_paths_whatever_the_order_it_is_told_in():
    edges = {("a", "b"): 1.0, ("b", "d"): 1.0, ("a", "c"): 1.0, ("c", "d"): 1.0}
    backwards = dict(reversed(edges.items()))
    assert Overlay("abcd", edges).path("a", "d") == Overlay("dcba", backwards).path("a", "d") == ("a", "b", "d")


def test_tunnels_are_a_full_mesh_or_those_listed():
    nodes = [{"name": name, "address": f"10.0.0.{number}"} for number, name in enumerate("cab", 1)]
    networks = [{"name": "net", "vni": 1, "subnet": "10.1.0.0/24"}]
    mesh = Topology.model_validate({"nodes": nodes, "networks": networks})
    assert tunnels(mesh) == {("a", "b"): 1.0, ("a", "c"): 1.0, ("b", "c"): 1.0}
    listed = [{"between": ["c", "a"], "weight": 3}, {"between": ["a", "c"], "weight": 2}]
    assert tunnels(Topology.model_validate({"nodes": nodes, "networks": networks, "tunnels": listed})) == {
        ("a", "c"): 2.0
    }
