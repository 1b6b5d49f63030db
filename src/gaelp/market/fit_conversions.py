"""Conversions per click: the fresh user's rate, tiring, awareness, and what is left of the days before.

conversions ~ Poisson(clicks x known share x base x exp(-strength (f + left)) x (1 + awareness tanh(a))), with f and a
the day's own decayed exposure as in market.world, and `left` the share of the previous day's exposure that is carried
over, fading as f does. Each line item has its own base and strength; awareness, the carried share and how fast exposure
is forgotten, which is summed over a grid, are the account's. Assumed: the rate has no other course over the day, and
what was left over tires but no longer makes aware.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.stats import truncnorm

from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array
from gaelp.market.estimates import Z90, Marginal, Prior, mixture_quantile, normal, pool
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
    """The most likely numbers at one pair of memories.

    own: [G,2] log base and strength of each line item, with their covariance where what all share is given, [G,2,2].
    shared: [2] awareness and carried share, with their covariance, [2,2]. tied: [G,2,2], how far `own` goes with them.
    """

    evidence: float
    own: Array
    own_covariance: Array
    shared: Array
    shared_covariance: Array
    tied: Array

    def doubt(self, number: int) -> Array:
        """Variance [G] that number 0 or 1 of each line item has from what is shared."""
        tied = self.tied[:, number]
        return np.einsum("gi,ij,gj->g", tied, self.shared_covariance, tied)


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
    aware_now, aware_sd = _mixed(
        weight, [fit.shared[:1] for fit in fits], [np.sqrt(fit.shared_covariance[:1, 0]) for fit in fits]
    )
    interest, interest_sd = _above_zero(aware_now, aware_sd)
    fits = [_given_awareness(fit, float(interest[0]), float(interest_sd[0])) for fit in fits]
    pools = [pool(fit.own[:, 1], np.sqrt(fit.own_covariance[:, 1, 1])) for fit in fits]
    log_rate, log_rate_sd = _mixed(
        weight,
        [fit.own[:, 0] for fit in fits],
        [np.sqrt(fit.own_covariance[:, 0, 0] + fit.doubt(0)) for fit in fits],
    )
    strength, strength_sd = _mixed(
        weight,
        [p.mean for p in pools],
        [np.sqrt(p.sd**2 + fit.doubt(1)) for p, fit in zip(pools, fits, strict=True)],
    )
    common, common_sd = _mixed(
        weight,
        [np.array([p.common]) for p in pools],
        [
            np.sqrt(p.common_se**2 + fit.doubt(1).mean(keepdims=True))
            for p, fit in zip(pools, fits, strict=True)
        ],
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
    """Fisher's scoring with the priors' pull; what is shared is solved for by what is left once each line item's own
    numbers are (the Schur complement).

    Awareness and the carried share are the account's: told by every line item anew, from little each, they would bend
    the likelihood of the memories they share (Neyman and Scott 1948).
    """
    items = len(clicks)
    own = np.zeros((items, 2))
    own[:, 0] = np.log((seen.sum((1, 2)) + 0.5) / (clicks.sum((1, 2)) + 1.0))
    shared = np.zeros(2)
    scale = (1.0 - memory) / (1.0 - PLAIN_MEMORY)
    centre = np.array([0.0, scale * FATIGUE.mean])
    # The base rate is told by the log alone. The prior of strength is the account's: said by every line item anew it
    # would outvote the log, so all together say it once.
    precision = np.array([1e-6, 1.0 / (items * (scale * FATIGUE.sd) ** 2)])
    shared_centre = np.array([AWARENESS.mean, 0.0])
    shared_precision = np.array([AWARENESS.sd**-2, CARRIED_SD**-2])
    tired, left, aware = (x.reshape(items, -1) for x in (tired, left, aware))
    clicks, seen = clicks.reshape(items, -1), seen.reshape(items, -1)
    for _ in range(25):
        strength = own[:, 1, None]
        load, lift = tired + shared[1] * left, 1.0 + shared[0] * aware
        mean = clicks * np.exp(own[:, 0, None] - strength * load) * lift
        slope = np.stack([np.ones_like(mean), -load, aware / lift, -strength * left], axis=1)
        pull = (slope @ (seen - mean)[..., None])[..., 0]
        information = (slope * mean[:, None]) @ slope.transpose(0, 2, 1)
        own_covariance = np.linalg.inv(information[:, :2, :2] + np.diag(precision))
        tied = -own_covariance @ information[:, :2, 2:]
        both = information[:, 2:, 2:] + information[:, 2:, :2] @ tied
        shared_covariance = np.linalg.inv(both.sum(0) + np.diag(shared_precision))
        own_pull = pull[:, :2] - precision * (own - centre)
        rest = (pull[:, 2:] + np.einsum("gij,gi->gj", tied, own_pull)).sum(0)
        rest = rest - shared_precision * (shared - shared_centre)
        shared_step = np.clip(shared_covariance @ rest, -0.3, 0.3)
        own_step = np.einsum("gij,gj->gi", own_covariance, own_pull) + tied @ shared_step
        own = own + np.clip(own_step, -0.5, 0.5)
        shared = np.clip(shared + shared_step, (-0.9, -1.0), (5.0, 2.0))
        if max(np.abs(own_step).max(), np.abs(shared_step).max()) < 1e-4:
            break
    log_p = (seen * np.log(np.maximum(mean, 1e-12)) - mean).sum() - 0.5 * (
        (precision * (own - centre) ** 2).sum() + (shared_precision * (shared - shared_centre) ** 2).sum()
    )
    # Memories are compared by the best fit at each, all with as many numbers. An integral over the strengths would
    # favour, to the power of the line items, the memory at which a strength is told least.
    return _Mode(float(log_p), own, own_covariance, shared, shared_covariance, tied)


def _above_zero(mean: Array, sd: Array) -> tuple[Array, Array]:
    """Mean and deviation of a normal that is known not to be negative."""
    cut = truncnorm(-mean / sd, np.inf, loc=mean, scale=sd)
    return cut.mean(), cut.std()


def _given_awareness(fit: _Mode, interest: float, interest_sd: float) -> _Mode:
    """The same mode where awareness is what `_above_zero` says of it: what was told together moves together.

    A rate and a tiring that were fitted beside a negative awareness would, beside one of 0, promise too much.
    """
    told = fit.shared_covariance[:, 0] / fit.shared_covariance[0, 0]
    moved = told * (interest - fit.shared[0])
    less = (fit.shared_covariance[0, 0] - interest_sd**2) * np.outer(told, told)
    return replace(
        fit, own=fit.own + fit.tied @ moved, shared=fit.shared + moved,
        shared_covariance=fit.shared_covariance - less,
    )  # fmt: skip


def _mixed(weight: Array, means: list[Array], sds: list[Array]) -> tuple[Array, Array]:
    """(mean, sd) of normal mixtures, over the leading list."""
    every, spread = np.array(means), np.array(sds)
    mean = weight @ every
    return mean, np.sqrt(weight @ (spread**2 + (every - mean) ** 2))


def _carried(fits: list[_Mode], weight: Array) -> Marginal:
    """The share of a day's exposure that still tires the next day; one for all. Its prior is in every mode already.

    The interval is the log's own, without the prior, cut off at 0 and 1: with it a small share is held too often.
    Where nothing tires nothing tells what is left of it, and the prior stands.
    """
    variance = np.array([fit.shared_covariance[1, 1] for fit in fits])
    means = np.array([fit.shared[1] for fit in fits])
    p = weight / np.sqrt(variance) @ np.exp(-0.5 * (_SHARES - means[:, None]) ** 2 / variance[:, None])
    p = p * np.where(_SHARES == 0.0, 0.5, 1.0)
    p = p / p.sum()
    mean = float(p @ _SHARES)
    alone = 1.0 / np.maximum(1.0 / variance - CARRIED_SD**-2, 1e-6)
    mixture = weight[:, None], (means * alone / variance)[:, None], np.sqrt(alone)[:, None]
    low, high = (np.clip(mixture_quantile(level, *mixture), 0.0, 1.0) for level in (0.05, 0.95))
    if high - low > Z90 * CARRIED_SD:
        low, high = np.zeros(1), np.full(1, Z90 * CARRIED_SD)
    return Marginal(
        mean=np.array([mean]), sd=np.array([np.sqrt(p @ (_SHARES - mean) ** 2)]),
        low=np.minimum(low, mean), high=np.maximum(high, mean),
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
