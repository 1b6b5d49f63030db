"""Calibration of an account's hourly reports: the first days fitted, the last ones held out and compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gaelp.core.errors import BadInput
from gaelp.core.money import MICROS
from gaelp.market.calibrate import Fit, calibrate
from gaelp.market.history_fidelity import HistoryFidelity, history_fidelity
from gaelp.market.hours import hours_of


@dataclass(frozen=True)
class HistoryCalibration:
    """A fit of a history's first days, and how it stands beside the last ones."""

    fit: Fit
    fidelity: HistoryFidelity


def calibrate_history(hours: pl.DataFrame, hold_out: float, seed: int) -> HistoryCalibration:
    """Fit the hours but for their last share `hold_out` of days, and compare those. Budgets are those of the log.

    hours: a table as `logs.canonical.REPORTS` describes it. Raises BadInput when either part has fewer than 3 days, or
    for a log that is too thin to fit.
    """
    if not 0.0 < hold_out < 1.0:
        raise BadInput(f"hold_out: expected a share in (0, 1), got {hold_out:g}.")
    days = np.sort(hours["day"].unique().to_numpy())
    last = round(hold_out * len(days))
    if min(last, len(days) - last) < 3:
        raise BadInput(
            f"hold_out: of {len(days)} days {last} would be held out; at least 3 are needed on either side."
        )
    fitted, later = hours_of(hours, days[: len(days) - last]), hours_of(hours, days[len(days) - last :])
    budgets = hours["budget_micros"].to_numpy() / MICROS
    fit = calibrate(fitted, float(budgets.min()), float(budgets.max()))
    return HistoryCalibration(fit, history_fidelity(fit, fitted, later, np.random.default_rng(seed)))
