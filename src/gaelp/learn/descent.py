"""One step of Adam on an agent's weights as one vector, each network clipped by its own norm; shared by all three.

Tensor by tensor it would be some times as many kernels to compile and to launch. Every pass over the weights counts: an
update of two networks of 2x256 spends a quarter of its time here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


class Step(NamedTuple):
    """weights [W] and moments after the step. norms [2,L]: of every tensor's gradient, before and after clipping.
    change []: how far the weights moved, L2, as they are stored."""

    weights: Array
    moments: optax.ScaleByAdamState
    norms: Array
    change: Array


def descend(
    weights: Array,
    moments: optax.ScaleByAdamState,
    gradients: Sequence[Any],
    adam: optax.GradientTransformation,
    *,
    learning_rate: Array,
    max_grad_norm: Array,
) -> Step:
    """weights [W] and their moments after one step; `gradients`: pytrees by network, in the order of the vector.

    Each network by its own norm: a critic that is far off must not shrink the actor's step.
    """
    networks = [leaves for leaves in map(jax.tree.leaves, gradients) if leaves]
    # Written once and read by all that follows; without barriers XLA computes much of it once for each reader.
    as_it_is = jax.lax.optimization_barrier
    gradient = as_it_is(jnp.concatenate([leaf.ravel() for leaves in networks for leaf in leaves]))
    position, begins = jnp.arange(gradient.size), 0
    norms, clipped, factor = [], [], jnp.ones(())
    for leaves in networks:
        own = jnp.sqrt(jnp.stack([jnp.sum(leaf * leaf) for leaf in leaves]))
        least = jnp.minimum(1.0, max_grad_norm / jnp.maximum(jnp.linalg.norm(own), 1e-15))
        factor = jnp.where(position < begins, factor, least) if begins else least
        norms.append(own)
        clipped.append(own * least)
        begins += sum(leaf.size for leaf in leaves)
    direction, after = adam.update(gradient * factor, moments)
    moved, after = as_it_is((weights - learning_rate * direction, after))
    change = moved - weights
    return Step(
        moved, after, jnp.stack([jnp.concatenate(norms), jnp.concatenate(clipped)]),
        jnp.sqrt(jnp.sum(change * change)),
    )  # fmt: skip
