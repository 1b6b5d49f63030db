"""`gaelp run --logs`: begin a journey on a recorded auction log, show it live, and tell how it ended."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from gaelp.cli.journey import LiveProgress, conclude, log_to
from gaelp.core.config import LogJourneyConfig, build_log_config, override
from gaelp.core.errors import BadInput, GaelpError, nearest
from gaelp.market.replay import parse_amount
from gaelp.orchestration.run import Run, begin_log_run, compile_cache

FORMATS = ("ipinyou-theta",)
BUDGET_FRACTION = "1/16"
"""The budget of an episode when none is given, as a share of what a mean training episode costs whole."""


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What the command line said of a log, as it was written; None for what was left out."""

    logs: Path | None
    format_: str | None
    episode_auctions: int | None
    budget_fraction: str | None
    episode_budget: str | None
    max_bid: str | None

    def given(self) -> list[str]:
        """The options that were written."""
        told = {
            "--logs": self.logs, "--format": self.format_, "--episode-auctions": self.episode_auctions,
            "--budget-fraction": self.budget_fraction, "--episode-budget": self.episode_budget,
            "--max-bid": self.max_bid,
        }  # fmt: skip
        return [name for name, value in told.items() if value is not None]


def start_on_log(home: Path, options: LogOptions, settings: list[str], *, as_json: bool) -> None:
    """Begin a new run on a log and take it to its end. Raises BadInput before anything is written."""
    # Imported here: it brings NumPy and SciPy, which a mistyped option need not wait for.
    told = override(_told(options), settings, LogJourneyConfig)
    from gaelp.orchestration.log_reading import read_split

    read_split(build_log_config(told, "the command line"))
    travel_log(begin_log_run(home, told, "the command line"), as_json=as_json)


def _told(options: LogOptions) -> dict[str, Any]:
    """The journey that the options describe, as plain values."""
    from gaelp.orchestration.log_reading import sha256_of

    if options.logs is None:
        raise BadInput("a journey on a log needs --logs LOG.")
    known = f"Known: {', '.join(FORMATS)}."
    if options.format_ is None:
        raise BadInput(f"--logs needs --format, the log's format. {known}")
    if options.format_ not in FORMATS:
        raise BadInput(f"no log format named {options.format_!r}.{nearest(options.format_, FORMATS)} {known}")
    if options.budget_fraction is not None and options.episode_budget is not None:
        raise BadInput("--budget-fraction and --episode-budget exclude each other: give one form of budget.")
    log: dict[str, Any] = {
        "path": str(options.logs.resolve()), "format": options.format_, "sha256": sha256_of(options.logs),
    }  # fmt: skip
    if options.episode_auctions is not None:
        log["episode_auctions"] = options.episode_auctions
    if options.max_bid is not None:
        log["max_bid"] = _whole("--max-bid", options.max_bid)
    if options.episode_budget is not None:
        log["episode_budget"] = _whole("--episode-budget", options.episode_budget)
    else:
        share = BUDGET_FRACTION if options.budget_fraction is None else options.budget_fraction
        if parse_amount("--budget-fraction", share) > 1:
            raise BadInput(f"--budget-fraction is {share}, expected at most 1 (all that an episode costs).")
        log["budget_fraction"] = share
    return {"name": "log", "log": log}


def _whole(option: str, text: str) -> int:
    amount: Fraction = parse_amount(option, text)
    if amount.denominator != 1:
        raise BadInput(f"{option} is {text}, expected a whole number: the log's prices are whole.")
    return int(amount)


def travel_log(run: Run[LogJourneyConfig], *, as_json: bool) -> None:
    """Take a run on a log as far as it goes; both verdicts are told, and neither decides the exit code."""
    began = time.perf_counter()
    failure: GaelpError | None = None
    with (run.directory / "gaelp.log").open("a", encoding="utf-8") as log, LiveProgress(run) as progress:
        log_to(log)
        run.progress = progress
        # JAX loads here, while the progress bars already stand.
        from gaelp.learn.runtime import enable_compilation_cache
        from gaelp.orchestration.log_journey import ENDS_HERE, LogOrchestrator

        enable_compilation_cache(compile_cache())
        try:
            asyncio.run(LogOrchestrator(run).journey())
        except GaelpError as error:
            failure = error
        run.append(
            "journey_ended",
            {
                "platform_bill_micros": 0, "reached_end": failure is None,
                "reason": ENDS_HERE if failure is None else str(failure),
            },
        )  # fmt: skip
    conclude(run, None, time.perf_counter() - began, as_json=as_json)
    if failure is not None:
        print(f"gaelp: {failure}", file=sys.stderr)
        raise SystemExit(failure.exit_code)
