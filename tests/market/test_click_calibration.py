"""Clicks per predicted click: found where there are many, drawn together where there are few, the prior where none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

from gaelp.market.click_calibration import ClickCalibration, calibrate_clicks

PLACES = norm.ppf(np.arange(0.05, 1, 0.1))
"""Tenths of the values, each at its middle."""


def draws(found: ClickCalibration, times: int = 2000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([found.draw(rng) for _ in range(times)])


def test_many_clicks_speak_for_themselves():
    # 10,000 clicks a stratum: each rate is known to 1 %, whatever its neighbours are.
    rates = np.array([2.0, 0.5, 3.0, 1.0, 0.2, 1.0, 2.0, 1.0, 0.7, 1.5])
    found = draws(calibrate_clicks(PLACES, 10_000 / rates, np.full(10, 10_000.0)))
    assert found.mean(0) == pytest.approx(rates, rel=0.01)
    assert found.std(0) == pytest.approx(rates * 0.01, rel=0.1)


def test_strata_that_agree_lend_each_other_strength():
    # One click in each of ten, of one predicted: alone each would be known to 100 %, together to 70 % and better.
    found = draws(calibrate_clicks(PLACES, np.ones(10), np.ones(10)))
    assert (found.std(0) < 0.7).all()
    assert (found.mean(0) > 0.7).all()
    assert (found.mean(0) < 1.4).all()


def test_confidence_that_grows_with_the_value_is_carried_into_strata_of_few_clicks():
    """Predictions too high by more and more: the last stratum, without a click of half a predicted one, is below 1."""
    rates = np.exp(-0.6 * PLACES)
    predicted = np.where(np.arange(10) < 9, 200.0, 0.5)
    clicks = np.where(np.arange(10) < 9, np.round(rates * 200), 0.0)
    last = draws(calibrate_clicks(PLACES, predicted, clicks))[:, 9]
    assert np.median(last) == pytest.approx(rates[9], rel=0.4)
    assert np.quantile(last, 0.9) < 1.0


def prior_draws(place: float, times: int) -> np.ndarray:
    """The prior, drawn anew from what its text says."""
    rng = np.random.default_rng(99)
    level, trend = rng.normal(0, 1.5, times), rng.normal(0, 0.5, times)
    shape = rng.uniform(0.05, 1.0, times) ** -2
    return rng.gamma(shape, np.exp(level + trend * place) / shape)


def test_where_nothing_was_won_the_rate_is_as_wide_as_its_prior():
    predicted = np.where(np.arange(10) < 8, 500.0, 0.0)
    found = calibrate_clicks(PLACES, predicted, predicted)
    assert found.identified.tolist() == [True] * 8 + [False] * 2
    drawn = np.log(draws(found, 4000)[:, 8])
    expected = np.log(prior_draws(float(PLACES[8]), 4000))
    # 5 %, 50 % and 95 % quantiles of 4,000 draws with standard deviation 1.8 are known to 0.06; five of them.
    for share in (0.05, 0.5, 0.95):
        assert np.quantile(drawn, share) == pytest.approx(np.quantile(expected, share), abs=0.3)
    assert np.log(draws(found)[:, 0]).std() < 0.1


def test_the_intervals_cover_rates_that_were_planted():
    """Ten strata with a trend, ways of their own of 30 %, and 2 to 20 predicted clicks; 60 logs, all strata counted.

    Strata of one log share its level, so that the 600 intervals count as about 120 independent ones: of those, if sound,
    fewer than 82 % cover once in 200 choices of seeds.
    """
    assert binom.cdf(98, 120, 0.9) < 0.005
    inside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rates = 1.3 * np.exp(-0.3 * PLACES) * rng.gamma(1 / 0.09, 0.09, 10)
        predicted = np.linspace(2.0, 20.0, 10)
        found = draws(
            calibrate_clicks(PLACES, predicted, rng.poisson(predicted * rates).astype(float)), 200, seed
        )
        low, high = np.quantile(found, [0.05, 0.95], axis=0)
        inside += int(((low <= rates) & (rates <= high)).sum())
    assert inside >= 0.82 * 600
