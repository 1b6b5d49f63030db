"""What holds for every test module."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest
from hypothesis import settings

# How long an example takes says nothing on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

MAPS = Path("/proc/self/maps")
"""The kernel's list of a process's memory areas; Linux alone has it."""
MANY = 20_000
"""Areas from which on compiled programs are dropped. The kernel allows 65,530, XLA takes several for each program and
dies without a message when it gets no more."""


@pytest.fixture(scope="module", autouse=True)
def _programs_of_other_modules_are_dropped_in_time() -> None:
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY:
        jax.clear_caches()
