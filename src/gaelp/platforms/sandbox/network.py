"""The sandbox ad network itself: an account's campaigns, its clock, and today's auctions.

It knows what may be asked and what is refused, writes every half hour to its database before it shows it,
and folds today's rows back into the state of the day after a restart. It refuses to know HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gaelp.core.errors import BadInput, StoreError, nearest
from gaelp.platforms.platform import Account, CampaignSpec, CampaignState, Status, check_count
from gaelp.platforms.sandbox.auction import DayState, Played, open_day, play_tick, spend_limit
from gaelp.platforms.sandbox.database import ClockTime, Database, Kept, Play
from gaelp.platforms.sandbox.owner import owner_campaign
from gaelp.platforms.sandbox.world import TICKS, Auctions, Settings, Weather, draw_auctions, weather

CURRENCY, TIME_ZONE = "USD", "Etc/UTC"
OWNER_LAST_DAY = 36_500
"""The owner's own campaigns run on until somebody stops them."""

BILL_FINAL_TICK = 6
"""A day's bill is final at 03:00 of the next."""

SETTLED_AFTER_DAYS = 3
"""The last conversion is known 96 half hours after its click: three midnights after the day began."""


class Refused(Exception):
    """A request the network does not carry out: nothing was changed. `status` is HTTP's number for the reason."""

    def __init__(self, status: int, sentence: str) -> None:
        Exception.__init__(self, sentence)
        self.status = status
        self.sentence = sentence


@dataclass(frozen=True, slots=True)
class Running:
    """One campaign's day in progress."""

    auctions: Auctions
    state: DayState


