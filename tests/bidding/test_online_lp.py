"""The pacer for auction streams: its spend curve worked by hand, what it solves, and how it looks again."""

from __future__ import annotations

import numpy as np
import pytest

from gaelp.bidding.online_lp import (
    FORGOTTEN,
    LEAST_WINS,
    Evidence,
    OnlineLp,
    SpendCurve,
    no_evidence,
    solve,
    spend_curve,
    with_sight,
    without_moves_before,
)
from gaelp.bidding.stream import HIGHEST_MULTIPLIER, LOOK_ON, TYPICAL_MARGIN, Episode, Sight, first_multiplier

FOREVER = 1e18


def sight(rows: list[tuple[float, int | None]], bound: list[bool] | None = None) -> Sight:
    """Auctions as (pCTR, price paid or None when lost)."""
    return Sight(
        value=np.array([value for value, _ in rows]),
        won=np.array([paid is not None for _, paid in rows]),
        paid=np.array([paid for _, paid in rows if paid is not None], np.int64),
        bound=np.zeros(len(rows), np.bool_) if bound is None else np.array(bound),
    )


def seen(*moves: tuple[float, list[tuple[float, int | None]]], max_bid: int | None = None) -> Evidence:
    """Evidence of moves, each a multiplier and its auctions."""
    evidence, now = no_evidence(), 0
    for multiplier, rows in moves:
        now += len(rows)
        evidence = with_sight(evidence, multiplier, sight(rows), max_bid, now)
    return evidence


def test_with_one_multiplier_the_curve_is_the_running_sum_of_prices_per_auction():
    # Prices per pCTR 40/0.5 = 80, 25/0.25 = 100, 60/1 = 60; of four auctions: 60/4, + 40/4, + 25/4.
    curve = spend_curve(seen((100.0, [(0.5, 40), (0.1, None), (0.25, 25), (1.0, 60)])), 4, FOREVER)
    assert curve.ratio.tolist() == [60.0, 80.0, 100.0]
    assert curve.spend == pytest.approx([15.0, 25.0, 31.25], rel=1e-12)
    assert curve.trusted == 100.0


def test_a_lost_auction_says_nothing_above_the_multiplier_it_was_lost_at():
    # At 80 only the two auctions bid at 100 count: one of two was won for 10, so 5 an auction and not 10 / 4.
    curve = spend_curve(seen((50.0, [(0.1, None)] * 2), (100.0, [(0.125, 10), (0.1, None)])), 4, FOREVER)
    assert curve.spend == pytest.approx([5.0])


def test_what_was_won_below_leaves_its_share_to_the_wins_above():
    # At 40 all four count: 1/4, for 8. Of the 3/4 above, at 80 one of the two still open at 100 was won, for 10.
    rows = (50.0, [(0.2, 8), (0.1, None)]), (100.0, [(0.125, 10), (0.1, None)])
    curve = spend_curve(seen(*rows), 4, FOREVER)
    assert curve.spend == pytest.approx([8 / 4, 8 / 4 + 3 / 4 * 1 / 2 * 10])


def test_an_auction_lost_at_the_highest_bid_is_never_won_by_a_higher_multiplier():
    # 100 x 0.9 = 90 is above the highest bid 50: that auction stays among the open ones at every multiplier.
    rows = (50.0, [(0.9, None)]), (100.0, [(0.125, 10), (0.9, None)])
    assert spend_curve(seen(*rows, max_bid=None), 3, FOREVER).spend == pytest.approx([10 / 2])
    assert spend_curve(seen(*rows, max_bid=50), 3, FOREVER).spend == pytest.approx([10 / 2])
    assert spend_curve(seen(*rows, max_bid=45), 3, FOREVER).spend == pytest.approx([10 / 3])


def test_an_auction_whose_bid_was_cut_to_the_money_left_is_no_evidence():
    kept = with_sight(no_evidence(), 100.0, sight([(0.5, 40), (0.5, None)], [False, True]), None, 2)
    assert spend_curve(kept, 2, FOREVER).spend == pytest.approx([40.0])


