"""The story of one dollar: granted by a person, set aside at the worst case, spent, billed, and what is left given back.

Sums are made here from the rows of two databases, the run's event log and the sandbox's own half hours, with
sqlite3 and json. Nothing of the ledger is asked what it thinks of itself.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx
import numpy as np
import pytest
from tests.specs.conftest import Finished
from tests.specs.journey import RUN, Home, wanted

from gaelp.core.verdict import FAIL, PASS
from gaelp.orchestration.account import Prepared, prepare
from gaelp.orchestration.live import FixedChances, LiveMarket
from gaelp.orchestration.phases import REAL_TESTING, phases_of
from gaelp.orchestration.run import POLL_S, Run, Wanted, existing_run, pending
from gaelp.orchestration.spending import LivePhase
from gaelp.orchestration.steps import Step, steps_of
from gaelp.platforms.platform import BillLine, CampaignSpec
from gaelp.platforms.sandbox.client import SandboxPlatform
from gaelp.safety.approvals import Approval, Binding
from gaelp.safety.guards import GuardBounds

USD = 1_000_000
GRANTS = {"real_testing": 200 * USD, "scaled": (100 + 140) * USD}
"""4 days x 5 campaigns x 10.00; then 2 days x 5 x 10.00 and 2 days x 5 x 14.00."""


# ---- the finished journey, summed from its rows


@pytest.fixture(scope="module")
def home(finished: Finished) -> Home:
    return finished.home


def summed(home: Home, kind: str, key: str) -> dict[object, int]:
    total: dict[object, int] = defaultdict(int)
    for row in home.rows(kind):
        total[row.told[key]] += row.told["micros"]
    return dict(total)


def test_each_micro_goes_the_same_way_granted_reserved_posted_released(home: Home) -> None:
    played = {
        s["campaign"]: r for r in home.rows("day_played") for s in r.told["slots"] if s["arm"] != "incumbent"
    }
    assert len(played) == 4 * 5 + 2 * 5 + 2 * 5
    for campaign, day in played.items():
        (reserved,), (posted,), (released,) = (
            home.rows(k, intent=campaign) for k in ("reserved", "posted", "released")
        )
        authorised = home.rows("authorised", phase=day.told["phase"], step=day.told["step"])
        order = [authorised[0].seq, reserved.seq, day.seq, posted.seq, released.seq]
        assert order == sorted(order), campaign
        assert reserved.told["micros"] == posted.told["micros"] + released.told["micros"], campaign


def test_what_is_set_aside_is_twice_the_daily_budget(home: Home) -> None:
    budgets = dict(home.sandbox("SELECT name, daily_budget_micros FROM campaigns"))
    for reserved in home.rows("reserved"):
        assert reserved.told["micros"] == 2 * budgets[f"gaelp/{RUN}/{reserved.told['intent']}"]


def test_what_is_posted_is_the_platforms_bill_to_the_micro(home: Home) -> None:
    posted = {f"gaelp/{RUN}/{row.told['intent']}": row.told["micros"] for row in home.rows("posted")}
    assert posted == home.bills()


def test_everything_set_aside_is_settled_at_the_end_and_nobody_overspent(
    home: Home, finished: Finished
) -> None:
    granted, reserved, posted, released = (
        summed(home, k, "phase") for k in ("granted", "reserved", "posted", "released")
    )
    assert granted == GRANTS
    for phase in GRANTS:
        assert reserved[phase] == posted[phase] + released[phase]
        assert 0 < posted[phase] <= granted[phase]
    assert home.rows("breach") == []
    money = finished.answer.last["money"]
    assert money["granted_micros"] == sum(GRANTS.values())
    assert money["spent_micros"] == money["platform_bill_micros"] == sum(home.bills().values())
    assert (money["reserved_micros"], money["overspend_micros"]) == (0, 0)


def test_at_no_event_was_more_committed_than_granted(home: Home) -> None:
    free: dict[str, int] = defaultdict(int)
    sign = {"granted": 1, "reserved": -1, "released": 1}
    for row in home.rows("granted", "reserved", "posted", "released"):
        # Posting moves money from reserved to spent and frees none.
        free[row.told["phase"]] += sign[row.kind] * row.told["micros"] if row.kind in sign else 0
        assert free[row.told["phase"]] >= 0, f"event {row.seq}"


def test_a_day_never_commits_or_costs_more_than_its_limit_control_arm_included(home: Home) -> None:
    reserved = summed(home, "reserved", "day")
    days = home.rows("day_played", phase="real_testing")
    # 3 campaigns of the agent and 2 of control, 10.00 each at the worst: exactly the 50.00 allowed.
    assert [reserved[row.told["day"]] for row in days] == [50 * USD] * 4
    cost = dict(home.sandbox("SELECT day, SUM(cost_micros) FROM plays WHERE campaign >= 3 GROUP BY day"))
    assert all(cost[row.told["day"]] <= 50 * USD for row in days)
    arms = [slot["arm"] for slot in days[0].told["slots"]]
    assert (arms.count("agent"), arms.count("control")) == (3, 2)


def test_shadow_days_move_no_money_of_the_grant(home: Home) -> None:
    (shadow,) = home.rows("day_played", phase="shadow")
    assert {slot["arm"] for slot in shadow.told["slots"]} == {"incumbent"}
    assert all(slot["campaign"].startswith("acct/") for slot in shadow.told["slots"])
    assert [r for r in home.rows("reserved") if r.told["day"] == shadow.told["day"]] == []


# ---- waiting for a person


def test_before_a_person_answers_nothing_is_reserved_created_or_billed(finished: Finished) -> None:
    waiting = finished.waiting
    told = wanted(waiting)
    assert told is not None
    assert (told["phase"], told["step"], told["limit_micros"]) == ("real_testing", 0, 200 * USD)
    assert waiting.rows("granted", "reserved", "posted", "authorised") == []
    assert waiting.campaigns("gaelp/") == {}
    assert waiting.bills() == {}


def give(run: Run, micros: int, *bindings: Binding) -> None:
    """A person's answer: a grant, when it is above nothing, and approvals."""
    with run.store.transaction(run.run_id) as tx:
        if micros:
            tx.grant(REAL_TESTING, micros, "R. Money")
        for binding in bindings:
            tx.approve(Approval(binding, "R. Money"))


