"""Learners that do not learn and verifiers that are fooled: what learning verification must never call LEARNING.

Each saboteur is an Algorithm with a replaced function, or a judgement on spoilt grounds. A hundred of each train at
once in a small ad world, and every run is judged by `verify.judge_learning` on all the evidence there is. Reports of
saboteurs lie as well as they can: they repeat what an honest call would have said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gaelp.core.episode import End
from gaelp.core.schema import Actions
from gaelp.core.verdict import PASS
from gaelp.learn import tabular
from gaelp.learn.algorithm import Algorithm, algorithm_named
from gaelp.learn.dqn import DQNConfig
from gaelp.learn.experience import PER_TENSOR, Experience
from gaelp.learn.export import hash_of
from gaelp.learn.mechanism import Call, audit
from gaelp.learn.normalise import unscaled
from gaelp.learn.policies import policy_arrays
from gaelp.learn.ppo import PPOConfig
from gaelp.learn.probes import run_canaries
from gaelp.learn.sac import SACConfig
from gaelp.learn.tabular import HIDDEN, Practice, Trained, World, world
from gaelp.learn.verify import (
    Canaries,
    Depth,
    LearningVerdict,
    Outcome,
    Recorded,
    Reload,
    Terms,
    Trail,
    judge_learning,
)
from gaelp.learn.weighing import Contest, lane, trail_of, trials_of

MOVES, STEPS = 8, 2
HELD_OUT, SEEDS = 1 << 20, 400
TWIN_SHARE = 10


def ad_world() -> World:
    """Two second price auctions after each other: 8 values, 8 bids, the rival's bid at one of 8 midpoints.

    The middle bid, which the untrained agent makes, is also the best constant one; bidding by value earns a quarter
    more. 64 outcomes: the rival's bid now and the value next.
    """
    value, bid = (np.arange(8) + 1) / 8, np.arange(MOVES) / (MOVES - 1)
    luck = np.arange(64)
    price = (luck % 8 + 0.5) / 8
    profit = 2.0 * np.where(bid[None, :, None] > price, value[:, None, None] - price, 0.0)
    return _two_steps(profit)


def null_world() -> World:
    """The same auctions, if every bid earned the same on average and something else each time: nothing to learn."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 0.3, (8, MOVES, 64))
    return _two_steps(noise - noise.mean(axis=-1, keepdims=True) + 0.3)


def easier(harder: World, by: float) -> World:
    """The same world, paying more whatever one does."""
    return eqx.tree_at(lambda w: w.reward, harder, harder.reward + by)


