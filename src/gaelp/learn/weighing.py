"""Judging many agents at once in a world of tables: what an engine and its evaluator do for one, for stacks of them.

The canaries and the saboteur suite judge with it; the ruling itself is `verify.judge_learning`, as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from gaelp.core.episode import End
from gaelp.core.schema import TaskSchema
from gaelp.learn import tabular
from gaelp.learn.algorithm import Algorithm
from gaelp.learn.experience import PER_TENSOR
from gaelp.learn.export import hash_of
from gaelp.learn.health import Vitals
from gaelp.learn.networks import named_arrays, with_named_arrays
from gaelp.learn.policies import Policy, policy_arrays
from gaelp.learn.tabular import Trained, World
from gaelp.learn.verify import Trail, Trials, random_walks


@dataclass(frozen=True)
class Contest:
    """Where agents are compared: a world in which every move is allowed, and the steps of an episode."""

    schema: TaskSchema
    world: World
    steps: int


def lane(stacked: Any, i: int) -> Any:
    """The i-th of stacked states or policies."""
    return jax.tree.map(lambda x: x[i], stacked)


def trials_of(
    contest: Contest, begun: Any, trained: Any, *, twins: Any, seeds: NDArray[np.integer]
) -> list[Trials]:
    """Trials of every stacked run on the same held-out seeds, beside the untrained agent, the best constant move,
    random moves, 19 walks and its twin. begun, trained, twins: stacked states."""
    count = len(np.asarray(trained.calls))
    host = jax.device_get((begun.policy, trained.policy, twins.policy))
    stacks: list[Policy] = []
    standstill: list[bool] = []
    for i in range(count):
        start, now, twin = (lane(policy, i) for policy in host)
        first, last = named_arrays(start.actor), named_arrays(now.actor)
        rng = np.random.default_rng(int(hash_of(policy_arrays(now))[:16], 16))
        walks = random_walks(first, last, rng)
        walked = [replace(now, actor=with_named_arrays(now.actor, walk)) for walk in walks]
        stacks.append(jax.tree.map(lambda *xs: np.stack(xs), now, start, twin, *walked))
        standstill.append(hash_of(first) == hash_of(last))
    policies = jax.tree.map(lambda *xs: np.stack(xs), *stacks)
    scores = np.asarray(_scores(contest, policies, jnp.asarray(seeds)), np.float64)
    constant, random = (np.asarray(x, np.float64) for x in _references(contest, seeds))
    return [
        Trials(
            seeds=seeds, now=own[0], references={"pacer": own[1], "retuned": constant, "random": random},
            promoted=None, walks=own[3:], standstill=still, twin=own[2],
        )
        for own, still in zip(scores, standstill, strict=True)
    ]  # fmt: skip


def returns_of(contest: Contest, begun: Any, trained: Any, seeds: NDArray[np.integer]) -> list[Trials]:
    """The same for the paired return alone, without walks and twin, and without compiling anything for it."""
    world = jax.tree.map(np.asarray, contest.world)
    luck = np.stack([np.random.default_rng(s).integers(0, world.outcomes, contest.steps + 1) for s in seeds])
    at_random = np.random.default_rng(int(seeds[0])).integers(0, world.moves, (len(seeds), world.states))
    constants = [_earned(world, np.full(at_random.shape, move), luck) for move in range(world.moves)]
    references = {"retuned": max(constants, key=np.mean), "random": _earned(world, at_random, luck)}

    def played(state: Any) -> list[NDArray[np.float64]]:
        tables = np.asarray(
            jax.vmap(lambda s: tabular.mode_moves(contest.world, contest.schema, s.policy))(state)
        )
        return [_earned(world, np.broadcast_to(moves, at_random.shape), luck) for moves in tables]

    return [
        Trials(
            seeds=seeds, now=now, references={"pacer": start, **references}, promoted=None, walks=None,
            standstill=False,
        )
        for now, start in zip(played(trained), played(begun), strict=True)
    ]  # fmt: skip


def _earned(world: World, moves: NDArray[np.integer], luck: NDArray[np.integer]) -> NDArray[np.float64]:
    """Reward [n] of one episode each, when moves [n, S] are chosen and luck [n, steps + 1] falls."""
    n = np.arange(len(luck))
    state, running, earned = world.start[luck[:, 0]], np.ones(len(luck), bool), np.zeros(len(luck))
    for outcome in luck[:, 1:].T:
        at = (state, moves[n, state], outcome)
        earned += np.where(running, world.reward[at], 0.0)
        running &= world.end[at] == End.RUNNING
        state = world.follow[at]
    return earned


def _scores(contest: Contest, policies: Policy, seeds: Any) -> Any:
    """[runs, policies, seeds]"""
    return _played(contest.world, policies, seeds, schema=contest.schema, steps=contest.steps)


@partial(jax.jit, static_argnames=("schema", "steps"))
def _played(world: World, policies: Policy, seeds: Any, *, schema: TaskSchema, steps: int) -> Any:
    moves = jax.vmap(jax.vmap(lambda policy: tabular.mode_moves(world, schema, policy)))(policies)
    return jax.lax.map(jax.vmap(lambda each: tabular.replayed(world, each, seeds, steps)), moves)


def _references(contest: Contest, seeds: NDArray[np.integer]) -> tuple[Any, Any]:
    """Rewards [n] of the constant move that is best by expectation, and of random moves."""
    world, steps = contest.world, contest.steps
    constants = [jnp.full(world.states, move, jnp.int32) for move in range(world.moves)]
    best = int(np.argmax([float(tabular.worth(world, moves, steps)) for moves in constants]))
    rng = np.random.default_rng(int(seeds[0]))
    tables = jnp.asarray(rng.integers(0, world.moves, (len(seeds), world.states)), jnp.int32)
    at_random = jax.vmap(lambda m, s: tabular.replayed(world, m, s[None], steps)[0])(
        tables, jnp.asarray(seeds)
    )
    return tabular.replayed(world, constants[best], jnp.asarray(seeds), steps), at_random


def trail_of(algorithm: Algorithm, trained: Trained, i: int) -> Trail:
    """The trail of the i-th stacked run, from what its calls reported; it has no second looks yet."""
    state = lane(trained.state, i)
    names = tuple(named_arrays(state.agent))
    scalars, per_tensor = (
        np.asarray(trained.scalars[i], np.float64),
        np.asarray(trained.per_tensor[i], np.float64),
    )
    told: Mapping[str, NDArray[np.float64]] = dict(zip(algorithm.scalars, scalars.T, strict=True))
    before, _, change, norm = (per_tensor[:, PER_TENSOR.index(name)] for name in PER_TENSOR)
    finite = bool(np.isfinite(before).all() and np.isfinite(change).all() and np.isfinite(told["loss"]).all())
    quiet = {n: _longest(before[:, k] < 1e-8) for k, n in enumerate(names)}
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = change / norm / np.maximum(told["updates"], 1)[:, None]
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    plays = hash_of(policy_arrays(state.policy))
    return Trail(
        weights_hash=plays, actor_hash=plays, calls=len(scalars), updates=int(told["updates"].sum()),
        min_update_change=float(told["min_update_change"].min()), finite=finite, simulated=True,
        gradient=dict(zip(names, before.max(axis=0).tolist(), strict=True)),
        change=dict(zip(names, change.max(axis=0).tolist(), strict=True)),
        vitals=Vitals(
            calls=len(scalars), entropy_shares=tuple(told["entropy_share"][-31:].tolist()),
            lowest_early_entropy=float(told["entropy_share"][:20].min()),
            gradient_norms=tuple(np.linalg.norm(before[-31:], axis=1).tolist()), longest_quiet=quiet,
            smallest_ratio=float(ratio.min()) if ratio.size else math.inf,
            largest_ratio=float(ratio.max()) if ratio.size else 0.0, largest_kl=float(told["approx_kl"].max()),
        ),
    )  # fmt: skip


def _longest(flags: NDArray[np.bool_]) -> int:
    """The longest run of True."""
    longest = run = 0
    for flag in flags.tolist():
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest
