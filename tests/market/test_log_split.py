"""A log is cut by order, in whole episodes, and later parts have no say in the budget."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from tests.market.made_logs import made_log

from gaelp.core.errors import BadInput
from gaelp.logs.theta import ThetaAuctions
from gaelp.market.log_episodes import HIGHEST, Recorded
from gaelp.market.log_split import LogSplit, fewest_auctions, split_log


def cut(log: ThetaAuctions, auctions: int = 100, fraction: Fraction | None = Fraction(1, 8)) -> LogSplit:
    return split_log([log], auctions=auctions, fraction=fraction, budget=None, max_bid=None)


def test_the_last_fifth_certifies_the_fifth_before_it_selects_and_the_rest_trains() -> None:
    log = made_log(6_170)
    split = cut(log)
    # 61 whole episodes: 12 and 12 held out, 37 to train on; 70 auctions are left.
    assert [split.episodes(p) for p in (split.training, split.selection, split.certification)] == [37, 12, 12]
    assert split.unused == 70
    joined = np.concatenate([split.training.value, split.selection.value, split.certification.value])
    assert np.array_equal(joined, log.value[:6_100])


def test_however_the_log_is_read_it_is_cut_alike() -> None:
    log = made_log(6_170)
    pieces = [
        ThetaAuctions(click=log.click[a:b], price=log.price[a:b], value=log.value[a:b])
        for a, b in ((0, 17), (17, 4_000), (4_000, 6_170))
    ]
    whole, chunked = (
        cut(log),
        split_log(pieces, auctions=100, fraction=Fraction(1, 8), budget=None, max_bid=None),
    )
    assert np.array_equal(whole.certification.price, chunked.certification.price)
    assert whole.terms == chunked.terms


def test_the_budget_is_a_share_of_what_a_mean_training_episode_costs_whatever_comes_later() -> None:
    log = made_log(6_000)
    split = cut(log)
    mean_cost = Fraction(int(log.price[:3_600].sum()), 36)
    assert split.terms.budget == int(mean_cost / 8)
    dearer = replace(log, price=np.where(np.arange(6_000) < 3_600, log.price, 9 * log.price))
    assert cut(dearer).terms.budget == split.terms.budget


def test_a_log_that_is_too_short_is_refused_with_how_many_auctions_are_needed() -> None:
    # Selection needs 1,000 auctions: 21 episodes of 48, which is a fifth of 105 episodes.
    assert fewest_auctions(48) == 105 * 48
    assert cut(made_log(5_040), 48).episodes(cut(made_log(5_040), 48).selection) == 21
    with pytest.raises(BadInput, match=r"holds 5039 auctions.*needs at least 5040"):
        cut(made_log(5_039), 48)


def test_long_episodes_need_enough_of_them_to_certify() -> None:
    assert fewest_auctions(1_000) == 40 * 1_000


@pytest.mark.parametrize(
    ("auctions", "fraction", "said"),
    [(47, Fraction(1, 8), "48 at least"), (100, Fraction(1, 10**9), "a budget of 0")],
)
def test_what_no_episode_can_have_is_refused(auctions: int, fraction: Fraction, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        cut(made_log(6_000), auctions, fraction)


def test_prices_beyond_what_an_episode_can_pay_are_won_by_nobody() -> None:
    log = made_log(6_000)
    dear = replace(log, price=np.where(np.arange(6_000) % 7 == 0, HIGHEST + 5, log.price))
    split = split_log([dear], auctions=100, fraction=None, budget=500, max_bid=None)
    price = Recorded(split.training, split.terms)(np.arange(3)).price
    assert (price.max(), price.min() > 0) == (HIGHEST, True)
