"""The ladder of a recorded log: shares of the LP bound, what a pacer may know, and what the command prints."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from benchmarks.auction_logs import LogKind, auction_log
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gaelp.bidding.online_lp import OnlineLp
from gaelp.bidding.stream import Bidder, Episode
from gaelp.cli.replay_command import ladder_table, replay_command
from gaelp.core.errors import BadInput
from gaelp.logs.theta import ThetaAuctions, read_theta
from gaelp.market.log_baselines import DualPacing, Pid, Progress
from gaelp.market.log_ladder import Ladder, Part, climb
from gaelp.market.replay import BidGrid, ConstantMultiplier, ReplayOptions
from gaelp.market.stretch import episode_of, whole_log, won_by_bidder

KINDS = {
    "narrow pCTRs": LogKind(auctions=60_000, spread=0.5, correlation=0.0, wander=0.1, value_wander=0.1),
    "free auctions": LogKind(auctions=60_000, spread=1.0, correlation=0.4, zero_prices=0.03, swing=0.1),
    "heavy tail": LogKind(auctions=60_000, spread=2.0, correlation=0.8, drift=0.1, value_drift=0.1),
}
NAMES = [
    "hindsight",
    "constant",
    "pid",
    "dual",
    "certified pacer",
    "certified pacer x10",
    "certified pacer x0.1",
]


@cache
def log_of(name: str) -> ThetaAuctions:
    return auction_log(KINDS[name], seed=11)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("fraction", [4, 16, 64])
def test_the_certified_pacer_reaches_the_bound_also_when_it_begins_ten_times_wrong(name, fraction):
    options = ReplayOptions(
        budget_fraction=Fraction(1, fraction), max_bid=Fraction(300), bid_grid=BidGrid.INTEGER
    )
    ladder = climb([log_of(name)], options)
    assert [rung.name for rung in ladder.rungs] == NAMES
    assert all(rung.bought.overspend == 0 for rung in ladder.rungs)
    for rung in ladder.rungs[4:]:
        assert rung.share_of_lp >= 0.98, rung.name
        assert 0.99 <= rung.spend_share <= 1


def test_a_hundred_times_wrong_costs_a_share_of_a_percent():
    options = ReplayOptions(budget_fraction=Fraction(1, 32))
    right, high, low = (
        climb([log_of("free auctions")], options, first_multiplier_error=error).rungs[4].share_of_lp
        for error in (1.0, 100.0, 0.01)
    )
    assert min(high, low) > right - 0.005


def test_an_error_misleads_every_pacer_and_is_named():
    options = ReplayOptions(budget_fraction=Fraction(1, 16))
    ladder = climb(
        [log_of("heavy tail")], options, first_multiplier_error=10.0, policy=ConstantMultiplier(5.0)
    )
    assert [rung.name for rung in ladder.rungs[2:]] == [
        "pid x10",
        "dual x10",
        "certified pacer x10",
        "constant:5.0",
    ]
    plain = climb([log_of("heavy tail")], options)
    assert ladder.rungs[4].bought == plain.rungs[5].bought


def test_episodes_teach_the_pacer_about_later_ones():
    # A single multiplier does badly here: it is right for no episode of a log whose prices wander.
    log = auction_log(LogKind(auctions=20_000, spread=1.0, correlation=0.4, drift=0.3), 3)
    cost = int(log.price.sum())
    options = ReplayOptions(episode_auctions=1000, episode_budget=Fraction(cost, 20 * 16))
    ladder = climb([log], options)
    shares = {rung.name: rung.share_of_lp for rung in ladder.rungs}
    assert ladder.episodes == 20
    assert shares["certified pacer"] > max(0.94, shares["pid"], shares["dual"], shares["hindsight"])


def test_the_constant_is_tuned_on_the_first_half_and_scored_on_the_rest():
    # First half: at 100 x pCTR both are won, for 20 of 30. On the second half that multiplier wins the row of 50 x 0.5
    # and not the one of 60 x 0.5; its bound has 30 as well: 0.5 for 25 and of the 60 the twelfth that 5 buys.
    rows = (
        [(0, 0, 0.0)] * 46 + [(1, 10, 0.1), (0, 10, 0.1)] + [(0, 0, 0.0)] * 46 + [(1, 25, 0.5), (0, 60, 0.5)]
    )
    ladder = climb([_auctions(rows)], ReplayOptions(budget=Fraction(60)))
    constant = ladder.rungs[1]
    assert (constant.name, constant.scored_on, constant.budget) == ("constant", Part.REST, 30)
    assert (constant.bought.value, constant.bought.clicks, constant.bought.spend) == (0.5, 1, 25)
    assert constant.lp_value == pytest.approx(0.5 + 0.5 * 5 / 60)
    assert all(rung.scored_on is Part.WHOLE for rung in (ladder.rungs[0], *ladder.rungs[2:]))


rows = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 9) | st.integers(0, 300),
        st.floats(0.0005, 1) | st.sampled_from([0.0, 1.0, 0.1, 1 / 3, 5e-324]),
    ),
    min_size=48,
    max_size=150,
)
amounts = st.fractions(min_value=1, max_value=2000, max_denominator=9)
limits = st.one_of(
    st.builds(dict, budget=amounts),
    st.builds(dict, budget_fraction=st.fractions(min_value=Fraction(1, 99), max_value=1, max_denominator=99)),
    st.builds(dict, episode_auctions=st.integers(48, 80), episode_budget=amounts),
)
bounds = st.builds(
    dict,
    max_bid=st.none() | st.fractions(min_value=1, max_value=300, max_denominator=9),
    bid_grid=st.sampled_from(BidGrid),
)
options = st.builds(lambda limit, bound: ReplayOptions(**limit, **bound), limits, bounds)


@settings(max_examples=60)
@given(rows, options, st.none() | st.sampled_from([1e-9, 0.1, 10.0, 1e30]), st.integers(1, 60))
def test_no_policy_beats_the_bound_or_overspends_and_the_cut_of_the_file_changes_nothing(
    rows, options, error, size
):
    whole = climb([_auctions(rows)], options, first_multiplier_error=error, policy=ConstantMultiplier(50.0))
    for rung in whole.rungs:
        assert rung.bought.value <= rung.lp_value
        assert rung.bought.overspend == 0
        assert rung.bought.spend <= rung.budget
        assert 0 <= rung.share_of_lp <= 1
    chunks = [_auctions(rows[start : start + size]) for start in range(0, len(rows), size)]
    assert climb(chunks, options, first_multiplier_error=error, policy=ConstantMultiplier(50.0)) == whole


BIDDERS: dict[str, Callable[[Episode, float | None], Bidder]] = {
    "pid": lambda episode, first: Pid(progress=Progress(episode=episode), multiplier=first),
    "dual": lambda episode, first: DualPacing(progress=Progress(episode=episode), multiplier=first),
    "certified pacer": lambda episode, first: OnlineLp(episode=episode, multiplier=first),
}


@pytest.mark.parametrize("name", BIDDERS)
@pytest.mark.parametrize("first", [None, 20_000.0])
@pytest.mark.parametrize("length", [None, 2_000])
def test_no_bidder_peeks_at_lost_prices_or_at_what_is_to_come(name, first, length):
    log = auction_log(LogKind(auctions=8_000, spread=1.0, correlation=0.4, zero_prices=0.02), 3)
    budget = Fraction(int(log.price.sum()), 16 * (1 if length is None else 4))
    options = ReplayOptions(budget=budget, max_bid=Fraction(120))
    if length is not None:
        options = ReplayOptions(episode_auctions=length, episode_budget=budget, max_bid=Fraction(120))

    def wins(seen: ThetaAuctions) -> np.ndarray:
        on = whole_log([seen], options)
        return won_by_bidder(on, BIDDERS[name](episode_of(on, 0), first))

    won = wins(log)
    assert 100 < won.sum() < 7_900
    rng = np.random.default_rng(5)
    # Lost stays lost at any higher price: a bidder that saw one would bid otherwise from then on.
    dearer = np.where(won, log.price, log.price + rng.integers(1, 400, len(log)))
    assert np.array_equal(wins(ThetaAuctions(click=log.click, price=dearer, value=log.value)), won)
    # Clicks are nobody's business.
    assert np.array_equal(wins(ThetaAuctions(click=1 - log.click, price=log.price, value=log.value)), won)
    # Other rows after the first 3,000 change nothing before.
    later = np.concatenate([np.arange(3_000), 3_000 + rng.permutation(5_000)])
    other = ThetaAuctions(click=log.click[later], price=log.price[later] // 2, value=log.value[later])
    other.price[:3_000] = log.price[:3_000]
    changed = wins(other)
    assert np.array_equal(changed[:3_000], won[:3_000])
    assert not np.array_equal(changed, won)


@pytest.mark.parametrize("error", [0.0, -1.0, float("nan"), float("inf")])
def test_an_error_that_is_no_factor_is_refused(error):
    with pytest.raises(BadInput, match=r"^--first-multiplier-error is .*, expected a finite number above 0"):
        climb([log_of("heavy tail")], ReplayOptions(budget=Fraction(9)), first_multiplier_error=error)


def test_a_log_whose_auctions_are_all_free_is_bought_whole():
    ladder = climb([_auctions([(0, 0, 0.5)] * 60)], ReplayOptions(budget_fraction=Fraction(1, 4)))
    assert {(rung.share_of_lp, rung.spend_share, rung.bought.impressions) for rung in ladder.rungs} == {
        (1.0, 0.0, 60),
        (1.0, 0.0, 30),
    }


def test_a_log_without_any_value_has_a_bound_of_zero():
    ladder = climb([_auctions([(0, 5, 0.0)] * 60)], ReplayOptions(budget_fraction=Fraction(1, 4)))
    assert ladder.lp_value == 0.0
    assert {(rung.share_of_lp, rung.bought.spend) for rung in ladder.rungs} == {(1.0, 0)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    log = auction_log(LogKind(auctions=3_000, spread=1.0, correlation=0.4), 7)
    columns = zip(log.click.tolist(), log.price.tolist(), log.value.tolist(), strict=True)
    path = tmp_path / "three.txt"
    path.write_text("".join(f"{click}\t{price}\t{value}\t1\n" for click, price, value in columns))
    return path


def test_the_command_prints_the_ladder_as_one_json_object(file, capsys):
    replay_command(file, "ipinyou-theta", ladder=True, budget_fraction="1/16", max_bid="300", json_=True)
    (line,) = capsys.readouterr().out.splitlines()
    printed = json.loads(line)
    assert printed["auctions"] == 3_000
    assert printed["budget"] == printed["log_cost"] / 16
    assert printed.keys() >= {
        "log",
        "log_sha256",
        "format",
        "episodes",
        "log_clicks",
        "best_multiplier",
        "lp_value",
    }
    assert [policy["name"] for policy in printed["policies"]] == NAMES
    for policy in printed["policies"]:
        assert policy.keys() == {
            *("name", "scored_on", "lp_value", "value", "share_of_lp", "spend", "spend_share"),
            *("impressions", "clicks", "overspend"),
        }
        assert policy["overspend"] == 0
        assert policy["share_of_lp"] == policy["value"] / policy["lp_value"]
    whole = [policy for policy in printed["policies"] if policy["name"] != "constant"]
    assert {(policy["lp_value"], policy["scored_on"]) for policy in whole} == {
        (printed["lp_value"], "whole log")
    }


def test_the_command_prints_the_ladder_for_a_person(file, capsys):
    replay_command(file, "ipinyou-theta", "constant:9000", ladder=True, budget="3000", integer_bids=True)
    table = capsys.readouterr().out
    for word in ("LP bound", "hindsight", "certified", "100.00 %", "3,000 auctions, one budget of 3,000"):
        assert word in table


def test_eighty_columns_hold_every_name_and_every_head_of_a_log_whole(file):
    # A log of ten million auctions has figures so wide.
    ladder = climb(read_theta(file), ReplayOptions(budget_fraction=Fraction(1, 16)))
    large = replace(ladder, rungs=tuple(
        replace(rung, bought=replace(rung.bought, impressions=12_345_678, clicks=12_345)) for rung in ladder.rungs
    ))  # fmt: skip
    printed = io.StringIO()
    Console(file=printed, width=80).print(ladder_table(large, log=file))
    text = printed.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for word in (
        "of LP",
        "bound",
        "value",
        "budget",
        "overspend",
        "impressions",
        "clicks",
        "12,345,678",
        "x0.1",
    ):
        assert word in text
    for name in NAMES:
        assert all(word in text for word in name.split())


def test_the_commands_figures_are_those_of_the_ladder(file, capsys):
    replay_command(
        file, "ipinyou-theta", ladder=True, episode_auctions=500, episode_budget="900.5", json_=True,
        first_multiplier_error=0.1,
    )  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    expected = _ladder_of(file)
    assert (printed["lp_value"], printed["episodes"], printed["budget"]) == (expected.lp_value, 6, 900.5)
    assert [policy["value"] for policy in printed["policies"]] == [
        rung.bought.value for rung in expected.rungs
    ]
    assert printed["policies"][-1]["name"] == "certified pacer x0.1"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({}, "no policy is given, expected --policy such as constant:86550.5, or --ladder."),
        (
            {"policy": "constant:5", "first_multiplier_error": 10.0},
            "--first-multiplier-error needs --ladder, whose pacers it misleads.",
        ),
        (
            {"ladder": True, "policy": "constnat:5"},
            "no policy named 'constnat'. Did you mean 'constant'[?] Known: .*",
        ),
        (
            {"ladder": True, "first_multiplier_error": 0.0},
            "--first-multiplier-error is 0.0, expected a finite .*",
        ),
    ],
)
def test_options_that_do_not_fit_a_ladder_are_refused(file, words, sentence):
    with pytest.raises(BadInput, match=f"^{sentence}$"):
        replay_command(file, "ipinyou-theta", budget="9", **words)


def test_an_empty_log_has_no_ladder(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(BadInput, match=r"empty\.txt is empty"):
        replay_command(tmp_path / "empty.txt", "ipinyou-theta", ladder=True, budget="9")


def test_a_ladder_needs_no_jax_and_no_scipy():
    program = (
        "import sys; import gaelp.market.log_ladder; "
        "assert not {'jax', 'scipy', 'equinox'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def _ladder_of(file: Path) -> Ladder:
    from gaelp.logs.theta import read_theta

    options = ReplayOptions(episode_auctions=500, episode_budget=Fraction(1801, 2))
    return climb(read_theta(file, block_bytes=4096), options, first_multiplier_error=0.1)


def _auctions(rows: list[tuple[int, int, float]]) -> ThetaAuctions:
    click, price, value = zip(*rows, strict=True)
    return ThetaAuctions(
        click=np.array(click, np.int8), price=np.array(price, np.int64), value=np.array(value, np.float64)
    )
