"""Shocks in half-hourly levels: a day's own, and a drift with a memory; told from [G,D,48] residuals.

Residual = day shock + AR(1) path that starts every day anew at 0 + measurement noise of known variance. The likelihood
is exact (a Kalman filter, which skips what is missing); priors are flat. A day's single jump is not told from
drift: the
drift that is found holds both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array
from gaelp.market.estimates import Marginal, widened
from gaelp.market.grids import follow

PRIOR_SD = (0.0, 2.0)
"""Log standard deviations of shocks, before any log was read."""
PRIOR_MEMORY = (0.0, 0.995)
_POINTS = 9


@dataclass(frozen=True, kw_only=True)
class Shocks:
    """Standard deviation of the day's shock, of the drift within it, and its memory a half hour."""

    day_sd: Marginal
    tick_sd: Marginal
    memory: Marginal


def shocks(residual: Array, noise: Array, moved: tuple[Array, ...] = ()) -> Shocks:
    """Posterior of each line item's shocks; noise: [G,D,48] variances, inf where a half hour tells nothing.

    residual: less its mean by half hour, which costs one of D days. moved: what the residuals would be if
    something else
    were one standard error off; how far the posterior goes with it is added to its doubt.
    """
    days = residual.shape[1]
    scale = np.sqrt(np.where(np.isinf(noise), 0.0, residual**2).sum((1, 2)) / np.isfinite(noise).sum((1, 2)))
    top = np.log(3.0 * scale + 1e-3)
    # The innovation and the memory are told almost apart; the drift's own deviation follows from both.
    low = np.stack([top - 6.0, top - 6.0, np.full_like(top, np.log(1.0 - PRIOR_MEMORY[1]))], axis=1)
    high = np.stack([top, top, np.zeros_like(top)], axis=1)

    def log_p(points: Array, seen: Array) -> Array:
        day, tick, memory = _natural(points)
        # Flat in the standard deviations and the memory themselves, not in their logs.
        flat = np.log(day) + np.log(tick) + points[..., 2]
        return _log_likelihood(seen * np.sqrt(days / (days - 1.0)), noise, day**2, tick**2, memory) + flat

    grid = follow(lambda points: log_p(points, residual), low, high, _POINTS)
    values = _natural(grid.points)
    found = [grid.marginal(x) for x in values]
    for other in moved:
        again = grid.weighed(log_p(grid.points, other))
        found = [
            widened(x, np.abs((again.weight * v).sum(1) - (grid.weight * v).sum(1)))
            for x, v in zip(found, values, strict=True)
        ]
    return Shocks(day_sd=found[0], tick_sd=found[1], memory=found[2])


def _natural(points: Array) -> tuple[Array, Array, Array]:
    """(day sd, drift sd, memory) of (log day sd, log innovation sd, log (1 - memory))."""
    memory = 1.0 - np.exp(points[..., 2])
    return np.exp(points[..., 0]), np.exp(points[..., 1]) / np.sqrt(1.0 - memory**2), memory


def _log_likelihood(residual: Array, noise: Array, day: Array, tick: Array, memory: Array) -> Array:
    """[G,K] log likelihood of K candidates (variances day and tick, and memory, [G,K]) over all days."""
    g, k = day.shape
    days = residual.shape[1]
    # State (day shock b, path x) with covariance (bb, bx, xx); arrays [K,G,D] in single precision.
    variance, keep = (x.T[:, :, None].astype(np.float32) for x in (tick, memory))
    fresh = variance * (1.0 - keep**2)
    shape = (k, g, days)
    bb = np.broadcast_to(day.T[:, :, None], shape).astype(np.float32)
    b, x, bx = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    xx = np.zeros(shape, np.float32)
    total = np.zeros((k, g))
    seen, r = np.isfinite(noise), residual.astype(np.float32)
    spread = np.where(seen, noise, 1.0).astype(np.float32)
    for t in range(TICKS_PER_DAY):
        x, bx, xx = keep * x, keep * bx, keep * keep * xx + fresh
        on = seen[..., t]
        gain_b, gain_x = bb + bx, bx + xx
        s = gain_b + gain_x + spread[..., t]
        miss = r[..., t] - b - x
        weight = on / s
        total += (on * (np.log(s) + miss * miss / s)).sum(-1)
        step = weight * miss
        b, x = b + gain_b * step, x + gain_x * step
        bb, bx, xx = (
            bb - gain_b * gain_b * weight,
            bx - gain_b * gain_x * weight,
            xx - gain_x * gain_x * weight,
        )
    return -0.5 * total.T


def smoothed(residual: Array, noise: Array, found: Shocks) -> Array:
    """The level that the shocks and the residuals say each half hour truly had, [G,D,48]."""
    t = np.arange(TICKS_PER_DAY)
    power = np.maximum(found.memory.mean, 1e-6)[:, None, None]
    lag = power ** np.abs(t[:, None] - t) * (1.0 - power ** (2 * (np.minimum(t[:, None], t) + 1)))
    level = found.day_sd.mean[:, None, None] ** 2 + found.tick_sd.mean[:, None, None] ** 2 * lag
    big = np.where(np.isfinite(noise), noise, 1e6)
    solved = np.linalg.solve(level[:, None] + big[..., None] * np.eye(TICKS_PER_DAY), residual[..., None])
    return (level[:, None] @ solved)[..., 0]


def fill(by_hour: Array, known: Array) -> Array:
    """A daily pattern with its unknown half hours drawn between their neighbours around the clock; [48]."""
    t = np.arange(TICKS_PER_DAY)
    return np.interp(t, t[known], by_hour[known], period=TICKS_PER_DAY)
