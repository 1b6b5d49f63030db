"""Posteriors of three numbers on a grid that follows their mode: no shape is assumed, and no derivative is asked
for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from gaelp.core.xp import Array
from gaelp.market.estimates import Z90, Marginal

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
        ends = np.array([_ends(v, w) for v, w in zip(values, self.weight, strict=True)])
        return Marginal(mean=mean, sd=sd, low=np.minimum(ends[:, 0], mean), high=np.maximum(ends[:, 1], mean))


def _ends(values: Array, weight: Array) -> Array:
    """The 5 % and 95 % quantiles of values [K] weighed [K]; [2].

    Knots in one plane have one value and count as one: taken one by one, they would make the distribution a flight of
    steps, and pull an end of the interval to the nearest plane, half a deviation off at the worst. The chance to lie
    below is known best halfway between values; from there it is interpolated on the scale of normal deviations, since
    a straight line between chances would cut the tails' bend.
    """
    value, plane = np.unique(values, return_inverse=True)
    at = np.bincount(plane, weights=weight)
    if len(value) == 1:
        return np.repeat(value, 2)
    below = ndtri(np.clip(np.cumsum(at)[:-1], 1e-12, 1.0 - 1e-12))
    return np.interp([-Z90, Z90], below, 0.5 * (value[1:] + value[:-1]))


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
