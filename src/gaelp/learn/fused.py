"""Many rounds of play and training in one compiled call; it adds nothing to either and decides nothing.

A round is what `play` and `train_step` do one after the other, with the same keys and the same arithmetic. The
engine's `train_rounds` is the way in; tests hold both paths together, weights hash by weights hash.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from gaelp.learn.algorithm import Update
from gaelp.learn.experience import Experience, Report
from gaelp.learn.normalise import Scaling
from gaelp.learn.policies import Policy

Rollout = Callable[[Any, Any, Array], tuple[Any, Any]]
"""(policy, carry, key) -> (carry, rows named and shaped as in an EpisodeBatch)."""


class Practice(Protocol):
    """An environment under way whose play can be compiled: `market.practice.JaxPractice` is one.

    under_way: its state now, and how many rounds were played. key_of: the key of one round, as `play` draws it.
    seed: the first of the environments' world seeds, which follow one another.
    """

    @property
    def rollout(self) -> Rollout: ...
    @property
    def seed(self) -> int: ...
    @property
    def rounds(self) -> int: ...
    @property
    def environments(self) -> int: ...
    @property
    def steps(self) -> int: ...
    def under_way(self) -> Any: ...
    def key_of(self, number: Array) -> Array: ...
    def go_on(self, carry: Any, rounds: int) -> None: ...


class Rounds(NamedTuple):
    """What came of R rounds: the last state and carry; for each round the report, the weights after it, the
    number of valid transitions and their mean reward."""

    state: Any
    carry: Any
    report: Report
    agent: Any
    policy: Policy
    hidden_scaling: Scaling
    transitions: Array
    mean_reward: Array


@partial(jax.jit, static_argnames=("rollout", "key_of", "update", "rounds", "width"))
def fused_rounds(
    state: Any,
    carry: Any,
    first: Array,
    coefficients: Any,
    num_epochs: Array,
    batch_size: Array,
    limit: Array,
    origin: Origin,
    *,
    rollout: Rollout,
    key_of: Callable[[Array], Array],
    update: Update,
    rounds: int,
    width: int,
) -> Rounds:
    """`rounds` times play and train, beginning with round number `first`. Compiles once per number of rounds."""

    def one(at: tuple[Any, Any], number: Array) -> tuple[tuple[Any, Any], tuple[Any, ...]]:
        state, carry = at
        carry, played = rollout(state.policy, carry, key_of(number))
        # The barrier keeps XLA from folding play into training, which would then round differently than alone.
        state, carry, experience = jax.lax.optimization_barrier((state, carry, as_experience(played, origin)))
        after, report = update(
            state, experience, state.policy, coefficients, num_epochs, batch_size, limit, width=width
        )
        told = (
            report, after.agent, after.policy, after.normaliser.hidden, jnp.sum(played.valid),
            jnp.mean(played.reward, where=played.valid),
        )  # fmt: skip
        return (after, carry), told

    (state, carry), told = jax.lax.scan(one, (state, carry), first + jnp.arange(rounds))
    return Rounds(state, carry, *told)


class Origin(NamedTuple):
    """What an EpisodeBatch says beside the rows of a practice: simulated, its own, of weight 1, nothing hidden.

    Handed in from outside and not written into the program: as constants they would be folded into the
    training step, which would then round differently from the one that takes them as arguments.
    """

    weight: NDArray[np.float32]
    hidden: NDArray[np.float32]
    yes: NDArray[np.bool_]
    no: NDArray[np.bool_]

    @staticmethod
    def of(rows: int, steps: int) -> Origin:
        """For `rows` rows of `steps` decisions."""
        yes = np.ones(rows, np.bool_)
        return Origin(np.ones(rows, np.float32), np.zeros((rows, steps + 1, 0), np.float32), yes, ~yes)


def as_experience(played: Any, origin: Origin) -> Experience:
    """Rows just played by the policy in training."""
    return Experience(
        observation=played.observation, mask=played.mask, action=played.action, log_prob=played.log_prob,
        reward=played.reward, end=played.end, valid=played.valid, weight=jnp.asarray(origin.weight),
        hidden=jnp.asarray(origin.hidden), simulated=jnp.asarray(origin.yes), claimed=jnp.asarray(origin.yes),
        logged=jnp.asarray(origin.no),
    )  # fmt: skip
