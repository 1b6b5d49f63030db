"""Practice markets: textbook environments side by side, yielding the same episodes as a campaign market.

It is handed the policy as two plain functions and never sees how it learns; of an environment it knows how to
reset and to step it. A row of a batch is one environment's next decisions, whatever episodes they belong to: after
a transition that ends an episode comes one invalid transition, in which the environment starts anew
(Gymnasium's AutoresetMode.NEXT_STEP), so that the final observation is kept and a time limit can be bootstrapped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from gaelp.core.episode import SOURCES, End, EpisodeBatch, Provenance, Source
from gaelp.core.errors import BadInput
from gaelp.core.schema import Actions, AgentSchema, TaskSchema
from gaelp.core.xp import Array


class Chosen(Protocol):
    """An action [B] int32 or [B,A] float32, and its log_prob [B] under the policy that chose it."""

    @property
    def action(self) -> Array: ...
    @property
    def log_prob(self) -> Array: ...


Act = Callable[[Any, Array, Array, Array], Chosen]
"""(policy, observation[B,O], mask[B,A], key) -> what is sampled."""
ActMode = Callable[[Any, Array, Array], Chosen]
"""(policy, observation[B,O], mask[B,A]) -> what is judged."""
Worlds = Callable[[int], VectorEnv[Any, Any, Any]]
"""(environments) -> so many Gymnasium environments side by side."""


class Stepped(NamedTuple):
    """What one environment answers to an action: `terminated` has no future, `truncated` was cut by the clock."""

    state: Any
    observation: Array
    reward: Array
    terminated: Array
    truncated: Array


class Environment(Protocol):
    """One environment as pure functions; `state` is any pytree of arrays. It neither batches nor resets itself."""

    def reset(self, key: Array) -> tuple[Any, Array]:
        """A fresh state and its observation [O]."""
        ...

    def step(self, key: Array, state: Any, action: Array) -> Stepped:
        """One step by a move [] int32, or by residuals [A] float32 within the schema's bound."""
        ...


class Carry(NamedTuple):
    """n environments under way: their states, observations [n,O], and whether each is over and starts anew next."""

    state: Any
    observation: Array
    over: Array


class Played(NamedTuple):
    """n rows of T decisions, named and shaped as in an EpisodeBatch. Invalid transitions hold zeros."""

    observation: Array
    mask: Array
    action: Array
    log_prob: Array
    reward: Array
    end: Array
    valid: Array


