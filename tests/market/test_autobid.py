"""What a platform makes of a wish: levers, edit limits, and a learning period that large edits start anew."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaelp.market.autobid import Controls, Field, Lever, after_spend, edit, log_bids, start_controls


def controls(
    lever: Lever = Lever.BID,
    smallest=0.0,
    edits=np.inf,
    learning_edit=np.inf,
    ticks=0.0,
    noise=0.0,
    error=0.0,
) -> Controls:
    """One campaign of one line item; the normals behind the wandering are 1, 2, 3, ... by half hour."""

    def one(x: float) -> jax.Array:
        return jnp.full((1, 1), x, jnp.float32)

    normals = jnp.arange(1.0, 49.0)[None, None]
    return Controls(
        one(lever), one(smallest), one(edits), one(learning_edit), one(ticks), one(noise), one(error), normals
    )


def wish(here: Controls, *wanted: float) -> list[Field]:
    """What is in force after each half hour's wish, from midnight on."""
    field, held = start_controls(here), []
    for t, x in enumerate(wanted):
        field = edit(here, field, jnp.full((1, 1), x, jnp.float32), jnp.int32(t))
        held.append(field)
    return held


def told(fields: list[Field], name: str) -> list[float]:
    return [round(float(getattr(field, name)[0, 0]), 6) for field in fields]


def test_an_edit_that_is_too_small_leaves_the_field_as_it_was():
    held = wish(controls(smallest=0.1), -3.0, -2.95, -2.85, -2.9, -3.0)
    # Steps of 0.05, 0.15, 0.05 and 0.15 from what is in force.
    assert told(held, "wanted") == [-3.0, -3.0, -2.85, -2.85, -3.0]
    assert told(held, "edits") == [0, 0, 1, 1, 2]


def test_one_edit_too_many_for_the_day_is_refused_and_the_first_wish_counts_as_none():
    held = wish(controls(edits=2.0), -3.0, -2.5, -2.0, -1.5, -1.0)
    assert told(held, "wanted") == [-3.0, -2.5, -2.0, -2.0, -2.0]
    assert told(held, "edits") == [0, 1, 2, 2, 2]


def test_a_large_edit_starts_the_learning_period_anew_and_it_ends():
    held = wish(controls(learning_edit=0.3, ticks=3.0), -3.0, -2.5, -2.4, -2.0, -2.0, -2.0, -2.0)
    # The day's first wish teaches nothing; 0.5 restarts, 0.1 does not, 0.4 restarts before the end.
    assert told(held, "learning") == [0, 3, 2, 3, 2, 1, 0]


def test_an_edit_that_is_not_taken_restarts_nothing():
    held = wish(controls(learning_edit=0.3, ticks=3.0, edits=1.0), -3.0, -2.0, -1.0, 0.0, 1.0)
    assert told(held, "learning") == [0, 3, 2, 1, 0]


@pytest.mark.parametrize("learning", [0.0, 3.0])
def test_a_bid_is_taken_as_it_is_wished(learning):
    here = controls(Lever.BID, ticks=3.0, noise=0.5, error=0.2)
    field = Field(*(jnp.full((1, 1), x) for x in (-2.5, 1.0, learning, 0.4)))
    assert float(log_bids(here, field, jnp.int32(5))[0, 0]) == -2.5


@pytest.mark.parametrize("lever", [Lever.TARGET_CPA, Lever.TARGET_ROAS, Lever.BUDGET])
def test_a_target_is_made_a_bid_with_the_platforms_own_error_and_wanders_while_it_learns(lever):
    here = controls(lever, ticks=4.0, noise=0.1, error=0.2)
    field = Field(*(jnp.full((1, 1), x) for x in (-2.5, 1.0, 2.0, 0.4)))
    # -2.5 + 0.2, + 0.1 x (2 of 4 half hours left) x the sixth normal, which is 6; a budget is paced besides.
    expected = -2.5 + 0.2 + 0.1 * 0.5 * 6.0 + (0.4 if lever is Lever.BUDGET else 0.0)
    assert float(log_bids(here, field, jnp.int32(5))[0, 0]) == pytest.approx(expected, abs=1e-6)


def test_the_platform_paces_a_budget_by_the_traffic_that_is_over():
    field = start_controls(controls(Lever.BUDGET))
    half = jnp.full((1, 1), 0.5)
    # 0.3 x (0.5 - 0.2) = 0.09 up for what is unspent, and down as much again when 0.8 is spent.
    field = after_spend(field, jnp.full((1, 1), 0.2), half)
    assert float(field.pacing[0, 0]) == pytest.approx(0.09)
    field = after_spend(field, jnp.full((1, 1), 0.8), half)
    assert float(field.pacing[0, 0]) == pytest.approx(0.0, abs=1e-7)
    for _ in range(20):
        field = after_spend(field, jnp.zeros((1, 1)), half)
    assert float(field.pacing[0, 0]) == 1.0
