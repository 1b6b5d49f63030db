"""Tuning the pacer: random search with narrowing rounds on fitted worlds, the same budget for every retuning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gaelp.bidding.landscape import Landscape
from gaelp.bidding.pacer import DEFAULT_PARAMS, PacerParams
from gaelp.market.campaign import Certified, float32, score_pacers
from gaelp.market.world import ONE_ITEM, Kind, Posterior

LOW = PacerParams(*(np.float64(x) for x in (0.01, 0.02, 5.0, 0.90, -1.2, -0.5, -0.4, 0.0)))
HIGH = PacerParams(*(np.float64(x) for x in (0.2, 0.6, 150.0, 1.0, 1.2, 0.3, 0.25, 0.0)))
LOGARITHMIC = np.array([True, True, True, False, False, False, False, False])
"""Fields searched on a log scale, in the order of PacerParams."""

WORLDS = 768
"""Fewer tuning worlds overfit a baseline (notes on tuning: 192 cost half a percent)."""
PAIRS, CHUNK = 64, 192
"""Every round scores 64 (candidate, chunk of worlds) pairs: 64 candidates on 192 worlds, at the end 16 on 768."""
SEARCH_ROUNDS = 4


@dataclass(frozen=True)
class Tuning:
    """A tuned pacer and how it came: the best mean score of each round, on that round's worlds."""

    certified: Certified
    rounds: tuple[float, ...]


def tune_pacer(posterior: Posterior, landscape: Landscape, seed: int, kind: Kind = ONE_ITEM) -> Tuning:
    """Choose the pacer's parameters by mean score on worlds of `posterior`.

    Each search round draws around the eight best of the round before, with a shrinking width, and keeps them among its
    candidates; the first holds the defaults. The last round scores 15 elites and the defaults on 768 fresh worlds.
    """
    rng = np.random.default_rng(seed)
    worlds, bids = float32(posterior), float32(landscape)
    low, high, best = (_inner(part) for part in (LOW, HIGH, DEFAULT_PARAMS))
    elite, width, means = best[None, :], 0.5, []
    for number in range(SEARCH_ROUNDS + 1):
        last = number == SEARCH_ROUNDS
        candidates = PAIRS * CHUNK // WORLDS if last else PAIRS
        around = elite[rng.integers(len(elite), size=candidates)]
        inner = np.clip(around + width * rng.normal(size=around.shape) * (high - low) / 2, low, high)
        if last:
            inner[:] = np.resize(elite, inner.shape)
        inner[: len(elite)] = elite[:candidates]
        inner[-1] = best
        seeds = rng.integers(1 << 20, 1 << 30, size=(PAIRS // candidates, CHUNK))
        pairs = np.repeat(_outer(inner), len(seeds), axis=0)
        got = score_pacers(
            worlds, bids, float32(PacerParams(*pairs.T)), np.tile(seeds, (candidates, 1)), kind
        )
        mean = np.asarray(got).reshape(candidates, -1).mean(axis=1)
        order = np.argsort(-mean, kind="stable")
        elite = inner[order[: 15 if number + 1 == SEARCH_ROUNDS else 8]]
        means.append(float(mean[order[0]]))
        width *= 0.6
    winner = _outer(elite[:1])[0]
    return Tuning(Certified(landscape, PacerParams(*(np.float64(x) for x in winner))), tuple(means))


def _inner(params: PacerParams) -> np.ndarray:
    values = np.array([float(x) for x in params])
    return np.where(LOGARITHMIC, np.log(np.where(LOGARITHMIC, values, 1.0)), values)


def _outer(inner: np.ndarray) -> np.ndarray:
    return np.where(LOGARITHMIC, np.exp(np.where(LOGARITHMIC, inner, 0.0)), inner)
