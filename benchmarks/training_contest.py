"""The contest behind `make bench`: both trainings and their parts, timed turn by turn in one process.

It judges nothing. Every figure is a median over repetitions with the smallest and the largest beside it.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TextIO

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from campaign_env import CampaignVecEnv, RegisteredDays, Scaled, ScaledDays, check_same_market
from campaign_worlds import benchmark_market, posterior_and_pacer
from gaelp import CAMPAIGN_ID
from gaelp.core.episode import EpisodeBatch
from gaelp.core.schema import default_schema
from gaelp.learn import policies, ppo
from gaelp.learn.engine import RLTrainingEngine
from gaelp.learn.normalise import fit_normaliser
from gaelp.learn.policies import Policy
from gaelp.market.campaign import SCALE_FLOOR
from gaelp.market.world import HIDDEN

EPISODES, BATCH_SIZE, NUM_EPOCHS = 32, 64, 4
HELD_OUT = np.arange(10_000_000, 10_001_024)
PART_SECONDS = 1.0
"""How long each part is run per repetition."""


@dataclass(frozen=True)
class Told:
    """Where the lines for people go."""

    out: TextIO

    def line(self, text: str) -> None:
        print(text, file=self.out, flush=True)


@dataclass(frozen=True)
class Clocked:
    """Wall and processor seconds of one timed stretch; on a busy machine the second stays true."""

    wall: float
    processor: float


def clocked(work: Callable[[], object]) -> Clocked:
    """Run `work` once."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Clocked(time.perf_counter() - wall, time.process_time() - processor)


