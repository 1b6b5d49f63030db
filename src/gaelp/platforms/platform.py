"""What gaelp asks of an ad network: the protocol, the records it speaks in, and a check for plug-in authors.

It knows campaigns, half hours and integer micros of the account's currency. It refuses to know any
network in particular, and it decides nothing: no call here is made without somebody's authority.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, get_args

from gaelp.core.errors import BadInput, PlatformError
from gaelp.core.schema import TICKS_PER_DAY

Status = Literal["ENABLED", "PAUSED"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignSpec:
    """A campaign to be created; it may spend from the next half hour on.

    name: unique in the account. daily_budget_micros: an average, see `Platform.worst_case`. bid_micros:
    the most one click may cost. target_cpa_micros: the owner's goal, None for none. last_day: the
    campaign stops by itself after that day, so that silence stops the spending.
    """

    name: str
    market: str
    daily_budget_micros: int
    bid_micros: int
    target_cpa_micros: int | None
    last_day: int

    def __post_init__(self) -> None:
        for field, text in (("name", self.name), ("market", self.market)):
            if not isinstance(text, str) or not 0 < len(text) <= 128 or not text.isprintable():
                raise BadInput(f"campaign {field} must be 1 to 128 printable characters, got {text!r}.")
        check_count(f"{self.name}: daily_budget_micros", self.daily_budget_micros, at_least=1)
        check_count(f"{self.name}: bid_micros", self.bid_micros, at_least=1)
        if self.target_cpa_micros is not None:
            check_count(f"{self.name}: target_cpa_micros", self.target_cpa_micros, at_least=1)
        check_count(f"{self.name}: last_day", self.last_day)


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignState:
    """A campaign as the platform holds it now. `created_index` counts the account's creations from 0."""

    name: str
    market: str
    daily_budget_micros: int
    bid_micros: int
    target_cpa_micros: int | None
    status: Status
    last_day: int
    created_index: int

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise BadInput(f"{self.name}: status {self.status!r} is none of {', '.join(STATUSES)}.")
        check_count(f"{self.name}: created_index", self.created_index)

    def agrees_with(self, spec: CampaignSpec) -> bool:
        """Is this the campaign that `spec` asked for, not edited since?"""
        return spec == CampaignSpec(
            name=self.name,
            market=self.market,
            daily_budget_micros=self.daily_budget_micros,
            bid_micros=self.bid_micros,
            target_cpa_micros=self.target_cpa_micros,
            last_day=self.last_day,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account's frame. `day` (from 0, a Monday) and `tick` (half hour, from 0) are what plays next.

    over_delivery: a day's charge is at most this many times the highest daily budget of that day.
    """

    currency: str
    time_zone: str
    day: int
    tick: int
    over_delivery: int

    def __post_init__(self) -> None:
        check_count("account day", self.day)
        check_count("account tick", self.tick)
        check_count("account over_delivery", self.over_delivery, at_least=1)
        if self.tick >= TICKS_PER_DAY:
            raise BadInput(f"account tick must be below {TICKS_PER_DAY}, got {self.tick}.")


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One campaign's half hour, as known when it ended; reading it again later gives the same answer.

    eligible: auctions the campaign could have entered (the denominator of impression share).
    conversions_so_far: conversions of today's clicks that had arrived by then, cumulative over the day.
    """

    campaign: str
    day: int
    tick: int
    bid_micros: int
    eligible: int
    impressions: int
    clicks: int
    cost_micros: int
    conversions_so_far: int


@dataclass(frozen=True, slots=True)
class SettledRow:
    """One campaign's half hour, final: `conversions` belong to the clicks of this half hour, all arrived."""

    campaign: str
    day: int
    tick: int
    bid_micros: int
    eligible: int
    impressions: int
    clicks: int
    cost_micros: int
    conversions: int


@dataclass(frozen=True, slots=True)
class BillLine:
    """What one campaign cost on one day; `final` once it can change no more."""

    campaign: str
    day: int
    cost_micros: int
    final: bool


class Platform(Protocol):
    """An ad network's account; all amounts are integer micros of its currency.

    Every change carries absolute targets, so that sending it twice is the same as once. A batch is one
    request and is applied whole or not at all. Every method raises PlatformError when the platform
    refuses, fails or does not answer; after the last two the outcome is unknown and must be read back.
    """

    is_sandbox: ClassVar[bool]
    """True only where no real money moves. It belongs to the class: no configuration can set it."""

    def account(self) -> Account:
        """The account's frame and where its clock stands."""

    def worst_case(self, daily_budget_micros: int, days: int = 1) -> int:
        """The most the platform may charge for that daily budget over `days` days, as documented."""

    def create(self, specs: Sequence[CampaignSpec]) -> None:
        """Create campaigns, ENABLED. An identical one of that name counts as created, another raises."""

    def set_budgets(self, budgets: Mapping[str, int]) -> None:
        """Set the daily budgets (micros) of these campaigns."""

    def edit_bids(self, bids: Mapping[str, int]) -> None:
        """Set the bids (micros per click) of these campaigns; never raises what they may cost."""

    def pause(self, names: Sequence[str]) -> None:
        """Stop these campaigns from the next half hour on."""

    def enable(self, names: Sequence[str]) -> None:
        """Let these campaigns spend again."""

    def extend(self, names: Sequence[str], last_day: int) -> None:
        """Set the day after which these campaigns stop by themselves."""

    def campaigns(self, prefix: str) -> tuple[CampaignState, ...]:
        """The campaigns whose names begin with `prefix`, oldest first."""

    def report(self, prefix: str, day: int, tick: int) -> tuple[ReportRow, ...]:
        """One half hour that has been played, for every such campaign that has served that day so far."""

    def settled(self, prefix: str, first_day: int, last_day: int) -> tuple[SettledRow, ...]:
        """All half hours of these days, both included; refused while a conversion may still arrive."""

    def bill(self, prefix: str) -> tuple[BillLine, ...]:
        """What each such campaign cost on each day it served."""


def check_count(name: str, number: object, *, at_least: int = 0) -> int:
    """`number` if it is a whole number (no bool, no float) of at least `at_least`.

    It must be below 2**53, so that every reader of JSON has it exactly. Raises BadInput, naming the field.
    """
    if type(number) is not int or not at_least <= number < 2**53:
        raise BadInput(f"{name} must be a whole number of at least {at_least}, got {number!r}.")
    return number


def times_over_delivery(daily_budget_micros: int, days: int, over_delivery: int) -> int:
    """The documented worst case of an average daily budget: over_delivery x budget x days, in micros."""
    check_count("daily_budget_micros", daily_budget_micros, at_least=1)
    check_count("days", days, at_least=1)
    return over_delivery * daily_budget_micros * days


def check_platform(platform: Platform) -> None:
    """Hold a platform against the protocol, and tell its author in one sentence what is wrong.

    On a sandbox it creates one campaign, edits it and leaves it paused, between two half hours, so
    nothing is spent. On any other platform it only reads. Raises PlatformError.
    """
    kind = type(platform)
    name = kind.__name__
    _require(
        type(vars(kind).get("is_sandbox")) is bool,
        f"{name} must declare `is_sandbox: ClassVar[bool]` in its own class body.",
    )
    account = platform.account()
    _require(isinstance(account, Account), f"{name}.account() must return an Account, got {account!r}.")
    for budget, days in ((1, 1), (5_000_000, 1), (5_000_000, 30)):
        worst = platform.worst_case(budget, days)
        _require(
            type(worst) is int and worst >= budget * days,
            f"{name}.worst_case({budget}, {days}) must be a whole number of micros and at least {budget * days},"
            f" got {worst!r}.",
        )
    for wrong in (0, -1, 1.5, True):
        _must_refuse(f"{name}.worst_case({wrong!r})", lambda wrong=wrong: platform.worst_case(wrong))  # type: ignore[misc]
    listed = platform.campaigns("")
    _require(
        isinstance(listed, tuple) and all(isinstance(c, CampaignState) for c in listed),
        f"{name}.campaigns('') must return a tuple of CampaignState.",
    )
    _require(len({c.name for c in listed}) == len(listed), f"{name}.campaigns('') lists a name twice.")
    order = [c.created_index for c in listed]
    _require(
        order == sorted(set(order)), f"{name}.campaigns('') must be ordered by a distinct created_index."
    )
    for campaign in listed[:3]:
        found = platform.campaigns(campaign.name)
        _require(
            campaign in found and all(c.name.startswith(campaign.name) for c in found),
            f"{name}.campaigns({campaign.name!r}) must return exactly the names that begin so, got {found!r}.",
        )
    future = (account.day + 1, 0)
    _must_refuse(
        f"{name}.report('', {future[0]}, 0), a half hour not played yet,",
        lambda: platform.report("", *future),
    )
    _must_refuse(
        f"{name}.settled('', {account.day}, {account.day}), a day not over,",
        lambda: platform.settled("", account.day, account.day),
    )
    if kind.is_sandbox:
        _check_changes(platform, account, listed)


def _check_changes(platform: Platform, account: Account, listed: tuple[CampaignState, ...]) -> None:
    """The part of the check that edits: one new campaign, never played."""
    name = type(platform).__name__
    _require(
        bool(listed), f"{name} is a sandbox without a campaign: the check needs one to learn a market's name."
    )
    taken = {c.name for c in listed}
    label = next(label for n in range(len(taken) + 1) if (label := f"check/{n}") not in taken)
    spec = CampaignSpec(
        name=label,
        market=listed[0].market,
        daily_budget_micros=1_000_000,
        bid_micros=10_000,
        target_cpa_micros=None,
        last_day=account.day,
    )

    def state() -> CampaignState:
        found = [c for c in platform.campaigns(label) if c.name == label]
        _require(
            len(found) == 1,
            f"{name}.campaigns({label!r}) must show the created campaign once, got {found!r}.",
        )
        return found[0]

    platform.create([spec])
    platform.pause([label])
    made = state()
    _require(made.agrees_with(spec), f"{name}.create({spec!r}) was read back as {made!r}.")
    platform.create([spec])
    _require(
        state() == made,
        f"{name}.create() of an identical campaign must change nothing, it became {state()!r}.",
    )
    other = CampaignSpec(
        name=label,
        market=spec.market,
        daily_budget_micros=2_000_000,
        bid_micros=10_000,
        target_cpa_micros=None,
        last_day=account.day,
    )
    _must_refuse(f"{name}.create() of another campaign under a taken name", lambda: platform.create([other]))
    for _ in range(2):
        platform.set_budgets({label: 3_000_000})
        platform.edit_bids({label: 20_000})
        platform.extend([label], account.day + 1)
    seen = state()
    _require(
        (seen.daily_budget_micros, seen.bid_micros, seen.last_day) == (3_000_000, 20_000, account.day + 1),
        f"{name}: budget 3000000, bid 20000 and last_day {account.day + 1} were set, read back {seen!r}.",
    )
    unknown = f"{label}/unknown"
    _must_refuse(
        f"{name}.edit_bids() with an unknown name", lambda: platform.edit_bids({label: 30_000, unknown: 1})
    )
    _require(state() == seen, f"{name}.edit_bids() was refused, yet half of it was applied: {state()!r}.")
    platform.enable([label])
    _require(state().status == "ENABLED", f"{name}.enable() left {state()!r}.")
    platform.pause([label])
    _require(state().status == "PAUSED", f"{name}.pause() left {state()!r}.")
    _require(platform.account() == account, f"{name}: the clock moved although nobody asked.")


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise PlatformError(complaint)


def _must_refuse(what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except (PlatformError, BadInput):
        return  # fallback-allowed: the refusal is what was asked for
    raise PlatformError(f"{what} must be refused with a PlatformError or BadInput, and was accepted.")
