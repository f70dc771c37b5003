"""What several unit tests begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from coat_ryu import containers, migrator, sweep
from tests.unit.migrating import Controller, controller_with_web

# These tests yield to those that measure: how long an example takes says nothing about it.
settings.register_profile("yielding", deadline=None)
settings.load_profile("yielding")


@pytest.fixture(autouse=True)
def no_second_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a test goes on when it has ended."""
    monkeypatch.setattr(sweep, "AGAIN", ())
    monkeypatch.setattr(migrator, "AGAIN", ())
    monkeypatch.setattr(containers, "AGAIN", ())


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    made = controller_with_web(tmp_path)
    yield made
    made.journal.close()
