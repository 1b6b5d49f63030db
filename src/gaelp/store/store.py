"""The store: an append-only, hash-chained event log per run, and the books and approvals folded from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from gaelp.core.clock import Clock, SystemClock
from gaelp.core.errors import StoreError, nearest
from gaelp.safety.approvals import Approval
from gaelp.safety.ledger import Books
from gaelp.store import schema
from gaelp.store.canonical import Json, canonical, parsed
from gaelp.store.database import database_url, open_engine, schema_version
from gaelp.store.log import FOLDED_KINDS, GENESIS, Event, State, event_hash, folded, read_event
from gaelp.store.transaction import Transaction

_SYSTEM_CLOCK = SystemClock()
_PAGE = 1000
"""Rows read at once, so that no reader holds a connection while somebody thinks."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run's name and when it was created (ISO 8601, UTC)."""

    run_id: str
    created_at: str


class Store:
    """All runs of one database. SQLite is the tested home; PostgreSQL by URL goes through the same statements
    and has its own triggers in the migration, but no test of this version runs on it.

    One object serves several threads; each transaction is one connection. Memory is bounded by the ledger.
    """

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._states: dict[str, State] = {}

    @classmethod
    def open(cls, url: str | Path, clock: Clock = _SYSTEM_CLOCK) -> Store:
        """Open the database at `url` (a file path or a SQLAlchemy URL), creating or migrating it when needed.

        Raises StoreError when it is newer than this code, or no database of ours.
        """
        store = cls(open_engine(url), clock)
        store._bring_up_to_date()
        return store

    @classmethod
    def existing(cls, url: str | Path, clock: Clock = _SYSTEM_CLOCK) -> Store:
        """Open a database that must be there already: for commands that read or answer a run."""
        at = database_url(url)
        if at.get_backend_name() == "sqlite" and not Path(str(at.database)).is_file():
            raise StoreError(f"no store at {at.database}: start a run first, or name another file.")
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
            tx.flush()
        # Only now, committed: a rolled-back transaction must leave no trace in memory either.
        self._states[run_id] = tx.state

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
                yield read_event(row)
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

    def _read_state(self, run_id: str) -> State:
        self.config(run_id)
        with self._engine.connect() as connection:
            state = self._refreshed(connection, run_id)
        self._states[run_id] = state
        return state

    def _refreshed(self, connection: sa.Connection, run_id: str) -> State:
        """The cached fold brought up to the log as `connection` sees it."""
        table = schema.event
        state = self._states[run_id] if run_id in self._states else State()
        last = connection.execute(
            sa.select(table.c.seq, table.c.hash)
            .where(table.c.run_id == run_id)
            .order_by(table.c.seq.desc())
            .limit(1)
        ).first()
        if last is None or last.seq <= state.seq:
            return state
        news = connection.execute(
            sa.select(table)
            .where(table.c.run_id == run_id, table.c.kind.in_(FOLDED_KINDS))
            .where(table.c.seq > state.seq, table.c.seq <= last.seq)
            .order_by(table.c.seq)
        )
        return replace(folded(state, map(read_event, news)), seq=last.seq, head=last.hash)

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
                version = schema_version(connection)
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
