"""A stretch of a recorded log in memory, its episodes and budgets, and what was bought on it, counted exactly.

The limits are those of replay.py: the bid is the least of the policy's bid, the highest allowed bid and what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.stream import BLOCKS, Bidder, Episode, Sight
from gaelp.core.errors import BadInput
from gaelp.logs.theta import HIGHEST_PRICE, ThetaAuctions
from gaelp.market.replay import (
    ENDLESS,
    VALUE_UNITS,
    ReplayOptions,
    affordable,
    budget_of_an_episode,
    value_units,
    within_bid,
)

_HIGHEST_COST = 1 << 60
"""Prices of a stretch are summed in int64, and an allowance clipped to ENDLESS must outlast them."""


@dataclass(frozen=True)
class Stretch:
    """Consecutive auctions in episodes: episode e is [edges[e], edges[e + 1]), each with a budget of its own.

    edges: intp (episodes + 1,); budget: exact, in the log's unit; options: the bounds on a bid.
    """

    auctions: ThetaAuctions
    edges: NDArray[np.intp]
    budget: Fraction
    options: ReplayOptions

    @property
    def episodes(self) -> int:
        return len(self.edges) - 1

    @property
    def allowance(self) -> int:
        """The budget in whole units: prices are whole, so no more of it can be spent."""
        return min(math.floor(self.budget), ENDLESS)

    @cached_property
    def episode(self) -> NDArray[np.intp]:
        """(n,) the episode of each auction."""
        return np.repeat(np.arange(self.episodes), np.diff(self.edges))

    @property
    def max_bid(self) -> int | None:
        """The highest price that may be bid on."""
        return None if self.options.max_bid is None else min(math.floor(self.options.max_bid), HIGHEST_PRICE)


@dataclass(frozen=True)
class Bought:
    """Counts and money are exact; value is the exact sum of pCTR won, rounded once."""

    impressions: int
    clicks: int
    spend: int
    value: float
    overspend: Fraction


def whole_log(chunks: Iterable[ThetaAuctions], options: ReplayOptions) -> Stretch:
    """The log, held in memory at 17 bytes an auction, however it was cut.

    Raises BadInput when it or an episode has fewer than 48 auctions (one for each half hour), or its prices sum to
    more than 2^60.
    """
    read = list(chunks)
    auctions = ThetaAuctions(
        click=np.concatenate([np.empty(0, np.int8), *(chunk.click for chunk in read)]),
        price=np.concatenate([np.empty(0, np.int64), *(chunk.price for chunk in read)]),
        value=np.concatenate([np.empty(0), *(chunk.value for chunk in read)]),
    )
    length = options.episode_auctions
    if length is not None and length < BLOCKS:
        raise BadInput(f"--episode-auctions is {length}, a ladder needs at least {BLOCKS}, one a half hour.")
    if len(auctions) < BLOCKS:
        raise BadInput(
            f"the log holds {len(auctions)} auctions, a ladder needs at least {BLOCKS}, one a half hour."
        )
    # In two halves: more than 2^23 of the highest prices would overflow one sum.
    cost = (int((auctions.price >> 20).sum()) << 20) + int((auctions.price & ((1 << 20) - 1)).sum())
    if cost > _HIGHEST_COST:
        raise BadInput(f"the log's prices sum to {cost}, a ladder takes at most 2^60; leave --ladder away.")
    step = len(auctions) if length is None else min(length, len(auctions))
    edges = np.append(np.arange(0, len(auctions), step), len(auctions))
    return Stretch(auctions, edges.astype(np.intp), budget_of_an_episode(options, cost), options)


def halves(stretch: Stretch) -> tuple[Stretch, Stretch]:
    """The first half and the rest: of the episodes, or of a single one with its budget parted by auctions."""
    if stretch.episodes > 1:
        middle = stretch.episodes // 2
        cut = int(stretch.edges[middle])
        edges = stretch.edges[: middle + 1], stretch.edges[middle:] - cut
        budgets = stretch.budget, stretch.budget
    else:
        length = len(stretch.auctions)
        cut = length // 2
        edges = np.array([0, cut]), np.array([0, length - cut])
        budgets = stretch.budget * Fraction(cut, length), stretch.budget * Fraction(length - cut, length)
    return (
        Stretch(_rows(stretch.auctions, slice(cut)), edges[0], budgets[0], stretch.options),
        Stretch(_rows(stretch.auctions, slice(cut, None)), edges[1], budgets[1], stretch.options),
    )


def won_by_bids(stretch: Stretch, bid: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which auctions these bids win; bid: float64 (n,), before limits."""
    price = stretch.auctions.price
    reachable = np.flatnonzero(within_bid(price, bid, stretch.options))
    left = np.full(stretch.episodes, stretch.allowance)
    won = np.zeros(len(price), np.bool_)
    won[reachable[affordable(price[reachable], stretch.episode[reachable], left)]] = True
    return won


