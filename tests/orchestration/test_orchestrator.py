"""What a resumed orchestrator takes from its log: which batches were handed to training, and what was judged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.core.test_config import JOURNEY

from gaelp.core.episode import Source
from gaelp.core.errors import UnusableBatch
from gaelp.core.verdict import PASS, WAIT, Verdict
from gaelp.orchestration.orchestrator import TrainingOrchestrator
from gaelp.orchestration.phases import REAL_TESTING, SIMULATION
from gaelp.orchestration.run import STORE_FILE, Run, begin_run
from gaelp.safety.guards import GuardBounds
from gaelp.store.store import Store
from gaelp.store.transaction import Transaction

REFUSED = 1
"""The number of the batch that training refuses."""


class Died(BaseException):
    """The process is gone."""


class Mortal(Store):
    """A store whose process dies when the `nth` checkpoint has just been committed."""

    nth: int

    @contextmanager
    def transaction(self, run_id: str) -> Iterator[Transaction]:
        with Store.transaction(self, run_id) as tx:
            yield tx
        if len(list(self.events(run_id, ["checkpoint"]))) == self.nth:
            raise Died


@dataclass(frozen=True)
class Told:
    source: Source = Source.SIMULATED
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """As much of a batch as an event tells of it, and its world seeds."""

    seeds: tuple[int, ...]
    provenance: tuple[Told, ...] = (Told(),)
    score: np.ndarray = field(default_factory=lambda: np.ones(1))
    spend: np.ndarray = field(default_factory=lambda: np.ones(1))
    reward: np.ndarray = field(default_factory=lambda: np.ones((1, 1)))

    @property
    def episodes(self) -> int:
        return len(self.seeds)


class Practice:
    """Worlds that give back the seeds they were asked for."""

    def play(self, policy: object, seeds: np.ndarray, key: object, actor_hash: str) -> Batch:
        return Batch(tuple(int(s) for s in seeds))


@dataclass
class State:
    calls: int = 0


@dataclass
class Metrics:
    def payload(self) -> dict[str, Any]:
        return {"loss": 1.0}


@dataclass
class Engine:
    """Training that refuses batch number REFUSED, by its seeds, and remembers the others."""

    forbidden: tuple[int, ...]
    trained: list[tuple[int, ...]] = field(default_factory=list)
    state: State = field(default_factory=State)
    policy: object = None

    def actor_hash(self) -> str:
        return f"after {self.state.calls}"

    async def train_step(self, *, episode_results: Batch, **how: object) -> Metrics:
        if episode_results.seeds == self.forbidden:
            raise UnusableBatch("a test says so.")
        self.trained.append(episode_results.seeds)
        self.state.calls += 1
        return Metrics()

    def save_state(self) -> dict[str, np.ndarray]:
        return {"calls": np.array([self.state.calls])}


def entered(home: Path) -> Run:
    """A run whose simulation is four calls with a checkpoint after each, and already judged."""
    simulation = {**JOURNEY["simulation"], "episodes": 4 * 32, "checkpoint_every": 1}
    run = begin_run(home, {**JOURNEY, "simulation": simulation}, "here", "person")
    run.append("judged", {"phase": SIMULATION, "verdict": "LEARNING", "reason": "a test says so."})
    return run


def seeds_of(call: int) -> tuple[int, ...]:
    """World seeds of a simulation call of seed 7: 7 x 2**17 + 256 a call."""
    return tuple(7 * 131072 + call * 256 + k for k in range(32))


def simulated(run: Run, engine: Engine) -> None:
    orchestrator = TrainingOrchestrator(run, platform=None)  # type: ignore[arg-type]
    orchestrator.learner.engine, orchestrator.learner.practice = engine, Practice()  # type: ignore[assignment]
    faithful = Verdict(PASS, "fidelity_gate", "a test says so.")
    orchestrator.prepared = SimpleNamespace(fidelity=faithful)  # type: ignore[assignment]
    verdict = asyncio.run(orchestrator.simulation(orchestrator.phases[SIMULATION]))
    assert verdict.ruling is PASS


@pytest.mark.parametrize("nth", [2, 3])
def test_a_refused_batch_shifts_no_seed_when_the_run_is_killed_after_it(tmp_path: Path, nth: int) -> None:
    undisturbed = Engine(seeds_of(REFUSED))
    run = entered(tmp_path / "undisturbed")
    simulated(run, undisturbed)
    assert undisturbed.trained == [seeds_of(0), seeds_of(2), seeds_of(3)]

    killed = entered(tmp_path / "killed")
    mortal = Mortal.open(tmp_path / "killed" / STORE_FILE)
    mortal.nth = nth
    before, after = Engine(seeds_of(REFUSED)), Engine(seeds_of(REFUSED))
    with pytest.raises(Died):
        simulated(replace(killed, store=mortal), before)
    after.state.calls = before.state.calls
    simulated(killed, after)
    assert before.trained + after.trained == undisturbed.trained
    assert [(e.kind, e.payload) for e in killed.store.events(killed.run_id)] == [
        (e.kind, e.payload) for e in run.store.events(run.run_id)
    ]
    mortal.close()


def test_every_guard_bound_of_the_configuration_stands_before_live_bids(tmp_path: Path) -> None:
    guards = {"max_raise_ratio": 3.0, "max_velocity_ratio": 1.2}
    run = begin_run(tmp_path, {**JOURNEY, "guards": guards}, "here", "person")
    orchestrator = TrainingOrchestrator(run, platform=None)  # type: ignore[arg-type]
    bounds = GuardBounds(max_bid=2_000_000.0, **guards)
    assert (orchestrator.bounds, orchestrator.live.bounds) == (bounds, bounds)


def test_a_live_phase_is_judged_in_full_once_and_a_resumed_run_takes_what_the_log_holds(
    tmp_path: Path,
) -> None:
    run = entered(tmp_path)
    told = {"phase": REAL_TESTING, "depth": "full", "verdict": "INCONCLUSIVE", "reason": "too few worlds."}
    run.append("judged", told)
    orchestrator = TrainingOrchestrator(run, platform=None)  # type: ignore[arg-type]
    # It has no engine: to judge again would be an error.
    verdict = asyncio.run(orchestrator.learner.judge(orchestrator.phases[REAL_TESTING]))
    assert (verdict.ruling, verdict.reason) == (WAIT, "too few worlds.")
    assert [e.payload for e in run.store.events(run.run_id, ["judged"])][1:] == [told]
