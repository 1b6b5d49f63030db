"""Worlds written down as tables, so small that what can be earned in them is known exactly.

A world is a handful of states, moves and equally likely outcomes; many worlds of one size are one array, and
many agents train in them at once. Nothing here knows what a probe is, or what verification asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from gaelp.core.episode import End
from gaelp.core.errors import BadInput
from gaelp.core.schema import Actions, TaskSchema
from gaelp.learn.algorithm import Algorithm
from gaelp.learn.experience import Experience
from gaelp.learn.policies import Policy, act, act_mode

HIDDEN = 1
"""Width of the hidden truth, here always 0: a privileged critic is then trained and asked as in a real run."""


class World(eqx.Module):
    """S states, A moves, Z outcomes, each as likely as any other in every step.

    start [Z] int32: the first state by outcome. reward, follow, end [S, A, Z]: what a move earns, which state it
    leads to and how it ends (End). allowed [S, A] bool. A move that ends an episode still leads somewhere: to
    the state whose value counts when it was cut.
    """

    start: Array
    reward: Array
    follow: Array
    end: Array
    allowed: Array

    @property
    def states(self) -> int:
        return int(self.reward.shape[-3])

    @property
    def moves(self) -> int:
        return int(self.reward.shape[-2])

    @property
    def outcomes(self) -> int:
        return int(self.reward.shape[-1])


def world(
    *,
    start: NDArray[np.integer],
    reward: NDArray[np.floating],
    follow: NDArray[np.integer],
    end: NDArray[np.integer],
    allowed: NDArray[np.bool_],
) -> World:
    """A checked World. Raises BadInput when tables do not fit one another or lead to a state that is not there."""
    s, a, z = reward.shape
    if not (follow.shape == end.shape == (s, a, z) and start.shape == (z,) and allowed.shape == (s, a)):
        raise BadInput(
            f"world: reward {reward.shape} needs follow and end of its shape, start {(z,)} and allowed {(s, a)}; "
            f"got {follow.shape}, {end.shape}, {start.shape}, {allowed.shape}."
        )
    if not ((follow >= 0).all() and (follow < s).all() and (start >= 0).all() and (start < s).all()):
        raise BadInput(f"world: a state outside 0 to {s - 1} is led to.")
    if not allowed.any(axis=1).all():
        raise BadInput("world: a state allows no move.")
    return World(
        jnp.asarray(start, jnp.int32), jnp.asarray(reward, jnp.float32), jnp.asarray(follow, jnp.int32),
        jnp.asarray(end, jnp.int8), jnp.asarray(allowed, bool),
    )  # fmt: skip


def schema_of(name: str, states: int, moves: int, actions: Actions) -> TaskSchema:
    """What an agent is told of a world: one input per state; `moves` moves, or one residual that chooses among them.

    The move in the middle is the zero move: a residual of 0 falls on it as well.
    """
    if actions is Actions.MOVES:
        return TaskSchema(name, states, moves, actions, zero_move=moves // 2)
    return TaskSchema(name, states, 1, actions)


def masks(world: World, schema: TaskSchema) -> Array:
    """Masks [S, A] for moves; for residuals [S, 1], inactive where the state leaves no choice."""
    if schema.actions is Actions.MOVES:
        return world.allowed
    return jnp.sum(world.allowed, axis=-1, keepdims=True) > 1


def moves_of(action: Array, moves: int, schema: TaskSchema) -> Array:
    """The table's column [...] int32 for actions [...] or residuals [..., 1]: the bound is cut in equal parts."""
    if schema.actions is Actions.MOVES:
        return action
    share = (action[..., 0] / schema.bound + 1.0) / 2.0
    return jnp.clip(jnp.floor(share * moves), 0, moves - 1).astype(jnp.int32)


class _Step(NamedTuple):
    """One column of an Experience, [B, ...]."""

    observation: Array
    mask: Array
    action: Array
    log_prob: Array
    reward: Array
    end: Array
    valid: Array


def play(
    world: World, schema: TaskSchema, policy: Policy, key: Array, episodes: int, steps: int
) -> Experience:
    """`episodes` sampled episodes of at most `steps` steps, one a row; pure, so it can be scanned and vmapped."""
    begin, key = jax.random.split(key)
    first = world.start[jax.random.randint(begin, (episodes,), 0, world.outcomes)]
    mask = masks(world, schema)

    def step(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], _Step]:
        state, running = carry
        acting, chancing = jax.random.split(key)
        seen = jax.nn.one_hot(state, world.states)
        choice = act(policy, seen, mask[state], acting)
        move = moves_of(choice.action, world.moves, schema)
        outcome = jax.random.randint(chancing, state.shape, 0, world.outcomes)
        end = world.end[state, move, outcome]
        told = _Step(
            seen,
            mask[state],
            choice.action,
            choice.log_prob,
            world.reward[state, move, outcome],
            end,
            running,
        )
        following = jnp.where(running, world.follow[state, move, outcome], state)
        return (following, running & (end == End.RUNNING)), told

    (last, _), told = jax.lax.scan(step, (first, jnp.ones(episodes, bool)), jax.random.split(key, steps))
    rows = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), told)
    final = jax.nn.one_hot(last, world.states)[:, None]
    ones = jnp.ones(episodes, bool)
    return Experience(
        observation=jnp.concatenate([rows.observation, final], axis=1),
        mask=jnp.concatenate([rows.mask, mask[last][:, None]], axis=1),
        action=rows.action, log_prob=rows.log_prob, reward=rows.reward, end=rows.end, valid=rows.valid,
        weight=jnp.ones(episodes), hidden=jnp.zeros((episodes, steps + 1, HIDDEN)),
        simulated=ones, claimed=ones, logged=~ones,
    )  # fmt: skip


