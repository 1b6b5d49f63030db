"""The canonical log tables of an account's history: hours and decisions, their contract, and their files.

`hours.csv` is what any platform's hourly report holds, plus the randomised move that was in force;
`decisions.parquet` is what off-policy learning needs: observation, move and its probability. Money is integer micros.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandera.polars as pa
import polars as pl
from numpy.typing import NDArray
from pandera.errors import SchemaError, SchemaErrors

from gaelp.core.errors import BadInput
from gaelp.core.schema import TICKS_PER_DAY

HOURS = pa.DataFrameSchema(
    {
        "campaign": pa.Column(str),
        "item": pa.Column(pl.Int64, pa.Check.ge(0)),
        "day": pa.Column(pl.Int64, pa.Check.ge(0)),
        "weekday": pa.Column(pl.Int64, pa.Check.in_range(0, 6)),
        "tick": pa.Column(pl.Int64, pa.Check.in_range(0, TICKS_PER_DAY - 1)),
        "bid_micros": pa.Column(pl.Int64, pa.Check.gt(0)),
        "move": pa.Column(pl.Float64, pa.Check.in_range(-10.0, 10.0)),
        "eligible": pa.Column(pl.Int64, pa.Check.ge(0)),
        "impressions": pa.Column(pl.Int64, pa.Check.ge(0)),
        "clicks": pa.Column(pl.Int64, pa.Check.ge(0)),
        "cost_micros": pa.Column(pl.Int64, pa.Check.ge(0)),
        "conversions": pa.Column(pl.Int64, pa.Check.ge(0)),
        "arrived": pa.Column(pl.Int64, pa.Check.ge(0)),
        "target_cpa_micros": pa.Column(pl.Int64, pa.Check.gt(0)),
        "budget_micros": pa.Column(pl.Int64, pa.Check.gt(0)),
        "value_micros": pa.Column(pl.Int64, pa.Check.ge(0), required=False),
        "currency": pa.Column(str, pa.Check.str_matches("^[A-Z]{3}$"), required=False),
    },
    strict=True,
)
"""One row per campaign and half hour, each campaign's in order of time. `conversions` belong to the half hour's
clicks and are final; `arrived` counts
the day's conversions that were known when the half hour ended; `move` is the executed log multiplier;
`value_micros`, where there is such a column, the orders' value."""

DECISIONS = pa.DataFrameSchema(
    {
        "campaign": pa.Column(str),
        "item": pa.Column(pl.Int64, pa.Check.ge(0)),
        "day": pa.Column(pl.Int64, pa.Check.ge(0)),
        "decision": pa.Column(pl.Int64, pa.Check.ge(0)),
        "move": pa.Column(pl.Int64, pa.Check.ge(0)),
        "pace": pa.Column(pl.Float64, pa.Check.in_range(-10.0, 10.0)),
        "log_prob": pa.Column(pl.Float64, pa.Check.in_range(-700.0, 0.0)),
        "scale": pa.Column(pl.Float64, pa.Check.ge(0.0)),
        "pacer_hash": pa.Column(str),
        "schema_hash": pa.Column(str),
        "observation": pa.Column(pl.List(pl.Float32)),
    },
    strict=True,
    unique=["item", "day", "decision"],
)
"""One row per decision, and one more per day (decision = T, move and probability 0) for the observation after it."""


@dataclass(frozen=True)
class History:
    """The two tables, checked."""

    hours: pl.DataFrame
    decisions: pl.DataFrame


def export_history(history: History, folder: Path) -> None:
    """Write both tables into `folder`, checked first."""
    folder.mkdir(parents=True, exist_ok=True)
    _consistent(_checked(history.hours, HOURS, "hours"), "hours").write_csv(folder / "hours.csv")
    _checked(history.decisions, DECISIONS, "decisions").write_parquet(folder / "decisions.parquet")


