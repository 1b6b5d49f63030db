"""`gaelp calibrate`: fits a market to a log and holds the fit against the log's later part. Never imports JAX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaelp.core.errors import BadInput, nearest

if TYPE_CHECKING:
    from gaelp.core.verdict import Verdict
    from gaelp.logs.bids import BidLog
    from gaelp.market.auction_fit import Parameter
    from gaelp.market.fidelity import Fidelity


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What a calibration found, whatever was calibrated.

    parts: what was fitted and what was held out, for a person; untold: what the log does not tell, one sentence;
    beside: what else JSON holds.
    """

    parts: tuple[str, str]
    parameters: tuple[Parameter, ...]
    fidelity: Fidelity
    verdict: Verdict
    untold: str
    beside: dict[str, Any]


def calibrate_command(
    log: Annotated[Path, typer.Argument(help="The log.")],
    format_: Annotated[str, typer.Option("--format", help="The log's format: ipinyou-theta or bids-csv.")],
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
    log with columns bid, won, price, pctr, click and, where known, auction, time_s, currency. Exit code 1 when the
    fit does not hold.

    Example:

    \b
    gaelp calibrate train.txt --format ipinyou-theta --censor-above 100 --json
    """
    # Imported here so that `gaelp --help` need not wait for NumPy and SciPy.
    from gaelp.core.verdict import FAIL
    from gaelp.market.replay import parse_amount

    readers = _readers()
    if format_ not in readers:
        known = f"Known: {', '.join(readers)}."
        raise BadInput(f"no log format named {format_!r}.{nearest(format_, readers)} {known}")
    share = float(parse_amount("--hold-out", hold_out))
    if share >= 1:
        raise BadInput(f"--hold-out is {hold_out}, expected less than 1, the whole log.")
    if seed < 0:
        raise BadInput(f"--seed is {seed}, expected a whole number of at least 0.")
    highest = None if censor_above is None else float(parse_amount("--censor-above", censor_above))
    found = _calibrated(readers[format_](log), share, highest, seed)
    if json_:
        _print_json({"log": str(log), "log_sha256": _sha256(log), "format": format_, "seed": seed}, found)
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
        parameters=told,
        fidelity=compared,
        verdict=fidelity_gate(compared),
        untold="The log shows every price."
        if everywhere
        else f"Above a bid of {fit.identified_to:g} the log tells no prices: what is said of them is the prior.",
        beside={
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


def _sha256(log: Path) -> str:
    import hashlib

    with log.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _print_json(about: dict[str, Any], found: Calibrated) -> None:
    """JSON has no infinity: `identified_to` and `compared_to` are null where every price is shown."""
    import json
    import math
    from dataclasses import asdict

    compared, verdict = found.fidelity, found.verdict
    told = about | found.beside
    told["parameters"] = [asdict(parameter) for parameter in found.parameters]
    told["fidelity"] = [asdict(line) | {"within": line.within} for line in compared.lines]
    told |= {"ks": compared.ks, "ks_reference": compared.ks_reference, "surprise": compared.surprise}
    told["compared_to"] = compared.compared_to if math.isfinite(compared.compared_to) else None
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
    for line in found.fidelity.lines:
        numbers = (f"{number:.4g}" for number in (line.fitted, line.low, line.high, line.held_out))
        within = "yes" if line.within else "no"
        later.add_row(line.name, *numbers, within if line.identified else f"{within} (prior)")
    console = Console()
    console.print(table, later)
    # Sentences are printed as they are: a console would break them in the middle of a number.
    print(found.untold)
    print(
        f"Win-rate curve against the held-out part (KS): fitted {found.fidelity.ks:.4f}, the log's own "
        f"{found.fidelity.ks_reference:.4f}."
    )
    print(f"{found.verdict.ruling.name}: {found.verdict.reason}")
