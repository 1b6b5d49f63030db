"""The receding-horizon pacer: every half hour, one multiplier for the best projected objective of the day.

It knows the calibrated landscape, the day's terms and what the platform has reported so far today. It
refuses to know how users tire or rivals react: that is what an agent on top of it may learn. The same
functions run on NumPy (live) and on jax.numpy (in worlds). A campaign holds I line items: arrays are [B,I] by line
item, [B] by campaign. What the platform shows late or corrects is taken as it is shown.
Source of the scheme: parametric online LP re-solved on what is left (notes on pacing, Balseiro and Gur);
the projected-score form chooses the multiplier by the objective itself.
"""

from __future__ import annotations

import hashlib
import json
from types import ModuleType
from typing import NamedTuple

import numpy as np

from gaelp.bidding.landscape import (
    GRID,
    GRID_HIGH,
    GRID_LOW,
    Landscape,
    landscape_hash,
    normal_quantile,
)
from gaelp.core.schema import HISTORY, TICKS_PER_DAY
from gaelp.core.xp import Array

FAST, SLOW = 0.9, 0.97
"""Decay per half hour of the two exposure averages that a user of the reports can compute."""


BROKE = -8.0
"""How far below the grid the multiplier goes, in price_sd, once the day's budget is spent: a bid that wins nothing."""


class PacerParams(NamedTuple):
    """What tuning chooses; scalars (or arrays over candidates)."""

    price_walk: Array
    """Standard deviation per half hour of the log price's random walk, for the price filter."""
    volume_prior: Array
    """Weight of the expected volume, in days, against what arrived today."""
    calibration_prior: Array
    """Weight of the calibrated conversion rate, in conversions."""
    calibration_memory: Array
    """Share of today's conversion evidence kept per half hour, (0, 1]."""
    tilt: Array
    """Log-bid slope over the day: + bids more late, - more early."""
    shift: Array
    """Log-bid offset."""
    margin: Array
    """Log multiplier on the target that the solver aims at."""
    keeps_target: Array
    """0: the multiplier of the best projected objective; 1: the largest one that keeps budget and target."""
    done_prior: Array = np.float64(0.0)
    """Weight of the calibrated rate, in conversions, in counting what today's clicks have brought; 0 takes the arrived
    conversions as they are. Arrivals scatter: where the rate is known, clicks tell expected conversions better."""


DEFAULT_PARAMS = PacerParams(*(np.float64(x) for x in (0.05, 0.15, 30.0, 0.98, 0.0, 0.0, 0.0, 0.0)))


class Terms(NamedTuple):
    """A campaign-day's terms; [B] unless said. Money in currency units; target_cpa > 0, or inf for none.

    What counts is conversions, or with by_value their order values; target_cpa is what one unit of it may cost (for a
    target ROAS its inverse). With profit the objective is value less spend, and there is no target.
    """

    item: Array
    """[B,I] indices of the line items in the landscape."""
    budget: Array
    target_cpa: Array
    weekday: Array
    """0 = Monday."""
    by_value: Array
    """1 where conversions count by their order value, 0 where each counts 1."""
    profit: Array
    """1 where spend is taken off the objective, 0 elsewhere."""
    carried: Array
    """[B,I] exposure still remembered from the days before, in ordinary days' auctions."""


class Report(NamedTuple):
    """What the platform shows for one half hour; [B,I]. Cost in currency units."""

    log_bid: Array
    eligible: Array
    impressions: Array
    clicks: Array
    cost: Array
    conversions_so_far: Array
    """Conversions of today's clicks that have arrived by the end of the half hour."""


class DayState(NamedTuple):
    """Everything remembered of the day so far: a fold of its reports and moves; [B,I] unless said."""

    tick: Array
    """[B]"""
    spent: Array
    """[B], all line items together; `cost` divides it."""
    cost: Array
    eligible: Array
    impressions: Array
    clicks: Array
    conversions: Array
    unmatured_clicks: Array
    """[B,I,2] by kind of delay."""
    matured_clicks: Array
    evidence_seen: Array
    evidence_expected: Array
    innovation: Array
    price_dev: Array
    price_var: Array
    price_slow: Array
    win_fast: Array
    win_slow: Array
    volume_fast: Array
    exposure_fast: Array
    exposure_slow: Array
    log_bid: Array
    pace_integral: Array
    """[B]"""
    past_moves: Array
    """[B,6] the executed log multipliers of the last decisions, newest first; likewise the next three."""
    past_spend: Array
    past_win_rate: Array
    past_value_rate: Array
    mark_spent: Array
    """[B] totals at the last decision, as the next four."""
    mark_eligible: Array
    mark_impressions: Array
    mark_clicks: Array
    mark_conversions: Array


