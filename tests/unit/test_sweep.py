"""What lies about is told apart from what is needed; a running container is ended only by its own migration's word."""

from typing import Any

import pytest

from coat_ryu.errors import NodeError
from coat_ryu.sweep import Stray, Sweeper, strays


def found(**what: Any) -> dict[str, Any]:
    return {"containers": {}, "namespaces": [], "ports": {}, "holds": [], "transfers": []} | what


def look(what: dict[str, Any], **known: Any) -> list[Stray]:
    defaults: dict[str, Any] = {"homes": {}, "busy": set(), "transfers": set(), "forsaken": set()}
    return list(strays("b", what, **(defaults | known)))


WEB = {"containers": {"web": "running"}, "namespaces": ["web"], "ports": {"c-web": "web"}}


def test_what_lives_here_is_left_alone() -> None:
    assert look(found(**WEB), homes={"web": "b"}) == []


def test_what_somebody_works_on_is_left_alone_with_all_it_has() -> None:
    what = found(**WEB, holds=["h-web"], transfers=["m1", "m1-image"])
    assert look(what, homes={"web": "a"}, busy={"web"}, transfers={"m1"}) == []


@pytest.mark.parametrize("state", ["created", "stopped", "checkpointed"])
def test_an_old_copy_goes_with_its_namespace(state: str) -> None:
    what = found(**{**WEB, "containers": {"web": state}})
    assert look(what, homes={"web": "a"}) == [Stray("b", "container", "web"), Stray("b", "endpoint", "web")]


def test_a_running_copy_is_reported_and_kept_with_its_namespace() -> None:
    (stray,) = look(found(**WEB), homes={"web": "a"})
    assert stray.kind == "container"
    assert stray.keep == "it is running here, though web lives on a"


def test_a_running_copy_that_was_taken_back_goes() -> None:
    gone = look(found(**WEB), homes={"web": "a"}, forsaken={"web"})
    assert [(stray.kind, stray.keep) for stray in gone] == [("container", None), ("endpoint", None)]


def test_a_namespace_or_a_port_alone_is_an_endpoint() -> None:
    assert look(found(namespaces=["x"])) == [Stray("b", "endpoint", "x")]
    assert look(found(ports={"c-x": "x"})) == [Stray("b", "endpoint", "x")]


def test_holds_and_transfers_of_nobody() -> None:
    gone = look(found(holds=["h-web"], transfers=["m1"]), homes={"web": "b"})
    assert gone == [Stray("b", "hold", "h-web"), Stray("b", "transfer", "m1")]


class Away:
    """A node whose last hook still works for a migration; it is away at first. Also the guard and the journal."""

    def __init__(self) -> None:
        self.away, self.ready, self.asked = True, False, list[Any]()
        self.node = type("Node", (), {"name": "b"})

    def call(self, verb: str, args: dict[str, Any], timeout: float) -> Any:
        if self.away:
            raise NodeError("away", node="b")
        self.asked.append((verb, (args.get("fence") or {}).get("container")))
        return type("Reply", (), {"result": found()})

    def homes(self) -> dict[str, Any]:
        return {}

    def claimed(self) -> set[str]:
        return set()

    def count(self, name: str, above: int = 0) -> int:
        return above + 1

    def take(self, name: str, purpose: str) -> None: ...

    def give_back(self, name: str) -> None: ...

    def unfinished(self) -> list[Any]:
        return []

    def newest(self, state: str) -> list[Any]:
        return []


def test_what_a_lost_hook_still_does_is_outlasted_before_the_look() -> None:
    node = Away()
    sweeper = Sweeper(node, node, node)  # type: ignore[arg-type]
    sweeper.later(node, "web")  # type: ignore[arg-type]
    with pytest.raises(NodeError):
        sweeper.sweep(node, "known")  # type: ignore[arg-type]
    node.away = False
    for _ in range(2):
        sweeper.sweep(node, "known")  # type: ignore[arg-type]
    assert node.asked == [("clock", "web"), ("residue_list", None), ("residue_list", None)]