def goes_on(run: Run) -> bool:
    """Does the run stop waiting, given the time to look three times?"""
    binding = pending(run)

    async def ask() -> None:
        await asyncio.wait_for(
            run.authorised(Wanted(binding=binding, loss_micros=binding.limit_micros)), 3 * POLL_S
        )

    try:
        asyncio.run(ask())
    except TimeoutError:
        return False
    return True


FULL = 200 * USD
ANSWERS: dict[str, tuple[int, Callable[[Binding], list[Binding]]]] = {
    "nothing at all": (0, lambda b: []),
    "a grant of one micro less": (FULL - 1, lambda b: [b]),
    "a grant without an approval": (FULL, lambda b: []),
    "an approval without a grant": (0, lambda b: [b]),
    "an approval of another actor": (FULL, lambda b: [replace(b, actor_hash="0" * 64)]),
    "an approval of another limit": (FULL, lambda b: [replace(b, limit_micros=FULL - 1)]),
    "an approval of another step": (FULL, lambda b: [replace(b, step=1)]),
    "an approval of another phase": (FULL, lambda b: [replace(b, phase="scaled")]),
    "an approval on other evidence": (FULL, lambda b: [replace(b, evidence_hash="0" * 32)]),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_journey_still_waits_after(answer: str, waiting: Home) -> None:
    run = existing_run(waiting.path, RUN)
    micros, approvals = ANSWERS[answer]
    give(run, micros, *approvals(pending(run)))
    assert not goes_on(run)
    assert waiting.rows("authorised", "approval_consumed", "reserved") == []


def test_the_journey_goes_on_after_the_whole_grant_and_its_own_approval_which_is_then_used_up(
    waiting: Home,
) -> None:
    run = existing_run(waiting.path, RUN)
    give(run, FULL - 1, pending(run))
    give(run, 1)
    assert goes_on(run)
    assert [r.kind for r in waiting.rows("approval_consumed", "authorised")] == [
        "approval_consumed",
        "authorised",
    ]
    assert run.store.unused_approvals(RUN) == ()


# ---- one live day at a time, around the platform's calls


@dataclass
class Desk:
    """A live phase opened on a copy of the waiting run, with the platform as a test wants it."""

    home: Home
    run: Run
    live: LivePhase
    platform: SandboxPlatform

    def grant(self, micros: int) -> None:
        give(self.run, micros)

    def play(self):
        """The first day of the first step, by an agent that always leaves the pacer alone."""
        still = np.zeros(64)
        still[self.run.schema.zero_move] = 1.0
        return self.live.play(
            0, self.live.first_day, FixedChances(still, "leaves-it-alone"), "leaves-it-alone"
        )

    def let_bills_settle(self) -> None:
        """Let the clock run until nothing of what was played can change any more."""
        self.live.wind_down()


@pytest.fixture(scope="module")
def prepared(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """What the phases start from; equal for every copy of the run."""
    home = finished.waiting.copied(tmp_path_factory.mktemp("prepared") / "home")
    run = existing_run(home.path, RUN)
    platform, process = run.open_platform()
    try:
        return prepare(
            run, platform, LiveMarket(platform, run.schema, bounds(run), run.config.seed, run.halted)
        )
    finally:
        process.stop()


def bounds(run: Run) -> GuardBounds:
    return GuardBounds(
        max_bid=float(run.config.platform.max_bid), max_raise_ratio=16.0, max_velocity_ratio=1.5
    )


@contextmanager
def opened(
    home: Home,
    prepared: Prepared,
    kind: type[SandboxPlatform] = SandboxPlatform,
    steps: Sequence[Step] | None = None,
) -> Iterator[Desk]:
    run = existing_run(home.path, RUN)
    _, process = run.open_platform()
    with httpx.Client(base_url=process.base_url, timeout=30.0) as client:
        platform = kind(client)
        market = LiveMarket(platform, run.schema, bounds(run), run.config.seed, run.halted)
        phase = next(p for p in phases_of(run.config) if p.name == REAL_TESTING)
        chosen = steps_of(run.config, phase.name) if steps is None else tuple(steps)
        live = LivePhase(run, phase, market, platform, prepared, bounds(run), chosen, prepared.next_day + 1)
        yield Desk(home, run, live, platform)


def test_every_call_that_raises_liability_finds_its_money_set_aside_already(
    waiting: Home, prepared: Prepared
) -> None:
    found: list[tuple[str, bool]] = []

    class Watched(SandboxPlatform):
        def create(self, specs: Sequence[CampaignSpec]) -> None:
            on_disk = {f"gaelp/{RUN}/{row.told['intent']}" for row in waiting.rows("reserved")}
            found.extend((spec.name, spec.name in on_disk) for spec in specs)
            SandboxPlatform.create(self, specs)

    with opened(waiting, prepared, Watched) as desk:
        desk.grant(FULL)
        assert desk.play().ruling is PASS
    assert len(found) == 5
    assert all(set_aside for _, set_aside in found)


@pytest.mark.parametrize(
    ("granted", "limits", "rule"),
    [
        (50 * USD - 1, {}, "grant"),
        (FULL, {"per_episode_micros": 10 * USD - 1}, "per_episode_limit"),
        (FULL, {"per_day_micros": 50 * USD - 1}, "per_day_limit"),
        (FULL, {"total_micros": 50 * USD - 1}, "total_limit"),
        (FULL, {"days": 0}, "days_limit"),
    ],
)
def test_a_refused_reservation_creates_no_campaign_and_sets_nothing_aside(
    waiting: Home, prepared: Prepared, granted: int, limits: dict[str, int], rule: str
) -> None:
    run = existing_run(waiting.path, RUN)
    (step,) = steps_of(run.config, REAL_TESTING)
    tight = replace(step, limits=replace(step.limits, **limits))
    with opened(waiting, prepared, steps=[tight]) as desk:
        desk.grant(granted)
        verdict = desk.play()
    assert (verdict.ruling, verdict.rule) == (FAIL, rule)
    assert waiting.campaigns("gaelp/") == {}
    # All of the day's campaigns or none: the four that would have fitted are not set aside either.
    assert waiting.rows("reserved") == []


def test_a_crash_before_the_call_finds_the_money_set_aside_and_no_campaign(
    waiting: Home, prepared: Prepared
) -> None:
    class Crash(BaseException):
        pass

    class Crashing(SandboxPlatform):
        def create(self, specs: Sequence[CampaignSpec]) -> None:
            raise Crash

    with opened(waiting, prepared, Crashing) as desk:
        desk.grant(FULL)
        with pytest.raises(Crash):
            desk.play()
    assert sum(row.told["micros"] for row in waiting.rows("reserved")) == 50 * USD
    assert waiting.campaigns("gaelp/") == {}
    with opened(waiting, prepared) as desk:
        assert desk.play().ruling is PASS
    # Set aside once, not twice, and each campaign is there once.
    assert sum(row.told["micros"] for row in waiting.rows("reserved")) == 50 * USD
    assert len(waiting.campaigns("gaelp/")) == 5


def test_a_crash_after_the_call_creates_nothing_twice(waiting: Home, prepared: Prepared) -> None:
    class Crash(BaseException):
        pass

    class Crashing(SandboxPlatform):
        def create(self, specs: Sequence[CampaignSpec]) -> None:
            SandboxPlatform.create(self, specs)
            raise Crash

    with opened(waiting, prepared, Crashing) as desk:
        desk.grant(FULL)
        with pytest.raises(Crash):
            desk.play()
    with opened(waiting, prepared) as desk:
        assert desk.play().ruling is PASS
        desk.let_bills_settle()
        assert desk.live.balance().ruling is PASS
    assert (
        len(waiting.campaigns("gaelp/")) == len(waiting.rows("reserved")) == len(waiting.rows("posted")) == 5
    )


def test_a_late_higher_bill_is_recorded_as_a_breach_and_fails_the_balance(
    waiting: Home, prepared: Prepared
) -> None:
    late: list[int] = []

    class ChargesLate(SandboxPlatform):
        def bill(self, prefix: str) -> tuple[BillLine, ...]:
            first, *rest = SandboxPlatform.bill(self, prefix)
            return (replace(first, cost_micros=first.cost_micros + sum(late)), *rest)

    with opened(waiting, prepared, ChargesLate) as desk:
        desk.grant(FULL)
        desk.play()
        desk.let_bills_settle()
        assert desk.live.balance().ruling is PASS
        late.append(3 * USD)
        desk.live.settle()
        verdict = desk.live.balance()
        assert (verdict.ruling, verdict.rule) == (FAIL, "books_balance")
        available = desk.run.store.books(RUN).phase(REAL_TESTING).available
        desk.live.settle()
    (breach,) = waiting.rows("breach")
    assert breach.told["micros"] == 3 * USD
    assert available == FULL - sum(waiting.bills().values()) - 3 * USD


@pytest.mark.parametrize("campaign", ["its own", "nobody's"])
def test_what_is_billed_beyond_a_campaigns_day_or_without_a_reservation_is_a_breach_recorded_once(
    waiting: Home, prepared: Prepared, campaign: str
) -> None:
    class ServesOn(SandboxPlatform):
        def bill(self, prefix: str) -> tuple[BillLine, ...]:
            first, *rest = SandboxPlatform.bill(self, prefix)
            if campaign == "its own":
                return (first, *rest, replace(first, day=first.day + 1, cost_micros=12 * USD))
            name = f"gaelp/{RUN}/{REAL_TESTING}/by-hand"
            return (first, *rest, replace(first, campaign=name, cost_micros=12 * USD))

    with opened(waiting, prepared, ServesOn) as desk:
        desk.grant(FULL)
        desk.play()
        desk.let_bills_settle()
        verdict = desk.live.balance()
        assert (verdict.ruling, verdict.rule) == (FAIL, "books_balance")
        before = len(waiting.rows())
        desk.live.settle()
    assert len(waiting.rows()) == before
    (breach,) = waiting.rows("breach")
    posted = sum(row.told["micros"] for row in waiting.rows("posted"))
    assert posted + breach.told["micros"] == sum(waiting.bills().values()) + 12 * USD
    if campaign == "its own":
        # 10.00 were set aside for it and are used up first.
        own = next(r.told for r in waiting.rows("posted") if r.told["intent"] == breach.told["intent"])
        assert own["micros"] == 10 * USD
    else:
        assert breach.told["micros"] == 12 * USD


def test_a_late_bill_is_not_recorded_twice(waiting: Home, prepared: Prepared) -> None:
    with opened(waiting, prepared) as desk:
        desk.grant(FULL)
        desk.play()
        desk.let_bills_settle()
        before = len(waiting.rows())
        desk.live.settle()
    assert len(waiting.rows()) == before
