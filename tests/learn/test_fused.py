"""The fused path: many rounds of play and training in one compiled call are the same rounds one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaelp.core.errors import BadInput, UnusableBatch
from gaelp.core.schema import Actions, TaskSchema
from gaelp.core.xp import Array
from gaelp.learn.dqn import DQNConfig, Sampling
from gaelp.learn.engine import RLTrainingEngine
from gaelp.learn.networks import named_arrays
from gaelp.learn.policies import act, act_mode
from gaelp.learn.ppo import PPOConfig, Standardise, Statistics
from gaelp.learn.sac import SACConfig
from gaelp.learn.verify import Trail
from gaelp.market.practice import JaxPractice, Stepped

SCHEMA = TaskSchema("pole", 4, 2, Actions.MOVES)
PUSHED = TaskSchema("pushed pole", 4, 1, Actions.RESIDUALS)
CONFIGS = {"ppo": PPOConfig, "dqn": DQNConfig, "sac": SACConfig}


class Pole:
    """A cart that carries a pole, Euler's steps of 0.02 s; the clock cuts an episode at 40."""

    def reset(self, key: Array) -> tuple[Array, Array]:
        x = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return jnp.concatenate([x, jnp.zeros(1)]), x

    def step(self, key: Array, state: Array, action: Array) -> Stepped:
        x, v, angle, spin, time = state
        push = 10.0 * (action[0] if action.ndim else jnp.where(action == 1, 1.0, -1.0))
        lifted = (push + 0.05 * spin**2 * jnp.sin(angle)) / 1.1
        turning = (9.8 * jnp.sin(angle) - jnp.cos(angle) * lifted) / (
            0.5 * (4 / 3 - 0.1 * jnp.cos(angle) ** 2 / 1.1)
        )
        going = lifted - 0.05 * turning * jnp.cos(angle) / 1.1
        now = jnp.stack([x + 0.02 * v, v + 0.02 * going, angle + 0.02 * spin, spin + 0.02 * turning])
        fallen = (jnp.abs(now[0]) > 2.4) | (jnp.abs(now[2]) > 0.2095)
        return Stepped(jnp.append(now, time + 1), now, jnp.float32(1), fallen, time >= 39)


def opened(
    environments: int = 8, algorithm: str = "ppo", schema: TaskSchema = SCHEMA, **settings: object
) -> tuple[RLTrainingEngine, JaxPractice]:
    chosen = {"reward_scale": 1.0, "gamma": 0.99, "learning_rate": 2.5e-3, "hidden": (32, 32), **settings}
    engine = RLTrainingEngine(CONFIGS[algorithm](**chosen), schema, algorithm, seed=3)  # type: ignore[operator]
    practice = JaxPractice(
        environment=Pole(),
        schema=schema,
        act=act,
        act_mode=act_mode,
        environments=environments,
        steps=32,
        seed=5,
    )
    return engine, practice


def one_by_one(engine: RLTrainingEngine, practice: JaxPractice, rounds: int) -> list[object]:
    async def train() -> list[object]:
        return [
            await engine.train_step(
                episode_results=practice.play(engine.policy, engine.actor_hash()), batch_size=64, num_epochs=2
            )
            for _ in range(rounds)
        ]

    return asyncio.run(train())


def fused(engine: RLTrainingEngine, practice: JaxPractice, rounds: int) -> list[object]:
    return asyncio.run(engine.train_rounds(practice, rounds, batch_size=64, num_epochs=2))  # type: ignore[return-value]


REMEMBERING = {"replay_size": 4_096, "replay_steps": 32}
SETTINGS = {
    "ppo as campaigns do": {},
    "ppo as libraries do": {
        "standardise": Standardise.MINIBATCH,
        "statistics": Statistics.RUNNING,
        "entropy_target": 0.6,
    },
    "dqn": {"algorithm": "dqn", **REMEMBERING},
    "sac of residuals": {"algorithm": "sac", "schema": PUSHED, **REMEMBERING},
}
MORE_SETTINGS = {
    "ppo of residuals": {"schema": PUSHED},
    "dqn, prioritised, three steps": {
        "algorithm": "dqn",
        "sampling": Sampling.PRIORITISED,
        "n_step": 3,
        **REMEMBERING,
    },
    "sac of moves": {"algorithm": "sac", **REMEMBERING},
}


