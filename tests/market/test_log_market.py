"""The market of auction logs: its auctions are those of the replay, and the zero move is the pacer."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.market.made_logs import made_log

from gaelp.bidding.block_pacer import DEFAULT_KNOBS
from gaelp.bidding.stream import BLOCKS
from gaelp.core.episode import SOURCES, Source
from gaelp.core.schema import default_schema
from gaelp.logs.theta import ThetaAuctions
from gaelp.market.log_episodes import HIGHEST, Recorded, Terms
from gaelp.market.log_market import BlockPacer, Bought, LogMarket, block_of_auctions, pacer_episodes
from gaelp.market.log_pacer import fit_curve
from gaelp.market.replay import ConstantMultiplier, ReplayOptions, replay
from gaelp.market.stretch import Stretch, bought, won_by_bids

SCHEMA = default_schema()
LOG = made_log(20 * 100)
TERMS = Terms(auctions=100, budget=400, max_bid=120)
CURVE = fit_curve(LOG, TERMS)
SEEDS = np.arange(20)
UP, ZERO = 5 * 8 + 4, SCHEMA.zero_move
"""The joint moves of pace +0.1 and of 0, both with the second knob at 0."""


def first(log: ThetaAuctions, n: int) -> ThetaAuctions:
    return ThetaAuctions(click=log.click[:n], price=log.price[:n], value=log.value[:n])


def always(move: int) -> Any:
    def sample(
        policy: object, seen: jax.Array, mask: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return jnp.full(seen.shape[0], move, jnp.int32), jnp.zeros(seen.shape[0])

    return sample


def market(move: int = ZERO, terms: Terms = TERMS, log: ThetaAuctions = LOG) -> LogMarket:
    sample = always(move)
    return LogMarket(
        source=Recorded(log, terms), origin=Source.REPLAYED, terms=terms, certified=BlockPacer(CURVE, DEFAULT_KNOBS),
        mean_value=0.5, schema=SCHEMA, sample_move=sample,
        mode_move=lambda policy, seen, mask: sample(policy, seen, mask, None)[0], phase="historical",
    )  # fmt: skip


def play(move: int, seeds: np.ndarray = SEEDS) -> Any:
    return market(move).play({"w": jnp.zeros(1)}, seeds, jax.random.key(0), "actor")


def multipliers(terms: Terms, log: ThetaAuctions) -> np.ndarray:
    """What the pacer bids each auction with, [episodes, N]."""
    played = pacer_episodes(
        Recorded(log, terms)(np.arange(len(log) // terms.auctions)), jnp.asarray(terms.block_auctions, jnp.int32),
        (jnp.int32(terms.budget), jnp.int32(terms.max_bid)), jax.tree.map(jnp.float32, CURVE),
        jax.tree.map(jnp.float32, DEFAULT_KNOBS), SCHEMA,
    )  # fmt: skip
    by_block = np.asarray(played.steps.multiplier).reshape(BLOCKS, -1).T
    return np.repeat(by_block, terms.block_auctions, axis=1)


@pytest.mark.parametrize("auctions", [100, 96, 250])
def test_what_the_pacer_wins_is_to_the_unit_what_its_bids_win_in_the_replay(auctions: int) -> None:
    terms = replace(TERMS, auctions=auctions)
    episodes = len(LOG) // auctions
    used = first(LOG, episodes * auctions)
    bids = multipliers(terms, used).ravel() * used.value.astype(np.float32)
    edges = np.arange(0, len(used) + 1, auctions, dtype=np.intp)
    stretch = Stretch(
        used, edges, Fraction(terms.budget), ReplayOptions(budget=Fraction(1), max_bid=Fraction(120))
    )
    won = won_by_bids(stretch, bids.astype(np.float64))
    got = market(terms=terms).pacer_bought(BlockPacer(CURVE, DEFAULT_KNOBS), np.arange(episodes))
    paid = np.add.reduceat(np.where(won, used.price, 0), edges[:-1])
    assert np.array_equal(got.spent, paid)
    assert np.array_equal(got.won, np.add.reduceat(won.astype(int), edges[:-1]))
    assert np.array_equal(got.clicks, np.add.reduceat(np.where(won, used.click, 0), edges[:-1]))
    assert got.spent.max() <= terms.budget < paid.sum()
    assert float(got.value.sum()) == pytest.approx(bought(stretch, won).value, rel=1e-5)


def test_a_constant_multiplier_buys_exactly_what_the_replay_says() -> None:
    # Values of 1/1024 and a whole multiplier: the products are exact in both widths, and prices meet bids often.
    rng = np.random.default_rng(3)
    log = ThetaAuctions(
        click=np.zeros(4 * 96, np.int8), price=rng.integers(0, 12, 4 * 96),
        value=rng.integers(0, 10, 4 * 96).astype(np.float64) / 1024,
    )  # fmt: skip
    terms = Terms(auctions=96, budget=70, max_bid=7)
    auctions = Recorded(log, terms)(np.arange(4))
    zero = jnp.zeros(4, jnp.int32)
    state = Bought(zero, zero, jnp.zeros(4), zero)
    for block in range(BLOCKS):
        here = jax.tree.map(lambda x, k=block: jnp.asarray(x[:, k]), auctions)
        state = block_of_auctions(state, jnp.full(4, 1024.0), here, jnp.int32(70), jnp.int32(7))
    options = ReplayOptions(episode_auctions=96, episode_budget=Fraction(70), max_bid=Fraction(7))
    told = replay(lambda: [log], ConstantMultiplier(1024.0), options)
    assert (int(state.spent.sum()), int(state.won.sum())) == (told.cost, told.impressions)
    assert float(state.value.sum()) == told.value
    assert 0 < int(state.spent.max()) <= 70


def test_the_zero_move_is_the_pacer_and_earns_nothing_beside_it() -> None:
    batch = play(ZERO)
    alone = market().pacer_bought(BlockPacer(CURVE, DEFAULT_KNOBS), SEEDS)
    assert np.array_equal(batch.spend, alone.spent)
    assert np.array_equal(batch.reward, np.zeros((20, 6), np.float32))


def test_rewards_add_up_to_what_the_agent_bought_more_in_units_of_the_mean_value() -> None:
    batch = play(UP)
    alone = market().pacer_bought(BlockPacer(CURVE, DEFAULT_KNOBS), SEEDS)
    assert not np.array_equal(batch.spend, alone.spent)
    assert batch.reward.sum(axis=1) == pytest.approx((batch.value - alone.value) / 0.5, abs=1e-5)


def test_its_episodes_are_ordinary_ones_that_say_they_were_replayed() -> None:
    batch = play(UP)
    batch.check(observation_size=SCHEMA.observation_size, action_size=SCHEMA.action_size, actions=SCHEMA.actions,
                bound=SCHEMA.bound)  # fmt: skip
    assert (batch.sources == SOURCES.index(Source.REPLAYED)).all()
    assert batch.provenance[0].source is Source.REPLAYED
    assert batch.hidden.shape == (20, 7, 0)


def test_only_the_eight_levels_of_pace_may_be_moved() -> None:
    mask = play(ZERO).mask[0, 0]
    assert mask.sum() == len(SCHEMA.pace_levels)
    assert mask.reshape(8, 8)[:, SCHEMA.tilt_levels.index(0.0)].all()


def test_any_number_of_episodes_shares_one_compilation() -> None:
    here = market(UP)
    for n in (16, 32, 40, 1):
        here.play({"w": jnp.zeros(1)}, SEEDS[np.arange(n) % 20], jax.random.key(0), "actor")
    assert here._paired._cache_size() == 1


def test_padding_of_shorter_blocks_is_won_by_nobody() -> None:
    auctions = Recorded(LOG, TERMS)(SEEDS)
    assert auctions.price.shape == (20, BLOCKS, 3)
    assert (auctions.price == HIGHEST).sum() == 20 * (BLOCKS * 3 - 100)
    greedy = replace(TERMS, budget=HIGHEST - 1, max_bid=HIGHEST - 1)
    assert market(terms=greedy).best_in_hindsight(SEEDS).sum() == pytest.approx(LOG.value.sum(), rel=1e-6)
