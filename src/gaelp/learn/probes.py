"""Canaries: the same code, in worlds whose answer is known, before anybody believes what it says of other worlds.

Four kinds of answer. A value that can be computed by hand: constant reward, reward by observation, reward two steps
later, an episode that ends against one that was cut. A best move: by action, by observation and action. An optimum
from the theory of auctions: in a second price auction the bid is the value; with a budget, linear programming
duality says that one threshold on value per cost is best in every step. And no answer at all: where the reward does
not depend on the move, verification must not say LEARNING.

All worlds and seeds train at once. `python -m gaelp.learn.probes` runs them in a process of their own and leaves the
results in a file, named by configuration and version of the code, that is found again the next time.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from gaelp.core.episode import End
from gaelp.core.errors import BadInput, StoreError
from gaelp.core.schema import Actions, TaskSchema
from gaelp.learn import tabular
from gaelp.learn.algorithm import Algorithm, algorithm_named
from gaelp.learn.networks import forward
from gaelp.learn.normalise import unscaled
from gaelp.learn.runtime import enable_compilation_cache
from gaelp.learn.tabular import HIDDEN, Practice, World, world
from gaelp.learn.verify import Canaries, Canary, Terms, judge_paired_return
from gaelp.learn.weighing import Contest, returns_of

SEEDS, NEEDED = 10, 9
"""Runs of every canary, and how many of them must find the answer."""
CLOSE = 0.95
"""Share of the optimum that is the answer; a value may be off by what is left of it."""

STATES, MOVES, OUTCOMES, STEPS = 32, 4, 8, 3
"""Every probe is padded to one size, so that all are one compiled program."""


class Kind(StrEnum):
    """What is asked of the trained agent: values of states, an expected return, or that it claims nothing."""

    VALUE = "value"
    RETURN = "return"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Probe:
    """A world with a known answer. answer: by state the value (NaN where nobody comes), or one number, the optimum."""

    name: str
    asks: str
    kind: Kind
    world: World
    gamma: float
    answer: NDArray[np.float64]


def probes() -> tuple[Probe, ...]:
    """The nine worlds; each answer is worked out beside its table and holds for backward induction as well."""
    return (
        _constant(), _by_observation(), _delayed(), _cut_or_ended(), _by_action(), _by_both(), _second_price(),
        _budgeted(), _without_choice(),
    )  # fmt: skip


class _Table:
    """Tables under construction: every state ends its episode, allows only move 0 and pays nothing until told."""

    def __init__(self) -> None:
        shape = (STATES, MOVES, OUTCOMES)
        self.start = np.zeros(OUTCOMES, np.int64)
        self.reward = np.zeros(shape)
        self.follow = np.zeros(shape, np.int64)
        self.end = np.full(shape, End.TERMINATED, np.int64)
        self.allowed = np.zeros((STATES, MOVES), bool)
        self.allowed[:, 0] = True

    def build(self) -> World:
        return world(
            start=self.start, reward=self.reward, follow=self.follow, end=self.end, allowed=self.allowed
        )


def _values(known: Mapping[int, float]) -> NDArray[np.float64]:
    answer = np.full(STATES, np.nan)
    for state, value in known.items():
        answer[state] = value
    return answer


def _constant() -> Probe:
    table = _Table()
    table.reward[0] = 1.0
    return Probe(
        "constant reward", "one state, one move, reward 1: the value is 1", Kind.VALUE, table.build(), 0.5,
        _values({0: 1.0}),
    )  # fmt: skip


def _by_observation() -> Probe:
    table = _Table()
    table.start[:] = np.arange(OUTCOMES) % 2
    table.reward[0], table.reward[1] = 1.0, -1.0
    return Probe(
        "reward by observation", "two states pay 1 and -1: these are their values", Kind.VALUE, table.build(), 0.5,
        _values({0: 1.0, 1: -1.0}),
    )  # fmt: skip


def _delayed() -> Probe:
    table = _Table()
    table.end[:2] = End.RUNNING
    table.follow[0], table.follow[1] = 1, 2
    table.reward[2] = 1.0
    return Probe(
        "reward two steps later", "1 two steps later, at a discount of 0.5: the values are 0.25, 0.5 and 1",
        Kind.VALUE, table.build(), 0.5, _values({0: 0.25, 1: 0.5, 2: 1.0}),
    )  # fmt: skip


def _cut_or_ended() -> Probe:
    table = _Table()
    table.start[:] = np.arange(OUTCOMES) % 2
    table.reward[:2] = 1.0
    # State 1 leads back to itself and is cut there: V = 1 + 0.5 V.
    table.end[1] = End.TRUNCATED
    table.follow[1] = 1
    return Probe(
        "ended or cut", "both pay 1; what ended is worth 1, what was only cut 1 / (1 - 0.5) = 2", Kind.VALUE,
        table.build(), 0.5, _values({0: 1.0, 1: 2.0}),
    )  # fmt: skip


def _by_action() -> Probe:
    table = _Table()
    table.allowed[0] = True
    table.reward[0, 3] = 1.0
    return Probe(
        "reward by action",
        "move 3 pays 1, the others nothing",
        Kind.RETURN,
        table.build(),
        0.5,
        np.array(1.0),
    )


def _by_both() -> Probe:
    table = _Table()
    table.start[:] = np.arange(OUTCOMES) % 4
    table.allowed[:4] = True
    table.reward[np.arange(4), np.arange(4)] = 1.0
    return Probe(
        "reward by observation and action", "in state s move s pays 1: the best constant earns 0.25, the answer 1",
        Kind.RETURN, table.build(), 0.5, np.array(1.0),
    )  # fmt: skip


def _second_price() -> Probe:
    """Values 1/4, 2/4, 3/4 and 1 alike. A move bids one of the same four in eight auctions, with the rival's bid
    at each of eight midpoints. Bidding the value earns, at value v, the sum over prices p < v of v - p: 4 v^2."""
    table = _Table()
    value, price = (np.arange(4) + 1) / 4, (np.arange(8) + 0.5) / 8
    table.start[:] = np.arange(OUTCOMES) % 4
    table.allowed[:4] = True
    profit = np.where(value[:, None] > price, value[:, None, None] - price, 0.0).sum(axis=-1)
    table.reward[:4] = profit[:, :, None] / 2.0
    return Probe(
        "second price auction", "the bid is the value, and earns the mean of 2 v^2 over four values, 0.9375",
        Kind.RETURN, table.build(), 0.5, np.array(np.mean(2.0 * value**2)),
    )  # fmt: skip


COSTS, WORTHS = (1, 2, 3), (3.0, 3.0, 2.0)
"""Three offers in each of three steps, by falling value per cost: 3, 3/2 and 2/3."""
BUDGETS = (3, 9)


def _budgeted() -> Probe:
    """A move is a threshold: buy nothing, what gives at least 3 per cost, at least 3/2, or all three, while the budget
    lasts. The dual of max sum x_i v_i with sum x_i c_i <= B is solved by one price of money for all steps: with
    budget 3 only the first offer is bought, 3 times for 9; with budget 9 the first two, 3 times for 18."""
    table = _Table()
    widest = max(BUDGETS) + 1
    # State: step x 10 + budget left.
    for step in range(STEPS):
        for left in range(widest):
            state = step * widest + left
            table.allowed[state] = True
            for threshold in range(MOVES):
                money, earned = left, 0.0
                for cost, worth in zip(COSTS[:threshold], WORTHS[:threshold], strict=True):
                    if cost <= money:
                        money, earned = money - cost, earned + worth
                table.reward[state, threshold] = earned / 6.0
                if step + 1 < STEPS:
                    table.end[state, threshold] = End.RUNNING
                    table.follow[state, threshold] = (step + 1) * widest + money
    table.start[:] = np.array(BUDGETS)[np.arange(OUTCOMES) % 2]
    return Probe(
        "budgeted knapsack", "one threshold in every step earns 9 with budget 3 and 18 with budget 9, in sixths",
        Kind.RETURN, table.build(), 1.0, np.array((9.0 + 18.0) / 2.0 / 6.0),
    )  # fmt: skip


def _without_choice() -> Probe:
    table = _Table()
    table.start[:] = np.arange(OUTCOMES) % 4
    table.allowed[:4] = True
    # By state and by luck, never by move.
    table.reward[:4] = (np.arange(4)[:, None, None] - 1.5) / 3.0 + (np.arange(OUTCOMES) - 3.5) / 7.0
    return Probe(
        "nothing to learn", "the reward does not depend on the move: no verdict may be LEARNING", Kind.NOTHING,
        table.build(), 0.5, np.array(0.0),
    )  # fmt: skip


SMALL: Mapping[str, Mapping[str, object]] = {
    "ppo": {"hidden": (16, 16), "reward_scale": 1.0, "anchor_kl": 0.0},
    "dqn": {
        "hidden": (16, 16), "reward_scale": 1.0, "anchor_kl": 0.0, "replay_size": 1536, "replay_steps": STEPS,
        "epsilon_transitions": 3000, "tau": 0.02, "target_every": 1,
    },
    "sac": {
        "hidden": (16, 16), "reward_scale": 1.0, "anchor_kl": 0.0, "replay_size": 1536, "replay_steps": STEPS,
        "tau": 0.02, "temperature": 0.2,
    },
}  # fmt: skip
"""What a probe's size asks for, by algorithm; everything else is the run's own."""

LEARNING_RATE = 3e-3
"""For networks of 16 units and a few thousand steps; a run with learning rate 0 keeps it."""

PRACTICE: Mapping[str, Practice] = {
    "ppo": Practice(calls=200, episodes=32, steps=STEPS, num_epochs=4, batch_size=32),
    "dqn": Practice(calls=240, episodes=16, steps=STEPS, num_epochs=4, batch_size=32),
    "sac": Practice(calls=240, episodes=16, steps=STEPS, num_epochs=4, batch_size=32),
}


def small_config(algorithm: Algorithm, config: Any) -> Any:
    """The run's configuration with networks, rewards and memory of a probe's size."""
    if algorithm.name not in SMALL:
        raise BadInput(f"no canaries are known for {algorithm.name!r}: known are {', '.join(SMALL)}.")
    rate = LEARNING_RATE if config.learning_rate > 0 else 0.0
    return replace(config, learning_rate=rate, **SMALL[algorithm.name])


def run_canaries(
    algorithm: Algorithm, config: Any, actions: Actions, asked: tuple[Probe, ...] | None = None
) -> Canaries:
    """Train the small agent in every probe with SEEDS seeds, all at once, and compare with what is known."""
    chosen = probes() if asked is None else asked
    small = small_config(algorithm, config)
    schema = tabular.schema_of("canary", STATES, MOVES, actions)
    fresh = [
        algorithm.init(small, schema, HIDDEN, jax.random.key(seed), unscaled(STATES, HIDDEN))
        for seed in range(SEEDS)
    ]
    begun = jax.tree.map(lambda *xs: jnp.stack(xs), *fresh)
    worlds = jax.tree.map(lambda *xs: jnp.stack(xs), *(probe.world for probe in chosen))
    coefficients = algorithm.coefficients(small)
    gammas = jnp.asarray([probe.gamma for probe in chosen], jnp.float32)
    practice = PRACTICE[algorithm.name]

    @jax.jit
    def trained(worlds: World, gammas: Array, begun: Any, keys: Array) -> Any:
        def one(world: World, gamma: Array, state: Any, key: Array) -> Any:
            return tabular.train(
                algorithm, schema, practice, world, state, replace(coefficients, gamma=gamma), key
            ).state

        seeds = jax.vmap(one, in_axes=(None, None, 0, 0))
        return jax.vmap(seeds, in_axes=(0, 0, None, None))(worlds, gammas, begun, keys)

    after = trained(worlds, gammas, begun, jax.random.split(jax.random.key(SEEDS), SEEDS))
    results = []
    for i, probe in enumerate(chosen):
        states = jax.tree.map(lambda x, i=i: x[i], after)
        results.append(_judge(algorithm, schema, probe, begun, states))
    return Canaries(key=canary_key(algorithm, config, actions), results=tuple(results))


def _judge(algorithm: Algorithm, schema: TaskSchema, probe: Probe, begun: Any, states: Any) -> Canary:
    if probe.kind is Kind.VALUE:
        believed = np.asarray(jax.vmap(lambda s: believed_values(algorithm, schema, probe.world, s))(states))
        known = ~np.isnan(probe.answer)
        off = np.abs(believed[..., known] - probe.answer[known]).max(axis=(-2, -1))
        shares = 1.0 - off / np.abs(probe.answer[known]).max()
    elif probe.kind is Kind.RETURN:
        moves = jax.vmap(lambda s: tabular.mode_moves(probe.world, schema, s.policy))(states)
        shares = np.asarray(jax.vmap(lambda m: tabular.worth(probe.world, m, STEPS))(moves)) / probe.answer
    else:
        seeds = np.arange(1 << 20, (1 << 20) + 200)
        found = returns_of(Contest(schema, probe.world, STEPS), begun, states, seeds)
        shares = 1.0 - np.asarray([bool(judge_paired_return(each, Terms())) for each in found], np.float64)
    enough = np.asarray(shares >= CLOSE)
    needed = SEEDS if probe.kind is Kind.NOTHING else NEEDED
    lowest = float(np.nan_to_num(shares, nan=-1.0).min())
    return Canary(
        name=probe.name, asks=probe.asks, seeds=SEEDS, passed=int(enough.sum()), needed=needed,
        lowest=round(lowest, 4),
    )  # fmt: skip


def believed_values(algorithm: Algorithm, schema: TaskSchema, world: World, state: Any) -> Array:
    """What the agent's critics [C, S] believe every state to be worth, where nothing is to be chosen."""
    seen = state.normaliser.observation(jnp.eye(world.states))
    agent = state.agent
    if algorithm.name == "ppo":
        informed = jnp.concatenate([seen, jnp.zeros((world.states, HIDDEN))], axis=-1)
        return jnp.stack([forward(agent.critic, seen)[:, 0], forward(agent.privileged, informed)[:, 0]])
    if algorithm.name == "dqn":
        return jnp.max(jnp.where(world.allowed, agent.q.q_values(seen), -jnp.inf), axis=-1)[None]
    if schema.actions is Actions.RESIDUALS:
        seen = jnp.concatenate([seen, jnp.zeros((world.states, 1))], axis=-1)
    both = jax.vmap(lambda critic: forward(critic, seen, jax.nn.relu))(agent.critic)
    if schema.actions is Actions.RESIDUALS:
        return both[..., 0]
    return jnp.max(jnp.where(world.allowed, both, -jnp.inf), axis=-1)


