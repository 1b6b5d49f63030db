"""Rare segments: seen more often, weighed once, and the population's gradient is what comes out on average."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaelp.core.episode import OUTCOMES, SOURCES, End, EpisodeBatch, Provenance, Source, select
from gaelp.core.errors import BadInput, UnusableBatch
from gaelp.core.schema import Actions, TaskSchema
from gaelp.learn import ppo, strata
from gaelp.learn.engine import RLTrainingEngine
from gaelp.learn.experience import Experience
from gaelp.learn.export import ExportedPolicy
from gaelp.learn.normalise import unscaled
from gaelp.learn.strata import Allocation, UtilityApproval, UtilityWeight, deviations, draw, neyman, weighed

TASK = TaskSchema("strata", 3, 3, Actions.MOVES)
T, H = 2, 1
COMMON, RARE = 0, 1
SHARES = {COMMON: 0.9, RARE: 0.1}
N = 400
MARK = 0.02
"""Each episode carries its number, times this, in its hidden truth (which is clipped at 10)."""


def population(rng: np.random.Generator, n: int = N, share: float = 0.1, decisions: int = T) -> EpisodeBatch:
    """n episodes, `share` of them of rare users who bring half of the value: 9 each, others 1."""
    rare = np.arange(n) < round(share * n)
    observation = rng.normal(0, 1, (n, decisions + 1, TASK.observation_size)).astype(np.float32)
    action = rng.integers(0, TASK.action_size, (n, decisions)).astype(np.int32)
    # The value depends on the move and on what was seen, so that there is a gradient in both segments.
    worth = np.where(rare, 9.0, 1.0)[:, None] * (action == 2) * np.exp(0.5 * observation[:, :-1, 0])
    end = np.full((n, decisions), End.RUNNING, np.int8)
    end[:, -1] = End.TERMINATED
    told = Provenance(Source.SIMULATED, "toy", "agent", "c", 0, "uniform", "none", TASK.hash, 1, "now")
    return EpisodeBatch(
        observation=observation,
        mask=np.ones((n, decisions + 1, TASK.action_size), bool),
        action=action,
        executed=np.zeros((n, decisions), np.float32),
        log_prob=np.full((n, decisions), -np.log(TASK.action_size), np.float32),
        reward=worth.astype(np.float32),
        end=end,
        valid=np.ones((n, decisions), bool),
        weight=np.ones(n, np.float32),
        segment=np.repeat(rare[:, None], decisions, axis=1).astype(np.int32),
        hidden=np.broadcast_to(MARK * np.arange(n)[:, None, None], (n, decisions + 1, H)).astype(np.float32),
        **{name: np.zeros(n) for name in OUTCOMES},
        sources=np.full(n, SOURCES.index(Source.SIMULATED), np.int8),
        provenance=(told,),
    )


def experience(batch: EpisodeBatch) -> Experience:
    names = ("observation", "mask", "action", "log_prob", "reward", "end", "valid", "weight", "hidden")
    no = jnp.zeros(batch.episodes, bool)
    return Experience(
        **{n: jnp.asarray(getattr(batch, n)) for n in names}, simulated=~no, claimed=no, logged=no
    )


CONFIG = ppo.PPOConfig(hidden=(4,), reward_scale=1.0, entropy=0.01)


def untrained(config: ppo.PPOConfig = CONFIG) -> ppo.AgentState:
    return ppo.init(config, TASK, H, jax.random.key(5), unscaled(TASK.observation_size, H))


COEFFICIENTS = ppo.coefficients(CONFIG)


@jax.jit
def gradient(agent, rows, coefficients=COEFFICIENTS) -> jax.Array:
    """The gradient [K] of PPO's own loss in all of the agent's weights."""
    found = jax.grad(ppo.OBJECTIVES["actor"])(agent, rows, coefficients)
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(found)])


def all_rows(batch: EpisodeBatch, state: ppo.AgentState, config: ppo.PPOConfig = CONFIG):
    """The rows of a first minibatch so large that it holds the whole batch."""
    whole = batch.transitions
    return ppo.first_minibatch(
        state,
        experience(batch),
        state.policy,
        ppo.coefficients(config),
        jnp.int32(1),
        jnp.int32(whole),
        width=whole,
    )


# ---- the statistical claim


class Draws:
    """400 draws of 64 episodes of a population, and PPO's gradient on each; advantages are the population's."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)
        self.whole = population(self.rng)
        self.state = untrained()
        rows = all_rows(self.whole, self.state)
        numbers = np.rint(np.asarray(rows.hidden)[:, 0] / MARK).astype(int)
        assert sorted(numbers) == sorted(np.repeat(np.arange(N), T))
        self.rows_of = np.argsort(numbers, kind="stable").reshape(N, T)
        self.rows = rows
        self.truth = np.asarray(gradient(self.state.agent, rows))

        def one(chosen, weight):
            part = replace(jax.tree.map(lambda x: x[chosen], rows), weight=weight)
            return gradient(self.state.agent, part)

        self.gradients = jax.jit(jax.vmap(one))
        pilot = strata.deviations(self.per_episode(), strata.strata_of(self.whole))
        self.allocation = neyman(SHARES, pilot, n=64, floor=4)
        self.drawn = [draw(self.whole, self.allocation, self.rng) for _ in range(400)]
        self.uniform = [
            select(self.whole, np.sort(self.rng.choice(N, 64, replace=False))) for _ in range(400)
        ]

    def per_episode(self) -> np.ndarray:
        """The gradient [N, K] of each episode alone: the pilot that Neyman's rule asks for."""

        def alone(chosen):
            return gradient(self.state.agent, jax.tree.map(lambda x: x[chosen], self.rows))

        return np.asarray(jax.jit(jax.vmap(alone))(self.rows_of))

    def of(self, batches: list[EpisodeBatch], weight) -> np.ndarray:
        """Gradients [R, K] of batches, their episodes weighed by `weight(batch)` [B]."""
        numbers = np.stack([np.rint(b.hidden[:, 0, 0] / MARK).astype(int) for b in batches])
        weights = np.stack([np.repeat(weight(b), T) for b in batches]).astype(np.float32)
        chosen = self.rows_of[numbers].reshape(len(batches), -1)
        return np.asarray(self.gradients(chosen, weights), np.float64)

    def furthest(self, found: np.ndarray) -> float:
        """The largest distance of the mean gradient from the population's, in standard errors."""
        error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
        return float(np.max(np.abs(found.mean(axis=0) - self.truth) / np.maximum(error, 1e-9)))


