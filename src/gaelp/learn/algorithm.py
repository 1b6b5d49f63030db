"""What an algorithm is to the engine: a handful of pure functions over one state, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import equinox as eqx
import optax
from jax import Array

from gaelp.core.errors import BadInput, nearest
from gaelp.core.schema import AgentSchema
from gaelp.learn import dqn, ppo, sac
from gaelp.learn.experience import Experience, Report
from gaelp.learn.normalise import Normaliser
from gaelp.learn.policies import Policy


class Config(Protocol):
    """What the engine itself reads of an algorithm's settings; the rest is the algorithm's own."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def anchor_kl(self) -> float: ...
    @property
    def min_ess(self) -> float: ...


class State(Protocol):
    """What the engine itself reads of an algorithm's state, which is a pytree of plain arrays."""

    agent: eqx.Module
    normaliser: Normaliser
    optimiser: optax.ScaleByAdamState
    updates: Array
    calls: Array

    @property
    def policy(self) -> Policy: ...


class Update(Protocol):
    """One training call; see `ppo.update`."""

    def __call__(
        self,
        state: Any,
        experience: Experience,
        anchor: Policy,
        coefficients: Any,
        num_epochs: Any,
        batch_size: Any,
        limit: Any,
        *,
        width: int,
    ) -> tuple[Any, Report]: ...


def _as_given(coefficients: Any, state: Any) -> Any:
    return coefficients


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """The parts that every algorithm file has, so that engine and verification need not know which it is.

    scalars: the names of Report.scalars. networks: fields of the agent that are clipped together, in the
    order of the flat weight vector. objectives: by field, the scalar loss (agent, rows, coefficients) whose
    gradient in that field a step takes. first_minibatch: the rows of the first step, from the arguments of
    `update` without its limit. adam_eps: of the optimiser, whose decays are 0.9 and 0.999. in_force: coefficients and
    state -> the coefficients of the next call, where any follow a schedule; objectives are asked with these.
    """

    name: str
    config_type: type
    scalars: tuple[str, ...]
    networks: tuple[tuple[str, ...], ...]
    adam_eps: float
    init: Callable[[Any, AgentSchema, int, Array, Normaliser], Any]
    coefficients: Callable[[Any], Any]
    update: Update
    first_minibatch: Callable[..., Any]
    objectives: Mapping[str, Callable[[Any, Any, Any], Array]]
    in_force: Callable[[Any, Any], Any] = _as_given


PPO = Algorithm(
    name="ppo", config_type=ppo.PPOConfig, scalars=ppo.SCALARS, networks=ppo.NETWORKS, adam_eps=ppo.ADAM_EPS,
    init=ppo.init, coefficients=ppo.coefficients, update=ppo.update, first_minibatch=ppo.first_minibatch,
    objectives=ppo.OBJECTIVES, in_force=ppo.in_force,
)  # fmt: skip

DQN = Algorithm(
    name="dqn", config_type=dqn.DQNConfig, scalars=dqn.SCALARS, networks=dqn.NETWORKS, adam_eps=dqn.ADAM_EPS,
    init=dqn.init, coefficients=dqn.coefficients, update=dqn.update, first_minibatch=dqn.first_minibatch,
    objectives=dqn.OBJECTIVES,
)  # fmt: skip

SAC = Algorithm(
    name="sac", config_type=sac.SACConfig, scalars=sac.SCALARS, networks=sac.NETWORKS, adam_eps=sac.ADAM_EPS,
    init=sac.init, coefficients=sac.coefficients, update=sac.update, first_minibatch=sac.first_minibatch,
    objectives=sac.OBJECTIVES,
)  # fmt: skip

ALGORITHMS = {algorithm.name: algorithm for algorithm in (PPO, DQN, SAC)}


def algorithm_named(name: str) -> Algorithm:
    """Raises BadInput for a name that is none, with the nearest that is."""
    if name not in ALGORITHMS:
        raise BadInput(f"no algorithm {name!r}.{nearest(name, tuple(ALGORITHMS))}")
    return ALGORITHMS[name]
