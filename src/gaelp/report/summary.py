"""What a run came to: `summarise` for programs, `table` and `lines` for a terminal; `status` is told beside it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING

from gaelp.core.money import MICROS
from gaelp.report.facts import (
    LEARNING,
    Amounts,
    ArmsCompared,
    FittedWorlds,
    Judgement,
    LogSplit,
    Replayed,
    Summary,
    in_order,
)
from gaelp.report.fold import fold, summary_of
from gaelp.report.reading import Fields
from gaelp.report.status import approve_command, grant_command, status
from gaelp.store.store import Store

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def summarise(store: Store, run_id: str) -> Summary:
    """The run as far as it got. Raises StoreError for a run that is not there or events of another version."""
    # Pydantic is not needed by `status`, which must answer at once.
    from gaelp.core.config import build_journey

    told = Fields(store.config(run_id), f"the configuration of run {run_id!r}").inner("journey").told
    config = build_journey(told, f"run {run_id}")
    return summary_of(
        fold(store.events(run_id)), run=run_id, created_at=_created(store, run_id), journey=told, seed=config.seed,
        algorithm=config.algorithm, currency=config.currency,
    )  # fmt: skip


def _created(store: Store, run_id: str) -> str:
    return next(record.created_at for record in store.runs() if record.run_id == run_id)


def table(summary: Summary) -> Table:
    """One row a phase: episodes, training calls, weight change, money, verdict with its reason."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.HORIZONTALS, show_lines=True)
    shown.add_column("phase", no_wrap=True)
    # Two or three figures stand below each other, so that the reason keeps room in 80 columns.
    # On a log no money can move, and a column of nothing would only narrow the reasons.
    paid = summary.log_split is None
    columns = ["episodes\ntraining\ncalls", "weight\nchange,\nleast"]
    for name in [*columns, f"granted\nreserved\nspent, {summary.currency}"] if paid else columns:
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("verdict and reason", ratio=1)
    for phase in summary.phases:
        # Text, not markup: a reason with brackets is shown as it is.
        shown.add_row(
            Text(phase.name), f"{phase.episodes:,}\n{phase.train_calls:,}",
            f"{phase.mean_weight_change:.4f}\n{phase.min_weight_change:.4f}",
            *([_money_cell(phase.amounts)] if paid else []),
            Text(f"{phase.verdict} by {phase.rule}\n{phase.reason}"),
        )  # fmt: skip
    return shown


def _money_cell(money: Amounts) -> str:
    if not (money.granted or money.reserved or money.spent):
        return "none"
    return f"{units(money.granted)}\n{units(money.reserved)}\n{units(money.spent)}"


def print_summary(summary: Summary, console: Console) -> None:
    """The table and the lines below it."""
    console.print(table(summary))
    for line in lines(summary):
        console.print(line, markup=False, highlight=False)


def lines(summary: Summary) -> tuple[str, ...]:
    """What stands below the table: money, learning, the judging worlds, the platform, what was refused."""
    if summary.log_split is not None:
        return log_lines(summary, summary.log_split)
    money, currency = summary.amounts, summary.currency
    told = [
        f"Money: granted {units(money.granted)}; reserved at worst case before the calls {units(money.reserved)}, of "
        f"which {units(money.released)} were released again and {units(money.open)} are still open; "
        f"spent {units(money.spent)} {currency}; {bill_sentence(summary)}",
        f"Learning: {summary.learning.verdict}. {_sentence(summary.learning.reason)}",
    ]
    judged = summary.judged_actor
    if judged is not None:
        shares = ", ".join(f"{name} {judged.shares[name]:.1%}" for name in in_order(judged.shares))
        told.append(
            f"Share of the price-taker reference (users carry exposure over it, so it is no bound), {judged.worlds} "
            f"judging worlds: {shares}. The agent scored below the pacer in {judged.worlds_lost:.1%} of them."
        )
    if summary.fidelity is not None:
        told.append(fidelity_sentence(summary.fidelity))
    told += [arms_sentence(compared) for compared in summary.comparisons]
    told += doubts(summary)
    told.append(refused_sentence(summary))
    if summary.ending is None:
        told.append("The journey has not ended.")
    elif not summary.ending.reached_end:
        told.append(f"The journey stopped before its end: {_sentence(summary.ending.reason)}")
    return tuple(told)


def log_lines(summary: Summary, split: LogSplit) -> tuple[str, ...]:
    """What stands below the table of a journey on a log: how it was cut, learning, the worlds, the replay, its end."""
    parts = ", ".join(f"{part.name} {part.episodes}" for part in split.parts)
    told = [
        f"Log {split.log}, in its order: {parts} episodes of {split.episode_auctions} auctions and a budget of "
        f"{split.episode_budget:,} each; {split.unused_auctions} auctions at its end unused.",
        f"Learning: {summary.learning.verdict}. {_sentence(summary.learning.reason)}",
    ]
    judged = summary.judged_actor
    if judged is not None:
        told.append(
            f"Share of the LP bound, which no policy exceeds, {judged.worlds} judging worlds: "
            f"{_shares(judged.shares)}. The agent bought less than the pacer in {judged.worlds_lost:.1%} of them."
        )
    if summary.log_worlds is not None:
        worlds = summary.log_worlds
        inside = sum(row.within for row in worlds.rows)
        told.append(
            f"Worlds beside the selection part: {inside} of {len(worlds.rows)} figures inside their 90 % interval. "
            f"{worlds.ruling}: {worlds.reason}"
        )
    if summary.replayed is not None:
        told.append(replayed_sentence(summary.replayed))
    told += doubts(summary)
    told.append(refused_sentence(summary))
    told.append("The journey has not ended." if summary.ending is None else _sentence(summary.ending.reason))
    return tuple(told)


