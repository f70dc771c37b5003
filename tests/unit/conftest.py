"""What several unit tests begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.migrating import SPEC, Controller, world_with_web


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    made = Controller(world_with_web(), tmp_path / "journal.db")
    made.containers.create(SPEC)
    yield made
    made.journal.close()
