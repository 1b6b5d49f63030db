"""Moves: every joint move has one meaning and back, and the incumbent's randomisation is known exactly."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from gaelp.bidding.act import exploration, move_mask, move_of, pace_of, tilt_of
from gaelp.bidding.rules import Format, Rules
from gaelp.core.errors import BadInput
from gaelp.core.schema import default_schema

SCHEMA = default_schema()


@pytest.mark.parametrize("move", range(64))
def test_a_move_decoded_and_encoded_is_the_same_move(move):
    pace = float(SCHEMA.pace_levels[move // 8])
    tilt = float(SCHEMA.tilt_levels[move % 8])
    assert move_of(pace, tilt, SCHEMA) == move
    for xp in (np, jnp):
        assert pace_of(xp.asarray(move), SCHEMA, xp) == np.float32(pace)
        assert tilt_of(xp.asarray(move), SCHEMA, xp) == np.float32(tilt)


def test_move_zero_is_the_lowest_pace_and_the_zero_move_leaves_the_pacer_alone():
    assert (
        pace_of(np.array([0, 7, 8, 63]), SCHEMA, np).tolist()
        == np.float32([-0.5, -0.5, -0.35, 0.35]).tolist()
    )
    assert pace_of(np.array(SCHEMA.zero_move), SCHEMA, np) == 0.0
    assert move_of(0.0, 0.0, SCHEMA) == SCHEMA.zero_move


def test_a_value_that_is_no_level_is_refused():
    with pytest.raises(BadInput, match=r"\(0\.05, 0\.0\) is no joint move"):
        move_of(0.05, 0.0, SCHEMA)
    with pytest.raises(BadInput, match=r"\(0\.0, 0\.35\) is no joint move"):
        move_of(0.0, 0.35, SCHEMA)


def test_one_line_item_has_nothing_to_tilt_between():
    # One tilt level of eight is 0, so of each pace one move is left: 4, 12, 20, ... 60.
    assert np.flatnonzero(move_mask(SCHEMA, line_items=1)).tolist() == list(range(4, 64, 8))
    assert move_mask(SCHEMA, line_items=2).all()


@pytest.mark.parametrize("rules", [Rules(Format.FIRST_PRICE), Rules(Format.GSP, (1.0, 0.6))])
def test_where_bids_are_shaded_the_second_knob_shades_a_single_line_items(rules):
    assert move_mask(SCHEMA, 1, rules).all()


@pytest.mark.parametrize("line_items", [1, 2])
@pytest.mark.parametrize("keep", [0.05, 0.3, 0.65])
def test_exploration_sums_to_one_over_the_mask_with_a_floor(line_items, keep):
    mask = move_mask(SCHEMA, line_items)
    chances = exploration(SCHEMA, mask, keep)
    # 8 moves with one item: 7 others share 1 - keep; 64 with two: 63 others.
    floor = (1 - keep) / {1: 7, 2: 63}[line_items]
    assert chances.sum() == pytest.approx(1.0, abs=1e-15)
    assert chances[SCHEMA.zero_move] == keep
    assert (chances[~mask] == 0.0).all()
    others = np.delete(chances, SCHEMA.zero_move)
    assert others[others > 0] == pytest.approx(floor, abs=1e-15)


@pytest.mark.parametrize("keep", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_exploration_that_would_leave_a_move_without_a_chance_is_refused(keep):
    with pytest.raises(BadInput, match="with a probability inside"):
        exploration(SCHEMA, move_mask(SCHEMA, line_items=1), keep)


def test_exploration_without_another_move_is_refused():
    with pytest.raises(BadInput):
        exploration(SCHEMA, np.arange(64) == SCHEMA.zero_move, 0.5)
