"""Auctions: worked examples, a naive loop that they must always equal, and what an auction must never do."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaelp.bidding.rules import Format, Rules
from gaelp.core.errors import BadInput, ShapeError
from gaelp.market import auction
from gaelp.market.auction import (
    NOBODY,
    Outcome,
    affordable_share,
    cell,
    drawn_views,
    expected_views,
    run_auctions,
)

SECOND, FIRST = Rules(Format.SECOND_PRICE), Rules(Format.FIRST_PRICE)
GSP = Rules(Format.GSP, (1.0, 0.8, 0.6))
BIDDERS, IMPRESSIONS, WINDOW = 5, 96, 48
"""Most examples are filled up to one size, so that each format is compiled once: a bid of -1 takes no part."""
PLENTY = 2**31 - 1


def sell(
    rules: Rules, bids: np.ndarray, left: np.ndarray, views: np.ndarray | None = None, window: int = WINDOW
) -> Outcome:
    """`bids` [bidders,N], filled up; every slot is seen unless `views` says otherwise; NumPy arrays [slots,N]."""
    bids, left = np.asarray(bids), np.asarray(left)
    bidders, n = bids.shape
    views = np.ones((rules.slots, n), bool) if views is None else views
    more = (0, BIDDERS - bidders), (0, IMPRESSIONS - n)
    whole = run_auctions(
        rules, jnp.asarray(np.pad(bids, more, constant_values=-1)), jnp.asarray(np.pad(left, more[0])),
        jnp.asarray(np.pad(views, ((0, 0), more[1]))), window=window,
    )  # fmt: skip
    got = [np.asarray(x) for x in whole]
    assert (got[0][:, n:] == NOBODY).all()
    return Outcome(*(x[:, :n] for x in got[:4]), got[4][:bidders])


def whole(*rows: Sequence[int]) -> np.ndarray:
    return np.array(rows, np.int32)


def money(*amounts: int) -> np.ndarray:
    return np.array(amounts, np.int32)


# ---- prices


def test_in_second_price_the_highest_bid_wins_and_pays_the_next_one():
    # Three bidders, three impressions: 7 over 5; 9 over 8; 4 over 4, where the earlier bidder wins the tie.
    sold = sell(SECOND, whole([7, 2, 4], [5, 8, 4], [1, 9, 0]), money(100, 100, 100))
    assert sold.bidder.tolist() == [[0, 2, 0]]
    assert sold.price.tolist() == sold.cost.tolist() == [[5, 8, 4]]
    assert sold.left.tolist() == [100 - 5 - 4, 100, 100 - 8]


def test_in_first_price_the_winner_pays_its_own_bid():
    sold = sell(FIRST, whole([7, 2, 4], [5, 8, 4], [1, 9, 0]), money(100, 100, 100))
    assert sold.bidder.tolist() == [[0, 2, 0]]
    assert sold.cost.tolist() == [[7, 9, 4]]


def test_in_gsp_each_slot_pays_the_bid_below_it_and_the_last_one_the_reserve():
    # Ranked 9, 7, 5, 2: the first three take the slots for 7, 5 and 2. With two bidders above the reserve of 3, ranked
    # 6, 4, the second pays the reserve and the third slot stays empty.
    rules = Rules(Format.GSP, GSP.exposure, reserve=3)
    sold = sell(rules, whole([5, 6], [9, 1], [2, 4], [7, 2]), money(99, 99, 99, 99))
    assert sold.bidder.T.tolist() == [[1, 3, 0], [0, 2, NOBODY]]
    assert sold.price.T.tolist() == [[7, 5, 3], [4, 3, 0]]


def test_only_what_is_seen_is_paid_for():
    views = np.array([[True], [True], [False]])
    sold = sell(GSP, whole([5], [9], [2], [7]), money(99, 99, 99, 99), views)
    assert sold.bidder[:, 0].tolist() == [1, 3, 0]
    assert sold.price[:, 0].tolist() == [7, 5, 2]
    assert sold.cost[:, 0].tolist() == [7, 5, 0]
    assert sold.views[:, 0].tolist() == [1, 1, 0]
    assert sold.left.tolist() == [99, 92, 99, 94]


@pytest.mark.parametrize("rules", [SECOND, FIRST, GSP], ids=lambda rules: str(rules.format))
def test_a_lone_bid_at_the_reserve_wins_and_pays_it_and_one_below_wins_nothing(rules):
    priced = Rules(rules.format, rules.exposure, reserve=4)
    sold = sell(priced, whole([4, 3]), money(99))
    assert sold.bidder[0].tolist() == [0, NOBODY]
    assert sold.cost[0].tolist() == [4, 0]


def test_a_reserve_of_nothing_sells_to_a_bid_of_nothing_and_a_negative_bid_takes_no_part():
    assert sell(SECOND, whole([0, -1]), money(0)).bidder.tolist() == [[0, NOBODY]]


def test_whoever_sees_a_slot_has_seen_those_before_it():
    seen = drawn_views(GSP, jnp.array([0.0, 0.59, 0.6, 0.79, 0.8, 0.999]))
    assert seen.sum(axis=0).tolist() == [3, 3, 2, 2, 1, 1]
    assert expected_views(GSP, jnp.array([1.0, 5.0])).T.tolist() == [
        pytest.approx([1.0, 0.8, 0.6]),
        pytest.approx([5.0, 4.0, 3.0]),
    ]


# ---- budgets


def test_a_bid_is_the_least_of_what_is_bid_and_what_is_left_and_a_cheaper_impression_may_still_be_won():
    # Bidder 0 has 10 and bids 8 against 6, 7, 3, 2: it pays 6; then bids its last 4 against 7, and loses for 4; wins for
    # 3; and bids its last 1 against 2, which wins for that 1.
    sold = sell(SECOND, whole([8, 8, 8, 8], [6, 7, 3, 2]), money(10, 100))
    assert sold.bidder.tolist() == [[0, 1, 0, 1]]
    assert sold.cost.tolist() == [[6, 4, 3, 1]]
    assert sold.left.tolist() == [1, 95]


def test_with_a_budget_a_higher_bid_may_spend_less():
    # With 10 to spend against 6, 5, 5: at 6 it buys the first for 6 and its last 4 win nothing; at 5 it buys two for 5.
    rival = [6, 5, 5]
    high = sell(SECOND, whole([7] * 3, rival), money(10, PLENTY))
    low = sell(SECOND, whole([5] * 3, rival), money(10, PLENTY))
    assert (high.left[0], low.left[0]) == (4, 0)


def test_an_impression_that_stands_for_several_views_is_bought_as_far_as_the_money_goes():
    # 5 views at 2 cost 10; of 3 the winner buys 1.5 views, pays 3 and has nothing left for the next.
    views = np.full((1, 2), 5, np.float32)
    sold = sell(SECOND, np.array([[4, 4], [2, 1]], np.float32), np.array([3, 50], np.float32), views)
    assert sold.bidder.tolist() == [[0, 1]]
    assert sold.price.tolist() == [[2, 0]]
    assert sold.views.tolist() == [[1.5, 5]]
    assert sold.cost.tolist() == [[3, 0]]
    assert sold.left.tolist() == [0, 50]


def one_after_another(
    rules: Rules, bids: np.ndarray, left: np.ndarray, views: np.ndarray
) -> tuple[list[list[tuple[int, Fraction, Fraction, Fraction]]], list[Fraction]]:
    """The rules as a plain loop over exact numbers: (bidder, price, views, cost) by impression and slot; the money left."""
    purse = [Fraction(float(x)) for x in left]
    told = []
    for i in range(bids.shape[1]):
        bid = [min(Fraction(float(b)), purse[j]) for j, b in enumerate(bids[:, i])]
        takers = sorted((j for j in range(len(bid)) if bid[j] >= rules.reserve), key=lambda j: (-bid[j], j))
        slots = []
        for slot in range(rules.slots):
            if slot >= len(takers):
                slots.append((NOBODY, Fraction(0), Fraction(0), Fraction(0)))
                continue
            winner = takers[slot]
            below = bid[takers[slot + 1]] if slot + 1 < len(takers) else Fraction(rules.reserve)
            price = bid[winner] if rules.format is Format.FIRST_PRICE else max(below, Fraction(rules.reserve))
            wanted = Fraction(float(views[slot, i]))
            cost = min(price * wanted, purse[winner])
            slots.append((winner, price, wanted if cost == price * wanted else cost / price, cost))
        for winner, _, _, cost in slots:
            if winner != NOBODY:
                purse[winner] -= cost
        told.append(slots)
    return told, purse


RULES = st.sampled_from([SECOND, FIRST, GSP])


def random_day(
    rules: Rules, seed: int, highest: int, purse: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole bids from -1 to `highest`, money from 0 to `purse`, drawn exposure."""
    rng = np.random.default_rng(seed)
    bids = rng.integers(-1, highest + 1, (BIDDERS, IMPRESSIONS), endpoint=False)
    views = rng.random(IMPRESSIONS) < np.array(rules.exposure)[:, None]
    left = rng.integers(0, purse, BIDDERS, endpoint=True)
    # Some have no end of money, some hardly any.
    left[rng.random(BIDDERS) < 0.2] = PLENTY
    return bids.astype(np.int32), left.astype(np.int32), views


