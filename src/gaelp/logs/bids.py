"""Bid logs: auctions as their bidder saw them, in order; what a lost auction would have cost is in no column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gaelp.core.errors import BadInput, ShapeError
from gaelp.logs.cells import check_header, names, numbers, read_cells
from gaelp.logs.theta import ThetaAuctions

NEEDED = ("bid", "won", "price", "pctr", "click")
ALLOWED = (*NEEDED, "auction", "time_s", "currency")
COLUMNS = f"a header with {', '.join(NEEDED)} (where known also auction, time_s, currency)"


@dataclass(frozen=True, kw_only=True)
class BidLog:
    """Consecutive second-price auctions of one bidder, in order; a bid of at least the price wins and pays the price.

    bid: float64 (n,), at least 0; inf where the price is shown whatever was bid. won: bool (n,).
    price: float64 (n,), what was paid, NaN where lost: there one knows only that the price was above the bid.
    value: float64 (n,), the predicted click rate, 0 to 1. click: int8 (n,), 0 where lost.
    time_s: float64 (n,), seconds that never decrease, or None for a log without a clock.
    Raises ShapeError and BadInput, naming row (the first is 1) and column, when the columns are not that.
    """

    bid: NDArray[np.float64]
    won: NDArray[np.bool_]
    price: NDArray[np.float64]
    value: NDArray[np.float64]
    click: NDArray[np.int8]
    time_s: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        for name, column, dtype in (
            ("bid", self.bid, np.float64),
            ("won", self.won, np.bool_),
            ("price", self.price, np.float64),
            ("value", self.value, np.float64),
            ("click", self.click, np.int8),
            ("time_s", self.bid if self.time_s is None else self.time_s, np.float64),
        ):
            if column.dtype != dtype or column.shape != (len(self.bid),):
                raise ShapeError(
                    f"{name} is {column.dtype} of shape {column.shape}, "
                    f"expected {np.dtype(dtype)} of shape ({len(self.bid)},)."
                )
        fault = _first_fault(self)
        if fault is not None:
            raise BadInput(f"row {fault.row + 1}, {fault.column}: {fault.complaint}.")

    def __len__(self) -> int:
        return len(self.bid)

    def rows(self, part: slice) -> BidLog:
        """Some of the auctions, in order."""
        return BidLog(
            bid=self.bid[part],
            won=self.won[part],
            price=self.price[part],
            value=self.value[part],
            click=self.click[part],
            time_s=None if self.time_s is None else self.time_s[part],
        )

    def bidding_at_most(self, bid: float) -> BidLog:
        """What the bidder had seen with no bid above `bid`: dearer auctions are lost, their prices unknown.

        Raises BadInput unless `bid` is a finite number of at least 0.
        """
        if not (np.isfinite(bid) and bid >= 0):
            raise BadInput(f"the highest bid is {bid}, expected a finite number of at least 0.")
        won = self.won & (self.price <= bid)
        return replace(
            self,
            bid=np.minimum(self.bid, bid),
            won=won,
            price=np.where(won, self.price, np.nan),
            click=np.where(won, self.click, 0).astype(np.int8),
        )


def bids_of_theta(chunks: Iterable[ThetaAuctions]) -> BidLog:
    """Theta lines as a bid log: every market price is shown, as to a bidder without limit. Held in memory whole."""
    read = list(chunks)
    if not read:
        raise BadInput("the log holds no auctions.")
    price = np.concatenate([chunk.price for chunk in read]).astype(np.float64)
    return BidLog(
        bid=np.full(len(price), np.inf),
        won=np.ones(len(price), np.bool_),
        price=price,
        value=np.concatenate([chunk.value for chunk in read]),
        click=np.concatenate([chunk.click for chunk in read]),
    )


def read_bids(path: Path) -> BidLog:
    """The bid log in the CSV file at `path`: one auction a line, in order, no quotes. Held in memory whole.

    Columns by name: bid, won (0 or 1), price (empty where lost), pctr, click (0 or 1); where known also auction (a
    name that no other line has), time_s and currency (the same in every line). Blanks around numbers and names do not
    count.
    Raises BadInput naming file, line and column of what cannot be used.
    """
    table = read_cells(path, COLUMNS, quote=None)
    check_header(table.columns, NEEDED, ALLOWED, path, COLUMNS)
    if table.height == 0:
        raise BadInput(f"{path} holds no auctions below its header.")
    read = _Columns(
        bid=_floats(table, "bid", path),
        won=_floats(table, "won", path),
        price=_floats(table, "price", path, hole=np.nan),
        value=_floats(table, "pctr", path),
        click=_floats(table, "click", path),
        time_s=_floats(table, "time_s", path) if "time_s" in table.columns else None,
    )
    fault = _first_fault(read)
    if fault is not None:
        column = "pctr" if fault.column == "value" else fault.column
        raise BadInput(f"{path}, line {fault.row + 2}, {column}: {fault.complaint}.")
    _check_names(table, path)
    return BidLog(
        bid=read.bid,
        won=read.won == 1,
        price=read.price,
        value=read.value,
        click=read.click.astype(np.int8),
        time_s=read.time_s,
    )


class _Columns(NamedTuple):
    """The columns of a file as numbers, nothing checked yet; named as in BidLog."""

    bid: NDArray[np.float64]
    won: NDArray[np.float64]
    price: NDArray[np.float64]
    value: NDArray[np.float64]
    click: NDArray[np.float64]
    time_s: NDArray[np.float64] | None


class _Fault(NamedTuple):
    """One thing wrong with a log: where (the first row is 0), and what."""

    row: int
    column: str
    complaint: str


def _first_fault(log: BidLog | _Columns) -> _Fault | None:
    """The fault in the earliest row; None for a sound log."""
    found: list[_Fault] = []

    def expect(column: str, fine: NDArray[np.bool_], expected: str) -> None:
        if not fine.all():
            row = int(np.argmin(fine))
            seen = float(getattr(log, column)[row])
            shown = "missing" if np.isnan(seen) else f"{seen:.15g}"
            found.append(_Fault(row, column, f"{shown}, expected {expected}"))

    # Each is written as "fine", because NaN is neither below nor above.
    won, lost = log.won == 1, log.won == 0
    expect("won", won | lost, "0 or 1")
    expect("bid", log.bid >= 0, "a number of at least 0")
    expect("price", ~won | (np.isfinite(log.price) & (log.price >= 0)), "what the auction that was won cost")
    expect("price", ~lost | np.isnan(log.price), "nothing where the auction was lost")
    expect("price", ~(won & (log.price > log.bid)), "at most the bid, as in any second-price auction")
    expect("value", (log.value >= 0) & (log.value <= 1), "a click rate from 0 to 1")
    expect("click", (log.click == 0) | (log.click == 1), "0 or 1")
    expect("click", ~(lost & (log.click == 1)), "0 where the auction was lost")
    if log.time_s is not None:
        expect("time_s", np.isfinite(log.time_s), "a number of seconds")
        earlier = np.concatenate([log.time_s[:1], log.time_s[:-1]])
        expect("time_s", ~(log.time_s < earlier), "a time not before the line above: clocks run forwards")
    return min(found, key=lambda fault: fault.row) if found else None


def _floats(table: pl.DataFrame, column: str, path: Path, hole: float | None = None) -> NDArray[np.float64]:
    return numbers(table, column, path, hole).to_numpy().astype(np.float64)


def _check_names(table: pl.DataFrame, path: Path) -> None:
    """No auction twice, one currency."""
    for column in ("auction", "currency"):
        if column in table.columns:
            table = table.with_columns(names(table, column, path))
    if "auction" in table.columns and (again := ~table["auction"].is_first_distinct()).any():
        row = int(again.to_numpy().argmax())
        name = table["auction"][row]
        first = int((table["auction"] == name).to_numpy().argmax())
        raise BadInput(
            f"{path}, line {row + 2}, auction: {name!a} stands in line {first + 2} already, expected each once."
        )
    if "currency" in table.columns and (other := table["currency"] != table["currency"][0]).any():
        row = int(other.to_numpy().argmax())
        raise BadInput(
            f"{path}, line {row + 2}, currency: {table['currency'][row]!a} after {table['currency'][0]!a}; "
            "split the log, amounts of two currencies cannot be compared."
        )
