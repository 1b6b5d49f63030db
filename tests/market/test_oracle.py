"""The yardstick: worked examples, linear programs solved by somebody else, and players that it must bound."""

from __future__ import annotations

import math
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from gaelp.core.errors import BadInput, ShapeError
from gaelp.market.oracle import Auctions, Axis, Prices, Yardstick, best_multiplier, lp_bound, reference_name

# One slot, money = ratio. Spend and units: 2 buys 4, then 4 more buys 2, then 6 more buys 1.
THREE = {"ratio": [[2.0], [4.0], [6.0]], "value": [4.0, 2.0, 1.0], "worth": [1.0, 1.0, 1.0]}


def auctions(
    ratio, value, worth, budget, exposure=(1.0,), target=math.inf, profit=False, number=np.float64
) -> Auctions:
    """One campaign-day."""
    arrays = [np.array([x], number) for x in (ratio, value, worth)]
    limits = [np.array([x], number) for x in (budget, target)]
    return Auctions(*arrays, exposure, *limits, np.array([profit]))


def bound(budget: float, **terms) -> float:
    """The bound of one day of the three auctions above, or of others given by name."""
    return lp_bound(auctions(**{**THREE, **terms}, budget=budget)).item()


def drawn(rng: np.random.Generator, days: int, n: int, slots: int, **terms) -> Auctions:
    """Days on a coarse grid of prices and values, so that ties, free slots and worthless auctions abound."""
    ratio = -np.sort(-rng.integers(0, 5, (days, n, slots)) / 2.0, axis=-1)
    value, worth = rng.integers(0, 5, (days, n)) / 1.0, rng.integers(0, 4, (days, n)) / 2.0
    exposure = ((1.0,), (1.0, 0.5), (1.0, 0.8, 0.6))[slots - 1]
    whole = (ratio[..., 0] * worth).sum(-1)
    given = {
        "budget": whole * rng.uniform(0.0, 0.8, days),
        "target": np.full(days, np.inf),
        "profit": np.zeros(days, bool),
    }
    return Auctions(ratio, value, worth, exposure, **(given | terms))


def day(many: Auctions, b: int) -> Auctions:
    return Auctions(
        *(x if isinstance(x, tuple) else x[b : b + 1] for x in many),
    )


def by_linprog(one: Auctions, budget: float) -> float:
    """The relaxed problem of one day as HiGHS solves it: units, less spend where it is profit."""
    shown = np.array(one.exposure)
    cost = one.ratio[0] * one.worth[0][:, None] * shown
    units = one.value[0][:, None] * shown
    gain = units - cost * one.profit[0]
    once = np.kron(np.eye(len(cost)), np.ones(len(shown)))
    solved = linprog(
        -gain.ravel(),
        A_ub=np.vstack([cost.ravel()[None], once]),
        b_ub=[budget, *np.ones(len(cost))],
        bounds=(0, 1),
    )
    assert solved.status == 0
    return -solved.fun


def objective(units: float, spend: float, target: float, profit: bool) -> float:
    kept = 1.0 if units == 0 or spend <= target * units else (target * units / spend) ** 2
    return units * kept - profit * spend


def played(one: Auctions, multiplier: float, shade: float | None) -> float:
    """One constant multiplier, auction after auction; the last win is the share that the money left can pay.

    shade: None where slots cost their ratio; in first price the winner pays the multiplier, times this.
    """
    left, units, spend = one.budget[0], 0.0, 0.0
    for ratio, value, worth in zip(one.ratio[0], one.value[0], one.worth[0], strict=True):
        bid = multiplier if shade is None else multiplier * shade
        for price, shown in zip(ratio, one.exposure, strict=True):
            if price <= bid:
                cost = (price if shade is None else bid) * worth * shown
                share = 1.0 if cost <= left else left / cost
                left = max(left - share * cost, 0.0)
                units, spend = units + share * value * shown, spend + share * cost
                break
    return objective(units, spend, one.target[0], one.profit[0])


# Worked by hand


def test_a_budget_buys_the_cheapest_units_and_a_fraction_of_the_last_auction():
    assert bound(2) == 4
    assert bound(4) == 5  # 2 for 4 units, the other 2 pay half of the second auction
    assert bound(9) == 6.5
    assert bound(1000) == 7
    assert bound(math.inf) == 7
    assert bound(0) == 0


def test_a_target_is_met_exactly_where_buying_less_and_buying_more_are_both_worse():
    # On the second auction units = 3 + S/2; 0.8 units = S at S = 4, units = 5. With 6 spent: 6 (4.8/6)^2 = 3.84.
    assert bound(12, target=0.8) == pytest.approx(5, rel=1e-12)
    # A budget short of it: 3 buys 4.5 units at 0.667 each.
    assert bound(3, target=0.8) == pytest.approx(4.5, rel=1e-12)


