"""What is made of Podman's answers."""

import json

import pytest

from coat_ryu.node import podman
from coat_ryu.node.failure import Failure


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Containers that are listed and go before they are looked at."""
    names = ["one", "two"]

    def answer(*args: str) -> str:
        if args[0] == "ps":
            return names[0] if names else ""
        raise Failure("command_failed", "podman", stderr=f"Error: no such object: {names.pop(0)}")

    monkeypatch.setattr(podman, "podman", answer)
    return names


def test_a_container_that_goes_while_it_is_looked_at_is_not_listed(gone: list[str]) -> None:
    assert podman.container_list() == [] == gone


def test_one_that_comes_and_goes_without_end_is_an_error(gone: list[str]) -> None:
    gone += ["more"] * podman.LOOKS
    with pytest.raises(Failure):
        podman.container_list()
    assert len(gone) == 2


def test_other_failures_are_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*args: str) -> str:
        if args[0] == "ps":
            return "one"
        raise Failure("command_failed", json.dumps(args), stderr="Error: database is locked")

    monkeypatch.setattr(podman, "podman", answer)
    with pytest.raises(Failure, match="one"):
        podman.container_list()