class Solution(NamedTuple):
    """The pacer's view at one half hour; [B] unless said. Log multipliers are the worth of one unit, in money."""

    log_worth: Array
    log_worth_budget: Array
    """The largest that the budget left can pay."""
    log_worth_target: Array
    """The largest that keeps the target."""
    log_bid: Array
    """[B,I] the pacer's own bids, without any move."""
    efficiency: Array
    """[B,I] how much less a unit costs on this line item than in the whole campaign, in (-1, 1); 0 for a single one."""
    projected_cpa: Array
    projected_score: Array
    expected_done: Array
    """Units so far, matured and calibrated."""


def start_day(landscape: Landscape, terms: Terms, xp: ModuleType) -> DayState:
    """The empty day, before its first half hour."""
    zero = xp.zeros_like(terms.budget)
    each = xp.zeros(terms.item.shape, dtype=terms.budget.dtype)
    past = xp.zeros((*terms.budget.shape, HISTORY), dtype=terms.budget.dtype)
    values = dict.fromkeys(DayState._fields, each)
    values |= dict.fromkeys(("past_moves", "past_spend", "past_win_rate", "past_value_rate"), past)
    values |= dict.fromkeys((
        "spent", "pace_integral", "mark_spent", "mark_eligible", "mark_impressions", "mark_clicks", "mark_conversions"
    ), zero)  # fmt: skip
    values |= {
        "unmatured_clicks": xp.zeros((*terms.item.shape, 2), dtype=terms.budget.dtype),
        "price_var": (landscape.price_day_sd**2)[terms.item] + each,
        "log_bid": landscape.price_mean[terms.item] + each,
        "exposure_fast": terms.carried + each,
        "exposure_slow": terms.carried + each,
        "tick": xp.zeros_like(terms.weekday),
    }
    return DayState(**values)


def score(conversions: Array, spend: Array, target_cpa: Array, xp: ModuleType) -> Array:
    """The objective with a target: conversions x min(1, (C / CPA)^2), CPA = spend / conversions; none score 0."""
    # Without a target, C is infinite, and infinity times no conversions must not become NaN.
    allowed = xp.where(conversions > 0, target_cpa, 0.0) * xp.where(conversions > 0, conversions, 1.0)
    excess = spend / xp.maximum(allowed, 1e-12)
    return conversions / xp.maximum(excess, 1.0) ** 2


def objective(units: Array, spend: Array, terms: Terms, xp: ModuleType) -> Array:
    """What a campaign-day is worth, [B]: the score of its units, or with profit the units less the spend."""
    return xp.where(terms.profit > 0, units - spend, score(units, spend, terms.target_cpa, xp))


def unit_rate(landscape: Landscape, terms: Terms, xp: ModuleType) -> Array:
    """What a conversion counts, [B,I]: 1, or its order value."""
    return xp.where(terms.by_value[..., None] > 0, landscape.order_value[terms.item], 1.0)


def click_units(
    state: DayState, landscape: Landscape, terms: Terms, params: PacerParams, xp: ModuleType
) -> Array:
    """Units of the objective that a click brings as calibrated today, [B,I]."""
    rate = landscape.conversion_rate[terms.item] * calibration(state, params)
    return rate * unit_rate(landscape, terms, xp)


def log_click(units: Array, landscape: Landscape, terms: Terms, xp: ModuleType) -> Array:
    """Log of what a click of so many `units` [B,I] is bid for at a worth of 1 per unit.

    Clicks cost cost_scale times the price that was beaten: where less is charged, more can be bid for the same.
    """
    return xp.log(xp.maximum(units, 1e-12)) - xp.log(landscape.cost_scale[terms.item])


def traffic_left(landscape: Landscape, terms: Terms, tick: Array) -> Array:
    """Share of an ordinary day's auctions still to come at `tick` [B], over the campaign's line items, [B]."""
    volume = landscape.volume[terms.item]
    left = landscape.traffic_left[terms.item, tick[..., None]]
    return (volume * left).sum(-1) / volume.sum(-1)


