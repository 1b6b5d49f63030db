"""Conversions per click: the fresh user's rate, tiring, awareness, and what is left of the days before.

conversions ~ Poisson(clicks x known share x base x exp(-strength (f + left)) x (1 + awareness tanh(a))), with f
and a the day's
own decayed exposure as in market.world, and `left` what the previous day's exposure left over, fading as f does.
How fast
exposure is forgotten is summed over a grid. Assumed: the rate has no other course over the day, and what was left
over tires but no longer makes aware.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.stats import truncnorm

from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array
from gaelp.market.estimates import Marginal, Prior, normal, pool
from gaelp.market.hours import Hours
from gaelp.market.world import AWARE_UNIT, EXPOSURE_UNIT

MEMORIES = (0.7, 0.8, 0.85, 0.88, 0.9, 0.92, 0.94, 0.96, 0.98)
"""Memories of tiring, per half hour, that are tried; alike before the log is read."""
AWARE_MEMORIES = (0.94, 0.97, 0.99)
FATIGUE = Prior(mean=0.2, sd=0.4, least=0.0)
"""Strength where the memory is PLAIN_MEMORY. Elsewhere in proportion to 1 - memory, which says the same of a long
exposure:
one prior for all memories would favour those at which every line item's strength is told least."""
PLAIN_MEMORY = 0.9
AWARENESS = Prior(mean=0.0, sd=0.12, least=0.0)
CARRIED_SD = 0.3
"""Share of a day's exposure that still tires at the next midnight: half-normal with this deviation."""
LOG_RATE = Prior(mean=float(np.log(0.05)), sd=1.5)
_SHARES = np.linspace(0.0, 1.0, 101)
_STRENGTHS = 41
_BETWEEN = 50
"""Steps from one memory to the next when the weights of the grid are interpolated."""
_HARDLY = 1e-6
"""Least weight against the likeliest: a spline swings where a logarithm falls off."""


@dataclass(frozen=True, kw_only=True)
class Conversions:
    """Rates and strengths of G line items; what all share is a marginal of one. carried: per line item, and its
    log sd."""

    rate: Array
    rate_se: Array
    fatigue: Marginal
    fatigue_mean: Marginal
    memory: Marginal
    awareness: Marginal
    aware_memory: Marginal
    carried_share: Marginal
    carried: Array
    carried_sd: Array


@dataclass(frozen=True)
class _Mode:
    """The most likely (log base, strength, awareness, left strength) at one pair of memories, [G,4], and its
    covariance."""

    evidence: float
    theta: Array
    covariance: Array


def fit_conversions(hours: Hours, volume: Array, matured: Array) -> Conversions:
    """Fit every line item; volume [G] auctions of an ordinary day, matured [D,48] share known when the log was read."""
    clicks = hours.clicks * matured
    exposed = hours.impressions / volume[:, None, None]
    before = exposed.sum(2)
    # The first day's yesterday is not in the log: an ordinary one stands for it.
    before = np.concatenate([before.mean(1, keepdims=True), before[:, :-1]], axis=1)
    aware = [np.tanh(_decayed(exposed, memory) / AWARE_UNIT) for memory in AWARE_MEMORIES]
    fits = []
    for memory in MEMORIES:
        tired = _decayed(exposed, memory) / EXPOSURE_UNIT
        left = memory ** np.arange(TICKS_PER_DAY) * before[..., None] / EXPOSURE_UNIT
        fits += [_mode(clicks, hours.conversions, tired, left, a, memory) for a in aware]
    weight = np.exp(np.array([fit.evidence for fit in fits]) - max(fit.evidence for fit in fits))
    weight = weight / weight.sum()
    grid = weight.reshape(len(MEMORIES), len(AWARE_MEMORIES))
    awares = [pool(fit.theta[:, 2], np.sqrt(fit.covariance[:, 2, 2])) for fit in fits]
    interest, interest_sd = _above_zero(*_mixed(weight, [p.mean for p in awares], [p.sd for p in awares]))
    fits = [_given_awareness(fit, interest, interest_sd) for fit in fits]
    pools = [pool(fit.theta[:, 1], np.sqrt(fit.covariance[:, 1, 1])) for fit in fits]
    log_rate, log_rate_sd = _mixed(
        weight, [fit.theta[:, 0] for fit in fits], [np.sqrt(fit.covariance[:, 0, 0]) for fit in fits]
    )
    strength, strength_sd = _mixed(weight, [p.mean for p in pools], [p.sd for p in pools])
    common, common_sd = _mixed(
        weight, [np.array([p.common]) for p in pools], [np.array([p.common_se]) for p in pools]
    )
    share = _carried(fits, weight)
    days_sd = np.log(np.maximum(before, 1e-6)).std(1)
    return Conversions(
        rate=np.exp(log_rate), rate_se=np.exp(log_rate) * log_rate_sd, fatigue=normal(strength, strength_sd, 0.0),
        fatigue_mean=normal(common, common_sd), memory=_weighted(np.array(MEMORIES), grid.sum(1)),
        awareness=normal(interest, interest_sd, 0.0), aware_memory=_weighted(np.array(AWARE_MEMORIES), grid.sum(0)),
        carried_share=share, carried=share.mean * before.mean(1),
        carried_sd=np.hypot(days_sd, share.sd / np.maximum(share.mean, 1e-6)).clip(max=1.0),
    )  # fmt: skip