@settings(max_examples=150)
@given(
    rules=RULES, reserve=st.integers(0, 4), seed=st.integers(0, 2**32 - 1), highest=st.sampled_from([3, 12, 1000]),
    tightness=st.sampled_from([0.5, 3, 20, 200]),
)  # fmt: skip
def test_whole_money_always_equals_the_loop_one_impression_after_another(
    rules, reserve, seed, highest, tightness
):
    rules = Rules(rules.format, rules.exposure, reserve)
    bids, left, views = random_day(rules, seed, highest, int(tightness * highest))
    sold = sell(rules, bids, left, views)
    told, purse = one_after_another(rules, bids, left, views)
    for i, slots in enumerate(told):
        for slot, expected in enumerate(slots):
            assert (
                sold.bidder[slot, i], sold.price[slot, i], sold.views[slot, i], sold.cost[slot, i]
            ) == expected  # fmt: skip
    assert sold.left.tolist() == purse


@settings(max_examples=60)
@given(rules=RULES, seed=st.integers(0, 2**32 - 1))
def test_sums_near_the_end_of_the_integers_are_exact_too(rules, seed):
    rng = np.random.default_rng(seed)
    bids, left, views = random_day(rules, seed, 10, PLENTY)
    # From a few to the greatest: a window's costs would sum to many times what an int32 holds.
    bids = np.exp(rng.uniform(0, np.log(PLENTY), bids.shape)).astype(np.int32)
    sold = sell(rules, bids, left, views)
    told, purse = one_after_another(rules, bids, left, views)
    assert sold.bidder.T.tolist() == [[slot[0] for slot in slots] for slots in told]
    assert sold.left.tolist() == purse


