"""Practice markets: what a batch says about episodes that end, are cut, and follow each other in one row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv

from gaelp.core.episode import SOURCES, End, EpisodeBatch, Source
from gaelp.core.errors import BadInput
from gaelp.core.schema import Actions, TaskSchema
from gaelp.core.xp import Array
from gaelp.market.practice import GymPractice, JaxPractice, Stepped, task_schema

RUNNING, TERMINATED, TRUNCATED = int(End.RUNNING), int(End.TERMINATED), int(End.TRUNCATED)


class Counter:
    """Counts 0, 1, 2, ...; move 1 ends the task, the clock cuts it at 3. The reward is the number left behind."""

    def reset(self, key: Array) -> tuple[Any, Array]:
        return 0, jnp.zeros(1)

    def step(self, key: Array, state: Any, action: Array) -> Stepped:
        now = state + 1
        return Stepped(now, jnp.full(1, now, jnp.float32), jnp.float32(state), action == 1, now >= 3)


class Slider:
    """Tells the action it was given; the clock cuts it after one step."""

    def reset(self, key: Array) -> tuple[Any, Array]:
        return jnp.zeros(()), jnp.zeros(2)

    def step(self, key: Array, state: Any, action: Array) -> Stepped:
        return Stepped(state, action, jnp.sum(action), jnp.asarray(False), jnp.asarray(True))


class Dice:
    """Every fresh start and every step shows a number of its own."""

    def reset(self, key: Array) -> tuple[Any, Array]:
        return 0, jax.random.uniform(key, (1,))

    def step(self, key: Array, state: Any, action: Array) -> Stepped:
        return Stepped(
            state + 1, jax.random.uniform(key, (1,)), jnp.float32(1), jnp.asarray(False), state + 1 >= 2
        )


class Candle:
    """Burns for 1 to 6 steps, as its start says; every step is worth 1."""

    def reset(self, key: Array) -> tuple[Any, Array]:
        left = jax.random.randint(key, (), 1, 7)
        return left, jnp.full(1, left, jnp.float32)

    def step(self, key: Array, state: Any, action: Array) -> Stepped:
        left = state - 1
        return Stepped(left, jnp.full(1, left, jnp.float32), jnp.float32(1), left <= 0, jnp.asarray(False))


class Said(NamedTuple):
    action: Array
    log_prob: Array


def always(policy: Array, seen: Array, mask: Array, key: Array | None = None) -> Said:
    """Plays its own number, or numbers."""
    action = jnp.broadcast_to(policy, (seen.shape[0], *policy.shape))
    return Said(action, jnp.full(seen.shape[0], -0.5))


def above(policy: Array, seen: Array, mask: Array, key: Array | None = None) -> Said:
    """Move 1 once the first number seen has reached the policy's."""
    return Said((seen[:, 0] >= policy).astype(jnp.int32), jnp.full(seen.shape[0], -0.5))


COUNTER = TaskSchema("counter", 1, 2, Actions.MOVES)
MOVE_0, MOVE_1 = jnp.int32(0), jnp.int32(1)


def counters(environments: int = 2, steps: int = 6, act: Callable[..., Said] = always) -> JaxPractice:
    return JaxPractice(
        environment=Counter(), schema=COUNTER, act=act, act_mode=act, environments=environments, steps=steps
    )


def gym_worlds(
    name: str, mode: AutoresetMode = AutoresetMode.NEXT_STEP
) -> Callable[[int], VectorEnv[Any, Any, Any]]:
    def make(n: int) -> VectorEnv[Any, Any, Any]:
        return gym.make_vec(
            name, num_envs=n, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
        )

    return make


def gym_practice(
    name: str, environments: int, steps: int, act: Callable[..., Said] = always, seed: int = 0
) -> GymPractice:
    make = gym_worlds(name)
    return GymPractice(
        make=make, schema=task_schema(name, make(1)), act=act, act_mode=act, environments=environments,
        steps=steps, seed=seed,
    )  # fmt: skip


