"""A short simulation phase in a finished run's own worlds: trains a fresh agent, judges it, and touches no store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gaelp.core.config import JourneyConfig, build_config, override
from gaelp.core.errors import BadInput
from gaelp.core.schema import Schema
from gaelp.learn.mechanism import Scrutiny
from gaelp.learn.verify import Canaries, Depth, shuffle_rewards
from gaelp.market.campaign import CampaignMarket, Certified
from gaelp.orchestration.canaries import CanaryRun, canaries_for, canaries_of
from gaelp.orchestration.judging import JudgingWorlds
from gaelp.orchestration.opening import (
    Fitted,
    open_engine,
    open_judging,
    open_practice,
    practise,
    reread,
    trained_twin,
)
from gaelp.orchestration.phases import SIMULATION
from gaelp.orchestration.run import Run

CALLS = 300
"""Training calls of a short run."""


@dataclass(frozen=True)
class Stage:
    """What short runs share, so that they share its compiled programs too."""

    run_id: str
    journey: dict[str, object]
    schema: Schema
    fitted: Fitted
    practice: CampaignMarket
    judging: JudgingWorlds[Certified]
    canaries: Canaries


def set_stage(run: Run) -> Stage:
    """The worlds of `run`, read again; asks no platform. Raises BadInput when the run has none yet."""
    fitted = reread(run)
    journey = run.store.config(run.run_id)["journey"]
    if not isinstance(journey, dict):
        raise BadInput(f"run {run.run_id} holds no journey.")
    judging = open_judging(fitted, run.schema, run.config)
    practice = open_practice(fitted, run.schema)
    told = canaries_of(run)
    canaries = CanaryRun(run).result() if told is None else told
    return Stage(run.run_id, journey, run.schema, fitted, practice, judging, canaries)


async def short_run(stage: Stage, overrides: list[str], calls: int = CALLS) -> dict[str, object]:
    """Train `calls` calls of the simulation phase with `key=value` settings, and judge in full.

    Settings may touch the seed and how the agent learns, nothing that the worlds rest on. Returns the payload of the
    learning verdict.
    """
    config = build_config(override(stage.journey, overrides), f"a short run of {stage.run_id}")
    _same_worlds(build_config(stage.journey, f"run {stage.run_id}"), config)
    judging = JudgingWorlds(
        stage.judging.market, stage.judging.retuned, config.simulation.judging_worlds, config.seed
    )
    engine = open_engine(config, stage.schema, stage.practice, judging)
    engine.canaries = canaries_for(stage.canaries, config, stage.schema)
    twin = await trained_twin(config, stage.schema, stage.practice, judging, calls)
    engine.mark_twin(twin.policy)
    plan = config.simulation
    for call in range(calls):
        batch = practise(
            stage.practice,
            config.seed,
            SIMULATION,
            call,
            plan.train_every,
            engine.policy,
            engine.actor_hash(),
        )
        if config.learning.shuffle_rewards:
            batch = shuffle_rewards(batch, np.random.default_rng([config.seed, int(engine.state.calls)]))
        last = Scrutiny.ALWAYS if call == calls - 1 else Scrutiny.SAMPLED
        await engine.train_step(
            episode_results=batch, batch_size=plan.batch_size, num_epochs=plan.num_epochs, scrutiny=last
        )
    return (await engine.verify_learning(Depth.FULL)).payload()


def _same_worlds(run: JourneyConfig, wanted: JourneyConfig) -> None:
    """Raises BadInput for a setting that the stage could not follow."""
    free = {"seed", "learning", "simulation"}
    for name in JourneyConfig.model_fields:
        if name not in free and getattr(run, name) != getattr(wanted, name):
            raise BadInput(f"a short run plays in the worlds of its run: {name} cannot be set.")
    for name in ("budget_low", "budget_high"):
        if getattr(run.simulation, name) != getattr(wanted.simulation, name):
            raise BadInput(f"a short run plays in the worlds of its run: simulation.{name} cannot be set.")
