"""One lab with the paper's three hosts and a controller for all tests that do not need one of their own."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab

LOG_LINES = 60


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """`topologies/paper.yaml` as it is: edge1 and edge2 with the servers on edge1, device with the clients."""
    with Lab(name=f"tests-{os.getpid()}") as lab:
        yield lab


@pytest.fixture
def controller(lab: Lab) -> Controller:
    return Controller(lab.rest)


@pytest.fixture
def made(controller: Controller) -> Iterator[Any]:
    """Makes containers with POST /v1.0/containers; they are gone after the test."""
    names = []

    def make(name: str, node: str, image: str, *command: str, **more: Any) -> dict[str, Any]:
        body = {"name": name, "node": node, "image": f"localhost/coat-{image}", "command": command, **more}
        names.append(name)
        answer: dict[str, Any] = controller.post("/v1.0/containers", body)
        return answer

    yield make
    for name in names:
        controller.call("DELETE", f"/v1.0/containers/{name}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the controller of its lab has written last."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab) and (log := Path(lab.folder, "controller.log")).exists():
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        report.sections.append(("the controller's log", "\n".join(lines)))
    return report
