"""Each reason not to move a container has a cause of its own, and nothing else is a reason."""

from typing import Any

import pytest

from coat_ryu.errors import Conflict
from coat_ryu.model import Memory
from coat_ryu.preflight import check, is_in_full, memory_refusals, refusals
from tests.unit.test_documents import REST, section

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
        ({}, {}, {"tty": True}, "has_tty"),
        ({}, {}, {"shares": ["ipc=host"]}, "shares_namespaces"),
        ({}, {}, {"exec_sessions": ["sh (pid 5)"]}, "has_exec_sessions"),
        ({}, {}, {"foreign_time": ["sleep (pid 5)"]}, "foreign_time"),
        ({}, {}, {"traced": ["python3 (pid 5)"]}, "is_traced"),
        ({}, {}, {"link_local": [7120]}, "link_local_connection"),
        ({}, {}, {"queues": ["/queue of python3 (pid 5)"]}, "message_queue"),
        ({}, {}, {"protocols": ["MPTCP"]}, "mptcp_socket"),
        ({}, {}, {"protocols": ["SCTP"]}, "unknown_socket"),
        ({}, {}, {"files": ["io_uring of node (pid 5)"]}, "io_uring"),
        ({}, {}, {"files": ["perf_event of perf (pid 5)"]}, "unknown_file"),
        ({"lacks": ["CAP_SYS_RESOURCE"]}, {}, {"other_users": ["nginx (pid 5)"]}, "no_cap_sys_resource"),
        ({}, {}, {"mounts": ["/data"]}, "has_mounts"),
        ({}, {}, {"devices": ["/dev/kvm"]}, "has_devices"),
        ({}, {}, {"too_deep": True}, "too_deep"),
        ({}, {}, {"too_long": ["hosts"]}, "file_too_long"),
    ],
)
def test_each_reason_has_its_cause(
    here: dict[str, Any], there: dict[str, Any], needs: dict[str, Any], cause: str
) -> None:
    assert causes(here, there, needs) == [cause]
    assert f"`{cause}`" in section(REST, "Refusals before a migration touches anything")


def test_processes_of_other_users_are_no_reason_where_root_may_see_their_limits() -> None:
    assert causes({"lacks": []}, {"lacks": ["CAP_SYS_RESOURCE"]}, {"other_users": ["nginx (pid 5)"]}) == []
    assert causes({"lacks": ["CAP_SYS_RESOURCE"]}, {}, {"other_users": []}) == []


def test_of_many_things_of_a_kind_a_few_are_named() -> None:
    (refusal,) = refusals("a", "b", NODE, NODE, {**NEEDS, "traced": [f"sh (pid {pid})" for pid in range(9)]}, 1500)
    assert "sh (pid 0), sh (pid 1), sh (pid 2) and 6 more is traced" in refusal.message


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


@pytest.mark.parametrize(
    ("name", "asked_for", "same"),
    [
        ("localhost/web:latest", "web", True),
        ("localhost/web:latest", "localhost/web", True),
        ("r.example:5000/a/web:2", "a/web:2", True),
        ("web:latest", "web:latest", True),
        ("localhost/nginx:latest", "web", False),
        ("localhost/webweb:latest", "web", False),
        ("localhost/web:2", "web", False),
        ("localhost/web:latest", "web:2", False),
    ],
)
def test_a_name_that_a_source_says_is_the_one_asked_for_or_not(name: str, asked_for: str, same: bool) -> None:
    assert is_in_full(name, asked_for) is same
