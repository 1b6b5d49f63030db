"""Auction rules: one definition, and impossible ones are refused with the field and the value."""

from __future__ import annotations

import pytest

from gaelp.bidding.rules import SECOND_PRICE, Format, Rules
from gaelp.core.errors import BadInput


def test_rules_are_second_price_with_one_slot_and_no_reserve_unless_said():
    assert Rules() == SECOND_PRICE == Rules(Format.SECOND_PRICE, (1.0,), 0)
    assert (SECOND_PRICE.slots, Rules(Format.GSP, (1.0, 0.8, 0.8)).slots) == (1, 3)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Rules("gsp"), "format is 'gsp', expected one of second-price, first-price, gsp"),
        (lambda: Rules(Format.GSP, ()), "exposure names no slot, expected at least one"),
        (lambda: Rules(Format.FIRST_PRICE, (1.0, 0.5)), "exposure names 2 slots, first-price sells exactly one"),
        (lambda: Rules(Format.SECOND_PRICE, (1.0, 0.8)), "exposure names 2 slots, second-price sells exactly one"),
        (lambda: Rules(Format.GSP, (1.0, 0.0)), "exposure of slot 1 is 0.0, expected a share above 0"),
        (lambda: Rules(Format.GSP, (1.5,)), "exposure of slot 0 is 1.5, expected a share above 0 and at most 1"),
        (lambda: Rules(Format.GSP, (0.5, 0.8)), "exposure of slot 1 is 0.8, expected at most the 0.5 of the slot"),
        (lambda: Rules(Format.GSP, (1.0,), -1), "reserve is -1, expected a finite price of at least 0"),
        (lambda: Rules(Format.GSP, (1.0,), float("nan")), "reserve is nan, expected a finite price"),
    ],
)  # fmt: skip
def test_impossible_rules_are_refused(made, message):
    with pytest.raises(BadInput, match=message):
        made()
