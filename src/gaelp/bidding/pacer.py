"""The receding-horizon pacer: every half hour, one multiplier for the best projected score of the day.

It knows the calibrated landscape, the day's terms and what the platform has reported so far today. It
refuses to know how users tire or rivals react: that is what an agent on top of it may learn. The same
functions run on NumPy (live) and on jax.numpy (in worlds); arrays are [B], one line item per campaign.
Source of the scheme: parametric online LP re-solved on what is left (notes on pacing, Balseiro and Gur);
the projected-score form chooses the multiplier by the objective itself.
"""

from __future__ import annotations

import hashlib
import json
from types import ModuleType
from typing import NamedTuple

import numpy as np

from gaelp.bidding.landscape import Landscape, grid, landscape_hash, normal_quantile
from gaelp.core.schema import HISTORY, TICKS_PER_DAY
from gaelp.core.xp import Array

FAST, SLOW = 0.9, 0.97
"""Decay per half hour of the two exposure averages that a user of the reports can compute."""


BROKE = -8.0
"""Where the multiplier goes, in price_sd, once the day's budget is spent: a bid that wins nothing."""


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
    """Log multiplier on the target CPA that the solver aims at."""


DEFAULT_PARAMS = PacerParams(*(np.float64(x) for x in (0.05, 0.15, 30.0, 0.98, 0.0, 0.0, 0.0)))


class Terms(NamedTuple):
    """A campaign-day's terms; [B]. Money in currency units; target_cpa > 0, or inf for none."""

    item: Array
    """Index of the line item in the landscape."""
    budget: Array
    target_cpa: Array
    weekday: Array
    """0 = Monday."""


class Report(NamedTuple):
    """What the platform shows for one half hour; [B]. Cost in currency units."""

    log_bid: Array
    eligible: Array
    impressions: Array
    clicks: Array
    cost: Array
    conversions_so_far: Array
    """Conversions of today's clicks that have arrived by the end of the half hour."""


class DayState(NamedTuple):
    """Everything remembered of the day so far: a fold of its reports and moves; [B] unless said."""

    tick: Array
    spent: Array
    eligible: Array
    impressions: Array
    clicks: Array
    conversions: Array
    unmatured_clicks: Array
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
    past_moves: Array
    """[B,6] the executed log multipliers of the last decisions, newest first."""
    past_spend: Array
    past_win_rate: Array
    past_value_rate: Array
    mark_spent: Array
    mark_eligible: Array
    mark_impressions: Array
    mark_clicks: Array
    mark_conversions: Array


class Solution(NamedTuple):
    """The pacer's view at one half hour; [B] log bids and what they are projected to do."""

    log_bid: Array
    log_bid_budget: Array
    log_bid_target: Array
    projected_cpa: Array
    projected_score: Array
    expected_done: Array
    """Conversions so far, matured and calibrated."""


def start_day(landscape: Landscape, terms: Terms, xp: ModuleType) -> DayState:
    """The empty day, before its first half hour."""
    zero = xp.zeros_like(terms.budget)
    past = xp.zeros((*terms.budget.shape, HISTORY), dtype=terms.budget.dtype)
    day_var = (landscape.price_day_sd**2)[terms.item] + zero
    values = dict.fromkeys(DayState._fields, zero)
    values |= dict.fromkeys(("past_moves", "past_spend", "past_win_rate", "past_value_rate"), past)
    values |= {
        "price_var": day_var,
        "log_bid": landscape.price_mean[terms.item] + zero,
        "tick": xp.zeros_like(terms.item),
    }
    return DayState(**values)


def score(conversions: Array, spend: Array, target_cpa: Array, xp: ModuleType) -> Array:
    """The objective: conversions x min(1, (C / CPA)^2), with CPA = spend / conversions; 0 conversions score 0."""
    # Without a target, C is infinite, and infinity times no conversions must not become NaN.
    allowed = xp.where(conversions > 0, target_cpa, 0.0) * xp.where(conversions > 0, conversions, 1.0)
    excess = spend / xp.maximum(allowed, 1e-12)
    return conversions / xp.maximum(excess, 1.0) ** 2


