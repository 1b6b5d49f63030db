"""A bidder on a recorded log: its wins equal a loop over auctions, and it sees what it may see and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaelp.bidding.stream import Episode, Move, Sight
from gaelp.core.errors import BadInput
from gaelp.logs.theta import ThetaAuctions
from gaelp.market.replay import BidGrid, ReplayOptions
from gaelp.market.stretch import Stretch, bought, episode_of, halves, whole_log, won_by_bidder, won_by_bids

Row = tuple[int, int, float]  # click, price, pCTR


def auctions(rows: list[Row]) -> ThetaAuctions:
    click, price, value = zip(*rows, strict=True) if rows else ((), (), ())
    return ThetaAuctions(
        click=np.array(click, np.int8), price=np.array(price, np.int64), value=np.array(value, np.float64)
    )


def stretch(rows: list[Row], budget: Fraction | int, length: int | None = None, **bounds: object) -> Stretch:
    """Rows in episodes of `length`; shorter than whole_log takes."""
    edges = [*range(0, len(rows), len(rows) if length is None else length), len(rows)]
    options = ReplayOptions(budget=Fraction(1), **bounds)
    return Stretch(auctions(rows), np.array(edges, np.intp), Fraction(budget), options)


@dataclass(frozen=True)
class Scripted:
    """Makes given moves again and again, whatever it sees, and keeps every sight."""

    moves: tuple[Move, ...]
    sights: tuple[Sight, ...] = ()
    episodes: tuple[Episode, ...] = ()

    def begin(self, episode: Episode) -> Scripted:
        return replace(self, episodes=(*self.episodes, episode))

    def decide(self) -> Move:
        return self.moves[len(self.sights) % len(self.moves)]

    def after(self, sight: Sight) -> Scripted:
        told.append(sight)
        return replace(self, sights=(*self.sights, sight))


told: list[Sight] = []


def by_loop(
    on: Stretch, moves: tuple[Move, ...]
) -> tuple[list[bool], list[list[tuple[float, int | None, bool]]]]:
    """The rules, an auction at a time in exact arithmetic: what is won, and what each move is shown."""
    price, value = on.auctions.price.tolist(), on.auctions.value.tolist()
    won, shown, number = [], [], 0
    for start, end in pairwise(on.edges.tolist()):
        left, at = on.budget, start
        while at < end:
            move = moves[number % len(moves)]
            number += 1
            spent, lines = 0, []
            for index in range(at, min(at + move.auctions, end)):
                bid = Fraction(move.multiplier * value[index])
                if on.options.bid_grid is BidGrid.INTEGER:
                    bid = Fraction(math.floor(bid))
                if on.options.max_bid is not None:
                    bid = min(bid, on.options.max_bid)
                takes = min(bid, left) >= price[index]
                # The cut shows only in whole units: prices are whole.
                cut = math.floor(bid) > math.floor(left)
                won.append(takes)
                lines.append((value[index], price[index] if takes else None, cut))
                if takes:
                    left -= price[index]
                    spent += price[index]
                    if spent >= move.allowance:
                        break
            at += len(lines)
            shown.append(lines)
    return won, shown


prices = st.integers(0, 9) | st.integers(0, 300)
values = st.floats(0.25, 1) | st.sampled_from([0.0, 1.0, 0.1, 1 / 3])
logs = st.integers(1, 60).flatmap(
    lambda length: st.lists(st.tuples(st.integers(0, 1), prices, values), min_size=length, max_size=length)
)
amounts = st.fractions(min_value=1, max_value=900, max_denominator=9) | st.integers(1, 400).map(Fraction)
bounds = st.builds(dict, max_bid=st.none() | amounts, bid_grid=st.sampled_from(BidGrid))
scripts = st.lists(
    st.builds(Move, st.floats(0, 900), st.integers(1, 20), st.integers(1, 400)), min_size=1, max_size=5
).map(tuple)


@settings(max_examples=250)
@given(logs, amounts, st.none() | st.integers(1, 20), bounds, scripts)
def test_a_bidders_wins_and_sights_equal_the_loop(rows, budget, length, limits, moves):
    on = stretch(rows, budget, length, **limits)
    told.clear()
    won = won_by_bidder(on, Scripted(moves))
    expected, shown = by_loop(on, moves)
    assert won.tolist() == expected
    for sight, lines in zip(told, shown, strict=True):
        assert sight.value.tolist() == [value for value, _, _ in lines]
        assert sight.won.tolist() == [paid is not None for _, paid, _ in lines]
        assert sight.paid.tolist() == [paid for _, paid, _ in lines if paid is not None]
        # Where the bid is no whole number it may exceed the money left by less than 1; that changes no outcome.
        for bound, (_, _, cut) in zip(sight.bound.tolist(), lines, strict=True):
            assert bound or not cut
    result = bought(on, won)
    assert result.overspend == 0
    assert result.spend == sum(row[1] for row, taken in zip(rows, expected, strict=True) if taken)
    assert result.clicks == sum(row[0] for row, taken in zip(rows, expected, strict=True) if taken)
    assert result.value == math.fsum(row[2] for row, taken in zip(rows, expected, strict=True) if taken)


def test_overspend_is_counted_from_the_prices_of_each_episode():
    # Episodes of two with 10 1/2 each: 6 + 6 is 1 1/2 too much, 6 + 3 nothing, whatever the other left.
    on = stretch([(0, 6, 1.0), (0, 6, 1.0), (0, 6, 1.0), (0, 3, 1.0)], Fraction(21, 2), 2)
    assert bought(on, np.ones(4, np.bool_)).overspend == Fraction(3, 2)


def test_a_move_ends_with_the_auction_that_reaches_its_allowance():
    on = stretch([(0, 6, 1.0)] * 5, 100)
    told.clear()
    won_by_bidder(on, Scripted((Move(10.0, 5, 7), Move(10.0, 5, 100))))
    assert [len(sight.value) for sight in told] == [2, 3]  # 6, 12 >= 7; then the rest


def test_an_episode_tells_its_length_its_budget_in_whole_units_and_the_highest_bid():
    on = stretch([(0, 6, 1.0)] * 5, Fraction(25, 2), 3, max_bid=Fraction(7, 2))
    assert [episode_of(on, number) for number in range(2)] == [Episode(3, 12, 3), Episode(2, 12, 3)]


def test_constant_bids_are_replayed_under_the_budget_of_each_episode():
    on = stretch([(0, 6, 1.0)] * 5, 11, 2)
    assert won_by_bids(on, np.full(5, 10.0)).tolist() == [True, False, True, False, True]


def test_one_budget_is_parted_between_the_halves_by_auctions():
    first, rest = halves(stretch([(0, 1, 0.1), (0, 2, 0.2), (1, 3, 0.3)], 10))
    assert (first.auctions.price.tolist(), first.budget) == ([1], Fraction(10, 3))
    assert (rest.auctions.price.tolist(), rest.budget, rest.edges.tolist()) == (
        [2, 3],
        Fraction(20, 3),
        [0, 2],
    )


def test_several_episodes_are_parted_with_their_own_budgets():
    first, rest = halves(stretch([(0, price, 0.1) for price in range(5)], 10, 2))
    assert (first.edges.tolist(), first.budget) == ([0, 2], 10)
    assert (rest.edges.tolist(), rest.auctions.price.tolist(), rest.budget) == ([0, 2, 3], [2, 3, 4], 10)


@given(st.lists(st.integers(0, 30), min_size=1))
def test_a_log_is_the_same_however_it_is_cut(sizes):
    rows = [(index % 2, index, index / 100) for index in range(60)]
    edges = [min(edge, 60) for edge in [0, *accumulate(sizes), 60]]
    options = ReplayOptions(budget_fraction=Fraction(1, 4))
    whole = whole_log([auctions(rows)], options)
    parts = whole_log([auctions(rows[start:end]) for start, end in pairwise(edges)], options)
    for name in ("click", "price", "value"):
        assert np.array_equal(getattr(parts.auctions, name), getattr(whole.auctions, name))
    assert (parts.budget, parts.edges.tolist()) == (whole.budget, whole.edges.tolist())


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        (47, ReplayOptions(budget=Fraction(1)), "the log holds 47 auctions, a ladder needs at least 48, .*"),
        (0, ReplayOptions(budget=Fraction(1)), "the log holds 0 auctions, a ladder needs at least 48, .*"),
        (
            99,
            ReplayOptions(episode_auctions=47, episode_budget=Fraction(1)),
            "--episode-auctions is 47, a ladder needs at least 48, one a half hour.",
        ),
    ],
)
def test_a_log_or_an_episode_shorter_than_a_day_of_half_hours_is_refused(rows, options, sentence):
    with pytest.raises(BadInput, match=f"^{sentence}$"):
        whole_log([auctions([(0, 1, 0.1)] * rows)], options)


def test_prices_that_would_overflow_a_sum_are_refused():
    chunk = auctions([(0, 1 << 40, 0.1)] * (1 << 10))
    options = ReplayOptions(budget=Fraction(1))
    assert len(whole_log([chunk] * (1 << 10), options).auctions) == 1 << 20  # just 2^60
    with pytest.raises(BadInput, match="sum to 1152922604118474752, a ladder takes at most 2\\^60"):
        whole_log([chunk] * (1 << 10) + [auctions([(0, 1 << 40, 0.1)])], options)
