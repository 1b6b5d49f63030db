"""Hourly reports made in NumPy by the model that calibration assumes, so that its answers are known beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import norm
from tests.bidding.days import HOUR, TRAFFIC

from gaelp.core.schema import default_schema
from gaelp.market.hours import Hours

TICKS = 48
EXPOSURE_UNIT, AWARE_UNIT = 0.04, 0.15
"""Exposure counts in 4 % of an ordinary day's auctions where it tires, in 15 % where it makes aware."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Planted:
    """What is put in. Prices around 0.05 a click, 12,000 auctions a day, moves as the incumbent randomises them."""

    items: int = 4
    days: int = 28
    fatigue: float = 0.1
    fatigue_spread: float = 0.0
    """Log standard deviation of the line items' strengths around `fatigue`, which stays their mean."""
    memory: float = 0.9
    awareness: float = 0.0
    aware_memory: float = 0.97
    carried_share: float = 0.0
    """Share of a day's exposure that still tires at the next midnight."""
    price_sd: float = 0.6
    price_sd_spread: float = 0.0
    clicks_price: float = -0.3
    clicks_price_spread: float = 0.0
    click_rate: float = 0.05
    cost_scale: float = 0.8
    conversion_rate: float = 0.3
    delay_share: float = 1.0
    """Of the fast delay."""
    fast: float = 0.1
    slow: float = 0.01
    price_day_sd: float = 0.2
    price_tick_sd: float = 0.1
    price_tick_memory: float = 0.7
    answer: float = 0.0
    """Log price by which the level moves when a day's auctions have been won."""
    volume_day_sd: float = 0.15
    volume_tick_sd: float = 0.0
    volume_tick_memory: float = 0.9
    weekday_sd: float = 0.0
    """Log deviation of weekdays' volumes; days of more traffic also have it later, by as much."""
    keep: float = 0.65
    """1: nobody randomises."""
    follow: float = 0.8
    """How much of the price the pacer's own bid follows: what makes the plain regression wrong."""
    read_after: int | None = None
    order_value: float | None = None


def history(told: Planted, seed: int) -> Hours:
    """Hours [items,days,48] of `told`; the volumes, wins, clicks, conversions and arrivals are drawn."""
    return planted(told, seed)[0]


def planted(told: Planted, seed: int) -> tuple[Hours, dict[str, Array]]:
    """The same, and the true value of every parameter by its name; [items], or a number for the account."""
    rng = np.random.default_rng(seed)
    shape = (told.items, told.days, TICKS)
    spread = told.fatigue_spread
    strength = told.fatigue * np.exp(spread * rng.normal(size=told.items) - spread**2 / 2)
    sd = told.price_sd * np.exp(told.price_sd_spread * rng.normal(size=told.items))
    rho = told.clicks_price + told.clicks_price_spread * rng.normal(size=told.items)
    by_day = rng.normal(0, told.price_day_sd, (told.items, told.days, 1))
    path = drift(rng, shape, told.price_tick_sd, told.price_tick_memory)
    levels = np.array(default_schema().pace_levels)
    explores = rng.random((told.items, told.days, 6)) >= told.keep
    move = np.repeat(np.where(explores, rng.choice(levels, explores.shape), 0.0), 8, axis=-1)

    weekday = np.arange(told.days) % 7
    usual = told.weekday_sd * rng.normal(size=7)
    late = usual[weekday]
    traffic = TRAFFIC * np.exp(late[:, None] * (HOUR - 0.5))
    traffic = traffic / traffic.sum(1, keepdims=True)
    shocks = rng.normal(0, told.volume_day_sd, (told.items, told.days, 1)) - told.volume_day_sd**2 / 2
    tides = drift(rng, shape, told.volume_tick_sd, told.volume_tick_memory)
    eligible = rng.poisson(12_000 * traffic * np.exp(late[:, None] + shocks + tides)).astype(float)

    z, bid, impressions = (np.zeros(shape) for _ in range(3))
    tired, aware = np.zeros(shape), np.zeros(shape)
    won = np.zeros(shape[:2])
    for t in range(TICKS):
        hour = 0.2 * np.sin(2 * np.pi * HOUR[t])
        level = np.log(0.05) + hour + by_day[..., 0] + path[..., t] + told.answer * won
        # The pacer learns of a half hour's price when it is over.
        heard = by_day[..., 0] + (path[..., t - 1] if t else 0.0)
        bid[..., t] = np.log(0.05) - 0.3 + told.follow * heard + move[..., t]
        z[..., t] = (bid[..., t] - level) / sd[:, None]
        impressions[..., t] = rng.binomial(eligible[..., t].astype(int), norm.cdf(z[..., t]))
        won = won + impressions[..., t] / 12_000
        if t:
            exposed = impressions[..., t - 1] / 12_000
            tired[..., t] = told.memory * tired[..., t - 1] + exposed / EXPOSURE_UNIT
            aware[..., t] = told.aware_memory * aware[..., t - 1] + exposed / AWARE_UNIT
    before = impressions.sum(2) / 12_000
    before = np.concatenate([before.mean(1, keepdims=True), before[:, :-1]], axis=1)
    left = told.carried_share * before[..., None] * told.memory ** np.arange(TICKS) / EXPOSURE_UNIT

    lower = rho[:, None, None]
    scale = sd[:, None, None]
    clicks = rng.poisson(impressions * told.click_rate * norm.cdf(z - lower) / norm.cdf(z)).astype(float)
    level = bid - scale * z
    ratio = norm.cdf(z - lower - scale) / norm.cdf(z - lower)
    per_click = told.cost_scale * np.exp(level + scale * (lower + scale / 2)) * ratio
    rate = told.conversion_rate * np.exp(-strength[:, None, None] * (tired + left))
    conversions = rng.poisson(clicks * rate * (1 + told.awareness * np.tanh(aware))).astype(float)
    known, arrived = arrivals(rng, conversions, told)
    worth = None if told.order_value is None else known * told.order_value * rng.lognormal(0.0, 0.1, shape)
    hours = Hours(
        log_bid=bid, eligible=eligible, impressions=impressions, clicks=clicks, cost=clicks * per_click,
        conversions=known, arrived=arrived, move=move, target_cpa=np.full(told.items, 0.12), weekday=weekday,
        worth=worth, read_after=None if told.read_after is None else np.full(told.days, float(told.read_after)),
    )  # fmt: skip
    each = np.ones(told.items)
    return hours, {
        "price_mean": np.log(0.05) + 0.2 * (TRAFFIC * np.sin(2 * np.pi * HOUR)).sum() * each, "price_sd": sd,
        "clicks_price": rho, "click_rate": told.click_rate * each, "cost_scale": told.cost_scale * each,
        "price_day_sd": told.price_day_sd * each, "price_tick_sd": told.price_tick_sd * each,
        "price_tick_memory": told.price_tick_memory * each, "answer": told.answer * each,
        "volume": 12_000 * np.exp(usual.mean()) * each, "volume_day_sd": told.volume_day_sd * each,
        "volume_tick_sd": told.volume_tick_sd * each, "volume_tick_memory": told.volume_tick_memory * each,
        **{f"weekday_{day}": (usual[day] - usual.mean()) * each for day in range(7)},
        "delay_share_fast": np.array([told.delay_share]), "delay_rate_fast": np.array([told.fast]),
        "delay_rate_slow": np.array([told.slow]),
        **{f"arrived_in_{hours}_hours": np.array([
            1 - told.delay_share * (1 - told.fast) ** (2 * hours) - (1 - told.delay_share) * (1 - told.slow) ** (2 * hours)
        ]) for hours in (4, 24)},
        "conversion_rate": told.conversion_rate * each, "fatigue": strength,
        "fatigue_memory": np.array([told.memory]), "awareness": told.awareness * each,
        "awareness_memory": np.array([told.aware_memory]), "carried_share": np.array([told.carried_share]),
        "order_value": (1.0 if told.order_value is None else told.order_value * np.exp(0.005)) * each,
    }  # fmt: skip


