"""The ledger: nothing is set aside beyond a grant or a limit, and whatever was spent is in the books."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gaelp.core.errors import MoneyError, NotGranted
from gaelp.core.verdict import FAIL, PASS
from gaelp.safety.ledger import Books, Entry, Kind, Limits, Request, Tally, may_reserve, resolve

USD = 1_000_000
LIMITS = Limits(per_episode_micros=10 * USD, per_day_micros=50 * USD, total_micros=500 * USD, days=30)


def grant(micros: int, phase: str = "real_testing", intent: str = "grant/1") -> Entry:
    return Entry(kind=Kind.GRANTED, intent=intent, phase=phase, day=0, episode="", micros=micros)


def request(
    intent: str = "a", *, micros: int = 10 * USD, day: int = 1, phase: str = "real_testing"
) -> Request:
    return Request(intent=intent, phase=phase, day=day, episode=f"day{day}/{intent}", micros=micros)


def settled(books: Books, intent: str, actual: int) -> Books:
    return books.apply_all(resolve(books, intent, actual))


def test_a_dollar_is_granted_reserved_posted_and_the_rest_released() -> None:
    books = Books().apply(grant(500 * USD)).apply(request().entry())
    assert books.total == Tally(granted=500 * USD, reserved=10 * USD)
    assert (books.available, books.open_intents()) == (490 * USD, ("a",))

    books = settled(books, "a", 4 * USD)
    assert books.total == Tally(granted=500 * USD, posted=4 * USD)
    assert (books.available, books.open_intents()) == (496 * USD, ())
    assert books.phase("real_testing") == books.total
    assert books.day(1) == books.episode("day1/a") == Tally(posted=4 * USD)
    assert books.day(2) == Tally()


def test_settling_writes_the_spend_and_the_release() -> None:
    books = Books().apply_all([grant(50 * USD), request().entry()])
    entries = resolve(books, "a", 4 * USD)
    assert [(e.kind, e.micros) for e in entries] == [(Kind.POSTED, 4 * USD), (Kind.RELEASED, 6 * USD)]
    assert resolve(books.apply_all(entries), "a", 4 * USD) == ()


def test_spend_above_the_reservation_is_a_breach_and_never_concealed() -> None:
    books = Books().apply_all([grant(10 * USD), request().entry()])
    entries = resolve(books, "a", 13 * USD)
    assert [(e.kind, e.micros) for e in entries] == [
        (Kind.POSTED, 10 * USD),
        (Kind.BREACH, 3 * USD),
        (Kind.RELEASED, 0),
    ]
    books = books.apply_all(entries)
    assert (books.spent, books.posted, books.breached) == (13 * USD, 10 * USD, 3 * USD)
    assert books.available == -3 * USD


def test_a_charge_that_comes_after_settling_is_recorded_as_a_breach_of_the_difference() -> None:
    books = settled(Books().apply_all([grant(10 * USD), request().entry()]), "a", 9 * USD)
    books = settled(books, "a", 11 * USD)
    assert (books.spent, books.breached, books.available) == (11 * USD, 2 * USD, -1 * USD)
    assert resolve(books, "a", 11 * USD) == ()
    with pytest.raises(MoneyError, match="credits are not booked"):
        resolve(books, "a", 10 * USD)


def test_a_reservation_needs_the_grant_of_its_own_phase() -> None:
    books = Books().apply(grant(500 * USD, phase="scaled"))
    assert books.available == 500 * USD
    verdict = may_reserve(books, LIMITS, request())
    assert (verdict.ruling, verdict.rule) == (FAIL, "grant")
    with pytest.raises(NotGranted, match="real_testing has 0 available"):
        books.apply(request().entry())


def test_without_any_grant_not_one_micro_may_be_reserved() -> None:
    assert may_reserve(Books(), LIMITS, request(micros=1)).rule == "grant"
    with pytest.raises(NotGranted):
        Books().apply(request(micros=1).entry())


def test_the_last_micro_may_be_reserved_and_the_next_may_not() -> None:
    books = Books().apply(grant(10 * USD))
    assert may_reserve(books, LIMITS, request(micros=10 * USD)).ruling is PASS
    books = books.apply(request(micros=10 * USD).entry())
    assert may_reserve(books, LIMITS, request("b", micros=1)).rule == "grant"


@pytest.mark.parametrize(
    ("limit", "rule"),
    [
        ({"per_episode_micros": 10 * USD - 1}, "per_episode_limit"),
        ({"per_day_micros": 15 * USD - 1}, "per_day_limit"),
        ({"total_micros": 15 * USD - 1}, "total_limit"),
        ({"days": 0}, "days_limit"),
    ],
)
def test_each_limit_refuses_by_its_own_name(limit: dict[str, int], rule: str) -> None:
    # 5 are committed on day 1 by another episode; 10 more make 15 that day and in all.
    books = Books().apply_all([grant(500 * USD), request("before", micros=5 * USD).entry()])
    assert may_reserve(books, LIMITS, request()).ruling is PASS
    verdict = may_reserve(books, replace(LIMITS, **limit), request())
    assert (verdict.ruling, verdict.rule) == (FAIL, rule)


def test_an_episode_cannot_get_around_its_limit_with_a_second_intent() -> None:
    books = Books().apply_all([grant(500 * USD), request("a", micros=6 * USD).entry()])
    again = replace(request("b", micros=5 * USD), episode="day1/a")
    assert may_reserve(books, LIMITS, again).rule == "per_episode_limit"


def test_what_is_released_on_a_day_may_be_reserved_again_that_day() -> None:
    books = Books().apply(grant(500 * USD))
    for name in "abcde":
        books = books.apply(request(name).entry())
    assert may_reserve(books, LIMITS, request("f")).rule == "per_day_limit"
    assert may_reserve(settled(books, "a", 0), LIMITS, request("f")).ruling is PASS


def test_money_spent_beyond_a_reservation_counts_against_the_day() -> None:
    books = settled(Books().apply_all([grant(500 * USD), request().entry()]), "a", 45 * USD)
    assert may_reserve(books, LIMITS, request("b", micros=5 * USD)).ruling is PASS
    assert may_reserve(books, LIMITS, request("b", micros=5 * USD + 1)).rule == "per_day_limit"


def test_days_with_money_are_counted_once_each_and_per_phase() -> None:
    two_days = replace(LIMITS, days=2)
    books = Books().apply_all([grant(500 * USD), request("a", day=1).entry(), request("b", day=2).entry()])
    assert may_reserve(books, two_days, request("c", day=2)).ruling is PASS
    assert may_reserve(books, two_days, request("c", day=3)).rule == "days_limit"
    books = books.apply(grant(500 * USD, phase="scaled", intent="grant/2"))
    assert may_reserve(books, two_days, request("c", day=3, phase="scaled")).ruling is PASS


def test_a_reservation_resolves_once() -> None:
    books = Books().apply_all([grant(50 * USD), request().entry()])
    posted, released = resolve(books, "a", 4 * USD)
    with pytest.raises(MoneyError, match="nothing to release"):
        books.apply(released)
    books = books.apply(posted)
    with pytest.raises(MoneyError, match="resolves once"):
        books.apply(posted)
    with pytest.raises(MoneyError, match="6000000 are open"):
        books.apply(replace(released, micros=7 * USD))
    with pytest.raises(MoneyError, match="nothing to release"):
        books.apply(released).apply(released)


def test_entries_that_do_not_fit_their_reservation_are_refused() -> None:
    books = Books().apply_all([grant(50 * USD), request().entry()])
    posted = resolve(books, "a", 4 * USD)[0]
    with pytest.raises(MoneyError, match="has a reservation already"):
        books.apply(request().entry())
    with pytest.raises(MoneyError, match="no reservation to settle"):
        books.apply(replace(posted, intent="unknown"))
    with pytest.raises(MoneyError, match="is reserved for"):
        books.apply(replace(posted, day=2))
    with pytest.raises(MoneyError, match="breach entry"):
        books.apply(replace(posted, micros=11 * USD))
    with pytest.raises(MoneyError, match="in the books already"):
        books.apply(grant(1))
    with pytest.raises(MoneyError, match="late charge"):
        resolve(books, "unknown", 1)


def test_a_refused_entry_leaves_the_books_as_they_were() -> None:
    books = Books().apply_all([grant(10 * USD), request().entry()])
    with pytest.raises(NotGranted):
        books.apply_all([grant(1, intent="grant/2"), request("b").entry()])
    assert books == Books().apply_all([grant(10 * USD), request().entry()])


@pytest.mark.parametrize("amount", [-1, 1.0, True, "1", float("nan"), None])
def test_an_amount_is_a_whole_number_of_micros_and_nothing_else(amount: object) -> None:
    with pytest.raises(MoneyError, match="is not an amount"):
        request(micros=amount)  # type: ignore[arg-type]
    with pytest.raises(MoneyError, match="is not an amount"):
        replace(LIMITS, total_micros=amount)  # type: ignore[arg-type]
    books = Books().apply_all([grant(10 * USD), request().entry()])
    with pytest.raises(MoneyError, match="is not an amount"):
        resolve(books, "a", amount)  # type: ignore[arg-type]


def test_no_limit_has_a_default() -> None:
    with pytest.raises(TypeError):
        Limits()  # type: ignore[call-arg]
