"""The ladder: shares with intervals, who is certified, and what a screen is told."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from gaelp.cli.ladder_command import record, remarks, said, suite_table
from gaelp.core.errors import BadInput
from gaelp.market.baselines import PACERS, Days, baselines_of
from gaelp.market.ladder import Ladder, Rung, Share, bar, certify, climb, share_of
from gaelp.market.suites import NAMES, Room, suite


def days(score: list[float], spent: list[float]) -> Days:
    n = len(score)
    return Days(
        score=np.array(score), spent=np.array(spent), units=np.array(score), budget=np.full(n, 10.0),
        target=np.full(n, np.inf), win_rate=np.full(n, 0.2),
    )  # fmt: skip


def test_a_share_is_the_sum_of_scores_over_the_sum_of_the_reference_and_each_seed_has_its_own():
    share = share_of(np.array([1.0, 1.0, 3.0, 4.0]), np.array([2.0, 2.0, 4.0, 4.0]), seeds=2)
    assert share.middle == pytest.approx(9 / 12)
    assert share.by_seed == pytest.approx((2 / 4, 7 / 8))
    assert 0.5 <= share.low <= share.middle <= share.high <= 1.0


def test_the_interval_of_a_share_holds_the_true_one_in_about_95_of_100_samples():
    # 300 samples of 200 days; the true share is 0.9. With coverage 0.95 fewer than 270 happen once in 10,000.
    rng, held = np.random.default_rng(5), 0
    for _ in range(300):
        line = np.exp(rng.normal(size=200))
        share = share_of(line * (0.9 + 0.1 * rng.normal(size=200)), line, seeds=1)
        held += share.low <= 0.9 <= share.high
    assert held >= 270


def test_the_best_that_never_overspent_is_certified_with_its_margin_over_the_others():
    good, careless = days([5.0, 5.0, 6.0], [9.0, 10.0, 10.0]), days([9.0, 9.0, 9.0], [9.0, 10.5, 10.0])
    name, margins = certify(list(PACERS), [good, careless])
    assert name == PACERS[0].name
    assert [m.over for m in margins] == [PACERS[1].name]
    assert margins[0].mean == pytest.approx(-11 / 3)
    with pytest.raises(BadInput, match="no baseline kept its budget"):
        certify(list(PACERS[1:]), [careless])


@pytest.mark.parametrize(("worlds", "seeds", "said"), [(19, 1, "--worlds is 19"), (20, 0, "--seeds is 0")])
def test_a_ladder_of_too_few_worlds_is_refused(worlds, seeds, said):
    with pytest.raises(BadInput, match=said):
        climb(suite("second-price"), worlds=worlds, seeds=seeds)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if suite(name).room is Room.NONE])
def test_without_room_the_certified_pacer_reaches_975_of_1000_and_nobody_passes_the_reference(name):
    # The worlds that `gaelp ladder all` judges on. Seeds are fixed, so nothing is left to chance.
    ladder = climb(suite(name), worlds=256, seeds=3)
    by_name = {rung.name: rung for rung in ladder.rungs}
    assert ladder.bar == bar(name, by_name[ladder.certified].share.middle, 0.975)
    assert ladder.bar.met, ladder.bar
    assert max(rung.share.middle for rung in ladder.rungs) < 1.0
    assert all(rung.overspend == 0.0 for rung in ladder.rungs)
    assert ladder.lp is not None
    assert ladder.lp > 0.995
    assert ladder.room == pytest.approx(1.0 - by_name[ladder.best].share.middle)


def rung(name: str, middle: float) -> Rung:
    return Rung(
        name=name, share=Share(middle=middle, low=middle - 0.01, high=middle + 0.01, by_seed=(middle,)), spend_share=0.9,
        overspend=0.0, violations=0.4, excess=0.02, worst_decile=0.7, win_rate=0.2, knobs={"shift": 0.1},
    )  # fmt: skip


def rivals_ladder() -> Ladder:
    return Ladder(
        suite="rivals", version=1, hash="abc", room_for="information", lp=None, worlds=20, seeds=1, certified="b",
        reference="price-taker reference (no bound)", reference_score=10.0, margins=(), bar=None, best="b", room=0.04,
        clairvoyant=rung("clairvoyant pacer", 1.02), rungs=(rung("a", 0.9), rung("b", 0.96)),
    )  # fmt: skip


def test_a_suite_is_told_in_one_line_with_the_name_of_its_line():
    assert said(rivals_ladder()) == (
        "rivals: b reaches 96.0 % (95.0 to 97.0) of the price-taker reference (no bound); room 4.0 %"
    )


def test_a_bar_is_told_with_its_suite_and_stands_in_the_json():
    short = replace(rivals_ladder(), suite="gsp", bar=bar("gsp", 0.97496, 0.975))
    assert said(short).endswith("; bar 97.5 %: not met, at 97.49 %")
    assert remarks(replace(short, bar=bar("gsp", 0.975, 0.975))).endswith("; bar 97.5 %: met")
    told = json.loads(json.dumps(record([rivals_ladder(), short])))
    assert told["bars"] == [{"name": "gsp", "figure": 0.97496, "bar": 0.975, "met": False}]
    assert set(told["suites"][0]) == {
        "suite", "version", "hash", "room_for", "reference", "reference_score", "lp", "worlds", "seeds", "certified", "bar",
        "margins", "best", "room", "clairvoyant", "rungs",
    }  # fmt: skip


def test_eighty_columns_hold_every_name_and_every_head_of_a_suite_whole():
    # GSP with a target has every baseline that there is.
    names = [baseline.name for baseline in baselines_of(suite("gsp-cpa").kind, target=1.0)]
    ladder = replace(
        rivals_ladder(),
        certified="pacer, best projected score",
        rungs=tuple(rung(name, 0.96) for name in names),
    )
    printed = io.StringIO()
    Console(file=printed, width=80).print(suite_table(ladder))
    text = printed.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    heads, body = text.split("\N{BOX DRAWINGS LIGHT HORIZONTAL}", 1)
    for word in (
        "policy",
        "share",
        "95 %",
        "spend",
        "overspend",
        "above",
        "target",
        "excess",
        "worst",
        "tenth",
    ):
        assert word in heads
    # Names stand in the first column, folded between words.
    first = " ".join(line[:14].strip() for line in body.splitlines()[1:])
    told = " ".join(first.split())
    for name in (
        *names,
        "clairvoyant pacer",
        "price-taker reference (no bound)",
        "best projected score (certified)",
    ):
        assert name in told
    assert "(no bound)" in body
    assert "95.0 to 97.0" in body


def test_the_page_shows_every_policy_best_first_and_says_where_the_line_bounds_nothing():
    from gaelp.report.ladder import page

    text = page([rivals_ladder()])
    assert "price-taker reference (no bound)" in text
    assert "LP bound" not in text
    table = text[text.index("<tbody>") :]
    assert table.index("clairvoyant pacer") < table.index("<td>b</td>") < table.index("<td>a</td>")
    assert text.count("<circle") == 3
    assert "96.0 %" in table
