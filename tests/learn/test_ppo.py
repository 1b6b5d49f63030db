"""PPO learns, counts its steps, and treats logged episodes as what they are."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.learn import toys

from gaelp.core.episode import Source, concatenate
from gaelp.core.errors import BadInput, UnusableBatch
from gaelp.learn import policies, ppo
from gaelp.learn.networks import named_arrays
from gaelp.learn.normalise import unscaled


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_an_untrained_agent_is_the_pacer_on_any_observation(rng):
    policy = toys.engine().policy
    anything = rng.normal(0, 5, (500, toys.SCHEMA.observation_size)).astype(np.float32)
    mask = np.ones((500, toys.SCHEMA.action_size), bool)
    assert set(np.asarray(policies.act_mode(policy, anything, mask).action)) == {toys.SCHEMA.zero_move}


def test_it_learns_a_contextual_bandit(rng):
    learner = toys.engine()
    toys.practise(learner, 20, rng)
    # The best is 2 x 0.425 = 0.85 an episode, the best constant move earns 0.
    assert toys.mode_reward(learner.policy, toys.bandit) > 0.9 * 0.85


def test_it_learns_what_only_pays_a_step_later(rng):
    learner = toys.engine()
    toys.practise(learner, 30, rng, pays=toys.delayed)
    # The best is 0.425 an episode.
    assert toys.mode_reward(learner.policy, toys.delayed) > 0.9 * 0.425


def test_it_learns_from_episodes_of_a_uniform_behaviour_policy(rng):
    learner = toys.engine(min_ess=0.1)
    for _ in range(8):
        toys.train(learner, toys.episodes(None, rng, source=Source.LOGGED))
    # The best constant move earns 0: more than half of the best answer is not had without the contexts.
    assert toys.mode_reward(learner.policy, toys.bandit) > 0.5 * 0.85


def test_a_logged_batch_too_far_from_the_policy_is_refused_and_changes_nothing(rng):
    learner = toys.engine()
    toys.practise(learner, 20, rng)
    before = learner.actor_hash()
    with pytest.raises(UnusableBatch, match="effective sample"):
        toys.train(learner, toys.episodes(None, rng, source=Source.LOGGED))
    assert learner.actor_hash() == before


def test_episodes_of_the_current_policy_weigh_one_each(rng):
    learner = toys.engine()
    toys.practise(learner, 3, rng)
    metrics = toys.train(learner, toys.episodes(learner.policy, rng, source=Source.LIVE))
    assert metrics.effective_sample_share == pytest.approx(1.0, abs=1e-5)
    assert metrics.clipped_mass == pytest.approx(0.0, abs=1e-5)


def test_log_probabilities_that_the_named_weights_do_not_have_are_refused(rng):
    learner = toys.engine()
    honest = toys.episodes(learner.policy, rng, actor_hash=learner.actor_hash())
    before = learner.actor_hash()
    with pytest.raises(UnusableBatch, match=r"off by up to 0\.1"):
        toys.train(learner, replace(honest, log_prob=honest.log_prob - 0.1))
    assert learner.actor_hash() == before


@pytest.mark.parametrize(("count", "epochs", "steps"), [(32, 4, 16), (20, 4, 12), (9, 1, 2), (8, 3, 3)])
def test_gradient_steps_are_epochs_times_minibatches_rounded_up(rng, count, epochs, steps):
    # Two transitions an episode, minibatches of 16: 64, 40, 18 and 16 transitions make 4, 3, 2 and 1.
    learner = toys.engine()
    metrics = toys.train(learner, toys.episodes(learner.policy, rng, count=count), num_epochs=epochs)
    assert metrics.updates == steps
    assert int(learner.state.updates) == steps


def test_invalid_transitions_are_not_trained_on(rng):
    played = toys.episodes(toys.engine().policy, rng, count=20)
    last = toys.episodes(None, rng, count=4)
    rubbish = replace(
        last,
        observation=np.full_like(last.observation, np.nan),
        reward=np.full_like(last.reward, np.inf),
        log_prob=np.full_like(last.log_prob, np.nan),
        valid=np.zeros_like(last.valid),
    )
    plain, with_rubbish = toys.engine(), toys.engine()
    toys.train(plain, played)
    metrics = toys.train(with_rubbish, concatenate([played, rubbish]))
    assert metrics.transitions == 40
    assert with_rubbish.actor_hash() == plain.actor_hash()


def test_a_learning_rate_of_zero_changes_no_weight(rng):
    learner = toys.engine(learning_rate=0.0)
    metrics = toys.practise(learner, 2, rng)[-1]
    assert metrics.weight_change.absolute == 0.0
    assert metrics.min_update_change == 0.0
    assert metrics.weights_hash_after == metrics.weights_hash_before
    assert max(metrics.gradient_norm_before.values()) > 0


def test_the_privileged_critic_rests_while_nothing_is_simulated(rng):
    learner = toys.engine()
    toys.practise(learner, 2, rng)
    before = named_arrays(learner.state.agent.privileged)
    metrics = toys.train(learner, toys.episodes(learner.policy, rng, source=Source.LIVE))
    after = named_arrays(learner.state.agent.privileged)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert metrics.weight_change_by_tensor["critic.0.weight"].absolute > 0
    assert metrics.gradient_norm_before["privileged.0.weight"] == 0.0


def test_logged_episodes_never_see_the_hidden_truth(rng):
    # Whatever stands in `hidden` of a live episode, the trained weights are the same.
    batch = toys.episodes(None, rng, source=Source.LIVE)
    one, other = toys.engine(), toys.engine()
    toys.train(one, batch)
    toys.train(other, replace(batch, hidden=batch.hidden * 100))
    assert one.actor_hash() == other.actor_hash()


def test_episode_weights_are_applied_exactly_once(rng):
    # Advantages are standardised by weight, so doubling all weights doubles the losses and nothing else.
    batch = toys.episodes(None, rng)
    one = toys.train(toys.engine(learning_rate=0.0), batch)
    two = toys.train(toys.engine(learning_rate=0.0), replace(batch, weight=batch.weight * 2))
    assert two.parts["policy_loss"] == pytest.approx(2 * one.parts["policy_loss"], rel=1e-4, abs=1e-6)
    assert two.parts["value_loss"] == pytest.approx(2 * one.parts["value_loss"], rel=1e-5)
    assert two.parts["explained_variance"] == pytest.approx(one.parts["explained_variance"], abs=1e-5)


def test_advantages_are_standardised_apart_for_simulated_and_real():
    # Real advantages a thousand times larger: both groups come out with mean 0 and deviation 1.
    advantage = jnp.array([[1.0, 3.0], [1000.0, 3000.0]])
    simulated = jnp.array([[True, True], [False, False]])
    found = ppo._standardised(advantage, jnp.ones((2, 2)), jnp.ones((2, 2), bool), simulated)
    np.testing.assert_allclose(found, [[-1, 1], [-1, 1]], rtol=1e-5)


def test_advantages_are_standardised_by_episode_weight():
    # Weights 3 and 1 on 0 and 4: mean 1, variance (3 x 1 + 1 x 9)/4 = 3.
    found = ppo._standardised(
        jnp.array([[0.0], [4.0]]), jnp.array([[3.0], [1.0]]), jnp.ones((2, 1), bool), jnp.ones((2, 1), bool)
    )
    np.testing.assert_allclose(found[:, 0], [-1 / np.sqrt(3), 3 / np.sqrt(3)], rtol=1e-5)


def test_every_epoch_sees_every_transition_once(rng):
    # Nothing moves, so the mean over the minibatches of any number of epochs is the mean over the batch.
    batch = toys.episodes(None, rng)
    one, three = (
        toys.train(toys.engine(learning_rate=0.0), batch, num_epochs=epochs).parts["value_loss"]
        for epochs in (1, 3)
    )
    assert one == pytest.approx(three, rel=1e-5)


def test_every_call_shuffles_anew(rng):
    learner = toys.engine()
    batch = toys.episodes(None, rng)
    keys = [np.asarray(learner.state.key)]
    for _ in range(2):
        toys.train(learner, batch)
        keys.append(np.asarray(learner.state.key))
    assert len({key.tobytes() for key in keys}) == 3


def loss_of(*, u: list[float], advantage: list[float], importance: list[float]) -> float:
    """The policy loss of rows whose probability ratio to the start of the call is `u`."""
    agent = toys.engine().state.agent
    n = len(u)
    observation = jnp.zeros((n, toys.SCHEMA.observation_size))
    mask = jnp.ones((n, toys.SCHEMA.action_size), bool)
    log_probs = ppo.dist.log_probabilities(ppo.forward(agent.actor, observation), mask)
    nothing = jnp.zeros(n)
    rows = ppo._Rows(
        observation=observation, hidden=jnp.zeros((n, toys.HIDDEN)), mask=mask, action=jnp.zeros(n, int),
        prox_log_prob=log_probs[:, 0] - jnp.log(jnp.asarray(u)), anchor=log_probs, bound=nothing + 1,
        importance=jnp.asarray(importance), advantage=jnp.asarray(advantage), target=nothing,
        weight=jnp.ones(n), simulated=nothing > 0, valid=nothing == 0,
    )  # fmt: skip
    _, parts = ppo._loss(agent, rows, ppo.coefficients(ppo.PPOConfig(clip=0.2)))
    return float(parts[ppo.PARTS.index("policy_loss")])


@pytest.mark.parametrize(
    ("u", "advantage", "gain"), [(2.0, 1.0, 1.2), (0.5, 1.0, 0.5), (2.0, -1.0, -2.0), (0.5, -1.0, -0.8)]
)
def test_the_objective_is_clipped_where_the_move_has_paid_enough(u, advantage, gain):
    assert loss_of(u=[u], advantage=[advantage], importance=[1.0]) == pytest.approx(-gain, rel=1e-5)


def test_the_objective_weighs_rows_by_their_importance():
    # -(0.5 x 1 x 1 + 1 x 1 x -1)/2 = 0.25
    assert loss_of(u=[1.0, 1.0], advantage=[1.0, -1.0], importance=[0.5, 1.0]) == pytest.approx(
        0.25, rel=1e-5
    )


def test_an_anchor_holds_the_policy_back(rng):
    batch = toys.episodes(None, rng)
    # At weight 0 the distance is not measured; at 1e-6 it is, and pulls nothing.
    free, held = toys.engine(anchor_kl=1e-6), toys.engine(anchor_kl=20.0)
    moved_freely, moved_held = [
        [toys.train(learner, batch, anchor=learner.initial_policy) for _ in range(3)][-1]
        for learner in (free, held)
    ]
    assert moved_freely.parts["anchor_kl"] > 0.0
    assert moved_held.parts["anchor_kl"] < 0.5 * moved_freely.parts["anchor_kl"]


def test_without_an_anchor_the_coefficient_pulls_nowhere(rng):
    batch = toys.episodes(None, rng)
    without, with_coefficient = toys.engine(), toys.engine(anchor_kl=20.0)
    toys.train(without, batch)
    toys.train(with_coefficient, batch)
    assert without.actor_hash() == with_coefficient.actor_hash()


def test_a_target_kl_stops_the_call_early(rng):
    batch = toys.episodes(None, rng)
    assert toys.train(toys.engine(target_kl=1e-6), batch).updates < toys.train(toys.engine(), batch).updates


def test_clipped_mass_tells_how_much_weight_the_bound_takes(rng):
    # Logged at 1/64 and played by a policy close to it except for the zero move, e times as likely:
    # p0 = e/(63 + e) = 0.0414, ratio 2.65 there and 0.974 elsewhere; the bound 1 takes what is above it.
    learner = toys.engine(min_ess=0.0)
    batch = toys.episodes(None, rng, source=Source.LOGGED)
    batch.action[:8, 0] = toys.SCHEMA.zero_move
    ratio = np.where(batch.action == toys.SCHEMA.zero_move, 64 * np.e / (63 + np.e), 64 / (63 + np.e))
    expected = 1 - np.minimum(ratio, 1).sum() / ratio.sum()
    metrics = toys.train(learner, batch)
    assert metrics.clipped_mass == pytest.approx(expected, abs=2e-3)
    assert metrics.effective_sample_share == pytest.approx(
        ratio.sum() ** 2 / (ratio**2).sum() / ratio.size, abs=5e-3
    )


def test_other_coefficients_and_other_numbers_of_episodes_compile_nothing_new(rng):
    learners = [toys.engine(min_ess=0.0), toys.engine(learning_rate=1e-4, clip=0.1, anchor_kl=1.0)]
    batches = [toys.episodes(None, rng, count=count) for count in range(20, 33)]
    for learner in learners:
        toys.train(learner, batches[-1])
    compiled: list[str] = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for learner in learners:
            for batch in batches:
                toys.train(learner, batch, num_epochs=1 + batch.episodes % 4, anchor=learner.initial_policy)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []


def test_a_normaliser_of_another_width_is_refused():
    with pytest.raises(BadInput, match="hidden has width 3, expected 1"):
        ppo.init(ppo.PPOConfig(), toys.SCHEMA, 1, jax.random.key(0), unscaled(256, 3))


@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", -1e-3), ("clip", float("nan")), ("rho_bar", 0.5), ("hidden", ()), ("target_kl", 0.0)],
)
def test_impossible_settings_are_refused_by_name(key, value):
    with pytest.raises(BadInput, match=key):
        ppo.PPOConfig(**{key: value})
