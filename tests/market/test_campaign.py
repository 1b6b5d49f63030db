"""The campaign market: the pacer alone is the zero line, rewards add up to the objective, luck is shared."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.market.worlds import CERTAIN, SCHEMA, always_mode, at_random, market, posterior

from gaelp.bidding.act import move_mask, move_of
from gaelp.core.episode import SOURCES, End, Source
from gaelp.core.errors import BadInput
from gaelp.market.campaign import HIDDEN, SCALE_FLOOR, CampaignMarket, Certified, float32

SEEDS = np.arange(32)
KEY = jax.random.key(3)
RANDOM = jnp.zeros(SCHEMA.action_size, jnp.float32)
"""Logits of a policy that draws alike from what the mask leaves."""
LOWEST, HIGHEST = move_of(-0.5, 0.0, SCHEMA), move_of(0.35, 0.0, SCHEMA)


def only(move: int) -> jax.Array:
    """Logits of a policy that always makes one move."""
    return jnp.full(SCHEMA.action_size, -1e9, jnp.float32).at[move].set(0.0)


# One market for all tests, so that each of its functions compiles once.
@pytest.fixture(scope="module")
def doubtful() -> CampaignMarket:
    return market(posterior(), sample=at_random, mode=always_mode)


def on(other: CampaignMarket, **changes: float) -> CampaignMarket:
    """The same market, and its compiled functions, on another posterior."""
    moved = copy.copy(other)
    moved.posterior = float32(posterior(**changes))
    return moved


@pytest.fixture(scope="module")
def played(doubtful):
    return doubtful.play(RANDOM, SEEDS, KEY, "random")


@pytest.fixture(scope="module")
def pacer_alone(doubtful):
    return doubtful.pacer(doubtful.certified, SEEDS)


def test_an_episode_keeps_the_contract(played):
    played.check(observation_size=SCHEMA.observation_size, action_size=SCHEMA.action_size)
    assert (played.episodes, played.decisions) == (32, 6)
    assert (played.end[:, -1] == End.TERMINATED).all()
    assert (played.end[:, :-1] == End.RUNNING).all()
    assert (played.sources == SOURCES.index(Source.SIMULATED)).all()
    (told,) = played.provenance
    assert (told.source, told.phase, told.actor_hash, told.seed) == (
        Source.SIMULATED,
        "simulation",
        "random",
        0,
    )
    assert told.schema_hash == SCHEMA.hash


def test_the_pacer_alone_gains_exactly_nothing(doubtful):
    still = doubtful.play(only(SCHEMA.zero_move), SEEDS, KEY, "still")
    assert (still.reward == 0.0).all()
    assert (still.executed == 0.0).all()


def test_the_zero_move_is_the_pacer(doubtful, pacer_alone):
    # Two compilations of the same day: single precision may differ in the last digits, the luck may not.
    judged = doubtful.scores(jnp.array([SCHEMA.zero_move]), SEEDS)["score"][0]
    assert judged == pytest.approx(pacer_alone, rel=1e-5)
    assert doubtful.play(only(SCHEMA.zero_move), SEEDS, KEY, "still").score == pytest.approx(
        pacer_alone, rel=1e-5
    )


def test_rewards_add_up_to_the_gain_over_the_pacer_as_a_share_of_its_score(played, pacer_alone):
    gain = (played.score - pacer_alone) / np.maximum(pacer_alone, SCALE_FLOOR)
    assert np.abs(gain).max() > 0.05, "random moves must matter, or this shows nothing"
    assert played.reward.sum(axis=1) == pytest.approx(gain, abs=1e-4)


def test_a_score_below_two_conversions_is_shared_out_by_two(doubtful):
    poor = on(doubtful, budget_low=0.01, budget_high=0.01)
    batch, alone = poor.play(RANDOM, SEEDS, KEY, "random"), poor.pacer(poor.certified, SEEDS)
    assert alone.max() < SCALE_FLOOR
    assert batch.reward.sum(axis=1) == pytest.approx((batch.score - alone) / 2.0, abs=1e-4)


def test_the_score_is_the_objective_on_expected_conversions(played):
    # Target 0.12: conversions x min(1, (0.12 / CPA)^2).
    cpa = played.spend / played.conversions
    assert played.score == pytest.approx(played.conversions * np.minimum(1, (0.12 / cpa) ** 2), rel=1e-4)


def test_the_same_seeds_and_key_give_the_same_episodes(doubtful, played):
    again = doubtful.play(RANDOM, SEEDS, KEY, "random")
    for name in ("observation", "action", "reward", "hidden", "spend", "log_prob"):
        assert np.array_equal(getattr(again, name), getattr(played, name)), name
    other = doubtful.play(RANDOM, SEEDS, jax.random.key(4), "random")
    assert not np.array_equal(other.action, played.action)
    assert np.array_equal(other.observation[:, 0], played.observation[:, 0])


def test_a_worlds_result_does_not_depend_on_the_batch_it_is_in(doubtful):
    policies = jnp.array([LOWEST, HIGHEST])
    here, shifted = doubtful.scores(policies, SEEDS), doubtful.scores(policies, SEEDS + 16)
    for name in ("score", "spend", "conversions"):
        assert np.array_equal(here[name][:, 16:], shifted[name][:, :16])


def test_how_many_worlds_are_judged_at_a_time_changes_no_result(doubtful):
    # 32 worlds five at a time: seven parts of five, the last filled up with three that nobody asked for.
    fives = copy.copy(doubtful)
    fives.chunk = 5
    policies = jnp.array([LOWEST, HIGHEST])
    for whole, parts in (
        (doubtful.scores(policies, SEEDS)["score"], fives.scores(policies, SEEDS)["score"]),
        (doubtful.pacer(doubtful.certified, SEEDS), fives.pacer(doubtful.certified, SEEDS)),
        (doubtful.random(SEEDS), fives.random(SEEDS)),
    ):
        assert parts.shape == whole.shape
        assert parts == pytest.approx(whole, rel=1e-5)
    # The reference is searched until the slowest world of a part is done, and the others gain a little by it.
    whole, parts = doubtful.best_in_hindsight(SEEDS), fives.best_in_hindsight(SEEDS)
    assert parts == pytest.approx(whole, rel=5e-3)
    assert parts.mean() == pytest.approx(whole.mean(), rel=5e-4)


def test_no_world_at_a_time_is_refused():
    with pytest.raises(BadInput, match="chunk is 0, expected at least 1 world"):
        market(posterior(), chunk=0)


def test_two_policies_in_one_world_meet_the_same_luck(doubtful):
    """Paired on the same worlds, the gain of bidding lower is told far better than between strangers."""
    got = doubtful.scores(jnp.array([SCHEMA.zero_move, LOWEST]), SEEDS)["score"]
    paired = (got[1] - got[0]).std()
    strangers = (got[1] - np.roll(got[0], 1)).std()
    assert paired < 0.5 * strangers


def test_only_moves_that_do_something_are_offered_and_made(doubtful, played):
    allowed = move_mask(SCHEMA, line_items=1)
    assert (played.mask == allowed).all()
    assert allowed[played.action].all()
    assert set(np.unique(played.action)) == set(np.flatnonzero(allowed)), "192 draws of 8 moves meet them all"
    assert played.log_prob == pytest.approx(np.log(1 / 8), abs=1e-6)


def test_what_is_executed_is_the_moves_pace(played):
    levels = np.array(SCHEMA.pace_levels, np.float32)
    assert np.array_equal(played.executed, levels[played.action // 8])


def test_no_day_spends_more_than_its_budget(doubtful):
    for logits in (RANDOM, only(HIGHEST)):
        batch = doubtful.play(logits, SEEDS, KEY, "any")
        left = batch.observation[:, :, SCHEMA.campaign_index("budget_left")]
        assert left.min() >= -1e-5
        assert (np.diff(left, axis=1) <= 1e-6).all()


def test_bidding_lower_than_the_pacer_spends_less(doubtful):
    spend = doubtful.scores(jnp.array([LOWEST, SCHEMA.zero_move]), SEEDS)["spend"].sum(axis=1)
    assert spend[0] < spend[1]


def test_fatigue_costs_conversions_and_most_of_them_late(doubtful):
    fresh, weary = (on(doubtful, **{**CERTAIN, "fatigue": k}) for k in (0.0, 0.3))
    a, b = (m.play(only(SCHEMA.zero_move), SEEDS, KEY, "still") for m in (fresh, weary))
    assert b.conversions.sum() < 0.8 * a.conversions.sum()
    assert (b.hidden[:, 1:, HIDDEN.index("weariness")] > 0).all()


def test_the_hidden_truth_has_a_column_for_each_name(doubtful):
    certain = on(doubtful, **CERTAIN)
    hidden = certain.play(RANDOM, SEEDS, KEY, "random").hidden
    assert hidden.shape == (32, 7, len(HIDDEN))
    assert np.isfinite(hidden).all()
    column = {name: hidden[..., k] for k, name in enumerate(HIDDEN)}
    assert (column["fatigue"] == np.float32(0.1)).all()
    assert (column["tired"][:, 0] == 0).all()
    assert (column["tired"][:, 1:] > 0).all()
    assert column["weariness"] == pytest.approx(column["fatigue"] * column["tired"])
    # A fresh user's rate is 0.3, the pacer believes 0.2.
    assert column["conversion_rate"] == pytest.approx(np.log(1.5), abs=1e-5)
    assert (column["volume_dev"] == column["volume_dev"][:, :1]).all()
    assert all(
        values.std() > 0 for name, values in column.items() if name not in ("fatigue", "conversion_rate")
    )


def test_the_newest_daypart_remembered_is_the_one_that_just_ended(played):
    """Beside the last move stands what came of it, not of the one before."""
    seen = played.observation
    share = seen[:, :, SCHEMA.campaign_index("spend_share")]
    for k in range(1, 7):
        assert seen[:, k, SCHEMA.campaign_index("action_0")] == pytest.approx(played.executed[:, k - 1])
        assert seen[:, k, SCHEMA.campaign_index("spend_0")] == pytest.approx(
            share[:, k] - share[:, k - 1], abs=1e-5
        )


def test_after_six_dayparts_every_slot_of_the_six_remembered_is_filled(played):
    last = played.observation[:, -1]
    for block in ("action", "spend", "win_rate", "value_rate"):
        for k in range(6):
            assert last[:, SCHEMA.campaign_index(f"{block}_{k}")].std() > 0, f"{block}_{k}"


def test_where_nobody_tires_the_pacer_is_close_below_the_reference(doubtful):
    """It knows the day afterwards and holds one worth; the pacer adapts to luck that it cannot. 32 worlds, no doubt."""
    fresh = on(doubtful, **{**CERTAIN, "fatigue": 0.0})
    reference, pacer = fresh.best_in_hindsight(SEEDS), fresh.pacer(fresh.certified, SEEDS)
    assert reference.shape == (32,)
    assert 0.9 * reference.mean() < pacer.mean() < 1.02 * reference.mean()


def test_a_certified_pacer_is_named_by_its_landscape_and_parameters(doubtful):
    same = doubtful.certified
    assert Certified(copy.copy(same.landscape), same.params).hash == same.hash
    assert Certified(same.landscape, same.params._replace(shift=np.float64(0.1))).hash != same.hash
