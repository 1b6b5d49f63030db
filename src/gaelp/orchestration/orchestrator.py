"""TrainingOrchestrator: takes one agent through simulation, historical validation, real testing and scale.

Read this file first. Each phase is told as one method; what is already in the run's event log is not done again, so
a run that was killed goes on to the same weights. The agent trains, is judged and is promoted in `learner.py` only;
money moves in `spending.py` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gaelp.core.config import Cadence
from gaelp.core.episode import EpisodeBatch, select
from gaelp.core.errors import BadInput, PhaseFailed
from gaelp.core.verdict import FAIL, PASS, WAIT, Verdict, worst
from gaelp.evidence import ope
from gaelp.learn.export import ExportedPolicy
from gaelp.learn.mechanism import Scrutiny
from gaelp.learn.verify import Depth
from gaelp.market.campaign import HIDDEN
from gaelp.orchestration.account import SETTLE_DAYS, prepare
from gaelp.orchestration.gather import logged_episodes
from gaelp.orchestration.learner import Learner, Told, learning_of, played, ruling_of
from gaelp.orchestration.live import Actor, LiveMarket, Stopped
from gaelp.orchestration.opening import open_judging, open_practice
from gaelp.orchestration.phases import HISTORICAL, REAL_TESTING, SCALED, SIMULATION, Phase, phases_of
from gaelp.orchestration.run import Run
from gaelp.orchestration.spending import LivePhase
from gaelp.orchestration.steps import steps_of
from gaelp.platforms.sandbox.client import SandboxPlatform
from gaelp.safety.gates import (
    historical_gate,
    live_gate,
    may_continue,
    ramp_step_gate,
    simulation_gate,
)
from gaelp.safety.guards import GuardBounds


@dataclass(frozen=True)
class PhaseOutcome:
    """How a phase ended: its verdict, and whether the journey may go on."""

    verdict: Verdict
    goes_on: bool


class TrainingOrchestrator:
    """One journey. `await journey()` plays what the log does not hold yet and returns each phase's outcome."""

    def __init__(self, run: Run, platform: SandboxPlatform) -> None:
        self.run = run
        self.config = run.config
        self.platform = platform
        self.schema = run.schema
        bounds = GuardBounds(
            max_bid=float(run.config.platform.max_bid), max_raise_ratio=run.config.guards.max_raise_ratio,
            max_velocity_ratio=run.config.guards.max_velocity_ratio,
        )  # fmt: skip
        self.bounds = bounds
        self.live = LiveMarket(platform, self.schema, bounds, run.config.seed, run.halted)
        self.learner = Learner(run)
        self.phases = {phase.name: phase for phase in phases_of(run.config)}

    async def journey(self) -> dict[str, PhaseOutcome]:
        """All four phases, in order; ends early after a verdict that does not let it go on."""
        self.learner.start_canaries()
        self.prepared = prepare(self.run, self.platform, self.live)
        self.learner.open(
            open_practice(self.prepared.fitted, self.schema),
            open_judging(self.prepared.fitted, self.schema, self.config),
        )
        outcomes: dict[str, PhaseOutcome] = {}
        for name, play in (
            (SIMULATION, self.simulation), (HISTORICAL, self.historical),
            (REAL_TESTING, self.real_testing), (SCALED, self.scaled),
        ):  # fmt: skip
            ended = self.run.found("phase_ended", name=name)
            if ended:
                verdict = Verdict(
                    ruling_of(ended[0]["verdict"]), str(ended[0]["rule"]), str(ended[0]["reason"])
                )
            else:
                self.run.require_running()
                self.learner.begin(self.phases[name])
                if name == SIMULATION:
                    await self.learner.train_twin(self.phases[name])
                try:
                    verdict = await play(self.phases[name])
                except Stopped as stop:
                    # A halt is not the phase's end: a person may lift it, and the run goes on where it stood.
                    raise PhaseFailed(stop.verdict.reason) from stop
                self.learner.end(self.phases[name], verdict)
            onward = may_continue(
                verdict, declared=self.config.continue_after_wait, sandbox=type(self.platform).is_sandbox
            )
            outcomes[name] = PhaseOutcome(verdict, onward.ruling is PASS)
            if onward.ruling is not PASS:
                break
        return outcomes

    # ---- the four phases

    async def simulation(self, phase: Phase) -> Verdict:
        """Train in worlds of the training days; judge in worlds of the selection days."""
        return simulation_gate(await self.learner.simulate(phase), self.prepared.fidelity)

    async def historical(self, phase: Phase) -> Verdict:
        """Train once on the logged training days, anchored to the actor; judge on the certification days."""
        plan = self.config.historical
        logged = self._logged(self.prepared.training_days)
        calls = -(-logged.episodes // phase.train_every)
        for call in range(self.learner.calls(phase), calls):
            self.run.require_running()
            rows = np.arange(call * phase.train_every, min((call + 1) * phase.train_every, logged.episodes))
            batch = select(logged, rows)
            events: list[Told] = [("played", played(phase, batch, self.prepared.incumbent.hash))]
            # The last batch may be refused, and then another call is the phase's last: each is audited.
            events += await self.learner.train(
                phase,
                batch,
                plan,
                agent_episodes=len(rows),
                anchor=self.learner.actor_policy,
                scrutiny=Scrutiny.ALWAYS,
            )
            self.learner.commit(events, phase, checkpoint=True)
            self.run.progress.advance("historical", call + 1, calls, "")
        certification = self._certify()
        await self.learner.decide(phase, certification)
        return certification

    async def real_testing(self, phase: Phase) -> Verdict:
        """Shadow, then a small budget beside a control arm; the actor is frozen within each judging window."""
        live = self._live_phase(phase, self.prepared.next_day + self.config.real_testing.shadow_days)
        live.shadow(self.config.real_testing.shadow_days, Actor(self.learner.exported_actor()))
        await live.authorise(0, self.learner.actor_hash, self._learning_evidence())
        return await self._live(phase, live, self.config.real_testing)

    async def scaled(self, phase: Phase) -> Verdict:
        """The ramp: each step has its own grant and approval, and is left only by its gate."""
        last = max(int(str(told["day"])) for told in self.run.found("day_played", phase=REAL_TESTING))
        return await self._live(phase, self._live_phase(phase, last + 1 + SETTLE_DAYS), self.config.scaled)

    # ---- what live phases share

    def _live_phase(self, phase: Phase, first_day: int) -> LivePhase:
        return LivePhase(
            self.run,
            phase,
            self.live,
            self.platform,
            self.prepared,
            self.bounds,
            steps_of(self.config, phase.name),
            first_day,
        )

    async def _live(self, phase: Phase, live: LivePhase, cadence: Cadence) -> Verdict:
        """Play step by step, train on settled episodes of judged windows, verify, promote between windows."""
        for step in range(len(live.steps)):
            if step > 0 or phase.name == SCALED:
                gate = await self._may_step(phase, live, step)
                if gate.ruling is not PASS:
                    self.run.append("held", {"phase": phase.name, "step": step, "reason": gate.reason})
                    break
            while live.tripped is None and (day := live.next_day(step)) is not None:
                if live.between_windows(step):
                    await self._catch_up(phase, live, cadence)
                else:
                    # The actor is frozen within a judging window: only bills and conversions are read.
                    live.settle()
                guard = live.play(step, day, Actor(self.learner.exported_actor()), self.learner.actor_hash)
                self.run.progress.advance(
                    phase.name, live.days_played, live.days_planned, f"step {step + 1}, day {day}"
                )
                if guard.ruling is FAIL:
                    return self._give_up(phase, live, guard)
            if live.tripped is not None:
                return self._give_up(phase, live, live.tripped)
            if not live.wound_down:
                await self._catch_up(phase, live, cadence)
        live.wind_down()
        await self._catch_up(phase, live, cadence, remainder=True)
        verdict = await self.learner.judge(phase)
        if live.days_played and not self.run.found("arms_compared", phase=phase.name):
            self.run.append("arms_compared", {"phase": phase.name, **live.comparison()})
        ends = [live_gate(phase.name, live.agent_days, live.control_days), live.balance()]
        if verdict.ruling is FAIL:
            ends.append(verdict)
        elif verdict.ruling is WAIT:
            ends.append(Verdict(WAIT, "verify_learning", f"Agent not learning! {verdict.reason}"))
        return worst(ends)

    async def _catch_up(
        self, phase: Phase, live: LivePhase, cadence: Cadence, remainder: bool = False
    ) -> None:
        """Settle bills and episodes; judge closed windows; train on what they release; verify and promote."""
        live.settle()
        for window in live.windows_to_judge(everything=remainder):
            gate = live_gate(phase.name, live.agent_days, live.control_days)
            self.run.append(
                "window_judged",
                {"phase": phase.name, "window": window, "verdict": gate.ruling.name, "reason": gate.reason},
            )
        if phase.name == SCALED and self.learner.unjudged():
            await self._candidate(phase)
        while (batch := live.next_settled(phase.train_every, remainder=remainder)) is not None:
            real = batch.episodes
            simulated = self.learner.practise(
                phase, self.learner.calls(phase), real * self.config.learning.simulated_per_real
            )
            mixed = live.mix(batch, simulated)
            events: list[Told] = [("played", played(phase, simulated, self.learner.engine.actor_hash()))]
            # Any call on live data may be the phase's last, and there are few: each is audited.
            events += await self.learner.train(
                phase,
                mixed,
                cadence,
                agent_episodes=real,
                anchor=self.learner.actor_policy,
                scrutiny=Scrutiny.ALWAYS,
            )
            live.consume(real)
            self.learner.commit(events, phase, checkpoint=True)
            if phase.name == SCALED:
                await self._candidate(phase)
        if phase.name == REAL_TESTING and self.learner.unjudged():
            await self._candidate(phase)

    def _give_up(self, phase: Phase, live: LivePhase, guard: Verdict) -> Verdict:
        """After a guard's FAIL nothing trains: settle, list what is left, return to the last good weights."""
        live.wind_down()
        self.run.append("left_untrained", {"phase": phase.name, "episodes": live.untrained()})
        self.learner.roll_back(phase, guard)
        return guard

    async def _candidate(self, phase: Phase) -> None:
        """Verify the candidate after training on live data, and let the promotion gate decide."""
        verdict, told = await self.learner.verified(phase, Depth.RETURN)
        events: list[Told] = [("judged", told)]
        if not verdict:
            reason = f"Agent not learning! {verdict.reason}"
            events.append(("held", {"phase": phase.name, "step": -1, "reason": reason}))
        self.learner.promote(phase, verdict.verdict, self._certification(), events)

    async def _may_step(self, phase: Phase, live: LivePhase, step: int) -> Verdict:
        """The ramp's gate before `step`. A person is asked for a grant only when all else of the gate holds."""
        told = self.run.found("ramp_step", phase=phase.name, step=step)
        if told:
            return Verdict(ruling_of(told[0]["verdict"]), "ramp_step_gate", str(told[0]["reason"]))
        learning = self._standing(phase)
        days, needed = live.step_days(step - 1)
        if learning.ruling is PASS and days >= needed:
            await live.authorise(step, self.learner.actor_hash, self._learning_evidence())
        gate = ramp_step_gate(
            days_played=days, days_needed=needed, guard_tripped=None, learning=learning,
            available_micros=self.run.store.books(self.run.run_id).phase(phase.name).available,
            needed_micros=live.needed_micros(step),
        )  # fmt: skip
        self.run.append(
            "ramp_step",
            {"phase": phase.name, "step": step, "verdict": gate.ruling.name, "reason": gate.reason},
        )
        return gate

    def _standing(self, phase: Phase) -> Verdict:
        """Does the agent learn, as the ramp asks? The phase's newest judgement; before its first training call, that
        of the actor which would play."""
        told = self.run.found("judged", phase=phase.name)
        if not told:
            told = self.run.found("judged", actor_hash=self.learner.actor_hash)
        if not told:
            return Verdict(WAIT, "verify_learning", "the actor was never judged to have learned.")
        return learning_of(told[-1])

    # ---- parts

    def _logged(self, days: np.ndarray) -> EpisodeBatch:
        return logged_episodes(
            self.prepared.history,
            days,
            schema=self.schema,
            mask=self.live.mask,
            pacer_hash=self.prepared.certified.hash,
            behaviour_hash=self.prepared.incumbent.hash,
            seed=self.config.seed,
            hidden_width=len(HIDDEN),
        )

    def _certify(self) -> Verdict:
        """The historical gate: PDIS of the candidate's sampled policy, as it would play live, on certification days."""
        told = self.run.found("certified")
        if told:
            return self._certification()
        batch = self._logged(self.prepared.certification_days)
        candidate = ExportedPolicy.from_arrays(self.learner.engine.weights())
        b, t = batch.action.shape
        seen, mask = batch.observation[:, :-1].reshape(b * t, -1), batch.mask[:, :-1].reshape(b * t, -1)
        chances = (
            Actor(candidate).chances(seen, mask)[np.arange(b * t), batch.action.reshape(-1)].reshape(b, t)
        )
        log_e = np.log(chances)
        reward, valid = batch.reward.astype(np.float64), batch.valid
        behaviour = batch.log_prob.astype(np.float64)
        try:
            estimate, placebo = (
                ope.pdis(log_e, behaviour, reward, valid),
                ope.placebo(behaviour, reward, valid),
            )
            verdict = historical_gate(estimate, placebo, None)
        except BadInput as fault:
            verdict = historical_gate(None, None, str(fault))
        self.run.append(
            "certified",
            {"phase": HISTORICAL, "candidate": candidate.hash, "verdict": verdict.ruling.name, "rule": verdict.rule,
             "reason": verdict.reason, "evidence": dict(verdict.evidence)},
        )  # fmt: skip
        return verdict

    def _certification(self) -> Verdict:
        """The last ruling of the certification days; before there is one, nothing is certified."""
        told = self.run.found("certified")
        if not told:
            return Verdict(WAIT, "certification", "no certification has been made.")
        return Verdict(ruling_of(told[-1]["verdict"]), str(told[-1]["rule"]), str(told[-1]["reason"]))

    def _learning_evidence(self) -> list[Mapping[str, object]]:
        """What an approval is bound to: the judgements and certifications so far, by their outcome and actor."""
        kept = ("phase", "verdict", "reason", "actor_hash")
        return [
            {k: told[k] for k in kept if k in told}
            for kind in ("judged", "certified")
            for told in self.run.found(kind)
        ]


__all__ = ["PhaseOutcome", "TrainingOrchestrator"]