LOG_POLICIES = {
    "online_lp": "certified pacer of logs",
    "hindsight": "one multiplier for all episodes, in hindsight",
}
"""How rungs of the ladder of logs are told; every other policy by its own name."""


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(
        f"{LOG_POLICIES[name] if name in LOG_POLICIES else name} {shares[name]:.1%}"
        for name in in_order(shares)
    )


def replayed_sentence(replayed: Replayed) -> str:
    """Every policy on the certification part, beside the LP bound."""
    return (
        f"Certification by exact replay, share of the LP bound: {_shares(replayed.shares)}. The agent bought less than "
        f"the pacer in {replayed.episodes_lost} of {replayed.episodes} episodes."
    )


def bill_sentence(summary: Summary) -> str:
    """The platform's bill beside the books, and what was overspent."""
    if summary.platform_bill_micros is None:
        return "the platform's bill is recorded when the journey ends."
    gap = summary.platform_bill_micros - summary.amounts.spent
    bill = f"the platform bills {units(summary.platform_bill_micros)}"
    equal = "equal to the books to the micro" if gap == 0 else f"{gap:+} micros off the books"
    return f"{bill}, {equal}; overspent {units(summary.overspend_micros)}."


def fidelity_sentence(fidelity: FittedWorlds) -> str:
    """How many figures of the held-out days the fitted worlds foresaw, and what the gate ruled."""
    inside = sum(row.within for row in fidelity.rows)
    return (
        f"Worlds beside {fidelity.held_out_days} later days: {inside} of {len(fidelity.rows)} figures inside their "
        f"90 % interval. {fidelity.ruling}: {fidelity.reason}"
    )


def arms_sentence(compared: ArmsCompared) -> str:
    """Agent against control on the platform, with its interval."""
    return (
        f"On the platform, {compared.phase}: agent {compared.agent_mean:.3f}, control {compared.control_mean:.3f} of "
        f"the pacer's projection; paired difference {compared.difference:+.3f} "
        f"[{compared.low:+.3f}, {compared.high:+.3f}], {compared.pairs} pairs."
    )


def doubts(summary: Summary) -> tuple[str, ...]:
    """Where the judging worlds say more than the platform does: none when they agree."""
    judged = summary.judged_actor
    if summary.log_split is not None:
        return _log_doubts(judged)
    pacer = [c for c in judged.comparisons if c.rival == "pacer"] if judged is not None else []
    if not pacer or not pacer[0].lower > 0:
        return ()
    beaten = [c.phase for c in summary.comparisons if c.high < 0]
    unclear = [c.phase for c in summary.comparisons if c.low <= 0 <= c.high]
    told = []
    if beaten:
        told.append(f"it does worse than the pacer on the platform itself in {' and in '.join(beaten)}")
    if unclear:
        each = "each interval includes 0" if len(unclear) > 1 else "the interval includes 0"
        told.append(f"the platform itself does not show it in {' or in '.join(unclear)}: {each}")
    return tuple(f"The agent beats the pacer in the judging worlds, but {finding}." for finding in told)


def _log_doubts(judged: Judgement | None) -> tuple[str, ...]:
    """On a log a few auctions may be worth a hundred others, which clipped differences do not show."""
    if judged is None or judged.verdict != LEARNING or judged.shares["agent"] > judged.shares["pacer"]:
        return ()
    return (
        f"The judging worlds' clipped differences say LEARNING, but in all of them together the agent buys "
        f"{judged.shares['agent']:.2%} of the LP bound and the pacer {judged.shares['pacer']:.2%}.",
    )


def refused_sentence(summary: Summary) -> str:
    """What was refused: batches, candidates, bids, steps."""
    candidates = [found for found in summary.ruled("promotion_gate") if found.ruling != "PASS"]
    bids = sum(len(day.refusals) for day in summary.live_days)
    return (
        f"Refused: batches as unusable {len(summary.ruled('batch_refused'))}, candidates {len(candidates)}, "
        f"bids {bids}; steps or candidates held {len(summary.ruled('held'))}."
    )


def units(micros: int) -> str:
    """Micros as whole units with two places, thousands grouped; for reading, the exact figure stays in the log."""
    return f"{(Decimal(micros) / MICROS).quantize(Decimal('0.01'), ROUND_HALF_EVEN):,}"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


__all__ = ["Summary", "approve_command", "grant_command", "lines", "status", "summarise", "table"]
