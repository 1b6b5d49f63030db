"""What rivals are like, given how the price level answered our own wins: rivals of the prior, weighed by that answer.

Rivals' purses and gains are not seen; what is seen is one number, the answer of market.fit_prices. Rivals are drawn
from the prior and play the log's own days by the rules of market.rivals; the answer that the same regression finds
in what
they did is held against the log's. A log without randomised bids has no answer, and the prior comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array
from gaelp.market import rivals
from gaelp.market.estimates import Marginal
from gaelp.market.fit_prices import Prices
from gaelp.market.hours import Hours
from gaelp.market.world import RIVALS

GAIN_SD = 0.3
"""Half-normal: how strongly a pacing rival answers."""
LOG_PURSE = (0.2, 0.5)
"""Mean and deviation: from half of what an ordinary day costs a rival to three times as much."""
RIVAL_SD = 0.2
"""Log deviation of rivals' strengths. No report tells it."""
_KINDS, _DAYS = 256, 8


@dataclass(frozen=True, kw_only=True)
class RivalFit:
    """Gains and purses of G line items; usual: [G,48] log price by which these rivals move an ordinary day."""

    gain: Marginal
    purse: Marginal
    prior_gain: tuple[float, float]
    prior_purse: tuple[float, float]
    usual: Array


def fit_rivals(hours: Hours, prices: Prices) -> RivalFit:
    """Weigh 256 kinds of rivals by the answer of each line item."""
    rng = np.random.default_rng(104729)
    gain = np.abs(rng.normal(0.0, GAIN_SD, _KINDS))
    purse = np.exp(rng.normal(*LOG_PURSE, _KINDS))
    sd = float(prices.sd.mean())
    score = prices.score.mean((0, 1))
    flow = hours.eligible.sum((0, 1)) / hours.eligible.sum()
    days = hours.log_bid.shape[1]
    # Days of the first line item's own moves, the same for every kind; without any, half a step for half a day.
    moves = hours.move[0, np.arange(_DAYS) % days]
    if np.ptp(moves) == 0.0:
        moves = 0.2 * np.sign(rng.normal(size=(_DAYS, 6))).repeat(TICKS_PER_DAY // 6, axis=1)
    moves = moves - moves.mean()
    strength = RIVAL_SD * rng.normal(size=(_KINDS, _DAYS, RIVALS))
    purses = purse[:, None, None] * np.exp(0.4 * rng.normal(size=(_KINDS, _DAYS, RIVALS)))
    given = [jnp.asarray(x, jnp.float32) for x in (strength, purses, gain, score, flow, sd)]
    # The same rivals against the moves and against none: what else they do is no answer.
    (moved, won), (usual, otherwise) = (
        (np.asarray(x, np.float64) for x in _played(*given, jnp.asarray(steps.T, jnp.float32)))
        for steps in (moves, np.zeros_like(moves))
    )
    answers = _answers(moved - usual, won - otherwise, moves, flow)
    log_weight = -0.5 * ((answers - prices.told_answer[:, None]) / prices.told_answer_se[:, None]) ** 2
    log_weight = log_weight - log_weight.max(1, keepdims=True)
    weight = np.exp(log_weight)
    weight = weight / weight.sum(1, keepdims=True)
    return RivalFit(
        gain=_marginal(gain, weight), purse=_marginal(purse, weight),
        prior_gain=_range(gain), prior_purse=_range(purse), usual=weight @ usual.mean(1),
    )  # fmt: skip


@jax.jit
def _played(
    strength: jax.Array, purse: jax.Array, gain: jax.Array, score: jax.Array, flow: jax.Array, sd: jax.Array,
    moves: jax.Array,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """(their log price levels, our wins so far in days' auctions) of every kind and day, [K,D,48]; moves [48,D]."""
    gain = jnp.broadcast_to(gain[:, None], purse.shape[:2])
    each = jnp.broadcast_to(sd, gain.shape)
    who = rivals.Rivals(
        strength=strength, purse=purse, paces=jnp.broadcast_to((jnp.arange(RIVALS) % 2 == 0) * 1.0, purse.shape),
        gain=gain, enters=jnp.full(purse.shape, -1.0), leaves=jnp.full(purse.shape, 1e9),
    )  # fmt: skip
    planned = jnp.cumsum(flow)

    def step(
        carry: tuple[rivals.Field, jax.Array], t: jax.Array
    ) -> tuple[tuple[rivals.Field, jax.Array], tuple[jax.Array, jax.Array]]:
        field, won = carry
        answer = rivals.level(who, field, each, t)
        z = score[t] + (moves[t] - answer) / sd
        # Weighed by price: rivals pay for what we lose, and we lose the dear ones.
        paid = (1.0 - jax.scipy.special.ndtr(z - sd)) * flow[t] * jnp.exp(answer)
        after = rivals.after(who, field, each, paid, jnp.broadcast_to(planned[t], gain.shape), t)
        return (after, won + flow[t] * jax.scipy.special.ndtr(z)), (answer, won)

    start = (rivals.start_field(who), jnp.zeros(gain.shape))
    _, (levels, won) = jax.lax.scan(step, start, jnp.arange(TICKS_PER_DAY))
    return jnp.moveaxis(levels, 0, -1), jnp.moveaxis(won, 0, -1)


def _answers(levels: Array, won: Array, moves: Array, flow: Array) -> Array:
    """Level per day's auctions won, by the regression of market.fit_prices within days and hours; one a kind, [K]."""

    def within(x: Array) -> Array:
        x = x - (flow * x).sum(-1, keepdims=True)
        return x - x.mean(-2, keepdims=True)

    past = within(np.cumsum(flow * moves, axis=-1) - flow * moves)
    move = within(moves)
    # What the move of the same half hour does to the bid is no answer.
    past = past - move * (flow * past * move).sum() / (flow * move * move).sum()
    return (flow * past * within(levels)).sum((1, 2)) / (flow * past * within(won)).sum((1, 2))


def _marginal(points: Array, weight: Array) -> Marginal:
    """Weighted kinds [K] by [G,K], as marginals [G]."""
    mean = weight @ points
    order = np.argsort(points)
    below = np.cumsum(weight[:, order], axis=1) - 0.5 * weight[:, order]
    low, high = (np.array([np.interp(q, row, points[order]) for row in below]) for q in (0.05, 0.95))
    sd = np.sqrt(np.maximum((weight * (points - mean[:, None]) ** 2).sum(1), 1e-12))
    return Marginal(mean=mean, sd=sd, low=low, high=high)


def _range(points: Array) -> tuple[float, float]:
    low, high = np.quantile(points, [0.05, 0.95])
    return float(low), float(high)
