"""Auction logs made by a plain recipe of known parameters, which shares no code with the fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from gaelp.logs.bids import BidLog

HIGHEST = 75.0
"""The constant bidder's bid."""
BIDS = (20, 40, 55, 70)
"""Where win rates are asked."""
PARTS = np.array([*np.arange(1, 9) / 9, 0.99])
"""Upper ends, as shares of all values, of the parts with click rates of their own: as the fit cuts 4,800 auctions."""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """What is put in. Log price = 4 + value_slope x + level of the block + price_sd e, x the log value's own normal score."""

    auctions: int = 4800
    blocks: int = 48
    value_slope: float = 0.25
    price_sd: float = 0.6
    drift_sd: float = 0.25
    drift_memory: float = 0.6
    zero_share: float = 0.02
    calibration: float = 1.3
    """Clicks per predicted click at the middle value; it falls by a fifth per standard deviation of the log value, and
    each of PARTS has a factor of its own, drawn with standard deviation 0.3."""
    per_hour: float = 2000.0
    volume_sd: float = 0.3
    volume_memory: float = 0.5
    bid: str = "constant"

    @property
    def total_sd(self) -> float:
        return float(np.sqrt(self.value_slope**2 + self.drift_sd**2 + self.price_sd**2))

    @property
    def zero_below(self) -> float:
        """Log prices below this are zeros: the share of zeros in the long run."""
        return float(4.0 + self.total_sd * norm.ppf(self.zero_share))

    def win_rate(self, bid: float) -> float:
        """P(price <= bid) in the long run; bid a whole number of at least 1 that exceeds the dearest zero."""
        return float(norm.cdf((np.log(bid) - 4.0) / self.total_sd))

    def truth(self, own: np.ndarray, edges: np.ndarray, highest: float) -> dict[str, float]:
        """What the fit should find of one log, by the fit's names; `own` as drawn, strata as cut at `edges`.

        Integrals over the value's normal score x, at 20,000 points of equal probability.
        """
        x = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
        value = value_of(x)
        stratum = np.searchsorted(edges, value)
        clicks = value * self.calibration * 0.8**x * own[part(x)]
        predicted = np.bincount(stratum, value)
        by_stratum = np.bincount(stratum, clicks) / predicted
        return {
            **{f"win_rate_at_{bid}": self.win_rate(bid) for bid in BIDS},
            "zero_price_share": self.zero_share,
            "price_value_tau": self._tau(x[::10], stratum[::10], highest),
            "price_drift_sd": self.drift_sd / self.price_sd,
            "price_drift_memory": self.drift_memory,
            "clicks_per_predicted_click": float(clicks.sum() / value.sum()),
            **{f"click_calibration_{s + 1}": float(rate) for s, rate in enumerate(by_stratum)},
            "auctions_per_hour": self.per_hour,
            "volume_drift_sd": self.volume_sd,
            "volume_drift_memory": self.volume_memory,
        }

    def _tau(self, x: np.ndarray, stratum: np.ndarray, highest: float) -> float:
        log_price = np.maximum(np.log(np.maximum(np.arange(highest + 1), 1e-9)), self.zero_below)
        sd = np.hypot(self.drift_sd, self.price_sd)
        at_most = norm.cdf((log_price - 4.0 - self.value_slope * x[:, None]) / sd)
        rows = np.stack([at_most[stratum == s].sum(0) for s in range(stratum.max() + 1)]) / len(x)
        share = np.bincount(stratum) / len(x)
        mass = np.diff(np.column_stack([np.zeros(len(rows)), rows, share]))
        below = np.cumsum(mass, axis=1) - mass
        return float(2 * np.triu(below @ mass.T - mass @ below.T, 1).sum())


def value_of(x: np.ndarray) -> np.ndarray:
    return np.exp(-4.0 + 0.6 * x)


def part(x: np.ndarray) -> np.ndarray:
    return np.searchsorted(PARTS, norm.cdf(x))


def wandering(sd: float, memory: float, rng: np.random.Generator, blocks: int = 48) -> np.ndarray:
    level = np.empty(blocks)
    level[0] = rng.normal(0, sd)
    for b in range(1, blocks):
        level[b] = memory * level[b - 1] + rng.normal(0, sd * np.sqrt(1 - memory**2))
    return level


@dataclass(frozen=True)
class PlantedLog:
    """A log, the same with every price shown, and what was drawn for it: each part's own factor in its clicks."""

    log: BidLog
    shown: BidLog
    own: np.ndarray


def planted(told: Planted, seed: int) -> PlantedLog:
    rng = np.random.default_rng(seed)
    n = told.auctions
    block = np.arange(n) * told.blocks // n
    x = rng.normal(size=n)
    value = value_of(x)
    level = wandering(told.drift_sd, told.drift_memory, rng, told.blocks)
    log_price = 4.0 + told.value_slope * x + level[block] + told.price_sd * rng.normal(size=n)
    price = np.ceil(np.exp(log_price))
    price[log_price < told.zero_below] = 0.0
    rate = np.exp(wandering(told.volume_sd, told.volume_memory, rng, told.blocks)) * told.per_hour
    time_s = np.cumsum(rng.exponential(3600.0 / rate[block]))
    own = rng.gamma(1 / 0.3**2, 0.3**2, len(PARTS) + 1)
    click = rng.random(n) < np.minimum(value * told.calibration * 0.8**x * own[part(x)], 1.0)
    if told.bid == "constant":
        bid = np.full(n, HIGHEST)
    elif told.bid == "by value":  # dearer auctions get higher bids, with noise
        bid = np.round(HIGHEST * np.exp(0.15 * x + rng.normal(0, 0.4, n)))
    else:  # follows the price level, as a pacer with a target cost does
        bid = np.round(HIGHEST * np.exp(0.8 * level[block] + rng.normal(0, 0.2, n)))
    won = bid >= price
    log = BidLog(
        bid=bid,
        won=won,
        price=np.where(won, price, np.nan),
        value=value,
        click=(click & won).astype(np.int8),
        time_s=time_s,
    )
    shown = BidLog(
        bid=np.full(n, np.inf),
        won=np.ones(n, bool),
        price=price,
        value=value,
        click=click.astype(np.int8),
        time_s=time_s,
    )
    return PlantedLog(log, shown, own)
