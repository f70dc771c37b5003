"""Whatever comes in as a topology, or as a line for the hook: an answer in words, never a crash.

COAT_FUZZ_EXAMPLES: how many of each kind.
"""

import io
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coat_ryu.config import parse_topology
from coat_ryu.errors import TopologyError
from coat_ryu.model import Topology
from coat_ryu.node import hook, verbs
from coat_ryu.node.failure import Failure
from tests.unit.test_config import SMALL

CAUSES = {"bad_args", "unknown_verb", "not_found", "conflict", "command_failed", "timeout", "fenced", "transfer_failed"}
HOW_MANY = int(os.environ.get("COAT_FUZZ_EXAMPLES", "300"))
EXAMPLES = settings(max_examples=HOW_MANY, deadline=None, suppress_health_check=[HealthCheck.too_slow])

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
KEYS = ["name", "nodes", "networks", "tunnels", "containers", "lab", "underlay_mtu", "address", "vni", "subnet", "node"]
KEYS += [
    "subnet6",
    "between",
    "weight",
    "image",
    "ip",
    "ip6",
    "mac",
    "env",
    "command",
    "ssh",
    "port",
    "dpid",
    "datapath",
]
words = st.sampled_from(
    ["a", "b", "apps", "full-mesh", "10.0.0.1", "192.168.50.0/24", "192.168.50.1", "02:00:00:00:00:01"]
)
likely = st.recursive(
    scalars | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=30,
)


def parsed(text: str) -> None:
    try:
        assert isinstance(parse_topology(text, "fuzz.yaml"), Topology)
    except TopologyError as error:
        assert str(error).startswith("fuzz.yaml: ")
        assert len(str(error)) < 200_000


@EXAMPLES
@given(st.text() | st.text("{}[]&*!|>:-#\"' \n\tab1,.", max_size=60))
def test_any_text_is_a_topology_or_refused(text: str) -> None:
    parsed(text)


@EXAMPLES
@given(st.dictionaries(st.sampled_from(KEYS), likely, max_size=6))
def test_any_document_is_a_topology_or_refused(document: dict[str, Any]) -> None:
    parsed(yaml.safe_dump(document))


@EXAMPLES
@given(st.data())
def test_a_topology_with_a_piece_put_wrong_is_refused_or_good(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(SMALL)))
    end = data.draw(st.integers(start, min(len(SMALL), start + 12)))
    parsed(SMALL[:start] + data.draw(st.text(max_size=12)) + SMALL[end:])


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "\n".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
        "nodes: &a [*a]",
        "nodes: " + "[" * 5000,
        "name: 2024-99-99",
        "networks: [{name: a, vni: 1e400, subnet: 1}]",
        "nodes: [{name: a, address: !!python/object/apply:os.system [id]}]",
        "? {a: 1}\n: b",
        "underlay_mtu: 99999999999999999999999999",
    ],
)
def test_traps_of_yaml_are_none(text: str) -> None:
    with pytest.raises(TopologyError) as refusal:
        parse_topology(text, "trap.yaml")
    assert len(str(refusal.value)) < 20_000


# ---- the hook


@pytest.fixture
def harmless() -> Iterator[None]:
    """The verbs that touch nothing."""
    every = dict(verbs.VERBS)
    for name in every.keys() - {"chain", "clock"}:
        del verbs.VERBS[name]
    yield
    verbs.VERBS.update(every)


def answers(*lines: bytes) -> list[dict[str, Any]]:
    output = io.BytesIO()
    hook.serve(lines, hook.Answers(output))
    return [json.loads(line) for line in output.getvalue().splitlines()]


requests = st.fixed_dictionaries(
    {},
    optional={
        "id": values,
        "verb": st.sampled_from(["chain", "clock", "hello", "restore"]) | values,
        "args": values | st.fixed_dictionaries({"steps": st.lists(values, max_size=3)}),
        "timeout": values,
        "more": values,
    },
)


@settings(EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.binary(max_size=60) | requests.map(lambda one: json.dumps(one).encode()), max_size=4))
def test_every_line_gets_one_answer(harmless: None, lines: list[bytes]) -> None:
    found = answers(*lines)
    assert len(found) == len(lines)
    for answer in found:
        assert {"id", "ok", "started_at", "finished_at"} <= answer.keys()
        assert answer["ok"] or answer["error"]["cause"] in CAUSES, answer


@EXAMPLES
@given(st.data())
def test_arguments_of_every_verb_are_checked_without_a_crash(data: st.DataObject) -> None:
    function = verbs.VERBS[data.draw(st.sampled_from(sorted(verbs.VERBS)))]
    names = st.sampled_from([*(function.__kwdefaults__ or {}), *function.__annotations__])
    try:
        verbs.checked(function, data.draw(st.dictionaries(names, values, max_size=6)))
    except Failure as failure:
        assert failure.as_json()["cause"] == "bad_args"
