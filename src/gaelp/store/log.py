"""The log's lines, how they are chained, and the books and approvals that are folded from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from gaelp.safety.approvals import Approval, Binding
from gaelp.safety.ledger import Books, Entry, Kind
from gaelp.store.canonical import Json, parsed

GENESIS = "0" * 64
"""What the first event of a run is chained to. The run's name stays out: equal runs have equal chains."""

LEDGER_KINDS = tuple(kind.value for kind in Kind)
APPROVED, APPROVAL_CONSUMED = "approved", "approval_consumed"
FOLDED_KINDS = (*LEDGER_KINDS, APPROVED, APPROVAL_CONSUMED)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log. `at` (ISO 8601, UTC) and `ambient` are wall-clock matters, outside `hash`."""

    seq: int
    kind: str
    payload: Json
    at: str
    ambient: Json | None
    prev_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class State:
    """A run's log folded up to `seq`."""

    seq: int = 0
    head: str = GENESIS
    books: Books = field(default_factory=Books)
    unused: tuple[Approval, ...] = ()


def event_hash(prev_hash: str, kind: str, payload_text: str) -> str:
    """SHA-256 over the previous hash, the kind and the canonical payload, each on a line of its own."""
    return hashlib.sha256(f"{prev_hash}\n{kind}\n{payload_text}".encode()).hexdigest()


def folded(state: State, events: Iterable[Event]) -> State:
    """`state` with the ledger and approval events applied, in order."""
    entries: list[Entry] = []
    unused = state.unused
    for found in events:
        told = found.payload
        if found.kind in LEDGER_KINDS:
            entries.append(_entry(found))
        elif found.kind == APPROVED:
            unused = (*unused, Approval(_binding(told), str(told["by"])))
        else:
            unused = without(unused, _binding(told))
    return replace(state, books=state.books.apply_all(entries), unused=unused)


def without(approvals: tuple[Approval, ...], wanted: Binding) -> tuple[Approval, ...]:
    """The approvals without the oldest one of `wanted`."""
    used = [approval.binding for approval in approvals].index(wanted)
    return approvals[:used] + approvals[used + 1 :]


def _entry(found: Event) -> Entry:
    told: dict[str, Any] = {
        name: found.payload[name] for name in ("intent", "phase", "day", "episode", "micros")
    }
    return Entry(kind=Kind(found.kind), **told)


def _binding(told: Json) -> Binding:
    names = ("actor_hash", "phase", "step", "limit_micros", "evidence_hash")
    fields: dict[str, Any] = {name: told[name] for name in names}
    return Binding(**fields)


def read_event(row: Any) -> Event:
    """The event in a row of the table `event`."""
    where = f"event {row.seq}"
    ambient = None if row.ambient is None else parsed(row.ambient, f"ambient of {where}")
    return Event(row.seq, row.kind, parsed(row.payload, where), row.at, ambient, row.prev_hash, row.hash)
