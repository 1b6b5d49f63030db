"""Tiny worlds with answers known by hand, in the real widths of observation and action."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from gaelp.core.episode import SOURCES, End, EpisodeBatch, Provenance, Source
from gaelp.core.schema import Schema, default_schema
from gaelp.learn import ppo
from gaelp.learn.engine import RLTrainingEngine
from gaelp.learn.metrics import TrainingMetrics
from gaelp.learn.policies import Policy, act, act_mode
from gaelp.learn.verify import Canaries, Canary

SCHEMA: Schema = default_schema()
PACE = np.repeat(np.array(SCHEMA.pace_levels, np.float32), len(SCHEMA.tilt_levels))
"""The pace level of each joint move, -0.5 to 0.35."""
STEPS = 2
HIDDEN = 1
CONTEXTS = 16

Step = Callable[[NDArray[np.int32], NDArray[np.int32]], NDArray[np.float32]]
"""context [B] in 0..15, actions [B,STEPS] -> rewards [B,STEPS]."""


def sign(context: NDArray[np.int32]) -> NDArray[np.float32]:
    """1 in even contexts, -1 in odd ones: which way the pace should go."""
    return np.where(context % 2 == 0, 1.0, -1.0).astype(np.float32)


def bandit(context: NDArray[np.int32], action: NDArray[np.int32]) -> NDArray[np.float32]:
    """Both steps pay sign x pace level: raise the pace in even contexts, lower it in odd ones.

    Best constant: 0. Best answer: 0.35 in even contexts and 0.5 in odd ones, 0.425 a step.
    """
    return sign(context)[:, None] * PACE[action]


def priced(context: NDArray[np.int32], action: NDArray[np.int32]) -> NDArray[np.float32]:
    """The bandit, where leaving the pacer costs twice the square of the pace level, as it does in a market.

    Best answer: 0.2 - 0.08 in even contexts and the same in odd ones, 0.12 a step. A policy that moves at
    random loses, so luck rarely looks like learning.
    """
    return bandit(context, action) - 2 * PACE[action] ** 2


def delayed(context: NDArray[np.int32], action: NDArray[np.int32]) -> NDArray[np.float32]:
    """Only the second step pays, and by what the first one chose: sign x pace level of the first move."""
    paid = sign(context) * PACE[action[:, 0]]
    return np.stack([np.zeros_like(paid), paid], axis=1)


_act = jax.jit(act)
_mode = jax.jit(act_mode)


def observations(context: NDArray[np.int32]) -> NDArray[np.float32]:
    """[B, STEPS+1, O]: a one in the context's slot, the step in the slot after them, nothing else."""
    seen = np.zeros((len(context), STEPS + 1, SCHEMA.observation_size), np.float32)
    seen[np.arange(len(context)), :, context] = 1.0
    seen[:, :, CONTEXTS] = np.arange(STEPS + 1)
    return seen


