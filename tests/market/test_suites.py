"""Suites: the same worlds for everybody, told apart by their hashes, and refused where they are impossible."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaelp.bidding.pacer import DEFAULT_PARAMS
from gaelp.core.errors import BadInput
from gaelp.market.baselines import CHUNK, drawn, play
from gaelp.market.campaign import float32
from gaelp.market.oracle import Prices
from gaelp.market.suites import NAMES, Room, expect_win_rate, suite, suite_names
from gaelp.market.world import absent, auctions_bank

HASHES = {
    "second-price": "2ca203850af1bf49",
    "second-price-cpa": "b6aaabdaea29d0c2",
    "second-price-drift": "a4df0124eabf469b",
    "second-price-cpa-drift": "eaea045cf5ab8d96",
    "first-price": "8d90cf5df6e0cff9",
    "first-price-cpa": "f14b4d0e5e855f55",
    "first-price-drift": "da112ae845de72b9",
    "first-price-cpa-drift": "bb9be8515aeafe9c",
    "gsp": "c52276c88e80be72",
    "gsp-cpa": "91898c4b1af1d9d8",
    "gsp-drift": "e08e9ca560efec21",
    "gsp-cpa-drift": "5870af01bb7e3c1a",
    "fatigue-cpa": "aeaaeb5c4efefe0e",
    "all-second-price": "666ece1a08825157",
    "all-first-price": "12f03abe397484e4",
    "all-gsp": "d11996bbed82fa96",
    "eight-items": "5c126f5748997269",
    "cold-start": "7b6297c4e6111ef5",
    "delay": "fe4bac2d1fd77cb5",
    "rivals": "71072194ab051eae",
}


def test_every_suite_is_the_one_that_was_published():
    assert {name: suite(name).hash for name in NAMES} == HASHES


def test_everything_together_leaves_out_only_levers_doubt_and_other_objectives():
    """Named, so that a suite cannot say `all` and quietly hold less."""
    told = suite("all-gsp")
    without = absent(1)
    left_out = {
        name for name, array in without.items() if np.array_equal(getattr(told.posterior, name), array)
    }
    assert left_out == {
        "lever", "smallest_edit", "edits_a_day", "learning_edit", "learning_ticks", "learning_noise", "rate_error_sd",
        "price_mean_se", "price_sd_se", "clicks_price_se", "click_rate_se", "order_value_se", "fatigue_se",
        "awareness_se", "rival_gain_se", "cost_scale", "order_value", "by_value", "profit",
    }  # fmt: skip
    assert told.kind.rare > 0


def test_a_suite_of_other_numbers_another_kind_or_another_name_is_another_suite():
    told = suite("second-price")
    dearer = told.posterior._replace(price_mean=told.posterior.price_mean + 0.01)
    others = (
        replace(told, posterior=dearer), replace(told, kind=replace(told.kind, samples=32)), replace(told, name="other"),
        replace(told, landscape=told.landscape._replace(price_sd=told.landscape.price_sd * 1.01)),
    )  # fmt: skip
    assert len({told.hash, *(other.hash for other in others)}) == 5


def test_suites_without_room_are_twelve_and_only_rivals_and_users_answer_bids():
    groups = {room: [name for name in NAMES if suite(name).room is room] for room in Room}
    assert [len(groups[room]) for room in Room] == [12, 5, 3]
    answering = {name for name in NAMES if suite(name).prices is Prices.ANSWERING}
    assert answering == {"fatigue-cpa", "all-second-price", "all-first-price", "all-gsp", "rivals"}
    # In the group with room all but one answer; it says so, and no name of the group claims more.
    assert set(groups[Room.SOME]) - answering == {"eight-items"}
    assert [room.name for room in Room] == ["NONE", "SOME", "INFORMATION"]


def test_a_suite_of_impossible_worlds_is_refused_with_the_field_and_the_value():
    told = suite("second-price")
    with pytest.raises(BadInput, match="volume: line item 0 has -1, expected a number above 0"):
        replace(told, posterior=told.posterior._replace(volume=np.array([-1.0])))


def test_a_name_that_is_no_suite_is_refused_with_the_nearest_one():
    with pytest.raises(BadInput, match=r"no suite 'second-price-cap'.*Did you mean 'second-price-cpa'"):
        suite_names("second-price-cap")
    assert suite_names("all") == NAMES


def test_the_usual_target_rises_with_the_budget_and_is_what_the_landscape_pays_there():
    told = suite("second-price-cpa")
    curve = np.asarray(told.posterior.target_cpa)[0]
    assert (np.diff(curve) > 0.0).all()
    assert curve[-1] > 1.3 * curve[0]
    # At the highest budget: cost over conversions of the multiplier whose cost is nearest to it.
    cost = np.asarray(told.landscape.cost_left)[0, 0]
    units = np.asarray(told.landscape.clicks_left)[0, 0] * np.asarray(told.landscape.conversion_rate)[0]
    there = np.abs(np.log(cost / np.asarray(told.posterior.budget_high)[0])).argmin()
    assert curve[-1] == pytest.approx(cost[there] / units[there], rel=0.1)


def test_a_win_rate_outside_10_to_30_percent_is_refused_with_the_suite():
    assert expect_win_rate(0.2, "second-price") == 0.2
    with pytest.raises(BadInput, match=r"suite rivals: its certified pacer wins 31\.0% of the auctions"):
        expect_win_rate(0.31, "rivals")


def pacer_win_rate(name: str) -> float:
    told = suite(name)
    worlds = drawn(float32(told.posterior), jnp.arange(CHUNK), kind=told.kind)
    played = play(worlds, float32(told.landscape), float32(DEFAULT_PARAMS), auctions_bank(), kind=told.kind)
    return float(jax.device_get(played.win_rate).mean())


def test_before_any_training_the_pacer_wins_10_to_30_percent_of_the_auctions():
    for name in NAMES:
        if name.startswith("second-price") or suite(name).room is Room.INFORMATION:
            expect_win_rate(pacer_win_rate(name), name)


@pytest.mark.slow
def test_so_it_does_in_the_other_formats_and_with_eight_items():
    for name in NAMES:
        expect_win_rate(pacer_win_rate(name), name)
