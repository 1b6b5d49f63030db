"""The landscape's closed forms against the log-normal auctions they stand for, and against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from tests.bidding.days import landscape

from gaelp.bidding.landscape import GRID, GRID_HIGH, GRID_LOW, grid, landscape_hash, tabulate

MEAN, SD, RHO, RATE, SCALE = np.log(0.05), 0.6, -0.3, 0.04, 0.8
DRAWS = 400_000
ERRORS = 4.5
"""Standard errors allowed to each of 15 averages: 15 x P(|N| > 4.5) is one chance in ten thousand."""


@pytest.fixture(scope="module")
def auctions():
    """(log price, expected clicks) of auctions: log v has correlation with log r, noise of its own and mean rate."""
    rng = np.random.default_rng(1)
    eps, own = rng.normal(size=(2, DRAWS))
    log_price = MEAN + SD * eps
    clicks = RATE * np.exp(RHO * eps - RHO**2 / 2 + 0.5 * own - 0.125)
    assert np.cov(np.log(clicks), log_price)[0, 1] == pytest.approx(RHO * SD, abs=0.003)
    return log_price, clicks


def one_tick(price_hour: float = 0.0):
    """One auction a day, all of it in half hour 0, so that what is left of the day is the auction itself."""
    traffic, hours = np.zeros((1, 48)), np.full((1, 48), price_hour)
    traffic[0, 0] = 1.0
    one = np.ones(1)
    return tabulate(
        price_mean=MEAN * one,
        price_sd=SD * one,
        clicks_price=RHO * one,
        click_rate=RATE * one,
        cost_scale=SCALE * one,
        conversion_rate=0.3 * one,
        volume=one,
        traffic=traffic,
        price_hour=hours,
        price_day_sd=0.3 * one,
        order_value=one,
        slot_gap=0.0 * one,
        delay_share=np.array([[1.0, 0.0]]),
        delay_rate=np.array([[0.1, 0.1]]),
    )


def mean_and_error(x: np.ndarray) -> tuple[float, float]:
    return float(x.mean()), float(x.std() / np.sqrt(len(x)))


@pytest.mark.parametrize("k", [5, 15, 24, 33, 47])
@pytest.mark.parametrize("hour", [0.0, 0.3])
def test_clicks_and_cost_at_a_bid_are_those_of_drawn_auctions(auctions, k, hour):
    log_price, clicks = auctions
    log_bid = MEAN + SD * grid(np)[k]
    won = log_price + hour <= log_bid
    table = one_tick(hour)
    for closed, drawn in (
        (table.clicks_left[0, 0, k], clicks * won),
        (table.cost_left[0, 0, k], clicks * won * SCALE * np.exp(log_price + hour)),
    ):
        mean, error = mean_and_error(drawn)
        assert closed == pytest.approx(mean, abs=ERRORS * error)


def test_the_grid_reaches_from_half_a_percent_to_almost_all_auctions():
    assert len(grid(np)) == GRID
    assert norm.cdf([GRID_LOW, GRID_HIGH]) == pytest.approx([0.00466, 0.98610], abs=1e-5)


def test_what_is_left_of_the_day_adds_up_from_its_end():
    table = landscape(hourly=0.0)
    flow = 12_000 * table.traffic[0]
    k = 24
    # At flat prices each half hour buys traffic x volume x click_rate x Phi(z + 0.3) clicks.
    each = flow * 0.05 * norm.cdf(grid(np)[k] + 0.3)
    assert table.clicks_left[0, :, k] == pytest.approx([each[t:].sum() for t in range(48)])
    assert table.traffic_left[0] == pytest.approx([table.traffic[0, t:].sum() for t in range(49)], abs=1e-15)
    assert (table.traffic_left[0, 0], table.traffic_left[0, 48]) == (pytest.approx(1.0), 0.0)


def test_a_higher_bid_never_buys_less_and_less_of_the_day_never_more():
    table = landscape()
    for left in (table.clicks_left, table.cost_left):
        assert (np.diff(left, axis=2) > 0).all()
        assert (np.diff(left, axis=1) < 0).all()


def test_the_hash_names_every_number_of_the_landscape():
    table = landscape()
    whole = landscape_hash(table)
    assert whole == landscape_hash(landscape())
    assert len(whole) == 16
    for name in table._fields:
        array = getattr(table, name).copy()
        array.flat[-1] += 1e-9
        assert landscape_hash(table._replace(**{name: array})) != whole, name
