"""The market of auction logs: an agent decides six times an episode around the block pacer; yields episodes.

An auction is won when its price is at most the bid, the highest bid and the money left, and then costs its price: the
rule of market/replay.py, exact in whole money. It is handed the policy as two plain functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.act import move_mask, pace_of
from gaelp.bidding.block_pacer import (
    BlockReport,
    Curve,
    Knobs,
    Pace,
    after_block,
    log_multiplier,
    pacer_hash,
    start_pace,
)
from gaelp.bidding.observe_log import mark_decision, observe_log
from gaelp.core.episode import EpisodeBatch, Provenance, Source
from gaelp.core.schema import Schema
from gaelp.market.campaign import ModeMove, SampleMove, float32
from gaelp.market.log_episodes import Auctions, EpisodeSource, Terms
from gaelp.market.log_oracle import lp_values
from gaelp.market.whole_episodes import whole_episodes

CHUNK = 32
"""Training episodes that are played together."""
HIDDEN_WIDTH = 0
"""Nothing is hidden from the critic that the agent does not see: a replayed episode has no truth to show."""

Choose = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""(observation [B,O], key) -> move [B], log_prob [B]."""


@dataclass(frozen=True)
class BlockPacer:
    """A tuned pacer on its fitted curve; `hash` is its identity."""

    curve: Curve
    knobs: Knobs

    @cached_property
    def hash(self) -> str:
        return pacer_hash(self.curve, self.knobs)


class Bought(NamedTuple):
    """What an episode has bought so far, [B]; money in int32, exact."""

    spent: jax.Array
    won: jax.Array
    value: jax.Array
    clicks: jax.Array


class Steps(NamedTuple):
    """One episode at its decisions, time first: [T,...]."""

    observation: jax.Array
    move: jax.Array
    pace: jax.Array
    log_prob: jax.Array
    value: jax.Array
    """Predicted clicks bought by the end of the stretch."""
    multiplier: jax.Array
    """[T,ticks,B] what each block was bid with."""


class Played(NamedTuple):
    steps: Steps
    last: jax.Array
    """The observation after the last auction."""
    bought: Bought


def block_of_auctions(
    bought: Bought, multiplier: jax.Array, auctions: Auctions, budget: jax.Array, max_bid: jax.Array
) -> Bought:
    """Bid `multiplier` [B] x value on the auctions of one block [B,L], one after the other."""

    def auction(bought: Bought, each: Auctions) -> tuple[Bought, None]:
        bid = multiplier * each.value
        within = (each.price <= bid) & (each.price <= max_bid) & (each.price <= budget - bought.spent)
        return Bought(
            bought.spent + jnp.where(within, each.price, 0),
            bought.won + within,
            bought.value + jnp.where(within, each.value, 0.0),
            bought.clicks + jnp.where(within, each.click, 0).astype(jnp.int32),
        ), None

    return jax.lax.scan(auction, bought, jax.tree.map(lambda x: x.T, auctions))[0]


def _episode(
    auctions: Auctions, sizes: jax.Array, money: tuple[jax.Array, jax.Array], curve: Curve, knobs: Knobs,
    schema: Schema, choose: Choose, key: jax.Array, seen: int,
) -> Played:  # fmt: skip
    """B episodes [B,48,L]; only the first `seen` are observed, and `choose` gives the moves of all."""
    n = auctions.price.shape[0]
    budget, max_bid = money
    ticks = schema.ticks_per_decision
    # Time first, by decision: [T,ticks,B,L].
    streams = jax.tree.map(
        lambda x: jnp.moveaxis(x, 0, 1).reshape(schema.decisions_per_day, ticks, n, -1), auctions
    )
    whole = budget.astype(jnp.float32)

    def look(pace: Pace) -> jax.Array:
        mine = jax.tree.map(lambda x: x[:seen], pace)
        return observe_log(mine, jnp.broadcast_to(whole, (seen,)), curve, knobs, schema, jnp)

    def decision(carry: tuple[Pace, Bought], at: tuple[Any, ...]) -> tuple[tuple[Pace, Bought], Steps]:
        pace, bought = carry
        k, stretch, counts = at
        observation = look(pace)
        move, log_prob = choose(observation, jax.random.fold_in(key, k))
        step = pace_of(move, schema, jnp)
        pace = mark_decision(pace, step, jnp)

        def tick(
            carry: tuple[Pace, Bought], at: tuple[Auctions, jax.Array]
        ) -> tuple[tuple[Pace, Bought], jax.Array]:
            pace, bought = carry
            executed = log_multiplier(pace, whole, curve, knobs, jnp) + step
            multiplier = jnp.exp(executed)
            after = block_of_auctions(bought, multiplier, at[0], budget, max_bid)
            report = BlockReport(
                jnp.full(n, at[1], jnp.float32), (after.won - bought.won).astype(jnp.float32),
                (after.spent - bought.spent).astype(jnp.float32), after.value - bought.value,
            )  # fmt: skip
            return (after_block(pace, executed, report, whole, curve, knobs, jnp), after), multiplier

        (pace, bought), multipliers = jax.lax.scan(tick, (pace, bought), (stretch, counts))
        return (pace, bought), Steps(observation, move, step, log_prob, bought.value, multipliers)

    none = jnp.zeros(n, jnp.int32)
    start = (start_pace(jnp.full(n, sizes.sum(), jnp.float32), jnp), Bought(none, none, jnp.zeros(n), none))
    xs = (jnp.arange(schema.decisions_per_day), streams, sizes.reshape(-1, ticks))
    (pace, bought), steps = jax.lax.scan(decision, start, xs)
    return Played(steps, look(pace), bought)