class Network:
    """One account of the sandbox, from its database. Not thread-safe: one request at a time."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Open the sandbox in `path`, or found it there.

        Raises StoreError when the file belongs to other settings, another version or a running process,
        or when today's recorded bids do not lead to today's recorded outcome.
        """
        self._database = Database(path)
        found = self._database.settings()
        if found is None:
            self._database.found(settings, _owner_campaigns(settings))
        elif found != settings:
            self._database.close()
            raise StoreError(f"{path} holds a sandbox of {found}, not of {settings}: use another file.")
        self._settings = settings
        self._markets = {f"m{m}": m for m in range(settings.markets)}
        self._clock = self._database.clock()
        self._campaigns = {kept.state.name: kept for kept in self._database.campaigns()}
        self._names = [kept.state.name for kept in self._campaigns.values()]
        self._sky: dict[int, Weather] = {}
        self._today: dict[int, Running] = {}
        self._replay_today()

    def close(self) -> None:
        self._database.close()

    def account(self) -> Account:
        return Account(
            currency=CURRENCY,
            time_zone=TIME_ZONE,
            day=self._clock.day,
            tick=self._clock.tick,
            over_delivery=self._settings.over_delivery,
        )

    def campaigns(self, prefix: str) -> list[CampaignState]:
        return [kept.state for name, kept in self._campaigns.items() if name.startswith(prefix)]

    def create(self, specs: Sequence[CampaignSpec]) -> None:
        """Create all or none. Refused: 409 `duplicate name`, 404 unknown market, 422 a last day gone by."""
        names = [spec.name for spec in specs]
        taken = sorted({name for name in names if name in self._campaigns or names.count(name) > 1})
        if taken:
            raise Refused(409, f"duplicate name: {', '.join(taken)}.")
        for spec in specs:
            if spec.market not in self._markets:
                known = ", ".join(self._markets)
                raise Refused(404, f"{spec.name}: no market {spec.market!r}; there are {known}.")
            self._check_last_day(spec.name, spec.last_day)
        made = [
            Kept(
                state=CampaignState(
                    name=spec.name,
                    market=spec.market,
                    daily_budget_micros=spec.daily_budget_micros,
                    bid_micros=spec.bid_micros,
                    target_cpa_micros=spec.target_cpa_micros,
                    status="ENABLED",
                    last_day=spec.last_day,
                    created_index=index,
                ),
                highest_budget_micros=spec.daily_budget_micros,
                highest_day=self._clock.day,
            )
            for index, spec in enumerate(specs, start=len(self._names))
        ]
        if made:
            self._database.create(made)
        self._campaigns.update((kept.state.name, kept) for kept in made)
        self._names.extend(kept.state.name for kept in made)

    def set_budgets(self, budgets: Mapping[str, int]) -> None:
        day = self._clock.day

        def edited(kept: Kept) -> Kept:
            budget = check_count(
                f"{kept.state.name}: daily_budget_micros", budgets[kept.state.name], at_least=1
            )
            return Kept(
                state=replace(kept.state, daily_budget_micros=budget),
                highest_budget_micros=max(budget, kept.highest_on(day)),
                highest_day=day,
            )

        self._edit(budgets, edited)

    def edit_bids(self, bids: Mapping[str, int]) -> None:
        def edited(kept: Kept) -> Kept:
            bid = check_count(f"{kept.state.name}: bid_micros", bids[kept.state.name], at_least=1)
            return replace(kept, state=replace(kept.state, bid_micros=bid))

        self._edit(bids, edited)

    def set_status(self, names: Sequence[str], status: Status) -> None:
        self._edit(names, lambda kept: replace(kept, state=replace(kept.state, status=status)))

    def extend(self, names: Sequence[str], last_day: int) -> None:
        for name in names:
            self._check_last_day(name, last_day)
        self._edit(names, lambda kept: replace(kept, state=replace(kept.state, last_day=last_day)))

    def step(self, day: int, tick: int) -> None:
        """Play the half hour (day, tick). Already played: nothing happens. Refused (409): not its turn yet."""
        asked = (day, tick)
        _check_time(day, tick)
        now = (self._clock.day, self._clock.tick)
        if asked > now:
            raise Refused(
                409,
                f"day {day} tick {tick} cannot be played yet: the clock stands at {self._standing()}.",
            )
        if asked == now:
            self._play()

    def skip(self, day: int, tick: int) -> None:
        """Play every half hour before (day, tick), so that it plays next; nothing once the clock is there."""
        _check_time(day, tick)
        while (self._clock.day, self._clock.tick) < (day, tick):
            self._play()

    def report(self, prefix: str, day: int, tick: int) -> list[list[object]]:
        """Rows in the order of ReportRow's fields. Refused (409): a half hour not played yet."""
        _check_time(day, tick)
        if (day, tick) >= (self._clock.day, self._clock.tick):
            raise Refused(
                409,
                f"day {day} tick {tick} has not been played: the clock stands at {self._standing()}.",
            )
        return self._named(self._database.report(self._indices(prefix), ClockTime(day, tick)))

    def settled(self, prefix: str, first_day: int, last_day: int) -> list[list[object]]:
        """Rows in the order of SettledRow's fields. Refused: 409 a day not settled, 422 days the wrong way round."""
        if check_count("first_day", first_day) > check_count("last_day", last_day):
            raise Refused(422, f"first_day {first_day} lies after last_day {last_day}.")
        if self._clock.day < last_day + SETTLED_AFTER_DAYS:
            raise Refused(
                409,
                f"day {last_day} is not settled before day {last_day + SETTLED_AFTER_DAYS} tick 0: "
                f"the clock stands at {self._standing()}.",
            )
        return self._named(self._database.settled(self._indices(prefix), first_day, last_day))

    def bill(self, prefix: str) -> list[list[object]]:
        """Rows campaign, day, cost_micros, final."""
        final_before = self._clock.day - (0 if self._clock.tick >= BILL_FINAL_TICK else 1)
        rows = self._named(self._database.bill(self._indices(prefix)))
        return [[*row, row[1] < final_before] for row in rows]  # type: ignore[operator]

    def _standing(self) -> str:
        return f"day {self._clock.day} tick {self._clock.tick}"

    def _check_last_day(self, name: str, last_day: int) -> None:
        if check_count(f"{name}: last_day", last_day) < self._clock.day:
            raise Refused(422, f"{name}: last_day {last_day} has gone by, today is day {self._clock.day}.")

    def _edit(self, names: Iterable[str], edited: Callable[[Kept], Kept]) -> None:
        unknown = [name for name in names if name not in self._campaigns]
        if unknown:
            raise Refused(404, f"no campaign named {unknown[0]!r}.{nearest(unknown[0], self._campaigns)}")
        changed = {name: edited(self._campaigns[name]) for name in names}
        if changed:
            self._database.edit(changed.values())
            self._campaigns.update(changed)

    def _indices(self, prefix: str) -> list[int]:
        return [index for index, name in enumerate(self._names) if name.startswith(prefix)]

    def _named(self, rows: Iterable[tuple[int, ...]]) -> list[list[object]]:
        return [[self._names[index], *rest] for index, *rest in rows]

    def _play(self) -> None:
        """Play the half hour on the clock for every campaign that serves, or has served today."""
        now = self._clock
        after: dict[int, Running] = {}
        plays = []
        for kept in self._campaigns.values():
            state = kept.state
            serves = state.status == "ENABLED" and now.day <= state.last_day
            if not serves and state.created_index not in self._today:
                continue
            running = self._caught_up(state.created_index, state.market)
            highest = kept.highest_on(now.day)
            played = _played(
                running, bid_micros=state.bid_micros if serves else 0, highest_budget_micros=highest
            )
            after[state.created_index] = Running(running.auctions, played.state)
            plays.append(_record(state.created_index, now, int(serves), highest, state.bid_micros, played))
        last = now.tick == TICKS - 1
        then = ClockTime(now.day + 1, 0) if last else ClockTime(now.day, now.tick + 1)
        self._database.play(plays, then)
        self._clock = then
        self._today = {} if last else after
        if last:
            self._sky = {}

    def _caught_up(self, index: int, market: str) -> Running:
        """Today of campaign number `index` up to the clock, the half hours it sat out played by its rivals alone."""
        running = self._today.get(index)
        if running is None:
            m = self._markets[market]
            if m not in self._sky:
                self._sky[m] = weather(self._settings, m, self._clock.day)
            auctions = draw_auctions(self._settings, m, index, self._clock.day, self._sky[m])
            running = Running(auctions, open_day(auctions))
            for _ in range(self._clock.tick):
                running = Running(auctions, play_tick(auctions, running.state, 0, 0).state)
        return running

    def _replay_today(self) -> None:
        """Play today's recorded bids again, so that the next half hour finds the world as it was."""
        now = self._clock
        for row in self._database.plays_of_day(now.day):
            self._clock = ClockTime(row.day, row.tick)
            running = self._caught_up(row.campaign, self._campaigns[self._names[row.campaign]].state.market)
            bid = row.bid_micros if row.served else 0
            played = _played(running, bid_micros=bid, highest_budget_micros=row.highest_budget_micros)
            again = _record(
                row.campaign, self._clock, row.served, row.highest_budget_micros, row.bid_micros, played
            )
            if again != row:
                raise StoreError(
                    f"the recorded half hour {row} plays to {again} now: the database was altered or moved."
                )
            self._today[row.campaign] = Running(running.auctions, played.state)
        self._clock = now


