"""The certified pacer for auction streams: a parametric online LP, solved anew at least four times a half hour.

In a second-price auction the LP buys every auction whose price per pCTR is within one number, the multiplier.
The pacer therefore estimates the curve "spend per auction at a multiplier" and takes the multiplier whose spend is
what is left of the budget per auction left. It knows every pCTR that came and the prices of won auctions; of a lost one
only that its price per pCTR is above the multiplier then in force (a right-censored observation, so the curve is a
product-limit estimate). It refuses to know lost prices and what is to come, beyond the number of auctions.
Sources: the dual of the fractional knapsack (notes on pacing, Balseiro and Gur); Kaplan and Meier (1958).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.stream import BLOCKS, HIGHEST_MULTIPLIER, LOOK_ON, Episode, Move, Sight, first_multiplier

LOOKS_A_BLOCK = 4
SHORTEST, SHORT_MOVES_A_BLOCK = 32, 64
"""The shortest move in auctions; 1/64 of a block where that is longer. A stream begins with these, and a later move is
at most half as long as all that was seen before it: a multiplier ten times wrong is not in force for long."""
ENOUGH_WINS = 8
"""Moves stay short until the stream has shown so many prices."""
SLACK = 2.0
"""A move ends early once it spent so many times its plan ..."""
LEAST_ALLOWANCE = 1e-3
"""... but not before this share of the budget: a single dear win is no reason to look again."""

RESERVE = 4.0
"""Of L money left the share L / (L + RESERVE x mean price paid) is planned for: an auction dearer than what is left is
lost whole, and the best may come last. While thousands of wins are to come that is nearly all."""

MEMORY = 0.2
"""Evidence of age a weighs (1 + a / memory) ** -2, both in auctions, with memory = MEMORY x auctions left: the further
it looks ahead, the further back. The slow tail keeps the level that prices return to."""
LEAST_WINS = 150
"""The memory never falls below the auctions that bring so many wins on average: fewer are too few to solve on."""
FORGOTTEN = 16.0
"""Between episodes, evidence older than so many memories is dropped."""

SUPPORT = 0.2
"""The curve is trusted up to the greatest multiplier that this share of the evidence was bid at or above."""
ELASTICITY = 1.5
"""Beyond the trusted part, spend is taken to grow as multiplier ** ELASTICITY ..."""
GROWTH = 2.0
"""... and the multiplier rises at most so many times above that part at once."""


@dataclass(frozen=True)
class Evidence:
    """Everything that was seen of prices, by moves [m] and by wins [w] in ascending order of price per pCTR."""

    multiplier: NDArray[np.float64]  # [m] in force
    auctions: NDArray[np.float64]  # [m] that came, those left out whose bid the budget cut
    lost: NDArray[np.float64]  # [m] of them, that a higher multiplier may have won
    unwinnable: NDArray[np.float64]  # [m] of them, lost although the bid was the highest allowed
    ended: NDArray[np.int64]  # [m] auctions come since the beginning of the stream when the move ended
    ratio: NDArray[np.float64]  # [w] price per pCTR
    paid: NDArray[np.int64]  # [w]
    move: NDArray[np.intp]  # [w] index of the win's move


@dataclass(frozen=True)
class SpendCurve:
    """Spend per auction when bidding `ratio` x pCTR: [w], never falling; trusted up to the multiplier `trusted`."""

    ratio: NDArray[np.float64]
    spend: NDArray[np.float64]
    trusted: float


def no_evidence() -> Evidence:
    none = np.zeros(0)
    return Evidence(
        none, none, none, none, np.zeros(0, np.int64), none, np.zeros(0, np.int64), np.zeros(0, np.intp)
    )


def with_sight(
    evidence: Evidence, multiplier: float, sight: Sight, max_bid: int | None, now: int
) -> Evidence:
    """`evidence` and what one move brought; now: auctions come since the beginning of the stream."""
    free = ~sight.bound
    lost = free & ~sight.won
    at_most = np.inf if max_bid is None else max_bid
    unwinnable = int((lost & (multiplier * sight.value >= at_most)).sum())
    kept = free[sight.won]
    paid = sight.paid[kept]
    # A price of 0 is won by any bid, also by one of 0 on a pCTR of 0.
    ratio = np.where(paid == 0, 0.0, paid / np.where(paid == 0, 1.0, sight.value[sight.won][kept]))
    merged = np.concatenate([evidence.ratio, ratio])
    order = np.argsort(merged, kind="stable")  # a merge of two runs, of which one is sorted
    return Evidence(
        multiplier=np.append(evidence.multiplier, multiplier),
        auctions=np.append(evidence.auctions, free.sum()),
        lost=np.append(evidence.lost, lost.sum() - unwinnable),
        unwinnable=np.append(evidence.unwinnable, unwinnable),
        ended=np.append(evidence.ended, now),
        ratio=merged[order],
        paid=np.concatenate([evidence.paid, paid])[order],
        move=np.concatenate([evidence.move, np.full(len(paid), len(evidence.multiplier))])[order],
    )


def without_moves_before(evidence: Evidence, oldest: int) -> Evidence:
    """`evidence` of the moves that ended when at least `oldest` auctions had come."""
    first = int(np.searchsorted(evidence.ended, oldest))
    kept = evidence.move >= first
    return Evidence(
        multiplier=evidence.multiplier[first:],
        auctions=evidence.auctions[first:],
        lost=evidence.lost[first:],
        unwinnable=evidence.unwinnable[first:],
        ended=evidence.ended[first:],
        ratio=evidence.ratio[kept],
        paid=evidence.paid[kept],
        move=evidence.move[kept] - first,
    )


def spend_curve(evidence: Evidence, now: int, memory: float) -> SpendCurve:
    """The product-limit estimate of spend per auction, evidence of age a weighing (1 + a / memory) ** -2.

    With S(r) the share of auctions whose price per pCTR is at least r: at a win of ratio r, weight w and price p
    the curve rises by S(r) x w / (weight of the auctions not yet settled below r) x p.
    """
    weight = (1.0 + (now - evidence.ended) / memory) ** -2
    order = np.argsort(evidence.multiplier, kind="stable")
    level = evidence.multiplier[order]

    at_or_above = np.cumsum((evidence.auctions * weight)[order][::-1])[::-1]
    trusted = float(level[np.flatnonzero(at_or_above >= SUPPORT * at_or_above[0])[-1]])

    won = weight[evidence.move]
    lost_below = np.concatenate([[0.0], np.cumsum((evidence.lost * weight)[order])])
    open_losses = lost_below[-1] - lost_below[np.searchsorted(level, evidence.ratio, side="left")]
    unsettled = open_losses + float((evidence.unwinnable * weight).sum()) + np.cumsum(won[::-1])[::-1]

    within = slice(int(np.searchsorted(evidence.ratio, trusted, side="right")))
    hazard = won[within] / unsettled[within]
    share = np.cumprod(1.0 - hazard)
    before = np.concatenate([[1.0], share])[: len(share)]
    return SpendCurve(evidence.ratio[within], np.cumsum(before * hazard * evidence.paid[within]), trusted)


def solve(curve: SpendCurve, rate: float) -> float:
    """The multiplier that spends `rate` an auction on `curve`, in money; 0 for a rate of 0."""
    if rate <= 0.0:
        return 0.0
    spend, ratio = curve.spend, curve.ratio
    if len(spend) == 0 or spend[-1] == 0.0:
        return min(curve.trusted * GROWTH, HIGHEST_MULTIPLIER)
    if spend[-1] < rate:
        return min(
            curve.trusted * min(GROWTH, (rate / float(spend[-1])) ** (1.0 / ELASTICITY)), HIGHEST_MULTIPLIER
        )
    k = int(np.searchsorted(spend, rate))
    if k == 0 or spend[k - 1] == 0.0:
        found = ratio[k] * (rate / spend[k]) ** (1.0 / ELASTICITY)
    else:
        found = ratio[k - 1] + (ratio[k] - ratio[k - 1]) * (rate - spend[k - 1]) / (spend[k] - spend[k - 1])
    # One unit in the last place up: ratio x pCTR may round to less than the price that the ratio was made of.
    return float(np.nextafter(found, np.inf))


@dataclass(frozen=True, kw_only=True)
class OnlineLp:
    """The pacer between two looks. Without a first multiplier it looks on and begins as `first_multiplier` says."""

    episode: Episode
    multiplier: float | None = None
    seen: int = 0  # auctions come in this episode
    spent: int = 0  # in this episode
    now: int = 0  # auctions come since the beginning of the stream
    evidence: Evidence = field(default_factory=no_evidence)

    def begin(self, episode: Episode) -> Self:
        following = replace(self, episode=episode, seen=0, spent=0)
        kept = without_moves_before(self.evidence, self.now - math.floor(FORGOTTEN * following._memory))
        return replace(following, evidence=kept)._solved()

    def decide(self) -> Move:
        length, quarter = self.episode.auctions, self.episode.auctions // (BLOCKS * LOOKS_A_BLOCK)
        if self.multiplier is None:
            auctions = LOOK_ON
        elif self._wins < ENOUGH_WINS:
            auctions = self._shortest
        else:
            auctions = max(self._shortest, min(self.now // 2, quarter))
        auctions = min(auctions, length - self.seen)
        allowance = max(SLACK * self._rate * auctions, LEAST_ALLOWANCE * self.episode.budget, 1.0)
        return Move(0.0 if self.multiplier is None else self.multiplier, auctions, math.ceil(allowance))

    def after(self, sight: Sight) -> Self:
        following = replace(
            self,
            seen=self.seen + len(sight.value),
            spent=self.spent + sight.spent,
            now=self.now + len(sight.value),
        )
        if self.multiplier is None:
            return replace(following, multiplier=first_multiplier(self.episode, sight.value))
        if self.multiplier == 0.0:
            # Out of money. A bid of 0 tells nothing of prices, and as evidence it would lower the trusted part to 0.
            return following
        seen = with_sight(self.evidence, self.multiplier, sight, self.episode.max_bid, following.now)
        return replace(following, evidence=seen)._solved()

    @property
    def _shortest(self) -> int:
        return max(SHORTEST, self.episode.auctions // (BLOCKS * SHORT_MOVES_A_BLOCK))

    @property
    def _auctions_left(self) -> int:
        return self.episode.auctions - self.seen

    @property
    def _rate(self) -> float:
        """What is planned to be spent an auction from here on."""
        left = self.episode.budget - self.spent
        if left == 0 or self._auctions_left == 0:
            return 0.0
        return left / self._auctions_left * left / (left + RESERVE * self._mean_price)

    @property
    def _wins(self) -> int:
        """Wins that cost something, which alone tell of prices."""
        return int(np.count_nonzero(self.evidence.paid))

    @property
    def _mean_price(self) -> float:
        return float(self.evidence.paid.sum()) / max(self._wins, 1)

    @property
    def _memory(self) -> float:
        rare = LEAST_WINS * float(self.evidence.auctions.sum()) / max(self._wins, 1)
        return max(MEMORY * self._auctions_left, rare, 1.0)

    def _solved(self) -> Self:
        """The same with the multiplier that its evidence asks for."""
        if not self.evidence.auctions.any():
            return self
        curve = spend_curve(self.evidence, self.now, self._memory)
        return replace(self, multiplier=solve(curve, self._rate))