def test_a_price_of_zero_costs_nothing_and_is_won_on_a_pctr_of_zero():
    curve = spend_curve(seen((10.0, [(0.0, 0), (0.5, 4)])), 2, FOREVER)
    assert curve.ratio.tolist() == [0.0, 8.0]
    assert curve.spend == pytest.approx([0.0, 2.0])


def test_the_curve_is_trusted_up_to_what_a_fifth_of_the_evidence_was_bid_at():
    few = seen((100.0, [(0.125, 10)]), (50.0, [(0.2, 8)] * 9))  # 1 of 10 was bid at 100
    assert spend_curve(few, 10, FOREVER).trusted == 50.0
    assert spend_curve(few, 10, FOREVER).ratio.max() == 40.0
    enough = seen((100.0, [(0.125, 10)] * 2), (50.0, [(0.2, 8)] * 8))  # 2 of 10
    assert spend_curve(enough, 10, FOREVER).trusted == 100.0


def test_evidence_of_an_age_of_one_memory_counts_a_quarter():
    # A move that won (10 an auction) ended 100 auctions ago, one that lost ends now: 1/4 of 10 in 1/4 + 1.
    moves = with_sight(no_evidence(), 100.0, sight([(0.125, 10)]), None, 1)
    moves = with_sight(moves, 100.0, sight([(0.1, None)]), None, 101)
    assert spend_curve(moves, 101, 100.0).spend == pytest.approx([10 * 0.25 / 1.25])


def test_moves_that_ended_too_long_ago_are_forgotten_with_their_wins():
    rows = (50.0, [(0.2, 8), (0.1, None)]), (100.0, [(0.125, 10), (0.1, None)])
    assert spend_curve(without_moves_before(seen(*rows), 3), 4, FOREVER).spend == pytest.approx([5.0])


CURVE = SpendCurve(ratio=np.array([40.0, 80.0]), spend=np.array([2.0, 6.0]), trusted=100.0)


def test_the_multiplier_lies_where_the_curve_crosses_the_rate():
    assert solve(CURVE, 4.0) == pytest.approx(60.0)  # half way from 2 to 6
    assert solve(CURVE, 6.0) == pytest.approx(80.0)
    assert solve(CURVE, 1.0) == pytest.approx(
        40 * (1 / 2) ** (2 / 3)
    )  # below the first win by the elasticity
    assert solve(CURVE, 0.0) == 0.0


def test_beyond_the_trusted_part_the_multiplier_rises_by_the_elasticity_and_at_most_doubles():
    assert solve(CURVE, 9.0) == pytest.approx(100 * (9 / 6) ** (2 / 3))
    assert solve(CURVE, 600.0) == 200.0
    nothing = SpendCurve(ratio=np.zeros(0), spend=np.zeros(0), trusted=100.0)
    assert solve(nothing, 1.0) == 200.0
    free = SpendCurve(ratio=np.zeros(1), spend=np.zeros(1), trusted=100.0)
    assert solve(free, 1.0) == 200.0


def test_a_multiplier_never_leaves_the_numbers():
    nothing = SpendCurve(ratio=np.zeros(0), spend=np.zeros(0), trusted=HIGHEST_MULTIPLIER)
    assert solve(nothing, 1.0) == HIGHEST_MULTIPLIER
    assert first_multiplier(Episode(1, 1 << 61, None), np.array([5e-324])) == HIGHEST_MULTIPLIER


@pytest.mark.parametrize("price", range(1, 301))
def test_the_multiplier_of_a_win_wins_it_again(price):
    # price / pCTR x pCTR may round to less than the price: solve answers one unit in the last place above.
    for value in (1e-06, 0.000149, 0.0007, 1 / 3):
        curve = spend_curve(seen((1e12, [(value, price)])), 1, FOREVER)
        assert solve(curve, price) * value >= price


