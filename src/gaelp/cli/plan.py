"""`gaelp plan`: what a journey would do and the most it could lose, from its configuration alone. Imports no JAX."""

from __future__ import annotations

import json
from typing import Any

from gaelp.core.config import JourneyConfig, build_config, override
from gaelp.core.money import Money
from gaelp.core.schema import TICKS_PER_DAY, default_schema
from gaelp.orchestration.phases import REAL_TESTING, SCALED, phases_of
from gaelp.orchestration.steps import (
    require_within_limits,
    steps_of,
    worst_case_by_day,
    worst_case_by_episode,
    worst_case_in_all,
)
from gaelp.platforms.sandbox import OVER_DELIVERY


def show_plan(told: dict[str, Any], where: str, settings: list[str], *, as_json: bool) -> None:
    """Print the plan of a journey; raises BadInput for a configuration that is wrong."""
    config = build_config(override(told, settings), where)
    require_within_limits(config, OVER_DELIVERY, where)
    losses = worst_cases(config)
    if as_json:
        print(json.dumps(_answer(config, losses)))
        return
    _print(config, losses)


def worst_cases(config: JourneyConfig) -> list[dict[str, Any]]:
    """What each spending step can lose per hour, day and in all, in micros, as the platform documents its worst.

    The platform paces a day as it likes, so an hour may cost what the day may.
    """
    named = [(REAL_TESTING, step) for step in steps_of(config, REAL_TESTING)]
    named += [(f"{SCALED}, step {k + 1}", step) for k, step in enumerate(steps_of(config, SCALED))]
    told = []
    for name, step in named:
        day = worst_case_by_day(step, OVER_DELIVERY)
        told.append(
            {
                "step": name,
                "campaigns": step.campaigns,
                "days": step.days,
                "daily_budget_micros": step.daily_budget_micros,
                "per_episode_micros": worst_case_by_episode(step, OVER_DELIVERY),
                "per_hour_micros": day,
                "per_day_micros": day,
                "in_all_micros": worst_case_in_all(step, OVER_DELIVERY),
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
        "guard_bounds": {
            "max_bid_micros": config.platform.max_bid,
            "max_raise_ratio": config.guards.max_raise_ratio,
            "max_velocity_ratio": config.guards.max_velocity_ratio,
        },
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
    console.print(
        f"\nA bid is at most {money(config.platform.max_bid)}, and at most {config.guards.max_raise_ratio:g} times "
        "the one half an hour before; a refused one holds the last. A day whose spend so far exceeds "
        f"{config.guards.max_velocity_ratio:g} times its plan so far is paused.\n"
    )
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
    console.print(lost)
    total = sum(x["in_all_micros"] for x in losses)
    after_wait = "goes on (sandbox only)" if config.continue_after_wait else "stops"
    console.print(
        f"In all at most {money(total)}, if every step is granted and approved. Nothing is granted by default, and the "
        f"platform may charge up to {OVER_DELIVERY} times a daily budget. After WAIT the journey {after_wait}."
    )
