"""Checkpoints: named by their content, read back to the bit, and refused when a byte of them changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gaelp.core.errors import StoreError
from gaelp.store.checkpoints import ARRAYS_FILE, MANIFEST_FILE, latest_good_before, load, save

ARRAYS = {
    "layer/weight": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "float64": np.array([0.1, -0.0, np.nan, np.inf]),
    "count": np.array(7, dtype=np.int64),
    "key": np.array([1, 2**32 - 1], dtype=np.uint32),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}
MANIFEST = {"step": 3, "algorithm": "ppo", "seed": 7}


def test_what_is_loaded_is_what_was_saved_to_the_bit(tmp_path: Path) -> None:
    found = load(tmp_path, save(tmp_path, ARRAYS, MANIFEST))
    assert found.manifest == MANIFEST
    assert set(found.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()


def test_equal_content_has_an_equal_name_and_different_content_another(tmp_path: Path) -> None:
    one = save(tmp_path, ARRAYS, MANIFEST)
    assert save(tmp_path, dict(reversed(ARRAYS.items())), MANIFEST) == one
    assert save(tmp_path / "elsewhere", ARRAYS, MANIFEST) == one
    assert save(tmp_path, ARRAYS, MANIFEST | {"step": 4}) != one
    assert save(tmp_path, ARRAYS | {"count": np.array(8)}, MANIFEST) != one
    assert save(tmp_path, ARRAYS | {"count": np.array([7])}, MANIFEST) != one


@pytest.mark.parametrize("name", [ARRAYS_FILE, MANIFEST_FILE])
@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    content_hash = save(tmp_path, ARRAYS, MANIFEST)
    path = tmp_path / content_hash / name
    content = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(content[:-1])
        case "altered":
            path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        case "removed":
            path.unlink()
    with pytest.raises(StoreError, match=name):
        load(tmp_path, content_hash)
    # Saving the same content again repairs it.
    assert save(tmp_path, ARRAYS, MANIFEST) == content_hash
    assert load(tmp_path, content_hash).manifest == MANIFEST


def test_a_checkpoint_under_another_name_is_refused(tmp_path: Path) -> None:
    content_hash = save(tmp_path, ARRAYS, MANIFEST)
    (tmp_path / content_hash).rename(tmp_path / ("0" * 64))
    with pytest.raises(StoreError, match="does not fit its name"):
        load(tmp_path, "0" * 64)
    with pytest.raises(StoreError, match="is missing"):
        load(tmp_path, content_hash)


def test_no_draft_is_left_behind(tmp_path: Path) -> None:
    content_hash = save(tmp_path, ARRAYS, MANIFEST)
    assert [p.name for p in tmp_path.iterdir()] == [content_hash]


def test_rolling_back_takes_the_newest_checkpoint_that_still_loads(tmp_path: Path) -> None:
    lineage = [save(tmp_path, ARRAYS, {"step": k}) for k in range(4)]
    assert latest_good_before(tmp_path, lineage, lineage[3]) == lineage[2]
    (tmp_path / lineage[2] / ARRAYS_FILE).write_bytes(b"")
    assert latest_good_before(tmp_path, lineage, lineage[3]) == lineage[1]
    # Weights that came back unchanged are no earlier good ones.
    assert latest_good_before(tmp_path, [*lineage, lineage[3]], lineage[3]) == lineage[1]
    with pytest.raises(StoreError, match="nothing to roll back to"):
        latest_good_before(tmp_path, lineage, lineage[0])
    with pytest.raises(StoreError, match="not in the lineage"):
        latest_good_before(tmp_path, lineage, "f" * 64)


@pytest.mark.parametrize("name", [ARRAYS_FILE, MANIFEST_FILE])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_is_offered_by_name(
    tmp_path: Path, name: str
) -> None:
    lineage = [save(tmp_path, ARRAYS, {"step": k}) for k in range(3)]
    for hash_ in lineage:
        assert load(tmp_path, hash_, lineage).arrays["count"] == 7
    (tmp_path / lineage[2] / name).write_bytes((tmp_path / lineage[2] / name).read_bytes()[:-1])
    with pytest.raises(
        StoreError, match=f"{name} was altered or truncated.*before it is sound: {lineage[1]}"
    ):
        load(tmp_path, lineage[2], lineage)
    # The offer is of one that loads, which need not be the next.
    (tmp_path / lineage[1] / name).unlink()
    with pytest.raises(
        StoreError, match=f"{name} was altered or truncated.*before it is sound: {lineage[0]}"
    ):
        load(tmp_path, lineage[2], lineage)
    (tmp_path / lineage[0] / name).unlink()
    with pytest.raises(
        StoreError, match=f"{name} is missing. And no checkpoint before {lineage[1]} can be loaded"
    ):
        load(tmp_path, lineage[1], lineage)


def test_a_damaged_checkpoint_outside_the_lineage_is_offered_nothing(tmp_path: Path) -> None:
    one, other = (save(tmp_path, ARRAYS, {"step": k}) for k in range(2))
    (tmp_path / other / ARRAYS_FILE).write_bytes(b"")
    with pytest.raises(StoreError, match=rf"{ARRAYS_FILE} was altered or truncated: .* the manifest\.$"):
        load(tmp_path, other, [one])


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, seed: int) -> None:
    content_hash = save(tmp_path, ARRAYS, MANIFEST)
    rng = np.random.default_rng(seed)
    for name in (ARRAYS_FILE, MANIFEST_FILE):
        path = tmp_path / content_hash / name
        whole = path.read_bytes()
        for at in rng.choice(len(whole) * 8, 100, replace=False).tolist():
            flipped = bytearray(whole)
            flipped[at // 8] ^= 1 << (at % 8)
            path.write_bytes(flipped)
            with pytest.raises(StoreError, match=name):
                load(tmp_path, content_hash)
        path.write_bytes(whole)


def test_a_process_killed_while_saving_leaves_no_half_checkpoint_under_a_name(tmp_path: Path) -> None:
    # It saves as fast as it can and is killed in the middle: whatever bears a name must be whole.
    code = (
        "import sys, pathlib, itertools, numpy as np\n"
        "from gaelp.store.checkpoints import save\n"
        "for k in itertools.count():\n"
        "    save(pathlib.Path(sys.argv[1]), {'w': np.full(200_000, k, np.float32)}, {'step': k})\n"
        "    print(k, flush=True)\n"
    )
    steps = set()
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        for _ in range(3):
            child.stdout.readline()
        child.kill()
        child.wait()
        child.stdout.close()
    for path in tmp_path.iterdir():
        if not path.name.startswith("tmp-"):
            found = load(tmp_path, path.name)
            assert (found.arrays["w"] == found.manifest["step"]).all()
            steps.add(found.manifest["step"])
    assert steps >= {0, 1, 2}


def test_a_failed_write_leaves_no_draft(tmp_path: Path) -> None:
    # A file stands where the checkpoint's directory would: it cannot be moved there.
    content_hash = save(tmp_path / "sound", ARRAYS, MANIFEST)
    (tmp_path / content_hash).write_text("in the way")
    with pytest.raises(OSError, match=content_hash):
        save(tmp_path, ARRAYS, MANIFEST)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([content_hash, "sound"])


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([1j]), np.array([object()]), [1.0]])
def test_what_is_no_plain_array_is_refused(tmp_path: Path, array: object) -> None:
    with pytest.raises(StoreError, match="array 'x' is"):
        save(tmp_path, {"x": array}, {})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_with_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="loss is nan"):
        save(tmp_path, ARRAYS, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []
