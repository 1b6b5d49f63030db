"""Pacers without a model of prices, for recorded logs: PID, and multiplicative dual pacing. Their gains are fixed.

Both hold the spend to what is left of the budget per auction left (the traffic curve of a log without a clock is flat).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

from gaelp.bidding.stream import BLOCKS, HIGHEST_MULTIPLIER, LOOK_ON, Episode, Move, Sight, first_multiplier

PID_GAINS = (0.2, 0.01, 0.05)
"""Proportional, integral, derivative; on the log multiplier, once a half hour."""
LARGEST_INTEGRAL = 3.0
LARGEST_STEP = 1.0
"""The log multiplier moves at most so far at once."""
PID_SHORTEST = 500
"""Auctions of the shortest step: fewer hold too few wins to tell a pace error from chance."""
DUAL_STEPS_A_BLOCK, DUAL_SHORTEST = 10, 250
DUAL_RATE = 0.1


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a bidder stands in its episode."""

    episode: Episode
    seen: int = 0
    spent: int = 0

    def until_step_ends(self, steps: int, shortest: int) -> int:
        """Auctions until the running one of `steps` equal parts of the episode ends; fewer parts where they would be
        shorter than `shortest` auctions."""
        length = self.episode.auctions
        steps = max(min(steps, length // shortest), 1)
        running = self.seen * steps // length
        return max((running + 1) * length // steps - self.seen, 1)

    def plan(self, auctions: int) -> float:
        """The share of the money left that falls on so many of the auctions left."""
        return (self.episode.budget - self.spent) * auctions / (self.episode.auctions - self.seen)

    def error(self, sight: Sight) -> float:
        """(plan - spent) / plan of what was just seen; 0 when no money was left."""
        plan = self.plan(len(sight.value))
        return 1.0 - sight.spent / plan if plan > 0.0 else 0.0

    def after(self, sight: Sight) -> Progress:
        return replace(self, seen=self.seen + len(sight.value), spent=self.spent + sight.spent)


@dataclass(frozen=True, kw_only=True)
class Pid:
    """Once a half hour, PID on the log multiplier with the relative error of the spend (notes on pacing)."""

    progress: Progress
    multiplier: float | None = None
    integral: float = 0.0
    last_error: float = 0.0

    def begin(self, episode: Episode) -> Self:
        return replace(self, progress=Progress(episode=episode), integral=0.0, last_error=0.0)

    def decide(self) -> Move:
        return _until_the_step_ends(self.progress, self.multiplier, BLOCKS, PID_SHORTEST)

    def after(self, sight: Sight) -> Self:
        following = replace(self, progress=self.progress.after(sight))
        if self.multiplier is None:
            return replace(following, multiplier=first_multiplier(self.progress.episode, sight.value))
        error = self.progress.error(sight)
        integral = min(max(self.integral + error, -LARGEST_INTEGRAL), LARGEST_INTEGRAL)
        proportional, integrated, derived = PID_GAINS
        step = proportional * error + integrated * integral + derived * (error - self.last_error)
        return replace(
            following, multiplier=_moved(self.multiplier, step), integral=integral, last_error=error
        )


@dataclass(frozen=True, kw_only=True)
class DualPacing:
    """Multiplicative dual descent, ten steps a half hour: log multiplier + rate x (plan - spent) / plan.

    Source: the multiplicative form of adaptive pacing (Balseiro and Gur; notes on pacing).
    """

    progress: Progress
    multiplier: float | None = None

    def begin(self, episode: Episode) -> Self:
        return replace(self, progress=Progress(episode=episode))

    def decide(self) -> Move:
        return _until_the_step_ends(
            self.progress, self.multiplier, BLOCKS * DUAL_STEPS_A_BLOCK, DUAL_SHORTEST
        )

    def after(self, sight: Sight) -> Self:
        following = replace(self, progress=self.progress.after(sight))
        if self.multiplier is None:
            return replace(following, multiplier=first_multiplier(self.progress.episode, sight.value))
        step = DUAL_RATE * self.progress.error(sight)
        return replace(following, multiplier=_moved(self.multiplier, step))


def _until_the_step_ends(progress: Progress, multiplier: float | None, steps: int, shortest: int) -> Move:
    unbounded = max(progress.episode.budget, 1)
    if multiplier is None:
        return Move(0.0, LOOK_ON, unbounded)
    return Move(multiplier, progress.until_step_ends(steps, shortest), unbounded)


def _moved(multiplier: float, step: float) -> float:
    return min(multiplier * math.exp(min(max(step, -LARGEST_STEP), LARGEST_STEP)), HIGHEST_MULTIPLIER)
