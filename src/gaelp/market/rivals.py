"""Rivals: advertisers with purses and pacers of their own, who move the price level; they never see our bid.

R rivals compete on each line item. Each bids a log distance `strength` + `move` around the market's level; the level
that must be beaten is their smooth maximum, and a rival sets it as often as its softmax share says (for bids with
Gumbel noise both are exact; ours is normal, so here they are an approximation). A rival that wins pays, so its purse
empties faster where we win less: that is the only way in which our bid reaches it. A rival either paces, answering to
how far its spend is from the traffic's plan, or spends until it is broke. Each enters at one half hour and leaves at
another. With endless purses and no gain nobody answers, and prices are given.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

SHARPNESS = 1.28
"""Standard deviations of a Gumbel variable in units of its scale: how sharply the maximum follows the strongest."""
BROKE = -6.0
"""Log distance of a rival that does not bid."""
SOFTEST, BOLDEST = -1.5, 0.75
"""How far a pacing rival moves down and up."""


class Rivals(NamedTuple):
    """B campaign-days with I line items and R rivals each; [B,I,R] unless said."""

    strength: jax.Array
    purse: jax.Array
    """What a rival may spend in a day, as a share of what it spends on an ordinary one in which nobody answers."""
    paces: jax.Array
    """1 where it paces, 0 where it spends until it is broke."""
    gain: jax.Array
    """[B,I] how strongly a pacing rival answers, in log bid per day's purse off the plan."""
    enters: jax.Array
    """Half hour in which it begins to bid; at or below 0: from the start."""
    leaves: jax.Array
    """Half hour from which on it bids no more; at or above 48: never."""


class Field(NamedTuple):
    """How the rivals stand now; [B,I,R]."""

    spent: jax.Array
    """In purses."""
    move: jax.Array


def start_field(rivals: Rivals) -> Field:
    """Nobody has spent anything."""
    zero = jnp.zeros_like(rivals.strength)
    return Field(zero, zero)


def _bids(rivals: Rivals, field: Field, t: jax.Array) -> jax.Array:
    there = (t >= rivals.enters) & (t < rivals.leaves) & (field.spent < 1.0)
    return jnp.where(there, rivals.strength + field.move, BROKE)


def _smooth_maximum(bids: jax.Array, sd: jax.Array) -> jax.Array:
    sharp = SHARPNESS / sd
    return jax.nn.logsumexp(sharp[..., None] * bids, axis=-1) / sharp


def level(rivals: Rivals, field: Field, sd: jax.Array, t: jax.Array) -> jax.Array:
    """Log price level [B,I] that they make, 0 when all bid their strength. sd: [B,I] of a single price's logarithm."""
    usual = _smooth_maximum(rivals.strength, sd)
    return _smooth_maximum(_bids(rivals, field, t), sd) - usual


def after(
    rivals: Rivals, field: Field, sd: jax.Array, paid: jax.Array, planned: jax.Array, t: jax.Array
) -> Field:
    """Purses and moves after half hour `t`.

    paid: [B,I], what they paid for the auctions that we did not win, as a share of what an ordinary day's auctions cost
    them at their usual level. planned: [B,I], the share of the day's traffic that is over.
    """
    sharp = (SHARPNESS / sd)[..., None]
    share = jax.nn.softmax(sharp * _bids(rivals, field, t), axis=-1)
    usual = jax.nn.softmax(sharp * rivals.strength, axis=-1)
    spent = field.spent + share / usual * paid[..., None] / rivals.purse
    answer = rivals.gain[..., None] * (planned[..., None] - spent) * rivals.paces
    return Field(spent, jnp.clip(field.move + answer, SOFTEST, BOLDEST))
