"""Weights and buffers on disk: safetensors beside a JSON manifest, in a directory named by its own content."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from gaelp.core.errors import StoreError
from gaelp.store.canonical import Json, canonical, parsed

FORMAT = 1
ARRAYS_FILE, MANIFEST_FILE = "arrays.safetensors", "manifest.json"
DTYPES = frozenset(
    np.dtype(name).str for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved, read back and verified."""

    arrays: Mapping[str, NDArray[Any]]
    manifest: Json


def save(directory: Path, arrays: Mapping[str, NDArray[Any]], manifest: Mapping[str, object]) -> str:
    """Write a checkpoint below `directory` and return its content hash (64 hex digits).

    arrays: NumPy arrays of any shape, float, int, unsigned or bool. Equal content has an equal hash and is kept
    once. When this returns the files are on disk; a crash before leaves no directory under that name.
    Raises StoreError for other types and for a manifest that is not finite JSON.
    """
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.str not in DTYPES:
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise StoreError(
                f"array {name!r} is {kind}: a checkpoint holds NumPy float, int and bool arrays."
            )
    packed = safetensors_numpy.save({name: np.array(array, order="C") for name, array in arrays.items()})
    told = {"format": FORMAT, "arrays_sha256": hashlib.sha256(packed).hexdigest(), "manifest": dict(manifest)}
    text = canonical(told, "manifest").encode()
    content_hash = hashlib.sha256(text).hexdigest()
    target = directory / content_hash
    directory.mkdir(parents=True, exist_ok=True)
    if target.exists() and _sound(directory, content_hash):
        return content_hash
    draft = Path(tempfile.mkdtemp(prefix="tmp-", dir=directory))
    try:
        for name, content in ((ARRAYS_FILE, packed), (MANIFEST_FILE, text)):
            with (draft / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _sync_directory(draft)
        if target.exists():
            # Damaged, or it would have been returned above.
            shutil.rmtree(target)
        draft.rename(target)
    except BaseException:
        # A full disk must not be filled further by what could not be finished.
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync_directory(directory)
    return content_hash


def load(directory: Path, content_hash: str, lineage: Sequence[str] = ()) -> Checkpoint:
    """Read a checkpoint and prove it is what was saved.

    lineage: the run's checkpoints, oldest first, when the caller knows them. Raises StoreError naming the file
    that is missing, truncated or altered and, from the lineage, the newest earlier checkpoint that is sound.
    """
    if content_hash not in lineage:
        return _loaded(directory, content_hash)
    try:
        return _loaded(directory, content_hash)
    except StoreError as error:
        raise StoreError(f"{error} {_offer(directory, lineage, content_hash)}") from None


def _offer(directory: Path, lineage: Sequence[str], content_hash: str) -> str:
    try:
        return f"The one before it is sound: {latest_good_before(directory, lineage, content_hash)}."
    except StoreError as error:
        return f"And {error}"


def _loaded(directory: Path, content_hash: str) -> Checkpoint:
    manifest_path = directory / content_hash / MANIFEST_FILE
    text = _read(manifest_path)
    if hashlib.sha256(text).hexdigest() != content_hash:
        raise StoreError(f"{manifest_path} was altered or truncated: its content does not fit its name.")
    told = parsed(text.decode(), str(manifest_path))
    if told["format"] != FORMAT:
        raise StoreError(f"{manifest_path} has format {told['format']}, this gaelp reads {FORMAT}.")
    arrays_path = directory / content_hash / ARRAYS_FILE
    packed = _read(arrays_path)
    if hashlib.sha256(packed).hexdigest() != told["arrays_sha256"]:
        raise StoreError(f"{arrays_path} was altered or truncated: its content does not fit the manifest.")
    try:
        arrays = safetensors_numpy.load(packed)
    except SafetensorError as error:
        raise StoreError(f"{arrays_path} is no safetensors file: {error}.") from None
    manifest = told["manifest"]
    if not isinstance(manifest, dict):
        raise StoreError(f"{manifest_path} holds no manifest.")
    return Checkpoint(arrays, manifest)


def latest_good_before(directory: Path, lineage: Sequence[str], content_hash: str) -> str:
    """The newest checkpoint before `content_hash` in `lineage` (oldest first) that still loads.

    Raises StoreError when `content_hash` is not in the lineage, or nothing before it loads.
    """
    if content_hash not in lineage:
        raise StoreError(f"checkpoint {content_hash} is not in the lineage of {len(lineage)} checkpoints.")
    last = len(lineage) - 1 - list(reversed(lineage)).index(content_hash)
    for earlier in reversed(lineage[:last]):
        if earlier != content_hash and _sound(directory, earlier):
            return earlier
    raise StoreError(f"no checkpoint before {content_hash} can be loaded: there is nothing to roll back to.")


def _sound(directory: Path, content_hash: str) -> bool:
    try:
        _loaded(directory, content_hash)
    except StoreError:
        return False  # fallback-allowed: the question is whether it loads, and the caller acts on the no
    return True


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise StoreError(f"{path} is missing.")
    return path.read_bytes()


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
