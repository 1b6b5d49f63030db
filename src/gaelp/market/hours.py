"""Hourly reports as calibration reads them: half hours of line items, from a history's table; fits nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gaelp.core.errors import BadInput
from gaelp.core.money import MICROS
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array
from gaelp.logs.canonical import cube

_CELLS = ("log_bid", "eligible", "impressions", "clicks", "cost", "conversions", "arrived", "move")


@dataclass(frozen=True, kw_only=True)
class Hours:
    """Hourly reports of G line items over D days, [G,D,48] unless said; money in currency units.

    move: the incumbent's randomised log multiplier, the instrument that makes the bid's effect identifiable; 0 where
    nobody randomised. arrived: conversions of the day's clicks known by the end of the half hour. target_cpa, [G], inf
    for none. weekday, [D].
    worth: order values of the half hour's conversions, or None where the log does not tell them. read_after, [D]: half
    hours from each day's end to the reading of `conversions`, or None where all of them were final.
    """

    log_bid: Array
    eligible: Array
    impressions: Array
    clicks: Array
    cost: Array
    conversions: Array
    arrived: Array
    move: Array
    target_cpa: Array
    weekday: NDArray[np.int64]
    worth: Array | None = None
    read_after: Array | None = None

    def __post_init__(self) -> None:
        shape = self.log_bid.shape
        if len(shape) != 3 or shape[2] != TICKS_PER_DAY or shape[1] < 3:
            raise BadInput(
                f"calibration needs at least 3 whole days of {TICKS_PER_DAY} half hours, got shape {shape}."
            )
        for name in (*_CELLS, "worth"):
            array = getattr(self, name)
            if array is not None and (array.shape != shape or not np.isfinite(array).all()):
                raise BadInput(f"{name}: shape {array.shape} or values do not fit {shape} finite numbers.")
        after = self.read_after
        if after is not None and (after.shape != shape[1:2] or not (after >= 0).all()):
            raise BadInput(f"read_after: expected {shape[1]} numbers of at least 0, one a day, got {after}.")

    def days(self, rows: slice) -> Hours:
        """The same line items on some of the days."""
        cut = {name: getattr(self, name)[:, rows] for name in _CELLS}
        return Hours(
            **cut, target_cpa=self.target_cpa, weekday=self.weekday[rows],
            worth=None if self.worth is None else self.worth[:, rows],
            read_after=None if self.read_after is None else self.read_after[rows],
        )  # fmt: skip

    @property
    def served(self) -> NDArray[np.bool_]:
        """Half hours in which the day's money was not yet gone, [G,D,48].

        Where a day ends without impressions its last half hour with some is left out too: the money ended inside it.
        """
        any_later = np.cumsum(self.impressions[..., ::-1], axis=-1)[..., ::-1] - self.impressions > 0
        to_the_end = self.impressions[..., -1:] > 0
        return any_later | (to_the_end & (self.impressions > 0))


def hours_of(table: pl.DataFrame, days: NDArray[np.int64]) -> Hours:
    """The calibration arrays of some days of a table of hours, as `logs.canonical.REPORTS` describes it."""

    def column(name: str) -> NDArray[np.float64]:
        return cube(table, name, days, "tick", TICKS_PER_DAY)

    eligible = column("eligible")
    has = set(table.columns)
    return Hours(
        log_bid=np.log(column("bid_micros") / MICROS), eligible=eligible, impressions=column("impressions"),
        clicks=column("clicks"), cost=column("cost_micros") / MICROS, conversions=column("conversions"),
        arrived=column("arrived"), move=column("move") if "move" in has else np.zeros_like(eligible),
        target_cpa=(
            column("target_cpa_micros")[:, 0, 0] / MICROS if "target_cpa_micros" in has
            else np.full(len(eligible), np.inf)
        ),
        weekday=column("weekday")[0, :, 0].astype(np.int64),
        worth=column("value_micros") / MICROS if "value_micros" in has else None,
        read_after=column("read_after_hours")[0, :, 0] * (TICKS_PER_DAY // 24) if "read_after_hours" in has else None,
    )  # fmt: skip
