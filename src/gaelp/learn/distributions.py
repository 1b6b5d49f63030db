"""The masked categorical distribution over joint moves; it knows logits and masks, nothing of policies.

A state whose mask allows nothing (padding after the end of a day) yields finite numbers, entropy 0
and no gradient, so that such rows can stand in an array and be ignored.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

# Finite on purpose: minus infinity times a probability of zero is NaN, and so is its gradient.
FORBIDDEN = -1e30


def log_probabilities(logits: Array, mask: Array) -> Array:
    """Normalised log-probabilities [..., A] of the allowed moves; about FORBIDDEN where masked."""
    return jax.nn.log_softmax(jnp.where(mask, logits, FORBIDDEN), axis=-1)


def log_prob_of(log_probs: Array, action: Array) -> Array:
    """The log-probability [...] of the moves `action` [...] int, from `log_probabilities`."""
    # A sum and no gather: the gradient of a gather is a scatter, which costs more than all of this.
    return jnp.sum(jnp.where(action[..., None] == jnp.arange(log_probs.shape[-1]), log_probs, 0.0), axis=-1)


def entropy(log_probs: Array, mask: Array) -> Array:
    """Entropy [...] in nats over the allowed moves."""
    return -jnp.sum(jnp.where(mask, jnp.exp(log_probs) * log_probs, 0.0), axis=-1)


def largest_entropy(mask: Array) -> Array:
    """The entropy [...] of the uniform distribution over the allowed moves; 0 when at most one is."""
    return jnp.log(jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(jnp.float32))


def kl(log_probs: Array, other: Array, mask: Array) -> Array:
    """KL(p || q) [...] in nats, both given as log-probabilities under the same mask."""
    return jnp.sum(jnp.where(mask, jnp.exp(log_probs) * (log_probs - other), 0.0), axis=-1)


def epsilon_soft(q: Array, mask: Array, epsilon: Array) -> Array:
    """Log-probabilities [..., A] of the best allowed move by q [..., A] with 1 - epsilon, else any allowed alike.

    At epsilon 0 every other move has the log-probability FORBIDDEN: it cannot happen.
    """
    allowed = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
    best = mode(jnp.where(mask, q, FORBIDDEN))[..., None] == jnp.arange(q.shape[-1])
    probability = jnp.where(mask, epsilon / allowed + (1.0 - epsilon) * best, 0.0)
    return jnp.where(probability > 0, jnp.log(jnp.maximum(probability, 1e-37)), FORBIDDEN)


def mode(log_probs: Array) -> Array:
    """The most likely move [...] int32, the first among equals."""
    # Two minima and no argmax, which on a processor compares number by number and costs six times as much.
    moves = jnp.arange(log_probs.shape[-1], dtype=jnp.int32)
    best = log_probs == jnp.max(log_probs, axis=-1, keepdims=True)
    return jnp.min(jnp.where(best, moves, moves[-1]), axis=-1)


def sample(log_probs: Array, uniform: Array) -> Array:
    """The move [...] int32 at which the cumulative probability first exceeds `uniform` [...] in [0, 1).

    Inversion and not the Gumbel trick: the exported NumPy policy draws the same move from the same
    uniform number. A move of probability zero is never drawn.
    """
    cumulative = jnp.cumsum(jnp.exp(log_probs), axis=-1)
    total = cumulative[..., -1]
    # Rounding may carry the product up to the total itself, past the last move.
    below = jnp.sum(cumulative <= (uniform * total)[..., None], axis=-1)
    possible = log_probs > FORBIDDEN / 2
    last = jnp.max(jnp.where(possible, jnp.arange(log_probs.shape[-1]), 0), axis=-1)
    return jnp.minimum(below, last).astype(jnp.int32)
