"""What no policy can beat on a recorded log, and the best single multiplier known afterwards; both see every price."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.stream import HIGHEST_MULTIPLIER
from gaelp.market.replay import VALUE_UNITS, value_units
from gaelp.market.stretch import Stretch, won_by_bids

_FINEST_STEP = 2.0**-10
"""The search for the best multiplier stops at steps of this, in log2."""
_QUANTILES = 17


@dataclass(frozen=True)
class LpBound:
    """The fractional knapsack's value, summed over episodes; `whole_until`: [episodes] the price per pCTR up to which
    an episode buys whole auctions (0 where it buys none)."""

    value: float
    whole_until: NDArray[np.float64]


def lp_bound(stretch: Stretch) -> LpBound:
    """The LP bound: in each episode maximise the sum of pCTR x, x in [0, 1], with the sum of price x within the budget.

    The greedy rule is exact: by price per pCTR, cheapest first, and of the first that does not fit the part that does
    (Dantzig, 1957). Auctions priced above the highest allowed bid are left out, for no policy can win them.
    Money and values are summed as integers; the result is rounded once.
    """
    price, value = stretch.auctions.price, stretch.auctions.value
    highest = stretch.max_bid
    worth = (price == 0) | (value > 0.0)
    offered = np.flatnonzero(worth if highest is None else worth & (price <= highest))
    price, value, episode = price[offered], value[offered], stretch.episode[offered]
    with np.errstate(over="ignore", divide="ignore"):
        ratio = np.where(price == 0, 0.0, price / np.where(price == 0, 1.0, value))
    order = np.lexsort((ratio, episode))
    price, value, ratio = price[order], value[order], ratio[order]

    edges = np.searchsorted(episode, np.arange(stretch.episodes + 1))
    spent = np.concatenate([[0], np.cumsum(price)])
    spent_in_episode = spent[1:] - spent[edges[:-1]][episode]
    whole = spent_in_episode <= stretch.allowance
    wholes = np.concatenate([[0], np.cumsum(whole)])
    first_partial = edges[:-1] + wholes[edges[1:]] - wholes[edges[:-1]]

    units = value_units(value[whole])
    for k in first_partial[first_partial < edges[1:]].tolist():
        part = (stretch.budget - (int(spent_in_episode[k]) - int(price[k]))) / int(price[k])
        units += value_units(value[k : k + 1]) * part.numerator // part.denominator
    last_whole = np.where(first_partial > edges[:-1], first_partial - 1, -1)
    return LpBound(units / VALUE_UNITS, np.where(last_whole >= 0, np.append(ratio, 0.0)[last_whole], 0.0))


def best_multiplier(stretch: Stretch, bound: LpBound) -> float:
    """The single multiplier that buys most value on the stretch, as far as a search finds it.

    With one budget its start, the last price per pCTR that the LP buys whole, is within one auction of the LP's value.
    With several it is the best of quantiles of those. Then steps of half an octave, each half as long as the one
    before, as long as the value rises.
    """
    # A hair above, because price / pCTR x pCTR may round to less than the price.
    starts = np.unique(np.quantile(bound.whole_until, np.linspace(0.0, 1.0, _QUANTILES), method="nearest"))
    best, most = 0.0, -1.0
    for multiplier in np.minimum(np.nextafter(starts, np.inf), HIGHEST_MULTIPLIER).tolist():
        best, most = _better(stretch, multiplier, best, most)
    step = 0.5
    while step >= _FINEST_STEP:
        centre = best
        for direction in (-step, step):
            best, most = _better(stretch, centre * 2.0**direction, best, most)
        step /= 2.0
    return best


def _better(stretch: Stretch, multiplier: float, best: float, most: float) -> tuple[float, float]:
    value = stretch.auctions.value
    got = float(value[won_by_bids(stretch, multiplier * value)].sum())
    return (multiplier, got) if got > most else (best, most)


def lp_values(
    price: NDArray[np.integer], value: NDArray[np.floating], budget: int, max_bid: int
) -> NDArray[np.float64]:
    """The LP bound of many episodes at once, [B], in float64: as `lp_bound`, whose sums are exact.

    price, value: [B,N]; every episode has the same budget.
    """
    offered = price <= max_bid
    worth = np.where(offered, value, 0.0).astype(np.float64)
    cost = np.where(offered, price, 0).astype(np.float64)
    paid = cost > 0
    ratio = np.where(paid, np.inf, 0.0)
    np.divide(cost, worth, out=ratio, where=paid & (worth > 0))
    order = np.argsort(ratio, axis=1, kind="stable")
    cost, worth = np.take_along_axis(cost, order, 1), np.take_along_axis(worth, order, 1)
    left = budget - (np.cumsum(cost, axis=1) - cost)
    part = np.clip(np.where(cost > 0, left, 1.0) / np.where(cost > 0, cost, 1.0), 0.0, 1.0)
    bound: NDArray[np.float64] = (part * worth).sum(axis=1)
    return bound
