"""Replays recorded second-price auctions under a budget, exactly; reads no file and knows no JAX.

In every auction the bid is the least of the policy's bid, the highest allowed bid and what is left of the
budget. It wins when it is at least the recorded price, and pays that price. Money is in the log's own unit:
whole prices, summed as integers; budgets are fractions. Nothing depends on how the log is cut into chunks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import BadInput, nearest
from gaelp.logs.theta import HIGHEST_PRICE, ThetaAuctions

# A block's prices sum to at most 2^60; an allowance clipped to 2^61 therefore outlasts any block.
_BLOCK_AUCTIONS = 1 << 20
ENDLESS = 1 << 61
# Values are summed in units of 2^-1126: frexp's least exponent of a double, less the bits of its significand.
_LEAST_EXPONENT, _SIGNIFICAND_BITS = -1073, 53
VALUE_UNITS = 1 << (_SIGNIFICAND_BITS - _LEAST_EXPONENT)
"""So many units of value are 1."""


class Policy(Protocol):
    """What to bid. Bids may depend on the auction's value alone, so they cannot peek at clicks or prices."""

    @property
    def name(self) -> str:
        """As the user writes it, for instance `constant:86550.5`."""
        ...

    def bids(self, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """One bid per auction, before limits; value and bids of shape (n,)."""
        ...


@dataclass(frozen=True)
class ConstantMultiplier:
    """Bids `multiplier` x predicted click rate, the product taken in float64."""

    multiplier: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.multiplier) and self.multiplier >= 0):
            raise BadInput(f"the multiplier is {self.multiplier}, expected a finite number of at least 0.")

    @property
    def name(self) -> str:
        return f"constant:{self.multiplier!r}"

    def bids(self, value: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.multiplier * value


def parse_policy(text: str) -> Policy:
    """The policy a user named, for instance `constant:86550.5`. Raises BadInput naming the known ones."""
    name, colon, parameter = text.partition(":")
    if name != "constant":
        known = "Known: constant:M, which bids M x pCTR."
        raise BadInput(f"no policy named {name!r}.{nearest(name, ['constant'])} {known}")
    try:
        return ConstantMultiplier(float(parameter))
    except ValueError as error:
        seen = f"followed by {parameter!r}" if colon else "without its multiplier"
        raise BadInput(f"policy 'constant' is {seen}, expected a number as in constant:86550.5.") from error


class BidGrid(Enum):
    """Which bids the exchange takes. As recorded prices are whole, both grids win the same auctions."""

    REAL = "real"
    INTEGER = "integer"


def parse_amount(option: str, text: str) -> Fraction:
    """An exact amount above 0 from `1969`, `0.5` or `1/16`. Raises BadInput naming `option`."""
    if re.fullmatch(r"[0-9]{1,40}(?:\.[0-9]{1,40}|/0*[1-9][0-9]{0,39})?", text) and Fraction(text) > 0:
        return Fraction(text)
    raise BadInput(f"{option} is {text!r}, expected a number above 0 such as 1969, 0.5 or 1/16.")


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """The limits of a replay: one form of budget, and bounds on a bid.

    Either `episode_auctions` with `episode_budget` (every so many auctions a fresh budget; the last, shorter
    episode gets a full one), or `budget` for the log, or `budget_fraction`, that share of the whole log's price
    sum. Amounts are exact, in the log's unit. Raises BadInput unless there is one valid form of budget.
    """

    episode_auctions: int | None = None
    episode_budget: Fraction | None = None
    budget: Fraction | None = None
    budget_fraction: Fraction | None = None
    max_bid: Fraction | None = None
    bid_grid: BidGrid = BidGrid.REAL

    def __post_init__(self) -> None:
        amounts = {
            "--episode-auctions": self.episode_auctions,
            "--episode-budget": self.episode_budget,
            "--budget": self.budget,
            "--budget-fraction": self.budget_fraction,
            "--max-bid": self.max_bid,
        }
        for option, amount in amounts.items():
            kind, named = (int, "a whole") if option == "--episode-auctions" else (int | Fraction, "an exact")
            if amount is not None and not (isinstance(amount, kind) and amount > 0):
                raise BadInput(f"{option} is {amount}, expected {named} number above 0.")
        if self.budget_fraction is not None and self.budget_fraction > 1:
            raise BadInput(
                f"--budget-fraction is {self.budget_fraction}, expected at most 1 (the whole log)."
            )
        if self.episode_auctions is not None and self.episode_budget is None:
            raise BadInput("--episode-auctions needs --episode-budget, the budget of each episode.")
        if self.episode_budget is not None and self.episode_auctions is None:
            raise BadInput("--episode-budget needs --episode-auctions, the length of each episode.")
        forms = [o for o in ("--episode-budget", "--budget", "--budget-fraction") if amounts[o] is not None]
        if not forms:
            raise BadInput(
                "no budget is given, expected --episode-auctions with --episode-budget, or --budget, "
                "or --budget-fraction."
            )
        if len(forms) > 1:
            raise BadInput(f"{' and '.join(forms)} exclude each other: give one form of budget.")


@dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """What a policy bought. Counts and money are exact; `value` is the exact sum of pCTR won, rounded once.

    `budget` is that of one episode. `overspend` sums what episodes paid beyond it, counted from the prices
    won and not from the budget left, so that it would show a fault here. `log_*` are totals of the log.
    """

    auctions: int
    impressions: int
    clicks: int
    cost: int
    value: float
    overspend: Fraction
    episodes: int
    budget: Fraction
    log_clicks: int
    log_cost: int


def replay(
    open_log: Callable[[], Iterable[ThetaAuctions]], policy: Policy, options: ReplayOptions
) -> ReplayResult:
    """Bids `policy` on the log's auctions in order, within the limits of `options`.

    open_log: gives the log from its beginning, in chunks of any size; called twice for a budget fraction,
    which needs the price sum first. Raises BadInput for no auctions, or when the log changed in between.
    """
    first_reading = _measured(open_log()) if options.budget_fraction is not None else None
    budget = budget_of_an_episode(options, first_reading.cost if first_reading is not None else None)
    # Prices are whole, so price <= left exactly when price <= floor(left): from here on money is integers.
    allowance = math.floor(budget)
    length = ENDLESS if options.episode_auctions is None else min(options.episode_auctions, ENDLESS)

    auctions = impressions = clicks = cost = log_clicks = log_cost = units = 0
    open_cost = 0  # paid so far by the episode that the last block left unfinished
    overspend = Fraction(0)
    for block in _blocks(open_log()):
        episode = (auctions % length + np.arange(len(block))) // length
        left = np.full(int(episode[-1]) + 1, min(allowance, ENDLESS))
        left[0] = min(allowance - open_cost, ENDLESS)

        reachable = np.flatnonzero(within_bid(block.price, policy.bids(block.value), options))
        won = reachable[affordable(block.price[reachable], episode[reachable], left)]

        paid = np.zeros(len(left), np.int64)
        np.add.at(paid, episode[won], block.price[won])
        costs = [open_cost + int(paid[0]), *paid[1:].tolist()]
        auctions += len(block)
        closed = costs if auctions % length == 0 else costs[:-1]
        open_cost = 0 if auctions % length == 0 else costs[-1]
        overspend += sum((paid_out - budget for paid_out in closed if paid_out > allowance), Fraction(0))

        impressions += len(won)
        clicks += int(block.click[won].sum())
        cost += int(paid.sum())
        units += value_units(block.value[won])
        log_clicks += int(block.click.sum())
        log_cost += int(block.price.sum())
    overspend += max(open_cost - budget, Fraction(0))

    if auctions == 0:
        raise BadInput("the log holds no auctions to replay.")
    if first_reading is not None and first_reading != _Measure(auctions, log_cost):
        raise BadInput(
            f"the log changed while it was read: {first_reading.auctions} auctions for {first_reading.cost}, "
            f"then {auctions} for {log_cost}. Replay a copy that nobody writes to."
        )
    return ReplayResult(
        auctions=auctions,
        impressions=impressions,
        clicks=clicks,
        cost=cost,
        value=units / VALUE_UNITS,
        overspend=overspend,
        episodes=-(-auctions // length),
        budget=budget,
        log_clicks=log_clicks,
        log_cost=log_cost,
    )


def affordable(
    price: NDArray[np.int64], episode: NDArray[np.intp], left: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which auctions are won when, in their order, each is won if its price is at most what is left.

    price: (n,), 0 to HIGHEST_PRICE; episode: (n,), never decreasing, an index into left; left: (episodes,),
    what each may still spend. Equals the loop `if price <= left: left -= price`, in at most 43 rounds:

    Let T be the greatest power of two not above what an episode has left. While at least T is left, every
    price below T is won, and at most one other: paying it leaves less than T, because less than 2T was left.
    So one cumulative sum over the prices below T finds the first auction that leaves less than T. All up to
    and including it are settled, and T has at least halved. (T is bounded by the first power of two above
    every price: with that much left there is no other.)
    """
    won = np.zeros(len(price), np.bool_)
    left = left.copy()
    at = np.flatnonzero(price <= left[episode])
    while len(at):
        price_at, episode_at = price[at], episode[at]
        starts = np.flatnonzero(np.diff(episode_at, prepend=-1))
        segment = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(at)))
        left_of_segment = left[episode_at[starts]]
        above_every_price = 1 << int(price_at.max()).bit_length()
        threshold = _power_of_two_within(np.minimum(left_of_segment, above_every_price))[segment]

        certain = np.where(price_at < threshold, price_at, 0)
        spent_before = np.cumsum(certain) - certain
        left_before = left_of_segment[segment] - (spent_before - spent_before[starts][segment])
        taken = price_at <= left_before
        crossing = np.flatnonzero(taken & (left_before - price_at < threshold))

        first = crossing[np.diff(segment[crossing], prepend=-1) > 0]
        settled_until = np.diff(starts, append=len(at)) + starts
        settled_until[segment[first]] = first + 1
        settled = np.arange(len(at)) < settled_until[segment]
        taken &= settled

        won[at[taken]] = True
        left[episode_at[starts]] -= np.add.reduceat(np.where(taken, price_at, 0), starts)
        at = at[~settled & (price_at <= left[episode_at])]
    return won


def _power_of_two_within(amount: NDArray[np.int64]) -> NDArray[np.int64]:
    """The greatest power of two not above each amount (up to 2^53, exact in float64), 0 if there is none."""
    _, exponent = np.frexp(amount.astype(np.float64))
    return np.where(amount > 0, np.int64(1) << np.maximum(exponent - 1, 0).astype(np.int64), 0)


def within_bid(
    price: NDArray[np.int64], bid: NDArray[np.float64], options: ReplayOptions
) -> NDArray[np.bool_]:
    """Which auctions the bid would win with an endless budget: min(a, b) >= p just when a >= p and b >= p."""
    if options.bid_grid is BidGrid.INTEGER:
        bid = np.floor(bid)
    within = price <= bid
    if options.max_bid is not None:
        within &= price <= min(math.floor(options.max_bid), HIGHEST_PRICE)
    return within


def _blocks(chunks: Iterable[ThetaAuctions]) -> Iterator[ThetaAuctions]:
    for chunk in chunks:
        for start in range(0, len(chunk), _BLOCK_AUCTIONS):
            part = slice(start, start + _BLOCK_AUCTIONS)
            yield ThetaAuctions(click=chunk.click[part], price=chunk.price[part], value=chunk.value[part])


@dataclass(frozen=True)
class _Measure:
    auctions: int
    cost: int


def _measured(chunks: Iterable[ThetaAuctions]) -> _Measure:
    auctions = cost = 0
    for block in _blocks(chunks):
        auctions += len(block)
        cost += int(block.price.sum())
    return _Measure(auctions, cost)


def budget_of_an_episode(options: ReplayOptions, log_cost: int | None) -> Fraction:
    """The budget that `options` name; log_cost: the whole log's price sum, wanted by a budget fraction alone."""
    if options.budget_fraction is not None:
        assert log_cost is not None, "a budget fraction is a share of the log's price sum"
        return options.budget_fraction * log_cost
    budget = options.episode_budget if options.episode_budget is not None else options.budget
    assert budget is not None, "ReplayOptions holds one form of budget"
    return Fraction(budget)


def value_units(value: NDArray[np.float64]) -> int:
    """The exact sum of `value` in units of 2^-1126, so that adding block after block rounds nothing."""
    if not len(value):
        return 0
    mantissa, exponent = np.frexp(value)
    significand = (mantissa * 2.0**_SIGNIFICAND_BITS).astype(np.int64)
    shift_of = exponent - _LEAST_EXPONENT
    # In two halves: a block's halves sum to less than 2^53, which bincount's float64 holds exactly.
    high = np.bincount(shift_of, weights=significand >> 27)
    low = np.bincount(shift_of, weights=significand & ((1 << 27) - 1))
    shifts = np.flatnonzero(high + low).tolist()
    return sum(((int(high[shift]) << 27) + int(low[shift])) << shift for shift in shifts)