def shuffled(played: Experience, key: Array) -> Experience:
    """The same episodes with rewards permuted over all valid transitions: nothing is left to learn."""
    valid = played.valid.ravel()
    noise = jax.random.bits(key, valid.shape)
    # Both orders put the valid ones first; where invalid ones land does not matter.
    origin, target = jnp.lexsort((noise, ~valid)), jnp.argsort(~valid, stable=True)
    moved = jnp.zeros_like(played.reward).ravel().at[target].set(played.reward.ravel()[origin])
    reward = jnp.where(played.valid, moved.reshape(played.reward.shape), 0.0)
    return eqx.tree_at(lambda e: e.reward, played, reward)


def as_played(played: Experience, key: Array) -> Experience:
    """The episodes as they are."""
    return played


class Practice(NamedTuple):
    """How long and how an agent trains in a world: calls of `update`, each on `episodes` episodes."""

    calls: int
    episodes: int
    steps: int
    num_epochs: int
    batch_size: int


class Trained(eqx.Module):
    """The state after the last call and, stacked over the calls, what each reported."""

    state: Any
    scalars: Array
    per_tensor: Array


Twist = Callable[[Experience, Array], Experience]
"""What is done to episodes between play and training."""


def train(
    algorithm: Algorithm,
    schema: TaskSchema,
    practice: Practice,
    world: World,
    state: Any,
    coefficients: Any,
    key: Array,
    twist: Twist = as_played,
) -> Trained:
    """Play, train, repeat, in one compiled loop; pure, so vmap over worlds, states and keys trains many at once."""

    def call(state: Any, key: Array) -> tuple[Any, tuple[Array, Array]]:
        playing, twisting = jax.random.split(key)
        played = play(world, schema, state.policy, playing, practice.episodes, practice.steps)
        after, report = algorithm.update(
            state, twist(played, twisting), state.policy, coefficients, practice.num_epochs, practice.batch_size,
            2**31 - 1, width=practice.batch_size,
        )  # fmt: skip
        return after, (report.scalars, report.per_tensor)

    last, (scalars, per_tensor) = jax.lax.scan(call, state, jax.random.split(key, practice.calls))
    return Trained(last, scalars, per_tensor)


def mode_moves(world: World, schema: TaskSchema, policy: Policy) -> Array:
    """The column [S] that the policy's mode chooses in every state."""
    chosen = act_mode(policy, jnp.eye(world.states), masks(world, schema))
    return moves_of(chosen.action, world.moves, schema)


def worth(world: World, moves: Array, steps: int) -> Array:
    """Expected undiscounted reward [] per episode of `steps` steps at most, when `moves` [S] are always chosen."""
    at = jnp.arange(world.states)
    reward, follow, end = world.reward[at, moves], world.follow[at, moves], world.end[at, moves]

    def back(value: Array, _: None) -> tuple[Array, None]:
        return jnp.mean(reward + jnp.where(end == End.RUNNING, value[follow], 0.0), axis=-1), None

    value, _ = jax.lax.scan(back, jnp.zeros(world.states), None, length=steps)
    return jnp.mean(value[world.start])


def best_worth(world: World, steps: int) -> Array:
    """The most that any policy can expect per episode, by backward induction over the steps that are left."""

    def back(value: Array, _: None) -> tuple[Array, None]:
        each = jnp.mean(world.reward + jnp.where(world.end == End.RUNNING, value[world.follow], 0.0), axis=-1)
        return jnp.max(jnp.where(world.allowed, each, -jnp.inf), axis=-1), None

    value, _ = jax.lax.scan(back, jnp.zeros(world.states), None, length=steps)
    return jnp.mean(value[world.start])


def replayed(world: World, moves: Array, seeds: Array, steps: int) -> Array:
    """Undiscounted reward [n] of one episode for each seed, when `moves` [S] are always chosen.

    The outcomes are drawn from the seed alone: policies that are compared on a seed meet the same luck.
    """

    def one(seed: Array) -> Array:
        luck = jax.random.randint(jax.random.key(seed), (steps + 1,), 0, world.outcomes)

        def step(carry: tuple[Array, Array], outcome: Array) -> tuple[tuple[Array, Array], Array]:
            state, running = carry
            move = moves[state]
            earned = jnp.where(running, world.reward[state, move, outcome], 0.0)
            going = running & (world.end[state, move, outcome] == End.RUNNING)
            return (world.follow[state, move, outcome], going), earned

        (_, _), earned = jax.lax.scan(step, (world.start[luck[0]], jnp.array(True)), luck[1:])
        return jnp.sum(earned)

    return jax.vmap(one)(seeds)
