"""The platform between our wish and the auction: levers, its own autobidder, edit limits, learning periods.

A line item is steered by one lever: its bid, a target CPA, a target ROAS, or a budget. What is wanted is a log bid;
whatever the field's unit, the platform makes a bid of it again: with its own estimate of the conversion rate and, for a
budget, with its own pacing. An edit that is too small or one too many for the day leaves the field as it was; a large
one starts the learning period anew, in which the platform's bids wander.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Lever(IntEnum):
    """What of a line item can be edited."""

    BID = 0
    TARGET_CPA = 1
    TARGET_ROAS = 2
    BUDGET = 3


class Controls(NamedTuple):
    """How a platform treats B campaigns of I line items; [B,I] unless said."""

    lever: jax.Array
    smallest_edit: jax.Array
    """Log size below which an edit is ignored."""
    edits_a_day: jax.Array
    learning_edit: jax.Array
    """Log size from which on an edit restarts the learning period."""
    learning_ticks: jax.Array
    learning_noise: jax.Array
    """Log standard deviation of the bid at the beginning of the learning period."""
    rate_error: jax.Array
    """Log error of the platform's own estimate of the conversion rate; it moves every lever but the bid."""
    noise: jax.Array
    """[B,I,48] standard normals behind the wandering."""


class Field(NamedTuple):
    """What is in force; [B,I]."""

    wanted: jax.Array
    """The multiplier written into the field, as a log bid."""
    edits: jax.Array
    learning: jax.Array
    """Half hours of the learning period that are left."""
    pacing: jax.Array
    """The budget lever's own correction, in log bid."""


def start_controls(controls: Controls) -> Field:
    """Nothing edited today; every line item has learned."""
    zero = jnp.zeros_like(controls.rate_error)
    return Field(zero, zero, zero, zero)


def edit(controls: Controls, field: Field, wanted: jax.Array, t: jax.Array) -> Field:
    """Ask for `wanted` [B,I] at half hour `t`; the day's first wish is always taken, and counts as no edit."""
    size = jnp.abs(wanted - field.wanted)
    taken = (size > controls.smallest_edit) & (field.edits < controls.edits_a_day) | (t == 0)
    counts = taken & (t > 0)
    restart = counts & (size >= controls.learning_edit)
    return field._replace(
        wanted=jnp.where(taken, wanted, field.wanted),
        edits=field.edits + counts,
        learning=jnp.where(restart, controls.learning_ticks, jnp.maximum(field.learning - 1.0, 0.0)),
    )


def log_bids(controls: Controls, field: Field, t: jax.Array) -> jax.Array:
    """The bids [B,I] that the platform makes of what is in force."""
    automatic = controls.lever != Lever.BID
    left = field.learning / jnp.maximum(controls.learning_ticks, 1.0)
    wandering = controls.learning_noise * left * controls.noise[..., t]
    paced = jnp.where(controls.lever == Lever.BUDGET, field.pacing, 0.0)
    return field.wanted + jnp.where(automatic, controls.rate_error + wandering + paced, 0.0)


def after_spend(field: Field, spent_share: jax.Array, planned: jax.Array) -> Field:
    """The budget lever's pacing after a half hour; [B,I]: share of the budget spent, share of the traffic over."""
    return field._replace(pacing=jnp.clip(field.pacing + 0.3 * (planned - spent_share), -1.0, 1.0))
