"""Days of the pacer's own model of the world in plain NumPy: what the closed forms promise, with or without luck.

One line item per row, no fatigue unless asked for. It is written from the formulas of the landscape, not from the
simulator, so that the two can disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from gaelp.bidding.landscape import Landscape, tabulate
from gaelp.bidding.pacer import DEFAULT_PARAMS, DayState, PacerParams, Report, Terms, after_report, start_day
from gaelp.bidding.rules import SECOND_PRICE, Rules
from gaelp.core.schema import TICKS_PER_DAY

Array = NDArray[np.float64]
Bidder = Callable[[DayState], Array]
"""The day so far -> log bid [B]."""

HOUR = (np.arange(TICKS_PER_DAY) + 0.5) / TICKS_PER_DAY
DAYLIGHT = 1.0 - 0.6 * np.cos(2 * np.pi * HOUR)
TRAFFIC = DAYLIGHT / DAYLIGHT.sum()
"""Quiet at midnight (0.4 of the mean), busy at noon (1.6 of it)."""


def landscape(
    items: int = 1, hourly: float = 0.2, rules: Rules = SECOND_PRICE, **changes: float | Array
) -> Landscape:
    """Line items alike: 12,000 auctions a day; `hourly` is the amplitude of the log price over the day.

    Winning everything at flat prices costs 12,000 x 0.05 x 0.8 x exp(log 0.05 + 0.6 (-0.3 + 0.6 / 2)) = 24.00 a
    day for 600 clicks and 180 conversions.
    """
    usual: dict[str, float | Array] = {
        "price_mean": np.log(0.05), "price_sd": 0.6, "clicks_price": -0.3, "click_rate": 0.05, "cost_scale": 0.8,
        "conversion_rate": 0.3, "order_value": 1.0, "volume": 12_000.0, "price_day_sd": 0.3, "slot_gap": 0.0,
    }  # fmt: skip
    told = {
        name: np.broadcast_to(np.asarray(value, np.float64), (items,)).copy()
        for name, value in {**usual, **changes}.items()
    }
    rows = np.tile(TRAFFIC, (items, 1))
    return tabulate(
        **told, traffic=rows, price_hour=np.tile(hourly * np.sin(2 * np.pi * HOUR), (items, 1)), rules=rules,
        delay_share=np.tile([1.0, 0.0], (items, 1)), delay_rate=np.full((items, 2), 0.1),
    )  # fmt: skip


def terms(budget: float | Array, target_cpa: float | Array = np.inf, items: int = 1) -> Terms:
    """One campaign-day per line item, on a Monday, that counts conversions."""
    return Terms(
        item=np.arange(items)[:, None],
        budget=np.broadcast_to(np.asarray(budget, float), (items,)).copy(),
        target_cpa=np.broadcast_to(np.asarray(target_cpa, float), (items,)).copy(),
        weekday=np.zeros(items, int),
        by_value=np.zeros(items),
        profit=np.zeros(items),
        carried=np.zeros((items, 1)),
    )


def campaign(
    items: int, budget: float, target_cpa: float = np.inf, *, by_value: float = 0.0, profit: float = 0.0
) -> Terms:
    """One campaign-day that holds the first `items` line items."""
    one = terms(budget, target_cpa)
    return one._replace(
        item=np.arange(items)[None], by_value=np.array([by_value]), profit=np.array([profit]),
        carried=np.zeros((1, items)),
    )  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """How this day differs from the ordinary one."""

    price_shock: float = 0.0
    """On the log price, all day."""
    rate_ratio: float = 1.0
    """Conversions per click against the calibrated rate."""
    volume_ratio: float = 1.0


@dataclass(frozen=True)
class Day:
    """What happened, per half hour [48,B], and where the bidder's memory stood at the end. One line item each."""

    log_bid: Array
    impressions: Array
    clicks: Array
    cost: Array
    state: DayState

    @property
    def spend(self) -> Array:
        return self.cost.sum(axis=0)


def play(
    bidder: Bidder, known: Landscape, day: Terms, *, truth: Truth = Truth(), params: PacerParams = DEFAULT_PARAMS,
    rng: np.random.Generator | None = None,
) -> Day:  # fmt: skip
    """A day of expected values; with `rng` the impressions, clicks and arrivals are drawn around them.

    Nothing stops the spending at the budget: that is the bidder's own business here.
    """
    state = start_day(known, day, np)
    kept: dict[str, list[Array]] = {name: [] for name in ("log_bid", "impressions", "clicks", "cost")}
    item = day.item[:, 0]
    pending = np.zeros(len(item))
    for t in range(TICKS_PER_DAY):
        bid = bidder(state)[:, 0]
        sd, rho = known.price_sd[item], known.clicks_price[item]
        level = known.price_mean[item] + known.price_hour[item, t] + truth.price_shock
        z = (bid - level) / sd
        eligible = truth.volume_ratio * known.volume[item] * known.traffic[item, t]
        won, clicks = norm.cdf(z), eligible * known.click_rate[item] * norm.cdf(z - rho)
        per_click = known.cost_scale[item] * np.exp(level + sd * (rho + sd / 2)) * norm.cdf(z - rho - sd)
        per_click = per_click / np.maximum(norm.cdf(z - rho), 1e-300)
        impressions = eligible * won
        if rng is not None:
            eligible = rng.poisson(eligible).astype(float)
            impressions = rng.binomial(eligible.astype(int), won).astype(float)
            clicks = rng.poisson(clicks).astype(float)
        pending = pending + clicks * known.conversion_rate[item] * truth.rate_ratio
        arriving = known.delay_rate[item, 0] * pending
        pending = pending - arriving
        arrived = arriving if rng is None else rng.poisson(arriving).astype(float)
        report = Report(
            log_bid=bid[:, None], eligible=eligible[:, None], impressions=impressions[:, None],
            clicks=clicks[:, None], cost=(clicks * per_click)[:, None],
            conversions_so_far=state.conversions + arrived[:, None],
        )  # fmt: skip
        state = after_report(state, report, known, day, params, np)
        for name, value in zip(kept, (bid, impressions, clicks, clicks * per_click), strict=True):
            kept[name].append(value)
    return Day(**{name: np.stack(values) for name, values in kept.items()}, state=state)
