"""The delay of conversions: two geometric delays mixed, from what was known by each half hour, the rest still to
come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array
from gaelp.market.grids import follow
from gaelp.market.hours import Hours

PRIOR_MEAN = np.array([0.0, np.log(0.02), 2.0])
PRIOR_SD = np.array([1.5, 1.5, 1.2])
"""Of the fast share's logit, the slow hazard's logarithm, and how many times faster, in logs, the fast one is."""
_POINTS = 21
_DRAWS = 400


@dataclass(frozen=True, kw_only=True)
class Delay:
    """Share [2] and chance per half hour [2] of the fast and the slow delay, as points [K,4] of both, weighed [K].

    prior: [N,4] draws of the same before any log.
    """

    share: Array
    rate: Array
    points: Array
    weight: Array
    prior: Array


def fit_delay(hours: Hours) -> Delay:
    """One delay for the account, from arrivals summed over line items and days that were read alike.

    Given the half hours of the clicks, arrivals are shared out by the delay: the likelihood is that of Poisson
    counts with
    the same means, whose maximum is the multinomial's. Conversions known at the reading count by the chance to be so.
    """
    days = hours.log_bid.shape[1]
    after = np.full(days, np.inf) if hours.read_after is None else hours.read_after
    kinds = [
        (age, hours.conversions[:, after == age].sum((0, 1)), hours.arrived[:, after == age].sum((0, 1)))
        for age in np.unique(after)
    ]
    # The last class holds what came after midnight. A correction may take conversions back: that is no arrival.
    seen = [
        (age, known, np.maximum(np.append(np.diff(arrived, prepend=0.0), known.sum() - arrived[-1]), 0.0))
        for age, known, arrived in kinds
    ]

    def log_p(points: Array) -> Array:
        theta = points[0]
        told = _mixture(theta)
        total = -0.5 * (((theta - PRIOR_MEAN) / PRIOR_SD) ** 2).sum(-1)
        for age, known, counts in seen:
            mean = _expected(told, known, float(age))
            total = total + (counts * np.log(mean) - mean).sum(-1)
        return total[None]

    wide = 3.5 * PRIOR_SD
    grid = follow(log_p, (PRIOR_MEAN - wide)[None], (PRIOR_MEAN + wide)[None], _POINTS)
    points, weight = _mixture(grid.points[0]), grid.weight[0]
    best = points[int(weight.argmax())]
    # The mode, not the mean: a mean of two ways to say one delay may be a third one.
    luck = np.random.default_rng(7919).normal(size=(_DRAWS, 3))
    return Delay(
        share=best[:2],
        rate=best[2:],
        points=points,
        weight=weight,
        prior=_mixture(PRIOR_MEAN + luck * PRIOR_SD),
    )


def matured(share: Array, rate: Array, half_hours: Array) -> Array:
    """Share of conversions that are known after so many half hours, the click's own included; [...] for shares
    [...,2]."""
    return 1.0 - (share * (1.0 - rate) ** np.asarray(half_hours)[..., None]).sum(-1)


def matured_at_reading(delay: Delay, hours: Hours) -> Array:
    """[D,48] share of the conversions of each half hour's clicks that were known when the history was read."""
    shape = hours.log_bid.shape[1:]
    if hours.read_after is None:
        return np.ones(shape)
    age = TICKS_PER_DAY - np.arange(TICKS_PER_DAY) + hours.read_after[:, None]
    return matured(delay.share, delay.rate, age)


def _mixture(theta: Array) -> Array:
    """[...,4] of (share fast, share slow, rate fast, rate slow) for theta [...,3]."""
    share = 1.0 / (1.0 + np.exp(-theta[..., 0]))
    slow = np.exp(theta[..., 1])
    fast = slow * np.exp(np.abs(theta[..., 2]))
    return np.stack([share, 1.0 - share, -np.expm1(-fast), -np.expm1(-slow)], axis=-1)


def _expected(told: Array, known: Array, after: float) -> Array:
    """Expected arrivals of each half hour and after midnight, [K,49], of the conversions known [48] at the reading."""
    share, rate = told[:, :2], told[:, 2:]
    t = np.arange(TICKS_PER_DAY)
    still = 1.0 - rate[:, None]
    by_age = (share[:, None] * rate[:, None] * still ** t[:, None]).sum(-1)
    late = (share[:, None] * still ** (TICKS_PER_DAY - t)[:, None]).sum(-1)
    lost = (share[:, None] * still ** (TICKS_PER_DAY - t + after)[:, None]).sum(-1)
    per = known / (1.0 - lost)
    inside = np.zeros_like(by_age)
    for age in range(TICKS_PER_DAY):
        inside[:, age:] += by_age[:, age, None] * per[:, : TICKS_PER_DAY - age]
    beyond = (per * (late - lost)).sum(-1, keepdims=True)
    return np.maximum(np.concatenate([inside, beyond], axis=-1), 1e-6)
