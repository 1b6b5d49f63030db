"""`gaelp verify` and `gaelp validate`: prove again, from the log and the files, what a run claims."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaelp.core.config import Journey
from gaelp.core.errors import BadInput, GaelpError, PhaseFailed
from gaelp.orchestration.run import Run, any_run, compile_cache, has_a_platform

if TYPE_CHECKING:
    from gaelp.platforms.platform import BillLine
    from gaelp.platforms.sandbox.process import SandboxProcess


class NotProved(GaelpError):
    """A check did not hold; what was found stands above the sentence."""

    exit_code = 1


def show_verification(home: Path, run_name: str | None, *, as_json: bool) -> None:
    """Repeat learning verification; exit code 0 only for LEARNING, and only when the log says the same."""
    run = any_run(home, run_name)
    _quietly(run)
    from gaelp.orchestration.reverify import reverify

    found = asyncio.run(reverify(run))
    told: dict[str, Any] = {"run": run.run_id, **found.payload()}
    if as_json:
        print(json.dumps(told))
    else:
        print(f"{told['verdict']}: {told['reason']}")
        print(f"actor {told['actor_hash'][:16]}")
        for name, part in told["parts"].items():
            print(f"\n{name}: {part['ruling']}. {part['reason']}")
            for key, value in part.items():
                if key not in ("ruling", "reason"):
                    _print_numbers(key, value, "  ")
        if found.judged_at is None:
            print("\nthe log holds no judgement of these weights.")
        elif found.same:
            print(f"\nevent {found.judged_at} of the log says the same, number by number.")
        else:
            print(f"\nevent {found.judged_at} of the log says otherwise: {'; '.join(found.differs[:3])}")
    if not found.verdict:
        raise PhaseFailed(f"the verdict is {told['verdict']}, not LEARNING.")
    if found.judged_at is not None and not found.same:
        raise NotProved("the log's own judgement of these weights differs.")


def show_validation(home: Path, run_name: str | None, *, negative_controls: bool, as_json: bool) -> None:
    """Check a run's log, weights and bill; exit code 0 only when every check holds."""
    from gaelp.audit.validate import validate_run

    run = any_run(home, run_name)
    if negative_controls and not has_a_platform(run):
        raise BadInput(
            f"run {run.run_id} is a journey on an auction log; --negative-controls are played in worlds of an account."
        )
    started: list[SandboxProcess] = []

    def bill() -> tuple[BillLine, ...]:
        assert has_a_platform(run), "a journey on a log is asked for no bill"
        platform, process = run.open_platform()
        started.append(process)
        return platform.bill(run.prefix)

    validation = validate_run(run.store, run.run_id, run.artifacts, bill)
    if run.found("journey_ended"):
        for process in started:
            process.stop()
    told: dict[str, Any] = validation.payload()
    if negative_controls and has_a_platform(run):
        told["controls"] = [result.payload() for result in _controls(run)]
        told["ok"] = told["ok"] and all(control["ok"] for control in told["controls"])
    if as_json:
        print(json.dumps(told))
    else:
        for check in [*told["checks"], *(told["controls"] if negative_controls else [])]:
            print(f"{'holds ' if check['ok'] else 'BROKEN'}  {check['name']}: {check['said']}")
    if not told["ok"]:
        broken = [x["name"] for x in told["checks"] if not x["ok"]]
        broken += [x["name"] for x in told["controls"] if not x["ok"]] if negative_controls else []
        raise NotProved(f"{len(broken)} checks do not hold: {', '.join(broken)}.")


def _controls(run: Run) -> tuple[Any, ...]:
    _quietly(run)
    from gaelp.audit.controls import negative_controls
    from gaelp.orchestration.short import set_stage, short_run

    stage = set_stage(run)
    return asyncio.run(negative_controls(lambda overrides: short_run(stage, overrides), [run.config.seed]))


def _quietly(run: Run[Journey]) -> None:
    """Compiled programs from the cache, log lines to the run's own file."""
    from gaelp.cli.journey import log_to
    from gaelp.learn.runtime import enable_compilation_cache

    enable_compilation_cache(compile_cache())
    log_to((run.directory / "gaelp.log").open("a", encoding="utf-8"))


def _print_numbers(key: str, value: object, indent: str) -> None:
    if isinstance(value, dict):
        print(f"{indent}{key}")
        for inner, number in value.items():
            _print_numbers(str(inner), number, indent + "  ")
    elif isinstance(value, list) and value and all(isinstance(x, dict) for x in value):
        print(f"{indent}{key}")
        for each in value:
            print(
                f"{indent}  {', '.join(f'{name} {_short(x)}' for name, x in each.items() if name != 'asks')}"
            )
    elif isinstance(value, list):
        print(f"{indent}{key}: {', '.join(_short(x) for x in value)}")
    else:
        print(f"{indent}{key}: {_short(value)}")


def _short(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
