"""What the account's owner set up before anybody else came: one campaign in each market.

It plays a plain day in private to find a sensible budget, bid and target; the account shows only those three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gaelp.platforms.sandbox.auction import Outcome, simulate_day
from gaelp.platforms.sandbox.world import PLAIN_WEATHER, TICKS, Auctions, Settings, draw_auctions, generator


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerCampaign:
    """What the account's owner set up in one market before anybody else came."""

    market: str
    daily_budget_micros: int
    bid_micros: int
    target_cpa_micros: int


def owner_campaign(settings: Settings, market: int) -> OwnerCampaign:
    """The owner's campaign: a budget, a rough bid, and a target near the cost per conversion at that budget.

    The landing bid spends the budget on a plain day of a slice of its own. The target is the cost per
    conversion there times exp(U(-0.5, 0.0)), so that it binds in most markets; the bid is the landing
    bid times exp(N(0, 0.15)).
    """
    rng = generator(settings.seed, "owner", market)
    budget = round(float(rng.uniform(4.0, 8.0)), 2)
    squeeze, roughness = math.exp(rng.uniform(-0.5, 0.0)), math.exp(rng.normal(0, 0.15))
    auctions = draw_auctions(settings, market, -1, 0, PLAIN_WEATHER)
    low, high = math.log(1e-3), math.log(1.0)
    for _ in range(8):
        middle = 0.5 * (low + high)
        spent = sum(o.expected_cost for o in _unlimited(auctions, math.exp(middle)))
        low, high = (low, middle) if spent > budget else (middle, high)
    landing = math.exp(0.5 * (low + high))
    outcomes = _unlimited(auctions, landing)
    cpa = sum(o.expected_cost for o in outcomes) / sum(o.expected_conversions for o in outcomes)
    return OwnerCampaign(
        market=f"m{market}",
        daily_budget_micros=round(budget * 1e6),
        bid_micros=round(landing * roughness * 1e3) * 1000,
        target_cpa_micros=round(cpa * squeeze * 1e3) * 1000,
    )


def _unlimited(auctions: Auctions, bid: float) -> tuple[Outcome, ...]:
    return simulate_day(auctions, [round(bid * 1e6)] * TICKS, 10**12)
