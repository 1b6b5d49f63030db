"""The event log: append-only, chained, reproducible, and the same for everybody who reads it."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from gaelp.core.errors import MoneyError, StoreError
from gaelp.core.verdict import FAIL, PASS, WAIT
from gaelp.safety.approvals import Approval, Binding
from gaelp.safety.ledger import Limits, Request
from gaelp.store.log import GENESIS, event_hash
from gaelp.store.store import Store

LIMITS = Limits(per_episode_micros=10, per_day_micros=50, total_micros=500, days=30)
ASK = Request(intent="a", phase="real_testing", day=1, episode="day1/a", micros=10)
BINDING = Binding(actor_hash="a1", phase="scaled", step=1, limit_micros=50, evidence_hash="e1")


class StoppedClock:
    """Stands still at the hour it was given."""

    def __init__(self, hour: int) -> None:
        self._now = datetime(2026, 1, 1, hour, tzinfo=UTC)

    def now(self) -> datetime:
        return self._now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store.open(path, StoppedClock(9))
    opened.create_run("one", {"seed": 7})
    yield opened
    opened.close()


def tell(store: Store, run_id: str, count: int) -> None:
    with store.transaction(run_id) as tx:
        for k in range(count):
            tx.append("told", {"k": k})


def test_what_is_appended_is_read_back_in_order(store: Store) -> None:
    with store.transaction("one") as tx:
        assert tx.append("first", {"b": 1, "a": [1.5, "x", None, True]}, {"seconds": 0.25}) == 1
        assert tx.append("second", {}) == 2
    first, second = store.events("one")
    assert (first.seq, first.kind, first.payload) == (1, "first", {"a": [1.5, "x", None, True], "b": 1})
    assert (first.at, first.ambient, second.ambient) == ("2026-01-01T09:00:00+00:00", {"seconds": 0.25}, None)
    assert type(first.payload["b"]) is int
    assert first.hash == event_hash(GENESIS, "first", '{"a":[1.5,"x",null,true],"b":1}')
    assert second.prev_hash == first.hash == store.events("one").__next__().hash
    assert store.head_hash("one") == second.hash


def test_events_are_found_by_kind_and_from_a_place_on_over_many_pages(store: Store) -> None:
    with store.transaction("one") as tx:
        for k in range(2500):
            tx.append("even" if k % 2 == 0 else "odd", {"k": k})
    assert [e.payload["k"] for e in store.events("one", kinds=["odd"])] == list(range(1, 2500, 2))
    assert [e.seq for e in store.events("one", after=2497)] == [2498, 2499, 2500]
    assert list(store.events("one", kinds=["none"])) == []
    assert store.verify_chain("one") == 2500


def test_two_runs_that_do_the_same_have_the_same_chain_whatever_the_hour_and_the_name(tmp_path: Path) -> None:
    heads = set()
    for hour, name in ((3, "one"), (17, "two")):
        store = Store.open(tmp_path / f"{name}.db", StoppedClock(hour))
        store.create_run(name, {"seed": 7})
        with store.transaction(name) as tx:
            tx.grant("real_testing", 100, "ada")
            assert tx.reserve(LIMITS, ASK)
            tx.append("played", {"reward": 0.1}, {"pid": hour})
            tx.resolve("a", 7)
        heads.add(store.head_hash(name))
        store.close()
    assert len(heads) == 1


def test_the_order_of_keys_does_not_matter_to_the_hash_and_a_value_does(tmp_path: Path) -> None:
    heads = []
    for k, payload in enumerate(({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 2.0})):
        store = Store.open(tmp_path / f"{k}.db")
        store.create_run("r", {})
        with store.transaction("r") as tx:
            tx.append("x", payload)
        heads.append(store.head_hash("r"))
        store.close()
    assert heads[0] == heads[1] != heads[2]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"x": {"loss": float("nan")}}, r"\.x\.loss is nan"),
        ({"x": [1.0, float("inf")]}, r"\.x\[1\] is inf"),
        ({"x": np.float64(1.0)}, "float64"),
        ({"x": np.int64(1)}, "int64"),
        ({"x": {1: "a"}}, "keys are text"),
        ({"x": {3, 4}}, "set"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_its_key_and_nothing_is_lost(
    store: Store, payload: dict[str, object], words: str
) -> None:
    tell(store, "one", 1)
    with pytest.raises(StoreError, match=words), store.transaction("one") as tx:
        tx.append("wrong", payload)
    with pytest.raises(StoreError, match=words), store.transaction("one") as tx:
        tx.append("wrong", {}, ambient=payload)
    assert [e.kind for e in store.events("one")] == ["told"]


def test_a_transaction_that_raises_leaves_nothing_neither_on_disk_nor_in_memory(store: Store) -> None:
    with store.transaction("one") as tx:
        tx.grant("real_testing", 100, "ada")
    head = store.head_hash("one")

    def interrupted() -> None:
        with store.transaction("one") as tx:
            tx.append("half", {})
            assert tx.reserve(LIMITS, ASK)
            assert tx.books.reserved == 10
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.head_hash("one") == head
    assert store.books("one").reserved == 0
    with store.transaction("one") as tx:
        assert tx.books.reserved == 0
        assert tx.append("next", {}) == 2


@pytest.mark.parametrize(
    "change", ["UPDATE event SET payload = '{}'", "DELETE FROM event", "DELETE FROM run"]
)
def test_the_database_itself_refuses_to_change_what_was_written(
    store: Store, path: Path, change: str
) -> None:
    tell(store, "one", 2)
    with sqlite3.connect(path) as raw, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw.execute(change)
    assert store.verify_chain("one") == 2


@pytest.mark.parametrize(
    ("tampering", "sentence"),
    [
        ("UPDATE event SET payload = '{\"k\":9}' WHERE seq = 3", "event 3 .* was altered"),
        ("UPDATE event SET kind = 'other' WHERE seq = 3", "event 3 .* was altered"),
        ("UPDATE event SET payload = 'no' WHERE seq = 3", "event 3 is not JSON"),
        ("UPDATE event SET hash = prev_hash WHERE seq = 3", "event 3 .* was altered"),
        ("UPDATE event SET prev_hash = hash WHERE seq = 3", "event 3 .* was altered"),
        ("DELETE FROM event WHERE seq = 3", "event 3 is missing"),
        ("DELETE FROM event WHERE seq = 1", "event 1 is missing"),
        ("UPDATE event SET payload = (SELECT payload FROM event WHERE seq = 4) WHERE seq = 3", "event 3"),
    ],
)
def test_the_chain_names_the_first_event_somebody_touched(
    store: Store, path: Path, tampering: str, sentence: str
) -> None:
    tell(store, "one", 5)
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TRIGGER event_refuses_update")
        raw.execute("DROP TRIGGER event_refuses_delete")
        raw.execute(tampering)
    with pytest.raises(StoreError, match=sentence):
        store.verify_chain("one")


def test_an_event_that_was_forged_with_a_fitting_hash_is_found_at_the_next_one(
    store: Store, path: Path
) -> None:
    tell(store, "one", 5)
    prev = list(store.events("one"))[1].hash
    forged = hashlib.sha256(f'{prev}\ntold\n{{"k":9}}'.encode()).hexdigest()
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TRIGGER event_refuses_update")
        raw.execute("UPDATE event SET payload = '{\"k\":9}', hash = ? WHERE seq = 3", (forged,))
        raw.execute("UPDATE event SET prev_hash = ? WHERE seq = 4", (forged,))
    with pytest.raises(StoreError, match=r"event 4 .* was altered"):
        store.verify_chain("one")


def test_ledger_and_approval_kinds_cannot_be_appended_by_hand(store: Store) -> None:
    for kind in ("granted", "reserved", "posted", "released", "breach", "approved", "approval_consumed"):
        with pytest.raises(StoreError, match="not appended"), store.transaction("one") as tx:
            tx.append(kind, {"micros": 1})


def test_reserving_the_same_intent_again_appends_nothing_and_another_amount_is_refused(store: Store) -> None:
    with store.transaction("one") as tx:
        tx.grant("real_testing", 100, "ada")
        assert tx.reserve(LIMITS, ASK).ruling is PASS
    with store.transaction("one") as tx:
        assert tx.reserve(LIMITS, ASK).ruling is PASS
        other = tx.reserve(LIMITS, replace(ASK, micros=9))
        assert (other.ruling, other.rule) == (FAIL, "intent_reused")
        assert tx.reserve(LIMITS, replace(ASK, day=2)).rule == "intent_reused"
    assert [e.kind for e in store.events("one")] == ["granted", "reserved"]


def test_a_settled_intent_covers_no_further_call(store: Store) -> None:
    with store.transaction("one") as tx:
        tx.grant("real_testing", 100, "ada")
        assert tx.reserve(LIMITS, ASK)
        tx.resolve("a", 4)
        again = tx.reserve(LIMITS, ASK)
    assert (again.ruling, again.rule) == (FAIL, "intent_settled")


def test_a_refused_reservation_leaves_no_event(store: Store) -> None:
    with store.transaction("one") as tx:
        verdict = tx.reserve(LIMITS, ASK)
    assert (verdict.ruling, verdict.rule) == (FAIL, "grant")
    assert list(store.events("one")) == []


def test_settling_twice_appends_once(store: Store) -> None:
    with store.transaction("one") as tx:
        tx.grant("real_testing", 100, "ada")
        assert tx.reserve(LIMITS, ASK)
    for _ in range(2):
        with store.transaction("one") as tx:
            tx.resolve("a", 4)
    assert [e.kind for e in store.events("one")] == ["granted", "reserved", "posted", "released"]
    assert store.books("one").available == 96


def test_a_charge_without_a_reservation_is_a_breach_recorded_once(store: Store) -> None:
    late = replace(ASK, intent="late/day1", micros=3)
    for _ in range(2):
        with store.transaction("one") as tx:
            tx.late_charge(late)
    assert store.books("one").available == -3
    with pytest.raises(StoreError, match="recorded with 3"), store.transaction("one") as tx:
        tx.late_charge(replace(late, micros=4))


def test_a_grant_given_through_another_opening_of_the_store_is_seen_at_once(store: Store, path: Path) -> None:
    tell(store, "one", 1)
    with store.transaction("one") as tx:
        assert tx.reserve(LIMITS, ASK).rule == "grant"
    elsewhere = Store.existing(path)
    with elsewhere.transaction("one") as tx:
        tx.grant("real_testing", 100, "ada")
    elsewhere.close()
    with store.transaction("one") as tx:
        assert tx.books.granted == 100
        assert tx.reserve(LIMITS, ASK)
    granted = next(store.events("one", kinds=["granted"]))
    assert granted.payload["by"] == "ada"


def test_a_fresh_opening_folds_to_the_same_books(store: Store, path: Path) -> None:
    with store.transaction("one") as tx:
        tx.grant("real_testing", 100, "ada")
        tx.reserve(LIMITS, ASK)
        tx.reserve(LIMITS, replace(ASK, intent="b", episode="day1/b"))
        tx.resolve("a", 12)
        tx.approve(Approval(BINDING, "ada"))
    again = Store.existing(path)
    assert again.books("one") == store.books("one")
    assert again.unused_approvals("one") == store.unused_approvals("one") == (Approval(BINDING, "ada"),)
    assert again.head_hash("one") == store.head_hash("one")
    again.close()


def test_an_approval_is_used_once(store: Store, path: Path) -> None:
    with store.transaction("one") as tx:
        assert tx.consume_approval(BINDING).ruling is WAIT
        tx.approve(Approval(BINDING, "ada"))
        assert tx.consume_approval(replace(BINDING, limit_micros=51)).ruling is WAIT
        assert tx.consume_approval(BINDING).ruling is PASS
    with store.transaction("one") as tx:
        assert tx.consume_approval(BINDING).ruling is WAIT
    again = Store.existing(path)
    assert again.unused_approvals("one") == ()
    again.close()
    assert [e.kind for e in store.events("one")] == ["approved", "approval_consumed"]


def test_a_grant_of_no_whole_amount_or_by_nobody_is_refused(store: Store) -> None:
    with pytest.raises(MoneyError), store.transaction("one") as tx:
        tx.grant("real_testing", 1.5, "ada")  # type: ignore[arg-type]
    with pytest.raises(MoneyError), store.transaction("one") as tx:
        tx.grant("real_testing", -1, "ada")
    assert list(store.events("one")) == []


def test_runs_are_listed_with_their_configuration(store: Store) -> None:
    assert store.config("one") == {"seed": 7}
    store.create_run("two", {"seed": 8})
    assert [r.run_id for r in store.runs()] == ["one", "two"]
    assert store.latest_run().run_id == "two"
    with pytest.raises(StoreError, match="exists already"):
        store.create_run("two", {})


def test_an_unknown_run_is_answered_with_the_nearest(store: Store) -> None:
    for ask in (store.config, store.books, store.head_hash, store.verify_chain):
        with pytest.raises(StoreError, match=r"no run .onn. in the store\. Did you mean .one."):
            ask("onn")
    with pytest.raises(StoreError, match="no run 'onn'"), store.transaction("onn"):
        pass


def test_a_store_that_is_not_there_is_not_made_by_asking_for_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        Store.existing(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match="no directory"):
        Store.open(tmp_path / "nowhere" / "store.db")
    with pytest.raises(StoreError, match="in-memory"):
        Store.open("sqlite://")


def test_a_file_that_is_no_database_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("this is not a database\n" * 100)
    with pytest.raises(StoreError, match="cannot open the store"):
        Store.open(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text().startswith("this is not")
