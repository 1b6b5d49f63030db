"""The bid landscape: what a line item's bid buys, as fitted from its own reports. Knows nothing of worlds.

The highest competing price per click, r, is log-normal: log r ~ N(price_mean, price_sd^2). An auction's expected
clicks v move with its price, Cov(log v, log r) = clicks_price * price_sd. With z = (log bid - price_mean) / price_sd,
exponential tilting of the normal gives in second price, per eligible auction:

    P(win)    = Phi(z)
    E[clicks] = click_rate * Phi(z - clicks_price)
    E[cost]   = click_rate * cost_scale * exp(price_mean + price_sd (clicks_price + price_sd / 2))
                * Phi(z - clicks_price - price_sd)

In first price the cost is the bid times the clicks. In GSP the competing prices below the highest one lie apart by
exponential gaps, log r_s - log r_(s+1) = slot_gap * E_s with E_s ~ Exp(1), and expectations are taken over a fixed
sample. Derived here; the log-normal landscape itself is the usual one of the bidding literature.

One multiplier steers all line items: the worth kappa of a click, in money. At each half hour the bid is the one that
maximises kappa * clicks - cost on that half hour's response: kappa itself in second price, shaded in the other two.
"""

from __future__ import annotations

import hashlib
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.rules import SECOND_PRICE, Format, Rules
from gaelp.core.errors import BadInput
from gaelp.core.xp import Array

GRID = 48
GRID_LOW, GRID_HIGH = -2.6, 2.2
"""The pacer's multipliers, in price_sd around price_mean: from about 0.5 % to 98.6 % of the auctions."""

_FINE = 193
"""Bids tried for the best response to each multiplier: four between two points of the grid."""
_DRAWS = 4096
"""Sampled auctions behind the expectations of GSP."""


class Landscape(NamedTuple):
    """G line items; float arrays [G] unless said. Rates are per eligible auction, money in currency units."""

    price_mean: Array
    price_sd: Array
    clicks_price: Array
    click_rate: Array
    cost_scale: Array
    conversion_rate: Array
    """Conversions per click as calibrated on average over the history's own exposure."""
    order_value: Array
    """Currency units per conversion, refunds taken off."""
    volume: Array
    """Eligible auctions on an ordinary day."""
    traffic: Array
    """[G,48] share of the day's auctions by half hour; rows sum to 1."""
    price_hour: Array
    """[G,48] log price by half hour around its mean."""
    price_day_sd: Array
    """Between days, standard deviation of the log price level."""
    delay_share: Array
    """[G,2] how conversions divide between a fast and a slow delay; rows sum to 1."""
    delay_rate: Array
    """[G,2] chance that a pending conversion of either kind arrives within one half hour (geometric delays)."""
    slot_gap: Array
    """Mean log distance between one competing price and the next lower one; matters in GSP only."""
    win_shift: Array
    """What must be bid to be shown at all: log price of the last slot against price_mean."""
    win_sd: Array
    shade: Array
    """[G,48,K] best bid at each half hour and multiplier, in price_sd above the multiplier (0 in second price)."""
    clicks_left: Array
    """[G,48,K] clicks from half hour t to the end of an ordinary day at grid multiplier k."""
    cost_left: Array
    """[G,48,K] the same for cost."""
    traffic_left: Array
    """[G,49] share of the day's auctions still to come."""


def grid(xp: ModuleType) -> Array:
    """The pacer's multipliers, [K], in price_sd around price_mean."""
    return xp.linspace(GRID_LOW, GRID_HIGH, GRID)


def normal_cdf(x: Array, xp: ModuleType) -> Array:
    """Phi(x)."""
    if xp is np:
        from scipy.special import ndtr
    else:
        from jax.scipy.special import ndtr
    return ndtr(x)


def normal_quantile(p: Array, xp: ModuleType) -> Array:
    """Phi^-1(p)."""
    if xp is np:
        from scipy.special import ndtri
    else:
        from jax.scipy.special import ndtri
    return ndtri(p)


class Response(NamedTuple):
    """What bids buy per eligible auction: clicks, and cost in units of exp(price level)."""

    clicks: Array
    cost: Array


def response(
    rules: Rules, z: NDArray[np.float64], *, sd: float, clicks_price: float, slot_gap: float
) -> Response:
    """Clicks per click_rate, cost per click_rate * exp(level), at bids `z` (any shape, in sd around the level)."""
    if rules.format is Format.GSP:
        return _gsp_response(rules, z, sd, clicks_price, slot_gap)
    clicks = normal_cdf(z - clicks_price, np)
    if rules.format is Format.FIRST_PRICE:
        return Response(clicks, np.exp(sd * z) * clicks)
    return Response(clicks, np.exp(sd * (clicks_price + sd / 2)) * normal_cdf(z - clicks_price - sd, np))


