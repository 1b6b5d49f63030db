"""Baseline controllers: one formula that holds, tracks or balances a worth per unit, by feedback instead of re-solving.

It knows the landscape, the day's terms and today's reports; it opens with the worth that the landscape proposes
for the whole day and never looks ahead again. The named baselines are settings of it (market.baselines). The same
functions run on NumPy and on jax.numpy; arrays are [B] by campaign, [B,I] by line item.
Sources: pacing by feedback on the traffic curve and the minimum of two multipliers, Field Guide (arXiv 2302.08530);
two dual variables, budget and return on spend, Feng, Padmanabhan and Wang (arXiv 2208.13713).
"""

from __future__ import annotations

from enum import IntEnum
from types import ModuleType
from typing import NamedTuple

from gaelp.bidding.landscape import Landscape
from gaelp.bidding.pacer import (
    BROKE,
    DEFAULT_PARAMS,
    DayState,
    Solution,
    Terms,
    best_response,
    click_units,
    log_click,
    solve,
    start_day,
    traffic_left,
    unit_rate,
)
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array

REACH = 1.5
"""How far feedback moves the worth from its opening, in logs."""
HELD_UNITS = 3.0
"""Units at the target that the cost so far is mixed with, so that a day's first clicks do not shake it."""
INTEGRAL_MEMORY = 0.95
"""Share of the summed error kept per half hour."""


class Rule(IntEnum):
    """How the budget and the target together make one worth; without a target all follow the budget alone."""

    LARGER_ERROR = 0
    """One controller, on whichever of the two errors is the larger."""
    DUALS = 1
    """(1 + l C) / (m + l), with m moved by the budget and l by the target C: what Lagrange's conditions ask for."""
    SMALLER_WORTH = 2
    """Two controllers, and the smaller of their worths."""
    TARGET = 3
    """The target itself, whatever is spent; without a target the opening worth."""


class Gains(NamedTuple):
    """What tuning chooses; scalars (or arrays over candidates)."""

    rule: Array
    """A Rule."""
    shift: Array
    """Log-bid offset."""
    tilt: Array
    """Log-bid slope over the day: + bids more late, - more early."""
    pace: Array
    """Log worth per day's budget spent ahead of the traffic."""
    integral: Array
    """The same for the summed error."""
    change: Array
    """The same for the error's change since the last half hour."""
    target: Array
    """Weight of the log cost excess over the target."""
    target_opening: Array
    """Log of l C when the day opens; DUALS alone."""
    shading: Array
    """Share of the landscape's best shading that is applied (nothing in second price)."""
    tracking: Array
    """Share of today's price deviation that shading takes into account."""


class Memory(NamedTuple):
    """What a controller remembers beside the day's state; [B]."""

    error: Array
    integral: Array


class Controlled(NamedTuple):
    """A controller's bids, [B,I], and what it remembers for the next half hour."""

    log_bid: Array
    memory: Memory


def opening(landscape: Landscape, terms: Terms, xp: ModuleType) -> Solution:
    """What the landscape proposes for the whole day, before its first half hour."""
    return solve(start_day(landscape, terms, xp), landscape, terms, DEFAULT_PARAMS, xp)


def start_memory(terms: Terms, xp: ModuleType) -> Memory:
    """No error yet."""
    zero = xp.zeros_like(terms.budget)
    return Memory(zero, zero)


def control(
    state: DayState, memory: Memory, opened: Solution, landscape: Landscape, terms: Terms, gains: Gains,
    xp: ModuleType,
) -> Controlled:  # fmt: skip
    """The bids for the half hour ahead. Once the budget is spent they win nothing."""
    item, t = terms.item, xp.minimum(state.tick, TICKS_PER_DAY - 1)[..., None]
    units = click_units(state, landscape, terms, DEFAULT_PARAMS, xp)
    planned = 1.0 - traffic_left(landscape, terms, state.tick)
    pace = state.spent / terms.budget - planned
    wanted = xp.isfinite(terms.target_cpa)
    target = xp.where(wanted, terms.target_cpa, 1.0)
    counted = unit_rate(landscape, terms, xp)
    done = (state.conversions * counted + state.unmatured_clicks.sum(-1) * units).sum(-1)
    cost = (HELD_UNITS * target + state.spent) / (HELD_UNITS + done)
    excess = gains.target * xp.where(wanted, xp.log(cost / target), 0.0)

    larger = xp.where(wanted, xp.maximum(pace, excess), pace)
    error = xp.where(gains.rule == Rule.LARGER_ERROR, larger, pace)
    integral = INTEGRAL_MEMORY * memory.integral + error
    move = -gains.pace * error - gains.integral * integral - gains.change * (error - memory.error)
    moved = xp.clip(move, -REACH, REACH)

    by_budget = opened.log_worth_budget + moved
    by_target = opened.log_worth_target - xp.clip(excess, -REACH, REACH)
    leaning = xp.exp(xp.clip(gains.target_opening + excess, -8.0, 8.0))
    duals = xp.log((1.0 + leaning) / (xp.exp(-by_budget) + leaning / target))
    held = opened.log_worth + moved
    chosen = (
        (Rule.DUALS, xp.where(wanted, duals, held)),
        (Rule.SMALLER_WORTH, xp.where(wanted, xp.minimum(by_budget, by_target), held)),
        (Rule.TARGET, xp.where(wanted, xp.log(target), held)),
    )
    log_worth = held
    for rule, worth in chosen:
        log_worth = xp.where(gains.rule == rule, worth, log_worth)

    click = log_worth[..., None] + log_click(units, landscape, terms, xp)
    shaded = best_response(
        click, gains.tracking * state.price_dev, landscape._replace(shade=gains.shading * landscape.shade), item, t, xp
    )  # fmt: skip
    bent = gains.shift + gains.tilt * ((state.tick + 0.5) / TICKS_PER_DAY - 0.5)
    broke = landscape.price_mean[item] + BROKE * landscape.price_sd[item]
    spent = (state.spent >= terms.budget)[..., None]
    return Controlled(xp.where(spent, broke, shaded + bent[..., None]), Memory(error, integral))
