"""Off-policy estimates, checked by enumerating every possible episode of a small decision process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from gaelp.core.errors import BadInput, ShapeError
from gaelp.evidence.ope import pdis, placebo

STEPS = 3
END_STATE = 2
# P[s, a, s']: two live states and an end; REWARD[s, a].
P = np.array([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]], [[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]])
REWARD = np.array([[1.0, -2.0], [0.5, 3.0]])
BEHAVIOUR = np.array([[0.7, 0.3], [0.4, 0.6]])
JUDGED = np.array([[0.2, 0.8], [0.9, 0.1]])


@dataclass(frozen=True)
class Episode:
    states: tuple[int, ...]
    actions: tuple[int, ...]
    probability: float


def every_episode(state: int = 0, taken: int = 0, so_far: Episode | None = None) -> Iterator[Episode]:
    """All episodes from state 0 with their probability under the behaviour; they end early in END_STATE."""
    episode = so_far if so_far is not None else Episode((), (), 1.0)
    if taken == STEPS or state == END_STATE:
        yield episode
        return
    for action in (0, 1):
        for after in (0, 1, END_STATE):
            chance = BEHAVIOUR[state, action] * P[state, action, after]
            longer = Episode(
                (*episode.states, state), (*episode.actions, action), episode.probability * chance
            )
            yield from every_episode(after, taken + 1, longer)


def true_value(policy: np.ndarray) -> float:
    """Backward induction: V_k(s) = sum_a pi(a|s) (r(s,a) + sum_s' P(s,a,s') V_{k+1}(s')), V(end) = 0."""
    value = np.zeros(3)
    for _ in range(STEPS):
        value = np.append((policy * (REWARD + P @ value)).sum(axis=1), 0.0)
    return float(value[0])


@dataclass(frozen=True)
class Log:
    """Every possible episode once, padded with NaN: padding must never be looked at."""

    judged: np.ndarray
    behaviour: np.ndarray
    reward: np.ndarray
    valid: np.ndarray
    probability: np.ndarray


@pytest.fixture(scope="module")
def log() -> Log:
    episodes = list(every_episode())
    judged, behaviour, reward = (np.full((len(episodes), STEPS), np.nan) for _ in range(3))
    valid = np.zeros((len(episodes), STEPS), bool)
    for i, episode in enumerate(episodes):
        k = len(episode.actions)
        at = (np.array(episode.states), np.array(episode.actions))
        valid[i, :k] = True
        judged[i, :k], behaviour[i, :k] = np.log(JUDGED[at]), np.log(BEHAVIOUR[at])
        reward[i, :k] = REWARD[at]
    return Log(judged, behaviour, reward, valid, np.array([e.probability for e in episodes]))


def test_over_all_possible_episodes_the_estimate_is_the_true_value(log: Log) -> None:
    assert log.probability.sum() == pytest.approx(1.0, abs=1e-12)
    result = pdis(log.judged, log.behaviour, log.reward, log.valid)
    assert log.probability @ result.per_episode == pytest.approx(true_value(JUDGED), abs=1e-12)
    assert true_value(JUDGED) != pytest.approx(true_value(BEHAVIOUR), abs=0.1)


def test_over_all_possible_episodes_the_weight_is_one_also_where_episodes_end_early(log: Log) -> None:
    result = pdis(log.judged, log.behaviour, log.reward, log.valid)
    assert log.probability @ result.weights == pytest.approx(1.0, abs=1e-12)


def test_the_behaviour_against_itself_is_the_plain_mean_to_the_last_bit() -> None:
    rng = np.random.default_rng(1)
    log_prob, reward = np.log(rng.uniform(0.01, 1, (97, 6))), rng.normal(0, 1e3, (97, 6))
    valid = rng.random((97, 6)) < 0.9
    valid[:, 0] = True
    result = placebo(log_prob, reward, valid)
    assert result.exact
    assert result.estimate == np.where(valid, reward, 0.0).sum(axis=1).mean()


def test_two_worked_episodes() -> None:
    # Ratios 2, 0.5 and 0.5, 1: weights (2, 1) and (0.5, 0.5). Values 2 x 10 + 1 x 4 = 24 and 0.5 x 6 = 3.
    behaviour = np.log([[0.25, 0.5], [0.5, 0.5]])
    judged = np.log([[0.5, 0.25], [0.25, 0.5]])
    result = pdis(judged, behaviour, [[10.0, 4.0], [6.0, 0.0]], [[True, True], [True, True]])
    assert result.per_episode == pytest.approx([24.0, 3.0])
    assert result.estimate == pytest.approx(13.5)
    # Sample standard deviation 14.849, over the root of 2.
    assert result.standard_error == pytest.approx(10.5)
    # (1 + 0.5)^2 / (1 + 0.25) = 1.8 effective episodes of 2; the first holds 1/1.5 of the weight.
    assert result.ess == pytest.approx(1.8)
    assert result.ess_share == pytest.approx(0.9)
    assert result.largest_share == pytest.approx(2 / 3)
    assert result.mean_weight == pytest.approx([1.25, 0.75])
    assert result.final_mean_weight == pytest.approx(0.75)
    # Step 0: (1.25 - 1)/(1.0607/1.4142) = 1/3. Step 1: (0.75 - 1)/(0.35355/1.4142) = -1.
    assert result.mean_weight_z == pytest.approx([1 / 3, -1.0])
    assert result.worst_z == pytest.approx(-1.0)
    assert {d.name: d.met for d in result.diagnostics} == {
        "mean_weight_z": True,
        "effective_episodes": False,
        "effective_share": True,
        "largest_share": False,
    }


def test_a_log_probability_that_is_a_tenth_too_low_trips_the_mean_weight() -> None:
    rng = np.random.default_rng(2)
    actions = rng.integers(0, 2, (4000, 6))
    behaviour = np.log(np.full((4000, 6), 0.5))
    judged = np.log(np.where(actions == 1, 0.55, 0.45))
    valid, reward = np.ones((4000, 6), bool), np.zeros((4000, 6))
    assert abs(pdis(judged, behaviour, reward, valid).worst_z) < 3
    assert pdis(judged, behaviour - 0.1, reward, valid).worst_z > 3


def test_a_policy_that_would_never_do_what_was_logged_has_no_effective_episodes() -> None:
    result = pdis(
        np.full((5, 2), -np.inf), np.log(np.full((5, 2), 0.5)), np.ones((5, 2)), np.ones((5, 2), bool)
    )
    assert (result.estimate, result.ess, result.largest_share) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("field", "wrong", "sentence"),
    [
        ("behaviour", np.nan, "behaviour's log probability is missing"),
        ("behaviour", -np.inf, "probability is 0 for the action that was taken"),
        ("behaviour", 0.01, "behaviour's log probability is above 0"),
        ("judged", np.nan, "judged policy's log probability is missing"),
        ("judged", 0.01, "judged policy's log probability is above 0"),
        ("reward", np.inf, "reward is not finite"),
    ],
)
def test_what_is_missing_or_impossible_is_refused_by_episode_and_step(
    field: str, wrong: float, sentence: str
) -> None:
    arrays = {name: np.full((3, 2), -0.5) for name in ("judged", "behaviour", "reward")}
    arrays[field][1, 1] = wrong
    with pytest.raises(BadInput, match=f"episode 1, step 1: .*{sentence}"):
        pdis(arrays["judged"], arrays["behaviour"], arrays["reward"], np.ones((3, 2), bool))


def test_shapes_that_differ_and_episodes_without_steps_are_refused() -> None:
    ones, valid = np.zeros((3, 2)), np.ones((3, 2), bool)
    with pytest.raises(ShapeError):
        pdis(ones, ones[:, :1], ones, valid)
    with pytest.raises(ShapeError):
        pdis(ones, ones, ones, valid.astype(float))
    with pytest.raises(BadInput, match="at least 2"):
        pdis(ones[:1], ones[:1], ones[:1], valid[:1])
    valid[2] = False
    with pytest.raises(BadInput, match="episode 2 has no valid step"):
        pdis(ones, ones, ones, valid)


def test_policies_so_far_apart_that_the_weight_overflows_are_refused() -> None:
    behaviour = np.full((2, 2), -400.0)
    with pytest.raises(BadInput, match="episode 0, step 1: the importance weight is beyond"):
        pdis(np.zeros((2, 2)), behaviour, np.zeros((2, 2)), np.ones((2, 2), bool))
