"""Fidelity of worlds fitted to hourly reports: later days at the bids that were played, beside what the fit says
of them.

The days are drawn in NumPy from the posterior, by the formulas of bidding.landscape and market.world. A pacer's
bid follows
the price, so the bids that were played tell of the prices in which they were: how the level went with the bid is fitted
too, and what is left is drawn from the fitted days, whole day by whole day, with whatever rivals did in them. Half
hours after the day's money was gone are left out on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.landscape import normal_cdf
from gaelp.core.errors import BadInput
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array
from gaelp.evidence.fidelity import FidelityLine
from gaelp.market.calibrate import Fit
from gaelp.market.fit_delay import matured
from gaelp.market.fit_prices import win_shares
from gaelp.market.hours import Hours
from gaelp.market.paths import fill
from gaelp.market.world import AWARE_UNIT, EXPOSURE_UNIT

DRAWS = 200
TOLERANCE = 0.15
"""A figure that is off by less than this share of itself does no harm to what is learned."""
_QUARTERS = ("night", "morning", "afternoon", "evening")


@dataclass(frozen=True, kw_only=True)
class HistoryFidelity:
    """A fit beside later days of its account, all line items together.

    surprise: how often days of the fitted worlds stray as far from their prediction, in their worst line and beyond
    TOLERANCE, as these days do. conversions: of the held-out days.
    """

    lines: tuple[FidelityLine, ...]
    surprise: float
    fitted_days: int
    held_out_days: int
    conversions: int


def history_fidelity(
    fit: Fit, fitted: Hours, held_out: Hours, rng: np.random.Generator, draws: int = DRAWS
) -> HistoryFidelity:
    """Hold `fit`, made of `fitted`, against later days. Raises BadInput when their line items are not those of the
    fit."""
    items, days, _ = held_out.log_bid.shape
    if items != len(fit.landscape.volume):
        raise BadInput(f"held-out days: {items} line items, the fit has {len(fit.landscape.volume)}.")
    seen = _figures(
        held_out.eligible[None], held_out.impressions[None], held_out.clicks[None], held_out.cost[None],
        held_out.conversions[None], held_out.served,
    )  # fmt: skip
    rows = _drawn(fit, _following(fit, fitted), held_out, rng, draws)
    names = list(seen)
    told = np.stack([rows[name] for name in names], axis=1)
    found = np.array([seen[name][0] for name in names])
    low, middle, high = np.quantile(told, [0.05, 0.5, 0.95], axis=0)
    return HistoryFidelity(
        lines=tuple(
            FidelityLine(
                name=name, fitted=float(m), held_out=float(s), low=float(lo), high=float(hi), identified=True
            )
            for name, m, s, lo, hi in zip(names, middle, found, low, high, strict=True)
        ),
        surprise=_surprise(told, found), fitted_days=fit.days, held_out_days=days,
        conversions=int(held_out.conversions.sum()),
    )  # fmt: skip


def _figures(
    eligible: Array,
    impressions: Array,
    clicks: Array,
    cost: Array,
    conversions: Array,
    served: NDArray[np.bool_],
) -> dict[str, Array]:
    """The account's figures of each draw, [N], from [N,G,D,48]."""

    def total(x: Array, part: slice = slice(None)) -> Array:
        return np.maximum((x * served)[..., part].sum((1, 2, 3)), 1e-9)

    days = eligible.shape[2]
    quarter = TICKS_PER_DAY // len(_QUARTERS)
    parts = [slice(k * quarter, (k + 1) * quarter) for k in range(len(_QUARTERS))]
    return {
        "eligible_a_day": total(eligible) / days,
        "win_rate": total(impressions) / total(eligible),
        **{
            f"win_rate_{name}": total(impressions, part) / total(eligible, part)
            for name, part in zip(_QUARTERS, parts, strict=True)
        },
        "clicks_per_impression": total(clicks) / total(impressions),
        "cost_per_click": total(cost) / total(clicks),
        "conversions_per_click": total(conversions) / total(clicks),
        "spend_a_day": total(cost) / days,
    }


@dataclass(frozen=True)
class _Following:
    """How price levels went with the pacer's own bid: level = mean + hour + lean x (base bid - usual [G,48]) +
    left [G,D,48]."""

    lean: Array
    lean_se: Array
    usual: Array
    left: Array


def _following(fit: Fit, hours: Hours) -> _Following:
    level = fit.landscape
    seen = win_shares(hours)
    weight = np.where(seen.read, np.minimum(seen.weight, np.median(seen.weight[seen.read])), 0.0)
    implied = hours.log_bid - level.price_sd[:, None, None] * seen.score
    residual = implied - (level.price_mean[:, None] + level.price_hour)[:, None]
    base = hours.log_bid - hours.move
    usual = (weight * base).sum(1) / np.maximum(weight.sum(1), 1e-9)
    usual = np.stack([fill(row, w > 0) for row, w in zip(usual, weight.sum(1), strict=True)])
    raised = base - usual[:, None]
    strength = (weight * raised**2).sum((1, 2)) + 1e-9
    lean = (weight * raised * residual).sum((1, 2)) / strength
    left = residual - lean[:, None, None] * raised
    by_day = (weight * raised * left).sum(2)
    return _Following(
        lean=lean, lean_se=np.sqrt((by_day**2).sum(1)) / strength, usual=usual,
        left=np.where(hours.served & (hours.eligible > 0), left, 0.0),
    )  # fmt: skip