def test_a_time_limit_truncates_and_the_final_observation_is_kept():
    batch = counters().play(MOVE_0, "me")
    # 0 1 2 | 3 is the final observation; the transition out of it is invalid and leads to the reset one.
    np.testing.assert_array_equal(batch.observation[0, :, 0], [0, 1, 2, 3, 0, 1, 2])
    np.testing.assert_array_equal(batch.valid[0], [True, True, True, False, True, True])
    np.testing.assert_array_equal(batch.end[0], [RUNNING, RUNNING, TRUNCATED, RUNNING, RUNNING, RUNNING])
    np.testing.assert_array_equal(batch.reward[0], [0, 1, 2, 0, 0, 1])
    assert batch.score.tolist() == [4, 4]


def test_what_ends_at_the_clock_and_by_the_task_is_terminated():
    # At 2 the third move is 1: the task ends in the very step in which the clock would cut it.
    batch = counters(act=above).play(jnp.float32(2.0), "me")
    np.testing.assert_array_equal(batch.end[0], [RUNNING, RUNNING, TERMINATED, RUNNING, RUNNING, RUNNING])


def test_each_environment_ends_by_itself():
    practice = counters(environments=1, steps=5)
    batch = practice.play(MOVE_1, "me")
    np.testing.assert_array_equal(batch.end[0], [TERMINATED, RUNNING, TERMINATED, RUNNING, TERMINATED])
    np.testing.assert_array_equal(batch.valid[0], [True, False, True, False, True])


def test_invalid_transitions_hold_zeros():
    batch = counters(environments=1, steps=4).play(MOVE_1, "me")
    np.testing.assert_array_equal(batch.action[0], [1, 0, 1, 0])
    np.testing.assert_array_equal(batch.log_prob[0], [-0.5, 0, -0.5, 0])


def test_the_next_play_goes_on_where_the_last_one_stopped():
    practice = counters(environments=1, steps=2)
    seen = [practice.play(MOVE_0, "me") for _ in range(4)]
    np.testing.assert_array_equal(
        [batch.observation[0, :, 0] for batch in seen], [[0, 1, 2], [2, 3, 0], [0, 1, 2], [2, 3, 0]]
    )
    # The end fell on the first step of the second play; the invalid one is its second.
    np.testing.assert_array_equal(seen[1].end[0], [TRUNCATED, RUNNING])
    np.testing.assert_array_equal(seen[1].valid[0], [True, False])


def test_a_play_that_stops_at_an_end_begins_the_next_with_the_invalid_transition():
    practice = counters(environments=1, steps=3)
    first, second = practice.play(MOVE_0, "me"), practice.play(MOVE_0, "me")
    assert first.end[0, -1] == TRUNCATED
    assert first.observation[0, -1, 0] == second.observation[0, 0, 0] == 3
    np.testing.assert_array_equal(second.valid[0], [False, True, True])


def test_rollout_alone_gives_what_play_gives():
    practice, other = counters(), counters()
    batch = practice.play(MOVE_0, "me")
    _, played = other.rollout(MOVE_0, other.begin(jax.random.key(5)), jax.random.key(6))
    for name in played._fields:
        got, want = getattr(played, name), getattr(batch, name)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want, err_msg=name)


def test_residuals_are_logged_raw_and_executed_within_the_bound():
    schema = TaskSchema("slider", 2, 2, Actions.RESIDUALS, bound=2.0)
    practice = JaxPractice(
        environment=Slider(), schema=schema, act=always, act_mode=always, environments=1, steps=1
    )
    raw = jnp.asarray([5.0, -0.5])
    batch = practice.play(raw, "me")
    np.testing.assert_array_equal(batch.action[0, 0], [5.0, -0.5])
    np.testing.assert_array_equal(batch.observation[0, 1], [2.0, -0.5])
    assert practice.evaluate(raw, 1, jax.random.key(0)).tolist() == [1.5]


