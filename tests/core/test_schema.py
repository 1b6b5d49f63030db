"""The observation and the action space: widths are computed from named blocks, and the hash knows every level."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gaelp.core.errors import BadInput
from gaelp.core.schema import CAMPAIGN_BLOCKS, PROFILES, TICKS_PER_DAY, Profile, Schema, default_schema


@pytest.fixture(params=["focused", "wide"])
def schema(request) -> Schema:
    return default_schema(profile=request.param)


def test_an_observation_is_192_item_numbers_and_64_campaign_numbers(schema):
    # 4 + 4 + 6 + 4 + 6 + 4 + 9 + 3 + 6 + 6 + 6 + 6 = 64.
    assert [len(names) for _, names in CAMPAIGN_BLOCKS] == [4, 4, 6, 4, 6, 4, 9, 3, 6, 6, 6, 6]
    assert schema.campaign_width == sum(len(names) for _, names in CAMPAIGN_BLOCKS) == 64
    assert schema.item_slots * schema.item_width == 192
    assert schema.observation_size == len(schema.names()) == 256


def test_the_profiles_share_the_192_as_16_x_12_and_64_x_3():
    assert {name: (p.items, len(p.features)) for name, p in PROFILES.items()} == {
        "focused": (16, 12),
        "wide": (64, 3),
    }


def test_the_widths_follow_the_blocks():
    narrow = replace(
        default_schema(), profile=Profile("narrow", 2, ("price_deviation", "share_won", "weight"))
    )
    assert narrow.observation_size == 2 * 3 + 64
    short = replace(default_schema(), pace_levels=(-0.1, 0.0, 0.1), tilt_levels=(0.0,))
    assert (short.action_size, short.zero_move) == (3, 1)


def test_64_joint_moves_are_8_paces_by_8_tilts(schema):
    assert (len(schema.pace_levels), len(schema.tilt_levels), schema.action_size) == (8, 8, 64)


def test_the_zero_move_is_pace_zero_and_tilt_zero(schema):
    # Both zeros stand at index 4: 4 x 8 + 4.
    assert schema.zero_move == 36
    assert schema.pace_levels[36 // 8] == 0.0
    assert schema.tilt_levels[36 % 8] == 0.0


def test_every_name_is_found_at_its_own_index(schema):
    names = schema.names()
    assert len(set(names)) == len(names)
    for slot in range(schema.item_slots):
        for feature in schema.profile.features:
            assert names[schema.item_index(slot, feature)] == f"item{slot}.{feature}"
    for feature in schema.campaign_features:
        assert names[schema.campaign_index(feature)] == feature


def test_an_unknown_campaign_feature_is_refused_with_a_suggestion(schema):
    with pytest.raises(BadInput, match=r"no campaign feature 'budget_lef'\. Did you mean 'budget_left'\?"):
        schema.campaign_index("budget_lef")


def test_an_item_feature_of_the_other_profile_or_a_slot_beyond_the_last_is_refused():
    wide = default_schema(profile="wide")
    with pytest.raises(BadInput, match="no item feature 'calibration' in slot 0 of profile 'wide'"):
        wide.item_index(0, "calibration")
    with pytest.raises(BadInput, match="in slot 64 of profile 'wide'"):
        wide.item_index(64, "spend_pace")
    with pytest.raises(BadInput, match="in slot -1 of profile 'wide'"):
        wide.item_index(-1, "spend_pace")


def test_an_unknown_profile_is_refused_with_a_suggestion():
    with pytest.raises(BadInput, match=r"no observation profile 'focussed'\. Did you mean 'focused'\?"):
        default_schema(profile="focussed")


def test_the_same_schema_has_the_same_hash():
    assert default_schema().hash == default_schema().hash


@pytest.mark.parametrize(
    "changes",
    [
        {"pace_levels": (-0.5, -0.35, -0.2, -0.1, 0.0, 0.1, 0.2, 0.36)},
        {"tilt_levels": (-0.6, -0.4, -0.2, -0.05, 0.0, 0.2, 0.4, 0.6)},
        {"version": 2},
        {"decisions_per_day": 8},
        {"profile": PROFILES["wide"]},
    ],
)
def test_whatever_changes_the_meaning_of_a_number_changes_the_hash(changes):
    assert replace(default_schema(), **changes).hash != default_schema().hash


@pytest.mark.parametrize("levels", [(-0.1, 0.1), (0.0, 0.0, 0.1), (0.1, 0.0)])
def test_levels_rise_are_distinct_and_hold_zero(levels):
    for name in ("pace_levels", "tilt_levels"):
        with pytest.raises(BadInput, match=f"{name} must rise, be distinct and contain 0"):
            replace(default_schema(), **{name: levels})


def test_decisions_part_the_day_into_equal_dayparts():
    assert [default_schema(n).ticks_per_decision for n in (1, 6, 48)] == [TICKS_PER_DAY, 8, 1]
    for never in (7, 0, -6):
        with pytest.raises(BadInput, match=f"decisions_per_day must divide 48, got {never}"):
            default_schema(never)
