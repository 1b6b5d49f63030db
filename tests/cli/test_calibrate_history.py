"""`gaelp calibrate --format gaelp-history`: hourly reports alone are enough, and a bad cell is told by its place."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.market.histories import Planted, history, reports
from tests.specs.journey import ENTRANCE

import gaelp
from gaelp.cli.calibrate_command import calibrate_command

LATE = Planted(
    items=4, days=24, fatigue=0.0, conversion_rate=0.15, delay_share=0.5, fast=0.3, slow=0.015, read_after=24
)
"""Half of the conversions take 33 hours on average, and were read 12 hours after their day."""


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return reports(history(LATE, 5))


def printed(folder: Path, table: pl.DataFrame, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the command prints for a folder that holds nothing but this table."""
    table.write_csv(folder / "hours.csv")
    calibrate_command(folder, "gaelp-history", hold_out="0.25", json_=True)
    return json.loads(capsys.readouterr().out)


def rates(told: dict[str, Any]) -> list[float]:
    return [p["estimate"] for p in told["parameters"] if p["name"].startswith("conversion_rate")]


def test_conversions_still_to_come_when_a_report_was_read_raise_the_rate(tmp_path, table, capsys):
    told = printed(tmp_path, table, capsys)
    final = printed(tmp_path, table.drop("read_after_hours"), capsys)
    # A click at noon is read 24 hours later, and 0.985^48 = 0.48 of the slow half are still to come: 1 in 4 of all.
    assert all(high > 1.1 * low for high, low in zip(rates(told), rates(final), strict=True))
    assert np.mean(rates(told)) == pytest.approx(0.15, rel=0.15)
    assert told["fidelity"] != final["fidelity"]


def test_hours_without_moves_and_targets_are_fitted_and_say_that_nobody_randomised(tmp_path, table, capsys):
    told = printed(tmp_path, table.drop("move", "target_cpa_micros", "read_after_hours"), capsys)
    assert (told["fitted_days"], told["held_out_days"]) == (18, 6)
    known = {p["name"]: p["identified"] for p in told["parameters"]}
    assert not known["price_sd, line item 0"]
    assert not known["answer, line item 0"]
    assert known["click_rate, line item 0"]
    calibrate_command(tmp_path, "gaelp-history", hold_out="0.25")
    assert "price_sd: too few randomised moves" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("clicks", "-3", "line 40, clicks: -3, expected at least 0."),
        ("bid_micros", "", "line 40, bid_micros: missing, expected a whole number."),
    ],
)
def test_a_bad_cell_is_one_sentence_and_exit_code_2(tmp_path, table, column, cell, said):
    path = tmp_path / "hours.csv"
    table.cast({column: pl.String}).with_row_index("line", offset=2).with_columns(
        pl.when(pl.col("line") == 40).then(pl.lit(cell or None)).otherwise(pl.col(column)).alias(column)
    ).drop("line").write_csv(path)
    environment = {**os.environ, "PYTHONPATH": str(Path(gaelp.__file__).parents[1])}
    words = ("calibrate", str(tmp_path), "--format", "gaelp-history")
    done = subprocess.run(
        [*ENTRANCE, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"gaelp: {path}, {said}\n")
