"""A log's file, before anything is read from it."""

from __future__ import annotations

from pathlib import Path

from gaelp.core.errors import BadInput


def expect_file(path: Path, holding: str) -> None:
    """Raises BadInput unless `path` is a file, with what it is instead and what it should have been `holding`."""
    if not path.exists():
        raise BadInput(f"there is no file {path}.")
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise BadInput(f"{path} is {kind}, expected a file with {holding}.")
