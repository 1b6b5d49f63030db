"""The migrations build what the schema describes, and a newer database is left alone."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import gaelp.store.migrate
from gaelp.core.errors import StoreError
from gaelp.store import schema
from gaelp.store.store import Store


def test_the_migrated_database_is_the_one_the_schema_describes(tmp_path: Path) -> None:
    Store.open(tmp_path / "store.db").close()
    with sa.create_engine(f"sqlite:///{tmp_path / 'store.db'}").connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


def test_the_schema_version_is_the_newest_migration() -> None:
    scripts = ScriptDirectory(str(Path(gaelp.store.migrate.__file__).parent / "migrations"))
    assert scripts.get_heads() == [schema.SCHEMA_VERSION]


def test_a_newer_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Store.open(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="schema 9999, this gaelp knows 0001"):
        Store.open(path)


def test_an_open_store_is_durable_and_lets_readers_in(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.db")
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        # 2 is FULL: every commit is on disk before it returns.
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    store.close()


def test_opening_a_store_that_is_up_to_date_loads_neither_alembic_nor_jax_nor_numpy(tmp_path: Path) -> None:
    Store.open(tmp_path / "store.db").close()
    script = (
        "import sys\n"
        "from gaelp.store.store import Store\n"
        "Store.existing(sys.argv[1]).close()\n"
        "print(sorted({'alembic', 'jax', 'numpy', 'polars'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "store.db")],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
