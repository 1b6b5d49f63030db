"""A world, half hour by half hour: what a bid buys, what the budget allows, who tires, and what luck may not do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson
from tests.market.worlds import CERTAIN, KNOWN, posterior

from gaelp.bidding.pacer import DEFAULT_PARAMS, after_report, start_day
from gaelp.market.campaign import float32
from gaelp.market.world import (
    EXPOSURE_UNIT,
    Kind,
    World,
    auctions_bank,
    half_hour,
    poisson_quantile,
    start_truth,
    worlds_of,
)

BANK = auctions_bank()
LANDSCAPE, PARAMS = float32(KNOWN), float32(DEFAULT_PARAMS)
SEEDS = np.arange(64)


KIND = Kind()
sample_worlds = jax.jit(lambda told, seeds: worlds_of(told, seeds, KIND))


def worlds(seeds: np.ndarray = SEEDS, **changes: float) -> World:
    return sample_worlds(float32(posterior(**changes)), jnp.asarray(seeds))


@jax.jit
def play_half_hour(world, spent, log_bid, t):
    """One half hour from midnight's state with `spent` gone: the report, all worlds at the same bid."""
    state = start_day(LANDSCAPE, world.terms, jnp)
    truth = start_truth(world)._replace(spent=spent)
    report = half_hour(world, truth, state, jnp.full_like(world.price_mean, log_bid), BANK, t, KIND)[1]
    return jax.tree.map(lambda x: x[:, 0], report)


@jax.jit
def play_day(world, log_bid):
    """A day at one bid [B]: clicks, cost, expected conversions and tiredness before each half hour, [48,B] each."""

    def step(carry, t):
        truth, state = carry
        after, report = half_hour(world, truth, state, log_bid[:, None], BANK, t, KIND)
        told = (
            report.clicks,
            report.cost,
            after.conversions - truth.conversions,
            truth.tired,
            report.conversions_so_far,
        )
        told = tuple(x[:, 0] for x in told)
        return (after, after_report(state, report, LANDSCAPE, world.terms, PARAMS, jnp)), told

    start = start_truth(world), start_day(LANDSCAPE, world.terms, jnp)
    return jax.lax.scan(step, start, jnp.arange(48))[1]


# ---- what a bid buys


@settings(max_examples=40, deadline=None)
@given(
    low=st.floats(-6.0, 0.0), rise=st.floats(0.0, 3.0), t=st.integers(0, 47), first=st.integers(0, 10_000),
    rate=st.sampled_from([0.002, 0.05, 0.3]),
)  # fmt: skip
def test_wins_clicks_and_spend_never_fall_when_the_bid_rises(low, rise, t, first, rate):
    world = worlds(first + SEEDS, click_rate=rate, budget_low=1e6, budget_high=1e6)
    nothing = jnp.zeros(len(SEEDS))
    less, more = (play_half_hour(world, nothing, jnp.float32(bid), t) for bid in (low, low + rise))
    assert (more.impressions >= less.impressions).all()
    assert (more.clicks >= less.clicks).all()
    assert (more.cost >= less.cost * (1 - 1e-6)).all()


@settings(max_examples=30, deadline=None)
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
        _, cost, _, _, _ = play_day(world, jnp.full(64, log_bid, jnp.float32))
        # Single precision: at most one part in a hundred thousand of the budget.
        assert (cost.sum(axis=0) <= world.terms.budget * (1 + 1e-5)).all()
        assert (cost >= 0).all()


def test_a_bid_above_every_price_wins_all_auctions_and_one_below_none():
    world = worlds(budget_low=1e6, budget_high=1e6)
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
    world = worlds(np.arange(4096), budget_low=1e6, budget_high=1e6, **still)
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


@settings(max_examples=50, deadline=None)
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
    world = worlds(budget_low=1e6, budget_high=1e6, **CERTAIN)
    *_, tired, _ = play_day(world, jnp.full(64, 10.0, jnp.float32))
    first = world.volume_path[:, 0, 0] / (EXPOSURE_UNIT * 12_000)
    second = 0.9 * first + world.volume_path[:, 0, 1] / (EXPOSURE_UNIT * 12_000)
    assert (tired[0] == 0).all()
    assert tired[1] == pytest.approx(np.asarray(first), rel=1e-4)
    assert tired[2] == pytest.approx(np.asarray(second), rel=1e-4)


def test_users_who_tire_convert_less_late_in_the_day_by_what_the_fatigue_says():
    bid = jnp.full(64, -2.5, jnp.float32)
    fresh, weary = (
        play_day(worlds(fatigue=k, budget_low=1e6, budget_high=1e6, **CERTAIN), bid) for k in (0.0, 0.2)
    )
    clicks, _, conversions, tired, _ = weary
    assert (clicks == fresh[0]).all(), "who tires still clicks the same"
    # Each half hour converts at 0.3 exp(-0.2 tired) a click.
    assert conversions == pytest.approx(np.asarray(0.3 * clicks * jnp.exp(-0.2 * tired)), rel=1e-3, abs=1e-4)
    lost = 1 - np.asarray(conversions.sum(axis=1) / fresh[2].sum(axis=1))
    assert lost[0] == 0.0
    assert lost[-8:].mean() > lost[:8].mean() + 0.1


def test_conversions_arrive_late_and_in_the_end_as_many_as_are_due():
    # Over 64 worlds the arrivals of the day are the expected conversions less what is pending at midnight, within
    # 4 standard deviations of a Poisson number.
    world = worlds(budget_low=1e6, budget_high=1e6, fatigue=0.0, **CERTAIN)
    _, _, expected, _, arrived = play_day(world, jnp.full(64, -2.5, jnp.float32))
    expected = np.asarray(expected, np.float64)
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
    pair = posterior(price_mean=-3.0), posterior(price_mean=-2.0)
    two = float32(jax.tree.map(lambda *x: np.concatenate(x), *pair))
    item = np.asarray(sample_worlds(two, jnp.arange(400)).terms.item)[:, 0]
    # 200 of 400 each, within 4 standard deviations of 10.
    assert 160 <= (item == 0).sum() <= 240
    assert set(item.tolist()) == {0, 1}
