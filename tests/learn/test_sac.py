"""SAC's targets, objectives and steps, by hand; and that it learns what is known by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaelp.core.episode import End
from gaelp.core.errors import BadInput
from gaelp.core.schema import Actions, TaskSchema, default_schema
from gaelp.learn import sac
from gaelp.learn.experience import PER_TENSOR, Experience
from gaelp.learn.networks import Layer
from gaelp.learn.normalise import unscaled
from gaelp.learn.policies import SquashedGaussian, act, act_mode
from gaelp.learn.replay import Window

RESIDUALS = TaskSchema("residuals", 3, 2, Actions.RESIDUALS, bound=0.5)
MOVES = TaskSchema("moves", 3, 4, Actions.MOVES, zero_move=2)
SMALL = sac.SACConfig(hidden=(16, 16), reward_scale=1.0, replay_size=256, replay_steps=4, conservative=0.0)
KINDS = pytest.mark.parametrize("schema", [RESIDUALS, MOVES], ids=["residuals", "moves"])
ALL = 2**31 - 1

_act, _act_mode = jax.jit(act), jax.jit(act_mode)


def fresh(schema: TaskSchema, seed: int = 0, **settings: object) -> sac.AgentState:
    config = replace(SMALL, **settings)
    return sac.init(config, schema, 0, jax.random.key(seed), unscaled(schema.observation_size, 0))


def played(
    state: sac.AgentState, schema: TaskSchema, rng: np.random.Generator, rows: int = 8, steps: int = 4
) -> Experience:
    """Rows of running episodes that the state's policy plays, with random observations and rewards."""
    observation = rng.normal(size=(rows, steps + 1, schema.observation_size)).astype(np.float32)
    mask = np.ones((rows, steps + 1, schema.action_size), bool)
    choice = _act(state.policy, observation[:, :-1], mask[:, :-1], jax.random.key(int(rng.integers(2**31))))
    nothing = np.zeros(rows, bool)
    return Experience(
        observation=jnp.asarray(observation), mask=jnp.asarray(mask), action=choice.action, log_prob=choice.log_prob,
        reward=jnp.asarray(rng.normal(size=(rows, steps)), jnp.float32), end=jnp.zeros((rows, steps), jnp.int8),
        valid=jnp.ones((rows, steps), bool), weight=jnp.ones(rows), hidden=jnp.zeros((rows, steps + 1, 0)),
        simulated=jnp.asarray(nothing), claimed=jnp.asarray(~nothing), logged=jnp.asarray(nothing),
    )  # fmt: skip


def call(state, batch, config=SMALL, *, epochs=1, batch_size=8, limit=ALL, width=8, anchor=None):
    """One update, and what it told by name."""
    after, report = sac.update(
        state, batch, state.policy if anchor is None else anchor, sac.coefficients(config), epochs, batch_size, limit,
        width=width,
    )  # fmt: skip
    return after, dict(zip(sac.SCALARS, np.asarray(report.scalars).tolist(), strict=True)), report


def first(state, batch, config=SMALL, *, batch_size=8, width=8):
    return sac.first_minibatch(
        state, batch, state.policy, sac.coefficients(config), 1, batch_size, width=width
    )


def constant(critic, *values: tuple[float, ...]):
    """Critics that say the same of everything: the first `values[0]`, the second `values[1]`, one for each output."""
    still = jax.tree.map(jnp.zeros_like, critic)
    return (*still[:-1], Layer(still[-1].weight, jnp.asarray(values, jnp.float32)))


def varied(state: sac.AgentState, seed: int = 1) -> sac.AgentState:
    """The state with an actor that is no longer the pacer, so that every weight matters."""
    leaves, shape = jax.tree.flatten(state.agent.actor)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return eqx.tree_at(lambda s: s.agent.actor, state, jax.tree.unflatten(shape, moved))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_a_squashed_density_integrates_to_one():
    # Residuals in units of the bound; mean 0.4, deviation 0.7, on a fine grid that ends where tanh is 0.99995.
    told = jnp.array([0.4, math.log(0.7)])
    grid = np.tanh(np.linspace(-4.9, 4.9, 20001))
    density = np.exp(
        sac.log_prob_of(
            told, jnp.asarray(grid[:, None], jnp.float32), jnp.ones((20001, 1), bool), Actions.RESIDUALS
        )
    )
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-3)


