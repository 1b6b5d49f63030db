"""Halting: another process stops a run that is spending, by itself, and the run goes on only when a person lifts it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from tests.specs.conftest import Finished
from tests.specs.journey import RUN, Home, Row, Travelling, live_day
from tests.specs.test_a_dollar import FULL, bounds, opened

from gaelp.orchestration.account import Prepared, prepare
from gaelp.orchestration.halt import halt
from gaelp.orchestration.live import LiveMarket, Stopped
from gaelp.orchestration.run import existing_run
from gaelp.platforms.platform import CampaignSpec
from gaelp.platforms.sandbox.client import SandboxPlatform

LIVE = f"gaelp/{RUN}/"
NOON = 24


def played(home: Home) -> int:
    """Half hours of this run's campaigns that really served."""
    return home.sandbox(
        "SELECT COUNT(*) FROM plays p JOIN campaigns c ON c.created_index = p.campaign WHERE c.name LIKE ? || '%' AND p.served",
        LIVE,
    )[0][0]


@pytest.fixture
def under_way(finished: Finished, waiting: Home) -> Iterator[Travelling]:
    """The journey, resumed and frozen in the morning of its second live day."""
    travelling = waiting.start("resume", RUN, "--json", frozen_at=(live_day(finished.home, 1), 5))
    travelling.until_frozen()
    yield travelling
    travelling.process.kill()
    travelling.process.wait()


def test_halt_from_another_process_stops_a_live_day_and_lifting_it_ends_the_same(
    under_way: Travelling, finished: Finished
) -> None:
    home = under_way.home
    halt(existing_run(home.path, RUN), "spend looks wrong")

    # By itself: each campaign of the run reads back as paused, and the latch is down.
    assert set(home.campaigns(LIVE).values()) == {"PAUSED"}
    assert "spend looks wrong" in (home.directory / "HALTED").read_text()

    served = played(home)
    under_way.thaw()
    stopped = under_way.end()
    assert stopped.code == 1
    assert stopped.sentence == "gaelp: halted: spend looks wrong."
    assert stopped.last["run"] == RUN
    assert "Traceback" not in stopped.err

    # Nothing was raised afterwards: no campaign runs, none was added, and no half hour of theirs is served.
    assert set(home.campaigns(LIVE).values()) == {"PAUSED"}
    assert home.rows("phase_ended", name="real_testing") == []
    halted_at = home.rows("halted")[0].seq
    assert [r.kind for r in home.rows("reserved", "day_played") if r.seq > halted_at] == []
    before = (len(home.campaigns(LIVE)), served)
    assert (len(home.campaigns(LIVE)), played(home)) == before

    status = home.ask("status", RUN, "--json")
    assert status.last["state"] == "halted"
    assert "--lift" in status.last["waiting_for"]

    refused = home.ask("resume", RUN)
    assert refused.code == 2
    assert "is halted (spend looks wrong)" in refused.sentence
    assert "--lift" in refused.sentence
    assert (len(home.campaigns(LIVE)), played(home)) == before

    answer = home.start("resume", RUN, "--lift", "it was a wrong dashboard", "--json").end()
    assert answer.code == 0, answer.err
    money = answer.last["money"]
    assert money["spent_micros"] == money["platform_bill_micros"] == sum(home.bills().values())
    assert (money["reserved_micros"], money["overspend_micros"]) == (0, 0)
    assert [r.told["reason"] for r in home.rows("halted", "halt_lifted")] == [
        "spend looks wrong",
        "it was a wrong dashboard",
    ]
    assert sorted(s["campaign"] for r in live_days(home) for s in r.told["slots"]) == sorted(
        s["campaign"] for r in live_days(finished.home) for s in r.told["slots"]
    )


def live_days(home: Home) -> list[Row]:
    return home.rows("day_played", phase="real_testing") + home.rows("day_played", phase="scaled")


