"""Where episodes of auctions come from: recorded ones as they were, or ones drawn from fitted worlds, by seed.

An episode is N auctions in 48 blocks, one item, second price, one budget in whole units of the log's money.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.stream import BLOCKS
from gaelp.core.errors import BadInput, ShapeError
from gaelp.logs.theta import ThetaAuctions
from gaelp.market.auction_fit import AuctionFit
from gaelp.market.auction_world import sample_auctions

HIGHEST = (1 << 31) - 1
"""Money of an episode is counted in int32. No bid reaches this, so it is also the price of an auction that is none."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What every episode of a journey has: its auctions, its budget, and the highest bid that is taken.

    Money in whole units of the log. Raises BadInput for what an episode cannot have.
    """

    auctions: int
    budget: int
    max_bid: int

    def __post_init__(self) -> None:
        if self.auctions < BLOCKS:
            raise BadInput(
                f"an episode of {self.auctions} auctions is too short: {BLOCKS} at least, one a block."
            )
        for name, amount in (("budget", self.budget), ("highest bid", self.max_bid)):
            if not 1 <= amount < HIGHEST:
                raise BadInput(
                    f"the {name} of an episode is {amount}, expected 1 to {HIGHEST - 1} whole units."
                )

    @cached_property
    def block_auctions(self) -> NDArray[np.int64]:
        """[48], as equal as may be."""
        return np.diff(np.arange(BLOCKS + 1) * self.auctions // BLOCKS)


class Auctions(NamedTuple):
    """B episodes by block, [B,48,L]: price int32, value (pCTR) float32, click int8.

    Shorter blocks are filled up with auctions that nobody can win, of price HIGHEST and value 0.
    """

    price: NDArray[np.int32]
    value: NDArray[np.float32]
    click: NDArray[np.int8]


def blocked(
    price: NDArray[np.generic], value: NDArray[np.generic], click: NDArray[np.generic], terms: Terms
) -> Auctions:
    """Episodes [B,N] cut into blocks. Prices above what int32 holds can be won by nobody and become HIGHEST."""
    if price.shape[1:] != (terms.auctions,) or not price.shape == value.shape == click.shape:
        raise ShapeError(f"episodes have shape {price.shape}, expected (B, {terms.auctions}).")
    sizes = terms.block_auctions
    rows = np.repeat(np.arange(BLOCKS), sizes)
    columns = np.arange(terms.auctions) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    shape = (len(price), BLOCKS, int(sizes.max()))
    out = Auctions(np.full(shape, HIGHEST, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.int8))
    out.price[:, rows, columns] = np.minimum(price, HIGHEST)
    out.value[:, rows, columns] = value
    out.click[:, rows, columns] = click
    return out


class EpisodeSource(Protocol):
    """Gives the episodes of seeds [B]; equal seeds give equal episodes."""

    def __call__(self, seeds: NDArray[np.integer]) -> Auctions: ...


@dataclass(frozen=True)
class Recorded:
    """Exact replay: the seed is the number of the episode within its part of the log; numbers beyond it begin anew."""

    auctions: ThetaAuctions
    terms: Terms

    @property
    def episodes(self) -> int:
        return len(self.auctions) // self.terms.auctions

    @cached_property
    def _all(self) -> Auctions:
        n, length = self.episodes, self.terms.auctions
        price, value, click = (
            column[: n * length].reshape(n, length)
            for column in (self.auctions.price, self.auctions.value, self.auctions.click)
        )
        return blocked(price, value, click, self.terms)

    def __call__(self, seeds: NDArray[np.integer]) -> Auctions:
        at = np.asarray(seeds, np.int64) % self.episodes
        return Auctions(self._all.price[at], self._all.value[at], self._all.click[at])


@dataclass(frozen=True)
class Drawn:
    """Simulation: each seed is a world of its own from the posterior, and one episode in it."""

    fit: AuctionFit
    terms: Terms

    def __call__(self, seeds: NDArray[np.integer]) -> Auctions:
        drawn = [self._episode(int(seed)) for seed in seeds]
        price, value, click = (np.stack([getattr(each, name) for each in drawn]) for name in _COLUMNS)
        # A price between two whole ones is won by the same whole bids as the next whole one.
        return blocked(np.ceil(price), value, click, self.terms)

    def _episode(self, seed: int) -> object:
        rng = np.random.default_rng(seed)
        return sample_auctions(self.fit.draw(rng), self.terms.auctions, rng)


_COLUMNS = ("price", "value", "click")
