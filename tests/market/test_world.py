"""A world, half hour by half hour: what a bid buys, what the budget allows, who tires, and what luck may not do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson
from tests.market.worlds import BANK, CERTAIN, KNOWN, RICH, day_at, draw, grown, pair, posterior

from gaelp.bidding.pacer import start_day
from gaelp.bidding.rules import Format, Rules
from gaelp.core.errors import BadInput
from gaelp.market.campaign import float32
from gaelp.market.world import (
    EXPOSURE_UNIT,
    ONE_ITEM,
    Kind,
    World,
    check_posterior,
    half_hour,
    poisson_quantile,
    start_truth,
)

LANDSCAPE = float32(KNOWN)
SEEDS = np.arange(64)


def worlds(seeds: np.ndarray = SEEDS, **changes: float | np.ndarray) -> World:
    return draw(posterior(**changes), seeds)


@jax.jit
def play_half_hour(world, spent, log_bid, t):
    """One half hour from midnight's state with `spent` gone: the report, all worlds at the same bid."""
    state = start_day(LANDSCAPE, world.terms, jnp)
    truth = start_truth(world)._replace(spent=spent)
    report = half_hour(world, truth, state, jnp.full_like(world.price_mean, log_bid), BANK, t, ONE_ITEM)[1]
    return jax.tree.map(lambda x: x[:, 0], report)


# ---- what a bid buys


@settings(max_examples=40)
@given(
    low=st.floats(-6.0, 0.0), rise=st.floats(0.0, 3.0), t=st.integers(0, 47), first=st.integers(0, 10_000),
    rate=st.sampled_from([0.002, 0.05, 0.3]),
)  # fmt: skip
def test_wins_clicks_and_spend_never_fall_when_the_bid_rises(low, rise, t, first, rate):
    world = worlds(first + SEEDS, click_rate=rate, **RICH)
    nothing = jnp.zeros(len(SEEDS))
    less, more = (play_half_hour(world, nothing, jnp.float32(bid), t) for bid in (low, low + rise))
    assert (more.impressions >= less.impressions).all()
    assert (more.clicks >= less.clicks).all()
    assert (more.cost >= less.cost * (1 - 1e-6)).all()


@settings(max_examples=30)
@given(low=st.floats(-6.0, 0.0), rise=st.floats(0.0, 3.0), t=st.integers(0, 47), left=st.floats(0.0, 0.3))
def test_where_the_budget_runs_out_a_higher_bid_still_never_spends_less_nor_more_than_is_left(
    low, rise, t, left
):
    world = worlds(budget_low=5.0, budget_high=5.0)
    spent = jnp.full(len(SEEDS), 5.0 - left, jnp.float32)
    less, more = (play_half_hour(world, spent, jnp.float32(bid), t) for bid in (low, low + rise))
    assert (more.cost >= less.cost * (1 - 1e-6)).all()
    assert (more.cost <= left + 1e-6).all()


def test_of_what_the_money_cannot_pay_the_same_share_is_lost_of_clicks_and_impressions():
    world = worlds(budget_low=5.0, budget_high=5.0)
    free = play_half_hour(world, jnp.full(64, -1e6), jnp.float32(-2.5), 24)
    tight = play_half_hour(world, jnp.full(64, 4.95), jnp.float32(-2.5), 24)
    assert (free.cost > 0.1).any()
    share = np.minimum(1.0, 0.05 / np.maximum(free.cost, 1e-9))
    for name in ("clicks", "cost", "impressions"):
        assert np.asarray(getattr(tight, name)) == pytest.approx(
            np.asarray(getattr(free, name)) * share, rel=1e-4
        )
    assert (tight.eligible == free.eligible).all()


def test_the_budget_is_never_exceeded_over_a_whole_day_at_any_bid():
    world = worlds()
    for log_bid in (-4.0, -2.0, 0.0, 5.0):
        cost = day_at(world, log_bid)[0].report.cost[..., 0]
        # Single precision: at most one part in a hundred thousand of the budget.
        assert (cost.sum(axis=0) <= world.terms.budget * (1 + 1e-5)).all()
        assert (cost >= 0).all()


def test_a_bid_above_every_price_wins_all_auctions_and_one_below_none():
    world = worlds(**RICH)
    nothing = jnp.zeros(64)
    everything = play_half_hour(world, nothing, jnp.float32(10.0), 12)
    assert everything.impressions == pytest.approx(np.asarray(everything.eligible), rel=1e-5)
    none = play_half_hour(world, nothing, jnp.float32(-20.0), 12)
    assert (none.impressions == 0).all()
    assert (none.cost == 0).all()


