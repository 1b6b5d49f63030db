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
_PRIOR_DRAWS = 400
_INSIDE = 1.353
"""Log likelihood below its top down to which a value is inside: half the 90 % quantile of chi-squared with one degree
of freedom (Wilks, Annals of Mathematical Statistics 9, 1938)."""
_REACH = 3.0
"""How many times wider than the prior what the chains walk through is."""
_CHAINS, _STEPS, _SETTLE = 60, 400, 130


@dataclass(frozen=True, kw_only=True)
class Delay:
    """Share [2] and chance per half hour [2] of the fast and the slow delay, at the mode.

    inside: [K,4] of both, as likely as to be inside a 90 % interval: of whatever is computed from a delay, that
    reaches from the least to the greatest over these.
    prior: [N,4] draws of the same before any log.
    """

    share: Array
    rate: Array
    inside: Array
    prior: Array


def fit_delay(hours: Hours) -> Delay:
    """One delay for the account, from arrivals summed over line items and days that were read alike.

    Given the half hours of the clicks, arrivals are shared out by the delay: the likelihood is that of Poisson
    counts with
    the same means, whose maximum is the multinomial's. Conversions known at the reading count by the chance to be so.
    The mode is that likelihood's, under the prior; what else may be is told by the arrivals alone (see _inside).
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
    mode = grid.points[0, int(grid.weight[0].argmax())]
    best = _mixture(mode)
    # The mode, not the mean: a mean of two ways to say one delay may be a third one.
    luck = np.random.default_rng(7919).normal(size=(_PRIOR_DRAWS, 3))
    return Delay(
        share=best[:2],
        rate=best[2:],
        inside=_mixture(_inside(seen, mode)),
        prior=_mixture(PRIOR_MEAN + luck * PRIOR_SD),
    )


def _inside(seen: list[tuple[float, Array, Array]], mode: Array) -> Array:
    """Points [K,3] whose log likelihood is less than _INSIDE below its top.

    The least and greatest of anything over them is its profile likelihood interval. Quantiles of a posterior would hold
    truths near the prior's middle too often and others too rarely: share and hazards hide behind each other along a
    bent ridge, and there the prior outvotes the log. Arrivals of given clicks are sums of multinomials, which vary less
    than Poisson counts: here they are normal with the multinomials' own covariance, at the mode. Differential
    evolution follows the ridge, thinner than a grid's step (ter Braak, Statistics and Computing 16, 2006, 239-249); a
    prior _REACH times as wide keeps its chains from running off where arrivals say nothing.
    """
    ages, known, counts = (np.array(x) for x in zip(*seen, strict=True))
    counts = counts.sum(0)[:-1]
    best = _mixture(mode[None])
    covariance = np.zeros((TICKS_PER_DAY, TICKS_PER_DAY))
    for age, clicked in zip(ages, np.maximum(known, 0.0), strict=True):
        rows = [_expected(best, on, float(age), 0.0) for on in np.eye(TICKS_PER_DAY)]
        chance = np.concatenate(rows)[:, :-1]
        covariance += np.diag(clicked @ chance) - (chance * clicked[:, None]).T @ chance
    # A half hour in which nothing can arrive still counts for a small part of a conversion.
    root = np.linalg.inv(np.linalg.cholesky(covariance + 1e-2 * np.eye(TICKS_PER_DAY)))

    sd = _REACH * PRIOR_SD

    def log_p(points: Array) -> tuple[Array, Array]:
        """(of the arrivals alone, with the wide prior)"""
        # Far outside the prior a hazard is no longer told from 0.
        inside = np.clip(points, PRIOR_MEAN - 4.0 * sd, PRIOR_MEAN + 4.0 * sd)
        told = _mixture(inside)
        mean = sum(_expected(told, each, float(age)) for age, each in zip(ages, known, strict=True))
        off = (counts - mean[:, :-1]) @ root.T
        told_by_arrivals = np.where((inside == points).all(-1), -0.5 * (off**2).sum(-1), -np.inf)
        return told_by_arrivals, told_by_arrivals - 0.5 * (((points - PRIOR_MEAN) / sd) ** 2).sum(-1)

    luck = np.random.default_rng(15485863)
    at = mode + 0.2 * PRIOR_SD * luck.normal(size=(_CHAINS, 3))
    likelihood, height = log_p(at)
    kept = []
    for step in range(_STEPS):
        # Two other chains, never the same one and never itself.
        ahead = luck.choice(np.arange(1, _CHAINS), 2, replace=False)
        first, second = (np.roll(at, -int(by), axis=0) for by in ahead)
        # Ter Braak's stride for three dimensions, and every tenth time a whole difference, which leaps between modes.
        stride = 2.38 / np.sqrt(6.0) if step % 10 else 1.0
        way = luck.permutation(_CHAINS)
        tried = at + stride * (first - second) + 1e-3 * luck.normal(size=at.shape)
        likely, higher = log_p(tried)
        takes = np.log(luck.random(_CHAINS)) < higher - height
        at = np.where(takes[:, None], tried, at)[way]
        likelihood, height = np.where(takes, likely, likelihood)[way], np.where(takes, higher, height)[way]
        if step >= _SETTLE:
            kept.append((at, likelihood))
    points, likelihoods = (np.concatenate(each) for each in zip(*kept, strict=True))
    return points[likelihoods >= likelihoods.max() - _INSIDE]


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


def _expected(told: Array, known: Array, after: float, least: float = 1e-6) -> Array:
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
    return np.maximum(np.concatenate([inside, beyond], axis=-1), least)
