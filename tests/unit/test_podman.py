"""What is made of Podman's answers."""

import json
from typing import Any

import pytest

from coat_ryu.node import podman, standing
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


def test_container_that_podman_keeps_locked_is_told_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked Podman for it would wait until its checkpoint or its restore has ended."""
    said: dict[str, Any] = {"Name": "web", "Id": "1", "ImageName": "i", "Image": "2", "StaticDir": "/nowhere"}
    said |= {"Config": {"Labels": {podman.LABEL_NAME: "web"}}, "GraphDriver": {"Name": "vfs"}}
    said |= {"State": {"Status": "running", "Pid": 7, "StartedAt": podman.NEVER}}
    said |= {"ConmonPidFile": "/run/nowhere/conmon.pid", "HostConfig": {"LogConfig": {"Type": "journald"}}}
    asked: list[tuple[str, ...]] = []

    def answer(*args: str) -> str:
        asked.append(args)
        return "" if args[0] == "ps" else json.dumps([said])

    monkeypatch.setattr(podman, "podman", answer)
    podman.require("web")
    asked.clear()
    with standing.locked("web"):
        seen = podman.container_inspect(name="web")
        assert seen is not None and (seen["state"], seen["pid"]) == ("running", 7)
        assert asked == []
        assert podman.container_list() == [seen]
        assert f"--filter=label!={podman.LABEL_NAME}=web" in asked[0]
    podman.container_inspect(name="web")
    assert len(asked) == 2
