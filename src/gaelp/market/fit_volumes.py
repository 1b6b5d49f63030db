"""Volumes from eligible auctions: the ordinary day, weekdays and their shapes, and the shocks around them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.fft import dct, idct

from gaelp.core.errors import BadInput
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array
from gaelp.market.estimates import pool, small_sample, widened
from gaelp.market.hours import Hours
from gaelp.market.paths import PRIOR_MEMORY, Shocks, shocks

WEEKDAYS = 7
_BANDS = (0, 1, 2, 3, 5, 9)
"""Waves of the day that are trusted alike: the first of each band."""
LOG_VOLUME_SD = 3.0
"""Before the log is read an ordinary day holds from a hundredth to a hundred times as many auctions."""
WEEKDAY_SD = 0.5


@dataclass(frozen=True, kw_only=True)
class Volumes:
    """Auctions of G line items: an ordinary day's number [G], log weekday levels [G,7], shapes [G,7,48] that sum
    to 1."""

    volume: Array
    volume_se: Array
    weekday: Array
    weekday_se: Array
    traffic: Array
    shocks: Shocks


def fit_volumes(hours: Hours) -> Volumes:
    """Fit every line item. Weekdays are drawn to the mean of all days by how far they truly differ."""
    eligible, weekday = hours.eligible, hours.weekday
    by_day = eligible.sum(2)
    if (by_day <= 0).any():
        item, day = np.argwhere(by_day <= 0)[0]
        raise BadInput(f"line item {int(item)}: day {int(day)} of the log has no eligible auction at all.")
    days = len(weekday)
    traffic, trust = _shapes(hours)
    level, level_se = (np.zeros((len(eligible), WEEKDAYS)) for _ in range(2))
    taken = np.zeros(len(eligible))
    log_day = np.log(by_day)
    for item, row in enumerate(log_day):
        level[item], level_se[item], taken[item] = _weekdays(row, weekday)
    left = log_day - level[:, weekday]
    residual = np.log(eligible + 0.5) - np.log(
        np.maximum(traffic[:, weekday], 1e-9) * np.exp(level)[:, weekday, None]
    )
    residual = residual - residual.mean(1, keepdims=True)
    # What weekdays took of the days' differences is given back, as degrees of freedom.
    more = np.sqrt((days - 1.0) / np.maximum(days - 1.0 - taken, 1.0))
    by_day_left = residual.mean(2, keepdims=True)
    residual = residual + (more[:, None, None] - 1.0) * by_day_left
    waves = dct(residual, norm="ortho")
    kinds = len(np.unique(weekday)) - 1
    lost = 1.0 - np.clip(kinds * trust / (days - 1.0), 0.0, 0.9)
    waves[..., 1:] = waves[..., 1:] / np.sqrt(lost)[:, None, 1:]
    found = shocks(idct(waves, norm="ortho"), 1.0 / (eligible + 0.5))
    fewer = np.maximum(days - 1.0 - taken, 1.0)
    day_sd = widened(found.day_sd, found.day_sd.mean * np.sqrt(0.5 / fewer - 0.5 / (days - 1.0)))
    tick_more, memory_more = _inflation(found, lost[:, 1:], (1.0 / (eligible + 0.5)).mean((1, 2)))
    memory = widened(found.memory, found.memory.sd * memory_more)
    found = replace(
        found, day_sd=day_sd, tick_sd=widened(found.tick_sd, found.tick_sd.sd * tick_more),
        memory=replace(memory, high=np.minimum(memory.high, PRIOR_MEMORY[1])),
    )  # fmt: skip
    # A log-normal shock of mean 1 has a logarithm below 0; the drift's is above it on average.
    bent = 0.5 * (found.day_sd.mean**2 - found.tick_sd.mean**2)
    volume = np.exp(left.mean(1) + bent)
    se = volume * left.std(1, ddof=1) * more / np.sqrt(days) * small_sample(days)
    return Volumes(
        volume=volume, volume_se=se, weekday=level, weekday_se=level_se, traffic=traffic, shocks=found
    )


def _inflation(found: Shocks, kept: Array, noise: Array) -> tuple[Array, Array]:
    """Standard errors of (drift's deviation, memory) that weekdays' shapes cost, in those already found; [G] each.

    kept: [G,47] share of the degrees of freedom of waves 1 to 47 that the shapes left; noise: [G] variance of a half
    hour. Waves that are given back their size are not given back their number: slow ones, which tell the memory, come
    from fewer days than the likelihood counts. By how much the errors grow is told by the information of the waves
    with and without (Whittle's, of an AR(1) spectrum).
    """
    wave = np.pi * np.arange(1, TICKS_PER_DAY) / TICKS_PER_DAY
    sd, memory = found.tick_sd.mean[:, None], np.clip(found.memory.mean, 0.0, PRIOR_MEMORY[1])[:, None]
    bend = 1.0 - 2.0 * memory * np.cos(wave) + memory**2
    drift = sd**2 * (1.0 - memory**2) / bend
    slope = np.stack(
        [2.0 / sd + 0.0 * wave, -2.0 * memory / (1.0 - memory**2) - 2.0 * (memory - np.cos(wave)) / bend], -1
    )
    slope = slope * (drift / (drift + noise[:, None]))[..., None]

    def variance(freedom: Array) -> Array:
        information = np.einsum("gk,gki,gkj->gij", freedom, slope, slope)
        return np.linalg.inv(information)[:, [0, 1], [0, 1]]

    extra = np.sqrt(np.maximum(variance(kept) / variance(np.ones_like(kept)) - 1.0, 0.0))
    return extra[:, 0], extra[:, 1]


def _weekdays(log_day: Array, weekday: Array) -> tuple[Array, Array, float]:
    """Log levels of the seven weekdays around their mean, their errors, and the degrees of freedom they took; [D]
    days."""
    on = weekday == np.arange(WEEKDAYS)[:, None]
    count = on.sum(1)
    centred = log_day - log_day.mean()
    means = (on * centred).sum(1) / np.maximum(count, 1)
    within = centred - means[weekday]
    freedom = max(1, len(weekday) - int((count > 0).sum()))
    # With one day a weekday nothing tells weekdays from days: all of the spread counts as chance.
    spread = within @ within if freedom > 1 else centred @ centred
    sd = max(float(np.sqrt(spread / freedom)), 1e-3)
    se = np.where(count > 0, sd / np.sqrt(np.maximum(count, 1)), 10.0 * sd)
    drawn = pool(means, se)
    return (
        drawn.mean - drawn.mean.mean(),
        drawn.sd,
        float((drawn.sd / se).clip(max=1.0) @ (drawn.sd / se).clip(max=1.0)),
    )


def _shapes(hours: Hours) -> tuple[Array, Array]:
    """([G,7,48] shares of the day's auctions, each weekday's drawn to the common shape; by how much, [G,48] waves).

    Wave by wave (cosines of the day): a weekday that is later than others shows in the slow ones, chance in all of
    them.
    """
    eligible, weekday = hours.eligible, hours.weekday
    share = (eligible + 0.5) / (eligible.sum(2, keepdims=True) + 0.5 * TICKS_PER_DAY)
    common = np.log(share.mean(1))
    away = dct(np.log(share) - np.log(share).mean(1, keepdims=True), norm="ortho")
    on = (weekday == np.arange(WEEKDAYS)[:, None]).astype(float)
    count = on.sum(1)
    seen, number = count > 0, np.maximum(count, 1.0)[:, None]
    freedom = len(weekday) - int(seen.sum())
    if freedom < 1:
        # One day of each weekday: nothing tells weekdays from days.
        flat = np.exp(common) / np.exp(common).sum(1, keepdims=True)
        return np.repeat(flat[:, None], WEEKDAYS, axis=1), np.zeros_like(common)
    means = np.einsum("wd,gdt->gwt", on, away) / number
    chance = ((away - means[:, weekday]) ** 2).sum(1)[:, None] / freedom
    # Chance alone leaves a weekday's mean this variance around the mean of all days.
    true = (means**2 - chance * (1.0 / number - 1.0 / len(weekday)))[:, seen].mean((0, 1))
    for first, last in zip(_BANDS, (*_BANDS[1:], TICKS_PER_DAY), strict=True):
        true[first:last] = max(float(true[first:last].mean()), 0.0)
    trust = np.where(seen[:, None], true / (true + chance / number + 1e-12), 0.0)
    shape = np.exp(common[:, None] + idct(trust * means, norm="ortho"))
    return shape / shape.sum(-1, keepdims=True), trust[:, seen].mean(1)
