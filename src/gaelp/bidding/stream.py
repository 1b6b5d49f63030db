"""What a bidder on a stream of auctions is told, decides and sees: no lost price, and nothing that is to come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

BLOCKS = 48
"""A stream without a clock is cut into so many equal blocks of auctions; they stand for the half hours of a day."""
LOOK_ON = 16
"""So many auctions pass, bid on with 0, before the first multiplier of a stream: its rule needs some pCTRs."""
TYPICAL_MARGIN = 6.0
"""Best multiplier over (budget per auction / mean pCTR): 3 to 28 in synthetic markets whose log pCTR spreads by
0.5 to 2, with budgets of 1/4 to 1/64 of the log's cost. It only has to be within an order of magnitude."""

HIGHEST_MULTIPLIER = 2.0**128
"""No multiplier above this: a budget that the stream cannot spend would otherwise drive it to infinity."""


@dataclass(frozen=True)
class Episode:
    """A budget in whole units of money for the next so many auctions; no bid above `max_bid` (None: any) is taken."""

    auctions: int
    budget: int
    max_bid: int | None


@dataclass(frozen=True)
class Move:
    """Bid `multiplier` x pCTR until `auctions` have come or `allowance` is spent, whichever is first; then look again.

    The auction that reaches the allowance is still won. Both are at least 1.
    """

    multiplier: float
    auctions: int
    allowance: int


@dataclass(frozen=True)
class Sight:
    """What the bidder saw of the auctions of one move, in their order.

    value: float64 (n,), the pCTR of every auction; won: bool (n,); paid: int64 (won,), prices of the won ones alone;
    bound: bool (n,), where the bid was cut to what was left of the budget.
    """

    value: NDArray[np.float64]
    won: NDArray[np.bool_]
    paid: NDArray[np.int64]
    bound: NDArray[np.bool_]

    @property
    def spent(self) -> int:
        return int(self.paid.sum())


class Bidder(Protocol):
    """A frozen value: each method gives the bidder that follows. What it bids can depend on nothing but sights."""

    def begin(self, episode: Episode) -> Self:
        """The next episode of the same stream: a fresh budget, and what was learned stays."""
        ...

    def decide(self) -> Move:
        """What to do until the next look."""
        ...

    def after(self, sight: Sight) -> Self:
        """The bidder that has seen what its move brought."""
        ...


def first_multiplier(episode: Episode, value: NDArray[np.float64]) -> float | None:
    """Where a bidder begins that knows no prices: TYPICAL_MARGIN x budget per auction / mean pCTR.

    value: float64 (n,), the pCTRs looked on at. None while they are all 0: any multiplier would bid the same.
    """
    total = float(value.sum())
    if total == 0.0:
        return None
    return min(TYPICAL_MARGIN * episode.budget / episode.auctions * len(value) / total, HIGHEST_MULTIPLIER)
