"""What must not go on: agents that do not learn, guards that trip, gates that wait, platforms that fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.specs.conftest import Finished
from tests.specs.journey import RUN, Answer, Home, live_day
from tests.specs.test_determinism_and_resume import grants_and_approves, travel_until

from gaelp.core.verdict import FAIL, PASS, WAIT, Verdict
from gaelp.learn.runtime import enable_compilation_cache
from gaelp.orchestration.orchestrator import PhaseOutcome, TrainingOrchestrator
from gaelp.orchestration.run import Run, existing_run
from gaelp.platforms.sandbox.client import SandboxPlatform
from gaelp.safety.gates import may_continue

KEYS = {"run", "seconds", "weights_hash", "sandbox_db", "phases", "money", "learning"}
PHASE_KEYS = {
    "name",
    "episodes",
    "train_calls",
    "min_weight_change",
    "mean_weight_change",
    "verdict",
    "reason",
}
MONEY_KEYS = {"granted_micros", "reserved_micros", "spent_micros", "platform_bill_micros", "overspend_micros"}


def assert_fixed_keys(told: dict[str, Any]) -> None:
    assert set(told) >= KEYS
    assert all(set(phase) >= PHASE_KEYS for phase in told["phases"])
    assert set(told["money"]) >= MONEY_KEYS
    assert "verdict" in told["learning"]


# ---- an agent that cannot learn


@pytest.fixture(scope="module")
def still(shared: Path, cache: Path, config: Path) -> Iterator[tuple[Home, Any]]:
    """A journey with learning rate 0, as far as it goes."""
    home = Home(shared / "still", cache)
    answer = home.start(
        "run",
        str(config),
        "--json",
        "--set",
        "learning_rate=0",
        "--set",
        "simulation.episodes=76",
        "--set",
        "judging_worlds=64",
    ).end()
    yield home, answer
    home.stop_sandbox()


def test_learning_rate_0_is_never_learning_and_fails_the_simulation(still: tuple[Home, Any]) -> None:
    home, answer = still
    assert answer.code == 1
    told = answer.last
    assert_fixed_keys(told)
    (phase,) = told["phases"]
    # 76 episodes: two calls of 32 and one of 12, and not one of them moved a weight.
    assert (phase["name"], phase["episodes"], phase["train_calls"]) == ("simulation", 76, 3)
    assert (phase["min_weight_change"], phase["mean_weight_change"]) == (0.0, 0.0)
    assert phase["verdict"] == "FAIL"
    assert told["learning"]["verdict"] == "BROKEN"
    assert [r.told["weight_change"]["absolute"] for r in home.rows("trained")] == [0.0, 0.0, 0.0]
    assert answer.sentence.startswith("gaelp: learning verification: an update left every weight unchanged")


def test_after_the_fail_nothing_later_is_played_and_nothing_is_asked_for(still: tuple[Home, Any]) -> None:
    home, _ = still
    assert [r.told["name"] for r in home.rows("phase_began")] == ["simulation"]
    assert home.rows("authorisation_wanted", "reserved", "promoted") == []
    assert {r.told["phase"] for r in home.rows("day_played")} == {"history"}
    assert home.campaigns("gaelp/") == {}


def test_resuming_after_a_fail_plays_nothing_and_fails_again(still: tuple[Home, Any]) -> None:
    home, _ = still
    before = home.rows()
    answer = home.ask("resume", RUN, "--json")
    assert answer.code == 1
    assert_fixed_keys(answer.last)
    # Only that it ended is told once more.
    assert [r.kind for r in home.rows()[len(before) :]] == ["journey_ended"]


@pytest.mark.parametrize(
    ("algorithm", "why"), [("dpn", "Did you mean 'dqn'?"), ("pPO", "no algorithm"), ("a3c", "no algorithm")]
)
def test_another_algorithm_is_refused_by_name(
    algorithm: str, why: str, homes: Callable[[str], Home], config: Path
) -> None:
    home = homes("refused")
    answer = home.ask("run", str(config), "--algorithm", algorithm)
    assert answer.code == 2
    assert repr(algorithm) in answer.sentence
    assert why in answer.sentence
    assert "Traceback" not in answer.err
    assert not home.path.exists()


# ---- what may go on


class RealAccount:
    """An adapter whose class does not declare itself a sandbox."""

    is_sandbox: ClassVar[bool] = False


@pytest.mark.parametrize("declared", [False, True])
def test_a_real_account_never_goes_on_after_wait_whatever_the_configuration_says(declared: bool) -> None:
    waits = Verdict(WAIT, "live_gate", "not enough days.")
    onward = may_continue(waits, declared=declared, sandbox=RealAccount.is_sandbox)
    assert onward.ruling is WAIT


@pytest.mark.parametrize("sandbox", [False, True])
@pytest.mark.parametrize("declared", [False, True])
def test_nothing_goes_on_after_fail(declared: bool, sandbox: bool) -> None:
    failed = Verdict(FAIL, "books_balance", "the platform took more.")
    assert may_continue(failed, declared=declared, sandbox=sandbox).ruling is FAIL


def test_a_sandbox_goes_on_after_wait_only_when_its_configuration_says_so() -> None:
    waits = Verdict(WAIT, "historical_gate", "a later version judges this.")
    assert may_continue(waits, declared=False, sandbox=SandboxPlatform.is_sandbox).ruling is WAIT
    assert may_continue(waits, declared=True, sandbox=SandboxPlatform.is_sandbox).ruling is PASS


@contextmanager
def altered(home: Home, **changes: object) -> Iterator[tuple[Run, SandboxPlatform]]:
    """The waiting run under another configuration, in this process."""
    run = existing_run(home.path, RUN)
    run = replace(run, config=run.config.model_copy(update=changes), person=grants_and_approves)
    enable_compilation_cache(home.cache / "gaelp" / "jax")
    platform, _ = run.open_platform()
    yield run, platform


def travelled(run: Run, platform: SandboxPlatform) -> dict[str, PhaseOutcome]:
    return asyncio.run(TrainingOrchestrator(run, platform).journey())


def test_without_the_written_word_a_journey_stops_after_wait(waiting: Home) -> None:
    with altered(waiting, continue_after_wait=False) as (run, platform):
        outcomes = travelled(run, platform)
    assert {name: (found.verdict.ruling, found.goes_on) for name, found in outcomes.items()} == {
        "simulation": (PASS, True),
        "historical": (WAIT, False),
    }
    assert waiting.rows("granted", "reserved") == []


# ---- a guard trips


def test_a_tripped_guard_pauses_rolls_back_to_the_last_good_weights_and_ends_in_fail(waiting: Home) -> None:
    tight = existing_run(waiting.path, RUN).config.guards.model_copy(update={"max_velocity_ratio": 0.001})
    good = waiting.rows("promoted")[-1].told["actor_hash"]
    with altered(waiting, guards=tight) as (run, platform):
        outcomes = travelled(run, platform)
    ended = outcomes["real_testing"]
    assert (ended.verdict.ruling, ended.verdict.rule, ended.goes_on) == (FAIL, "spend_velocity", False)
    assert "scaled" not in outcomes

    # Paused at the first decision after something was spent, and not one half hour served after it.
    (day,) = waiting.rows("day_played", phase="real_testing")
    assert day.told["tripped"]["rule"] == "spend_velocity"
    served = waiting.sandbox(
        "SELECT MAX(p.tick) FROM plays p JOIN campaigns c ON c.created_index = p.campaign WHERE c.name LIKE 'gaelp/%' AND p.served"
    )
    assert served == [(7,)]
    assert set(waiting.campaigns("gaelp/").values()) == {"PAUSED"}

    (back,) = waiting.rows("rolled_back")
    assert (back.told["actor_hash"], back.told["rule"]) == (good, "spend_velocity")
    assert waiting.rows("trained", phase="real_testing") == []

    # The spend until then is billed, posted and released like any other.
    spent = sum(r.told["micros"] for r in waiting.rows("posted"))
    assert 0 < spent == sum(waiting.bills().values())
    assert sum(r.told["micros"] for r in waiting.rows("reserved")) == spent + sum(
        r.told["micros"] for r in waiting.rows("released")
    )


def test_a_reservation_refused_ends_the_phase_in_fail_without_a_campaign(waiting: Home) -> None:
    # Five campaigns at 10.00 each may cost 50.00 a day; one micro less is allowed.
    plan = existing_run(waiting.path, RUN).config.real_testing
    less = plan.model_copy(update={"limits": plan.limits.model_copy(update={"per_day": 49_999_999})})
    with altered(waiting, real_testing=less) as (run, platform):
        outcomes = travelled(run, platform)
    assert (outcomes["real_testing"].verdict.ruling, outcomes["real_testing"].verdict.rule) == (
        FAIL,
        "per_day_limit",
    )
    assert waiting.campaigns("gaelp/") == {}
    assert waiting.rows("reserved", "day_played", phase="real_testing") == []


def test_a_tripped_day_stays_tripped_when_the_run_dies_right_after_it(waiting: Home) -> None:
    tight = existing_run(waiting.path, RUN).config.guards.model_copy(update={"max_velocity_ratio": 0.001})
    travel_until(waiting, "day_played", len(waiting.rows("day_played")) + 1, guards=tight)
    with altered(waiting, guards=tight) as (run, platform):
        outcomes = travelled(run, platform)
    assert (outcomes["real_testing"].verdict.ruling, outcomes["real_testing"].verdict.rule) == (
        FAIL,
        "spend_velocity",
    )
    assert len(waiting.rows("day_played", phase="real_testing")) == 1
    assert len(waiting.rows("rolled_back")) == 1


# ---- the platform falls silent


def silenced(waiting: Home, finished: Finished) -> Answer:
    """Resume the run, and end the platform's process under it between two half hours of the second live day."""
    travelling = waiting.start("resume", RUN, "--json", frozen_at=(live_day(finished.home, 1), 20))
    travelling.until_frozen()
    waiting.stop_sandbox()
    travelling.thaw()
    return travelling.end()


def test_a_platform_that_dies_within_a_day_ends_the_command_with_a_sentence_and_json(
    waiting: Home, finished: Finished
) -> None:
    answer = silenced(waiting, finished)
    assert answer.code == 2
    assert "did not answer" in answer.sentence
    assert "Traceback" not in answer.err
    assert_fixed_keys(answer.last)
    # Nobody knows what became of the last request: its money stays set aside.
    open_micros = sum(r.told["micros"] for r in waiting.rows("reserved")) - sum(
        r.told["micros"] for r in waiting.rows("posted", "released")
    )
    assert answer.last["money"]["reserved_micros"] == open_micros > 0


@pytest.mark.slow
def test_after_the_platform_died_the_run_goes_on_to_the_same_weights(
    waiting: Home, finished: Finished
) -> None:
    assert silenced(waiting, finished).code == 2
    again = waiting.start("resume", RUN, "--json").end()
    assert again.code == 0, again.err
    assert again.last["weights_hash"] == finished.answer.last["weights_hash"]
