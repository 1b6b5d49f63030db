"""DQN learns closed-form values, bootstraps what goes on, and never counts a forbidden move."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gaelp.core.episode import End
from gaelp.core.errors import BadInput, ShapeError
from gaelp.core.schema import Actions, TaskSchema, default_schema
from gaelp.learn import distributions as dist
from gaelp.learn import dqn
from gaelp.learn.dqn import AgentState, Coefficients, DQNConfig, Sampling
from gaelp.learn.experience import PER_TENSOR, Experience, Report
from gaelp.learn.networks import Dueling, Layer
from gaelp.learn.normalise import unscaled
from gaelp.learn.policies import Gaussian, act, act_mode
from gaelp.learn.replay import Window

TASK = TaskSchema("probe", observation_size=2, action_size=3, actions=Actions.MOVES)
WIDTH = 16
UNLIMITED = 2**31 - 1
ROWS = 16
"""All probes hand in this many rows, so that they share one compilation."""

QUICK = DQNConfig(
    learning_rate=3e-3, gamma=0.5, reward_scale=1.0, hidden=(32,), tau=0.2, replay_size=64, replay_steps=2
)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """ROWS rows of two decisions under uniform moves; observation [i] is what the agent sees at step i."""

    observation: np.ndarray
    reward: np.ndarray
    action: np.ndarray
    end: tuple[End, End] = (End.RUNNING, End.TERMINATED)
    valid: np.ndarray = field(default_factory=lambda: np.ones((ROWS, 2), bool))
    mask: np.ndarray = field(default_factory=lambda: np.ones((ROWS, 3, 3), bool))
    log_prob: float = -float(np.log(3))
    logged: bool = False
    claimed: bool = False
    weight: np.ndarray = field(default_factory=lambda: np.ones(ROWS, np.float32))

    def experience(self) -> Experience:
        b = ROWS
        return Experience(
            observation=jnp.asarray(self.observation, jnp.float32), mask=jnp.asarray(self.mask),
            action=jnp.asarray(self.action, jnp.int32), log_prob=jnp.full((b, 2), self.log_prob),
            reward=jnp.asarray(self.reward, jnp.float32),
            end=jnp.broadcast_to(jnp.asarray(self.end, jnp.int8), (b, 2)), valid=jnp.asarray(self.valid),
            weight=jnp.asarray(self.weight), hidden=jnp.zeros((b, 3, 0)), simulated=jnp.full(b, not self.logged),
            claimed=jnp.full(b, self.claimed), logged=jnp.full(b, self.logged),
        )  # fmt: skip


RNG = np.random.default_rng(3)
CONTEXT = RNG.permutation(np.repeat([-1.0, 1.0], ROWS // 2))
"""What the first number of the observation is in each row; the second is the step."""
SEEN = np.stack([np.stack([CONTEXT, np.full(ROWS, float(t))], -1) for t in range(3)], axis=1)
ACTION = RNG.integers(0, 3, (ROWS, 2))
BOTH = {-1.0: 0, 1.0: 1}


def rows(reward: np.ndarray, **how: object) -> Rows:
    return Rows(observation=SEEN, reward=np.broadcast_to(reward, (ROWS, 2)), action=ACTION, **how)


@cache
def fresh(config: DQNConfig = QUICK, task: TaskSchema = TASK, seed: int = 0) -> AgentState:
    scaling = unscaled(task.observation_size, 0)
    return dqn.init(config, task, 0, jax.random.key(seed), scaling)


def update(
    state: AgentState, played: Experience, c: Coefficients, *, epochs: int = 1, batch: int = WIDTH,
    limit: int = UNLIMITED, anchor: object = None,
) -> tuple[AgentState, Report]:  # fmt: skip
    judge = state.policy if anchor is None else anchor
    return dqn.update(
        state, played, judge, c, np.int32(epochs), np.int32(batch), np.int32(limit), width=WIDTH
    )


def told(report: Report) -> dict[str, float]:
    return dict(zip(dqn.SCALARS, report.scalars.tolist(), strict=True))


def learned(played: Rows, *, calls: int = 60, config: DQNConfig = QUICK) -> np.ndarray:
    """Q [context -1 or 1, step 0 to 2, move] after `calls` x 20 gradient steps on these rows."""
    state, experience, c = fresh(config), played.experience(), dqn.coefficients(config)
    for _ in range(calls):
        state, _ = update(state, experience, c, epochs=10)
    at = jnp.asarray([[[x, t] for t in (0.0, 1.0, 2.0)] for x in BOTH])
    return np.asarray(state.agent.q.q_values(at))


# Probes: worlds whose Q is known in closed form, with gamma 0.5.


def test_it_learns_a_constant_reward():
    # One reward of 2 at the end of each row: Q(step 1) = 2, Q(step 0) = 0 + 0.5 x 2 = 1.
    q = learned(rows(np.array([0.0, 2.0])))
    np.testing.assert_allclose(q[:, 1], 2.0, atol=0.1)
    np.testing.assert_allclose(q[:, 0], 1.0, atol=0.1)


def test_it_learns_what_depends_on_the_observation():
    # Both steps pay the context: Q(step 1) = x, Q(step 0) = 1.5 x.
    q = learned(rows(np.stack([CONTEXT, CONTEXT], -1)))
    for context, i in BOTH.items():
        np.testing.assert_allclose(q[i, 1], context, atol=0.1)
        np.testing.assert_allclose(q[i, 0], 1.5 * context, atol=0.15)


def test_it_learns_what_depends_on_the_move_and_counts_the_best_one_ahead():
    # The move's number is paid, 0 to 2: Q(step 1, a) = a, and Q(step 0, a) = a + 0.5 x 2.
    q = learned(rows(ACTION.astype(float)))
    np.testing.assert_allclose(q[:, 1], np.broadcast_to([0, 1, 2], (2, 3)), atol=0.15)
    np.testing.assert_allclose(q[:, 0], np.broadcast_to([1, 2, 3], (2, 3)), atol=0.15)


def test_it_learns_which_move_pays_a_step_later():
    # The second step shows the first one's move and pays it: Q(step 0, a) = 0.5 a.
    seen = SEEN.copy()
    seen[:, 1, 0] = ACTION[:, 0]
    played = Rows(observation=seen, reward=np.stack([np.zeros(ROWS), ACTION[:, 0]], -1), action=ACTION)
    q = learned(played, calls=100)
    np.testing.assert_allclose(q[:, 0], np.broadcast_to([0, 0.5, 1.0], (2, 3)), atol=0.15)


@pytest.mark.parametrize(("end", "value"), [(End.TERMINATED, 1.0), (End.TRUNCATED, 2.0), (End.RUNNING, 2.0)])
def test_a_truncated_world_has_a_future_and_a_terminated_one_none(end, value):
    # The observation never changes and each step pays 1. Cut by the clock, or by the end of the row, it is worth
    # 1 / (1 - 0.5) = 2; ended by itself after each step, 1.
    played = Rows(
        observation=np.ones((ROWS, 3, 2)), reward=np.ones((ROWS, 2)), action=ACTION,
        end=(end, end), valid=np.tile([True, False], (ROWS, 1)),
    )  # fmt: skip
    state, c = fresh(), dqn.coefficients(QUICK)
    for _ in range(60):
        state, _ = update(state, played.experience(), c, epochs=10)
    np.testing.assert_allclose(state.agent.q.q_values(jnp.ones(2)), value, atol=0.1)


def test_three_steps_ahead_it_learns_the_same_values():
    # Retrace corrects for the uniform moves: the values are those of the best moves all the same.
    q = learned(rows(ACTION.astype(float)), config=replace(QUICK, n_step=3))
    np.testing.assert_allclose(q[:, 0], np.broadcast_to([1, 2, 3], (2, 3)), atol=0.15)


def test_prioritised_it_learns_the_same_values():
    q = learned(rows(ACTION.astype(float)), config=replace(QUICK, sampling=Sampling.PRIORITISED))
    np.testing.assert_allclose(q[:, 0], np.broadcast_to([1, 2, 3], (2, 3)), atol=0.15)


# The pieces, by hand.


def test_the_slow_network_judges_the_move_that_the_network_prefers():
    q, slow = jnp.asarray([1.0, 3.0, 2.0]), jnp.asarray([10.0, 4.0, 20.0])
    everything = jnp.ones(3, bool)
    # The network prefers move 1, the slow one says 4; one network alone would have said 3, or 20.
    assert float(dqn.double_value(q, slow, everything)) == 4.0


def test_a_forbidden_move_is_never_a_target():
    q, slow = jnp.asarray([1.0, 3.0, 2.0]), jnp.asarray([10.0, 4.0, 20.0])
    assert float(dqn.double_value(q, slow, jnp.asarray([True, False, False]))) == 10.0
    # Where nothing can be done any more, nothing is left to earn.
    assert float(dqn.double_value(q, slow, jnp.zeros(3, bool))) == 0.0


def test_q_is_the_value_and_the_advantage_above_the_mean():
    # Value 5, advantages 1, 2, 6 with mean 3: Q = 3, 4, 8.
    heads = Dueling(
        trunk=(), value=Layer(jnp.zeros((1, 1)), jnp.asarray([5.0])),
        advantage=Layer(jnp.zeros((1, 3)), jnp.asarray([1.0, 2.0, 6.0])),
    )  # fmt: skip
    np.testing.assert_allclose(heads.q_values(jnp.ones(1)), [3.0, 4.0, 8.0])


def constant(q: list[float]) -> Dueling:
    """A network that says q everywhere."""
    level = jnp.asarray(q, jnp.float32)
    return Dueling(
        trunk=(),
        value=Layer(jnp.zeros((2, 1)), jnp.mean(level)[None]),
        advantage=Layer(jnp.zeros((2, 3)), level),
    )


def target(action: list[int], n: int, *, lam: float = 1.0, end: End = End.RUNNING) -> float:
    """The first target of a window: Q = (0, 2, 1) everywhere, slow Q = (4, 6, 8); rewards 1, 10, 100."""
    c = dqn.coefficients(replace(QUICK, n_step=n, trace=lam))
    window = Window(
        observation=jnp.zeros((1, n + 1, 2)), mask=jnp.ones((1, n + 1, 3), bool), action=jnp.asarray([action[:n]]),
        log_prob=jnp.full((1, n), np.log(0.5)), reward=jnp.asarray([[1.0, 10.0, 100.0][:n]]),
        end=jnp.asarray([[end] + [End.RUNNING] * (n - 1)], jnp.int8), valid=jnp.ones((1, n), bool),
        weight=jnp.ones(1), logged=jnp.zeros(1, bool),
    )  # fmt: skip
    agent, slow = dqn.Agent(constant([0.0, 2.0, 1.0])), constant([4.0, 6.0, 8.0])
    return float(jax.jit(dqn._targets)(agent, slow, window, window.observation[:, 1:], c)[0, 0])


def test_targets_ahead_are_worked_by_hand():
    # gamma 0.5; the network prefers move 1, which the slow network puts at 6.
    # One step: 1 + 0.5 x 6 = 4.
    assert target([0], 1) == 4.0
    # Two, after the greedy move 1 of probability 0.5, so min(1, 1 / 0.5) = 1: 1 + 0.5 x 10 + 0.25 x 6 = 7.5.
    assert target([0, 1], 2) == 7.5
    # Three, all greedy: 1 + 5 + 0.25 x 100 + 0.125 x 6 = 31.75.
    assert target([0, 1, 1], 3) == 31.75
    # A second move that is not greedy cuts everything behind it, and leaves the one-step target.
    assert target([0, 2, 1], 3) == 4.0
    # Lambda 0.5 counts half of the second step's error, 10 + 0.5 x 6 - 6 = 7: 4 + 0.5 x 0.5 x 7 = 5.75.
    assert target([0, 1], 2, lam=0.5) == 5.75
    # An end cuts too: terminated after the first transition leaves its reward alone, truncated 1 + 0.5 x 6.
    assert target([0, 1, 1], 3, end=End.TERMINATED) == 1.0
    assert target([0, 1, 1], 3, end=End.TRUNCATED) == 4.0


def loss_rows(**how: object) -> dqn.Rows:
    """Two rows at Q = (0, 2, 1): move 1 towards 2.5, weight 3, and move 0 towards 4, weight 1."""
    plain = dqn.Rows(
        observation=jnp.zeros((2, 2)), mask=jnp.ones((2, 3), bool), action=jnp.asarray([1, 0]),
        target=jnp.asarray([2.5, 4.0]), anchor=jnp.full((2, 3), 1 / 3),
        anchor_entropy=jnp.full(2, np.log(3)), importance=jnp.ones(2),
        weight=jnp.asarray([3.0, 1.0]), logged=jnp.zeros(2, bool), valid=jnp.ones(2, bool),
    )  # fmt: skip
    return replace(plain, **how)


def loss(rows: dqn.Rows, **settings: float) -> float:
    agent = dqn.Agent(constant([0.0, 2.0, 1.0]))
    return float(dqn.OBJECTIVES["q"](agent, rows, dqn.coefficients(replace(QUICK, **settings))))


def test_the_loss_is_huber_by_fixed_weights_over_the_number_of_rows():
    # Errors 0.5 and 4; Huber of 1: 0.125 and 4 - 0.5 = 3.5. (3 x 0.125 + 1 x 3.5) / 2 = 1.9375
    assert loss(loss_rows()) == pytest.approx(1.9375)
    # Squared: 0.125 and 8; (0.375 + 8) / 2 = 4.1875
    assert loss(loss_rows(), huber=1e6) == pytest.approx(4.1875)
    # Doubled weights double the loss: nothing divides by them.
    assert loss(loss_rows(weight=jnp.asarray([6.0, 2.0]))) == pytest.approx(2 * 1.9375)
    # Importance counts once beside the weight: (3 x 2 x 0.125 + 0.5 x 3.5) / 2 = 1.25
    assert loss(loss_rows(importance=jnp.asarray([2.0, 0.5]))) == pytest.approx(1.25)
    # Padding counts neither above nor below.
    assert loss(loss_rows(valid=jnp.asarray([True, False]))) == pytest.approx(0.375)


def test_values_beside_logged_moves_are_held_down_on_logged_rows_only():
    # log(e^0 + e^2 + e^1) = 2.4076; above Q of move 0 by 2.4076. Half of the rows, weight 1, factor 10: 12.038
    held = loss(loss_rows(logged=jnp.asarray([False, True])), conservative=10.0)
    assert held - 1.9375 == pytest.approx(12.038, abs=1e-3)
    # A forbidden move is not held down: log(e^0 + e^1) = 1.3133.
    masked = loss_rows(
        logged=jnp.asarray([False, True]), mask=jnp.asarray([[True, True, True], [True, False, True]])
    )
    assert loss(masked, conservative=10.0) - 1.9375 == pytest.approx(6.5663, abs=1e-3)


def test_the_anchor_pulls_by_its_divergence_from_the_softmax_of_q():
    # log softmax(0, 2, 1) = -2.4076, -0.4076, -1.4076: KL(uniform || it) = 1.4076 - log 3 = 0.3090,
    # by weights (3 + 1) / 2 = 2, factor 0.5.
    assert loss(loss_rows(), anchor_kl=0.5) - 1.9375 == pytest.approx(0.3090, abs=1e-3)


# The state and the call.


def test_an_untrained_agent_is_the_pacer_on_any_observation():
    schema = default_schema()
    state = dqn.init(
        DQNConfig(replay_size=6), schema, 0, jax.random.key(1), unscaled(schema.observation_size, 0)
    )
    # Far beyond where scaled observations are clipped, so the largest the network can ever see.
    seen = 1e3 * np.random.default_rng(5).standard_normal((500, schema.observation_size)).astype(np.float32)
    mask = np.ones((500, schema.action_size), bool)
    assert set(np.asarray(act_mode(state.policy, seen, mask).action).tolist()) == {schema.zero_move}


def test_without_a_zero_move_no_move_has_a_head_start():
    assert not fresh().agent.q.advantage.bias.any()


def test_its_log_probabilities_are_those_of_the_moves_it_makes():
    # Q = (0, 2, 1), epsilon 0.3: move 1 by 0.7 + 0.1, the others by 0.1 each; with move 1 masked 0.15 and 0.85.
    policy = replace(fresh(), agent=dqn.Agent(constant([0.0, 2.0, 1.0])), epsilon=jnp.asarray(0.3)).policy
    n = 20_000
    mask = jnp.broadcast_to(jnp.asarray([[True, True, True], [True, False, True]]), (n, 2, 3))
    chosen = act(policy, jnp.zeros((n, 2, 2)), mask, jax.random.key(4))
    for column, probability in ((0, [0.1, 0.8, 0.1]), (1, [0.15, 0.0, 0.85])):
        assert sum(probability) == pytest.approx(1.0)
        for move, p in enumerate(probability):
            made = np.asarray(chosen.action[:, column] == move)
            # Four deviations of a binomial share: error rate 6e-5 each.
            assert abs(made.mean() - p) <= 4 * np.sqrt(p * (1 - p) / n)
            np.testing.assert_allclose(np.exp(np.asarray(chosen.log_prob)[:, column][made]), p, rtol=1e-5)


def test_epsilon_falls_with_the_transitions_trained_on_and_is_part_of_what_plays():
    config = replace(QUICK, epsilon=0.9, epsilon_final=0.1, epsilon_transitions=64)
    state, played = fresh(config), rows(np.zeros(2)).experience()
    found = []
    for _ in range(3):
        state, report = update(state, played, dqn.coefficients(config))
        found.append(float(state.policy.epsilon))
        assert told(report)["epsilon"] == pytest.approx(found[-1])
    # 32 of 64 transitions: halfway from 0.9 to 0.1; then all; then no further.
    np.testing.assert_allclose(found, [0.5, 0.1, 0.1], rtol=1e-6)
    assert int(state.seen) == 96


def test_gradient_steps_are_epochs_times_minibatches_of_new_transitions():
    valid = np.ones((ROWS, 2), bool)
    valid[5:] = False
    played, c = rows(np.zeros(2), valid=valid).experience(), dqn.coefficients(QUICK)
    # 10 transitions in minibatches of 4: 3 a epoch, 2 epochs.
    state, report = update(fresh(), played, c, epochs=2, batch=4)
    assert int(state.updates) == told(report)["updates"] == 6
    # The next call counts its new transitions, not all that is remembered.
    state, report = update(state, played, c, epochs=2, batch=4)
    assert (int(state.updates), told(report)["updates"], told(report)["remembered"]) == (12, 6, 20)
    assert int(update(state, played, c, epochs=2, batch=4, limit=5)[0].updates) == 17


def test_the_first_call_trains_every_tensor():
    _, report = update(fresh(), rows(np.array([0.0, 2.0])).experience(), dqn.coefficients(QUICK))
    per_tensor = dict(zip(PER_TENSOR, np.asarray(report.per_tensor), strict=True))
    assert (per_tensor["weight_change"] > 0).all()
    assert (per_tensor["gradient_norm_before"] > 0).all()
    assert np.isfinite(report.scalars).all()
    assert told(report)["approx_kl"] > 0


def test_a_call_leaves_its_arguments_as_they_were():
    state, played = fresh(), rows(np.array([0.0, 2.0])).experience()
    before = jax.tree.map(np.array, (state, played))
    update(state, played, dqn.coefficients(QUICK))
    jax.tree.map(np.testing.assert_array_equal, before, (state, played))


def test_the_slow_network_is_copied_every_so_many_steps_across_calls():
    config = replace(QUICK, target_every=6, tau=1.0)
    c, played = dqn.coefficients(config), rows(np.array([0.0, 2.0])).experience()
    # Two steps a call: the third call takes the sixth.
    states = [fresh(config)]
    for _ in range(4):
        states.append(update(states[-1], played, c)[0])
    same = jax.tree.map(np.testing.assert_array_equal, states[2].target, states[0].agent.q)
    same = jax.tree.map(np.testing.assert_array_equal, states[3].target, states[3].agent.q)
    same = jax.tree.map(np.testing.assert_array_equal, states[4].target, states[3].agent.q)
    assert same is not None
    assert not np.array_equal(states[4].target.value.bias, states[4].agent.q.value.bias)


def test_with_tau_the_slow_network_goes_that_share_of_the_way():
    config = replace(QUICK, tau=0.25)
    after, _ = update(
        fresh(config), rows(np.array([0.0, 2.0])).experience(), dqn.coefficients(config), limit=1
    )
    jax.tree.map(
        lambda slow, was, now: np.testing.assert_allclose(slow, 0.75 * was + 0.25 * now, rtol=1e-5, atol=1e-7),
        after.target, fresh(config).agent.q, after.agent.q,
    )  # fmt: skip


def test_the_first_minibatch_and_the_objective_say_what_the_first_step_did():
    state, played, c = fresh(), rows(ACTION.astype(float)).experience(), dqn.coefficients(QUICK)
    arguments = (state, played, state.policy, c, np.int32(1), np.int32(12))
    found = dqn.first_minibatch(*arguments, width=WIDTH)
    assert int(found.valid.sum()) == 12
    gradient = jax.jit(jax.grad(dqn.OBJECTIVES["q"]))(state.agent, found, c)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)))
    factor = min(1.0, QUICK.max_grad_norm / norm)
    after, _ = dqn.update(*arguments, np.int32(1), width=WIDTH)
    for g, was, now in zip(*map(jax.tree.leaves, (gradient, state.agent, after.agent)), strict=True):
        # Adam's first step: the moments' corrections cancel, g / (|g| + eps) remains.
        clipped = np.asarray(g) * factor
        step = QUICK.learning_rate * clipped / (np.abs(clipped) + dqn.ADAM_EPS)
        np.testing.assert_allclose(now, np.asarray(was) - step, atol=1e-6)


def test_the_prioritised_gradient_is_the_uniform_one_in_expectation():
    config = replace(QUICK, sampling=Sampling.PRIORITISED, hidden=(4,))
    c, played = dqn.coefficients(config), rows(ACTION.astype(float)).experience()
    # One call sets priorities by TD error, so that the second draws unevenly.
    state, _ = update(fresh(config), played, c, epochs=20)
    assert np.ptp(np.asarray(state.replay.priority[state.replay.valid])) > 0.1

    def mean_gradient(c: Coefficients, key: jax.Array) -> jax.Array:
        keyed = replace(state, key=jax.random.key_data(key))
        nothing = replace(played, valid=jnp.zeros_like(played.valid))
        found = dqn.first_minibatch(
            keyed, nothing, state.policy, c, np.int32(1), np.int32(WIDTH), width=WIDTH
        )
        return jax.grad(dqn.OBJECTIVES["q"])(state.agent, found, c).q.advantage.bias

    keys = jax.random.split(jax.random.key(8), 1000)
    each = np.asarray(jax.jit(jax.vmap(lambda key: mean_gradient(c, key)))(keys))
    plain = dqn.coefficients(replace(config, sampling=Sampling.UNIFORM))
    whole = np.asarray(jax.jit(jax.vmap(lambda key: mean_gradient(plain, key)))(keys))
    error = np.sqrt((each.var(axis=0) + whole.var(axis=0)) / len(keys))
    # Four standard errors in each of three numbers: error rate 2e-4.
    assert (np.abs(each.mean(axis=0) - whole.mean(axis=0)) < 4 * error).all()
    # And it is a different draw: without its importance the mean would be elsewhere.
    assert not np.allclose(each[0], whole[0])


def test_an_anchor_pulls_towards_its_moves_and_one_of_residuals_is_refused():
    config = replace(QUICK, anchor_kl=10.0)
    c, played = dqn.coefficients(config), rows(np.zeros(2)).experience()
    anchor = replace(
        fresh(config), agent=dqn.Agent(constant([0.0, 0.0, 9.0])), epsilon=jnp.asarray(0.1)
    ).policy
    # Its network has no hidden layer, so it is no policy of this shape: an anchor may be any policy of moves.
    state = fresh(config)
    for _ in range(10):
        state, report = update(state, played, c, epochs=10, anchor=anchor)
    mask = np.ones((ROWS, 3), bool)
    assert (np.asarray(act_mode(state.policy, SEEN[:, 0], mask).action) == 2).all()
    assert told(report)["anchor_kl"] > 0
    other = Gaussian((), jnp.zeros(3), anchor.scaling, jnp.ones(()))
    with pytest.raises(BadInput, match="residuals"):
        update(state, played, c, anchor=other)


def test_an_anchor_of_q_says_nothing_where_q_has_not_moved():
    # Learning rate 0: what plays is the anchor itself, in every one of the steps.
    config = replace(QUICK, anchor_kl=10.0, learning_rate=0.0)
    state = replace(
        fresh(config), agent=dqn.Agent(constant([0.0, 0.0, 2.0])), target=constant([0.0, 0.0, 2.0])
    )
    weights = ravel_pytree(state.agent)[0]
    state = replace(state, optimiser=dqn.optimiser().init(weights))
    _, report = update(state, rows(np.zeros(2)).experience(), dqn.coefficients(config))
    # Its epsilon-soft moves would be 0.46 nats away from the softmax of the same Q.
    assert told(report)["anchor_kl"] == pytest.approx(0.0, abs=1e-6)


def test_calls_with_an_anchor_take_a_share_of_the_learning_rate():
    config = DQNConfig(learning_rate=0.02, anchored_rate=0.25)
    assert float(dqn.coefficients(config).learning_rate) == pytest.approx(0.02)
    assert float(dqn.coefficients(replace(config, anchor_kl=0.5)).learning_rate) == pytest.approx(0.005)


def claim(log_prob: float, q: list[float], action: int) -> float:
    """How untrue a claim is under epsilon 0.3 and three moves: 0.8 for the best, 0.1 for others."""
    found = dqn._untrue(
        jnp.asarray([q]),
        jnp.ones((1, 3), bool),
        jnp.asarray([action]),
        jnp.asarray([log_prob]),
        jnp.asarray(0.3),
    )
    return float(found[0])


def test_a_false_claim_is_measured_and_a_tie_is_none():
    assert claim(np.log(0.8), [0.0, 2.0, 1.0], 1) == pytest.approx(0.0, abs=1e-6)
    assert claim(np.log(0.1), [0.0, 2.0, 1.0], 2) == pytest.approx(0.0, abs=1e-6)
    # log(0.8 / 0.1) = 2.079
    assert claim(np.log(0.8), [0.0, 2.0, 1.0], 2) == pytest.approx(2.079, abs=1e-3)
    assert claim(np.log(0.1), [0.0, 2.0, 1.0], 1) == pytest.approx(2.079, abs=1e-3)
    # Moves 1 and 2 tie but for rounding: either may have been the best; move 0 may not.
    assert claim(np.log(0.8), [0.0, 2.0, 2.0 + 1e-6], 1) == pytest.approx(0.0, abs=1e-6)
    assert claim(np.log(0.1), [0.0, 2.0, 2.0 + 1e-6], 2) == pytest.approx(0.0, abs=1e-6)
    assert claim(np.log(0.8), [0.0, 2.0, 2.0 + 1e-6], 0) == pytest.approx(2.079, abs=1e-3)


def test_what_is_claimed_of_these_weights_is_checked_against_them():
    c = dqn.coefficients(QUICK)
    # With epsilon 1 every move has 1/3, as the rows say.
    state = replace(fresh(), epsilon=jnp.ones(()))
    honest = rows(np.zeros(2), claimed=True)
    assert told(update(state, honest.experience(), c)[1])["false_claim"] == pytest.approx(0.0, abs=1e-5)
    false = replace(honest, log_prob=-0.5)
    assert told(update(state, false.experience(), c)[1])["false_claim"] == pytest.approx(
        np.log(3) - 0.5, abs=1e-5
    )


def test_it_tells_how_far_q_is_from_the_return_that_was_observed():
    # Q says 3, 1, 2 with its value at 2; each move is paid 0 then 2 and the row ends: G = 1, then 2.
    state = replace(
        fresh(),
        agent=dqn.Agent(constant([3.0, 1.0, 2.0])),
        target=constant([3.0, 1.0, 2.0]),
        epsilon=jnp.ones(()),
    )
    found = jax.jit(dqn._judge)(
        state, state, rows(np.array([0.0, 2.0])).experience(), dqn.coefficients(QUICK)
    )
    at = dict(zip(dqn.JUDGED, found.tolist(), strict=True))
    q, g = np.array([3.0, 1.0, 2.0])[ACTION], np.broadcast_to([1.0, 2.0], (ROWS, 2))
    assert at["q_bias"] == pytest.approx((q - g).mean() / g.std(), rel=1e-5)
    assert at["explained_variance"] == pytest.approx(1 - (g - q).var() / g.var(), rel=1e-4)
    # Epsilon 1 over three moves: log 3 nats, all there is; and the rows are logged with just these odds.
    assert at["entropy"] == pytest.approx(np.log(3), rel=1e-5)
    assert at["entropy_share"] == pytest.approx(1.0, rel=1e-5)
    assert at["effective_sample_share"] == pytest.approx(1.0, rel=1e-5)
    assert at["clipped_mass"] == pytest.approx(0.0, abs=1e-5)
    # Nothing was trained here.
    assert at["approx_kl"] == 0.0


def test_the_number_of_episodes_epochs_and_the_minibatch_compile_nothing_new():
    c, state = dqn.coefficients(QUICK), fresh()
    state, _ = update(state, rows(np.zeros(2)).experience(), c)
    compiled = dqn.update._cache_size()
    for count, batch, epochs in ((1, 5, 1), (7, 16, 2), (16, 3, 3)):
        valid = np.arange(ROWS)[:, None] < np.full(2, count)
        quicker = dqn.coefficients(replace(QUICK, learning_rate=1e-3 * count, conservative=0.0, tau=0.5))
        state, _ = update(
            state, rows(np.zeros(2), valid=valid).experience(), quicker, batch=batch, epochs=epochs
        )
    assert dqn.update._cache_size() == compiled


def test_two_seeds_train_side_by_side_as_they_do_alone():
    c, played = dqn.coefficients(QUICK), rows(ACTION.astype(float)).experience()
    alone = [fresh(seed=1), fresh(seed=2)]
    together = jax.tree.map(lambda *x: jnp.stack(x), *alone)

    @jax.jit
    @jax.vmap
    def both(state: AgentState) -> AgentState:
        return dqn.update(state, played, state.policy, c, 3, WIDTH, UNLIMITED, width=WIDTH)[0]

    after = both(together)
    for i, state in enumerate(alone):
        one, _ = update(state, played, c, epochs=3)
        for name in ("agent", "target", "replay"):
            jax.tree.map(
                lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5),
                getattr(after, name), getattr(one, name),
            )  # fmt: skip


def test_rounds_in_one_compiled_call_are_the_rounds_one_by_one():
    c, played = dqn.coefficients(QUICK), rows(ACTION.astype(float)).experience()

    def round_(state: AgentState, _: None) -> tuple[AgentState, None]:
        return dqn.update(state, played, state.policy, c, 2, WIDTH, UNLIMITED, width=WIDTH)[0], None

    fused, _ = jax.jit(lambda state: jax.lax.scan(round_, state, None, length=3))(fresh())
    plain = fresh()
    for _ in range(3):
        plain, _ = update(plain, played, c, epochs=2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), fused.agent, plain.agent
    )
    jax.tree.map(np.testing.assert_array_equal, fused.replay, plain.replay)
    np.testing.assert_array_equal(fused.key, plain.key)


def test_longer_episodes_than_a_row_and_residuals_are_refused():
    short = replace(QUICK, replay_steps=1)
    with pytest.raises(ShapeError, match="2 decisions, rows hold 1"):
        update(fresh(short), rows(np.zeros(2)).experience(), dqn.coefficients(short))
    pull = TaskSchema("pull", observation_size=2, action_size=3, actions=Actions.RESIDUALS)
    with pytest.raises(BadInput, match="residuals"):
        dqn.init(QUICK, pull, 0, jax.random.key(0), unscaled(2, 0))


@pytest.mark.parametrize(
    ("name", "figure"),
    [("gamma", 1.1), ("tau", 0.0), ("target_every", 0), ("epsilon_final", 0.0), ("n_step", 0), ("hidden", ()),
     ("priority_beta", 1.5), ("replay_size", 0)],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(name, figure):
    with pytest.raises(BadInput, match=name):
        DQNConfig(**{name: figure})


def test_the_entropy_of_a_state_without_moves_is_zero():
    nothing = dist.epsilon_soft(jnp.zeros((1, 3)), jnp.zeros((1, 3), bool), jnp.asarray(0.5))
    assert float(dist.entropy(nothing, jnp.zeros((1, 3), bool))[0]) == 0.0
