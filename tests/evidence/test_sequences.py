"""Betting intervals: they cover while somebody looks at every step, and they are tight enough to be of use."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from gaelp.core.errors import BadInput, ShapeError
from gaelp.evidence.sequences import Interval, betting_interval

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def skewed(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Beta(2, 5), mean 2/7."""
    return rng.beta(2, 5, n)


def rare_losses(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """0.99 on most days and 0 on one in fifty: mean 0.9702. Short samples often show no loss at all."""
    return np.where(rng.random(n) < 0.02, 0.0, 0.99)


def rare_gains(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """1 on one day in a hundred, mean 0.01."""
    return (rng.random(n) < 0.01).astype(float)


def adaptive(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Mean 0.3 whatever came before, but the spread of each observation depends on the one before it."""
    x = np.empty(n)
    spread = 0.3
    for i, sign in enumerate(rng.choice([-1.0, 1.0], n)):
        x[i] = 0.3 + sign * spread
        spread = 0.05 if x[i] > 0.3 else 0.3
    return x


WORLDS: list[tuple[Draw, float]] = [
    (skewed, 2 / 7),
    (rare_losses, 0.9702),
    (rare_gains, 0.01),
    (adaptive, 0.3),
]


def misses(draw: Draw, mean: float, *, repetitions: int, n: int) -> int:
    """How many sequences exclude the mean at any step: the interval after n is inside all earlier ones."""
    rng = np.random.default_rng(20260101)
    intervals = (betting_interval(draw(rng, n), 0.0, 1.0) for _ in range(repetitions))
    return sum(not interval.lower <= mean <= interval.upper for interval in intervals)


@pytest.mark.parametrize(("draw", "mean"), WORLDS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_look_after_every_step_misses_the_mean_in_at_most_one_run_of_twenty(
    draw: Draw, mean: float
) -> None:
    # 5 % of 300 is 15; three binomial standard errors are 3 x sqrt(300 x 0.05 x 0.95) = 11.3: at most 26.
    assert misses(draw, mean, repetitions=300, n=300) <= 26


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "mean"), WORLDS, ids=lambda value: getattr(value, "__name__", ""))
def test_coverage_holds_over_two_thousand_long_runs(draw: Draw, mean: float) -> None:
    # 5 % of 2,000 is 100; three binomial standard errors are 29.2: at most 129.
    assert misses(draw, mean, repetitions=2000, n=1500) <= 129


def test_a_longer_record_gives_an_interval_inside_every_earlier_one() -> None:
    x = np.random.default_rng(3).random(120)
    intervals = [betting_interval(x[:n], 0.0, 1.0) for n in range(len(x) + 1)]
    assert intervals[0] == Interval(0.0, 1.0)
    for before, after in pairwise(intervals):
        # 1e-6 of slack for the tolerance of the root.
        assert before.lower - 1e-6 <= after.lower
        assert after.upper <= before.upper + 1e-6


def width(interval: Interval) -> float:
    return interval.upper - interval.lower


def test_a_spread_of_a_tenth_is_known_to_a_hundredth_after_a_thousand_observations() -> None:
    x = np.clip(0.5 + 0.1 * np.random.default_rng(0).standard_normal(1024), 0.0, 1.0)
    assert width(betting_interval(x, 0.0, 1.0)) < 0.023


def test_constant_observations_close_in_on_their_value_from_both_sides() -> None:
    # The boldest bet alone earns log(1 - 0.95 + 0.95 x 0.5/m) a day; log(2/0.05 x 18)/1000 = 0.00658 suffices,
    # which is so at m = 0.5/(1 + 0.00660/0.95) = 0.49655.
    interval = betting_interval(np.full(1000, 0.5), 0.0, 1.0)
    assert 0.4965 < interval.lower < 0.5
    assert 0.5 < interval.upper < 0.5035
    assert interval.lower + interval.upper == pytest.approx(1.0, abs=1e-8)


def test_all_zeros_bound_from_above_only() -> None:
    interval = betting_interval(np.zeros(500), 0.0, 1.0)
    assert interval.lower == 0.0
    # The exact one-sided bound for no event in 500 at 2.5 % is 1 - 0.025^(1/500) = 0.0074; this one is looser.
    assert 0.0074 < interval.upper < 0.02


def test_no_observation_leaves_the_whole_range() -> None:
    assert betting_interval([], -2.0, 3.0) == Interval(-2.0, 3.0)


def test_the_interval_moves_with_the_unit() -> None:
    x = np.random.default_rng(5).random(200)
    unit, dollars = betting_interval(x, 0.0, 1.0), betting_interval(50 * x - 20, -20.0, 30.0)
    assert dollars.lower == pytest.approx(50 * unit.lower - 20, abs=1e-5)
    assert dollars.upper == pytest.approx(50 * unit.upper - 20, abs=1e-5)


def test_a_smaller_error_rate_gives_a_wider_interval() -> None:
    x = np.random.default_rng(5).random(200)
    assert width(betting_interval(x, 0.0, 1.0, alpha=0.001)) > width(betting_interval(x, 0.0, 1.0))


@pytest.mark.parametrize("wrong", [float("nan"), 1.0000001, -0.1, float("inf")])
def test_a_value_outside_its_bounds_is_refused_by_its_place(wrong: float) -> None:
    with pytest.raises(BadInput, match="observation 2 is"):
        betting_interval([0.1, 0.2, wrong, 0.4], 0.0, 1.0)


def test_impossible_bounds_error_rates_and_shapes_are_refused() -> None:
    with pytest.raises(BadInput, match="hold no values"):
        betting_interval([0.5], 1.0, 0.0)
    with pytest.raises(BadInput, match="no error rate"):
        betting_interval([0.5], 0.0, 1.0, alpha=0.0)
    with pytest.raises(ShapeError):
        betting_interval([[0.5]], 0.0, 1.0)
