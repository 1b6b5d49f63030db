"""The store's tables as SQLAlchemy Core knows them; how they come to exist is written in `migrations`."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Integer, MetaData, String, Table, Text

SCHEMA_VERSION = "0001"
"""The newest migration. A database of another version is migrated, or refused when it is newer than this code."""

metadata = MetaData()

run = Table(
    "run",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("run_id", String(200), nullable=False, unique=True),
    Column("created_at", String(40), nullable=False),
    Column("config", Text, nullable=False),
)
"""One row a run; config is canonical JSON, created_at wall clock (ISO 8601, UTC)."""

event = Table(
    "event",
    metadata,
    Column("run_id", String(200), ForeignKey("run.run_id"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(100), nullable=False),
    Column("payload", Text, nullable=False),
    Column("at", String(40), nullable=False),
    Column("ambient", Text, nullable=True),
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("event_by_kind", "run_id", "kind", "seq"),
)
"""The log: append-only, chained per run. `at` and `ambient` (seconds, pids, ports) stay outside the hash."""
