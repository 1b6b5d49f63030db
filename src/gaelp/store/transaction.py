"""What may be appended to a run's log in one transaction, money and approvals by their rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import sqlalchemy as sa

from gaelp.core.errors import BadInput, StoreError
from gaelp.core.verdict import FAIL, PASS, Verdict
from gaelp.safety.approvals import Approval, Binding, approval_matches
from gaelp.safety.ledger import Books, Entry, Kind, Limits, Request, may_reserve, resolve
from gaelp.store import schema
from gaelp.store.canonical import canonical
from gaelp.store.log import APPROVAL_CONSUMED, APPROVED, FOLDED_KINDS, State, event_hash, without

_BATCH = 1000
"""Rows written at once: far quicker than one by one, and bounded in memory."""


class Transaction:
    """What may be done to one run inside `Store.transaction`; made nowhere else."""

    def __init__(self, connection: sa.Connection, run_id: str, state: State, now: Callable[[], str]) -> None:
        self._connection = connection
        self._run_id = run_id
        self._state = state
        self._now = now
        self._pending: list[dict[str, object]] = []

    @property
    def books(self) -> Books:
        """The ledger: everything committed by anybody, and what this transaction appended."""
        return self._state.books

    @property
    def state(self) -> State:
        """The log folded up to the last append."""
        return self._state

    @property
    def unused_approvals(self) -> tuple[Approval, ...]:
        return self._state.unused

    @property
    def last_seq(self) -> int:
        """The number of the last event, this transaction's included."""
        return self._state.seq

    def append(
        self, kind: str, payload: Mapping[str, object], ambient: Mapping[str, object] | None = None
    ) -> int:
        """Append a fact and return its seq. `ambient`: what differs between equal runs (seconds, pids, ports).

        Raises StoreError for a payload that is not finite JSON, and for the kinds of ledger and approvals,
        which have methods of their own: an entry nobody authorised must not get in by the back door.
        """
        if kind in FOLDED_KINDS:
            raise StoreError(
                f"{kind!r} events are written by reserve, resolve, grant or approve, not appended."
            )
        return self._append(kind, payload, ambient)

    def grant(self, phase: str, micros: int, by: str) -> None:
        """Record that the person `by` lets `phase` spend `micros` more."""
        if not by:
            raise BadInput("a grant names the person who gives it.")
        intent = f"grant/{phase}/{self._state.seq + 1}"
        entry = Entry(kind=Kind.GRANTED, intent=intent, phase=phase, day=0, episode="", micros=micros)
        self._enter(entry, {"by": by})

    def reserve(self, limits: Limits, request: Request) -> Verdict:
        """Authorise `request` and set its money aside, in one; appends nothing unless the verdict is PASS.

        The same request again, while its bill is open, is PASS and appends nothing. FAIL `intent_reused`: the
        intent stands for another request. FAIL `intent_settled`: its bill is in and its money released, so
        a call made now would be covered by nothing.
        """
        if request.intent in self.books.reservations:
            held = self.books.reservations[request.intent]
            told = {"intent": request.intent, "micros": request.micros}
            if held.request != request:
                reason = (
                    f"intent {request.intent!r} stands for {held.request.micros} micros of another request."
                )
                return Verdict(FAIL, "intent_reused", reason, told)
            if held.posted is not None:
                return Verdict(FAIL, "intent_settled", f"intent {request.intent!r} is settled already.", told)
            return Verdict(PASS, "may_reserve", f"intent {request.intent!r} is reserved already.", told)
        verdict = may_reserve(self.books, limits, request)
        if verdict:
            self._enter(request.entry(), {})
        return verdict

    def resolve(self, intent: str, actual_micros: int) -> tuple[Entry, ...]:
        """Settle an intent at its bill and return what was entered; nothing when it is in the books like that.

        Raises MoneyError as `safety.ledger.resolve` does.
        """
        entries = resolve(self.books, intent, actual_micros)
        for entry in entries:
            self._enter(entry, {})
        return entries

    def late_charge(self, request: Request) -> None:
        """Record spend that no reservation stands for, as a breach of `request.micros` in its phase and day.

        Recorded once by its intent; the same again appends nothing. Raises StoreError when it is told differently.
        """
        intent = request.intent
        if intent in self.books.reservations:
            raise StoreError(f"intent {intent!r} has a reservation: resolve it at its whole bill instead.")
        if intent in self.books.breaches:
            if self.books.breaches[intent] != request.micros:
                raise StoreError(
                    f"late charge {intent!r} is recorded with {self.books.breaches[intent]} micros."
                )
            return
        self._enter(replace(request.entry(), kind=Kind.BREACH), {})

    def approve(self, approval: Approval) -> None:
        """Record a person's yes. Given twice it may be used twice."""
        self._append(APPROVED, {**asdict(approval.binding), "by": approval.by}, None)
        self._state = replace(self._state, unused=(*self._state.unused, approval))

    def consume_approval(self, wanted: Binding) -> Verdict:
        """Use up the oldest unused approval of exactly `wanted`; WAIT, and no event, when there is none."""
        verdict = approval_matches(self.unused_approvals, wanted)
        if verdict:
            self._append(APPROVAL_CONSUMED, {**asdict(wanted), "by": verdict.evidence["by"]}, None)
            self._state = replace(self._state, unused=without(self.unused_approvals, wanted))
        return verdict

    def _enter(self, entry: Entry, more: dict[str, object]) -> None:
        # The fold is asked first: it holds the invariants, and an entry it refuses is never written.
        books = self._state.books.apply(entry)
        told = {key: value for key, value in asdict(entry).items() if key != "kind"}
        self._append(entry.kind.value, told | more, None)
        self._state = replace(self._state, books=books)

    def _append(self, kind: str, payload: Mapping[str, object], ambient: Mapping[str, object] | None) -> int:
        if not kind:
            raise StoreError("an event has a kind, got none.")
        seq = self._state.seq + 1
        text = canonical(payload, f"event {seq} ({kind})")
        digest = event_hash(self._state.head, kind, text)
        self._pending.append(
            {
                "run_id": self._run_id,
                "seq": seq,
                "kind": kind,
                "payload": text,
                "at": self._now(),
                "ambient": None
                if ambient is None
                else canonical(ambient, f"ambient of event {seq} ({kind})"),
                "prev_hash": self._state.head,
                "hash": digest,
            }
        )
        self._state = replace(self._state, seq=seq, head=digest)
        if len(self._pending) >= _BATCH:
            self.flush()
        return seq

    def flush(self) -> None:
        """Hand what is pending to the database; it is durable once the transaction has committed."""
        if self._pending:
            self._connection.execute(sa.insert(schema.event), self._pending)
            self._pending = []