def _played(running: Running, *, bid_micros: int, highest_budget_micros: int) -> Played:
    limit = spend_limit(running.auctions, highest_budget_micros)
    return play_tick(running.auctions, running.state, bid_micros, limit)


def _record(index: int, at: ClockTime, served: int, highest: int, bid_micros: int, played: Played) -> Play:
    outcome = played.outcome
    return Play(
        campaign=index,
        day=at.day,
        tick=at.tick,
        served=served,
        highest_budget_micros=highest,
        bid_micros=bid_micros,
        eligible=outcome.eligible,
        impressions=outcome.impressions,
        clicks=outcome.clicks,
        cost_micros=outcome.cost_micros,
        conversions=outcome.conversions,
        conversions_so_far=outcome.conversions_so_far,
    )


def _owner_campaigns(settings: Settings) -> list[Kept]:
    campaigns = []
    for market in range(settings.markets):
        owned = owner_campaign(settings, market)
        state = CampaignState(
            name=f"acct/{owned.market}",
            market=owned.market,
            daily_budget_micros=owned.daily_budget_micros,
            bid_micros=owned.bid_micros,
            target_cpa_micros=owned.target_cpa_micros,
            status="ENABLED",
            last_day=OWNER_LAST_DAY,
            created_index=market,
        )
        campaigns.append(Kept(state=state, highest_budget_micros=owned.daily_budget_micros, highest_day=0))
    return campaigns


def _check_time(day: int, tick: int) -> None:
    check_count("day", day)
    if check_count("tick", tick) >= TICKS:
        raise BadInput(f"tick must be below {TICKS}, got {tick}.")
