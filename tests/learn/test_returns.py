"""Bootstrapping and V-trace, against numbers worked by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from gaelp.core.episode import End
from gaelp.core.errors import ShapeError
from gaelp.learn.returns import Estimates, continues, follows, retrace, vtrace


def estimates(reward, value, end, valid=None, ratio=None, *, gamma=1.0, lam=1.0, rho_bar=1.0) -> Estimates:
    reward = jnp.asarray([reward], jnp.float32)
    return vtrace(
        reward,
        jnp.asarray([value], jnp.float32),
        jnp.asarray([end], jnp.int8),
        jnp.ones(reward.shape, bool) if valid is None else jnp.asarray([valid]),
        jnp.ones(reward.shape) if ratio is None else jnp.asarray([ratio], jnp.float32),
        gamma=gamma,
        lam=lam,
        rho_bar=rho_bar,
    )


@pytest.mark.parametrize(
    ("end", "valid", "future"),
    [
        (End.RUNNING, True, 1.0),
        (End.TRUNCATED, True, 1.0),
        (End.TERMINATED, True, 0.0),
        (End.RUNNING, False, 0.0),
        (End.TRUNCATED, False, 0.0),
        (End.TERMINATED, False, 0.0),
    ],
)
def test_only_termination_and_padding_have_no_future(end, valid, future):
    assert float(continues(jnp.asarray(end), jnp.asarray(valid))) == future


def test_a_truncated_step_bootstraps_from_the_observation_after_it():
    # 2 + 0.5 x 10 - 3 = 4
    assert float(estimates([2.0], [3.0, 10.0], [End.TRUNCATED], gamma=0.5).advantage[0, 0]) == 4.0


def test_a_terminated_step_ignores_the_value_after_it():
    # 2 - 3 = -1, whatever the critic says about what comes after the end
    assert float(estimates([2.0], [3.0, 10.0], [End.TERMINATED], gamma=0.5).advantage[0, 0]) == -1.0


def test_padding_after_the_end_changes_nothing():
    short = estimates([1.0, 2.0], [0.5, 0.25, 4.0], [End.RUNNING, End.TRUNCATED], lam=0.5)
    padded = estimates(
        [1.0, 2.0, 99.0], [0.5, 0.25, 4.0, 77.0], [End.RUNNING, End.TRUNCATED, End.RUNNING], [True, True, False],
        lam=0.5,
    )  # fmt: skip
    np.testing.assert_array_equal(padded.advantage[0, :2], short.advantage[0])
    assert float(padded.advantage[0, 2]) == 0.0


def test_with_ratios_of_one_it_is_gae_worked_by_hand():
    # gamma 0.9, lam 0.5, so gamma lam = 0.45; values 1, 2, 3 and no future after the end.
    # d2 = 3 - 3 = 0;  d1 = 2 + 0.9 x 3 - 2 = 2.7;  d0 = 1 + 0.9 x 2 - 1 = 1.8
    # A2 = 0;  A1 = 2.7;  A0 = 1.8 + 0.45 x 2.7 = 3.015
    ends = [End.RUNNING, End.RUNNING, End.TERMINATED]
    found = estimates([1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 9.0], ends, gamma=0.9, lam=0.5)
    np.testing.assert_allclose(found.advantage[0], [3.015, 2.7, 0.0], rtol=1e-6)
    np.testing.assert_allclose(found.target[0], [4.015, 4.7, 3.0], rtol=1e-6)


def test_with_ratios_of_one_it_is_gae_on_random_episodes():
    rng = np.random.default_rng(0)
    episodes, steps, gamma, lam = 64, 6, 0.9, 0.8
    length = rng.integers(1, steps + 1, episodes)
    reward, value = rng.normal(size=(episodes, steps)), rng.normal(size=(episodes, steps + 1))
    valid = np.arange(steps) < length[:, None]
    end = np.full((episodes, steps), End.RUNNING)
    end[np.arange(episodes), length - 1] = rng.choice([End.TERMINATED, End.TRUNCATED], episodes)
    gae = np.zeros((episodes, steps))
    for i in range(episodes):
        carried = 0.0
        for k in reversed(range(length[i])):
            future = 0.0 if end[i, k] == End.TERMINATED else value[i, k + 1]
            carried = reward[i, k] + gamma * future - value[i, k] + gamma * lam * carried
            gae[i, k] = carried
    arrays = (jnp.asarray(x) for x in (reward, value, end, valid, np.ones_like(reward)))
    found = vtrace(*arrays, gamma=gamma, lam=lam, rho_bar=1.5)
    np.testing.assert_allclose(found.advantage, gae, atol=1e-5)
    np.testing.assert_allclose(found.target, gae + value[:, :-1], atol=1e-5)


def test_vtrace_weighs_errors_by_truncated_ratios_worked_by_hand():
    # gamma 1, lam 1, rho_bar 1.5, ratios 0.5 and 4; values 0, 1, 0; rewards 1, 2; terminated.
    # d0 = 1 + 1 - 0 = 2;  d1 = 2 - 1 = 1
    # e1 = min(1.5, 4) x 1 = 1.5;  e0 = 0.5 x 2 + min(1, 0.5) x 1.5 = 1.75
    # A1 = d1 = 1;  A0 = d0 + e1 = 3.5;  targets: 0 + 1.75 and 1 + 1.5
    found = estimates(
        [1.0, 2.0], [0.0, 1.0, 0.0], [End.RUNNING, End.TERMINATED], ratio=[0.5, 4.0], rho_bar=1.5
    )
    np.testing.assert_allclose(found.advantage[0], [3.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(found.target[0], [1.75, 2.5], rtol=1e-6)


def test_errors_never_cross_from_one_day_into_the_next():
    two_days = estimates([1.0, 5.0], [0.0, 0.0, 0.0], [End.TRUNCATED, End.TERMINATED])
    np.testing.assert_array_equal(two_days.advantage[0], [1.0, 5.0])


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match="needs value"):
        estimates([1.0, 2.0], [0.0, 0.0], [End.RUNNING, End.TERMINATED])


def targets(reward, q, next_value, end, *, ratio=None, valid=None, gamma=1.0, lam=1.0) -> np.ndarray:
    """Retrace targets of one window."""
    n = len(reward)
    return np.asarray(
        retrace(
            jnp.asarray([reward], jnp.float32), jnp.asarray([q], jnp.float32), jnp.asarray([next_value], jnp.float32),
            jnp.asarray([end], jnp.int8), jnp.asarray([[True] * n if valid is None else valid]),
            jnp.asarray([[1.0] * n if ratio is None else ratio], jnp.float32), gamma=gamma, lam=lam,
        )
    )[0]  # fmt: skip


RUNNING = End.RUNNING


def test_only_a_running_valid_transition_before_a_valid_one_is_followed():
    end = jnp.asarray(
        [[End.RUNNING, End.TERMINATED, End.RUNNING, End.TRUNCATED, End.RUNNING, End.RUNNING]], jnp.int8
    )
    valid = jnp.asarray([[True, True, False, True, True, True]])
    np.testing.assert_array_equal(follows(end, valid)[0], [True, False, False, False, True, False])


def test_retrace_over_one_transition_is_the_one_step_target():
    # 2 + 0.5 x 10 = 7, whatever Q of the move itself and its ratio are
    assert targets([2.0], [99.0], [10.0], [RUNNING], ratio=[0.3], gamma=0.5)[0] == 7.0
    assert targets([2.0], [99.0], [10.0], [End.TRUNCATED], gamma=0.5)[0] == 7.0
    assert targets([2.0], [99.0], [10.0], [End.TERMINATED], gamma=0.5)[0] == 2.0


def test_retrace_with_ratios_of_one_is_worked_by_hand():
    # gamma 0.5; d2 = 4 + 0.5 x 8 - 3 = 5;  d1 = 2 + 0.5 x 6 - 4 = 1;  d0 = 1 + 0.5 x 2 - 5 = -3
    # target0 = 5 + (-3) + 0.5 x 1 + 0.25 x 5 = 3.75;  target1 = 4 + 1 + 0.5 x 5 = 7.5;  target2 = 3 + 5 = 8
    found = targets([1.0, 2.0, 4.0], [5.0, 4.0, 3.0], [2.0, 6.0, 8.0], [RUNNING] * 3, gamma=0.5)
    np.testing.assert_allclose(found, [3.75, 7.5, 8.0])


def test_retrace_of_a_policy_that_plays_the_taken_moves_is_the_n_step_return():
    # V_{t+1} = Q_{t+1} of the taken move: 1 + 0.5 x 2 + 0.25 x 4 + 0.125 x 8 = 4
    found = targets([1.0, 2.0, 4.0], [5.0, 3.0, 6.0], [3.0, 6.0, 8.0], [RUNNING] * 3, gamma=0.5)
    assert found[0] == 4.0


def test_retrace_stops_at_a_move_the_policy_never_makes():
    # The second move has ratio 0: the first target is 1 + 0.5 x 2 and knows nothing of what came later.
    found = targets(
        [1.0, 2.0, 4.0], [5.0, 4.0, 3.0], [2.0, 6.0, 8.0], [RUNNING] * 3, ratio=[1, 0, 1], gamma=0.5
    )
    np.testing.assert_allclose(found, [2.0, 7.5, 8.0])


def test_retrace_cuts_ratios_at_one_and_shrinks_them_by_lambda():
    # c1 = 0.5 x min(1, 4) = 0.5, c2 = 0.5 x 0.5 = 0.25
    # target1 = 4 + 1 + 0.5 x 0.25 x 5 = 5.625;  target0 = 5 - 3 + 0.5 x 0.5 x (5.625 - 4) = 2.40625
    found = targets(
        [1.0, 2.0, 4.0],
        [5.0, 4.0, 3.0],
        [2.0, 6.0, 8.0],
        [RUNNING] * 3,
        ratio=[9, 4, 0.5],
        gamma=0.5,
        lam=0.5,
    )
    np.testing.assert_allclose(found, [2.40625, 5.625, 8.0])


@pytest.mark.parametrize(("end", "target"), [(End.TERMINATED, 1.0), (End.TRUNCATED, 21.0)])
def test_retrace_never_crosses_from_one_episode_into_the_next(end, target):
    # After the end comes one invalid transition and then another episode worth 1000.
    found = targets([1.0, 7.0, 1000.0], [0.0, 0.0, 0.0], [20.0, 30.0, 40.0], [end, RUNNING, RUNNING],
                    valid=[True, False, True])  # fmt: skip
    np.testing.assert_allclose(found, [target, 0.0, 1040.0])
    # Also where the next episode begins at once: its first transition is worth 7 + (1000 + 40).
    at_once = targets([1.0, 7.0, 1000.0], [0.0, 0.0, 0.0], [20.0, 0.0, 40.0], [end, RUNNING, RUNNING])
    np.testing.assert_allclose(at_once, [target, 1047.0, 1040.0])


def test_retrace_ignores_what_is_not_a_number_in_padding():
    nan = float("nan")
    found = targets(
        [1.0, nan], [0.0, nan], [2.0, nan], [RUNNING, RUNNING], valid=[True, False], ratio=[1.0, nan]
    )
    np.testing.assert_allclose(found, [3.0, 0.0])


def test_retrace_refuses_shapes_that_would_broadcast():
    one = jnp.zeros((2, 3))
    with pytest.raises(ShapeError, match="one shape"):
        retrace(one, one, one, one.astype(jnp.int8), one > 0, jnp.zeros((2, 1)), gamma=1.0, lam=1.0)
