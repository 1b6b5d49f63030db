"""Users: a rare segment with half of the value, and what exposure does to them, today's and that of the days before."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from tests.market.worlds import BANK, CERTAIN, RICH, day_at, draw, grown, posterior

from gaelp.market.world import Bought, Kind, World, buy

RARE = {"rare_share": 0.1, "rare_worth": 5.0}
"""A tenth of the users, whose clicks are worth five times the average: half of the value."""
FEW, MANY = Kind(rare=4), Kind(rare=32)
buys = jax.jit(buy, static_argnames="kind")


def worlds(count: int = 64, **changes: float) -> World:
    return draw(posterior(**{**CERTAIN, **RICH, **changes}), np.arange(count))


def bought(world: World, kind: Kind, log_bid: float) -> Bought:
    """What a bid buys at noon at a price level of 0, before volume and budget."""
    zero = jnp.zeros_like(world.price_mean)
    return buys(world, kind, BANK, zero, zero + log_bid, jnp.int32(24))


# ---- the rare segment


@pytest.mark.parametrize("kind", [FEW, MANY])
@pytest.mark.parametrize(
    ("rare_price", "log_bid", "users", "worth"),
    [(0.0, 10.0, 1.0, 1.0), (20.0, 10.0, 0.9, 0.5), (-20.0, -10.0, 0.1, 0.5)],
)
def test_a_tenth_of_the_users_holds_half_of_the_value(kind, rare_price, log_bid, users, worth):
    """All are won, or the common ones alone, or the rare ones alone, for the other ones' prices are out of reach."""
    got = bought(worlds(clicks_price=0.0, rare_price=rare_price, **RARE), kind, log_bid)
    assert np.asarray(got.impressions) == pytest.approx(np.full((64, 1), users), rel=1e-5)
    assert np.asarray(got.clicks) == pytest.approx(np.full((64, 1), users), rel=1e-5)
    assert np.asarray(got.worth) == pytest.approx(np.full((64, 1), worth), rel=1e-5)


def test_clicks_without_the_rare_users_convert_at_what_is_left_of_the_rate():
    world = worlds(clicks_price=0.0, rare_price=20.0, fatigue=0.0, **RARE)
    hours, last = day_at(world, 10.0, FEW)
    clicks = np.asarray(hours.report.clicks, np.float64).sum(0)
    # Nine tenths of the users with half of the value: 0.3 x 0.5 / 0.9 a click.
    assert np.asarray(last.conversions) == pytest.approx(clicks * 0.3 * 0.5 / 0.9, rel=1e-4)


def test_sampling_more_of_the_rare_users_changes_no_average():
    """Paired over 4,096 worlds, within 4.5 standard errors of the difference: one false alarm in 37,000 for the four."""
    world = worlds(4096, rare_price=0.4, **RARE)
    few, many = (bought(world, kind, 0.2) for kind in (FEW, MANY))
    for name in ("impressions", "clicks", "cost", "worth"):
        a, b = (np.asarray(getattr(x, name), np.float64)[:, 0] for x in (few, many))
        assert (a != b).any()
        assert abs((a - b).mean()) < 4.5 * (a - b).std() / 64, name
    # And both are the closed form's: prices of a deviation of 0.6 around 0 and 0.4, clicks that fall by 0.3 of it.
    common, rare = (norm.cdf(x / 0.6 + 0.3) for x in (0.2, -0.2))
    for drawn, closed in (
        (few.clicks, 0.9 * common + 0.1 * rare), (few.worth, 0.5 * common + 0.5 * rare),
        (many.clicks, 0.9 * common + 0.1 * rare), (many.worth, 0.5 * common + 0.5 * rare),
    ):  # fmt: skip
        told = np.asarray(drawn, np.float64)
        # Beside 4.5 standard errors one part in a hundred for the bank, which is a sample of its own.
        assert told.mean() == pytest.approx(closed, abs=4.5 * told.std() / 64 + 0.01 * closed)
    # What it is for: where few are sampled, the value that is theirs hangs on luck.
    assert float(many.worth.std()) < 0.8 * float(few.worth.std())


# ---- what exposure does


def test_exposure_makes_aware_by_what_the_strength_says():
    world = worlds(fatigue=0.0, awareness=0.5, awareness_memory=0.98)
    hours, last = day_at(world, -2.5)
    aware, clicks = np.asarray(hours.truth.aware, np.float64), np.asarray(hours.report.clicks)
    shown = np.asarray(hours.report.impressions, np.float64) / (0.15 * 12_000)
    assert (aware[0] == 0).all()
    assert aware[2] == pytest.approx(0.98 * shown[0] + shown[1], rel=1e-4)
    conversions = grown(hours.truth.conversions, last.conversions)
    assert conversions == pytest.approx(0.3 * clicks * (1 + 0.5 * np.tanh(aware)), rel=1e-3, abs=2e-4)
    assert np.tanh(aware[-1]).mean() > 0.3


def test_exposure_of_the_days_before_tires_and_makes_aware_from_the_first_half_hour_on():
    world = worlds(fatigue=0.2, awareness=0.5, awareness_memory=0.98, carried=0.08)
    assert np.asarray(world.terms.carried) == pytest.approx(np.full((64, 1), 0.08)), "the pacer is told, too"
    hours, _ = day_at(world, 0.0)
    # 0.08 of an ordinary day's auctions: 2 units of 0.04, and 0.5333 of 0.15.
    assert np.asarray(hours.truth.tired[0]) == pytest.approx(np.full((64, 1), 2.0))
    assert np.asarray(hours.truth.aware[0]) == pytest.approx(np.full((64, 1), 8 / 15))
    rate = 0.3 * np.exp(-0.2 * 2.0) * (1 + 0.5 * np.tanh(8 / 15))
    clicks = np.asarray(hours.report.clicks[0])
    assert clicks.sum() > 100
    assert np.asarray(hours.truth.conversions[1]) == pytest.approx(clicks * rate, rel=1e-4)