def test_over_many_worlds_a_bid_buys_what_the_landscape_says():
    # Without doubt, drift or day effects the level is the landscape's. Clicks and cost of a half hour at noon are
    # within 4 standard errors of the closed form over 4096 worlds.
    still = dict.fromkeys(
        ("price_mean_se", "price_sd_se", "price_day_sd", "price_tick_sd", "volume_day_sd", "volume_tick_sd"),
        0.0,
    )
    world = worlds(np.arange(4096), **RICH, **still)
    k, t = 24, 24
    log_bid = np.log(0.05) + 0.6 * np.linspace(-2.6, 2.2, 48)[k]
    report = play_half_hour(world, jnp.zeros(4096), jnp.float32(log_bid), t)
    for drawn, table in ((report.clicks, KNOWN.clicks_left), (report.cost, KNOWN.cost_left)):
        closed = table[0, t, k] - table[0, t + 1, k]
        drawn = np.asarray(drawn, np.float64)
        assert abs(drawn.mean() - closed) < 4 * drawn.std() / 64 + 0.01 * closed


# ---- luck


@pytest.mark.parametrize("mean", [0.01, 0.3, 1.0, 2.5, 5.0, 8.0, 11.9])
def test_below_a_mean_of_twelve_the_poisson_quantile_is_scipys(mean):
    uniform = np.linspace(1e-4, 1 - 1e-4, 4001)
    got = poisson_quantile(jnp.asarray(uniform, jnp.float32), jnp.full(4001, mean, jnp.float32))
    exact = poisson.ppf(uniform, mean)
    # Where a uniform falls on an edge of the distribution, rounding to single precision may decide it either way.
    on_an_edge = poisson.ppf(uniform - 1e-6, mean) != poisson.ppf(uniform + 1e-6, mean)
    assert (np.asarray(got) == exact)[~on_an_edge].all()
    assert on_an_edge.mean() < 0.01


@pytest.mark.parametrize("mean", [12.5, 20.0, 60.0, 400.0])
def test_above_it_the_quantile_is_within_one_of_scipys(mean):
    uniform = np.linspace(1e-3, 1 - 1e-3, 999)
    got = poisson_quantile(jnp.asarray(uniform, jnp.float32), jnp.full(999, mean, jnp.float32))
    assert np.abs(np.asarray(got) - poisson.ppf(uniform, mean)).max() <= 1


@settings(max_examples=50)
@given(
    uniform=st.floats(0.0, 1.0, exclude_max=True, width=32),
    mean=st.floats(0.0, 50.0),
    rise=st.floats(0.0, 5.0),
)
def test_the_poisson_quantile_never_falls_when_its_mean_rises(uniform, mean, rise):
    pair = poisson_quantile(jnp.full(2, uniform, jnp.float32), jnp.asarray([mean, mean + rise], jnp.float32))
    assert pair[0] <= pair[1]


def test_nor_does_it_fall_where_the_two_formulas_meet():
    uniform = jnp.asarray(np.linspace(0, 1 - 2**-23, 5001), jnp.float32)[:, None]
    means = jnp.asarray([11.9, 11.999, 12.0, 12.001, 12.1, 13.0], jnp.float32)[None, :]
    assert (np.diff(np.asarray(poisson_quantile(uniform, means)), axis=1) >= 0).all()


def test_the_luckiest_draw_of_a_mean_is_still_a_number_that_could_have_come():
    # The largest uniform of single precision, against the quantile of one chance in ten thousand million.
    means = np.linspace(0.01, 11.9, 2000)
    lucky = poisson_quantile(jnp.full(2000, 1 - 2**-23, jnp.float32), jnp.asarray(means, jnp.float32))
    assert (np.asarray(lucky) <= poisson.ppf(1 - 1e-10, means)).all()


def test_a_world_is_its_seeds_alone_whatever_batch_it_is_in():
    here, there = worlds(np.arange(64)), worlds(np.arange(63, -1, -1))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b[::-1]).all()), here, there))
    assert not (here.price_path[0] == here.price_path[1]).any()


# ---- who tires


def test_tiredness_counts_decayed_impressions_in_units_of_the_days_auctions():
    world = worlds(**RICH, **CERTAIN)
    tired = day_at(world, 10.0)[0].truth.tired[..., 0]
    first = world.volume_path[:, 0, 0] / (EXPOSURE_UNIT * 12_000)
    second = 0.9 * first + world.volume_path[:, 0, 1] / (EXPOSURE_UNIT * 12_000)
    assert (tired[0] == 0).all()
    assert tired[1] == pytest.approx(np.asarray(first), rel=1e-4)
    assert tired[2] == pytest.approx(np.asarray(second), rel=1e-4)


