"""Later days beside what a fit says of them: usual ones are foreseen, others are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom
from tests.market.histories import Planted, history

from gaelp.core.errors import BadInput
from gaelp.core.verdict import FAIL, PASS
from gaelp.market.calibrate import calibrate
from gaelp.market.history_fidelity import HistoryFidelity, history_fidelity
from gaelp.safety.gates import history_fidelity_gate

TOLD = Planted(items=4, days=35, volume_tick_sd=0.1)


def compared(seed: int, **changes: float) -> HistoryFidelity:
    """Fitted on 28 days, compared with a week after them in which some columns are multiplied."""
    hours = history(TOLD, seed)
    fitted, later = hours.days(slice(0, 28)), hours.days(slice(28, 35))
    later = replace(later, **{name: getattr(later, name) * factor for name, factor in changes.items()})
    return history_fidelity(calibrate(fitted, 3.0, 12.0), fitted, later, np.random.default_rng(seed))


def test_every_figure_has_a_line_and_days_of_the_same_market_pass():
    found = compared(0)
    assert [line.name for line in found.lines] == [
        "eligible_a_day", "win_rate", "win_rate_night", "win_rate_morning", "win_rate_afternoon", "win_rate_evening",
        "clicks_per_impression", "cost_per_click", "conversions_per_click", "spend_a_day",
    ]  # fmt: skip
    assert (found.fitted_days, found.held_out_days) == (28, 7)
    assert history_fidelity_gate(found).ruling is PASS


def test_most_lines_of_days_of_the_same_market_lie_inside():
    # Of 5 x 10 lines at 90 % 45 are expected inside; lines of one history go together, as if there were about 24.
    # 17 of 24 or fewer come once in 250.
    assert binom.cdf(17, 24, 0.9) < 1 / 100
    inside = [line.within for seed in range(5) for line in compared(seed).lines]
    assert np.mean(inside) > 17 / 24


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"cost": 1.6}, "cost_per_click"),
        ({"conversions": 0.5}, "conversions_per_click"),
        ({"clicks": 1.7}, "clicks_per_impression"),
    ],
)
def test_a_market_that_has_changed_is_refused_and_its_line_stands_out(change, line):
    found = compared(1, **change)
    assert history_fidelity_gate(found).ruling is FAIL
    assert not {row.name: row for row in found.lines}[line].within


def test_a_change_too_small_to_matter_is_no_surprise():
    assert compared(1, cost=1.05).surprise > 0.1


def test_other_line_items_than_those_of_the_fit_are_refused():
    hours = history(replace(TOLD, days=28), 0)
    fit = calibrate(hours, 3.0, 12.0)
    with pytest.raises(BadInput, match="held-out days: 2 line items, the fit has 4"):
        history_fidelity(fit, hours, history(Planted(items=2, days=7), 0), np.random.default_rng(0))
