"""The campaign market one decision at a time, as the vectorised environment that Stable-Baselines3 expects.

All campaign-days run in step and every step of all of them is one compiled call, so what is measured beside it is
Stable-Baselines3 and not a slow adapter; `check_same_market` proves that the same moves earn the same rewards in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
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


class CampaignVecEnv(VecEnv):
    """`n` campaign-days side by side; when they end, `n` new worlds begin at the next seeds.

    Moves: Discrete, those that one line item's mask allows. Observations are scaled as
    the agent's own, rewards multiplied by its reward_scale: both contestants learn the same problem. What is handed
    out is copied, because torch takes no array that it may not write to.
    """

    def __init__(self, stepwise: Scaled, n: int, first_seed: int) -> None:
        schema = stepwise.schema
        self._stepwise = stepwise
        self._next_seed = first_seed
        self._left = 0
        self._infos: list[dict[str, Any]] = [{} for _ in range(n)]
        self._levels = np.zeros(n, np.int32)
        seen = gym.spaces.Box(-np.inf, np.inf, (schema.observation_size,), np.float32)
        VecEnv.__init__(self, n, seen, gym.spaces.Discrete(len(stepwise.moves)))

    def _new_days(self) -> NDArray[np.float32]:
        seeds = np.arange(self._next_seed, self._next_seed + self.num_envs)
        self._next_seed += self.num_envs
        self._left = self._stepwise.schema.decisions_per_day
        self._days, seen = self._stepwise.begin(seeds)
        return np.array(seen)

    def reset(self) -> NDArray[np.float32]:
        return self._new_days()

    def step_async(self, actions: NDArray[np.integer]) -> None:
        self._levels = actions.astype(np.int32)

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        self._days, seen, reward = self._stepwise.step(self._days, self._levels)
        self._left -= 1
        done = np.full(self.num_envs, self._left == 0)
        # No terminal observation is handed out: a day's end is the end of its task, nothing is bootstrapped.
        observation = np.array(seen) if self._left else self._new_days()
        return observation, np.array(reward), done, self._infos

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
