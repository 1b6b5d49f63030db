"""Reference lines of worlds: the best constant worth in hindsight, the LP bound, and a pacer that is told the truth.

It plays worlds with knowledge that no bidder has. Where rivals answer or users tire, none of these bounds anything, and
`oracle.reference_name` says so.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.landscape import GRID_HIGH, GRID_LOW, Landscape, tabulate
from gaelp.bidding.pacer import PacerParams, best_response, start_day
from gaelp.bidding.rules import Format
from gaelp.core.errors import BadInput
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array
from gaelp.market.oracle import Auctions, Axis, Hindsight, best_multiplier, lp_bound
from gaelp.market.world import Bank, Kind, Truth, World, day_auctions, day_score, half_hour, start_truth

Floats = NDArray[np.float64]

POINTS = 25
"""Constant worths that the search begins with."""
SHADES = (0.0, 2.0, 5)
"""Strengths of shading that it begins with: lowest, highest, how many."""
HALVINGS = 5
"""How often the distance between two of them is halved again: the last step is about half a percent of the worth."""
KNOWING = PacerParams(*(np.float64(x) for x in (1e-4, 1e3, 1e6, 1.0, 0.0, 0.0, 0.0, 0.0, 1e6)))
"""The pacer of one who has nothing to find out: it believes its landscape whatever it sees."""


class Knobs(NamedTuple):
    """What a constant policy holds all day; [B]."""

    log_worth: Array
    """Log worth of a unit of the objective, in money."""
    shading: Array
    """Share of the best response to it that is applied; without meaning in second price."""


@partial(jax.jit, static_argnames="kind")
def constant_score(world: World, landscape: Landscape, knobs: Knobs, bank: Bank, *, kind: Kind) -> jax.Array:
    """Scores [B] of a constant worth per unit, known rates and, for the shading, known price levels of each half hour.

    Levels are those that rivals make before they answer.
    """
    item = world.terms.item
    click = knobs.log_worth[:, None] + jnp.log(world.conversion_rate * world.unit_worth / world.cost_scale)
    still = start_day(landscape, world.terms, jnp)

    def step(truth: Truth, t: jax.Array) -> tuple[Truth, None]:
        at = jnp.broadcast_to(t, (*knobs.log_worth.shape, 1))
        known = world.price_mean + world.price_path[..., t] - landscape.price_hour[item, at]
        best = best_response(click, known - landscape.price_mean[item], landscape, item, at, jnp)
        bid = click + knobs.shading[:, None] * (best - click)
        return half_hour(world, truth, still, bid, bank, t, kind)[0], None

    truth, _ = jax.lax.scan(step, start_truth(world), jnp.arange(TICKS_PER_DAY))
    return day_score(truth, world)


def best_constant(world: World, landscape: Landscape, bank: Bank, kind: Kind) -> Hindsight:
    """The best constant worth of each of B worlds, in first price and GSP with its best shading, refined.

    Expectations over a half hour are what the search would improve; clicks are drawn, so a part of a percent is luck.
    """
    shades = kind.rules.format is not Format.SECOND_PRICE
    click = np.log(np.asarray(world.conversion_rate * world.unit_worth / world.cost_scale, np.float64))
    mean, sd = np.asarray(world.price_mean, np.float64), np.asarray(world.price_sd, np.float64)
    path = np.asarray(world.price_path, np.float64)
    low = (mean + path.min(-1) - click + sd * GRID_LOW).min(-1)
    high = (mean + path.max(-1) - click + sd * GRID_HIGH).max(-1)
    axes = [Axis(low, high, POINTS)]
    if shades:
        least, most, points = SHADES
        axes.append(Axis(np.full_like(low, least), np.full_like(low, most), points))

    def score_of(log_worth: Array, shading: Array | None = None) -> Array:
        strength = np.zeros_like(log_worth) if shading is None else shading
        knobs = Knobs(jnp.asarray(log_worth, jnp.float32), jnp.asarray(strength, jnp.float32))
        return np.asarray(constant_score(world, landscape, knobs, bank, kind=kind))

    return best_multiplier(score_of, *axes, starts=1, halvings=HALVINGS)


def best_on_auctions(world: World, bank: Bank, kind: Kind) -> Floats:
    """The LP bound [B] on the very auctions that the worlds sample, counted in expected clicks."""
    return lp_bound(_told(world, bank, kind=kind)._replace(exposure=kind.rules.exposure))


@partial(jax.jit, static_argnames="kind")
def _told(world: World, bank: Bank, *, kind: Kind) -> Auctions:
    return day_auctions(world, kind, bank)


class Known(NamedTuple):
    """Worlds whose bidder is told the truth: each has line items of its own in `landscape`."""

    world: World
    landscape: Landscape


def told_the_truth(world: World, worn: Array, kind: Kind) -> Known:
    """A landscape of B x I line items that holds each world's own price path, volume and rates.

    Prices are those that rivals make before they answer. worn: [G], the conversion rate of an ordinary day's users,
    tired or aware as they are, as a share of that of users who have not been shown anything.
    """
    days, items = world.price_mean.shape

    def flat(x: Array) -> Floats:
        told = np.asarray(x, np.float64)
        return told.reshape(days * items, *told.shape[2:])

    item = np.asarray(world.terms.item)
    volume = flat(world.volume_path)
    total = volume.sum(-1)
    if (total <= 0).any():
        raise BadInput("a world without auctions has no landscape: its volume is 0 all day.")
    path = flat(world.price_path)
    known = tabulate(
        rules=kind.rules, price_mean=flat(world.price_mean), price_sd=flat(world.price_sd),
        clicks_price=flat(world.clicks_price), click_rate=flat(world.click_rate), cost_scale=flat(world.cost_scale),
        conversion_rate=flat(world.conversion_rate * jnp.asarray(worn)[item]), order_value=flat(world.unit_worth),
        volume=total, traffic=volume / total[:, None], price_hour=path, price_day_sd=np.zeros(len(total)),
        delay_share=flat(world.delay_share), delay_rate=flat(world.delay_rate), slot_gap=flat(world.slot_gap),
    )  # fmt: skip
    own = jnp.arange(days * items).reshape(item.shape)
    return Known(world._replace(terms=world.terms._replace(item=own)), known)