def test_a_squashed_log_density_is_the_change_of_variables_by_hand():
    # u = 0.3 + 0.5 x 1.2 = 0.9; N(u) = -0.5 x 1.44 - ln 0.5 - 0.5 ln(2 pi); da/du = 1 - tanh(0.9)^2.
    by_hand = -0.72 - math.log(0.5) - 0.918939 - math.log(1 - math.tanh(0.9) ** 2)
    told, on = jnp.array([0.3, math.log(0.5)]), jnp.ones(1, bool)
    choice = sac.residuals(told, jnp.array([1.2]), on)
    assert float(choice.log_prob) == pytest.approx(by_hand, abs=1e-5)
    assert float(sac.log_prob_of(told, choice.action, on, Actions.RESIDUALS)) == pytest.approx(
        by_hand, abs=1e-5
    )


def test_a_log_density_in_units_of_the_bound_is_the_raw_one_scaled(rng):
    # A bound of 0.5 doubles the density of each of two residuals: ln 0.5 a dimension.
    state = varied(fresh(RESIDUALS))
    batch = played(state, RESIDUALS, rng)
    told = _head(state.agent.actor, batch.observation[:, :-1], batch.mask[:, :-1], Actions.RESIDUALS)
    scaled = sac.log_prob_of(told, batch.action / 0.5, batch.mask[:, :-1], Actions.RESIDUALS)
    np.testing.assert_allclose(scaled, batch.log_prob + 2 * math.log(0.5), atol=1e-3)


@KINDS
def test_an_untrained_agent_leaves_everything_as_it_is(schema, rng):
    anything = rng.normal(0, 5, (200, 3)).astype(np.float32)
    action = _act_mode(fresh(schema).policy, anything, np.ones((200, schema.action_size), bool)).action
    assert (np.asarray(action) == (0.0 if schema is RESIDUALS else 2)).all()


def test_an_untrained_campaign_agent_is_the_pacer():
    schema = default_schema()
    state = sac.init(
        replace(SMALL, hidden=(64, 64)), schema, 1, jax.random.key(0), unscaled(schema.observation_size, 1)
    )
    anything = np.random.default_rng(0).normal(0, 5, (300, schema.observation_size)).astype(np.float32)
    moves = _act_mode(state.policy, anything, np.ones((300, schema.action_size), bool)).action
    assert set(np.asarray(moves)) == {schema.zero_move}


def test_residuals_left_out_by_the_mask_neither_act_nor_count(rng):
    policy = varied(fresh(RESIDUALS)).policy
    alone = SquashedGaussian(
        (*policy.actor[:-1], Layer(policy.actor[-1].weight[:, ::2], policy.actor[-1].bias[::2])),
        policy.scaling,
        policy.bound,
    )
    observation = rng.normal(size=(50, 3)).astype(np.float32)
    only_first = np.tile([True, False], (50, 1))
    choice = _act_mode(policy, observation, only_first)
    assert (np.asarray(choice.action)[:, 1] == 0).all()
    np.testing.assert_allclose(
        choice.log_prob, _act_mode(alone, observation, only_first[:, :1]).log_prob, rtol=1e-5
    )


def test_the_target_entropy_counts_active_residuals_only(rng):
    # Two rows, one with both residuals active and one with a single one: targets -2 and -1, mean -1.5.
    state = fresh(RESIDUALS)
    rows = first(state, played(state, RESIDUALS, rng))
    rows = replace(rows, mask=rows.mask.at[::2, 1].set(False))
    told = _head(state.agent.actor, rows.observation, rows.mask, Actions.RESIDUALS)
    entropy = -float(np.mean(sac.residuals(told, rows.noise, rows.mask).log_prob))
    gradient = _gradient["log_temperature"](state.agent, rows, sac.coefficients(SMALL))
    assert float(gradient.log_temperature) == pytest.approx(entropy + 1.5, rel=1e-5)


