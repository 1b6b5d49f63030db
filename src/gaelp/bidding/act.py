"""Actions: a joint move becomes a bid around the pacer, and back; guards are applied by whoever owns the world."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from gaelp.bidding.rules import SECOND_PRICE, Format, Rules
from gaelp.core.errors import BadInput
from gaelp.core.schema import Schema
from gaelp.core.xp import Array


def pace_of(move: Array, schema: Schema, xp: ModuleType) -> Array:
    """The log multiplier on the pacer's bid that joint move `move` [..] asks for."""
    return xp.asarray(schema.pace_levels, dtype=xp.float32)[move // len(schema.tilt_levels)]


def tilt_of(move: Array, schema: Schema, xp: ModuleType) -> Array:
    """The log step of the second knob that joint move `move` [..] asks for."""
    return xp.asarray(schema.tilt_levels, dtype=xp.float32)[move % len(schema.tilt_levels)]


def move_of(pace: float, tilt: float, schema: Schema) -> int:
    """The joint move of two levels: the inverse of decoding. Raises BadInput for a value that is no level."""
    if pace not in schema.pace_levels or tilt not in schema.tilt_levels:
        raise BadInput(
            f"({pace}, {tilt}) is no joint move; levels are {schema.pace_levels} x {schema.tilt_levels}."
        )
    return schema.pace_levels.index(pace) * len(schema.tilt_levels) + schema.tilt_levels.index(tilt)


def move_mask(schema: Schema, line_items: int, rules: Rules = SECOND_PRICE) -> Array:
    """Which of the joint moves do anything, [A].

    The second knob tilts between line items, and with a single one it shades the bid. In second price nothing is
    shaded, so there its non-zero levels are masked.
    """
    tilt = np.asarray(schema.tilt_levels)[np.arange(schema.action_size) % len(schema.tilt_levels)]
    idle = line_items == 1 and rules.format is Format.SECOND_PRICE
    return tilt == 0.0 if idle else np.full(schema.action_size, True)


def exploration(schema: Schema, mask: Array, keep: float) -> Array:
    """The incumbent's known randomisation: the zero move with probability `keep`, the other allowed moves
    alike with the rest; [A], sums to 1 over the mask. The smallest positive entry is the floor."""
    others = int(mask.sum()) - 1
    if not 0.0 < keep < 1.0 or others < 1:
        raise BadInput(
            f"exploration keeps the pacer's own move with a probability inside (0, 1), got {keep}."
        )
    chances = np.where(mask, (1.0 - keep) / others, 0.0)
    chances[schema.zero_move] = keep
    return chances
