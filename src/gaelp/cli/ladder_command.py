"""`gaelp ladder`: what every baseline reaches of the reference line, on suites of worlds or on a recorded log."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from math import floor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaelp.cli.replay_command import (
    FORMATS,
    Budget,
    BudgetFraction,
    EpisodeAuctions,
    EpisodeBudget,
    FirstMultiplierError,
    IntegerBids,
    MaxBid,
    Policy,
    replay_command,
)
from gaelp.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.table import Table

    from gaelp.market.ladder import Bar, Ladder, Rung


WORLDS, SEEDS, PROCESSES = 256, 3, 2


def ladder_command(
    asked: Annotated[
        str, typer.Argument(metavar="SUITE | LOG", help="A suite's name, all, or an auction log.")
    ],
    worlds: Annotated[
        int | None, typer.Option("--worlds", help=f"Judged worlds for each seed; {WORLDS}.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help=f"How many sets of judged worlds; {SEEDS}.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", help=f"Suites climbed at the same time; {PROCESSES}.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with a picture here.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help=f"With a log, and needed there: {', '.join(FORMATS)}.")
    ] = None,
    policy: Policy = None,
    first_multiplier_error: FirstMultiplierError = None,
    episode_auctions: EpisodeAuctions = None,
    episode_budget: EpisodeBudget = None,
    budget: Budget = None,
    budget_fraction: BudgetFraction = None,
    integer_bids: IntegerBids = False,
    max_bid: MaxBid = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what tuned baselines reach of the best in hindsight.

    Every baseline is tuned on worlds of the suite and judged on others. What is left above the best of them is the
    room that learning has. With a log and its --format it is the log's own ladder, as `gaelp replay LOG --ladder`
    plays it: every baseline beside the LP bound. Options from --format on are for logs, those before for suites.

    Example:

    \b
    gaelp ladder second-price-cpa --html ladder.html

    \b
    gaelp ladder train.txt --format ipinyou-theta --budget-fraction 1/16
    """
    for_suites = {"--worlds": worlds, "--seeds": seeds, "--processes": processes, "--html": html}
    if format_ is not None:
        _expect_none(for_suites, f"is for suites of worlds, and with --format {asked} is a log.")
        replay_command(
            Path(asked), format_, policy, ladder=True, first_multiplier_error=first_multiplier_error,
            episode_auctions=episode_auctions, episode_budget=episode_budget, budget=budget,
            budget_fraction=budget_fraction, integer_bids=integer_bids, max_bid=max_bid, json_=json_,
        )  # fmt: skip
        return
    for_logs = {
        "--policy": policy, "--first-multiplier-error": first_multiplier_error, "--episode-auctions": episode_auctions,
        "--episode-budget": episode_budget, "--budget": budget, "--budget-fraction": budget_fraction,
        "--integer-bids": True if integer_bids else None, "--max-bid": max_bid,
    }  # fmt: skip
    _expect_none(for_logs, f"is for logs, which need --format as well: {', '.join(FORMATS)}.")
    _suites(
        asked, WORLDS if worlds is None else worlds, SEEDS if seeds is None else seeds,
        PROCESSES if processes is None else processes, html, json_=json_,
    )  # fmt: skip


