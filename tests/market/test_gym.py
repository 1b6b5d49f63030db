"""The campaign market as a Gymnasium environment: its own checker is content, and the task is the market's."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from tests.market.worlds import SCHEMA, always_mode, at_random, market, posterior

from gaelp import CAMPAIGN_ID
from gaelp.core.errors import BadInput
from gaelp.core.schema import Actions
from gaelp.learn.policies import act, act_mode
from gaelp.market.gym import CampaignEnv, CampaignVectorEnv, Stepwise
from gaelp.market.practice import GymPractice, task_schema


@pytest.fixture(scope="module")
def env():
    return gymnasium.make(CAMPAIGN_ID)


@pytest.fixture(scope="module")
def three():
    return gymnasium.make_vec(CAMPAIGN_ID, num_envs=3)


def test_gymnasiums_own_checker_finds_nothing(env, recwarn):
    check_env(env.unwrapped, skip_render_check=True)
    assert [str(w.message) for w in recwarn if "gymnasium" in str(w.category)] == []


@pytest.mark.parametrize("order", ["import gaelp, gymnasium", "import gymnasium, gaelp"])
def test_the_name_is_known_whichever_is_imported_first_and_gaelp_alone_imports_neither(order):
    code = (
        "import sys, gaelp\nassert 'gymnasium' not in sys.modules and 'jax' not in sys.modules\n"
        if order.startswith("import gaelp")
        else ""
    )
    code += (
        f"{order}\nassert gymnasium.spec('gaelp/Campaign-v0').entry_point == 'gaelp.market.gym:CampaignEnv'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_day_has_six_decisions_ends_by_termination_and_tells_what_it_came_to(env):
    seen, _ = env.reset(seed=4)
    assert seen.shape == (256,)
    steps = [env.step(3) for _ in range(6)]
    assert [terminated for _, _, terminated, _, _ in steps] == [False] * 5 + [True]
    assert not any(truncated for *_, truncated, _ in steps)
    told = steps[-1][-1]
    assert 0 < told["spend"] <= told["budget"] * (1 + 1e-5)
    # The rewards telescope to the gain over the pacer, as a share of its score (above the floor of 2 conversions).
    assert told["pacer_score"] > 2.0
    gain = (told["score"] - told["pacer_score"]) / told["pacer_score"]
    assert sum(reward for _, reward, *_ in steps) == pytest.approx(gain, abs=1e-4)


def test_one_seed_gives_one_day(env):
    days = []
    for _ in range(2):
        days.append([env.reset(seed=11)[0], *(env.step(1)[0] for _ in range(6))])
    assert np.array_equal(np.stack(days[0]), np.stack(days[1]))
    assert not np.array_equal(env.reset(seed=12)[0], days[0][0])


def test_days_side_by_side_end_together_and_begin_anew_in_the_step_after(three):
    seen, _ = three.reset(seed=5)
    assert seen.shape == (3, 256)
    assert not np.array_equal(seen[0], seen[1])
    for k in range(6):
        seen, _, terminated, truncated, told = three.step(np.full(3, 2))
        assert terminated.all() == (k == 5)
        assert not truncated.any()
    assert told["score"].shape == (3,)
    assert told["_score"].all()
    first, reward, terminated, _, told = three.step(np.zeros(3, np.int64))
    assert (reward == 0).all()
    assert not terminated.any()
    assert told == {}
    assert (first[:, SCHEMA.campaign_index("spend_share")] == 0).all()


def test_each_row_plays_what_a_single_environment_plays_from_its_seed_day_after_day(env, three):
    def alone(seed: int | None, move: int) -> list[np.ndarray]:
        return [env.reset(seed=seed)[0], *(env.step(move)[0] for _ in range(6))]

    def together(seed: object) -> np.ndarray:
        days = [three.reset(seed=seed)[0], *(three.step(np.array([1, 2, 3]))[0] for _ in range(6))]
        return np.stack([*days, three.step(np.zeros(3, np.int64))[0]])

    played = together([1, 5, 6])
    for row, seed in enumerate([1, 5, 6]):
        expected = [*alone(seed, row + 1), env.reset()[0]]
        # Single precision, a batch of three and of one.
        assert played[:, row] == pytest.approx(np.stack(expected), abs=2e-3)
    assert not np.array_equal(played[0, 1:], three.reset(seed=[1, 2, 3])[0][1:])
    assert three.unwrapped.np_random_seed == (1, 2, 3)
    assert np.array_equal(three.reset(seed=4)[0], three.reset(seed=[4, 5, 6])[0])


def test_a_row_without_a_seed_goes_on_and_a_list_of_another_length_is_refused(three):
    three.reset(seed=[1, 2, 3])
    second = three.reset()[0]
    three.reset(seed=[1, 2, 3])
    mixed = three.reset(seed=[None, 7, None])[0]
    assert np.array_equal(mixed[[0, 2]], second[[0, 2]])
    assert np.array_equal(mixed[1], three.reset(seed=[0, 7, 0])[0][1])
    with pytest.raises(BadInput, match="seed holds 2 numbers, expected 3, one for each environment"):
        three.reset(seed=[1, 2])


def test_the_rewards_are_the_markets_own():
    told = market(posterior(), sample=at_random, mode=always_mode)
    seeds = np.arange(32)
    played = told.play(jnp.zeros(SCHEMA.action_size), seeds, jax.random.key(1), "random")
    stepwise = Stepwise(posterior(), told.certified, SCHEMA, told.kind)
    days, seen = stepwise.begin(seeds)
    for k in range(6):
        assert np.asarray(seen) == pytest.approx(played.observation[:, k], abs=2e-3)
        days, seen, reward = stepwise.step(days, played.action[:, k])
        # Single precision, added up in another order: 1e-4 of the pacer's score.
        assert np.asarray(reward) == pytest.approx(played.reward[:, k], abs=1e-4)


def test_our_engine_practises_in_it_as_in_any_other_environment(three):
    schema = task_schema("campaign", three)
    assert (schema.observation_size, schema.actions) == (256, Actions.MOVES)
    practice = GymPractice(
        make=lambda n: CampaignVectorEnv(num_envs=n), schema=schema, act=act, act_mode=act_mode, environments=2, steps=7
    )  # fmt: skip
    from gaelp.learn.engine import RLTrainingEngine
    from gaelp.learn.ppo import PPOConfig

    engine = RLTrainingEngine(PPOConfig(hidden=(8,)), schema, seed=1)
    batch = practice.play(engine.policy, engine.actor_hash())
    batch.check(observation_size=256, action_size=schema.action_size)
    assert (batch.valid.sum(axis=1) == 6).all(), "six decisions, then the step in which the next day begins"
    practice.close()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: CampaignEnv(suite="fatige-cpa"), "no suite 'fatige-cpa'.*Did you mean 'fatigue-cpa'"),
        (lambda: CampaignEnv(render_mode="human"), "cannot be drawn"),
        (lambda: CampaignVectorEnv(num_envs=0), "num_envs is 0"),
        (lambda: CampaignEnv(decisions_per_day=7), "must divide 48"),
        (lambda: CampaignEnv().step(np.int64(0)), "call reset first"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(made, said):
    with pytest.raises(BadInput, match=said):
        made()
