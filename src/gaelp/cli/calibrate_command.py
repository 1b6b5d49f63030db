"""`gaelp calibrate`: fits a market to a log and holds the fit against the log's later part.

Auction logs never import JAX; an account's history does, for what it is fitted to are the simulator's worlds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaelp.core.errors import BadInput, nearest

if TYPE_CHECKING:
    from gaelp.core.verdict import Verdict
    from gaelp.evidence.fidelity import FidelityLine
    from gaelp.logs.bids import BidLog


@dataclass(frozen=True, kw_only=True)
class Told:
    """One fitted number as both kinds of log tell it; identified: by the log, not by the prior."""

    name: str
    estimate: float
    low: float
    high: float
    identified: bool


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What a calibration found, whatever was calibrated.

    parts: what was fitted and what was held out, for a person; remarks: sentences for a person; beside: what else JSON
    holds.
    """

    parts: tuple[str, str]
    parameters: tuple[Told, ...]
    lines: tuple[FidelityLine, ...]
    surprise: float
    verdict: Verdict
    remarks: tuple[str, ...]
    beside: dict[str, Any]


HISTORY = "gaelp-history"


def calibrate_command(
    log: Annotated[Path, typer.Argument(help="The log; for gaelp-history the folder that holds hours.csv.")],
    format_: Annotated[
        str, typer.Option("--format", help="The log's format: ipinyou-theta, bids-csv or gaelp-history.")
    ],
    censor_above: Annotated[
        str | None, typer.Option(help="Fit as a bidder who never bid more: dearer prices are not seen.")
    ] = None,
    hold_out: Annotated[
        str, typer.Option(help="The last share of the log, not fitted but compared with.")
    ] = "0.5",
    seed: Annotated[int, typer.Option(help="The seed of the posterior's draws.")] = 7,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit a market to a log, and say what the log cannot tell.

    Prices from won and lost auctions, clicks, drift and volume, each with a 90 % interval; then the same figures of
    the log's later part beside what the fit predicts. ipinyou-theta shows every price; bids-csv is a bidder's own
    log with columns bid, won, price, pctr, click and, where known, auction, time_s, currency. gaelp-history is a
    folder with hours.csv, hourly reports by line item as a journey exports them, fitted to the simulator's worlds. Exit
    code 1 when the fit does not hold.

    Example:

    \b
    gaelp calibrate train.txt --format ipinyou-theta --censor-above 100 --json
    """
    # Imported here so that `gaelp --help` need not wait for NumPy and SciPy.
    from gaelp.core.verdict import FAIL
    from gaelp.market.replay import parse_amount

    readers = _readers()
    if format_ not in (*readers, HISTORY):
        known = f"Known: {', '.join((*readers, HISTORY))}."
        raise BadInput(f"no log format named {format_!r}.{nearest(format_, (*readers, HISTORY))} {known}")
    share = float(parse_amount("--hold-out", hold_out))
    if share >= 1:
        raise BadInput(f"--hold-out is {hold_out}, expected less than 1, the whole log.")
    if seed < 0:
        raise BadInput(f"--seed is {seed}, expected a whole number of at least 0.")
    highest = None if censor_above is None else float(parse_amount("--censor-above", censor_above))
    if format_ == HISTORY:
        if highest is not None:
            raise BadInput("--censor-above is for auction logs: an hourly report shows no single price.")
        found, read = _calibrated_history(log, share, seed), log / "hours.csv"
    else:
        found, read = _calibrated(readers[format_](log), share, highest, seed), log
    if json_:
        _print_json({"log": str(log), "log_sha256": _sha256(read), "format": format_, "seed": seed}, found)
    else:
        _print_tables(found)
    if found.verdict.ruling is FAIL:
        raise typer.Exit(1)


def _readers() -> dict[str, Callable[[Path], BidLog]]:
    """How each format of auction logs is read."""
    from gaelp.logs.bids import bids_of_theta, read_bids
    from gaelp.logs.theta import read_theta

    return {"ipinyou-theta": lambda path: bids_of_theta(read_theta(path)), "bids-csv": read_bids}


def _calibrated(log: BidLog, hold_out: float, highest: float | None, seed: int) -> Calibrated:
    """Fit the first part of an auction log, as seen with no bid above `highest`; compare with the rest."""
    import math

    import numpy as np

    from gaelp.market.auction_fit import fit_auctions, parameters, reference_bids
    from gaelp.market.fidelity import fidelity
    from gaelp.safety.gates import fidelity_gate

    rows = len(log) - round(hold_out * len(log))
    fitted, held_out = log.rows(slice(0, rows)), log.rows(slice(rows, None))
    if highest is not None:
        fitted = fitted.bidding_at_most(highest)
    fit = fit_auctions(fitted)
    bids = reference_bids(fitted, fit.identified_to)
    rng = np.random.default_rng(seed)
    told = parameters(fit, bids, rng)
    compared = fidelity(fit, held_out, bids, rng)
    levels = zip(fit.blocks.level.tolist(), fit.blocks.se.tolist(), strict=True)
    everywhere = math.isinf(fit.identified_to)
    return Calibrated(
        parts=(
            f"{len(fitted):,} auctions, {fit.won:,} won",
            f"the {len(held_out):,} auctions after them, {compared.held_out_won:,} won",
        ),
        parameters=tuple(
            Told(name=p.name, estimate=p.estimate, low=p.low, high=p.high, identified=p.identified)
            for p in told
        ),
        lines=compared.lines,
        surprise=compared.surprise,
        verdict=fidelity_gate(compared),
        remarks=(
            "The log shows every price."
            if everywhere
            else f"Above a bid of {fit.identified_to:g} the log tells no prices: what is said of them is the prior.",
            f"Win-rate curve against the held-out part (KS): fitted {compared.ks:.4f}, the log's own "
            f"{compared.ks_reference:.4f}.",
        ),
        beside={
            "ks": compared.ks,
            "ks_reference": compared.ks_reference,
            "compared_to": compared.compared_to if math.isfinite(compared.compared_to) else None,
            "censor_above": highest,
            "auctions": len(fitted),
            "won": fit.won,
            "held_out_auctions": len(held_out),
            "held_out_won": compared.held_out_won,
            "identified_to": None if everywhere else fit.identified_to,
            "value_stratum_ends": fit.edges.tolist(),
            "block_levels": [{"level": level, "standard_error": se} for level, se in levels],
        },
    )


def _calibrated_history(folder: Path, hold_out: float, seed: int) -> Calibrated:
    """Fit the first days of an account's hourly reports; compare with the rest."""
    from gaelp.logs.canonical import import_reports
    from gaelp.market.calibrate_history import calibrate_history
    from gaelp.safety.gates import history_fidelity_gate

    found = calibrate_history(import_reports(folder), hold_out, seed)
    compared = found.fidelity
    return Calibrated(
        parts=(
            f"{compared.fitted_days} days",
            f"the {compared.held_out_days} days after them, {compared.conversions:,} conversions",
        ),
        parameters=tuple(
            Told(
                name=p.name if p.item is None else f"{p.name}, line item {p.item}", estimate=p.estimate, low=p.low,
                high=p.high, identified=p.identified,
            )
            for p in found.fit.parameters
        ),
        lines=compared.lines,
        surprise=compared.surprise,
        verdict=history_fidelity_gate(compared),
        remarks=tuple(
            dict.fromkeys(f"{p.name}: {p.says}" for p in found.fit.parameters if not p.identified)
        ),
        beside={"fitted_days": compared.fitted_days, "held_out_days": compared.held_out_days},
    )  # fmt: skip


def _sha256(log: Path) -> str:
    import hashlib

    with log.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _print_json(about: dict[str, Any], found: Calibrated) -> None:
    """JSON has no infinity: `identified_to` and `compared_to` are null where every price is shown."""
    import json
    from dataclasses import asdict

    verdict = found.verdict
    told = about | found.beside
    told["parameters"] = [asdict(parameter) for parameter in found.parameters]
    told["fidelity"] = [asdict(line) | {"within": line.within} for line in found.lines]
    told["surprise"] = found.surprise
    told["verdict"] = {"ruling": verdict.ruling.name, "rule": verdict.rule, "reason": verdict.reason}
    print(json.dumps(told, allow_nan=False))


def _print_tables(found: Calibrated) -> None:
    from rich.console import Console
    from rich.table import Table

    fitted, held_out = found.parts
    table = Table(title=f"fitted: {fitted}", title_justify="left")
    table.add_column("")
    for column in ("estimate", "90 % from", "to"):
        table.add_column(column, justify="right")
    table.add_column("told by")
    for one in found.parameters:
        numbers = (f"{number:.4g}" for number in (one.estimate, one.low, one.high))
        table.add_row(one.name, *numbers, "the log" if one.identified else "the prior")
    later = Table(title=f"held out: {held_out}", title_justify="left")
    later.add_column("")
    for column in ("predicted", "90 % from", "to", "found"):
        later.add_column(column, justify="right")
    later.add_column("within")
    for line in found.lines:
        numbers = (f"{number:.4g}" for number in (line.fitted, line.low, line.high, line.held_out))
        within = "yes" if line.within else "no"
        later.add_row(line.name, *numbers, within if line.identified else f"{within} (prior)")
    console = Console()
    console.print(table, later)
    # Sentences are printed as they are: a console would break them in the middle of a number.
    for remark in found.remarks:
        print(remark)
    print(f"{found.verdict.ruling.name}: {found.verdict.reason}")
