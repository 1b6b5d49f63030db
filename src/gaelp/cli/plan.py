"""`gaelp plan`: what a journey would do and the most it could lose, from its configuration alone. Imports no JAX."""

from __future__ import annotations

import json
from typing import Any

from gaelp.core.config import JourneyConfig, RampStepConfig, RealTestingConfig, build_config, override
from gaelp.core.money import Money
from gaelp.core.schema import TICKS_PER_DAY, default_schema
from gaelp.orchestration.phases import phases_of
from gaelp.platforms.platform import times_over_delivery
from gaelp.platforms.sandbox import OVER_DELIVERY


def show_plan(told: dict[str, Any], where: str, settings: list[str], *, as_json: bool) -> None:
    """Print the plan of a journey; raises BadInput for a configuration that is wrong."""
    config = build_config(override(told, settings), where)
    losses = worst_cases(config)
    if as_json:
        print(json.dumps(_answer(config, losses)))
        return
    _print(config, losses)


def worst_cases(config: JourneyConfig) -> list[dict[str, Any]]:
    """What each spending step can lose per hour, day and in all, in micros, as the platform documents its worst.

    The platform paces a day as it likes, so an hour may cost what the day may.
    """
    steps: list[tuple[str, RealTestingConfig | RampStepConfig, int]] = [
        ("real_testing", config.real_testing, config.real_testing.play_days)
    ]
    steps += [(f"scaled, step {k + 1}", step, step.days) for k, step in enumerate(config.scaled.steps)]
    told = []
    for name, step, days in steps:
        campaigns = step.agent_campaigns + step.control_campaigns
        episode = times_over_delivery(step.daily_budget, 1, OVER_DELIVERY)
        day = min(campaigns * episode, step.limits.per_day)
        told.append(
            {
                "step": name,
                "campaigns": campaigns,
                "days": days,
                "daily_budget_micros": step.daily_budget,
                "per_episode_micros": min(episode, step.limits.per_episode),
                "per_hour_micros": day,
                "per_day_micros": day,
                "in_all_micros": min(days * day, step.limits.total),
                "fits_its_limits": episode <= step.limits.per_episode
                and campaigns * episode <= step.limits.per_day,
            }
        )
    return told


def _answer(config: JourneyConfig, losses: list[dict[str, Any]]) -> dict[str, Any]:
    phases = [
        {"name": p.name, "train_every": p.train_every, "batch_size": p.batch_size, "num_epochs": p.num_epochs,
         "plays_in": p.plays_in, "judged_on": p.judged_on, "gates": list(p.gates), "guards": list(p.guards)}
        for p in phases_of(config)
    ]  # fmt: skip
    return {
        "name": config.name,
        "phases": phases,
        "losses": losses,
        "loss": {
            "per_hour_micros": max(x["per_hour_micros"] for x in losses),
            "per_day_micros": max(x["per_day_micros"] for x in losses),
            "in_all_micros": sum(x["in_all_micros"] for x in losses),
        },
        "granted_by_default_micros": 0,
        "continues_after_wait": config.continue_after_wait,
    }


def _print(config: JourneyConfig, losses: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    def money(micros: int) -> str:
        return str(Money(micros, config.currency))

    console = Console()
    schema = default_schema(config.decisions_per_day, config.profile)
    console.print(
        f"Journey {config.name!r}, {config.algorithm.upper()}, seed {config.seed}: "
        f"{schema.decisions_per_day} decisions a campaign-day "
        f"around a pacer that acts {TICKS_PER_DAY} times."
    )
    for p in phases_of(config):
        told = Table.grid(padding=(0, 2))
        for name, value in (
            (
                "trains",
                f"every {p.train_every} episodes, minibatches of {p.batch_size} transitions, {p.num_epochs} epochs",
            ),
            ("plays in", p.plays_in),
            ("judged on", p.judged_on),
            ("gates", ", ".join(p.gates)),
            ("guards", ", ".join(p.guards) if p.guards else "none needed: no money"),
        ):
            told.add_row(f"  {name}", value)
        console.print(f"\n[bold]{p.name}[/bold]")
        console.print(told)
    console.print()
    lost = Table(
        "step",
        "campaigns",
        "days",
        "per hour",
        "per day",
        "in all",
        title="What you can lose, control arm included",
    )
    for x in losses:
        lost.add_row(
            x["step"],
            str(x["campaigns"]),
            str(x["days"]),
            money(x["per_hour_micros"]),
            money(x["per_day_micros"]),
            money(x["in_all_micros"]),
        )
        if not x["fits_its_limits"]:
            lost.add_row(
                "",
                "",
                "",
                "",
                "",
                "the platform's worst case exceeds this step's limits: it would be refused",
            )
    console.print(lost)
    total = sum(x["in_all_micros"] for x in losses)
    after_wait = "goes on (sandbox only)" if config.continue_after_wait else "stops"
    console.print(
        f"In all at most {money(total)}, if every step is granted and approved. Nothing is granted by default, and the "
        f"platform may charge up to {OVER_DELIVERY} times a daily budget. After WAIT the journey {after_wait}."
    )