def canary_key(algorithm: Algorithm, config: Any, actions: Actions) -> str:
    """Identity of the answers: configuration, algorithm, the code of this package and of what it computes with."""
    digest = hashlib.sha256()
    told = {"algorithm": algorithm.name, "actions": str(actions), "config": asdict(config)}
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    here = Path(__file__).parent
    for file in (*sorted(here.glob("*.py")), here.parent / "core" / "episode.py"):
        digest.update(file.name.encode() + file.read_bytes())
    for package in ("jax", "jaxlib", "numpy", "optax"):
        digest.update(f"{package} {importlib.metadata.version(package)};".encode())
    return digest.hexdigest()[:32]


def write_canaries(path: Path, canaries: Canaries) -> None:
    """Leave the results at `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(canaries.payload(), indent=1), encoding="utf-8")
    draft.replace(path)


def read_canaries(path: Path, key: str) -> Canaries:
    """Results back. Raises StoreError when they are of another configuration or cannot be read."""
    try:
        found = Canaries.from_payload(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"canaries: {path} cannot be read: {error}.") from error
    if found.key != key:
        raise StoreError(f"canaries: {path} holds those of {found.key}, wanted are {key}; remove the file.")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the canaries of a configuration and leave them in a file; what `gaelp` starts beside a journey."""
    parser = argparse.ArgumentParser(prog="python -m gaelp.learn.probes", description=main.__doc__)
    parser.add_argument("--algorithm", required=True)
    parser.add_argument("--config", required=True, help="the algorithm's settings as JSON")
    parser.add_argument("--actions", default=str(Actions.MOVES))
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--compile-cache", type=Path)
    told = parser.parse_args(arguments)
    if told.compile_cache is not None:
        enable_compilation_cache(told.compile_cache)
    algorithm = algorithm_named(told.algorithm)
    plain = json.loads(told.config)
    config = algorithm.config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()})
    write_canaries(told.out, run_canaries(algorithm, config, Actions(told.actions)))


if __name__ == "__main__":
    main()
