"""Makes the certified pacer of a journey on logs: a curve read off the training part, knobs searched on it.

The same search on worlds drawn from that part gives the retuned pacer, a rival with the agent's own advantage.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.block_pacer import DEFAULT_KNOBS, Curve, Knobs
from gaelp.core.errors import BadInput
from gaelp.core.schema import Schema
from gaelp.logs.theta import ThetaAuctions
from gaelp.market.campaign import float32
from gaelp.market.log_episodes import Auctions, Terms
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
FLOOR_SHARE = 0.1
"""No reward is divided by less than this share of a mean episode's value: one without any value would rule them all."""


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
            "no auction of the training part has a price above 0 within the highest bid and the budget."
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


@dataclass(frozen=True)
class Tuned:
    """The best pacer of a search; scores: the best mean share of the default pacer's value, round by round.

    mean_value: what it buys in a mean episode of those it was tuned on.
    """

    pacer: BlockPacer
    scores: tuple[float, ...]
    mean_value: float


def tune(curve: Curve, auctions: Auctions, terms: Terms, schema: Schema, seed: int) -> Tuned:
    """The knobs whose pacer buys most on these episodes, each episode counted as a share of the default pacer's."""
    rng = np.random.default_rng(seed)
    own = float32(curve)
    sizes = jnp.asarray(terms.block_auctions, jnp.int32)
    money = (jnp.int32(terms.budget), jnp.int32(terms.max_bid))
    stream = jax.tree.map(jnp.asarray, auctions)

    @jax.jit
    def values(knobs: Knobs) -> jax.Array:
        return jax.lax.map(
            lambda one: pacer_episodes(stream, sizes, money, own, one, schema).bought.value, knobs
        )

    def of(many: Floats) -> Floats:
        return np.asarray(values(Knobs(*(jnp.asarray(column, jnp.float32) for column in many.T))), np.float64)

    low, high, default = (np.array([float(x) for x in knobs]) for knobs in (LOW, HIGH, DEFAULT_KNOBS))
    # Beside the default, so that every round compiles to the same shape.
    tried = _spread(default[None], low, high, 1.0, rng)
    base = of(np.repeat(default[None], CANDIDATES, 0))[0]
    scale = np.maximum(base, FLOOR_SHARE * base.mean())
    if not base.mean() > 0:
        raise BadInput(
            "the pacer buys no predicted clicks on the training part: every pCTR it could win is 0."
        )
    told: list[float] = []
    best = default
    for number in range(ROUNDS):
        found = of(tried)
        shares = (found / scale).mean(axis=1)
        order = np.argsort(-shares, kind="stable")
        best = tried[order[0]]
        told.append(float(shares[order[0]]))
        tried = _spread(tried[order[:KEPT]], low, high, 0.5 ** (number + 1), rng)
    knobs = Knobs(*(np.float64(x) for x in best))
    return Tuned(
        BlockPacer(curve, knobs), tuple(told), float(of(np.repeat(best[None], CANDIDATES, 0))[0].mean())
    )


def _spread(centres: Floats, low: Floats, high: Floats, width: float, rng: np.random.Generator) -> Floats:
    """Candidates [64,4]: the centres themselves, and others around them within `width` of the whole range."""
    count = CANDIDATES - len(centres)
    around = centres[rng.integers(len(centres), size=count)]
    moved = around + width * (high - low) * rng.uniform(-1.0, 1.0, (count, len(low)))
    return np.concatenate([centres, np.clip(moved, low, high)])