def test_a_target_that_no_auction_meets_is_missed_by_the_best_amount():
    # The first auction: 4 (0.25 x 4 / 2)^2 = 1; then 6 (1.5 / 6)^2 = 0.375. A quarter of it spent: 2 (0.5 / 1)^2 = 0.5.
    assert bound(12, target=0.25) == pytest.approx(1, rel=1e-12)
    assert bound(1, target=0.25) == pytest.approx(0.5, rel=1e-12)


def test_a_target_is_missed_a_little_where_that_brings_many_more_units():
    # Target 1: the first auction alone meets it and scores 1. With the second 9 units for 9.9: 9 (9 / 9.9)^2 = 7.438.
    dear = {"ratio": [[1.0], [8.9]], "value": [1.0, 8.0], "worth": [1.0, 1.0], "target": 1.0}
    assert bound(9.9, **dear) == pytest.approx(9 * (9 / 9.9) ** 2, rel=1e-12)
    # 1 of 8.9 of it: u = 1 + 8 / 8.9 = 1.899 units for 2, u (u / 2)^2 = 1.712.
    assert bound(2, **dear) == pytest.approx((1 + 8 / 8.9) ** 3 / 4, rel=1e-12)


def test_profit_buys_only_what_brings_more_than_it_costs():
    # 4 - 2 = 2; the second auction costs 4 for 2.
    assert bound(12, profit=True) == 2
    assert bound(1, profit=True) == 1
    # With the same target as above profit is 4 - 2 within it; at the crossing 5 - 4.
    assert bound(12, profit=True, target=0.8) == 2


def test_free_auctions_are_had_without_a_budget():
    assert bound(0, ratio=[[0.0], [4.0], [6.0]]) == 4
    assert bound(0, worth=[0.0, 0.0, 1.0]) == 6
    assert bound(0, ratio=[[0.0], [4.0], [6.0]], target=1e-6) == 4


def test_money_per_ratio_prices_an_auction_and_the_value_ranks_it():
    # Twice the money for each ratio: 4 pays for the first auction alone.
    assert bound(4, worth=[2.0, 2.0, 2.0]) == 4


def test_an_upgrade_to_a_better_slot_is_bought_by_the_fraction():
    # Value 8: the lower slot costs 0.5 x 2 = 1 and brings 4; the upper 6 and 8. 2.5 more buys half the upgrade.
    two = {"ratio": [[6.0, 2.0]], "value": [8.0], "worth": [1.0], "exposure": (1.0, 0.5)}
    assert bound(3.5, **two) == 6


def test_a_slot_below_the_line_between_its_neighbours_is_passed_over():
    # Costs 0.25, 2.5, 5 for 2, 4, 8 units: from the lowest straight to the top, 6 units for 4.75; half of it is 3.
    three = {"ratio": [[5.0, 5.0, 1.0]], "value": [8.0], "worth": [1.0], "exposure": (1.0, 0.5, 0.25)}
    assert bound(0.25 + 2.375, **three) == 5


# Against linear programs


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("profit", [False, True])
def test_without_a_target_it_is_the_linear_programs_optimum(slots, profit):
    many = drawn(np.random.default_rng(slots), 40, 9, slots, profit=np.full(40, profit))
    exact = [by_linprog(day(many, b), many.budget[b]) for b in range(40)]
    np.testing.assert_allclose(lp_bound(many), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("slots", [1, 3])
def test_with_a_target_it_is_the_best_score_along_the_linear_programs_frontier(slots):
    # 81 budgets up to the day's: the best of them is never above the bound and, between two, loses little.
    rng = np.random.default_rng(10 + slots)
    many = drawn(rng, 6, 6, slots, target=rng.uniform(0.05, 0.8, 6))
    for b, got in enumerate(lp_bound(many)):
        spends = np.linspace(0.0, many.budget[b], 81)
        frontier = [by_linprog(day(many, b), s) for s in spends]
        scores = [objective(u, s, many.target[b], False) for u, s in zip(frontier, spends, strict=True)]
        assert max(scores) <= got * (1 + 1e-9)
        assert max(scores) >= got * 0.96


# Nobody passes it


TERMS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "n": st.integers(1, 7),
        "slots": st.integers(1, 3),
        "target": st.sampled_from([math.inf, 2.0, 0.6, 0.1]),
        "profit": st.booleans(),
    }
)


