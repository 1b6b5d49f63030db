"""What a run came to: `summarise` for programs, `table` and `lines` for a terminal, `status` for who waits for what."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING

from gaelp.core.errors import StoreError, nearest
from gaelp.core.money import MICROS
from gaelp.report.facts import ArmsCompared, PhaseSummary, Summary
from gaelp.report.fold import fold, summary_of
from gaelp.report.reading import Fields
from gaelp.store.log import Event
from gaelp.store.store import Store

if TYPE_CHECKING:
    from rich.table import Table

_PREPARING = ("pacer_certified", "history_exported", "worlds_fitted")
_TRAINING = ("played", "trained", "batch_refused", "judged", "certified")
_LIFTS_A_HALT = ("resumed", "phase_began", "authorised", "reserved")
"""Under a dropped latch none of these can be written; a training block that was under way may still be."""


def summarise(store: Store, run_id: str) -> Summary:
    """The run as far as it got. Raises StoreError for a run that is not there or events of another version."""
    # Pydantic is not needed by `status`, which must answer at once.
    from gaelp.core.config import build_config

    told = Fields(store.config(run_id), f"the configuration of run {run_id!r}").inner("journey").told
    config = build_config(told, f"run {run_id}")
    return summary_of(
        fold(store.events(run_id)), run=run_id, created_at=_created(store, run_id), journey=told, seed=config.seed,
        algorithm=config.algorithm, currency=config.currency,
    )  # fmt: skip


def _created(store: Store, run_id: str) -> str:
    return next(record.created_at for record in store.runs() if record.run_id == run_id)


# ---- status


def status(store: Store, run_id: str) -> dict[str, object]:
    """Where the run stands by its last events: `run, phase, state, waiting_for`, and how old that is.

    state: new, preparing, training, playing, waiting, halted, ended, stopped (a gate waits) or failed. A process
    that died leaves its last state behind; `last_event_at` tells its age.
    """
    store.config(run_id)
    phase: str | None = None
    state, last, halted = "new", None, False
    wanted: Fields | None = None
    reason: str | None = None
    for event in store.events(run_id):
        told, last = Fields.of(event), event
        phase = _phase_of(event, told, phase)
        state = _state_after(event, told, state)
        halted = event.kind == "halted" or (halted and event.kind not in _LIFTS_A_HALT)
        if event.kind == "authorisation_wanted":
            wanted = told
        elif event.kind == "authorised":
            wanted = None
        elif event.kind in ("halted", "phase_ended", "journey_ended"):
            reason = told.text("reason")
    waiting_for = None
    if halted and state not in ("ended", "failed"):
        state, waiting_for = "halted", f"gaelp resume {run_id}"
    elif state == "waiting" and wanted is not None:
        waiting_for = _paste(store, run_id, wanted)
    return {
        "run": run_id,
        "phase": phase,
        "state": state,
        "waiting_for": waiting_for,
        "reason": reason,
        "events": 0 if last is None else last.seq,
        "last_event": None if last is None else last.kind,
        "last_event_at": None if last is None else last.at,
    }


def _phase_of(event: Event, told: Fields, before: str | None) -> str | None:
    if event.kind in ("phase_began", "phase_ended"):
        return told.text("name")
    if before is None and (event.kind in _PREPARING or event.kind == "day_played"):
        return "history"
    return before


def _state_after(event: Event, told: Fields, before: str) -> str:
    """The state that an event leads to; ledger entries, promotions and the like change none."""
    match event.kind:
        case kind if kind in _PREPARING:
            return "preparing"
        case "day_played":
            return "preparing" if told.text("phase") == "history" else "playing"
        case "phase_began" | "phase_ended":
            return "training" if told.text("name") in ("simulation", "historical") else "playing"
        case kind if kind in _TRAINING:
            return "training"
        case "authorisation_wanted":
            return "waiting"
        case "authorised" | "resumed":
            return "playing"
        case "journey_ended":
            if told.yes("reached_end"):
                return "ended"
            # A phase that said WAIT where the journey may not go on has not failed.
            return "failed" if before == "failing" else "stopped"
    return before


def _paste(store: Store, run_id: str, wanted: Fields) -> str:
    """The commands that a person may paste to let the run go on: what is still missing of grant and approval."""
    phase, limit = wanted.text("phase"), wanted.whole("limit_micros")
    missing = limit - store.books(run_id).phase(phase).available
    commands = []
    if missing > 0:
        commands.append(grant_command(run_id, phase, missing))
    bound = ("actor_hash", "phase", "step", "limit_micros", "evidence_hash")
    given = [approval.binding for approval in store.unused_approvals(run_id)]
    if not any(all(getattr(binding, name) == wanted.value(name) for name in bound) for binding in given):
        commands.append(approve_command(run_id))
    return " && ".join(commands)


def grant_command(run_id: str, phase: str, micros: int) -> str:
    """How a person grants `micros` more to a phase."""
    return f'gaelp grant {run_id} {phase} {_units(micros)} --by "$USER"'


def approve_command(run_id: str) -> str:
    """How a person approves what the run waits for."""
    return f'gaelp approve {run_id} --by "$USER"'


# ---- the terminal


def table(summary: Summary) -> Table:
    """One row a phase: episodes, training calls, weight change, money, verdict with its reason."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(show_lines=True, pad_edge=False)
    shown.add_column("phase", no_wrap=True)
    for name in ("episodes", "training\ncalls", "weight change\nmean, least", f"granted\nreserved\nspent, {summary.currency}"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("verdict and reason", overflow="fold", ratio=1)
    for phase in summary.phases:
        # Text, not markup: a reason with brackets is shown as it is.
        shown.add_row(
            Text(phase.name), f"{phase.episodes:,}", f"{phase.train_calls:,}",
            f"{phase.mean_weight_change:.4f}\n{phase.min_weight_change:.4f}", _money_cell(phase),
            Text(f"{phase.verdict}  {phase.rule}\n{phase.reason}"),
        )  # fmt: skip
    return shown


def _money_cell(phase: PhaseSummary) -> str:
    money = phase.amounts
    if not (money.granted or money.reserved or money.spent):
        return "none"
    return f"{units(money.granted)}\n{units(money.reserved)}\n{units(money.spent)}"


def lines(summary: Summary) -> tuple[str, ...]:
    """What stands below the table: money, learning, the judging worlds, the platform, what was refused."""
    money, currency = summary.amounts, summary.currency
    told = [
        f"Money: granted {units(money.granted)}, reserved {units(money.reserved)} at worst case before the calls "
        f"({units(money.open)} still open), spent {units(money.spent)} {currency}; {bill_sentence(summary)}",
        f"Learning: {summary.learning.verdict}. {_sentence(summary.learning.reason)}",
    ]
    judged = summary.judged_actor
    if judged is not None:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in judged.shares.items())
        told.append(
            f"Share of the price-taker reference (users carry exposure over it, so it is no bound), {judged.worlds} "
            f"judging worlds: {shares}. The agent scored below the pacer in {judged.worlds_lost:.1%} of them."
        )
    told += [arms_sentence(compared) for compared in summary.comparisons]
    told += doubts(summary)
    told.append(refused_sentence(summary))
    if summary.ending is None:
        told.append("The journey has not ended.")
    elif not summary.ending.reached_end:
        told.append(f"The journey stopped before its end: {_sentence(summary.ending.reason)}")
    return tuple(told)


