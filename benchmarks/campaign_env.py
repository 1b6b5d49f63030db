"""The campaign market one decision at a time, as the vectorised environment that Stable-Baselines3 expects.

All campaign-days run in step and every step of all of them is one compiled call, so what is measured beside it is
Stable-Baselines3 and not a slow adapter. The world, the pacer and the observation are the market's own functions;
`check_same_market` proves that the same moves earn the same rewards in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from gaelp.bidding.act import pace_of
from gaelp.bidding.landscape import Landscape
from gaelp.bidding.observe import mark_decision, observe
from gaelp.bidding.pacer import DayState, PacerParams, after_report, bids, solve, start_day
from gaelp.core.episode import EpisodeBatch
from gaelp.core.schema import Schema
from gaelp.learn.normalise import Scaling
from gaelp.market.campaign import SCALE_FLOOR, Certified, float32
from gaelp.market.world import (
    Kind,
    Posterior,
    Truth,
    World,
    auctions_bank,
    day_score,
    half_hour,
    start_truth,
    worlds_of,
)

TOLERANCE = 1e-4
"""How far an episode's reward, a share of the pacer's score, may differ between the two: float32, another order."""


class Days(NamedTuple):
    """B campaign-days under way. pacer_gain[T,B]: the paired pacer day's score so far at every decision."""

    world: World
    truth: Truth
    state: DayState
    decision: jax.Array
    pacer_gain: jax.Array
    scale: jax.Array


class Stepwise:
    """Two compiled functions: `begin` a batch of days from seeds, `step` all of them by one decision."""

    def __init__(
        self,
        posterior: Posterior,
        certified: Certified,
        schema: Schema,
        scaling: Scaling,
        reward_scale: float,
    ) -> None:
        self.schema = schema
        self._posterior: Posterior = float32(posterior)  # type: ignore[assignment]
        self._landscape: Landscape = float32(certified.landscape)  # type: ignore[assignment]
        self._params: PacerParams = float32(certified.params)  # type: ignore[assignment]
        self._bank, self._kind = auctions_bank(), Kind()
        self._scaling = scaling
        self._reward_scale = reward_scale
        self.begin = jax.jit(self._begin)
        self.step = jax.jit(self._step)

    def _look(self, world: World, state: DayState) -> jax.Array:
        clamped = state._replace(tick=jnp.minimum(state.tick, 47))
        solution = solve(clamped, self._landscape, world.terms, self._params, jnp)
        seen = observe(clamped, solution, self._landscape, world.terms, self._params, self.schema, jnp)
        return self._scaling(seen)

    def _daypart(
        self, world: World, truth: Truth, state: DayState, pace: jax.Array, decision: jax.Array
    ) -> tuple[Truth, DayState]:
        ticks = self.schema.ticks_per_decision

        def tick(carry: tuple[Truth, DayState], t: jax.Array) -> tuple[tuple[Truth, DayState], None]:
            truth, state = carry
            # One line item in second price: there is nothing to tilt.
            told = (state, self._landscape, world.terms, self._params, jnp)
            log_bid = bids(solve(*told), pace, jnp.zeros_like(pace), *told)
            truth, report = half_hour(world, truth, state, log_bid, self._bank, t, self._kind)
            return (truth, after_report(state, report, self._landscape, world.terms, self._params, jnp)), None

        start = (truth, mark_decision(state, pace, jnp))
        return jax.lax.scan(tick, start, decision * ticks + jnp.arange(ticks))[0]

    def _begin(self, seeds: jax.Array) -> tuple[Days, jax.Array]:
        world = worlds_of(self._posterior, seeds, self._kind)
        truth, state = start_truth(world), start_day(self._landscape, world.terms, jnp)
        still = jnp.zeros_like(world.terms.budget)

        def pacer(carry: tuple[Truth, DayState], k: jax.Array) -> tuple[tuple[Truth, DayState], jax.Array]:
            after = self._daypart(world, *carry, still, k)
            return after, day_score(after[0], world)

        # The pacer's day comes first: its score at the end is what every reward of this day is divided by.
        _, scores = jax.lax.scan(pacer, (truth, state), jnp.arange(self.schema.decisions_per_day))
        scale = jnp.maximum(scores[-1], SCALE_FLOOR)
        days = Days(world, truth, state, jnp.int32(0), scores, scale)
        return days, self._look(world, state)

    def _step(self, days: Days, level: jax.Array) -> tuple[Days, jax.Array, jax.Array]:
        pace = pace_of(level * len(self.schema.tilt_levels), self.schema, jnp)
        before = day_score(days.truth, days.world)
        truth, state = self._daypart(days.world, days.truth, days.state, pace, days.decision)
        k = days.decision
        pacer_before = jnp.where(k > 0, days.pacer_gain[jnp.maximum(k - 1, 0)], 0.0)
        gain = day_score(truth, days.world) - before - (days.pacer_gain[k] - pacer_before)
        after = days._replace(truth=truth, state=state, decision=k + 1)
        return after, self._look(days.world, state), self._reward_scale * gain / days.scale


class CampaignVecEnv(VecEnv):
    """`n` campaign-days side by side; when they end, `n` new worlds begin at the next seeds.

    Moves: Discrete(number of pace levels), the levels that one line item's mask allows. Observations are scaled as
    the agent's own, rewards multiplied by its reward_scale: both contestants learn the same problem. What is handed
    out is copied, because torch takes no array that it may not write to.
    """

    def __init__(self, stepwise: Stepwise, n: int, first_seed: int) -> None:
        schema = stepwise.schema
        self._stepwise = stepwise
        self._next_seed = first_seed
        self._left = 0
        self._infos: list[dict[str, Any]] = [{} for _ in range(n)]
        self._levels = np.zeros(n, np.int32)
        seen = gym.spaces.Box(-np.inf, np.inf, (schema.observation_size,), np.float32)
        VecEnv.__init__(self, n, seen, gym.spaces.Discrete(len(schema.pace_levels)))

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
    played: EpisodeBatch, seeds: NDArray[np.integer], stepwise: Stepwise, reward_scale: float
) -> float:
    """The largest difference in reward when `played`'s moves are taken again here.

    Raises ValueError above TOLERANCE: what follows would compare two different markets.
    """
    days, _ = stepwise.begin(seeds)
    worst = 0.0
    for k in range(played.decisions):
        days, _, reward = stepwise.step(days, played.action[:, k] // len(stepwise.schema.tilt_levels))
        worst = max(worst, float(np.abs(np.asarray(reward) / reward_scale - played.reward[:, k]).max()))
    if not worst <= TOLERANCE:
        raise ValueError(
            f"the adapter's rewards differ from the market's by up to {worst:.3g}, expected {TOLERANCE:g}."
        )
    return worst
