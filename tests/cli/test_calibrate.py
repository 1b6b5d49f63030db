"""`gaelp calibrate`: what it prints, the sentence for each mistake, and that what it says of a log's later part is so."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from tests.market.planted_auctions import Planted, planted

from gaelp.cli.calibrate_command import calibrate_command
from gaelp.core.errors import BadInput


def theta(path: Path, auctions: int = 8000, dearer: float = 1.0) -> Path:
    """Theta lines around a price of 55, the second half `dearer` times as dear; one in forty is free."""
    rng = np.random.default_rng(11)
    value = np.exp(rng.normal(-3, 0.5, auctions)).clip(0, 1)
    price = np.ceil(np.exp(4 + 0.6 * rng.normal(size=auctions)))
    price[rng.random(auctions) < 0.025] = 0
    price[auctions // 2 :] = np.ceil(price[auctions // 2 :] * dearer)
    click = rng.random(auctions) < value
    lines = (f"{c:d} {p:.0f} {v:.6f}\n" for c, p, v in zip(click, price, value, strict=True))
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return theta(tmp_path_factory.mktemp("theta") / "theta.txt")


def printed(log: Path, format_: str = "ipinyou-theta", **how: Any) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        calibrate_command(log, format_, json_=True, **how)
    assert out.getvalue().count("\n") == 1
    return json.loads(out.getvalue())


@pytest.fixture(scope="module")
def censored(log: Path) -> dict[str, Any]:
    return printed(log, censor_above="80", seed=3)


def test_the_command_prints_one_json_object(censored):
    told = censored
    assert {"fidelity", "parameters", "ks", "ks_reference", "identified_to", "verdict", "log_sha256"} <= set(
        told
    )
    assert (told["auctions"], told["held_out_auctions"], told["identified_to"]) == (4000, 4000, 80.0)
    assert {"name", "estimate", "low", "high", "identified"} == set(told["parameters"][0])
    assert {"name", "fitted", "held_out", "low", "high", "within", "identified"} == set(told["fidelity"][0])
    assert len(told["block_levels"]) == 48
    assert told["verdict"]["ruling"] == "PASS"


def test_up_to_an_artificial_bid_the_fitted_curve_is_as_near_the_later_half_as_the_earlier_half_itself(
    log, censored
):
    price = np.loadtxt(log)[:, 1]
    at = np.arange(81)
    first, last = ((half[:, None] <= at).mean(0) for half in (price[:4000], price[4000:]))
    assert censored["ks_reference"] == pytest.approx(np.abs(first - last).max())
    assert censored["ks"] <= censored["ks_reference"] + 0.02
    by_name = {one["name"]: one for one in censored["parameters"]}
    assert not by_name["win_rate_at_120"]["identified"]
    assert by_name["win_rate_at_120"]["high"] - by_name["win_rate_at_120"]["low"] > 0.1
    assert by_name["win_rate_at_80"]["identified"]


def test_a_log_that_shows_every_price_is_told_everywhere(log):
    told = printed(log)
    assert told["identified_to"] is None
    assert told["compared_to"] is None
    unknown = [one["name"] for one in told["parameters"] if not one["identified"]]
    assert unknown == ["auctions_per_hour", "volume_drift_sd", "volume_drift_memory"]


def test_a_bidders_own_log_is_read_as_it_is(tmp_path):
    made = planted(Planted(auctions=4800), 12).log
    path = tmp_path / "bids.csv"
    columns = (made.bid, made.won, made.price, made.value, made.click, made.time_s)
    lines = (
        f"{bid:g},{won:d},{f'{price:g}' if won else ''},{value:.9g},{click:d},{time_s}"
        for bid, won, price, value, click, time_s in zip(*(c.tolist() for c in columns), strict=True)
    )
    path.write_text("bid,won,price,pctr,click,time_s\n" + "\n".join(lines) + "\n")
    told = printed(path, "bids-csv", hold_out="0.4")
    assert (told["auctions"], told["held_out_auctions"]) == (2880, 1920)
    assert told["identified_to"] == 75.0
    by_name = {one["name"]: one for one in told["parameters"]}
    assert by_name["auctions_per_hour"]["identified"]
    assert by_name["auctions_per_hour"]["low"] < 2000 < by_name["auctions_per_hour"]["high"]


def test_equal_seeds_print_equal_numbers(log, censored):
    same, other = (printed(log, censor_above="80", seed=seed) for seed in (3, 4))
    assert same == censored
    assert other["parameters"] != censored["parameters"]


def test_a_person_reads_tables_and_one_sentence_on_what_is_not_told(log, capsys):
    calibrate_command(log, "ipinyou-theta", censor_above="80")
    out = capsys.readouterr().out
    assert "the prior" in out
    assert "Above a bid of 80 the log tells no prices" in out
    assert "PASS: " in out


def test_a_fit_that_the_later_part_contradicts_ends_with_exit_code_1(tmp_path, capsys):
    path = theta(tmp_path / "dearer.txt", dearer=2.0)
    with pytest.raises(typer.Exit) as ended:
        calibrate_command(path, "ipinyou-theta", json_=True)
    assert ended.value.exit_code == 1
    assert json.loads(capsys.readouterr().out)["verdict"]["ruling"] == "FAIL"


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_log_of_one_price_is_told_that_a_longer_one_would_not_help(tmp_path, capsys):
    path = tmp_path / "still.txt"
    path.write_text(
        "".join(f"{int(k % 500 == 0)} 50 {0.001 + 0.002 * (k % 7) / 7:.5f}\n" for k in range(3000))
    )
    with pytest.raises(typer.Exit) as ended:
        calibrate_command(path, "ipinyou-theta")
    assert ended.value.exit_code == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("FAIL: ")
    assert "Every auction that was won cost 50: one price shows no drift, however long the log is" in said
    assert "A longer log tells" not in said


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (
            {"format_": "ipinyou-teta"},
            "no log format named 'ipinyou-teta'. Did you mean 'ipinyou-theta'? Known: ",
        ),
        ({"hold_out": "1"}, "--hold-out is 1, expected less than 1, the whole log."),
        ({"hold_out": "0"}, "--hold-out is '0', expected a number above 0"),
        ({"hold_out": "half"}, "--hold-out is 'half', expected a number above 0"),
        ({"hold_out": "0.9"}, "the part to fit holds 800 auctions, expected at least 1000"),
        ({"censor_above": "-5"}, "--censor-above is '-5', expected a number above 0"),
        ({"censor_above": "0.5"}, "none was won at a price above 0"),
        ({"seed": -1}, "--seed is -1, expected a whole number of at least 0."),
    ],
)
def test_a_mistake_is_told_in_one_sentence(how, told, log):
    words = {"format_": "ipinyou-theta"} | how
    with pytest.raises(BadInput) as refused:
        calibrate_command(log, **words)
    assert told in str(refused.value)


def test_a_bad_line_is_told_with_file_and_line(tmp_path):
    path = tmp_path / "bids.csv"
    path.write_text("bid,won,price,pctr,click\n5,1,4,0.1,0\n5,1,6,0.1,0\n")
    with pytest.raises(BadInput, match=rf"{path}, line 3, price: 6, expected at most the bid"):
        calibrate_command(path, "bids-csv")


def test_calibrating_needs_no_jax_and_its_help_no_numpy(log):
    program = (
        "import sys; import gaelp.cli.calibrate_command as it; assert 'numpy' not in sys.modules; "
        f"it.calibrate_command(it.Path({str(log)!r}), 'ipinyou-theta'); assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