def bill_sentence(summary: Summary) -> str:
    """The platform's bill beside the books, and what was overspent."""
    if summary.platform_bill_micros is None:
        return "the platform's bill is recorded when the journey ends."
    gap = summary.platform_bill_micros - summary.amounts.spent
    bill = f"the platform bills {units(summary.platform_bill_micros)}"
    equal = "equal to the books to the micro" if gap == 0 else f"{gap:+} micros off the books"
    return f"{bill}, {equal}; overspent {units(summary.overspend_micros)}."


def arms_sentence(compared: ArmsCompared) -> str:
    """Agent against control on the platform, with its interval."""
    return (
        f"On the platform, {compared.phase}: agent {compared.agent_mean:.3f}, control {compared.control_mean:.3f} of the "
        f"pacer's projection; paired difference {compared.difference:+.3f} [{compared.low:+.3f}, {compared.high:+.3f}], "
        f"{compared.pairs} pairs."
    )


def doubts(summary: Summary) -> tuple[str, ...]:
    """Where the judging worlds say more than the platform does: one sentence a live phase, none when they agree."""
    judged = summary.judged_actor
    pacer = [c for c in judged.comparisons if c.rival == "pacer"] if judged is not None else []
    if not pacer or not pacer[0].lower > 0:
        return ()
    return tuple(_doubt(compared) for compared in summary.comparisons if not compared.low > 0)


def _doubt(compared: ArmsCompared) -> str:
    if compared.high < 0:
        found = "it does worse than the pacer on the platform itself"
    else:
        found = "the platform itself does not show it: the interval includes 0"
    return f"The agent beats the pacer in the judging worlds; in {compared.phase} {found}."


def refused_sentence(summary: Summary) -> str:
    """What was refused: batches, candidates, bids, steps."""
    candidates = [found for found in summary.ruled("promotion_gate") if found.ruling != "PASS"]
    bids = sum(len(day.refusals) for day in summary.live_days)
    return (
        f"Refused: {len(summary.ruled('batch_refused'))} batches as unusable, {len(candidates)} candidates, {bids} bids; "
        f"held {len(summary.ruled('held'))} times."
    )


def units(micros: int) -> str:
    """Micros as whole units with two places, thousands grouped; for reading, the exact figure stays in the log."""
    return f"{(Decimal(micros) / MICROS).quantize(Decimal('0.01'), ROUND_HALF_EVEN):,}"


def _units(micros: int) -> str:
    """Micros as the command line reads them: exact, at least two places."""
    amount = Decimal(micros) / MICROS
    return f"{amount:.2f}" if micros % 10_000 == 0 else f"{amount:.6f}"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


__all__ = ["Summary", "approve_command", "grant_command", "lines", "status", "summarise", "table"]
