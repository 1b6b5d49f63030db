"""Fidelity: what fitted auction worlds say of a later part of the log, beside what that part shows; judges nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from gaelp.evidence.fidelity import FidelityLine
from gaelp.logs.bids import BidLog
from gaelp.market.auction_fit import DRAWS, AuctionFit, block_levels
from gaelp.market.auction_world import AuctionWorld, scores_at, step_values, strata_of, win_rate
from gaelp.market.product_limit import PriceCounts, count_prices, curve, draw_curve

Floats = NDArray[np.float64]

_TAIL_POINTS = 64
"""Points between which a spend above the bids that the log tells is summed up."""
_WHOLE = ("win_rate_distance", "zero_price_share", "block_level_sd", "clicks")
"""The lines on the part as a whole, which `surprise` is about."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """A fit beside a held-out part of its log.

    ks: the largest distance between the fitted win-rate curve and the held-out part's, at bids up to `compared_to`,
    which both tell; ks_reference: the same of the fitted part's own product-limit curve.
    surprise: how often a held-out part of the fitted worlds strays as far from their median as this one does, in the
    worst of win-rate curve, zeros, scatter of the blocks' levels, and clicks.
    fitted_won, held_out_won: auctions won in each part. only_price: what every one of them cost, if all cost the same.
    """

    lines: tuple[FidelityLine, ...]
    ks: float
    ks_reference: float
    compared_to: float
    surprise: float
    fitted_won: int
    held_out_won: int
    only_price: float | None


def fidelity(
    fit: AuctionFit, held_out: BidLog, bids: Floats, rng: np.random.Generator, draws: int = DRAWS
) -> Fidelity:
    """Hold `fit` against a later part of its log; win rates and spend at `bids`, as far as the part tells them.

    A line's interval holds the doubt about the world, a course of its price level over as many blocks, and the
    held-out part's own sampling error (its Bayesian bootstrap). Raises BadInput when the part shows no price.
    """
    later = _later(fit, held_out, bids)
    long_run, rates, wholes = [], [], []
    for _ in range(draws):
        world = fit.draw(rng)
        path = world.level.mean + world.level.path(len(later.level_se), rng)
        rate = later.rates(world, path, rng)
        long_run.append(win_rate(world, later.at))
        rates.append(rate)
        wholes.append(later.whole(world, path, float(rate[0]), rng))

    bought = np.array([later.bought(rate) for rate in rates])
    near = later.at <= later.compared_to
    middle = np.median(rates, axis=0)
    distance = np.abs(np.array([*rates, later.rate]) - middle)[:, near].max(1)
    whole = np.column_stack([distance[:-1], wholes])
    seen = np.concatenate([later.bought(later.rate), distance[-1:], later.seen])
    low, fitted, high = np.quantile(np.column_stack([bought, whole]), [0.05, 0.5, 0.95], axis=0)
    # A distance is too large, never too small.
    place = 2 * len(later.bids)
    low[place], high[place] = 0.0, np.quantile(distance[:-1], 0.9)
    names = [f"{kind}_at_{bid:g}" for kind in ("win_rate", "spend") for bid in later.bids]
    told = [bool(bid <= fit.identified_to) for bid in later.bids]
    own = fit.prices.share @ _read(fit.prices, curve(fit.prices), later.at)
    prices = np.union1d(fit.prices.points, later.counts.points)
    return Fidelity(
        lines=tuple(
            FidelityLine(name=name, fitted=f, held_out=s, low=lo, high=hi, identified=known)
            for name, f, s, lo, hi, known in zip(
                [*names, *_WHOLE],
                fitted.tolist(),
                seen.tolist(),
                low.tolist(),
                high.tolist(),
                [*told, *told, *(True for _ in _WHOLE)],
                strict=True,
            )
        ),
        ks=float(np.abs(np.median(long_run, axis=0) - later.rate)[near].max()),
        ks_reference=float(np.abs(own - later.rate)[near].max()),
        compared_to=later.compared_to,
        surprise=_surprise(whole, seen[place:]),
        fitted_won=fit.won,
        held_out_won=later.won,
        only_price=float(prices[0]) if len(prices) == 1 else None,
    )


@dataclass(frozen=True, kw_only=True)
class _Later:
    """A held-out part: what it shows, and what a world predicts of it.

    counts: its prices. compared_to: the bid up to which it and the fit both tell. bids: those asked for that it tells.
    at [E]: prices from 0 at which curves are compared; rate [E]: its own curve. level_se [B]: how well its blocks'
    levels are known. predicted [S]: its predicted clicks. seen: its zeros, scatter of levels and clicks.
    """

    counts: PriceCounts
    compared_to: float
    bids: Floats
    at: Floats
    rate: Floats
    level_se: Floats
    predicted: Floats
    auctions: int
    won: int
    seen: Floats

    def rates(self, world: AuctionWorld, path: Floats, rng: np.random.Generator) -> Floats:
        """A win-rate curve [E] of as many auctions of the world, at levels `path` [B], with chance as in this part."""
        score = (scores_at(world, self.at) - path.mean()) / np.hypot(world.within_sd, path.std())
        again = self.counts.share @ _read(self.counts, draw_curve(self.counts, rng), self.at)
        rate = np.clip(world.share @ ndtr(score) + again - self.rate, 0.0, 1.0)
        # Of n auctions a share is a multiple of 1/n, from none to all.
        rounded: Floats = (rate * self.auctions).round() / self.auctions
        return rounded

    def whole(self, world: AuctionWorld, path: Floats, free: float, rng: np.random.Generator) -> list[float]:
        """Zeros, scatter of the blocks' levels, and clicks of as many auctions; free: the share of prices of 0."""
        return [
            # A price of 0 is won by every bid, so that the share of such auctions is a plain binomial.
            rng.binomial(self.auctions, free) / self.auctions,
            float((path + rng.normal(0.0, self.level_se)).std()),
            float(rng.poisson(self.predicted @ world.calibration)),
        ]

    def bought(self, rate: Floats) -> Floats:
        """Win rates at the bids, then spend an auction offered at the bids, on a curve [E]."""
        place = np.searchsorted(self.at, self.bids)
        # The mean of what is paid up to b is b F(b) less the integral of F, a step function, up to b.
        area = np.append(0.0, np.cumsum(rate[:-1] * np.diff(self.at)))
        return np.concatenate([rate[place], self.bids * rate[place] - area[place]])


