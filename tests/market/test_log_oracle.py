"""The LP bound against a solver that knows nothing of greedy rules, and the best multiplier against it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from benchmarks.auction_logs import LogKind, auction_log
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from gaelp.logs.theta import ThetaAuctions
from gaelp.market.log_oracle import best_multiplier, lp_bound, lp_values
from gaelp.market.replay import ReplayOptions
from gaelp.market.stretch import Stretch, bought, whole_log, won_by_bids


def stretch(
    rows: list[tuple[int, float]], budget: Fraction | int, length: int, max_bid: Fraction | None = None
) -> Stretch:
    """Rows of (price, pCTR) in episodes of `length`."""
    price, value = (np.array(column) for column in zip(*rows, strict=True))
    log = ThetaAuctions(
        click=np.zeros(len(rows), np.int8), price=price.astype(np.int64), value=value.astype(np.float64)
    )
    edges = np.array([*range(0, len(rows), length), len(rows)], np.intp)
    return Stretch(log, edges, Fraction(budget), ReplayOptions(budget=Fraction(1), max_bid=max_bid))


def test_the_bound_buys_by_price_per_pctr_and_of_the_last_auction_a_part():
    # Per pCTR: 20, 40, 100. A budget of 40 buys 10 and 20 whole and 10 of the 50: 0.5 + 0.5 + 0.5 x 10/50.
    assert lp_bound(stretch([(50, 0.5), (10, 0.5), (20, 0.5)], 40, 3)).value == pytest.approx(1.1, rel=1e-15)


def test_a_price_of_zero_is_free_and_a_pctr_of_zero_worth_nothing():
    assert lp_bound(stretch([(0, 0.25), (0, 0.0), (5, 0.0)], 3, 3)).value == 0.25


def test_auctions_above_the_highest_bid_are_out_of_every_policys_reach():
    rows = [(50, 1.0), (10, 0.1)]
    assert lp_bound(stretch(rows, 60, 2)).value == pytest.approx(1.1)
    assert lp_bound(stretch(rows, 60, 2, Fraction(99, 2))).value == pytest.approx(0.1)


def test_each_episode_has_a_knapsack_of_its_own():
    # 10 each: the first buys 10 of 20 for half of 0.5, the second 5 whole.
    assert lp_bound(stretch([(20, 0.5), (40, 0.5), (5, 0.25), (40, 0.5)], 5, 2)).value == pytest.approx(
        0.125 + 0.25
    )


rows = st.lists(
    st.tuples(
        st.integers(0, 300) | st.integers(0, 5), st.floats(0.001, 1) | st.sampled_from([0.0, 0.5, 1.0])
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150)
@given(
    rows,
    st.fractions(min_value=1, max_value=2000, max_denominator=9),
    st.integers(1, 40),
    st.none() | st.integers(1, 300).map(Fraction),
)
def test_the_bound_equals_linear_programming(rows, budget, length, max_bid):
    on = stretch(rows, budget, length, max_bid)
    expected = 0.0
    for start in range(0, len(rows), length):
        part = [row for row in rows[start : start + length] if max_bid is None or row[0] <= max_bid]
        if part:
            price, value = np.array(part).T
            solved = linprog(-value, A_ub=price[None, :], b_ub=[float(budget)], bounds=(0, 1), method="highs")
            expected -= solved.fun
    assert lp_bound(on).value == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=150)
@given(rows, st.fractions(min_value=1, max_value=2000, max_denominator=9))
def test_the_best_multiplier_of_one_budget_is_within_one_auction_of_the_bound(rows, budget):
    on = stretch(rows, budget, len(rows))
    bound = lp_bound(on)
    got = bought(on, won_by_bids(on, best_multiplier(on, bound) * on.auctions.value)).value
    assert got <= bound.value
    assert got >= bound.value - max(value for _, value in rows) - 1e-12


def test_the_best_multiplier_of_many_episodes_is_that_of_a_fine_search():
    log = auction_log(LogKind(auctions=20_000, spread=1.0, correlation=0.4, drift=0.3), 5)
    on = whole_log([log], ReplayOptions(episode_auctions=1000, episode_budget=Fraction(2000)))
    bound = lp_bound(on)
    value = on.auctions.value
    searched = best_multiplier(on, bound)
    fine = np.geomspace(searched / 8, searched * 8, 500)
    best = max(bought(on, won_by_bids(on, multiplier * value)).value for multiplier in fine)
    assert bought(on, won_by_bids(on, searched * value)).value >= 0.998 * best


def test_multipliers_stay_finite_where_prices_per_pctr_do_not():
    on = stretch([(1 << 40, 5e-324), (1 << 40, 1e-300)], 1 << 50, 2)
    bound = lp_bound(on)
    assert bound.value == 1e-300
    assert np.isfinite(best_multiplier(on, bound))


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 64)), min_size=12, max_size=12),
    st.integers(1, 60),
    st.integers(1, 20),
)
@settings(max_examples=60)
def test_bounds_of_many_episodes_at_once_add_up_to_the_bound(
    rows: list[tuple[int, int]], budget: int, max_bid: int
) -> None:
    told = stretch([(p, v / 64) for p, v in rows], budget, 4, Fraction(max_bid))
    price, value = told.auctions.price.reshape(3, 4), told.auctions.value.reshape(3, 4)
    each = lp_values(price, value, budget, max_bid)
    assert each.sum() == pytest.approx(lp_bound(told).value, abs=1e-12)
    assert (each <= value.sum(axis=1) + 1e-12).all()