def _decayed(exposed: Array, memory: float) -> Array:
    """Exposure of the same day before each half hour, fading; [G,D,48]."""
    out = np.zeros_like(exposed)
    for t in range(1, TICKS_PER_DAY):
        out[..., t] = memory * out[..., t - 1] + exposed[..., t - 1]
    return out


def _mode(clicks: Array, seen: Array, tired: Array, left: Array, aware: Array, memory: float) -> _Mode:
    """Newton's method with the priors' pull, all line items at once."""
    theta = np.zeros((len(clicks), 4))
    theta[:, 0] = np.log((seen.sum((1, 2)) + 0.5) / (clicks.sum((1, 2)) + 1.0))
    scale = (1.0 - memory) / (1.0 - PLAIN_MEMORY)
    centre = np.array([0.0, scale * FATIGUE.mean, AWARENESS.mean, 0.0])
    # The base rate is told by the log alone; what is left over tires as much as exposure of the day, times a share.
    # The priors are the account's. Said by every line item anew they would outvote the log: all together say them once.
    often = np.sqrt(len(clicks))
    sd, aware_sd = often * scale * FATIGUE.sd, often * AWARENESS.sd
    precision = np.array([1e-6, sd**-2, aware_sd**-2, (2.0 * sd * CARRIED_SD) ** -2])
    tired, left, aware = (x.reshape(len(seen), -1) for x in (tired, left, aware))
    clicks, seen = clicks.reshape(len(seen), -1), seen.reshape(len(seen), -1)
    for _ in range(12):
        lift = 1.0 + theta[:, 2, None] * aware
        mean = (
            clicks * np.exp(theta[:, 0, None] - theta[:, 1, None] * tired - theta[:, 3, None] * left) * lift
        )
        slope = np.stack([np.ones_like(mean), -tired, aware / lift, -left], axis=1)
        pull = (slope @ (seen - mean)[..., None])[..., 0] - precision * (theta - centre)
        information = (slope * mean[:, None]) @ slope.transpose(0, 2, 1) + np.diag(precision)
        step = np.linalg.solve(information, pull[..., None])[..., 0]
        theta = theta + np.clip(step, -0.5, 0.5)
        theta[:, 2] = np.clip(theta[:, 2], -0.9, 5.0)
        if np.abs(step).max() < 1e-4:
            break
    log_p = (seen * np.log(np.maximum(mean, 1e-12)) - mean).sum(1) - 0.5 * (
        precision * (theta - centre) ** 2
    ).sum(1)
    # Memories are compared by the best fit at each, all with as many numbers. An integral over the strengths would
    # favour, to the power of the line items, the memory at which a strength is told least.
    return _Mode(float(log_p.sum()), theta, np.linalg.inv(information))


def _above_zero(mean: Array, sd: Array) -> tuple[Array, Array]:
    """Mean and deviation of a normal that is known not to be negative."""
    cut = truncnorm(-mean / sd, np.inf, loc=mean, scale=sd)
    return cut.mean(), cut.std()


