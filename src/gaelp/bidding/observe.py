"""Observations: what a platform shows -> observation[256], mask[64]; the line items first, then the campaign.

Everything is a ratio or a log, so one policy serves small and large accounts. Slots that no platform of this version
reports (holidays, how old a report is) stay 0 and say so by name. More line items than the profile holds are refused.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np

from gaelp.bidding.landscape import GRID, Landscape, normal_cdf
from gaelp.bidding.pacer import (
    DayState,
    PacerParams,
    Solution,
    Terms,
    calibration,
    traffic_left,
    unit_rate,
    volume_ratio,
)
from gaelp.core.errors import BadInput
from gaelp.core.schema import HISTORY, PROFILES, TICKS_PER_DAY, Schema
from gaelp.core.xp import Array


class Outcomes(NamedTuple):
    """What the last HISTORY dayparts brought, newest first, the one that has just ended included; [B,6] each."""

    spend: Array
    win_rate: Array
    value_rate: Array


def outcomes(state: DayState, xp: ModuleType) -> Outcomes:
    """The remembered dayparts, with the one since the last decision in front."""
    eligible = xp.maximum(state.eligible.sum(-1) - state.mark_eligible, 1.0)
    clicks = xp.maximum(state.clicks.sum(-1) - state.mark_clicks, 1.0)
    return Outcomes(
        _pushed(state.past_spend, state.spent - state.mark_spent, xp),
        _pushed(state.past_win_rate, (state.impressions.sum(-1) - state.mark_impressions) / eligible, xp),
        _pushed(state.past_value_rate, (state.conversions.sum(-1) - state.mark_conversions) / clicks, xp),
    )


def mark_decision(state: DayState, move_pace: Array, xp: ModuleType) -> DayState:
    """Close the daypart behind us and remember the move just chosen for the one ahead; [B]."""
    past = outcomes(state, xp)
    return state._replace(
        past_moves=_pushed(state.past_moves, move_pace, xp),
        past_spend=past.spend,
        past_win_rate=past.win_rate,
        past_value_rate=past.value_rate,
        mark_spent=state.spent,
        mark_eligible=state.eligible.sum(-1),
        mark_impressions=state.impressions.sum(-1),
        mark_clicks=state.clicks.sum(-1),
        mark_conversions=state.conversions.sum(-1),
    )


def _pushed(past: Array, value: Array, xp: ModuleType) -> Array:
    return xp.concatenate([value[..., None].astype(past.dtype), past[..., : HISTORY - 1]], axis=-1)


def fits(schema: Schema, line_items: int) -> None:
    """Refuse more line items than the schema's profile holds. Raises BadInput with what would help."""
    if line_items > schema.item_slots:
        wide = ", ".join(
            f"profile {name!r} holds {p.items}" for name, p in PROFILES.items() if p.items >= line_items
        )
        raise BadInput(
            f"profile {schema.profile.name!r} holds {schema.item_slots} line items, the campaign has {line_items}: "
            f"group some of them{' (' + wide + ')' if wide else ''}."
        )


