"""How a run's worlds, markets and engine are opened again from its log and files; asks no platform, writes nothing.

A journey, a short control run and a later verification must mean the same by them; this is the one place that says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from gaelp.bidding.landscape import Landscape
from gaelp.bidding.pacer import PacerParams
from gaelp.core.config import Journey, JourneyConfig
from gaelp.core.episode import EpisodeBatch
from gaelp.core.errors import BadInput
from gaelp.core.money import MICROS
from gaelp.core.schema import Schema
from gaelp.learn import dqn, ppo, sac
from gaelp.learn.algorithm import Config
from gaelp.learn.engine import RLTrainingEngine
from gaelp.learn.normalise import fit_normaliser
from gaelp.learn.policies import Policy, act, act_mode
from gaelp.learn.verify import Evaluator, shuffle_rewards
from gaelp.logs.canonical import import_history
from gaelp.market.calibrate import Fit, calibrate
from gaelp.market.campaign import CampaignMarket, Certified
from gaelp.market.hours import hours_of
from gaelp.market.world import Posterior
from gaelp.orchestration.judging import TRAINING_SEEDS, JudgingWorlds
from gaelp.orchestration.phases import PHASE_NAMES, SIMULATION
from gaelp.orchestration.run import Run

NORMALISER_EPISODES = 64
JUDGING = "judging"
TWIN_SHARE = 10
"""The shuffled twin is trained for one call in so many of the agent's own."""


class PracticeMarket(Protocol):
    """Where an agent trains: plays one episode a seed."""

    @property
    def hidden_width(self) -> int:
        """H of its episodes."""
        ...

    def play(self, policy: Any, seeds: Any, key: jax.Array, actor_hash: str) -> EpisodeBatch:
        """Episodes of `policy`, sampled."""
        ...


@dataclass(frozen=True)
class Fitted:
    """The certified pacer, the one retuned on the training days, and worlds fitted on training and selection days."""

    certified: Certified
    retuned: Certified
    training: Fit
    selection: Fit


def reread(run: Run) -> Fitted:
    """What the run was prepared with: the pacers from its log, the worlds fitted again from its exported history.

    Raises BadInput when the run has not come that far, or when the worlds do not come out as they did then.
    """
    fitted = run.found("worlds_fitted")
    if not fitted:
        raise BadInput(
            f"run {run.run_id} has no fitted worlds yet: `gaelp resume {run.run_id}` takes it further."
        )
    certified = reread_certified(run, run.found("pacer_certified")[0]["artifact"])
    plan, simulation = run.config.history, run.config.simulation
    exported = run.found("history_exported")[0]
    days = np.arange(int(str(exported["first_day"])), int(str(exported["last_day"])) + 1)
    hours = import_history(run.directory / "history").hours
    cuts = [plan.training_days, plan.training_days + plan.selection_days]
    training_days, selection_days, _ = np.split(days, cuts)
    low, high = simulation.budget_low / MICROS, simulation.budget_high / MICROS
    training = calibrate(hours_of(hours, training_days), low, high)
    selection = calibrate(hours_of(hours, selection_days), low, high)
    retuned = Certified(training.landscape, pacer_params(fitted[0]["retuned_params"]))
    for what, now, then in (
        ("the certified pacer", certified.hash, run.found("pacer_certified")[0]["hash"]),
        ("the worlds fitted again from the history", retuned.hash, fitted[0]["retuned_hash"]),
    ):
        if now != then:
            raise BadInput(
                f"run {run.run_id}: {what} give {now}, the log says {then}. Either the files were changed, or this "
                "gaelp fits otherwise than the one that made the run: use that one."
            )
    return Fitted(certified, retuned, training, selection)


def reread_certified(run: Run, artifact: object) -> Certified:
    """A certified pacer from the artifact that its event names."""
    saved = run.load(artifact)
    return Certified(
        Landscape(*(saved.arrays[name] for name in Landscape._fields)),
        PacerParams(*(saved.arrays[f"params.{name}"] for name in PacerParams._fields)),
    )


def open_market(posterior: Posterior, certified: Certified, schema: Schema, phase: str) -> CampaignMarket:
    """Worlds of `posterior` around the certified pacer, played by the agent's policies."""
    return CampaignMarket(
        posterior=posterior, certified=certified, schema=schema, sample_move=act,
        mode_move=lambda policy, seen, mask: act_mode(policy, seen, mask).action, phase=phase,
    )  # fmt: skip