def test_users_who_tire_convert_less_late_in_the_day_by_what_the_fatigue_says():
    (fresh, rested), (weary, last) = (
        day_at(worlds(**{**CERTAIN, "fatigue": k}, **RICH), -2.5) for k in (0.0, 0.2)
    )
    clicks = np.asarray(weary.report.clicks)
    assert (clicks == fresh.report.clicks).all(), "who tires still clicks the same"
    # Each half hour converts at 0.3 exp(-0.2 tired) a click.
    conversions = grown(weary.truth.conversions, last.conversions)
    expected = 0.3 * clicks * np.exp(-0.2 * np.asarray(weary.truth.tired))
    assert conversions == pytest.approx(expected, rel=1e-3, abs=1e-4)
    usual = grown(fresh.truth.conversions, rested.conversions)
    lost = 1 - conversions.sum(axis=(1, 2)) / usual.sum(axis=(1, 2))
    assert lost[0] == 0.0
    assert lost[-8:].mean() > lost[:8].mean() + 0.1


def test_conversions_arrive_late_and_in_the_end_as_many_as_are_due():
    # Over 64 worlds the arrivals of the day are the expected conversions less what is pending at midnight, within
    # 4 standard deviations of a Poisson number.
    hours, last = day_at(worlds(fatigue=0.0, **CERTAIN, **RICH), -2.5)
    expected = grown(hours.truth.conversions, last.conversions)[..., 0]
    arrived = hours.report.conversions_so_far[..., 0]
    pending = np.zeros(64)
    due = np.zeros(64)
    for t in range(48):
        pending = pending + expected[t]
        due += 0.1 * pending
        pending *= 0.9
    total = float(due.sum())
    assert abs(float(arrived[-1].sum()) - total) < 4 * np.sqrt(total)
    assert (np.diff(np.asarray(arrived), axis=0) >= 0).all()


# ---- what a posterior is


def test_worlds_differ_by_what_the_posterior_doubts_and_stay_inside_what_it_knows():
    many = worlds(np.arange(4096))
    # 4 standard errors over 4096 worlds: 4 / 64 of a standard deviation.
    for drawn, mean, sd in (
        (many.price_mean, np.log(0.05), 0.05),
        (many.price_sd, 0.6, 0.05),
        (many.fatigue, 0.1, 0.02),
    ):
        assert float(drawn.mean()) == pytest.approx(mean, abs=4 / 64 * sd)
        assert float(drawn.std()) == pytest.approx(sd, rel=0.06)
    budget = np.asarray(many.terms.budget)
    assert budget.min() >= 3.0 * (1 - 1e-6)
    assert budget.max() <= 12.0 * (1 + 1e-6)
    assert set(np.asarray(many.terms.weekday).tolist()) == set(range(7))
    certain = worlds(np.arange(64), **CERTAIN)
    assert (certain.fatigue == jnp.float32(0.1)).all()


def test_every_line_item_of_a_posterior_is_played():
    item = np.asarray(draw(pair(), np.arange(400)).terms.item)[:, 0]
    # 200 of 400 each, within 4 standard deviations of 10.
    assert 160 <= (item == 0).sum() <= 240
    assert set(item.tolist()) == {0, 1}


STILL = {
    **CERTAIN,
    **dict.fromkeys(("price_day_sd", "price_tick_sd", "volume_day_sd", "volume_tick_sd"), 0.0),
}
"""Every day alike but for the luck of its auctions."""


def test_a_jump_moves_the_price_of_all_line_items_once_by_as_much_as_it_says():
    flat = {**STILL, "price_hour": np.zeros((2, 48)), "jump_sd": 0.5}
    none = draw(pair(**flat, jump_chance=0.0), np.arange(4096), 2)
    assert (none.price_path == 0.0).all()
    path = np.asarray(draw(pair(**flat, jump_chance=1.0), np.arange(4096), 2).price_path)
    assert ((np.diff(path, axis=-1) != 0).sum(axis=-1) <= 1).all()
    assert np.array_equal(path[:, 0], path[:, 1])
    # Mean and deviation of 4,096 normal jumps, within 4 standard errors: 4 / 64 and 4 / 90.5 of the deviation.
    assert path[:, 0, -1].mean() == pytest.approx(0.0, abs=0.5 * 4 / 64)
    assert path[:, 0, -1].std() == pytest.approx(0.5, abs=0.5 * 4 / 90.5)
    # At any half hour alike: before noon in half of the days, 4 x 32 of 4,096.
    assert abs((path[:, 0, 23] != 0).sum() - 2048) < 128
    some = np.asarray(draw(pair(**flat, jump_chance=0.25), np.arange(4096), 2).price_path)
    assert abs((some[:, 0, -1] != 0).sum() - 1024) < 4 * 27.8