class JaxPractice:
    """`environments` copies of a JAX environment, played `steps` decisions at a time in one compiled call.

    `play` goes on where it stopped. `rollout` is the same as a pure function, for whoever compiles play and
    training together. Seeded alike it plays alike.
    """

    def __init__(
        self, *, environment: Environment, schema: AgentSchema, act: Act, act_mode: ActMode, environments: int,
        steps: int, seed: int = 0, phase: str = "practice",
    ) -> None:  # fmt: skip
        _check_sizes(environments, steps)
        self.environment, self.schema = environment, schema
        self.environments, self.steps, self.seed, self.phase = environments, steps, seed, phase
        self._act, self._act_mode = act, act_mode
        self._begin = jax.jit(self.begin)
        self._played = jax.jit(self._play)
        self._evaluated = jax.jit(self._evaluate, static_argnames="episodes")
        self._carry: Carry | None = None
        self.rounds = 0

    def begin(self, key: Array) -> Carry:
        """Fresh environments."""
        state, observation = jax.vmap(self.environment.reset)(jax.random.split(key, self.environments))
        return Carry(_settled(state), observation, jnp.zeros(self.environments, bool))

    def rollout(self, policy: Any, carry: Carry, key: Array) -> tuple[Carry, Played]:
        """The next `steps` decisions of every environment under one policy.

        What chance brings is drawn for all steps at once, fresh starts included: drawn one step at a time, a few
        numbers each, it would cost more than small environments themselves.
        """
        n, t = self.environments, self.steps
        mask = jnp.ones((n, self.schema.action_size), bool)
        for_acts, for_steps, for_resets = jax.random.split(key, 3)
        keys = (
            jax.random.split(for_acts, t),
            jax.random.split(for_steps, (t, n)),
            jax.vmap(jax.vmap(self.environment.reset))(jax.random.split(for_resets, (t, n))),
        )

        def decide(carry: Carry, drawn: tuple[Array, Array, Any]) -> tuple[Carry, tuple[Array, ...]]:
            for_act, for_step, (fresh_state, fresh_observation) = drawn
            choice = self._act(policy, carry.observation, mask, for_act)
            stepped = jax.vmap(self.environment.step)(for_step, carry.state, self._executed(choice.action))
            state, observation, reward, terminated, truncated = stepped
            valid = ~carry.over
            end = jnp.where(terminated, End.TERMINATED, jnp.where(truncated, End.TRUNCATED, End.RUNNING))
            after = Carry(
                _where(carry.over, _settled(fresh_state), _settled(state)),
                _where(carry.over, fresh_observation, observation),
                valid & (terminated | truncated),
            )
            seen = (choice.action, choice.log_prob, reward.astype(jnp.float32), end.astype(jnp.int8))
            return after, (carry.observation, *(_where(valid, x, jnp.zeros_like(x)) for x in seen), valid)

        last, (observation, *seen, valid) = jax.lax.scan(decide, carry, keys)
        whole = jnp.concatenate([observation, last.observation[None]]).swapaxes(0, 1)
        action, log_prob, reward, end = (x.swapaxes(0, 1) for x in seen)
        masks = jnp.broadcast_to(mask[:, None], (n, t + 1, self.schema.action_size))
        return last, Played(whole, masks, action, log_prob, reward, end, valid.T)

    def play(self, policy: Any, actor_hash: str) -> EpisodeBatch:
        """The next `steps` decisions of every environment, as one row each; sources are SIMULATED."""
        carry, played = self._played(policy, self.under_way(), self.rounds)
        self.go_on(carry, 1)
        return _batch(jax.device_get(played), self.schema, self.phase, actor_hash, self.seed)

    def evaluate(self, policy: Any, episodes: int, key: Array) -> NDArray[np.float32]:
        """Undiscounted returns [episodes] of the policy's mode, one fresh episode each."""
        return np.asarray(self._evaluated(policy, key, episodes=episodes))

    def under_way(self) -> Carry:
        """The environments as they stand now."""
        if self._carry is None:
            self._carry = self._begin(jax.random.key(self.seed))
        return self._carry

    def key_of(self, number: Array) -> Array:
        """The key that round `number` is played with."""
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), 1), number)

    def go_on(self, carry: Carry, rounds: int) -> None:
        """Take over what `rounds` rounds, played elsewhere from `under_way`, have led to."""
        self._carry, self.rounds = carry, self.rounds + rounds

    def _play(self, policy: Any, carry: Carry, number: Array) -> tuple[Carry, Played]:
        return self.rollout(policy, carry, self.key_of(number))

    def _evaluate(self, policy: Any, key: Array, *, episodes: int) -> Array:
        mask = jnp.ones((episodes, self.schema.action_size), bool)
        for_resets, for_steps = jax.random.split(key)
        state, observation = jax.vmap(self.environment.reset)(jax.random.split(for_resets, episodes))
        start = (_settled(state), observation, jnp.zeros(episodes, bool), jnp.zeros(episodes), jnp.int32(0))

        def decide(at: tuple[Any, ...]) -> tuple[Any, ...]:
            state, observation, over, total, step = at
            keys = jax.random.split(jax.random.fold_in(for_steps, step), episodes)
            action = self._executed(self._act_mode(policy, observation, mask).action)
            state, observation, reward, terminated, truncated = jax.vmap(self.environment.step)(
                keys, state, action
            )
            total = total + jnp.where(over, 0.0, reward)
            return _settled(state), observation, over | terminated | truncated, total, step + 1

        return jax.lax.while_loop(lambda at: ~jnp.all(at[2]), decide, start)[3]

    def _executed(self, action: Array) -> Array:
        if self.schema.actions is Actions.MOVES:
            return action
        return jnp.clip(action, -self.schema.bound, self.schema.bound)


