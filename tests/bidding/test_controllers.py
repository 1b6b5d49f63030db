"""Controllers: worked moves of the worth, and the same bids from both libraries."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from tests.bidding.days import landscape

from gaelp.bidding.controllers import Gains, Memory, Rule, control, opening, start_memory
from gaelp.bidding.pacer import Terms, start_day, traffic_left

LAND = landscape()
STILL = Gains(Rule.LARGER_ERROR, *(np.float64(0.0),) * 9)


def terms(target: float = np.inf) -> Terms:
    zero = np.zeros(1)
    return Terms(
        np.zeros((1, 1), int),
        np.array([10.0]),
        np.array([target]),
        np.zeros(1, int),
        zero,
        zero,
        np.zeros((1, 1)),
    )


def moved(gains: Gains, spent: float, target: float = np.inf, memory: Memory | None = None) -> float:
    """How far the log bid lies from that of the same day in which nothing was spent and no gain is on."""
    day = terms(target)
    state = start_day(LAND, day, np)
    opened = opening(LAND, day, np)
    still = control(state, start_memory(day, np), opened, LAND, day, STILL, np).log_bid
    held = start_memory(day, np) if memory is None else memory
    told = control(state._replace(spent=np.array([spent])), held, opened, LAND, day, gains, np)
    return float((told.log_bid - still)[0, 0])


def test_a_constant_bids_its_opening_worth_and_shift_whatever_was_spent():
    assert moved(STILL._replace(shift=0.3), spent=4.0) == pytest.approx(0.3)


def test_spending_ahead_of_the_traffic_lowers_the_worth_by_the_gain_times_the_share_of_the_budget():
    # Nothing of the traffic is over, and 2 of 10 are spent: 0.2 of the budget ahead, times 3.
    assert float(traffic_left(LAND, terms(), np.zeros(1, int))[0]) == pytest.approx(1.0)
    assert moved(STILL._replace(pace=3.0), spent=2.0) == pytest.approx(-0.6)


def test_integral_and_change_act_on_what_is_remembered():
    memory = Memory(error=np.array([0.05]), integral=np.array([0.1]))
    assert moved(STILL._replace(integral=2.0), 2.0, memory=memory) == pytest.approx(-2.0 * (0.95 * 0.1 + 0.2))
    assert moved(STILL._replace(change=2.0), 2.0, memory=memory) == pytest.approx(-2.0 * (0.2 - 0.05))


def test_target_times_value_bids_the_target_for_each_expected_conversion():
    day = terms(0.12)
    told = control(
        start_day(LAND, day, np), start_memory(day, np), opening(LAND, day, np), LAND, day,
        STILL._replace(rule=Rule.TARGET), np,
    )  # fmt: skip
    # 0.3 conversions a click, which costs 0.8 of the price that is beaten.
    assert float(told.log_bid[0, 0]) == pytest.approx(np.log(0.12 * 0.3 / 0.8))


def test_duals_go_from_the_budgets_worth_to_the_target_as_the_targets_multiplier_grows():
    day = terms(0.02)
    opened = opening(LAND, day, np)
    state, memory = start_day(LAND, day, np), start_memory(day, np)

    def log_worth(opening_weight: float) -> float:
        gains = STILL._replace(rule=Rule.DUALS, target_opening=np.float64(opening_weight))
        return float(control(state, memory, opened, LAND, day, gains, np).log_bid[0, 0] - np.log(0.3 / 0.8))

    # (1 + l C) / (m + l) with l C = exp(-8) and exp(8).
    assert log_worth(-8.0) == pytest.approx(float(opened.log_worth_budget[0]), abs=0.05)
    assert log_worth(8.0) == pytest.approx(np.log(0.02), abs=0.05)


def test_once_the_budget_is_spent_the_bid_wins_nothing():
    assert moved(STILL, spent=10.0) < -3.0


def test_both_libraries_bid_alike():
    day = terms(0.1)
    gains = Gains(*(np.float64(x) for x in (2, 0.1, 0.2, 3.0, 0.1, 0.5, 1.0, 0.0, 1.0, 1.0)))
    state = start_day(LAND, day, np)._replace(spent=np.array([3.0]))
    told = control(state, start_memory(day, np), opening(LAND, day, np), LAND, day, gains, np)
    as_jax = [type(x)(*(jnp.asarray(y) for y in x)) for x in (state, start_memory(day, np), LAND, day, gains)]
    state32, memory32, land32, day32, gains32 = as_jax
    other = control(state32, memory32, opening(land32, day32, jnp), land32, day32, gains32, jnp)
    np.testing.assert_allclose(np.asarray(other.log_bid), told.log_bid, rtol=1e-4, atol=1e-4)
