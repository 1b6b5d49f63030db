"""The store: an append-only, hash-chained event log per run, and the books and approvals folded from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from gaelp.core.clock import Clock, SystemClock
from gaelp.core.errors import BadInput, StoreError, nearest
from gaelp.core.verdict import FAIL, PASS, Verdict
from gaelp.safety.approvals import Approval, Binding, approval_matches
from gaelp.safety.ledger import Books, Entry, Kind, Limits, Request, may_reserve, resolve
from gaelp.store import schema
from gaelp.store.canonical import Json, canonical, parsed

GENESIS = "0" * 64
"""What the first event of a run is chained to. The run's name stays out: equal runs have equal chains."""

LEDGER_KINDS = tuple(kind.value for kind in Kind)
APPROVED, APPROVAL_CONSUMED = "approved", "approval_consumed"
FOLDED_KINDS = (*LEDGER_KINDS, APPROVED, APPROVAL_CONSUMED)

_SYSTEM_CLOCK = SystemClock()
_PAGE = 1000
_BUSY_S = 60.0
"""How long a writer waits for another process; a transaction here is a matter of milliseconds."""


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
class RunRecord:
    """A run's name and when it was created (ISO 8601, UTC)."""

    run_id: str
    created_at: str


@dataclass(frozen=True, slots=True)
class _State:
    """A run's log folded up to `seq`."""

    seq: int = 0
    head: str = GENESIS
    books: Books = field(default_factory=Books)
    unused: tuple[Approval, ...] = ()


def event_hash(prev_hash: str, kind: str, payload_text: str) -> str:
    """SHA-256 over the previous hash, the kind and the canonical payload, each on a line of its own."""
    return hashlib.sha256(f"{prev_hash}\n{kind}\n{payload_text}".encode()).hexdigest()


