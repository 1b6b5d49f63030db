"""The textbook tasks, twice: gymnax's dynamics as practice environments, Gymnasium's own for judging.

gymnax folds its time limit into `done`; here the two are told apart, so that a limit is bootstrapped.
`check_same_task` proves that both worlds are one task: the same state and action lead to the same observation,
reward and end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from gaelp.core.schema import Actions, TaskSchema
from gaelp.core.xp import Array
from gaelp.market.practice import Stepped, task_schema

TOLERANCE = 1e-4
"""How far float32 here may differ from float64 there after one step; Acrobot's velocities reach 28."""
EVALUATION_EPISODES = 100

STATES = {
    "CartPole-v1": ("x", "x_dot", "theta", "theta_dot"),
    "Pendulum-v1": ("theta", "theta_dot"),
    "Acrobot-v1": ("joint_angle1", "joint_angle2", "velocity_1", "velocity_2"),
}
"""Gymnasium's state vector by gymnax's names."""

Judged = Callable[[NDArray[np.float32]], NDArray[Any]]
"""observations [n,O] -> deterministic actions [n] or [n,A]."""


class GymnaxTask:
    """One gymnax environment without its autoreset."""

    def __init__(self, name: str) -> None:
        self.env, params = gymnax.make(name)
        self.limit = params.max_steps_in_episode
        # Without its clock `done` says that the task is over, and nothing else.
        self.params = params.replace(max_steps_in_episode=np.int32(2**31 - 1))
        self.moves = isinstance(self.env.action_space(params), gymnax.environments.spaces.Discrete)

    def reset(self, key: Array) -> tuple[Any, Array]:
        observation, state = self.env.reset_env(key, self.params)
        return state, observation

    def step(self, key: Array, state: Any, action: Array) -> Stepped:
        observation, state, reward, terminated, _ = self.env.step_env(
            key, state, action if self.moves else action[0], self.params
        )
        return Stepped(state, observation, jnp.float32(reward), terminated, state.time >= self.limit)


def gym_worlds(name: str) -> Callable[[int], gym.vector.VectorEnv[Any, Any, Any]]:
    """Gymnasium's own, so many side by side."""

    def make(n: int) -> gym.vector.VectorEnv[Any, Any, Any]:
        return gym.make_vec(
            name,
            num_envs=n,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.NEXT_STEP},
        )

    return make


def schema_of(name: str) -> TaskSchema:
    """The task's sizes, off Gymnasium's spaces."""
    return task_schema(name, gym_worlds(name)(1))


def returns_in_gymnasium(name: str, judged: Judged, seed: int) -> NDArray[np.float64]:
    """Undiscounted returns [EVALUATION_EPISODES] in Gymnasium itself; a seed means the same starts for all."""
    world = gym_worlds(name)(EVALUATION_EPISODES)
    observation, _ = world.reset(seed=seed)
    over, total = np.zeros(EVALUATION_EPISODES, bool), np.zeros(EVALUATION_EPISODES)
    while not over.all():
        action = judged(np.asarray(observation, np.float32))
        observation, reward, terminated, truncated, _ = world.step(action)
        total += np.where(over, 0.0, reward)
        over |= terminated | truncated
    world.close()
    return total


def check_same_task(name: str, steps: int = 3_000) -> float:
    """The largest difference between gymnax's and Gymnasium's observation or reward after a step from the same state.

    Raises ValueError when one is above TOLERANCE, when ends differ, or when an end that the task has was not seen.
    CartPole is mostly balanced by a simple rule, so that its clock is reached; the others are moved at random.
    """
    task, schema = GymnaxTask(name), schema_of(name)
    world = gym.make(name)
    inner: Any = world.unwrapped
    step, rng = jax.jit(task.step), np.random.default_rng(7)
    worst, terminations, truncations, episodes = 0.0, 0, 0, 0
    over = True
    for _ in range(steps):
        if over:
            observation, _ = world.reset(seed=7 + episodes)
            state = task.reset(jax.random.key(0))[0]
            episodes += 1
            if name == "Acrobot-v1" and episodes % 2:
                # From rest a random arm never gets to the top; from anywhere it does.
                inner.state = rng.uniform(-3.0, 3.0, 4)
        # Every step starts from Gymnasium's state: what is compared is one step, not how errors grow.
        numbers = np.asarray(inner.state, np.float32)
        state = state.replace(**dict(zip(STATES[name], numbers, strict=True)))
        action: Any
        if name == "CartPole-v1" and (episodes % 2 or rng.random() < 0.9):
            action = int(observation[2] + observation[3] > 0)
        elif schema.actions is Actions.MOVES:
            action = int(rng.integers(schema.action_size))
        else:
            action = rng.uniform(-schema.bound, schema.bound, schema.action_size).astype(np.float32)
        stepped = jax.device_get(step(jax.random.key(0), state, jnp.asarray(action)))
        observation, reward, terminated, truncated, _ = world.step(action)
        differs = [np.abs(stepped.observation - observation).max(), abs(stepped.reward - reward)]
        worst = max(worst, *map(float, differs))
        if bool(stepped.terminated) != terminated or bool(stepped.truncated) != truncated:
            raise ValueError(
                f"{name}: gymnax ends {stepped.terminated, stepped.truncated}, Gymnasium {terminated, truncated}."
            )
        terminations, truncations = terminations + terminated, truncations + truncated
        state, over = stepped.state, terminated or truncated
    world.close()
    if not worst <= TOLERANCE:
        raise ValueError(f"{name}: one step differs by up to {worst:.3g}, expected at most {TOLERANCE:g}.")
    if not truncations or not (terminations or name == "Pendulum-v1"):
        raise ValueError(f"{name}: {terminations} tasks ended and {truncations} were cut in {steps} steps.")
    return worst
