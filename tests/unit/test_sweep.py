"""What lies about is told apart from what is needed; a running container is ended only by its own migration's word."""

from typing import Any

import pytest

from coat_ryu.sweep import Stray, strays


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
