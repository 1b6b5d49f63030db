"""LogOrchestrator: takes one agent through the first two phases on a recorded auction log, and stops there.

With no platform no money can follow, so both phases are played whatever the first one says, and both verdicts stand.
What is already in the run's event log is not done again, so a run that was killed goes on to the same weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import jax
import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.online_lp import OnlineLp
from gaelp.core.episode import EpisodeBatch
from gaelp.core.verdict import Verdict
from gaelp.evidence.sequences import betting_interval
from gaelp.market.log_oracle import best_multiplier, lp_bound
from gaelp.market.stretch import episode_of, won_by_bidder, won_by_bids
from gaelp.orchestration.learner import Learner, ruling_of
from gaelp.orchestration.log_opening import LogGrounds, LogRun, faithful, prepare_log
from gaelp.orchestration.phases import HISTORICAL, PHASE_NAMES, SIMULATION, Phase, log_phases_of
from gaelp.safety.gates import replay_gate, simulation_gate

ENDS_HERE = "no platform is configured, so no money can follow: the journey ends here."
ALPHA, CLIP = 0.05, 0.25
"""Of the interval of the certification: fixed before any log is read. A difference of more than a quarter of the
pacer's mean value counts as a quarter, so that the claim is one about clipped differences."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Agent less pacer on the certification episodes, in units of the pacer's mean value, for `replay_gate`.

    mean, lower, upper: of the differences clipped to `clip` either way; plain_mean: of them as they are.
    """

    episodes: int
    mean: float
    lower: float
    upper: float
    plain_mean: float
    clip: float


def paired(agent: NDArray[np.float64], pacer: NDArray[np.float64], unit: float) -> Pairs:
    """Values [n] of both, episode by episode."""
    plain = (agent - pacer) / unit
    share = np.clip(plain, -CLIP, CLIP)
    found = betting_interval(share, -CLIP, CLIP, ALPHA)
    return Pairs(
        episodes=len(share), mean=float(share.mean()), lower=found.lower, upper=found.upper,
        plain_mean=float(plain.mean()), clip=CLIP,
    )  # fmt: skip


class LogOrchestrator:
    """One journey on a log. `await journey()` plays what the event log does not hold yet; returns both verdicts."""

    def __init__(self, run: LogRun) -> None:
        self.run = run
        self.config = run.config
        self.learner = Learner(run)

    async def journey(self) -> dict[str, Verdict]:
        """Both phases, in order."""
        self.learner.start_canaries()
        self.grounds: LogGrounds = prepare_log(self.run)
        self.fidelity = faithful(self.run, self.grounds)
        self.learner.open(self.grounds.practice, self.grounds.judging)
        simulation, historical = log_phases_of(self.config)
        verdicts: dict[str, Verdict] = {}
        for phase, play in ((simulation, self.simulation), (historical, self.historical)):
            told = self.run.found("phase_ended", name=phase.name)
            if told:
                verdicts[phase.name] = Verdict(
                    ruling_of(told[0]["verdict"]), str(told[0]["rule"]), str(told[0]["reason"])
                )
                continue
            self.run.require_running()
            self.learner.begin(phase)
            if phase.name == SIMULATION:
                await self.learner.train_twin(phase)
            verdicts[phase.name] = await play(phase)
            self.learner.end(phase, verdicts[phase.name])
        return verdicts

    async def simulation(self, phase: Phase) -> Verdict:
        """Train in worlds of the training part; judge in worlds of the selection part."""
        return simulation_gate(await self.learner.simulate(phase), self.fidelity)

    async def historical(self, phase: Phase) -> Verdict:
        """The learner plays the recorded training episodes, several times over; judge on the certification episodes."""
        plan, market = self.config.historical, self.grounds.replay
        one_pass = self.grounds.split.episodes(self.grounds.split.training)
        total = plan.passes * one_pass
        order = np.concatenate(
            [
                np.random.default_rng([self.config.seed, number]).permutation(one_pass)
                for number in range(plan.passes)
            ]
        )
        key = jax.random.fold_in(jax.random.key(self.config.seed), PHASE_NAMES.index(HISTORICAL))

        def play(call: int) -> EpisodeBatch:
            rows = order[call * plan.train_every : (call + 1) * plan.train_every]
            engine = self.learner.engine
            return market.play(engine.policy, rows, jax.random.fold_in(key, call), engine.actor_hash())

        await self.learner.rehearse(phase, plan, -(-total // plan.train_every), plan.checkpoint_every, play)
        certification = self._certify()
        await self.learner.decide(phase, certification)
        return certification

    def _certify(self) -> Verdict:
        """The candidate's mode beside the certified pacer on the certification episodes; an event, read back."""
        told = self.run.found("certified")
        if told:
            return Verdict(ruling_of(told[0]["verdict"]), str(told[0]["rule"]), str(told[0]["reason"]))
        stage = "replay of the certification part"
        self.run.progress.advance(stage, 0, 1, "")
        market, split = self.grounds.certification, self.grounds.split
        seeds = np.arange(split.episodes(split.certification))
        agent = {
            name: x[0]
            for name, x in market.scores(
                jax.tree.map(lambda x: x[None], self.learner.engine.policy), seeds
            ).items()
        }
        pacer = market.pacer_bought(self.grounds.certified, seeds)
        values = {
            "agent": float(np.sum(agent["score"], dtype=np.float64)),
            "pacer": float(np.sum(pacer.value, dtype=np.float64)),
            "retuned": float(np.sum(market.pacer(self.grounds.retuned, seeds), dtype=np.float64)),
            "random": float(np.sum(market.random(seeds), dtype=np.float64)),
            **self._ladder(),
        }
        bound = lp_bound(split.stretch(split.certification)).value
        pairs = paired(
            np.asarray(agent["score"], np.float64), np.asarray(pacer.value, np.float64), market.mean_value
        )
        verdict = replay_gate(pairs)
        budgets = split.terms.budget * len(seeds)
        spent = np.asarray(agent["spend"], np.int64)
        self.run.append(
            "certified",
            {
                "phase": HISTORICAL, "candidate": self.learner.engine.actor_hash(), "verdict": verdict.ruling.name,
                "rule": verdict.rule, "reason": verdict.reason,
                "evidence": {
                    **asdict(pairs), "lp_value": bound, "shares": {k: v / bound for k, v in values.items()},
                    "episodes_lost": int((agent["score"] < np.asarray(pacer.value)).sum()),
                    "agent_spend_share": int(spent.sum()) / budgets,
                    "pacer_spend_share": int(np.sum(pacer.spent, dtype=np.int64)) / budgets,
                    "overspend": int(np.maximum(spent - split.terms.budget, 0).sum()),
                    "agent_clicks": int(agent["clicks"].sum()), "pacer_clicks": int(np.sum(pacer.clicks)),
                },
            },
        )  # fmt: skip
        self.run.progress.advance(stage, 1, 1, verdict.ruling.name)
        return verdict

    def _ladder(self) -> dict[str, float]:
        """What two rungs of `gaelp replay --ladder` buy of the certification part: the pacer of logs, which has seen
        the selection part before it, and the best single multiplier for all episodes."""
        split = self.grounds.split
        stream = split.stretch(split.selection, split.certification)
        online = won_by_bidder(stream, OnlineLp(episode=episode_of(stream, 0)))[len(split.selection) :]
        part = split.stretch(split.certification)
        value = part.auctions.value
        best = best_multiplier(part, lp_bound(part))
        return {
            "online_lp": float(value[online].sum()),
            "hindsight": float(value[won_by_bids(part, best * value)].sum()),
        }