def after_report(
    state: DayState, report: Report, landscape: Landscape, terms: Terms, params: PacerParams, xp: ModuleType
) -> DayState:
    """Fold one half hour's report into the day.

    Price: a scalar Kalman filter on the day's log price deviation; the measurement is what the win rate implies,
    log bid - price_mean - win_shift - price_hour - win_sd * Phi^-1(win rate), with the delta-method binomial variance.
    Calibration: arrived conversions against those expected to have arrived (geometric delays), both forgotten alike.
    """
    item, t = terms.item, state.tick[..., None]
    sd = landscape.win_sd[item]
    trusted = xp.maximum(report.eligible, 1.0)
    win = xp.clip(report.impressions / trusted, 0.5 / trusted, 1.0 - 0.5 / trusted)
    z = xp.clip(normal_quantile(win, xp), -3.5, 3.5)
    density = xp.exp(-0.5 * z * z) * 0.3989423
    level = landscape.price_mean[item] + landscape.win_shift[item] + landscape.price_hour[item, t]
    measured = report.log_bid - level - sd * z
    measured_var = sd * sd * win * (1.0 - win) / (trusted * density * density) + 0.01
    prior_var = state.price_var + params.price_walk**2
    gain = xp.where(report.eligible > 0, prior_var / (prior_var + measured_var), 0.0)
    innovation = measured - state.price_dev
    price_dev = state.price_dev + gain * xp.clip(innovation, -1.5, 1.5)

    waiting = state.unmatured_clicks + landscape.delay_share[item] * report.clicks[..., None]
    matured_each = landscape.delay_rate[item] * waiting
    matured_now = matured_each.sum(-1)
    arrived_now = report.conversions_so_far - state.conversions
    expected_now = landscape.conversion_rate[item] * matured_now
    keep = params.calibration_memory
    expected_eligible = landscape.volume[item] * landscape.traffic[item, t]
    exposed = report.impressions / landscape.volume[item]
    spent = state.spent + report.cost.sum(-1)
    planned = 1.0 - traffic_left(landscape, terms, state.tick + 1)
    return state._replace(
        tick=state.tick + 1,
        spent=spent,
        cost=state.cost + report.cost,
        eligible=state.eligible + report.eligible,
        impressions=state.impressions + report.impressions,
        clicks=state.clicks + report.clicks,
        conversions=report.conversions_so_far,
        unmatured_clicks=waiting - matured_each,
        matured_clicks=state.matured_clicks + matured_now,
        evidence_seen=keep * state.evidence_seen + arrived_now,
        evidence_expected=keep * state.evidence_expected + expected_now,
        innovation=0.8 * state.innovation + 0.2 * (arrived_now - expected_now) / xp.sqrt(expected_now + 0.5),
        price_dev=price_dev,
        price_var=(1.0 - gain) * prior_var,
        price_slow=state.price_slow + 0.1 * (price_dev - state.price_slow),
        win_fast=state.win_fast + 0.3 * (win - state.win_fast),
        win_slow=state.win_slow + 0.08 * (win - state.win_slow),
        volume_fast=state.volume_fast
        + 0.3 * (xp.log((report.eligible + 1.0) / (expected_eligible + 1.0)) - state.volume_fast),
        exposure_fast=FAST * state.exposure_fast + exposed,
        exposure_slow=SLOW * state.exposure_slow + exposed,
        log_bid=report.log_bid,
        pace_integral=0.95 * state.pace_integral + (spent / terms.budget - planned),
    )


def calibration(state: DayState, params: PacerParams) -> Array:
    """Today's conversion rate against the calibrated one, [B,I]: Gamma-Poisson posterior mean."""
    return (params.calibration_prior + state.evidence_seen) / (
        params.calibration_prior + state.evidence_expected
    )


def volume_ratio(state: DayState, landscape: Landscape, terms: Terms, params: PacerParams) -> Array:
    """Today's volume against an ordinary day's, [B,I], shrunk towards 1."""
    volume = landscape.volume[terms.item]
    come = 1.0 - landscape.traffic_left[terms.item, state.tick[..., None]]
    return (state.eligible + params.volume_prior * volume) / (volume * (come + params.volume_prior))


def _tabled(table: Array, at: Array, xp: ModuleType) -> Array:
    """Rows [B,I,K] of a table at fractional grid positions `at` [B,I,M], by straight lines; flat beyond both ends."""
    at = xp.clip(at, 0.0, GRID - 1.0)
    low = xp.minimum(at.astype(xp.int32), GRID - 2)
    below, above = (xp.take_along_axis(table, low + d, -1) for d in (0, 1))
    return below + (at - low) * (above - below)