def _given_awareness(fit: _Mode, interest: Array, interest_sd: Array) -> _Mode:
    """The same mode where awareness is what the account says of it: what was told together moves together.

    A rate and a tiring that were fitted beside a negative awareness would, beside one of 0, promise too much.
    """
    tied = fit.covariance[:, :, 2] / fit.covariance[:, 2, 2, None]
    theta = fit.theta + tied * (interest - fit.theta[:, 2])[:, None]
    both = tied[:, :, None] * tied[:, None]
    less = (fit.covariance[:, 2, 2] - interest_sd**2)[:, None, None]
    return _Mode(fit.evidence, theta, fit.covariance - less * both)


def _mixed(weight: Array, means: list[Array], sds: list[Array]) -> tuple[Array, Array]:
    """(mean, sd) of normal mixtures, over the leading list."""
    every, spread = np.array(means), np.array(sds)
    mean = weight @ every
    return mean, np.sqrt(weight @ (spread**2 + (every - mean) ** 2))


def _carried(fits: list[_Mode], weight: Array) -> Marginal:
    """The share of a day's exposure that still tires the next day, from left strength = share x strength; one for all.

    Both strengths are estimated together; the strength itself is summed over its prior. Where nothing tires nothing
    tells what is left of it.
    """
    total = np.zeros(len(_SHARES))
    parts = []
    for fit in fits:
        theta, cov = fit.theta[:, [1, 3]], fit.covariance[:, [1, 3]][:, :, [1, 3]]
        top = np.maximum(theta[:, 0], 0.0) + 4.0 * np.sqrt(cov[:, 0, 0])
        low = np.maximum(theta[:, 0] - 4.0 * np.sqrt(cov[:, 0, 0]), 0.0)
        k = low[:, None] + np.linspace(0.0, 1.0, _STRENGTHS) * (top - low)[:, None]
        off = theta[:, None, None, :] - np.stack(
            np.broadcast_arrays(k[:, :, None], k[:, :, None] * _SHARES), axis=-1
        )
        inverse = np.linalg.inv(cov)
        log_p = -0.5 * np.einsum("gksi,gij,gksj->gks", off, inverse, off)
        highest = log_p.max((1, 2), keepdims=True)
        parts.append((np.log(np.exp(log_p - highest).mean(1) + 1e-300) + highest[..., 0]).sum(0))
    for part, w in zip(parts, weight, strict=True):
        total = total + w * np.exp(part - max(float(x.max()) for x in parts))
    p = total * np.exp(-0.5 * (_SHARES / CARRIED_SD) ** 2)
    density = p / p.sum()
    p = density * np.where(_SHARES == 0.0, 0.5, 1.0)
    p = p / p.sum()
    mean = float(p @ _SHARES)
    # The shortest interval, so that 0 can lie in it.
    order = np.argsort(-density, kind="stable")
    chosen = order[: int(np.searchsorted(np.cumsum(p[order]), 0.9)) + 1]
    return Marginal(
        mean=np.array([mean]), sd=np.array([np.sqrt(p @ (_SHARES - mean) ** 2)]),
        low=np.array([min(_SHARES[chosen].min(), mean)]), high=np.array([max(_SHARES[chosen].max(), mean)]),
    )  # fmt: skip


def _weighted(points: Array, weight: Array) -> Marginal:
    """A grid's own mean and deviation, and the likeliest 90 % between its points.

    Whole points would hold more than 90 %, and a truth between two of them would count as held by either. So the log
    weight is interpolated, by a cubic spline over the points' numbers, which the prior holds alike.
    """
    mean = float(weight @ points)
    number = np.arange(len(points))
    at = np.linspace(0.0, number[-1], _BETWEEN * int(number[-1]) + 1)
    log_weight = np.log(np.maximum(weight / weight.max(), _HARDLY))
    p = np.exp(CubicSpline(number, log_weight, bc_type="natural")(at))
    order = np.argsort(-p, kind="stable")
    chosen = order[: int(np.searchsorted(np.cumsum(p[order]) / p.sum(), 0.9)) + 1]
    ends = np.interp([at[chosen.min()], at[chosen.max()]], number, points)
    return Marginal(
        mean=np.array([mean]), sd=np.array([np.sqrt(weight @ (points - mean) ** 2)]),
        low=np.array([min(ends[0], mean)]), high=np.array([max(ends[1], mean)]),
    )  # fmt: skip