def after_report(
    state: DayState, report: Report, landscape: Landscape, terms: Terms, params: PacerParams, xp: ModuleType
) -> DayState:
    """Fold one half hour's report into the day.

    Price: a scalar Kalman filter on the day's log price deviation; the measurement is what the win rate implies,
    log bid - price_mean - price_hour - price_sd * Phi^-1(win rate), with the delta-method binomial variance.
    Calibration: arrived conversions against those expected to have arrived (geometric delay), both forgotten alike.
    """
    item, t = terms.item, state.tick
    sd = landscape.price_sd[item]
    trusted = xp.maximum(report.eligible, 1.0)
    win = xp.clip(report.impressions / trusted, 0.5 / trusted, 1.0 - 0.5 / trusted)
    z = xp.clip(normal_quantile(win, xp), -3.5, 3.5)
    density = xp.exp(-0.5 * z * z) * 0.3989423
    measured = report.log_bid - landscape.price_mean[item] - landscape.price_hour[item, t] - sd * z
    measured_var = sd * sd * win * (1.0 - win) / (trusted * density * density) + 0.01
    prior_var = state.price_var + params.price_walk**2
    gain = xp.where(report.eligible > 0, prior_var / (prior_var + measured_var), 0.0)
    innovation = measured - state.price_dev
    price_dev = state.price_dev + gain * xp.clip(innovation, -1.5, 1.5)

    arrival = landscape.arrival[item]
    matured_now = arrival * (state.unmatured_clicks + report.clicks)
    arrived_now = report.conversions_so_far - state.conversions
    expected_now = landscape.conversion_rate[item] * matured_now
    keep = params.calibration_memory
    expected_eligible = landscape.volume[item] * landscape.traffic[item, t]
    exposed = report.impressions / landscape.volume[item]
    spent = state.spent + report.cost
    planned = 1.0 - landscape.traffic_left[item, t + 1]
    return state._replace(
        tick=t + 1,
        spent=spent,
        eligible=state.eligible + report.eligible,
        impressions=state.impressions + report.impressions,
        clicks=state.clicks + report.clicks,
        conversions=report.conversions_so_far,
        unmatured_clicks=state.unmatured_clicks + report.clicks - matured_now,
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
    """Today's conversion rate against the calibrated one: Gamma-Poisson posterior mean."""
    return (params.calibration_prior + state.evidence_seen) / (
        params.calibration_prior + state.evidence_expected
    )


def volume_ratio(state: DayState, landscape: Landscape, terms: Terms, params: PacerParams) -> Array:
    """Today's volume against an ordinary day's, shrunk towards 1."""
    volume = landscape.volume[terms.item]
    come = 1.0 - landscape.traffic_left[terms.item, state.tick]
    return (state.eligible + params.volume_prior * volume) / (volume * (come + params.volume_prior))


def solve(
    state: DayState, landscape: Landscape, terms: Terms, params: PacerParams, xp: ModuleType
) -> Solution:
    """Choose the multiplier whose projected end-of-day score is best, on what is left of the day.

    Beside it, for the agent to see: the bid that would just spend the budget, and the last one that keeps the target.
    """
    item, t = terms.item, state.tick
    z = grid(xp)
    rate = landscape.conversion_rate[item] * calibration(state, params)
    volume = volume_ratio(state, landscape, terms, params)
    clicks_left = landscape.clicks_left[item, t] * volume[..., None]
    cost_left = landscape.cost_left[item, t] * (volume * xp.exp(state.price_dev))[..., None]
    money_left = xp.maximum(terms.budget - state.spent, 0.0)[..., None]
    share = xp.minimum(1.0, money_left / xp.maximum(cost_left, 1e-9))
    done = state.conversions + state.unmatured_clicks * rate
    conversions = done[..., None] + rate[..., None] * clicks_left * share
    spend = state.spent[..., None] + cost_left * share
    target = (terms.target_cpa * xp.exp(params.margin))[..., None]
    projected = score(conversions, spend, target, xp)
    # The first of the largest by two plain reductions, for XLA vectorises no argmax. With none (NaN) the lowest bid.
    top = projected == xp.max(projected, axis=-1, keepdims=True)
    best = xp.min(xp.where(top, xp.arange(z.shape[0]), z.shape[0]), axis=-1) % z.shape[0]
    inner = xp.clip(best, 1, z.shape[0] - 2)
    low, mid, high = (xp.take_along_axis(projected, (inner + d)[..., None], -1)[..., 0] for d in (-1, 0, 1))
    bend = low - 2.0 * mid + high
    step = xp.where(bend < 0, xp.clip(0.5 * (low - high) / xp.where(bend < 0, bend, -1.0), -0.5, 0.5), 0.0)
    width = z[1] - z[0]
    chosen = xp.where(best == inner, z[inner] + step * width, z[best])

    cpa = spend / xp.maximum(conversions, 1e-9)
    within = cpa <= target
    last_within = z.shape[0] - 1 - xp.argmax(within[..., ::-1], axis=-1)
    at_target = xp.where(within.any(axis=-1), last_within, xp.argmin(cpa, axis=-1))
    at_budget = xp.clip((cost_left <= money_left).sum(axis=-1) - 1, 0, z.shape[0] - 1)
    sd = landscape.price_sd[item]
    level = landscape.price_mean[item] + state.price_dev
    bent = params.shift + params.tilt * ((t + 0.5) / TICKS_PER_DAY - 0.5)
    broke = money_left[..., 0] <= 0.0
    log_bid = level + sd * xp.where(broke, BROKE, chosen) + bent
    return Solution(
        log_bid=log_bid,
        log_bid_budget=level + sd * z[at_budget],
        log_bid_target=level + sd * z[at_target],
        projected_cpa=xp.take_along_axis(cpa, best[..., None], -1)[..., 0],
        projected_score=xp.take_along_axis(projected, best[..., None], -1)[..., 0],
        expected_done=done,
    )


def dual_log_bid(state: DayState, landscape: Landscape, terms: Terms, xp: ModuleType) -> Array:
    """Dual control against the traffic curve, for the days before there is a landscape to solve on.

    Log-space feedback on the pace error, and on the cost against target, whichever asks for less
    (the minimum of the two multipliers: Field Guide, arXiv 2302.08530).
    """
    planned = 1.0 - landscape.traffic_left[terms.item, state.tick]
    pace = state.spent / terms.budget - planned
    rate = landscape.conversion_rate[terms.item]
    done = 3.0 + state.conversions + state.unmatured_clicks * rate
    target = xp.where(xp.isfinite(terms.target_cpa), terms.target_cpa, 1.0)
    cpa = (3.0 * target + state.spent) / done
    by_budget = -3.0 * pace - 0.15 * state.pace_integral
    by_target = xp.where(xp.isfinite(terms.target_cpa), -1.5 * xp.log(cpa / target), xp.inf)
    wanted = landscape.price_mean[terms.item] + xp.clip(xp.minimum(by_budget, by_target), -1.5, 1.5)
    broke = landscape.price_mean[terms.item] + BROKE * landscape.price_sd[terms.item]
    return xp.where(state.spent >= terms.budget, broke, wanted)


def pacer_hash(landscape: Landscape, params: PacerParams) -> str:
    """Identity of a certified pacer: its landscape and its tuned parameters, 16 hex digits."""
    told = json.dumps([landscape_hash(landscape), [float(x) for x in params]])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
