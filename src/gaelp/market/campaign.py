"""The campaign market: agents decide by daypart around a pacer, in simulated worlds; yields episodes.

It knows worlds and the pacer; it is handed the policy as two plain functions and never sees how it learns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gaelp.bidding.act import move_mask, pace_of, tilt_of
from gaelp.bidding.landscape import Landscape
from gaelp.bidding.observe import fits, mark_decision, observe
from gaelp.bidding.pacer import DayState, PacerParams, after_report, bids, pacer_hash, solve, start_day
from gaelp.core.episode import EpisodeBatch, Provenance, Source
from gaelp.core.errors import BadInput
from gaelp.core.schema import Schema
from gaelp.market.hindsight import best_constant
from gaelp.market.whole_episodes import whole_episodes
from gaelp.market.world import (
    HIDDEN,
    ONE_ITEM,
    Bank,
    Kind,
    Posterior,
    Truth,
    World,
    auctions_bank,
    check_posterior,
    day_score,
    half_hour,
    hidden,
    learning_share,
    pacer_scores,
    start_truth,
    worlds_of,
)

SampleMove = Callable[[Any, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""(policy, observation[B,O], mask[B,A], key) -> move[B], log_prob[B]."""
ModeMove = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""(policy, observation[B,O], mask[B,A]) -> move[B]."""

Tree = TypeVar("Tree")

CHUNK = 32
"""Training worlds that are played together."""
JUDGING_CHUNK = 2048
"""Judging worlds that are played together unless a market is told otherwise: what it needs of memory."""
SCALE_FLOOR = 2.0
"""Conversions: the smallest score an episode's reward is divided by."""


class Steps(NamedTuple):
    """One agent's day at its decisions, time first: [T,...]; `last` holds the observation after the day."""

    observation: jax.Array
    hidden: jax.Array
    move: jax.Array
    pace: jax.Array
    log_prob: jax.Array
    score: jax.Array


@dataclass(frozen=True)
class Certified:
    """A tuned pacer on its calibrated landscape; `hash` is its identity."""

    landscape: Landscape
    params: PacerParams

    @cached_property
    def hash(self) -> str:
        return pacer_hash(self.landscape, self.params)


def float32(tree: Any) -> Any:
    """Every floating array of a pytree as float32 on the device; integers stay."""
    return jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32 if np.issubdtype(np.asarray(x).dtype, np.floating) else None),
        tree,
    )


def _first(tree: Tree, n: int) -> Tree:
    """The first n campaign-days of a pytree of [B,...] arrays."""
    return jax.tree.map(lambda x: x[:n], tree)


def _decide_and_play(
    world: World, choose: Callable[..., tuple[jax.Array, jax.Array]], landscape: Landscape, params: PacerParams,
    schema: Schema, bank: Bank, kind: Kind, agents: int,
) -> tuple[Steps, jax.Array, jax.Array, Truth, DayState]:  # fmt: skip
    """A day of B worlds; `choose(observation, k)` gives (move, log_prob) at decision k.

    agents: only the first so many worlds are observed; the steps hold no observation and no truth of the others.
    """
    terms, ticks = world.terms, schema.ticks_per_decision
    seen_world = _first(world, agents)

    def look(truth: Truth, state: DayState) -> jax.Array:
        mine, terms = _first(state, agents), seen_world.terms
        return observe(
            mine, solve(mine, landscape, terms, params, jnp), landscape, terms, params, schema, jnp,
            learning_share(_first(truth, agents)),
        )  # fmt: skip

    def unseen_truth(truth: Truth, t: jax.Array) -> jax.Array:
        return hidden(seen_world, _first(truth, agents), landscape, t)

    def decision(carry: tuple[Truth, DayState], k: jax.Array) -> tuple[tuple[Truth, DayState], Steps]:
        truth, state = carry
        seen, unseen = look(truth, state), unseen_truth(truth, k * ticks)
        move, log_prob = choose(seen, k)
        pace, tilt = pace_of(move, schema, jnp), tilt_of(move, schema, jnp)
        state = mark_decision(state, pace, jnp)

        def tick(carry: tuple[Truth, DayState], t: jax.Array) -> tuple[tuple[Truth, DayState], None]:
            truth, state = carry
            solution = solve(state, landscape, terms, params, jnp)
            log_bid = bids(solution, pace, tilt, state, landscape, terms, params, jnp)
            truth, report = half_hour(world, truth, state, log_bid, bank, t, kind)
            return (truth, after_report(state, report, landscape, terms, params, jnp)), None

        (truth, state), _ = jax.lax.scan(tick, (truth, state), k * ticks + jnp.arange(ticks))
        return (truth, state), Steps(seen, unseen, move, pace, log_prob, day_score(truth, world))

    start = (start_truth(world), start_day(landscape, terms, jnp))
    (truth, state), steps = jax.lax.scan(decision, start, jnp.arange(schema.decisions_per_day))
    clamped = state._replace(tick=jnp.minimum(state.tick, 47))
    return steps, look(truth, clamped), unseen_truth(truth, jnp.int32(48)), truth, state


