"""What plays: an actor, the scaling of its observation, and how an action comes out of both.

A policy holds arrays only, so that policies can be stacked, hashed and exported; it knows nothing of training.
Four kinds choose among moves or residuals, and `act` and `act_mode` play them all:

    Categorical        moves      softmax of a tanh network            PPO
    SoftCategorical    moves      softmax of a relu network            discrete SAC
    EpsilonSoft        moves      greedy on Q, epsilon spread evenly   DQN
    Gaussian           residuals  diagonal, not squashed               continuous PPO
    SquashedGaussian   residuals  tanh of a diagonal Gaussian          SAC
"""

from __future__ import annotations

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from gaelp.learn import distributions as dist
from gaelp.learn.networks import Dueling, Layers, forward, named_arrays
from gaelp.learn.normalise import Scaling

LOG_STD_LOW, LOG_STD_HIGH = -20.0, 2.0
"""Where a squashed Gaussian's log deviation is clipped (Haarnoja et al. 2018, and every port since)."""


class Choice(NamedTuple):
    """action [...] int32 or [..., A] float32, and its log_prob [...] under the policy that chose it."""

    action: Array
    log_prob: Array


class Categorical(eqx.Module):
    """Moves by the softmax of a tanh network's logits."""

    actor: Layers
    scaling: Scaling

    def log_probs(self, observation: Array, mask: Array) -> Array:
        """Log-probabilities [..., A] for raw observations [..., O] under masks [..., A]."""
        return dist.log_probabilities(forward(self.actor, self.scaling(observation)), mask)


class SoftCategorical(eqx.Module):
    """Moves by the softmax of a relu network's logits."""

    actor: Layers
    scaling: Scaling

    def log_probs(self, observation: Array, mask: Array) -> Array:
        """Log-probabilities [..., A] for raw observations [..., O] under masks [..., A]."""
        return dist.log_probabilities(forward(self.actor, self.scaling(observation), jax.nn.relu), mask)


class EpsilonSoft(eqx.Module):
    """The best allowed move by Q with probability 1 - epsilon, else any allowed move alike."""

    actor: Dueling
    scaling: Scaling
    epsilon: Array

    def log_probs(self, observation: Array, mask: Array) -> Array:
        """Log-probabilities [..., A] for raw observations [..., O] under masks [..., A]."""
        return dist.epsilon_soft(self.actor.q_values(self.scaling(observation)), mask, self.epsilon)


class Gaussian(eqx.Module):
    """Residuals from a diagonal Gaussian around a tanh network's mean; log_std [A] is the same everywhere.

    The raw action is logged and not clipped; whoever executes it clips to [-bound, bound].
    """

    actor: Layers
    log_std: Array
    scaling: Scaling
    bound: Array

    def mean(self, observation: Array) -> Array:
        """The mean [..., A], which is also the mode."""
        return forward(self.actor, self.scaling(observation))


class SquashedGaussian(eqx.Module):
    """Residuals `bound * tanh(u)`, u from a diagonal Gaussian whose mean and deviation a relu network gives."""

    actor: Layers
    scaling: Scaling
    bound: Array

    def parameters(self, observation: Array) -> tuple[Array, Array]:
        """Mean and log deviation [..., A] of u."""
        mean, log_std = jnp.split(forward(self.actor, self.scaling(observation), jax.nn.relu), 2, axis=-1)
        return mean, jnp.clip(log_std, LOG_STD_LOW, LOG_STD_HIGH)


MovePolicy = Categorical | SoftCategorical | EpsilonSoft
ResidualPolicy = Gaussian | SquashedGaussian
Policy = MovePolicy | ResidualPolicy


def act(policy: Policy, observation: Array, mask: Array, key: Array) -> Choice:
    """Sample actions for observations [..., O] under masks [..., A]; log_prob is what must be logged.

    Residuals that the mask leaves out act 0 and count nothing in log_prob.
    """
    if isinstance(policy, MovePolicy):
        log_probs = policy.log_probs(observation, mask)
        action = dist.sample(log_probs, jax.random.uniform(key, log_probs.shape[:-1]))
        return Choice(action, dist.log_prob_of(log_probs, action))
    noise = jax.random.normal(key, mask.shape)
    if isinstance(policy, Gaussian):
        action = jnp.where(mask, policy.mean(observation) + jnp.exp(policy.log_std) * noise, 0.0)
        return Choice(action, gaussian_log_prob(noise, policy.log_std, mask))
    mean, log_std = policy.parameters(observation)
    return squashed(mean, log_std, noise, mask, policy.bound)


def act_mode(policy: Policy, observation: Array, mask: Array) -> Choice:
    """What is judged, and what an untrained agent leaves at zero: the likeliest moves, or the middle residuals.

    For residuals log_prob is that of the action under the policy's density.
    """
    if isinstance(policy, MovePolicy):
        log_probs = policy.log_probs(observation, mask)
        action = dist.mode(log_probs)
        return Choice(action, dist.log_prob_of(log_probs, action))
    still = jnp.zeros(mask.shape)
    if isinstance(policy, Gaussian):
        mean = jnp.where(mask, policy.mean(observation), 0.0)
        return Choice(mean, gaussian_log_prob(still, policy.log_std, mask))
    mean, log_std = policy.parameters(observation)
    return squashed(mean, log_std, still, mask, policy.bound)


def gaussian_log_prob(noise: Array, log_std: Array, mask: Array) -> Array:
    """Log-density [...] of mean + exp(log_std) * noise over the dimensions of the mask [..., A]."""
    each = -0.5 * noise**2 - log_std - 0.5 * math.log(2.0 * math.pi)
    return jnp.sum(jnp.where(mask, each, 0.0), axis=-1)


def squashed(mean: Array, log_std: Array, noise: Array, mask: Array, bound: Array) -> Choice:
    """bound * tanh(u), u = mean + exp(log_std) * noise, and its log-density by change of variables.

    log |d action / d u| = log bound + log(1 - tanh(u)^2), the latter as 2 (log 2 - u - softplus(-2u)), which is
    exact also where tanh has reached 1. Source: Haarnoja et al. (2018), appendix C.
    """
    u = mean + jnp.exp(log_std) * noise
    slope = jnp.log(bound) + 2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u))
    log_prob = gaussian_log_prob(noise, log_std, mask) - jnp.sum(jnp.where(mask, slope, 0.0), axis=-1)
    return Choice(jnp.where(mask, bound * jnp.tanh(u), 0.0), log_prob)


KINDS: dict[str, type] = {
    "categorical": Categorical,
    "soft_categorical": SoftCategorical,
    "epsilon_soft": EpsilonSoft,
    "gaussian": Gaussian,
    "squashed_gaussian": SquashedGaussian,
}


def policy_arrays(policy: Policy) -> dict[str, NDArray[np.generic]]:
    """Everything that plays, by name, and its kind: what is hashed, saved and exported."""
    kind = next(name for name, kind in KINDS.items() if type(policy) is kind)
    return named_arrays(policy) | {"policy.kind": np.frombuffer(kind.encode(), np.uint8)}