def small_day(terms) -> Auctions:
    rng = np.random.default_rng(terms["seed"])
    return drawn(
        rng,
        1,
        terms["n"],
        terms["slots"],
        target=np.array([terms["target"]]),
        profit=np.array([terms["profit"]]),
    )


@settings(max_examples=150)
@given(
    terms=TERMS,
    multiplier=st.one_of(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]), st.floats(0, 3)),
    shade=st.one_of(st.none(), st.floats(0.2, 1.0)),
)
def test_no_constant_multiplier_passes_it_in_any_format(terms, multiplier, shade):
    one = small_day(terms)
    assert played(one, multiplier, shade) <= lp_bound(one).item() + 1e-9


@settings(max_examples=150)
@given(terms=TERMS, seed=st.integers(0, 10_000))
def test_no_mixture_of_slots_passes_it(terms, seed):
    # 100 mixtures a day, half of them pure choices, each cut down to what the budget pays.
    one, rng = small_day(terms), np.random.default_rng(seed)
    shown = np.array(one.exposure)
    cost, units = one.ratio[0] * one.worth[0][:, None] * shown, one.value[0][:, None] * shown
    top = lp_bound(one).item()
    for sharpness in (0.02, 1.0):
        shares = rng.dirichlet(np.full(len(shown) + 1, sharpness), (50, len(cost)))[..., 1:]
        spends, had = (shares * cost).sum((1, 2)), (shares * units).sum((1, 2))
        for spend, unit in zip(spends, had, strict=True):
            cut = min(1.0, one.budget[0] / spend) if spend > 0 else 1.0
            assert objective(unit * cut, spend * cut, terms["target"], terms["profit"]) <= top + 1e-9


# Its shape


def test_more_budget_never_hurts_and_every_further_unit_of_money_buys_less():
    rng = np.random.default_rng(3)
    one = drawn(rng, 1, 30, 3)
    budgets = np.linspace(0.0, 60.0, 61)
    got = np.array([lp_bound(one._replace(budget=np.array([x]))).item() for x in budgets])
    assert (np.diff(got) >= 0).all()
    assert (np.diff(got, 2) <= 1e-9).all()
    assert got[-1] > got[30] > got[1] > 0


def test_a_currency_and_a_unit_of_value_only_rescale_it():
    rng = np.random.default_rng(4)
    many = drawn(rng, 20, 12, 3, target=rng.uniform(0.1, 2.0, 20))
    same = many._replace(worth=many.worth * 7, budget=many.budget * 7, target=many.target * 7)
    np.testing.assert_allclose(lp_bound(same), lp_bound(many), rtol=1e-12)
    triple = many._replace(value=many.value * 3, target=many.target / 3)
    np.testing.assert_allclose(lp_bound(triple), 3 * lp_bound(many), rtol=1e-12)


def test_an_auction_that_stands_for_two_is_two_auctions():
    rng = np.random.default_rng(5)
    many = drawn(rng, 20, 12, 3, target=rng.uniform(0.1, 2.0, 20))
    halves = many._replace(
        ratio=np.repeat(many.ratio, 2, axis=1),
        value=np.repeat(many.value / 2, 2, axis=1),
        worth=np.repeat(many.worth / 2, 2, axis=1),
    )
    np.testing.assert_allclose(lp_bound(halves), lp_bound(many), rtol=1e-12)


def test_days_do_not_see_each_other_however_they_are_cut():
    # 40 days of 4,000 slots are sorted in several chunks; alone each day gives the very same bits.
    rng = np.random.default_rng(6)
    many = drawn(rng, 40, 2000, 2, target=rng.uniform(0.1, 2.0, 40))
    whole = lp_bound(many)
    assert [lp_bound(day(many, b)).item() for b in (0, 17, 39)] == whole[[0, 17, 39]].tolist()
    assert (
        lp_bound(Auctions(*(x if isinstance(x, tuple) else x[::-1] for x in many))).tolist()
        == whole[::-1].tolist()
    )