def test_a_target_is_what_a_unit_costs_where_the_days_budget_is_spent():
    # A curve that rises by 0.01 from each of the sixteen budgets to the next, from 3.00 to 12.00 in logs.
    curve = 0.1 + 0.01 * np.arange(16.0)
    world = worlds(target_cpa=curve[None])
    at = np.log(np.asarray(world.terms.budget) / 3.0) / np.log(4.0) * 15
    assert np.asarray(world.terms.target_cpa) == pytest.approx(0.1 + 0.01 * at, abs=1e-5)
    tighter = worlds(target_cpa=curve[None], target_low=np.log(0.5), target_high=np.log(0.5))
    assert np.asarray(tighter.terms.target_cpa) == pytest.approx(0.5 * (0.1 + 0.01 * at), abs=1e-5)
    assert np.isinf(worlds(target_cpa=np.full((1, 16), np.inf)).terms.target_cpa).all()


def test_the_doubt_that_line_items_share_moves_them_together_and_their_own_does_not():
    seeds = np.arange(1024)
    for doubt, correlation in (({"conversion_common_se": 0.4}, 1.0), ({"conversion_rate_se": 0.06}, 0.0)):
        rate = np.log(np.asarray(draw(pair(**{**CERTAIN, **doubt}), seeds, 2).conversion_rate))
        # 4 standard errors of a correlation of 1,024 pairs.
        assert np.corrcoef(rate.T)[0, 1] == pytest.approx(correlation, abs=4 / 32)
        assert rate.std(axis=0).min() > 0.15


def test_by_value_a_conversion_counts_what_its_order_keeps():
    told = {"order_value": 40.0, "refunds": 0.25}
    assert np.asarray(worlds(**told, by_value=1.0).unit_worth) == pytest.approx(np.full((64, 1), 30.0))
    assert np.asarray(worlds(**told).unit_worth) == pytest.approx(np.full((64, 1), 0.75))


@pytest.mark.parametrize(
    ("changes", "kind", "refusal"),
    [
        ({"volume": -1.0}, ONE_ITEM, "volume: line item 0 has -1, expected a number above 0"),
        ({"click_rate": 1.2}, ONE_ITEM, r"click_rate: line item 0 has 1.2, expected a share in \[0, 1\]"),
        ({"click_rate": -0.1}, ONE_ITEM, r"click_rate: line item 0 has -0.1, expected a share in \[0, 1\]"),
        ({"price_mean": np.nan}, ONE_ITEM, "price_mean: line item 0 has nan, expected a finite number"),
        ({"price_sd": 0.0}, ONE_ITEM, "price_sd: line item 0 has 0, expected a number above 0"),
        ({"fatigue": -0.1}, ONE_ITEM, "fatigue: line item 0 has -0.1, expected a number of at least 0"),
        ({"budget_low": np.inf}, ONE_ITEM, "budget_low: line item 0 has inf, expected a finite number"),
        ({"budget_low": 13.0}, ONE_ITEM, "budget_high: a line item's highest budget is below its lowest"),
        ({"jump_chance": 1.5}, ONE_ITEM, "jump_chance: line item 0 has 1.5"),
        ({"shown_share": 0.0}, ONE_ITEM, "shown_share: line item 0 has 0"),
        ({"traffic": np.full((1, 7, 48), 1 / 47)}, ONE_ITEM, "traffic: rows must sum to 1, got 1.02128"),
        ({"traffic": np.zeros((1, 7, 0))}, ONE_ITEM, r"traffic: shape \(1, 7, 0\), expected \(1, 7, 48\)"),
        ({"delay_share": np.array([[0.7, 0.7]])}, ONE_ITEM, "delay_share: rows must sum to 1, got 1.4"),
        ({"delay_rate": np.ones((1, 3))}, ONE_ITEM, r"delay_rate: shape \(1, 3\), expected \(1, 2\)"),
        (
            {"rare_share": 0.5, "rare_worth": 3.0},
            Kind(rare=4),
            "rare_worth: the rare segment cannot hold more",
        ),
        ({"rare_share": 0.1}, ONE_ITEM, "rare_share: the posterior asks for rare samples"),
        ({"lever": 1.0}, ONE_ITEM, "lever: the posterior asks for levers"),
        ({"lever": 4.0}, Kind(levers=True), r"lever: \[4.0\], expected one of 0 BID, 1 TARGET_CPA"),
        ({}, Kind(Rules(Format.GSP, (1.0, 0.5))), "slot_gap: GSP needs rivals below the first one"),
        ({}, Kind(items=2), "a campaign of 2 line items cannot be drawn from 1"),
    ],
)
def test_a_world_that_cannot_be_is_refused_by_name(changes, kind, refusal):
    check_posterior(posterior(), ONE_ITEM)
    with pytest.raises(BadInput, match=refusal):
        check_posterior(posterior(**changes), kind)


@pytest.mark.parametrize("told", [{"items": 0}, {"samples": 0}, {"rare": 64}, {"rare": -1}])
def test_a_kind_of_world_without_line_items_or_common_users_is_refused(told):
    with pytest.raises(BadInput, match="a world needs line items and samples, and some that are not rare"):
        Kind(**told)
