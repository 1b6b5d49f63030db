"""Makes the certified pacer of a journey on logs: a curve read off the training part, knobs searched on it.

The same search on worlds drawn from that part gives the retuned pacer, a rival with the agent's own advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.block_pacer import DEFAULT_KNOBS, Curve, Knobs
from gaelp.core.errors import BadInput
from gaelp.core.schema import Schema
from gaelp.logs.theta import ThetaAuctions
from gaelp.market.campaign import float32
from gaelp.market.log_episodes import Auctions, Terms, blocked
from gaelp.market.log_market import BlockPacer, pacer_episodes

Floats = NDArray[np.float64]

POINTS = 256
"""Multipliers at which the curve is kept; between them it is read along lines."""
LEAST_SPEND = 1e-4
"""The curve begins where this share of all that could be spent is spent."""

LOW = Knobs(*(np.float64(x) for x in (0.5, 0.02, 0.0, -0.3)))
HIGH = Knobs(*(np.float64(x) for x in (1.0, 5.0, 30.0, 0.3)))
CANDIDATES, ROUNDS, KEPT = 64, 4, 8
"""The search: 64 candidates a round, each later round around the best 8 in half the width of the one before."""
EPISODES = 768
"""Fewer tuning episodes overfit a baseline, where few auctions hold most of the value even more so."""


def fit_curve(auctions: ThetaAuctions, terms: Terms) -> Curve:
    """Spend, wins and predicted clicks an auction at each multiplier, without a budget, over the fitted part.

    Raises BadInput where nothing that may be bid on costs anything.
    """
    offered = auctions.price <= min(terms.max_bid, terms.budget)
    price, value = auctions.price[offered].astype(np.float64), auctions.value[offered]
    some = (value > 0) & (price > 0)
    free = (price == 0).mean() * offered.mean() if len(price) else 0.0
    gift = float(value[price == 0].sum()) / len(auctions)
    price, value = price[some], value[some]
    if not len(price):
        raise BadInput(
            "no auction of the training part has a pCTR above 0 and a price above 0 within highest bid and budget."
        )
    ratio = price / value
    order = np.argsort(ratio, kind="stable")
    ratio, price, value = ratio[order], price[order], value[order]
    n = len(auctions)
    spend, worth = np.cumsum(price) / n, np.cumsum(value) / n
    wanted = np.geomspace(max(LEAST_SPEND * spend[-1], spend[0]), spend[-1], POINTS)
    at = np.minimum(np.searchsorted(spend, wanted), len(spend) - 1)
    # Rising strictly, or a spend would have no multiplier of its own.
    rising = np.maximum.accumulate(spend[at]) + spend[-1] * 1e-6 * np.arange(POINTS) / POINTS
    even = int(np.searchsorted(spend, terms.budget / terms.auctions).clip(0, len(spend) - 1))
    return Curve(
        log_multiplier=np.nextafter(np.log(ratio[at]).astype(np.float32), np.float32(np.inf)),
        spend=rising.astype(np.float32),
        won=((at + 1) / n + free).astype(np.float32),
        value=(worth[at] + gift).astype(np.float32),
        mean_price=np.float32(price[: even + 1].mean()),
    )


def windows(auctions: ThetaAuctions, terms: Terms, seed: int) -> Auctions:
    """Recorded episodes to tune on: they begin anywhere in the fitted part, so no cut of it is learned by heart."""
    starts = np.random.default_rng(seed).integers(len(auctions) - terms.auctions + 1, size=EPISODES)
    at = starts[:, None] + np.arange(terms.auctions)
    return blocked(auctions.price[at], auctions.value[at], auctions.click[at], terms)


@dataclass(frozen=True)
class Tuned:
    """The best pacer of a search; scores: the best mean value of an episode by the default pacer's, round by round."""

    pacer: BlockPacer
    scores: tuple[float, ...]


def tune(curve: Curve, auctions: Auctions, terms: Terms, schema: Schema, seed: int) -> Tuned:
    """The knobs whose pacer buys most predicted clicks on these episodes, all together.

    Raises BadInput when the pacer buys none.
    """
    rng = np.random.default_rng(seed)
    stream = jax.tree.map(jnp.asarray, auctions)

    def mean_values(many: Floats) -> Floats:
        knobs = Knobs(*(jnp.asarray(column, jnp.float32) for column in many.T))
        found = _values(stream, *_terms(terms), float32(curve), knobs, schema=schema)
        return np.asarray(found, np.float64).mean(axis=1)

    low, high, default = (np.array([float(x) for x in knobs]) for knobs in (LOW, HIGH, DEFAULT_KNOBS))
    tried = _spread(default[None], low, high, 1.0, rng)
    scores: list[float] = []
    base = 0.0
    for number in range(ROUNDS):
        found = mean_values(tried)
        if number == 0:
            base = float(found[0])
            if not base > 0:
                raise BadInput("the pacer buys no predicted clicks: every pCTR within its budget is 0.")
        order = np.argsort(-found, kind="stable")
        best = tried[order[0]]
        scores.append(float(found[order[0]]) / base)
        tried = _spread(tried[order[:KEPT]], low, high, 0.5 ** (number + 1), rng)
    return Tuned(BlockPacer(curve, Knobs(*(np.float64(x) for x in best))), tuple(scores))


def mean_value(pacer: BlockPacer, auctions: Auctions, terms: Terms, schema: Schema) -> float:
    """Predicted clicks that the pacer buys in a mean episode of these."""
    one = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32)[None], pacer.knobs)
    found = _values(
        jax.tree.map(jnp.asarray, auctions), *_terms(terms), float32(pacer.curve), one, schema=schema
    )
    return float(np.asarray(found, np.float64).mean())


@partial(jax.jit, static_argnames="schema")
def _values(
    auctions: Auctions, sizes: jax.Array, money: tuple[jax.Array, jax.Array], curve: Curve, knobs: Knobs, *,
    schema: Schema,
) -> jax.Array:  # fmt: skip
    """Predicted clicks [K,B] that the pacers of K knobs buy in B episodes; one pacer after the other."""
    return jax.lax.map(
        lambda one: pacer_episodes(auctions, sizes, money, curve, one, schema).bought.value, knobs
    )


def _terms(terms: Terms) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The sizes of blocks, and budget and highest bid, as arrays."""
    return jnp.asarray(terms.block_auctions, jnp.int32), (jnp.int32(terms.budget), jnp.int32(terms.max_bid))


def _spread(centres: Floats, low: Floats, high: Floats, width: float, rng: np.random.Generator) -> Floats:
    """Candidates [64,4]: the centres themselves, and others around them within `width` of the whole range."""
    count = CANDIDATES - len(centres)
    around = centres[rng.integers(len(centres), size=count)]
    moved = around + width * (high - low) * rng.uniform(-1.0, 1.0, (count, len(low)))
    return np.concatenate([centres, np.clip(moved, low, high)])
