"""Guards refuse what they should by name, and nothing makes them looser."""

from __future__ import annotations

import pytest

from gaelp.core.errors import BadInput
from gaelp.core.verdict import FAIL, PASS
from gaelp.safety.guards import (
    GuardBounds,
    bid_within_bounds,
    books_balance,
    not_halted,
    spend_velocity,
)
from gaelp.safety.latch import Latch
from gaelp.safety.ledger import Books, Entry, Kind, resolve

BOUNDS = GuardBounds(max_bid=8.0, max_raise_ratio=2.0, max_velocity_ratio=1.5)


def entry(kind: Kind, micros: int, intent: str = "a") -> Entry:
    episode = "" if kind is Kind.GRANTED else "e"
    return Entry(kind=kind, intent=intent, phase="scaled", day=0, episode=episode, micros=micros)


@pytest.fixture
def books() -> Books:
    """100 granted, 40 spent, 30 open: 30 are left."""
    books = Books().apply_all([entry(Kind.GRANTED, 100, "g"), entry(Kind.RESERVED, 45)])
    return books.apply_all(resolve(books, "a", 40)).apply(entry(Kind.RESERVED, 30, "b"))


def test_a_dropped_latch_refuses_with_its_reason() -> None:
    assert not_halted(None).ruling is PASS
    verdict = not_halted(Latch(("the bill ran away",)))
    assert (verdict.ruling, verdict.rule) == (FAIL, "not_halted")
    assert "the bill ran away" in verdict.reason


@pytest.mark.parametrize(("bill", "ruling"), [(39, FAIL), (40, PASS), (70, PASS), (71, FAIL)])
def test_the_bill_lies_between_what_is_posted_and_what_is_reserved_on_top(
    books: Books, bill: int, ruling: object
) -> None:
    verdict = books_balance(books, bill)
    assert (verdict.ruling, verdict.rule) == (ruling, "books_balance")


def test_with_nothing_open_the_bill_is_equal_to_the_micro(books: Books) -> None:
    closed = books.apply_all(resolve(books, "b", 30))
    assert [books_balance(closed, bill).ruling for bill in (69, 70, 71)] == [FAIL, PASS, FAIL]


def test_a_breach_fails_the_balance_even_when_bill_and_books_agree(books: Books) -> None:
    breached = books.apply_all(resolve(books, "b", 33))
    assert books_balance(breached, 73).ruling is FAIL


@pytest.mark.parametrize(
    ("bid", "last", "ruling"),
    [
        (8.0, None, PASS), (8.01, None, FAIL), (0.0, None, FAIL), (-1.0, None, FAIL), (float("nan"), None, FAIL),
        (float("inf"), None, FAIL), (4.0, 2.0, PASS), (4.01, 2.0, FAIL), (1e-6, 2.0, PASS),
    ],
)  # fmt: skip
def test_a_bid_is_positive_finite_bounded_and_no_leap_upwards(
    bid: float, last: float | None, ruling: object
) -> None:
    verdict = bid_within_bounds(bid, last, BOUNDS)
    assert (verdict.ruling, verdict.rule) == (ruling, "bid_within_bounds")


def test_spend_may_run_ahead_of_plan_by_its_ratio_and_no_more() -> None:
    assert spend_velocity(150, 100, BOUNDS).ruling is PASS
    assert spend_velocity(151, 100, BOUNDS).ruling is FAIL
    assert spend_velocity(1, 0, BOUNDS).ruling is FAIL


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bound_that_bounds_nothing_is_refused(bound: float) -> None:
    with pytest.raises(BadInput, match="positive finite"):
        GuardBounds(max_bid=bound, max_raise_ratio=2.0, max_velocity_ratio=1.5)


def test_a_raise_bounded_below_1_would_force_bids_down_and_is_refused() -> None:
    with pytest.raises(BadInput, match=r"max_raise_ratio is 0\.9, expected 1 or more"):
        GuardBounds(max_bid=8.0, max_raise_ratio=0.9, max_velocity_ratio=1.5)