def test_the_target_entropy_of_moves_is_a_share_of_what_each_state_allows(rng):
    # Uniform over 4, 2 or 1 allowed moves: entropy ln 4, ln 2, 0; at a share of 0.3 the gap is 0.7 of each.
    state = fresh(MOVES, zero_bias=0.0)
    rows = first(state, played(state, MOVES, rng), batch_size=3)
    rows = replace(rows, mask=jnp.ones((8, 4), bool).at[1, 2:].set(False).at[2, 1:].set(False))
    flat = eqx.tree_at(lambda a: a.actor, state.agent, jax.tree.map(jnp.zeros_like, state.agent.actor))
    gradient = _gradient["log_temperature"](flat, rows, sac.coefficients(SMALL))
    assert float(gradient.log_temperature) == pytest.approx(0.7 * (math.log(4) + math.log(2)) / 3, rel=1e-5)


@KINDS
@pytest.mark.parametrize(("target", "falls"), [("low", True), ("high", False)])
def test_the_temperature_falls_above_the_target_entropy_and_rises_below(schema, target, falls, rng):
    low = target == "low"
    config = replace(SMALL, residual_entropy=-5.0 if low else 0.69, move_entropy=0.1 if low else 1.0)
    state = fresh(schema, zero_bias=3.0)
    after, _, _ = call(state, played(state, schema, rng), config)
    assert (float(after.agent.log_temperature) < 0) == falls


def window(reward, end=End.RUNNING, valid=True, n=1, actions=Actions.MOVES, **more) -> Window:
    """One window of n transitions with observation 0 throughout; both moves or residuals allowed and taken 0."""
    schema = MOVES if actions is Actions.MOVES else RESIDUALS
    shape = (1, n) if actions is Actions.MOVES else (1, n, schema.action_size)
    told = {
        "observation": jnp.zeros((1, n + 1, 3)), "mask": jnp.ones((1, n + 1, schema.action_size), bool),
        "action": jnp.zeros(shape, jnp.int32 if actions is Actions.MOVES else jnp.float32),
        "log_prob": jnp.full((1, n), -math.log(4.0)), "reward": jnp.full((1, n), float(reward)),
        "end": jnp.full((1, n), end, jnp.int8), "valid": jnp.full((1, n), valid), "weight": jnp.ones(1),
        "logged": jnp.zeros(1, bool),
    }  # fmt: skip
    return Window(**(told | more))


_targets = eqx.filter_jit(sac._targets)
_head = jax.jit(sac.head, static_argnums=3)
_gradient = {name: jax.jit(jax.grad(objective)) for name, objective in sac.OBJECTIVES.items()}
_loss = {name: jax.jit(objective) for name, objective in sac.OBJECTIVES.items()}


def targets(state, seen, config=SMALL, noise=None):
    noise = jnp.zeros((1, seen.reward.shape[1], 0)) if noise is None else noise
    c = sac.coefficients(config)
    return float(_targets(state.agent, state.target, seen, noise, c, state.bound, state.actions)[0])


def flat_moves(*values, temperature=0.5) -> sac.AgentState:
    """An agent that chooses evenly among 4 moves, whose slow critics say `values` of them everywhere."""
    state = fresh(MOVES, zero_bias=0.0, temperature=temperature)
    state = eqx.tree_at(lambda s: s.agent.actor, state, jax.tree.map(jnp.zeros_like, state.agent.actor))
    return eqx.tree_at(lambda s: s.target, state, constant(state.target, *values))


def test_a_terminated_day_has_no_future_and_a_truncated_one_has():
    # V = mean(1, 2, 3, 6) + 0.5 ln 4 = 3.693147; y = 2 + 0.99 V, or 2.
    state = flat_moves((1.0, 2.0, 3.0, 6.0), (9.0, 9.0, 9.0, 9.0))
    ahead = 2.0 + 0.99 * (3.0 + 0.5 * math.log(4.0))
    assert targets(state, window(2.0, End.RUNNING)) == pytest.approx(ahead, rel=1e-6)
    assert targets(state, window(2.0, End.TRUNCATED)) == pytest.approx(ahead, rel=1e-6)
    assert targets(state, window(2.0, End.TERMINATED)) == 2.0


