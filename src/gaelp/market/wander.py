"""Levels that wander from block to block as an autoregression, told from the noise with which each was measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SD_EDGES, _MEMORY_EDGES = np.geomspace(0.01, 2.0, 49), np.linspace(0.0, 0.98, 27)
_SDS, _MEMORIES = np.sqrt(_SD_EDGES[1:] * _SD_EDGES[:-1]), (_MEMORY_EDGES[1:] + _MEMORY_EDGES[:-1]) / 2
_SD_STEP = float(np.log(_SDS[1] / _SDS[0]))
_MEMORY_STEP = float(_MEMORIES[1] - _MEMORIES[0])
SD, MEMORY = (grid.reshape(-1) for grid in np.meshgrid(_SDS, _MEMORIES, indexing="ij"))
_WEIGHT = SD * np.sqrt(1.0 - MEMORY)
"""Uniform in sd, on a geometric grid; in memory proportional to sqrt(1 - memory): after 48 blocks a uniform memory
leaves so much room for levels that hardly ever return that 90 % intervals of the mean cover 93 % and more."""


@dataclass(frozen=True)
class Prior:
    """What is believed of a level before a log is read: Normal(mean, sd)."""

    mean: float
    sd: float


@dataclass(frozen=True, kw_only=True)
class Wander:
    """The posterior of level_b = mean + a_b, a stationary first-order autoregression, on the grid (SD, MEMORY), [G].

    cumulative: the grid's probabilities, cumulated; mean, mean_sd: the level's Normal posterior at each of its points.
    Before any log is read sd is uniform on 0.01 to 2, and memory, the correlation of neighbouring blocks, between 0 and
    0.98 with density proportional to sqrt(1 - memory).
    """

    cumulative: Floats
    mean: Floats
    mean_sd: Floats

    def draw(self, rng: np.random.Generator) -> Walk:
        """One draw; within a cell of the grid sd and memory are spread evenly."""
        at = int(np.searchsorted(self.cumulative[:-1], rng.random()))
        return Walk(
            mean=float(rng.normal(self.mean[at], self.mean_sd[at])),
            sd=float(SD[at] * np.exp(_SD_STEP * (rng.random() - 0.5))),
            memory=float(MEMORY[at] + _MEMORY_STEP * (rng.random() - 0.5)),
        )


@dataclass(frozen=True)
class Walk:
    """How a level moves: around `mean`, with stationary standard deviation `sd` and correlation `memory` a block."""

    mean: float
    sd: float
    memory: float

    def path(self, blocks: int, rng: np.random.Generator) -> Floats:
        """Deviations from the mean over so many blocks, [blocks], beginning anywhere in its course."""
        shock = rng.normal(0.0, self.sd * np.sqrt(1.0 - self.memory**2), blocks)
        out = np.empty(blocks)
        at = rng.normal(0.0, self.sd)
        for block in range(blocks):
            out[block] = at
            at = self.memory * at + shock[block]
        return out


def unread(prior: Prior) -> Wander:
    """Before any log: the prior."""
    return Wander(
        cumulative=np.cumsum(_WEIGHT) / _WEIGHT.sum(),
        mean=np.full(len(SD), prior.mean),
        mean_sd=np.full(len(SD), prior.sd),
    )


def wander(level: Floats, noise_variance: Floats, prior: Prior) -> Wander:
    """The posterior after block levels [B] that were measured with Normal errors of known variance [B].

    A Kalman filter at every point of the grid; the mean is integrated out by running the same filter over ones
    (generalised least squares). Source: Harvey (1989), Forecasting, Structural Time Series Models, section 3.4.
    """
    # [G] unless said; the state's predictions for the levels and for the ones share one variance.
    of_level, of_one = np.zeros(len(SD)), np.zeros(len(SD))
    variance = SD**2
    log_scale, squares = np.zeros(len(SD)), np.zeros(len(SD))
    precision = np.full(len(SD), prior.sd**-2)
    weighted = precision * prior.mean
    for seen, noise in zip(level, noise_variance, strict=True):
        total = variance + noise
        miss, miss_one = seen - of_level, 1.0 - of_one
        log_scale += np.log(total)
        squares += miss**2 / total
        precision += miss_one**2 / total
        weighted += miss_one * miss / total
        gain = variance / total
        of_level, of_one = (
            MEMORY * (of_level + gain * miss),
            MEMORY * (of_one + gain * miss_one),
        )
        variance = MEMORY**2 * (1 - gain) * variance + (1 - MEMORY**2) * SD**2
    likelihood = -0.5 * (log_scale + squares - weighted**2 / precision + np.log(precision))
    cumulative = np.cumsum(_WEIGHT * np.exp(likelihood - likelihood.max()))
    return Wander(cumulative=cumulative / cumulative[-1], mean=weighted / precision, mean_sd=precision**-0.5)
