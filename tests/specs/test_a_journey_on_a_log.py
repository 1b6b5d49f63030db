"""A journey on a recorded auction log alone: both phases are played and judged, and no money follows."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.market.made_logs import made_log, written
from tests.specs.journey import Answer, Home, Told

RUN = "log-1"
EPISODES, CALLS, TRAINING = 320, 10, 66
"""Ten simulation calls of 32. The log's 5,280 auctions are 110 episodes: 66, 22 and 22; two passes of 66 are nine
replay calls, the last of 4."""
SETTINGS = (
    f"simulation.episodes={EPISODES}", "simulation.judging_worlds=64", "simulation.checkpoint_every=2",
    "historical.passes=2", "historical.checkpoint_every=3", "learning_rate=5e-4",
)  # fmt: skip
ENDS_HERE = "no platform is configured, so no money can follow: the journey ends here"


@dataclass(frozen=True)
class OnALog:
    """A finished run on a made log."""

    home: Home
    log: Path
    answer: Answer


def words(log: Path) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    episode = ("--episode-auctions", "48", "--budget-fraction", "1/8", "--max-bid", "150")
    return [
        "run",
        "--logs",
        str(log),
        "--format",
        "ipinyou-theta",
        *episode,
        *settings,
        "--seed",
        "5",
        "--json",
    ]


def events(home: Home, *kinds: str) -> list[Told]:
    """Number, kind, payload and hash of the run's events; the wall clock is left out."""
    database = home.path / "gaelp.sqlite"
    if not database.is_file():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as store:
        try:
            rows = store.execute(
                "SELECT seq, kind, payload, hash FROM event WHERE run_id = ? ORDER BY seq", (RUN,)
            ).fetchall()
        except sqlite3.OperationalError as young:
            if "no such table" not in str(young):
                raise
            return []
    named = [{"seq": s, "kind": k, "told": json.loads(p), "hash": h} for s, k, p, h in rows]
    return [row for row in named if not kinds or row["kind"] in kinds]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("log") / "auctions.txt", made_log(5_300))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path, log: Path) -> OnALog:
    home = Home(tmp_path_factory.mktemp("on-a-log") / "home", cache)
    answer = home.ask(*words(log))
    assert answer.code == 0, answer.err
    return OnALog(home, log, answer)


def test_it_plays_both_phases_says_why_it_ends_and_exits_0_whatever_the_verdicts(finished: OnALog) -> None:
    told = finished.answer.last
    assert [phase["name"] for phase in told["phases"]] == ["simulation", "historical"]
    assert [phase["episodes"] for phase in told["phases"]] == [EPISODES, 2 * TRAINING]
    assert [phase["train_calls"] for phase in told["phases"]] == [CALLS, 9]
    assert all(phase["verdict"] in ("PASS", "WAIT", "FAIL") for phase in told["phases"])
    # An agent of ten calls has learned nothing that 64 worlds could show: neither verdict is a pass, the code is 0.
    assert told["phases"][0]["verdict"] != "PASS"
    assert all(phase["min_weight_change"] > 0 for phase in told["phases"])
    assert ENDS_HERE in finished.answer.err.replace("\n", " ")
    assert told["reason"] == f"{ENDS_HERE}."


def test_its_json_has_the_keys_of_every_run_and_no_money(finished: OnALog) -> None:
    told = finished.answer.last
    fixed = {"run", "seconds", "weights_hash", "sandbox_db", "phases", "money", "learning"}
    assert fixed <= set(told)
    assert told["run"] == RUN
    assert told["sandbox_db"] is None
    assert re.fullmatch(r"[0-9a-f]{64}", told["weights_hash"])
    keys = {"name", "episodes", "train_calls", "min_weight_change", "mean_weight_change", "verdict", "reason"}
    assert all(keys <= set(phase) for phase in told["phases"])
    money = {name: amount for name, amount in told["money"].items() if name.endswith("_micros")}
    assert len(money) == 8
    assert not any(money.values())
    assert told["learning"]["verdict"] in ("LEARNING", "NOT_LEARNING", "INCONCLUSIVE", "BROKEN")


def test_training_has_the_cadence_of_its_phases_the_remainder_too(finished: OnALog) -> None:
    by_phase: dict[str, list[tuple[int, int, int]]] = {}
    for row in events(finished.home, "trained"):
        told = row["told"]
        by_phase.setdefault(told["phase"], []).append(
            (told["episodes"], told["batch_size"], told["num_epochs"])
        )
    assert by_phase["simulation"] == [(32, 64, 4)] * CALLS
    assert by_phase["historical"] == [(16, 32, 2)] * 8 + [(4, 32, 2)]
    sources = {(row["told"]["phase"], row["told"]["source"]) for row in events(finished.home, "played")}
    assert sources == {("simulation", "simulated"), ("historical", "replayed")}


