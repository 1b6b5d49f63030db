"""Plain posteriors with known numbers, and a market on them: what the fitted ones look like, without luck in the fit."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from tests.bidding.days import HOUR, TRAFFIC, landscape

from gaelp.bidding.landscape import Landscape
from gaelp.bidding.pacer import DEFAULT_PARAMS, Report, start_day
from gaelp.core.schema import Schema, default_schema
from gaelp.market.campaign import JUDGING_CHUNK, CampaignMarket, Certified, float32
from gaelp.market.world import (
    BUDGETS,
    ONE_ITEM,
    Kind,
    Posterior,
    Truth,
    World,
    absent,
    auctions_bank,
    half_hour,
    start_truth,
    worlds_of,
)

SCHEMA: Schema = default_schema()
KNOWN: Landscape = landscape(conversion_rate=0.2)
"""What the pacer believes: the rate is the average over tired and fresh users."""
PAIR_KNOWN: Landscape = landscape(
    items=2, price_mean=np.log([0.05, 0.04]), conversion_rate=np.array([0.2, 0.1])
)
BANK = auctions_bank()
TOGETHER = 64
"""Worlds that are drawn by one compiled program."""


def posterior(**changes: float | NDArray[np.float64]) -> Posterior:
    """One line item; by default every day differs in price, volume and tiredness, and the parameters are uncertain."""
    usual: dict[str, float] = {
        "price_mean": np.log(0.05), "price_mean_se": 0.05, "price_sd": 0.6, "price_sd_se": 0.05, "clicks_price": -0.3,
        "click_rate": 0.05, "cost_scale": 0.8, "conversion_rate": 0.3, "conversion_rate_se": 0.02, "fatigue": 0.1,
        "fatigue_se": 0.02, "fatigue_memory": 0.9, "volume": 12_000.0, "volume_day_sd": 0.15, "volume_tick_sd": 0.1,
        "volume_tick_memory": 0.5, "price_day_sd": 0.2, "price_tick_sd": 0.1, "price_tick_memory": 0.7,
        "budget_low": 3.0, "budget_high": 12.0,
    }  # fmt: skip
    told = {
        name: np.atleast_1d(np.asarray(value, np.float64)) for name, value in {**usual, **changes}.items()
    }
    shaped = {
        "traffic": np.broadcast_to(TRAFFIC, (1, 7, 48)),
        "price_hour": 0.2 * np.sin(2 * np.pi * HOUR)[None],
        "delay_rate": np.full((1, 2), 0.1),
        "target_cpa": np.full((1, BUDGETS), 0.12),
    }
    return Posterior(**{**absent(1), **shaped, **told})


def pair(**changes: float | NDArray[np.float64]) -> Posterior:
    """Two line items that differ in price and in what a click brings; `changes` hold for both, or [2]."""
    one = posterior()
    told = {name: np.concatenate([array, array]) for name, array in one._asdict().items()}
    told |= {"price_mean": np.log([0.05, 0.04]), "conversion_rate": np.array([0.3, 0.15])}
    for name, value in changes.items():
        array = np.asarray(value, np.float64)
        told[name] = array if array.shape == told[name].shape else np.broadcast_to(array, told[name].shape)
    return Posterior(**told)


CERTAIN = dict.fromkeys(("price_mean_se", "price_sd_se", "conversion_rate_se", "fatigue_se"), 0.0)
"""A posterior without doubt: every world has the planted parameters."""
RICH = {"budget_low": 1e6, "budget_high": 1e6}
"""Budgets that never bind."""


@partial(jax.jit, static_argnames="items")
def _draw(told: Posterior, seeds: jax.Array, items: int) -> World:
    return worlds_of(told, seeds, Kind(items=items))


def draw(told: Posterior, seeds: np.ndarray, items: int = 1) -> World:
    """The worlds of `seeds`, some at a time: how worlds are drawn hangs on the line items alone."""
    whole = np.concatenate([seeds, np.zeros(-len(seeds) % TOGETHER, seeds.dtype)]).reshape(-1, TOGETHER)
    parts = [_draw(float32(told), jnp.asarray(part), items) for part in whole]
    return jax.tree.map(lambda *x: jnp.concatenate(x)[: len(seeds)], *parts)


class Hours(NamedTuple):
    """A day half hour by half hour, [48,B,...]: the truth before each, and the report after it."""

    truth: Truth
    report: Report


@partial(jax.jit, static_argnames="kind")
def day_at(world: World, log_bid: jax.Array, kind: Kind = ONE_ITEM) -> tuple[Hours, Truth]:
    """A day of every line item at one bid, and the truth at midnight."""
    bid = jnp.full_like(world.price_mean, log_bid)
    # Of what a bidder remembers the platform's report needs the conversions so far alone.
    state = start_day(float32(KNOWN if kind.items == 1 else PAIR_KNOWN), world.terms, jnp)

    def step(carry: tuple[Truth, jax.Array], t: jax.Array) -> tuple[tuple[Truth, jax.Array], Hours]:
        truth, arrived = carry
        after, report = half_hour(world, truth, state._replace(conversions=arrived), bid, BANK, t, kind)
        return (after, report.conversions_so_far), Hours(truth, report)

    start = (start_truth(world), jnp.zeros_like(world.price_mean))
    (last, _), hours = jax.lax.scan(step, start, jnp.arange(48))
    return hours, last


def grown(before: jax.Array, last: jax.Array) -> NDArray[np.float64]:
    """What a running sum of the truth grew by in each half hour, [48,B,...]."""
    return np.diff(np.concatenate([before, last[None]]).astype(np.float64), axis=0)


def always(
    policy: jax.Array, seen: jax.Array, mask: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The policy is one joint move."""
    return jnp.full(seen.shape[0], policy, jnp.int32), jnp.zeros(seen.shape[0])


def always_mode(policy: jax.Array, seen: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.full(seen.shape[0], policy, jnp.int32)


def at_random(
    policy: jax.Array, seen: jax.Array, mask: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The policy holds logits [A] over the moves, and draws from those the mask leaves."""
    logits = jnp.where(mask, policy, -jnp.inf)
    move = jax.random.categorical(key, logits)
    chances = jax.nn.log_softmax(logits)
    return move, jnp.take_along_axis(chances, move[:, None], 1)[:, 0]


def market(told: Posterior, sample=always, mode=always_mode, chunk: int = JUDGING_CHUNK) -> CampaignMarket:
    return CampaignMarket(
        posterior=told, certified=Certified(KNOWN, DEFAULT_PARAMS), schema=SCHEMA, sample_move=sample, mode_move=mode,
        phase="simulation", chunk=chunk,
    )  # fmt: skip