@pytest.fixture(scope="module")
def draws() -> Draws:
    return Draws()


def test_the_rare_users_are_a_tenth_and_bring_half_of_the_value(draws):
    value, of = strata.returns_of(draws.whole), strata.strata_of(draws.whole)
    assert strata.shares_of(of) == SHARES
    assert value[of == RARE].sum() / value.sum() == pytest.approx(0.5, abs=0.06)


def test_the_weighted_gradients_expectation_is_the_populations_gradient(draws):
    # 77 weights, each within 4 standard errors: a sound draw fails this with at most 77 x 6.3e-5 = 0.5 %.
    assert draws.truth.size == 77
    assert draws.furthest(draws.of(draws.drawn, lambda b: b.weight)) < 4


@pytest.mark.parametrize(
    "wrong",
    [lambda b: np.ones(b.episodes), lambda b: b.weight**2, lambda b: b.weight / b.weight.max()],
    ids=["not at all", "twice", "over the largest"],
)
def test_weights_that_are_left_out_or_applied_twice_or_rescaled_are_found_out(draws, wrong):
    # The same test, and it does not pass by a hair.
    assert draws.furthest(draws.of(draws.drawn, wrong)) > 12


def test_the_rare_segment_is_estimated_with_less_variance_than_by_uniform_sampling(draws):
    def rare_alone(batch: EpisodeBatch) -> np.ndarray:
        return batch.weight * (batch.segment[:, 0] == RARE)

    stratified, uniform = (draws.of(batches, rare_alone) for batches in (draws.drawn, draws.uniform))
    # By the formula: P^2 s^2 / n_h against about P (s^2 + m^2) / n; with n_h near half of n at least 4 times less.
    # The ratio of two sums of variances of 400 draws is off by about 10 %; a quarter leaves 3 deviations and more.
    assert stratified.var(axis=0).sum() < 0.25 * uniform.var(axis=0).sum()
    # Both are unbiased, and as a whole the stratified one is no worse.
    whole = [
        draws.of(batches, lambda b: b.weight).var(axis=0).sum() for batches in (draws.drawn, draws.uniform)
    ]
    assert whole[0] < 0.8 * whole[1]
    assert draws.furthest(draws.of(draws.uniform, lambda b: b.weight)) < 4


