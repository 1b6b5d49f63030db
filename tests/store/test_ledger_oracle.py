"""The books against an oracle that shares no code with them: plain sums over the rows of the database file."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gaelp.safety.ledger import Limits, Request
from gaelp.store.store import Store

PHASES = ("real_testing", "scaled")
LIMITS = Limits(per_episode_micros=40, per_day_micros=100, total_micros=250, days=4)

micros = st.integers(0, 60)
phases = st.sampled_from(PHASES)
days = st.integers(0, 5)
names = st.sampled_from("abcdefgh")


class LedgerMachine(RuleBasedStateMachine):
    """Grants, reservations, bills, late charges, rollbacks and reopenings in any order."""

    folder = tempfile.TemporaryDirectory()
    runs = 0

    @initialize()
    def begin(self) -> None:
        LedgerMachine.runs += 1
        self.run = f"run{LedgerMachine.runs}"
        self.path = Path(LedgerMachine.folder.name) / "store.db"
        self.store = Store.open(self.path)
        self.store.create_run(self.run, {})
        self.billed: Counter[str] = Counter()

    @rule(phase=phases, amount=micros)
    def grant(self, phase: str, amount: int) -> None:
        with self.store.transaction(self.run) as tx:
            tx.grant(phase, amount * 3, "ada")

    @rule(phase=phases, amount=micros, day=days, name=names)
    def reserve(self, phase: str, amount: int, day: int, name: str) -> None:
        request = Request(
            intent=f"{phase}/{day}/{name}", phase=phase, day=day, episode=f"{day}/{name}", micros=amount
        )
        with self.store.transaction(self.run) as tx:
            tx.reserve(LIMITS, request)

    @rule(choice=st.integers(0, 100), more=st.integers(0, 70))
    def bill(self, choice: int, more: int) -> None:
        known = sorted(self.store.books(self.run).reservations)
        if not known:
            return
        intent = known[choice % len(known)]
        bill = self.billed[intent] + more
        with self.store.transaction(self.run) as tx:
            tx.resolve(intent, bill)
            tx.resolve(intent, bill)
        self.billed[intent] = bill

    @rule(phase=phases, amount=micros, day=days, number=st.integers(0, 3))
    def late_charge(self, phase: str, amount: int, day: int, number: int) -> None:
        intent = f"late/{number}"
        if intent in self.billed:
            return
        with self.store.transaction(self.run) as tx:
            tx.late_charge(Request(intent=intent, phase=phase, day=day, episode="late", micros=amount))
        self.billed[intent] = amount

    @rule(phase=phases, amount=micros, day=days, name=names)
    def reserve_and_fail(self, phase: str, amount: int, day: int, name: str) -> None:
        with undone(), self.store.transaction(self.run) as tx:
            intent = f"undone/{day}/{name}"
            tx.reserve(
                LIMITS, Request(intent=intent, phase=phase, day=day, episode=f"{day}/{name}", micros=amount)
            )
            raise Undone

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store.existing(self.path)

    @invariant()
    def books_equal_plain_sums(self) -> None:
        rows = self.rows()
        books = self.store.books(self.run)
        for phase in PHASES:
            mine = [row for row in rows if row["phase"] == phase]
            tally = books.phase(phase)
            assert tally.granted == total(mine, "granted")
            assert tally.reserved == total(mine, "reserved") - total(mine, "posted") - total(mine, "released")
            assert tally.posted == total(mine, "posted")
            assert tally.breached == total(mine, "breach")
        assert books.spent == sum(self.billed.values())

    @invariant()
    def nothing_was_authorised_beyond_grants_and_limits(self) -> None:
        rows = [row for row in self.rows() if row["kind"] != "breach"]
        for phase in PHASES:
            mine = [row for row in rows if row["phase"] == phase]
            assert bound(mine) <= min(total(mine, "granted"), 250)
            assert len({row["day"] for row in mine if row["kind"] == "reserved"}) <= 4
        for day in range(6):
            assert bound([row for row in rows if row["day"] == day]) <= 100
        for episode in {row["episode"] for row in rows}:
            assert bound([row for row in rows if row["episode"] == episode]) <= 40

    @invariant()
    def every_reservation_is_settled_at_most_once(self) -> None:
        counts = Counter((row["kind"], row["intent"]) for row in self.rows() if row["kind"] != "breach")
        assert all(count == 1 for count in counts.values())

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.verify_chain(self.run)
            self.store.close()

    def rows(self) -> list[dict[str, Any]]:
        with sqlite3.connect(self.path) as raw:
            found = raw.execute("SELECT kind, payload FROM event WHERE run_id = ? ORDER BY seq", (self.run,))
            rows = [{"kind": kind, **json.loads(payload)} for kind, payload in found]
        raw.close()
        return rows


class Undone(Exception):
    """Raised inside a transaction to roll it back."""


@contextmanager
def undone() -> Iterator[None]:
    try:
        yield
    except Undone:
        return


def total(rows: list[dict[str, Any]], kind: str) -> int:
    return sum(row["micros"] for row in rows if row["kind"] == kind)


def bound(rows: list[dict[str, Any]]) -> int:
    """What was ever set aside and not given back: spent within reservations, or still open."""
    return total(rows, "reserved") - total(rows, "released")


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=30, stateful_step_count=40)
