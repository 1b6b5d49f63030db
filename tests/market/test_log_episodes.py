"""Recorded episodes are the log's own; drawn ones are a world each, by seed."""

from __future__ import annotations

import numpy as np
import pytest
from tests.market.made_logs import made_log

from gaelp.core.errors import BadInput, ShapeError
from gaelp.logs.bids import bids_of_theta
from gaelp.market.auction_fit import fit_auctions
from gaelp.market.log_episodes import HIGHEST, Drawn, Recorded, Terms, blocked

TERMS = Terms(auctions=100, budget=400, max_bid=HIGHEST - 1)
LOG = made_log(5_000)
FIT = fit_auctions(bids_of_theta([LOG]))


def test_an_episode_of_the_replay_is_the_logs_own_stretch() -> None:
    episode = Recorded(LOG, TERMS)(np.array([3]))
    real = episode.price[0] < HIGHEST
    assert np.array_equal(episode.price[0][real], LOG.price[300:400])
    assert np.array_equal(episode.value[0][real], LOG.value[300:400].astype(np.float32))
    assert np.array_equal(episode.click[0][real], LOG.click[300:400])


def test_blocks_are_as_equal_as_may_be() -> None:
    assert TERMS.block_auctions.sum() == 100
    assert set(TERMS.block_auctions.tolist()) == {2, 3}
    assert set(Terms(auctions=480, budget=1, max_bid=1).block_auctions.tolist()) == {10}


def test_a_seed_is_a_world_of_its_own_wherever_it_stands() -> None:
    drawn = Drawn(FIT, TERMS)
    three, two = drawn(np.array([5, 6, 7])), drawn(np.array([7, 5]))
    assert np.array_equal(three.price[[2, 0]], two.price)
    assert np.array_equal(three.value[[2, 0]], two.value)
    assert not np.array_equal(three.price[0], three.price[1])


def test_drawn_prices_and_pctrs_are_distributed_as_in_the_log() -> None:
    episodes = Drawn(FIT, TERMS)(np.arange(200))
    price = episodes.price[episodes.price < HIGHEST]
    # 20,000 draws: a quantile strays by less than a few per cent, and the level by what the fit leaves open.
    for q in (0.25, 0.5, 0.75):
        assert np.quantile(price, q) == pytest.approx(np.quantile(LOG.price, q), rel=0.1)
    assert episodes.value.sum() / 20_000 == pytest.approx(LOG.value.mean(), rel=0.1)


def test_impossible_terms_and_shapes_are_refused() -> None:
    with pytest.raises(BadInput, match="too short"):
        Terms(auctions=47, budget=1, max_bid=1)
    with pytest.raises(BadInput, match="budget of an episode is 0"):
        Terms(auctions=48, budget=0, max_bid=1)
    with pytest.raises(ShapeError, match=r"expected \(B, 100\)"):
        blocked(np.zeros((2, 99)), np.zeros((2, 99)), np.zeros((2, 99)), TERMS)
