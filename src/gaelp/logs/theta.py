"""Reads iPinYou theta lines (`click price pCTR [exchange]`) as checked columns; knows nothing of bids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import BadInput, ShapeError
from gaelp.logs.files import expect_file

# Prices up to here convert exactly to float64, and a million of them (a block of a replay) sum within int64.
HIGHEST_PRICE = 1 << 40

BLOCK_BYTES = 1 << 22
LONGEST_LINE = 4096  # bytes; without a bound, a file that has no line breaks would be read into memory whole

_CLICK = rb"[01]"
_PRICE = rb"[0-9]{1,18}+"  # 18 digits fit int64; HIGHEST_PRICE is compared as a number
_PCTR = rb"\+?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+"
_EXCHANGE = rb"[!-~]++"
_LINE = (
    rb"(?=.{1,%d}\n)[ \t]*+" % LONGEST_LINE
    + rb"[ \t]++".join([_CLICK, _PRICE, _PCTR])
    + rb"(?:[ \t]++%s)?+[ \t]*+\r?\n" % _EXCHANGE
)
# Possessive throughout: a match ends where the first malformed line begins and never backtracks.
_LINES = re.compile(rb"(?:%s)*+" % _LINE)

_COLUMNS = "'click price pCTR' and at most an exchange, parted by spaces or tabs"


@dataclass(frozen=True, kw_only=True)
class ThetaAuctions:
    """Consecutive auctions of one log, in order.

    click: int8 (n,), 0 or 1; price: int64 (n,), the market price in the log's own unit, 0 to HIGHEST_PRICE;
    value: float64 (n,), the predicted click rate, 0 to 1.
    Raises ShapeError and BadInput when the columns are not that.
    """

    click: NDArray[np.int8]
    price: NDArray[np.int64]
    value: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name, column, dtype, highest in (
            ("click", self.click, np.int8, 1),
            ("price", self.price, np.int64, HIGHEST_PRICE),
            ("value", self.value, np.float64, 1),
        ):
            if column.dtype != dtype or column.shape != (len(self.click),):
                raise ShapeError(
                    f"{name} is {column.dtype} of shape {column.shape}, "
                    f"expected {np.dtype(dtype)} of shape ({len(self.click)},)."
                )
            # Written as "all inside", because NaN is neither below nor above.
            if not ((column >= 0) & (column <= highest)).all():
                raise BadInput(f"{name} holds a number outside 0 to {highest}.")

    def __len__(self) -> int:
        return len(self.click)


def read_theta(path: Path, *, block_bytes: int = BLOCK_BYTES) -> Iterator[ThetaAuctions]:
    """The auctions of the log at `path`, about `block_bytes` of text at a time, so that memory stays flat.

    Lines end with LF or CRLF, the last one maybe with neither; numbers become what int() and float() make of
    them.
    Raises BadInput naming file and line of the first malformed line, after the blocks before it were yielded.
    """
    expect_file(path, f"lines of {_COLUMNS}")
    try:
        with path.open("rb") as stream:
            yield from _auctions(stream, path, block_bytes)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error


def _auctions(stream: BinaryIO, path: Path, block_bytes: int) -> Iterator[ThetaAuctions]:
    lines_before = 0
    rest = b""
    while block := stream.read(block_bytes):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        lines = whole + newline
        if lines:
            yield _parsed(lines, path, lines_before)
            lines_before += lines.count(b"\n")
        if len(rest) > LONGEST_LINE:
            _refuse(rest, path, lines_before + 1)
    if rest:
        yield _parsed(rest + b"\n", path, lines_before)
    elif lines_before == 0:
        raise BadInput(f"{path} is empty, expected lines of {_COLUMNS}.")


def _parsed(lines: bytes, path: Path, lines_before: int) -> ThetaAuctions:
    """The columns of whole lines: one pass of the grammar, one of NumPy, a closer look only at a bad line."""
    matched = _LINES.match(lines)
    assert matched is not None, "the pattern matches the empty text"
    well_formed = lines[: matched.end()]
    columns = [("click", np.int8), ("price", np.int64), ("value", np.float64)]
    rows = np.empty(0, columns)
    if well_formed:
        rows = np.loadtxt(BytesIO(well_formed), columns, comments=None, usecols=(0, 1, 2), ndmin=1)
    too_high = np.flatnonzero((rows["price"] > HIGHEST_PRICE) | (rows["value"] > 1))
    if len(too_high) or len(well_formed) < len(lines):
        row = int(too_high[0]) if len(too_high) else len(rows)
        _refuse(lines.split(b"\n", row + 1)[row], path, lines_before + row + 1)
    return ThetaAuctions(**{name: np.ascontiguousarray(rows[name]) for name, _ in columns})


def _refuse(line: bytes, path: Path, number: int) -> NoReturn:
    raise BadInput(f"{path}, line {number}: {_complaint(line)}.")


def _complaint(line: bytes) -> str:
    """What is wrong with one refused line (without its LF): what was seen, and what was expected."""
    if len(line) > LONGEST_LINE:
        return f"the line is longer than {LONGEST_LINE} bytes, expected {_COLUMNS}"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        seen = f"byte {error.start + 1} is 0x{line[error.start]:02x}"
        return f"{seen}, which is not UTF-8 text, expected {_COLUMNS}"
    fields = re.findall(rb"[^ \t]+", line.removesuffix(b"\r"))
    if not fields:
        return f"the line is blank, expected {_COLUMNS}"
    if len(fields) not in (3, 4):
        return f"{len(fields)} column{'s'[: len(fields) > 1]}, expected {_COLUMNS}"
    click, price, pctr = fields[:3]
    if not re.fullmatch(_CLICK, click):
        return f"click is {_shown(click)}, expected 0 or 1"
    if not re.fullmatch(_PRICE, price) or int(price) > HIGHEST_PRICE:
        return f"price is {_shown(price)}, expected a whole number from 0 to {HIGHEST_PRICE}"
    if not re.fullmatch(_PCTR, pctr) or float(pctr) > 1:
        return f"pCTR is {_shown(pctr)}, expected a number from 0 to 1"
    return f"the line is {_shown(line)}, expected {_COLUMNS}"


def _shown(seen: bytes) -> str:
    text = seen.decode()
    return ascii(text if len(text) <= 40 else text[:40] + "...")
