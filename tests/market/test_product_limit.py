"""Win-rate curves from censored prices, worked by hand, against plain counting, and against Greenwood's formula."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from gaelp.core.errors import BadInput
from gaelp.logs.bids import BidLog
from gaelp.market.product_limit import FEWEST_BIDS, MOST_POINTS, count_prices, curve, draw_curve


def bid_log(bid: list[float], price: list[float]) -> BidLog:
    """A bidder that bid `bid` where the price was `price`."""
    bids, prices = np.array(bid, float), np.array(price, float)
    won = bids >= prices
    zero = np.zeros(len(bids))
    return BidLog(
        bid=bids, won=won, price=np.where(won, prices, np.nan), value=zero, click=zero.astype(np.int8)
    )


def one_stratum(log: BidLog) -> np.ndarray:
    return np.zeros(len(log), np.int64)


# Five auctions; the prices of the second, fourth and fifth stay unknown.
BIDS, PRICES = [10.0, 5.0, 10.0, 8.0, 10.0], [3.0, 7.0, 6.0, 9.0, 12.0]


def repeated(times: int) -> BidLog:
    return bid_log(BIDS * times, PRICES * times)


def test_a_curve_worked_by_hand():
    # At 3 all five bids are in play and one price falls: 4/5 are left. At 6 three are: the 10 won there, the 8 and the
    # 10 that were lost: 2/3 of 4/5 are left. Sixty times, so that thirty bids of 10 are found and each sixth is alike.
    log = repeated(60)
    counts = count_prices(log, one_stratum(log), 1)
    assert counts.points.tolist() == [3.0, 6.0]
    assert counts.events.sum(1).tolist() == [[60, 60]]
    assert counts.at_risk.sum(1).tolist() == [[300, 180]]
    assert curve(counts)[0] == pytest.approx([1 / 5, 1 - 4 / 5 * 2 / 3])
    assert counts.everywhere == 10.0


def test_draws_of_a_curve_spread_as_greenwood_says():
    # Var F(6) = S^2 (60 / (300 * 240) + 60 / (180 * 120)) with S = 8/15. Of 4,000 draws a standard deviation is known to
    # 1.1 %; 5 % allows for four of them, and for the 1 in 30 by which a beta's variance is below the formula's.
    log = repeated(60)
    counts = count_prices(log, one_stratum(log), 1)
    rng = np.random.default_rng(0)
    drawn = np.array([draw_curve(counts, rng)[0] for _ in range(4000)])
    greenwood = 8 / 15 * np.sqrt(60 / (300 * 240) + 60 / (180 * 120))
    assert drawn[:, 1].std() == pytest.approx(greenwood, rel=0.06)
    assert drawn.mean(0) == pytest.approx(curve(counts)[0], abs=4 * greenwood / np.sqrt(4000))
    assert (np.diff(drawn, axis=1) >= 0).all()


def test_at_bids_that_every_auction_reached_the_curve_is_plain_counting():
    rng = np.random.default_rng(1)
    price = rng.integers(0, 60, 5000).astype(float)
    log = bid_log([40.0] * 5000, price.tolist())
    stratum = rng.integers(0, 3, 5000)
    counts = count_prices(log, stratum, 3)
    assert counts.points.tolist() == list(range(41))
    plain = (price[:, None] <= np.arange(41)).mean(0)
    assert counts.share @ curve(counts) == pytest.approx(plain, abs=1e-12)


def test_prices_above_a_random_bid_do_not_bend_the_curve():
    """Four standard errors of a binomial of 20,000 are 0.014; a sound estimate leaves them once in 16,000 points."""
    rng = np.random.default_rng(2)
    price = np.exp(rng.normal(4, 0.6, 20_000)).round()
    bid = np.exp(rng.normal(4, 0.7, 20_000)).round()
    log = bid_log(bid.tolist(), price.tolist())
    counts = count_prices(log, one_stratum(log), 1)
    at = np.searchsorted(counts.points, [30.0, 50.0, 80.0, 110.0])
    truth = norm.cdf((np.log(np.array([30.5, 50.5, 80.5, 110.5])) - 4) / 0.6)
    assert np.abs(curve(counts)[0, at] - truth).max() < 0.014
    # What the won auctions alone would say is far off.
    assert (price[log.won] <= 50).mean() > truth[1] + 0.15


def test_a_bid_that_follows_the_price_level_does_not_bend_the_curve():
    """In the log's last half prices and bids double: a pooled curve would count cheap halves' bidders as typical."""
    rng = np.random.default_rng(3)
    n = 12_000
    dear = (np.arange(n) >= n // 2) * np.log(2)
    price = np.exp(3.5 + dear + rng.normal(0, 0.4, n)).round()
    bid = np.exp(3.5 + dear + rng.normal(0, 0.5, n)).round()
    log = bid_log(bid.tolist(), price.tolist())
    counts = count_prices(log, one_stratum(log), 1)
    at = np.searchsorted(counts.points, [40.0, 60.0])
    truth = (price[:, None] <= np.array([40.0, 60.0])).mean(0)
    # Sampling noise is 0.006 at most; the pooled curve misses by more than four times that.
    pooled = 1 - np.cumprod(1 - counts.events.sum((0, 1)) / counts.at_risk.sum((0, 1)))
    assert np.abs(curve(counts)[0, at] - truth).max() < 0.02
    assert np.abs(pooled[at] - truth).max() > 0.025


def test_a_stratum_is_told_up_to_the_bid_that_thirty_auctions_reached():
    assert FEWEST_BIDS == 30
    bids = [100.0] * 29 + [50.0] * 71 + [30.0] * 100
    log = bid_log(bids, [20.0] * 200)
    stratum = np.repeat([0, 1], 100)
    counts = count_prices(log, stratum, 2)
    assert counts.identified_to.tolist() == [50.0, 30.0]
    assert counts.everywhere == 30.0


def test_many_prices_are_gathered_in_bins_whose_curve_meets_plain_counting():
    rng = np.random.default_rng(4)
    price = rng.gamma(2.0, 10.0, 20_000)
    log = bid_log([50.0] * len(price), price.tolist())
    counts = count_prices(log, one_stratum(log), 1)
    assert not counts.distinct
    assert len(counts.points) <= MOST_POINTS
    plain = (price[:, None] <= counts.points).mean(0)
    assert curve(counts)[0] == pytest.approx(plain, abs=1e-12)


def test_where_nothing_was_won_there_is_no_curve():
    log = bid_log([1.0] * 40, [2.0] * 40)
    with pytest.raises(BadInput, match="none of the 40 auctions was won"):
        count_prices(log, one_stratum(log), 1)


def test_prices_seen_only_by_a_few_high_bids_are_too_few():
    log = bid_log([5.0] * 20 + [1.0] * 80, [2.0] * 100)
    with pytest.raises(BadInput, match="no price was seen at bids that 30 auctions"):
        count_prices(log, one_stratum(log), 1)
