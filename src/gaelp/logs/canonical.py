"""The canonical log tables of an account's history: hours and decisions, their contract, and their files.

`hours.csv` is what any platform's hourly report holds, plus the randomised move that was in force;
`decisions.parquet` is what off-policy learning needs: observation, move and its probability. Money is integer micros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandera.polars as pa
import polars as pl
from numpy.typing import NDArray
from pandera.errors import SchemaErrors

from gaelp.core.errors import BadInput
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.logs.cells import check_header, names, numbers, read_cells, whole_numbers


def _least(low: int) -> pa.Check:
    return pa.Check.ge(low, error=f"at least {low}")


def _within(low: float, high: float) -> pa.Check:
    return pa.Check.in_range(low, high, error=f"{low:g} to {high:g}")


HOURS = pa.DataFrameSchema(
    {
        "campaign": pa.Column(str),
        "item": pa.Column(pl.Int64, _least(0)),
        "day": pa.Column(pl.Int64, _least(0)),
        "weekday": pa.Column(pl.Int64, _within(0, 6)),
        "tick": pa.Column(pl.Int64, _within(0, TICKS_PER_DAY - 1)),
        "bid_micros": pa.Column(pl.Int64, _least(1)),
        "move": pa.Column(pl.Float64, _within(-10.0, 10.0)),
        "eligible": pa.Column(pl.Int64, _least(0)),
        "impressions": pa.Column(pl.Int64, _least(0)),
        "clicks": pa.Column(pl.Int64, _least(0)),
        "cost_micros": pa.Column(pl.Int64, _least(0)),
        "conversions": pa.Column(pl.Int64, _least(0)),
        "arrived": pa.Column(pl.Int64, _least(0)),
        "target_cpa_micros": pa.Column(pl.Int64, _least(1)),
        "budget_micros": pa.Column(pl.Int64, _least(1)),
        "value_micros": pa.Column(pl.Int64, _least(0), required=False),
        "currency": pa.Column(
            str, pa.Check.str_matches("^[A-Z]{3}$", error="three capital letters"), required=False
        ),
    },
    strict=True,
)
"""One row per campaign and half hour, each line item's in order of time, and no half hour of any day left out.

`conversions` belong to the half hour's clicks, at most one a click, and are final. `arrived` counts the day's
conversions that were known when the half hour ended; a correction may take some back, so it may fall, and end above
what was final. `move` is the executed log multiplier; `value_micros`, where it is there, the orders' value."""

REPORTS = HOURS.update_columns(
    {"move": {"required": False}, "target_cpa_micros": {"required": False}}
).add_columns({"read_after_hours": pa.Column(pl.Int64, _least(0), required=False)})
"""Hours as far as calibration needs them, from any platform's report. Without `move` nobody randomised bids; without
`target_cpa_micros` there was no target. `read_after_hours`: from the end of the row's day to when its conversions were
read, where some were still to come; without it they are final."""

_DECISION = ["item", "day", "decision"]

DECISIONS = pa.DataFrameSchema(
    {
        "campaign": pa.Column(str),
        "item": pa.Column(pl.Int64, _least(0)),
        "day": pa.Column(pl.Int64, _least(0)),
        "decision": pa.Column(pl.Int64, _least(0)),
        "move": pa.Column(pl.Int64, _least(0)),
        "pace": pa.Column(pl.Float64, _within(-10.0, 10.0)),
        "log_prob": pa.Column(pl.Float64, _within(-700.0, 0.0)),
        "scale": pa.Column(pl.Float64, _least(0)),
        "pacer_hash": pa.Column(str),
        "schema_hash": pa.Column(str),
        "observation": pa.Column(pl.List(pl.Float32)),
    },
    strict=True,
    unique=_DECISION,
)
"""One row per decision, and one more per day (decision = T, move and probability 0) for the observation after it."""


@dataclass(frozen=True)
class History:
    """The two tables, checked."""

    hours: pl.DataFrame
    decisions: pl.DataFrame


def export_history(history: History, folder: Path) -> None:
    """Write both tables into `folder`, checked first."""
    hours, decisions = folder / "hours.csv", folder / "decisions.parquet"
    _check_contract(history.hours, HOURS, hours, _LINES)
    _check_together(history.hours, hours)
    _check_contract(history.decisions, DECISIONS, decisions, _ROWS)
    folder.mkdir(parents=True, exist_ok=True)
    history.hours.write_csv(hours)
    history.decisions.write_parquet(decisions)


