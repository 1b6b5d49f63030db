"""Replay of recorded auctions: worked examples, and a naive loop that it must always equal."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaelp.cli.replay_command import replay_command
from gaelp.core.errors import BadInput
from gaelp.logs.theta import ThetaAuctions
from gaelp.market.replay import (
    BidGrid,
    ConstantMultiplier,
    ReplayOptions,
    ReplayResult,
    affordable,
    parse_amount,
    parse_policy,
    replay,
)

Row = tuple[int, int, float]  # click, price, pCTR


def auctions(rows: list[Row]) -> ThetaAuctions:
    click, price, value = zip(*rows, strict=True) if rows else ((), (), ())
    return ThetaAuctions(
        click=np.array(click, np.int8), price=np.array(price, np.int64), value=np.array(value, np.float64)
    )


def replayed(rows: list[Row], multiplier: float, options: ReplayOptions) -> ReplayResult:
    return replay(lambda: [auctions(rows)], ConstantMultiplier(multiplier), options)


def bought(result: ReplayResult) -> tuple[int, int, int, float]:
    return result.impressions, result.clicks, result.cost, result.value


def one_budget(amount: Fraction | int, **bounds: Fraction) -> ReplayOptions:
    return ReplayOptions(budget=Fraction(amount), **bounds)


# Bids at 100 x pCTR: 50, 10, 25, 100.
FOUR = [(1, 40, 0.5), (0, 20, 0.1), (1, 25, 0.25), (0, 60, 1.0)]


def test_a_bid_at_or_above_the_price_wins_and_pays_the_price():
    # 50 >= 40 wins, 10 < 20 loses, 25 >= 25 wins, 100 >= 60 wins: 40 + 25 + 60 = 125.
    result = replayed(FOUR, 100, one_budget(1000))
    assert bought(result) == (3, 2, 125, 1.75)
    assert (result.auctions, result.episodes, result.overspend) == (4, 1, 0)
    assert (result.log_clicks, result.log_cost) == (2, 145)


def test_an_auction_that_cannot_be_afforded_is_lost_and_a_later_cheaper_one_still_won():
    # Budget 70: 40 leaves 30; 25 leaves 5; 60 > 5 is lost.
    assert bought(replayed(FOUR, 100, one_budget(70))) == (2, 2, 65, 0.75)
    # Budget 30: 40 is lost; 25 leaves 5.
    assert bought(replayed(FOUR, 100, one_budget(30))) == (1, 1, 25, 0.25)


def test_a_budget_is_spent_to_its_last_unit_and_no_further():
    assert bought(replayed(FOUR, 100, one_budget(125)))[2] == 125
    assert bought(replayed(FOUR, 100, one_budget(124)))[2] == 65  # 60 > 124 - 65 = 59


def test_a_fractional_budget_is_compared_exactly():
    # Of 65 1/3 the last 1/3 buys nothing; 64 2/3 misses the second price of 25 by 1/3.
    assert bought(replayed(FOUR, 100, one_budget(Fraction(196, 3))))[2] == 65
    assert bought(replayed(FOUR, 100, one_budget(Fraction(194, 3))))[2] == 40


def test_no_bid_is_above_the_highest_allowed_bid():
    assert bought(replayed(FOUR, 100, one_budget(1000, max_bid=Fraction(40))))[2] == 65  # 60 is out of reach
    assert bought(replayed(FOUR, 100, one_budget(1000, max_bid=Fraction(399, 10))))[2] == 25  # 40 too


def test_an_integer_bid_is_rounded_down():
    # 3 x 0.9 = 2.7, floored to 2: enough for 2, not for 3.
    rows = [(0, 2, 0.9), (0, 3, 0.9)]
    options = ReplayOptions(budget=Fraction(100), bid_grid=BidGrid.INTEGER)
    assert bought(replayed(rows, 3, options)) == (1, 0, 2, 0.9)


def test_every_episode_gets_a_fresh_budget_and_the_last_shorter_one_a_full_one():
    rows = [(0, 6, 1.0)] * 5  # two auctions an episode, a budget for one of them: 1 + 1 + 1
    options = ReplayOptions(episode_auctions=2, episode_budget=Fraction(11))
    result = replayed(rows, 10, options)
    assert (result.episodes, result.impressions, result.cost) == (3, 3, 18)


def test_an_episode_keeps_its_budget_across_chunks():
    # Episodes of three with a budget of 12, in chunks of two: 6 + 6, then 6 is unaffordable; 6 + 6 again.
    chunk = auctions([(0, 6, 1.0)] * 2)
    options = ReplayOptions(episode_auctions=3, episode_budget=Fraction(12))
    result = replay(lambda: [chunk, chunk, chunk], ConstantMultiplier(10), options)
    assert (result.episodes, result.impressions, result.cost, result.overspend) == (2, 4, 24, 0)


def test_a_price_of_zero_is_won_by_a_bid_of_zero_even_when_nothing_is_left():
    # The rate 0 bids 0 >= 0. After 5 of 5 are spent, what is left is 0 >= 0.
    rows = [(0, 0, 0.0), (0, 5, 1.0), (1, 0, 0.5), (0, 1, 1.0)]
    assert bought(replayed(rows, 5, one_budget(5))) == (3, 1, 5, 1.5)


def test_a_budget_fraction_is_that_share_of_the_whole_logs_price_sum():
    # The prices sum to 145; 1/5 is 29: 40 is lost, 25 won.
    result = replayed(FOUR, 100, ReplayOptions(budget_fraction=Fraction(1, 5)))
    assert (result.budget, result.cost) == (29, 25)


def test_a_log_that_changes_between_its_two_readings_is_refused():
    readings = iter([[auctions(FOUR)], [auctions(FOUR[:3])]])
    with pytest.raises(
        BadInput, match="the log changed while it was read: 4 auctions for 145, then 3 for 85"
    ):
        replay(lambda: next(readings), ConstantMultiplier(1), ReplayOptions(budget_fraction=Fraction(1, 2)))


def test_a_log_without_auctions_is_refused():
    with pytest.raises(BadInput, match="holds no auctions"):
        replayed([], 1, one_budget(1))


def test_sums_are_exact_where_floats_are_not():
    # 0.1 added ten times in float64 is 0.9999999999999999; the exact sum rounds to 1.0.
    assert replayed([(0, 0, 0.1)] * 10, 1, one_budget(1)).value == math.fsum([0.1] * 10) == 1.0
    # The odd units of a sum beyond 2^53.
    many = replay(
        lambda: [auctions([(0, 2**40, 1.0)] * 500_000), auctions([(0, 1, 1.0)])] * 2,
        ConstantMultiplier(2.0**41),
        one_budget(2**62),
    )
    assert many.cost == 1_000_000 * 2**40 + 2


def by_loop(rows: list[Row], multiplier: float, options: ReplayOptions) -> ReplayResult:
    """The rule itself, an auction at a time in exact arithmetic."""
    log_cost = sum(price for _, price, _ in rows)
    if options.budget_fraction is not None:
        budget = options.budget_fraction * log_cost
    else:
        budget = options.budget if options.episode_budget is None else options.episode_budget
    left, won = budget, []
    for index, (click, price, value) in enumerate(rows):
        if options.episode_auctions is not None and index % options.episode_auctions == 0:
            left = budget
        bid = Fraction(multiplier * value)
        if options.bid_grid is BidGrid.INTEGER:
            bid = Fraction(math.floor(bid))
        if options.max_bid is not None:
            bid = min(bid, options.max_bid)
        if min(bid, left) >= price:
            left -= price
            won.append((click, price, value))
    return ReplayResult(
        auctions=len(rows),
        impressions=len(won),
        clicks=sum(click for click, _, _ in won),
        cost=sum(price for _, price, _ in won),
        value=math.fsum(value for _, _, value in won),
        overspend=Fraction(0),
        episodes=1 if options.episode_auctions is None else -(-len(rows) // options.episode_auctions),
        budget=budget,
        log_clicks=sum(click for click, _, _ in rows),
        log_cost=log_cost,
    )


# Most bids are high and most budgets a few prices: what a replay may get wrong happens where money runs out.
prices = st.integers(0, 9) | st.integers(0, 300) | st.integers(0, 40).map(lambda power: 1 << power)
values = st.floats(0.5, 1) | st.sampled_from([0.0, 1.0, 0.1, 5e-324, 1 / 3])
logs = st.integers(1, 60).flatmap(
    lambda length: st.lists(st.tuples(st.integers(0, 1), prices, values), min_size=length, max_size=length)
)
amounts = st.fractions(min_value=1, max_value=60, max_denominator=9) | st.integers(1, 400).map(Fraction)
limits = st.one_of(
    st.builds(dict, budget=amounts),
    st.builds(dict, budget_fraction=st.fractions(min_value=Fraction(1, 99), max_value=1, max_denominator=99)),
    st.builds(dict, episode_auctions=st.integers(1, 20), episode_budget=amounts),
)
bounds = st.builds(dict, max_bid=st.none() | amounts, bid_grid=st.sampled_from(BidGrid))
every_option = st.builds(lambda limit, bound: ReplayOptions(**limit, **bound), limits, bounds)
multipliers = st.sampled_from([10.0, 300.0, 1e15, 0.0]) | st.floats(0, 1000)
chunk_sizes = st.lists(st.integers(0, 9), min_size=1)


@settings(max_examples=250)
@given(logs, multipliers, every_option, chunk_sizes)
def test_a_replay_in_any_chunks_equals_the_loop(rows, multiplier, options, sizes):
    edges = [min(edge, len(rows)) for edge in [0, *accumulate(sizes), len(rows)]]
    chunks = [auctions(rows[start:end]) for start, end in pairwise(edges)]
    result = replay(lambda: chunks, ConstantMultiplier(multiplier), options)
    assert result == by_loop(rows, multiplier, options)


@given(st.lists(st.tuples(prices, st.integers(0, 1))), st.lists(st.integers(0, 5000), min_size=1, max_size=3))
def test_affordable_equals_the_loop_when_prices_crowd_the_edge_of_the_budget(steps, budgets):
    # Prices near what a greedy buyer has left are the hard ones: half of the prices are replaced by it.
    price, episode = [], []
    for number, budget in enumerate(budgets):
        left = budget
        for step, edge in steps:
            price.append(max(left - step % 3 + 1, 0) if edge else step)
            left -= price[-1] if price[-1] <= left else 0
            episode.append(number)
    expected, lefts = [], list(budgets)
    for paid, number in zip(price, episode, strict=True):
        expected.append(paid <= lefts[number])
        lefts[number] -= paid if expected[-1] else 0
    won = affordable(np.array(price, np.int64), np.array(episode, np.intp), np.array(budgets, np.int64))
    assert won.tolist() == expected


def test_a_long_log_of_alternating_cheap_and_just_too_dear_auctions_equals_the_loop():
    # After i ones are bought n - i is left, and the next price is n - i + 1: a rule of "buy up to the first
    # unaffordable one, then look again" would look 20,000 times.
    n = 20_000
    price = np.stack([np.ones(n, np.int64), np.arange(n, 0, -1)], axis=1).ravel()
    won = affordable(price, np.zeros(2 * n, np.intp), np.array([n]))
    left, expected = n, []
    for paid in price.tolist():
        expected.append(paid <= left)
        left -= paid if paid <= left else 0
    assert won.tolist() == expected
    assert price[won].sum() == n


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "constnat:5",
            "no policy named 'constnat'. Did you mean 'constant'? Known: constant:M, which bids M x pCTR.",
        ),
        ("pid", "no policy named 'pid'. Known: constant:M, which bids M x pCTR."),
        (
            "constant",
            "policy 'constant' is without its multiplier, expected a number as in constant:86550.5.",
        ),
        ("constant:x", "policy 'constant' is followed by 'x', expected a number as in constant:86550.5."),
        ("constant:nan", "the multiplier is nan, expected a finite number of at least 0."),
        ("constant:inf", "the multiplier is inf, expected a finite number of at least 0."),
        ("constant:-1", "the multiplier is -1.0, expected a finite number of at least 0."),
    ],
)
def test_a_policy_that_cannot_be_is_refused(text, sentence):
    with pytest.raises(BadInput) as refused:
        parse_policy(text)
    assert str(refused.value) == sentence


def test_a_policy_keeps_its_name():
    assert parse_policy("constant:86550.5").name == "constant:86550.5"


@pytest.mark.parametrize(
    ("text", "amount"), [("1969", 1969), ("0.1", Fraction(1, 10)), ("1/16", Fraction(1, 16)), ("010/4", 2.5)]
)
def test_an_amount_is_read_exactly(text, amount):
    assert parse_amount("--budget", text) == amount


@pytest.mark.parametrize(
    "text",
    ["", "0", "0/5", "1/0", "-1", "nan", "inf", "1e9", "1/2/3", "1.5/2", "5.", " 5", "1_0", "5\n", "\u0665"],
)
def test_an_amount_that_is_no_number_above_zero_is_refused(text):
    with pytest.raises(BadInput) as refused:
        parse_amount("--budget", text)
    assert str(refused.value) == f"--budget is {text!r}, expected a number above 0 such as 1969, 0.5 or 1/16."


ONE = Fraction(1)


@pytest.mark.parametrize(
    ("given_options", "sentence"),
    [
        (
            {},
            "no budget is given, expected --episode-auctions with --episode-budget, or --budget, "
            "or --budget-fraction.",
        ),
        ({"max_bid": ONE}, "no budget is given, .*"),
        ({"episode_auctions": 5}, "--episode-auctions needs --episode-budget, the budget of each episode."),
        ({"episode_budget": ONE}, "--episode-budget needs --episode-auctions, the length of each episode."),
        ({"episode_auctions": 5, "budget": ONE}, "--episode-auctions needs --episode-budget, .*"),
        (
            {"budget": ONE, "budget_fraction": ONE},
            "--budget and --budget-fraction exclude each other: give one form of budget.",
        ),
        (
            {"episode_auctions": 5, "episode_budget": ONE, "budget": ONE},
            "--episode-budget and --budget exclude each other: give one form of budget.",
        ),
        (
            {"episode_auctions": 0, "episode_budget": ONE},
            "--episode-auctions is 0, expected a whole number above 0.",
        ),
        ({"budget": Fraction(-1, 2)}, "--budget is -1/2, expected an exact number above 0."),
        ({"budget": math.nan}, "--budget is nan, expected an exact number above 0."),
        ({"budget": ONE, "max_bid": Fraction(0)}, "--max-bid is 0, expected an exact number above 0."),
        (
            {"budget_fraction": Fraction(16)},
            r"--budget-fraction is 16, expected at most 1 \(the whole log\).",
        ),
    ],
)
def test_limits_that_conflict_or_are_missing_are_refused_by_name(given_options, sentence):
    with pytest.raises(BadInput, match=f"^{sentence}$"):
        ReplayOptions(**given_options)


def test_the_command_prints_one_json_object(tmp_path, capsys):
    log = tmp_path / "four.txt"
    log.write_text("".join(f"{click} {price} {value}\n" for click, price, value in FOUR))
    replay_command(log, "ipinyou-theta", "constant:100", budget_fraction="1/5", json_=True)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = {"auctions": 4, "impressions": 1, "clicks": 1, "cost": 25, "value": 0.25, "overspend": 0}
    assert {key: printed[key] for key in expected} == expected


def test_the_command_prints_a_table_for_a_person(tmp_path, capsys):
    log = tmp_path / "four.txt"
    log.write_text("".join(f"{click} {price} {value}\n" for click, price, value in FOUR))
    replay_command(log, "ipinyou-theta", "constant:100", budget="70", integer_bids=True)
    assert "cost" in (table := capsys.readouterr().out)
    assert "65" in table


def test_the_command_refuses_an_unknown_format(tmp_path):
    with pytest.raises(BadInput) as refused:
        replay_command(tmp_path, "ipinyou-teta", "constant:1", budget="1")
    assert str(refused.value) == (
        "no log format named 'ipinyou-teta'. Did you mean 'ipinyou-theta'? Known: ipinyou-theta."
    )


def test_a_replay_needs_no_jax_and_its_help_no_numpy():
    program = (
        "import sys; import gaelp.cli.replay_command; assert 'numpy' not in sys.modules; "
        "import gaelp.market.replay; assert 'jax' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
