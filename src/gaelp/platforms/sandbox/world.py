"""The sandbox's world before anybody bids: markets, days, users, rivals' values, and each single auction.

It models auctions of single users, not averages. Everything here is drawn from the seed alone: randomness
is counter based (Philox, keyed by a hash of what it is for), so it does not depend on the order of calls, on
other campaigns or on restarts. What a bid makes of it is told in `auction`. It refuses to know HTTP, SQL
and the client's own model of a market. Prices are floats in currency units per impression.

A market has hourly traffic with two peaks, a weekday factor, a daily shock and a slow drift of volume, a
daily shock and an hourly pattern of price, and four rivals. A campaign meets a random slice of the
market's users, and each rival has a purse for each slice: campaigns never compete with each other.
An auction is one visit of one user; the platform's click estimate pCTR is the user's propensity times the
visit's noise. Rivals score it by their own values, correlated with the pCTR.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import BadInput
from gaelp.platforms.sandbox import OVER_DELIVERY

TICKS = 48
"""Half hours in a day."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

RIVALS = 4
USER_CLICK_SD = 0.6
VISIT_CLICK_SD = 0.5
CLICK_SD = math.hypot(USER_CLICK_SD, VISIT_CLICK_SD)
USER_CONVERSION_SD = 0.4
USER_ACTIVITY_SD = 0.5
SHARES = 1 << 14
"""A visit belongs to one of so many equal shares, dealt out to users by how active they are."""
RIVAL_VALUE_SD = 0.7
RIVAL_CLICK_CORRELATION = 0.5
MARKET_TIRING_SD = 0.5
"""Users of one market tire faster than those of another: log standard deviation between markets."""
DAY_VOLUME_SD = 0.2
DAY_PRICE_SD = 0.25
DRIFT_DECAY, DRIFT_SD = 0.9, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a sandbox is made of, beside its seed; stored with it and not changed afterwards.

    markets: how many, named m0, m1, ... auctions_per_day: a campaign's eligible auctions on a plain day.
    users: in a campaign's slice. over_delivery: documented bound on a day's charge over its budget.
    tiring: log fall of the conversion rate per unit of tiredness (one impression, fresh), in a middling market.
    """

    seed: int
    markets: int = 8
    auctions_per_day: int = 12_000
    users: int = 600
    over_delivery: int = OVER_DELIVERY
    tiring: float = 0.35

    def __post_init__(self) -> None:
        if type(self.seed) is not int:
            raise BadInput(f"seed must be a whole number, got {self.seed!r}.")
        for name in ("markets", "auctions_per_day", "users", "over_delivery"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise BadInput(f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}.")
        if not (math.isfinite(self.tiring) and self.tiring >= 0):
            raise BadInput(f"tiring must be a finite number of at least 0, got {self.tiring!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """One market for good: its tides, prices and rivals.

    traffic[48] sums to 1; weekday[7] factors on volume; price_hour[48] log price pattern, mean 0;
    price_level: currency units per impression; click_rate, conversion_rate: user averages; tiring: as in Settings;
    rival_strength[R]: log value against the level; rival_budget[R]: currency units per day and slice;
    rival_paces[R]: whether it spreads its purse over the day, or spends until broke.
    """

    name: str
    traffic: Floats
    weekday: Floats
    price_hour: Floats
    price_level: float
    click_rate: float
    conversion_rate: float
    tiring: float
    rival_strength: Floats
    rival_budget: Floats
    rival_paces: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The users one campaign meets: log_click[users], conversion[users]; visitor[SHARES] tells whose visit it is."""

    log_click: Floats
    conversion: Floats
    visitor: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Auctions:
    """One campaign's auctions of one day, in order of arrival; what happens without any bid of ours.

    start[49]: first auction of each half hour; user[n]; click_estimate[n], the pCTR; rival_score[R,n] in
    currency units per impression before pacing; luck[3,n] uniforms for click, conversion and delay;
    delivery_limit in [1, over_delivery]: this day's charge may reach that many times the budget.
    """

    market: Market
    slice: Slice
    tiring: float
    start: tuple[int, ...]
    elapsed: tuple[float, ...]
    user: Counts
    click_estimate: Floats
    rival_score: Floats
    luck: Floats
    delivery_limit: float


def generator(*key: object) -> np.random.Generator:
    """The random stream that belongs to `key` (seed, purpose, numbers): the same today and after a restart."""
    digest = hashlib.blake2b("|".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, np.uint64)))