class LogMarket:
    """Episodes of `source` around a certified pacer.

    `play` yields training episodes whose reward is the increment of predicted clicks, less the pacer's increment in the
    same auctions (a control variate that no action moves), in units of `mean_value`. It telescopes to the objective.
    `scores` judges policies by their mode on chosen seeds.

    mean_value: what the pacer buys in a mean episode. The unit is one for all: a few auctions hold most of a log's
    predicted clicks, and in shares of each episode's own value those few would count no more than any others.
    """

    def __init__(
        self, *, source: EpisodeSource, origin: Source, terms: Terms, certified: BlockPacer, mean_value: float,
        schema: Schema, sample_move: SampleMove, mode_move: ModeMove, phase: str,
    ) -> None:  # fmt: skip
        self.source, self.origin, self.terms, self.certified = source, origin, terms, certified
        self.mean_value = mean_value
        self.schema, self.phase = schema, phase
        self._curve: Curve = float32(certified.curve)
        self._knobs: Knobs = float32(certified.knobs)
        self._mask = jnp.asarray(move_mask(schema, line_items=1))
        self._sizes = jnp.asarray(terms.block_auctions, jnp.int32)
        self._money = (jnp.int32(terms.budget), jnp.int32(terms.max_bid))
        self._sample, self._mode = sample_move, mode_move
        self._paired = jax.jit(self._paired_episodes)
        self._modes = jax.jit(self._mode_episodes)
        self._still = jax.jit(self._pacer_episodes)
        self._random = jax.jit(self._random_episodes)
        self._last_drawn: tuple[bytes, Auctions] | None = None

    @property
    def hidden_width(self) -> int:
        return HIDDEN_WIDTH

    def scale(self, pacer: NDArray[np.generic]) -> NDArray[np.generic]:
        """What a score of 1 is, [n]: the same in every episode."""
        return np.full(len(pacer), self.mean_value)

    # The compiled functions take what varies (auctions, curve, knobs, money) as arguments, so that markets of one
    # shape share a compilation through the persistent cache.

    def _masks(self, n: int) -> jax.Array:
        return jnp.broadcast_to(self._mask, (n, self._mask.shape[0]))

    def _paired_episodes(
        self, policy: object, auctions: Auctions, sizes: jax.Array, money: tuple[jax.Array, jax.Array], curve: Curve,
        knobs: Knobs, unit: jax.Array, key: jax.Array, chunk: jax.Array,
    ) -> dict[str, jax.Array]:  # fmt: skip
        n = auctions.price.shape[0]
        both = jax.tree.map(lambda x: jnp.concatenate([x, x]), auctions)
        masks = self._masks(n)

        def choose(seen: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            move, log_prob = self._sample(policy, seen, masks, key)
            still = jnp.full((n,), self.schema.zero_move, move.dtype)
            return jnp.concatenate([move, still]), jnp.concatenate([log_prob, jnp.zeros_like(log_prob)])

        key = jax.random.fold_in(key, chunk)
        steps, last, bought = _episode(both, sizes, money, curve, knobs, self.schema, choose, key, n)
        gain = (steps.value[:, :n] - steps.value[:, n:]) / unit
        seen = jnp.swapaxes(jnp.concatenate([steps.observation, last[None]]), 0, 1)
        return {
            "observation": seen, "action": steps.move[:, :n].T, "executed": steps.pace[:, :n].T,
            "log_prob": steps.log_prob[:, :n].T,
            "reward": jnp.diff(gain, axis=0, prepend=jnp.zeros((1, n))).T, "value": bought.value[:n],
            "spend": bought.spent[:n], "impressions": bought.won[:n], "clicks": bought.clicks[:n],
        }  # fmt: skip

    def _chosen(self, choose: Choose, key: jax.Array, *told: Any) -> Bought:
        auctions, sizes, money, curve, knobs = told
        n = auctions.price.shape[0]
        return _episode(auctions, sizes, money, curve, knobs, self.schema, choose, key, n).bought

    def _mode_episodes(self, policy: object, *told: Any) -> Bought:
        masks = self._masks(told[0].price.shape[0])

        def choose(seen: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self._mode(policy, seen, masks), jnp.zeros(seen.shape[0])

        return self._chosen(choose, jax.random.key(0), *told)

    def _random_episodes(self, *told: Any) -> Bought:
        logits = jnp.where(self._masks(told[0].price.shape[0]), 0.0, -jnp.inf)

        def choose(seen: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.random.categorical(key, logits), jnp.zeros(seen.shape[0])

        return self._chosen(choose, jax.random.key(1), *told)

    def _pacer_episodes(self, *told: Any) -> Bought:
        auctions, sizes, money, curve, knobs = told
        return pacer_episodes(auctions, sizes, money, curve, knobs, self.schema).bought

    def play(
        self, policy: object, seeds: NDArray[np.integer], key: jax.Array, actor_hash: str
    ) -> EpisodeBatch:
        """Training episodes of `policy`, sampled, one per seed.

        Played CHUNK at a time, the last chunk filled up and cut, so that one compilation serves any number.
        """
        n = len(seeds)
        whole = np.concatenate([seeds, np.repeat(seeds[-1:], -n % CHUNK)])
        played = [
            self._paired(
                policy, self.source(part), self._sizes, self._money, self._curve, self._knobs, self.mean_value, key, k
            )
            for k, part in enumerate(whole.reshape(-1, CHUNK))
        ]  # fmt: skip
        parts = jax.device_get(played)
        got = {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}
        told = Provenance(
            source=self.origin, phase=self.phase, arm="agent", campaign="auctions", day=0, actor_hash=actor_hash,
            pacer_hash=self.certified.hash, schema_hash=self.schema.hash, seed=int(seeds[0]),
            settled_at=str(self.origin),
        )  # fmt: skip
        outcomes = {
            name: got[name].astype(np.float64) for name in ("spend", "value", "impressions", "clicks")
        }
        nothing = {
            "hidden": np.zeros((n, self.schema.decisions_per_day + 1, HIDDEN_WIDTH), np.float32),
            "conversions": np.zeros(n),
        }
        return whole_episodes({**got, **outcomes, **nothing, "score": outcomes["value"]}, self._mask, told)

    def scores(self, policies: object, seeds: NDArray[np.integer]) -> dict[str, NDArray[np.generic]]:
        """Predicted clicks, spend, wins and clicks [P,n] of P stacked policies, by mode, on the episodes of `seeds`.

        One policy after another, so that one compilation serves every P.
        """
        auctions = self._drawn(seeds)
        count = jax.tree.leaves(policies)[0].shape[0]
        played = [
            self._modes(
                jax.tree.map(lambda x, k=k: x[k], policies), auctions, self._sizes, self._money, self._curve,
                self._knobs,
            )
            for k in range(count)
        ]  # fmt: skip
        names = {"score": "value", "spend": "spent", "impressions": "won", "clicks": "clicks"}
        return {
            name: np.stack([np.asarray(getattr(bought, kept)) for bought in played])
            for name, kept in names.items()
        }

    def pacer(self, certified: BlockPacer, seeds: NDArray[np.integer]) -> NDArray[np.generic]:
        """Predicted clicks [n] of a pacer by itself."""
        return np.asarray(self.pacer_bought(certified, seeds).value)

    def pacer_bought(self, certified: BlockPacer, seeds: NDArray[np.integer]) -> Bought:
        """What a pacer buys by itself, on the host."""
        curve, knobs = float32(certified.curve), float32(certified.knobs)
        return jax.device_get(self._still(self._drawn(seeds), self._sizes, self._money, curve, knobs))

    def random(self, seeds: NDArray[np.integer]) -> NDArray[np.generic]:
        """Predicted clicks [n] of moves drawn alike from all allowed ones."""
        bought = self._random(self._drawn(seeds), self._sizes, self._money, self._curve, self._knobs)
        return np.asarray(bought.value)

    def best_in_hindsight(self, seeds: NDArray[np.integer]) -> NDArray[np.generic]:
        """The LP bound [n], which no policy exceeds."""
        auctions = self._drawn(seeds)
        flat = (len(auctions.price), -1)
        return lp_values(
            auctions.price.reshape(flat), auctions.value.reshape(flat), self.terms.budget, self.terms.max_bid
        )

    def _drawn(self, seeds: NDArray[np.integer]) -> Auctions:
        """The episodes of judging seeds, drawn once for all the policies that are judged on them."""
        name = np.asarray(seeds, np.int64).tobytes()
        if self._last_drawn is None or self._last_drawn[0] != name:
            self._last_drawn = (name, self.source(seeds))
        return self._last_drawn[1]


def pacer_episodes(
    auctions: Auctions, sizes: jax.Array, money: tuple[jax.Array, jax.Array], curve: Curve, knobs: Knobs,
    schema: Schema,
) -> Played:  # fmt: skip
    """The pacer by itself; nothing is observed."""
    n = auctions.price.shape[0]

    def choose(seen: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.full((n,), schema.zero_move, jnp.int32), jnp.zeros(n)

    return _episode(auctions, sizes, money, curve, knobs, schema, choose, jax.random.key(0), 0)
