"""Whatever no gradient may be taken from is refused by field and episode, and the engine stays as it was, to the bit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaelp.core.episode import ARRAY_FIELDS, OUTCOMES, SOURCES, End, EpisodeBatch, Provenance, Source, select
from gaelp.core.errors import UnusableBatch
from gaelp.core.schema import Actions, TaskSchema
from gaelp.learn.dqn import DQNConfig
from gaelp.learn.engine import RLTrainingEngine
from gaelp.learn.export import hash_of
from gaelp.learn.ppo import PPOConfig
from gaelp.learn.sac import SACConfig

B, T, O, A, H = 5, 3, 4, 3, 1
MOVES = TaskSchema("moves", O, A, Actions.MOVES)
RESIDUALS = TaskSchema("residuals", O, A, Actions.RESIDUALS, bound=0.5)
CONFIGS = {
    "ppo": PPOConfig(hidden=(4,), min_ess=0.0),
    "dqn": DQNConfig(hidden=(4,), replay_size=30, replay_steps=T),
    "sac": SACConfig(hidden=(4,), replay_size=30, replay_steps=T),
}
WHO = [("ppo", MOVES), ("dqn", MOVES), ("sac", MOVES), ("ppo", RESIDUALS), ("sac", RESIDUALS)]


def engine(algorithm: str, schema: TaskSchema, seed: int = 7) -> RLTrainingEngine:
    return RLTrainingEngine(CONFIGS[algorithm], schema, algorithm, seed=seed, hidden_width=H)


def sound(schema: TaskSchema) -> EpisodeBatch:
    """Five episodes of three decisions; the last decision of the first two is padding."""
    rng = np.random.default_rng(3)
    mask = np.ones((B, T + 1, A), bool)
    mask[:, :, A - 1] = False
    action = rng.integers(0, A - 1, (B, T)).astype(np.int32)
    log_prob = np.full((B, T), np.log(0.5), np.float32)
    if schema.actions is Actions.RESIDUALS:
        action = (rng.uniform(-0.4, 0.4, (B, T, A)) * mask[:, :T]).astype(np.float32)
        # Uniform over the square of side 1 around 0: a density of 1.
        log_prob = np.zeros((B, T), np.float32)
    valid = np.ones((B, T), bool)
    valid[:2, 2] = False
    end = np.full((B, T), End.RUNNING, np.int8)
    end[:2, 1], end[2:, 2] = End.TRUNCATED, End.TERMINATED
    told = Provenance(Source.SIMULATED, "toy", "agent", "c", 0, "somebody", "none", schema.hash, 1, "now")
    return EpisodeBatch(
        observation=rng.normal(0, 1, (B, T + 1, O)).astype(np.float32),
        mask=mask,
        action=action,
        executed=np.zeros((B, T), np.float32),
        log_prob=log_prob,
        reward=rng.normal(0, 1, (B, T)).astype(np.float32),
        end=end,
        valid=valid,
        weight=np.ones(B, np.float32),
        segment=np.zeros((B, T), np.int32),
        hidden=rng.normal(0, 1, (B, T + 1, H)).astype(np.float32),
        **{name: np.zeros(B) for name in OUTCOMES},
        sources=np.full(B, SOURCES.index(Source.SIMULATED), np.int8),
        provenance=(told,),
    )


@dataclass(frozen=True)
class Spoilt:
    """A batch with one thing wrong, and what the refusal must say."""

    batch: EpisodeBatch
    says: str


def put(batch: EpisodeBatch, name: str, where: tuple[int, ...], value: object) -> EpisodeBatch:
    array = np.array(getattr(batch, name))
    array[where] = value
    return replace(batch, **{name: array})


NOT_FINITE = st.sampled_from([np.nan, np.inf, -np.inf])
NOT_POSITIVE = st.sampled_from([0.0, -0.0, -1.0, np.nan, np.inf])


@st.composite
def spoilt(draw: st.DrawFn, schema: TaskSchema) -> Spoilt:
    """One number, array or record of a sound batch made wrong, anywhere that counts."""
    batch, moves = sound(schema), schema.actions is Actions.MOVES
    b = draw(st.integers(0, B - 1))
    t = draw(st.integers(0, 1 if b < 2 else 2))
    here = f"episode {b}, step {t} "
    ways = [
        "number",
        "state",
        "action",
        "log_prob",
        "mask",
        "end",
        "weight",
        "sources",
        "shape",
        "kind",
        "missing",
        "provenance",
    ]
    match draw(st.sampled_from(ways)):
        case "number":
            name = draw(st.sampled_from(["reward", "log_prob", "executed"]))
            return Spoilt(put(batch, name, (b, t), draw(NOT_FINITE)), f"{name}: {here}is not finite")
        case "state":
            name = draw(st.sampled_from(["observation", "hidden"]))
            return Spoilt(put(batch, name, (b, t, 0), draw(NOT_FINITE)), f"{name}: {here}is not finite")
        case "action" if moves:
            value = draw(st.sampled_from([-1, A, A - 1, 2**31 - 1, -(2**31)]))
            said = "is masked out" if value == A - 1 else "is outside the action space"
            return Spoilt(put(batch, "action", (b, t), value), f"action: {here}{said}")
        case "action":
            at, value = draw(st.sampled_from([(0, np.nan), (0, np.inf), (0, -np.inf), (A - 1, 0.1)]))
            said = "moves a residual that is masked out" if at else "is not finite"
            return Spoilt(put(batch, "action", (b, t, at), value), f"action: {here}{said}")
        case "log_prob" if moves:
            value = draw(st.sampled_from([1e-4, 0.5, 100.0, 1e30]))
            return Spoilt(put(batch, "log_prob", (b, t), value), f"log_prob: {here}is above 0")
        case "log_prob":
            return Spoilt(put(batch, "log_prob", (b, t), draw(NOT_FINITE)), f"log_prob: {here}is not finite")
        case "mask":
            return Spoilt(put(batch, "mask", (b, t), False), f"mask: {here}allows nothing")
        case "end":
            value = draw(st.sampled_from([-1, 3, 127, -128]))
            return Spoilt(put(batch, "end", (b, t), value), f"end: {here}is no End")
        case "weight":
            said = f"weight: episode {b} is not a positive number"
            return Spoilt(put(batch, "weight", (b,), draw(NOT_POSITIVE)), said)
        case "sources":
            value = draw(st.sampled_from([-1, len(SOURCES), 127]))
            return Spoilt(put(batch, "sources", (b,), value), f"sources: episode {b} is of no known source")
        case "shape":
            name = draw(st.sampled_from([n for n in ARRAY_FIELDS if n != "reward"]))
            array = getattr(batch, name)
            cut = draw(st.sampled_from([a for a in range(array.ndim) if name != "hidden" or a < 2]))
            return Spoilt(replace(batch, **{name: np.delete(array, 0, axis=cut)}), f"{name}: shape")
        case "kind":
            name, kind = draw(
                st.sampled_from(
                    [("mask", np.float32), ("valid", np.int8), ("end", np.float32), ("reward", np.complex64)]
                )
            )
            return Spoilt(replace(batch, **{name: getattr(batch, name).astype(kind)}), f"{name}: an array of")
        case "missing":
            return Spoilt(replace(batch, log_prob=None), "log_prob: missing")
        case _:
            count = draw(st.sampled_from([0, 2, B - 1, B + 1]))
            return Spoilt(
                replace(batch, provenance=batch.provenance * count), f"provenance: {count} given for {B}"
            )


@cache
def learner_of(algorithm: str, schema: TaskSchema) -> RLTrainingEngine:
    """One of each for all examples: a refusal leaves it as it was, which every example proves anew."""
    return engine(algorithm, schema)


def refused(learner: RLTrainingEngine, spoiled: Spoilt) -> None:
    before = hash_of(learner.save_state())
    with pytest.raises(UnusableBatch, match="^" + spoiled.says):
        asyncio.run(learner.train_step(episode_results=spoiled.batch, batch_size=4, num_epochs=1))
    assert hash_of(learner.save_state()) == before


@pytest.mark.parametrize(("algorithm", "schema"), WHO)
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(told=st.data())
def test_a_batch_with_one_thing_wrong_is_refused_by_name_and_changes_nothing(algorithm, schema, told):
    refused(learner_of(algorithm, schema), told.draw(spoilt(schema)))


@pytest.mark.parametrize(("algorithm", "schema"), WHO)
def test_a_batch_of_nothing_is_refused(algorithm, schema):
    batch, learner = sound(schema), learner_of(algorithm, schema)
    refused(learner, Spoilt(select(batch, np.array([], np.intp)), "reward: no episodes in the batch"))
    nothing = replace(batch, valid=np.zeros_like(batch.valid))
    refused(learner, Spoilt(nothing, "valid: every transition of the batch is marked invalid"))


@pytest.mark.parametrize(("algorithm", "schema"), WHO)
def test_episodes_of_another_schema_are_refused_by_episode(algorithm, schema):
    batch, learner = sound(schema), learner_of(algorithm, schema)
    mixed = [*batch.provenance * (B - 1), replace(batch.provenance[0], schema_hash="0123")]
    refused(
        learner, Spoilt(replace(batch, provenance=tuple(mixed)), "provenance: episode 4 .* schema '0123'")
    )


@pytest.mark.parametrize(("algorithm", "schema"), WHO)
def test_moves_and_residuals_are_not_taken_for_each_other(algorithm, schema):
    other = RESIDUALS if schema is MOVES else MOVES
    batch = replace(sound(other), provenance=sound(schema).provenance)
    refused(learner_of(algorithm, schema), Spoilt(batch, "action: an array of"))


def test_a_residual_beyond_the_bound_is_refused_where_the_policy_cannot_reach_it():
    # SAC squashes into [-0.5, 0.5]. PPO's Gaussian does not: its raw action is logged, and the environment cuts it.
    batch = put(sound(RESIDUALS), "action", (2, 0, 0), 0.6)
    refused(
        learner_of("sac", RESIDUALS), Spoilt(batch, r"action: episode 2, step 0 is outside \[-0.5, 0.5\]")
    )
    asyncio.run(engine("ppo", RESIDUALS).train_step(episode_results=batch, batch_size=4, num_epochs=1))


@pytest.mark.parametrize(("algorithm", "schema"), WHO)
def test_rewards_too_large_to_count_with_are_refused_after_the_fact_and_nothing_is_remembered(
    algorithm, schema
):
    # Finite as they stand, infinite once squared. A memory that had kept them would spoil every later call.
    batch, learner = sound(schema), learner_of(algorithm, schema)
    refused(learner, Spoilt(put(batch, "reward", (2, 0), 3e38), "reward: .*infinite or NaN"))


@pytest.mark.parametrize(("algorithm", "schema"), WHO)
def test_what_stands_in_the_padding_is_nobodys_business(algorithm, schema):
    clean, wild = sound(schema), sound(schema)
    for name, value in (
        ("reward", np.nan),
        ("log_prob", np.inf),
        ("executed", np.nan),
        ("end", 99),
        ("segment", -5),
    ):
        wild = put(wild, name, (0, 2), value)
    wild = put(wild, "action", (0, 2), 10**6 if schema is MOVES else np.nan)
    for name in ("observation", "hidden"):
        wild = put(wild, name, (0, 3), np.nan)
    hashes = []
    for batch in (clean, wild):
        learner = engine(algorithm, schema)
        asyncio.run(learner.train_step(episode_results=batch, batch_size=4, num_epochs=1))
        hashes.append(hash_of(learner.weights()))
        assert all(np.isfinite(a).all() for a in learner.weights().values() if a.dtype.kind == "f")
    assert hashes[0] == hashes[1]
