"""Made-up second-price auction logs of many kinds, with weather: levels that wander, drift, swing or jump."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaelp.logs.theta import ThetaAuctions

TYPICAL_PRICE, PRICE_SPREAD, HIGHEST_PRICE = 50, 0.9, 300
ROUND = np.array([5, 10, 19, 20, 40, 50, 64, 70, 80, 100, 150, 200, 300])
"""Prices that many rivals bid."""
TYPICAL_PCTR, HIGHEST_PCTR = 1e-3, 0.95
_POINTS = 192
_KEPT = 0.95
"""Of a wandering level, from one of 192 points to the next: it forgets within five half hours."""


@dataclass(frozen=True, kw_only=True)
class LogKind:
    """log pCTR has the standard deviation `spread`, log price 0.9; `correlation` is theirs.

    wander, value_wander: standard deviation of a level of log price, of log pCTR, that returns to its mean within
    hours. drift, value_drift: that of a random walk over the whole log. swing: amplitude of one sine in the price
    level. jump: the price level moves by so much, up or down, at one moment. round_prices: the share of prices drawn
    to a round number. zero_prices: the share that is 0. Prices are whole, 0 to 300; pCTRs have six decimals.
    """

    auctions: int
    spread: float
    correlation: float
    wander: float = 0.0
    value_wander: float = 0.0
    drift: float = 0.0
    value_drift: float = 0.0
    swing: float = 0.0
    jump: float = 0.0
    round_prices: float = 0.3
    zero_prices: float = 0.0


def auction_log(kind: LogKind, seed: int) -> ThetaAuctions:
    """A log of this kind; clicks are drawn from the pCTRs."""
    rng = np.random.default_rng(seed)
    n, time = kind.auctions, np.arange(kind.auctions) / kind.auctions
    level = _level(rng, kind.wander, kind.drift, time)
    level += kind.swing * np.sin(2 * np.pi * (time + rng.random()))
    level += kind.jump * rng.choice([-1, 1]) * (time > rng.uniform(0.2, 0.8))
    common, own = rng.normal(size=(2, n))
    value_level = _level(rng, kind.value_wander, kind.value_drift, time) - kind.spread**2 / 2
    value = np.round(np.minimum(TYPICAL_PCTR * np.exp(kind.spread * common + value_level), HIGHEST_PCTR), 6)
    noise = kind.correlation * common + np.sqrt(1 - kind.correlation**2) * own
    price = TYPICAL_PRICE * np.exp(PRICE_SPREAD * noise + level)
    price = np.clip(np.rint(price), 0, HIGHEST_PRICE).astype(np.int64)
    drawn = rng.random(n) < kind.round_prices
    price[drawn] = ROUND[np.abs(price[drawn][:, None] - ROUND).argmin(axis=1)]
    price[rng.random(n) < kind.zero_prices] = 0
    return ThetaAuctions(click=(rng.random(n) < value).astype(np.int8), price=price, value=value)


def _level(
    rng: np.random.Generator, wander: float, drift: float, time: NDArray[np.float64]
) -> NDArray[np.float64]:
    walk = np.cumsum(rng.normal(size=_POINTS + 1)) * drift / np.sqrt(_POINTS)
    wandering = np.empty(_POINTS + 1)
    wandering[0], steps = rng.normal(), rng.normal(size=_POINTS) * np.sqrt(1 - _KEPT**2)
    for point in range(_POINTS):
        wandering[point + 1] = _KEPT * wandering[point] + steps[point]
    return np.interp(time, np.linspace(0, 1, _POINTS + 1), walk + wander * wandering)
