"""One worth of a unit steers all line items of a campaign: what it projects, bids, keeps and is not worth paying."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import norm
from tests.bidding.days import campaign, landscape, play, terms

from gaelp.bidding.landscape import GRID, GRID_HIGH, GRID_LOW, Landscape
from gaelp.bidding.pacer import DEFAULT_PARAMS, DayState, Report, Terms, after_report, bids, solve, start_day
from gaelp.bidding.rules import Format, Rules

PAIR = landscape(
    items=2, price_mean=np.log([0.05, 0.03]), price_sd=np.array([0.6, 0.9]), clicks_price=np.array([-0.3, 0.2]),
    click_rate=np.array([0.05, 0.04]), cost_scale=np.array([0.8, 1.2]), conversion_rate=np.array([0.3, 0.15]),
    volume=np.array([12_000.0, 8_000.0]),
)  # fmt: skip
"""Two line items that differ in everything."""
STILL = np.zeros(1)
KEEPS = DEFAULT_PARAMS._replace(keeps_target=np.float64(1.0))


class Left(NamedTuple):
    """What a worth buys from a half hour to midnight, no budget."""

    units: float
    cost: float


def left(known: Landscape, log_worth: float, t: int = 0) -> Left:
    """Conversions and cost of both line items, half hour by half hour, from the model's formulas alone."""
    units = cost = 0.0
    for i in range(len(known.volume)):
        sd, rho = known.price_sd[i], known.clicks_price[i]
        click = np.log(known.conversion_rate[i] / known.cost_scale[i])
        # Beyond both ends of its grid a line item is taken to buy what it buys there.
        z = np.clip((log_worth + click - known.price_mean[i]) / sd, GRID_LOW, GRID_HIGH)
        at = z - known.price_hour[i, t:] / sd
        auctions = known.volume[i] * known.traffic[i, t:]
        level = known.price_mean[i] + known.price_hour[i, t:] + sd * (rho + sd / 2)
        clicks = auctions * known.click_rate[i] * norm.cdf(at - rho)
        paid = auctions * known.click_rate[i] * known.cost_scale[i] * np.exp(level) * norm.cdf(at - rho - sd)
        units += known.conversion_rate[i] * clicks.sum()
        cost += paid.sum()
    return Left(units, cost)


def projected(known: Landscape, log_worth: float, budget: float, target: float) -> float:
    """The score of a day at one worth."""
    units, cost = left(known, log_worth)
    share = min(1.0, budget / cost)
    return units * share * min(1.0, target * units / cost) ** 2


def worths(known: Landscape, points: int) -> np.ndarray:
    """From the lowest foot to the highest top of all line items' grids."""
    offset = known.price_mean - np.log(known.conversion_rate / known.cost_scale)
    low, high = (offset + known.price_sd * GRID_LOW).min(), (offset + known.price_sd * GRID_HIGH).max()
    return np.linspace(low, high, points)


def opening(known: Landscape, day: Terms, params=DEFAULT_PARAMS):
    return solve(start_day(known, day, np), known, day, params, np)


# ---- one worth


def test_two_line_items_are_bid_for_by_what_a_click_brings_at_one_worth():
    day = campaign(2, 6.0)
    solution = opening(PAIR, day)
    # 0.3 conversions a click that costs 0.8 of the price beaten, and 0.15 of one that costs 1.2 of it.
    click = np.log([0.3 / 0.8, 0.15 / 1.2])
    assert solution.log_bid[0] == pytest.approx(solution.log_worth[0] + click, abs=1e-12)
    # Half as many conversions again as expected, of 60, beside a prior of 30: (30 + 90) / (30 + 60) = 4/3.
    state = start_day(PAIR, day, np)
    seen = state._replace(evidence_seen=np.array([[0.0, 90.0]]), evidence_expected=np.array([[0.0, 60.0]]))
    told = solve(seen, PAIR, day, DEFAULT_PARAMS, np)
    assert told.log_bid[0] - told.log_worth[0] == pytest.approx(click + np.log([1.0, 4 / 3]), abs=1e-12)


@pytest.mark.parametrize("budget", [3.0, 9.0, 60.0])
@pytest.mark.parametrize("target", [np.inf, 0.1, 0.06])
def test_the_tables_between_the_grids_points_project_what_the_formulas_do(budget, target):
    solution = opening(PAIR, campaign(2, budget, target))
    own = [projected(PAIR, w, budget, target) for w in worths(PAIR, GRID)]
    # Straight lines over a step of a tenth of the spread of prices.
    assert solution.projected_score[0] == pytest.approx(max(own), rel=3e-3)
    fine = [projected(PAIR, w, budget, target) for w in worths(PAIR, 2000)]
    assert projected(PAIR, float(solution.log_worth[0]), budget, target) >= 0.98 * max(fine)


