"""What several unit tests begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.unit.migrating import SPEC, Controller, world_with_web

# These tests yield to those that measure: how long an example takes says nothing about it.
settings.register_profile("yielding", deadline=None)
settings.load_profile("yielding")


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    made = Controller(world_with_web(), tmp_path / "journal.db")
    made.containers.create(SPEC)
    yield made
    made.journal.close()
