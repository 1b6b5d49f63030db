"""Betting confidence sequences: bounds on a mean that stay valid however often they are looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gaelp.core.errors import BadInput, ShapeError

FRACTIONS: NDArray[np.float64] = np.geomspace(0.005, 0.95, 18)
"""The shares of the largest safe bet that are played side by side, equally weighted: the boldest for few or
steady observations, the smallest for about 100,000 noisy ones. Beyond that the bound is valid, only less tight."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval, `lower <= upper`."""

    lower: float
    upper: float

    def __post_init__(self) -> None:
        if not self.lower <= self.upper:
            raise BadInput(f"an interval runs upwards, not from {self.lower} to {self.upper}.")


def betting_interval(x: ArrayLike, low: float, high: float, alpha: float = 0.05) -> Interval:
    """The time-uniform interval for the mean of bounded observations, after all of `x`.

    x: float array (n,), in the order of observation; low, high: bounds known before the data were seen.
    The interval after n is the intersection of all earlier ones, so with probability 1 - alpha the mean is
    inside at every n at once, whatever made somebody stop. Without observations it is [low, high].

    Derivation. Scale x to [0, 1]. For a candidate mean m, K_n(m) = (1/J) sum_j prod_i (1 + f_j (x_i/m - 1))
    with fixed f_j in (0, 1) is a product of non-negative terms of mean 1 when m is the truth, hence a
    martingale from 1, and P(max_n K_n(m) >= 2/alpha) <= alpha/2 (Ville). Each factor falls in m, therefore so
    does max_n K_n(m): the set not rejected is an interval and its infimum is the one root, found by
    bracketing. The same on 1 - x gives the other end. Mixing fixed bets instead of estimating one
    (aGRAPA) leaves nothing to tune and pays about log 7 of capital where aGRAPA pays about (log n)/2.
    Valid whenever every observation has the same mean given the past; under drift it is not a claim
    about the running mean. Should drift leave no mean at all, the two ends meet in one point.

    Raises BadInput for NaN, for values outside [low, high] and for impossible bounds or alpha; ShapeError
    when x is not one-dimensional.
    Source: Waudby-Smith and Ramdas (2024), Estimating means of bounded random variables by betting:
    the hedged capital process, here with a mixture over fixed bets.
    """
    observed = np.asarray(x, dtype=np.float64)
    if observed.ndim != 1:
        raise ShapeError(f"observations have shape {observed.shape}, expected (n,).")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise BadInput(f"bounds [{low}, {high}] hold no values: low must be below high, both finite.")
    if not 0.0 < alpha < 1.0:
        raise BadInput(f"alpha {alpha} is no error rate: it lies between 0 and 1.")
    outside = np.flatnonzero(~((observed >= low) & (observed <= high)))
    if outside.size:
        at = int(outside[0])
        raise BadInput(
            f"observation {at} is {observed[at]}, outside the bounds [{low}, {high}] given for it."
        )
    if observed.size == 0:
        return Interval(low, high)
    share = (observed - low) / (high - low)
    lower = _lower_root(share, alpha / 2)
    upper = 1.0 - _lower_root(1.0 - share, alpha / 2)
    return Interval(low + lower * (high - low), low + max(upper, lower) * (high - low))


def _log_capital(share: NDArray[np.float64], mean: float) -> float:
    """log max_n K_n(mean): the best the mixture of bettors against `mean` ever stood, at least 0."""
    # Capital is kept in logs: the product over thousands of days leaves the range of a float.
    # Bets run along the first axis so that the sum over time reads memory in order.
    logs = np.multiply.outer(FRACTIONS, share / mean - 1.0)
    np.log1p(logs, out=logs)
    np.cumsum(logs, axis=1, out=logs)
    top = logs.max(axis=0)
    logs -= top
    np.exp(logs, out=logs)
    return max(0.0, float((np.log(logs.sum(axis=0)) + top).max()) - math.log(len(FRACTIONS)))


def _lower_root(share: NDArray[np.float64], alpha: float) -> float:
    """The largest mean that is rejected from below, to 1e-9; 0 when none is.

    Regula falsi with the Illinois step in log(mean): the capital is close to linear there near the root.
    What is returned was itself evaluated and rejected, so rounding can only widen the interval.
    """
    if not share.any():
        return 0.0
    threshold = -math.log(alpha)
    left, right = math.log(float(share.max())) - 1.0, math.log(float(share.max()))
    at_right = _log_capital(share, math.exp(right)) - threshold
    at_left = _log_capital(share, math.exp(left)) - threshold
    while at_left < 0.0:
        right, at_right = left, at_left
        # The largest value alone multiplies the capital by about 1/mean: this ends after a few steps.
        left -= 2.0
        if left < -700.0:
            return 0.0
        at_left = _log_capital(share, math.exp(left)) - threshold
    side = 0
    for _ in range(80):
        if math.exp(right) - math.exp(left) <= 1e-9:
            break
        middle = (left * at_right - right * at_left) / (at_right - at_left)
        if not left < middle < right:
            middle = (left + right) / 2
        here = _log_capital(share, math.exp(middle)) - threshold
        if here >= 0.0:
            left, at_left = middle, here
            at_right = at_right / 2 if side == 1 else at_right
            side = 1
        else:
            right, at_right = middle, here
            at_left = at_left / 2 if side == -1 else at_left
            side = -1
    return math.exp(left)
