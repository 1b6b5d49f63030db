"""Live phases and their money: reserve at the worst case, play, post the bill, release; settle what was learned.

This is the only place of the journey that makes calls which raise liability, and each is preceded by a durable
reservation. What it holds in memory is a fold of the run's events, so a killed run finds its place again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from gaelp.bidding.act import pace_of
from gaelp.core.episode import EpisodeBatch, Source, concatenate, select
from gaelp.core.errors import MoneyError, StoreError
from gaelp.core.verdict import FAIL, PASS, Verdict
from gaelp.market.campaign import HIDDEN
from gaelp.orchestration.account import SETTLE_DAYS, Prepared, played_days, record_day
from gaelp.orchestration.gather import compare_arms
from gaelp.orchestration.live import (
    Actor,
    FixedChances,
    LiveMarket,
    Pacing,
    PlayedDay,
    Slot,
    Stopped,
    episodes_of,
    settled_conversions,
)
from gaelp.orchestration.phases import Phase
from gaelp.orchestration.run import Run, Wanted, evidence_hash
from gaelp.orchestration.steps import Step, worst_case_in_all
from gaelp.platforms.platform import CampaignSpec
from gaelp.platforms.sandbox.client import SandboxPlatform
from gaelp.safety.approvals import Binding
from gaelp.safety.guards import GuardBounds, books_balance, spend_velocity
from gaelp.safety.ledger import Limits, Request


class _Refused(Exception):
    """Leaves a transaction without committing it."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


STREAMS = {"real_testing": 3, "scaled": 4}
SHADOW_STREAM = 2