def observe(
    state: DayState, solution: Solution, landscape: Landscape, terms: Terms, params: PacerParams,
    schema: Schema, xp: ModuleType, learning: Array | float = 0.0,
) -> Array:  # fmt: skip
    """The observation [B, schema.observation_size], float32, at a decision.

    learning: [B], the share of the line items that the platform says are in their learning period.
    """
    item, t = terms.item, state.tick
    fits(schema, item.shape[-1])
    past = outcomes(state, xp)
    elapsed = t / TICKS_PER_DAY
    left = traffic_left(landscape, terms, t)
    target = xp.where(xp.isfinite(terms.target_cpa), terms.target_cpa, 1.0)
    has_target = xp.isfinite(terms.target_cpa).astype(xp.float32)
    rate = landscape.conversion_rate[item]
    units = rate * unit_rate(landscape, terms, xp)
    ratio = calibration(state, params)
    volume = volume_ratio(state, landscape, terms, params)
    sd, mean = landscape.price_sd[item], landscape.price_mean[item]
    weight = landscape.volume[item] / landscape.volume[item].sum(-1, keepdims=True)
    planned = 1.0 - left
    reached = solution.log_bid - mean - state.price_dev - landscape.win_shift[item]
    expected_win = normal_cdf(reached / landscape.win_sd[item], xp)
    start, middle = xp.zeros_like(item), GRID // 2
    reach = landscape.cost_left[item, start, -1].sum(-1)
    prior_cpa = landscape.cost_left[item, start, middle].sum(-1) / xp.maximum(
        (landscape.clicks_left[item, start, middle] * units).sum(-1), 1e-9
    )

    def mean_of(x: Array) -> Array:
        return (weight * x).sum(-1)

    def against_target(cost: Array, conversions: Array) -> Array:
        return has_target * _log(
            (cost + 0.05 * terms.budget) / (conversions * target + 0.05 * terms.budget), xp
        )

    counted = unit_rate(landscape, terms, xp)
    arrived = (state.conversions * counted).sum(-1)
    clicks_all = xp.maximum(state.unmatured_clicks.sum((-1, -2)) + state.matured_clicks.sum(-1), 1e-9)
    matured = xp.where(state.clicks.sum(-1) > 0, state.matured_clicks.sum(-1) / clicks_all, 1.0)
    angle = 2 * np.pi * elapsed
    zero = xp.zeros_like(terms.budget)
    none = xp.zeros_like(sd)
    items = {
        "price_deviation": state.price_dev, "share_won": state.win_fast, "base_price": mean,
        "base_value": _log(units * landscape.click_rate[item], xp), "weight": weight,
        "spend_pace": state.cost / terms.budget[..., None] - planned[..., None] / item.shape[-1],
        "calibration": _log(ratio, xp),
        "arrived_against_matured": _log((state.conversions + 5.0) / (rate * state.matured_clicks + 5.0), xp),
        "matured_count": xp.log1p(rate * state.matured_clicks), "exposure_fast": 10.0 * state.exposure_fast,
        "exposure_slow": 5.0 * state.exposure_slow, "last_action": state.past_moves[..., :1] + none,
    }  # fmt: skip
    weekday = [(terms.weekday == k).astype(xp.float32) for k in range(7)]
    campaign = [
        elapsed + zero, xp.sin(angle) + zero, xp.cos(angle) + zero, left,
        1.0 - state.spent / terms.budget, state.spent / terms.budget - planned, state.spent / terms.budget,
        _log(terms.budget / reach, xp),
        has_target, against_target(state.spent, solution.expected_done),
        against_target(state.spent, arrived),
        has_target * _log(solution.projected_cpa / target, xp), has_target * _log(target / prior_cpa, xp),
        has_target * xp.minimum(_log(target / solution.projected_cpa, xp), 0.0),
        mean_of(solution.log_bid - state.log_bid), solution.log_worth_budget - solution.log_worth,
        solution.log_worth_target - solution.log_worth, state.pace_integral,
        mean_of(state.price_dev), mean_of(state.price_dev - state.price_slow),
        mean_of(state.win_fast - expected_win), mean_of(state.win_fast - state.win_slow),
        _log(mean_of(volume), xp), mean_of(state.volume_fast),
        matured, xp.log1p((state.matured_clicks * rate).sum(-1)), xp.log1p(state.conversions.sum(-1)),
        mean_of(state.innovation),
        *weekday, weekday[5] + weekday[6], zero,
        learning + zero, (state.spent >= terms.budget).astype(xp.float32), zero,
        *(state.past_moves[..., k] for k in range(HISTORY)),
        *(past.spend[..., k] / terms.budget for k in range(HISTORY)),
        *(past.win_rate[..., k] for k in range(HISTORY)),
        *(past.value_rate[..., k] / mean_of(rate) for k in range(HISTORY)),
    ]  # fmt: skip
    filled = xp.stack([items[name] for name in schema.profile.features], axis=-1)
    filled = filled.reshape(*filled.shape[:-2], -1)
    empty = xp.zeros((*zero.shape, schema.item_slots * schema.item_width - filled.shape[-1]), filled.dtype)
    seen = xp.concatenate([filled, empty, xp.stack([x + zero for x in campaign], axis=-1)], axis=-1)
    return xp.clip(seen, -10.0, 10.0).astype(xp.float32)


def _log(ratio: Array, xp: ModuleType) -> Array:
    return xp.log(xp.clip(ratio, 1e-4, 1e4))