def episodes(
    policy: Policy | None,
    rng: np.random.Generator,
    *,
    count: int = 32,
    pays: Step = bandit,
    source: Source = Source.SIMULATED,
    actor_hash: str = "unnamed",
) -> EpisodeBatch:
    """Play `count` episodes of a toy; without a policy the moves are uniform and logged as such."""
    context = rng.integers(0, CONTEXTS, count, dtype=np.int32)
    observation = observations(context)
    mask = np.ones((count, STEPS + 1, SCHEMA.action_size), np.bool_)
    if policy is None:
        action = rng.integers(0, SCHEMA.action_size, (count, STEPS), dtype=np.int32)
        log_prob = np.full((count, STEPS), -np.log(SCHEMA.action_size), np.float32)
    else:
        # Always played for 32 worlds, so that the toy itself compiles once.
        width = 32 * (-(-count // 32))
        wide = np.zeros((width, STEPS, SCHEMA.observation_size), np.float32)
        wide[:count] = observation[:, :-1]
        key = jax.random.key(int(rng.integers(2**31)))
        chosen = _act(policy, wide, np.ones((width, STEPS, SCHEMA.action_size), np.bool_), key)
        action = np.asarray(chosen.action)[:count]
        log_prob = np.asarray(chosen.log_prob)[:count]
    end = np.full((count, STEPS), End.RUNNING, np.int8)
    end[:, -1] = End.TERMINATED
    nothing = np.zeros(count, np.float32)
    told = Provenance(
        source, "toy", "agent", "c", 0, actor_hash, "pacer", SCHEMA.hash, 1, "2026-01-01T00:00:00Z"
    )
    return EpisodeBatch(
        observation=observation,
        mask=mask,
        action=action,
        executed=PACE[action],
        log_prob=log_prob,
        reward=pays(context, action).astype(np.float32),
        end=end,
        valid=np.ones((count, STEPS), np.bool_),
        weight=np.ones(count, np.float32),
        segment=np.zeros((count, STEPS), np.int32),
        hidden=np.broadcast_to(sign(context)[:, None, None], (count, STEPS + 1, HIDDEN)).astype(np.float32),
        spend=nothing,
        value=nothing,
        impressions=nothing,
        clicks=nothing,
        conversions=nothing,
        score=nothing,
        matured=nothing,
        sources=np.full(count, SOURCES.index(source), np.int8),
        provenance=(told,),
    )


@dataclass(frozen=True)
class ToyEvaluator:
    """Scores 1 + the toy's mean reward; the context of a world is its seed's remainder by 16."""

    pays: Step
    seeds: NDArray[np.int64]

    def _context(self, seeds: NDArray[np.integer]) -> NDArray[np.int32]:
        return (seeds % CONTEXTS).astype(np.int32)

    def scores(self, policies: Policy, seeds: NDArray[np.integer]) -> NDArray[np.float64]:
        context = self._context(seeds)
        observation = jnp.asarray(observations(context)[:, :-1])
        mask = jnp.ones((*observation.shape[:2], SCHEMA.action_size), bool)
        moves = jax.vmap(lambda policy: act_mode(policy, observation, mask).action)(policies)
        return np.stack([1.0 + self.pays(context, np.asarray(move)).mean(axis=1) for move in moves])

    def reference(self, name: str, seeds: NDArray[np.integer]) -> NDArray[np.float64]:
        if name != "random":
            return np.ones(len(seeds))
        context = self._context(seeds)
        move = np.stack([np.random.default_rng(int(s)).integers(0, SCHEMA.action_size, STEPS) for s in seeds])
        return 1.0 + self.pays(context, move).mean(axis=1)


def evaluator(pays: Step = priced, n: int = 400) -> ToyEvaluator:
    return ToyEvaluator(pays, np.arange(10_000, 10_000 + n))


FOUND = Canaries(
    key="toys",
    results=(Canary(name="known", asks="taken as found", seeds=10, passed=10, needed=9, lowest=1.0),),
)
"""Canaries that are simply taken as found; test_probes.py runs real ones."""


def engine(seed: int = 7, judge: ToyEvaluator | None = None, **settings: object) -> RLTrainingEngine:
    """An engine for the toys, with rewards scaled to about unit size and a quick learning rate.

    Its shuffled twin has had no call yet, so it is the untrained agent."""
    config = replace(ppo.PPOConfig(learning_rate=3e-3, reward_scale=2.0), **settings)
    learner = RLTrainingEngine(
        config, SCHEMA, seed=seed, evaluator=judge, canaries=FOUND, hidden_width=HIDDEN
    )
    learner.mark_twin(learner.policy)
    return learner


def train(learner: RLTrainingEngine, batch: EpisodeBatch, **how: object) -> TrainingMetrics:
    """One awaited call with minibatches of 16; one batch size for all toys, so one compilation."""
    return asyncio.run(learner.train_step(episode_results=batch, **({"batch_size": 16} | how)))


def practise(
    learner: RLTrainingEngine, calls: int, rng: np.random.Generator, *, pays: Step = bandit
) -> list[TrainingMetrics]:
    """On-policy training: play 32 episodes with the learner's own weights, train, repeat."""
    return [
        train(learner, episodes(learner.policy, rng, pays=pays, actor_hash=learner.actor_hash()))
        for _ in range(calls)
    ]


def mode_reward(policy: Policy, pays: Step) -> float:
    """The mean reward per episode of the policy's mode, over all contexts alike."""
    context = np.arange(CONTEXTS, dtype=np.int32)
    mask = np.ones((CONTEXTS, STEPS, SCHEMA.action_size), np.bool_)
    return float(
        pays(context, np.asarray(_mode(policy, observations(context)[:, :-1], mask).action))
        .sum(axis=1)
        .mean()
    )
