"""Rivals answer prices with purses and pacers of their own, and never our bid of the same half hour."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaelp.market.rivals import BOLDEST, BROKE, SOFTEST, Field, Rivals, after, level, start_field

SD = jnp.full((1, 1), 0.64)
"""At a spread of 0.64 the sharpness 1.28 / 0.64 is 2: the level is log(sum exp(2 bid)) / 2 less that of the strengths."""


def rivals(
    strength=(0.0, 0.0, 0.0, 0.0), purse=np.inf, gain=0.0, paces=(1.0, 0.0, 1.0, 0.0), enters=-1.0, leaves=1e9
):
    """One campaign of one line item with four rivals."""

    def each(x) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(x, jnp.float32), (1, 1, 4))

    return Rivals(
        each(strength), each(purse), each(paces), jnp.full((1, 1), gain), each(enters), each(leaves)
    )


def paid(share: float) -> jax.Array:
    return jnp.full((1, 1), share, jnp.float32)


def test_rivals_without_gain_and_with_endless_purses_leave_prices_exactly_as_given():
    here = rivals(strength=(0.3, -0.2, 0.1, 0.0))
    field = start_field(here)
    for t in range(0, 48, 8):
        assert float(level(here, field, SD, jnp.int32(t))[0, 0]) == 0.0
        field = after(here, field, SD, paid(0.5), paid((t + 1) / 48), jnp.int32(t))


def test_the_level_falls_when_a_rival_leaves_and_rises_when_one_enters():
    leaving = rivals(leaves=(24.0, 1e9, 1e9, 1e9))
    entering = rivals(enters=(24.0, -1.0, -1.0, -1.0))
    levels = {
        name: [float(level(x, start_field(x), SD, jnp.int32(t))[0, 0]) for t in (23, 24)]
        for name, x in (("leaving", leaving), ("entering", entering))
    }
    # Three of four alike: log(3/4) / 2 = -0.14384.
    assert levels["leaving"] == pytest.approx([0.0, np.log(3 / 4) / 2], abs=1e-5)
    assert levels["entering"] == pytest.approx([np.log(3 / 4) / 2, 0.0], abs=1e-5)


def test_the_strongest_rivals_leaving_costs_the_most():
    def loss(leaves: tuple[float, ...]) -> float:
        here = rivals(strength=(1.0, 0.0, 0.0, 0.0), leaves=leaves)
        return float(level(here, start_field(here), SD, jnp.int32(30))[0, 0])

    # exp(2) beside three times 1: log(3 / 10.389) / 2 and log(9.389 / 10.389) / 2.
    assert loss((24.0, 1e9, 1e9, 1e9)) == pytest.approx(np.log(3 / (3 + np.exp(2))) / 2, abs=1e-5)
    assert loss((1e9, 24.0, 1e9, 1e9)) == pytest.approx(np.log(1 - 1 / (3 + np.exp(2))) / 2, abs=1e-5)


def test_who_paces_raises_its_bid_when_our_wins_leave_it_short_of_its_plan():
    here = rivals(purse=2.0, gain=0.3)
    much, little = (after(here, start_field(here), SD, paid(x), paid(0.5), jnp.int32(0)) for x in (0.4, 0.2))
    # Alike, each pays its usual share: 0.4 and 0.2 of a day are 0.2 and 0.1 purses, beside half of the day.
    assert much.spent[0, 0].tolist() == pytest.approx([0.2] * 4)
    assert little.spent[0, 0].tolist() == pytest.approx([0.1] * 4)
    # 0.3 x (0.5 - 0.2) and 0.3 x (0.5 - 0.1); the two that do not pace stay.
    assert much.move[0, 0].tolist() == pytest.approx([0.09, 0.0, 0.09, 0.0])
    assert little.move[0, 0].tolist() == pytest.approx([0.12, 0.0, 0.12, 0.0])
    both = [float(level(here, x, SD, jnp.int32(1))[0, 0]) for x in (much, little)]
    assert 0.0 < both[0] < both[1]


def test_who_paces_lowers_its_bid_when_it_is_ahead_and_moves_only_so_far():
    here = rivals(purse=0.5, gain=100.0)
    ahead = after(here, start_field(here), SD, paid(0.4), paid(0.1), jnp.int32(0))
    behind = after(here, start_field(here), SD, paid(0.0), paid(0.9), jnp.int32(0))
    assert ahead.move[0, 0].tolist() == [SOFTEST, 0.0, SOFTEST, 0.0]
    assert behind.move[0, 0].tolist() == [BOLDEST, 0.0, BOLDEST, 0.0]


def test_a_rival_that_bids_higher_than_usual_pays_for_more():
    here = rivals(purse=1.0)
    field = Field(jnp.zeros((1, 1, 4)), jnp.asarray([[[0.5, 0.0, 0.0, 0.0]]]))
    spent = after(here, field, SD, paid(0.1), paid(0.1), jnp.int32(0)).spent[0, 0]
    # exp(2 x 0.5) = e beside three times 1: e / (e + 3) of the auctions where a quarter is usual.
    share = np.array([np.e, 1, 1, 1]) / (np.e + 3)
    assert spent.tolist() == pytest.approx((0.1 * share / 0.25).tolist(), rel=1e-5)


def test_a_broke_rival_bids_no_more():
    here = rivals(purse=(0.25, np.inf, np.inf, np.inf))
    field = start_field(here)
    levels = []
    for t in range(4):
        levels.append(float(level(here, field, SD, jnp.int32(t))[0, 0]))
        # A tenth of an ordinary day in each half hour: 0.4, 0.8 and 1.2 of its purse.
        field = after(here, field, SD, paid(0.1), paid(0.1 * (t + 1)), jnp.int32(t))
    assert levels == pytest.approx([0.0, 0.0, 0.0, np.log(3 / 4) / 2], abs=1e-5)
    assert np.exp(2 * BROKE) < 1e-5, "what it still weighs in the smooth maximum"
