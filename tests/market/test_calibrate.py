"""Calibration finds what was planted, says how sure it is, and refuses by name what it cannot tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom
from tests.bidding.days import HOUR
from tests.market.histories import Planted, history

from gaelp.core.errors import BadInput
from gaelp.market.calibrate import Fit, calibrate
from gaelp.market.world import Kind, check_posterior


def fitted(told: Planted, seed: int) -> Fit:
    return calibrate(history(told, seed), 3.0, 12.0)


def covered(told: Planted, seeds: range) -> int:
    fits = [fitted(told, seed).fatigue for seed in seeds]
    return sum(fit.low <= told.fatigue <= fit.high for fit in fits)


@pytest.fixture(scope="module")
def plain() -> Fit:
    """Eight line items over four weeks."""
    return fitted(Planted(items=8), 0)


@pytest.mark.parametrize("price_sd", [0.45, 0.9])
def test_the_planted_price_scale_is_found(price_sd):
    # The mean of eight is known to about 2 %, one of them to about 4 %.
    got = fitted(Planted(items=8, price_sd=price_sd), 1).posterior.price_sd
    assert got.mean() == pytest.approx(price_sd, rel=0.07)
    assert got == pytest.approx(np.full(8, price_sd), rel=0.12)


@pytest.mark.parametrize("clicks_price", [-0.8, 0.2])
def test_the_planted_correlation_of_clicks_with_price_is_found(clicks_price):
    # One line item tells it to about 0.06, eight alike to about 0.02.
    got = fitted(Planted(items=8, clicks_price=clicks_price), 2).posterior.clicks_price
    assert got.mean() == pytest.approx(clicks_price, abs=0.08)


def test_a_pacer_that_follows_the_price_does_not_bend_the_price_scale():
    """Hours are dear when bids are high: without the randomised moves the scale would look far too wide."""
    for follow in (0.0, 1.0):
        got = fitted(
            Planted(items=8, follow=follow, price_day_sd=0.3, price_tick_sd=0.3), 3
        ).posterior.price_sd
        assert got.mean() == pytest.approx(0.6, rel=0.05)


def test_the_rest_of_the_planted_market_is_found(plain):
    found = plain.posterior
    # Level by hour: a day sd of 0.2 over 28 days leaves 0.038 a line item; 4 of them. (0.1^2 within days adds little.)
    seen = plain.landscape.price_mean[:, None] + plain.landscape.price_hour
    put_in = np.log(0.05) + 0.2 * np.sin(2 * np.pi * HOUR)
    assert np.abs((seen - put_in).mean(1)).max() < 4 * 0.2 / np.sqrt(28)
    assert np.abs(seen - seen.mean(1, keepdims=True) - put_in + put_in.mean()).max() < 0.12
    assert found.cost_scale == pytest.approx(np.full(8, 0.8), rel=0.06)
    assert found.click_rate == pytest.approx(np.full(8, 0.05), rel=0.15)
    assert found.conversion_rate == pytest.approx(np.full(8, 0.3), rel=0.2)
    # A standard deviation of 28 days is known to 1 / sqrt(54) = 14 %; 3 of them.
    assert found.price_day_sd == pytest.approx(np.full(8, 0.2), rel=0.42)
    assert found.price_tick_sd == pytest.approx(np.full(8, 0.1), rel=0.25)
    assert found.price_tick_memory == pytest.approx(np.full(8, 0.7), abs=0.12)
    # One geometric delay, told as two: what has arrived after four hours is 1 - 0.9^8.
    (known,) = [p for p in plain.parameters if p.name == "arrived_in_4_hours"]
    assert known.estimate == pytest.approx(1 - 0.9**8, abs=0.02)
    assert found.volume == pytest.approx(np.full(8, 12_000), rel=0.12)
    assert found.traffic.sum(axis=2) == pytest.approx(np.ones((8, 7)))
    assert found.budget_low.tolist() == [3.0] * 8
    assert (found.target_cpa == 0.12).all()
    check_posterior(found, Kind(items=8))
    assert plain.days == 28
    assert plain.fatigue.low <= 0.1 <= plain.fatigue.high


def test_the_landscape_predicts_the_history_it_was_fitted_on():
    told = history(Planted(items=4), 4)
    known = calibrate(told, 3.0, 12.0).landscape
    assert known.conversion_rate == pytest.approx(
        told.conversions.sum((1, 2)) / told.clicks.sum((1, 2)), rel=0.01
    )
    # Weekdays are weighed alike, not days: four weeks make no more of it than a few parts in a thousand.
    assert known.volume == pytest.approx(told.eligible.sum(2).mean(1), rel=0.01)


def test_a_dull_and_a_wild_market_differ_in_what_their_worlds_will_vary():
    dull, wild = (fitted(Planted(price_day_sd=s, price_tick_sd=s / 2), 5).posterior for s in (0.05, 0.4))
    assert (dull.price_day_sd < 0.5 * wild.price_day_sd).all()
    assert (dull.price_tick_sd < wild.price_tick_sd).all()
    assert (dull.price_mean_se < wild.price_mean_se).all()


# ---- fatigue and how sure it is


# Of 10 intervals at 90 % at least 6 cover: a sound interval misses that once in 600 such tests.
NEEDED = 6


def test_the_needed_coverage_is_what_it_says():
    assert binom.cdf(NEEDED - 1, 10, 0.9) == pytest.approx(1 / 600, rel=0.05)


@pytest.mark.parametrize("told", [Planted(items=2), Planted(items=2, fatigue=0.0)])
def test_the_interval_of_the_planted_fatigue_covers_it(told):
    assert covered(told, range(10)) >= NEEDED


def test_strong_fatigue_is_told_from_none_in_four_weeks_of_eight_line_items(plain):
    assert plain.fatigue.low > 0.0
    assert plain.fatigue.low < plain.fatigue.estimate < plain.fatigue.high


def test_more_days_make_the_interval_narrower():
    short, long = (fitted(Planted(items=8, days=days), 6).fatigue for days in (7, 56))
    assert long.high - long.low < 0.6 * (short.high - short.low)


def test_a_line_items_own_strength_is_kept_where_they_differ_and_pooled_where_they_do_not():
    spread = fitted(Planted(items=8, days=56, fatigue=0.3, fatigue_spread=0.8), 7).posterior.fatigue
    alike = fitted(Planted(items=8, days=56, fatigue=0.3), 7).posterior.fatigue
    assert spread.std() > 0.1 > 3 * alike.std()


@pytest.mark.slow
@pytest.mark.parametrize(
    "told", [Planted(items=4), Planted(items=4, fatigue_spread=0.5), Planted(items=4, fatigue=0.0)]
)
def test_of_two_hundred_intervals_at_ninety_percent_at_least_168_cover(told):
    # A sound interval covers 168 or more of 200 with probability 0.997.
    assert binom.cdf(167, 200, 0.9) == pytest.approx(0.003, abs=5e-4)
    assert covered(told, range(1000, 1200)) >= 168


# ---- what is refused


@pytest.mark.parametrize(
    "name", ["log_bid", "eligible", "impressions", "clicks", "cost", "conversions", "arrived", "move"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_hole_in_the_reports_is_refused_by_name(name, value):
    told = history(Planted(items=1, days=3), 0)
    broken = getattr(told, name).copy()
    broken[0, 1, 7] = value
    with pytest.raises(BadInput, match=f"{name}: "):
        replace(told, **{name: broken})


@pytest.mark.parametrize(
    "name", ["eligible", "impressions", "clicks", "cost", "conversions", "arrived", "move"]
)
def test_a_missing_day_is_refused_by_name(name):
    told = history(Planted(items=1, days=4), 0)
    with pytest.raises(BadInput, match=rf"{name}: shape \(1, 3, 48\)"):
        replace(told, **{name: getattr(told, name)[:, :3]})


def test_two_days_or_half_days_are_too_few_to_fit():
    told = history(Planted(items=1, days=4), 0)
    with pytest.raises(BadInput, match=r"at least 3 whole days of 48 half hours, got shape \(1, 2, 48\)"):
        told.days(slice(0, 2))
    with pytest.raises(BadInput, match=r"got shape \(1, 4, 47\)"):
        replace(told, log_bid=told.log_bid[..., :47])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_line_item_that_wins_all_or_nothing_is_refused_by_number(share):
    told = history(Planted(items=2), 0)
    impressions = told.impressions.copy()
    impressions[1] = share * told.eligible[1]
    with pytest.raises(BadInput, match="line item 1: only 0 half hours with both won and lost auctions"):
        calibrate(replace(told, impressions=impressions), 3.0, 12.0)


def test_some_of_the_days_are_cut_out_whole():
    told = history(Planted(items=2, days=10), 0)
    cut = told.days(slice(2, 7))
    assert cut.log_bid.shape == (2, 5, 48)
    assert cut.weekday.tolist() == [2, 3, 4, 5, 6]
    assert np.array_equal(cut.clicks, told.clicks[:, 2:7])
