"""Money is exact, of one currency, and never a float."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaelp.core.errors import MoneyError
from gaelp.core.money import Money, parse_money


def usd(micros: int) -> Money:
    return Money(micros, "USD")


@pytest.mark.parametrize(
    ("written", "micros"),
    [
        (10, 10_000_000),
        ("10.50", 10_500_000),
        (" 0.000001 ", 1),
        (Decimal("3.2"), 3_200_000),
        ("0", 0),
        ("-0", 0),
        ("123456789012.654321", 123_456_789_012_654_321),
    ],
)
def test_whole_units_are_read_to_the_micro(written, micros):
    assert parse_money(written, "USD") == usd(micros)


@pytest.mark.parametrize("written", [0.1, 5.0, float("nan"), float("inf"), True])
def test_a_float_is_refused_even_when_it_looks_whole(written):
    with pytest.raises(MoneyError, match="money is given as text or a whole number, not the float"):
        parse_money(written, "USD")


@pytest.mark.parametrize(
    "written", ["1e3", "1E3", "nan", "NaN", "inf", "-Infinity", "1,000", "$5", "5 USD", "1_000", "", "five"]
)
def test_what_is_no_plain_decimal_is_refused_and_not_guessed(written):
    with pytest.raises(MoneyError, match=r"is not an amount of money: write it like 12\.50"):
        parse_money(written, "USD")


@pytest.mark.parametrize("written", ["-1", "-0.000001", -3, Decimal("-2.5")])
def test_a_negative_amount_is_refused(written):
    with pytest.raises(MoneyError, match="is negative"):
        parse_money(written, "USD")


@pytest.mark.parametrize(
    "written",
    [
        "0.0000001",
        "1.1234567",
        "12.50000001",
        # 29 digits: one more than a decimal context keeps, so a rounded product would look whole.
        "1234567890123456789012.0000001",
    ],
)
def test_a_seventh_decimal_is_refused_and_not_rounded(written):
    with pytest.raises(MoneyError, match="more than six decimals"):
        parse_money(written, "USD")


def test_seven_decimals_of_which_the_last_is_zero_are_six():
    assert parse_money("1.2345670", "USD") == usd(1_234_567)


@given(st.integers(0, 10**30))
def test_every_amount_of_micros_is_read_back_from_its_own_text(micros):
    # By hand: 1234567 micros are "1.234567".
    text = f"{micros // 10**6}.{micros % 10**6:06d}"
    assert parse_money(text, "USD").micros == micros


def test_ten_dimes_are_a_dollar():
    # In floats the sum is 0.9999999999999999.
    assert sum((parse_money("0.10", "USD") for _ in range(9)), parse_money("0.10", "USD")) == usd(1_000_000)


def test_sums_differences_and_whole_multiples_are_exact():
    assert usd(7) + usd(5) == usd(12)
    assert usd(5) - usd(7) == usd(-2)
    assert usd(333_333) * 3 == usd(999_999)


@pytest.mark.parametrize("factor", [0.5, 2.0, True])
def test_money_is_multiplied_by_whole_numbers_only(factor):
    with pytest.raises(MoneyError, match="multiplied by whole numbers only"):
        _ = usd(10) * factor


@pytest.mark.parametrize(
    "combine",
    [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a < b,
        lambda a, b: a <= b,
        lambda a, b: a > b,
        lambda a, b: a >= b,
    ],
)
def test_two_currencies_are_neither_added_nor_compared(combine):
    with pytest.raises(MoneyError, match="cannot combine USD with EUR"):
        combine(usd(1), Money(1, "EUR"))


def test_amounts_of_one_currency_are_ordered_by_their_micros():
    assert usd(1) < usd(2) <= usd(2) < usd(3)
    assert usd(3) > usd(2) >= usd(2)
    assert usd(1) != Money(1, "EUR")


@pytest.mark.parametrize("micros", [1.0, True, "1", None])
def test_micros_are_a_whole_number(micros):
    with pytest.raises(MoneyError, match="money is whole micros"):
        Money(micros, "USD")


@pytest.mark.parametrize("currency", ["usd", "US", "USDT", "", "U1D", "ÄÖÜ"])
def test_a_currency_is_three_capital_letters(currency):
    with pytest.raises(MoneyError, match="is not a three-letter code"):
        Money(1, currency)


@pytest.mark.parametrize(
    ("micros", "text"), [(10_500_000, "10.50 USD"), (1, "0.000001 USD"), (-2_000_000, "-2.00 USD")]
)
def test_money_is_printed_to_the_cent_and_to_the_micro_when_it_must(micros, text):
    assert str(usd(micros)) == text
