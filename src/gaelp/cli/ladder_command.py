"""`gaelp ladder`: what every baseline reaches of the reference line, on one suite of worlds or on all of them."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaelp.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gaelp.market.ladder import Ladder, Rung


def ladder_command(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name, or all.")],
    worlds: Annotated[int, typer.Option("--worlds", help="Judged worlds for each seed.")] = 256,
    seeds: Annotated[int, typer.Option("--seeds", help="How many sets of judged worlds.")] = 3,
    processes: Annotated[int, typer.Option("--processes", help="Suites climbed at the same time.")] = 2,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with a picture here.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what tuned baselines reach of the best in hindsight.

    Every baseline is tuned on worlds of the suite and judged on others. What is left above the best of them is the
    room that learning has.

    Example:

        gaelp ladder second-price-cpa --html ladder.html
    """
    # Imported here so that `gaelp --help` need not wait for JAX.
    from gaelp.market.suites import suite_names

    if processes < 1:
        raise BadInput(f"--processes is {processes}, expected at least 1.")
    if html is not None and not html.absolute().parent.is_dir():
        raise BadInput(f"--html: there is no folder {html.absolute().parent}.")
    found = []
    for ladder in _climbed(suite_names(suite), worlds, seeds, processes):
        found.append(ladder)
        if json_:
            # All suites take minutes, and the object comes last: whoever waits is told how far it is.
            print(said(ladder), file=sys.stderr, flush=True)
        else:
            _show(ladder)
    if html is not None:
        from gaelp.report.ladder import write_page

        write_page(found, html)
    if json_:
        print(json.dumps({"suites": [asdict(ladder) for ladder in found]}))


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
    return (
        f"{ladder.suite}: {ladder.certified} reaches {100 * share.middle:.1f} % ({100 * share.low:.1f} to "
        f"{100 * share.high:.1f}) of the {ladder.reference}; room {100 * ladder.room:.1f} %"
    )


def _show(ladder: Ladder) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{ladder.suite}, version {ladder.version}, {ladder.hash} ({ladder.room_for})",
        title_justify="left",
    )
    table.add_column("policy")
    for name in ("share", "95 %", "spend", "overspend", "above target", "excess", "worst tenth"):
        table.add_column(name, justify="right")
    table.add_row(ladder.reference, "100.0 %")
    if ladder.lp is not None:
        table.add_row("LP bound", f"{ladder.lp:.1%}".replace("%", " %"))
    for rung in (ladder.clairvoyant, *sorted(ladder.rungs, key=lambda r: -r.share.middle)):
        table.add_row(*_cells(rung, certified=ladder.certified))
    console = Console()
    console.print(table)
    console.print(
        f"room: {100 * ladder.room:.1f} % of the reference above {ladder.best}; {ladder.seeds} x {ladder.worlds} "
        f"worlds; the certified pacer wins {100 * _certified(ladder).win_rate:.1f} % of the auctions\n"
    )


def _certified(ladder: Ladder) -> Rung:
    return next(rung for rung in ladder.rungs if rung.name == ladder.certified)


def _cells(rung: Rung, *, certified: str) -> tuple[str, ...]:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f} %"

    share = rung.share
    return (
        f"{rung.name} (certified)" if rung.name == certified else rung.name, percent(share.middle),
        f"{100 * share.low:.1f} to {100 * share.high:.1f}", percent(rung.spend_share), f"{rung.overspend:g}",
        percent(rung.violations), percent(rung.excess), percent(rung.worst_decile),
    )  # fmt: skip