class GymPractice:
    """The same for Gymnasium's own environments, stepped on the host: any task, at Python's speed.

    make: gives so many of them side by side; they must reset themselves in the step after an end
    (AutoresetMode.NEXT_STEP). Closed by `close`.
    """

    def __init__(
        self, *, make: Worlds, schema: AgentSchema, act: Act, act_mode: ActMode, environments: int, steps: int,
        seed: int = 0, phase: str = "practice",
    ) -> None:  # fmt: skip
        _check_sizes(environments, steps)
        self.schema, self.environments, self.steps, self.seed, self.phase = (
            schema, environments, steps, seed, phase,
        )  # fmt: skip
        self._make = make
        self._world = _checked(make(environments), schema)
        self._mask = jnp.ones((environments, schema.action_size), bool)
        self._decide = jax.jit(partial(self._choose, act))
        self._decide_mode = jax.jit(act_mode)
        self._observation: NDArray[np.float32] | None = None
        self._over = np.zeros(environments, np.bool_)
        self._decisions = 0

    def play(self, policy: Any, actor_hash: str) -> EpisodeBatch:
        """The next `steps` decisions of every environment, as one row each; sources are SIMULATED."""
        n, t = self.environments, self.steps
        if self._observation is None:
            self._observation = np.asarray(self._world.reset(seed=self.seed)[0], np.float32)
        moves = self.schema.actions is Actions.MOVES
        played = Played(
            observation=np.zeros((n, t + 1, self.schema.observation_size), np.float32),
            mask=np.broadcast_to(np.True_, (n, t + 1, self.schema.action_size)),
            action=np.zeros((n, t), np.int32) if moves else np.zeros((n, t, self.schema.action_size), np.float32),
            log_prob=np.zeros((n, t), np.float32), reward=np.zeros((n, t), np.float32), end=np.zeros((n, t), np.int8),
            valid=np.zeros((n, t), np.bool_),
        )  # fmt: skip
        for k in range(t):
            choice = self._decide(policy, self._observation, self._mask, self.seed, self._decisions)
            action, log_prob = jax.device_get((choice.action, choice.log_prob))
            observation, reward, terminated, truncated, _ = self._world.step(self._executed(action))
            valid = ~self._over
            end = np.where(terminated, End.TERMINATED, np.where(truncated, End.TRUNCATED, End.RUNNING))
            played.observation[:, k] = self._observation
            played.valid[:, k] = valid
            for kept, now in ((played.action, action), (played.log_prob, log_prob),
                              (played.reward, reward), (played.end, end)):  # fmt: skip
                kept[valid, k] = now[valid]
            self._observation = np.asarray(observation, np.float32)
            self._over = valid & (terminated | truncated)
            self._decisions += 1
        played.observation[:, t] = self._observation
        return _batch(played, self.schema, self.phase, actor_hash, self.seed)

    def evaluate(self, policy: Any, episodes: int, key: Array) -> NDArray[np.float32]:
        """Undiscounted returns [episodes] of the policy's mode, one fresh episode each."""
        world = _checked(self._make(episodes), self.schema)
        mask = jnp.ones((episodes, self.schema.action_size), bool)
        seed = int(jax.random.bits(key, dtype=jnp.uint32)) >> 1
        observation, _ = world.reset(seed=seed)
        over, total = np.zeros(episodes, np.bool_), np.zeros(episodes, np.float32)
        while not over.all():
            choice = self._decide_mode(policy, np.asarray(observation, np.float32), mask)
            observation, reward, terminated, truncated, _ = world.step(
                self._executed(np.asarray(choice.action))
            )
            total += np.where(over, 0.0, reward)
            over |= terminated | truncated
        world.close()
        return total

    def close(self) -> None:
        """Let the environments go."""
        self._world.close()

    @staticmethod
    def _choose(
        act: Act, policy: Any, observation: Array, mask: Array, seed: Array, decision: Array
    ) -> Chosen:
        return act(policy, observation, mask, jax.random.fold_in(jax.random.key(seed), decision))

    def _executed(self, action: NDArray[Any]) -> NDArray[Any]:
        space = self._world.single_action_space
        if isinstance(space, gym.spaces.Discrete):
            return action + space.start
        return np.clip(action, -self.schema.bound, self.schema.bound)


