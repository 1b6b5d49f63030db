"""TrainingOrchestrator: takes one agent through simulation, historical validation, real testing and scale.

Read this file first. Each phase is told as one method; what is already in the run's event log is not done again, so
a run that was killed goes on to the same weights. The agent trains in one place (`_train`), is judged in one
(`_judge`) and promoted in one (`_promote`); money moves in `spending.py` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from gaelp.core.config import Cadence
from gaelp.core.episode import EpisodeBatch, select
from gaelp.core.errors import BadInput, PhaseFailed, UnusableBatch
from gaelp.core.verdict import FAIL, PASS, WAIT, Verdict, worst
from gaelp.evidence import ope
from gaelp.learn.export import ExportedPolicy
from gaelp.learn.mechanism import Scrutiny
from gaelp.learn.metrics import TrainingMetrics
from gaelp.learn.networks import named_arrays, with_named_arrays
from gaelp.learn.policies import Policy
from gaelp.learn.verify import Depth, LearningVerdict, Outcome, shuffle_rewards
from gaelp.market.campaign import HIDDEN, SCALE_FLOOR
from gaelp.orchestration.account import SETTLE_DAYS, Prepared, prepare
from gaelp.orchestration.canaries import CanaryRun, canaries_of
from gaelp.orchestration.gather import logged_episodes
from gaelp.orchestration.live import Actor, LiveMarket, Stopped
from gaelp.orchestration.opening import open_engine, open_judging, open_practice, practise, trained_twin
from gaelp.orchestration.phases import HISTORICAL, REAL_TESTING, SCALED, SIMULATION, Phase, phases_of
from gaelp.orchestration.run import Run
from gaelp.orchestration.spending import LivePhase
from gaelp.orchestration.steps import steps_of
from gaelp.platforms.sandbox.client import SandboxPlatform
from gaelp.safety.gates import (
    historical_gate,
    live_gate,
    may_continue,
    promotion_gate,
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
        self.phases = {phase.name: phase for phase in phases_of(run.config)}

    async def journey(self) -> dict[str, PhaseOutcome]:
        """All four phases, in order; ends early after a verdict that does not let it go on."""
        self._canaries = None if self.run.found("canaries_run") else CanaryRun(self.run)
        self.prepared = prepare(self.run, self.platform, self.live)
        self._open(self.prepared)
        outcomes: dict[str, PhaseOutcome] = {}
        for name, play in (
            (SIMULATION, self.simulation), (HISTORICAL, self.historical),
            (REAL_TESTING, self.real_testing), (SCALED, self.scaled),
        ):  # fmt: skip
            ended = self.run.found("phase_ended", name=name)
            if ended:
                verdict = Verdict(
                    _ruling(ended[0]["verdict"]), str(ended[0]["rule"]), str(ended[0]["reason"])
                )
            else:
                self.run.require_running()
                self._begin(self.phases[name])
                if name == SIMULATION:
                    await self._train_twin(self.phases[name])
                try:
                    verdict = await play(self.phases[name])
                except Stopped as stop:
                    # A halt is not the phase's end: a person may lift it, and the run goes on where it stood.
                    raise PhaseFailed(stop.verdict.reason) from stop
                self._end(self.phases[name], verdict)
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
        plan = self.config.simulation
        calls = -(-plan.episodes // phase.train_every)
        done = self._calls(phase)
        while done < calls:
            self.run.require_running()
            upto = min(done + plan.checkpoint_every, calls)
            # A block is one transaction: a crash inside it leaves nothing, and it is played again bit for bit the same.
            events: list[tuple[str, dict[str, object]]] = []
            for call in range(done, upto):
                n = min(phase.train_every, plan.episodes - call * phase.train_every)
                batch = self._practise(phase, call, n)
                events.append(("played", _played(phase, batch, self.engine.actor_hash())))
                last = Scrutiny.ALWAYS if call == calls - 1 else Scrutiny.SAMPLED
                events += await self._train(phase, batch, plan, agent_episodes=n, scrutiny=last)
            self._commit(events, phase, checkpoint=True)
            done = upto
            self.run.progress.advance("simulation", done, calls, f"{done} training calls")
        learning = await self._decide(
            phase, Verdict(PASS, "certification", "nothing to certify before history.")
        )
        return simulation_gate(learning, self.prepared.fidelity)

    async def historical(self, phase: Phase) -> Verdict:
        """Train once on the logged training days, anchored to the actor; judge on the certification days."""
        plan = self.config.historical
        logged = self._logged(self.prepared.training_days)
        calls = -(-logged.episodes // phase.train_every)
        for call in range(self._calls(phase), calls):
            self.run.require_running()
            rows = np.arange(call * phase.train_every, min((call + 1) * phase.train_every, logged.episodes))
            batch = select(logged, rows)
            events: list[tuple[str, dict[str, object]]] = [
                ("played", _played(phase, batch, self.prepared.incumbent.hash))
            ]
            # The last batch may be refused, and then another call is the phase's last: each is audited.
            events += await self._train(
                phase,
                batch,
                plan,
                agent_episodes=len(rows),
                anchor=self.actor_policy,
                scrutiny=Scrutiny.ALWAYS,
            )
            self._commit(events, phase, checkpoint=True)
            self.run.progress.advance("historical", call + 1, calls, "")
        certification = self._certify()
        await self._decide(phase, certification)
        return certification

    async def real_testing(self, phase: Phase) -> Verdict:
        """Shadow, then a small budget beside a control arm; the actor is frozen within each judging window."""
        live = self._live_phase(phase, self.prepared.next_day + self.config.real_testing.shadow_days)
        live.shadow(self.config.real_testing.shadow_days, Actor(self._exported_actor()))
        await live.authorise(0, self.actor_hash, self._learning_evidence())
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
                guard = live.play(step, day, Actor(self._exported_actor()), self.actor_hash)
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
        verdict = await self._judge(phase)
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
        if phase.name == SCALED and self._unjudged():
            await self._candidate(phase)
        while (batch := live.next_settled(phase.train_every, remainder=remainder)) is not None:
            real = batch.episodes
            simulated = self._practise(
                phase, self._calls(phase), real * self.config.learning.simulated_per_real
            )
            mixed = live.mix(batch, simulated)
            events: list[tuple[str, dict[str, object]]] = [
                ("played", _played(phase, simulated, self.engine.actor_hash()))
            ]
            # Any call on live data may be the phase's last, and there are few: each is audited.
            events += await self._train(
                phase, mixed, cadence, agent_episodes=real, anchor=self.actor_policy, scrutiny=Scrutiny.ALWAYS
            )
            live.consume(real)
            self._commit(events, phase, checkpoint=True)
            if phase.name == SCALED:
                await self._candidate(phase)
        if phase.name == REAL_TESTING and self._unjudged():
            await self._candidate(phase)

    def _give_up(self, phase: Phase, live: LivePhase, guard: Verdict) -> Verdict:
        """After a guard's FAIL nothing trains: settle, list what is left, return to the last good weights."""
        live.wind_down()
        self.run.append("left_untrained", {"phase": phase.name, "episodes": live.untrained()})
        self._roll_back(phase, guard)
        return guard

    def _unjudged(self) -> bool:
        """Has the learner been trained since the newest judgement in the log?"""
        judged = self.run.found("judged")
        return not judged or int(self.engine.state.calls) > int(str(judged[-1]["call"]))

    async def _candidate(self, phase: Phase) -> None:
        """Verify the candidate after training on live data, and let the promotion gate decide."""
        verdict, told = await self._verified(phase, Depth.RETURN)
        events: list[tuple[str, dict[str, object]]] = [("judged", told)]
        if not verdict:
            reason = f"Agent not learning! {verdict.reason}"
            events.append(("held", {"phase": phase.name, "step": -1, "reason": reason}))
        self._promote(phase, verdict.verdict, self._certification(), events)

    async def _decide(self, phase: Phase, certification: Verdict) -> Verdict:
        """A phase's own judgement in full, and promotion by it; what the log holds of it is taken as it is."""
        told = self.run.found("judged", phase=phase.name)
        if told:
            return _learning(told[-1])
        verdict, payload = await self._verified(phase, Depth.FULL)
        self._promote(phase, verdict.verdict, certification, [("judged", payload)])
        return verdict.verdict

    async def _may_step(self, phase: Phase, live: LivePhase, step: int) -> Verdict:
        """The ramp's gate before `step`. A person is asked for a grant only when all else of the gate holds."""
        told = self.run.found("ramp_step", phase=phase.name, step=step)
        if told:
            return Verdict(_ruling(told[0]["verdict"]), "ramp_step_gate", str(told[0]["reason"]))
        learning = self._standing(phase)
        days, needed = live.step_days(step - 1)
        if learning.ruling is PASS and days >= needed:
            await live.authorise(step, self.actor_hash, self._learning_evidence())
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
            told = self.run.found("judged", actor_hash=self.actor_hash)
        if not told:
            return Verdict(WAIT, "verify_learning", "the actor was never judged to have learned.")
        return _learning(told[-1])

    # ---- training, judging, promoting: once each

    async def _train(
        self,
        phase: Phase,
        batch: EpisodeBatch,
        cadence: Cadence,
        *,
        agent_episodes: int,
        anchor: Policy | None = None,
        scrutiny: Scrutiny = Scrutiny.SAMPLED,
    ) -> list[tuple[str, dict[str, object]]]:
        """One training call; the event that tells of it, or of why the batch was refused."""
        if self.config.learning.shuffle_rewards:
            batch = shuffle_rewards(
                batch, np.random.default_rng([self.config.seed, int(self.engine.state.calls)])
            )
        try:
            metrics: TrainingMetrics = await self.engine.train_step(
                episode_results=batch,
                batch_size=cadence.batch_size,
                num_epochs=cadence.num_epochs,
                anchor=anchor,
                scrutiny=scrutiny,
            )
        except UnusableBatch as why:
            return [("batch_refused", {"phase": phase.name, "episodes": agent_episodes, "reason": str(why)})]
        told = {
            "phase": phase.name,
            "episodes": agent_episodes,
            "train_every": phase.train_every,
            **metrics.payload(),
        }
        return [("trained", told)]

    async def _train_twin(self, phase: Phase) -> None:
        """The reward-shuffled twin, trained once: a tenth of the phase's calls, from the agent's own first weights."""
        if self._calls(phase):
            # A checkpoint with training calls in it holds the twin as well.
            return
        told = self.run.found("twin_trained")
        if told:
            saved = self.run.load(told[0]["artifact"])
            self.engine.mark_twin(with_named_arrays(self.engine.policy, saved.arrays))
            return
        self.run.progress.advance("simulation: shuffled twin", 0, 1, "")
        calls = -(-self.config.simulation.episodes // phase.train_every)
        twin = await trained_twin(self.config, self.schema, self.practice, self.judging, calls)
        self.engine.mark_twin(twin.policy)
        artifact = self.run.save(named_arrays(twin.policy), {"what": "twin"})
        self.run.append(
            "twin_trained",
            {"calls": twin.trail.calls, "updates": twin.trail.updates, "actor_hash": twin.actor_hash(),
             "artifact": artifact},
        )  # fmt: skip
        self.run.progress.advance("simulation: shuffled twin", 1, 1, f"{twin.trail.calls} training calls")

    def _read_canaries(self) -> None:
        """What the canaries found, from the log or from their process; told once in the log."""
        if self.engine.canaries is None and self._canaries is not None:
            found = self._canaries.result()
            self.run.append("canaries_run", found.payload())
            self.engine.canaries = found

    async def _judge(self, phase: Phase) -> Verdict:
        """A live phase's judgement in full at its end, said in the log once: a resumed run takes what stands there."""
        told = self.run.found("judged", phase=phase.name, depth=str(Depth.FULL))
        if told:
            return _learning(told[-1])
        verdict, payload = await self._verified(phase, Depth.FULL)
        self.run.append("judged", payload)
        return verdict.verdict

    async def _verified(self, phase: Phase, depth: Depth) -> tuple[LearningVerdict, dict[str, object]]:
        """Learning verification of the learner in the judging worlds, and its event with every policy's share."""
        self.run.progress.advance(f"{phase.name}: judging", 0, 1, "")
        if depth is Depth.FULL:
            self._read_canaries()
        verdict = await self.engine.verify_learning(depth)
        stacked = jax.tree.map(lambda x: x[None], self.engine.policy)
        now = self.judging.scores(stacked, self.judging.seeds)[0]
        reference = self.judging.raw("reference").mean()
        raw = now * np.maximum(self.judging.raw("pacer"), SCALE_FLOOR)
        shares = {"agent": float(raw.mean() / reference)}
        shares |= {n: float(self.judging.raw(n).mean() / reference) for n in ("pacer", "retuned", "random")}
        told: dict[str, object] = {
            "phase": phase.name,
            "depth": str(depth),
            "call": int(self.engine.state.calls),
            "actor_hash": self.engine.actor_hash(),
            **verdict.payload(),
            "shares": shares,
            "worlds_lost": float((now < self.judging.reference("pacer", self.judging.seeds)).mean()),
            "worlds": self.judging.worlds,
        }
        self.run.progress.advance(f"{phase.name}: judging", 1, 1, f"{verdict.outcome}")
        return verdict, told

    def _promote(
        self,
        phase: Phase,
        judging: Verdict,
        certification: Verdict,
        events: list[tuple[str, dict[str, object]]],
    ) -> None:
        """Make the learner the actor if the gate passes. In a live phase a FAIL sends the learner back to the actor.

        `events`, the judgement first, and what follows from it are one transaction: a crash leaves both or neither.
        """
        gate = promotion_gate(judging, certification)
        if gate.ruling is PASS:
            self.engine.mark_promoted(self.engine.policy)
            self._adopt()
            saved = self.run.save(self.engine.save_state(), {"what": "promoted"})
            told: dict[str, object] = {
                "phase": phase.name,
                "actor_hash": self.actor_hash,
                "checkpoint": saved,
                "reason": gate.reason,
            }
            calls = int(self.engine.state.calls)
            checkpoint: dict[str, object] = {"phase": phase.name, "checkpoint": saved, "calls": calls}
            events = [*events, ("promoted", told), ("checkpoint", checkpoint)]
        else:
            refused: dict[str, object] = {
                "phase": phase.name,
                "verdict": gate.ruling.name,
                "reason": gate.reason,
            }
            events = [*events, ("not_promoted", refused)]
            if gate.ruling is FAIL and phase.live:
                events += self._back_to_promoted(phase, gate)
        with self.run.store.transaction(self.run.run_id) as tx:
            for kind, payload in events:
                tx.append(kind, payload)

    def _roll_back(self, phase: Phase, why: Verdict) -> None:
        """Return to the last good weights, and say so in the log."""
        with self.run.store.transaction(self.run.run_id) as tx:
            for kind, told in self._back_to_promoted(phase, why):
                tx.append(kind, told)

    def _back_to_promoted(self, phase: Phase, why: Verdict) -> list[tuple[str, dict[str, object]]]:
        """The learner and the actor become the newest promoted weights, read back and proved; nothing before there
        are any. Returns the events that tell of it."""
        promoted = self.run.found("promoted")
        if not promoted:
            return []
        saved = promoted[-1]["checkpoint"]
        self.engine.load_state(self.run.load(saved).arrays)
        self._adopt()
        if self.actor_hash != promoted[-1]["actor_hash"]:
            raise BadInput(
                f"rollback restored actor {self.actor_hash}, {promoted[-1]['actor_hash']} was promoted."
            )
        told: dict[str, object] = {
            "phase": phase.name,
            "actor_hash": self.actor_hash,
            "rule": why.rule,
            "reason": why.reason,
        }
        calls = int(self.engine.state.calls)
        return [
            ("rolled_back", told),
            ("checkpoint", {"phase": phase.name, "checkpoint": saved, "calls": calls}),
        ]

    # ---- parts

    def _open(self, prepared: Prepared) -> None:
        """Markets; the engine as the log left it, fresh or at its newest checkpoint; the actor as last promoted."""
        self.practice = open_practice(prepared.fitted, self.schema)
        self.judging = open_judging(prepared.fitted, self.schema, self.config)
        self.engine = open_engine(self.config, self.schema, self.practice, self.judging)
        self.engine.canaries = canaries_of(self.run)
        promoted, checkpoints = self.run.found("promoted"), self.run.found("checkpoint")
        self._adopt()
        if promoted:
            self.engine.load_state(self.run.load(promoted[-1]["checkpoint"]).arrays)
            self._adopt()
        if checkpoints:
            self.engine.load_state(self.run.load(checkpoints[-1]["checkpoint"]).arrays)

    def _adopt(self) -> None:
        """The learner's weights, as they are, become the actor's."""
        self.actor_policy = self.engine.policy
        self.actor_hash = self.engine.actor_hash()
        self._actor_weights = self.engine.weights()

    def _exported_actor(self) -> ExportedPolicy:
        return ExportedPolicy.from_arrays(self._actor_weights)

    def _practise(self, phase: Phase, call: int, episodes: int) -> EpisodeBatch:
        """Simulated episodes of the training worlds, played by the learner, for call number `call` of the phase."""
        return practise(
            self.practice,
            self.config.seed,
            phase.name,
            call,
            episodes,
            self.engine.policy,
            self.engine.actor_hash(),
        )

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
        candidate = ExportedPolicy.from_arrays(self.engine.weights())
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
        return Verdict(_ruling(told[-1]["verdict"]), str(told[-1]["rule"]), str(told[-1]["reason"]))

    def _learning_evidence(self) -> list[Mapping[str, object]]:
        """What an approval is bound to: the judgements and certifications so far, by their outcome and actor."""
        kept = ("phase", "verdict", "reason", "actor_hash")
        return [
            {k: told[k] for k in kept if k in told}
            for kind in ("judged", "certified")
            for told in self.run.found(kind)
        ]

    def _calls(self, phase: Phase) -> int:
        """How many batches the phase has handed to training. A refused one counts: each batch has seeds or rows of its
        own by its number, and a resumed run must not take them again."""
        return sum(len(self.run.found(kind, phase=phase.name)) for kind in ("trained", "batch_refused"))

    def _begin(self, phase: Phase) -> None:
        if not self.run.found("phase_began", name=phase.name):
            told: dict[str, object] = {
                "name": phase.name,
                "train_every": phase.train_every,
                "batch_size": phase.batch_size,
                "num_epochs": phase.num_epochs,
            }
            self.run.append("phase_began", told)
        if not self.run.found("checkpoint", phase=phase.name):
            self.engine.begin_phase()

    def _end(self, phase: Phase, verdict: Verdict) -> None:
        trained = self.run.found("trained", phase=phase.name)
        changes = [float(told["weight_change"]["absolute"]) for told in trained]  # type: ignore[index]
        self.run.append(
            "phase_ended",
            {
                "name": phase.name,
                "episodes": sum(int(str(told["episodes"])) for told in trained),
                "train_calls": len(trained),
                "min_weight_change": min(changes) if changes else 0.0,
                "mean_weight_change": float(np.mean(changes)) if changes else 0.0,
                "verdict": verdict.ruling.name,
                "rule": verdict.rule,
                "reason": verdict.reason,
            },
        )

    def _commit(self, events: list[tuple[str, dict[str, object]]], phase: Phase, *, checkpoint: bool) -> None:
        """Events and the checkpoint that they led to, in one transaction."""
        saved = self.run.save(self.engine.save_state(), {"what": "checkpoint"}) if checkpoint else None
        with self.run.store.transaction(self.run.run_id) as tx:
            for kind, told in events:
                tx.append(kind, told)
            if saved is not None:
                tx.append(
                    "checkpoint",
                    {"phase": phase.name, "checkpoint": saved, "calls": int(self.engine.state.calls)},
                )


def _learning(judged: Mapping[str, object]) -> Verdict:
    """The verdict of a judgement in the log."""
    return LearningVerdict(Outcome(str(judged["verdict"])), str(judged["reason"]), {}, {}).verdict


def _ruling(name: object) -> Any:
    return {"PASS": PASS, "WAIT": WAIT, "FAIL": FAIL}[str(name)]


def _played(phase: Phase, batch: EpisodeBatch, actor_hash: str) -> dict[str, object]:
    """What re-derives simulated episodes, and their outcomes."""
    told = batch.provenance[0]
    return {
        "phase": phase.name,
        "source": str(told.source),
        "episodes": batch.episodes,
        "seed": told.seed,
        "actor_hash": actor_hash,
        "mean_score": float(np.mean(batch.score)),
        "mean_spend": float(np.mean(batch.spend)),
        "mean_gain": float(batch.reward.sum(axis=1).mean()),
    }


__all__ = ["PhaseOutcome", "TrainingOrchestrator"]
