"""The steps of spending as a configuration wrote them, the most each can cost, and what of that it refuses itself.

The platform documents its worst case as a multiple of a daily budget. Whatever shows, asks for or checks money before
it is spent computes it here. Imports no JAX: `gaelp plan` starts through here.
"""

from __future__ import annotations

from dataclasses import dataclass

from gaelp.core.config import JourneyConfig, MoneyLimits
from gaelp.core.errors import BadInput
from gaelp.core.money import Money
from gaelp.orchestration.phases import REAL_TESTING, SCALED
from gaelp.platforms.platform import times_over_delivery
from gaelp.safety.ledger import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of spending: campaigns by arm, their daily budget, its days and limits, and its judging window."""

    key: str
    """Where the configuration holds it."""
    daily_budget_micros: int
    days: int
    agent_campaigns: int
    control_campaigns: int
    window_days: int
    limits: Limits

    @property
    def campaigns(self) -> int:
        return self.agent_campaigns + self.control_campaigns


def steps_of(config: JourneyConfig, phase: str) -> tuple[Step, ...]:
    """The steps of a live phase, in order."""
    if phase == REAL_TESTING:
        plan = config.real_testing
        return (
            Step(
                key=REAL_TESTING, daily_budget_micros=plan.daily_budget, days=plan.play_days,
                agent_campaigns=plan.agent_campaigns, control_campaigns=plan.control_campaigns,
                window_days=plan.window_days, limits=_limits(plan.limits),
            ),
        )  # fmt: skip
    return tuple(
        Step(
            key=f"scaled.steps.{number}", daily_budget_micros=step.daily_budget, days=step.days,
            agent_campaigns=step.agent_campaigns, control_campaigns=step.control_campaigns,
            window_days=step.days, limits=_limits(step.limits),
        )
        for number, step in enumerate(config.scaled.steps)
    )  # fmt: skip


def _limits(told: MoneyLimits) -> Limits:
    return Limits(
        per_episode_micros=told.per_episode,
        per_day_micros=told.per_day,
        total_micros=told.total,
        days=told.days,
    )


def worst_case_by_episode(step: Step, over_delivery: int) -> int:
    """The most a campaign-day of this step can cost, as the platform documents it; micros."""
    return times_over_delivery(step.daily_budget_micros, 1, over_delivery)


def worst_case_by_day(step: Step, over_delivery: int) -> int:
    """The most a day of this step can cost, control included; micros."""
    return step.campaigns * worst_case_by_episode(step, over_delivery)


def worst_case_in_all(step: Step, over_delivery: int) -> int:
    """The most the whole step can cost: its days at their worst, or its written total, whichever is less; micros."""
    return min(step.limits.total_micros, step.days * worst_case_by_day(step, over_delivery))


def require_within_limits(config: JourneyConfig, over_delivery: int, where: str) -> None:
    """Refuse a journey that its own limits would stop on the way: told before it begins, not on a live day.

    A step's total may be less than all its days at their worst, since what a bill leaves over is free again; a single
    day at its worst must fit. Raises BadInput naming `where`, the key and the figures.
    """
    for step in (*steps_of(config, REAL_TESTING), *steps_of(config, SCALED)):
        episode = worst_case_by_episode(step, over_delivery)
        day = worst_case_by_day(step, over_delivery)
        budget = Money(step.daily_budget_micros, config.currency)
        charged = f"the platform may charge {over_delivery} times its daily_budget of {budget}"
        for name, limit, worst, what in (
            ("per_episode", step.limits.per_episode_micros, episode, f"a campaign-day may cost: {charged}"),
            ("per_day", step.limits.per_day_micros, day,
             f"{step.campaigns} campaigns a day may cost, control included: {charged}"),
            ("total", step.limits.total_micros, day,
             f"its first day may cost, {step.campaigns} campaigns, control included: {charged}"),
        ):  # fmt: skip
            if worst > limit:
                raise BadInput(
                    f"{where}: {step.key}.limits.{name} is {Money(limit, config.currency)}, less than the "
                    f"{Money(worst, config.currency)} that {what}."
                )
        if step.days > step.limits.days:
            played = "play_days" if step.key == REAL_TESTING else "days"
            raise BadInput(
                f"{where}: {step.key}.limits.days is {step.limits.days}, less than its {played} of {step.days}."
            )