def spread(figures: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": float(np.median(figures)), "low": min(figures), "high": max(figures)}


class Watch(BaseCallback):
    """Keeps every rollout's mean reward: as cheap a callback as there can be."""

    def __init__(self) -> None:
        BaseCallback.__init__(self)
        self.rewards: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.rewards.append(float(self.model.rollout_buffer.rewards.mean()))  # type: ignore[attr-defined]


def registered_environments_train() -> dict[str, float]:
    """How far one update of Stable-Baselines3's PPO moves its weights (L2) on the single and the vector environment.

    Raises ValueError where they did not move, or to nowhere: what is registered would not train.
    """
    decisions, side_by_side = default_schema().decisions_per_day, 4
    worlds = {
        "single": gymnasium.make(CAMPAIGN_ID),
        "vector": CampaignVecEnv(
            RegisteredDays(gymnasium.make_vec(CAMPAIGN_ID, num_envs=side_by_side)), side_by_side
        ),
    }
    moved = {}
    for name, world in worlds.items():
        model = PPO("MlpPolicy", world, device="cpu", seed=1, n_steps=4 * decisions, batch_size=4 * decisions)
        before = [weight.detach().clone() for weight in model.policy.parameters()]
        model.learn(model.n_steps * model.n_envs)
        steps = [
            float((a - b).detach().norm()) for a, b in zip(model.policy.parameters(), before, strict=True)
        ]
        moved[name] = float(np.linalg.norm(steps))
        if not (np.isfinite(moved[name]) and moved[name] > 0.0):
            raise ValueError(
                f"the {name} environment moved the weights by {moved[name]}, expected more than 0."
            )
    return moved


class Contest:
    """Both contestants on one market: same worlds, observations, rewards, moves, network and settings."""

    def __init__(self, *, steps: int, repetitions: int, say: Told) -> None:
        self.schema = default_schema()
        self.config = ppo.PPOConfig()
        self.per_call = EPISODES * self.schema.decisions_per_day
        self.calls = -(-steps // self.per_call)
        self.repetitions = repetitions
        self.say = say
        self.key_of = jax.jit(lambda seed, call: jax.random.fold_in(jax.random.key(seed), call))
        torch.set_num_threads(1)
        # Each call's log line is rendered as in a real run, and thrown away.
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(open(os.devnull, "w")))  # noqa: SIM115

        def sampled(
            policy: Policy, seen: jax.Array, mask: jax.Array, key: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            choice = policies.act(policy, seen, mask, key)
            return choice.action, choice.log_prob

        def any_move(
            policy: Policy, seen: jax.Array, mask: jax.Array, key: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            logits = jnp.where(mask, 0.0, -jnp.inf)
            return jax.random.categorical(key, logits), -jnp.log(mask.sum(-1))

        self.market = benchmark_market(self.schema, sampled)  # type: ignore[arg-type]
        self.random_market = benchmark_market(self.schema, any_move)  # type: ignore[arg-type]
        blank = RLTrainingEngine(self.config, self.schema, hidden_width=len(HIDDEN))
        pacer_days = self.market.play(
            blank.policy, np.arange(64) + (1 << 19), jax.random.key(0), blank.actor_hash()
        )
        self.normaliser = fit_normaliser(pacer_days)
        self.stepwise = Scaled(
            *posterior_and_pacer(), self.schema, self.normaliser.observation, self.config.reward_scale
        )

    # The contestants.

    def engine(self, seed: int, learning_rate: float | None = None) -> RLTrainingEngine:
        """Ours, untrained."""
        return RLTrainingEngine(
            self.config, self.schema, learning_rate=learning_rate, seed=seed, hidden_width=len(HIDDEN),
            normaliser=self.normaliser,
        )  # fmt: skip

    def adapter(self, first_seed: int) -> CampaignVecEnv:
        """The market as Stable-Baselines3 plays it here."""
        return CampaignVecEnv(ScaledDays(self.stepwise, EPISODES, first_seed), EPISODES)

    def baselines(self, seed: int, learning_rate: float | None = None) -> PPO:
        """Stable-Baselines3's, untrained, with the same head start for the pacer's own move."""
        c = self.config
        model = PPO(
            "MlpPolicy", self.adapter(first_seed=seed << 20), device="cpu", seed=seed,
            n_steps=self.schema.decisions_per_day, batch_size=BATCH_SIZE, n_epochs=NUM_EPOCHS,
            learning_rate=c.learning_rate if learning_rate is None else learning_rate, gamma=c.gamma,
            gae_lambda=c.gae_lambda, clip_range=c.clip, ent_coef=c.entropy, vf_coef=c.value_coef,
            max_grad_norm=c.max_grad_norm, policy_kwargs={"net_arch": {"pi": list(c.hidden), "vf": list(c.hidden)}},
        )  # fmt: skip
        with torch.no_grad():
            model.policy.action_net.bias[self.schema.pace_levels.index(0.0)] = c.zero_bias
        return model

    def play(self, engine: RLTrainingEngine, seed: int, call: int) -> EpisodeBatch:
        """Call `call`'s episodes, on worlds nobody has seen before."""
        seeds = (seed << 20) + call * EPISODES + np.arange(EPISODES)
        return self.market.play(engine.policy, seeds, self.key_of(seed, call), engine.actor_hash())

    async def train_ours(self, engine: RLTrainingEngine, seed: int, calls: int) -> list[float]:
        """Mean reward per decision of each call."""
        rewards = []
        for call in range(calls):
            metrics = await engine.train_step(
                episode_results=self.play(engine, seed, call), batch_size=BATCH_SIZE, num_epochs=NUM_EPOCHS
            )
            rewards.append(metrics.mean_reward)
        return rewards

    # What each learnt: mean gain per episode over the pacer, as a share of its score, on worlds of neither training.

    def held_out_ours(self, engine: RLTrainingEngine) -> float:
        stacked = jax.tree.map(lambda x: x[None], engine.policy)
        return self._gain(self.market.scores(stacked, HELD_OUT)["score"][0])

    def held_out_baselines(self, model: PPO) -> float:
        days, seen = self.stepwise.begin(HELD_OUT)
        whole = np.zeros(len(HELD_OUT))
        for _ in range(self.schema.decisions_per_day):
            level, _ = model.predict(np.asarray(seen), deterministic=True)
            days, seen, reward = self.stepwise.step(days, level.astype(np.int32))
            whole += np.asarray(reward)
        return float(whole.mean()) / self.config.reward_scale

    def _gain(self, scores: NDArray[np.floating]) -> float:
        pacer = self.market.pacer(self.market.certified, HELD_OUT)
        return float(((scores - pacer) / np.maximum(pacer, SCALE_FLOOR)).mean())

    # The contest.

    def run(self) -> dict[str, object]:
        """Compile, check that both play the same market, then measure turn by turn."""
        say, steps = self.say.line, self.calls * self.per_call
        versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "torch", "stable-baselines3"))
        levels, c = len(self.schema.pace_levels), self.config
        say(
            f"{platform.machine()}, Python {platform.python_version()}, {versions}; one core, one thread each"
        )
        say(f"{EPISODES} campaign-days of {self.schema.decisions_per_day} decisions a call, "
            f"minibatch {BATCH_SIZE}, {NUM_EPOCHS} epochs, learning rate {c.learning_rate:g}, "
            f"policy and value {'-'.join(map(str, c.hidden))} tanh")  # fmt: skip
        say(f"{levels} valid moves for both: ours by masking the other {self.schema.action_size - levels}, theirs "
            f"as Discrete({levels}), since its PPO has no masks")  # fmt: skip
        say(
            "ours trains a third network besides, the privileged critic, and hashes its weights after every call"
        )
        say(f"{self.repetitions} repetitions of {steps:,} decisions, in turns, each from untrained weights")
        compiled = self._warm_up()
        say(f"compiling, left out below: ours {compiled['ours_s']:.1f} s, adapter {compiled['adapter_s']:.1f} s; "
            f"largest difference in reward between market and adapter {compiled['reward_difference']:.1e}")  # fmt: skip

        moved = registered_environments_train()
        say(f"{CAMPAIGN_ID}, trained by Stable-Baselines3 for one update: weights moved by {moved['single']:.2g} "
            f"(gymnasium.make) and {moved['vector']:.2g} (make_vec)")  # fmt: skip

        ours: list[Clocked] = []
        theirs: list[Clocked] = []
        learnt: dict[str, list[float]] = {
            f"{who}_{what}": [] for who in ("ours", "sb3") for what in ("first", "last", "held_out")
        }
        tenth = max(1, self.calls // 10)

        def turn_of_ours(seed: int) -> None:
            engine, rewards = self.engine(seed), []
            ours.append(
                clocked(lambda: rewards.extend(asyncio.run(self.train_ours(engine, seed, self.calls))))
            )
            self._note(learnt, "ours", [r * self.schema.decisions_per_day for r in rewards], tenth)
            learnt["ours_held_out"].append(self.held_out_ours(engine))

        def turn_of_theirs(seed: int) -> None:
            model, watch = self.baselines(seed), Watch()
            theirs.append(clocked(lambda: model.learn(steps, callback=watch)))
            whole = self.schema.decisions_per_day / self.config.reward_scale
            self._note(learnt, "sb3", [r * whole for r in watch.rewards], tenth)
            learnt["sb3_held_out"].append(self.held_out_baselines(model))

        parts: dict[str, list[float]] = {}
        for repetition in range(self.repetitions):
            seed = repetition + 1
            turns = (turn_of_ours, turn_of_theirs)
            for turn in turns if repetition % 2 == 0 else turns[::-1]:
                turn(seed)
            say(
                f"  {seed}: ours {steps / ours[-1].wall:,.0f} steps/s, Stable-Baselines3 {steps / theirs[-1].wall:,.0f}"
            )
            for name, figure in self._parts(seed).items():
                parts.setdefault(name, []).append(figure)
        table = self._table(steps, ours, theirs, learnt, parts, compiled)
        return {**table, "registered_weight_change": moved}

    def _warm_up(self) -> dict[str, float]:
        engine = self.engine(0)
        once = clocked(lambda: asyncio.run(self.train_ours(engine, 0, 2)))
        self.random_market.play(engine.policy, np.arange(EPISODES), jax.random.key(0), "random")
        self.held_out_ours(engine)
        env = self.adapter(first_seed=0)

        def first_steps() -> None:
            env.reset()
            env.step(np.zeros(EPISODES, np.int32))

        adapter = clocked(first_steps)
        self.baselines(0).learn(2 * self.per_call)
        self.held_out_baselines(self.baselines(0))
        seeds = np.arange(EPISODES) + 77
        played = self.random_market.play(engine.policy, seeds, jax.random.key(3), "random")
        differs = check_same_market(played, seeds, self.stepwise, self.config.reward_scale)
        return {"ours_s": once.wall, "adapter_s": adapter.wall, "reward_difference": differs}

    @staticmethod
    def _note(learnt: dict[str, list[float]], who: str, rewards: list[float], tenth: int) -> None:
        learnt[f"{who}_first"].append(float(np.mean(rewards[:tenth])))
        learnt[f"{who}_last"].append(float(np.mean(rewards[-tenth:])))

    def _parts(self, seed: int) -> dict[str, float]:
        """Milliseconds that one call of 32 episodes spends in each part alone.

        At learning rate 0, so that every update of the same batch is the same work.
        """
        frozen, model = self.engine(seed, learning_rate=0.0), self.baselines(seed, learning_rate=0.0)
        batch = self.play(frozen, seed, 0)
        model.learn(self.per_call)
        env = self.adapter(first_seed=seed << 20)
        env.reset()
        levels = np.random.default_rng(seed).integers(
            0, len(self.schema.pace_levels), (self.schema.decisions_per_day, EPISODES)
        )

        def market_alone() -> None:
            self.random_market.play(frozen.policy, np.arange(EPISODES), self.key_of(seed, 0), "random")

        async def update() -> None:
            await frozen.train_step(episode_results=batch, batch_size=BATCH_SIZE, num_epochs=NUM_EPOCHS)

        def adapter_day() -> None:
            for level in levels:
                env.step(level)

        def rollout() -> None:
            model.collect_rollouts(model.env, watch, model.rollout_buffer, model.n_steps)  # type: ignore[arg-type]

        watch = Watch()
        watch.init_callback(model)
        loop = asyncio.new_event_loop()
        works: dict[str, Callable[[], object]] = {
            "market_only_ms": market_alone,
            "ours_play_ms": lambda: self.play(frozen, seed, 0),
            "ours_update_only_ms": lambda: loop.run_until_complete(update()),
            "adapter_only_ms": adapter_day,
            "sb3_rollout_ms": rollout,
            "sb3_update_only_ms": model.train,
        }
        found = {name: 1e3 * self._each(work) for name, work in works.items()}
        loop.close()
        return found

    @staticmethod
    def _each(work: Callable[[], object]) -> float:
        """Seconds that `work` takes, averaged over PART_SECONDS."""
        work()
        began, times = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < PART_SECONDS:
            work()
            times += 1
        return passed / times

    def _table(self, steps: int, ours: list[Clocked], theirs: list[Clocked], learnt: dict[str, list[float]],
               parts: dict[str, list[float]], compiled: dict[str, float]) -> dict[str, object]:  # fmt: skip
        say = self.say.line
        speed = {
            "ours_steps_per_second": spread([steps / c.wall for c in ours]),
            "sb3_steps_per_second": spread([steps / c.wall for c in theirs]),
            "steps_per_second_ratio": spread([b.wall / a.wall for a, b in zip(ours, theirs, strict=True)]),
            "processor_time_ratio": spread(
                [b.processor / a.processor for a, b in zip(ours, theirs, strict=True)]
            ),
        }
        both = ours + theirs
        core_share = sum(c.processor for c in both) / sum(c.wall for c in both)
        part = {name: spread(figures) for name, figures in parts.items()}
        gains = {name: spread(figures) for name, figures in learnt.items()}

        def row(name: str, s: dict[str, float], digits: int) -> None:
            say(
                f"  {name:<64}{s['median']:>10,.{digits}f}   ({s['low']:,.{digits}f} to {s['high']:,.{digits}f})"
            )

        say("training, steps per second: median (smallest to largest)")
        row("ours: CampaignMarket.play + train_step", speed["ours_steps_per_second"], 0)
        row("Stable-Baselines3: PPO.learn on the adapter", speed["sb3_steps_per_second"], 0)
        row("ratio, repetition by repetition", speed["steps_per_second_ratio"], 2)
        row("the same in processor seconds", speed["processor_time_ratio"], 2)
        say(f"  this process had {core_share:.0%} of its core; the rest went to others on this machine")
        say(f"parts alone, milliseconds per call of {EPISODES} episodes ({self.per_call} steps)")
        row("market only: play with random moves", part["market_only_ms"], 2)
        row("ours: play", part["ours_play_ms"], 2)
        row("ours: train_step on one batch", part["ours_update_only_ms"], 2)
        row("adapter only: VecEnv steps with random moves", part["adapter_only_ms"], 2)
        row("Stable-Baselines3: collect_rollouts", part["sb3_rollout_ms"], 2)
        row("Stable-Baselines3: train on one filled buffer", part["sb3_update_only_ms"], 2)
        per_second = EPISODES / (part["market_only_ms"]["median"] / 1e3)
        adapter = self.per_call / (part["adapter_only_ms"]["median"] / 1e3)
        say(f"  market only: {per_second:,.0f} episodes/s; adapter only: {adapter:,.0f} steps/s")
        say(f"learnt after {steps:,} steps, gain over the pacer in % of its score")
        for name, label in (("first", "mean reward of the first tenth of the episodes"),
                            ("last", "mean reward of the last tenth"),
                            ("held_out", f"by its mode on {len(HELD_OUT):,} worlds held out")):  # fmt: skip
            for who, called in (("ours", "ours"), ("sb3", "Stable-Baselines3")):
                row(f"{called}: {label}", {k: 100 * v for k, v in gains[f"{who}_{name}"].items()}, 1)
        return {
            **speed, **part, "gain_over_pacer": gains, "steps": steps, "repetitions": self.repetitions,
            "market_only_episodes_per_second": per_second, "adapter_only_steps_per_second": adapter,
            "compile": compiled, "core_share": core_share,
        }  # fmt: skip