def _two_steps(profit: np.ndarray) -> World:
    following = np.broadcast_to(np.arange(64) // 8, profit.shape)
    running = np.full(profit.shape, End.RUNNING)
    return world(
        start=np.arange(64) // 8, reward=np.concatenate([profit, profit]),
        follow=np.concatenate([following + 8, following]),
        end=np.concatenate([running, np.full(profit.shape, End.TERMINATED)]),
        allowed=np.ones((16, MOVES), bool),
    )  # fmt: skip


CONFIGS: dict[str, Any] = {
    "ppo": PPOConfig(learning_rate=3e-3, hidden=(16, 16), reward_scale=1.0, entropy=0.02),
    "dqn": DQNConfig(
        learning_rate=3e-3, hidden=(16, 16), reward_scale=1.0, replay_size=4096, replay_steps=STEPS, tau=0.02,
        epsilon_transitions=4000, zero_bias=0.2,
    ),
    "sac": SACConfig(
        learning_rate=3e-3, hidden=(16, 16), reward_scale=1.0, replay_size=4096, replay_steps=STEPS, tau=0.02,
        temperature=0.2, move_entropy=0.2, gamma=1.0,
    ),
}  # fmt: skip
PRACTICE = {
    name: Practice(calls=160, episodes=32, steps=STEPS, num_epochs=4, batch_size=32) for name in CONFIGS
}
SCHEMA = tabular.schema_of("saboteurs", 16, MOVES, Actions.MOVES)

Update = Callable[..., tuple[Any, Any]]


# Ways to spoil an algorithm.


def with_update(algorithm: Algorithm, spoil: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Algorithm:
    """`spoil` (state before, state after, report) gives what the call hands back instead."""

    def update(state: Any, *rest: Any, width: int) -> tuple[Any, Any]:
        after, report = algorithm.update(state, *rest, width=width)
        return spoil(state, after, report)

    return replace(algorithm, update=update)


def with_experience(algorithm: Algorithm, spoil: Callable[[Any, Experience], Experience]) -> Algorithm:
    """The call and its minibatches see other episodes, consistently: its arithmetic is then beyond reproach."""

    def update(state: Any, played: Experience, *rest: Any, width: int) -> tuple[Any, Any]:
        return algorithm.update(state, spoil(state, played), *rest, width=width)

    def first_minibatch(state: Any, played: Experience, *rest: Any, width: int) -> Any:
        return algorithm.first_minibatch(state, spoil(state, played), *rest, width=width)

    return replace(algorithm, update=update, first_minibatch=first_minibatch)


def as_it_is(algorithm: Algorithm) -> Algorithm:
    """The honest code."""
    return algorithm


def frozen(algorithm: Algorithm) -> Algorithm:
    """Weights are put back after every call; the report tells of changes."""
    return with_update(algorithm, lambda before, after, report: (_agent(after, before.agent), report))


def noise(algorithm: Algorithm) -> Algorithm:
    """Every tensor moves as far as it would have, in a random direction."""

    def spoil(before: Any, after: Any, report: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(after.agent)
        keys = jax.random.split(jax.random.wrap_key_data(before.key), len(leaves))
        moved = []
        for old, new, key in zip(jax.tree.leaves(before.agent), leaves, keys, strict=True):
            direction = jax.random.normal(key, old.shape)
            length = jnp.linalg.norm((new - old).ravel())
            moved.append(old + direction * length / jnp.maximum(jnp.linalg.norm(direction.ravel()), 1e-12))
        return _agent(after, jax.tree.unflatten(structure, moved)), report

    return with_update(algorithm, spoil)


def uphill(algorithm: Algorithm) -> Algorithm:
    """Every step goes the other way: the loss with its sign flipped."""

    def spoil(before: Any, after: Any, report: Any) -> tuple[Any, Any]:
        return _agent(after, jax.tree.map(lambda old, new: 2 * old - new, before.agent, after.agent)), report

    return with_update(algorithm, spoil)


def first_layer_left_out(algorithm: Algorithm) -> Algorithm:
    """The optimiser was never given the first layer of what acts; its gradient is told."""
    return with_update(algorithm, _without_first_layer("weight_change"))


def detached(algorithm: Algorithm) -> Algorithm:
    """The graph is cut behind the first layer of what acts: no gradient, no change."""
    return with_update(
        algorithm, _without_first_layer("weight_change", "gradient_norm_before", "gradient_norm_after")
    )


def _without_first_layer(*silent: str) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    def spoil(before: Any, after: Any, report: Any) -> tuple[Any, Any]:
        # Its weight is the first tensor of every agent, and so the head of the flat moments.
        leaves, structure = jax.tree.flatten(after.agent)
        old = jax.tree.leaves(before.agent)[0]
        agent = jax.tree.unflatten(structure, [old, *leaves[1:]])
        mu, nu = (
            getattr(after.optimiser, name).at[: old.size].set(getattr(before.optimiser, name)[: old.size])
            for name in ("mu", "nu")
        )
        moments = after.optimiser._replace(mu=mu, nu=nu)
        told = report.per_tensor
        for name in silent:
            told = told.at[PER_TENSOR.index(name), 0].set(0.0)
        spoilt = eqx.tree_at(lambda s: s.optimiser, _agent(after, agent), moments)
        return spoilt, eqx.tree_at(lambda r: r.per_tensor, report, told)

    return spoil


def drift(algorithm: Algorithm) -> Algorithm:
    """Nothing is learned; call by call the highest bid becomes likelier, until it is always made."""

    def spoil(before: Any, after: Any, report: Any) -> tuple[Any, Any]:
        return _agent(after, _with_bias(before.agent, lambda bias: bias.at[MOVES - 1].add(0.05))), report

    return with_update(algorithm, spoil)


def always_highest(algorithm: Algorithm) -> Algorithm:
    """An honest learner whose highest bid is then made certain."""

    def spoil(before: Any, after: Any, report: Any) -> tuple[Any, Any]:
        return _agent(after, _with_bias(after.agent, lambda bias: bias.at[MOVES - 1].set(50.0))), report

    return with_update(algorithm, spoil)


def shuffling(algorithm: Algorithm) -> Algorithm:
    """Rewards are permuted over the transitions of every call."""
    return with_experience(
        algorithm, lambda state, played: tabular.shuffled(played, jax.random.wrap_key_data(state.key))
    )


def flipped_reward(algorithm: Algorithm) -> Algorithm:
    """What costs is praised."""
    return with_experience(algorithm, lambda state, played: _rewarded(played, -played.reward))


def shaped(algorithm: Algorithm) -> Algorithm:
    """Paid for winning auctions instead of for profit: bidding high is always praised."""

    def spoil(state: Any, played: Experience) -> Experience:
        return _rewarded(played, played.reward * 0.1 + played.action / (MOVES - 1))

    return with_experience(algorithm, spoil)


def one_transition(algorithm: Algorithm) -> Algorithm:
    """One transition a call: its advantage is normalised to nothing."""

    def spoil(state: Any, played: Experience) -> Experience:
        b, t = played.valid.shape
        only = (jnp.arange(b)[:, None] == 0) & (jnp.arange(t)[None] == 0)
        return eqx.tree_at(lambda e: e.valid, played, played.valid & only)

    return with_experience(algorithm, spoil)


def cut_is_ended(algorithm: Algorithm) -> Algorithm:
    """No value is bootstrapped where an episode was only cut."""

    def spoil(state: Any, played: Experience) -> Experience:
        ended = jnp.where(played.end == End.TRUNCATED, End.TERMINATED, played.end).astype(played.end.dtype)
        return eqx.tree_at(lambda e: e.end, played, ended)

    return with_experience(algorithm, spoil)


def ended_is_cut(algorithm: Algorithm) -> Algorithm:
    """A value is bootstrapped where an episode has ended."""

    def spoil(state: Any, played: Experience) -> Experience:
        cut = jnp.where(played.end == End.TERMINATED, End.TRUNCATED, played.end).astype(played.end.dtype)
        return eqx.tree_at(lambda e: e.end, played, cut)

    return with_experience(algorithm, spoil)


def without_discount(algorithm: Algorithm) -> Algorithm:
    """Gamma is 1 whatever the configuration says."""

    def undiscounted(c: Any) -> Any:
        return replace(c, gamma=jnp.ones_like(c.gamma))

    def update(state: Any, played: Any, anchor: Any, c: Any, *rest: Any, width: int) -> tuple[Any, Any]:
        return algorithm.update(state, played, anchor, undiscounted(c), *rest, width=width)

    def first_minibatch(state: Any, played: Any, anchor: Any, c: Any, *rest: Any, width: int) -> Any:
        return algorithm.first_minibatch(state, played, anchor, undiscounted(c), *rest, width=width)

    return replace(algorithm, update=update, first_minibatch=first_minibatch)


def _agent(state: Any, agent: Any) -> Any:
    return eqx.tree_at(lambda s: s.agent, state, agent)


def _rewarded(played: Experience, reward: Array) -> Experience:
    return eqx.tree_at(lambda e: e.reward, played, jnp.where(played.valid, reward, 0.0))


def _with_bias(agent: Any, change: Callable[[Array], Array]) -> Any:
    """The output bias of what acts, changed."""

    def bias(agent: Any) -> Array:
        fields = type(agent).__dataclass_fields__
        return agent.q.advantage.bias if "q" in fields else agent.actor[-1].bias

    return eqx.tree_at(bias, agent, change(bias(agent)))


# The runs.


@dataclass(frozen=True)
class Bench:
    """One algorithm's honest code, what its canaries found, and 100 untrained agents with their shuffled twins."""

    algorithm: Algorithm
    config: Any
    practice: Practice
    canaries: Canaries
    begun: Any
    keys: Array
    twins: Any

    @property
    def runs(self) -> int:
        return int(self.keys.shape[0])


def set_up(name: str, runs: int, canaries: Canaries | None = None) -> Bench:
    """Canaries, fresh agents, and twins trained a tenth of the calls on shuffled rewards."""
    algorithm, config, practice = algorithm_named(name), CONFIGS[name], PRACTICE[name]
    fresh = [
        algorithm.init(config, SCHEMA, HIDDEN, jax.random.key(seed), unscaled(16, HIDDEN))
        for seed in range(runs)
    ]
    begun = jax.tree.map(lambda *xs: jnp.stack(xs), *fresh)
    keys = jax.random.split(jax.random.key(1), runs)
    found = run_canaries(algorithm, config, Actions.MOVES) if canaries is None else canaries
    tenth = practice._replace(calls=practice.calls // TWIN_SHARE)
    twins = train_all(algorithm, config, tenth, ad_world(), begun, keys, tabular.shuffled).state
    return Bench(algorithm, config, practice, found, begun, keys, twins)


def train_all(
    algorithm: Algorithm,
    config: Any,
    practice: Practice,
    where: World,
    begun: Any,
    keys: Array,
    twist: tabular.Twist = tabular.as_played,
) -> Trained:
    """Every run at once."""
    program = _trainer(algorithm.name, algorithm.update, practice, twist)
    return jax.block_until_ready(program(where, algorithm.coefficients(config), begun, keys))


@lru_cache(maxsize=3)
def _trainer(name: str, update: Update, practice: Practice, twist: tabular.Twist) -> Callable[..., Trained]:
    """Compiled once for all saboteurs that share their code and differ in grounds or worlds only."""
    algorithm = replace(algorithm_named(name), update=update)

    @jax.jit
    def trained(where: World, coefficients: Any, begun: Any, keys: Array) -> Trained:
        return jax.vmap(
            lambda state, key: tabular.train(
                algorithm, SCHEMA, practice, where, state, coefficients, key, twist
            )
        )(begun, keys)

    return trained


@lru_cache(maxsize=3)
def _spoilt(name: str, spoil: Callable[[Algorithm], Algorithm]) -> Algorithm:
    """The same spoilt code for the same way to spoil it, so that it is compiled once."""
    return spoil(algorithm_named(name))


@partial(jax.jit, static_argnames="practice")
def _play(where: World, policy: Any, key: Array, *, practice: Practice) -> Experience:
    return tabular.play(where, SCHEMA, policy, key, practice.episodes, practice.steps)


def audited(
    bench: Bench, algorithm: Algorithm, config: Any, trails: list[Trail], where: World
) -> list[Trail]:
    """The trails with what a second look at each run's first call finds."""
    coefficients = algorithm.coefficients(config)
    practice = bench.practice
    out = []
    for i, trail in enumerate(trails):
        state = lane(bench.begun, i)
        playing, _ = jax.random.split(jax.random.split(bench.keys[i], practice.calls)[0])
        call = Call(
            state=state, experience=_play(where, state.policy, playing, practice=practice), anchor=state.policy,
            coefficients=coefficients,
            num_epochs=np.int32(practice.num_epochs), batch_size=np.int32(practice.batch_size),
            width=practice.batch_size,
        )  # fmt: skip
        after, _ = algorithm.update(
            call.state, call.experience, call.anchor, call.coefficients, call.num_epochs, call.batch_size,
            np.int32(2**31 - 1), width=call.width,
        )  # fmt: skip
        found = audit(algorithm, call, after)
        out.append(replace(trail, audits=1, last_audit=1, worst=found.worst, faults=found.faults))
    return out


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was said of the runs of one saboteur: verdicts, and of how many each part did not PASS."""

    name: str
    verdicts: tuple[LearningVerdict, ...]

    @property
    def learning(self) -> int:
        return sum(bool(verdict) for verdict in self.verdicts)

    def denied_by(self, part: str) -> int:
        return sum(part in v.parts and v.parts[part].ruling is not PASS for v in self.verdicts)

    def denied_by_alone(self, part: str) -> int:
        """Runs that a verifier with this part replaced by PASS would have called LEARNING."""
        return sum(
            [name for name, each in v.parts.items() if each.ruling is not PASS] == [part]
            for v in self.verdicts
        )

    def outcomes(self) -> dict[str, int]:
        names = [str(v.outcome) for v in self.verdicts]
        return {str(o): names.count(str(o)) for o in Outcome if str(o) in names}


@dataclass(frozen=True, kw_only=True)
class Saboteur:
    """A way to spoil the algorithm, and on what grounds its runs are then judged.

    own_canaries: they are run with the spoilt code; else those of the honest code are given to it, which makes the
    other parts work for their verdict. judged_in: another world than it was trained in. only: the algorithms it
    exists for.
    """

    name: str
    spoil: Callable[[Algorithm], Algorithm] = as_it_is
    own_canaries: bool = False
    learning_rate: float | None = None
    trained_in: Callable[[], World] = ad_world
    judged_in: Callable[[], World] = ad_world
    judge_copy: bool = False
    saves_old_weights: bool = False
    trained_on_held_out: bool = False
    looks: int = 1
    only: tuple[str, ...] = ("ppo", "dqn", "sac")


HONEST = Saboteur(name="honest")
NULLS = (
    Saboteur(name="nothing to learn", trained_in=null_world, judged_in=null_world),
    # The world's fault and not the code's, so the canaries live; a few of such weights are better by luck, and stay so.
    Saboteur(name="rewards shuffled by the world", spoil=shuffling),
)
"""Honest code where nothing can be learned: LEARNING in at most 5 %."""
SABOTEURS = (
    Saboteur(name="learning rate 0", learning_rate=0.0),
    Saboteur(name="learner trains a copy", judge_copy=True),
    Saboteur(name="what is saved is not what plays", saves_old_weights=True),
    Saboteur(name="evaluation on training seeds", trained_on_held_out=True),
    Saboteur(name="the world became easier", learning_rate=1e-7, judged_in=lambda: easier(ad_world(), 0.2)),
    Saboteur(name="lucky seed: the best of 10 looks", trained_in=null_world, judged_in=null_world, looks=10),
    Saboteur(name="frozen weights", spoil=frozen),
    Saboteur(name="detached graph", spoil=detached),
    Saboteur(name="parameter missing in the optimiser", spoil=first_layer_left_out),
    Saboteur(name="noise instead of gradients", spoil=noise),
    Saboteur(name="loss with flipped sign", spoil=uphill),
    Saboteur(name="drift to the highest bid", spoil=drift),
    Saboteur(name="always the highest bid", spoil=always_highest),
    Saboteur(name="one transition a call", spoil=one_transition, only=("ppo",), own_canaries=True),
    Saboteur(name="shuffled rewards", spoil=shuffling, own_canaries=True),
    Saboteur(name="reward with flipped sign", spoil=flipped_reward, own_canaries=True),
    Saboteur(name="shaped reward", spoil=shaped, own_canaries=True),
    Saboteur(name="what was cut counts as ended", spoil=cut_is_ended, own_canaries=True),
    Saboteur(name="what ended counts as cut", spoil=ended_is_cut, own_canaries=True),
    Saboteur(name="gamma is 1", spoil=without_discount, own_canaries=True),
)


def reloaded(contest: Contest, judged: Any, saved: Any) -> list[Reload]:
    """What the weights that were judged and those that were saved do in every state of the world."""
    one, other = (
        np.asarray(jax.vmap(lambda s: tabular.mode_moves(contest.world, SCHEMA, s.policy))(each))
        for each in (judged, saved)
    )
    return [Reload(asked=len(a), same=int((a == b).sum())) for a, b in zip(one, other, strict=True)]


def play_out(bench: Bench, saboteur: Saboteur) -> Told:
    """Train all runs of a saboteur and judge each by everything there is."""
    algorithm = _spoilt(bench.algorithm.name, saboteur.spoil)
    config = bench.config
    if saboteur.learning_rate is not None:
        config = replace(config, learning_rate=saboteur.learning_rate)
    where = saboteur.trained_in()
    trained = train_all(algorithm, config, bench.practice, where, bench.begun, bench.keys)
    canaries = run_canaries(algorithm, config, Actions.MOVES) if saboteur.own_canaries else bench.canaries
    trails = [trail_of(algorithm, trained, i) for i in range(bench.runs)]
    trails = audited(bench, algorithm, config, trails, where)
    judged = bench.begun if saboteur.judge_copy else trained.state
    hashes = [hash_of(policy_arrays(lane(jax.device_get(judged), i).policy)) for i in range(bench.runs)]
    contest = Contest(SCHEMA, saboteur.judged_in(), STEPS)
    reloads = reloaded(contest, judged, bench.begun if saboteur.saves_old_weights else judged)
    verdicts: list[LearningVerdict] = []
    for look in range(saboteur.looks):
        seeds = np.arange(HELD_OUT, HELD_OUT + SEEDS) + look * SEEDS
        if saboteur.trained_on_held_out:
            trails = [replace(t, seeds=((HELD_OUT, HELD_OUT + SEEDS // 2),)) for t in trails]
        trials = trials_of(contest, bench.begun, judged, twins=bench.twins, seeds=seeds)
        found = [
            judge_learning(
                Recorded(
                    trail=trail, judged_hash=name, played_hash=None, trials=each, depth=Depth.FULL,
                    canaries=canaries, reload=again, look=look + 1,
                ),
                Terms(),
            )
            for trail, name, each, again in zip(trails, hashes, trials, reloads, strict=True)
        ]  # fmt: skip
        # Who may look again keeps the best of what he was told.
        verdicts = found if not verdicts else [a if a else b for a, b in zip(verdicts, found, strict=True)]
    return Told(name=saboteur.name, verdicts=tuple(verdicts))