@pytest.mark.parametrize("standardise", list(ppo.Standardise))
def test_a_batch_that_repeats_its_rare_episodes_gives_exactly_the_whole_batchs_gradient(standardise):
    # 18 common and 2 rare episodes; all 18 are drawn once and the 2 rare ones nine times each. The weights,
    # 0.9 / (18/36) = 1.8 and 0.1 / (18/36) = 0.2, must undo this in the loss and in the advantages' mean and deviation.
    config = replace(CONFIG, standardise=standardise)
    whole, state = population(np.random.default_rng(8), n=20), untrained(config)
    drawn = draw(whole, Allocation(SHARES, {COMMON: 18, RARE: 18}), np.random.default_rng(0))
    assert sorted(set(drawn.weight.tolist())) == pytest.approx([0.2, 1.8])
    c = ppo.coefficients(config)
    blind = replace(drawn, weight=np.ones(36, np.float32))
    truth, found, blind = (
        gradient(state.agent, all_rows(batch, state, config), c) for batch in (whole, drawn, blind)
    )
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-6)
    assert np.abs(np.asarray(blind - truth)).max() > 0.01


# ---- through the engine


def learner(seed: int = 3) -> RLTrainingEngine:
    config = ppo.PPOConfig(hidden=(8,), learning_rate=0.02, reward_scale=1.0)
    return RLTrainingEngine(config, TASK, "ppo", seed=seed, hidden_width=H)


def conflict(engine: RLTrainingEngine, rng: np.random.Generator, n: int = 320) -> EpisodeBatch:
    """One decision without a clue of the segment: move 0 pays 1 with common users, move 1 pays 5 with rare ones.

    For the population move 0 is worth 0.9 and move 1 is worth 0.5; half and half it would be 0.5 and 2.5.
    """
    batch = population(rng, n=n, decisions=1)
    observation = np.zeros_like(batch.observation)
    policy = ExportedPolicy.from_arrays(engine.weights())
    mask, uniform = batch.mask[:, 0], rng.random(n).astype(np.float32)
    action = policy.sample(observation[:, 0], mask, uniform)
    chances = policy.probabilities(observation[:, 0], mask)[np.arange(n), action]
    rare = batch.segment[:, 0] == RARE
    reward = np.where(rare, 5.0 * (action == 1), 1.0 * (action == 0))
    return replace(
        batch, observation=observation, action=action[:, None], log_prob=np.log(chances)[:, None],
        reward=reward[:, None].astype(np.float32),
    )  # fmt: skip


def practised(prepare) -> np.ndarray:
    """The probabilities of the moves after 25 calls, each on `prepare(a batch of the population, rng)`."""
    engine, rng = learner(), np.random.default_rng(17)
    for _ in range(25):
        batch = prepare(conflict(engine, rng), rng)
        asyncio.run(engine.train_step(episode_results=batch, batch_size=64, num_epochs=4))
    policy = ExportedPolicy.from_arrays(engine.weights())
    return policy.probabilities(np.zeros((1, 3), np.float32), np.ones((1, 3), bool))[0]


HALF = Allocation(SHARES, {COMMON: 32, RARE: 32})


def test_an_engine_that_sees_rare_users_half_of_the_time_still_learns_what_the_population_wants():
    assert practised(lambda batch, rng: draw(batch, HALF, rng))[0] > 0.9


def test_without_the_weights_it_would_learn_what_the_rare_users_want():
    def blind(batch, rng):
        return replace(draw(batch, HALF, rng), weight=np.ones(64, np.float32))

    assert practised(blind)[1] > 0.9


