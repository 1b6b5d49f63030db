"""One seed, one story: the log of a journey does not depend on when it is played or how often it is killed.

A journey that was killed and resumed is compared with the undisturbed one event by event, hash included. That is
more than two runs with one seed having equal logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.specs.conftest import Finished
from tests.specs.journey import CALLS, RUN, Home, live_day

from gaelp.learn.runtime import enable_compilation_cache
from gaelp.orchestration.orchestrator import TrainingOrchestrator
from gaelp.orchestration.run import STORE_FILE, Run, Wanted, existing_run
from gaelp.safety.approvals import Approval
from gaelp.store.store import Store
from gaelp.store.transaction import Transaction

USD = 1_000_000
GRANTED = (200 + 100 + 140) * USD


def assert_same_story(home: Home, undisturbed: Home) -> None:
    """Equal event by event: number, kind, payload and hash. The wall clock is no part of a row."""
    for mine, theirs in itertools.zip_longest(home.rows(), undisturbed.rows()):
        assert mine == theirs


def assert_books_add_up(home: Home) -> None:
    granted, reserved, posted, released = (
        sum(row.told["micros"] for row in home.rows(kind))
        for kind in ("granted", "reserved", "posted", "released")
    )
    assert granted == GRANTED
    assert reserved == posted + released
    assert posted == sum(home.bills().values())
    assert home.rows("breach") == []


def test_each_event_is_chained_to_the_one_before_and_the_wall_clock_stays_out(finished: Finished) -> None:
    database = finished.home.path / STORE_FILE
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT kind, payload, at, prev_hash, hash FROM event ORDER BY seq"
        ).fetchall()
    head = "0" * 64
    for kind, payload, at, before, digest in rows:
        assert before == head
        head = hashlib.sha256(f"{before}\n{kind}\n{payload}".encode()).hexdigest()
        assert digest == head
        assert at[:10] not in payload
    assert finished.answer.last["head_hash"] == head


def test_killed_in_simulation_between_live_days_and_within_one_it_ends_the_same(
    finished: Finished, homes: Callable[[str], Home], config: Path
) -> None:
    home = homes("killed")
    second, third = ((live_day(finished.home, nth), tick) for nth, tick in ((1, 0), (2, 7)))

    travelling = home.start("run", str(config), "--json", frozen_at=("checkpoint", 2))
    travelling.until_frozen()
    travelling.kill()
    assert 0 < len(home.rows("trained")) < CALLS

    for played, half_hour in enumerate((second, third), start=1):
        travelling = home.start("resume", RUN, "--json", frozen_at=half_hour)
        travelling.until_frozen()
        travelling.kill()
        assert home.sandbox("SELECT day, tick FROM clock") == [half_hour]
        assert len(home.rows("day_played", phase="real_testing")) == played
        # A window is two days long: within its first nothing is settled, in the second's first it is.
        assert bool(home.rows("posted")) is (half_hour == third)

    answer = home.start("resume", RUN, "--json").end()
    assert answer.code == 0, answer.err
    assert answer.last["weights_hash"] == finished.answer.last["weights_hash"]
    assert answer.last["head_hash"] == finished.answer.last["head_hash"]
    assert answer.last["money"] == finished.answer.last["money"]
    assert_same_story(home, finished.home)
    assert_books_add_up(home)


def test_a_run_that_reached_its_end_is_not_resumed(finished: Finished) -> None:
    answer = finished.home.ask("resume", RUN)
    assert answer.code == 2
    assert "has reached its end" in answer.sentence


@pytest.mark.slow
def test_two_runs_with_one_seed_have_the_same_log(
    finished: Finished, homes: Callable[[str], Home], config: Path
) -> None:
    home = homes("again")
    assert home.start("run", str(config), "--json").end().code == 0
    assert_same_story(home, finished.home)


# ---- dying right after a certain event was committed


class Died(BaseException):
    """The process is gone: nothing of it runs any more."""


class Mortal(Store):
    """A store whose process dies when event number `nth` of `kind` has just been committed."""

    kind: str
    nth: int

    @contextlib.contextmanager
    def transaction(self, run_id: str) -> Iterator[Transaction]:
        with Store.transaction(self, run_id) as tx:
            yield tx
        if len(list(self.events(run_id, [self.kind]))) >= self.nth:
            raise Died


def travel_until(home: Home, kind: str, nth: int, **changes: object) -> None:
    """Take the run on, in this process, up to that event and not one further; `changes` alter its configuration."""
    store = Mortal.open(home.path / STORE_FILE)
    store.kind, store.nth = kind, nth
    run = existing_run(home.path, RUN)
    config = run.config.model_copy(update=changes)
    run = replace(run, store=store, config=config, person=grants_and_approves)
    enable_compilation_cache(home.cache / "gaelp" / "jax")
    platform, _ = run.open_platform()
    with pytest.raises(Died):
        asyncio.run(TrainingOrchestrator(run, platform).journey())
    store.close()


def grants_and_approves(run: Run, wanted: Wanted) -> None:
    with run.store.transaction(run.run_id) as tx:
        tx.grant(wanted.binding.phase, wanted.binding.limit_micros, "R. Money")
        tx.approve(Approval(wanted.binding, "R. Money"))


def nth_from_the_end(finished: Finished, kind: str, phase: str, nth: int) -> int:
    """The number, among all events of `kind`, of the `nth` of that phase."""
    listed = finished.home.rows(kind)
    of_phase = [k for k, row in enumerate(listed, start=1) if row.told["phase"] == phase]
    return of_phase[nth]


LIVE = [
    ("authorised", "real_testing", 0),
    ("reserved", "real_testing", 0),
    ("day_played", "real_testing", 0),
    ("day_played", "real_testing", -1),
    ("posted", "real_testing", 0),
    ("episodes_settled", "real_testing", 0),
    ("window_judged", "real_testing", 0),
    ("trained", "real_testing", 0),
    ("trained", "real_testing", -1),
    ("promoted", "real_testing", -1),
    ("ramp_step", "scaled", 0),
    ("day_played", "scaled", 1),
    ("authorised", "scaled", 1),
    ("trained", "scaled", -1),
]
QUICK = {("trained", "real_testing", -1)}


@pytest.mark.parametrize(
    ("kind", "phase", "nth"),
    [pytest.param(*at, marks=[] if at in QUICK else [pytest.mark.slow]) for at in LIVE],
)
def test_dying_right_after_an_event_of_a_live_phase_changes_nothing(
    finished: Finished, waiting: Home, kind: str, phase: str, nth: int
) -> None:
    travel_until(waiting, kind, nth_from_the_end(finished, kind, phase, nth))
    answer = waiting.start("resume", RUN, "--json").end()
    assert answer.code == 0, answer.err
    assert answer.last["weights_hash"] == finished.answer.last["weights_hash"]
    assert_books_add_up(waiting)
    assert_same_story(waiting, finished.home)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["judged", "arms_compared"])
@pytest.mark.parametrize("phase", ["real_testing", "scaled"])
def test_dying_between_a_phases_last_judgement_and_its_end_changes_nothing(
    finished: Finished, waiting: Home, kind: str, phase: str
) -> None:
    travel_until(waiting, kind, nth_from_the_end(finished, kind, phase, -1))
    answer = waiting.start("resume", RUN, "--json").end()
    assert answer.code == 0, answer.err
    assert answer.last["weights_hash"] == finished.answer.last["weights_hash"]
    assert_books_add_up(waiting)
    assert_same_story(waiting, finished.home)


PREPARING = [
    ("day_played", 4),
    ("day_played", 15),
    ("pacer_certified", 1),
    ("history_exported", 1),
    ("worlds_fitted", 1),
    ("checkpoint", 11),
    ("promoted", 1),
    ("certified", 1),
    ("day_played", 16),
]
"""The last warm-up day, the last history day, ..., the last shadow day, after which the owner's campaigns are paused."""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "nth"), PREPARING)
def test_dying_right_after_an_event_before_any_money_changes_nothing(
    finished: Finished, homes: Callable[[str], Home], config: Path, kind: str, nth: int
) -> None:
    home = homes("early")
    begun = home.start("run", str(config))
    begun.until(lambda: home.rows("day_played"), "the first day")
    begun.kill()
    travel_until(home, kind, nth)
    answer = home.start("resume", RUN, "--json").end()
    assert answer.code == 0, answer.err
    assert_same_story(home, finished.home)
    assert_books_add_up(home)


def test_dying_right_after_the_last_shadow_day_leaves_no_campaign_of_the_owner_running(waiting: Home) -> None:
    # As if it had died before it paused them: nobody else does it for a run that has not ended.
    run = existing_run(waiting.path, RUN)
    platform, _ = run.open_platform()
    owner = [campaign.name for campaign in platform.campaigns("acct/")]
    platform.enable(owner)
    travel_until(waiting, "day_played", len(waiting.rows("day_played")) + 1)
    assert {platform.campaigns(name)[0].status for name in owner} == {"PAUSED"}