def test_memory_beyond_the_auctions_does_not_grow_with_the_days():
    rng = np.random.default_rng(7)
    many = drawn(rng, 256, 4000, 1)
    held = sum(x.nbytes for x in many if not isinstance(x, tuple))
    tracemalloc.start()
    lp_bound(many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Sorting all days at once would take five times what the auctions do.
    assert peak < held


def test_single_precision_and_jax_arrays_are_taken_as_they_are():
    rng = np.random.default_rng(8)
    many = drawn(rng, 5, 50, 2)
    single = Auctions(*(x if isinstance(x, tuple) else jnp.asarray(x) for x in many))
    assert single.ratio.dtype == jnp.float32
    np.testing.assert_allclose(lp_bound(single), lp_bound(many), rtol=1e-6)


# What is refused


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (
            {"ratio": [[2.0], [-1.0], [6.0]]},
            r"auctions: ratio\[0, 1, 0\] is -1.0, expected a finite number of at least 0",
        ),
        ({"value": [4.0, 2.0, math.nan]}, r"auctions: value\[0, 2\] is nan"),
        ({"worth": [1.0, math.inf, 1.0]}, r"auctions: worth\[0, 1\] is inf"),
        ({"budget": -1.0}, r"auctions: budget\[0\] is -1.0, expected at least 0, or inf for none"),
        ({"target": 0.0}, r"auctions: target\[0\] is 0.0, expected above 0, or inf for none"),
        ({"exposure": (0.0,)}, r"exposure is \(0.0,\), expected shares in \(0, 1\] that do not rise"),
        ({"profit": 1.0}, "profit has type float64, expected bool"),
        (
            {"ratio": [[1.0, 2.0]] * 3, "exposure": (1.0, 0.5)},
            r"auctions: ratio\[0, 0, 1\] is 2.0, expected at most that of the slot above",
        ),
        ({"ratio": [[2.0, 1.0]] * 3, "exposure": (0.5, 1.0)}, "that do not rise"),
    ],
)
def test_impossible_auctions_are_named(terms, message):
    with pytest.raises(BadInput, match=message):
        bound(**{"budget": 5.0, **terms})


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"exposure": (1.0, 0.5)}, r"ratio has shape \(1, 3, 1\), expected \(days, auctions, 2\)"),
        ({"value": [4.0, 2.0]}, r"value has shape \(1, 2\), expected \(1, 3\)"),
        ({"target": [1.0, 2.0]}, r"target has shape \(1, 2\), expected \(1,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_named(terms, message):
    with pytest.raises(ShapeError, match=message):
        bound(5.0, **terms)


# The best constant in hindsight


def axis(low: float, high: float, points: int = 9, worlds: int = 3) -> Axis:
    return Axis(np.full(worlds, low), np.full(worlds, high), points)


def test_every_world_finds_its_own_best_knob():
    tops = np.array([-1.234, 0.0, 2.345])
    found = best_multiplier(lambda m: 5.0 - (m - tops) ** 2, axis(-3.0, 3.0))
    np.testing.assert_allclose(found.knobs[0], tops, atol=0.01)
    np.testing.assert_allclose(found.score, 5.0, atol=1e-4)
    assert not found.at_edge.any()


def test_a_sharp_top_between_two_points_is_found_beside_a_broad_lower_hill():
    # Points every 0.75. The sharp top stands at 1.9: of it the grid sees 6 and 6.5, and 7.98 of the broad hill.
    def score_of(m):
        return np.maximum(10.0 - 10.0 * np.abs(m - 1.9), 8.0 - 0.3 * (m + 2.0) ** 2)

    found = best_multiplier(score_of, axis(-3.0, 3.0))
    np.testing.assert_allclose(found.score, 10.0, atol=0.05)
    one = best_multiplier(score_of, axis(-3.0, 3.0), starts=1)
    np.testing.assert_allclose(one.score, 8.0, atol=0.01)


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_it_is_never_below_the_best_point_of_the_grid_and_scores_what_it_says(seed):
    rng = np.random.default_rng(seed)
    rough = rng.normal(size=(3, 400))

    def score_of(m):
        return rough[np.arange(3), np.clip((m + 3.0) * 66.0, 0, 399).astype(int)]

    found = best_multiplier(score_of, axis(-3.0, 3.0))
    grid = np.stack([score_of(np.full(3, m)) for m in np.linspace(-3, 3, 9)])
    assert (found.score >= grid.max(axis=0)).all()
    assert found.score.tolist() == score_of(found.knobs[0]).tolist()


def test_two_knobs_that_make_up_for_each_other_are_followed_along_their_ridge():
    # The ridge m = 0.4 + 4 (s - 0.5) crosses the grid askew. Within one cell of the grid's best, 9.83 is the most there is to
    # find by halving alone; the top, 10, is at s = 0.4.
    def score_of(m, s):
        return 10.0 - 20.0 * (m - 0.4 - 4.0 * (s - 0.5)) ** 2 - 5.0 * (s - 0.4) ** 2

    found = best_multiplier(score_of, axis(-3.0, 3.0), axis(0.0, 1.0, 5))
    np.testing.assert_allclose(found.score, 10.0, atol=0.02)
    np.testing.assert_allclose(found.knobs[:, 0], [0.0, 0.4], atol=0.2)


def test_a_world_finds_the_same_best_knob_alone_and_among_others():
    # Rough scores: a world that went on while its neighbours search would find something better by luck.
    rough = np.random.default_rng(11).random((10, 400_000))

    def score_of_some(rows):
        return lambda m: rough[rows, np.clip((m + 3.0) * 66_666.0, 0, 399_999).astype(int)]

    together = best_multiplier(score_of_some(np.arange(10)), axis(-3.0, 3.0, worlds=10))
    for row in range(10):
        alone = best_multiplier(score_of_some(np.array([row])), axis(-3.0, 3.0, worlds=1))
        assert (alone.score[0], alone.knobs[0, 0]) == (together.score[row], together.knobs[0, row])


def test_a_range_that_ends_too_early_is_pointed_out_and_a_plateau_is_not():
    # World 0 rises to the end; world 1 is flat from 2 on: buying everything needs no higher bid.
    found = best_multiplier(lambda m: np.stack([m[0], np.minimum(m[1], 2.0), -abs(m[2])]), axis(-3.0, 3.0))
    assert found.at_edge.tolist() == [True, False, False]
    assert found.score.tolist() == [3.0, 2.0, 0.0]


def test_a_jitted_world_is_compiled_once():
    traced = []

    @jax.jit
    def score_of(m):
        traced.append(m.shape)
        return -((m - 0.3) ** 2)

    found = best_multiplier(score_of, axis(-3.0, 3.0))
    assert traced == [(3,)]
    np.testing.assert_allclose(found.knobs[0], 0.3, atol=0.01)


def test_in_second_price_with_true_values_the_best_multiplier_is_the_bound_but_for_one_auction():
    # 16 days of 3,000 auctions, log-normal; each of them is about 1/600 of what a fifth of the money buys.
    rng = np.random.default_rng(9)
    value, price = np.exp(0.8 * rng.normal(size=(16, 3000))), np.exp(0.7 * rng.normal(size=(16, 3000)))
    budget = price.sum(-1) * rng.uniform(0.05, 0.5, 16)
    ratio = price / value
    order = np.argsort(ratio, axis=-1)
    dearest, costs, units = (np.take_along_axis(x, order, -1) for x in (ratio, price, value))
    costs, units = np.cumsum(costs, -1), np.cumsum(units, -1)

    def score_of(m):
        # Exchangeable auctions: when the money ends early, the share of the day that it lasts.
        won = np.array([np.searchsorted(d, np.exp(x), side="right") for d, x in zip(dearest, m, strict=True)])
        at = np.maximum(won - 1, 0)[:, None]
        spend, got = (np.take_along_axis(x, at, -1)[:, 0] * (won > 0) for x in (costs, units))
        return got * np.minimum(1.0, budget / np.maximum(spend, 1e-12))

    found = best_multiplier(score_of, Axis(np.full(16, -4.0), np.full(16, 4.0), 33))
    top = lp_bound(
        Auctions(ratio[..., None], value, value, (1.0,), budget, np.full(16, np.inf), np.zeros(16, bool))
    )
    share = found.score / top
    assert (share <= 1 + 1e-12).all()
    assert (share > 0.998).all()


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(BadInput, match=r"world 1 scores nan at \[-3.0\], expected a finite number"):
        best_multiplier(lambda m: np.array([0.0, math.nan, 0.0]), axis(-3.0, 3.0))
    with pytest.raises(ShapeError, match=r"the scores have shape \(\), expected \(3,\)"):
        best_multiplier(lambda m: 0.0, axis(-3.0, 3.0))


def test_an_impossible_axis_is_refused():
    with pytest.raises(BadInput, match=r"world 1 has low 2.0, high 1.0, expected low < high, both finite"):
        Axis(np.array([0.0, 2.0]), np.array([1.0, 1.0]), 9)
    with pytest.raises(BadInput, match="points is 2, expected at least 3"):
        axis(0.0, 1.0, 2)
    with pytest.raises(ShapeError, match=r"low has shape \(\), high \(3,\)"):
        Axis(0.0, np.ones(3), 9)


def test_where_the_market_answers_no_line_is_called_a_bound():
    assert reference_name(Yardstick.LP, Prices.GIVEN) == "LP bound"
    assert reference_name(Yardstick.MULTIPLIER, Prices.GIVEN) == "best hindsight multiplier"
    assert reference_name(Yardstick.MULTIPLIER, Prices.ANSWERING) == "price-taker reference (no bound)"
    assert reference_name(Yardstick.LP, Prices.ANSWERING) == "price-taker reference (no bound), by LP"