class LivePhase:
    """The days of one live phase: who plays where, what is reserved, settled, judged and still to be trained on."""

    def __init__(
        self,
        run: Run,
        phase: Phase,
        market: LiveMarket,
        platform: SandboxPlatform,
        prepared: Prepared,
        bounds: GuardBounds,
        steps: tuple[Step, ...],
        first_day: int,
    ) -> None:
        self.first_day = first_day
        self.run, self.phase, self.market, self.platform = run, phase, market, platform
        self.prepared, self.bounds, self.steps = prepared, bounds, steps
        self.pacing = Pacing(prepared.certified.landscape, prepared.certified.params, prepared.certified.hash)
        still = np.zeros(run.schema.action_size)
        still[run.schema.zero_move] = 1.0
        self.control = FixedChances(still, "pacer-alone")
        self._days = played_days(run, phase.name)
        self._actors = {
            int(str(t["day"])): str(t["actor_hash"]) for t in run.found("day_played", phase=phase.name)
        }
        trips = [t["tripped"] for t in run.found("day_played", phase=phase.name) if t["tripped"] is not None]
        self.tripped: Verdict | None = _tripped(trips[0]) if trips else None
        self._settled: dict[int, EpisodeBatch] = {}
        for told in run.found("episodes_settled", phase=phase.name):
            self._settled[int(str(told["day"]))] = self._episodes(
                int(str(told["day"])), run.load(told["artifact"]).arrays["conversions"]
            )
        # A day is settled before its time only by winding down: then a resumed run is beyond its last window.
        self.wound_down = any(day + SETTLE_DAYS > first_day + len(self._days) for day in self._settled)
        self._judged = {int(str(told["window"])) for told in run.found("window_judged", phase=phase.name)}
        self._consumed = sum(
            int(str(t["episodes"]))
            for kind in ("trained", "batch_refused")
            for t in run.found(kind, phase=phase.name)
        )

    # ---- where it stands

    @property
    def days_played(self) -> int:
        return len(self._days)

    @property
    def days_planned(self) -> int:
        return sum(step.days for step in self.steps)

    @property
    def agent_days(self) -> int:
        """Campaign-days of the agent's arm."""
        return sum(slot.arm == "agent" for day in self._days for slot in day.slots)

    @property
    def control_days(self) -> int:
        return sum(slot.arm == "control" for day in self._days for slot in day.slots)

    def step_days(self, step: int) -> tuple[int, int]:
        """(days played, days needed) of a step; nothing is needed of the step before the first."""
        if step < 0:
            return 0, 0
        before = sum(s.days for s in self.steps[:step])
        return max(0, min(self.days_played - before, self.steps[step].days)), self.steps[step].days

    def next_day(self, step: int) -> int | None:
        """The account day that this step plays next; None when its days are done. Days of a phase are consecutive."""
        played, needed = self.step_days(step)
        return None if played >= needed else self.first_day + self.days_played

    @property
    def today(self) -> int:
        """The account day whose morning it is by the log.

        The platform's clock may be further, when a killed day is taken up again; what it knows beyond this
        morning must wait, or the resumed run would settle, judge and train earlier than the undisturbed one.
        """
        after = SETTLE_DAYS if self.wound_down else 0
        return self.first_day + self.days_played + after

    def between_windows(self, step: int) -> bool:
        """Does the day that `step` plays next begin a judging window?"""
        return self.step_days(step)[0] % self.steps[step].window_days == 0

    # ---- shadow

    def shadow(self, days: int, agent: Actor) -> None:
        """Watch the owner's own campaigns under the incumbent, propose, log, spend nothing of anybody's grant."""
        owner = self.prepared.owner
        done = self.run.found("day_played", phase="shadow")
        if len(done) < days:
            self.platform.enable([slot.campaign for slot in owner])
        for number in range(len(done), days):
            day = self.first_day - days + number
            self.run.progress.advance("shadow", number, days, f"day {day}")
            played = self.market.play_day(
                day=day,
                slots=owner,
                pacing=self.pacing,
                choosers={"incumbent": self.prepared.incumbent},
                stream=SHADOW_STREAM,
                shadow=agent,
            )
            agreed = float((played.proposed == played.move).mean())
            pace = np.asarray(pace_of(played.proposed, self.run.schema, np), np.float64)
            told = {
                **record_day(self.run, "shadow", played),
                "agreement": agreed,
                "mean_proposed_pace": float(pace.mean()),
            }
            self.run.append("day_played", told)
        self.run.progress.advance("shadow", days, days, "nothing spent")
        # Also when no day was left: a crash after the last one must not leave the owner's campaigns running.
        self.platform.pause([slot.campaign for slot in owner])

    # ---- money before the call

    def needed_micros(self, step: int) -> int:
        """What a step's grant must cover: its worst case in all."""
        return worst_case_in_all(self.steps[step], self.platform.account().over_delivery)

    async def authorise(self, step: int, actor_hash: str, evidence: list[Mapping[str, object]]) -> None:
        """Wait for the grant and the approval of a step, bound to the actor, the limit and the evidence."""
        loss = self.needed_micros(step)
        binding = Binding(
            actor_hash=actor_hash,
            phase=self.phase.name,
            step=step,
            limit_micros=loss,
            evidence_hash=evidence_hash(evidence),
        )
        await self.run.authorised(Wanted(binding=binding, loss_micros=loss))

    def play(self, step: int, day: int, agent: Actor, actor_hash: str) -> Verdict:
        """One day of a step: reserve every campaign's worst case, open them, play, record. FAIL: a guard tripped."""
        plan = self.steps[step]
        halted = self.run.halted()
        if halted.ruling is FAIL:
            raise Stopped(halted)
        slots = self._slots(step, day)
        worst = self.platform.worst_case(plan.daily_budget_micros)
        # Before the call: a crash after it must find the money already set aside. All of the day's or none.
        try:
            with self.run.store.transaction(self.run.run_id) as tx:
                for slot in slots:
                    verdict = tx.reserve(
                        self._limits(step),
                        Request(
                            intent=slot.label,
                            phase=self.phase.name,
                            day=day,
                            episode=slot.label,
                            micros=worst,
                        ),
                    )
                    if verdict.ruling is FAIL:
                        raise _Refused(verdict)
        except _Refused as refused:
            return refused.verdict
        self._open(slots, day)
        try:
            played = self.market.play_day(
                day=day, slots=slots, pacing=self.pacing, choosers={"agent": agent, "control": self.control},
                stream=STREAMS[self.phase.name], watch=self._watch,
            )  # fmt: skip
        except Stopped:
            # Whoever halted may have read the platform just before these were opened.
            self.platform.pause([slot.campaign for slot in slots])
            raise
        told = {**record_day(self.run, self.phase.name, played), "step": step, "actor_hash": actor_hash}
        self.run.append("day_played", told)
        self._days.append(played)
        self._actors[day] = actor_hash
        if played.tripped is not None:
            self.tripped = played.tripped
            return played.tripped
        return Verdict(PASS, "guards", f"day {day} was played within its guards.")

    def wind_down(self) -> None:
        """Pause every campaign of this phase and let the clock run until all bills and conversions are final."""
        names = [
            c.name
            for c in self.platform.campaigns(f"{self.run.prefix}{self.phase.name}/")
            if c.status == "ENABLED"
        ]
        if names:
            self.platform.pause(names)
        if self._days:
            self.platform.skip(self._days[-1].day + 1 + SETTLE_DAYS, 0)
        self.wound_down = True
        self.settle()

    # ---- money and evidence after the call

    def settle(self) -> None:
        """Post every final bill and release the rest; read conversions of the days that are complete; as of `today`."""
        known = self.run.store.books(self.run.run_id)
        bills: dict[str, int] = {}
        late: list[Request] = []
        for line in self.platform.bill(f"{self.run.prefix}{self.phase.name}/"):
            # A day's bill is final in the morning after the next: what became final within `today` waits for tomorrow.
            if not line.final or line.day >= self.today - 1:
                continue
            label = line.campaign.removeprefix(self.run.prefix)
            if label in known.reservations:
                # All its days: a campaign that served beyond its own day is billed above what was set aside for it.
                bills[label] = line.cost_micros + (bills[label] if label in bills else 0)
            else:
                # Money that nobody set aside, in our name: a breach of its own, for recording may not refuse.
                late.append(
                    Request(
                        intent=f"{label}, day {line.day}", phase=self.phase.name, day=line.day, episode=label,
                        micros=line.cost_micros,
                    )
                )  # fmt: skip
        # What is in the books as it stands is left alone; a higher bill than booked becomes a breach.
        due = {
            intent: cost
            for intent, cost in bills.items()
            if intent in known.open_intents() or known.spent_by(intent) != cost
        }
        late = [request for request in late if known.spent_by(request.intent) != request.micros]
        if due or late:
            with self.run.store.transaction(self.run.run_id) as tx:
                for intent, cost in due.items():
                    tx.resolve(intent, cost)
                for request in late:
                    tx.late_charge(request)
        for day in self._days:
            if day.day in self._settled or day.day + SETTLE_DAYS > self.today:
                continue
            rows = self.platform.settled(f"{self.run.prefix}{self.phase.name}/", day.day, day.day)
            conversions = settled_conversions(day, rows)
            batch = self._episodes(day.day, conversions)
            artifact = self.run.save({"conversions": conversions}, {"day": day.day})
            self.run.append(
                "episodes_settled",
                {
                    "phase": self.phase.name,
                    "day": day.day,
                    "artifact": artifact,
                    "episodes": [
                        {
                            "campaign": slot.label,
                            "arm": slot.arm,
                            "spend_micros": int(day.cost_micros[k].sum()),
                            "conversions": float(conversions[k].sum()),
                            "score": float(batch.score[k]),
                            "share": float(batch.reward[k].sum()),
                        }
                        for k, slot in enumerate(day.slots)
                    ],
                },
            )
            self._settled[day.day] = batch

    def windows_to_judge(self, *, everything: bool) -> list[int]:
        """Judging windows whose days are all played and settled and that have not been judged; numbers from 0."""
        ready = []
        for window, days in enumerate(self._windows()):
            complete = len(days) == self._window_length(days[0]) or everything
            if window not in self._judged and complete and all(day.day in self._settled for day in days):
                ready.append(window)
                self._judged.add(window)
        return ready

    def next_settled(self, episodes: int, *, remainder: bool) -> EpisodeBatch | None:
        """The next `episodes` settled agent episodes of judged windows, oldest first; what is left, at the end."""
        judged = [
            day for window, days in enumerate(self._windows()) if window in self._judged for day in days
        ]
        ready = [
            select(self._settled[day.day], np.flatnonzero([slot.arm == "agent" for slot in day.slots]))
            for day in judged
        ]
        if not ready:
            return None
        queue = concatenate(ready)
        left = queue.episodes - self._consumed
        take = min(left, episodes)
        if take <= 0 or (take < episodes and not remainder):
            return None
        return select(queue, np.arange(self._consumed, self._consumed + take))

    def untrained(self) -> list[str]:
        """The agent's campaign-days that no call has trained on, by label."""
        labels = [slot.label for day in self._days for slot in day.slots if slot.arm == "agent"]
        return labels[self._consumed :]

    def consume(self, episodes: int) -> None:
        """The next call starts after these."""
        self._consumed += episodes

    def mix(self, real: EpisodeBatch, simulated: EpisodeBatch) -> EpisodeBatch:
        """The conservative mix: real episodes first, simulated ones beside them."""
        return concatenate([real, simulated])

    def balance(self) -> Verdict:
        """Books against the platform's own bill, for the whole run."""
        billed = sum(line.cost_micros for line in self.platform.bill(self.run.prefix))
        return books_balance(self.run.store.books(self.run.run_id), billed)

    def comparison(self) -> dict[str, object]:
        """Agent against control on the platform itself, all settled days of the phase."""
        if not self._settled:
            raise MoneyError(f"no settled day in {self.phase.name}: nothing can be compared.")
        return asdict(compare_arms(concatenate(list(self._settled.values()))))

    # ---- parts

    def _slots(self, step: int, day: int) -> tuple[Slot, ...]:
        """Who plays where: pairs of both arms in one market first, the surplus arm after; markets rotate by day."""
        plan = self.steps[step]
        markets = [
            (self.days_played * 3 + k) % len(self.prepared.owner)
            for k in range(max(plan.agent_campaigns, plan.control_campaigns))
        ]
        by_arm = {"agent": markets[: plan.agent_campaigns], "control": markets[: plan.control_campaigns]}
        slots = []
        for arm, items in by_arm.items():
            for place, item in enumerate(items):
                owner = self.prepared.owner[item]
                # One campaign a campaign-day: its own slice of users, its own end date, its own line in the bill.
                label = f"{self.phase.name}/d{day}/{arm}/{place // len(self.prepared.owner)}-m{item}"
                slots.append(
                    Slot(
                        campaign=self.run.prefix + label,
                        label=label,
                        arm=arm,
                        item=item,
                        budget_micros=plan.daily_budget_micros,
                        target_cpa_micros=owner.target_cpa_micros,
                    )
                )
        return tuple(slots)

    def _open(self, slots: tuple[Slot, ...], day: int) -> None:
        """Create the day's campaigns, or find them after a crash; they end by themselves after `day`."""
        known = {c.name: c for c in self.platform.campaigns(f"{self.run.prefix}{self.phase.name}/d{day}/")}
        new = [slot for slot in slots if slot.campaign not in known]
        if new:
            self.platform.create(
                [
                    CampaignSpec(
                        name=slot.campaign,
                        market=f"m{slot.item}",
                        daily_budget_micros=slot.budget_micros,
                        bid_micros=1,
                        target_cpa_micros=slot.target_cpa_micros,
                        last_day=day,
                    )
                    for slot in new
                ]
            )
        paused = [name for name, campaign in known.items() if campaign.status == "PAUSED"]
        if paused:
            self.platform.enable(paused)

    def _limits(self, step: int) -> Limits:
        """The step's own limits; total and days count the whole phase, so those of the steps before are added."""
        own = self.steps[step].limits
        before = self.steps[:step]
        return Limits(
            per_episode_micros=own.per_episode_micros,
            per_day_micros=own.per_day_micros,
            total_micros=own.total_micros + sum(s.limits.total_micros for s in before),
            days=own.days + sum(s.limits.days for s in before),
        )

    def _watch(self, tick: int, spent_micros: int, planned_micros: int) -> Verdict:
        return spend_velocity(spent_micros, planned_micros, self.bounds)

    def _windows(self) -> list[list[PlayedDay]]:
        """Days grouped into judging windows; a step begins a new one."""
        windows: list[list[PlayedDay]] = []
        start = 0
        for step in self.steps:
            days = self._days[start : start + step.days]
            windows += [days[k : k + step.window_days] for k in range(0, len(days), step.window_days)]
            start += step.days
        return windows

    def _window_length(self, first: PlayedDay) -> int:
        """How many days the window that begins with `first` is to have."""
        number, start = self._days.index(first), 0
        for step in self.steps:
            if number < start + step.days:
                return min(step.window_days, start + step.days - number)
            start += step.days
        raise MoneyError("a played day lies beyond the steps of its phase.")

    def _episodes(self, day: int, conversions: np.ndarray) -> EpisodeBatch:
        played = next(d for d in self._days if d.day == day)
        return episodes_of(
            played,
            conversions,
            schema=self.run.schema,
            mask=self.market.mask,
            source=Source.LIVE,
            phase=self.phase.name,
            actor_hashes={"agent": self._actors[day], "control": self.control.hash},
            pacer_hash=self.pacing.hash,
            seed=self.run.config.seed,
            hidden_width=len(HIDDEN),
            settled_at=f"day {day + SETTLE_DAYS}",
        )


def _tripped(told: object) -> Verdict:
    """The guard's FAIL as a day's event holds it."""
    if not isinstance(told, Mapping):
        raise StoreError(f"a tripped guard is told as an object, found {told!r}.")
    return Verdict(FAIL, str(told["rule"]), str(told["reason"]))
