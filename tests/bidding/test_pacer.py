"""The certified pacer: what it projects, what it chooses, and what it learns of the day from its reports."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from tests.bidding.days import TRAFFIC, Truth, landscape, play, terms

from gaelp.bidding.landscape import GRID_HIGH, GRID_LOW, grid
from gaelp.bidding.pacer import (
    BROKE,
    DEFAULT_PARAMS,
    DayState,
    Report,
    after_report,
    calibration,
    dual_log_bid,
    pacer_hash,
    score,
    solve,
    start_day,
    volume_ratio,
)

L = landscape()
FLAT = landscape(hourly=0.0)
SLACK = 10.0
"""A target cost per conversion that no bid reaches."""


def pacer(known, day, params=DEFAULT_PARAMS):
    return lambda state: solve(state, known, day, params, np).log_bid


# ---- the objective


@pytest.mark.parametrize(
    ("conversions", "spend", "target", "expected"),
    [
        (10.0, 20.0, 4.0, 10.0),  # CPA 2 under a target of 4: all ten count
        (10.0, 40.0, 4.0, 10.0),  # CPA 4: just
        (10.0, 80.0, 4.0, 2.5),  # CPA 8: 10 x (4 / 8)^2
        (10.0, 80.0, np.inf, 10.0),  # no target
        (0.0, 5.0, 4.0, 0.0),
        (0.0, 0.0, 4.0, 0.0),
        (0.0, 5.0, np.inf, 0.0),
        (0.0, 0.0, np.inf, 0.0),
    ],
)
def test_conversions_count_in_full_up_to_the_target_and_by_the_square_beyond(
    conversions, spend, target, expected
):
    got = score(np.array([conversions]), np.array([spend]), np.array([target]), np)
    assert got == pytest.approx([expected])


# ---- the choice


def independent_projection(
    z: float, known, *, t: int, spent: float, budget: float, target: float, done: float
) -> float:
    """Projected score of winning at multiplier z until midnight, half hour by half hour, with math.erf alone."""

    def phi(x: float) -> float:
        return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))

    rho, sd = -0.3, 0.6
    clicks = cost = 0.0
    for hour in range(t, 48):
        at = z - float(known.price_hour[0, hour]) / sd
        auctions = 12_000 * float(TRAFFIC[hour])
        clicks += auctions * 0.05 * phi(at - rho)
        level = math.log(0.05) + float(known.price_hour[0, hour])
        cost += auctions * 0.05 * 0.8 * math.exp(level + sd * rho + sd * sd / 2) * phi(at - rho - sd)
    share = min(1.0, max(budget - spent, 0.0) / cost)
    conversions = done + 0.3 * clicks * share
    spend = spent + cost * share
    return conversions * min(1.0, target * conversions / spend) ** 2


@pytest.mark.parametrize("t", [0, 17, 40])
@pytest.mark.parametrize("budget", [3.0, 8.0, 60.0])
@pytest.mark.parametrize("target", [SLACK, 0.08, 0.05])
def test_the_chosen_multiplier_is_the_best_of_a_fine_grid_written_independently(t, budget, target):
    day = terms(budget, target)
    # As much spent and converted as the plan says, at a cost per conversion of 0.09, and as many auctions as usual.
    come = float(1 - L.traffic_left[0, t])
    spent = 0.9 * come * min(budget, 10.0)
    state = start_day(L, day, np)._replace(
        tick=np.array([t]),
        spent=np.array([spent]),
        eligible=np.array([[12_000 * come]]),
        conversions=np.array([[spent / 0.09]]),
    )
    solution = solve(state, L, day, DEFAULT_PARAMS, np)
    told = {"t": t, "spent": spent, "budget": budget, "target": target, "done": spent / 0.09}
    own = [independent_projection(float(z), L, **told) for z in grid(np)]
    assert solution.projected_score[0] == pytest.approx(max(own), rel=1e-9)
    zs = np.linspace(GRID_LOW, GRID_HIGH, 941)
    fine = [independent_projection(float(z), L, **told) for z in zs]
    chosen = float(solution.log_bid[0, 0] - math.log(0.05)) / 0.6
    # The best of the 48 multipliers lies at most one step from the best of all; where budget or target make a kink
    # of the top, the parabola between them gives away up to one part in fifty of that projection.
    assert abs(chosen - zs[int(np.argmax(fine))]) <= (GRID_HIGH - GRID_LOW) / 47
    assert independent_projection(chosen, L, **told) >= 0.98 * max(fine)


def test_the_bids_beside_the_choice_just_spend_the_budget_and_just_keep_the_target():
    day = terms(6.0, 0.08)
    solution = solve(start_day(L, day, np), L, day, DEFAULT_PARAMS, np)
    width = 0.6 * (GRID_HIGH - GRID_LOW) / 47  # one grid step, in log bid

    def at(log_bid: float) -> tuple[float, float]:
        """(cost, cost per conversion) of a whole day at a bid, no budget."""
        done = play(lambda state: np.array([[log_bid]]), L, day)
        return float(done.spend[0]), float(done.spend[0] / (0.3 * done.clicks.sum()))

    # A click brings 0.3 conversions as calibrated, and costs 0.8 of the price that was beaten.
    budget_bid = float(solution.log_worth_budget[0]) + math.log(0.3 / 0.8)
    assert at(budget_bid)[0] <= 6.0 < at(budget_bid + width)[0]
    # The same bid all day spends 6.00; a bit more and the target breaks only once the budget does not bind first.
    big = terms(1000.0, 0.08)
    kept = solve(start_day(L, big, np), L, big, DEFAULT_PARAMS, np).log_worth_target
    target_bid = float(kept[0]) + math.log(0.3 / 0.8)
    assert at(target_bid)[1] <= 0.08 < at(target_bid + width)[1]


def test_shift_and_tilt_bend_the_bid_by_what_they_say():
    day = terms(6.0)
    state = start_day(L, day, np)._replace(tick=np.array([47]))
    plain = solve(state, L, day, DEFAULT_PARAMS, np).log_bid
    bent = solve(
        state, L, day, DEFAULT_PARAMS._replace(shift=np.float64(0.2), tilt=np.float64(0.48)), np
    ).log_bid
    # In the last half hour the day's slope stands at 47.5 / 48 - 0.5 = 0.489583: 0.2 + 0.48 x 0.489583 = 0.435.
    assert (bent - plain)[0] == pytest.approx([0.435])


# ---- the day


@pytest.mark.parametrize("budget", [3.0, 6.0, 12.0])
def test_with_a_slack_target_an_ordinary_day_ends_with_the_budget_spent(budget):
    day = terms(budget, SLACK)
    assert play(pacer(L, day), L, day).spend == pytest.approx([budget], rel=0.005)
    # With luck in volume, clicks and arrivals: still within 3 %, in each of five days.
    for seed in range(5):
        got = play(pacer(L, day), L, day, rng=np.random.default_rng(seed))
        assert got.spend == pytest.approx([budget], rel=0.03)


def test_at_flat_prices_spend_follows_the_traffic():
    day = terms(6.0, SLACK)
    share = play(pacer(FLAT, day), FLAT, day).cost[:, 0].cumsum() / 6.0
    assert np.abs(share - TRAFFIC.cumsum()).max() < 0.025


def test_with_a_tight_target_the_cost_per_conversion_ends_near_it_and_money_is_left():
    day = terms(12.0, 0.07)
    done = play(pacer(L, day), L, day)
    assert done.spend / (0.3 * done.clicks.sum(axis=0)) == pytest.approx([0.07], rel=0.02)
    assert done.spend[0] < 0.7 * 12.0


def test_a_day_with_half_the_auctions_is_paced_to_its_budget_all_the_same():
    day = terms(6.0, SLACK)
    thin = play(pacer(L, day), L, day, truth=Truth(volume_ratio=0.5))
    assert thin.spend == pytest.approx([6.0], rel=0.02)
    seen = volume_ratio(thin.state, L, day, DEFAULT_PARAMS)
    # Half of an ordinary day seen, 0.15 days of prior: (0.5 + 0.15) / (1 + 0.15) = 0.5652.
    assert seen[0] == pytest.approx([0.5652], abs=1e-4)


def test_a_raised_price_lowers_the_wins():
    day = terms(6.0, SLACK)
    wins = [
        play(pacer(L, day), L, day, truth=Truth(price_shock=s)).impressions.sum() for s in (0.0, 0.2, 0.4)
    ]
    assert wins[0] > wins[1] > wins[2]


@pytest.mark.parametrize("left", [0.0, -0.01])
def test_a_spent_budget_bids_what_wins_nothing(left):
    day = terms(6.0, SLACK)
    state = start_day(L, day, np)._replace(
        tick=np.array([20]), spent=np.array([6.0 - left]), eligible=np.array([[4000.0]])
    )
    for bid, lowest in (
        (solve(state, L, day, DEFAULT_PARAMS, np).log_bid, GRID_LOW),
        (dual_log_bid(state, L, day, np), 0.0),
    ):
        z = (bid - math.log(0.05) - L.price_hour[0].min()) / 0.6
        # Fewer than one auction in a million of the 12,000 of a day, in its cheapest half hour.
        assert 12_000 * norm.cdf(z[0, 0]) < 1e-6
        # The pacer's multipliers are counted from the foot of its grid, dual control's from the usual price.
        assert bid[0] == pytest.approx([math.log(0.05) + 0.6 * (lowest + BROKE)])


@pytest.mark.parametrize("budget", [3.0, 6.0, 12.0])
@pytest.mark.parametrize("target", [0.15, np.inf])
def test_dual_control_spends_its_budget_and_no_more_than_a_half_hour_beyond(budget, target):
    day = terms(budget, target)
    done = play(lambda state: dual_log_bid(state, L, day, np), L, day)
    # Nothing else stops it here: only the half hour in which the budget runs out may overrun.
    assert 0.9 * budget < done.spend[0] <= budget + done.cost.max()
    assert done.spend[0] < 1.05 * budget
    for seed in range(5):
        lucky = play(lambda state: dual_log_bid(state, L, day, np), L, day, rng=np.random.default_rng(seed))
        assert 0.85 * budget < lucky.spend[0] < 1.1 * budget


def test_dual_control_holds_back_where_the_cost_per_conversion_is_above_target():
    loose, tight = terms(12.0, SLACK), terms(12.0, 0.06)
    spends = [play(lambda s, d=d: dual_log_bid(s, L, d, np), L, d).spend[0] for d in (loose, tight)]
    assert spends[1] < 0.6 * spends[0]


# ---- what it learns of the day


@pytest.mark.parametrize("shock", [-0.4, 0.0, 0.4])
def test_the_price_filter_finds_a_planted_price_shock(shock):
    day = terms(6.0, SLACK)
    at_noon = play(pacer(L, day), L, day, truth=Truth(price_shock=shock)).state
    assert at_noon.price_dev[0] == pytest.approx([shock], abs=0.03)
    for seed in range(5):
        got = play(
            pacer(L, day), L, day, truth=Truth(price_shock=shock), rng=np.random.default_rng(seed)
        ).state
        # The filter's own standard deviation is stated with it: four of them.
        assert abs(got.price_dev[0, 0] - shock) < 4 * math.sqrt(got.price_var[0, 0])


def test_half_an_hour_without_auctions_tells_nothing_of_the_price():
    day = terms(6.0, SLACK)
    state = start_day(L, day, np)._replace(price_dev=np.array([[0.25]]), price_var=np.array([[0.01]]))
    zero = np.zeros((1, 1))
    report = Report(
        log_bid=np.array([[-3.0]]),
        eligible=zero,
        impressions=zero,
        clicks=zero,
        cost=zero,
        conversions_so_far=zero,
    )
    after = after_report(state, report, L, day, DEFAULT_PARAMS, np)
    assert after.price_dev[0] == pytest.approx([0.25])
    assert after.price_var[0] == pytest.approx([0.01 + 0.05**2])  # it only grew older by one step of the walk


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.5])
def test_calibration_finds_a_planted_conversion_rate_ratio(ratio):
    day = terms(12.0, SLACK)
    params = DEFAULT_PARAMS._replace(calibration_memory=np.float64(1.0))
    end = play(pacer(L, day, params), L, day, truth=Truth(rate_ratio=ratio), params=params).state
    expected = end.evidence_expected[0, 0]
    assert expected > 80  # conversions of an ordinary rate by the end of the day
    # A prior of 30 conversions at ratio 1, then `expected` conversions' worth of evidence at the true ratio.
    assert calibration(end, params)[0] == pytest.approx([(30 + ratio * expected) / (30 + expected)])
    # With next to no prior the evidence alone speaks.
    assert calibration(end, params._replace(calibration_prior=np.float64(1e-6)))[0] == pytest.approx(
        [ratio], rel=1e-6
    )


def test_clicks_mature_as_their_conversions_arrive():
    day = terms(6.0, SLACK)
    state = start_day(L, day, np)
    for clicks in (10.0, 0.0):
        one = np.ones((1, 1))
        report = Report(
            log_bid=-3 * one,
            eligible=100 * one,
            impressions=50 * one,
            clicks=clicks * one,
            cost=0.5 * one,
            conversions_so_far=0 * one,
        )
        state = after_report(state, report, L, day, DEFAULT_PARAMS, np)
    # Of 10 clicks 1 matures in the first half hour and 0.9 of the 9 left in the second.
    assert state.matured_clicks[0] == pytest.approx([1.9])
    assert state.unmatured_clicks[0, 0] == pytest.approx([8.1, 0.0])
    assert (state.clicks[0, 0], state.spent[0], state.tick[0]) == (10.0, 1.0, 2)


def test_exposure_decays_at_its_two_speeds():
    day = terms(6.0, SLACK)
    state = start_day(L, day, np)
    for impressions in (120.0, 0.0):
        one = np.ones((1, 1))
        report = Report(
            log_bid=-3 * one,
            eligible=500 * one,
            impressions=impressions * one,
            clicks=0 * one,
            cost=0 * one,
            conversions_so_far=0 * one,
        )
        state = after_report(state, report, L, day, DEFAULT_PARAMS, np)
    # 120 of 12,000 auctions are 0.01; half an hour later 0.9 and 0.97 of it.
    assert state.exposure_fast[0] == pytest.approx([0.009])
    assert state.exposure_slow[0] == pytest.approx([0.0097])


def test_every_number_of_an_opening_day_is_finite_and_nothing_is_spent():
    state = start_day(L, terms(6.0), np)
    assert all(np.isfinite(np.asarray(value, float)).all() for value in state)
    assert (state.spent[0], state.tick[0]) == (0.0, 0)
    assert isinstance(state, DayState)


# ---- its identity


def test_the_hash_changes_with_every_parameter_and_with_the_landscape():
    whole = pacer_hash(L, DEFAULT_PARAMS)
    assert whole == pacer_hash(landscape(), DEFAULT_PARAMS)
    changed = {
        pacer_hash(L, DEFAULT_PARAMS._replace(**{name: value + 1e-9}))
        for name, value in DEFAULT_PARAMS._asdict().items()
    }
    assert len(changed | {whole}) == len(DEFAULT_PARAMS) + 1
    assert pacer_hash(FLAT, DEFAULT_PARAMS) != whole
