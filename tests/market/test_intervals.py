"""Ends of 90 % intervals: of a grid's knots, of pools whose spread is averaged over, of arrivals of given clicks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from tests.market.histories import Planted, history

from gaelp.market import fit_delay as fit_delay_module
from gaelp.market.estimates import Z90, pool
from gaelp.market.fit_conversions import _mode, _weighted
from gaelp.market.fit_delay import fit_delay, matured
from gaelp.market.grids import follow


def test_the_ends_of_a_grid_lie_between_its_planes():
    """A standard normal along one axis, on 9 planes 0.78 apart: the ends are 1.645, not the planes at 1.56 or 2.33."""

    def log_p(points):
        return -0.5 * (points**2).sum(-1)

    grid = follow(log_p, np.full((1, 3), -8.0), np.full((1, 3), 8.0), 9)
    found = grid.marginal(grid.points[..., 2])
    assert found.low[0] == pytest.approx(-Z90, rel=0.04)
    assert found.high[0] == pytest.approx(Z90, rel=0.04)


def test_a_pool_of_few_has_thicker_tails_than_a_normal_of_its_deviation():
    found = pool(np.array([-0.1, 0.0, 0.05, 0.1]), np.full(4, 0.2))
    assert (found.high - found.low < 2 * Z90 * found.sd).all()
    assert (found.high - found.low > 1.8 * Z90 * found.sd).all()


def test_a_pool_of_items_that_surely_differ_keeps_their_own_normal_intervals():
    own = np.array([-100.0, -30.0, 40.0, 90.0])
    found = pool(own, np.ones(4))
    assert found.high == pytest.approx(own + Z90, abs=0.05)
    assert found.low == pytest.approx(own - Z90, abs=0.05)


def test_the_interval_of_a_memory_ends_between_the_memories_that_were_tried():
    """Weights of a normal of deviation 1 in the points' numbers around 4: 90 % lie within 1.645 of it."""
    points = np.linspace(0.0, 8.0, 9)
    weight = np.exp(-0.5 * (points - 4.0) ** 2)
    found = _weighted(points, weight / weight.sum())
    assert found.low[0] == pytest.approx(4.0 - Z90, abs=0.03)
    assert found.high[0] == pytest.approx(4.0 + Z90, abs=0.03)


def test_arrivals_of_given_clicks_tell_what_came_in_four_hours_better_than_poisson_counts_would():
    """One delay that half of all conversions outlast by 4 hours, all told within days: the share's deviation is that
    of a coin thrown once a conversion, or less, for more is seen than one count."""
    seen = history(Planted(items=2, fatigue=0.0, fast=1 - 0.5 ** (1 / 8)), 3)
    found = fit_delay(seen)
    known = matured(found.inside[:, :2], found.inside[:, 2:], np.array(8))
    coin = 0.5 / np.sqrt(seen.conversions.sum())
    assert known.max() - known.min() <= 2.0 * Z90 * coin * 1.2
    assert abs(known.mean() - 0.5) < 4.0 * coin


def test_intervals_of_the_delay_reach_as_far_as_the_arrivals_alone_say_whatever_the_prior(monkeypatch):
    """A prior that is sure of other delays moves the estimate, not what may be."""
    seen = history(Planted(items=4, fatigue=0.0, delay_share=0.4, fast=0.3, slow=0.03), 5)
    ends = []
    for slow in (0.02, 0.006):
        monkeypatch.setattr(fit_delay_module, "PRIOR_MEAN", np.array([0.0, np.log(slow), 2.0]))
        monkeypatch.setattr(fit_delay_module, "PRIOR_SD", np.array([1.0, 0.5, 0.8]))
        inside = fit_delay(seen).inside
        ends.append(np.log([inside[:, 3].min(), inside[:, 3].max()]))
    assert np.ptp(ends, axis=1).min() > 0.3
    np.testing.assert_allclose(ends[0], ends[1], atol=0.08)


def test_the_mode_of_own_and_shared_numbers_is_where_a_plain_search_finds_it():
    # Three line items, numbers of their own and two that all share, against BFGS on the same posterior written anew.
    rng = np.random.default_rng(5)
    shape, memory = (3, 4, 48), 0.9
    clicks = rng.poisson(40.0, shape).astype(float)
    tired, left, aware = (rng.uniform(0.0, top, shape) for top in (3.0, 2.0, 0.9))
    base, strength = np.log([0.1, 0.2, 0.3]), np.array([0.1, 0.3, 0.5])

    def rate(x: np.ndarray) -> np.ndarray:
        own, awareness, share = x[:6].reshape(2, 3, 1, 1), x[6], x[7]
        return np.exp(own[0] - own[1] * (tired + share * left)) * (1.0 + awareness * aware)

    seen = rng.poisson(clicks * rate(np.concatenate([base, strength, [0.2, 0.3]]))).astype(float)

    def loss(x: np.ndarray) -> float:
        mean = clicks * rate(x)
        prior = 1e-6 * (x[:3] ** 2).sum() + ((x[3:6] - 0.2) ** 2).sum() / (3 * 0.4**2)
        prior += (x[6] / 0.12) ** 2 + (x[7] / 0.3) ** 2
        return float((mean - seen * np.log(mean)).sum() + 0.5 * prior)

    start = np.concatenate([np.full(3, np.log(0.2)), np.full(3, 0.2), [0.0, 0.1]])
    found = minimize(loss, start, method="BFGS").x
    mode = _mode(clicks, seen, tired, left, aware, memory)
    np.testing.assert_allclose(mode.own.T.ravel(), found[:6], atol=1e-3)
    np.testing.assert_allclose(mode.shared, found[6:], atol=1e-3)
    assert mode.evidence == pytest.approx(-loss(found), abs=1e-4)
    # What is told of a shared number, and of an own one with it, is the inverse of the whole curvature.
    step = 1e-3 * np.eye(8)
    curvature = np.array([
        [loss(found + a + b) - loss(found + a - b) - loss(found - a + b) + loss(found - a - b) for a in step]
        for b in step
    ]) / 4e-6  # fmt: skip
    whole = np.diag(np.linalg.inv(curvature))
    np.testing.assert_allclose(np.diag(mode.shared_covariance), whole[6:], rtol=0.1)
    np.testing.assert_allclose(mode.own_covariance[:, 1, 1] + mode.doubt(1), whole[3:6], rtol=0.1)
