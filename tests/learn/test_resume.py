"""Exact resume: what is saved is everything, and a run taken up elsewhere goes on to the bit as if never interrupted."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gaelp.core.episode import OUTCOMES, SOURCES, End, EpisodeBatch, Provenance, Source
from gaelp.core.errors import BadInput, ShapeError, StoreError
from gaelp.core.schema import Actions, TaskSchema
from gaelp.learn.dqn import DQNConfig, Sampling
from gaelp.learn.engine import RLTrainingEngine
from gaelp.learn.export import ExportedPolicy, hash_of
from gaelp.learn.ppo import PPOConfig, Statistics
from gaelp.learn.sac import SACConfig
from gaelp.store import checkpoints

B, T, O, A = 6, 3, 4, 3
MOVES = TaskSchema("moves", O, A, Actions.MOVES)
RESIDUALS = TaskSchema("residuals", O, A, Actions.RESIDUALS, bound=0.5)
REMEMBERED = {"hidden": (4,), "replay_size": 45, "replay_steps": T}
"""Fifteen rows of three: with six episodes a call the ring is full, and goes round, in the third call."""
WHO = {
    # Schedules, an entropy that is held, and statistics that run: all of it is state.
    "ppo moves": (
        PPOConfig(hidden=(4,), statistics=Statistics.RUNNING, entropy_target=0.7, learning_rate_final=1e-4,
                  anneal_updates=40),
        MOVES,
    ),
    "ppo residuals": (PPOConfig(hidden=(4,)), RESIDUALS),
    # Prioritised, two steps ahead, a hard copy of the network every seven steps.
    "dqn": (
        DQNConfig(**REMEMBERED, sampling=Sampling.PRIORITISED, n_step=2, target_every=7, tau=1.0,
                  epsilon_transitions=100),
        MOVES,
    ),
    "sac moves": (SACConfig(**REMEMBERED), MOVES),
    "sac residuals": (SACConfig(**REMEMBERED, n_step=2), RESIDUALS),
}  # fmt: skip


def fresh(who: str, seed: int = 7) -> RLTrainingEngine:
    config, schema = WHO[who]
    return RLTrainingEngine(config, schema, who.split()[0], seed=seed)


def played(engine: RLTrainingEngine, call: int) -> EpisodeBatch:
    """Episodes number `call` as these weights play them: a difference of one bit in the weights shows in the next batch."""
    rng = np.random.default_rng(call)
    schema, policy = engine.schema, ExportedPolicy.from_arrays(engine.weights())
    observation = rng.normal(0, 1, (B, T + 1, O)).astype(np.float32)
    mask = np.ones((B, T + 1, A), bool)
    mask[:, :, call % A] = False
    flat, allowed = observation[:, :T].reshape(-1, O), mask[:, :T].reshape(-1, A)
    if schema.actions is Actions.MOVES:
        noise = rng.random(B * T).astype(np.float32)
    else:
        noise = rng.normal(0, 1, (B * T, A)).astype(np.float32)
    told = [policy.act(o, m, n) for o, m, n in zip(flat, allowed, noise, strict=True)]
    action = np.stack([t.action for t in told])
    log_prob = np.array([t.log_prob for t in told], np.float32)
    worth = (action == 1) if schema.actions is Actions.MOVES else -(action**2).sum(axis=-1)
    end = np.full((B, T), End.RUNNING, np.int8)
    end[:, -1] = [End.TERMINATED, End.TRUNCATED] * (B // 2)
    origin = Provenance(
        Source.SIMULATED, "toy", "agent", "c", 0, engine.actor_hash(), "none", schema.hash, call, "now"
    )
    return EpisodeBatch(
        observation=observation,
        mask=mask,
        action=action.reshape(B, T, *action.shape[1:]),
        executed=np.zeros((B, T), np.float32),
        log_prob=log_prob.reshape(B, T),
        reward=worth.reshape(B, T).astype(np.float32),
        end=end,
        valid=np.ones((B, T), bool),
        weight=rng.uniform(0.5, 1.5, B).astype(np.float32),
        segment=np.zeros((B, T), np.int32),
        hidden=np.zeros((B, T + 1, 0), np.float32),
        **{name: np.zeros(B) for name in OUTCOMES},
        sources=np.full(B, SOURCES.index(Source.SIMULATED), np.int8),
        provenance=(origin,),
    )


def went_on(engine: RLTrainingEngine, first: int, calls: int) -> str:
    """Play and train, `calls` times; all metrics and the hash of everything that is left, as text."""
    told = [
        asyncio.run(
            engine.train_step(episode_results=played(engine, k), batch_size=4, num_epochs=2)
        ).payload()
        for k in range(first, first + calls)
    ]
    return json.dumps([told, hash_of(engine.save_state())], sort_keys=True)


@pytest.mark.parametrize("who", WHO)
def test_a_run_taken_up_by_a_new_engine_goes_on_to_the_bit(who, tmp_path: Path):
    undisturbed = fresh(who)
    went_on(undisturbed, 0, 3)
    undisturbed.mark_promoted(undisturbed.policy)
    saved = checkpoints.save(tmp_path, undisturbed.save_state(), {"step": 3})
    taken_up = fresh(who, seed=99)
    assert taken_up.actor_hash() != undisturbed.actor_hash()
    taken_up.load_state(checkpoints.load(tmp_path, saved).arrays)
    assert hash_of(taken_up.save_state()) == hash_of(undisturbed.save_state())
    assert went_on(taken_up, 3, 3) == went_on(undisturbed, 3, 3)


def test_a_run_taken_up_by_a_new_process_goes_on_to_the_bit(tmp_path: Path):
    code = (
        "import pathlib, sys\n"
        "from tests.learn.test_resume import fresh, went_on\n"
        "from gaelp.store import checkpoints\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "for told in sys.argv[2:]:\n"
        "    who, saved = told.split('=')\n"
        "    engine = fresh(who, seed=99)\n"
        "    engine.load_state(checkpoints.load(here, saved).arrays)\n"
        "    (here / who).write_text(went_on(engine, 2, 2))\n"
    )
    engines = {who: fresh(who) for who in ("ppo moves", "dqn", "sac residuals")}
    for engine in engines.values():
        went_on(engine, 0, 2)
    told = [f"{who}={checkpoints.save(tmp_path, e.save_state(), {})}" for who, e in engines.items()]
    command = [sys.executable, "-c", code, str(tmp_path), *told]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    for who, engine in engines.items():
        assert (tmp_path / who).read_text() == went_on(engine, 2, 2)


CARRIED = {
    "ppo moves": ["agent.actor.0.weight", "optimiser.mu", "optimiser.nu", "optimiser.count", "key", "updates",
                  "entropy_coef", "observed.mean", "returned.squares", "normaliser.observation.mean"],
    "dqn": ["agent.q.trunk.0.weight", "target.trunk.0.weight", "optimiser.mu", "key", "updates", "epsilon", "seen",
            "replay.reward", "replay.priority", "replay.largest", "replay.cursor", "replay.weight"],
    "sac residuals": ["agent.critic.0.weight", "agent.log_temperature", "target.0.weight", "optimiser.nu", "key",
                      "replay.action", "replay.log_prob", "replay.end", "replay.valid", "bound"],
}  # fmt: skip


@pytest.mark.parametrize("who", CARRIED)
def test_nothing_that_is_saved_is_idle(who):
    # Each part altered alone must leave another state two calls later: or it would not have been needed.
    engine = fresh(who)
    went_on(engine, 0, 2)
    saved = engine.save_state()
    truth = went_on(engine, 2, 2)
    for name in CARRIED[who]:
        array = saved[f"state.{name}"]
        altered = fresh(who)
        # A bound only shrinks: beyond the schema's own the played actions would be refused before they could train.
        changed = (
            array / 2 if name == "bound" else ~array if array.dtype == bool else array + array.dtype.type(1)
        )
        altered.load_state(saved | {f"state.{name}": changed})
        assert went_on(altered, 2, 2) != truth, name
        # And untouched it is the same again, so the difference is this array's.
    again = fresh(who)
    again.load_state(saved)
    assert went_on(again, 2, 2) == truth


@pytest.mark.parametrize("who", WHO)
def test_the_memory_its_copies_and_all_keys_are_among_what_is_saved(who):
    names = set(fresh(who).save_state())
    wanted = {"state.key", "state.updates", "state.calls", "state.optimiser.mu", "state.optimiser.nu",
              "state.optimiser.count", "trail", "schema_hash"}  # fmt: skip
    if who.split()[0] != "ppo":
        wanted |= {
            f"state.replay.{part}" for part in ("observation", "action", "reward", "end", "valid", "cursor")
        }
        assert any(name.startswith("state.target.") for name in names)
    assert wanted <= names


@pytest.mark.parametrize("who", ["ppo moves", "dqn", "sac residuals"])
def test_a_state_with_a_part_missing_or_of_another_shape_is_refused_and_nothing_is_taken(who):
    engine = fresh(who)
    saved, before = engine.save_state(), hash_of(engine.save_state())
    for name in saved:
        if not name.startswith("promoted."):
            with pytest.raises((ShapeError, BadInput)):
                fresh(who, seed=8).load_state({n: a for n, a in saved.items() if n != name})
    other = fresh(who, seed=8)
    kept = hash_of(other.save_state())
    with pytest.raises(ShapeError, match=r"state|optimiser\.mu"):
        other.load_state(saved | {"state.optimiser.mu": saved["state.optimiser.mu"][1:]})
    with pytest.raises(BadInput, match="of schema"):
        other.load_state(saved | {"schema_hash": np.frombuffer(b"another", np.uint8)})
    assert hash_of(other.save_state()) == kept != before


def test_a_damaged_checkpoint_is_refused_and_the_sound_one_before_it_resumes_by_its_name(tmp_path: Path):
    engine, lineage = fresh("ppo residuals"), []
    for call in range(3):
        went_on(engine, call, 1)
        lineage.append(checkpoints.save(tmp_path, engine.save_state(), {"call": call}))
    arrays = tmp_path / lineage[2] / checkpoints.ARRAYS_FILE
    arrays.write_bytes(arrays.read_bytes()[:-100])
    with pytest.raises(
        StoreError, match=f"altered or truncated.*before it is sound: {lineage[1]}"
    ) as refusal:
        checkpoints.load(tmp_path, lineage[2], lineage)
    offered = str(refusal.value).rsplit(" ", 1)[1].rstrip(".")
    back = fresh("ppo residuals", seed=5)
    back.load_state(checkpoints.load(tmp_path, offered, lineage).arrays)
    assert int(back.state.calls) == 2
    went_on(back, 2, 1)
    assert hash_of(back.save_state()) == hash_of(engine.save_state())


@pytest.mark.parametrize("who", WHO)
def test_a_snapshot_tells_norms_and_distance_and_stands_still_while_training_goes_on(who):
    engine = fresh(who)
    start = engine.snapshot()
    metrics = asyncio.run(engine.train_step(episode_results=played(engine, 0), batch_size=4, num_epochs=1))
    end = engine.snapshot()
    assert (start.step, end.step) == (0, metrics.updates)
    assert (start.hash, end.hash) == (metrics.weights_hash_before, metrics.weights_hash_after)
    assert end.distance(end) == 0.0
    assert end.distance(start) == start.distance(end) > 0
    for name, array in engine.weights().items():
        assert end.norms[name] == pytest.approx(np.linalg.norm(array.astype(np.float64)))
    # What the metrics say of each tensor is how far these two snapshots are apart in it.
    for name, change in metrics.weight_change_by_tensor.items():
        assert change.absolute == pytest.approx(
            np.linalg.norm(end.arrays[name] - start.arrays[name]), rel=1e-3, abs=1e-7
        )
    wider = RLTrainingEngine(replace(WHO[who][0], hidden=(5,)), WHO[who][1], who.split()[0])
    with pytest.raises(ShapeError, match="different shapes"):
        end.distance(wider.snapshot())
