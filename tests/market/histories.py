"""Hourly reports made in NumPy by the model that calibration assumes, so that its answers are known beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from tests.bidding.days import HOUR, TRAFFIC

from gaelp.core.schema import default_schema
from gaelp.market.hours import Hours

TICKS = 48
EXPOSURE_UNIT = 0.04
"""Exposure counts in 4 % of an ordinary day's auctions."""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """What is put in. Prices around 0.05 a click, 12,000 auctions a day, moves as the incumbent randomises them."""

    items: int = 4
    days: int = 28
    fatigue: float = 0.1
    fatigue_spread: float = 0.0
    """Log standard deviation of the line items' strengths around `fatigue`, which stays their mean."""
    memory: float = 0.9
    price_sd: float = 0.6
    clicks_price: float = -0.3
    click_rate: float = 0.05
    cost_scale: float = 0.8
    conversion_rate: float = 0.3
    arrival: float = 0.1
    price_day_sd: float = 0.2
    price_tick_sd: float = 0.1
    price_tick_memory: float = 0.7
    keep: float = 0.65
    follow: float = 0.8
    """How much of the price the pacer's own bid follows: what makes the plain regression wrong."""


def history(told: Planted, seed: int) -> Hours:
    """Hours [items,days,48] of `told`; the volumes, wins, clicks, conversions and arrivals are drawn."""
    rng = np.random.default_rng(seed)
    shape = (told.items, told.days, TICKS)
    spread = told.fatigue_spread
    strength = told.fatigue * np.exp(spread * rng.normal(size=told.items) - spread**2 / 2)
    by_day = rng.normal(0, told.price_day_sd, (told.items, told.days, 1))
    path, at = np.zeros(shape), rng.normal(0, told.price_tick_sd, shape[:2])
    for t in range(TICKS):
        shock = rng.normal(0, told.price_tick_sd * np.sqrt(1 - told.price_tick_memory**2), shape[:2])
        at = told.price_tick_memory * at + shock
        path[..., t] = at
    level = np.log(0.05) + 0.2 * np.sin(2 * np.pi * HOUR) + by_day + path
    levels = np.array(default_schema().pace_levels)
    explores = rng.random((told.items, told.days, 6)) >= told.keep
    move = np.repeat(np.where(explores, rng.choice(levels, explores.shape), 0.0), 8, axis=-1)
    # The pacer learns of a half hour's price when it is over.
    heard = np.concatenate([np.zeros((*shape[:2], 1)), path[..., :-1]], axis=-1)
    bid = np.log(0.05) - 0.3 + told.follow * (by_day + heard) + move
    eligible = rng.poisson(12_000 * TRAFFIC * np.exp(rng.normal(0, 0.15, (told.items, told.days, 1)))).astype(
        float
    )
    sd, rho = told.price_sd, told.clicks_price
    z = (bid - level) / sd
    impressions = rng.binomial(eligible.astype(int), norm.cdf(z)).astype(float)
    clicks = rng.poisson(eligible * told.click_rate * norm.cdf(z - rho)).astype(float)
    per_click = (
        told.cost_scale * np.exp(level + sd * (rho + sd / 2)) * norm.cdf(z - rho - sd) / norm.cdf(z - rho)
    )
    tired = np.zeros(shape)
    for t in range(1, TICKS):
        tired[..., t] = told.memory * tired[..., t - 1] + impressions[..., t - 1] / (EXPOSURE_UNIT * 12_000)
    rate = told.conversion_rate * np.exp(-strength[:, None, None] * tired)
    conversions = rng.poisson(clicks * rate).astype(float)
    pending, known, arrived = np.zeros(shape[:2]), np.zeros(shape[:2]), np.zeros(shape)
    for t in range(TICKS):
        pending = pending + conversions[..., t]
        now = rng.binomial(pending.astype(int), told.arrival)
        pending, known = pending - now, known + now
        arrived[..., t] = known
    return Hours(
        log_bid=bid, eligible=eligible, impressions=impressions, clicks=clicks, cost=clicks * per_click,
        conversions=conversions, arrived=arrived, move=move, target_cpa=np.full(told.items, 0.12),
        weekday=np.arange(told.days) % 7,
    )  # fmt: skip