def test_environments_and_restarts_draw_numbers_of_their_own():
    practice = JaxPractice(
        environment=Dice(), schema=TaskSchema("dice", 1, 2, Actions.MOVES), act=always, act_mode=always,
        environments=3, steps=8,
    )  # fmt: skip
    seen = np.concatenate([practice.play(MOVE_0, "me").observation[:, :-1].ravel() for _ in range(2)])
    assert len(set(seen.tolist())) == 48


def test_the_same_seed_plays_the_same_and_another_one_differently():
    def seen(seed: int) -> np.ndarray:
        practice = JaxPractice(
            environment=Dice(), schema=TaskSchema("dice", 1, 2, Actions.MOVES), act=always, act_mode=always,
            environments=3, steps=8, seed=seed,
        )  # fmt: skip
        practice.play(MOVE_0, "me")
        return np.asarray(practice.play(MOVE_0, "me").observation)

    np.testing.assert_array_equal(seen(1), seen(1))
    assert (seen(1) != seen(2)).all()


def test_a_return_counts_one_episode_and_nothing_after_it():
    # 0 + 1 + 2 until the clock; with move 1 from 1 on, 0 + 1.
    assert counters().evaluate(MOVE_0, 3, jax.random.key(0)).tolist() == [3, 3, 3]
    assert counters(act=above).evaluate(jnp.float32(1.0), 2, jax.random.key(0)).tolist() == [1, 1]


def test_an_episode_that_is_over_earns_no_more_while_others_go_on():
    practice = JaxPractice(
        environment=Candle(), schema=COUNTER, act=always, act_mode=always, environments=1, steps=1
    )
    returns = practice.evaluate(MOVE_0, 40, jax.random.key(0))
    # Forty candles of six lengths: each length is missing with a probability of (5/6)^40, 7 in 10,000.
    assert set(returns.tolist()) == {1, 2, 3, 4, 5, 6}


def test_episodes_say_where_they_come_from():
    batch = counters().play(MOVE_0, "hash of the actor")
    assert [p.actor_hash for p in batch.provenance] == ["hash of the actor"]
    assert [p.schema_hash for p in batch.provenance] == [COUNTER.hash]
    assert batch.sources.tolist() == [SOURCES.index(Source.SIMULATED)] * 2
    batch.check(observation_size=1, action_size=2)


def test_playing_compiles_once():
    traced = []

    def counted(policy: Array, seen: Array, mask: Array, key: Array) -> Said:
        traced.append(1)
        return always(policy, seen, mask)

    practice = counters(act=counted)
    practice.play(MOVE_0, "me")
    at_first = len(traced)
    for _ in range(3):
        practice.play(MOVE_1, "you")
    assert len(traced) == at_first


def test_gymnasium_pads_the_same_way():
    # Acrobot at rest never swings up by itself: its clock cuts it at 500, and only then.
    batch = gym_practice("Acrobot-v1", 2, 503).play(MOVE_1, "me")
    assert batch.end[0, 499] == TRUNCATED
    assert np.flatnonzero(batch.end[0]).tolist() == [499]
    assert np.flatnonzero(~batch.valid[0]).tolist() == [500]
    # Hanging with velocity, the final observation; 501 is a fresh one, nearly still.
    assert np.abs(batch.observation[0, 501, 4:]).max() <= 0.1
    np.testing.assert_array_equal(batch.reward[0, 498:502], [-1, -1, 0, -1])
    batch.check(observation_size=6, action_size=3)


def test_gymnasium_terminates_what_falls():
    # Pushed to one side only, the pole falls within 12 steps; the task is over, the clock far off.
    batch = gym_practice("CartPole-v1", 3, 30).play(MOVE_1, "me")
    ends = [batch.end[i, np.flatnonzero(batch.end[i])[0]] for i in range(3)]
    assert ends == [TERMINATED] * 3
    assert set(np.unique(batch.reward[batch.valid])) == {1.0}


