"""The certified pacer of a journey on auction logs: every block it solves one multiplier for what is left.

It knows one curve, fitted beforehand: money spent an auction at each multiplier on pCTR. In an episode it learns by how
much this one costs more or less than the curve says, forgetting as it goes. It knows no price of a lost auction and
nothing of what is to come but the number of auctions. Written once for NumPy and jax.numpy (`xp`); B episodes at once.
"""

from __future__ import annotations

import hashlib
import json
from types import ModuleType
from typing import NamedTuple

import numpy as np

from gaelp.core.schema import HISTORY
from gaelp.core.xp import Array


class Curve(NamedTuple):
    """What an auction of the fitted part brings at multipliers of rising `log_multiplier`, [G], float32.

    spend: money, strictly rising; won: share won; value: predicted clicks won.
    mean_price: of an auction won at the multiplier that spends the budget.
    """

    log_multiplier: Array
    spend: Array
    won: Array
    value: Array
    mean_price: Array


class Knobs(NamedTuple):
    """What tuning sets."""

    keep: Array
    """How much of the evidence of one block counts one block later, 0 to 1."""
    prior: Array
    """Money spent as foreseen that is believed in beforehand, in budgets: how slowly evidence persuades."""
    reserve: Array
    """Of L money left the share L / (L + reserve x mean_price) is planned for: the dearest may come last."""
    offset: Array
    """On the log multiplier."""


DEFAULT_KNOBS = Knobs(*(np.float64(x) for x in (0.97, 0.3, 2.0, 0.0)))


class Pace(NamedTuple):
    """Everything remembered of an episode so far, [B] unless said; a fold of its blocks and moves."""

    block: Array
    """Blocks played."""
    auctions_left: Array
    spent: Array
    won: Array
    value: Array
    seen: Array
    """Auctions come."""
    evidence: Array
    """Money spent, forgetting as `keep` says; `foreseen`: what the curve said of the same bids."""
    foreseen: Array
    won_foreseen: Array
    value_foreseen: Array
    recent: Array
    """The log of spent over foreseen, of the last blocks mostly."""
    past_moves: Array
    """[B,6] the log steps of the last decisions, newest first; likewise the next three."""
    past_spend: Array
    past_win_rate: Array
    past_value_rate: Array
    mark_spent: Array
    """What stood at the last decision; likewise the next three."""
    mark_seen: Array
    mark_won: Array
    mark_value: Array


class BlockReport(NamedTuple):
    """What one block brought, [B]: auctions, how many were won, their cost and predicted clicks."""

    auctions: Array
    won: Array
    cost: Array
    value: Array


RECENT_KEEP, RECENT_PRIOR = 0.7, 0.05
"""The fast view of the market that observations show: how it forgets, and its prior in budgets."""


def start_pace(auctions: Array, xp: ModuleType) -> Pace:
    """Before the first auction; auctions [B]: how many will come."""
    zero = xp.zeros_like(auctions, dtype=xp.float32)
    past = xp.zeros((*zero.shape, HISTORY), xp.float32)
    blank = {name: zero for name in Pace._fields if not name.startswith("past_")}
    blank |= {name: past for name in Pace._fields if name.startswith("past_")}
    return Pace(**blank | {"auctions_left": zero + auctions})


def level(pace: Pace, budget: Array, knobs: Knobs, xp: ModuleType) -> Array:
    """The log of what this episode costs over what the curve says, as far as evidence persuades, [B]."""
    trust = knobs.prior * budget
    return xp.log((pace.evidence + trust) / (pace.foreseen + trust))


def log_multiplier(pace: Pace, budget: Array, curve: Curve, knobs: Knobs, xp: ModuleType) -> Array:
    """The log multiplier on pCTR for the next block, [B]: it spends evenly what is left, less the reserve."""
    left = budget - pace.spent
    planned = left * left / xp.maximum(left + knobs.reserve * curve.mean_price, 1e-9)
    rate = planned / xp.maximum(pace.auctions_left, 1.0)
    asked = rate * xp.exp(-level(pace, budget, knobs, xp))
    return xp.interp(asked, curve.spend, curve.log_multiplier) + knobs.offset


def foreseen(log_multipliers: Array, curve: Curve, xp: ModuleType) -> BlockReport:
    """What the curve says of one auction at these log multipliers [B]."""
    one = xp.ones_like(log_multipliers)
    won, cost, value = (
        xp.interp(log_multipliers, curve.log_multiplier, column)
        for column in (curve.won, curve.spend, curve.value)
    )
    return BlockReport(one, won, cost, value)


def after_block(
    pace: Pace, executed: Array, report: BlockReport, budget: Array, curve: Curve, knobs: Knobs, xp: ModuleType
) -> Pace:  # fmt: skip
    """The memory after one block that was bid on at the log multipliers `executed` [B]."""
    each = foreseen(executed, curve, xp)
    said = BlockReport(*(report.auctions * x for x in each))
    # Without money nothing is bid on, and a spend of nothing tells nothing of prices.
    free = pace.spent < budget
    cost, expected = (xp.where(free, x, 0.0) for x in (report.cost, said.cost))
    trust = RECENT_PRIOR * budget
    recent = xp.log((cost + trust) / (expected + trust))
    return pace._replace(
        block=pace.block + 1.0,
        auctions_left=pace.auctions_left - report.auctions,
        spent=pace.spent + report.cost,
        won=pace.won + report.won,
        value=pace.value + report.value,
        seen=pace.seen + report.auctions,
        evidence=knobs.keep * pace.evidence + cost,
        foreseen=knobs.keep * pace.foreseen + expected,
        won_foreseen=pace.won_foreseen + xp.where(free, said.won, 0.0),
        value_foreseen=pace.value_foreseen + xp.where(free, said.value, 0.0),
        recent=RECENT_KEEP * pace.recent + (1.0 - RECENT_KEEP) * recent,
    )


def pacer_hash(curve: Curve, knobs: Knobs) -> str:
    """Identity of a certified pacer: its curve and its knobs, 16 hex digits."""
    told = [[np.asarray(x, np.float64).tolist() for x in part] for part in (curve, knobs)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
