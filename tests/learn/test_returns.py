"""Bootstrapping and V-trace, against numbers worked by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from gaelp.core.episode import End
from gaelp.core.errors import ShapeError
from gaelp.learn.returns import Estimates, continues, vtrace


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
