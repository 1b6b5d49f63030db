"""The tasks of `make bench-learning`: steps, what must be reached, and with which settings each contestant trains.

It imports neither JAX nor torch: the parent process reads it before its workers are pinned. Settings are plain
numbers under the names that each contestant gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OURS, SB3, REJAX = "gaelp", "Stable-Baselines3", "Rejax"


@dataclass(frozen=True, kw_only=True)
class Ours:
    """One round of our loop: `environments` x `steps` decisions are played, then `train_step` is called.

    settings: of the algorithm's config; what is not named keeps its default. scales: what each observed number is
    multiplied by, where its size is known beforehand; none leaves them as they are.
    """

    environments: int
    steps: int
    batch_size: int
    num_epochs: int
    settings: Mapping[str, Any]
    scales: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """steps: environment steps each contestant trains for. bar: what our IQM must reach. zoo: the settings of
    Stable-Baselines3, from rl-baselines3-zoo; `lin_` numbers fall linearly to 0, as there. rejax: settings of Rejax,
    from its own configs/gymnax; none where it is no peer."""

    name: str
    environment: str
    algorithm: str
    steps: int
    bar: float
    ours: Ours
    zoo: Mapping[str, Any]
    rejax: Mapping[str, Any] | None = None

    @property
    def contestants(self) -> tuple[str, ...]:
        """Ours first."""
        return (OURS, SB3) if self.rejax is None else (OURS, SB3, REJAX)


# rl-baselines3-zoo, hyperparams/{ppo,dqn,sac}.yml; Rejax, configs/gymnax/cartpole.yaml (100,000 steps there).
TASKS = {
    task.name: task
    for task in (
        Task(
            name="ppo-cartpole", environment="CartPole-v1", algorithm="ppo", steps=500_000, bar=475.0,
            ours=Ours(environments=8, steps=256, batch_size=256, num_epochs=10, settings={
                "learning_rate": 1e-3, "learning_rate_final": 0.0, "anneal_updates": 19_500, "gamma": 0.98,
                "gae_lambda": 0.8, "reward_scale": 1.0, "hidden": (64, 64), "standardise": "minibatch",
            }),
            zoo={
                "n_envs": 8, "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
                "ent_coef": 0.0, "learning_rate": "lin_0.001", "clip_range": "lin_0.2",
            },
            rejax={
                "agent_kwargs": {"activation": "tanh"}, "num_envs": 5, "num_steps": 100, "num_epochs": 5,
                "num_minibatches": 5, "learning_rate": 0.00075, "max_grad_norm": 0.5, "gamma": 0.99, "gae_lambda": 0.95,
                "clip_eps": 0.2, "ent_coef": 0.01, "vf_coef": 0.5,
            },
        ),
        Task(
            name="dqn-cartpole", environment="CartPole-v1", algorithm="dqn", steps=200_000, bar=450.0,
            ours=Ours(environments=8, steps=32, batch_size=128, num_epochs=16, settings={
                "learning_rate": 5e-4, "gamma": 0.99, "reward_scale": 0.1, "hidden": (128, 128), "tau": 0.01,
                "epsilon_transitions": 32_000, "epsilon_final": 0.04, "replay_size": 100_000, "replay_steps": 32,
                "conservative": 0.0,
            }),
            zoo={
                "n_envs": 1, "learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000,
                "learning_starts": 1_000, "gamma": 0.99, "target_update_interval": 10, "train_freq": 256,
                "gradient_steps": 128, "exploration_fraction": 0.16, "exploration_final_eps": 0.04,
                "net_arch": (256, 256),
            },
        ),
        Task(
            name="dqn-acrobot", environment="Acrobot-v1", algorithm="dqn", steps=200_000, bar=-100.0,
            # Angular velocities reach 4 pi and 9 pi, and scaled numbers are clipped at 10.
            # The zoo's network, learning rate, exploration, memory and one gradient step a step.
            ours=Ours(environments=8, steps=32, batch_size=128, num_epochs=128, scales=(1, 1, 1, 1, 0.25, 0.15),
                      settings={
                "learning_rate": 6.3e-4, "gamma": 0.99, "reward_scale": 0.1, "hidden": (256, 256), "tau": 0.01,
                "epsilon_transitions": 24_000, "epsilon_final": 0.1, "replay_size": 50_000, "replay_steps": 32,
                "conservative": 0.0,
            }),
            zoo={
                "n_envs": 1, "learning_rate": 6.3e-4, "batch_size": 128, "buffer_size": 50_000, "learning_starts": 0,
                "gamma": 0.99, "target_update_interval": 250, "train_freq": 4, "gradient_steps": -1,
                "exploration_fraction": 0.12, "exploration_final_eps": 0.1, "net_arch": (256, 256),
            },
        ),
        Task(
            name="sac-pendulum", environment="Pendulum-v1", algorithm="sac", steps=20_000, bar=-160.0,
            ours=Ours(environments=1, steps=64, batch_size=256, num_epochs=64, settings={
                "learning_rate": 1e-3, "gamma": 0.99, "reward_scale": 0.1, "hidden": (256, 256), "tau": 0.005,
                "replay_size": 20_000, "replay_steps": 64, "conservative": 0.0,
            }),
            zoo={"n_envs": 1, "learning_rate": 1e-3},
        ),
        Task(
            name="ppo-pendulum", environment="Pendulum-v1", algorithm="ppo", steps=500_000, bar=-250.0,
            ours=Ours(environments=16, steps=128, batch_size=256, num_epochs=10, settings={
                "learning_rate": 1e-3, "learning_rate_final": 0.0, "anneal_updates": 19_500, "gamma": 0.95,
                "gae_lambda": 0.95, "reward_scale": 0.05, "hidden": (64, 64), "standardise": "minibatch",
            }),
            zoo={
                "n_envs": 4, "n_steps": 1_024, "gae_lambda": 0.95, "gamma": 0.9, "n_epochs": 10, "ent_coef": 0.0,
                "learning_rate": 1e-3, "clip_range": 0.2, "use_sde": True, "sde_sample_freq": 4,
            },
        ),
    )
}  # fmt: skip
