"""The campaign market one decision at a time: as a Gymnasium environment, alone or many days side by side.

A step is one decision of the agent: a joint move around the pacer, played for a daypart. The world, the pacer, the
observation and the reward are the market's own functions, so an agent trained here meets the same task. Every day
ends by termination after as many decisions as the schema has; the objective is the day's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from gaelp.bidding.act import move_mask, pace_of, tilt_of
from gaelp.bidding.landscape import Landscape
from gaelp.bidding.observe import fits, mark_decision, observe
from gaelp.bidding.pacer import (
    DEFAULT_PARAMS,
    DayState,
    PacerParams,
    after_report,
    bids,
    solve,
    start_day,
)
from gaelp.core.errors import BadInput
from gaelp.core.schema import TICKS_PER_DAY, Schema, default_schema
from gaelp.market.campaign import SCALE_FLOOR, Certified, float32
from gaelp.market.suites import suite
from gaelp.market.world import (
    Kind,
    Posterior,
    Truth,
    World,
    auctions_bank,
    check_posterior,
    day_score,
    half_hour,
    learning_share,
    start_truth,
    worlds_of,
)

DEFAULT_SUITE = "fatigue-cpa"
SEEDS = 2**31 - 1
"""A day's world is one of so many."""
LARGEST = 10.0
"""Observations are clipped to +-10."""


class Days(NamedTuple):
    """B campaign-days under way. pacer_score[T,B]: the paired pacer day's score so far at every decision."""

    world: World
    truth: Truth
    state: DayState
    decision: jax.Array
    pacer_score: jax.Array
    scale: jax.Array


class Stepped(NamedTuple):
    """After a decision: the days, what is seen of them [B,O], and the reward [B]."""

    days: Days
    observation: jax.Array
    reward: jax.Array


class Stepwise:
    """Two compiled functions: `begin` a batch of days from seeds, `step` all of them by one decision.

    The reward is `CampaignMarket`'s: the gain in score over the pacer in the same world since the last decision, as a
    share of the pacer's score of the whole day.
    """

    def __init__(self, posterior: Posterior, certified: Certified, schema: Schema, kind: Kind) -> None:
        check_posterior(posterior, kind)
        fits(schema, kind.items)
        self.schema, self.kind = schema, kind
        self.moves = np.flatnonzero(move_mask(schema, kind.items, kind.rules))
        """The joint moves that do anything, by index."""
        self._posterior: Posterior = float32(posterior)
        self._landscape: Landscape = float32(certified.landscape)
        self._params: PacerParams = float32(certified.params)
        self._bank = auctions_bank()
        self.begin = jax.jit(self._begin)
        self.step = jax.jit(self._step)

    def _look(self, world: World, truth: Truth, state: DayState) -> jax.Array:
        clamped = state._replace(tick=jnp.minimum(state.tick, TICKS_PER_DAY - 1))
        solution = solve(clamped, self._landscape, world.terms, self._params, jnp)
        return observe(
            clamped, solution, self._landscape, world.terms, self._params, self.schema, jnp,
            learning_share(truth),
        )  # fmt: skip

    def _daypart(
        self, world: World, truth: Truth, state: DayState, move: jax.Array, decision: jax.Array
    ) -> tuple[Truth, DayState]:
        ticks = self.schema.ticks_per_decision
        pace, tilt = pace_of(move, self.schema, jnp), tilt_of(move, self.schema, jnp)

        def tick(carry: tuple[Truth, DayState], t: jax.Array) -> tuple[tuple[Truth, DayState], None]:
            truth, state = carry
            solution = solve(state, self._landscape, world.terms, self._params, jnp)
            log_bid = bids(solution, pace, tilt, state, self._landscape, world.terms, self._params, jnp)
            truth, report = half_hour(world, truth, state, log_bid, self._bank, t, self.kind)
            return (truth, after_report(state, report, self._landscape, world.terms, self._params, jnp)), None

        start = (truth, mark_decision(state, pace, jnp))
        return jax.lax.scan(tick, start, decision * ticks + jnp.arange(ticks))[0]

    def _begin(self, seeds: jax.Array) -> tuple[Days, jax.Array]:
        world = worlds_of(self._posterior, seeds, self.kind)
        truth, state = start_truth(world), start_day(self._landscape, world.terms, jnp)
        still = jnp.full(world.terms.budget.shape, self.schema.zero_move)

        def pacer(carry: tuple[Truth, DayState], k: jax.Array) -> tuple[tuple[Truth, DayState], jax.Array]:
            after = self._daypart(world, *carry, still, k)
            return after, day_score(after[0], world)

        # The pacer's day comes first: its score at the end is what every reward of this day is divided by.
        _, scores = jax.lax.scan(pacer, (truth, state), jnp.arange(self.schema.decisions_per_day))
        scale = jnp.maximum(scores[-1], SCALE_FLOOR)
        days = Days(world, truth, state, jnp.int32(0), scores, scale)
        return days, self._look(world, truth, state)

    def _step(self, days: Days, move: jax.Array) -> Stepped:
        """move: [B], indices of joint moves."""
        before = day_score(days.truth, days.world)
        truth, state = self._daypart(days.world, days.truth, days.state, move, days.decision)
        k = days.decision
        pacer_before = jnp.where(k > 0, days.pacer_score[jnp.maximum(k - 1, 0)], 0.0)
        gain = day_score(truth, days.world) - before - (days.pacer_score[k] - pacer_before)
        after = days._replace(truth=truth, state=state, decision=k + 1)
        return Stepped(after, self._look(days.world, truth, state), gain / days.scale)


def _opened(name: str, decisions_per_day: int) -> Stepwise:
    told = suite(name)
    pacer = Certified(told.landscape, DEFAULT_PARAMS)
    return Stepwise(told.posterior, pacer, default_schema(decisions_per_day), told.kind)