def test_what_conversions_are_worth_steers_between_line_items_only_where_they_count_by_value():
    dear = landscape(items=2, order_value=np.array([10.0, 20.0]))
    by_count, by_value = (opening(dear, campaign(2, 6.0, by_value=v)).log_bid[0] for v in (0.0, 1.0))
    assert by_count[1] - by_count[0] == pytest.approx(0.0, abs=1e-12)
    assert by_value[1] - by_value[0] == pytest.approx(np.log(2.0), abs=1e-12)


def test_when_order_values_double_a_budget_buys_the_same_and_a_unit_is_worth_half():
    day = campaign(2, 6.0, by_value=1.0)
    once, twice = (opening(PAIR._replace(order_value=np.full(2, v)), day) for v in (10.0, 20.0))
    assert twice.log_bid == pytest.approx(once.log_bid, abs=1e-9)
    assert once.log_worth - twice.log_worth == pytest.approx(np.log(2.0), abs=1e-9)


def test_the_tilt_goes_from_the_dear_line_item_to_the_cheap_one_and_moves_a_single_ones_bid():
    # At one worth the line item that converts three times as often leaves more over from each click.
    known, day = landscape(items=2, conversion_rate=np.array([0.3, 0.1])), campaign(2, 6.0)
    solution, state = opening(known, day), start_day(known, day, np)
    told = (state, known, day, DEFAULT_PARAMS, np)
    leant = bids(solution, STILL, np.array([0.3]), *told) - bids(solution, STILL, STILL, *told)
    assert leant == pytest.approx(0.3 * solution.efficiency)
    worth = float(solution.log_worth[0])
    each = [left(Landscape(*(x[[i]] for x in known)), worth) for i in (0, 1)]
    both = left(known, worth)
    cheaper = [np.log((one.units / one.cost) / (both.units / both.cost)) for one in each]
    # Told at the nearest point of the grid.
    assert solution.efficiency[0] == pytest.approx(np.tanh(2.0 * np.array(cheaper)), abs=0.02)
    assert solution.efficiency[0, 1] < -0.3 < 0.0 < solution.efficiency[0, 0]
    alone = campaign(1, 6.0)
    solution, told = opening(PAIR, alone), (start_day(PAIR, alone, np), PAIR, alone, DEFAULT_PARAMS, np)
    assert bids(solution, STILL, np.array([0.3]), *told) - solution.log_bid == pytest.approx(0.3)


def test_pace_moves_the_worth_which_a_shaded_bid_follows_only_in_part():
    pace = np.array([0.35])
    moved = {}
    for rules in (Rules(), Rules(Format.FIRST_PRICE)):
        known, day = landscape(items=2, rules=rules), campaign(2, 6.0)
        solution, state = opening(known, day), start_day(known, day, np)
        faster = bids(solution, pace, STILL, state, known, day, DEFAULT_PARAMS, np)
        moved[rules.format] = (faster - solution.log_bid)[0]
        click = solution.log_worth[0] + np.log(0.3 / 0.8)
        shaded = click - solution.log_bid[0]
        assert (shaded > 0.1).all() if rules.format is Format.FIRST_PRICE else shaded == pytest.approx(0.0)
    assert moved[Format.SECOND_PRICE] == pytest.approx(0.35)
    assert ((moved[Format.FIRST_PRICE] > 0.05) & (moved[Format.FIRST_PRICE] < 0.33)).all()


# ---- the form that keeps its target


class Morning(NamedTuple):
    """By half past ten a third of the budget is spent at a tenth above the target; at midnight nothing is."""

    t: int
    spent: float
    done: float


def morning(t: int, budget: float, target: float) -> Morning:
    spent = budget / 3 if t else 0.0
    return Morning(t, spent, spent / (1.1 * target))


def after_morning(so_far: Morning, day: Terms) -> DayState:
    come = 1.0 - PAIR.traffic_left[:, so_far.t]
    return start_day(PAIR, day, np)._replace(
        tick=np.array([so_far.t]), spent=np.array([so_far.spent]), conversions=np.array([[so_far.done, 0.0]]),
        eligible=(PAIR.volume * come)[None],
    )  # fmt: skip


WITHIN = [(0, b, c) for b in (3.0, 9.0, 60.0) for c in (0.05, 0.07, 0.1)]
WITHIN += [(21, 3.0, 0.05), (21, 3.0, 0.1), (21, 9.0, 0.07), (21, 9.0, 0.1), (21, 60.0, 0.1)]


