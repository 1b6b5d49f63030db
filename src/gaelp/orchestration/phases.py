"""The four phases as frozen data: what each trains on, how often, what judges it, and what money it may touch."""

from __future__ import annotations

from dataclasses import dataclass

from gaelp.core.config import Cadence, JourneyConfig, LogJourneyConfig

SIMULATION, HISTORICAL, REAL_TESTING, SCALED = "simulation", "historical", "real_testing", "scaled"
PHASE_NAMES = (SIMULATION, HISTORICAL, REAL_TESTING, SCALED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase: its cadence and, in words that plan and report show, where it plays and what judges it."""

    name: str
    train_every: int
    batch_size: int
    num_epochs: int
    plays_in: str
    judged_on: str
    gates: tuple[str, ...]
    guards: tuple[str, ...]
    live: bool


def phases_of(config: JourneyConfig) -> tuple[Phase, ...]:
    """The four phases of a journey, in order."""

    def phase(
        name: str,
        cadence: Cadence,
        plays_in: str,
        judged_on: str,
        gates: tuple[str, ...],
        guards: tuple[str, ...],
    ) -> Phase:
        return Phase(
            name=name, train_every=cadence.train_every, batch_size=cadence.batch_size, num_epochs=cadence.num_epochs,
            plays_in=plays_in, judged_on=judged_on, gates=gates, guards=guards, live=bool(guards),
        )  # fmt: skip

    guards = ("may_reserve", "not_halted", "bid_within_bounds", "spend_velocity", "books_balance")
    return (
        phase(
            SIMULATION,
            config.simulation,
            "worlds fitted on training days",
            "worlds fitted on selection days",
            ("fidelity_gate", "simulation_gate", "promotion_gate"),
            (),
        ),
        phase(
            HISTORICAL,
            config.historical,
            "the logged episodes of the training days, off-policy",
            "certification days by PDIS; the candidate in the selection worlds",
            ("historical_gate", "promotion_gate"),
            (),
        ),
        phase(
            REAL_TESTING,
            config.real_testing,
            "the platform: shadow days, then a small budget beside a control arm",
            "control arm (statistics wait in this version); candidates in the selection worlds",
            ("live_gate", "promotion_gate"),
            guards,
        ),
        phase(
            SCALED,
            config.scaled,
            "the platform, ramped step by step",
            "days played, guards, learning verified after each call, grant",
            ("ramp_step_gate", "promotion_gate"),
            guards,
        ),
    )


def log_phases_of(config: LogJourneyConfig) -> tuple[Phase, Phase]:
    """The two phases of a journey on an auction log: no platform, so no guards and no money."""
    simulation, replay = config.simulation, config.historical
    return (
        Phase(
            name=SIMULATION, train_every=simulation.train_every, batch_size=simulation.batch_size,
            num_epochs=simulation.num_epochs, plays_in="worlds fitted on the training part of the log",
            judged_on="worlds fitted on its selection part",
            gates=("fidelity_gate", "simulation_gate", "promotion_gate"), guards=(), live=False,
        ),
        Phase(
            name=HISTORICAL, train_every=replay.train_every, batch_size=replay.batch_size,
            num_epochs=replay.num_epochs,
            plays_in=f"exact replay of the training episodes, {replay.passes} times over",
            judged_on="exact replay of the later certification episodes; the candidate in the selection worlds",
            gates=("replay_gate", "promotion_gate"), guards=(), live=False,
        ),
    )  # fmt: skip
