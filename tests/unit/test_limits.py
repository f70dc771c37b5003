"""What a container may do and use at the most: as it is asked for, as Podman is told, and where it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from coat_ryu.config import parse_body, parse_topology
from coat_ryu.containers import create_args
from coat_ryu.errors import InputError
from coat_ryu.model import ContainerSpec
from coat_ryu.node import (
    hook,  # noqa: F401  # registers all verbs
    limits,
    verbs,
)
from coat_ryu.node.failure import Failure
from coat_ryu.preflight import limit_refusals

PLAIN = {"name": "web", "node": "edge1", "image": "localhost/web"}
ASKED: dict[str, Any] = {
    "cap_drop": ["net_raw", "CAP_CHOWN"],
    "security_opt": ["no-new-privileges:true"],
    "mem_limit": "64m",
}
ASKED |= {"cpus": 0.5, "pids_limit": 50}
TOLD: dict[str, Any] = {
    "cap_drop": ("CAP_NET_RAW", "CAP_CHOWN"),
    "security_opt": ("no-new-privileges",),
    "mem_limit": 64 << 20,
}
TOLD |= {"cpus": 0.5, "pids_limit": 50}


def spec(**more: Any) -> ContainerSpec:
    return parse_body(ContainerSpec, json.dumps({**PLAIN, **more}).encode())


def test_limits_are_read_as_compose_writes_them_and_told_to_the_node() -> None:
    asked = spec(**ASKED)
    assert asked.limits == TOLD
    args = create_args(asked)
    assert args["limits"] == TOLD
    assert ContainerSpec.model_validate_json(args["spec"]) == asked, "the label has them too"
    text = json.dumps({"nodes": [{"name": "edge1", "address": "10.0.0.1"}], "containers": [{**PLAIN, **ASKED}],
                       "networks": [{"name": "n", "vni": 1, "subnet": "10.1.0.0/24"}]})  # fmt: skip
    assert parse_topology(text, "file").containers[0].limits == TOLD


def test_what_is_not_asked_for_is_not_told_nor_in_the_label() -> None:
    args = create_args(spec())
    assert "limits" not in args and not set(ASKED) & json.loads(args["spec"]).keys()


@pytest.mark.parametrize(
    ("size", "found"),
    [
        (6 << 20, 6 << 20),
        ("8388608", 8 << 20),
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("1.5g", 3 << 29),
        ("9000k", 9_216_000),
    ],
)
def test_sizes_have_units(size: object, found: int) -> None:
    assert spec(mem_limit=size).mem_limit == found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mem_limit", "1m"),
        ("mem_limit", "64x"),
        ("mem_limit", -1),
        ("mem_limit", "64m; rm"),
        ("cpus", 0),
        ("cpus", "half"),
        ("cpus", 1e99),
        ("pids_limit", 0),
        ("pids_limit", 1.5),
        ("cap_drop", ["NET_RAWW"]),
        ("cap_drop", ["--privileged"]),
        ("cap_drop", "NET_RAW"),
        ("cap_drop", [1]),
        ("cap_drop", [{}]),
        ("security_opt", [{}]),
        ("mem_limit", {}),
        ("security_opt", ["seccomp=unconfined"]),
        ("security_opt", ["no-new-privileges:false"]),
    ],
)
def test_what_is_no_limit_is_refused_by_its_field(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        spec(**{field: value})


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(limits, "CGROUP2", tmp_path / "cgroup.controllers")
    monkeypatch.setattr(limits, "CGROUP1", tmp_path / "cgroups")
    return tmp_path


def test_podman_is_told_all_of_them(cgroups: Path) -> None:
    (cgroups / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    assert limits.options(TOLD) == [
        *("--memory=67108864", "--cpus=0.5", "--pids-limit=50"),
        *("--cap-drop=CAP_NET_RAW", "--cap-drop=CAP_CHOWN", "--security-opt=no-new-privileges"),
    ]
    assert limits.options({}) == []


@pytest.mark.parametrize("limit", ["mem_limit", "cpus", "pids_limit"])
def test_a_limit_without_its_controller_is_refused_by_node_and_controller(cgroups: Path, limit: str) -> None:
    (cgroups / "cgroup.controllers").write_text("io hugetlb\n")
    assert limits.options({"cap_drop": ["ALL"]}) == ["--pids-limit=0", "--cap-drop=ALL"]
    with pytest.raises(Failure, match=f"{limit}: .* no cgroup controller"):
        limits.options({limit: TOLD[limit]})
    (refusal,) = limit_refusals("edge2", {"cgroup_controllers": limits.controllers()}, {limit: TOLD[limit]})
    assert refusal.cause == "no_cgroup_controller" and "edge2" in refusal.message and "hugetlb, io" in refusal.message
    assert list(limit_refusals("edge2", {}, TOLD)) == [], "what a node does not say is no reason"


def test_cgroup_v1_alone_tells_what_it_has(cgroups: Path) -> None:
    (cgroups / "cgroups").write_text(
        "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t2\t1\nmemory\t0\t1\t0\npids\t3\t4\t1\n"
    )
    assert limits.controllers() == ["cpu", "pids"]
    (cgroups / "cgroups").unlink()
    assert limits.controllers() == []


@pytest.mark.parametrize(
    "bad", [{"cap_drop": ["x y"]}, {"security_opt": ["seccomp=unconfined"]}, {"mem_limit": "64m"}, {"privileged": True}]
)
def test_the_node_checks_them_again(bad: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coat_ryu.node.podman.inspect", lambda name: None)
    args = {"name": "n", "image": "i", "command": [], "env": {}, "netns": "coat-n", "spec": "{}", "limits": bad}
    with pytest.raises(Failure) as raised:
        verbs.call("container_run", args)
    assert raised.value.cause == "bad_args" and next(iter(bad)) in str(raised.value)
