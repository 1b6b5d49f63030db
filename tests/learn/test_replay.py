"""The replay memory keeps what it was given, forgets the oldest, and draws with the odds it states."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaelp.core.episode import End
from gaelp.core.errors import BadInput, ShapeError
from gaelp.core.schema import Actions, TaskSchema
from gaelp.learn import replay as memory
from gaelp.learn.experience import Experience
from gaelp.learn.replay import Drawn, Replay

add = jax.jit(memory.add)
TASK = TaskSchema("memory", observation_size=1, action_size=2, actions=Actions.MOVES)


def rows(
    rewards: list[list[float]], valid: list[list[bool]] | None = None, end: list[list[int]] | None = None
):
    """Rows whose observation is 10 x the reward at the same step, and 1 after the last; weights 1, 2, 3 ..."""
    reward = jnp.asarray(rewards, jnp.float32)
    b, t = reward.shape
    return Experience(
        observation=jnp.pad(10 * reward, ((0, 0), (0, 1)), constant_values=1.0)[..., None],
        mask=jnp.ones((b, t + 1, 2), bool), action=jnp.ones((b, t), jnp.int32),
        log_prob=jnp.full((b, t), -0.5), reward=reward,
        end=jnp.zeros((b, t), jnp.int8) if end is None else jnp.asarray(end, jnp.int8),
        valid=jnp.ones((b, t), bool) if valid is None else jnp.asarray(valid),
        weight=jnp.arange(1.0, b + 1), hidden=jnp.zeros((b, t + 1, 0)), simulated=jnp.zeros(b, bool),
        claimed=jnp.zeros(b, bool), logged=jnp.arange(b) % 2 == 1,
    )  # fmt: skip


def holding(rewards: list[list[float]], valid: list[list[bool]] | None = None, **sizes: int) -> Replay:
    """A memory that holds exactly these rows."""
    steps = len(rewards[0])
    return add(memory.empty(TASK, transitions=len(rewards) * steps, steps=steps), rows(rewards, valid))


def test_the_oldest_rows_are_overwritten_first():
    kept = memory.empty(TASK, transitions=6, steps=2)
    for first in (1.0, 3.0):
        kept = add(kept, rows([[first, first], [first + 1, first + 1]]))
    # Rows 1, 2, 3, 4 into three places: 4 stands where 1 stood.
    np.testing.assert_array_equal(kept.reward[:, 0], [4.0, 2.0, 3.0])
    np.testing.assert_array_equal(kept.weight, [2.0, 2.0, 1.0])
    np.testing.assert_array_equal(kept.logged, [True, True, False])
    assert (int(kept.cursor), int(kept.filled)) == (1, 3)


def test_padded_rows_neither_overwrite_nor_advance():
    kept = holding([[1.0], [2.0], [3.0]])
    after = add(kept, rows([[7.0], [8.0], [9.0]], [[False], [True], [False]]))
    np.testing.assert_array_equal(after.reward[:, 0], [8.0, 2.0, 3.0])
    assert (int(after.cursor), int(after.filled)) == (1, 3)


def test_of_more_rows_than_it_holds_the_last_ones_stay():
    kept = add(memory.empty(TASK, transitions=2, steps=1), rows([[1.0], [2.0], [3.0], [4.0], [5.0]]))
    np.testing.assert_array_equal(sorted(kept.reward[:, 0].tolist()), [4.0, 5.0])
    # 5 rows into 2 places: the next one goes where the fourth stands.
    assert int(kept.cursor) == 1
    assert kept.reward[int(kept.cursor), 0] == 4.0


def test_a_shorter_row_is_padded_and_forgets_what_stood_behind_it():
    kept = add(holding([[1.0, 2.0, 3.0]]), rows([[4.0, 5.0]]))
    np.testing.assert_array_equal(kept.valid[0], [True, True, False])
    # 10 x 4, 10 x 5, and the observation after the last decision, which is bootstrapped.
    np.testing.assert_array_equal(kept.observation[0, :3, 0], [40.0, 50.0, 1.0])


def test_a_longer_row_or_another_width_is_refused():
    kept = memory.empty(TASK, transitions=4, steps=2)
    with pytest.raises(ShapeError, match="3 decisions, rows hold 2"):
        add(kept, rows([[1.0, 2.0, 3.0]]))
    wide = replace(rows([[1.0, 2.0]]), observation=jnp.zeros((1, 3, 2)))
    with pytest.raises(ShapeError, match="observation has"):
        add(kept, wide)
    with pytest.raises(BadInput, match="above 0"):
        memory.empty(TASK, transitions=0, steps=2)


def test_continuous_actions_are_kept_whole():
    task = TaskSchema("pull", observation_size=1, action_size=2, actions=Actions.RESIDUALS)
    played = replace(rows([[1.0, 2.0]]), action=jnp.asarray([[[0.1, 0.2], [0.3, 0.4]]]))
    kept = add(memory.empty(task, transitions=2, steps=2), played)
    np.testing.assert_array_equal(kept.action, played.action)


def test_adding_leaves_the_old_memory_as_it_was():
    kept = holding([[1.0], [2.0]])
    add(kept, rows([[9.0]]))
    np.testing.assert_array_equal(kept.reward[:, 0], [1.0, 2.0])


def test_uniform_draws_are_of_valid_transitions_and_alike():
    kept = holding([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[True, False, True], [False, False, True]])
    n = 30_000
    drawn = jax.jit(memory.sample, static_argnames="n")(kept, memory.slots(kept), jax.random.key(1), n)
    reward = np.asarray(kept.reward[drawn.row, drawn.step])
    found = {value: int((reward == value).sum()) for value in set(reward.tolist())}
    assert set(found) == {1.0, 3.0, 6.0}
    # Each count is binomial(30000, 1/3): deviation 82; four of them are 327 (error rate 6e-5 each).
    assert max(abs(count - n / 3) for count in found.values()) < 327
    np.testing.assert_array_equal(drawn.importance, 1.0)


def prioritised(alpha: float, beta: float, n: int) -> tuple[Replay, Drawn]:
    kept = holding([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[True, False, True], [False, False, True]])
    # Priorities 1, 4 and 16 where the transitions are valid, far more where they are not.
    kept = replace(kept, priority=jnp.asarray([[1.0, 1e6, 4.0], [1e6, 1e6, 16.0]]))
    return kept, memory.sample_prioritised(kept, jax.random.key(2), n, alpha=alpha, beta=beta)


def test_prioritised_draws_follow_the_power_of_the_priority():
    n = 30_000
    kept, drawn = prioritised(alpha=0.5, beta=1.0, n=n)
    reward = np.asarray(kept.reward[drawn.row, drawn.step])
    # Square roots 1, 2, 4: shares 1/7, 2/7, 4/7.
    for value, share in ((1.0, 1 / 7), (3.0, 2 / 7), (6.0, 4 / 7)):
        assert abs((reward == value).mean() - share) < 4 * np.sqrt(share * (1 - share) / n)
    # count x share = 3/7, 6/7, 12/7
    for value, importance in ((1.0, 7 / 3), (3.0, 7 / 6), (6.0, 7 / 12)):
        np.testing.assert_allclose(drawn.importance[reward == value], importance, rtol=1e-6)


def test_the_importance_makes_the_prioritised_mean_the_plain_mean():
    # Exactly, not by luck: sum over transitions of P(i) importance(i) f(i) = (1 + 3 + 6) / 3.
    kept, drawn = prioritised(alpha=0.7, beta=1.0, n=4_000)
    reward = np.asarray(kept.reward[drawn.row, drawn.step])
    mass = np.array([1.0, 4.0, 16.0]) ** 0.7
    importance = [float(drawn.importance[reward == value][0]) for value in (1.0, 3.0, 6.0)]
    expectation = (mass / mass.sum() * importance * np.array([1.0, 3.0, 6.0])).sum()
    np.testing.assert_allclose(expectation, 10 / 3, rtol=1e-5)


def test_a_smaller_beta_takes_the_root_of_the_importance():
    _, whole = prioritised(alpha=1.0, beta=1.0, n=50)
    _, half = prioritised(alpha=1.0, beta=0.5, n=50)
    np.testing.assert_allclose(half.importance, np.sqrt(whole.importance), rtol=1e-6)


def test_alpha_zero_draws_all_alike():
    _, drawn = prioritised(alpha=0.0, beta=1.0, n=50)
    np.testing.assert_allclose(drawn.importance, 1.0, rtol=1e-6)


def test_new_transitions_get_the_largest_priority_ever_set():
    kept = holding([[1.0], [2.0]])
    drawn = Drawn(jnp.asarray([0, 1]), jnp.asarray([0, 0]), jnp.ones(2))
    kept = memory.reprioritise(kept, drawn, jnp.asarray([5.0, 99.0]), jnp.asarray([True, False]))
    np.testing.assert_array_equal(kept.priority[:, 0], [5.0, 1.0])
    kept = memory.reprioritise(kept, drawn, jnp.asarray([0.5, 99.0]), jnp.asarray([True, False]))
    kept = add(kept, rows([[3.0]]))
    np.testing.assert_array_equal(kept.priority[:, 0], [5.0, 1.0])
    assert float(kept.largest) == 5.0


def window(at: int, n: int, **how: list) -> memory.Window:
    kept = add(memory.empty(TASK, transitions=4, steps=4), rows([[1.0, 2.0, 3.0, 4.0]], **how))
    return memory.windows(kept, Drawn(jnp.asarray([0]), jnp.asarray([at]), jnp.ones(1)), n)


def test_a_window_is_the_transitions_one_after_another():
    found = window(1, 2)
    np.testing.assert_array_equal(found.reward[0], [2.0, 3.0])
    np.testing.assert_array_equal(found.observation[0, :, 0], [20.0, 30.0, 40.0])
    np.testing.assert_array_equal(found.valid[0], [True, True])


def test_a_window_ends_with_its_row():
    found = window(3, 3)
    np.testing.assert_array_equal(found.valid[0], [True, False, False])
    # The observation after the row's last decision: 1.
    np.testing.assert_array_equal(found.observation[0, :2, 0], [40.0, 1.0])


@pytest.mark.parametrize("end", [End.TERMINATED, End.TRUNCATED])
def test_a_window_ends_with_its_episode(end):
    ends = [[End.RUNNING, end, End.RUNNING, End.RUNNING]]
    found = window(0, 4, end=ends, valid=[[True, True, False, True]])
    np.testing.assert_array_equal(found.valid[0], [True, True, False, False])
    # Also where the next episode begins at once, without an invalid transition between.
    np.testing.assert_array_equal(window(0, 4, end=ends).valid[0], [True, True, False, False])
