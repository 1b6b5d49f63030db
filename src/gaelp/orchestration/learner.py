"""The agent of a run: it trains in one place (`train`), is judged in one (`verified`) and promoted in one (`promote`).

Each part leaves events in the run's log, and what the log holds is not done again. It knows nothing of platforms and
money, nor what the phases of its journey are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import numpy as np

from gaelp.core.config import Cadence, Journey
from gaelp.core.episode import EpisodeBatch
from gaelp.core.errors import BadInput, UnusableBatch
from gaelp.core.verdict import FAIL, PASS, Ruling, Verdict
from gaelp.learn.engine import RLTrainingEngine
from gaelp.learn.export import ExportedPolicy
from gaelp.learn.mechanism import Scrutiny
from gaelp.learn.metrics import TrainingMetrics
from gaelp.learn.networks import named_arrays, with_named_arrays
from gaelp.learn.policies import Policy
from gaelp.learn.verify import Depth, LearningVerdict, Outcome, shuffle_rewards
from gaelp.orchestration.canaries import CanaryRun, canaries_of
from gaelp.orchestration.judging import JudgingWorlds
from gaelp.orchestration.opening import PracticeMarket, open_engine, practise, trained_twin
from gaelp.orchestration.phases import Phase
from gaelp.orchestration.run import Run
from gaelp.safety.gates import promotion_gate

Told = tuple[str, dict[str, object]]
"""An event to be: its kind and its payload."""

NOTHING_TO_CERTIFY = Verdict(PASS, "certification", "nothing to certify before history.")


class Learner:
    """One run's engine and actor. `engine`, `practice` and `judging` stand once it was opened."""

    engine: RLTrainingEngine
    practice: PracticeMarket
    judging: JudgingWorlds
    actor_policy: Policy
    actor_hash: str

    def __init__(self, run: Run[Journey]) -> None:
        self.run = run
        self.config = run.config
        self.schema = run.schema
        self._canaries: CanaryRun | None = None

    def start_canaries(self) -> None:
        """Known answers, in a process of their own, unless the log holds them."""
        self._canaries = None if self.run.found("canaries_run") else CanaryRun(self.run)

    def open(self, practice: PracticeMarket, judging: JudgingWorlds) -> None:
        """Markets; the engine as the log left it, fresh or at its newest checkpoint; the actor as last promoted."""
        # What was compiled to tune pacers and to fit worlds is of no more use, and large.
        jax.clear_caches()
        self.practice, self.judging = practice, judging
        self.engine = open_engine(self.config, self.schema, practice, judging)
        self.engine.canaries = canaries_of(self.run)
        promoted, checkpoints = self.run.found("promoted"), self.run.found("checkpoint")
        self.adopt()
        if promoted:
            self.engine.load_state(self.run.load(promoted[-1]["checkpoint"]).arrays)
            self.adopt()
        if checkpoints:
            self.engine.load_state(self.run.load(checkpoints[-1]["checkpoint"]).arrays)

    async def simulate(self, phase: Phase) -> Verdict:
        """The simulation phase: train in the practice market, be judged in full; returns what learning came to."""
        plan = self.config.simulation

        def play(call: int) -> EpisodeBatch:
            n = min(phase.train_every, plan.episodes - call * phase.train_every)
            return self.practise(phase, call, n)

        await self.rehearse(phase, plan, -(-plan.episodes // phase.train_every), plan.checkpoint_every, play)
        # The judging worlds' programs are the largest: not beside those of training, which are done with.
        jax.clear_caches()
        return await self.decide(phase, NOTHING_TO_CERTIFY)

    async def rehearse(
        self, phase: Phase, cadence: Cadence, calls: int, checkpoint_every: int,
        play: Callable[[int], EpisodeBatch],
    ) -> None:  # fmt: skip
        """So many training calls on what the learner itself plays; `play` gives the batch of each call by its number.

        A block of calls is one transaction: a crash inside it leaves nothing, and it is played again, bit for bit
        the same.
        """
        done = self.calls(phase)
        while done < calls:
            self.run.require_running()
            upto = min(done + checkpoint_every, calls)
            events: list[Told] = []
            for call in range(done, upto):
                batch = play(call)
                events.append(("played", played(phase, batch, self.engine.actor_hash())))
                last = Scrutiny.ALWAYS if call == calls - 1 else Scrutiny.SAMPLED
                events += await self.train(
                    phase, batch, cadence, agent_episodes=batch.episodes, scrutiny=last
                )
            self.commit(events, phase, checkpoint=True)
            done = upto
            self.run.progress.advance(phase.name, done, calls, f"{done} training calls")

    async def train(
        self,
        phase: Phase,
        batch: EpisodeBatch,
        cadence: Cadence,
        *,
        agent_episodes: int,
        anchor: Policy | None = None,
        scrutiny: Scrutiny = Scrutiny.SAMPLED,
    ) -> list[Told]:
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

    async def train_twin(self, phase: Phase) -> None:
        """The reward-shuffled twin, trained once: a tenth of the phase's calls, from the agent's own first weights."""
        if self.calls(phase):
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

    async def judge(self, phase: Phase) -> Verdict:
        """A live phase's judgement in full at its end, said in the log once: a resumed run takes what stands there."""
        told = self.run.found("judged", phase=phase.name, depth=str(Depth.FULL))
        if told:
            return learning_of(told[-1])
        verdict, payload = await self.verified(phase, Depth.FULL)
        self.run.append("judged", payload)
        return verdict.verdict

    async def verified(self, phase: Phase, depth: Depth) -> tuple[LearningVerdict, dict[str, object]]:
        """Learning verification of the learner in the judging worlds, and its event with every policy's share."""
        self.run.progress.advance(f"{phase.name}: judging", 0, 1, "")
        if depth is Depth.FULL:
            self._read_canaries()
        verdict = await self.engine.verify_learning(depth)
        stacked = jax.tree.map(lambda x: x[None], self.engine.policy)
        now = self.judging.scores(stacked, self.judging.seeds)[0]
        reference = self.judging.raw("reference").mean()
        raw = now * self.judging.scale()
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

    async def decide(self, phase: Phase, certification: Verdict) -> Verdict:
        """A phase's own judgement in full, and promotion by it; what the log holds of it is taken as it is."""
        told = self.run.found("judged", phase=phase.name)
        if told:
            return learning_of(told[-1])
        verdict, payload = await self.verified(phase, Depth.FULL)
        self.promote(phase, verdict.verdict, certification, [("judged", payload)])
        return verdict.verdict

    def promote(
        self,
        phase: Phase,
        judging: Verdict,
        certification: Verdict,
        events: list[Told],
    ) -> None:
        """Make the learner the actor if the gate passes. In a live phase a FAIL sends the learner back to the actor.

        `events`, the judgement first, and what follows from it are one transaction: a crash leaves both or neither.
        """
        gate = promotion_gate(judging, certification)
        if gate.ruling is PASS:
            self.engine.mark_promoted(self.engine.policy)
            self.adopt()
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

    def roll_back(self, phase: Phase, why: Verdict) -> None:
        """Return to the last good weights, and say so in the log."""
        with self.run.store.transaction(self.run.run_id) as tx:
            for kind, told in self._back_to_promoted(phase, why):
                tx.append(kind, told)

    def _back_to_promoted(self, phase: Phase, why: Verdict) -> list[Told]:
        """The learner and the actor become the newest promoted weights, read back and proved; nothing before there
        are any. Returns the events that tell of it."""
        promoted = self.run.found("promoted")
        if not promoted:
            return []
        saved = promoted[-1]["checkpoint"]
        self.engine.load_state(self.run.load(saved).arrays)
        self.adopt()
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

    def adopt(self) -> None:
        """The learner's weights, as they are, become the actor's."""
        self.actor_policy = self.engine.policy
        self.actor_hash = self.engine.actor_hash()
        self._actor_weights = self.engine.weights()

    def exported_actor(self) -> ExportedPolicy:
        return ExportedPolicy.from_arrays(self._actor_weights)

    def practise(self, phase: Phase, call: int, episodes: int) -> EpisodeBatch:
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

    def unjudged(self) -> bool:
        """Has the learner been trained since the newest judgement in the log?"""
        judged = self.run.found("judged")
        return not judged or int(self.engine.state.calls) > int(str(judged[-1]["call"]))

    def calls(self, phase: Phase) -> int:
        """How many batches the phase has handed to training. A refused one counts: each batch has seeds or rows of its
        own by its number, and a resumed run must not take them again."""
        return sum(len(self.run.found(kind, phase=phase.name)) for kind in ("trained", "batch_refused"))

    def begin(self, phase: Phase) -> None:
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

    def end(self, phase: Phase, verdict: Verdict) -> None:
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

    def commit(self, events: list[Told], phase: Phase, *, checkpoint: bool) -> None:
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


def learning_of(judged: Mapping[str, object]) -> Verdict:
    """The verdict of a judgement in the log."""
    return LearningVerdict(Outcome(str(judged["verdict"])), str(judged["reason"]), {}, {}).verdict


def ruling_of(name: object) -> Ruling:
    """A ruling by its name in the log."""
    return Ruling[str(name)]


def played(phase: Phase, batch: EpisodeBatch, actor_hash: str) -> dict[str, object]:
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
