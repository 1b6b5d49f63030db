"""What the report, the summary and the status tell of a journey on a log, from events written by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.report.story import FIRST, UNTRAINED, Story

from gaelp.report.html import write_report
from gaelp.report.summary import doubts, print_summary, status, summarise
from gaelp.store.store import Store

ENDS_HERE = "no platform is configured, so no money can follow: the journey ends here."
JOURNEY = {
    "name": "log",
    "log": {
        "path": "/logs/auctions.txt", "format": "ipinyou-theta", "sha256": "d" * 64, "episode_auctions": 100,
        "episode_budget": 1234,
    },
}  # fmt: skip
PARTS = [
    {"name": name, "auctions": 100 * n, "episodes": n, "clicks": 3, "cost": 50_000, "predicted_clicks": 2.5}
    for name, n in (("training", 60), ("selection", 20), ("certification", 20))
]


def split(story: Story) -> None:
    story.tell(
        "log_split", log="auctions.txt", sha256="d" * 64, format="ipinyou-theta", episode_auctions=100,
        episode_budget=1234, max_bid=None, unused_auctions=7, parts=PARTS,
    )  # fmt: skip


def told(store: Store, **changes: Any) -> Story:
    """A whole journey on a log: one call in each phase, neither a pass."""
    story = Story(store, "log-1", JOURNEY)
    split(story)
    knobs = {"keep": 0.9, "prior": 0.5, "reserve": 2.0, "offset": 0.0}
    story.tell(
        "block_pacer_certified", hash="p1", retuned_hash="p2", artifact="x", knobs=knobs, retuned_knobs=knobs,
        mean_value=0.45, mean_lp_value=0.5,
    )  # fmt: skip
    line = {"fitted": 0.2, "low": 0.1, "high": 0.3, "held_out": 0.25, "identified": True, "within": True}
    story.tell(
        "log_fidelity", verdict="WAIT", rule="fidelity_gate", reason="the later part is unusual.", surprise=0.05,
        ks=0.1, ks_reference=0.1, fitted_won=6_000, held_out_won=2_000,
        lines=[line | {"name": "win_rate_at_20"}, line | {"name": "clicks", "held_out": 0.4, "within": False}],
    )  # fmt: skip
    story.begin("simulation")
    story.train("simulation", before=UNTRAINED, after=FIRST, change=0.5, gain=-0.01)
    story.judge("simulation", actor=FIRST, **changes)
    story.end("simulation", "FAIL", "it did not learn.")
    story.begin("historical")
    story.tell(
        "played", phase="historical", source="replayed", episodes=16, seed=3, actor_hash=FIRST, mean_score=0.4,
        mean_spend=1_000.0, mean_gain=0.125,
    )  # fmt: skip
    story.tell(
        "trained", phase="historical", episodes=16, train_every=16, call=2, entropy_share=0.9,
        weight_change={"absolute": 0.1, "relative": 0.01}, actor_hash_before=FIRST, actor_hash_after="e" * 64,
    )  # fmt: skip
    shares = {
        "agent": 0.97,
        "pacer": 0.96,
        "retuned": 0.95,
        "random": 0.9,
        "online_lp": 0.93,
        "hindsight": 0.94,
    }
    evidence = {
        "episodes": 20, "episodes_lost": 6, "mean": 0.01, "lower": -0.02, "upper": 0.04, "plain_mean": 0.012,
        "clip": 0.25, "lp_value": 9.5, "shares": shares, "agent_spend_share": 0.9, "pacer_spend_share": 0.91,
        "agent_clicks": 2, "pacer_clicks": 3, "overspend": 0,
    }  # fmt: skip
    story.tell(
        "certified", phase="historical", candidate="e" * 64, verdict="WAIT", rule="replay_gate",
        reason="not settled.", evidence=evidence,
    )  # fmt: skip
    story.end("historical", "WAIT", "not settled.", "replay_gate")
    story.tell("journey_ended", platform_bill_micros=0, reached_end=True, reason=ENDS_HERE)
    return story


def printed(store: Store) -> str:
    text = io.StringIO()
    print_summary(summarise(store, "log-1"), Console(file=text, width=2_000))
    return text.getvalue()


def test_the_summary_tells_the_split_both_verdicts_every_policy_and_why_it_ends(store: Store) -> None:
    told(store)
    text = printed(store)
    for part in (
        "training 60, selection 20, certification 20 episodes of 100 auctions and a budget of 1,234 each; 7 auctions",
        "FAIL by simulation_gate", "WAIT by replay_gate", "1 of 2 figures inside their 90 % interval. WAIT",
        "agent 95.0%, pacer 92.0%", "certified pacer of logs 93.0%", "one multiplier for all episodes, in hindsight 94.0%",
        "less than the pacer in 6 of 20 episodes", ENDS_HERE,
    ):  # fmt: skip
        assert part in text, part
    assert "price-taker" not in text
    assert "XXX" not in text
    assert "Money" not in text


def test_the_answer_names_the_bound_and_the_replay_and_holds_no_money(store: Store) -> None:
    told(store)
    answer: dict[str, Any] = summarise(store, "log-1").answer(seconds=1.0, sandbox_db=None)
    assert json.loads(json.dumps(answer)) == answer
    assert answer["sandbox_db"] is None
    assert answer["shares_of_lp_bound"]["agent"] == 0.95
    assert "shares_of_price_taker_reference" not in answer
    assert (answer["replayed"]["lower"], answer["replayed"]["plain_mean"]) == (-0.02, 0.012)
    assert not any(amount for name, amount in answer["money"].items() if name.endswith("_micros"))
    assert answer["pacer_hash"] == "p1"


def test_replayed_episodes_are_scored_beside_the_pacer_and_so_on_the_learning_curve(store: Store) -> None:
    told(store)
    assert [call.gain for call in summarise(store, "log-1").calls] == [-0.01, 0.125]


def test_a_verdict_that_the_plain_totals_contradict_is_doubted(store: Store) -> None:
    story = told(store)
    # As written by hand, 95 % of the bound against 92 %.
    assert doubts(summarise(store, "log-1")) == ()
    behind = Story(store, "log-2", JOURNEY)
    split(behind)
    events = list(store.events(story.run_id))
    for event in events:
        if event.kind in ("phase_began", "trained", "judged", "played"):
            payload = dict(event.payload)
            if event.kind == "judged":
                payload["shares"] = {"agent": 0.968, "pacer": 0.970, "retuned": 0.98, "random": 0.9}
            behind.tell(event.kind, **payload)
    assert doubts(summarise(store, "log-2")) == (
        "The judging worlds' clipped differences say LEARNING, but in all of them together the agent buys 96.80% of the "
        "LP bound and the pacer 97.00%.",
    )


def test_the_page_shows_the_log_its_parts_both_gates_and_the_ladder(store: Store, tmp_path: Path) -> None:
    told(store)
    write_report(store, "log-1", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for part in ("auctions.txt", "certification", "90.0% of the LP bound", "replay_gate", "simulation_gate", "win rate at 20",
                 "certified pacer of logs", "No platform is configured", "LP bound, event"):  # fmt: skip
        assert part in page, part
    assert "price-taker" not in page


@pytest.mark.parametrize("events", [0, 1])
def test_a_run_that_has_just_begun_is_told_too(events: int, store: Store, tmp_path: Path) -> None:
    story = Story(store, "log-1", JOURNEY)
    if events:
        split(story)
    write_report(store, "log-1", tmp_path / "report.html")
    assert status(store, "log-1")["state"] == ("preparing" if events else "new")
    if events:
        assert status(store, "log-1")["phase"] == "log"
        assert "The journey has not ended." in printed(store)