class Store:
    """All runs of one database. SQLite is the tested home; PostgreSQL by URL goes through the same statements
    and has its own triggers in the migration, but no test of this version runs on it.

    One object serves several threads; each transaction is one connection. Memory is bounded by the ledger.
    """

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._states: dict[str, _State] = {}

    @classmethod
    def open(cls, url: str | Path, clock: Clock = _SYSTEM_CLOCK) -> Store:
        """Open the database at `url` (a file path or a SQLAlchemy URL), creating or migrating it when needed.

        Raises StoreError when it is newer than this code, or no database of ours.
        """
        store = cls(_engine(url), clock)
        store._bring_up_to_date()
        return store

    @classmethod
    def existing(cls, url: str | Path, clock: Clock = _SYSTEM_CLOCK) -> Store:
        """Open a database that must be there already: for commands that read or answer a run."""
        parsed_url = _parsed_url(url)
        if parsed_url.get_backend_name() == "sqlite" and not Path(str(parsed_url.database)).is_file():
            raise StoreError(f"no store at {parsed_url.database}: start a run first, or name another file.")
        return cls.open(url, clock)

    def close(self) -> None:
        """Give every connection back."""
        self._engine.dispose()

    def create_run(self, run_id: str, config: Mapping[str, object]) -> None:
        """Enter a new run with its configuration. Raises StoreError when the name is taken or not JSON."""
        if not run_id:
            raise StoreError("a run has a name, got none.")
        row = {"run_id": run_id, "created_at": self._now(), "config": canonical(config, "config")}
        with self._writing() as connection:
            taken = connection.execute(
                sa.select(schema.run.c.number).where(schema.run.c.run_id == run_id)
            ).first()
            if taken is not None:
                raise StoreError(f"run {run_id!r} exists already: resume it, or choose another name.")
            connection.execute(sa.insert(schema.run), row)

    def runs(self) -> tuple[RunRecord, ...]:
        """Every run, the oldest first."""
        query = sa.select(schema.run.c.run_id, schema.run.c.created_at).order_by(schema.run.c.number)
        with self._engine.connect() as connection:
            return tuple(RunRecord(row.run_id, row.created_at) for row in connection.execute(query))

    def latest_run(self) -> RunRecord:
        """The run that was created last. Raises StoreError when there is none."""
        runs = self.runs()
        if not runs:
            raise StoreError("the store holds no runs yet.")
        return runs[-1]

    def config(self, run_id: str) -> Json:
        """The configuration a run was created with."""
        with self._engine.connect() as connection:
            row = connection.execute(
                sa.select(schema.run.c.config).where(schema.run.c.run_id == run_id)
            ).first()
        if row is None:
            raise self._unknown(run_id)
        return parsed(row.config, f"the configuration of run {run_id!r}")

    @contextmanager
    def transaction(self, run_id: str) -> Iterator[Transaction]:
        """All or nothing: commits when the block ends, rolls back when it raises.

        Only one transaction writes at a time, over all processes; others wait. Nothing slow belongs inside.
        """
        with self._writing() as connection:
            # Locks the run on databases that write in parallel; SQLite has locked everything already.
            locked = sa.select(schema.run.c.run_id).where(schema.run.c.run_id == run_id).with_for_update()
            if connection.execute(locked).first() is None:
                raise self._unknown(run_id)
            tx = Transaction(connection, run_id, self._refreshed(connection, run_id), self._now)
            yield tx
            tx._flush()
        # Only now, committed: a rolled-back transaction must leave no trace in memory either.
        self._states[run_id] = tx._state

    def events(self, run_id: str, kinds: Iterable[str] | None = None, after: int = 0) -> Iterator[Event]:
        """The events with seq > `after`, of these kinds only when given, in order, read a page at a time."""
        table = schema.event
        query = sa.select(table).where(table.c.run_id == run_id).order_by(table.c.seq).limit(_PAGE)
        if kinds is not None:
            query = query.where(table.c.kind.in_(list(kinds)))
        while True:
            with self._engine.connect() as connection:
                rows = connection.execute(query.where(table.c.seq > after)).all()
            for row in rows:
                yield _event(row)
            if len(rows) < _PAGE:
                return
            after = rows[-1].seq

    def books(self, run_id: str) -> Books:
        """The ledger as of now, entries of other processes included."""
        return self._read_state(run_id).books

    def unused_approvals(self, run_id: str) -> tuple[Approval, ...]:
        """Approvals that were given and not consumed yet, the oldest first."""
        return self._read_state(run_id).unused

    def head_hash(self, run_id: str) -> str:
        """The hash of the last event: equal for two runs exactly when their logs are."""
        return self._read_state(run_id).head

    def verify_chain(self, run_id: str) -> int:
        """Recompute every hash and return how many events there are.

        Raises StoreError naming the first event that is missing or was altered. A log cut off at its end
        still verifies: compare `head_hash` with one noted elsewhere to see that.
        """
        self.config(run_id)
        prev, count = GENESIS, 0
        for found in self.events(run_id):
            count += 1
            text = canonical(found.payload, f"event {found.seq}")
            if found.seq != count:
                raise StoreError(f"run {run_id!r}: event {count} is missing, the next one is {found.seq}.")
            if found.prev_hash != prev or found.hash != event_hash(prev, found.kind, text):
                raise StoreError(
                    f"run {run_id!r}: event {count} ({found.kind}) was altered, its hash does not fit."
                )
            prev = found.hash
        return count

    def _read_state(self, run_id: str) -> _State:
        self.config(run_id)
        with self._engine.connect() as connection:
            state = self._refreshed(connection, run_id)
        self._states[run_id] = state
        return state

    def _refreshed(self, connection: sa.Connection, run_id: str) -> _State:
        """The cached fold brought up to the log as `connection` sees it."""
        table = schema.event
        state = self._states[run_id] if run_id in self._states else _State()
        last = connection.execute(
            sa.select(table.c.seq, table.c.hash)
            .where(table.c.run_id == run_id)
            .order_by(table.c.seq.desc())
            .limit(1)
        ).first()
        if last is None or last.seq == state.seq:
            return state
        news = connection.execute(
            sa.select(table)
            .where(table.c.run_id == run_id, table.c.kind.in_(FOLDED_KINDS))
            .where(table.c.seq > state.seq, table.c.seq <= last.seq)
            .order_by(table.c.seq)
        )
        return replace(_folded(state, map(_event, news)), seq=last.seq, head=last.hash)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                connection.execution_options(gaelp_begin="BEGIN IMMEDIATE")
                with connection.begin():
                    yield connection
        except sa.exc.OperationalError as error:
            # Locked for longer than a writer waits, disk full, file gone: nothing was committed.
            raise StoreError(f"cannot write to the store {self._engine.url!r}: {error.orig}.") from error

    def _bring_up_to_date(self) -> None:
        try:
            with self._engine.connect() as connection:
                version = _version(connection)
            if version == schema.SCHEMA_VERSION:
                return
            if version is not None and version > schema.SCHEMA_VERSION:
                raise StoreError(
                    f"the store has schema {version}, this gaelp knows {schema.SCHEMA_VERSION}: use the newer gaelp."
                )
            # Here and not above: loading alembic takes longer than most commands run.
            from gaelp.store.migrate import upgrade

            with self._writing() as connection:
                upgrade(connection)
        except sa.exc.DBAPIError as error:
            raise StoreError(f"cannot open the store {self._engine.url!r}: {error.orig}.") from error

    def _unknown(self, run_id: str) -> StoreError:
        known = [record.run_id for record in self.runs()]
        return StoreError(f"no run {run_id!r} in the store.{nearest(run_id, known)}")

    def _now(self) -> str:
        return self._clock.now().isoformat()