def _spaces(stepwise: Stepwise) -> tuple[gym.spaces.Box, gym.spaces.Discrete]:
    seen = gym.spaces.Box(-LARGEST, LARGEST, (stepwise.schema.observation_size,), np.float32)
    return seen, gym.spaces.Discrete(len(stepwise.moves))


def _told(days: Days, row: int) -> dict[str, Any]:
    """What a finished day came to; money in currency units."""
    return {
        "score": float(day_score(days.truth, days.world)[row]),
        "pacer_score": float(days.pacer_score[-1, row]),
        "spend": float(days.truth.spent[row]),
        "budget": float(days.world.terms.budget[row]),
    }


class CampaignEnv(gym.Env[NDArray[Any], np.int64]):
    """One campaign-day after another in the worlds of a suite (`gaelp ladder --help` names them).

    The pacer that is steered is the receding-horizon one as it is before any tuning.
    Actions: Discrete, the joint moves that do anything there, in their order; `stepwise.moves` tells which. The info of
    the last step holds score, pacer_score, spend and budget. Raises BadInput for an unknown suite.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own contract: a plain class attribute

    def __init__(
        self, suite: str = DEFAULT_SUITE, decisions_per_day: int = 6, render_mode: str | None = None
    ) -> None:
        _nothing_to_render(render_mode)
        self.stepwise = _opened(suite, decisions_per_day)
        self.render_mode = render_mode
        self.observation_space, self.action_space = _spaces(self.stepwise)
        self._days: Days | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin a day in a world drawn from `seed`, or from where the last seed's stream stands."""
        gym.Env.reset(self, seed=seed)
        world = self.np_random.integers(0, SEEDS, size=1)
        self._days, seen = self.stepwise.begin(world)
        return np.array(seen[0]), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Play one daypart."""
        if self._days is None:
            raise BadInput("step: no day has begun, call reset first.")
        if not self.action_space.contains(action):
            raise BadInput(f"action: {action!r} is not in {self.action_space}.")
        move = self.stepwise.moves[int(action)][None]
        self._days, seen, reward = self.stepwise.step(self._days, move)
        over = int(self._days.decision) == self.stepwise.schema.decisions_per_day
        told = _told(self._days, 0) if over else {}
        if over:
            self._days = None
        return np.array(seen[0]), float(reward[0]), over, False, told


class _Stream(NamedTuple):
    """Where one row's worlds come from."""

    rng: np.random.Generator
    seed: int


class CampaignVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """`num_envs` campaign-days side by side, one compiled call a step; all end together and begin anew a step later.

    Every row draws its worlds from a generator of its own, so that it plays what `CampaignEnv` plays from its seed.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - as above

    def __init__(
        self, num_envs: int = 1, suite: str = DEFAULT_SUITE, decisions_per_day: int = 6,
        render_mode: str | None = None,
    ) -> None:  # fmt: skip
        _nothing_to_render(render_mode)
        if num_envs < 1:
            raise BadInput(f"num_envs is {num_envs}, expected at least 1.")
        self.num_envs, self.render_mode = num_envs, render_mode
        self.stepwise = _opened(suite, decisions_per_day)
        self.single_observation_space, self.single_action_space = _spaces(self.stepwise)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)
        self._rows = [_Stream(*np_random()) for _ in range(num_envs)]
        self._days: Days | None = None
        self._over = False

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each row, as in Gymnasium's own vector environments."""
        return tuple(row.rng for row in self._rows)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed that each row's generator began with."""
        return tuple(row.seed for row in self._rows)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin `num_envs` days: row k in a world drawn from the list's number k, or from `seed` + k.

        A row without a seed goes on where its stream stands. Raises BadInput unless a list has a number for each row.
        """
        seeds = [seed + k for k in range(self.num_envs)] if isinstance(seed, int) else seed
        if seeds is not None:
            if len(seeds) != self.num_envs:
                raise BadInput(
                    f"seed holds {len(seeds)} numbers, expected {self.num_envs}, one for each environment."
                )
            self._rows = [
                row if of is None else _Stream(*np_random(of))
                for row, of in zip(self._rows, seeds, strict=True)
            ]
        return self._begin(), {}

    def _begin(self) -> NDArray[np.float32]:
        worlds = np.concatenate([row.rng.integers(0, SEEDS, size=1) for row in self._rows])
        self._days, seen = self.stepwise.begin(worlds)
        self._over = False
        return np.array(seen)

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Play one daypart of every day; in the step after an end the actions are not read and new days begin."""
        if self._days is None:
            raise BadInput("step: no days have begun, call reset first.")
        still = np.zeros(self.num_envs, np.bool_)
        if self._over:
            return self._begin(), np.zeros(self.num_envs), still, still.copy(), {}
        if not self.action_space.contains(np.asarray(actions)):
            raise BadInput(f"actions: {actions!r} are not in {self.action_space}.")
        self._days, seen, reward = self.stepwise.step(self._days, self.stepwise.moves[np.asarray(actions)])
        self._over = int(self._days.decision) == self.stepwise.schema.decisions_per_day
        told: dict[str, Any] = {}
        if self._over:
            rows = [_told(self._days, row) for row in range(self.num_envs)]
            told = {name: np.array([row[name] for row in rows]) for name in rows[0]}
            told |= {f"_{name}": np.ones(self.num_envs, np.bool_) for name in rows[0]}
        over = np.full(self.num_envs, self._over)
        return np.array(seen), np.asarray(reward, np.float64), over, still, told


def _nothing_to_render(render_mode: str | None) -> None:
    if render_mode is not None:
        raise BadInput(f"render_mode is {render_mode!r}: a campaign-day cannot be drawn, leave it out.")
