"""A log's CSV file as text, and its columns as numbers and names; a refusal names file, line and column."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from gaelp.core.errors import BadInput, nearest
from gaelp.logs.files import expect_file


def read_cells(path: Path, expected: str, quote: str | None) -> pl.DataFrame:
    """The file's cells as text: a number that is none must be refused with its line, and not become a hole.

    An empty cell is null, and so is what a short row lacks. quote: what encloses a name with commas, or None. Raises
    BadInput, which says what was `expected`, for a missing file, or one that is no table of text.
    """
    expect_file(path, expected)
    try:
        return pl.read_csv(path, infer_schema=False, quote_char=quote)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(_unreadable(path, str(error).splitlines()[0], expected, quote)) from error


def check_header(
    columns: Sequence[str], needed: Sequence[str], allowed: Sequence[str], path: Path, expected: str
) -> None:
    """Every column that is needed, none twice, and no other than is allowed. Raises BadInput."""
    for column in columns:
        if column not in allowed:
            # Polars renames a repeated column, so that one is refused here too.
            raise BadInput(
                f"{path}, line 1: unknown or repeated column {column!r}.{nearest(column, allowed)} Expected {expected}."
            )
    missing = [column for column in needed if column not in columns]
    if missing:
        raise BadInput(f"{path}, line 1: no column {', '.join(missing)}; expected {expected}.")


def numbers(table: pl.DataFrame, column: str, path: Path, hole: float | None = None) -> pl.Series:
    """A column of text as float64; an empty cell is `hole`, or refused when there is none. Raises BadInput."""
    text = table[column]
    number = text.str.strip_chars().cast(pl.Float64, strict=False)
    wrong = (text.is_not_null() & (number.is_null() | ~number.is_finite())).fill_null(True)
    if hole is None:
        wrong = wrong | text.is_null()
    _refuse(text, wrong, path, "a number")
    return number if hole is None else number.fill_null(hole)


def whole_numbers(table: pl.DataFrame, column: str, path: Path) -> pl.Series:
    """A column of text as int64, no cell empty. Raises BadInput."""
    text = table[column]
    number = text.str.strip_chars().cast(pl.Int64, strict=False)
    _refuse(text, number.is_null(), path, "a whole number")
    return number


def names(table: pl.DataFrame, column: str, path: Path) -> pl.Series:
    """A column of names without the blanks around them, no cell empty. Raises BadInput."""
    stripped = table[column].str.strip_chars()
    text = stripped.set(stripped == "", None)
    # A name with a line break would also make every line number after it wrong.
    _refuse(text, (text.is_null() | text.str.contains("\n")).fill_null(True), path, "a name")
    return text


def _refuse(text: pl.Series, wrong: pl.Series, path: Path, expected: str) -> None:
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        shown = "missing" if text[row] is None else ascii(text[row][:40])
        raise BadInput(f"{path}, line {row + 2}, {text.name}: {shown}, expected {expected}.")


def _unreadable(path: Path, complaint: str, expected: str, quote: str | None) -> str:
    """The sentence for a file that is no table: the first line with too many columns or no text, if that is why."""
    columns = None
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                return f"{path}, line {number}: byte {error.start + 1} is no UTF-8 text, expected {expected}."
            if quote is not None and text.count(quote) % 2:
                return f"{path}, line {number}: a quote that is not closed in its line, expected {expected}."
            seen = text.count(",") + 1 if quote is None else len(next(csv.reader([text], quotechar=quote)))
            if columns is not None and seen > columns:
                return f"{path}, line {number}: {seen} columns, expected the header's {columns}."
            columns = seen if columns is None else columns
    return f"{path} cannot be read ({complaint}), expected {expected}."
