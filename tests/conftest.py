"""Where a test lies says what it needs. As root nothing may be skipped; else what cannot be done is, by name."""

import os
from pathlib import Path

import pytest

from mininet_scenarios import rootfs

IS_ROOT = os.geteuid() == 0
MARKED = ("lab", "switch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        room = Path(item.path).relative_to(Path(__file__).parent).parts[0]
        if room in MARKED:
            item.add_marker(room)
        if not IS_ROOT and (reason := _impossible(item)):
            item.add_marker(pytest.mark.skip(reason=reason))


def _impossible(item: pytest.Item) -> str:
    """Why somebody who is not root cannot run it; empty if they can."""
    if item.get_closest_marker("lab"):
        return "needs root: namespaces, Podman and CRIU"
    if item.get_closest_marker("switch") and not rootfs.path().is_dir():
        return "needs the Open vSwitch of the lab's root file system, which only root can make: make lab-setup"
    return ""


def _skipped(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", [])) if reporter else 0


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if IS_ROOT and _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = _skipped(terminalreporter.config)
    if skipped and IS_ROOT:
        terminalreporter.write_line(f"FAILED: {skipped} skipped, and as root nothing may be skipped", red=True)
    elif skipped:
        terminalreporter.write_line(f"{skipped} skipped (named below): run as root for these", yellow=True)
