"""The campaign market one decision at a time, as the vectorised environment that Stable-Baselines3 expects.

All campaign-days run in step and every step of all of them is one compiled call, so what is measured beside it is
Stable-Baselines3 and not a slow adapter; `check_same_market` proves that the same moves earn the same rewards in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from gaelp.core.episode import EpisodeBatch
from gaelp.core.schema import Schema
from gaelp.learn.normalise import Scaling
from gaelp.market.campaign import Certified
from gaelp.market.gym import Days, Stepwise
from gaelp.market.world import ONE_ITEM, Posterior

TOLERANCE = 1e-4
"""How far an episode's reward, a share of the pacer's score, may differ between the two: float32, another order."""


class Scaled:
    """The market's own steps (`market.gym.Stepwise`), scaled as the agent's: what both contestants learn from."""

    def __init__(
        self,
        posterior: Posterior,
        certified: Certified,
        schema: Schema,
        scaling: Scaling,
        reward_scale: float,
    ) -> None:
        stepwise = Stepwise(posterior, certified, schema, ONE_ITEM)
        self.schema, self.moves = schema, stepwise.moves
        moves = jnp.asarray(stepwise.moves)

        def begin(seeds: jax.Array) -> tuple[Days, jax.Array]:
            days, seen = stepwise.begin(seeds)
            return days, scaling(seen)

        def step(days: Days, action: jax.Array) -> tuple[Days, jax.Array, jax.Array]:
            days, seen, reward = stepwise.step(days, moves[action])
            return days, scaling(seen), reward_scale * reward

        self.begin, self.step = jax.jit(begin), jax.jit(step)


class Played(NamedTuple):
    """After a decision. Where days are `over`, the observation is of the new ones that began in their place."""

    observation: NDArray[np.float32]
    reward: NDArray[np.floating]
    over: bool


class SideBySide(Protocol):
    """Campaign-days that end together. What is handed out is a copy: torch takes no array that it may not write to."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def begin(self) -> NDArray[np.float32]: ...

    def step(self, actions: NDArray[np.integer]) -> Played: ...


class ScaledDays:
    """`n` campaign-days; when they end, `n` new worlds begin at the next seeds.

    Moves: Discrete, those that one line item's mask allows. Observations are scaled as
    the agent's own, rewards multiplied by its reward_scale: both contestants learn the same problem.
    """

    def __init__(self, stepwise: Scaled, n: int, first_seed: int) -> None:
        schema = stepwise.schema
        self._stepwise, self._n = stepwise, n
        self._next_seed = first_seed
        self._left = 0
        self.observation_space: gym.Space[Any] = gym.spaces.Box(
            -np.inf, np.inf, (schema.observation_size,), np.float32
        )
        self.action_space: gym.Space[Any] = gym.spaces.Discrete(len(stepwise.moves))

    def begin(self) -> NDArray[np.float32]:
        seeds = np.arange(self._next_seed, self._next_seed + self._n)
        self._next_seed += self._n
        self._left = self._stepwise.schema.decisions_per_day
        self._days, seen = self._stepwise.begin(seeds)
        return np.array(seen)

    def step(self, actions: NDArray[np.integer]) -> Played:
        self._days, seen, reward = self._stepwise.step(self._days, actions.astype(np.int32))
        self._left -= 1
        return Played(np.array(seen) if self._left else self.begin(), np.array(reward), self._left == 0)


class RegisteredDays:
    """The registered vector environment as it is; its new days begin in a step of their own, which is taken here."""

    def __init__(self, world: VectorEnv[Any, Any, Any]) -> None:
        self._world = world
        self.observation_space = world.single_observation_space
        self.action_space = world.single_action_space

    def begin(self) -> NDArray[np.float32]:
        seen, _ = self._world.reset()
        return seen

    def step(self, actions: NDArray[np.integer]) -> Played:
        seen, reward, terminated, _, _ = self._world.step(actions)
        over = bool(terminated.all())
        return Played(self._world.step(actions)[0] if over else seen, reward, over)


class CampaignVecEnv(VecEnv):
    """`n` campaign-days side by side, as Stable-Baselines3 asks for them."""

    def __init__(self, days: SideBySide, n: int) -> None:
        self._side_by_side = days
        self._infos: list[dict[str, Any]] = [{} for _ in range(n)]
        self._moves = np.zeros(n, np.int64)
        VecEnv.__init__(self, n, days.observation_space, days.action_space)

    def reset(self) -> NDArray[np.float32]:
        return self._side_by_side.begin()

    def step_async(self, actions: NDArray[np.integer]) -> None:
        self._moves = actions

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.floating], NDArray[np.bool_], list[dict[str, Any]]]:
        played = self._side_by_side.step(self._moves)
        # No terminal observation is handed out: a day's end is the end of its task, nothing is bootstrapped.
        return played.observation, played.reward, np.full(self.num_envs, played.over), self._infos

    def close(self) -> None:
        return None

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(f"campaign-days have no attribute {attr_name!r}.")
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise AttributeError(f"campaign-days have no attribute {attr_name!r} to set.")

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        raise AttributeError(f"campaign-days have no method {method_name!r}.")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return [False] * self.num_envs

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        return [None] * self.num_envs


def check_same_market(
    played: EpisodeBatch, seeds: NDArray[np.integer], stepwise: Scaled, reward_scale: float
) -> float:
    """The largest difference in reward when `played`'s moves are taken again here.

    Raises ValueError above TOLERANCE: what follows would compare two different markets.
    """
    days, _ = stepwise.begin(seeds)
    worst = 0.0
    for k in range(played.decisions):
        days, _, reward = stepwise.step(days, np.searchsorted(stepwise.moves, played.action[:, k]))
        worst = max(worst, float(np.abs(np.asarray(reward) / reward_scale - played.reward[:, k]).max()))
    if not worst <= TOLERANCE:
        raise ValueError(
            f"the adapter's rewards differ from the market's by up to {worst:.3g}, expected {TOLERANCE:g}."
        )
    return worst
