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
    },
    strict=True,
    unique=["item", "day", "tick"],
)
"""One row per campaign and half hour. `conversions` belong to the half hour's clicks and are final; `arrived` counts
the day's conversions that were known when the half hour ended; `move` is the executed log multiplier."""

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
    _checked(history.hours, HOURS, "hours").write_csv(folder / "hours.csv")
    _checked(history.decisions, DECISIONS, "decisions").write_parquet(folder / "decisions.parquet")


def import_history(folder: Path) -> History:
    """Read both tables back, held against the contract. Raises BadInput naming file, column and row."""
    for name in ("hours.csv", "decisions.parquet"):
        if not (folder / name).is_file():
            raise BadInput(f"no {name} in {folder}: export the history first.")
    types = {name: column.dtype.type for name, column in HOURS.columns.items()}
    try:
        hours = pl.read_csv(folder / "hours.csv", schema_overrides=types)
        decisions = pl.read_parquet(folder / "decisions.parquet")
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"{folder}: not a readable history: {str(error).splitlines()[0]}") from error
    return History(
        _checked(hours, HOURS, str(folder / "hours.csv")),
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