def _lowest(x: Array, xp: ModuleType) -> Array:
    """Where in its row [..., GRID] the first of the least stands; with none (NaN) the first of all.

    By halving the row and two plain reductions: on a processor XLA vectorises neither argmin nor a row's minimum.
    """
    least = x
    while least.shape[-1] % 2 == 0:
        half = least.shape[-1] // 2
        least = xp.minimum(least[..., :half], least[..., half:])
    first = x == least.min(axis=-1, keepdims=True)
    return xp.min(xp.where(first, xp.arange(GRID), GRID), axis=-1) % GRID


def solve(
    state: DayState, landscape: Landscape, terms: Terms, params: PacerParams, xp: ModuleType
) -> Solution:
    """Choose the worth of a unit whose projected end-of-day objective is best, on what is left of the day.

    Beside it, for the agent to see: the worth that would just spend the budget, and the last one that keeps the target.
    """
    item, t = terms.item, xp.minimum(state.tick, TICKS_PER_DAY - 1)[..., None]
    units = click_units(state, landscape, terms, params, xp)
    level, sd = landscape.price_mean[item] + state.price_dev, landscape.price_sd[item]
    # A worth w of the unit stands at z = (log w + log click - level) / sd.
    offset = level - log_click(units, landscape, terms, xp)
    if item.shape[-1] == 1:
        low, high = (offset + sd * GRID_LOW)[..., 0], (offset + sd * GRID_HIGH)[..., 0]
    else:
        low, high = (offset + sd * GRID_LOW).min(-1), (offset + sd * GRID_HIGH).max(-1)
    volume = volume_ratio(state, landscape, terms, params)
    clicks_table, cost_table = landscape.clicks_left[item, t], landscape.cost_left[item, t]
    if item.shape[-1] > 1:
        log_worth = low[..., None] + (high - low)[..., None] * xp.linspace(0.0, 1.0, GRID)
        at = (log_worth[..., None, :] - offset[..., None]) / sd[..., None]
        at = (at - GRID_LOW) * ((GRID - 1) / (GRID_HIGH - GRID_LOW))
        clicks_table, cost_table = _tabled(clicks_table, at, xp), _tabled(cost_table, at, xp)
    clicks_left = clicks_table * volume[..., None]
    item_cost_left = cost_table * (volume * xp.exp(state.price_dev))[..., None]
    cost_left = item_cost_left.sum(-2)
    money_left = xp.maximum(terms.budget - state.spent, 0.0)[..., None]
    share = xp.minimum(1.0, money_left / xp.maximum(cost_left, 1e-9))
    counted = unit_rate(landscape, terms, xp)
    # Posterior mean of a Gamma-Poisson rate over the whole day, as in `calibration`, but with nothing forgotten.
    matured = landscape.conversion_rate[item] * state.matured_clicks
    drawn_in = (
        params.done_prior / xp.maximum(params.done_prior + matured, 1e-9) * (matured - state.conversions)
    )
    done = ((state.conversions + drawn_in) * counted + state.unmatured_clicks.sum(-1) * units).sum(-1)
    gained = (units[..., None] * clicks_left).sum(-2)
    won = done[..., None] + gained * share
    spend = state.spent[..., None] + cost_left * share
    wide = terms._replace(
        target_cpa=(terms.target_cpa * xp.exp(params.margin))[..., None], profit=terms.profit[..., None]
    )
    projected = objective(won, spend, wide, xp)
    best = _lowest(-projected, xp)
    inner = xp.clip(best, 1, GRID - 2)
    before, here, after = (
        xp.take_along_axis(projected, (inner + d)[..., None], -1)[..., 0] for d in (-1, 0, 1)
    )
    bend = before - 2.0 * here + after
    step = xp.where(
        bend < 0, xp.clip(0.5 * (before - after) / xp.where(bend < 0, bend, -1.0), -0.5, 0.5), 0.0
    )
    chosen = xp.where(best == inner, inner + step, best + 0.0 * step)

    cpa = spend / xp.maximum(won, 1e-9)
    # The last within the target; where nothing is, the cheapest.
    at_target = _lowest(xp.where(cpa <= wide.target_cpa, -1.0 - xp.arange(GRID), cpa), xp)
    at_budget = xp.clip((cost_left <= money_left).sum(axis=-1) - 1, 0, GRID - 1)
    careful = params.keeps_target > 0.5
    both = xp.minimum(at_target, at_budget)
    chosen = xp.where(careful, both + 0.0 * chosen, chosen)
    told = xp.where(careful, both, best)[..., None]
    width = (high - low) / (GRID - 1)
    at_best = low + width * chosen
    # A unit of profit is never worth more than itself, though the foot of the grid may stand higher.
    at_best = xp.where(terms.profit > 0, xp.minimum(at_best, 0.0), at_best)
    broke = money_left[..., 0] <= 0.0
    each_cost = xp.take_along_axis(item_cost_left, told[..., None, :], -1)[..., 0]
    each_units = xp.take_along_axis(units[..., None] * clicks_left, told[..., None, :], -1)[..., 0]
    cheap = xp.log(xp.maximum(each_units, 1e-12)) - xp.log(xp.maximum(each_cost, 1e-12))
    cheap = (
        cheap
        - xp.log(xp.maximum(each_units.sum(-1), 1e-12) / xp.maximum(each_cost.sum(-1), 1e-12))[..., None]
    )
    solution = Solution(
        log_worth=xp.where(broke, low + BROKE * sd.max(-1), at_best),
        log_worth_budget=low + width * at_budget,
        log_worth_target=low + width * at_target,
        log_bid=level,
        efficiency=xp.tanh(2.0 * cheap),
        projected_cpa=xp.take_along_axis(cpa, told, -1)[..., 0],
        projected_score=xp.take_along_axis(projected, told, -1)[..., 0],
        expected_done=done,
    )
    still = xp.zeros_like(terms.budget)
    return solution._replace(log_bid=bids(solution, still, still, state, landscape, terms, params, xp))