def reports(hours: Hours) -> pl.DataFrame:
    """The hours as a report's table, as `gaelp.logs.canonical.REPORTS` describes it.

    What chance made impossible is cut: a click converts once at most.
    """
    item, day, tick = (at.reshape(-1) for at in np.indices(hours.clicks.shape))
    conversions = np.minimum(hours.conversions, hours.clicks)
    arrived = np.minimum(hours.arrived, hours.clicks.cumsum(2))
    bids = np.rint(np.exp(hours.log_bid) * 1e6)
    cost = np.minimum(np.rint(hours.cost * 1e6), hours.clicks * bids)
    whole = {
        "item": item, "day": day, "weekday": hours.weekday[day], "tick": tick, "bid_micros": bids,
        "eligible": hours.eligible, "impressions": hours.impressions, "clicks": hours.clicks, "cost_micros": cost,
        "conversions": conversions, "arrived": arrived, "budget_micros": np.full(item.size, 20_000_000),
        "target_cpa_micros": np.rint(hours.target_cpa * 1e6)[item],
    }  # fmt: skip
    if hours.read_after is not None:
        whole["read_after_hours"] = hours.read_after[day] / 2
    return pl.DataFrame(
        {
            "campaign": [f"m{i}" for i in item],
            **{name: np.asarray(x).reshape(-1).astype(np.int64) for name, x in whole.items()},
            "move": hours.move.reshape(-1),
        }
    )


def drift(rng: np.random.Generator, shape: tuple[int, int, int], sd: float, memory: float) -> Array:
    """AR(1) paths that start every day at 0."""
    path, at = np.zeros(shape), np.zeros(shape[:2])
    for t in range(TICKS):
        at = memory * at + rng.normal(0, sd * np.sqrt(1 - memory**2), shape[:2])
        path[..., t] = at
    return path


def arrivals(rng: np.random.Generator, conversions: Array, told: Planted) -> tuple[Array, Array]:
    """(conversions known at the reading by the half hour of their click, what was known by each half hour)."""
    item, day, at = (
        np.repeat(place, conversions[conversions > 0].astype(int)) for place in np.nonzero(conversions)
    )
    fast = rng.random(len(at)) < told.delay_share
    end = at + rng.geometric(np.where(fast, told.fast, told.slow)) - 1
    read = np.inf if told.read_after is None else TICKS - 1 + told.read_after
    known, arrived = np.zeros(conversions.shape), np.zeros(conversions.shape)
    seen = end <= read
    np.add.at(known, (item[seen], day[seen], at[seen]), 1)
    today = end < TICKS
    np.add.at(arrived, (item[today], day[today], end[today]), 1)
    return known, np.cumsum(arrived, axis=2)
