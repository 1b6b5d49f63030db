"""The engine trains or says why not; what it saves is everything; what it exports acts the same."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from tests.learn import toys

from gaelp.core.episode import EpisodeBatch, Source, select
from gaelp.core.errors import BadInput, ShapeError, UnusableBatch
from gaelp.learn import ppo
from gaelp.learn.engine import RLTrainingEngine
from gaelp.learn.export import ExportedPolicy, hash_of
from gaelp.learn.metrics import WeightSnapshot


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def at(array: np.ndarray, value: float) -> np.ndarray:
    """A copy with `value` in its third episode, at its first step."""
    changed = array.copy()
    changed[2, 0] = value
    return changed


def elsewhere(batch: EpisodeBatch, **told: str) -> EpisodeBatch:
    return replace(batch, provenance=tuple(replace(p, **told) for p in batch.provenance))


BAD = {
    "an empty batch": (lambda b: select(b, np.array([], int)), "no episodes"),
    "nothing valid": (lambda b: replace(b, valid=np.zeros_like(b.valid)), "valid: every transition"),
    "a NaN reward": (lambda b: replace(b, reward=at(b.reward, np.nan)), "reward: episode 2, step 0"),
    "an infinite reward": (lambda b: replace(b, reward=at(b.reward, np.inf)), "reward: episode 2, step 0"),
    "a huge reward": (lambda b: replace(b, reward=at(b.reward, 3e38)), "infinite or NaN"),
    "a NaN observation": (lambda b: replace(b, observation=at(b.observation, np.nan)), "observation: episode 2"),
    "a missing log_prob": (lambda b: replace(b, log_prob=at(b.log_prob, np.nan)), "log_prob: episode 2, step 0"),
    "a log_prob above 0": (lambda b: replace(b, log_prob=at(b.log_prob, 0.5)), "log_prob: episode 2, step 0"),
    "an action outside": (lambda b: replace(b, action=at(b.action, 64)), "action: episode 2, step 0"),
    "a state that allows nothing": (lambda b: replace(b, mask=at(b.mask, False)), "mask: episode 2, step 0"),
    "a weight of zero": (lambda b: replace(b, weight=np.where(np.arange(32) == 2, 0.0, b.weight)), "weight: episode 2"),
    "a wrong shape": (lambda b: replace(b, end=b.end[:, :1]), "end: shape"),
    "another observation": (lambda b: replace(b, observation=b.observation[..., :200]), "observation: shape"),
    "another hidden width": (lambda b: replace(b, hidden=np.zeros((32, 3, 5), np.float32)), "hidden: width 5"),
    "another schema": (lambda b: elsewhere(b, schema_hash="0123"), "schema '0123'"),
    "provenance missing": (lambda b: replace(b, provenance=b.provenance * 3), "provenance: 3 given"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_batch_is_refused_by_name_and_leaves_the_state_as_it_was(what, rng):
    learner = toys.engine()
    spoil, message = BAD[what]
    before = hash_of(learner.save_state())
    with pytest.raises(UnusableBatch, match=message):
        toys.train(learner, spoil(toys.episodes(learner.policy, rng)))
    assert hash_of(learner.save_state()) == before


@pytest.mark.parametrize("how", [{"batch_size": 0}, {"num_epochs": 0}])
def test_a_call_of_no_steps_is_refused(how, rng):
    learner = toys.engine()
    with pytest.raises(BadInput, match="at least 1"):
        toys.train(learner, toys.episodes(None, rng), **how)


def test_an_unknown_algorithm_is_refused_by_name():
    with pytest.raises(BadInput, match="no algorithm 'magic'"):
        RLTrainingEngine(ppo.PPOConfig(), toys.SCHEMA, algorithm="magic")


def test_a_cancelled_call_changes_nothing(rng):
    learner = toys.engine()
    batch = toys.episodes(learner.policy, rng)
    before = learner.actor_hash()

    async def cancelled() -> None:
        task = asyncio.create_task(learner.train_step(episode_results=batch, batch_size=16))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert learner.actor_hash() == before
    assert learner.trail.calls == 0


def test_the_loop_stays_alive_while_a_call_computes(rng):
    learner = toys.engine()
    batch = toys.episodes(learner.policy, rng)

    async def both() -> int:
        task = asyncio.create_task(learner.train_step(episode_results=batch, batch_size=16))
        beats = 0
        while not task.done():
            beats += 1
            await asyncio.sleep(0)
        return beats

    assert asyncio.run(both()) > 3


def test_the_metrics_agree_with_the_weights(rng):
    learner = toys.engine()
    toys.practise(learner, 1, rng)
    before = learner.weights()
    metrics = toys.train(learner, toys.episodes(learner.policy, rng))
    after = learner.weights()
    moved = {name: np.linalg.norm(after[name] - before[name]) for name in metrics.weight_change_by_tensor}
    for name, change in metrics.weight_change_by_tensor.items():
        assert change.absolute == pytest.approx(moved[name], rel=1e-4)
        assert change.relative == pytest.approx(moved[name] / np.linalg.norm(before[name]), rel=1e-4)
    assert metrics.weight_change.absolute == pytest.approx(np.linalg.norm(list(moved.values())), rel=1e-4)
    assert metrics.weights_hash_after == hash_of(after)
    assert metrics.actor_hash_after == learner.actor_hash()
    assert 0 < metrics.min_update_change <= metrics.weight_change.absolute * 16


def test_clipping_bounds_the_norm_of_each_network(rng):
    # One step: 8 episodes of 2 transitions in one minibatch, once.
    batch = toys.episodes(None, rng, count=8)
    metrics = toys.train(toys.engine(max_grad_norm=0.01), batch, num_epochs=1)
    for network in ("actor.", "critic.", "privileged."):
        after = [norm for name, norm in metrics.gradient_norm_after.items() if name.startswith(network)]
        assert np.hypot.reduce(after) == pytest.approx(0.01, rel=1e-4)


def test_segment_shares_count_transitions_and_weight(rng):
    # Eight of 32 episodes are of segment 1 with weight 3: 25 % of transitions, 24/48 = 50 % of weight.
    batch = toys.episodes(None, rng)
    rare = np.arange(32) < 8
    batch = replace(
        batch,
        segment=np.repeat(rare[:, None], toys.STEPS, 1).astype(np.int32),
        weight=np.where(rare, 3.0, 1.0).astype(np.float32),
    )
    shares = toys.train(toys.engine(), batch).segment_shares
    assert (shares["1"].transitions, shares["1"].weighted) == (0.25, 0.5)


def test_seconds_are_no_part_of_the_reproducible_payload(rng):
    assert "seconds" not in toys.train(toys.engine(), toys.episodes(None, rng)).payload()


def test_two_engines_of_one_seed_are_bit_identical(rng):
    batches = [toys.episodes(None, rng) for _ in range(3)]
    one, two = toys.engine(), toys.engine()
    told = [[toys.train(learner, batch).payload() for batch in batches] for learner in (one, two)]
    assert told[0] == told[1]
    assert toys.engine(seed=8).actor_hash() != toys.engine(seed=7).actor_hash()


def test_what_is_saved_goes_on_bit_by_bit_the_same(rng):
    batches = [toys.episodes(None, rng) for _ in range(4)]
    undisturbed, restored = toys.engine(seed=7), toys.engine(seed=99)
    for batch in batches[:2]:
        toys.train(undisturbed, batch)
    undisturbed.mark_promoted(undisturbed.policy)
    restored.load_state(undisturbed.save_state())
    told = [
        [toys.train(learner, batch).payload() for batch in batches[2:]] for learner in (undisturbed, restored)
    ]
    assert told[0] == told[1]
    assert hash_of(restored.save_state()) == hash_of(undisturbed.save_state())


def test_a_damaged_state_is_refused_and_changes_nothing():
    saved, learner = toys.engine(seed=1).save_state(), toys.engine()
    before = learner.actor_hash()
    without = {name: array for name, array in saved.items() if name != "state.agent.critic.0.bias"}
    with pytest.raises(ShapeError, match=r"agent\.critic\.0\.bias"):
        learner.load_state(without)
    with pytest.raises(ShapeError, match=r"optimiser\.mu"):
        learner.load_state(saved | {"state.optimiser.mu": saved["state.optimiser.mu"][1:]})
    with pytest.raises(BadInput, match="of schema"):
        learner.load_state(saved | {"schema_hash": np.frombuffer(b"another", np.uint8)})
    assert learner.actor_hash() == before


def test_a_snapshot_measures_the_distance_to_another(rng):
    learner = toys.engine()
    start = learner.snapshot()
    metrics = toys.train(learner, toys.episodes(None, rng))
    assert learner.snapshot().distance(start) == pytest.approx(metrics.weight_change.absolute, rel=1e-4)
    assert learner.snapshot().step == metrics.updates
    # By hand: 3 and 4 apart make 5.
    one, two = (
        WeightSnapshot.of(0, {"a": np.array([x]), "b": np.array([y])}) for x, y in ((0.0, 0.0), (3.0, 4.0))
    )
    assert one.distance(two) == 5.0


def test_the_exported_policy_is_the_trained_policy(rng):
    learner = toys.engine()
    toys.practise(learner, 5, rng)
    exported = ExportedPolicy.from_arrays(learner.weights())
    assert exported.hash == learner.actor_hash()
    observation = rng.normal(0, 2, (256, toys.SCHEMA.observation_size)).astype(np.float32)
    mask = rng.random((256, toys.SCHEMA.action_size)) < 0.7
    mask[:, toys.SCHEMA.zero_move] = True
    log_probs = learner.policy.log_probs(observation, mask)
    np.testing.assert_allclose(exported.probabilities(observation, mask), np.exp(log_probs), atol=1e-6)
    np.testing.assert_array_equal(exported.mode(observation, mask), ppo.dist.mode(log_probs))
    uniform = rng.random(256).astype(np.float32)
    np.testing.assert_array_equal(
        exported.sample(observation, mask, uniform), ppo.dist.sample(log_probs, uniform)
    )


def test_the_exported_policy_needs_no_jax():
    code = "import sys, gaelp.learn.export, gaelp.learn.metrics; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_export_of_incomplete_weights_is_refused():
    weights = toys.engine().weights()
    del weights["actor.1.bias"]
    with pytest.raises(BadInput, match=r"actor\.1\.bias"):
        ExportedPolicy.from_arrays(weights)


def test_live_batches_need_no_hidden_truth(rng):
    batch = toys.episodes(None, rng, source=Source.LIVE)
    learner = toys.engine()
    toys.train(learner, replace(batch, hidden=np.zeros((32, toys.STEPS + 1, 0), np.float32)))
    assert jax.tree.all(jax.tree.map(lambda x: bool(np.isfinite(x).all()), learner.state.agent))


def test_compiled_programs_are_kept_on_disk(tmp_path):
    code = (
        "import pathlib, sys, jax\n"
        "from gaelp.learn.runtime import enable_compilation_cache\n"
        "enable_compilation_cache(pathlib.Path(sys.argv[1]) / 'made')\n"
        "jax.jit(lambda x: x * 2 + 1)(3.0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert list((tmp_path / "made").iterdir())