def import_history(folder: Path) -> History:
    """Read both tables back, held against the contract. Raises BadInput naming file, line and column."""
    for name in ("hours.csv", "decisions.parquet"):
        if not (folder / name).is_file():
            raise BadInput(f"no {name} in {folder}: export the history first.")
    try:
        named = pl.read_csv(folder / "hours.csv", n_rows=0).columns
        types = {name: column.dtype.type for name, column in HOURS.columns.items() if name in named}
        hours = pl.read_csv(folder / "hours.csv", schema_overrides=types)
        decisions = pl.read_parquet(folder / "decisions.parquet")
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"{folder}: not a readable history: {str(error).splitlines()[0]}") from error
    where = str(folder / "hours.csv")
    return History(
        _consistent(_checked(hours, HOURS, where), where),
        _checked(decisions, DECISIONS, str(folder / "decisions.parquet")),
    )


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


def _checked(table: pl.DataFrame, contract: pa.DataFrameSchema, where: str) -> pl.DataFrame:
    try:
        return contract.validate(table)
    except (SchemaError, SchemaErrors) as error:
        raise BadInput(f"{where}: {str(error).splitlines()[0]}") from error


def _consistent(hours: pl.DataFrame, where: str) -> pl.DataFrame:
    """Refuse hours that cannot all be true. Raises BadInput naming the first line, as in a file with a header."""
    rows = hours.with_row_index("line", offset=2)
    if "currency" in hours.columns:
        first = hours["currency"][0]
        for line in rows.filter(pl.col("currency") != first).head(1).iter_rows(named=True):
            raise BadInput(
                f"{where}: line {line['line']}, currency: {line['currency']} beside {first} in line 2; a history "
                "is kept in one currency."
            )
    twice = rows.filter(~pl.struct("item", "day", "tick").is_first_distinct())
    for line in twice.head(1).iter_rows(named=True):
        raise BadInput(
            f"{where}: line {line['line']}, tick: half hour {line['tick']} of day {line['day']} of item {line['item']} "
            "stands there a second time."
        )
    for line in rows.filter(pl.col("clicks") > pl.col("impressions")).head(1).iter_rows(named=True):
        raise BadInput(
            f"{where}: line {line['line']}, clicks: {line['clicks']} clicks of {line['impressions']} impressions."
        )
    # The bid is told in whole micros: what was paid may be above it by the rounding.
    dear = rows.filter(pl.col("cost_micros") > pl.col("clicks") * (pl.col("bid_micros") + 1))
    for line in dear.head(1).iter_rows(named=True):
        raise BadInput(
            f"{where}: line {line['line']}, cost_micros: {line['cost_micros']} for {line['clicks']} clicks, "
            f"the bid was {line['bid_micros']} a click."
        )
    _in_time(rows, where)
    return hours


def _in_time(rows: pl.DataFrame, where: str) -> None:
    """Each campaign's rows run forwards, and no half hour of its days is missing."""
    after = rows.with_columns(
        (pl.col("day") * TICKS_PER_DAY + pl.col("tick")).alias("time"),
    ).with_columns(
        pl.col("time").shift(1).over("campaign", "item").alias("before"),
        pl.col("day").shift(1).over("campaign", "item").alias("day_before"),
    )
    for line in after.filter(pl.col("time") < pl.col("before")).head(1).iter_rows(named=True):
        raise BadInput(
            f"{where}: line {line['line']}, tick: half hour {line['tick']} of day {line['day']} stands after half hour "
            f"{line['before'] % TICKS_PER_DAY} of day {line['before'] // TICKS_PER_DAY} of campaign "
            f"{line['campaign']}; its clock runs backwards."
        )
    first = pl.col("day_before").is_null() | (pl.col("day") != pl.col("day_before"))
    expected = pl.when(first).then(0).otherwise(pl.col("before") % TICKS_PER_DAY + 1)
    gaps = after.with_columns(expected.alias("expected")).filter(pl.col("tick") != pl.col("expected"))
    for line in gaps.head(1).iter_rows(named=True):
        raise BadInput(
            f"{where}: line {line['line']}, tick: half hour {line['tick']} of day {line['day']} of campaign "
            f"{line['campaign']}, expected {line['expected']}; the history has a hole."
        )
    ends = after.group_by("campaign", "item", "day", maintain_order=True).last()
    for line in ends.filter(pl.col("tick") != TICKS_PER_DAY - 1).head(1).iter_rows(named=True):
        raise BadInput(
            f"{where}: line {line['line']}, tick: day {line['day']} of campaign {line['campaign']} ends with half hour "
            f"{line['tick']}, expected {TICKS_PER_DAY - 1}; the history has a hole."
        )
