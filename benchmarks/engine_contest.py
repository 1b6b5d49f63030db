"""The contests behind `make bench-engine`: one function for each line, timed turn by turn in one pinned process.

It judges nothing: every function answers with figures, one for each repetition, and with what was left out of them
(compiling).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from contestants import (
    baselines_model,
    config_of,
    engine_of,
    play_and_train,
    practice_of,
    rejax_ppo,
    rejax_rounds,
)
from gaelp.core.episode import EpisodeBatch
from gaelp.core.schema import Actions, TaskSchema
from gaelp.learn import policies
from gaelp.learn.engine import RLTrainingEngine
from gaelp.learn.export import ExportedPolicy
from gaelp.learn.fused import Origin, fused_rounds
from gaelp.market.practice import JaxPractice, Stepped
from side_by_side import Timed, Work, take_turns
from torch_dqn import DoubleDuelingDQN

OBSERVATION, ACTION, HIDDEN = 256, 64, (256, 256)
PPO_BATCH, PPO_MINIBATCH, PPO_EPOCHS = 2_048, 64, 4
REPLAY_MINIBATCH, REPLAY_STEPS, REPLAY_SIZE = 256, 50, 20_000
"""Gradient steps that one timed call of DQN or SAC takes, on minibatches of 256 out of so many transitions."""

# The whole loop of PPO, alike for all three: 8 environments x 256 steps, 8 minibatches of 256, 4 epochs, 64-64 tanh.
LOOP_ENVIRONMENTS, LOOP_STEPS, LOOP_MINIBATCH, LOOP_EPOCHS = 8, 256, 256, 4
LOOP_ROUNDS, FUSED_ROUNDS = 20, 50
SEEDS, SEEDS_ROUNDS = 8, 10
DQN_MEMORY = 50_000
EQUAL = 1e-6


def _milliseconds(seconds: float) -> float:
    return 1e3 * seconds


def _microseconds(seconds: float) -> float:
    return 1e6 * seconds


def _rate(seconds: float) -> float:
    return 1.0 / seconds


def _as_it_is(seconds: float) -> float:
    return seconds


class Noise:
    """Observations and rewards are noise: what one update costs does not depend on what it learns."""

    def reset(self, key: jax.Array) -> tuple[Any, jax.Array]:
        return jnp.zeros(()), jax.random.normal(key, (OBSERVATION,))

    def step(self, key: jax.Array, state: Any, action: jax.Array) -> Stepped:
        seen = jax.random.normal(key, (OBSERVATION,))
        return Stepped(state, seen, seen[0], jnp.asarray(False), jnp.asarray(False))


class GymNoise(gym.Env[Any, Any]):
    """The same for Stable-Baselines3."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)

    def __init__(self, actions: Actions) -> None:
        self.action_space = (
            gym.spaces.Discrete(ACTION)
            if actions is Actions.MOVES
            else gym.spaces.Box(-1.0, 1.0, (ACTION,), np.float32)
        )
        self._rng = np.random.default_rng(0)

    def _seen(self) -> np.ndarray:
        return self._rng.standard_normal(OBSERVATION, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        seen = self._seen()
        return seen, float(seen[0]), False, False, {}


def _noise_schema(actions: Actions) -> TaskSchema:
    return TaskSchema("noise", OBSERVATION, ACTION, actions)


def _noise_batch(engine: RLTrainingEngine, environments: int, steps: int) -> EpisodeBatch:
    practice = JaxPractice(
        environment=Noise(), schema=engine.schema, act=policies.act, act_mode=policies.act_mode,
        environments=environments, steps=steps,
    )  # fmt: skip
    return practice.play(engine.policy, engine.actor_hash())


def _train(engine: RLTrainingEngine, batch: EpisodeBatch, batch_size: int, num_epochs: int) -> int:
    """One public `train_step`; its gradient steps."""
    metrics = asyncio.run(
        engine.train_step(episode_results=batch, batch_size=batch_size, num_epochs=num_epochs)
    )
    return metrics.updates


def _noise_worlds(actions: Actions, environments: int) -> DummyVecEnv:
    return DummyVecEnv([partial(GymNoise, actions)] * environments)


def ppo_update(repetitions: int) -> Timed:
    """Milliseconds of one `train_step` on a fixed batch and of Stable-Baselines3's `PPO.train()` on a filled buffer.

    At learning rate 0, so that every update of the same batch is the same work; nothing is left out for that.
    """
    environments, steps = 8, PPO_BATCH // 8
    config = config_of("ppo", {"hidden": HIDDEN, "standardise": "minibatch", "learning_rate": 0.0})
    engine = RLTrainingEngine(config, _noise_schema(Actions.RESIDUALS), seed=1)
    batch = _noise_batch(engine, environments, steps)
    model = PPO(
        "MlpPolicy", _noise_worlds(Actions.RESIDUALS, environments), n_steps=steps, batch_size=PPO_MINIBATCH,
        n_epochs=PPO_EPOCHS, learning_rate=0.0, device="cpu", seed=1,
        policy_kwargs={"net_arch": {"pi": list(HIDDEN), "vf": list(HIDDEN)}},
    )  # fmt: skip
    model.learn(PPO_BATCH, log_interval=None)
    expected = PPO_EPOCHS * PPO_BATCH // PPO_MINIBATCH

    def ours() -> float:
        _same("gradient steps of a PPO update", _train(engine, batch, PPO_MINIBATCH, PPO_EPOCHS), expected)
        return 1.0

    def theirs() -> float:
        model.train()
        return 1.0

    turns = take_turns({"ours": ours, "sb3": theirs}, repetitions)
    told = f"{PPO_BATCH} transitions, observation {OBSERVATION}, {ACTION} residuals, 2x256 tanh, minibatch 64, 4 epochs"
    return turns.shown(_milliseconds, told)


def replay_update(algorithm: str, repetitions: int) -> Timed:
    """Milliseconds of one gradient step of DQN or SAC on a minibatch of 256: ours in a `train_step`, theirs in `train`.

    Our DQN is double and dueling and moves its slow network in every step, where theirs is plain and does not: `torch`
    is the same arithmetic as ours in eager PyTorch. For SAC theirs does what ours does.
    """
    actions = Actions.MOVES if algorithm == "dqn" else Actions.RESIDUALS
    row = 16
    settings: dict[str, Any] = {
        "hidden": HIDDEN, "gamma": 0.99, "reward_scale": 1.0, "replay_size": REPLAY_SIZE, "replay_steps": row,
        "conservative": 0.0,
    }  # fmt: skip
    engine = RLTrainingEngine(config_of(algorithm, settings), _noise_schema(actions), algorithm, seed=1)
    batch = _noise_batch(engine, REPLAY_MINIBATCH // row, row)
    kind: Any = {"dqn": DQN, "sac": SAC}[algorithm]
    model = kind(
        "MlpPolicy", _noise_worlds(actions, 1), buffer_size=REPLAY_SIZE, learning_starts=2_000, device="cpu", seed=1,
        policy_kwargs={"net_arch": list(HIDDEN)},
    )  # fmt: skip
    model.learn(2_000, log_interval=None)

    def ours() -> float:
        return float(_train(engine, batch, REPLAY_MINIBATCH, REPLAY_STEPS))

    def theirs() -> float:
        model.train(REPLAY_STEPS, REPLAY_MINIBATCH)
        return float(REPLAY_STEPS)

    works: dict[str, Work] = {"ours": ours, "sb3": theirs}
    if algorithm == "dqn":
        same = DoubleDuelingDQN(model.replay_buffer, OBSERVATION, HIDDEN, ACTION, 0.99)

        def eager() -> float:
            same.train(REPLAY_STEPS, REPLAY_MINIBATCH)
            return float(REPLAY_STEPS)

        works["torch"] = eager
    turns = take_turns(works, repetitions)
    told = f"one gradient step on 256 transitions, observation {OBSERVATION}, {ACTION} actions, 2x256 relu"
    return turns.shown(_milliseconds, told)


def _same(what: str, got: int, expected: int) -> None:
    if got != expected:
        raise ValueError(f"{what}: {got}, expected {expected}; the contestants would do different work.")


PPO_LOOP_SETTINGS: dict[str, Any] = {
    "hidden": (64, 64), "standardise": "minibatch", "learning_rate": 2.5e-4, "gamma": 0.99, "gae_lambda": 0.95,
    "entropy": 0.01, "reward_scale": 1.0,
}  # fmt: skip


def ppo_loop(repetitions: int) -> Timed:
    """Environment steps per second of whole PPO loops on CartPole-v1, all four with the same arithmetic.

    plain: the public play + train_step. fused: `train_rounds`. A transition in which our environments only start
    anew is not counted, though it is paid for.
    """
    per_round = LOOP_ENVIRONMENTS * LOOP_STEPS
    minibatches = per_round // LOOP_MINIBATCH
    plain, fused = (engine_of("CartPole-v1", "ppo", PPO_LOOP_SETTINGS, seed) for seed in (1, 2))
    practice, other = (practice_of("CartPole-v1", LOOP_ENVIRONMENTS, LOOP_STEPS, seed) for seed in (1, 2))
    model = baselines_model("ppo", "CartPole-v1", {
        "n_envs": LOOP_ENVIRONMENTS, "n_steps": LOOP_STEPS, "batch_size": LOOP_MINIBATCH, "n_epochs": LOOP_EPOCHS,
        "learning_rate": 2.5e-4, "gamma": 0.99, "gae_lambda": 0.95, "ent_coef": 0.01,
    }, 1)  # fmt: skip
    peer = rejax_ppo("CartPole-v1", {
        "agent_kwargs": {"activation": "tanh", "hidden_layer_sizes": (64, 64)}, "num_envs": LOOP_ENVIRONMENTS,
        "num_steps": LOOP_STEPS, "num_epochs": LOOP_EPOCHS, "num_minibatches": minibatches, "learning_rate": 2.5e-4,
        "max_grad_norm": 0.5, "gamma": 0.99, "gae_lambda": 0.95, "clip_eps": 0.2, "ent_coef": 0.01, "vf_coef": 0.5,
    })  # fmt: skip
    _same("Rejax's minibatch", peer.minibatch_size, LOOP_MINIBATCH)
    rounds, state = rejax_rounds(peer, FUSED_ROUNDS), peer.init_state(jax.random.key(1))

    def of_fused() -> float:
        metrics = asyncio.run(
            fused.train_rounds(other, FUSED_ROUNDS, batch_size=LOOP_MINIBATCH, num_epochs=LOOP_EPOCHS)
        )
        for each in metrics:
            # Rows that hold only fresh starts may save a minibatch in a round; more than two would be another contest.
            if each.updates < LOOP_EPOCHS * (minibatches - 2):
                raise ValueError(
                    f"a round took {each.updates} gradient steps of {LOOP_EPOCHS * minibatches}."
                )
        return float(sum(each.transitions for each in metrics))

    def of_baselines() -> float:
        model.learn(4 * per_round, log_interval=None)
        return float(4 * per_round)

    def of_rejax() -> float:
        jax.block_until_ready(rounds(state))
        return float(FUSED_ROUNDS * per_round)

    works = {
        "plain": _rounds_of(plain, practice, LOOP_MINIBATCH, LOOP_EPOCHS, LOOP_ROUNDS),
        "sb3": of_baselines,
        "fused": of_fused,
        "rejax": of_rejax,
    }
    return take_turns(works, repetitions).shown(
        _rate,
        f"CartPole-v1, {LOOP_ENVIRONMENTS} environments x {LOOP_STEPS} steps, minibatch {LOOP_MINIBATCH}, "
        f"{LOOP_EPOCHS} epochs ({LOOP_EPOCHS * minibatches} gradient steps a round), policy and value 64-64 tanh",
    )


def dqn_loop(repetitions: int) -> Timed:
    """Environment steps per second of whole DQN loops on CartPole-v1: minibatch 128, network 120-84, one gradient step
    for every ten steps (the arithmetic of CleanRL and PureJaxRL).

    Ours calls `train_step` every 2,560 steps, with settings that were seen to learn the task; no command repeats that,
    and how well DQN learns is `bench_learning`'s to say, with its own settings.
    sb3: one environment, as its documentation and its zoo have it. sb3_vectorised: ten of them, for information.
    """
    environments, steps, batch_size, num_epochs = 32, 80, 128, 13
    engine = engine_of("CartPole-v1", "dqn", {
        "hidden": (120, 84), "learning_rate": 5e-4, "gamma": 0.99, "reward_scale": 0.1, "replay_size": DQN_MEMORY,
        "replay_steps": steps, "conservative": 0.0, "tau": 0.01, "epsilon_transitions": 32_000, "epsilon_final": 0.04,
    }, 1)  # fmt: skip
    practice = practice_of("CartPole-v1", environments, steps, 1)
    shared = {
        "batch_size": batch_size, "learning_rate": 2.5e-4, "gamma": 0.99, "buffer_size": DQN_MEMORY,
        "learning_starts": 640, "gradient_steps": 1, "net_arch": (120, 84),
    }  # fmt: skip
    one = baselines_model("dqn", "CartPole-v1", {"n_envs": 1, "train_freq": 10, **shared}, 1)
    many = baselines_model("dqn", "CartPole-v1", {"n_envs": 10, "train_freq": 1, **shared}, 1)
    works = {
        "ours": _rounds_of(engine, practice, batch_size, num_epochs, 4),
        "sb3": _learn(one, 4_000),
        "sb3_vectorised": _learn(many, 4_000),
    }
    return take_turns(works, repetitions).shown(
        _rate,
        f"CartPole-v1, minibatch {batch_size}, 120-84 relu, a gradient step every 10 steps (ours: "
        f"{-(-environments * steps // batch_size) * num_epochs} for {environments * steps}); ours is double and "
        "dueling, theirs plain",
    )


def sac_loop(repetitions: int) -> Timed:
    """Environment steps per second of whole SAC loops on Pendulum-v1: minibatch 256, networks 2x256, one gradient step
    for every step."""
    steps = 64
    engine = engine_of("Pendulum-v1", "sac", {
        "hidden": HIDDEN, "learning_rate": 1e-3, "reward_scale": 1.0, "replay_size": 20_000, "replay_steps": steps,
        "conservative": 0.0,
    }, 1)  # fmt: skip
    practice = practice_of("Pendulum-v1", 1, steps, 1)
    model = baselines_model("sac", "Pendulum-v1", {"n_envs": 1, "learning_rate": 1e-3}, 1)
    works = {"ours": _rounds_of(engine, practice, 256, steps, 4), "sb3": _learn(model, 256)}
    return take_turns(works, repetitions).shown(
        _rate,
        "Pendulum-v1, one environment, minibatch 256, actor and twin critics 2x256 relu, a gradient step every step",
    )


def _rounds_of(
    engine: RLTrainingEngine, practice: JaxPractice, batch_size: int, num_epochs: int, rounds: int
) -> Work:
    def work() -> float:
        until = int(engine.state.calls) + rounds
        done = play_and_train(
            engine, practice, batch_size, num_epochs, lambda _: int(engine.state.calls) >= until
        )
        return float(asyncio.run(done))

    return work


def _learn(model: Any, steps: int) -> Work:
    def work() -> float:
        before = model.num_timesteps
        # Going on, not anew: else its warm-up, in which it does not train, would come again.
        model.learn(steps, reset_num_timesteps=before == 0, log_interval=None)
        return float(model.num_timesteps - before)

    return work


def seeds_at_once(repetitions: int) -> Timed:
    """Seconds for so many fused rounds of one agent, and of eight agents of other seeds under `jax.vmap`."""
    practice = practice_of("CartPole-v1", LOOP_ENVIRONMENTS, LOOP_STEPS, 1)
    engines = [engine_of("CartPole-v1", "ppo", PPO_LOOP_SETTINGS, seed) for seed in range(SEEDS)]
    algorithm, coefficients = engines[0].algorithm, engines[0].algorithm.coefficients(engines[0].config)
    origin = Origin.of(LOOP_ENVIRONMENTS, LOOP_STEPS)
    numbers = (coefficients, np.int32(LOOP_EPOCHS), np.int32(LOOP_MINIBATCH), np.int32(2**31 - 1), origin)

    def several(state: Any, carry: Any) -> Any:
        found = fused_rounds(
            state, carry, np.int32(0), *numbers, rollout=practice.rollout, key_of=practice.key_of,
            update=algorithm.update, rounds=SEEDS_ROUNDS, width=LOOP_MINIBATCH,
        )  # fmt: skip
        return found.state

    carries = [practice.begin(jax.random.key(seed)) for seed in range(SEEDS)]
    stack = partial(jax.tree.map, lambda *xs: jnp.stack(xs))
    states, together = stack(*(engine.state for engine in engines)), stack(*carries)
    alone, at_once = jax.jit(several), jax.jit(jax.vmap(several))

    def one() -> float:
        jax.block_until_ready(alone(engines[0].state, carries[0]))
        return 1.0

    def eight() -> float:
        jax.block_until_ready(at_once(states, together))
        return 1.0

    turns = take_turns({"one": one, "eight": eight}, repetitions)
    told = (
        f"{SEEDS_ROUNDS} fused rounds of the PPO loop above, {SEEDS} agents and their environments under vmap"
    )
    return turns.shown(_as_it_is, told)


def single_act(repetitions: int) -> Timed:
    """Microseconds of one action for one observation without JAX, for moves (DQN's and PPO's kind) and for residuals;
    and the largest difference from the JAX policy, which must be below EQUAL."""
    kinds = {"ppo_moves": ("ppo", Actions.MOVES), "dqn_moves": ("dqn", Actions.MOVES),
             "ppo_residuals": ("ppo", Actions.RESIDUALS), "sac_residuals": ("sac", Actions.RESIDUALS)}  # fmt: skip
    works: dict[str, Work] = {}
    differs: dict[str, float] = {}
    rng = np.random.default_rng(3)
    seen = rng.standard_normal((512, OBSERVATION), dtype=np.float32)
    mask = np.ones((512, ACTION), bool)
    for name, (algorithm, actions) in kinds.items():
        settings: dict[str, Any] = {"hidden": HIDDEN, "learning_rate": 1e-3}
        if algorithm != "ppo":
            settings |= {"replay_size": 256, "replay_steps": 16}
        engine = RLTrainingEngine(config_of(algorithm, settings), _noise_schema(actions), algorithm, seed=1)
        # Trained a little: an untrained agent says the same everywhere.
        _train(engine, _noise_batch(engine, 16, 16), 64, 4)
        exported = ExportedPolicy.from_arrays(engine.weights())
        differs[name] = _difference(engine, exported, seen, mask)
        works[name] = _acting(exported, seen, mask, rng, actions)
    timed = take_turns(works, repetitions).shown(
        _microseconds,
        f"observation {OBSERVATION}, 2x256, {ACTION} actions; sampled, with log-probability",
        *(f"{name}: differs from the JAX policy by at most {d:.1e}" for name, d in differs.items()),
    )
    return replace(timed, figures={**timed.figures, "difference": [max(differs.values())]}, compiling_s={})


def _difference(
    engine: RLTrainingEngine, exported: ExportedPolicy, seen: np.ndarray, mask: np.ndarray
) -> float:
    """Of probabilities where there are moves, of the middle residuals elsewhere, over 512 observations."""
    if engine.schema.actions is Actions.MOVES:
        theirs = np.exp(np.asarray(engine.policy.log_probs(seen, mask)))
        return float(np.abs(exported.probabilities(seen, mask) - theirs).max())
    return float(
        np.abs(
            exported.mode(seen, mask) - np.asarray(policies.act_mode(engine.policy, seen, mask).action)
        ).max()
    )


def _acting(
    exported: ExportedPolicy, seen: np.ndarray, mask: np.ndarray, rng: np.random.Generator, actions: Actions
) -> Work:
    shape = seen.shape[0] if actions is Actions.MOVES else (seen.shape[0], ACTION)
    noise = rng.uniform(size=shape) if actions is Actions.MOVES else rng.standard_normal(shape)
    noise = noise.astype(np.float32)

    def work() -> float:
        for i in range(seen.shape[0]):
            exported.act(seen[i], mask[i], noise[i])
        return float(seen.shape[0])

    return work
