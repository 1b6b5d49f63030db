"""The landscape's closed forms against the auctions they stand for in all three formats, and against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from tests.bidding.days import landscape

from gaelp.bidding.landscape import (
    GRID,
    GRID_HIGH,
    GRID_LOW,
    grid,
    landscape_hash,
    response,
    tabulate,
)
from gaelp.bidding.rules import SECOND_PRICE, Format, Rules
from gaelp.core.errors import BadInput

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


FIRST_PRICE = Rules(Format.FIRST_PRICE)
SLOTS = Rules(Format.GSP, (1.0, 0.8, 0.6))
GAP = 0.3


def one_tick(price_hour: float = 0.0, rules: Rules = SECOND_PRICE, slot_gap: float = 0.0):
    """One auction a day, all of it in half hour 0, so that what is left of the day is the auction itself."""
    traffic, hours = np.zeros((1, 48)), np.full((1, 48), price_hour)
    traffic[0, 0] = 1.0
    one = np.ones(1)
    return tabulate(
        rules=rules,
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
        slot_gap=slot_gap * one,
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


# ---- bids that are shaded


@pytest.mark.parametrize("hour", [-0.4, 0.0, 0.4])
def test_in_first_price_the_winner_pays_its_bid(hour):
    table = one_tick(hour, FIRST_PRICE)
    bid = MEAN + SD * (grid(np) + table.shade[0, 0])
    assert table.cost_left[0, 0] == pytest.approx(SCALE * np.exp(bid) * table.clicks_left[0, 0])


@pytest.mark.parametrize("hour", [-0.4, 0.0, 0.4])
def test_in_first_price_the_shade_leaves_the_most_over_of_any_bid(hour):
    table = one_tick(hour, FIRST_PRICE)
    tried = np.linspace(-5.0, 2.2, 7201)
    clicks = norm.cdf(tried - hour / SD - RHO)
    for k in (0, 12, 24, 36, 47):
        worth = np.exp(MEAN + SD * grid(np)[k])
        gain = (worth - np.exp(MEAN + SD * tried)) * clicks
        bid = grid(np)[k] + table.shade[0, 0, k]
        # Bids are tried a thirtieth of a standard deviation apart.
        assert bid == pytest.approx(tried[gain.argmax()], abs=1 / 30)
        left_over = (worth - np.exp(MEAN + SD * bid)) * norm.cdf(bid - hour / SD - RHO)
        assert left_over == pytest.approx(gain.max(), rel=2e-3)
    # The dearer a click, the more of its worth is kept: a bid of 98 % of the auctions is shaded most.
    assert (np.diff(table.shade[0, 0]) <= 1e-9).all()


def test_in_second_price_nothing_is_shaded():
    assert (one_tick(0.3).shade == 0.0).all()


# ---- slots


@pytest.fixture(scope="module")
def slots():
    """Two draws of the gaps to the lower slots at each price, [2,DRAWS] prices by slot, and the clicks of the top one."""
    rng = np.random.default_rng(2)
    eps, gaps = rng.normal(size=DRAWS), rng.exponential(size=(2, 2, DRAWS))
    top = np.broadcast_to(SD * eps, (2, DRAWS))
    second = top - GAP * gaps[0]
    return (top, second, second - GAP * gaps[1]), np.exp(RHO * eps - RHO**2 / 2)


@pytest.mark.parametrize("k", [2, 12, 24, 33, 45])
def test_what_a_bid_buys_in_slots_is_what_drawn_auctions_sell(slots, k):
    prices, worth = slots
    z = grid(np)[[k]]
    told = response(SLOTS, z, sd=SD, clicks_price=RHO, slot_gap=GAP)
    clicks, cost = np.zeros((2, DRAWS)), np.zeros((2, DRAWS))
    above = np.full((2, DRAWS), np.inf)
    for price, exposure in zip(prices, SLOTS.exposure, strict=True):
        held = (SD * z >= price) & (SD * z < above)
        clicks += held * exposure * worth
        cost += held * exposure * worth * np.exp(price)
        above = price
    for closed, drawn in ((told.clicks[0], clicks), (told.cost[0], cost)):
        error = drawn[0].std() / np.sqrt(DRAWS)
        # The table's own 4,096 auctions lie evenly in price; luck is in their gaps alone, and so in half the squared
        # difference of two draws at one price. 4.5 standard errors of both, in ten averages.
        own = np.sqrt(0.5 * ((drawn[0] - drawn[1]) ** 2).mean() / 4096)
        assert closed == pytest.approx(drawn[0].mean(), abs=ERRORS * np.hypot(error, own))


def test_one_slot_is_a_second_price_auction():
    z = grid(np)
    told = {"sd": SD, "clicks_price": RHO, "slot_gap": GAP}
    one, second = response(Rules(Format.GSP), z, **told), response(SECOND_PRICE, z, **told)
    # One auction in 4,096, of at most three times the usual clicks, may fall on the other side of a bid.
    assert one.clicks == pytest.approx(second.clicks, abs=3 / 4096)
    assert one.cost == pytest.approx(second.cost, abs=3 / 4096)
    # Nothing is shaded, but for the distance between the bids that are tried and between the sample's prices.
    assert np.abs(one_tick(0.0, Rules(Format.GSP), GAP).shade).max() < 0.07


def test_in_slots_a_bid_is_shaded_where_a_lower_slot_leaves_more_over():
    table = one_tick(0.0, SLOTS, GAP)
    tried = np.linspace(-5.0, 2.2, 721)
    bought = response(SLOTS, tried, sd=SD, clicks_price=RHO, slot_gap=GAP)
    for k in (12, 24, 36):
        gain = np.exp(SD * grid(np)[k]) * bought.clicks - bought.cost
        taken = response(SLOTS, grid(np)[[k]] + table.shade[0, 0, k], sd=SD, clicks_price=RHO, slot_gap=GAP)
        kept = np.exp(SD * grid(np)[k]) * taken.clicks[0] - taken.cost[0]
        assert kept == pytest.approx(gain.max(), rel=2e-3)
        assert table.shade[0, 0, k] < -0.05


def test_to_be_shown_at_all_the_last_slots_price_must_be_met():
    table = one_tick(0.0, SLOTS, GAP)
    # Two gaps of 0.3 below the top, whose variances add up: 0.36 + 2 x 0.09 = 0.54.
    assert table.win_shift == pytest.approx([-0.6])
    assert table.win_sd == pytest.approx([np.sqrt(0.54)])
    assert (one_tick().win_shift[0], one_tick().win_sd[0]) == (0.0, SD)


def test_a_reserve_is_no_part_of_a_landscape():
    with pytest.raises(
        BadInput, match=r"reserve is 0\.1, expected 0: a landscape's prices are those that must be beaten"
    ):
        landscape(rules=Rules(reserve=0.1))


# ---- a day


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