class CampaignMarket:
    """Simulated campaign-days around a certified pacer.

    `play` yields training episodes whose reward is the increment of the objective, as a share of the pacer's own
    score in that world, less the pacer's increment in the same world with the same draws (a control variate that no
    action moves). It telescopes to the objective. `scores` judges policies by their mode on chosen seeds.

    chunk: at most so many worlds are judged at a time. It bounds memory whatever their number, and moves scores in the
    last digits of single precision at most; the price-taker reference, which is a search until the slowest world of a
    chunk is done, by some hundredths of a percent. Raises BadInput.
    """

    def __init__(
        self, *, posterior: Posterior, certified: Certified, schema: Schema, sample_move: SampleMove,
        mode_move: ModeMove, phase: str, kind: Kind = ONE_ITEM, chunk: int = JUDGING_CHUNK,
    ) -> None:  # fmt: skip
        check_posterior(posterior, kind)
        if chunk < 1:
            raise BadInput(f"chunk is {chunk}, expected at least 1 world to be played at a time.")
        fits(schema, kind.items)
        self.posterior: Posterior = float32(posterior)
        self.certified = certified
        self.schema = schema
        self.phase = phase
        self.chunk = chunk
        self._landscape: Landscape = float32(certified.landscape)
        self._params: PacerParams = float32(certified.params)
        self._bank = auctions_bank()
        self.kind = kind
        self._mask = jnp.asarray(move_mask(schema, kind.items, kind.rules))
        self._sample, self._mode = sample_move, mode_move
        self._paired = jax.jit(self._paired_days)
        self._modes = jax.jit(self._mode_days)
        self._pacers = jax.jit(self._pacer_days)
        self._moves = jax.jit(self._random_moves, static_argnums=0)
        self._given = jax.jit(self._given_days)
        self._worlds = jax.jit(partial(worlds_of, kind=kind))

    @property
    def hidden_width(self) -> int:
        """H of its episodes."""
        return len(HIDDEN)

    def scale(self, pacer: np.ndarray) -> np.ndarray:
        """What a score of 1 is in each world, [n], where the certified pacer scores `pacer`."""
        return np.maximum(pacer, SCALE_FLOOR)

    # The compiled functions take what varies (posterior, landscape, parameters) as arguments, so that markets of one
    # shape share a compilation through the persistent cache.

    def _masks(self, n: int) -> jax.Array:
        return jnp.broadcast_to(self._mask, (n, self._mask.shape[0]))

    def _paired_days(self, policy: object, posterior: Posterior, landscape: Landscape, params: PacerParams,
                     seeds: jax.Array, key: jax.Array, chunk: jax.Array) -> dict[str, jax.Array]:  # fmt: skip
        worlds = worlds_of(posterior, seeds, self.kind)
        n = seeds.shape[0]
        both = jax.tree.map(lambda x: jnp.concatenate([x, x]), worlds)
        masks = self._masks(n)
        key = jax.random.fold_in(key, chunk)

        def choose(seen: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
            move, log_prob = self._sample(policy, seen, masks, jax.random.fold_in(key, k))
            still = jnp.full((n,), self.schema.zero_move, move.dtype)
            return jnp.concatenate([move, still]), jnp.concatenate([log_prob, jnp.zeros_like(log_prob)])

        steps, last, last_hidden, truth, state = _decide_and_play(
            both, choose, landscape, params, self.schema, self._bank, self.kind, n
        )
        scale = jnp.maximum(steps.score[-1, n:], SCALE_FLOOR)
        gain = (steps.score[:, :n] - steps.score[:, n:]) / scale
        reward = jnp.diff(gain, axis=0, prepend=jnp.zeros((1, n)))

        def whole(x: jax.Array, final: jax.Array) -> jax.Array:
            return jnp.swapaxes(jnp.concatenate([x, final[None]]), 0, 1)

        return {
            "observation": whole(steps.observation, last), "hidden": whole(steps.hidden, last_hidden),
            "action": steps.move[:, :n].T, "executed": steps.pace[:, :n].T, "log_prob": steps.log_prob[:, :n].T,
            "reward": reward.T, "score": steps.score[-1, :n], "pacer_score": steps.score[-1, n:],
            "spend": truth.spent[:n], "impressions": state.impressions[:n].sum(-1),
            "clicks": state.clicks[:n].sum(-1), "conversions": truth.conversions[:n].sum(-1),
            "value": truth.units[:n],
        }  # fmt: skip

    def _mode_days(self, policy: object, posterior: Posterior, landscape: Landscape, params: PacerParams,
                   seeds: jax.Array) -> dict[str, jax.Array]:  # fmt: skip
        worlds = worlds_of(posterior, seeds, self.kind)
        masks = self._masks(seeds.shape[0])

        def choose(seen: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self._mode(policy, seen, masks), jnp.zeros(seen.shape[0])

        *_, truth, _ = _decide_and_play(
            worlds, choose, landscape, params, self.schema, self._bank, self.kind, seeds.shape[0]
        )
        return {
            "score": day_score(truth, worlds),
            "spend": truth.spent,
            "conversions": truth.conversions.sum(-1),
            "cpa": truth.spent / jnp.maximum(truth.units, 1e-9),
        }

    def _random_moves(self, worlds: int) -> jax.Array:
        """[n,T] drawn for all worlds at once: which of them are played together must not move the draws."""
        logits = jnp.where(self._masks(worlds), 0.0, -jnp.inf)

        def drawn(k: jax.Array) -> jax.Array:
            return jax.random.categorical(jax.random.fold_in(jax.random.key(1), k), logits)

        return jax.lax.map(drawn, jnp.arange(self.schema.decisions_per_day)).T

    def _given_days(self, posterior: Posterior, landscape: Landscape, params: PacerParams, seeds: jax.Array,
                    moves: jax.Array) -> jax.Array:  # fmt: skip
        worlds = worlds_of(posterior, seeds, self.kind)

        def choose(seen: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
            return moves[:, k], jnp.zeros(seen.shape[0])

        *_, truth, _ = _decide_and_play(
            worlds, choose, landscape, params, self.schema, self._bank, self.kind, seeds.shape[0]
        )
        return day_score(truth, worlds)

    def _pacer_days(
        self, posterior: Posterior, landscape: Landscape, params: PacerParams, seeds: jax.Array
    ) -> jax.Array:
        return pacer_scores(worlds_of(posterior, seeds, self.kind), landscape, params, self._bank, self.kind)

    def play(self, policy: object, seeds: np.ndarray, key: jax.Array, actor_hash: str) -> EpisodeBatch:
        """Training episodes of `policy`, sampled, one per seed; each `seeds` entry is a world.

        Worlds are played CHUNK at a time, the last chunk filled up and cut, so that one compilation serves any number.
        """
        n = len(seeds)
        whole = np.concatenate([seeds, seeds[-1] + 1 + np.arange(-n % CHUNK, dtype=seeds.dtype)])
        played = [
            self._paired(
                policy,
                self.posterior,
                self._landscape,
                self._params,
                part,
                key,
                k,
            )
            for k, part in enumerate(whole.reshape(-1, CHUNK))
        ]
        parts = jax.device_get(played)
        got = {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}
        told = Provenance(
            source=Source.SIMULATED, phase=self.phase, arm="agent", campaign="simulated", day=0, actor_hash=actor_hash,
            pacer_hash=self.certified.hash, schema_hash=self.schema.hash, seed=int(seeds[0]), settled_at="simulated",
        )  # fmt: skip
        return whole_episodes(got, self._mask, told)

    def scores(self, policies: object, seeds: np.ndarray) -> dict[str, np.ndarray]:
        """Score, spend and expected conversions [P,n] of P stacked policies, by mode, on the worlds of `seeds`.

        One policy after another, so that one compilation serves every P.
        """
        count = jax.tree.leaves(policies)[0].shape[0]
        told = self.posterior, self._landscape, self._params

        def of_policy(k: int) -> dict[str, np.ndarray]:
            one = jax.tree.map(lambda x: x[k], policies)
            return self._chunked(lambda part, _: self._modes(one, *told, part), seeds)

        played = [of_policy(k) for k in range(count)]
        return {name: np.stack([day[name] for day in played]) for name in played[0]}

    def _chunked(self, play: Callable[[jax.Array, slice], Tree], seeds: np.ndarray) -> Tree:
        """What `play(seeds of a part, its place)` answers, one entry a world, at most `chunk` worlds at a time.

        Parts are alike in size, so that one compiled program serves all; the last is filled up with further worlds.
        """
        n = len(seeds)
        parts = -(-n // self.chunk)
        size = -(-n // parts)
        whole = np.concatenate([seeds, seeds[-1] + 1 + np.arange(parts * size - n, dtype=seeds.dtype)])
        # Fetched one after another: parts that are all in flight would need the memory of all.
        played = [
            jax.device_get(play(jnp.asarray(whole[start : start + size]), slice(start, start + size)))
            for start in range(0, len(whole), size)
        ]
        return jax.tree.map(lambda *x: np.concatenate(x)[:n], *played)

    def pacer(self, certified: Certified, seeds: np.ndarray) -> np.ndarray:
        """Scores [n] of a pacer by itself."""
        told = self.posterior, float32(certified.landscape), float32(certified.params)
        return self._chunked(lambda part, _: self._pacers(*told, part), seeds)

    def random(self, seeds: np.ndarray) -> np.ndarray:
        """Scores [n] of moves drawn alike from all allowed ones."""
        told = self.posterior, self._landscape, self._params
        drawn = np.asarray(self._moves(len(seeds)))
        # A part that was filled up needs moves for worlds whose results are dropped.
        moves = np.concatenate(
            [drawn, np.full((len(seeds), drawn.shape[1]), self.schema.zero_move, drawn.dtype)]
        )
        return self._chunked(lambda part, at: self._given(*told, part, moves[at]), seeds)

    def best_in_hindsight(self, seeds: np.ndarray) -> np.ndarray:
        """Scores [n] of the best constant worth of a unit in hindsight, per world. Users carry exposure over, so it is
        no bound: a policy that rests its users may beat it."""

        def best(part: jax.Array, _: slice) -> np.ndarray:
            return best_constant(
                self._worlds(self.posterior, part), self._landscape, self._bank, self.kind
            ).score

        return self._chunked(best, seeds)


__all__ = ["HIDDEN", "CampaignMarket", "Certified"]
