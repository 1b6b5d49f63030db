"""Clicks per predicted click by value stratum: a trend over the strata, and each stratum's own way (Gamma-Poisson)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Floats = NDArray[np.float64]

_LEVELS = np.linspace(-4.5, 4.5, 121)
_TRENDS = np.linspace(-1.2, 1.2, 25)
_SPREAD_EDGES = np.geomspace(0.05, 1.0, 11)
_SPREADS = np.sqrt(_SPREAD_EDGES[1:] * _SPREAD_EDGES[:-1])
_LEVEL_STEP = float(_LEVELS[1] - _LEVELS[0])
_TREND_STEP = float(_TRENDS[1] - _TRENDS[0])
_SPREAD_STEP = float(np.log(_SPREADS[1] / _SPREADS[0]))
LEVEL, TREND, SPREAD = (grid.reshape(-1) for grid in np.meshgrid(_LEVELS, _TRENDS, _SPREADS, indexing="ij"))
"""The grid of what strata share: log clicks per predicted click at the middle value; its change per standard deviation
of the value's normal score; and how far a stratum strays from that, as a share of it."""
_WEIGHT = SPREAD * np.exp(-0.5 * ((LEVEL / 1.5) ** 2 + (TREND / 0.5) ** 2))
PRIOR: Floats = np.cumsum(_WEIGHT) / _WEIGHT.sum()
"""Cumulated along the grid, [G]. Level Normal(0, 1.5) and trend Normal(0, 0.5), for predictions may be tenfold wrong
and too confident; spread uniform on 0.05 to 1, so that points of a geometric grid weigh as much as it."""


@dataclass(frozen=True, kw_only=True)
class ClickCalibration:
    """Clicks seen and predicted on auctions won, by stratum, [S]; the cumulated posterior of what they share, [G].

    place [S]: where the stratum's predicted clicks lie, as a normal score of the value. Clicks per predicted click are
    Gamma with mean exp(level + trend x place) and standard deviation spread x mean; clicks are Poisson.
    """

    place: Floats
    predicted: Floats
    clicks: Floats
    cumulative: Floats

    @property
    def identified(self) -> NDArray[np.bool_]:
        """Where anything was won, [S]; elsewhere the log does not tell how often people click."""
        return self.predicted > 0

    def draw(self, rng: np.random.Generator) -> Floats:
        """One draw of clicks per predicted click, [S]; of a stratum in which nothing was won: from the prior."""
        shape, mean = self._shared(self.cumulative, rng)
        drawn = rng.gamma(shape + self.clicks, 1.0 / (shape / mean + self.predicted))
        shape, mean = self._shared(PRIOR, rng)
        return np.where(self.identified, drawn, rng.gamma(shape, mean / shape))

    def _shared(self, cumulative: Floats, rng: np.random.Generator) -> tuple[float, Floats]:
        """A draw of the Gamma's shape and of its mean by stratum, [S]; spread evenly within a cell of the grid."""
        at = int(np.searchsorted(cumulative[:-1], rng.random()))
        level = LEVEL[at] + _LEVEL_STEP * (rng.random() - 0.5)
        trend = TREND[at] + _TREND_STEP * (rng.random() - 0.5)
        spread = SPREAD[at] * np.exp(_SPREAD_STEP * (rng.random() - 0.5))
        return float(spread**-2), np.exp(level + trend * self.place)


def calibrate_clicks(place: Floats, predicted: Floats, clicks: Floats) -> ClickCalibration:
    """The fit; [S] each, as in ClickCalibration: sums over the auctions won.

    The strata are integrated out: given what they share their clicks are negative binomial. Source: Gelman et al.
    (2013), Bayesian Data Analysis, section 2.6.
    """
    told = predicted > 0
    likelihood = np.zeros(len(LEVEL))
    shape = SPREAD**-2
    for at, exposure, k in zip(place[told], predicted[told], clicks[told], strict=True):
        rate = shape * np.exp(-LEVEL - TREND * at)
        ways = (gammaln(_SPREADS**-2 + k) - gammaln(_SPREADS**-2))[np.arange(len(LEVEL)) % len(_SPREADS)]
        likelihood += ways + shape * np.log(rate) - (shape + k) * np.log(rate + exposure)
    cumulative = np.cumsum(_WEIGHT * np.exp(likelihood - likelihood.max()))
    return ClickCalibration(
        place=place, predicted=predicted, clicks=clicks, cumulative=cumulative / cumulative[-1]
    )
