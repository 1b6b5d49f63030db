"""A run's summary is a fold of its events: fixed keys, exact sums, and never more praise than the log holds."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from tests.report.story import FIRST, SECOND, UNTRAINED, Story, whole_journey

from gaelp.core.errors import StoreError
from gaelp.report.facts import Amounts
from gaelp.report.summary import doubts, lines, print_summary, summarise
from gaelp.safety.ledger import Request
from gaelp.store.store import Store


def printed(store: Store, width: int) -> str:
    text = io.StringIO()
    print_summary(summarise(store, "demo-1"), Console(file=text, width=width))
    return text.getvalue()


def test_the_answer_has_the_fixed_keys_and_the_values_of_the_log(store: Store) -> None:
    story = whole_journey(store)
    answer = summarise(store, story.run_id).answer(seconds=12.5, sandbox_db="sandbox.db")
    assert {"run", "seconds", "weights_hash", "sandbox_db", "phases", "money", "learning"} <= set(answer)
    assert (answer["run"], answer["seconds"], answer["sandbox_db"]) == ("demo-1", 12.5, "sandbox.db")
    assert answer["weights_hash"] == FIRST
    assert answer["learning"]["verdict"] == "LEARNING"  # type: ignore[index]
    assert answer["reached_end"] is True
    simulation, live = answer["phases"]  # type: ignore[misc]
    keys = ("name", "episodes", "train_calls", "min_weight_change", "verdict", "reason")
    assert tuple(simulation[key] for key in keys) == ("simulation", 64, 2, 0.2, "PASS", "it holds.")
    assert simulation["mean_weight_change"] == pytest.approx(0.3)
    assert (live["name"], live["train_calls"], live["min_weight_change"], live["verdict"]) == (
        "real_testing",
        0,
        0.0,
        "WAIT",
    )
    assert json.loads(json.dumps(answer)) == answer


def test_money_adds_up_to_the_micro(store: Store) -> None:
    # Two days, 10.00 reserved for each of two arms: 40.00. Spent 2 + 1 + 3 + 1.5 = 7.50; the rest is released.
    whole_journey(store)
    summary = summarise(store, "demo-1")
    assert summary.amounts == Amounts(
        granted=40_000_000, reserved=40_000_000, released=32_500_000, posted=7_500_000
    )
    assert (summary.amounts.open, summary.amounts.spent) == (0, 7_500_000)
    steps = sum(day.step_spend_micros for day in summary.live_days)
    assert steps == summary.settled_spend_micros == summary.platform_bill_micros == 7_500_000
    assert summary.overspend_micros == 0
    # On day 11 both arms' 10.00 are at stake on top of the 3.00 that day 10 cost.
    assert [day.committed_micros for day in summary.ledger_days] == [20_000_000, 23_000_000]


def test_overspend_is_the_bill_beyond_the_grants_and_every_breach(store: Store) -> None:
    story = whole_journey(store)
    late = "real_testing/late"
    with store.transaction(story.run_id) as tx:
        tx.late_charge(Request(intent=late, phase="real_testing", day=11, episode=late, micros=500_000))
    story.finish(41_000_000)
    summary = summarise(store, story.run_id)
    # 41.00 billed, 40.00 granted, 0.50 breached.
    assert summary.overspend_micros == 1_000_000 + 500_000
    assert summary.amounts.spent == 8_000_000


def test_without_a_bill_none_is_made_up(store: Store) -> None:
    story = Story(store)
    money = summarise(store, story.run_id).answer(seconds=0.0, sandbox_db="")["money"]
    assert money["platform_bill_micros"] is None  # type: ignore[index]
    assert money["overspend_micros"] == 0  # type: ignore[index]


def test_a_resumed_journey_has_not_ended(store: Store) -> None:
    story = whole_journey(store)
    story.begin("scaled")
    assert summarise(store, story.run_id).ending is None


@pytest.mark.parametrize("judged", ["LEARNING", "BROKEN", "INCONCLUSIVE", "NOT_LEARNING"])
def test_an_actor_that_was_never_promoted_is_never_learning(store: Store, judged: str) -> None:
    story = Story(store)
    story.begin("simulation")
    story.train("simulation", before=UNTRAINED, after=FIRST, change=0.1)
    story.judge("simulation", actor=FIRST, verdict=judged)
    story.tell("not_promoted", phase="simulation", verdict="WAIT", reason="certification failed.")
    summary = summarise(store, story.run_id)
    assert summary.weights_hash == UNTRAINED
    assert summary.learning.verdict == ("INCONCLUSIVE" if judged == "LEARNING" else judged)


def test_learning_is_the_verdict_of_what_plays_and_not_of_the_last_candidate(store: Store) -> None:
    story = whole_journey(store)
    story.judge("scaled", actor=SECOND, verdict="BROKEN", reason="a later candidate.")
    summary = summarise(store, story.run_id)
    assert (summary.weights_hash, summary.learning.verdict) == (FIRST, "LEARNING")
    story.judge("scaled", actor=FIRST, verdict="INCONCLUSIVE", reason="looked at again.")
    assert summarise(store, story.run_id).learning.verdict == "INCONCLUSIVE"


def test_a_run_that_goes_on_is_told_as_far_as_it_got(store: Store) -> None:
    story = Story(store)
    story.begin("simulation")
    story.train("simulation", before=UNTRAINED, after=FIRST, change=0.1)
    (phase,) = summarise(store, story.run_id).phases
    assert (phase.episodes, phase.train_calls, phase.ended, phase.verdict) == (32, 1, False, "WAIT")


def test_arms_are_compared_by_market_and_day(store: Store) -> None:
    whole_journey(store)
    first, second = summarise(store, "demo-1").live_days
    # 1.0 - 1.25 and 1.0 - 0.5, both arms in market 0.
    assert (first.difference, first.pairs, second.difference) == (-0.25, 1, 0.5)


@pytest.mark.parametrize(
    ("low", "high", "said"), [(-0.3, 0.4, "does not show it"), (-0.4, -0.1, "does worse"), (0.1, 0.4, "")]
)
def test_a_win_in_the_worlds_only_is_said_in_plain_words(
    store: Store, low: float, high: float, said: str
) -> None:
    whole_journey(store)
    summary = summarise(store, "demo-1")
    told = doubts(replace(summary, comparisons=(replace(summary.comparisons[0], low=low, high=high),)))
    assert [said in sentence for sentence in told] == ([True] if said else [])


def test_the_table_shows_phases_money_and_reasons_in_eighty_columns(store: Store) -> None:
    whole_journey(store)
    text = printed(store, 80)
    for word in ("simulation", "PASS by", "WAIT by live_gate", "40.00", "7.50", "it holds."):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80


def test_brackets_in_a_reason_are_shown_as_they_are(store: Store) -> None:
    story = Story(store)
    story.begin("simulation")
    story.end("simulation", "FAIL", "within [red]0.1[/red]")
    assert "[red]0.1[/red]" in printed(store, 120)


def test_what_was_refused_is_counted(store: Store) -> None:
    story = whole_journey(store)
    story.tell("batch_refused", phase="scaled", episodes=16, reason="effective sample size too low.")
    assert any(
        "batches as unusable 1, candidates 0, bids 1" in line for line in lines(summarise(store, "demo-1"))
    )


def test_an_event_of_another_version_is_named(store: Store) -> None:
    story = Story(store)
    story.tell("phase_began", name="simulation")
    with pytest.raises(StoreError, match=r"event 1 \(phase_began\) has no 'train_every'"):
        summarise(store, story.run_id)


def test_an_unknown_run_is_refused_with_a_suggestion(store: Store) -> None:
    Story(store)
    with pytest.raises(StoreError, match="Did you mean 'demo-1'"):
        summarise(store, "demo-2")
