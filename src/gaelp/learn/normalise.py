"""Scaling of observations and returns, part of the state: fixed from the pacer's episodes, or running.

In campaigns the scaling is fixed: running statistics make the meaning of a weight depend on when it was
read. Practice environments have no pacer to fit one from; there it may follow what was seen.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from gaelp.core.episode import EpisodeBatch
from gaelp.core.errors import BadInput

DEVIATION_FLOOR = 0.05
"""A feature that hardly moved in the pacer's episodes must not be blown up when the agent moves it."""

LARGEST = 10.0
"""Scaled features are clipped here: one wild report must not drive the network to its edge."""


class Scaling(eqx.Module):
    """`(x - mean) * factor`, clipped; factor 0 for features that were constant, so they map to 0."""

    mean: Array
    factor: Array

    def __call__(self, x: Array) -> Array:
        return jnp.clip((x - self.mean) * self.factor, -LARGEST, LARGEST)


class Normaliser(eqx.Module):
    """The scalings of the observation [O] and of the simulator's hidden truth [H] (H may be 0)."""

    observation: Scaling
    hidden: Scaling


class Moments(eqx.Module):
    """Count [], mean [F] and sum of squared deviations [F] of all rows seen so far."""

    count: Array
    mean: Array
    squares: Array

    @staticmethod
    def none(features: int) -> Moments:
        """Nothing seen yet."""
        return Moments(jnp.zeros(()), jnp.zeros(features), jnp.zeros(features))

    def with_rows(self, rows: Array, present: Array) -> Moments:
        """With rows [N, F] added, those that are present [N]. Source: Chan, Golub and LeVeque (1983), pairwise."""
        n = jnp.sum(present).astype(jnp.float32)
        kept = present[:, None]
        mean = jnp.sum(jnp.where(kept, rows, 0.0), axis=0) / jnp.maximum(n, 1.0)
        squares = jnp.sum(jnp.where(kept, rows - mean, 0.0) ** 2, axis=0)
        total = self.count + n
        shift = mean - self.mean
        share = n / jnp.maximum(total, 1.0)
        return Moments(
            total, self.mean + share * shift, self.squares + squares + shift**2 * self.count * share
        )

    def inverse_deviation(self) -> Array:
        """1 / deviation [F], at most 100; 1 before two rows were seen."""
        deviation = jnp.sqrt(self.squares / jnp.maximum(self.count, 1.0))
        return jnp.where(self.count > 1, 1.0 / jnp.maximum(deviation, 0.01), 1.0)


def require_widths(normaliser: Normaliser, observation_size: int, hidden_width: int) -> None:
    """Raise BadInput when the normaliser's scalings have other widths than the agent's inputs."""
    for name, scaling, width in (
        ("observation", normaliser.observation, observation_size),
        ("hidden", normaliser.hidden, hidden_width),
    ):
        if scaling.mean.shape != (width,):
            raise BadInput(f"normaliser: {name} has width {scaling.mean.shape[0]}, expected {width}.")


def fit_scaling(rows: NDArray[np.floating]) -> Scaling:
    """Mean and deviation (floor 0.05) of `rows` [N, F], in float64.

    Raises BadInput for fewer than two rows: one row has no deviation, and dividing by it once turned
    a whole observation into NaN. Raises BadInput for numbers that are not finite.
    """
    if rows.ndim != 2 or rows.shape[0] < 2:
        raise BadInput(f"a normaliser needs at least two rows to fit, got an array of shape {rows.shape}.")
    exact = np.asarray(rows, dtype=np.float64)
    if not np.isfinite(exact).all():
        row, feature = (int(i) for i in np.argwhere(~np.isfinite(exact))[0])
        raise BadInput(f"a normaliser cannot be fitted: feature {feature} of row {row} is not finite.")
    constant = exact.max(axis=0) == exact.min(axis=0) if exact.shape[1] else np.zeros(0, bool)
    factor = np.where(constant, 0.0, 1.0 / np.maximum(exact.std(axis=0), DEVIATION_FLOOR))
    return Scaling(jnp.asarray(exact.mean(axis=0), jnp.float32), jnp.asarray(factor, jnp.float32))


def fit_normaliser(episodes: EpisodeBatch) -> Normaliser:
    """Fit both scalings on the valid transitions of the pacer's episodes."""
    valid = np.asarray(episodes.valid)
    return Normaliser(
        fit_scaling(np.asarray(episodes.observation)[:, :-1][valid]),
        fit_scaling(np.asarray(episodes.hidden)[:, :-1][valid]),
    )


def unscaled(observation_size: int, hidden_size: int) -> Normaliser:
    """The normaliser that changes nothing (but clips): for inputs that are scaled already."""
    return Normaliser(
        Scaling(jnp.zeros(observation_size), jnp.ones(observation_size)),
        Scaling(jnp.zeros(hidden_size), jnp.ones(hidden_size)),
    )