def import_history(folder: Path) -> History:
    """Read both tables back, held against the contract. Raises BadInput naming file, line and column."""
    path = folder / "decisions.parquet"
    for needed in (folder / "hours.csv", path):
        if not needed.is_file():
            raise BadInput(f"no {needed.name} in {folder}: export the history first.")
    hours = _read_hours(folder / "hours.csv", HOURS)
    try:
        decisions = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"{path} cannot be read ({str(error).splitlines()[0]}).") from error
    _check_contract(decisions, DECISIONS, path, _ROWS)
    return History(hours, decisions)


def import_reports(folder: Path) -> pl.DataFrame:
    """Read the hours alone, held against REPORTS. Raises BadInput naming file, line and column."""
    return _read_hours(folder / "hours.csv", REPORTS)


def cube(
    table: pl.DataFrame, column: str, days: NDArray[np.int64], ticks: str, width: int
) -> NDArray[np.float64]:
    """Column as [items, days, width] in order of item, day and `ticks`. Raises BadInput when rows are missing."""
    chosen = table.filter(pl.col("day").is_in(days.tolist())).sort(["item", "day", ticks])
    items = chosen["item"].n_unique()
    if chosen.height != items * len(days) * width:
        raise BadInput(
            f"the history has holes: {chosen.height} rows of {column!r}, {items * len(days) * width} expected."
        )
    return chosen[column].to_numpy().astype(np.float64).reshape(items, len(days), width)


def _read_hours(path: Path, contract: pa.DataFrameSchema) -> pl.DataFrame:
    needed = [name for name, column in contract.columns.items() if column.required]
    optional = [name for name in contract.columns if name not in needed]
    expected = f"a header with {', '.join(needed)} (where known also {', '.join(optional)})"
    cells = read_cells(path, expected, quote='"')
    check_header(cells.columns, needed, list(contract.columns), path, expected)
    if cells.height == 0:
        raise BadInput(f"{path} holds no half hours below its header.")
    read = {pl.Int64: whole_numbers, pl.Float64: numbers, pl.String: names}
    hours = pl.DataFrame(
        [read[contract.columns[name].dtype.type](cells, name, path) for name in cells.columns]
    )
    _check_contract(hours, contract, path, _LINES)
    _check_together(hours, path)
    return hours


_LINES = ("line", 2)
_ROWS = ("row", 1)
"""How rows are told: lines of a file with a header, or plain rows; the name and number of the first."""


