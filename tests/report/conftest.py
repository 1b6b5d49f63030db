"""A store in a temporary directory, for every test of the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.report.story import StoppedClock

from gaelp.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "gaelp.sqlite", StoppedClock())
    yield opened
    opened.close()
