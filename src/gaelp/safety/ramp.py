"""The ramp: how the budget of the scaled phase grows, one granted step at a time, and how it goes back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from gaelp.core.errors import BadInput
from gaelp.core.verdict import FAIL, PASS, Verdict


@dataclass(frozen=True, slots=True)
class RampStep:
    """One rung: the budget of a campaign-day and how many days it is played before the next."""

    budget_micros_per_episode: int
    days: int

    def __post_init__(self) -> None:
        for name in ("budget_micros_per_episode", "days"):
            if type(getattr(self, name)) is not int or getattr(self, name) <= 0:
                raise BadInput(
                    f"ramp step: {name} is {getattr(self, name)!r}, expected a whole number above 0."
                )


class Move(StrEnum):
    """Where the ramp goes from a rung."""

    UP = "up"
    HOLD = "hold"
    BACK = "back"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class NextStep:
    """The rung to stand on next, counted from 0, and the move that leads there."""

    step: int
    move: Move


def check_ramp(steps: tuple[RampStep, ...]) -> None:
    """Raises BadInput for no steps, or a budget that falls: a ramp goes up."""
    if not steps:
        raise BadInput("the ramp has no steps.")
    for k, (below, above) in enumerate(pairwise(steps)):
        if above.budget_micros_per_episode < below.budget_micros_per_episode:
            raise BadInput(f"ramp step {k + 1} has a smaller budget than step {k}: a ramp goes up.")


def next_step(steps: tuple[RampStep, ...], step: int, verdict: Verdict) -> NextStep:
    """PASS goes up (or is done on the last rung), WAIT holds, FAIL goes one rung back, never below the first.

    Raises BadInput for a rung that is not on the ramp.
    """
    check_ramp(steps)
    if not 0 <= step < len(steps):
        raise BadInput(f"ramp step {step} does not exist: the ramp has {len(steps)} steps, counted from 0.")
    if verdict.ruling is FAIL:
        return NextStep(max(step - 1, 0), Move.BACK)
    if verdict.ruling is PASS:
        return NextStep(step, Move.DONE) if step == len(steps) - 1 else NextStep(step + 1, Move.UP)
    return NextStep(step, Move.HOLD)