@pytest.mark.parametrize(("t", "budget", "target"), WITHIN)
def test_the_careful_form_takes_the_largest_worth_that_keeps_budget_and_target(t, budget, target):
    so_far, day = morning(t, budget, target), campaign(2, budget, target)
    solution = solve(after_morning(so_far, day), PAIR, day, KEEPS, np)

    def keeps(log_worth: float, slack: float) -> bool:
        units, cost = left(PAIR, log_worth, t)
        spent, done = so_far.spent + cost, so_far.done + units
        return bool(spent <= budget * slack and spent <= target * done * slack)

    chosen, step = float(solution.log_worth[0]), np.diff(worths(PAIR, GRID))[0]
    # Two in a thousand for the straight lines between the grid's points.
    assert keeps(chosen, 1.002)
    assert not keeps(chosen + step, 0.998)
    assert solution.projected_cpa[0] <= target * (1 + 1e-9)


@pytest.mark.parametrize(("budget", "target"), [(9.0, 0.05), (60.0, 0.05), (60.0, 0.07)])
def test_a_morning_that_nothing_makes_up_for_is_followed_by_the_least_excess(budget, target):
    so_far, day = morning(21, budget, target), campaign(2, budget, target)
    solution = solve(after_morning(so_far, day), PAIR, day, KEEPS, np)
    rest = [left(PAIR, w, 21) for w in worths(PAIR, GRID)]
    cpa = [(so_far.spent + x.cost) / (so_far.done + x.units) for x in rest]
    assert min(cpa) > target
    assert solution.projected_cpa[0] == pytest.approx(min(cpa), rel=2e-3)


# ---- profit


def valued(order_value: float, cost_scale: float = 1.0) -> Landscape:
    """A click is worth 0.3 x order_value; the usual price is 0.05."""
    return landscape(order_value=order_value, cost_scale=cost_scale)


@pytest.mark.parametrize("cost_scale", [0.8, 1.0])
def test_for_profit_a_click_is_bid_its_value_and_no_more_however_large_the_budget(cost_scale):
    day = campaign(1, 100.0, by_value=1.0, profit=1.0)
    known = valued(0.2, cost_scale)
    bid = opening(known, day).log_bid[0, 0]
    # 0.3 x 0.2 = 0.06 a click, of which cost_scale of the price is charged; found between two points of the grid.
    assert bid == pytest.approx(np.log(0.06 / cost_scale), abs=0.01)
    done = play(lambda state: solve(state, known, day, DEFAULT_PARAMS, np).log_bid, known, day)
    # What is left in the budget would only buy at a loss.
    assert done.spend[0] == pytest.approx(left(known, np.log(0.2)).cost, rel=0.02)
    assert done.spend[0] < 25.0


def test_a_budget_that_binds_lowers_the_bid_below_the_value_and_is_spent():
    day, known = campaign(1, 3.0, by_value=1.0, profit=1.0), valued(0.2)
    assert opening(known, day).log_bid[0, 0] < np.log(0.06) - 0.1
    done = play(lambda state: solve(state, known, day, DEFAULT_PARAMS, np).log_bid, known, day)
    assert done.spend == pytest.approx([3.0], rel=0.01)


def test_for_profit_worthless_clicks_are_bid_what_little_they_are_worth():
    # 0.0003 a click: far below the lowest multiplier of the grid, which would buy at a loss.
    solution = opening(valued(0.001), campaign(1, 100.0, by_value=1.0, profit=1.0))
    assert solution.log_bid[0, 0] == pytest.approx(np.log(0.0003), abs=1e-12)
    assert np.log(0.0003) < np.log(0.05) + 0.6 * GRID_LOW


def test_for_profit_dearer_orders_raise_the_bid_as_much():
    day = campaign(1, 1000.0, by_value=1.0, profit=1.0)
    once, twice = (opening(valued(v), day).log_bid[0, 0] for v in (0.15, 0.3))
    assert twice - once == pytest.approx(np.log(2.0), abs=0.02)


# ---- what it remembers


def test_clicks_mature_fast_and_slowly():
    known = landscape()._replace(delay_share=np.array([[0.7, 0.3]]), delay_rate=np.array([[0.5, 0.1]]))
    day = terms(6.0)
    state: DayState = start_day(known, day, np)
    one = np.ones((1, 1))
    for clicks in (10.0, 0.0):
        report = Report(-3 * one, 100 * one, 50 * one, clicks * one, 0.5 * one, 0 * one)
        state = after_report(state, report, known, day, DEFAULT_PARAMS, np)
    # Of 7 fast and 3 slow ones 3.5 + 0.3, then 1.75 + 0.27.
    assert state.matured_clicks[0] == pytest.approx([5.82])
    assert state.unmatured_clicks[0, 0] == pytest.approx([1.75, 2.43])


def test_the_day_begins_with_the_exposure_of_the_days_before():
    day = campaign(2, 6.0)._replace(carried=np.array([[0.1, 0.4]]))
    state = start_day(PAIR, day, np)
    assert state.exposure_fast[0].tolist() == state.exposure_slow[0].tolist() == [0.1, 0.4]
