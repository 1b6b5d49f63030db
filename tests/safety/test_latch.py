"""The latch halts at once, keeps its reasons, and comes up again only for a person with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gaelp.core.errors import BadInput
from gaelp.safety import latch


def test_a_dropped_latch_is_down_until_it_is_lifted(tmp_path: Path) -> None:
    assert latch.read(tmp_path) is None
    latch.drop(tmp_path, "spend ran away")
    found = latch.read(tmp_path)
    assert found is not None
    assert found.reason == "spend ran away"
    latch.lift(tmp_path, "the cap was typed wrong, fixed")
    assert latch.read(tmp_path) is None


def test_a_second_drop_keeps_the_first_reason(tmp_path: Path) -> None:
    latch.drop(tmp_path, "first,\nin two lines")
    latch.drop(tmp_path, "second")
    assert latch.read(tmp_path) == latch.Latch(("first,\nin two lines", "second"))


def test_what_was_lifted_is_kept(tmp_path: Path) -> None:
    latch.drop(tmp_path, "why")
    latch.lift(tmp_path, "because")
    (line,) = (tmp_path / latch.HISTORY_FILE).read_text().splitlines()
    assert json.loads(line) == {"dropped": ["why"], "lifted": "because"}


def test_a_latch_file_written_by_hand_halts_too(tmp_path: Path) -> None:
    (tmp_path / latch.LATCH_FILE).write_text("stop it\n")
    assert latch.read(tmp_path) == latch.Latch(("stop it",))
    (tmp_path / latch.LATCH_FILE).write_bytes(b"")
    assert latch.read(tmp_path) is not None
    (tmp_path / latch.LATCH_FILE).write_bytes(b"\xff\xfe\x00")
    assert latch.read(tmp_path) is not None


def test_a_place_that_does_not_exist_is_no_permission(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot tell"):
        latch.read(tmp_path / "elsewhere")


def test_dropping_makes_the_place_and_leaves_no_draft_behind(tmp_path: Path) -> None:
    latch.drop(tmp_path / "runs" / "one", "why")
    assert [p.name for p in (tmp_path / "runs" / "one").iterdir()] == [latch.LATCH_FILE]


def test_reasons_are_asked_for_and_there_must_be_something_to_lift(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="with a reason"):
        latch.drop(tmp_path, " ")
    with pytest.raises(BadInput, match="no latch to lift"):
        latch.lift(tmp_path, "because")
    latch.drop(tmp_path, "why")
    with pytest.raises(BadInput, match="with a reason"):
        latch.lift(tmp_path, "")
    assert latch.read(tmp_path) is not None
