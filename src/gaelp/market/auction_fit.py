"""Calibration on auction logs: from what one bidder saw of its auctions to a posterior over worlds; knows no JAX.

The win-rate curve, its atoms and its dependence on the value are the log's own; only the drift has a form, a level that
wanders over 48 blocks. Assumed besides: what market.product_limit says of the bids; values and click calibration do
not drift; a click does not depend on the price given the value; auctions of a block differ only by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from gaelp.core.errors import BadInput
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.logs.bids import BidLog
from gaelp.market.auction_world import AuctionWorld, strata_of, win_rate, win_rates
from gaelp.market.click_calibration import ClickCalibration, calibrate_clicks
from gaelp.market.product_limit import PriceCounts, cells_of, count_prices, curve, draw_curve
from gaelp.market.wander import Prior, Wander, unread, wander

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCKS = TICKS_PER_DAY
"""A log without a clock is cut into as many equal blocks as a day has half hours; drift is told between them."""
FEWEST_AUCTIONS = 1000
"""A shorter log leaves blocks of about twenty auctions."""

LEVEL_PRIOR = Prior(0.0, 1.0)
"""The market's level in the long run around the log's own: within about a standard deviation of the price."""
VOLUME_PRIOR = Prior(float(np.log(1000.0)), 3.0)
"""Log auctions an hour: a few to some hundred thousand, until a clock tells."""
TAIL_SCALE = (1 / 16, 4.0)
TAIL_SHAPE = (0.5, 4.0)
"""Log-uniform between these, for prices above the highest bid: nearly all of them a little above it, or far beyond."""

DRAWS = 400
_VALUE_TAILS = (0.99, 0.999)
_FEWEST_IN_TAIL = 40
_TRIED = np.linspace(-3.0, 3.0, 61)
_ABOVE = (1.25, 1.5, 2.0, 3.0)


@dataclass(frozen=True, kw_only=True)
class BlockLevels:
    """Price levels of consecutive blocks, in normal scores around the whole log's, and their standard errors, [B].

    within_sd: the scores' deviation inside a block.
    """

    level: Floats
    se: Floats
    within_sd: float


@dataclass(frozen=True, kw_only=True)
class AuctionFit:
    """A posterior over auction worlds.

    prices: the counts behind the win-rate curves. edges [S-1] of the value strata; values, rising, and how many
    auctions had each. whole: every price seen is a whole number. blocks, drift: the price level. clicks: their
    calibration. volume: log auctions an hour, as believed before it when the log has no clock. auctions, won: how many.
    """

    prices: PriceCounts
    edges: Floats
    values: Floats
    value_counts: Ints
    whole: bool
    blocks: BlockLevels
    drift: Wander
    clicks: ClickCalibration
    volume: Wander
    clock: bool
    auctions: int
    won: int

    @property
    def identified_to(self) -> float:
        """The bid up to which the log tells the win rate in every stratum; inf when it shows every price."""
        return self.prices.everywhere

    @property
    def block_auctions(self) -> float:
        """Auctions in a block."""
        return self.auctions / BLOCKS

    def draw(self, rng: np.random.Generator) -> AuctionWorld:
        """One world from the posterior."""
        counts = self.prices
        lowest = counts.points[counts.points > 0][0]
        # The Bayesian bootstrap of the values: an exponential for each auction, summed over equal values.
        weight = rng.gamma(self.value_counts)
        share = np.bincount(strata_of(self.values, self.edges), weights=weight, minlength=len(counts.events))
        shown = np.isinf(counts.identified_to)
        return AuctionWorld(
            points=counts.points,
            distinct=counts.distinct,
            whole=self.whole,
            scores=ndtri(draw_curve(counts, rng)),
            level=self.drift.draw(rng),
            within_sd=self.blocks.within_sd,
            block_auctions=self.block_auctions,
            tail_from=np.where(shown, counts.points[-1], np.maximum(counts.identified_to, lowest)),
            tail_scale=float(np.exp(rng.uniform(*np.log(TAIL_SCALE)))),
            tail_shape=float(np.exp(rng.uniform(*np.log(TAIL_SHAPE)))),
            edges=self.edges,
            values=self.values,
            value_weight=weight / weight.sum(),
            share=share / share.sum(),
            calibration=self.clicks.draw(rng),
            volume=self.volume.draw(rng),
        )


def fit_auctions(log: BidLog) -> AuctionFit:
    """Fit auction worlds to what one bidder saw.

    Raises BadInput for fewer than FEWEST_AUCTIONS, and where nothing was won at a price above 0.
    """
    if len(log) < FEWEST_AUCTIONS:
        raise BadInput(
            f"the part to fit holds {len(log)} auctions, expected at least {FEWEST_AUCTIONS} for {BLOCKS} blocks."
        )
    if not (log.price > 0).any():
        raise BadInput(f"of {len(log)} auctions none was won at a price above 0, so the log tells no prices.")
    edges = value_edges(log.value)
    strata = len(edges) + 1
    stratum = strata_of(log.value, edges)
    prices = count_prices(log, stratum, strata)
    blocks = block_levels(log, stratum, prices, BLOCKS)
    seen, won = log.price[log.won], stratum[log.won]
    values, value_counts = np.unique(log.value, return_counts=True)
    return AuctionFit(
        prices=prices,
        edges=edges,
        values=values,
        value_counts=value_counts,
        whole=bool((seen == np.floor(seen)).all()),
        blocks=blocks,
        drift=wander(blocks.level, blocks.se**2, LEVEL_PRIOR),
        clicks=calibrate_clicks(
            _places(values, value_counts, edges),
            np.bincount(won, weights=log.value[log.won], minlength=strata).astype(np.float64),
            np.bincount(won, weights=log.click[log.won], minlength=strata).astype(np.float64),
        ),
        volume=unread(VOLUME_PRIOR) if log.time_s is None else _volume(log.time_s),
        clock=log.time_s is not None,
        auctions=len(log),
        won=len(seen),
    )


def _places(values: Floats, counts: Ints, edges: Floats) -> Floats:
    """Where each stratum's predicted clicks lie, [S]: the mean normal score of its values, weighted by the values."""
    score = ndtri((np.cumsum(counts) - counts / 2) / counts.sum())
    stratum = strata_of(values, edges)
    # A stratum of predictions of 0 has no predicted clicks: there every auction counts alike.
    weight = counts * np.where(values > 0, values, 1e-300)
    total = np.bincount(stratum, weights=weight)
    places: Floats = np.bincount(stratum, weights=weight * score) / total
    return places


