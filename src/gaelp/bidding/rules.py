"""Auction rules: how the price is made, which slots are sold, and below what price nothing is. Knows no bids.

The only definition: landscapes, worlds and the auction engine read this one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from gaelp.core.errors import BadInput


class Format(StrEnum):
    """How the price is made."""

    SECOND_PRICE = "second-price"
    FIRST_PRICE = "first-price"
    GSP = "gsp"


@dataclass(frozen=True, slots=True)
class Rules:
    """How a market sells an impression.

    exposure: of each slot, the best first, the share of impressions in which it is seen, and so the share of its clicks
    that it keeps; in (0, 1], never rising. reserve: the least price of a view, at least 0; whole where bids are.
    Raises BadInput.
    """

    format: Format = Format.SECOND_PRICE
    exposure: tuple[float, ...] = (1.0,)
    reserve: float = 0

    def __post_init__(self) -> None:
        if not isinstance(self.format, Format):
            known = ", ".join(map(str, Format))
            raise BadInput(f"format is {self.format!r}, expected one of {known}.")
        if not self.exposure:
            raise BadInput("exposure names no slot, expected at least one, as in (1.0, 0.8, 0.6).")
        if self.format is not Format.GSP and len(self.exposure) != 1:
            raise BadInput(f"exposure names {len(self.exposure)} slots, {self.format} sells exactly one.")
        for slot, share in enumerate(self.exposure):
            if not 0 < share <= 1:
                raise BadInput(f"exposure of slot {slot} is {share}, expected a share above 0 and at most 1.")
            if slot and share > self.exposure[slot - 1]:
                raise BadInput(
                    f"exposure of slot {slot} is {share}, expected at most the {self.exposure[slot - 1]} of the "
                    "slot before it."
                )
        if not (math.isfinite(self.reserve) and self.reserve >= 0):
            raise BadInput(f"reserve is {self.reserve}, expected a finite price of at least 0.")

    @property
    def slots(self) -> int:
        """How many bidders an impression can show."""
        return len(self.exposure)


SECOND_PRICE = Rules()