def test_the_smaller_critic_is_believed_move_by_move():
    # min((1, 8, 3, 8), (7, 2, 9, 6)) = (1, 2, 3, 6).
    state = flat_moves((1.0, 8.0, 3.0, 8.0), (7.0, 2.0, 9.0, 6.0))
    assert targets(state, window(2.0)) == pytest.approx(2.0 + 0.99 * (3.0 + 0.5 * math.log(4.0)), rel=1e-6)


def test_forbidden_moves_are_worth_nothing_and_forbidden():
    # Only the first two of (1, 2, 1e6, 1e6) are allowed: 1.5 + 0.5 ln 2.
    state = flat_moves((1.0, 2.0, 1e6, 1e6), (5.0, 5.0, 1e6, 1e6))
    allowed = jnp.zeros((1, 2, 4), bool).at[:, :, :2].set(True)
    assert targets(state, window(0.0, mask=allowed)) == pytest.approx(
        0.99 * (1.5 + 0.5 * math.log(2.0)), rel=1e-6
    )


def test_the_target_of_residuals_is_the_smaller_critic_less_the_price_of_certainty():
    # Noise 0 at mean 0 and deviation 1: u = 0, log density 2 x -0.918939; critics 5 and 3, temperature 0.5.
    state = fresh(RESIDUALS, temperature=0.5)
    state = eqx.tree_at(lambda s: s.agent.actor, state, jax.tree.map(jnp.zeros_like, state.agent.actor))
    state = eqx.tree_at(lambda s: s.target, state, constant(state.target, (5.0,), (3.0,)))
    seen = window(1.0, actions=Actions.RESIDUALS)
    expected = 1.0 + 0.99 * (3.0 + 0.5 * 2 * 0.918939)
    assert targets(state, seen, noise=jnp.zeros((1, 1, 2))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("logged", "trace"), [(0.25, 1.0), (0.5, 0.5), (0.1, 1.0)])
def test_two_step_targets_are_retraced_by_the_odds_of_the_second_move(logged, trace):
    # pi = 1/4 everywhere. y = 2 + 0.9 V + 0.9 c (2 + 0.9 V - Q(taken)), c = min(1, 0.25 / mu), Q(taken) = 1.
    config = replace(SMALL, n_step=2, gamma=0.9)
    state = flat_moves((1.0, 2.0, 3.0, 6.0), (9.0, 9.0, 9.0, 9.0))
    value = 3.0 + 0.5 * math.log(4.0)
    by_hand = 2.0 + 0.9 * value + 0.9 * trace * (2.0 + 0.9 * value - 1.0)
    seen = window(2.0, n=2, log_prob=jnp.full((1, 2), math.log(logged)))
    assert targets(state, seen, config) == pytest.approx(by_hand, rel=1e-5)


def test_a_two_step_target_of_residuals_uses_densities_in_the_same_units():
    # Logged by the agent itself at bound 0.5: odds 1, so y = 1 + 0.99 (V + (1 + 0.99 V - 3)), V = 3 + 0.918939.
    config = replace(SMALL, n_step=2)
    state = fresh(RESIDUALS, temperature=0.5)
    state = eqx.tree_at(lambda s: s.agent.actor, state, jax.tree.map(jnp.zeros_like, state.agent.actor))
    state = eqx.tree_at(lambda s: s.target, state, constant(state.target, (5.0,), (3.0,)))
    itself = _act_mode(state.policy, jnp.zeros((1, 2, 3)), jnp.ones((1, 2, 2), bool)).log_prob
    seen = window(1.0, n=2, actions=Actions.RESIDUALS, log_prob=itself)
    value = 3.0 + 0.918939
    expected = 1.0 + 0.99 * value + 0.99 * (1.0 + 0.99 * value - 3.0)
    assert targets(state, seen, config, noise=jnp.zeros((1, 2, 2))) == pytest.approx(expected, rel=1e-5)


