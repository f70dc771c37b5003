"""Flow entries as values, and the difference between two sets of them.

A ``Flow`` is canonical: two flows that a switch treats alike compare equal, whether they were computed here or read
back from a switch. Field names are those of OpenFlow 1.3 (table 11 and following) and of ovs-fields(7) for what Open
vSwitch adds. Values are integers, or text for MAC and IP addresses; ``value/mask`` is a masked match.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

Value = int | str
Match = tuple[tuple[str, Value], ...]
"""Pairs of field name and value, sorted by name."""

COOKIE = 0xC0A7 << 48
COOKIE_MASK = 0xFFFF << 48

OFPP_IN_PORT = 0xFFFFFFF8
OFPP_CONTROLLER = 0xFFFFFFFD


class Role(IntEnum):
    """What a flow is for; kept in the low bits of its cookie, so that counters can be told apart in any flow dump."""

    BASE = 1
    ADMIT = 2
    DENY = 3
    ANSWER = 4
    FORWARD = 5
    FLOOD = 6
    HOLD = 7
    UNKNOWN = 8
    SIFT = 9


@dataclass(frozen=True, slots=True)
class SetField:
    field: str
    value: Value


@dataclass(frozen=True, slots=True)
class Load:
    """Nicira's NXAST_REG_LOAD over a whole field: for fields that OpenFlow's own set-field refuses, such as in_port."""

    field: str
    value: int


@dataclass(frozen=True, slots=True)
class Move:
    """Nicira's NXAST_REG_MOVE of a whole field."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Output:
    port: int


Action = SetField | Load | Move | Output


@dataclass(frozen=True, slots=True)
class Flow:
    """In ``table``, at ``priority``, frames that ``match`` get ``actions`` and go on to table ``goto``."""

    table: int
    priority: int
    match: Match
    actions: tuple[Action, ...] = ()
    goto: int | None = None
    role: int = Role.BASE

    @property
    def key(self) -> "Key":
        return Key(self.table, self.priority, self.match)


class Key(NamedTuple):
    """What OpenFlow identifies a flow entry by: a switch has at most one for each (OpenFlow 1.3, section 5.2)."""

    table: int
    priority: int
    match: Match


@dataclass(frozen=True, slots=True)
class Change:
    """``add`` also replaces the entry with the same key; ``delete`` takes exactly that entry."""

    verb: Literal["add", "delete"]
    flow: Flow


def match(**fields: Value) -> Match:
    return tuple(sorted(fields.items()))


def keyed(flows: Iterable[Flow]) -> dict[Key, Flow]:
    return {flow.key: flow for flow in flows}


def diff(have: Mapping[Key, Flow], want: Mapping[Key, Flow]) -> tuple[Change, ...]:
    """The changes that turn ``have`` into ``want``, in an order that is also right for a switch without bundles.

    Later tables first, so that nothing is sent to a table that is not filled yet; deletions last, in the opposite
    order, so that what replaces an entry is there before the entry goes.
    """
    added = [flow for key, flow in want.items() if have.get(key) != flow]
    removed = [flow for key, flow in have.items() if key not in want]
    added.sort(key=lambda flow: (-flow.table, -flow.priority, str(flow.match)))
    removed.sort(key=lambda flow: (flow.table, flow.priority, str(flow.match)))
    return tuple([Change("add", flow) for flow in added] + [Change("delete", flow) for flow in removed])


def apply(changes: Iterable[Change], have: Mapping[Key, Flow]) -> dict[Key, Flow]:
    """What a switch holds after the changes."""
    flows = dict(have)
    for change in changes:
        if change.verb == "add":
            flows[change.flow.key] = change.flow
        else:
            flows.pop(change.flow.key, None)
    return flows