@settings(max_examples=60)
@given(rules=RULES, seed=st.integers(0, 2**32 - 1), tightness=st.sampled_from([3.0, 30.0, 300.0]))
def test_with_weights_money_is_the_loops_to_the_last_digits_and_never_more_than_there_was(
    rules, seed, tightness
):
    rng = np.random.default_rng(seed)
    bids = rng.lognormal(size=(BIDDERS, IMPRESSIONS)).astype(np.float32)
    left = (tightness * rng.random(BIDDERS)).astype(np.float32)
    views = np.asarray(expected_views(rules, jnp.asarray(rng.choice([0.5, 1, 3], IMPRESSIONS), jnp.float32)))
    sold = sell(rules, bids, left, views)
    told, purse = one_after_another(rules, bids, left, views)
    # A purse that held 30 is exact to about 1e-5. Once it is nearly empty it is bid whole, so that this error is in a
    # hundred prices: a thousandth of the purse is allowed.
    assert sold.left == pytest.approx([float(x) for x in purse], abs=1e-3 * tightness)
    assert sold.cost.sum() == pytest.approx(float(sum(s[3] for slots in told for s in slots)), rel=1e-3)
    charged = np.array([sold.cost[sold.bidder == j].sum(dtype=np.float64) for j in range(BIDDERS)])
    assert (charged <= left * (1 + 1e-6)).all()
    assert (sold.left >= 0).all()