def _check_contract(
    table: pl.DataFrame, contract: pa.DataFrameSchema, path: Path, counted: tuple[str, int]
) -> None:
    """Refuse a table with a value that the contract forbids, by its first row. Raises BadInput."""
    try:
        contract.validate(table, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases.filter(pl.col("index").is_not_null())
        if cases.height == 0:
            raise BadInput(f"{path}: {str(error.schema_errors[0]).splitlines()[0]}.") from error
        unit, first = counted
        case = cases.sort("index", maintain_order=True).row(0, named=True)
        row, column = case["index"], case["column"]
        place = f"{path}, {unit} {row + first}"
        if column is None:
            raise BadInput(f"{place}: another {unit} has the same {', '.join(_DECISION)}.") from error
        value = table[column][row]
        shown = "missing" if value is None else value
        expected = "a value" if case["check"] == "not_nullable" else case["check"]
        raise BadInput(f"{place}, {column}: {shown}, expected {expected}.") from error


class _Rule(NamedTuple):
    """What no row may be, and what is said of one that is: both over rows with their `line` in the file."""

    column: str
    broken: pl.Expr
    complaint: pl.Expr


def _check_together(hours: pl.DataFrame, path: Path) -> None:
    """Refuse hours that cannot all be true. Raises BadInput naming the first line, as in a file with a header."""
    rows = hours.with_row_index("line", offset=2)
    # Order first: in a file that is out of order every other line looks like a hole.
    for rules in (_order_rules(), _rules(hours.columns)):
        first = rows.select(
            rule.broken.fill_null(False).arg_true().first().alias(str(k)) for k, rule in enumerate(rules)
        ).row(0)
        found = [(row, k) for k, row in enumerate(first) if row is not None]
        if found:
            row, k = min(found)
            said = rows.select(rules[k].complaint).to_series()[row]
            raise BadInput(f"{path}, line {row + 2}, {rules[k].column}: {said}.")


def _order_rules() -> list[_Rule]:
    """No half hour twice, and each line item's rows run forwards."""
    line, item, day, tick, campaign = (pl.col(name) for name in ("line", "item", "day", "tick", "campaign"))
    day_before, tick_before = (of.shift(1).over("item") for of in (day, tick))
    time_first = line.first().over("item", "day", "tick")
    return [
        _Rule(
            "tick", line != time_first,
            pl.format("half hour {} of day {} of item {} stands in line {} already", tick, day, item, time_first),
        ),
        _Rule(
            "tick", (day < day_before) | ((day == day_before) & (tick < tick_before)),
            pl.format(
                "half hour {} of day {} stands after half hour {} of day {} of campaign {}; its clock runs backwards, "
                "sort the file by day and tick", tick, day, tick_before, day_before, campaign,
            ),
        ),
    ]  # fmt: skip


def _rules(columns: Sequence[str]) -> list[_Rule]:
    """What rows in order must fulfil, where these columns are; of two that one line breaks the earlier is told."""
    line, day, tick, weekday = (pl.col(name) for name in ("line", "day", "tick", "weekday"))
    eligible, impressions, clicks = (pl.col(name) for name in ("eligible", "impressions", "clicks"))
    conversions, arrived = pl.col("conversions"), pl.col("arrived")
    cost, bid, campaign = pl.col("cost_micros"), pl.col("bid_micros"), pl.col("campaign")

    day_before, tick_before = (of.shift(1).over("item") for of in (day, tick))
    begins = day_before.is_null()
    next_tick = pl.when(begins | (day != day_before)).then(0).otherwise(tick_before + 1)
    day_ends, item_ends = (line == line.max().over(of) for of in (["item", "day"], ["item"]))
    clicks_so_far = clicks.cum_sum().over("item", "day")
    weekday_before = weekday.shift(1).over("item")
    weekday_next = (weekday_before + day - day_before) % 7
    weekday_first, line_first = (of.first().over("day") for of in (weekday, line))

    rules = [
        _Rule(
            "day", day > day_before + 1,
            pl.format("day {} of campaign {} follows day {}, expected {}; the history has a hole",
                      day, campaign, day_before, day_before + 1),
        ),
        _Rule(
            "day", begins & (day > day.min()),
            pl.format("campaign {} begins with day {}, the history with day {}; each line item needs every day",
                      campaign, day, day.min()),
        ),
        _Rule(
            "tick", tick != next_tick,
            pl.format("half hour {} of day {} of campaign {}, expected {}; the history has a hole",
                      tick, day, campaign, next_tick),
        ),
        _Rule(
            "tick", day_ends & (tick.max().over("item", "day") < TICKS_PER_DAY - 1),
            pl.format("day {} of campaign {} ends with half hour {}, expected {}; the history has a hole",
                      day, campaign, tick, pl.lit(TICKS_PER_DAY - 1)),
        ),
        _Rule(
            "day", item_ends & (day.max().over("item") < day.max()),
            pl.format("campaign {} ends with day {}, the history with day {}; each line item needs every day",
                      campaign, day, day.max()),
        ),
        _Rule(
            "weekday", weekday != weekday_first,
            pl.format("day {} is weekday {}, and weekday {} in line {}; a day has one weekday",
                      day, weekday, weekday_first, line_first),
        ),
        _Rule(
            "weekday", weekday != weekday_next,
            pl.format("day {} is weekday {} after weekday {} on day {}, expected {}",
                      day, weekday, weekday_before, day_before, weekday_next),
        ),
        _Rule(
            "impressions", impressions > eligible,
            pl.format("{} impressions of {} eligible auctions, expected at most one each", impressions, eligible),
        ),
        _Rule(
            "clicks", clicks > impressions,
            pl.format("{} clicks of {} impressions, expected at most one each", clicks, impressions),
        ),
        # The bid is told in whole micros: what was paid may be above it by the rounding.
        _Rule(
            "cost_micros", cost > clicks * (bid + 1),
            pl.format("{} for {} clicks, the bid was {} a click", cost, clicks, bid),
        ),
        _Rule(
            "conversions", conversions > clicks,
            pl.format("{} conversions of {} clicks, expected at most one each, in the half hour of the click",
                      conversions, clicks),
        ),
        _Rule(
            "arrived", arrived > clicks_so_far,
            pl.format("{} conversions had arrived of the day's {} clicks so far, expected at most one each",
                      arrived, clicks_so_far),
        ),
    ]  # fmt: skip
    if "read_after_hours" in columns:
        after = pl.col("read_after_hours")
        after_first = after.first().over("day")
        several = pl.format(
            "{} for day {}, and {} in line {}; a day is read once", after, day, after_first, line_first
        )
        rules.append(_Rule("read_after_hours", after != after_first, several))
    if "currency" in columns:
        currency = pl.col("currency")
        several = pl.format(
            "{} beside {} in line 2; a history is kept in one currency", currency, currency.first()
        )
        rules.append(_Rule("currency", currency != currency.first(), several))
    return rules