@lru_cache(maxsize=64)
def draw_market(settings: Settings, index: int) -> Market:
    """Market number `index` of this seed."""
    rng = generator(settings.seed, "market", index)
    hours = np.arange(TICKS) / 2
    peaks = rng.normal([10.5, 20.0], 0.7)
    heights = rng.uniform([0.7, 1.0], [1.1, 1.5])
    tide = 0.25 + sum(
        h * np.exp(-0.5 * ((hours - p) / 2.6) ** 2) for h, p in zip(heights, peaks, strict=True)
    )
    price_hour = 0.2 * np.sin(2 * np.pi * (hours - rng.uniform(6, 12)) / 24) + rng.normal(0, 0.05, TICKS)
    level = 0.00125 * math.exp(rng.uniform(-0.25, 0.25))
    strength = rng.normal(0, 0.15, RIVALS)
    purse = level * settings.auctions_per_day * 0.34 * np.exp(strength + rng.normal(0, 0.4, RIVALS))
    return Market(
        name=f"m{index}",
        traffic=tide / tide.sum(),
        weekday=np.array([1.03, 1.05, 1.04, 1.02, 1.0, 0.9, 0.96]) * np.exp(rng.normal(0, 0.03, 7)),
        price_hour=price_hour - price_hour.mean(),
        price_level=level,
        click_rate=0.045 * math.exp(rng.uniform(-0.1, 0.1)),
        conversion_rate=0.3 * math.exp(rng.uniform(-0.15, 0.15)),
        tiring=settings.tiring
        * math.exp(MARKET_TIRING_SD * generator(settings.seed, "tiring", index).standard_normal()),
        rival_strength=strength,
        rival_budget=purse,
        rival_paces=np.arange(RIVALS) % 2 == 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What a day brings to every campaign of a market: log_price, and volume[48], a factor."""

    log_price: float
    volume: Floats


def weather(settings: Settings, market: int, day: int) -> Weather:
    """The market's shocks of that day; day 0 is a Monday."""
    rng = generator(settings.seed, "weather", market, day)
    shock = rng.normal(-0.5 * DAY_VOLUME_SD**2, DAY_VOLUME_SD)
    steps = rng.normal(0, DRIFT_SD, TICKS)
    log_price = rng.normal(0, DAY_PRICE_SD)
    drift = np.empty(TICKS)
    level = 0.0
    for t in range(TICKS):
        level = DRIFT_DECAY * level + steps[t]
        drift[t] = level
    weekday = draw_market(settings, market).weekday[day % 7]
    return Weather(log_price=float(log_price), volume=weekday * np.exp(shock + drift))


PLAIN_WEATHER = Weather(log_price=0.0, volume=np.ones(TICKS))


@lru_cache(maxsize=512)
def draw_slice(settings: Settings, market: int, campaign: int) -> Slice:
    """The users that campaign number `campaign` (its created_index) meets, the same on every day."""
    rng = generator(settings.seed, "slice", market, campaign)
    click, conversion, activity = rng.standard_normal((3, settings.users))
    rate = draw_market(settings, market).conversion_rate
    visits = np.cumsum(np.exp(USER_ACTIVITY_SD * activity))
    # A table of equal shares is read ten times faster than the cumulative shares are searched.
    visitor = np.searchsorted(visits / visits[-1], (np.arange(SHARES) + 0.5) / SHARES)
    return Slice(
        log_click=USER_CLICK_SD * click,
        conversion=np.minimum(
            0.9, rate * np.exp(USER_CONVERSION_SD * conversion - 0.5 * USER_CONVERSION_SD**2)
        ),
        visitor=visitor,
    )


def draw_auctions(settings: Settings, market: int, campaign: int, day: int, sky: Weather) -> Auctions:
    """The auctions that campaign number `campaign` could enter on `day` under that weather."""
    ours = draw_market(settings, market)
    users = draw_slice(settings, market, campaign)
    rng = generator(settings.seed, "auctions", market, campaign, day)
    volume = settings.auctions_per_day * ours.traffic * sky.volume
    counts = rng.poisson(volume)
    delivery_limit = 1.0 + (settings.over_delivery - 1.0) * rng.random() ** 6
    start = (0, *np.cumsum(counts).tolist())
    n = start[-1]
    user = users.visitor[rng.integers(0, SHARES, n)]
    noise = rng.standard_normal((1 + RIVALS, n))
    log_click = users.log_click[user] + VISIT_CLICK_SD * noise[0]
    own = math.sqrt(1 - RIVAL_CLICK_CORRELATION**2)
    level = math.log(ours.price_level) + sky.log_price + np.repeat(ours.price_hour, counts)
    appeal = level + (RIVAL_VALUE_SD * RIVAL_CLICK_CORRELATION / CLICK_SD) * log_click
    value = appeal + ours.rival_strength[:, None] + (RIVAL_VALUE_SD * own) * noise[1:]
    return Auctions(
        market=ours,
        slice=users,
        tiring=ours.tiring,
        start=start,
        elapsed=(0.0, *np.cumsum(ours.traffic).tolist()),
        user=user,
        click_estimate=np.minimum(0.9, ours.click_rate * np.exp(log_click - 0.5 * CLICK_SD**2)),
        rival_score=np.exp(value),
        luck=rng.random((3, n)),
        delivery_limit=delivery_limit,
    )