def test_a_bidder_without_a_multiplier_looks_on_and_begins_at_the_stated_rule():
    pacer = OnlineLp(episode=Episode(auctions=10_000, budget=5_000, max_bid=None))
    assert (pacer.decide().multiplier, pacer.decide().auctions) == (0.0, LOOK_ON)
    began = pacer.after(sight([(0.001, None)] * 8 + [(0.003, None)] * 8))
    # 6 x half a unit of budget an auction / the mean pCTR of 0.002.
    assert began.decide().multiplier == pytest.approx(TYPICAL_MARGIN * 0.5 / 0.002)
    still = pacer.after(sight([(0.0, None)] * 16))
    assert still.decide().multiplier == 0.0


def test_moves_are_short_until_prices_are_known_and_then_grow_to_a_quarter_of_a_half_hour():
    pacer = OnlineLp(episode=Episode(auctions=96_000, budget=48_000, max_bid=None), multiplier=100.0)
    first = pacer.decide()
    # 96,000 / 48 / 64 = 31, the shortest is 32. Its plan is 16 units; it may spend twice that, or 1/1000 of the budget.
    assert (first.auctions, first.allowance) == (32, 48)
    won_nothing = pacer.after(sight([(0.1, None)] * 32))
    assert won_nothing.decide().auctions == 32
    assert won_nothing.decide().multiplier == 200.0
    lengths = []
    for _ in range(12):
        length = pacer.decide().auctions
        lengths.append(length)
        pacer = pacer.after(sight([(0.1, 1)] * (length // 2) + [(0.1, None)] * (length - length // 2)))
    assert lengths == [32, 32, 32, 48, 72, 108, 162, 243, 364, 500, 500, 500]


def test_a_bidder_out_of_money_bids_nothing_and_begins_the_next_episode_with_what_it_learned():
    # Nine tenths of the day are bid on with 0: as evidence they would leave nothing of the curve to trust.
    episode = Episode(auctions=320, budget=320, max_bid=None)
    pacer = OnlineLp(episode=episode, multiplier=100.0).after(sight([(0.1, 10)] * 32))
    assert pacer.decide().multiplier == 0.0
    pacer = pacer.after(sight([(0.1, None)] * 288)).begin(episode)
    # All auctions were won at a price per pCTR of 100, at 10 an auction, and less may be spent: part of them, at 100.
    assert pacer.decide().multiplier == pytest.approx(100)


def test_the_last_move_ends_with_the_episode():
    pacer = OnlineLp(episode=Episode(auctions=40, budget=40, max_bid=None), multiplier=1.0)
    assert pacer.after(sight([(0.1, None)] * 32)).decide().auctions == 8


def test_between_episodes_old_evidence_is_dropped():
    # One auction in ten is won: 150 wins take 1,500 auctions, and 16 memories of those are 240 episodes of 100.
    assert LEAST_WINS * 10 * FORGOTTEN == 24_000
    episode = Episode(auctions=100, budget=100, max_bid=None)
    pacer = OnlineLp(episode=episode, multiplier=100.0)
    for _ in range(260):
        pacer = pacer.after(sight([(0.1, 1)] * 10 + [(0.1, None)] * 90)).begin(episode)
    assert len(pacer.evidence.multiplier) == 241  # the one that ended just 24,000 auctions ago stays
    assert len(pacer.evidence.ratio) == 2_410


def test_the_less_money_is_left_the_more_of_it_is_reserved():
    # Mean price 10: of 360 left 360 / 400 is planned for, over 64 auctions 5.0625 each; of 40 left a half, 0.3125 each.
    def rate(budget: int) -> float:
        pacer = OnlineLp(episode=Episode(auctions=96, budget=budget, max_bid=None), multiplier=100.0)
        move = pacer.after(sight([(0.1, 10)] * 16 + [(0.1, None)] * 16)).decide()
        return (move.allowance - 0.5) / 2 / move.auctions

    assert rate(160 + 360) == pytest.approx(5.0625, abs=0.02)
    assert rate(160 + 40) == pytest.approx(0.3125, abs=0.02)
