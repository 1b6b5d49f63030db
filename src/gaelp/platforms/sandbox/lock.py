"""One process per sandbox database: a lock file that the system releases even when its holder is killed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gaelp.core.errors import BadInput, StoreError

HELD_FOR_GOOD_S = 0.5
"""A lock still taken after so long is no passing question of `is_held`."""


def take_lock(database: Path, wait_s: float) -> sqlite3.Connection:
    """Hold `<database>.lock` until closed or dead: two processes must never play the same world.

    Raises StoreError when another one holds it, BadInput where no file can be made.
    """
    try:
        lock = sqlite3.connect(
            f"{database}.lock", timeout=wait_s, isolation_level=None, check_same_thread=False
        )
    except sqlite3.OperationalError as missing:
        raise BadInput(
            f"no sandbox can be kept at {database} ({missing}): does the directory exist?"
        ) from missing
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as held:
        lock.close()
        raise StoreError(f"{database} is in use by another sandbox process: stop that one first.") from held
    return lock


def is_held(database: Path) -> bool:
    """Does a process hold that database now?"""
    try:
        take_lock(database, wait_s=0.0).close()
    except StoreError:
        return True  # fallback-allowed: refused means held
    return False
