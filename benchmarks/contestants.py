"""The contestants: ours through the public play + train_step, Stable-Baselines3 and Rejax through their own loops.

Each is trained for so many environment steps and hands back its deterministic policy; judging is done elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from typing import Any, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import rejax
import structlog
import torch
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env

from classic_tasks import GymnaxTask, Judged, schema_of
from gaelp.learn import policies
from gaelp.learn.algorithm import algorithm_named
from gaelp.learn.engine import RLTrainingEngine
from gaelp.learn.normalise import Normaliser, Scaling, unscaled
from gaelp.market.practice import JaxPractice
from learning_tasks import OURS, REJAX, SB3, Ours, Task

SB3_ALGORITHMS = {"ppo": PPO, "dqn": DQN, "sac": SAC}


@dataclass(frozen=True)
class Trained:
    """What came of a training: its deterministic policy, the environment steps it took and the seconds, compiling
    included."""

    judged: Judged
    steps: int
    seconds: float


def quiet() -> None:
    """One thread for torch; each call's log line is rendered as in a real run, and thrown away."""
    torch.set_num_threads(1)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(open(os.devnull, "w")))  # noqa: SIM115


def config_of(algorithm: str, settings: Mapping[str, Any]) -> Any:
    """An algorithm's config from plain settings; names of enumerations become their members."""
    kind = algorithm_named(algorithm).config_type
    hints = get_type_hints(kind)
    unknown = set(settings) - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"{algorithm} has no settings {', '.join(sorted(unknown))}.")

    def member(name: str, value: Any) -> Any:
        hint = hints[name]
        return hint(value) if isinstance(hint, type) and issubclass(hint, StrEnum) else value

    return kind(**{name: member(name, value) for name, value in settings.items()})


def engine_of(
    environment: str, algorithm: str, settings: Mapping[str, Any], seed: int, scales: tuple[float, ...] | None = None
) -> RLTrainingEngine:  # fmt: skip
    """Ours, untrained."""
    schema = schema_of(environment)
    normaliser = unscaled(schema.observation_size, 0)
    if scales is not None:
        factor = jnp.asarray(scales, jnp.float32)
        normaliser = Normaliser(Scaling(jnp.zeros_like(factor), factor), normaliser.hidden)
    config = config_of(algorithm, settings)
    return RLTrainingEngine(config, schema, algorithm=algorithm, seed=seed, normaliser=normaliser)


@cache
def gymnax_task(environment: str) -> GymnaxTask:
    """One object for one task, so that what is compiled for it is found again."""
    return GymnaxTask(environment)


def practice_of(environment: str, environments: int, steps: int, seed: int) -> JaxPractice:
    """The task in JAX, as the public market that an engine trains on."""
    return JaxPractice(
        environment=gymnax_task(environment), schema=schema_of(environment), act=policies.act,
        act_mode=policies.act_mode, environments=environments, steps=steps, seed=seed,
    )  # fmt: skip


async def play_and_train(
    engine: RLTrainingEngine, practice: JaxPractice, batch_size: int, num_epochs: int, enough: Callable[[int], bool]
) -> int:  # fmt: skip
    """Rounds of the public `play` and `train_step` until `enough(transitions so far)`; the transitions played."""
    transitions = 0
    while not enough(transitions):
        batch = practice.play(engine.policy, engine.actor_hash())
        metrics = await engine.train_step(episode_results=batch, batch_size=batch_size, num_epochs=num_epochs)
        transitions += metrics.transitions
    return transitions


def train(who: str, task: Task, seed: int, steps: int) -> Trained:
    """Train one contestant on one task. None takes more than `steps` environment steps, but for what is left of a
    peer's last rollout."""
    return {OURS: _ours, SB3: _baselines, REJAX: _rejax}[who](task, seed, steps)


def _ours(task: Task, seed: int, steps: int) -> Trained:
    ours: Ours = task.ours
    began = time.perf_counter()
    engine = engine_of(task.environment, task.algorithm, ours.settings, seed, ours.scales)
    practice = practice_of(task.environment, ours.environments, ours.steps, seed)

    def enough(transitions: int) -> bool:
        return transitions + ours.environments * ours.steps > steps

    taken = asyncio.run(play_and_train(engine, practice, ours.batch_size, ours.num_epochs, enough))
    schema, policy = engine.schema, engine.policy
    mode = jax.jit(policies.act_mode)

    def judged(observation: Any) -> Any:
        mask = jnp.ones((len(observation), schema.action_size), bool)
        action = np.asarray(mode(policy, observation, mask).action)
        return action if action.ndim == 1 else np.clip(action, -schema.bound, schema.bound)

    return Trained(judged, taken, time.perf_counter() - began)


def baselines_model(algorithm: str, environment: str, settings: Mapping[str, Any], seed: int) -> Any:
    """A model of Stable-Baselines3 with settings as the zoo writes them."""
    given = dict(settings)
    for name, value in given.items():
        if isinstance(value, str) and value.startswith("lin_"):
            given[name] = _linear(float(value.removeprefix("lin_")))
    world = make_vec_env(environment, n_envs=given.pop("n_envs"), seed=seed)
    if "net_arch" in given:
        given["policy_kwargs"] = {"net_arch": list(given.pop("net_arch"))}
    return SB3_ALGORITHMS[algorithm]("MlpPolicy", world, seed=seed, device="cpu", **given)


def _linear(start: float) -> Callable[[float], float]:
    return lambda left: left * start


def _baselines(task: Task, seed: int, steps: int) -> Trained:
    began = time.perf_counter()
    model = baselines_model(task.algorithm, task.environment, task.zoo, seed)
    model.learn(steps, log_interval=None)
    return Trained(
        lambda observation: model.predict(observation, deterministic=True)[0],
        int(model.num_timesteps),
        time.perf_counter() - began,
    )


def rejax_ppo(environment: str, settings: Mapping[str, Any]) -> Any:
    """Rejax's PPO with its own kind of settings; it is never asked to evaluate."""
    return rejax.get_algo("ppo").create(env=environment, skip_initial_evaluation=True, **settings)


def rejax_rounds(algorithm: Any, rounds: int) -> Callable[[Any], Any]:
    """`rounds` of its training iterations in one compiled call, as its own `train` runs them between evaluations."""
    return jax.jit(
        lambda state: jax.lax.fori_loop(0, rounds, lambda _, s: algorithm.train_iteration(s), state)
    )


def _rejax(task: Task, seed: int, steps: int) -> Trained:
    if task.rejax is None:
        raise ValueError(f"{task.name}: Rejax is no peer here.")
    began = time.perf_counter()
    algorithm = rejax_ppo(task.environment, task.rejax)
    per_round = algorithm.num_envs * algorithm.num_steps
    rounds = steps // per_round
    state = jax.block_until_ready(rejax_rounds(algorithm, rounds)(algorithm.init_state(jax.random.key(seed))))
    seconds = time.perf_counter() - began

    @jax.jit
    def mode(observation: jax.Array) -> jax.Array:
        # Its own `act` samples; judged is what it holds for best, as for everyone.
        distribution = algorithm.actor.apply(state.actor_ts.params, observation, method="_action_dist")
        return jnp.argmax(distribution.logits, axis=-1)

    return Trained(
        lambda observation: np.asarray(mode(jnp.asarray(observation))), rounds * per_round, seconds
    )
