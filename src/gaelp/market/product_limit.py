"""Win-rate curves from censored prices: product-limit estimates by value stratum and daypart, and draws of their doubt.

A won auction shows its price, a lost one only that the price was above the bid. Assumed: within a value stratum
and a sixth of the log the bid was chosen without knowing the price. Nothing is assumed about the prices' shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import BadInput
from gaelp.logs.bids import BidLog

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAYPARTS = 6
"""Curves are made in so many equal parts of the log: a bid that follows the price level would bend a pooled one."""
MOST_POINTS = 400
FEWEST_BIDS = 30
"""A curve is told up to the bid that so many auctions of the stratum reached; fewer tell a step, not a curve."""
UNSEEN = 1.0
"""Auctions' worth of prior mass above every price seen, shared by all cells: no log shows the highest price of all."""


@dataclass(frozen=True, kw_only=True)
class PriceCounts:
    """What the log shows of prices, at J points, by S value strata and DAYPARTS; all a product-limit curve needs.

    points [J]: prices, rising; distinct: whether they are all the prices seen, or upper ends of bins.
    events [S,DAYPARTS,J]: auctions won at that point's price; at_risk: those whose price is not below the point and
    whose bid reaches it. auctions [S,DAYPARTS]. identified_to [S]: the highest bid up to which the curve is told.
    """

    points: Floats
    distinct: bool
    events: Ints
    at_risk: Ints
    auctions: Ints
    identified_to: Floats

    @property
    def share(self) -> Floats:
        """The strata's shares of the auctions, [S]."""
        by_stratum = self.auctions.sum(1)
        share: Floats = by_stratum / by_stratum.sum()
        return share

    @property
    def everywhere(self) -> float:
        """The highest bid at which the win rate is told in every stratum; inf when every price is shown."""
        return float(self.identified_to.min())


@dataclass(frozen=True)
class Cells:
    """Where each auction of a log is counted, [n]: its stratum, daypart, and the point it was won at or lost after.

    point: where won, the index of its price's point; where lost, the last point that its bid reached, -1 if none.
    """

    stratum: Ints
    daypart: Ints
    point: Ints
    won: NDArray[np.bool_]


def cells_of(log: BidLog, stratum: Ints, identified_to: Floats, points: Floats) -> Cells:
    """Count places of the log's auctions. A price within a bin that its bid reaches only in part counts as lost."""
    bid = np.minimum(log.bid, identified_to[stratum])
    reach = np.searchsorted(points, bid, side="right") - 1
    # NaN sorts last, so a lost auction's point is beyond every reach.
    point = np.searchsorted(points, log.price, side="left")
    won = log.won & (point <= reach)
    daypart = np.arange(len(log)) * DAYPARTS // len(log)
    return Cells(stratum, daypart, np.where(won, point, reach), won)


def count_prices(log: BidLog, stratum: Ints, strata: int) -> PriceCounts:
    """The log's counts; stratum [n] in 0..strata-1. Raises BadInput when nothing was won: no price was ever seen."""
    if not log.won.any():
        raise BadInput(f"none of the {len(log)} auctions was won, so the log shows no price.")
    identified_to = np.array([_reached(log.bid[stratum == s]) for s in range(strata)])
    points, distinct = _points(log.price[log.won & (log.price <= identified_to[stratum])])
    cells = cells_of(log, stratum, identified_to, points)
    shape = (strata, DAYPARTS, len(points))
    cell = cells.stratum * DAYPARTS + cells.daypart
    at = cell * len(points) + cells.point
    size = int(np.prod(shape))
    events = np.bincount(at[cells.won], minlength=size).reshape(shape)
    leaving = np.bincount(at[cells.point >= 0], minlength=size).reshape(shape)
    return PriceCounts(
        points=points,
        distinct=distinct,
        events=events,
        at_risk=leaving[..., ::-1].cumsum(-1)[..., ::-1],
        auctions=np.bincount(cell, minlength=strata * DAYPARTS).reshape(strata, DAYPARTS),
        identified_to=identified_to,
    )


def _reached(bids: Floats) -> float:
    """The bid that FEWEST_BIDS auctions reached, or all of them where there are fewer; inf where there is none."""
    if not len(bids):
        return np.inf
    rank = min(FEWEST_BIDS, len(bids))
    return float(np.partition(bids, len(bids) - rank)[len(bids) - rank])


def _points(price: Floats) -> tuple[Floats, bool]:
    """All the prices seen, or quantiles of them as upper ends of bins where they are too many."""
    if not len(price):
        raise BadInput(
            f"no price was seen at bids that {FEWEST_BIDS} auctions of a value stratum reached; a longer log is needed."
        )
    seen = np.unique(price)
    if len(seen) <= MOST_POINTS:
        return seen, True
    ends = np.unique(np.quantile(price, np.linspace(0, 1, MOST_POINTS), method="higher"))
    return ends, False


def curve(counts: PriceCounts) -> Floats:
    """The log's own win rate at each point by stratum, [S,J]: P(price <= point), averaged over the dayparts.

    Source: Kaplan and Meier (1958). A daypart's hazard beyond its own highest bid is that of the whole stratum.
    """
    pooled = _ratio(counts.events.sum(1), counts.at_risk.sum(1))
    return _mixed(counts, _ratio(counts.events, counts.at_risk), pooled)


def draw_curve(counts: PriceCounts, rng: np.random.Generator) -> Floats:
    """One draw of `curve` from its posterior, [S,J].

    Hazards are independent Beta(events, survivors + prior mass): the beta-Stacy posterior under a prior of almost no
    weight, the Bayesian bootstrap of a product-limit curve. Source: Lo (1993); Walker and Muliere (1997).
    """
    pooled = _beta(counts.events.sum(1), counts.at_risk.sum(1), UNSEEN / len(counts.events), rng)
    own = _beta(counts.events, counts.at_risk, UNSEEN / counts.auctions.size, rng)
    return _mixed(counts, own, pooled)


def _mixed(counts: PriceCounts, own: Floats, pooled: Floats) -> Floats:
    hazard = np.where(counts.at_risk > 0, own, pooled[:, None])
    rate = 1.0 - np.cumprod(1.0 - hazard, axis=-1)
    weight = counts.auctions / np.maximum(counts.auctions.sum(1, keepdims=True), 1)
    mixed: Floats = np.einsum("sc,scj->sj", weight, rate)
    # Shares of a third and the like add up to a little more than 1.
    return mixed.clip(0.0, 1.0)


def _ratio(events: Ints, at_risk: Ints) -> Floats:
    ratio: Floats = events / np.maximum(at_risk, 1)
    return ratio


def _beta(events: Ints, at_risk: Ints, unseen: float, rng: np.random.Generator) -> Floats:
    drawn = np.zeros(events.shape)
    some = events > 0
    drawn[some] = rng.beta(events[some], (at_risk - events)[some] + unseen)
    return drawn