def won_by_bidder(stretch: Stretch, bidder: Bidder) -> NDArray[np.bool_]:
    """Which auctions a bidder wins that looks at what it won, move by move. It has begun the first episode."""
    won = np.zeros(len(stretch.auctions), np.bool_)
    for number in range(stretch.episodes):
        at, end = int(stretch.edges[number]), int(stretch.edges[number + 1])
        if number > 0:
            bidder = bidder.begin(episode_of(stretch, number))
        left = stretch.allowance
        while at < end:
            move = bidder.decide()
            sight = _played(
                stretch, at, min(at + move.auctions, end), move.multiplier, left, min(move.allowance, ENDLESS)
            )
            won[at : at + len(sight.won)] = sight.won
            at += len(sight.won)
            left -= sight.spent
            bidder = bidder.after(sight)
    return won


def episode_of(stretch: Stretch, number: int) -> Episode:
    """What a bidder is told of an episode before its first auction."""
    auctions = int(stretch.edges[number + 1] - stretch.edges[number])
    return Episode(auctions, stretch.allowance, stretch.max_bid)


def bought(stretch: Stretch, won: NDArray[np.bool_]) -> Bought:
    """What the won auctions cost and brought; overspend counts from the prices paid, episode by episode."""
    auctions = stretch.auctions
    paid = np.zeros(stretch.episodes, np.int64)
    np.add.at(paid, stretch.episode[won], auctions.price[won])
    return Bought(
        impressions=int(won.sum()),
        clicks=int(auctions.click[won].sum()),
        spend=int(paid.sum()),
        value=value_units(auctions.value[won]) / VALUE_UNITS,
        overspend=sum(
            (cost - stretch.budget for cost in paid.tolist() if cost > stretch.budget), Fraction(0)
        ),
    )


def _played(stretch: Stretch, start: int, end: int, multiplier: float, left: int, allowance: int) -> Sight:
    price, value = stretch.auctions.price[start:end], stretch.auctions.value[start:end]
    bid = multiplier * value
    reachable = np.flatnonzero(within_bid(price, bid, stretch.options))
    taken = reachable[affordable(price[reachable], np.zeros(len(reachable), np.intp), np.array([left]))]
    spent = np.cumsum(price[taken])
    reaching = int(np.searchsorted(spent, allowance))
    if reaching < len(taken):
        taken, spent = taken[: reaching + 1], spent[: reaching + 1]
        end = start + int(taken[-1]) + 1
    won = np.zeros(end - start, np.bool_)
    won[taken] = True
    paid = price[taken]
    left_before = left - (
        np.cumsum(np.where(won, price[: end - start], 0)) - np.where(won, price[: end - start], 0)
    )
    most = bid[: end - start] if stretch.max_bid is None else np.minimum(bid[: end - start], stretch.max_bid)
    return Sight(value=value[: end - start], won=won, paid=paid, bound=most > left_before)


def _rows(auctions: ThetaAuctions, rows: slice) -> ThetaAuctions:
    return ThetaAuctions(click=auctions.click[rows], price=auctions.price[rows], value=auctions.value[rows])