def test_certification_is_counted_again_from_the_log_itself(finished: OnALog) -> None:
    told = events(finished.home, "certified")[0]["told"]
    evidence = told["evidence"]
    price, value = np.loadtxt(finished.log, usecols=(1, 2)).T
    # Episodes 88 to 109 of 110; the LP bound by the greedy rule, episode by episode.
    budget = events(finished.home, "log_split")[0]["told"]["episode_budget"]
    assert budget == int(price[: 66 * 48].sum() / 66 / 8)
    bound = 0.0
    for k in range(88, 110):
        cost, worth = price[k * 48 : (k + 1) * 48], value[k * 48 : (k + 1) * 48]
        left = float(budget)
        for at in np.argsort(cost / worth):
            if cost[at] <= 150 and left > 0:
                part = min(1.0, left / cost[at])
                bound, left = bound + part * worth[at], left - part * cost[at]
    assert evidence["lp_value"] == pytest.approx(bound, rel=1e-9)
    assert evidence["episodes"] == 22
    assert set(evidence["shares"]) == {"agent", "pacer", "retuned", "random", "online_lp", "hindsight"}
    assert all(0.5 < share <= 1.0 for share in evidence["shares"].values())
    assert evidence["overspend"] == 0
    # In units of the pacer's mean value, and the agent's and the pacer's own totals say the same.
    unit = events(finished.home, "block_pacer_certified")[0]["told"]["mean_value"]
    gap = (evidence["shares"]["agent"] - evidence["shares"]["pacer"]) * bound / 22 / unit
    assert evidence["plain_mean"] == pytest.approx(gap, abs=1e-4)
    assert f"{evidence['mean']:+.4f}" in told["reason"]


def test_status_report_validate_and_verify_know_it(finished: OnALog) -> None:
    home = finished.home
    status = home.ask("status", "--json").last
    assert (status["state"], status["phase"]) == ("ended", "historical")
    page = Path(home.ask("report", "--json").last["report"]).read_text(encoding="utf-8")
    for part in (
        "LP bound",
        "certification",
        "replay_gate",
        "simulation_gate",
        "auctions.txt",
        "certified pacer of logs",
    ):
        assert part in page
    validated = home.ask("validate", "--json")
    assert validated.code == 0, validated.out
    checks = {check["name"] for check in validated.last["checks"]}
    assert {
        "hash_chain",
        "cadence",
        "weights_moved",
        "played_weights",
        "log_on_disk",
        "split_in_order",
        "no_money",
    } <= checks
    verified = home.ask("verify", "--json")
    assert verified.last["same_as_judged"] is True, verified.last["differs"]
    assert verified.last["verdict"] == finished.answer.last["learning"]["verdict"]


def test_what_does_not_apply_is_refused_in_one_sentence(finished: OnALog) -> None:
    asked = (
        ("grant", "--phase", "scaled", "--amount", "5", "--by", "R. Money"),
        ("approve", "--by", "R. Money"),
        ("validate", "--negative-controls"),
        ("resume",),
    )
    for command in asked:
        answer = finished.home.ask(*command)
        assert answer.code == 2
        assert answer.err.count("\n") == 1
        assert RUN in answer.sentence


def test_killed_in_either_phase_and_resumed_it_ends_the_same_event_by_event(
    finished: OnALog, tmp_path: Path, cache: Path
) -> None:
    home = Home(tmp_path / "killed", cache)

    def of_phase(kind: str, phase: str) -> list[Told]:
        return [row for row in events(home, kind) if row["told"]["phase"] == phase]

    travelling = home.start(*words(finished.log), frozen_at=("checkpoint", 2))
    travelling.until_frozen()
    travelling.kill()
    assert 0 < len(of_phase("trained", "simulation")) < CALLS
    blocks = len(events(finished.home, "checkpoint"))
    travelling = home.start("resume", RUN, "--json", frozen_at=("checkpoint", blocks - 1))
    travelling.until_frozen()
    travelling.kill()
    assert 0 < len(of_phase("trained", "historical")) < 9
    assert not events(home, "journey_ended")
    answer = home.ask("resume", RUN, "--json")
    assert answer.code == 0, answer.err
    assert answer.last["weights_hash"] == finished.answer.last["weights_hash"]
    assert answer.last["head_hash"] == finished.answer.last["head_hash"]
    # Two runs with one seed, one of them disturbed twice: the same story, number by number.
    assert events(home) == events(finished.home)


def test_a_log_that_changed_under_a_run_is_noticed(finished: OnALog) -> None:
    began = finished.log.read_bytes()
    try:
        finished.log.write_bytes(began[: -len(began.splitlines(keepends=True)[-1])])
        validated = finished.home.ask("validate", "--json")
        assert validated.code == 1
        assert [c["name"] for c in validated.last["checks"] if not c["ok"]] == ["log_on_disk"]
        verified = finished.home.ask("verify")
        assert verified.code == 2
        assert "is not the file that the run began with" in verified.sentence
    finally:
        finished.log.write_bytes(began)


def test_a_halted_run_stops_between_blocks_and_goes_on_when_that_is_lifted(
    finished: OnALog, tmp_path: Path, cache: Path
) -> None:
    home = Home(tmp_path / "halted", cache)
    travelling = home.start(*words(finished.log), frozen_at=("checkpoint", 1))
    travelling.until_frozen()
    halted = home.ask("halt", "--reason", "a look at the log", "--json")
    assert halted.code == 0, halted.err
    travelling.thaw()
    assert travelling.process.wait(timeout=120) == 1
    assert len(events(home, "checkpoint")) == 1, "no block more is trained"
    assert "a look at the log" in travelling.complained.read_text()
    assert home.ask("status", "--json").last["state"] == "halted"
    answer = home.ask("resume", RUN, "--lift", "seen", "--json")
    assert answer.code == 0, answer.err
    assert answer.last["weights_hash"] == finished.answer.last["weights_hash"]
