"""The sandbox's own database: its settings, campaigns, clock and every half hour played.

It knows SQL and rows. It refuses to know what a row means: `network` folds today's rows back into the
state of the day. One writer at a time, held by a lock file beside the database.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    StaticPool,
    Table,
    Text,
    bindparam,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DatabaseError

from gaelp.core.errors import StoreError
from gaelp.platforms.platform import CampaignState
from gaelp.platforms.sandbox.lock import HELD_FOR_GOOD_S, take_lock
from gaelp.platforms.sandbox.world import Settings

VERSION = 2
"""Of tables and world: another one would not replay the recorded bids to the recorded outcome."""

_tables = MetaData()
_settings = Table("settings", _tables, Column("version", Integer), Column("settings", Text))
_clock = Table("clock", _tables, Column("day", Integer), Column("tick", Integer))
_campaigns = Table(
    "campaigns",
    _tables,
    Column("created_index", Integer, primary_key=True),
    Column("name", Text, unique=True),
    Column("market", Text),
    Column("daily_budget_micros", BigInteger),
    Column("bid_micros", BigInteger),
    Column("target_cpa_micros", BigInteger, nullable=True),
    Column("status", Text),
    Column("last_day", Integer),
    Column("highest_budget_micros", BigInteger),
    Column("highest_day", Integer),
)
_plays = Table(
    "plays",
    _tables,
    Column("campaign", Integer, primary_key=True),
    Column("day", Integer, primary_key=True),
    Column("tick", Integer, primary_key=True),
    Column("served", Integer),
    Column("highest_budget_micros", BigInteger),
    Column("bid_micros", BigInteger),
    Column("eligible", Integer),
    Column("impressions", Integer),
    Column("clicks", Integer),
    Column("cost_micros", BigInteger),
    Column("conversions", Integer),
    Column("conversions_so_far", Integer),
    sqlite_with_rowid=False,
)
_WHICH = (_plays.c.campaign, _plays.c.day, _plays.c.tick)
_COUNTS = (
    _plays.c.bid_micros,
    _plays.c.eligible,
    _plays.c.impressions,
    _plays.c.clicks,
    _plays.c.cost_micros,
)
_KNOWN_AT_ONCE = (*_WHICH, *_COUNTS, _plays.c.conversions_so_far)
_SETTLED = (*_WHICH, *_COUNTS, _plays.c.conversions)
_report = select(*_KNOWN_AT_ONCE).where(
    _plays.c.day == bindparam("at_day"),
    _plays.c.tick == bindparam("at_tick"),
    _plays.c.campaign.in_(bindparam("among", expanding=True)),
)
_settled = (
    select(*_SETTLED)
    .where(
        _plays.c.day.between(bindparam("first"), bindparam("last")),
        _plays.c.campaign.in_(bindparam("among", expanding=True)),
    )
    .order_by(_plays.c.day, _plays.c.tick, _plays.c.campaign)
)
_bill = (
    select(_plays.c.campaign, _plays.c.day, func.sum(_plays.c.cost_micros))
    .where(_plays.c.campaign.in_(bindparam("among", expanding=True)))
    .group_by(_plays.c.day, _plays.c.campaign)
    .order_by(_plays.c.day, _plays.c.campaign)
)
_edit = (
    update(_campaigns)
    .where(_campaigns.c.created_index == bindparam("which"))
    .values({name: bindparam(f"new_{name}") for name in ("daily_budget_micros", "bid_micros", "status", "last_day",
                                                         "highest_budget_micros", "highest_day")})
)  # fmt: skip
_insert_plays, _set_clock = insert(_plays), update(_clock)


@dataclass(frozen=True, slots=True)
class ClockTime:
    """The half hour that plays next."""

    day: int
    tick: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A campaign as stored: what its owner sees, and the highest budget of the day on which one was last set."""

    state: CampaignState
    highest_budget_micros: int
    highest_day: int

    def highest_on(self, day: int) -> int:
        """The highest daily budget of `day` (today): lowering one changes nothing until tomorrow."""
        return self.highest_budget_micros if self.highest_day == day else self.state.daily_budget_micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """One stored half hour of one campaign; `served` is 0 where it was paused or past its last day."""

    campaign: int
    day: int
    tick: int
    served: int
    highest_budget_micros: int
    bid_micros: int
    eligible: int
    impressions: int
    clicks: int
    cost_micros: int
    conversions: int
    conversions_so_far: int