def open_practice(fitted: Fitted, schema: Schema) -> CampaignMarket:
    """Where the agent trains: worlds of the training days."""
    return open_market(fitted.training.posterior, fitted.certified, schema, SIMULATION)


def open_judging(fitted: Fitted, schema: Schema, config: JourneyConfig) -> JudgingWorlds[Certified]:
    """Where it is judged: worlds of the selection days."""
    market = open_market(fitted.selection.posterior, fitted.certified, schema, JUDGING)
    return JudgingWorlds(market, fitted.retuned, config.simulation.judging_worlds, config.seed)


def open_engine(
    config: Journey, schema: Schema, practice: PracticeMarket, judging: Evaluator
) -> RLTrainingEngine:
    """A fresh engine: the untrained agent, its observation scaled by 64 pacer days in the training worlds."""
    blank = blank_engine(config, schema, judging, practice.hidden_width)
    seeds = np.arange(NORMALISER_EPISODES) + (1 << 19)
    key = jax.random.fold_in(jax.random.key(config.seed), 1 << 20)
    pacer_days = practice.play(blank.policy, seeds, key, blank.actor_hash())
    return RLTrainingEngine(
        agent_config(config), schema, config.algorithm, seed=config.seed, evaluator=judging,
        hidden_width=practice.hidden_width, normaliser=fit_normaliser(pacer_days),
    )  # fmt: skip


async def trained_twin(
    config: Journey, schema: Schema, practice: PracticeMarket, judging: Evaluator, calls: int
) -> RLTrainingEngine:
    """The agent that `open_engine` opens, trained a tenth of `calls` on the same worlds, its rewards shuffled.

    It plays its own episodes: those of the agent that learns would soon be another policy's to it.
    """
    twin = open_engine(config, schema, practice, judging)
    plan = config.simulation
    for call in range(-(-calls // TWIN_SHARE)):
        batch = practise(
            practice, config.seed, SIMULATION, call, plan.train_every, twin.policy, twin.actor_hash()
        )
        shuffled = shuffle_rewards(batch, np.random.default_rng([config.seed, call]))
        await twin.train_step(
            episode_results=shuffled, batch_size=plan.batch_size, num_epochs=plan.num_epochs
        )
    return twin


def blank_engine(config: Journey, schema: Schema, judging: Evaluator, hidden_width: int) -> RLTrainingEngine:
    """An engine without a scaling, to load a saved state into."""
    return RLTrainingEngine(
        agent_config(config),
        schema,
        config.algorithm,
        seed=config.seed,
        evaluator=judging,
        hidden_width=hidden_width,
    )


def practise(
    practice: PracticeMarket, seed: int, phase: str, call: int, episodes: int, policy: Policy, actor_hash: str
) -> EpisodeBatch:
    """Simulated episodes of the training worlds, for call number `call` of `phase`."""
    stream = PHASE_NAMES.index(phase)
    seeds = TRAINING_SEEDS + stream * (1 << 27) + seed % 512 * (1 << 17) + call * 256 + np.arange(episodes)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), call)
    return practice.play(policy, seeds, key, actor_hash)


def agent_config(config: Journey) -> Config:
    """The settings of the journey's algorithm. A campaign-day is short and all of it counts: gamma is 1."""
    learning = config.learning
    if config.algorithm == "dqn":
        return dqn.DQNConfig(
            learning_rate=learning.learning_rate, hidden=learning.hidden, anchor_kl=learning.anchor_kl,
            replay_steps=config.decisions_per_day,
        )  # fmt: skip
    if config.algorithm == "sac":
        return sac.SACConfig(
            learning_rate=learning.learning_rate, hidden=learning.hidden, anchor_kl=learning.anchor_kl, gamma=1.0,
            replay_steps=config.decisions_per_day,
        )  # fmt: skip
    return ppo.PPOConfig(
        learning_rate=learning.learning_rate, hidden=learning.hidden, entropy=learning.entropy,
        anchor_kl=learning.anchor_kl, min_ess=learning.min_ess, rho_bar=2.0,
    )  # fmt: skip


def pacer_params(told: object) -> PacerParams:
    """Pacer parameters as an event holds them. Raises BadInput for anything but an object of numbers."""
    if not isinstance(told, Mapping):
        raise BadInput(f"the log's retuned parameters are {told!r}, expected an object.")
    return PacerParams(*(np.float64(told[name]) for name in PacerParams._fields))
