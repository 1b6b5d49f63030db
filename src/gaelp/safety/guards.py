"""Guards: what must hold before a call that raises liability. Each judges numbers and can only refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from gaelp.core.errors import BadInput
from gaelp.core.verdict import FAIL, PASS, Verdict
from gaelp.safety.latch import Latch
from gaelp.safety.ledger import Books


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardBounds:
    """What the guards hold a proposal against; a smaller number is the tighter bound, in every field.

    max_bid: in the unit of the bids. max_raise_ratio: a new bid is at most so many times the last one. Lowering is
    never bounded: holding a higher bid would be the greater liability. max_velocity_ratio: spend against the plan.
    """

    max_bid: float
    max_raise_ratio: float
    max_velocity_ratio: float

    def __post_init__(self) -> None:
        for field in fields(self):
            bound = getattr(self, field.name)
            if not (math.isfinite(bound) and bound > 0):
                raise BadInput(f"guard bound {field.name} is {bound}, expected a positive finite number.")
        if self.max_raise_ratio < 1:
            raise BadInput(f"guard bound max_raise_ratio is {self.max_raise_ratio}, expected 1 or more.")


def not_halted(latch: Latch | None) -> Verdict:
    """Is the latch up? Once dropped it refuses every raising call until a person lifts it."""
    if latch is None:
        return Verdict(PASS, "not_halted", "no latch is down.")
    return Verdict(FAIL, "not_halted", f"halted: {latch.reason}.", {"reasons": list(latch.reasons)})


def books_balance(books: Books, platform_bill_micros: int) -> Verdict:
    """Does the platform's bill agree with the books?

    The bill must reach what is recorded as spent and may exceed it by open reservations only; with none open
    it must be equal to the micro. A breach fails too: the platform took more than was set aside.
    """
    gap = platform_bill_micros - books.spent
    told = {
        "platform_bill_micros": platform_bill_micros,
        "spent_micros": books.spent,
        "reserved_micros": books.reserved,
        "breached_micros": books.breached,
    }
    if books.breached > 0:
        reason = f"the platform took {books.breached} micros beyond what was reserved."
    elif gap < 0:
        reason = f"the books hold {-gap} micros of spend that the platform does not bill."
    elif gap > books.reserved:
        reason = f"the bill exceeds the books by {gap} micros, only {books.reserved} are reserved."
    else:
        return Verdict(PASS, "books_balance", f"bill and books agree, {gap} micros not settled yet.", told)
    return Verdict(FAIL, "books_balance", reason, told)


def bid_within_bounds(bid: float, last_bid: float | None, bounds: GuardBounds) -> Verdict:
    """Is the bid a positive finite number, at most the maximum, and no leap above the last one?

    bid, last_bid, bounds.max_bid: one unit, whichever the lever has. last_bid None: no bid has passed before.
    """
    told = {"max_bid": bounds.max_bid, "max_raise_ratio": bounds.max_raise_ratio}
    if not (math.isfinite(bid) and bid > 0):
        return Verdict(FAIL, "bid_within_bounds", f"bid {bid} is not a positive finite number.", told)
    told |= {"bid": bid}
    if bid > bounds.max_bid:
        return Verdict(FAIL, "bid_within_bounds", f"bid {bid} is above the maximum {bounds.max_bid}.", told)
    if last_bid is not None:
        told |= {"last_bid": last_bid}
        if bid > bounds.max_raise_ratio * last_bid:
            reason = (
                f"bid {bid} is {bid / last_bid:.3g} times the last one, {last_bid}; "
                f"{bounds.max_raise_ratio:g} times allowed."
            )
            return Verdict(FAIL, "bid_within_bounds", reason, told)
    return Verdict(PASS, "bid_within_bounds", f"bid {bid} is within its bounds.", told)


def spend_velocity(spent_micros: int, planned_micros: int, bounds: GuardBounds) -> Verdict:
    """Is spend so far within its multiple of the plan so far? A runaway shows here first."""
    return _ruled(
        spent_micros <= bounds.max_velocity_ratio * planned_micros,
        "spend_velocity",
        f"{spent_micros} micros spent, {bounds.max_velocity_ratio} times {planned_micros} planned by now allowed.",
        {"spent_micros": spent_micros, "planned_micros": planned_micros, "ratio": bounds.max_velocity_ratio},
    )


def _ruled(holds: bool, rule: str, reason: str, evidence: dict[str, object]) -> Verdict:
    return Verdict(PASS if holds else FAIL, rule, reason, evidence)
