"""Auction worlds: one second-price market, its win-rate curves, and auctions drawn from it; knows no log and no JAX.

Values come as in the log a world was fitted to. A price is the point of its value stratum's curve at a normal score
level + within_sd x noise, the level wandering from block to block. A win is clicked with the predicted rate times a
calibration by stratum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from gaelp.market.wander import Walk

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FARTHEST = 1000.0
"""No price is drawn beyond so many times what the log told: nothing would ever win it."""


@dataclass(frozen=True, kw_only=True)
class AuctionWorld:
    """One market. S value strata, J price points; money in the log's own unit.

    points [J]: prices, rising; distinct: they are all the prices up to the last, otherwise others lie between them;
    whole: prices are whole numbers. scores [S,J]: the normal score up to which a price is at most that point.
    level: the scores' mean and how it wanders; within_sd: their deviation inside a block of block_auctions auctions.
    tail_from [S], tail_scale, tail_shape: what the log did not tell. Beyond the last score log(price / tail_from) is
    Weibull with that scale and shape.
    edges [S-1]: upper ends of the strata; values [n], rising, with weights; share [S] of the auctions.
    calibration [S]: clicks per predicted click. volume: log auctions an hour.
    """

    points: Floats
    distinct: bool
    whole: bool
    scores: Floats
    level: Walk
    within_sd: float
    block_auctions: float
    tail_from: Floats
    tail_scale: float
    tail_shape: float
    edges: Floats
    values: Floats
    value_weight: Floats
    share: Floats
    calibration: Floats
    volume: Walk


@dataclass(frozen=True, kw_only=True)
class SimulatedAuctions:
    """Auctions of a world, in order, [n]: predicted click rate, price to win, and whether a win would be clicked."""

    value: Floats
    price: Floats
    click: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.value)


def strata_of(value: Floats, edges: Floats) -> Ints:
    """The stratum of each value, [n]; an edge belongs to the stratum below it."""
    return np.searchsorted(edges, value, side="left").astype(np.int64)


def step_values(points: Floats, rising: Floats, at: Floats, *, distinct: bool) -> Floats:
    """`rising` [S,J] at `points`, read at prices `at` [M]: as steps, or along lines from (0, 0) if points end bins."""
    if distinct:
        index = np.searchsorted(points, at, side="right") - 1
        return np.where(index < 0, 0.0, rising[:, index])
    start = np.zeros(1)
    return np.stack([np.interp(at, np.append(start, points), np.append(start, row)) for row in rising])


def scores_at(world: AuctionWorld, bids: Floats) -> Floats:
    """The normal score up to which a price is at most the bid, [S,M]; bids [M]."""
    told = ndtri(step_values(world.points, ndtr(world.scores), bids, distinct=world.distinct))
    beyond = bids > world.tail_from[:, None]
    excess = np.log(np.maximum(bids / world.tail_from[:, None], 1.0))
    dearer = np.exp(-((excess / world.tail_scale) ** world.tail_shape))
    above = -ndtri(ndtr(-world.scores[:, -1:]) * dearer)
    return np.where(beyond, above, told)


def win_rates(world: AuctionWorld, bids: Floats, mean: float, spread: float) -> Floats:
    """P(price <= bid) by stratum, [S,M], over blocks whose levels have that mean and standard deviation.

    mean = world.level.mean, spread = world.level.sd is the market in the long run.
    """
    scale = np.hypot(world.within_sd, spread)
    rates: Floats = ndtr((scores_at(world, bids) - mean) / scale)
    return rates


def win_rate(world: AuctionWorld, bids: Floats) -> Floats:
    """The win-rate curve over all auctions in the long run, [M]: P(price <= bid)."""
    return world.share @ win_rates(world, bids, world.level.mean, world.level.sd)


def sample_auctions(world: AuctionWorld, n: int, rng: np.random.Generator) -> SimulatedAuctions:
    """n auctions of the world in order, beginning at the edge of a block at any time of its course."""
    cumulative = np.cumsum(world.value_weight)
    at = np.searchsorted(cumulative, rng.random(n) * cumulative[-1])
    value = world.values[np.minimum(at, len(world.values) - 1)]
    stratum = strata_of(value, world.edges)
    block = (np.arange(n) / world.block_auctions).astype(np.int64)
    level = world.level.mean + world.level.path(int(block[-1]) + 1 if n else 0, rng)
    score = level[block] + world.within_sd * rng.standard_normal(n)
    price = np.empty(n)
    for s in range(len(world.scores)):
        price[stratum == s] = _price(world, s, score[stratum == s])
    rate = np.minimum(world.calibration[stratum] * value, 1.0)
    return SimulatedAuctions(value=value, price=price, click=(rng.random(n) < rate).astype(np.int8))


def _price(world: AuctionWorld, stratum: int, score: Floats) -> Floats:
    scores, last = world.scores[stratum], len(world.points) - 1
    if world.distinct:
        price = world.points[np.minimum(np.searchsorted(scores, score, side="left"), last)]
    else:
        start = np.zeros(1)
        rates, points = np.append(start, ndtr(scores)), np.append(start, world.points)
        price = np.interp(ndtr(score), rates, points)
    beyond = score > scores[-1]
    dearer = np.maximum(ndtr(-score[beyond]) / ndtr(-scores[-1]), 1e-300)
    excess = world.tail_scale * (-np.log(dearer)) ** (1.0 / world.tail_shape)
    price[beyond] = world.tail_from[stratum] * np.exp(np.minimum(excess, np.log(FARTHEST)))
    return np.ceil(price) if world.whole else price
