"""The halt latch: one file that stops a run, dropped by anybody, lifted by a person with a reason."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from gaelp.core.errors import BadInput

LATCH_FILE = "HALTED"
HISTORY_FILE = "halts.jsonl"


@dataclass(frozen=True, slots=True)
class Latch:
    """A dropped latch and why, the first reason first."""

    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


def drop(directory: Path, reason: str) -> Latch:
    """Halt whatever reads this directory. A latch that is down stays down and learns one more reason."""
    _check(reason)
    directory.mkdir(parents=True, exist_ok=True)
    before = read(directory)
    latch = Latch((reason,) if before is None else (*before.reasons, reason))
    _write(directory / LATCH_FILE, "".join(json.dumps(r) + "\n" for r in latch.reasons))
    return latch


def read(directory: Path) -> Latch | None:
    """The latch, or None when it is up.

    A file that cannot be understood is a latch that is down. Raises BadInput when the directory is missing:
    looking in the wrong place must not read as permission.
    """
    if not directory.is_dir():
        raise BadInput(f"{directory} is no directory: cannot tell whether the run is halted.")
    path = directory / LATCH_FILE
    if not path.exists():
        return None
    lines = [line for line in path.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    if not lines:
        return Latch(("the latch file gives no reason",))
    return Latch(tuple(_reason(line) for line in lines))


def lift(directory: Path, reason: str) -> None:
    """Let the run go on; what was dropped and why it was lifted is kept beside it.

    Raises BadInput when no latch is down, or without a reason.
    """
    _check(reason)
    latch = read(directory)
    if latch is None:
        raise BadInput(f"{directory} is not halted: there is no latch to lift.")
    # History first: a crash in between leaves the latch down.
    with (directory / HISTORY_FILE).open("a", encoding="utf-8") as history:
        history.write(json.dumps({"dropped": latch.reasons, "lifted": reason}) + "\n")
        history.flush()
        os.fsync(history.fileno())
    (directory / LATCH_FILE).unlink()
    _sync_directory(directory)


def _reason(line: str) -> str:
    try:
        told = json.loads(line)
    except json.JSONDecodeError:
        # Written by hand, for instance by `echo stop > HALTED`: a halt all the same.
        return line.strip()
    return told if isinstance(told, str) else line.strip()


def _check(reason: str) -> None:
    if not reason.strip():
        raise BadInput("a latch is dropped or lifted with a reason, got none.")


def _write(path: Path, text: str) -> None:
    """Replace `path` whole, so that a reader or a crash never meets half a latch."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
