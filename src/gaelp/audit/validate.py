"""`gaelp validate`: proves from a run's event log that it trained at its cadence and that every micro adds up.

It reads the log, the saved weights and the platform's bill, and nothing that the run derived from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from gaelp.audit import log_checks, money_checks, training_checks
from gaelp.audit.event_kinds import event_payloads
from gaelp.audit.record import LIVE, Check, Line, Record
from gaelp.core.config import LogJourneyConfig, build_journey
from gaelp.core.errors import BadInput, PlatformError, StoreError
from gaelp.platforms.platform import BillLine
from gaelp.store.log import GENESIS
from gaelp.store.store import Store

Bill = Callable[[], Iterable[BillLine]]
"""The platform's bill for the run's campaigns; asked once."""


@dataclass(frozen=True)
class Validation:
    """What was checked of a run. `ok` only when every check is."""

    run_id: str
    checks: tuple[Check, ...]

    def __post_init__(self) -> None:
        if not self.checks:
            raise BadInput("a validation without checks proves nothing.")

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def payload(self) -> dict[str, object]:
        """Ready for JSON."""
        told = [
            {"name": check.name, "ok": check.ok, "said": check.said, "numbers": dict(check.numbers)}
            for check in self.checks
        ]
        return {"run": self.run_id, "ok": self.ok, "checks": told}


def validate_run(store: Store, run_id: str, artifacts: Path, bill: Bill | None) -> Validation:
    """Check a run's log, its saved weights in `artifacts` and the platform's `bill`; writes nothing.

    bill None: there is no platform to ask, and the check of that name fails and says so; a journey on a log has none,
    and is held to having moved no money instead. A log that is broken or
    tells too little is not read any further. Raises StoreError when there is no such run.
    """
    told = store.config(run_id)["journey"]
    if not isinstance(told, dict):
        raise StoreError(f"run {run_id!r} holds no journey.")
    record = Record(
        run_id=run_id,
        config=build_journey(told, f"run {run_id}"),
        lines=tuple(Line(event.seq, event.kind, event.payload) for event in store.events(run_id)),
    )
    # The store's books and approvals are not asked: what they are folded from is what is in question.
    readable = (_hash_chain(store, run_id), event_payloads(record.lines, LIVE))
    if not all(check.ok for check in readable):
        return Validation(run_id, readable)
    if isinstance(record.config, LogJourneyConfig):
        return Validation(
            run_id,
            (
                *readable,
                log_checks.log_on_disk(record, record.config),
                log_checks.split_in_order(record, record.config),
                *_trained(record, artifacts),
                log_checks.no_money(record),
            ),
        )
    return Validation(
        run_id,
        (
            *readable,
            *_trained(record, artifacts),
            training_checks.frozen_actor(record),
            money_checks.step_spend(record),
            money_checks.settled_spend(record),
            money_checks.ledger_spend(record),
            _billed(record, bill),
            money_checks.reserved_first(record),
            money_checks.granted_first(record),
            money_checks.reservations_resolved(record),
            money_checks.within_limits(record),
            money_checks.approvals(record),
            money_checks.shadow_is_free(record),
        ),
    )


def _trained(record: Record, artifacts: Path) -> tuple[Check, ...]:
    """What every journey must show of its training."""
    return (
        training_checks.phases_complete(record),
        training_checks.cadence(record),
        training_checks.nothing_left(record),
        training_checks.gradient_steps(record),
        training_checks.weights_moved(record),
        training_checks.second_looks(record),
        training_checks.weights_chained(record),
        training_checks.weights_on_disk(record, artifacts),
        training_checks.played_weights(record),
    )


def _hash_chain(store: Store, run_id: str) -> Check:
    """No event was altered, removed or put in between."""
    try:
        events = store.verify_chain(run_id)
    except StoreError as error:
        return Check("hash_chain", False, str(error))
    head = [event.hash for event in store.events(run_id, after=events - 1)]
    said = f"{events} events, each hashed over the one before; the last is {(head[-1] if head else GENESIS)[:12]}."
    return Check("hash_chain", True, said, {"events": events, "head": head[-1] if head else GENESIS})


def _billed(record: Record, bill: Bill | None) -> Check:
    if bill is None:
        return money_checks.no_bill("there is no platform to ask.")
    try:
        lines = tuple(bill())
    except PlatformError as error:
        return money_checks.no_bill(str(error))
    return money_checks.platform_bill(record, lines)
