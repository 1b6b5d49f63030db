"""Worlds of several line items in all three formats: what a bid pays, and that money binds over the whole campaign."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.market.worlds import BANK, PAIR_KNOWN, RICH, draw, pair

from gaelp.bidding.pacer import Report, start_day
from gaelp.bidding.rules import SECOND_PRICE, Format, Rules
from gaelp.core.errors import BadInput
from gaelp.market import rivals
from gaelp.market.auction import expected_views, run_auctions
from gaelp.market.campaign import float32
from gaelp.market.world import Kind, Truth, World, buy, half_hour, sampled, start_truth

KNOWN = float32(PAIR_KNOWN)
FIRST_PRICE, SLOTS = Rules(Format.FIRST_PRICE), Rules(Format.GSP, (1.0, 0.7, 0.5))


def worlds(**changes: float | np.ndarray) -> World:
    return draw(pair(**changes), np.arange(64), 2)


@partial(jax.jit, static_argnames="kind")
def play(world: World, truth: Truth, log_bid: jax.Array, t: jax.Array, kind: Kind) -> tuple[Truth, Report]:
    """Half hour `t` of a day that the bidder has seen nothing of, all line items at one bid."""
    state = start_day(KNOWN, world.terms, jnp)
    return half_hour(world, truth, state, jnp.full_like(world.price_mean, log_bid), BANK, t, kind)


def bid(world: World, log_bid: float, kind: Kind, t: int = 24) -> Report:
    return play(world, start_truth(world), jnp.float32(log_bid), jnp.int32(t), kind)[1]


# ---- what a bid buys


@pytest.mark.parametrize("rules", [SECOND_PRICE, FIRST_PRICE, SLOTS], ids=lambda r: r.format)
def test_impressions_clicks_and_spend_never_fall_when_the_bid_rises(rules):
    kind = Kind(rules, items=2)

    @settings(max_examples=25)
    @given(
        low=st.floats(-6.0, 0.0), rise=st.floats(0.0, 3.0), t=st.integers(0, 47),
        rate=st.sampled_from([0.002, 0.05]), budget=st.sampled_from([2.0, 1e6]),
    )  # fmt: skip
    def never(low, rise, t, rate, budget):
        world = worlds(click_rate=rate, budget_low=budget, budget_high=budget, slot_gap=0.3)
        less, more = (bid(world, x, kind, t) for x in (low, low + rise))
        assert (more.cost.sum(-1) >= less.cost.sum(-1) * (1 - 1e-6)).all()
        if budget > 2.0:
            assert (more.impressions >= less.impressions).all()
            assert (more.clicks >= less.clicks).all()
            assert (more.cost >= less.cost * (1 - 1e-6)).all()

    never()


def test_in_first_price_every_click_costs_the_bid():
    kind = Kind(FIRST_PRICE, items=2)
    got = bid(worlds(cost_scale=1.0, **RICH), -2.6, kind)
    assert (got.clicks.sum(0) > 10).all()
    assert got.cost == pytest.approx(np.asarray(got.clicks) * np.exp(-2.6), rel=1e-5)


def test_slots_sell_a_click_below_the_bid_and_dearer_the_higher_the_slot():
    kind = Kind(SLOTS, items=2)
    world = worlds(cost_scale=1.0, slot_gap=0.3, **RICH)
    prices = []
    for log_bid in (-4.0, -3.0, -2.0, 0.0):
        got = bid(world, log_bid, kind)
        prices.append(float(got.cost.sum() / got.clicks.sum()))
        assert (got.cost <= got.clicks * np.exp(log_bid) * (1 + 1e-5)).all()
    assert prices == sorted(prices)


def test_a_single_slot_is_second_price_to_the_last_auction():
    one, second = Kind(Rules(Format.GSP), items=2), Kind(items=2)
    for log_bid in (-4.0, -3.0, -2.0):
        a, b = (bid(worlds(slot_gap=0.3), log_bid, kind) for kind in (one, second))
        for name in ("impressions", "clicks", "cost"):
            assert np.asarray(getattr(a, name)) == pytest.approx(np.asarray(getattr(b, name)), rel=1e-5), name


@pytest.mark.parametrize("rules", [SECOND_PRICE, FIRST_PRICE, SLOTS], ids=lambda r: r.format)
def test_a_half_hour_buys_what_the_auctions_themselves_sell(rules):
    """Every sampled auction of a half hour, sold by the auction engine: rivals bid the sampled prices, we bid last."""
    kind = Kind(rules, items=2)
    world = worlds(slot_gap=0.3)
    t, log_bid = jnp.int32(24), jnp.full_like(world.price_mean, -2.6)
    level = world.price_mean + world.price_path[..., t]
    bought = buy(world, kind, BANK, level, log_bid, t)
    found = sampled(world, kind, BANK, t)
    for b in range(8):
        prices = jnp.stack([jnp.exp(level[b, 0] + price[b, 0]) for price in found.prices])
        ours = jnp.full_like(prices[:1], jnp.exp(log_bid[b, 0]))
        views = expected_views(rules, jnp.ones(kind.samples))
        sold = run_auctions(
            rules, jnp.concatenate([ours, prices]), jnp.full(1 + rules.slots, jnp.inf), views, window=64
        )
        mine = np.asarray(sold.bidder) == 0
        clicks = np.asarray(found.clicks[b, 0])
        assert float(bought.impressions[b, 0]) == pytest.approx(mine.any(0).mean())
        assert float(bought.clicks[b, 0]) == pytest.approx(
            (clicks * np.asarray(sold.views) * mine).sum(), rel=1e-4
        )
        cost = float(bought.cost[b, 0] * jnp.exp(level[b, 0]))
        assert cost == pytest.approx((clicks * np.asarray(sold.cost) * mine).sum(), rel=1e-4)
    assert 0.05 < float(bought.impressions.mean()) < 0.95


def test_a_worlds_prices_hold_the_reserve_already():
    with pytest.raises(
        BadInput, match=r"reserve is 0\.2, expected 0: a world's prices are those that must be beaten"
    ):
        Kind(Rules(Format.FIRST_PRICE, reserve=0.2))


def test_more_slots_than_the_sampled_auctions_price_are_refused():
    Kind(Rules(Format.GSP, (1.0, 0.9, 0.8, 0.7)))
    with pytest.raises(BadInput, match="at most 4 slots, got 5"):
        Kind(Rules(Format.GSP, (1.0, 0.9, 0.8, 0.7, 0.6)))


# ---- money


def test_a_budget_is_one_for_all_line_items_and_the_same_share_of_each_is_lost():
    kind = Kind(items=2)
    poor = {"budget_low": 2.5, "budget_high": 2.5}
    world = worlds(**poor)
    assert world.terms.budget == pytest.approx(np.full(64, 5.0)), "the sum over two line items"
    free = bid(worlds(**RICH), -2.0, kind)
    truth = start_truth(world)._replace(spent=jnp.full(64, 4.9))
    _, tight = play(world, truth, jnp.float32(-2.0), jnp.int32(24), kind)
    share = np.minimum(1.0, 0.1 / np.asarray(free.cost.sum(-1)))
    assert share.max() < 1.0
    for name in ("impressions", "clicks", "cost"):
        lost = np.asarray(getattr(free, name)) * share[:, None]
        assert np.asarray(getattr(tight, name)) == pytest.approx(lost, rel=1e-4), name
    assert np.asarray(tight.cost.sum(-1)) == pytest.approx(np.full(64, 0.1), rel=1e-4)


# ---- rivals


ANSWERING = {"rival_gain": 0.4, "rival_purse": 0.8, "rival_sd": 0.3, "rival_moves": 0.5}


def test_rivals_enter_the_half_hour_as_a_level_that_was_there_before_our_bid():
    """Whatever we bid, the half hour is that of a world in which nobody answers, at the level they have made."""
    kind = Kind(items=2)
    world = worlds(**ANSWERING, **RICH)
    truth = start_truth(world)
    for t in range(24, 27):
        truth, _ = play(world, truth, jnp.float32(-2.5), jnp.int32(t), kind)
    made = rivals.level(world.rivals, truth.field, world.price_sd, jnp.int32(27))
    assert float(jnp.abs(made).min()) > 1e-3
    path = world.price_path.at[..., 27].add(made)
    given_prices = world._replace(price_path=path, rivals=worlds(**RICH).rivals)
    alone = truth._replace(field=rivals.start_field(given_prices.rivals))
    for log_bid in (-4.0, -3.0, -2.0):
        _, here = play(world, truth, jnp.float32(log_bid), jnp.int32(27), kind)
        _, there = play(given_prices, alone, jnp.float32(log_bid), jnp.int32(27), kind)
        assert float(here.impressions.sum()) > 0
        for name in ("impressions", "clicks", "cost"):
            told, alike = (np.asarray(getattr(report, name)) for report in (here, there))
            assert told == pytest.approx(alike, rel=1e-4, abs=1e-6), name


def test_what_we_win_rivals_do_not_pay_and_what_our_money_does_not_reach_they_do():
    kind = Kind(items=2)
    told = {**ANSWERING, "rival_moves": 0.0}
    rich, broke = worlds(**told, **RICH), worlds(**told)
    spent = {}
    for name, world, log_bid, gone in (
        ("all", rich, 5.0, 0.0), ("none", rich, -20.0, 0.0), ("broke", broke, 5.0, 1.0),
    ):  # fmt: skip
        truth = start_truth(world)._replace(spent=gone * world.terms.budget)
        spent[name] = np.asarray(play(world, truth, jnp.float32(log_bid), jnp.int32(24), kind)[0].field.spent)
    assert (spent["all"] == 0.0).all()
    # An ordinary day's auctions of that half hour, in purses.
    flow = np.asarray(rich.over[..., 24] - rich.over[..., 23])
    assert spent["none"] == pytest.approx(flow[..., None] / np.asarray(rich.rivals.purse), rel=1e-4)
    assert spent["broke"] == pytest.approx(spent["none"], rel=1e-4)
