"""Opening a database: its URL, the pragmas that make a commit durable, and the schema it stands at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from gaelp.core.errors import StoreError

_BUSY_S = 60.0
"""How long a writer waits for another process; a transaction here is a matter of milliseconds."""


def schema_version(connection: sa.Connection) -> str | None:
    """The migration a database stands at; None for one that has seen none of ours."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return None if version is None else str(version)


def database_url(url: str | Path) -> sa.URL:
    """`url` as it stands, or as an SQLite file when it is a path."""
    return sa.make_url(str(url) if "://" in str(url) else f"sqlite:///{url}")


def open_engine(url: str | Path) -> sa.Engine:
    """An engine for the database at `url`, without a connection yet.

    Raises StoreError for an SQLite database in memory, or in a directory that does not exist.
    """
    parsed_url = database_url(url)
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