def test_halt_works_when_the_orchestrator_is_dead(under_way: Travelling) -> None:
    home = under_way.home
    under_way.kill()
    running = {name for name, status in home.campaigns(LIVE).items() if status == "ENABLED"}
    assert len(running) >= 5
    told = home.ask("halt", RUN, "--json")
    assert told.code == 0, told.err
    assert set(told.last["paused"]) == running
    assert set(home.campaigns(LIVE).values()) == {"PAUSED"}
    assert (home.directory / "HALTED").exists()


@pytest.mark.slow
def test_halt_works_when_the_platform_must_be_found_again_first(under_way: Travelling) -> None:
    home = under_way.home
    under_way.kill()
    home.stop_sandbox()
    assert home.ask("halt", RUN, "--json").code == 0
    assert set(home.campaigns(LIVE).values()) == {"PAUSED"}


def test_a_halted_run_that_waits_for_money_stops_waiting(waiting: Home) -> None:
    travelling = waiting.start("resume", RUN, "--json")
    travelling.until(
        lambda: "waiting before real_testing" in travelling.complained.read_text(), "the question"
    )
    assert waiting.ask("halt", RUN, "--reason", "lunch").code == 0
    travelling.process.wait(timeout=60)
    assert travelling.process.returncode == 1
    assert travelling.complained.read_text().splitlines()[-1] == "gaelp: halted: lunch."
    assert waiting.campaigns(LIVE) == {}


def test_halting_twice_keeps_both_reasons_and_a_lift_needs_one_of_its_own(waiting: Home) -> None:
    assert waiting.ask("halt", RUN, "--reason", "first").code == 0
    assert waiting.ask("halt", RUN, "--reason", "second").code == 0
    assert "first; second" in waiting.ask("resume", RUN).sentence
    assert waiting.ask("resume", RUN, "--lift", " ").code == 2
    assert (waiting.directory / "HALTED").exists()


# ---- the instant between the guard's look at the latch and the call


@pytest.fixture(scope="module")
def prepared(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    home = finished.waiting.copied(tmp_path_factory.mktemp("prepared") / "home")
    run = existing_run(home.path, RUN)
    platform, process = run.open_platform()
    try:
        return prepare(
            run, platform, LiveMarket(platform, run.schema, bounds(run), run.config.seed, run.halted)
        )
    finally:
        process.stop()


def test_campaigns_created_in_the_instant_of_a_halt_are_paused_by_the_run_itself(
    waiting: Home, prepared: Prepared
) -> None:
    class Meanwhile(SandboxPlatform):
        def create(self, specs: Sequence[CampaignSpec]) -> None:
            # A person halts after the guard looked and before the call arrives: there is nothing to pause yet.
            assert halt(existing_run(waiting.path, RUN), "in between").paused == ()
            SandboxPlatform.create(self, specs)

    with opened(waiting, prepared, Meanwhile) as desk:
        desk.grant(FULL)
        with pytest.raises(Stopped):
            desk.play()
    assert len(waiting.campaigns(LIVE)) == 5
    assert set(waiting.campaigns(LIVE).values()) == {"PAUSED"}
    assert played(waiting) == 0


def test_after_a_halt_within_a_day_not_one_more_half_hour_is_played(
    waiting: Home, prepared: Prepared
) -> None:
    class HaltsAtNoon(SandboxPlatform):
        def step(self, day: int, tick: int):
            account = SandboxPlatform.step(self, day, tick)
            if tick == NOON:
                halt(existing_run(waiting.path, RUN), "noon")
            return account

    with opened(waiting, prepared, HaltsAtNoon) as desk:
        desk.grant(FULL)
        with pytest.raises(Stopped):
            desk.play()
        with pytest.raises(Stopped):
            desk.play()
        day = desk.live.first_day
    assert played(waiting) == 5 * (NOON + 1)
    assert waiting.sandbox("SELECT day, tick FROM clock") == [(day, NOON + 1)]
    # What was set aside stays set aside until the bill is final.
    assert waiting.rows("posted", "released") == []
    assert len(waiting.rows("reserved")) == 5