class Transaction:
    """What may be done to one run inside `Store.transaction`; made nowhere else."""

    def __init__(self, connection: sa.Connection, run_id: str, state: _State, now: Callable[[], str]) -> None:
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
            self._append(
                APPROVAL_CONSUMED, {**asdict(wanted), "by": _first(self.unused_approvals, wanted).by}, None
            )
            self._state = replace(self._state, unused=_without(self.unused_approvals, wanted))
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
        if len(self._pending) >= _PAGE:
            self._flush()
        return seq

    def _flush(self) -> None:
        if self._pending:
            self._connection.execute(sa.insert(schema.event), self._pending)
            self._pending = []


def _folded(state: _State, events: Iterable[Event]) -> _State:
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
            unused = _without(unused, _binding(told))
    return replace(state, books=state.books.apply_all(entries), unused=unused)


def _first(approvals: tuple[Approval, ...], wanted: Binding) -> Approval:
    return next(approval for approval in approvals if approval.binding == wanted)


def _without(approvals: tuple[Approval, ...], wanted: Binding) -> tuple[Approval, ...]:
    """The approvals without the oldest one of `wanted`."""
    used = approvals.index(_first(approvals, wanted))
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


def _event(row: Any) -> Event:
    where = f"event {row.seq}"
    ambient = None if row.ambient is None else parsed(row.ambient, f"ambient of {where}")
    return Event(row.seq, row.kind, parsed(row.payload, where), row.at, ambient, row.prev_hash, row.hash)


def _version(connection: sa.Connection) -> str | None:
    """The migration a database stands at; None for one that has seen none of ours."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return None if version is None else str(version)


def _parsed_url(url: str | Path) -> sa.URL:
    return sa.make_url(str(url) if "://" in str(url) else f"sqlite:///{url}")


def _engine(url: str | Path) -> sa.Engine:
    parsed_url = _parsed_url(url)
    if parsed_url.get_backend_name() != "sqlite":
        return sa.create_engine(parsed_url)
    if parsed_url.database in (None, "", ":memory:"):
        raise StoreError("the store remembers on disk: name a file, not an in-memory database.")
    folder = Path(str(parsed_url.database)).parent
    if not folder.is_dir():
        raise StoreError(f"no directory {folder} to keep the store in: create it first.")
    engine = sa.create_engine(parsed_url, connect_args={"timeout": _BUSY_S})
    sa_event.listen(engine, "connect", _prepare_sqlite)
    sa_event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: it would begin them as readers.
    connection.isolation_level = None
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode=WAL")
    # A reservation must be on disk, not in a cache, before the call it pays for leaves.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    connection.exec_driver_sql(options["gaelp_begin"] if "gaelp_begin" in options else "BEGIN")
