"""Posteriors of three numbers on a grid that follows their mode: no shape is assumed, and no derivative is asked
for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gaelp.core.xp import Array
from gaelp.market.estimates import Marginal

_ROUNDS, _COARSE = 6, 6


@dataclass(frozen=True)
class Grid:
    """Points [G,K,3] of G posteriors and their weights [G,K], which sum to 1."""

    points: Array
    weight: Array

    def weighed(self, log_p: Array) -> Grid:
        """The same points under other log weights [G,K]."""
        weight = np.exp(log_p - log_p.max(1, keepdims=True))
        return Grid(self.points, weight / weight.sum(1, keepdims=True))

    def marginal(self, values: Array) -> Marginal:
        """Mean, deviation and 90 % interval of some function of the points, [G,K]."""
        mean = (self.weight * values).sum(1)
        sd = np.sqrt((self.weight * (values - mean[:, None]) ** 2).sum(1))
        order = np.argsort(values, axis=1)
        weight = np.take_along_axis(self.weight, order, 1)
        below = np.cumsum(weight, axis=1) - 0.5 * weight
        ordered = np.take_along_axis(values, order, 1)
        low, high = (
            np.array([np.interp(q, c, v) for c, v in zip(below, ordered, strict=True)]) for q in (0.05, 0.95)
        )
        return Marginal(mean=mean, sd=sd, low=np.minimum(low, mean), high=np.maximum(high, mean))


def follow(log_p: Callable[[Array], Array], low: Array, high: Array, points: int) -> Grid:
    """The posterior of log_p ([G,K,3] -> [G,K]) inside the box [low, high] of [G,3].

    A coarse grid is moved to where the weight lies and halved, round after round, but never below seven deviations;
    the last one has points^3 knots.
    """
    at_low, at_high = low, high
    for _ in range(_ROUNDS):
        grid = _at(log_p, at_low, at_high, _COARSE)
        mean, sd = _moments(grid)
        half = np.maximum(3.5 * sd, 0.25 * (at_high - at_low))
        at_low, at_high = np.maximum(mean - half, low), np.minimum(mean + half, high)
        # What a bound cuts off is not lost: the box keeps its width.
        at_high = np.minimum(np.maximum(at_high, at_low + 0.2 * half), high)
        at_low = np.maximum(np.minimum(at_low, at_high - 0.2 * half), low)
    return _at(log_p, at_low, at_high, points)


def _at(log_p: Callable[[Array], Array], low: Array, high: Array, points: int) -> Grid:
    step = (np.arange(points) + 0.5) / points
    unit = np.stack(np.meshgrid(step, step, step, indexing="ij"), axis=-1).reshape(-1, 3)
    knots = low[:, None] + unit * (high - low)[:, None]
    return Grid(knots, np.zeros(knots.shape[:2])).weighed(log_p(knots))


def _moments(grid: Grid) -> tuple[Array, Array]:
    weight = grid.weight[..., None]
    mean = (weight * grid.points).sum(1)
    return mean, np.sqrt((weight * (grid.points - mean[:, None]) ** 2).sum(1))