class Database:
    """One sandbox's SQLite file. Every writing method is one transaction."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises StoreError when another process holds it or it is no database."""
        self._lock = take_lock(path, HELD_FOR_GOOD_S)
        self._engine: Engine = create_engine(
            f"sqlite:///{path}", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        event.listen(self._engine, "connect", _tune)
        try:
            self._connection: Connection = self._engine.connect()
            _tables.create_all(self._connection)
            self._connection.commit()
        except DatabaseError as broken:
            raise StoreError(f"{path} cannot be used as a sandbox database: {broken.orig}.") from broken
        self._path = path

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()
        self._lock.close()

    def settings(self) -> Settings | None:
        """What the sandbox in this file is made of, None for a new file.

        Raises StoreError for a file of another version.
        """
        row = self._connection.execute(select(_settings)).one_or_none()
        self._connection.rollback()
        if row is None:
            return None
        if row.version != VERSION:
            raise StoreError(
                f"{self._path} is a sandbox of version {row.version}, not {VERSION}: start a new one."
            )
        return Settings(**json.loads(row.settings))

    def found(self, settings: Settings, campaigns: Sequence[Kept]) -> None:
        """The first transaction of a new file: settings, the clock at day 0, the owner's campaigns."""
        with self._connection.begin():
            self._connection.execute(
                insert(_settings), {"version": VERSION, "settings": json.dumps(asdict(settings))}
            )
            self._connection.execute(insert(_clock), {"day": 0, "tick": 0})
            self._connection.execute(insert(_campaigns), [_flat(c) for c in campaigns])

    def clock(self) -> ClockTime:
        row = self._connection.execute(select(_clock)).one()
        self._connection.rollback()
        return ClockTime(row.day, row.tick)

    def campaigns(self) -> list[Kept]:
        """All campaigns, oldest first."""
        rows = self._connection.execute(select(_campaigns).order_by(_campaigns.c.created_index)).all()
        self._connection.rollback()
        return [_kept(row._mapping) for row in rows]

    def plays_of_day(self, day: int) -> list[Play]:
        """What was played on `day`, in order of half hour and campaign."""
        chosen = select(_plays).where(_plays.c.day == day).order_by(_plays.c.tick, _plays.c.campaign)
        rows = self._connection.execute(chosen).all()
        self._connection.rollback()
        return [Play(**row._mapping) for row in rows]

    def create(self, campaigns: Iterable[Kept]) -> None:
        with self._connection.begin():
            self._connection.execute(insert(_campaigns), [_flat(c) for c in campaigns])

    def edit(self, campaigns: Iterable[Kept]) -> None:
        """Store the present budget, bid, status, last day and highest budget of these campaigns."""
        with self._connection.begin():
            self._connection.execute(_edit, [_edited(c) for c in campaigns])

    def play(self, plays: Sequence[Play], clock: ClockTime) -> None:
        """Store a half hour and the clock after it."""
        with self._connection.begin():
            if plays:
                self._connection.execute(
                    _insert_plays, [{n: getattr(p, n) for n in Play.__slots__} for p in plays]
                )
            self._connection.execute(_set_clock, {"day": clock.day, "tick": clock.tick})

    def report(self, among: Sequence[int], clock: ClockTime) -> list[tuple[int, ...]]:
        """Rows campaign, day, tick, bid, eligible, impressions, clicks, cost, conversions so far."""
        return self._rows(_report, at_day=clock.day, at_tick=clock.tick, among=among)

    def settled(self, among: Sequence[int], first: int, last: int) -> list[tuple[int, ...]]:
        """Rows as in `report`, the half hour's own conversions last; by day, half hour and campaign."""
        return self._rows(_settled, first=first, last=last, among=among)

    def bill(self, among: Sequence[int]) -> list[tuple[int, ...]]:
        """Rows campaign, day, cost."""
        return self._rows(_bill, among=among)

    def _rows(self, statement: object, **values: object) -> list[tuple[int, ...]]:
        rows = [tuple(row) for row in self._connection.execute(statement, values)]  # type: ignore[call-overload]
        self._connection.rollback()
        return rows


def _tune(connection: sqlite3.Connection, _: object) -> None:
    # NORMAL survives the death of the process, all that the sandbox promises; a power cut may lose the
    # last half hours, and the clock with them.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _flat(kept: Kept) -> dict[str, object]:
    return {
        **{name: getattr(kept.state, name) for name in CampaignState.__slots__},
        "highest_budget_micros": kept.highest_budget_micros,
        "highest_day": kept.highest_day,
    }


def _edited(kept: Kept) -> dict[str, object]:
    state = kept.state
    return {
        "which": state.created_index,
        "new_daily_budget_micros": state.daily_budget_micros,
        "new_bid_micros": state.bid_micros,
        "new_status": state.status,
        "new_last_day": state.last_day,
        "new_highest_budget_micros": kept.highest_budget_micros,
        "new_highest_day": kept.highest_day,
    }


def _kept(row: object) -> Kept:
    columns = dict(row)  # type: ignore[call-overload]
    highest, day = columns.pop("highest_budget_micros"), columns.pop("highest_day")
    return Kept(state=CampaignState(**columns), highest_budget_micros=highest, highest_day=day)
