"""What a container takes along besides its processes: its image and its files, and nothing of another's."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from tests.lab.helpers import EDGES

pytestmark = pytest.mark.lab

SOURCE, DESTINATION = EDGES
IDLE = "import signal; signal.pause()"
TAGGED = "localhost/coat-tagged"


def sh(lab: Lab, host: str, script: str, *arguments: str) -> str:
    return lab.exec(host, ["sh", "-ec", script, "sh", *arguments]).stdout


def build(lab: Lab, host: str, word: str) -> str:
    """An image named TAGGED whose /etc/word holds the word. Answers its id."""
    script = """cd "$(mktemp -d)"; echo "$1" >word
        printf 'FROM localhost/coat-python\\nCOPY word /etc/word\\n' >Containerfile
        podman build --quiet --pull=never --tag "$2" ."""
    return sh(lab, host, script, word, TAGGED).strip()


def images(lab: Lab, host: str) -> list[str]:
    listing = ["podman", "images", "--no-trunc", "--format={{.Repository}}:{{.Tag}} {{.ID}}"]
    return lab.exec(host, listing).stdout.splitlines()


@pytest.fixture
def no_images_left(lab: Lab) -> Iterator[dict[str, list[str]]]:
    """What there is is there again after the test."""
    before = {host: images(lab, host) for host in EDGES}
    yield before
    for host in EDGES:
        for line in set(images(lab, host)) - set(before[host]):
            lab.exec(host, ["podman", "rmi", "--force", "--ignore", line.split()[1]])


def test_another_build_of_its_tag_is_not_used(
    lab: Lab, controller: Controller, no_images_left: dict[str, list[str]], made: Callable[..., dict[str, Any]]
) -> None:
    """At the destination the name means another image, and at the source another one by the time that it moves; one
    container asked for its image by digest, which no other host can look up.
    """
    own = build(lab, SOURCE, "red")
    find = ["podman", "image", "inspect", "--format={{index .RepoDigests 0}}", TAGGED]
    digest = lab.exec(SOURCE, find).stdout.strip().partition("@")[2]
    made("by-tag", SOURCE, "tagged", "python3", "-c", IDLE)
    made("by-digest", SOURCE, f"tagged@{digest}", "python3", "-c", IDLE)
    build(lab, SOURCE, "green")
    other = build(lab, DESTINATION, "blue")
    for name, asked_for, brought in (("by-tag", TAGGED, True), ("by-digest", f"{TAGGED}@{digest}", False)):
        record = controller.migrate(name, DESTINATION)
        assert (record["state"], record["error"]) == ("succeeded", None)
        assert next(step for step in record["steps"] if step["name"] == "image")["detail"]["brought"] is brought
        assert lab.exec(DESTINATION, ["podman", "exec", name, "cat", "/etc/word"]).stdout == "red\n"
        assert controller.get(f"/v1.0/containers/{name}")["image"] == asked_for
        new = {line for line in images(lab, DESTINATION) if line not in no_images_left[DESTINATION]}
        assert new == {f"{TAGGED}:latest sha256:{other}", f"<none>:<none> sha256:{own}"}


def test_etc_hosts_comes_along_when_memory_follows(
    lab: Lab, controller: Controller, made: Callable[..., dict[str, Any]]
) -> None:
    made("web", SOURCE, "python", "python3", "-c", f"held = open('/etc/hosts'); {IDLE}")
    sh(lab, SOURCE, 'podman exec web sh -c "echo 192.0.2.7 database >>/etc/hosts"')
    before = lab.exec(SOURCE, ["podman", "exec", "web", "cat", "/etc/hosts"]).stdout
    record = controller.migrate("web", DESTINATION, memory="lazy")
    assert (record["state"], record["error"]) == ("succeeded", None)
    assert lab.exec(DESTINATION, ["podman", "exec", "web", "cat", "/etc/hosts"]).stdout == before
    assert "192.0.2.7 database" in before
