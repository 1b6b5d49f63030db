"""`gaelp demo`, `run` and `resume`: start or find a run, show it live, and tell how it ended."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from gaelp.core.config import Journey, override
from gaelp.core.errors import BadInput, GaelpError, PhaseFailed
from gaelp.core.money import Money
from gaelp.core.verdict import FAIL
from gaelp.orchestration.run import (
    Run,
    Wanted,
    any_run,
    begin_run,
    compile_cache,
    has_a_platform,
    is_on_a_log,
)
from gaelp.safety import latch
from gaelp.safety.approvals import Approval


def start(
    home: Path, told: dict[str, Any], where: str, settings: list[str], *, answered_by: str, as_json: bool
) -> None:
    """Begin a new run of the journey `told` and take it as far as it goes."""
    run = begin_run(home, override(told, settings), where, answered_by)
    _travel(run, answered_by, as_json=as_json)


def go_on(home: Path, run_name: str | None, *, lift: str | None, as_json: bool) -> None:
    """Go on with an existing run. Raises BadInput when it has ended, or is halted and nobody lifts that."""
    run = any_run(home, run_name)
    if run.found("journey_ended", reached_end=True):
        raise BadInput(f"run {run.run_id} has reached its end: `gaelp report {run.run_id}` shows it.")
    if lift is not None:
        latch.lift(run.directory, lift)
        run.append("halt_lifted", {"reason": lift})
    down = latch.read(run.directory)
    if down is not None:
        raise BadInput(
            f'run {run.run_id} is halted ({down.reason}): lift it with --lift "reason" when that is mended.'
        )
    if is_on_a_log(run):
        from gaelp.cli.log_run import travel_log

        travel_log(run, as_json=as_json)
    elif has_a_platform(run):
        _travel(run, str(run.store.config(run.run_id)["answered_by"]), as_json=as_json)


def _travel(run: Run, answered_by: str, *, as_json: bool) -> None:
    began = time.perf_counter()
    failure: GaelpError | None = None
    reached = False
    log = (run.directory / "gaelp.log").open("a", encoding="utf-8")
    log_to(log)
    with log, LiveProgress(run) as progress:
        run.progress = progress
        run.person = progress.demo_person if answered_by == "demo" else progress.announce
        # JAX loads here, while the progress bars already stand.
        from gaelp.learn.runtime import enable_compilation_cache, keep_one_heap
        from gaelp.orchestration.orchestrator import TrainingOrchestrator

        keep_one_heap()
        enable_compilation_cache(compile_cache())
        platform, process = run.open_platform()
        try:
            outcomes = asyncio.run(TrainingOrchestrator(run, platform).journey())
            reached = len(outcomes) == 4 and all(outcome.goes_on for outcome in outcomes.values())
            failed = [outcome.verdict for outcome in outcomes.values() if outcome.verdict.ruling is FAIL]
            if failed:
                failure = PhaseFailed(failed[0].reason)
            elif not reached:
                failure = PhaseFailed(f"the journey stopped: {list(outcomes.values())[-1].verdict.reason}")
        except GaelpError as error:
            failure = error
        # Found again, or started again from its database, when it died under the run.
        platform, process = run.open_platform()
        bill = sum(line.cost_micros for line in platform.bill(run.prefix))
        run.append(
            "journey_ended",
            {
                "platform_bill_micros": bill,
                "reached_end": reached,
                "reason": "" if failure is None else str(failure),
            },
        )
        process.stop()
    conclude(run, process.database, time.perf_counter() - began, as_json=as_json)
    if failure is not None:
        print(f"gaelp: {failure}", file=sys.stderr)
        raise SystemExit(failure.exit_code)


def conclude(run: Run[Journey], sandbox_db: Path | None, seconds: float, *, as_json: bool) -> None:
    """Write the report, print the summary, and end with the JSON object or with where to read on."""
    from rich.console import Console

    from gaelp.report.html import write_report
    from gaelp.report.summary import print_summary, summarise

    write_report(run.store, run.run_id, run.directory / "report.html")
    summary = summarise(run.store, run.run_id)
    print_summary(summary, Console(stderr=as_json))
    answer = summary.answer(seconds=seconds, sandbox_db=None if sandbox_db is None else str(sandbox_db))
    if as_json:
        print(json.dumps(answer))
    else:
        print(f"report: {run.directory / 'report.html'}   ({seconds:.0f} s)")
        print(f"check it: gaelp validate {run.run_id} --home {run.home}")


def log_to(file: TextIO) -> None:
    """Structured log lines, logfmt, go to `file` from now on."""
    import logging

    import structlog

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("iso"),
            structlog.processors.LogfmtRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file),
        cache_logger_on_first_use=False,
    )


class LiveProgress:
    """Progress bars on standard error, one per stage, in the order in which they began."""

    def __init__(self, run: Run[Journey]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        self._run = run
        self.console = Console(stderr=True)
        # In a narrow terminal the note at the end is what is cut; counts and times stay whole.
        self._bars = Progress(
            TextColumn("{task.description:<33}", table_column=Column(no_wrap=True, min_width=33)),
            BarColumn(bar_width=28 if self.console.width >= 110 else 10),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=7)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self.console,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> LiveProgress:
        self.console.print(f"run {self._run.run_id}, seed {self._run.config.seed}, in {self._run.directory}")
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def advance(self, stage: str, done: int, total: int, note: str) -> None:
        """Move a stage's bar; a new stage gets a bar of its own."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, note=note)
        self._bars.update(self._tasks[stage], completed=done, total=total, note=note)

    def announce(self, run: Run[Journey], wanted: Wanted) -> None:
        """Say what a live step waits for, and the two commands that answer."""
        money = Money(wanted.binding.limit_micros, run.config.currency)
        units = str(money).split()[0]
        self._bars.console.print(
            f"waiting before {wanted.binding.phase}, step {wanted.binding.step + 1}: "
            f"it can lose at most {money}. To let it go on:\n"
            f"  gaelp grant {run.run_id} --home {run.home} --phase {wanted.binding.phase} --amount {units} --by NAME\n"
            f"  gaelp approve {run.run_id} --home {run.home} --by NAME",
            soft_wrap=True,
            highlight=False,
        )

    def demo_person(self, run: Run[Journey], wanted: Wanted) -> None:
        """The demo's person: grants and approves exactly what is asked, in sight."""
        money = Money(wanted.binding.limit_micros, run.config.currency)
        with run.store.transaction(run.run_id) as tx:
            tx.grant(wanted.binding.phase, wanted.binding.limit_micros, "the demo's person")
            tx.approve(Approval(wanted.binding, "the demo's person"))
        self._bars.console.print(
            f"granted and approved by the demo's person: {money} for {wanted.binding.phase}, "
            f"step {wanted.binding.step + 1} "
            f"(the most it can lose), actor {wanted.binding.actor_hash[:12]}",
            soft_wrap=True,
            highlight=False,
        )