def _drawn(
    fit: Fit, following: _Following, hours: Hours, rng: np.random.Generator, draws: int
) -> dict[str, Array]:
    """The figures of `draws` worlds at the logged bids.

    Chance enters where sums are small: clicks and conversions of all days together are Poisson numbers.
    """
    p, level = fit.posterior, fit.landscape
    items, days, _ = hours.log_bid.shape
    once, daily = (draws, items, 1), (draws, items, days)

    def unsure(mean: Array, se: Array) -> Array:
        return mean[:, None] + se[:, None] * rng.normal(size=once)

    def unsure_rate(mean: Array, se: Array) -> Array:
        return mean[:, None] * np.exp(se[:, None] / mean[:, None] * rng.normal(size=once))

    sd = np.maximum(unsure(p.price_sd, p.price_sd_se), 0.3 * p.price_sd[:, None])
    rho, rate = unsure(p.clicks_price, p.clicks_price_se), unsure_rate(p.click_rate, p.click_rate_se)
    converts = unsure_rate(p.conversion_rate, p.conversion_rate_se)
    tires = np.maximum(unsure(p.fatigue, p.fatigue_se), 0.0)
    interest = np.maximum(unsure(p.awareness, p.awareness_se), 0.0)
    lean = unsure(following.lean, following.lean_se)
    raised = hours.log_bid - hours.move - following.usual[:, None]
    # A wider scale goes with a lower level, so that the win shares of the fitted days stay as they were.
    usual = level.price_mean[:, None] + (sd - p.price_sd[:, None]) * np.mean(
        (level.price_mean[:, None] - following.usual) / p.price_sd[:, None], axis=1, keepdims=True
    )
    # Which days there were is chance too: each draw knows the fitted days with weights of its own.
    weight = rng.exponential(size=(draws, following.left.shape[1]))
    ends = np.cumsum(weight / weight.sum(1, keepdims=True), axis=1)
    picked = (rng.random(daily)[..., None] > ends[:, None, None]).sum(-1).clip(max=ends.shape[1] - 1)
    busy = p.weekday[:, hours.weekday] + p.volume_day_sd[:, None] * rng.normal(size=daily)
    busy = busy - 0.5 * p.volume_day_sd[:, None] ** 2
    left = p.carried[:, None] * np.exp(p.carried_sd[:, None] * rng.normal(size=daily))
    tired, aware = left / EXPOSURE_UNIT, left / AWARE_UNIT
    known = np.ones((items, days, TICKS_PER_DAY))
    if hours.read_after is not None:
        age = TICKS_PER_DAY - np.arange(TICKS_PER_DAY) + hours.read_after[:, None]
        known = matured(p.delay_share[:, None, None], p.delay_rate[:, None, None], age)
    volume_path = np.zeros(daily)
    which = np.arange(items)[:, None]
    eligible, impressions, clicks, cost, conversions = (np.zeros((*daily, TICKS_PER_DAY)) for _ in range(5))
    for t in range(TICKS_PER_DAY):
        volume_path = _step(rng, volume_path, p.volume_tick_memory, p.volume_tick_sd)
        n = p.volume[:, None] * p.traffic[:, hours.weekday, t] * np.exp(busy + volume_path)
        now = usual + level.price_hour[:, t, None] + lean * raised[..., t] + following.left[which, picked, t]
        z = (hours.log_bid[..., t] - now) / sd
        won = n * normal_cdf(z, np) * hours.served[..., t]
        at = np.maximum(normal_cdf(z, np), 1e-12)
        bought = won * rate * normal_cdf(z - rho, np) / at
        ratio = normal_cdf(z - rho - sd, np) / np.maximum(normal_cdf(z - rho, np), 1e-12)
        paid = p.cost_scale[:, None] * np.exp(now + sd * rho + 0.5 * sd * sd) * ratio
        mood = np.exp(-tires * tired) * (1.0 + interest * np.tanh(aware))
        eligible[..., t], impressions[..., t], clicks[..., t], cost[..., t] = n, won, bought, bought * paid
        conversions[..., t] = bought * converts * mood * known[..., t]
        exposed = won / p.volume[:, None]
        tired = p.fatigue_memory[:, None] * tired + exposed / EXPOSURE_UNIT
        aware = p.awareness_memory[:, None] * aware + exposed / AWARE_UNIT
    total = np.maximum(clicks.sum((1, 2, 3), keepdims=True), 1e-9)
    lucky = rng.poisson(total) / total
    expected = np.maximum(conversions.sum((1, 2, 3), keepdims=True) * lucky, 1e-9)
    converted = conversions * lucky * rng.poisson(expected) / expected
    return _figures(eligible, impressions, clicks * lucky, cost * lucky, converted, hours.served)


def _step(rng: np.random.Generator, path: Array, memory: Array, sd: Array) -> Array:
    fresh = (sd * np.sqrt(1.0 - memory**2))[:, None] * rng.normal(size=path.shape)
    return memory[:, None] * path + fresh


def _surprise(rows: Array, seen: Array) -> float:
    """The share of rows [N,L] whose worst line is at least as far out as that of `seen`, beyond the tolerance."""
    middle, spread = np.median(rows, axis=0), np.maximum(rows.std(axis=0), 1e-12)

    def worst(x: Array) -> Array:
        return (np.maximum(np.abs(x - middle) - TOLERANCE * np.abs(middle), 0.0) / spread).max(-1)

    return float((1 + (worst(rows) >= worst(seen)).sum()) / (1 + len(rows)))