@settings(max_examples=100)
@given(rules=RULES, seed=st.integers(0, 2**32 - 1), tightness=st.sampled_from([1, 10, 100]))
def test_nobody_is_charged_beyond_its_budget_and_the_purse_tells_what_was_charged(rules, seed, tightness):
    bids, left, views = random_day(rules, seed, 50, 50 * tightness)
    sold = sell(rules, bids, left, views)
    for j in range(BIDDERS):
        charged = int(sold.cost[sold.bidder == j].sum(dtype=np.int64))
        assert charged == int(left[j]) - int(sold.left[j])
        assert charged <= left[j]


@settings(max_examples=40)
@given(rules=RULES, seed=st.integers(0, 2**32 - 1), tightness=st.sampled_from([1, 10, 100]))
def test_whole_money_does_not_depend_on_how_impressions_are_batched(rules, seed, tightness):
    bids, left, views = random_day(rules, seed, 50, 50 * tightness)
    at_once = sell(rules, bids, left, views)
    for got in (
        sell(rules, bids, left, views, window=1), _in_two_calls(rules, bids, left, views, IMPRESSIONS // 3)
    ):  # fmt: skip
        for name in Outcome._fields:
            assert (getattr(got, name) == getattr(at_once, name)).all(), name


@settings(max_examples=40)
@given(rules=RULES, seed=st.integers(0, 2**32 - 1))
def test_simulated_money_depends_on_it_in_the_last_digits_only(rules, seed):
    rng = np.random.default_rng(seed)
    bids = rng.lognormal(size=(BIDDERS, IMPRESSIONS)).astype(np.float32)
    left = (30 * rng.random(BIDDERS)).astype(np.float32)
    views = np.asarray(expected_views(rules, jnp.ones(IMPRESSIONS)))
    at_once = sell(rules, bids, left, views)
    again = _in_two_calls(rules, bids, left, views, IMPRESSIONS // 3)
    assert again.left == pytest.approx(at_once.left, abs=1e-3 * 30)
    assert again.cost.sum() == pytest.approx(at_once.cost.sum(), rel=1e-3)


def _in_two_calls(rules: Rules, bids: np.ndarray, left: np.ndarray, views: np.ndarray, cut: int) -> Outcome:
    before = sell(rules, bids[:, :cut], left, views[:, :cut])
    after = sell(rules, bids[:, cut:], before.left, views[:, cut:])
    return Outcome(
        *(np.concatenate(pair, axis=1) for pair in zip(before[:4], after[:4], strict=True)), after.left
    )


def test_more_bidders_than_one_network_ranks_are_ranked_in_groups():
    rng = np.random.default_rng(5)
    bidders = auction.NETWORK + 6
    bids = rng.integers(0, 20, (bidders, 16)).astype(np.int32)
    left = rng.integers(20, 60, bidders).astype(np.int32)
    views = np.ones((3, 16), bool)
    sold = run_auctions(GSP, jnp.asarray(bids), jnp.asarray(left), jnp.asarray(views))
    told, purse = one_after_another(GSP, bids, left, views)
    assert sold.bidder.T.tolist() == [[slot[0] for slot in slots] for slots in told]
    assert sold.left.tolist() == purse


def test_more_slots_than_bidders_leave_the_last_ones_empty():
    sold = run_auctions(GSP, jnp.array([[4], [6]]), jnp.array([50, 50]), jnp.ones((3, 1), bool))
    assert sold.bidder[:, 0].tolist() == [1, 0, NOBODY]
    assert sold.cost[:, 0].tolist() == [4, 0, 0]


# ---- what holds in every market


OWN_BIDS = 16


def own_bids(rules: Rules, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bidder 0 bids 0, 1, ..., 15 against the same four rivals in six impressions, all with endless money.

    The views and the spend of each bid, [16], and the impressions it wins, [16,6].
    """
    rng = np.random.default_rng(seed)
    few = IMPRESSIONS // OWN_BIDS
    rivals = np.tile(rng.integers(-1, OWN_BIDS, (BIDDERS - 1, few)), OWN_BIDS)
    attention = np.tile(rng.random(few), OWN_BIDS)
    bids = np.concatenate([np.repeat(np.arange(OWN_BIDS), few)[None], rivals]).astype(np.int32)
    left = np.full(BIDDERS, PLENTY, np.int32)
    sold = sell(rules, bids, left, attention < np.array(rules.exposure)[:, None])
    mine = (sold.bidder == 0).reshape(-1, OWN_BIDS, few)
    views, cost = (x.reshape(-1, OWN_BIDS, few) * mine for x in (sold.views, sold.cost))
    return views.sum(axis=(0, 2)), cost.sum(axis=(0, 2)), mine.any(axis=0)


@settings(max_examples=100)
@given(rules=RULES, seed=st.integers(0, 2**32 - 1), reserve=st.integers(0, 6))
def test_without_a_budget_wins_and_spend_never_fall_when_a_bid_rises(rules, seed, reserve):
    """For any rivals with endless money, views that never rise from slot to slot, in all three formats: a higher bid
    wins the same impressions and more, in slots that are no worse and no cheaper."""
    seen, spend, wins = own_bids(Rules(rules.format, rules.exposure, reserve), seed)
    assert (np.diff(seen) >= 0).all()
    assert (np.diff(spend) >= 0).all()
    assert (wins[1:] >= wins[:-1]).all()


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), worth=st.integers(0, 15), reserve=st.integers(0, 6))
def test_in_second_price_no_bid_earns_more_than_the_true_worth(seed, worth, reserve):
    seen, spend, _ = own_bids(Rules(Format.SECOND_PRICE, reserve=reserve), seed)
    profit = worth * seen - spend
    assert profit.max() == profit[worth]


def test_in_gsp_a_bid_below_the_true_worth_may_earn_more():
    # Worth 10 a view, rivals 9 and 3: at 10 the first slot earns 1 x (10 - 9); at 8 the second earns 0.8 x (10 - 3).
    bids = np.array([[10, 8], [9, 9], [3, 3]], np.float32)
    views = np.asarray(expected_views(Rules(Format.GSP, (1.0, 0.8, 0.6)), jnp.ones(2)))
    sold = sell(GSP, bids, np.full(3, np.inf, np.float32), views)
    mine = sold.bidder == 0
    assert (mine * (10 * sold.views - sold.cost)).sum(axis=0).tolist() == pytest.approx([1.0, 5.6])


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), reserve=st.integers(0, 12), tightness=st.sampled_from([2, 20, 200]))
def test_the_reserve_is_one_more_bidder_that_wins_for_nobody(seed, reserve, tightness):
    bids, left, views = random_day(SECOND, seed, 12, 12 * tightness)
    bids, left = bids[:-1], left[:-1]
    with_reserve = sell(Rules(Format.SECOND_PRICE, reserve=reserve), bids, left, views)
    one_more = np.concatenate([bids, np.full((1, IMPRESSIONS), reserve, np.int32)])
    without = sell(SECOND, one_more, np.append(left, np.int32(PLENTY)), views)
    kept = without.bidder == BIDDERS - 1
    assert (np.where(kept, NOBODY, without.bidder) == with_reserve.bidder).all()
    assert (np.where(kept, 0, without.cost) == with_reserve.cost).all()
    assert (without.left[:-1] == with_reserve.left).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), reserve=st.integers(0, 12), tightness=st.sampled_from([2, 20, 200]))
def test_gsp_with_one_slot_is_second_price(seed, reserve, tightness):
    bids, left, views = random_day(SECOND, seed, 12, 12 * tightness)
    one, other = (
        sell(Rules(format, reserve=reserve), bids, left, views)
        for format in (Format.GSP, Format.SECOND_PRICE)
    )
    assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_under_vmap_each_market_is_what_it_is_alone():
    bids, left, views = (
        np.stack(x) for x in zip(*(random_day(GSP, s, 12, 100) for s in range(3)), strict=True)
    )
    together = jax.vmap(lambda *day: run_auctions(GSP, *day, window=WINDOW))(bids, left, views)
    for k in range(3):
        alone = sell(GSP, bids[k], left[k], views[k])
        for name in Outcome._fields:
            assert (np.asarray(getattr(together, name))[k] == getattr(alone, name)).all(), name


def test_other_money_another_reserve_and_other_bids_compile_nothing_anew():
    bids, left, views = random_day(GSP, 1, 12, 100)
    sell(GSP, bids, left, views)
    compiled = auction._run._cache_size()
    sell(Rules(Format.GSP, (0.9, 0.5, 0.1), reserve=5), bids[::-1], left[::-1], views[:, ::-1])
    assert auction._run._cache_size() == compiled


# ---- cells


def priced(prices: np.ndarray) -> jax.Array:
    """[slots,...,n], the highest first."""
    return jnp.asarray(-np.sort(-prices, axis=0), jnp.float32)


ONE, ENDLESS = jnp.ones(()), jnp.asarray(jnp.inf)


def test_a_cell_counts_what_a_bid_buys_of_its_sampled_auctions():
    # A bid of 5 a click against 7, 5 and 1 a click, at 0.5, 0.1 and 0.2 clicks a view: it wins the second and the third
    # for 5 x 0.1 + 1 x 0.2 = 0.7. Each stands for 10 auctions.
    bought = cell(
        SECOND, jnp.asarray(5.0), priced(np.array([[7.0, 5.0, 1.0]])), jnp.array([0.5, 0.1, 0.2]), ONE * 10,
        ENDLESS,
    )  # fmt: skip
    assert [float(x) for x in bought] == pytest.approx([20, 3, 7])


def test_a_cell_in_first_price_pays_the_bid():
    bought = cell(
        FIRST, jnp.asarray(5.0), priced(np.array([[7.0, 5.0, 1.0]])), jnp.array([0.5, 0.1, 0.2]), ONE, ENDLESS
    )  # fmt: skip
    assert [float(x) for x in bought] == pytest.approx([2, 0.3, 5 * 0.3])


def test_a_cell_in_gsp_takes_the_best_slot_its_bid_reaches():
    # Rivals 9, 6, 2: a bid of 7 takes the second slot, seen 0.8, for 6; of 10 the first for 9; of 1 none.
    prices = np.array([9.0, 6.0, 2.0])[:, None]
    for bid, views, cost in ((7.0, 0.8, 4.8), (10.0, 1.0, 9.0), (1.0, 0.0, 0.0), (2.0, 0.6, 1.2)):
        bought = cell(GSP, jnp.asarray(bid), priced(prices), jnp.ones(1), ONE, ENDLESS)
        assert [float(x) for x in bought] == pytest.approx([views, views, cost])


def test_a_cells_reserve_is_money_for_a_view_whatever_a_view_is_worth():
    # A reserve of 1 a view is 2 and 10 a click at 0.5 and 0.1 clicks a view: 5 a click wins the first alone, for 2.
    rules = Rules(Format.SECOND_PRICE, reserve=1)
    bought = cell(rules, jnp.asarray(5.0), priced(np.zeros((1, 2))), jnp.array([0.5, 0.1]), ONE, ENDLESS)
    assert [float(x) for x in bought] == pytest.approx([1, 0.5, 1.0])


def test_of_what_a_cells_money_cannot_pay_the_same_share_is_lost_of_everything():
    prices, value = priced(np.array([[3.0, 1.0]])), jnp.ones(2)
    bought = cell(
        SECOND, jnp.full(3, 3.0), prices[:, None], value[None], jnp.ones(3), jnp.array([8.0, 1.0, 0.0])
    )
    assert np.array(bought).T.tolist() == [[2, 2, 4], [0.5, 0.5, 1], [0, 0, 0]]
    assert affordable_share(jnp.array([0.0, 4.0]), jnp.array([0.0, 5.0])).tolist() == [1.0, 1.0]


@settings(max_examples=40)
@given(rules=RULES, seed=st.integers(0, 2**32 - 1), reserve=st.sampled_from([0, 1, 2]))
def test_a_cell_buys_what_one_bidder_buys_in_the_auctions_themselves(rules, seed, reserve):
    rng = np.random.default_rng(seed)
    rules = Rules(rules.format, rules.exposure, reserve)
    rivals = rng.integers(0, 9, (BIDDERS - 1, IMPRESSIONS)).astype(np.float32)
    # Powers of two: the ratio of bid and worth is exact, so that ties are ties in both.
    value = rng.choice([0.5, 1.0, 2.0], IMPRESSIONS).astype(np.float32)
    per_click = np.float32(rng.integers(0, 9))
    sold = sell(
        rules, np.concatenate([per_click * value[None], rivals]), np.full(BIDDERS, np.inf, np.float32),
        np.asarray(expected_views(rules, jnp.ones(IMPRESSIONS))),
    )  # fmt: skip
    mine = sold.bidder == 0
    competing = priced(rivals / value)[: rules.slots]
    bought = cell(rules, jnp.asarray(per_click), competing, jnp.asarray(value), ONE, ENDLESS)
    assert float(bought.impressions) == pytest.approx((mine * sold.views).sum(), rel=1e-5)
    assert float(bought.clicks) == pytest.approx((mine * sold.views * value).sum(), rel=1e-5)
    assert float(bought.cost) == pytest.approx((mine * sold.cost).sum(), rel=1e-5)


@settings(max_examples=40)
@given(rules=RULES, seed=st.integers(0, 2**32 - 1), reserve=st.sampled_from([0, 1]), left=st.floats(0.1, 100))
def test_a_cells_spend_never_falls_when_the_bid_rises_and_never_exceeds_its_money(rules, seed, reserve, left):
    rng = np.random.default_rng(seed)
    prices = priced(rng.lognormal(size=(rules.slots, 64)))
    value = jnp.asarray(rng.lognormal(size=64), jnp.float32)
    bids = jnp.linspace(0.0, 8.0, 33)
    rules = Rules(rules.format, rules.exposure, reserve)
    bought = cell(rules, bids, prices[:, None], value[None], jnp.ones(33), jnp.full(33, left, jnp.float32))
    cost = np.asarray(bought.cost)
    assert (np.diff(cost) >= -1e-5 * left).all()
    assert (cost <= left * (1 + 1e-6)).all()


def test_a_cells_share_is_the_average_over_orders_of_arrival():
    # 2,000 auctions against one rival at 1 to 6, a bid of 4, money for about half of what it wins. Over 40 random orders the
    # impressions bought one after another are on average the cell's, within 4 standard errors (a chance of 6 in 100,000)
    # and the at most 3 that the last 3 units of money still buy when a 4 was too dear.
    rng = np.random.default_rng(11)
    price, left = rng.integers(1, 7, 2000), 1700
    bids = [np.stack([np.full(2000, 4), rng.permutation(price)]).astype(np.int32) for _ in range(40)]
    views, purse = jnp.ones((1, 2000), bool), jnp.array([left, PLENTY])
    counts = [int((run_auctions(SECOND, jnp.asarray(b), purse, views).bidder == 0).sum()) for b in bids]
    bought = cell(SECOND, jnp.asarray(4.0), priced(price[None]), jnp.ones(2000), ONE, jnp.asarray(1.0 * left))
    assert 0.4 < float(bought.impressions) / (price <= 4).sum() < 0.6
    error = np.std(counts) / np.sqrt(len(counts))
    assert abs(np.mean(counts) - float(bought.impressions)) < 4 * error + 3


# ---- bad input


WELL = {"bids": np.ones((2, 3), np.int32), "left": np.ones(2, np.int32), "views": np.ones((1, 3), bool)}
REAL = {name: column if name == "views" else column.astype(np.float32) for name, column in WELL.items()}
HOLED = np.float32([[1, 1, 1], [1, 1, np.nan]])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"bids": np.ones(3, np.int32)}, ShapeError, r"bids have shape \[3\], expected \[bidders, impressions\]"),
        ({"bids": np.ones((2, 0), np.int32)}, ShapeError, r"bids have shape \[2, 0\]"),
        ({"left": np.ones(3, np.int32)}, ShapeError, r"left has shape \[3\], expected \[2\]"),
        ({"views": np.ones((2, 3), bool)}, ShapeError, r"views has shape \[2, 3\], expected \[1, 3\]"),
        ({"bids": np.ones((2, 3), np.int16)}, BadInput, "bids are int16, expected int32 or float32"),
        ({"left": np.ones(2, np.float32)}, BadInput, "left is float32, expected int32 as the bids are"),
        ({"views": np.ones((1, 3), np.float32)}, BadInput, "views are float32, expected bool"),
        ({"rules": Rules(Format.SECOND_PRICE, reserve=0.5)}, BadInput, "reserve is 0.5, expected a whole price"),
        ({"window": 0}, BadInput, "window is 0, expected at least 1 impression"),
        ({"left": np.array([3, -5], np.int32)}, BadInput, r"left\[1\] is -5, expected a number of at least 0"),
        ({**REAL, "left": np.float32([-5, 1])}, BadInput, r"left\[0\] is -5\.0, expected a number of at least 0"),
        ({**REAL, "left": np.float32([1, np.nan])}, BadInput, r"left\[1\] is nan, expected a number of at least 0"),
        ({**REAL, "bids": HOLED}, BadInput, r"bids\[1, 2\] is nan, expected a finite number"),
        ({**REAL, "bids": np.nan_to_num(HOLED, nan=-np.inf)}, BadInput, r"bids\[1, 2\] is -inf, expected a finite number"),
        ({**REAL, "views": np.float32([[1, -1, 1]])}, BadInput, r"views\[0, 1\] is -1\.0, expected a finite number of"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_sold(changed, error, message):
    told = {"rules": SECOND, "window": 8, **WELL, **changed}
    with pytest.raises(error, match=message):
        run_auctions(
            told["rules"],
            *(jnp.asarray(told[name]) for name in ("bids", "left", "views")),
            window=told["window"],
        )


def test_an_endless_purse_and_numbers_that_are_not_known_yet_are_no_mistake():
    bids, views = jnp.asarray(REAL["bids"]), jnp.asarray(REAL["views"])
    plain = run_auctions(SECOND, bids, jnp.full(2, jnp.inf), views)
    inside = jax.jit(lambda left: run_auctions(SECOND, bids, left, views))(jnp.full(2, jnp.inf))
    assert np.array_equal(plain.cost, inside.cost)
    assert float(plain.cost.sum()) == 3.0


def test_a_cell_wants_as_many_rivals_as_slots():
    with pytest.raises(ShapeError, match="competing has 1 bids an auction, expected 3, one a slot"):
        cell(GSP, ONE, jnp.ones((1, 4)), jnp.ones(4), ONE, ENDLESS)
