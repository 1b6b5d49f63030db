"""`gaelp replay`: bids a named policy on a recorded auction log. Starts without NumPy, never imports JAX."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaelp.core.errors import BadInput, nearest

if TYPE_CHECKING:
    from rich.table import Table

    from gaelp.market.log_ladder import Ladder
    from gaelp.market.replay import ReplayResult

FORMATS = ("ipinyou-theta",)
_CAPTION = (
    "value: the sum of pCTR won. LP bound: the fractional knapsack, summed over episodes. hindsight: the best single "
    "multiplier for all episodes, known afterwards; a pacer, which moves its own, may beat it. constant: the best one "
    "of the first half, scored on the second half against its own bound and budget. The pacers know how many auctions "
    "come, every pCTR so far and the prices they paid; x10: their first multiplier is 10 times the best in hindsight."
)


Policy = Annotated[str | None, typer.Option("--policy", help="The policy: constant:M bids M x pCTR.")]
FirstMultiplierError = Annotated[
    float | None,
    typer.Option(
        "--first-multiplier-error",
        help="On a log's ladder: pacers begin at F x the best multiplier in hindsight, as 10 or 0.1.",
    ),
]
EpisodeAuctions = Annotated[
    int | None, typer.Option("--episode-auctions", help="A fresh budget every N auctions.")
]
EpisodeBudget = Annotated[str | None, typer.Option("--episode-budget", help="The budget of each episode.")]
Budget = Annotated[str | None, typer.Option("--budget", help="One budget for the whole log.")]
BudgetFraction = Annotated[
    str | None,
    typer.Option("--budget-fraction", help="One budget: this share of the log's price sum, as 1/16."),
]
IntegerBids = Annotated[bool, typer.Option("--integer-bids", help="Bids are rounded down.")]
MaxBid = Annotated[str | None, typer.Option("--max-bid", help="No bid above this.")]


def replay_command(
    log: Annotated[Path, typer.Argument(help="The auction log.")],
    format_: Annotated[str, typer.Option("--format", help=f"The log's format: {', '.join(FORMATS)}.")],
    policy: Policy = None,
    ladder: Annotated[
        bool, typer.Option("--ladder", help="Play every baseline beside the LP bound; --policy joins them.")
    ] = False,
    first_multiplier_error: FirstMultiplierError = None,
    episode_auctions: EpisodeAuctions = None,
    episode_budget: EpisodeBudget = None,
    budget: Budget = None,
    budget_fraction: BudgetFraction = None,
    integer_bids: IntegerBids = False,
    max_bid: MaxBid = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Replay a recorded auction log exactly.

    What would this policy have bought, and for how much? A bid of at least the recorded price wins and pays the
    price (second price). Money is in the log's own unit. With --ladder: every baseline's value as a share of the LP
    bound, which no policy can exceed; the log is then held in memory.

    Example:

    \b
    gaelp replay train.txt --format ipinyou-theta --policy constant:86550.5 \\
        --episode-auctions 1000 --episode-budget 1969 \\
        --integer-bids --max-bid 300 --json

    \b
    gaelp replay train.txt --format ipinyou-theta --ladder --budget-fraction 1/16
    """
    # Imported here so that `gaelp --help` need not wait for NumPy.
    from gaelp.logs.theta import read_theta
    from gaelp.market.replay import BidGrid, ReplayOptions, parse_amount, parse_policy, replay

    def amount(option: str, text: str | None) -> Fraction | None:
        return None if text is None else parse_amount(option, text)

    if format_ not in FORMATS:
        known = f"Known: {', '.join(FORMATS)}."
        raise BadInput(f"no log format named {format_!r}.{nearest(format_, FORMATS)} {known}")
    if first_multiplier_error is not None and not ladder:
        raise BadInput("--first-multiplier-error needs --ladder, whose pacers it misleads.")
    if policy is None and not ladder:
        raise BadInput("no policy is given, expected --policy such as constant:86550.5, or --ladder.")
    parsed_policy = None if policy is None else parse_policy(policy)
    options = ReplayOptions(
        episode_auctions=episode_auctions,
        episode_budget=amount("--episode-budget", episode_budget),
        budget=amount("--budget", budget),
        budget_fraction=amount("--budget-fraction", budget_fraction),
        max_bid=amount("--max-bid", max_bid),
        bid_grid=BidGrid.INTEGER if integer_bids else BidGrid.REAL,
    )
    if ladder or parsed_policy is None:
        from gaelp.market.log_ladder import climb

        climbed = climb(
            read_theta(log), options, first_multiplier_error=first_multiplier_error, policy=parsed_policy
        )
        if json_:
            _print_json({**_identity(log, format_), **_ladder_record(climbed)})
        else:
            from rich.console import Console

            Console().print(ladder_table(climbed, log=log))
        return
    result = replay(lambda: read_theta(log), parsed_policy, options)
    if json_:
        _print_json({**_identity(log, format_), **_replay_record(result, parsed_policy.name)})
    else:
        _print_table(result, log=log, policy=parsed_policy.name)


def _identity(log: Path, log_format: str) -> dict[str, object]:
    import hashlib

    with log.open("rb") as stream:
        log_sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"log": str(log), "log_sha256": log_sha256, "format": log_format}


def _replay_record(result: ReplayResult, policy: str) -> dict[str, object]:
    return {
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


def _ladder_record(ladder: Ladder) -> dict[str, object]:
    return {
        "auctions": ladder.auctions,
        "episodes": ladder.episodes,
        "budget": _number(ladder.budget),
        "log_clicks": ladder.log_clicks,
        "log_cost": ladder.log_cost,
        "best_multiplier": ladder.best_multiplier,
        "lp_value": ladder.lp_value,
        "policies": [
            {
                "name": rung.name,
                "scored_on": rung.scored_on.value,
                "lp_value": rung.lp_value,
                "value": rung.bought.value,
                "share_of_lp": rung.share_of_lp,
                "spend": rung.bought.spend,
                "spend_share": rung.spend_share,
                "impressions": rung.bought.impressions,
                "clicks": rung.bought.clicks,
                "overspend": _number(rung.bought.overspend),
            }
            for rung in ladder.rungs
        ],
    }


def _print_json(record: dict[str, object]) -> None:
    import json

    print(json.dumps(record))


def ladder_table(ladder: Ladder, *, log: Path) -> Table:
    """A log's ladder for a person."""
    from gaelp.cli.tables import figures

    episodes = "one budget" if ladder.episodes == 1 else f"{ladder.episodes:,} budgets"
    table = figures(
        f"{log.name}: {ladder.auctions:,} auctions, {episodes} of {_number(ladder.budget):,}", "policy",
        ("of LP\nbound", "value", "of\nbudget", "overspend", "impressions", "clicks"), caption=_CAPTION,
    )  # fmt: skip
    table.add_row("LP bound", "100.00 %", f"{ladder.lp_value:,.6g}")
    for rung in ladder.rungs:
        got = rung.bought
        table.add_row(
            rung.name,
            f"{100 * rung.share_of_lp:.2f} %",
            f"{got.value:,.6g}",
            f"{100 * rung.spend_share:.2f} %",
            f"{_number(got.overspend):,}",
            f"{got.impressions:,}",
            f"{got.clicks:,}",
        )
    return table


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
