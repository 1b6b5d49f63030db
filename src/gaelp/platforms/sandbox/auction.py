"""One half hour of auctions: who wins, what a click costs, who tires, and what the rivals have left.

Our score is bid x pCTR; the highest score wins and pays, per click, the price to beat over pCTR, in whole
micros. A user shown many advertisements today converts less: the tiredness is each user's own. Each step is
a pure function of the day's drawn auctions, the state of the day and a bid; it draws nothing, all luck is in
`Auctions`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gaelp.platforms.sandbox.world import RIVALS, TICKS, Auctions, Counts, Floats, Market

RIVAL_PACING_GAIN = 2.0
RESERVE_SHARE = 0.1
"""The reserve, as a share of the market's price level."""

TIREDNESS_DECAY = 0.5 ** (1 / 10)
"""Tiredness halves in ten half hours without an impression."""
CLICK_TIRING = 0.02
AWARENESS = 0.1

DELAY_MEAN = 10
DELAY_MAX = 96
"""Half hours from a click to the report of its conversion, at most; two days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayState:
    """Where a campaign's day stands before half hour `tick`.

    tiredness[users], impressions today[users], rival_spent[R] (currency units), spent_micros, arrivals[48]:
    conversions of today's clicks by the half hour at whose end they are reported.
    """

    tick: int
    tiredness: Floats
    exposures: Counts
    rival_spent: Floats
    spent_micros: int
    arrivals: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One campaign's half hour. The last three are the truth behind it, for tests and set-up only.

    expected_cost (currency units) and expected_conversions average over clicks and conversions, given
    the impressions; unexposed_conversions is the same had nobody tired.
    """

    eligible: int
    impressions: int
    clicks: int
    cost_micros: int
    conversions: int
    conversions_so_far: int
    expected_cost: float
    expected_conversions: float
    unexposed_conversions: float


def open_day(auctions: Auctions) -> DayState:
    """Midnight: nobody is tired and every rival's purse is full."""
    users = len(auctions.slice.conversion)
    return DayState(
        tick=0,
        tiredness=np.zeros(users),
        exposures=np.zeros(users, np.int64),
        rival_spent=np.zeros(RIVALS),
        spent_micros=0,
        arrivals=np.zeros(TICKS, np.int64),
    )


def rival_pace(market: Market, spent: Floats, elapsed: float) -> Floats:
    """Each rival's factor on its scores: 0 when broke; those who pace shade when ahead of the day."""
    share = spent / market.rival_budget
    ahead = np.minimum(np.maximum(RIVAL_PACING_GAIN * (elapsed - share), -0.7), 0.7)
    return np.exp(ahead * market.rival_paces) * (share < 1.0)


@dataclass(frozen=True, slots=True)
class Played:
    """A half hour's outcome, and where the day stands after it."""

    state: DayState
    outcome: Outcome


def play_tick(auctions: Auctions, state: DayState, bid_micros: int, limit_micros: int) -> Played:
    """Play the half hour `state.tick` with our bid per click and today's limit on our charges, in micros.

    Bid 0 stands for a campaign that does not take part: nothing is eligible and only the rivals play.
    The charge that would pass the limit is cut to what is left, and the campaign is out for the day.
    Tiredness counts the impressions of earlier half hours; rivals look at their purses once each half hour.
    """
    market, tick = auctions.market, state.tick
    span = slice(auctions.start[tick], auctions.start[tick + 1])
    pctr = auctions.click_estimate[span]
    pace = rival_pace(market, state.rival_spent, auctions.elapsed[tick])
    scores = auctions.rival_score[:, span] * pace[:, None]
    strongest = scores.argmax(axis=0)
    scores.sort(axis=0)
    second, best = scores[-2:]
    reserve = RESERVE_SHARE * market.price_level
    price = np.maximum(best, reserve)
    left = limit_micros - state.spent_micros
    score = pctr * (bid_micros / 1e6 if left > 0 else 0.0)
    won = (score >= price).nonzero()[0]
    user = auctions.user[span][won]
    luck = auctions.luck[:, span]
    tired = state.tiredness[user]
    click_rate = pctr[won] * np.exp(-CLICK_TIRING * tired)
    clicked = (luck[0, won] < click_rate).nonzero()[0]
    per_click = np.minimum(np.floor(1e6 * price[won] / pctr[won]), bid_micros)
    charges = per_click[clicked].astype(np.int64)
    total = charges.cumsum()
    cost = int(total[-1]) if len(total) else 0
    if cost >= left and len(total):
        last = int(np.searchsorted(total, left))
        won, user, tired = (x[: clicked[last] + 1] for x in (won, user, tired))
        click_rate, per_click = click_rate[: clicked[last] + 1], per_click[: clicked[last] + 1]
        score = np.where(np.arange(len(score)) <= won[-1], score, 0.0)
        clicked, cost = clicked[: last + 1], left
    fresh_rate = auctions.slice.conversion[user]
    aware = 1.0 + AWARENESS * np.tanh(state.exposures[user] / 5.0)
    rate = np.minimum(1.0, fresh_rate * np.exp(-auctions.tiring * tired) * aware)
    where = won[clicked]
    converted = luck[1, where] < rate[clicked]
    conversions = int(converted.sum())
    arrivals = state.arrivals
    if conversions:
        due = tick + delays(luck[2, where[converted]])
        arrivals = arrivals + np.bincount(due[due < TICKS], minlength=TICKS)
    lost = best >= reserve
    lost[won] = False
    paid = np.maximum(np.maximum(second, score), reserve)[lost]
    shown = np.bincount(user, minlength=len(state.tiredness))
    after = DayState(
        tick=tick + 1,
        tiredness=TIREDNESS_DECAY * (state.tiredness + shown),
        exposures=state.exposures + shown,
        rival_spent=state.rival_spent + np.bincount(strongest[lost], weights=paid, minlength=RIVALS),
        spent_micros=state.spent_micros + cost,
        arrivals=arrivals,
    )
    return Played(
        after,
        Outcome(
            eligible=len(pctr) if bid_micros else 0,
            impressions=len(won),
            clicks=len(clicked),
            cost_micros=cost,
            conversions=conversions,
            conversions_so_far=int(arrivals[: tick + 1].sum()),
            expected_cost=float(click_rate @ per_click) / 1e6,
            expected_conversions=float(click_rate @ rate),
            unexposed_conversions=float(click_rate @ fresh_rate),
        ),
    )


def delays(uniform: Floats) -> Counts:
    """Half hours until a conversion is reported: geometric with mean 10, from 1, cut at 96."""
    geometric = np.ceil(np.log1p(-uniform) / math.log1p(-1 / DELAY_MEAN))
    return np.clip(geometric, 1, DELAY_MAX).astype(np.int64)


def simulate_day(auctions: Auctions, bids_micros: Sequence[int], budget_micros: int) -> tuple[Outcome, ...]:
    """A whole day of one campaign alone, with 48 bids and the day's delivery limit on the budget.

    For tests and for setting up the account; nothing of it is reachable over HTTP.
    """
    limit = spend_limit(auctions, budget_micros)
    state, outcomes = open_day(auctions), []
    for bid in bids_micros:
        played = play_tick(auctions, state, bid, limit)
        state = played.state
        outcomes.append(played.outcome)
    return tuple(outcomes)


def spend_limit(auctions: Auctions, highest_budget_micros: int) -> int:
    """The most this campaign is charged today, in micros: at most over_delivery x the day's highest budget."""
    return int(highest_budget_micros * auctions.delivery_limit)
