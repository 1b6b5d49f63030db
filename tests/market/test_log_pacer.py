"""The curve that the block pacer bids by, worked by hand, and the search for its knobs."""

from __future__ import annotations

import numpy as np
import pytest
from tests.market.made_logs import made_log

from gaelp.bidding.block_pacer import DEFAULT_KNOBS
from gaelp.core.errors import BadInput
from gaelp.core.schema import default_schema
from gaelp.logs.theta import ThetaAuctions
from gaelp.market.log_episodes import HIGHEST, Terms
from gaelp.market.log_market import BlockPacer
from gaelp.market.log_pacer import HIGH, LOW, fit_curve, mean_value, tune, windows

SCHEMA = default_schema()
FREE = Terms(auctions=48, budget=1_000_000, max_bid=HIGHEST - 1)


def auctions(*rows: tuple[int, float]) -> ThetaAuctions:
    price, value = (np.array(column) for column in zip(*rows, strict=True))
    return ThetaAuctions(
        click=np.zeros(len(rows), np.int8), price=price.astype(np.int64), value=value.astype(float)
    )


def test_the_curve_tells_what_an_auction_brings_at_each_multiplier() -> None:
    # Ratios 10, 20 and 100; one auction has a pCTR of 0 and is never bought.
    curve = fit_curve(auctions((1, 0.1), (4, 0.2), (10, 0.1), (5, 0.0)), FREE)
    at = np.interp(np.log([10.5, 20.5, 101.0]), curve.log_multiplier, np.arange(len(curve.spend)))
    spend = np.interp(np.log([10.5, 20.5, 101.0]), curve.log_multiplier, curve.spend)
    assert at[-1] == len(curve.spend) - 1
    assert spend[-1] == pytest.approx(15 / 4, rel=1e-4)
    assert curve.value[-1] == pytest.approx(0.4 / 4)
    assert curve.won[-1] == pytest.approx(3 / 4)
    assert curve.spend[0] == pytest.approx(1 / 4, rel=1e-4)
    assert np.exp(curve.log_multiplier[0]) >= 10.0


def test_spend_rises_strictly_and_the_multiplier_never_falls() -> None:
    curve = fit_curve(made_log(4_000), FREE)
    assert (np.diff(curve.spend) > 0).all()
    assert (np.diff(curve.log_multiplier) >= 0).all()
    assert (np.diff(curve.value) >= 0).all()


def test_what_no_bid_may_win_is_no_part_of_the_curve() -> None:
    log = made_log(4_000)
    capped = fit_curve(log, Terms(auctions=48, budget=1_000_000, max_bid=30))
    assert capped.spend[-1] == pytest.approx(log.price[log.price <= 30].sum() / 4_000, rel=1e-4)


def test_a_log_without_prices_is_refused() -> None:
    with pytest.raises(
        BadInput, match="no auction of the training part has a pCTR above 0 and a price above 0"
    ):
        fit_curve(auctions((0, 0.1), (0, 0.2)), FREE)


def test_tuning_finds_no_worse_than_the_default_on_its_own_episodes_and_always_the_same() -> None:
    log, terms = made_log(6_000), Terms(auctions=96, budget=300, max_bid=HIGHEST - 1)
    curve, episodes = fit_curve(log, terms), windows(log, terms, 7)
    tuned, again = tune(curve, episodes, terms, SCHEMA, 7), tune(curve, episodes, terms, SCHEMA, 7)
    assert tuned.pacer.hash == again.pacer.hash
    default = mean_value(BlockPacer(curve, DEFAULT_KNOBS), episodes, terms, SCHEMA)
    assert mean_value(tuned.pacer, episodes, terms, SCHEMA) > default
    assert tuned.scores == tuple(sorted(tuned.scores))
    assert all(low <= knob <= high for low, knob, high in zip(LOW, tuned.pacer.knobs, HIGH, strict=True))


def test_tuning_windows_are_recorded_auctions_in_their_order() -> None:
    log, terms = made_log(500), Terms(auctions=96, budget=300, max_bid=HIGHEST - 1)
    episodes = windows(log, terms, 7)
    price = episodes.price.reshape(len(episodes.price), -1)
    starts = {tuple(log.price[k : k + 96].tolist()) for k in range(500 - 96 + 1)}
    assert {tuple(row.tolist()) for row in price[:50]} <= starts
    assert len({tuple(row.tolist()) for row in price}) > 200
