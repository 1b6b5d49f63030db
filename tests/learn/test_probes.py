"""The canaries' answers hold by other means as well, and an honest learner finds them; spoilt code does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks import saboteurs

from gaelp.core.episode import End
from gaelp.core.errors import BadInput, StoreError
from gaelp.core.schema import Actions
from gaelp.learn import probes, tabular
from gaelp.learn.algorithm import PPO
from gaelp.learn.ppo import PPOConfig
from gaelp.learn.probes import (
    Kind,
    canary_key,
    read_canaries,
    run_canaries,
    small_config,
    write_canaries,
)
from gaelp.learn.verify import Canaries, Canary

PROBES = {probe.name: probe for probe in probes.probes()}
CUT = "ended or cut"


def value_by_iteration(probe: probes.Probe) -> np.ndarray:
    """Discounted values by 200 sweeps in NumPy; what was cut goes on, what ended does not."""
    reward, follow = np.asarray(probe.world.reward, np.float64), np.asarray(probe.world.follow)
    goes_on = np.asarray(probe.world.end) != End.TERMINATED
    allowed, value = np.asarray(probe.world.allowed), np.zeros(probe.world.states)
    for _ in range(200):
        each = (reward + probe.gamma * goes_on * value[follow]).mean(axis=-1)
        value = np.where(allowed, each, -np.inf).max(axis=-1)
    return value


@pytest.mark.parametrize("name", [n for n, p in PROBES.items() if p.kind is Kind.VALUE])
def test_values_by_hand_are_those_of_value_iteration(name: str) -> None:
    known = ~np.isnan(PROBES[name].answer)
    assert known.any()
    np.testing.assert_allclose(value_by_iteration(PROBES[name])[known], PROBES[name].answer[known], rtol=1e-9)


@pytest.mark.parametrize("name", [n for n, p in PROBES.items() if p.kind is Kind.RETURN])
def test_optima_by_theory_are_those_of_backward_induction(name: str) -> None:
    best = tabular.best_worth(PROBES[name].world, probes.STEPS)
    assert float(best) == pytest.approx(float(PROBES[name].answer), rel=1e-6)


def test_the_knapsack_is_solved_by_one_threshold_and_not_by_greed() -> None:
    # Buying all that is offered first earns (8 + 6) / 6 of 18 / 6 with budget 9, and 6 of 9 with budget 3.
    world = PROBES["budgeted knapsack"].world
    greedy = tabular.worth(world, np.full(probes.STATES, 3), probes.STEPS)
    assert float(greedy) == pytest.approx((14 + 6) / 2 / 6)


def test_without_a_choice_every_policy_earns_the_same() -> None:
    world = PROBES["nothing to learn"].world
    worths = {
        round(float(tabular.worth(world, np.full(probes.STATES, m), 3)), 6) for m in range(probes.MOVES)
    }
    assert len(worths) == 1


def test_honest_code_tells_a_cut_episode_from_an_ended_one_and_spoilt_code_does_not() -> None:
    asked = tuple(PROBES[name] for name in (CUT, "reward by observation and action", "nothing to learn"))
    honest = run_canaries(PPO, PPOConfig(), Actions.MOVES, asked).results
    assert [result.passed for result in honest] == [10, 10, 10]
    spoilt = run_canaries(saboteurs.cut_is_ended(PPO), PPOConfig(), Actions.MOVES, asked).results
    assert [result.passed for result in spoilt] == [0, 10, 10]
    assert spoilt[0].lowest == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "actions"),
    [("ppo", "moves"), ("ppo", "residuals"), ("dqn", "moves"), ("sac", "moves"), ("sac", "residuals")],
)
def test_every_algorithm_finds_all_answers(name: str, actions: str) -> None:
    algorithm = probes.algorithm_named(name)
    found = run_canaries(algorithm, algorithm.config_type(), Actions(actions))
    assert [result for result in found.results if not result.ok] == []
    assert len(found.results) == 9


def test_a_run_that_cannot_learn_does_not_learn_as_a_canary_either() -> None:
    assert small_config(PPO, PPOConfig(learning_rate=0.0)).learning_rate == 0.0
    assert small_config(PPO, PPOConfig(learning_rate=1e-4)).learning_rate == probes.LEARNING_RATE
    with pytest.raises(BadInput, match="no canaries are known"):
        small_config(replace(PPO, name="genetic"), PPOConfig())


def test_another_setting_is_another_key() -> None:
    key = canary_key(PPO, PPOConfig(), Actions.MOVES)
    assert key == canary_key(PPO, PPOConfig(), Actions.MOVES)
    assert key != canary_key(PPO, PPOConfig(clip=0.3), Actions.MOVES)
    assert key != canary_key(PPO, PPOConfig(), Actions.RESIDUALS)


def test_results_are_left_whole_and_refused_for_another_key(tmp_path: Path) -> None:
    found = Canaries(key="k", results=(Canary(name="a", asks="b", seeds=10, passed=9, needed=9, lowest=0.5),))
    write_canaries(tmp_path / "deep" / "k.json", found)
    assert read_canaries(tmp_path / "deep" / "k.json", "k") == found
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["k.json"]
    with pytest.raises(StoreError, match="holds those of k"):
        read_canaries(tmp_path / "deep" / "k.json", "other")
    (tmp_path / "broken.json").write_text('{"key": "k"')
    with pytest.raises(StoreError, match="cannot be read"):
        read_canaries(tmp_path / "broken.json", "k")
