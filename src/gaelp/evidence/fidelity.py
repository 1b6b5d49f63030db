"""Fidelity lines: a figure of a held-out part of a log beside what fitted worlds say of it; judges nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FidelityLine:
    """One figure of the held-out part: what the worlds predict, median and 90 % interval, and what it is.

    identified: the fitted part tells it, so that it counts in the judgement.
    """

    name: str
    fitted: float
    held_out: float
    low: float
    high: float
    identified: bool

    @property
    def within(self) -> bool:
        """Is the held-out figure inside the interval?"""
        return self.low <= self.held_out <= self.high
