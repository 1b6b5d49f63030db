"""Observations of an episode of auctions: the schema of campaigns, filled with what a log shows its bidder.

A log has one item, no clock but the count of auctions, no conversions and no target: the slots of all that stay 0.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from gaelp.bidding.block_pacer import Curve, Knobs, Pace, foreseen, level, log_multiplier
from gaelp.bidding.observe import Outcomes
from gaelp.core.schema import HISTORY, TICKS_PER_DAY, Schema
from gaelp.core.xp import Array


def mark_decision(pace: Pace, move_pace: Array, xp: ModuleType) -> Pace:
    """Close the stretch behind us and remember the move just chosen for the one ahead; [B]."""
    past = _outcomes(pace, xp)
    return pace._replace(
        past_moves=_pushed(pace.past_moves, move_pace, xp),
        past_spend=past.spend,
        past_win_rate=past.win_rate,
        past_value_rate=past.value_rate,
        mark_spent=pace.spent,
        mark_seen=pace.seen,
        mark_won=pace.won,
        mark_value=pace.value,
    )


def observe_log(
    pace: Pace, budget: Array, curve: Curve, knobs: Knobs, schema: Schema, xp: ModuleType
) -> Array:
    """The observation [B, schema.observation_size], float32, at a decision; every slot a ratio or a log."""
    auctions = pace.seen + pace.auctions_left
    elapsed = pace.seen / auctions
    share = pace.spent / budget
    at = log_multiplier(pace, budget, curve, knobs, xp)
    even = xp.interp(budget / auctions, curve.spend, curve.log_multiplier)
    each, planned = foreseen(at, curve, xp), foreseen(even, curve, xp)
    past = _outcomes(pace, xp)
    left_of_plan = (1.0 - share) / xp.maximum(1.0 - elapsed, 1.0 / TICKS_PER_DAY)
    won_more = _log((pace.won + 1.0) / (pace.won_foreseen + 1.0), xp)
    few = 0.02 * planned.value * auctions
    value_more = _log((pace.value + few) / (pace.value_foreseen + few), xp)
    costs_more = level(pace, budget, knobs, xp)
    angle = 2.0 * np.pi * elapsed
    told = {
        "elapsed": elapsed, "sine": xp.sin(angle), "cosine": xp.cos(angle), "traffic_left": 1.0 - elapsed,
        "budget_left": 1.0 - share, "pace_error": share - elapsed, "spend_share": share,
        "budget_against_market": _log(budget / (auctions * curve.spend[-1]), xp),
        "budget_move": at - even, "score_slack": _log(left_of_plan, xp),
        "price_level": costs_more, "price_trend": pace.recent - costs_more, "win_rate_deviation": won_more,
        "win_rate_trend": _log((past.win_rate[..., 0] + 0.01) / (each.won + 0.01), xp),
        "innovation": value_more, "limited": (pace.spent >= budget).astype(xp.float32),
        # How many auctions of a usual price the money left still buys: near the end few fit.
        "arrived_count": xp.log1p((budget - pace.spent) / curve.mean_price),
        **{f"action_{k}": pace.past_moves[..., k] for k in range(HISTORY)},
        **{f"spend_{k}": past.spend[..., k] / budget for k in range(HISTORY)},
        **{f"win_rate_{k}": past.win_rate[..., k] for k in range(HISTORY)},
        **{f"value_rate_{k}": _log(1.0 + past.value_rate[..., k] / planned.value, xp) for k in range(HISTORY)},
    }  # fmt: skip
    item = {
        "price_deviation": costs_more, "share_won": past.win_rate[..., 0], "weight": xp.ones_like(share),
        "spend_pace": share - elapsed, "last_action": pace.past_moves[..., 0],
    }  # fmt: skip
    slots = [xp.zeros_like(share)] * schema.observation_size
    for name, column in told.items():
        slots[schema.campaign_index(name)] = column
    for name, column in item.items():
        if name in schema.profile.features:
            slots[schema.item_index(0, name)] = column
    return xp.clip(xp.stack(slots, axis=-1), -10.0, 10.0).astype(xp.float32)


def _outcomes(pace: Pace, xp: ModuleType) -> Outcomes:
    """Spend, win rate and value an auction of the last stretches, newest first, the one just ended in front; [B,6]."""
    seen = xp.maximum(pace.seen - pace.mark_seen, 1.0)
    return Outcomes(
        _pushed(pace.past_spend, pace.spent - pace.mark_spent, xp),
        _pushed(pace.past_win_rate, (pace.won - pace.mark_won) / seen, xp),
        _pushed(pace.past_value_rate, (pace.value - pace.mark_value) / seen, xp),
    )


def _pushed(past: Array, value: Array, xp: ModuleType) -> Array:
    return xp.concatenate([value[..., None].astype(past.dtype), past[..., : HISTORY - 1]], axis=-1)


def _log(ratio: Array, xp: ModuleType) -> Array:
    return xp.log(xp.clip(ratio, 1e-4, 1e4))