def test_gymnasium_goes_on_where_it_stopped_as_if_it_had_not():
    def seen(plays: int, steps: int) -> list[np.ndarray]:
        practice = gym_practice("CartPole-v1", 2, steps, act=above, seed=3)
        batches = [practice.play(jnp.float32(0.0), "me") for _ in range(plays)]
        return [
            np.concatenate([getattr(b, n) for b in batches], 1) for n in ("reward", "end", "valid", "action")
        ]

    for whole, parts in zip(seen(1, 60), seen(6, 10), strict=True):
        np.testing.assert_array_equal(whole, parts)


def test_gymnasium_residuals_are_executed_within_the_bound():
    practice = gym_practice("Pendulum-v1", 2, 3)
    assert practice.schema.bound == 2.0
    batch = practice.play(jnp.asarray([7.0]), "me")
    np.testing.assert_array_equal(batch.action, np.full((2, 3, 1), 7.0))
    # reward = -(theta^2 + 0.1 velocity^2 + 0.001 torque^2) with the torque cut to 2.
    cosine, sine, velocity = batch.observation[0, 0]
    want = -(np.arctan2(sine, cosine) ** 2 + 0.1 * velocity**2 + 0.001 * 2.0**2)
    assert batch.reward[0, 0] == pytest.approx(want, abs=1e-5)


def test_gymnasium_returns_are_those_of_whole_episodes():
    # Doing nothing for 500 steps of -1.
    returns = gym_practice("Acrobot-v1", 1, 1).evaluate(MOVE_1, 3, jax.random.key(0))
    assert returns.tolist() == [-500, -500, -500]


def test_worlds_that_reset_within_the_step_are_refused():
    make = gym_worlds("CartPole-v1", AutoresetMode.SAME_STEP)
    with pytest.raises(BadInput, match="NEXT_STEP"):
        GymPractice(
            make=make, schema=task_schema("CartPole-v1", make(1)), act=always, act_mode=always, environments=2,
            steps=2,
        )  # fmt: skip


def test_a_schema_of_another_task_is_refused():
    with pytest.raises(BadInput, match="observation_size is 4, the schema says 1"):
        GymPractice(
            make=gym_worlds("CartPole-v1"),
            schema=COUNTER,
            act=always,
            act_mode=always,
            environments=2,
            steps=2,
        )


def test_spaces_that_no_schema_describes_are_refused():
    class Uneven(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
        action_space = gym.spaces.Box(np.float32([-1, -2]), np.float32([1, 2]))

    class Picture(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(0, 1, (8, 8), np.float32)
        action_space = gym.spaces.Discrete(2)

    for world, message in ((Uneven, "the same .-bound, bound. throughout"), (Picture, "flat box")):
        with pytest.raises(BadInput, match=message):
            task_schema("odd", gym.vector.SyncVectorEnv([world]))


def test_moves_are_counted_from_where_the_space_starts():
    told: list[int] = []

    class FromFive(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        action_space = gym.spaces.Discrete(3, start=5)

        def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            told.append(int(action))
            return np.zeros(1, np.float32), 0.0, False, False, {}

    def make(n: int) -> VectorEnv[Any, Any, Any]:
        return gym.vector.SyncVectorEnv([FromFive] * n)

    schema = task_schema("from five", make(1))
    practice = GymPractice(make=make, schema=schema, act=always, act_mode=always, environments=1, steps=2)
    assert practice.play(jnp.int32(2), "me").action.tolist() == [[2, 2]]
    assert told == [7, 7]


@pytest.mark.parametrize(("environments", "steps"), [(0, 4), (4, 0)])
def test_sizes_below_one_are_refused(environments: int, steps: int):
    with pytest.raises(BadInput, match="at least 1"):
        counters(environments, steps)


def test_a_batch_of_two_plays_is_no_view_of_the_first():
    practice = counters(environments=1, steps=2)
    first: EpisodeBatch = practice.play(MOVE_0, "me")
    kept = first.observation.copy()
    practice.play(MOVE_0, "me")
    np.testing.assert_array_equal(first.observation, kept)