def test_a_declared_utility_changes_what_is_wanted_and_is_no_sampling_weight():
    # Four times the rare users' reward: move 1 is worth 0.1 x 20 = 2 against 0.9.
    utility = UtilityWeight(segment=RARE, factor=4.0, version=1)
    yes = UtilityApproval(utility.hash, "Ada")

    def declared(batch, rng):
        return draw(strata.valued(batch, utility, yes), HALF, rng)

    assert practised(declared)[1] > 0.9


def test_the_metrics_show_the_segments_share_before_and_after():
    rng, engine = np.random.default_rng(2), learner()
    batch = draw(conflict(engine, rng), HALF, rng)
    metrics = asyncio.run(engine.train_step(episode_results=batch, batch_size=64, num_epochs=1))
    told = metrics.segment_shares[str(RARE)]
    # Half of the transitions are of rare users, who by weight are the tenth that they are of the population.
    assert told.transitions == 0.5
    assert told.weighted == pytest.approx(0.1, rel=1e-6)
    # Weights of 1.8 and 0.2, as many of each: 1 / 1.64.
    assert metrics.weight_effective_share == pytest.approx(1 / 1.64)
    assert metrics.utilities == ()


def test_the_metrics_name_a_declared_utility():
    rng, engine = np.random.default_rng(2), learner()
    utility = UtilityWeight(segment=RARE, factor=2.5, version=3)
    batch = strata.valued(conflict(engine, rng), utility, UtilityApproval(utility.hash, "Ada"))
    metrics = asyncio.run(
        engine.train_step(episode_results=draw(batch, HALF, rng), batch_size=64, num_epochs=1)
    )
    assert metrics.payload()["utilities"] == ("segment 1 x 2.5, version 3, approved by Ada",)


def test_the_effective_sample_is_counted_over_transitions_and_padding_is_none():
    # Two decisions of weight 3 and one of weight 1: (3 + 3 + 1)^2 / (3 x (9 + 9 + 1)) = 49 / 57.
    batch = population(np.random.default_rng(2), n=2)
    batch = replace(
        batch, weight=np.array([3.0, 1.0], np.float32), valid=np.array([[True, True], [True, False]])
    )
    assert strata.effective_sample_share(batch) == pytest.approx(49 / 57)
    rng = np.random.default_rng(2)
    drawn = draw(population(rng), HALF, rng)
    assert strata.effective_sample_share(drawn) == pytest.approx(HALF.effective_sample_share)


def test_weights_applied_twice_are_refused_before_anything_is_trained():
    rng = np.random.default_rng(2)
    once = draw(population(rng), HALF, rng)
    for again in (lambda: draw(once, HALF, rng), lambda: weighed(once, HALF)):
        with pytest.raises(UnusableBatch, match=r"weight: episode 0 weighs 1\.8 already.*applied once"):
            again()


# ---- the allocation


def test_neyman_looks_where_the_value_varies():
    # P s: 0.9 x 1 and 0.1 x 9 are alike, so half each; w = 0.9 / 0.5 and 0.1 / 0.5.
    half = neyman(SHARES, {COMMON: 1.0, RARE: 9.0}, n=64, floor=4)
    assert half.counts == {COMMON: 32, RARE: 32}
    assert half.weights == pytest.approx({COMMON: 1.8, RARE: 0.2})
    # (1.8 x 32 + 0.2 x 32)^2 / (64 (3.24 + 0.04) x 32) = 1 / 1.64.
    assert half.effective_sample_share == pytest.approx(1 / 1.64)
    # 0.81 / 32 + 0.01 x 81 / 32, against 0.81 / 58 + 0.81 / 6 when 57.6 and 6.4 are rounded.
    assert half.variance({COMMON: 1.0, RARE: 9.0}) == pytest.approx(0.050625)
    alike = strata.proportional(SHARES, n=64)
    assert alike.counts == {COMMON: 58, RARE: 6}
    assert alike.variance({COMMON: 1.0, RARE: 9.0}) == pytest.approx(0.81 / 58 + 0.81 / 6)