def test_the_actor_of_moves_gains_by_the_expectation_over_allowed_moves(rng):
    # pi = (3/4, 1/4) over the two allowed moves, critics (1, 5, 1e6, 1e6) and (2, 3, 1e6, 1e6), temperature 1:
    # -(3/4 x 1 + 1/4 x 3) - H, H = 0.562335; a forbidden move's value changes nothing.
    state = fresh(MOVES)
    still = jax.tree.map(jnp.zeros_like, state.agent.actor)
    actor = (*still[:-1], Layer(still[-1].weight, jnp.log(jnp.array([3.0, 1.0, 7.0, 7.0]))))
    critic = constant(state.agent.critic, (1.0, 5.0, 1e6, 1e6), (2.0, 3.0, 1e6, 1e6))
    rows = first(state, played(state, MOVES, rng))
    rows = replace(rows, mask=jnp.zeros((8, 4), bool).at[:, :2].set(True))
    agent = sac.Agent(actor, critic, jnp.zeros(()))
    loss = _loss["actor"](agent, rows, sac.coefficients(SMALL))
    assert float(loss) == pytest.approx(-1.5 - 0.562335, rel=1e-5)


def test_the_critics_lose_half_of_both_squares(rng):
    # Everything worth 1 to the one and 4 to the other critic, targets 3: (4 + 1) / 2.
    state = fresh(MOVES)
    rows = replace(first(state, played(state, MOVES, rng)), target=jnp.full(8, 3.0))
    agent = eqx.tree_at(lambda a: a.critic, state.agent, constant(state.agent.critic, (1.0,) * 4, (4.0,) * 4))
    assert float(_loss["critic"](agent, rows, sac.coefficients(SMALL))) == pytest.approx(2.5)


def test_only_logged_moves_are_held_down():
    # Values (0, ln 3, forbidden, forbidden), taken 0: log(1 + 3) - 0, for both critics; half of the rows are logged.
    config = replace(SMALL, conservative=2.0)
    state = fresh(MOVES)
    rows = first(state, played(state, MOVES, np.random.default_rng(0)), config)
    rows = replace(
        rows, mask=jnp.zeros((8, 4), bool).at[:, :2].set(True), action=jnp.zeros(8, jnp.int32),
        target=jnp.zeros(8), logged=jnp.arange(8) < 4,
    )  # fmt: skip
    value = (0.0, math.log(3.0), 50.0, 50.0)
    agent = eqx.tree_at(lambda a: a.critic, state.agent, constant(state.agent.critic, value, value))
    held = _loss["critic"](agent, rows, sac.coefficients(config))
    assert float(held) == pytest.approx(2.0 * 2 * math.log(4.0) / 2, rel=1e-6)
    free = _loss["critic"](agent, replace(rows, logged=jnp.zeros(8, bool)), sac.coefficients(config))
    assert float(free) == 0.0


def test_held_down_residuals_integrate_over_the_whole_bound():
    # Q is 2 everywhere: log of the integral of e^2 over [-1, 1]^2 is 2 + ln 4, whatever the candidates.
    config = replace(SMALL, conservative=1.0, candidates=32)
    state = fresh(RESIDUALS)
    batch = played(state, RESIDUALS, np.random.default_rng(0), rows=64)
    rows = first(state, replace(batch, logged=jnp.ones(64, bool)), config, batch_size=256, width=256)
    agent = eqx.tree_at(lambda a: a.critic, state.agent, constant(state.agent.critic, (2.0,), (2.0,)))
    rows = replace(rows, target=jnp.full(256, 2.0))
    held = _loss["critic"](agent, rows, sac.coefficients(config))
    assert rows.candidate.shape == (256, 64, 2)
    assert float(held) == pytest.approx(2 * math.log(4.0), rel=0.03)


@KINDS
def test_the_conservative_term_is_paid_for_logged_rows_and_only_then(schema, rng):
    config = replace(SMALL, conservative=1.0)
    state = fresh(schema)
    batch = played(state, schema, rng)
    _, ours, _ = call(state, batch, config)
    _, theirs, _ = call(state, replace(batch, logged=jnp.ones(8, bool)), config)
    assert ours["conservative_loss"] == 0.0
    assert theirs["conservative_loss"] != 0.0


