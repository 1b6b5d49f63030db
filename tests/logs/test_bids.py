"""Bid logs: what is read, what a lower bid would have seen, and the sentence for each thing that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gaelp.core.errors import BadInput, ShapeError
from gaelp.logs.bids import COLUMNS, BidLog, bids_of_theta, read_bids
from gaelp.logs.theta import ThetaAuctions

THREE = "bid,won,price,pctr,click\n50,1,40,0.5,1\n10,0,,0.1,0\n25.5,1,25.5,0.25,0\n"


@pytest.fixture
def file(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "bids.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def log(**changed: object) -> BidLog:
    """The three auctions of THREE."""
    columns = {
        "bid": np.array([50.0, 10.0, 25.5]),
        "won": np.array([True, False, True]),
        "price": np.array([40.0, np.nan, 25.5]),
        "value": np.array([0.5, 0.1, 0.25]),
        "click": np.array([1, 0, 0], np.int8),
    }
    return BidLog(**columns | changed)


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as refused:
        read_bids(path)
    return str(refused.value)


def assert_same(one: BidLog, other: BidLog) -> None:
    for name in ("bid", "won", "price", "value", "click"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_file_is_read_by_column_names_with_lf_or_crlf(file):
    assert_same(read_bids(file(THREE)), log())
    assert_same(read_bids(file(THREE.replace("\n", "\r\n"))), log())
    turned = "click,pctr,price,won,bid\n1,0.5,40,1,50\n0,0.1,,0,10\n0,0.25,25.5,1,25.5"
    assert_same(read_bids(file(turned)), log())


def test_a_clock_is_read_where_there_is_one(file):
    assert read_bids(file(THREE)).time_s is None
    clocked = "bid,won,price,pctr,click,time_s,auction,currency\n5,1,4,0.5,1,0,a,EUR\n5,1,4,0.5,1,0,b,EUR\n5,1,4,0.5,1,7.5,c,EUR\n"
    assert read_bids(file(clocked)).time_s.tolist() == [0.0, 0.0, 7.5]


def test_theta_lines_are_the_log_of_a_bidder_without_limit():
    chunk = ThetaAuctions(
        click=np.array([0, 1], np.int8), price=np.array([30, 0]), value=np.array([0.1, 0.2])
    )
    shown = bids_of_theta([chunk, chunk])
    assert shown.bid.tolist() == [np.inf] * 4
    assert shown.won.all()
    assert (shown.price.tolist(), shown.click.tolist()) == ([30, 0, 30, 0], [0, 1, 0, 1])
    with pytest.raises(BadInput, match="no auctions"):
        bids_of_theta([])


def test_a_lower_bid_would_have_lost_the_dearer_auctions_with_price_and_click():
    seen = log().bidding_at_most(25.5)
    assert seen.bid.tolist() == [25.5, 10.0, 25.5]
    assert seen.won.tolist() == [False, False, True]
    np.testing.assert_array_equal(seen.price, [np.nan, np.nan, 25.5])
    assert seen.click.tolist() == [0, 0, 0]
    with pytest.raises(BadInput, match="the highest bid is inf, expected a finite number"):
        log().bidding_at_most(np.inf)


# Line 2 of the file is the first auction.
FAULTS: dict[str, tuple[str, str]] = {
    "50,1,51,0.5,1": ("line 3, price: 51, expected at most the bid", "paid more than bid"),
    "50,1,,0.5,1": (
        "line 3, price: missing, expected what the auction that was won cost",
        "won without a price",
    ),
    "50,0,40,0.5,0": ("line 3, price: 40, expected nothing where the auction was lost", "lost with a price"),
    "50,0,,0.5,1": ("line 3, click: 1, expected 0 where the auction was lost", "lost and clicked"),
    ",1,40,0.5,1": ("line 3, bid: missing, expected a number", "no bid"),
    "-1,0,,0.5,0": ("line 3, bid: -1, expected a number of at least 0", "a negative bid"),
    "inf,0,,0.5,0": ("line 3, bid: 'inf', expected a number", "an infinite bid"),
    "nan,0,,0.5,0": ("line 3, bid: 'nan', expected a number", "NaN"),
    "fifty,0,,0.5,0": ("line 3, bid: 'fifty', expected a number", "a word"),
    "50,1,-4,0.5,1": ("line 3, price: -4, expected what the auction", "a negative price"),
    "50,yes,40,0.5,1": ("line 3, won: 'yes', expected a number", "a word for won"),
    "50,2,40,0.5,1": ("line 3, won: 2, expected 0 or 1", "won twice"),
    "50,1,40,1.5,1": ("line 3, pctr: 1.5, expected a click rate from 0 to 1", "a click rate above 1"),
    "50,1,40,0.5,2": ("line 3, click: 2, expected 0 or 1", "clicked twice"),
    "50,1,40,0.5": ("line 3, click: missing, expected a number", "a short line"),
    "": ("line 3, bid: missing, expected a number", "a blank line"),
    "50,1,40,0.5,1,9": ("line 3: 6 columns, expected the header's 5", "a long line"),
}


@pytest.mark.parametrize("line", FAULTS, ids=[name for _, name in FAULTS.values()])
def test_a_line_that_cannot_be_is_refused_with_file_line_and_column(line, file):
    path = file("bid,won,price,pctr,click\n50,1,40,0.5,1\n" + line + "\n50,1,40,0.5,1\n")
    assert refusal(path).startswith(f"{path}, {FAULTS[line][0]}")


def test_of_several_faults_the_earliest_line_is_told(file):
    path = file("bid,won,price,pctr,click\n50,1,40,0.5,1\n50,1,40,7,1\n50,1,60,0.5,1\n")
    assert refusal(path).startswith(f"{path}, line 3, pctr: 7")


NAMED = "bid,won,price,pctr,click,auction,time_s,currency\n"


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            "5,1,4,0.5,1,a,10,EUR\n5,1,4,0.5,1,b,9,EUR\n",
            "line 3, time_s: 9, expected a time not before the line above",
        ),
        (
            "5,1,4,0.5,1,a,1,EUR\n5,1,4,0.5,1,b,2,EUR\n5,1,4,0.5,1,a,3,EUR\n",
            "line 4, auction: 'a' stands in line 2 already",
        ),
        (
            "5,1,4,0.5,1,a,1,EUR\n5,1,4,0.5,1, a ,2,EUR\n",
            "line 3, auction: 'a' stands in line 2 already",
        ),
        (
            "5,1,4,0.5,1,a,1,EUR\n5,1,4,0.5,1, ,2,EUR\n",
            "line 3, auction: missing, expected a name",
        ),
        ("5,1,4,0.5,1,a,1,EUR\n5,1,4,0.5,1,b,2,USD\n", "line 3, currency: 'USD' after 'EUR'; split the log"),
        ("5,1,4,0.5,1,a,1,EUR\n5,1,4,0.5,1,,2,EUR\n", "line 3, auction: missing, expected a name"),
        ("5,1,4,0.5,1,a,1,EUR\n5,1,4,0.5,1,b,,EUR\n", "line 3, time_s: missing, expected a number"),
        ("5,1,4,0.5,1,a,1,\n", "line 2, currency: missing, expected a name"),
    ],
)
def test_clocks_that_run_backwards_duplicates_mixed_currencies_and_holes_are_refused(rows, told, file):
    path = file(NAMED + rows)
    assert refusal(path).startswith(f"{path}, {told}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", f"cannot be read (empty CSV), expected {COLUMNS}."),
        ("bid,won,price,pctr\n", f", line 1: no column click; expected {COLUMNS}."),
        ("bid,won,price,pctr,click\n", "holds no auctions below its header."),
        (
            "bid,won,prize,pctr,click\n1,1,1,1,1\n",
            f", line 1: unknown or repeated column 'prize'. Did you mean 'price'? Expected {COLUMNS}.",
        ),
        (
            "bid,won,bid,price,pctr,click\n1,1,1,1,1,1\n",
            ", line 1: unknown or repeated column 'bid_duplicated_0'.",
        ),
        (b"bid,won,price,pctr,click\n1,1,\xff,1,1\n", ", line 2: byte 5 is no UTF-8 text"),
    ],
)
def test_a_file_that_is_no_bid_log_is_refused(text, told, file):
    path = file(text)
    assert told in refusal(path)
    assert str(path) in refusal(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert refusal(tmp_path / "none.csv") == f"there is no file {tmp_path / 'none.csv'}."


def test_a_directory_is_refused_with_the_sentence_of_other_logs(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path} is a directory, expected a file with {COLUMNS}."


def test_columns_of_other_types_or_lengths_are_refused_by_name():
    with pytest.raises(ShapeError, match="click is int64 of shape"):
        log(click=np.array([1, 0, 0]))
    with pytest.raises(
        ShapeError, match=r"time_s is float64 of shape \(2,\), expected float64 of shape \(3,\)"
    ):
        log(time_s=np.zeros(2))
    with pytest.raises(BadInput, match="row 1, price: 40, expected at most the bid"):
        log(bid=np.array([39.0, 10.0, 25.5]))


def test_some_of_the_rows_are_cut_out_with_their_clock():
    cut = log(time_s=np.array([1.0, 2.0, 3.0])).rows(slice(1, None))
    assert (len(cut), cut.time_s.tolist(), cut.bid.tolist()) == (2, [2.0, 3.0], [10.0, 25.5])