def bids(
    solution: Solution, pace: Array, tilt: Array, state: DayState, landscape: Landscape, terms: Terms,
    params: PacerParams, xp: ModuleType,
) -> Array:  # fmt: skip
    """Log bids [B,I] at a move [B]: `pace` moves the worth of the unit, `tilt` goes from poor to good line items.

    With a single line item there is nothing to tilt between; there `tilt` moves the bid itself, which differs from pace
    where bids are shaded.
    """
    item, t = terms.item, xp.minimum(state.tick, TICKS_PER_DAY - 1)[..., None]
    units = click_units(state, landscape, terms, params, xp)
    worth = (solution.log_worth + pace)[..., None] + log_click(units, landscape, terms, xp)
    bent = params.shift + params.tilt * ((state.tick + 0.5) / TICKS_PER_DAY - 0.5)
    leaning = tilt[..., None] * (solution.efficiency if item.shape[-1] > 1 else 1.0)
    return best_response(worth, state.price_dev, landscape, item, t, xp) + bent[..., None] + leaning


def best_response(
    log_worth: Array, price_dev: Array, landscape: Landscape, item: Array, t: Array, xp: ModuleType
) -> Array:
    """The log bid [B,I] that earns most when a click is worth exp(log_worth) [B,I] and prices deviate by `price_dev`.

    t: half hour, [B,1]. In second price the worth itself; in the other formats it is shaded.
    """
    sd = landscape.price_sd[item]
    at = ((log_worth - landscape.price_mean[item] - price_dev) / sd - GRID_LOW) * (
        (GRID - 1) / (GRID_HIGH - GRID_LOW)
    )
    shade = _tabled(landscape.shade[item, t], at[..., None], xp)[..., 0]
    return log_worth + sd * shade


def dual_log_bid(state: DayState, landscape: Landscape, terms: Terms, xp: ModuleType) -> Array:
    """Dual control against the traffic curve, [B,I], for the days before there is a landscape to solve on.

    Log-space feedback on the pace error, and on the cost against target, whichever asks for less
    (the minimum of the two multipliers: Field Guide, arXiv 2302.08530).
    """
    planned = 1.0 - traffic_left(landscape, terms, state.tick)
    pace = state.spent / terms.budget - planned
    rate = landscape.conversion_rate[terms.item]
    counted = unit_rate(landscape, terms, xp)
    done = 3.0 + ((state.conversions + state.unmatured_clicks.sum(-1) * rate) * counted).sum(-1)
    target = xp.where(xp.isfinite(terms.target_cpa), terms.target_cpa, 1.0)
    cpa = (3.0 * target + state.spent) / done
    by_budget = -3.0 * pace - 0.15 * state.pace_integral
    by_target = xp.where(xp.isfinite(terms.target_cpa), -1.5 * xp.log(cpa / target), xp.inf)
    move = xp.clip(xp.minimum(by_budget, by_target), -1.5, 1.5)[..., None]
    mean = landscape.price_mean[terms.item]
    broke = mean + BROKE * landscape.price_sd[terms.item]
    return xp.where((state.spent >= terms.budget)[..., None], broke, mean + move)


def pacer_hash(landscape: Landscape, params: PacerParams) -> str:
    """Identity of a certified pacer: its landscape and its tuned parameters, 16 hex digits."""
    told = json.dumps([landscape_hash(landscape), [float(x) for x in params]])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
