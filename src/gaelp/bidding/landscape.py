"""The bid landscape: what a line item's bid buys, as fitted from its own reports. Knows nothing of worlds.

The price per click at which an auction is won, r, is log-normal: log r ~ N(price_mean, price_sd^2). An
auction's expected clicks v move with its price, Cov(log v, log r) = clicks_price * price_sd. With
z = (log bid - price_mean) / price_sd, exponential tilting of the normal gives, per eligible auction:

    P(win)    = Phi(z)
    E[clicks] = click_rate * Phi(z - clicks_price)
    E[cost]   = click_rate * cost_scale * exp(price_mean + price_sd (clicks_price + price_sd / 2))
                * Phi(z - clicks_price - price_sd)

Derived here; the log-normal landscape itself is the usual one of the bidding literature.
"""

from __future__ import annotations

import hashlib
from types import ModuleType
from typing import NamedTuple

import numpy as np

from gaelp.core.xp import Array

GRID = 48
GRID_LOW, GRID_HIGH = -2.6, 2.2
"""The pacer's multipliers, in price_sd around price_mean: from about 0.5 % to 98.6 % of the auctions."""


class Landscape(NamedTuple):
    """G line items; float arrays [G] unless said. Rates are per eligible auction, money in currency units."""

    price_mean: Array
    price_sd: Array
    clicks_price: Array
    click_rate: Array
    cost_scale: Array
    conversion_rate: Array
    """Conversions per click as calibrated on average over the history's own exposure."""
    volume: Array
    """Eligible auctions on an ordinary day."""
    traffic: Array
    """[G,48] share of the day's auctions by half hour; rows sum to 1."""
    price_hour: Array
    """[G,48] log price by half hour around its mean."""
    price_day_sd: Array
    """Between days, standard deviation of the log price level."""
    arrival: Array
    """Chance that a pending conversion arrives within one half hour (geometric delay)."""
    clicks_left: Array
    """[G,48,K] clicks from half hour t to the end of an ordinary day at grid multiplier k."""
    cost_left: Array
    """[G,48,K] the same for cost."""
    traffic_left: Array
    """[G,49] share of the day's auctions still to come."""


def grid(xp: ModuleType) -> Array:
    """The K multipliers of the pacer in units of price_sd."""
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


def tabulate(
    *, price_mean: Array, price_sd: Array, clicks_price: Array,
    click_rate: Array, cost_scale: Array, conversion_rate: Array,
    volume: Array, traffic: Array, price_hour: Array,
    price_day_sd: Array, arrival: Array,
) -> Landscape:  # fmt: skip
    """Build a Landscape from fitted parameters: add what is left of the day at every multiplier (NumPy)."""
    sd, rho = price_sd[:, None, None], clicks_price[:, None, None]
    z = grid(np)[None, None, :] - price_hour[:, :, None] / sd
    clicks = click_rate[:, None, None] * normal_cdf(z - rho, np)
    level = np.exp(price_mean[:, None, None] + price_hour[:, :, None] + sd * (rho + sd / 2))
    cost = click_rate[:, None, None] * cost_scale[:, None, None] * level * normal_cdf(z - rho - sd, np)
    flow = (volume[:, None] * traffic)[:, :, None]

    def left(per_auction: Array) -> Array:
        return np.cumsum((flow * per_auction)[:, ::-1], axis=1)[:, ::-1]

    to_come = np.concatenate(
        [np.cumsum(traffic[:, ::-1], axis=1)[:, ::-1], np.zeros((len(volume), 1))], axis=1
    )
    return Landscape(
        price_mean, price_sd, clicks_price, click_rate, cost_scale, conversion_rate, volume, traffic,
        price_hour, price_day_sd, arrival, left(clicks), left(cost), to_come,
    )  # fmt: skip


def landscape_hash(landscape: Landscape) -> str:
    """Identity of a calibrated landscape: sha256 over its arrays as float64, 16 hex digits."""
    digest = hashlib.sha256()
    for name, array in zip(landscape._fields, landscape, strict=True):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return digest.hexdigest()[:16]