def _expect_none(options: Mapping[str, object], why: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise BadInput(f"{name} {why}")


def _suites(asked: str, worlds: int, seeds: int, processes: int, html: Path | None, *, json_: bool) -> None:
    # Imported here so that `gaelp --help` need not wait for JAX.
    from rich.console import Console

    from gaelp.market.suites import NAMES, suite_names

    if asked not in ("all", *NAMES) and Path(asked).is_file():
        raise BadInput(
            f"no suite {asked!r} but a file of that name: a log needs --format, one of {', '.join(FORMATS)}."
        )
    if processes < 1:
        raise BadInput(f"--processes is {processes}, expected at least 1.")
    if html is not None and not html.absolute().parent.is_dir():
        raise BadInput(f"--html: there is no folder {html.absolute().parent}.")
    found, console = [], Console()
    for ladder in _climbed(suite_names(asked), worlds, seeds, processes):
        found.append(ladder)
        if json_:
            # All suites take minutes, and the object comes last: whoever waits is told how far it is.
            print(said(ladder), file=sys.stderr, flush=True)
        else:
            console.print(suite_table(ladder))
            console.print(f"{remarks(ladder)}\n")
    if html is not None:
        from gaelp.report.ladder import write_page

        write_page(found, html)
    if json_:
        print(json.dumps(record(found)))


def record(ladders: Sequence[Ladder]) -> dict[str, object]:
    """What --json holds."""
    bars = [asdict(ladder.bar) for ladder in ladders if ladder.bar is not None]
    return {"bars": bars, "suites": [asdict(ladder) for ladder in ladders]}


def _climbed(names: tuple[str, ...], worlds: int, seeds: int, processes: int) -> Iterator[Ladder]:
    """The ladders of suites in their order, several climbed at a time in processes of their own."""
    if len(names) == 1 or processes == 1:
        yield from (climb_named(name, worlds, seeds) for name in names)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(climb_named, names, [worlds] * len(names), [seeds] * len(names))


def climb_named(name: str, worlds: int, seeds: int) -> Ladder:
    """Climb one suite, with compiled programs kept between runs."""
    from gaelp.learn.runtime import enable_compilation_cache
    from gaelp.market.ladder import climb
    from gaelp.market.suites import suite
    from gaelp.orchestration.run import compile_cache

    enable_compilation_cache(compile_cache())
    return climb(suite(name), worlds=worlds, seeds=seeds)


def said(ladder: Ladder) -> str:
    """A suite in one line."""
    share = _certified(ladder).share
    asked = "" if ladder.bar is None else f"; {judged(ladder.bar)}"
    return (
        f"{ladder.suite}: {ladder.certified} reaches {100 * share.middle:.1f} % ({100 * share.low:.1f} to "
        f"{100 * share.high:.1f}) of the {ladder.reference}; room {100 * ladder.room:.1f} %{asked}"
    )


def judged(bar: Bar) -> str:
    """Whether the certified pacer reaches what its suite asks."""
    # Rounded down: what misses a bar must not be told as the bar itself.
    return f"bar {100 * bar.bar:g} %: {'met' if bar.met else f'not met, at {floor(1e4 * bar.figure) / 100:.2f} %'}"


def suite_table(ladder: Ladder) -> Table:
    """A suite's ladder for a person."""
    from gaelp.cli.tables import figures

    table = figures(
        f"{ladder.suite}, version {ladder.version}, {ladder.hash} ({ladder.room_for})", "policy",
        ("share", "95 %", "spend", "overspend", "above\ntarget", "excess", "worst\ntenth"),
    )  # fmt: skip
    # A line that bounds nothing says so in one piece.
    table.add_row(ladder.reference.replace(" (", "\n("), "100.0 %")
    if ladder.lp is not None:
        table.add_row("LP bound", f"{ladder.lp:.1%}".replace("%", " %"))
    for rung in (ladder.clairvoyant, *sorted(ladder.rungs, key=lambda r: -r.share.middle)):
        table.add_row(*_cells(rung, certified=ladder.certified))
    return table


def remarks(ladder: Ladder) -> str:
    """What stands below a suite's table."""
    told = [
        f"room: {100 * ladder.room:.1f} % of the reference above {ladder.best}",
        f"{ladder.seeds} x {ladder.worlds} worlds",
        f"the certified pacer wins {100 * _certified(ladder).win_rate:.1f} % of the auctions",
    ]  # fmt: skip
    if ladder.bar is not None:
        told.append(judged(ladder.bar))
    return "; ".join(told)


def _certified(ladder: Ladder) -> Rung:
    return next(rung for rung in ladder.rungs if rung.name == ladder.certified)


def _cells(rung: Rung, *, certified: str) -> tuple[str, ...]:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f} %"

    share = rung.share
    return (
        f"{rung.name}\n(certified)" if rung.name == certified else rung.name, percent(share.middle),
        f"{100 * share.low:.1f} to {100 * share.high:.1f}", percent(rung.spend_share), f"{rung.overspend:g}",
        percent(rung.violations), percent(rung.excess), percent(rung.worst_decile),
    )  # fmt: skip
