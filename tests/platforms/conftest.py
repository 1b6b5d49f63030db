"""A small sandbox for each test: two markets, one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.platforms.in_process import Sandbox, open_sandbox

from gaelp.platforms.sandbox.world import Settings

SMALL = Settings(seed=11, markets=2)


@pytest.fixture
def founded(tmp_path: Path) -> Iterator[Callable[[str], Sandbox]]:
    """Opens a sandbox in a file of that name, as often as asked; all are closed at the end."""
    opened: list[Sandbox] = []

    def found(name: str) -> Sandbox:
        opened.append(open_sandbox(tmp_path / name, SMALL))
        return opened[-1]

    yield found
    for sandbox in opened:
        sandbox.close()


@pytest.fixture
def sandbox(founded: Callable[[str], Sandbox]) -> Sandbox:
    return founded("sandbox.db")
