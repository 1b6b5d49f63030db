"""Money: integer micros of one currency, parsed at the border and never a float inside."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation

from gaelp.core.errors import MoneyError

MICROS = 1_000_000
_EXACT = Context(prec=100)
"""Decimal's usual 28 digits would round a very long amount in silence."""


@dataclass(frozen=True, order=False, slots=True)
class Money:
    """An exact amount: `micros` millionths of one unit of `currency` (ISO 4217, three capitals)."""

    micros: int
    currency: str

    def __post_init__(self) -> None:
        if type(self.micros) is not int:
            raise MoneyError(f"money is whole micros, not {self.micros!r} ({type(self.micros).__name__}).")
        if len(self.currency) != 3 or not (
            self.currency.isascii() and self.currency.isalpha() and self.currency.isupper()
        ):
            raise MoneyError(f"currency {self.currency!r} is not a three-letter code such as 'USD'.")

    def _same(self, other: Money) -> int:
        if self.currency != other.currency:
            raise MoneyError(
                f"cannot combine {self.currency} with {other.currency}: one account, one currency."
            )
        return other.micros

    def __add__(self, other: Money) -> Money:
        return Money(self.micros + self._same(other), self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(self.micros - self._same(other), self.currency)

    def __mul__(self, factor: int) -> Money:
        if type(factor) is not int:
            raise MoneyError(f"money is multiplied by whole numbers only, not {factor!r}.")
        return Money(self.micros * factor, self.currency)

    def __lt__(self, other: Money) -> bool:
        return self.micros < self._same(other)

    def __le__(self, other: Money) -> bool:
        return self.micros <= self._same(other)

    def __gt__(self, other: Money) -> bool:
        return self.micros > self._same(other)

    def __ge__(self, other: Money) -> bool:
        return self.micros >= self._same(other)

    def __str__(self) -> str:
        amount = _EXACT.divide(Decimal(self.micros), MICROS)
        places = 2 if self.micros % 10_000 == 0 else 6
        return f"{amount:.{places}f} {self.currency}"


def parse_money(text: str | int | Decimal, currency: str) -> Money:
    """Parse `10`, `"10.50"` or a Decimal, in whole units of `currency`, exactly.

    Raises MoneyError for floats, NaN, infinities, negative amounts, more than six decimals and
    anything that is not a plain decimal number (`1e3` and `1,000` are refused, not guessed).
    """
    if isinstance(text, bool | float):
        raise MoneyError(
            f"money is given as text or a whole number, not the float {text!r}: write it in quotes."
        )
    plain = str(text).strip()
    try:
        amount = Decimal(plain)
    except InvalidOperation:
        raise MoneyError(f"{plain!r} is not an amount of money: write it like 12.50.") from None
    if not amount.is_finite() or "e" in plain.lower() or "_" in plain:
        raise MoneyError(f"{plain!r} is not an amount of money: write it like 12.50.")
    if amount < 0:
        raise MoneyError(f"{plain!r} is negative: an amount here is zero or more.")
    micros = _EXACT.multiply(amount, MICROS)
    if micros != _EXACT.to_integral_value(micros):
        raise MoneyError(f"{plain!r} has more than six decimals, the smallest unit is one micro.")
    return Money(int(micros), currency)
