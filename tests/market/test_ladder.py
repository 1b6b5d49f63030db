"""The ladder: shares with intervals, who is certified, and what a screen is told."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from gaelp.cli.ladder_command import said
from gaelp.core.errors import BadInput
from gaelp.market.baselines import PACERS, Days
from gaelp.market.ladder import Ladder, Rung, Share, certify, climb, share_of
from gaelp.market.suites import suite


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
def test_where_prices_are_given_the_certified_pacer_reaches_975_of_1000_and_nobody_passes_the_reference():
    ladder = climb(suite("second-price"), worlds=96, seeds=2)
    by_name = {rung.name: rung for rung in ladder.rungs}
    # 192 worlds: the share's standard error is near 0.001, and it stands at about 0.99.
    assert by_name[ladder.certified].share.middle >= 0.975
    assert max(rung.share.middle for rung in ladder.rungs) < 1.0
    assert all(rung.overspend == 0.0 for rung in ladder.rungs)
    assert ladder.lp is not None
    assert 0.995 < ladder.lp < 1.01
    assert ladder.room == pytest.approx(1.0 - by_name[ladder.best].share.middle)
    told = json.loads(json.dumps(asdict(ladder)))
    assert set(told) == {
        "suite", "version", "hash", "room_for", "reference", "reference_score", "lp", "worlds", "seeds", "certified",
        "margins", "best", "room", "clairvoyant", "rungs",
    }  # fmt: skip


def rung(name: str, middle: float) -> Rung:
    return Rung(
        name=name, share=Share(middle=middle, low=middle - 0.01, high=middle + 0.01, by_seed=(middle,)), spend_share=0.9,
        overspend=0.0, violations=0.4, excess=0.02, worst_decile=0.7, win_rate=0.2, knobs={"shift": 0.1},
    )  # fmt: skip


def rivals_ladder() -> Ladder:
    return Ladder(
        suite="rivals", version=1, hash="abc", room_for="information", lp=None, worlds=20, seeds=1, certified="b",
        reference="price-taker reference (no bound)", reference_score=10.0, margins=(), best="b", room=0.04,
        clairvoyant=rung("clairvoyant pacer", 1.02), rungs=(rung("a", 0.9), rung("b", 0.96)),
    )  # fmt: skip


def test_a_suite_is_told_in_one_line_with_the_name_of_its_line():
    assert said(rivals_ladder()) == (
        "rivals: b reaches 96.0 % (95.0 to 97.0) of the price-taker reference (no bound); room 4.0 %"
    )


def test_the_page_shows_every_policy_best_first_and_says_where_the_line_bounds_nothing():
    from gaelp.report.ladder import page

    text = page([rivals_ladder()])
    assert "price-taker reference (no bound)" in text
    assert "LP bound" not in text
    table = text[text.index("<tbody>") :]
    assert table.index("clairvoyant pacer") < table.index("<td>b</td>") < table.index("<td>a</td>")
    assert text.count("<circle") == 3
    assert "96.0 %" in table
