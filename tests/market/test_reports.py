"""What a platform shows: late, corrected, and conversions after delays of two kinds; money binds on what is charged."""

from __future__ import annotations

import numpy as np
import pytest
from tests.market.worlds import CERTAIN, RICH, day_at, draw, grown, posterior

from gaelp.market.world import World

AT_ONCE = np.zeros((1, 7, 48))
AT_ONCE[..., 0] = 1.0
"""All of the day's auctions in its first half hour."""


def worlds(**changes: float | np.ndarray) -> World:
    return draw(posterior(**{**CERTAIN, "fatigue": 0.0, **changes}), np.arange(64))


@pytest.mark.parametrize("shown", [0.9, 1.2])
def test_what_is_shown_late_or_taken_back_adds_up_to_what_was_charged(shown):
    hours, last = day_at(worlds(shown_share=shown, shown_rate=0.3, **RICH), -2.5)
    charged = np.asarray(last.spent, np.float64)
    for k, name in enumerate(("impressions", "clicks", "cost")):
        told = np.asarray(getattr(hours.report, name), np.float64)
        to_come = np.asarray(last.unshown[..., k], np.float64)
        assert ((to_come > 0) if shown < 1 else (to_come < 0)).any()
        if name == "cost":
            assert told.sum(0)[:, 0] + to_come[:, 0] == pytest.approx(charged, rel=1e-5)
    # At noon, too, and in all three alike.
    half = np.asarray(hours.report.cost[:24], np.float64).sum(0) + np.asarray(hours.truth.unshown[24, ..., 2])
    assert half[:, 0] == pytest.approx(np.asarray(hours.truth.spent[24]), rel=1e-5)


def test_a_single_half_hours_cost_is_shown_in_shrinking_parts():
    hours, last = day_at(worlds(traffic=AT_ONCE, shown_share=0.9, shown_rate=0.3, **RICH), -2.5)
    charged = np.asarray(last.spent, np.float64)[:, None]
    cost = np.asarray(hours.report.cost, np.float64)
    # 0.9 at once, then 0.3 of the 0.1 that is missing, then 0.3 of 0.07, ...
    for t, part in ((0, 0.9), (1, 0.03), (2, 0.021), (5, 0.03 * 0.7**4)):
        assert cost[t] == pytest.approx(part * charged, rel=1e-4), t
    assert cost.sum(0) == pytest.approx(charged, rel=1e-5), "all of it by midnight"
    clicks = np.asarray(hours.report.clicks, np.float64)
    assert clicks[1] == pytest.approx(clicks[0] / 30, rel=1e-4)


def test_the_budget_binds_on_what_is_charged_though_the_reports_show_nine_tenths_of_it():
    world = worlds(budget_low=5.0, budget_high=5.0, shown_share=0.9, shown_rate=0.0)
    hours, last = day_at(world, 0.0)
    assert np.asarray(last.spent) == pytest.approx(np.full(64, 5.0), rel=1e-5)
    shown = np.asarray(hours.report.cost, np.float64).sum(0)[:, 0]
    assert shown == pytest.approx(np.full(64, 4.5), rel=1e-5)


def test_conversions_wait_as_two_geometric_delays_say():
    delays = {"delay_share": np.array([[0.7, 0.3]]), "delay_rate": np.array([[0.5, 0.05]])}
    hours, last = day_at(worlds(traffic=AT_ONCE, **delays, **RICH), 0.0)
    made = np.asarray(last.conversions, np.float64)
    pending = np.asarray(hours.truth.pending, np.float64)
    # Of each kind what has not come in k half hours: (1 - rate)^k.
    for k in (1, 2, 10, 40):
        waiting = made[..., None] * np.array([0.7 * 0.5**k, 0.3 * 0.95**k])
        assert pending[k] == pytest.approx(waiting, rel=1e-4, abs=1e-6), k
    # The arrivals are as many as are due, within 4 standard deviations of a Poisson number, at every one of five hours.
    arrived = np.asarray(hours.report.conversions_so_far, np.float64).sum((1, 2))
    for k in (1, 2, 5, 20, 48):
        due = made.sum() * (0.7 * (1 - 0.5**k) + 0.3 * (1 - 0.95**k))
        assert abs(arrived[k - 1] - due) < 4 * np.sqrt(due), k
    assert (grown(hours.truth.conversions, last.conversions)[1:] == 0).all()