@KINDS
def test_episode_weights_are_applied_exactly_once(schema, rng):
    state = fresh(schema)
    batch = played(state, schema, rng)
    c = sac.coefficients(replace(SMALL, conservative=1.0))
    rows = first(state, replace(batch, logged=jnp.ones(8, bool)), replace(SMALL, conservative=1.0))
    heavy = replace(rows, weight=2 * rows.weight)
    for name, objective in _loss.items():
        one, two = objective(state.agent, rows, c), objective(state.agent, heavy, c)
        assert float(two) == pytest.approx(2 * float(one), rel=1e-5, abs=1e-7), name
    drawn = first(state, replace(batch, weight=jnp.full(8, 3.0)), SMALL)
    assert (np.asarray(drawn.weight) == 3.0).all()


def test_rewards_are_scaled_once():
    state = flat_moves((0.0,) * 4, (0.0,) * 4)
    assert targets(state, window(2.0, End.TERMINATED), replace(SMALL, reward_scale=20.0)) == pytest.approx(
        40.0
    )


@KINDS
def test_every_objective_has_the_gradient_of_its_finite_differences(schema, rng):
    config = replace(SMALL, conservative=0.5, n_step=2, anchor_kl=0.3)
    state = varied(fresh(schema))
    batch = replace(played(state, schema, rng), logged=jnp.arange(8) < 4)
    rows = sac.first_minibatch(state, batch, fresh(schema, 9).policy, sac.coefficients(config), 1, 8, width=8)
    with jax.enable_x64(True):

        def wide(tree):
            return jax.tree.map(
                lambda x: jnp.asarray(
                    np.asarray(x), jnp.float64 if np.asarray(x).dtype.kind == "f" else None
                ),
                tree,
            )

        agent, rows, c = wide(state.agent), wide(rows), wide(sac.coefficients(config))
        for name, objective in sac.OBJECTIVES.items():

            @jax.jit
            def along(field, name=name, objective=objective):
                return objective(eqx.tree_at(lambda a: getattr(a, name), agent, field), rows, c)

            here = getattr(agent, name)
            gradient = jax.grad(along)(here)
            norm = math.sqrt(sum(float(jnp.sum(g * g)) for g in jax.tree.leaves(gradient)))
            assert norm > 1e-3, name
            ahead = jax.tree.map(lambda x, g, norm=norm: x + 1e-5 * g / norm, here, gradient)
            behind = jax.tree.map(lambda x, g, norm=norm: x - 1e-5 * g / norm, here, gradient)
            slope = (float(along(ahead)) - float(along(behind))) / 2e-5
            assert slope == pytest.approx(norm, rel=1e-5), name