def task_schema(name: str, world: VectorEnv[Any, Any, Any]) -> TaskSchema:
    """What an agent must know of a Gymnasium task, read off its spaces.

    Raises BadInput unless observations are a flat box and actions are discrete or one box [-bound, bound] for all
    dimensions: anything else needs a Gymnasium wrapper first, and guessing one would change the task.
    """
    seen, moves = world.single_observation_space, world.single_action_space
    if not isinstance(seen, gym.spaces.Box) or len(seen.shape) != 1:
        raise BadInput(f"task {name!r}: observations are {seen}, expected a flat box; wrap it flat first.")
    if isinstance(moves, gym.spaces.Discrete):
        return TaskSchema(name, int(seen.shape[0]), int(moves.n), Actions.MOVES)
    if not isinstance(moves, gym.spaces.Box) or len(moves.shape) != 1:
        raise BadInput(f"task {name!r}: actions are {moves}, expected discrete or a flat box.")
    bound = float(moves.high[0])
    if not (math.isfinite(bound) and (moves.high == bound).all() and (moves.low == -bound).all()):
        raise BadInput(
            f"task {name!r}: actions lie in {moves}, expected the same [-bound, bound] throughout."
        )
    return TaskSchema(name, int(seen.shape[0]), int(moves.shape[0]), Actions.RESIDUALS, bound=bound)


def _check_sizes(environments: int, steps: int) -> None:
    if environments < 1 or steps < 1:
        raise BadInput(f"environments {environments} and steps {steps} must both be at least 1.")


def _checked(world: VectorEnv[Any, Any, Any], schema: AgentSchema) -> VectorEnv[Any, Any, Any]:
    mode = world.metadata["autoreset_mode"]
    if mode is not AutoresetMode.NEXT_STEP:
        raise BadInput(
            f"{world}: autoreset mode is {mode}, expected NEXT_STEP: final observations are needed."
        )
    told = task_schema("of this world", world)
    for what in ("observation_size", "action_size", "actions", "bound"):
        if getattr(told, what) != getattr(schema, what):
            raise BadInput(
                f"{world}: {what} is {getattr(told, what)}, the schema says {getattr(schema, what)}."
            )
    return world


def _settled(state: Any) -> Any:
    """A state as arrays of firm types: Python numbers in it would change type from one step to the next."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), state)


def _where(condition: Array, yes: Any, no: Any) -> Any:
    """`jnp.where` by row, for pytrees of arrays [n,...]."""
    return jax.tree.map(lambda a, b: jnp.where(condition.reshape(-1, *(1,) * (a.ndim - 1)), a, b), yes, no)


def _batch(played: Played, schema: AgentSchema, phase: str, actor_hash: str, seed: int) -> EpisodeBatch:
    """Rows as a batch. What a practice market has no notion of is zero; `score` is the reward of the row."""
    n, t = played.reward.shape
    nothing = np.broadcast_to(np.float32(0.0), (n,))
    told = Provenance(
        source=Source.SIMULATED, phase=phase, arm="agent", campaign="practice", day=0, actor_hash=actor_hash,
        pacer_hash="none", schema_hash=schema.hash, seed=seed, settled_at="simulated",
    )  # fmt: skip
    return EpisodeBatch(
        observation=played.observation, mask=played.mask,
        action=played.action, executed=np.broadcast_to(np.float32(0.0), (n, t)), log_prob=played.log_prob,
        reward=played.reward, end=played.end, valid=played.valid, weight=np.ones(n, np.float32),
        segment=np.broadcast_to(np.int32(0), (n, t)), hidden=np.zeros((n, t + 1, 0), np.float32), spend=nothing,
        value=nothing, impressions=nothing, clicks=nothing, conversions=nothing,
        score=np.asarray(played.reward).sum(axis=1), matured=np.ones(n, np.float32),
        sources=np.full(n, SOURCES.index(Source.SIMULATED), np.int8), provenance=(told,),
    )  # fmt: skip
