"""Short runs and verification again, on worlds fitted from a real history of the sandbox."""

from __future__ import annotations

import asyncio
import shutil
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from tests.platforms.in_process import open_sandbox

from gaelp.audit.controls import negative_controls
from gaelp.core.config import override
from gaelp.core.errors import BadInput
from gaelp.learn.verify import Depth
from gaelp.orchestration.account import prepare
from gaelp.orchestration.live import LiveMarket
from gaelp.orchestration.opening import open_engine, practise, reread
from gaelp.orchestration.reverify import reverify
from gaelp.orchestration.run import Run, begin_run
from gaelp.orchestration.short import Stage, set_stage, short_run
from gaelp.platforms.sandbox.world import Settings
from gaelp.safety.guards import GuardBounds

SHORTENED = ["simulation.judging_worlds=2048", "simulation.episodes=4800"]


def begun(home: Path) -> Run:
    demo = tomllib.loads((resources.files("gaelp.cli") / "demo.toml").read_text(encoding="utf-8"))
    return begin_run(home, override(demo, SHORTENED), "the demo", "demo")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run whose history has been played, exported and fitted, and nothing more."""
    run = begun(tmp_path_factory.mktemp("home"))
    sandbox = open_sandbox(
        run.directory / "sandbox.db", Settings(seed=run.config.seed, markets=run.config.platform.markets)
    )
    most = float(run.config.platform.max_bid)
    bounds = GuardBounds(max_bid=most, max_raise_ratio=1e9, max_velocity_ratio=1.5)
    prepare(
        run, sandbox.platform, LiveMarket(sandbox.platform, run.schema, bounds, run.config.seed, run.halted)
    )
    yield run
    sandbox.close()
    run.store.close()


@pytest.fixture(scope="module")
def stage(prepared: Run) -> Stage:
    return set_stage(prepared)


async def trained(run: Run, stage: Stage, calls: int) -> dict[str, object]:
    """A few calls of the simulation phase with their checkpoint, and the judgement that the log then holds."""
    engine = open_engine(run.config, run.schema, stage.practice, stage.judging)
    for call in range(calls):
        batch = practise(
            stage.practice, run.config.seed, "simulation", call, 32, engine.policy, engine.actor_hash()
        )
        await engine.train_step(episode_results=batch)
    saved = run.save(engine.save_state(), {"what": "checkpoint"})
    run.append("checkpoint", {"phase": "simulation", "checkpoint": saved, "calls": calls})
    verdict = await engine.verify_learning(Depth.FULL)
    told = {
        "phase": "simulation",
        "depth": "full",
        "call": calls,
        "actor_hash": engine.actor_hash(),
        **verdict.payload(),
    }
    run.append("judged", told)
    return told


def test_a_run_without_worlds_has_nothing_to_repeat(tmp_path: Path) -> None:
    run = begun(tmp_path)
    with pytest.raises(BadInput, match="has no fitted worlds yet"):
        set_stage(run)
    with pytest.raises(BadInput, match="has no checkpoint yet"):
        asyncio.run(reverify(run))
    run.store.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "named"), [("history.keep=0.4", "history"), ("simulation.budget_low=4", "budget_low")]
)
def test_a_short_run_cannot_change_the_worlds_it_plays_in(stage: Stage, setting: str, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        asyncio.run(short_run(stage, [setting], calls=1))


@pytest.mark.slow
def test_the_same_short_run_gives_the_same_verdict_and_writes_no_event(prepared: Run, stage: Stage) -> None:
    head = prepared.store.head_hash(prepared.run_id)
    first, second = (asyncio.run(short_run(stage, ["seed=3"], calls=5)) for _ in range(2))
    assert first == second
    assert first["evidence"]["calls"] == 5  # type: ignore[index]
    assert prepared.store.head_hash(prepared.run_id) == head


@pytest.mark.slow
def test_a_changed_history_is_noticed_before_anything_is_judged(prepared: Run, tmp_path: Path) -> None:
    hours = prepared.directory / "history" / "hours.csv"
    kept = shutil.copy(hours, tmp_path / "hours.csv")
    header, *lines = hours.read_text(encoding="utf-8").splitlines()
    where = header.split(",").index("clicks")
    # One click more in each half hour of the first campaign-days that had fewer clicks than impressions.
    more = [line.split(",") for line in lines[:480]]
    shown = header.split(",").index("impressions")
    for cells in more:
        cells[where] = str(min(int(cells[where]) + 1, int(cells[shown])))
    hours.write_text(
        "\n".join([header, *(",".join(cells) for cells in more), *lines[480:]]) + "\n", encoding="utf-8"
    )
    with pytest.raises(BadInput, match="the log says"):
        reread(prepared)
    shutil.copy(kept, hours)
    reread(prepared)


@pytest.mark.slow
def test_verification_repeats_the_judgement_of_the_log_to_the_last_digit(prepared: Run, stage: Stage) -> None:
    told = asyncio.run(trained(prepared, stage, 10))
    head = prepared.store.head_hash(prepared.run_id)
    first, second = (asyncio.run(reverify(prepared)) for _ in range(2))
    assert first.same
    assert first.payload() == second.payload()
    assert (first.actor_hash, first.verdict.payload()["verdict"]) == (told["actor_hash"], told["verdict"])
    assert prepared.store.head_hash(prepared.run_id) == head
    prepared.append("judged", {**told, "reason": "it was a fine day."})
    spoilt = asyncio.run(reverify(prepared))
    assert not spoilt.same
    assert len(spoilt.differs) == 1
    assert "and was 'it was a fine day.'" in spoilt.differs[0]


@pytest.mark.slow
def test_over_20_seeds_rate_0_is_always_broken_honest_always_learns_and_shuffled_learns_at_most_once(
    stage: Stage,
) -> None:
    results = asyncio.run(negative_controls(lambda overrides: short_run(stage, overrides), range(20)))
    told = {result.name: result for result in results}
    assert [result.said for result in results if not result.ok] == []
    assert told["learning_rate_0"].verdicts == ("BROKEN",) * 20
    assert np.array([verdict == "LEARNING" for verdict in told["shuffled_rewards"].verdicts]).sum() <= 1
