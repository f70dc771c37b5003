"""Each reason not to move a container has a cause of its own, and nothing else is a reason."""

from typing import Any

import pytest

from coat_ryu.errors import Conflict
from coat_ryu.model import Memory
from coat_ryu.preflight import check, memory_refusals, refusals

VERSIONS = {"criu": "4.2.1", "podman": "5.4.2", "runtime": "runc 1.1.15", "ovs": "3.5.0"}
NODE: dict[str, Any] = {
    "versions": VERSIONS,
    "cpu_flags": ["avx", "sse2"],
    "memory_free": 1 << 32,
    "disk_free": 1 << 32,
    "mtu": 1500,
}
NEEDS: dict[str, Any] = {"memory": 100 << 20, "layer": 10 << 20, "pod": None, "mounts": [], "devices": []}


def causes(here: dict[str, Any], there: dict[str, Any], needs: dict[str, Any]) -> list[str]:
    found = refusals("a", "b", {**NODE, **here}, {**NODE, **there}, {**NEEDS, **needs}, 1500)
    return [refusal.cause for refusal in found]


def test_equal_nodes_with_room_are_no_reason() -> None:
    assert causes({}, {}, {}) == []
    assert causes({}, {"cpu_flags": ["avx", "sse2", "avx512f"]}, {}) == []


def test_what_a_node_does_not_say_is_no_reason() -> None:
    silent: dict[str, Any] = {"cpu_flags": [], "memory_free": None, "disk_free": None, "mtu": None}
    assert causes(silent, silent, {}) == []


@pytest.mark.parametrize(
    ("here", "there", "needs", "cause"),
    [
        ({"versions": {**VERSIONS, "criu": None}}, {}, {}, "no_criu"),
        ({}, {"versions": {**VERSIONS, "criu": "4.1.1"}}, {}, "old_criu"),
        ({}, {"versions": {**VERSIONS, "podman": "3.4"}}, {}, "old_podman"),
        ({}, {"versions": {**VERSIONS, "podman": None}}, {}, "no_podman"),
        ({}, {"versions": {**VERSIONS, "runtime": "crun 1.21"}}, {}, "runtime_differs"),
        ({}, {"cpu_flags": ["sse2"]}, {}, "cpu_features"),
        ({"disk_free": 150 << 20}, {}, {}, "no_disk"),
        ({}, {"disk_free": 170 << 20}, {}, "no_disk"),
        ({}, {"memory_free": 150 << 20}, {}, "no_memory"),
        ({"mtu": 1450}, {}, {}, "small_mtu"),
        ({}, {"mtu": 1499}, {}, "small_mtu"),
        ({}, {}, {"unaccepted": [7002]}, "unaccepted_connections"),
        ({}, {}, {"pod": "p"}, "in_a_pod"),
        ({}, {}, {"mounts": ["/data"]}, "has_mounts"),
        ({}, {}, {"devices": ["/dev/kvm"]}, "has_devices"),
    ],
)
def test_each_reason_has_its_cause(
    here: dict[str, Any], there: dict[str, Any], needs: dict[str, Any], cause: str
) -> None:
    assert causes(here, there, needs) == [cause]


def test_the_first_reason_is_told() -> None:
    with pytest.raises(Conflict, match="in the pod p") as refusal:
        check("a", "b", NODE, NODE, {**NEEDS, "pod": "p"}, 1500)
    assert refusal.value.cause == "in_a_pod"


CAN: dict[str, Any] = {"lazy": None, "dirty_tracking": True}


@pytest.mark.parametrize(
    ("memory", "features", "versions", "causes"),
    [
        ("lazy", {}, {}, []),
        ("lazy", {"dirty_tracking": False}, {}, []),
        ("lazy", {"lazy": "the kernel lacks uffd"}, {}, ["no_lazy_pages"]),
        ("lazy", {}, {"runtime": "crun 1.21"}, ["no_lazy_pages"]),
        ("precopy", {}, {}, ["not_implemented"]),
        ("precopy", {"dirty_tracking": False}, {}, ["no_dirty_tracking", "not_implemented"]),
        ("full", {"lazy": "no", "dirty_tracking": False}, {}, []),
    ],
)
def test_memory_moves_only_where_both_nodes_can_do_it(
    memory: Memory, features: dict[str, Any], versions: dict[str, str], causes: list[str]
) -> None:
    there = {**NODE, "versions": {**VERSIONS, **versions}}
    found = list(memory_refusals(memory, {"a": CAN, "b": {**CAN, **features}}, {"a": NODE, "b": there}))
    assert [refusal.cause for refusal in found] == causes
    assert all("node b" in refusal.message for refusal in found if refusal.cause != "not_implemented")