def same(now: Any, then: Any) -> bool:
    """Alike all through, numbers to 1e-4: what is only told and never fed back may round otherwise."""
    if isinstance(then, Mapping):
        return now.keys() == then.keys() and all(same(now[key], then[key]) for key in then)
    if isinstance(then, list | tuple):
        return len(now) == len(then) and all(map(same, now, then))
    if isinstance(then, float):
        return bool(now == pytest.approx(then, rel=1e-4, abs=1e-5))
    return bool(now == then)


@pytest.mark.parametrize(
    "settings",
    [pytest.param(s, id=n) for n, s in SETTINGS.items()]
    + [pytest.param(s, id=n, marks=pytest.mark.slow) for n, s in MORE_SETTINGS.items()],
)
def test_a_hundred_fused_rounds_leave_the_weights_of_a_hundred_single_ones(settings):
    (plain, plain_practice), (fast, fast_practice) = opened(**settings), opened(**settings)
    single = one_by_one(plain, plain_practice, 100)
    at_once = fused(fast, fast_practice, 60) + fused(fast, fast_practice, 40)
    # Bit for bit: what is trained, after each of the hundred calls.
    for now, then in zip(at_once, single, strict=True):
        assert (now.weights_hash_after, now.actor_hash_after) == (
            then.weights_hash_after,
            then.actor_hash_after,
        )
    # A second look needs a call's batch and the state before it, which rounds in one program never hand out.
    assert single[0].second_look is not None
    for now, then in zip(at_once, single, strict=True):
        assert same(*({**asdict(m), "seconds": 0, "second_look": None} for m in (now, then)))
    assert plain.weights().keys() == fast.weights().keys()
    unseen = Trail(weights_hash="", actor_hash="")
    audited = {name: getattr(unseen, name) for name in ("audits", "last_audit", "worst", "vitals")}
    assert same(*(asdict(replace(engine.trail, **audited)) for engine in (fast, plain)))
    assert (fast.trail.audits, plain.trail.audits) == (0, 1)


def test_single_rounds_go_on_where_fused_ones_stopped():
    (plain, plain_practice), (mixed, mixed_practice) = opened(), opened()
    one_by_one(plain, plain_practice, 4)
    fused(mixed, mixed_practice, 2)
    one_by_one(mixed, mixed_practice, 2)
    assert mixed.actor_hash() == plain.actor_hash()


def test_rounds_that_may_not_count_change_nothing():
    engine, practice = opened(learning_rate=1.0, max_grad_norm=1e6, reward_scale=1e9)
    fused(engine, practice, 1)
    before = {name: array.copy() for name, array in engine.save_state().items()}
    carry = practice.under_way()

    class Poisoned:
        """The same practice, whose rewards are infinite."""

        seed, rounds, environments, steps = 5, practice.rounds, practice.environments, practice.steps

        def rollout(self, policy, carry, key):
            after, played = practice.rollout(policy, carry, key)
            return after, played._replace(reward=played.reward * jnp.inf)

        def under_way(self):
            return carry

        def key_of(self, number):
            return practice.key_of(number)

        def go_on(self, carry, rounds):
            raise AssertionError("refused rounds must not be taken over")

    with pytest.raises(UnusableBatch, match="infinite or NaN"):
        fused(engine, Poisoned(), 2)  # type: ignore[arg-type]
    after = engine.save_state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_hidden_truth_and_impossible_counts_are_refused():
    engine, practice = opened()
    with pytest.raises(BadInput, match="rounds 0"):
        fused(engine, practice, 0)
    seeing = RLTrainingEngine(PPOConfig(), SCHEMA, hidden_width=2)
    with pytest.raises(BadInput, match="2 hidden numbers"):
        fused(seeing, practice, 1)


def test_agents_of_many_seeds_train_at_once():
    engine, practice = opened()
    rows = engine._experience(practice.play(engine.policy, "another").to_numpy(), 8)
    algorithm, config = engine.algorithm, engine.config
    scaling = engine.state.normaliser
    states = [algorithm.init(config, SCHEMA, 0, jax.random.key(seed), scaling) for seed in (1, 2, 3)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *states)
    asked = (algorithm.coefficients(config), np.int32(2), np.int32(64), np.int32(1000))

    def trained(state):
        return algorithm.update(state, rows, state.policy, *asked, width=64)[0]

    together = jax.vmap(trained)(stacked)
    for i, state in enumerate(states):
        alone = named_arrays(trained(state).agent)
        for name, array in named_arrays(together.agent).items():
            np.testing.assert_allclose(array[i], alone[name], rtol=2e-4, atol=2e-5)