def value_edges(value: Floats) -> Floats:
    """Upper ends of all value strata but the last, [S-1].

    Deciles (fewer below 5,000 auctions), and the top hundredth and thousandth where they hold 40 auctions: predictions
    err most where they are highest, and there a few auctions hold many of the predicted clicks.
    """
    parts = int(np.clip(len(value) // 500, 1, 10))
    tails = [q for q in _VALUE_TAILS if (1 - q) * len(value) >= _FEWEST_IN_TAIL]
    ends = np.quantile(value, [*np.arange(1, parts) / parts, *tails], method="lower")
    edges: Floats = np.unique(ends)
    return edges[edges < value.max()]


def block_levels(log: BidLog, stratum: Ints, prices: PriceCounts, blocks: int) -> BlockLevels:
    """The price level of each of so many equal blocks, by maximum likelihood.

    An auction's normal score lies between two points of its stratum's own curve where it was won, and above the curve
    at its bid where it was lost. In a block scores are Normal(level, within_sd); over the log their variance is 1.
    """
    cells = cells_of(log, stratum, prices.identified_to, prices.points)
    width = len(prices.points) + 1
    # Column 0 stands before the first point, so that an auction lost at once lies above it.
    scores = ndtri(np.pad(curve(prices), ((0, 0), (1, 0))))
    column = cells.point + 1
    kind = (cells.won * len(scores) + cells.stratum) * width + column
    kinds, which = np.unique(kind, return_inverse=True)
    won, place = np.divmod(kinds, len(scores) * width)
    row, column = np.divmod(place, width)
    at = scores[row, column]
    low = np.where(won == 1, scores[row, np.maximum(column - 1, 0)], at)
    high = np.where(won == 1, at, np.inf)
    block = np.arange(len(log)) * blocks // len(log)
    counts = (
        np.bincount(block * len(kinds) + which, minlength=blocks * len(kinds))
        .reshape(blocks, -1)
        .astype(np.float64)
    )
    within_sd = 1.0
    # The blocks' own spread is what the scores inside a block lack of variance 1; twice settles it.
    for _ in range(3):
        level, se = _peaks(counts, low, high, within_sd)
        between = max(float(level.var() - (se**2).mean()), 0.0)
        within_sd = float(np.sqrt(max(1.0 - between, 0.05)))
    return BlockLevels(level=level, se=se, within_sd=within_sd)


def _peaks(counts: Floats, low: Floats, high: Floats, sd: float) -> tuple[Floats, Floats]:
    """The likeliest level of each block and its standard error: a parabola through the best of the tried levels."""
    upper, lower = ((edge[:, None] - _TRIED) / sd for edge in (high, low))
    # Mirrored in the right tail, where 1 - ndtr would lose its digits.
    right_tail = lower > 0
    mass = ndtr(np.where(right_tail, -lower, upper)) - ndtr(np.where(right_tail, -upper, lower))
    # Not a matrix product: its library's threads cost more than they bring, and their number must not show.
    likelihood = np.einsum("bk,kt->bt", counts, np.log(np.maximum(mass, 1e-300)))
    best = np.clip(likelihood.argmax(1), 1, len(_TRIED) - 2)
    rows = np.arange(len(likelihood))
    left, middle, right = (likelihood[rows, best + step] for step in (-1, 0, 1))
    step = _TRIED[1] - _TRIED[0]
    bend = np.maximum(2 * middle - left - right, 1e-9)
    return _TRIED[best] + step * 0.5 * (right - left) / bend, step / np.sqrt(bend)


def _volume(time_s: Floats) -> Wander:
    """Auctions an hour, block by block: so many auctions in the time until the next block begins."""
    first = np.arange(BLOCKS + 1) * len(time_s) // BLOCKS
    ends = np.minimum(first, len(time_s) - 1)
    hours = np.diff(time_s[ends]) / 3600.0
    if not (hours > 0).all():
        block = int(np.argmin(hours))
        raise BadInput(
            f"time_s stands still from auction {ends[block] + 1} to {ends[block + 1] + 1}: "
            "too coarse a clock to tell volumes; leave the column out."
        )
    passed = np.diff(ends)
    return wander(np.log(passed / hours), 1.0 / passed, VOLUME_PRIOR)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """What a fit says of one number: the posterior's median and 90 % interval.

    identified: the log tells it; otherwise the interval is as wide as before the log was read.
    """

    name: str
    estimate: float
    low: float
    high: float
    identified: bool


def reference_bids(log: BidLog, identified_to: float) -> Floats:
    """Bids at which worlds are compared: quantiles of the prices seen, the highest bid that is told, some above it."""
    price = log.price[log.won & (log.price <= identified_to)]
    told = np.quantile(price, [0.1, 0.25, 0.5, 0.75, 0.9], method="lower")
    if np.isinf(identified_to):
        return np.unique(told)
    return np.unique([*told, identified_to, *(identified_to * ratio for ratio in _ABOVE)])


def parameters(
    fit: AuctionFit, bids: Floats, rng: np.random.Generator, draws: int = DRAWS
) -> tuple[Parameter, ...]:
    """The posterior of what a world is told by; win rates at `bids`."""
    told: dict[str, bool] = {f"win_rate_at_{bid:g}": bool(bid <= fit.identified_to) for bid in bids}
    told["zero_price_share"] = True
    told["price_value_tau"] = True
    told |= {"price_drift_sd": True, "price_drift_memory": True}
    if np.isfinite(fit.identified_to):
        told |= {"price_tail_scale": False, "price_tail_shape": False}
    told["clicks_per_predicted_click"] = bool(fit.clicks.identified.all())
    told |= {f"click_calibration_{s + 1}": bool(known) for s, known in enumerate(fit.clicks.identified)}
    told |= {"auctions_per_hour": fit.clock, "volume_drift_sd": fit.clock, "volume_drift_memory": fit.clock}
    rows = [_told(fit.draw(rng), bids, fit.identified_to) for _ in range(draws)]
    found = []
    for name, identified in told.items():
        low, estimate, high = np.quantile([row[name] for row in rows], [0.05, 0.5, 0.95]).tolist()
        found.append(Parameter(name=name, estimate=estimate, low=low, high=high, identified=identified))
    return tuple(found)


def _told(world: AuctionWorld, bids: Floats, identified_to: float) -> dict[str, float]:
    """One world's numbers by name."""
    predicted = np.bincount(
        strata_of(world.values, world.edges),
        weights=world.value_weight * world.values,
        minlength=len(world.share),
    )
    return {
        **{
            f"win_rate_at_{bid:g}": rate
            for bid, rate in zip(bids, win_rate(world, bids).tolist(), strict=True)
        },
        "zero_price_share": float(win_rate(world, np.zeros(1))[0]),
        "price_value_tau": price_value_tau(world, identified_to),
        "price_drift_sd": world.level.sd / world.within_sd,
        "price_drift_memory": world.level.memory,
        "price_tail_scale": world.tail_scale,
        "price_tail_shape": world.tail_shape,
        "clicks_per_predicted_click": float(world.calibration @ predicted / predicted.sum()),
        **{f"click_calibration_{s + 1}": rate for s, rate in enumerate(world.calibration.tolist())},
        "auctions_per_hour": float(np.exp(world.volume.mean)),
        "volume_drift_sd": world.volume.sd,
        "volume_drift_memory": world.volume.memory,
    }


def price_value_tau(world: AuctionWorld, highest: float) -> float:
    """Kendall's tau of a value's stratum and its price, prices above `highest` counted as alike: does value cost more?

    Of two auctions the chance that the higher stratum is the dearer, less the chance that it is the cheaper.
    """
    at_most = win_rates(world, world.points[world.points <= highest], world.level.mean, world.level.sd)
    # The last column gathers all that is dearer.
    at_most = np.pad(at_most, ((0, 0), (0, 1)), constant_values=1.0)
    mass = np.diff(at_most, axis=1, prepend=0.0)
    # [s,r]: the chance that a price of stratum s is below one of stratum r.
    below = np.pad(at_most, ((0, 0), (1, 0)))[:, :-1] @ mass.T
    pairs = np.triu(np.outer(world.share, world.share), 1)
    return float(2.0 * (pairs * (below - below.T)).sum())