def _gsp_response(
    rules: Rules, z: NDArray[np.float64], sd: float, clicks_price: float, slot_gap: float
) -> Response:
    """The sample's own sums: every auction between the prices of two slots is won in the lower of them."""
    rng = np.random.default_rng(7919)
    eps = normal_quantile((np.arange(_DRAWS) + 0.5) / _DRAWS, np)
    gaps = rng.exponential(size=(rules.slots - 1, _DRAWS))
    worth = np.exp(clicks_price * eps - 0.5 * clicks_price**2) / _DRAWS
    top = sd * eps
    prices = np.concatenate([top[None], top - slot_gap * np.cumsum(gaps, axis=0)])
    bid = sd * z
    clicks, cost = np.zeros_like(z), np.zeros_like(z)
    above = np.full(_DRAWS, np.inf)
    for price, exposure in zip(prices, rules.exposure, strict=True):
        # Clicks bought at this slot's price, less those of auctions in which a higher slot is won.
        for edge, sign in ((price, 1.0), (above, -1.0)):
            order = np.argsort(edge)
            reached = np.searchsorted(edge[order], bid, side="right")
            for total, each in ((clicks, worth), (cost, worth * np.exp(price))):
                total += sign * exposure * np.concatenate([[0.0], np.cumsum(each[order])])[reached]
        above = price
    return Response(clicks, cost)


def tabulate(
    *, rules: Rules = SECOND_PRICE, price_mean: Array, price_sd: Array, clicks_price: Array,
    click_rate: Array, cost_scale: Array, conversion_rate: Array, order_value: Array,
    volume: Array, traffic: Array, price_hour: Array,
    price_day_sd: Array, delay_share: Array, delay_rate: Array, slot_gap: Array,
) -> Landscape:  # fmt: skip
    """Build a Landscape from fitted parameters: add what is left of the day at every multiplier (NumPy).

    Raises BadInput for rules with a reserve: fitted prices are those that must be beaten, whoever sets them.
    """
    if rules.reserve:
        raise BadInput(
            f"reserve is {rules.reserve}, expected 0: a landscape's prices are those that must be beaten, a reserve "
            "among them."
        )
    z = grid(np)
    fine = np.linspace(GRID_LOW - 1.5, GRID_HIGH, _FINE)
    shade, clicks, cost = (np.zeros((*traffic.shape, GRID)) for _ in range(3))
    shift, spread = np.zeros(len(volume)), price_sd.astype(np.float64).copy()
    for g in range(len(volume)):
        sd = float(price_sd[g])
        told = {"sd": sd, "clicks_price": float(clicks_price[g]), "slot_gap": float(slot_gap[g])}
        hour = price_hour[g][:, None]
        bid = np.broadcast_to(z, (len(hour), GRID))
        if rules.format is not Format.SECOND_PRICE:
            tried = response(rules, fine - hour / sd, **told)
            gain = (
                np.exp(sd * z)[None, :, None] * tried.clicks[:, None]
                - np.exp(hour)[:, :, None] * tried.cost[:, None]
            )
            # Among bids that earn the same the lowest: past the last price that is known nothing is gained.
            bid = fine[np.argmax(gain, axis=-1)]
        bought = response(rules, bid - hour / sd, **told)
        shade[g] = bid - z
        clicks[g] = click_rate[g] * bought.clicks
        cost[g] = click_rate[g] * cost_scale[g] * np.exp(price_mean[g] + hour) * bought.cost
        if rules.format is Format.GSP:
            # The last slot's price: the top one less slots - 1 exponential gaps, taken as normal.
            shift[g] = -slot_gap[g] * (rules.slots - 1)
            spread[g] = np.hypot(sd, slot_gap[g] * np.sqrt(rules.slots - 1))
    flow = (volume[:, None] * traffic)[:, :, None]

    def left(per_auction: Array) -> Array:
        return np.cumsum((flow * per_auction)[:, ::-1], axis=1)[:, ::-1]

    to_come = np.concatenate(
        [np.cumsum(traffic[:, ::-1], axis=1)[:, ::-1], np.zeros((len(volume), 1))], axis=1
    )
    return Landscape(
        price_mean, price_sd, clicks_price, click_rate, cost_scale, conversion_rate, order_value, volume, traffic,
        price_hour, price_day_sd, delay_share, delay_rate, slot_gap, shift, spread, shade, left(clicks), left(cost),
        to_come,
    )  # fmt: skip


def landscape_hash(landscape: Landscape) -> str:
    """Identity of a calibrated landscape: sha256 over its arrays as float64, 16 hex digits."""
    digest = hashlib.sha256()
    for name, array in zip(landscape._fields, landscape, strict=True):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return digest.hexdigest()[:16]
