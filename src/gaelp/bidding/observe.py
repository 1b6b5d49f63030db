"""Observations: what a platform shows -> observation[256], mask[64]. One line item per campaign is filled.

Everything is a ratio or a log, so one policy serves small and large accounts. Slots that this version
cannot fill from a platform's reports (platform learning state, holidays) stay 0 and say so by name.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np

from gaelp.bidding.landscape import Landscape, normal_cdf
from gaelp.bidding.pacer import DayState, PacerParams, Solution, Terms, calibration, volume_ratio
from gaelp.core.schema import HISTORY, TICKS_PER_DAY, Schema
from gaelp.core.xp import Array


class Outcomes(NamedTuple):
    """What the last HISTORY dayparts brought, newest first, the one that has just ended included; [B,6] each."""

    spend: Array
    win_rate: Array
    value_rate: Array


def outcomes(state: DayState, xp: ModuleType) -> Outcomes:
    """The remembered dayparts, with the one since the last decision in front."""
    eligible = xp.maximum(state.eligible - state.mark_eligible, 1.0)
    clicks = xp.maximum(state.clicks - state.mark_clicks, 1.0)
    return Outcomes(
        _pushed(state.past_spend, state.spent - state.mark_spent, xp),
        _pushed(state.past_win_rate, (state.impressions - state.mark_impressions) / eligible, xp),
        _pushed(state.past_value_rate, (state.conversions - state.mark_conversions) / clicks, xp),
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
        mark_eligible=state.eligible,
        mark_impressions=state.impressions,
        mark_clicks=state.clicks,
        mark_conversions=state.conversions,
    )


def _pushed(past: Array, value: Array, xp: ModuleType) -> Array:
    return xp.concatenate([value[..., None].astype(past.dtype), past[..., : HISTORY - 1]], axis=-1)


def observe(
    state: DayState, solution: Solution, landscape: Landscape, terms: Terms, params: PacerParams,
    schema: Schema, xp: ModuleType,
) -> Array:  # fmt: skip
    """The observation [B, schema.observation_size], float32, at a decision."""
    item, t = terms.item, state.tick
    past = outcomes(state, xp)
    elapsed = t / TICKS_PER_DAY
    left = landscape.traffic_left[item, t]
    target = xp.where(xp.isfinite(terms.target_cpa), terms.target_cpa, 1.0)
    has_target = xp.isfinite(terms.target_cpa).astype(xp.float32)
    rate = landscape.conversion_rate[item]
    ratio = calibration(state, params)
    volume = volume_ratio(state, landscape, terms, params)
    sd, mean = landscape.price_sd[item], landscape.price_mean[item]
    planned = 1.0 - left
    z = (solution.log_bid - mean) / sd
    expected_win = normal_cdf(z - state.price_dev / sd, xp)
    reach = landscape.cost_left[item, xp.zeros_like(t), -1]
    prior_cpa = landscape.cost_left[item, xp.zeros_like(t), 24] / xp.maximum(
        landscape.clicks_left[item, xp.zeros_like(t), 24] * rate, 1e-9
    )

    def against_target(cost: Array, conversions: Array) -> Array:
        return has_target * _log(
            (cost + 0.05 * terms.budget) / (conversions * target + 0.05 * terms.budget), xp
        )

    clicks_all = xp.maximum(state.unmatured_clicks + state.matured_clicks, 1e-9)
    matured = xp.where(state.clicks > 0, state.matured_clicks / clicks_all, 1.0)
    angle = 2 * np.pi * elapsed
    zero = xp.zeros_like(terms.budget)
    items = {
        "price_deviation": state.price_dev, "share_won": state.win_fast, "base_price": mean,
        "base_value": _log(rate * landscape.click_rate[item], xp), "weight": zero + 1.0,
        "spend_pace": state.spent / terms.budget - planned, "calibration": _log(ratio, xp),
        "arrived_against_matured": _log((state.conversions + 5.0) / (rate * state.matured_clicks + 5.0), xp),
        "matured_count": xp.log1p(rate * state.matured_clicks), "exposure_fast": 10.0 * state.exposure_fast,
        "exposure_slow": 5.0 * state.exposure_slow, "last_action": state.past_moves[..., 0],
    }  # fmt: skip
    weekday = [(terms.weekday == k).astype(xp.float32) for k in range(7)]
    campaign = [
        elapsed + zero, xp.sin(angle) + zero, xp.cos(angle) + zero, left,
        1.0 - state.spent / terms.budget, state.spent / terms.budget - planned, state.spent / terms.budget,
        _log(terms.budget / reach, xp),
        has_target, against_target(state.spent, solution.expected_done),
        against_target(state.spent, state.conversions),
        has_target * _log(solution.projected_cpa / target, xp), has_target * _log(target / prior_cpa, xp),
        has_target * xp.minimum(_log(target / solution.projected_cpa, xp), 0.0),
        solution.log_bid - state.log_bid, solution.log_bid_budget - solution.log_bid,
        solution.log_bid_target - solution.log_bid, state.pace_integral,
        state.price_dev, state.price_dev - state.price_slow, state.win_fast - expected_win,
        state.win_fast - state.win_slow, _log(volume, xp), state.volume_fast,
        matured, xp.log1p(state.matured_clicks * rate), xp.log1p(state.conversions), state.innovation,
        *weekday, weekday[5] + weekday[6], zero,
        zero, (state.spent >= terms.budget).astype(xp.float32), zero,
        *(state.past_moves[..., k] for k in range(HISTORY)),
        *(past.spend[..., k] / terms.budget for k in range(HISTORY)),
        *(past.win_rate[..., k] for k in range(HISTORY)),
        *(past.value_rate[..., k] / rate for k in range(HISTORY)),
    ]  # fmt: skip
    filled = [items[name] for name in schema.profile.features]
    empty = [zero] * (schema.item_width * (schema.item_slots - 1))
    return xp.stack([xp.clip(x + zero, -10.0, 10.0) for x in (*filled, *empty, *campaign)], axis=-1).astype(
        xp.float32
    )


def _log(ratio: Array, xp: ModuleType) -> Array:
    return xp.log(xp.clip(ratio, 1e-4, 1e4))
