"""Theta lines: what is read, and the sentence for each thing that is not."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaelp.core.errors import BadInput, ShapeError
from gaelp.logs.theta import HIGHEST_PRICE, LONGEST_LINE, ThetaAuctions, read_theta

COLUMNS = "'click price pCTR' and at most an exchange, parted by spaces or tabs"


def rows(path: Path, **how: int) -> list[tuple[int, int, float]]:
    return [
        row
        for chunk in read_theta(path, **how)
        for row in zip(chunk.click.tolist(), chunk.price.tolist(), chunk.value.tolist(), strict=True)
    ]


@pytest.fixture
def log(tmp_path):
    def write(text: bytes) -> Path:
        path = tmp_path / "theta.txt"
        path.write_bytes(text)
        return path

    return write


def test_three_columns_or_four_parted_by_spaces_or_tabs_are_read(log):
    text = b"0 51 0.000154\n1\t87\t0.25\t3\n 0  0\t 1 \r\n0 007 1e-3"
    assert rows(log(text)) == [(0, 51, 0.000154), (1, 87, 0.25), (0, 0, 1.0), (0, 7, 0.001)]


def test_columns_have_the_promised_types(log):
    (chunk,) = read_theta(log(b"1 2 0.5\n"))
    assert (chunk.click.dtype, chunk.price.dtype, chunk.value.dtype) == (np.int8, np.int64, np.float64)
    assert len(chunk) == 1


def test_a_log_longer_than_a_block_comes_in_several_chunks(log):
    path = log(b"0 1 0.5\n" * 100)  # 800 bytes, 8 a line
    lengths = [
        len(chunk) for chunk in read_theta(path, block_bytes=84)
    ]  # 10 whole lines and half of the next
    assert sum(lengths) == 100
    assert max(lengths) == 11


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"0 51", f"2 columns, expected {COLUMNS}"),
        (b"0", f"1 column, expected {COLUMNS}"),
        (b"0 51 0.1 1 9", f"5 columns, expected {COLUMNS}"),
        (b"", f"the line is blank, expected {COLUMNS}"),
        (b" \t\r", f"the line is blank, expected {COLUMNS}"),
        (b"2 51 0.1", "click is '2', expected 0 or 1"),
        (b"01 51 0.1", "click is '01', expected 0 or 1"),
        (b"yes 51 0.1", "click is 'yes', expected 0 or 1"),
        (b"0 -5 0.1", f"price is '-5', expected a whole number from 0 to {HIGHEST_PRICE}"),
        (b"0 5.0 0.1", f"price is '5.0', expected a whole number from 0 to {HIGHEST_PRICE}"),
        (b"0 nan 0.1", f"price is 'nan', expected a whole number from 0 to {HIGHEST_PRICE}"),
        (b"0 inf 0.1", f"price is 'inf', expected a whole number from 0 to {HIGHEST_PRICE}"),
        (b"0 1_0 0.1", f"price is '1_0', expected a whole number from 0 to {HIGHEST_PRICE}"),
        (
            b"0 1099511627777 0.1",
            f"price is '1099511627777', expected a whole number from 0 to {HIGHEST_PRICE}",
        ),
        (
            b"0 " + b"9" * 5000 + b" 0.1",
            f"the line is longer than {LONGEST_LINE} bytes, expected {COLUMNS}",
        ),
        (
            b"0 9999999999999999999 0.1",  # more than int64 holds
            f"price is '9999999999999999999', expected a whole number from 0 to {HIGHEST_PRICE}",
        ),
        (b"0 51 nan", "pCTR is 'nan', expected a number from 0 to 1"),
        (b"0 51 inf", "pCTR is 'inf', expected a number from 0 to 1"),
        (b"0 51 -0.1", "pCTR is '-0.1', expected a number from 0 to 1"),
        (b"0 51 1.0001", "pCTR is '1.0001', expected a number from 0 to 1"),
        (b"0 51 1e999", "pCTR is '1e999', expected a number from 0 to 1"),
        (b"0 51 0,1", "pCTR is '0,1', expected a number from 0 to 1"),
        (b"0 51 .", "pCTR is '.', expected a number from 0 to 1"),
        (b"0 51 \xff", f"byte 6 is 0xff, which is not UTF-8 text, expected {COLUMNS}"),
        (b"0 51 0.1 \x00", f"the line is '0 51 0.1 \\x00', expected {COLUMNS}"),
        ("0 51 0.1 é".encode(), f"the line is '0 51 0.1 \\xe9', expected {COLUMNS}"),
        (b"0 51 0.1\r1", "pCTR is '0.1\\r1', expected a number from 0 to 1"),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 20])
def test_a_malformed_line_is_refused_by_file_and_line(log, line, complaint, block_bytes):
    path = log(b"0 51 0.1\n1 52 0.2\n" + line + b"\n0 53 0.3\nnot a line either\n")
    with pytest.raises(BadInput) as refused:
        rows(path, block_bytes=block_bytes)
    assert str(refused.value) == f"{path}, line 3: {complaint}."


def test_of_two_bad_lines_the_first_is_named_although_only_the_second_breaks_the_grammar(log):
    with pytest.raises(BadInput, match=r"line 2: pCTR is '1\.5'"):
        rows(log(b"0 51 0.1\n0 51 1.5\nrubbish\n"))


@pytest.mark.parametrize("block_bytes", [LONGEST_LINE, 1 << 20])
def test_the_longest_line_is_read_and_one_byte_more_refused(log, block_bytes):
    line = b"0 51 0.1".ljust(LONGEST_LINE)
    assert rows(log(line + b"\n"), block_bytes=block_bytes) == [(0, 51, 0.1)]
    with pytest.raises(BadInput, match=f"line 1: the line is longer than {LONGEST_LINE} bytes"):
        rows(log(line + b" \n"), block_bytes=block_bytes)


def test_a_file_without_line_breaks_is_refused_before_it_is_read_whole(log):
    with pytest.raises(BadInput, match=r"line 1: the line is longer than 4096 bytes"):
        next(read_theta(log(b"\x00" * (1 << 20)), block_bytes=1 << 13))


def test_an_empty_file_is_refused(log):
    path = log(b"")
    with pytest.raises(BadInput) as refused:
        rows(path)
    assert str(refused.value) == f"{path} is empty, expected lines of {COLUMNS}."


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadInput) as refused:
        rows(tmp_path / "absent.txt")
    assert str(refused.value) == f"there is no file {tmp_path / 'absent.txt'}."


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(BadInput) as refused:
        rows(tmp_path)
    assert str(refused.value) == f"{tmp_path} is a directory, expected a file with lines of {COLUMNS}."


def test_auctions_check_their_columns_at_birth():
    click, price, value = np.zeros(2, np.int8), np.zeros(2, np.int64), np.zeros(2)
    with pytest.raises(BadInput, match="value holds a number outside 0 to 1"):
        ThetaAuctions(click=click, price=price, value=np.array([0.1, np.nan]))
    with pytest.raises(BadInput, match="price holds a number outside"):
        ThetaAuctions(click=click, price=price - 1, value=value)
    with pytest.raises(ShapeError, match=r"price is int64 of shape \(3,\), expected int64 of shape \(2,\)"):
        ThetaAuctions(click=click, price=np.zeros(3, np.int64), value=value)
    with pytest.raises(ShapeError, match="value is float32"):
        ThetaAuctions(click=click, price=price, value=value.astype(np.float32))


def read_slowly(text: bytes) -> list[tuple[int, int, float]] | int:
    """The rows, or the number of the first bad line: an independent reading, a line at a time."""
    found = []
    for number, line in enumerate(text.removesuffix(b"\n").split(b"\n"), start=1):
        fields = line.removesuffix(b"\r").replace(b"\t", b" ").split(b" ")
        fields = [field.decode() for field in fields if field]
        try:
            click, price, value = fields[0], fields[1], float(fields[2])
        except (IndexError, ValueError):
            return number
        sound = len(fields) <= 4 and click in ("0", "1") and price.isdigit() and 0 <= value <= 1
        if not sound or "-0" in fields[2].split("e")[0] or any("\r" in field for field in fields):
            return number
        found.append((int(click), int(price), value))
    return found


alphabet = st.sampled_from(
    [b"0 ", b"1 ", b"1", b"0", b"7", b" ", b"\t", b".", b"0.5", b"e", b"-", b"+", b"\n"]
)
lines = st.sampled_from([b"0 51 0.5\n", b"1\t7\t1e-3\t2\n", b"0 0 0\r\n", b" 1 3 .25 \n", b"\r", b"0 5 \r\n"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(alphabet | lines, min_size=1), st.integers(1, 40))
def test_any_text_is_read_or_refused_as_a_slow_reader_would(tmp_path, pieces, block_bytes):
    path = tmp_path / "any.txt"
    path.write_bytes(b"".join(pieces))
    expected = read_slowly(b"".join(pieces))
    if isinstance(expected, list):
        assert rows(path, block_bytes=block_bytes) == expected
    else:
        with pytest.raises(BadInput, match=f", line {expected}: "):
            rows(path, block_bytes=block_bytes)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.floats(0, 1).map(repr)
        | st.from_regex(r"\A0?\.[0-9]{1,60}\Z")
        | st.from_regex(r"\A[0-9]{1,30}[eE]-[34][0-9]\Z")
        | st.floats(0, 0.5).map(lambda low: f"{float(Fraction(low)):.700f}"),
        min_size=1,
    )
)
def test_a_predicted_rate_is_parsed_exactly_as_float_does(tmp_path, texts):
    path = tmp_path / "rates.txt"
    path.write_text("".join(f"0 1 {text}\n" for text in texts))
    assert [value for _, _, value in rows(path)] == [float(text) for text in texts]