def test_the_floor_holds_where_the_pilot_saw_no_variance():
    # Segment 1 never varied in the pilot and gets the floor; 0 and 2 share the other 26 as 3 to 1.
    found = neyman({0: 0.5, 1: 0.25, 2: 0.25}, {0: 3.0, 1: 0.0, 2: 2.0}, n=30, floor=4)
    assert found.counts == {0: 20, 1: 4, 2: 6} or found.counts == {0: 19, 1: 4, 2: 7}
    assert neyman(SHARES, {COMMON: 0.0, RARE: 0.0}, n=20, floor=1).counts == {COMMON: 18, RARE: 2}


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 100)), min_size=1, max_size=6),
    st.integers(1, 8),
    st.integers(0, 200),
)
def test_every_allocation_adds_up_keeps_its_floor_and_has_weights_of_mean_one(strata_told, floor, more):
    total = sum(p for p, _ in strata_told)
    shares = {h: p / total for h, (p, _) in enumerate(strata_told)}
    n = floor * len(shares) + more
    found = neyman(shares, {h: s for h, (_, s) in enumerate(strata_told)}, n=n, floor=floor)
    assert found.n == n
    assert min(found.counts.values()) >= floor
    assert sum(found.weights[h] * count for h, count in found.counts.items()) == pytest.approx(n)
    assert 0 < found.effective_sample_share <= 1 + 1e-9


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (lambda: Allocation({0: 0.5, 1: 0.4}, {0: 1, 1: 1}), "add up to 0.9"),
        (lambda: Allocation({0: 1.0, 1: 0.0}, {0: 1, 1: 1}), "each above 0"),
        (lambda: Allocation({}, {}), "each above 0"),
        (lambda: Allocation({0: 1.0}, {0: 1, 1: 1}), "counts are of segments"),
        (lambda: Allocation(SHARES, {0: 3, 1: 0}), "segment 1 gets 0 episodes"),
        (
            lambda: neyman(SHARES, {0: 1.0, 1: 1.0}, n=7, floor=4),
            "7 episodes cannot give 2 strata at least 4",
        ),
        (lambda: neyman(SHARES, {0: 1.0}, n=64, floor=4), "segment 1 has a share and no deviation"),
        (lambda: neyman(SHARES, {0: 1.0, 1: np.nan}, n=64, floor=4), "segment 1 has deviation nan"),
        (lambda: deviations(np.zeros(3), np.array([0, 0, 1])), "segment 1 has one episode in the pilot"),
        (
            lambda: deviations(np.array([0.0, np.nan]), np.array([0, 0])),
            "episode 1 of the pilot is not finite",
        ),
    ],
)
def test_what_is_no_allocation_is_refused(told, said):
    with pytest.raises(BadInput, match=said):
        told()


def test_the_pilots_deviations_are_per_stratum_and_of_all_numbers_together():
    of = np.array([0, 0, 1, 1, 1])
    # Variances (n - 1): of 1 and 3 it is 2; of 0, 3, 6 it is 9; the second number of segment 0 adds 8.
    numbers = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0], [3.0, 1.0], [6.0, 1.0]])
    assert deviations(numbers, of) == pytest.approx({0: np.sqrt(10), 1: 3.0})
    assert deviations(numbers[:, 0], of) == pytest.approx({0: np.sqrt(2), 1: 3.0})


# ---- drawing


def test_a_draw_holds_what_was_allocated_and_repeats_only_where_it_must():
    rng = np.random.default_rng(4)
    whole = population(rng, n=40)
    drawn = draw(whole, Allocation(SHARES, {COMMON: 20, RARE: 10}), rng)
    numbers = np.rint(drawn.hidden[:, 0, 0] / MARK).astype(int)
    assert len(set(numbers[drawn.segment[:, 0] == COMMON])) == 20
    # Four rare episodes for ten places: each twice, and two of them once more.
    assert sorted(np.unique(numbers[drawn.segment[:, 0] == RARE], return_counts=True)[1]) == [2, 2, 3, 3]
    drawn.check(observation_size=3, action_size=3)