def _later(fit: AuctionFit, log: BidLog, bids: Floats) -> _Later:
    strata = len(fit.edges) + 1
    stratum = strata_of(log.value, fit.edges)
    counts = count_prices(log, stratum, strata)
    told = bids[bids <= counts.everywhere]
    at = _evaluated(fit.prices.points, counts.points, told)
    levels = block_levels(log, stratum, counts, max(2, round(len(log) / fit.block_auctions)))
    predicted = np.bincount(stratum[log.won], weights=log.value[log.won], minlength=strata)
    return _Later(
        counts=counts,
        compared_to=min(fit.identified_to, counts.everywhere),
        bids=told,
        at=at,
        rate=counts.share @ _read(counts, curve(counts), at),
        level_se=levels.se,
        predicted=predicted.astype(np.float64),
        auctions=len(log),
        won=int(log.won.sum()),
        seen=np.array([(log.price == 0).mean(), levels.level.std(), log.click.sum()]),
    )


def _evaluated(fitted: Floats, held_out: Floats, bids: Floats) -> Floats:
    """Prices at which curves are compared, from 0: both parts' own, the bids, and a fine grid up to the highest bid."""
    fine = np.linspace(float(fitted[-1]), float(max(fitted[-1], *bids)), _TAIL_POINTS)
    return np.unique(np.concatenate([np.zeros(1), fitted, held_out, bids, fine]))


def _read(counts: PriceCounts, rising: Floats, at: Floats) -> Floats:
    return step_values(counts.points, rising, at, distinct=counts.distinct)


def _surprise(rows: Floats, seen: Floats) -> float:
    """The share of rows [R,4] whose worst figure is at least as far out, in half widths of 90 %, as that of `seen`."""
    # Roots and logs, so that counts and the scatter stray to both sides alike; prices that never move do not scatter.
    rows, seen = (
        np.stack(
            [x[..., 0], np.sqrt(x[..., 1]), np.log(np.maximum(x[..., 2], 1e-12)), np.sqrt(x[..., 3])], -1
        )
        for x in (rows, seen)
    )
    middle = np.median(rows, axis=0)
    middle[0] = 0.0
    away = np.abs(rows - middle)
    # A figure that never varies and is met exactly tells nothing; one that is missed is beyond any row.
    reach = np.maximum(np.quantile(away, 0.9, axis=0), 1e-12)
    worst = (away / reach).max(1)
    return float((1 + (worst >= (np.abs(seen - middle) / reach).max()).sum()) / (1 + len(rows)))