@KINDS
@pytest.mark.parametrize("max_grad_norm", [1e3, 0.05])
def test_a_step_can_be_done_again_by_hand(schema, max_grad_norm, rng):
    config = replace(SMALL, conservative=0.5, max_grad_norm=max_grad_norm, learning_rate=1e-3)
    state = varied(fresh(schema))
    state, _, _ = call(state, played(state, schema, rng), config, epochs=3)
    batch = replace(played(state, schema, rng), logged=jnp.arange(8) < 4)
    rows = first(state, batch, config)
    after, _, report = call(state, batch, config, limit=1)
    flat, norms = [], []
    for name in sac.OBJECTIVES:
        gradient = getattr(_gradient[name](state.agent, rows, sac.coefficients(config)), name)
        leaves = [np.asarray(g, np.float64).ravel() for g in jax.tree.leaves(gradient)]
        norm = np.linalg.norm(np.concatenate(leaves))
        norms += [np.linalg.norm(leaf) for leaf in leaves]
        flat += [leaf * min(1.0, max_grad_norm / norm) for leaf in leaves]
    g, count = np.concatenate(flat), int(state.optimiser.count) + 1
    mu = 0.9 * np.asarray(state.optimiser.mu, np.float64) + 0.1 * g
    nu = 0.999 * np.asarray(state.optimiser.nu, np.float64) + 0.001 * g**2
    step = 1e-3 * (mu / (1 - 0.9**count)) / (np.sqrt(nu / (1 - 0.999**count)) + sac.ADAM_EPS)
    before = np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(state.agent)])
    trained = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(after.agent)])
    np.testing.assert_allclose(trained, before - step, atol=1e-6)
    np.testing.assert_allclose(
        report.per_tensor[PER_TENSOR.index("gradient_norm_before")], norms, rtol=1e-4, atol=1e-6
    )
    slow = [np.asarray(t) + 0.005 * (np.asarray(q) - np.asarray(t)) for t, q in
            zip(jax.tree.leaves(state.target), jax.tree.leaves(after.agent.critic), strict=True)]  # fmt: skip
    for got, want in zip(jax.tree.leaves(after.target), slow, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


@KINDS
def test_the_first_call_trains_and_counts_its_steps(schema, rng):
    # 32 transitions, minibatches of 5: 7 an epoch; a limit cuts that short.
    state = fresh(schema)
    batch = played(state, schema, rng)
    after, told, _ = call(state, batch, epochs=3, batch_size=5)
    assert told["updates"] == 21 == int(after.updates)
    assert told["min_update_change"] > 0
    assert int(call(state, batch, epochs=3, batch_size=5, limit=4)[0].updates) == 4


@KINDS
def test_every_step_draws_a_minibatch_of_its_own(schema, rng):
    # At a learning rate of 0 nothing but the rows can change the mean loss from one step to the next.
    state, still = fresh(schema), replace(SMALL, learning_rate=0.0)
    batch = played(state, schema, rng)
    one, two = (call(state, batch, still, limit=limit)[1]["q_loss"] for limit in (1, 2))
    assert abs(one - two) > 1e-3


def test_a_residual_at_the_bound_has_no_density_that_could_be_held_against_it():
    action = jnp.array([[1.0, 0.0], [0.99995, 0.0], [0.999, -0.999]])
    assert sac.certain(action, Actions.RESIDUALS).tolist() == [False, False, True]


@KINDS
def test_no_number_of_episodes_compiles_again(schema, rng):
    state = fresh(schema)
    batch = played(state, schema, rng)
    state, _, _ = call(state, batch)
    before = sac.update._cache_size()
    for episodes, epochs, size in ((3, 1, 8), (8, 2, 4), (1, 5, 1)):
        some = replace(batch, valid=batch.valid & (jnp.arange(8) < episodes)[:, None])
        state, told, _ = call(
            state, some, replace(SMALL, learning_rate=1e-4 * episodes), epochs=epochs, batch_size=size
        )
        assert told["updates"] == epochs * -(-4 * episodes // size)
    assert sac.update._cache_size() == before


@KINDS
def test_many_seeds_train_at_once_as_each_would_alone(schema, rng):
    states = [fresh(schema, seed) for seed in range(3)]
    batches = [played(state, schema, rng) for state in states]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states), jax.tree.map(lambda *x: jnp.stack(x), *batches)
    c = sac.coefficients(SMALL)
    together, _ = jax.vmap(lambda s, e: sac.update(s, e, s.policy, c, 2, 8, ALL, width=8))(*stacked)
    for i, (state, batch) in enumerate(zip(states, batches, strict=True)):
        alone, _, _ = call(state, batch, epochs=2)
        for got, want in zip(jax.tree.leaves(together.agent), jax.tree.leaves(alone.agent), strict=True):
            np.testing.assert_allclose(got[i], want, atol=2e-5)


@KINDS
def test_own_episodes_are_recognised_and_weigh_one_each(schema, rng):
    state = varied(fresh(schema))
    batch = played(state, schema, rng)
    _, told, _ = call(state, batch)
    assert told["false_claim"] < 1e-3
    assert told["effective_sample_share"] == pytest.approx(1.0, abs=1e-4)
    assert told["clipped_mass"] == pytest.approx(0.0, abs=1e-3)
    _, lied, _ = call(state, replace(batch, log_prob=batch.log_prob - 0.1))
    assert lied["false_claim"] == pytest.approx(0.1, abs=1e-3)


def test_weights_of_very_unlikely_residuals_stay_numbers():
    # Weights e^500, e^500 and e^-500: two of three count, all of their mass lies above 1.
    log_weight, present = jnp.array([500.0, 500.0, -500.0, 7.0]), jnp.array([True, True, True, False])
    assert float(sac._effective_share(log_weight, present)) == pytest.approx(2 / 3)
    assert float(sac._clipped_mass(log_weight, present)) == pytest.approx(1.0)
    # Weights 4 and 1: truncated to 1 and 1, 3 of 5 are cut off.
    assert float(sac._clipped_mass(jnp.log(jnp.array([4.0, 1.0])), jnp.ones(2, bool))) == pytest.approx(0.6)


def test_the_distance_of_two_heads_is_that_of_their_gaussians():
    # KL(N(1, 1) || N(0, 2)) = ln 2 + (1 + 1) / 8 - 1/2; the second residual is left out.
    here, there = jnp.array([1.0, 9.0, 0.0, 0.0]), jnp.array([0.0, 0.0, math.log(2.0), 0.0])
    found = sac.kl(here, there, jnp.array([True, False]), Actions.RESIDUALS)
    assert float(found) == pytest.approx(math.log(2.0) + 0.25 - 0.5, rel=1e-6)


@KINDS
def test_an_anchor_holds_the_policy_back(schema, rng):
    state = fresh(schema)
    batch = played(state, schema, rng)
    _, free, _ = call(state, batch, replace(SMALL, learning_rate=3e-3), epochs=20)
    _, pulled, _ = call(state, batch, replace(SMALL, learning_rate=3e-3, anchor_kl=100.0), epochs=20)
    assert pulled["approx_kl"] < 0.5 * free["approx_kl"]
    assert free["anchor_kl"] == 0.0 < pulled["anchor_kl"]


def test_an_anchor_of_another_kind_is_refused(rng):
    state = fresh(MOVES)
    with pytest.raises(BadInput, match="SquashedGaussian, expected a SoftCategorical"):
        call(state, played(state, MOVES, rng), anchor=fresh(RESIDUALS).policy)


def test_residuals_stuck_at_the_bound_are_told(rng):
    state = fresh(RESIDUALS)
    _, free, _ = call(state, played(state, RESIDUALS, rng))
    last = state.agent.actor[-1]
    stuck = eqx.tree_at(lambda s: s.agent.actor[-1].bias, state, last.bias.at[0].set(20.0))
    _, told, _ = call(stuck, played(stuck, RESIDUALS, rng))
    assert free["at_bound"] < 0.05
    assert told["at_bound"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("wrong", [{"tau": 0.0}, {"n_step": 0}, {"hidden": ()}, {"residual_entropy": 0.7}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(BadInput):
        sac.SACConfig(**wrong)


@KINDS
def test_it_learns_which_way_to_go(schema):
    # The first feature's sign says whether the first residual, or one of two moves, pays +1 or -1.
    config = replace(SMALL, learning_rate=3e-3, gamma=0.0)
    rng, state = np.random.default_rng(0), fresh(schema, temperature=0.1)
    for _ in range(60):
        batch = played(state, schema, rng)
        way = np.sign(np.asarray(batch.observation[:, :-1, 0]))
        action = np.asarray(batch.action)
        paid = way * (2 * action[..., 0] if schema is RESIDUALS else (action == 0) * 1.0 - (action == 1))
        state, _, _ = call(state, replace(batch, reward=jnp.asarray(paid, jnp.float32)), config, epochs=4)
    seen = rng.normal(size=(500, 3)).astype(np.float32)
    mode = np.asarray(_act_mode(state.policy, seen, np.ones((500, schema.action_size), bool)).action)
    up = seen[:, 0] > 0
    right = (mode[:, 0] > 0.2) == up if schema is RESIDUALS else mode == np.where(up, 0, 1)
    assert right.mean() > 0.9