def test_each_episode_has_one_origin_after_the_draw():
    rng = np.random.default_rng(4)
    whole = population(rng, n=20)
    days = replace(whole, provenance=tuple(replace(whole.provenance[0], day=k) for k in range(20)))
    drawn = draw(days, Allocation(SHARES, {COMMON: 4, RARE: 4}), rng)
    assert [told.day for told in drawn.provenance] == np.rint(drawn.hidden[:, 0, 0] / MARK).astype(
        int
    ).tolist()


def test_episodes_played_by_the_allocation_are_weighed_without_a_draw():
    whole = population(np.random.default_rng(4), n=20)
    played = weighed(whole, Allocation({COMMON: 0.99, RARE: 0.01}, {COMMON: 18, RARE: 2}))
    assert played.weight[played.segment[:, 0] == RARE] == pytest.approx(0.01 / 0.1)
    with pytest.raises(UnusableBatch, match="18 episodes of segment 0, 17 were allocated"):
        weighed(whole, Allocation(SHARES, {COMMON: 17, RARE: 3}))


def test_segments_that_do_not_fit_the_allocation_are_refused():
    rng = np.random.default_rng(4)
    whole = population(rng, n=20)
    with pytest.raises(BadInput, match=r"segments \[1\] are in the batch"):
        draw(whole, Allocation({COMMON: 1.0}, {COMMON: 4}), rng)
    with pytest.raises(UnusableBatch, match="no episode of segment 2 to draw from"):
        draw(whole, Allocation({0: 0.8, 1: 0.1, 2: 0.1}, {0: 4, 1: 4, 2: 4}), rng)


def test_an_episode_of_several_segments_belongs_to_no_stratum():
    whole = population(np.random.default_rng(4), n=20)
    segment = whole.segment.copy()
    segment[3, 1] = 7
    with pytest.raises(UnusableBatch, match="segment: episode 3 holds several"):
        strata.strata_of(replace(whole, segment=segment))
    # Padding has no segment.
    valid = whole.valid.copy()
    valid[3, 1] = False
    assert (
        strata.strata_of(replace(whole, segment=segment, valid=valid)).tolist() == [RARE] * 2 + [COMMON] * 18
    )
    valid[3] = False
    with pytest.raises(UnusableBatch, match="episode 3 has no valid transition"):
        strata.strata_of(replace(whole, valid=valid))


# ---- the declared utility


def test_a_utility_multiplies_the_reward_of_its_segment_and_says_so():
    whole = population(np.random.default_rng(4), n=20)
    utility = UtilityWeight(segment=RARE, factor=2.5, version=3)
    found = strata.valued(whole, utility, UtilityApproval(utility.hash, "Ada"))
    rare = whole.segment == RARE
    np.testing.assert_array_equal(found.reward[rare], whole.reward[rare] * np.float32(2.5))
    np.testing.assert_array_equal(found.reward[~rare], whole.reward[~rare])
    assert (found.weight == 1).all()
    assert found.reward.dtype == np.float32
    assert strata.utilities_of(found) == ("segment 1 x 2.5, version 3, approved by Ada",)
    assert strata.utilities_of(whole) == ()
    with pytest.raises(UnusableBatch, match="reward: episode 0 is valued by 'segment 1"):
        strata.valued(found, utility, UtilityApproval(utility.hash, "Ada"))


def test_a_utility_without_an_approval_of_exactly_it_is_refused():
    whole = population(np.random.default_rng(4), n=20)
    approved = UtilityWeight(segment=RARE, factor=2.0, version=1)
    yes = UtilityApproval(approved.hash, "Ada")
    for other in (
        replace(approved, factor=5.0), replace(approved, segment=COMMON), replace(approved, version=2),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=r"Ada approved .* have it approved"):
            strata.valued(whole, other, yes)
    for by in ("", "  "):
        with pytest.raises(BadInput, match="names the person"):
            UtilityApproval(approved.hash, by)


@pytest.mark.parametrize("wrong", [{"factor": 0.0}, {"factor": -1.0}, {"factor": np.nan}, {"version": 0}])
def test_a_utility_that_is_none_is_refused(wrong):
    with pytest.raises(BadInput, match="utility: "):
        UtilityWeight(**{"segment": 1, "factor": 2.0, "version": 1} | wrong)
