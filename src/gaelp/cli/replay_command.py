"""`gaelp replay`: bids a named policy on a recorded auction log. Starts without NumPy, never imports JAX."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaelp.core.errors import BadInput, nearest

if TYPE_CHECKING:
    from gaelp.market.replay import ReplayResult

_FORMATS = ("ipinyou-theta",)


def replay_command(
    log: Annotated[Path, typer.Argument(help="The auction log.")],
    format_: Annotated[str, typer.Option("--format", help=f"The log's format: {', '.join(_FORMATS)}.")],
    policy: Annotated[str, typer.Option(help="The policy: constant:M bids M x pCTR.")],
    episode_auctions: Annotated[int | None, typer.Option(help="A fresh budget every N auctions.")] = None,
    episode_budget: Annotated[str | None, typer.Option(help="The budget of each episode.")] = None,
    budget: Annotated[str | None, typer.Option(help="One budget for the whole log.")] = None,
    budget_fraction: Annotated[
        str | None, typer.Option(help="One budget: this share of the log's price sum, as 1/16.")
    ] = None,
    integer_bids: Annotated[bool, typer.Option("--integer-bids", help="Bids are rounded down.")] = False,
    max_bid: Annotated[str | None, typer.Option(help="No bid above this.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Replay a recorded auction log exactly.

    What would this policy have bought, and for how much? A bid of at least the recorded price wins and pays the
    price (second price). Money is in the log's own unit.

    Example:

    \b
    gaelp replay train.txt --format ipinyou-theta --policy constant:86550.5 \\
        --episode-auctions 1000 --episode-budget 1969 \\
        --integer-bids --max-bid 300 --json
    """
    # Imported here so that `gaelp --help` need not wait for NumPy.
    from gaelp.logs.theta import read_theta
    from gaelp.market.replay import BidGrid, ReplayOptions, parse_amount, parse_policy, replay

    def amount(option: str, text: str | None) -> Fraction | None:
        return None if text is None else parse_amount(option, text)

    if format_ not in _FORMATS:
        known = f"Known: {', '.join(_FORMATS)}."
        raise BadInput(f"no log format named {format_!r}.{nearest(format_, _FORMATS)} {known}")
    result = replay(
        lambda: read_theta(log),
        parsed_policy := parse_policy(policy),
        ReplayOptions(
            episode_auctions=episode_auctions,
            episode_budget=amount("--episode-budget", episode_budget),
            budget=amount("--budget", budget),
            budget_fraction=amount("--budget-fraction", budget_fraction),
            max_bid=amount("--max-bid", max_bid),
            bid_grid=BidGrid.INTEGER if integer_bids else BidGrid.REAL,
        ),
    )
    if json_:
        _print_json(result, log=log, log_format=format_, policy=parsed_policy.name)
    else:
        _print_table(result, log=log, policy=parsed_policy.name)


def _print_json(result: ReplayResult, *, log: Path, log_format: str, policy: str) -> None:
    import hashlib
    import json

    with log.open("rb") as stream:
        log_sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    print(
        json.dumps(
            {
                "log": str(log),
                "log_sha256": log_sha256,
                "format": log_format,
                "policy": policy,
                "auctions": result.auctions,
                "impressions": result.impressions,
                "clicks": result.clicks,
                "cost": result.cost,
                "value": result.value,
                "overspend": _number(result.overspend),
                "episodes": result.episodes,
                "budget": _number(result.budget),
                "log_clicks": result.log_clicks,
                "log_cost": result.log_cost,
            }
        )
    )


def _print_table(result: ReplayResult, *, log: Path, policy: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{policy} on {log.name}", title_justify="left")
    table.add_column("")
    table.add_column("won", justify="right")
    table.add_column("in the log", justify="right")
    table.add_row("auctions", "", f"{result.auctions:,}")
    table.add_row("impressions", f"{result.impressions:,}", f"{result.auctions:,}")
    table.add_row("clicks", f"{result.clicks:,}", f"{result.log_clicks:,}")
    table.add_row("cost", f"{result.cost:,}", f"{result.log_cost:,}")
    table.add_row("value (sum of pCTR)", f"{result.value:,.6g}", "")
    table.add_row("overspend", f"{_number(result.overspend):,}", "")
    table.add_row("episodes", "", f"{result.episodes:,}")
    table.add_row("budget of an episode", "", f"{_number(result.budget):,}")
    Console().print(table)


def _number(amount: Fraction) -> int | float:
    """For display: a whole amount exactly, any other as the nearest float."""
    return int(amount) if amount.denominator == 1 else float(amount)
