"""Wandering levels: the filter against the plain multivariate normal, intervals against planted levels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, multivariate_normal
from tests.market.planted_auctions import wandering

from gaelp.market.wander import MEMORY, SD, Prior, Walk, unread, wander

PRIOR = Prior(0.5, 1.5)


def test_the_filter_equals_the_plain_multivariate_normal():
    """Over twelve blocks the levels are one normal vector, the mean's prior its common part."""
    rng = np.random.default_rng(0)
    level, noise = rng.normal(0.3, 0.5, 12), rng.uniform(0.01, 0.05, 12)
    found = wander(level, noise, PRIOR)
    lag = np.abs(np.subtract.outer(np.arange(12), np.arange(12)))
    at = [5, 400, 700, 1000, 1200]
    expected = []
    for g in at:
        covariance = SD[g] ** 2 * MEMORY[g] ** lag + np.diag(noise)
        told = multivariate_normal(np.full(12, PRIOR.mean), covariance + PRIOR.sd**2).logpdf(level)
        expected.append(told + np.log(SD[g] * np.sqrt(1 - MEMORY[g])))
        ones = np.linalg.solve(covariance, np.ones(12))
        precision = ones.sum() + PRIOR.sd**-2
        assert found.mean_sd[g] == pytest.approx(precision**-0.5)
        assert found.mean[g] == pytest.approx((ones @ level + PRIOR.mean / PRIOR.sd**2) / precision)
    probability = np.diff(found.cumulative, prepend=0.0)[at]
    likeliest = int(np.argmax(expected))
    assert probability / probability[likeliest] == pytest.approx(
        np.exp(np.array(expected) - expected[likeliest]), rel=1e-6, abs=1e-9
    )


def test_before_a_log_is_read_the_prior_is_drawn():
    rng = np.random.default_rng(1)
    drawn = [unread(PRIOR).draw(rng) for _ in range(4000)]
    mean, sd, memory = (np.array([getattr(one, name) for one in drawn]) for name in ("mean", "sd", "memory"))
    # Four standard errors each: of a mean, of a uniform's mean, and of a mean under sqrt(1 - m), which is 0.4 on [0, 1].
    assert mean.mean() == pytest.approx(0.5, abs=4 * 1.5 / 63)
    assert mean.std() == pytest.approx(1.5, rel=0.05)
    assert sd.mean() == pytest.approx(1.0, abs=0.05)
    assert memory.mean() == pytest.approx(0.4, abs=0.03)


def test_a_path_has_the_spread_and_memory_it_was_told():
    # 20,000 steps with memory 0.5 count as 20,000 * 0.6 / 1 for a variance: 4 standard errors are 4 %.
    path = Walk(mean=3.0, sd=0.4, memory=0.5).path(20_000, np.random.default_rng(2))
    assert path.std() == pytest.approx(0.4, rel=0.03)
    assert np.corrcoef(path[1:], path[:-1])[0, 1] == pytest.approx(0.5, abs=0.03)
    assert abs(path.mean()) < 4 * 0.4 * np.sqrt(3 / 20_000)


def coverage(sd: float, memory: float, repetitions: int) -> np.ndarray:
    """How many 90 % intervals of mean, sd and memory hold what was planted in 48 blocks measured to 0.1."""
    inside = np.zeros(3, int)
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        level = wandering(sd, memory, rng) + 0.1 * rng.normal(size=48)
        found = wander(level, np.full(48, 0.01), Prior(0.0, 1.0))
        drawn = [found.draw(rng) for _ in range(300)]
        rows = np.array([(one.mean, one.sd, one.memory) for one in drawn])
        low, high = np.quantile(rows, [0.05, 0.95], axis=0)
        inside += (low <= [0.0, sd, memory]) & ([0.0, sd, memory] <= high)
    return inside


def test_the_intervals_cover_what_was_planted():
    # Of 100 sound intervals fewer than 81 cover once in 500 times; three are asked.
    assert binom.cdf(80, 100, 0.9) < 0.0025
    assert (coverage(0.4, 0.6, 100) >= 81).all()


@pytest.mark.slow
@pytest.mark.parametrize(("sd", "memory"), [(0.15, 0.3), (0.15, 0.6), (0.4, 0.3), (0.4, 0.6), (0.4, 0.8)])
def test_the_intervals_cover_at_many_speeds_of_wandering(sd, memory):
    """At least 85 and, but for the memory, at most 95 % of 400: a sound interval is outside once in 1,000 times.

    A slow memory's interval is bounded at 0, where it covers too often rather than too rarely.
    """
    assert binom.cdf(339, 400, 0.9) + binom.sf(380, 400, 0.9) < 0.001
    inside = coverage(sd, memory, 400)
    assert (inside >= 340).all()
    assert (inside[:2] <= 380).all()
