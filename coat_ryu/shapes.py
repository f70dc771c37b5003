"""What REST shows of things that are not models of their own, for the OpenAPI document; and their entity tags."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from coat_ryu.answers import encode, entity_tag
from coat_ryu.model import ContainerState, Topology
from coat_ryu.revision import Changes


class _Shown(BaseModel):
    """More may come in a later version."""

    model_config = ConfigDict(extra="allow")


class ContainerStatus(_Shown):
    name: str
    id: str | None
    image: str
    node: str
    network: str
    ip: str
    ip6: str | None
    mac: str
    state: ContainerState
    problem: str | None


class SwitchStatus(_Shown):
    dpid: str
    connected: bool
    in_sync: bool
    flows_wanted: int
    flows_installed: int
    ports_missing: list[str]
    denied_packets: int
    repairs: int
    error: str | None


class NodeStatus(_Shown):
    name: str
    address: str
    dpid: str
    ready: bool
    error: str | None
    ssh: dict[str, Any]
    switch: SwitchStatus
    facts: dict[str, Any]


class TunnelStatus(_Shown):
    between: tuple[str, str]
    weight: float
    up: bool
    down_at: list[str]


class TopologyStatus(_Shown):
    name: str
    revision: str
    underlay_mtu: int
    networks: list[dict[str, Any]]
    ready: bool
    nodes: dict[str, SwitchStatus]
    tunnels: list[TunnelStatus]
    partitions: list[list[str]]
    repairs: int


class TopologyText(Topology):
    """A topology file: YAML, or JSON, which is YAML too."""


class TopologyChange(_Shown):
    revision: str
    applied: bool
    changes: Changes


class BindingStatus(_Shown):
    container: str
    vni: int
    mac: str
    ips: list[str]
    node: str
    port: str
    holding: bool


class Stray(_Shown):
    node: str
    kind: str
    name: str
    keep: str | None
    removed: bool


class TakenOver(_Shown):
    node: str
    before: str | None = Field(description="whom it obeyed before, null if nobody")


class Cleanup(_Shown):
    found: list[Stray]
    unreachable: dict[str, str]


class Health(_Shown):
    status: str = Field(description="ok or degraded")
    problems: list[str]
    nodes: int


def tag_of(body: Any) -> str:
    return entity_tag(body)


def topology_tag(body: dict[str, Any]) -> str:
    """Begins with the revision of what people write, so that a PUT can insist on that alone."""
    return f'"{body["revision"]}-{entity_tag(encode(body))[1:-1]}"'
