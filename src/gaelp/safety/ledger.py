"""The reservation ledger: what was granted, is reserved, was spent. Micros of one currency, no clock, no disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gaelp.core.errors import MoneyError, NotGranted
from gaelp.core.verdict import FAIL, PASS, Verdict, worst


class Kind(StrEnum):
    """A movement of money. `posted` stays within its reservation; what was taken beyond is a `breach`."""

    GRANTED = "granted"
    RESERVED = "reserved"
    POSTED = "posted"
    RELEASED = "released"
    BREACH = "breach"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the ledger. A grant belongs to a phase only: its day is 0 and its episode empty."""

    kind: Kind
    intent: str
    phase: str
    day: int
    episode: str
    micros: int

    def __post_init__(self) -> None:
        _check_amount(self.micros, f"{self.kind} entry {self.intent!r}")
        if not self.intent or not self.phase:
            raise MoneyError(
                f"a ledger entry names its intent and its phase, got {self.intent!r} and {self.phase!r}."
            )
        if type(self.day) is not int or self.day < 0:
            raise MoneyError(
                f"entry {self.intent!r}: day {self.day!r} is no account day, expected 0, 1, 2, ..."
            )
        if self.kind is not Kind.GRANTED and not self.episode:
            raise MoneyError(f"entry {self.intent!r} names no episode.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Money to be set aside before a call that raises liability: the platform's documented worst case."""

    intent: str
    phase: str
    day: int
    episode: str
    micros: int

    def __post_init__(self) -> None:
        self.entry()

    def entry(self) -> Entry:
        return Entry(
            kind=Kind.RESERVED,
            intent=self.intent,
            phase=self.phase,
            day=self.day,
            episode=self.episode,
            micros=self.micros,
        )


def request_of(entry: Entry) -> Request:
    """What `entry` asked for, or settles."""
    return Request(
        intent=entry.intent, phase=entry.phase, day=entry.day, episode=entry.episode, micros=entry.micros
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one phase may commit, written by a person: without defaults, so nothing is spent by omission."""

    per_episode_micros: int
    per_day_micros: int
    total_micros: int
    days: int

    def __post_init__(self) -> None:
        for name in ("per_episode_micros", "per_day_micros", "total_micros", "days"):
            _check_amount(getattr(self, name), f"limit {name}")


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums of entries. `spent` is posted plus breached: the platform's bill, every micro of it."""

    granted: int = 0
    reserved: int = 0
    posted: int = 0
    breached: int = 0

    @property
    def spent(self) -> int:
        return self.posted + self.breached

    @property
    def committed(self) -> int:
        """Spent, or still open to be spent."""
        return self.reserved + self.spent

    @property
    def available(self) -> int:
        """What may still be reserved; below zero after a breach."""
        return self.granted - self.committed


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request and its fate: `posted` is None until the bill came, `open_micros` is still set aside."""

    request: Request
    open_micros: int
    posted: int | None = None
    released: bool = False


@dataclass(frozen=True, slots=True)
class Books:
    """The ledger, folded. `days` and `episodes` sum over all phases; `played`: a phase's days with money."""

    total: Tally = field(default_factory=Tally)
    phases: Mapping[str, Tally] = field(default_factory=dict)
    days: Mapping[int, Tally] = field(default_factory=dict)
    episodes: Mapping[str, Tally] = field(default_factory=dict)
    played: Mapping[str, frozenset[int]] = field(default_factory=dict)
    reservations: Mapping[str, Reservation] = field(default_factory=dict)
    breaches: Mapping[str, int] = field(default_factory=dict)
    grants: frozenset[str] = frozenset()

    @property
    def granted(self) -> int:
        return self.total.granted

    @property
    def reserved(self) -> int:
        """Open reservations."""
        return self.total.reserved

    @property
    def posted(self) -> int:
        return self.total.posted

    @property
    def breached(self) -> int:
        return self.total.breached

    @property
    def spent(self) -> int:
        return self.total.spent

    @property
    def available(self) -> int:
        return self.total.available

    def phase(self, name: str) -> Tally:
        # A phase, day or episode without entries has moved nothing: zero is the truth, not a guess.
        if name not in self.phases:
            return Tally()
        return self.phases[name]

    def day(self, day: int) -> Tally:
        if day not in self.days:
            return Tally()
        return self.days[day]

    def episode(self, name: str) -> Tally:
        if name not in self.episodes:
            return Tally()
        return self.episodes[name]

    def played_days(self, phase: str) -> frozenset[int]:
        if phase not in self.played:
            return frozenset()
        return self.played[phase]

    def spent_by(self, intent: str) -> int:
        """What the platform billed for one intent so far, breach included."""
        posted = self.reservations[intent].posted if intent in self.reservations else None
        breached = self.breaches[intent] if intent in self.breaches else None
        return sum(micros for micros in (posted, breached) if micros is not None)

    def open_intents(self) -> tuple[str, ...]:
        """Intents whose bill is not settled: after a crash these count as spent until proved otherwise."""
        return tuple(intent for intent, held in self.reservations.items() if not held.released)

    def apply(self, entry: Entry) -> Books:
        """The books with one more entry. Raises NotGranted or MoneyError when it would break an invariant."""
        return self.apply_all((entry,))

    def apply_all(self, entries: Iterable[Entry]) -> Books:
        """The books with all entries, in order: `apply` again and again, with one copy instead of many."""
        draft = _Draft(self)
        for entry in entries:
            draft.take(entry)
        return draft.books()


class _Draft:
    """Private copies of one `Books`, changed in place and handed back frozen; it never leaves `apply_all`."""

    def __init__(self, books: Books) -> None:
        self.total = books.total
        self.phases = defaultdict(Tally, books.phases)
        self.days = defaultdict(Tally, books.days)
        self.episodes = defaultdict(Tally, books.episodes)
        self.played = defaultdict(frozenset[int], books.played)
        self.reservations = dict(books.reservations)
        self.breaches = defaultdict(int, books.breaches)
        self.grants = set(books.grants)

    def books(self) -> Books:
        return Books(
            total=self.total,
            phases=dict(self.phases),
            days=dict(self.days),
            episodes=dict(self.episodes),
            played=dict(self.played),
            reservations=self.reservations,
            breaches=dict(self.breaches),
            grants=frozenset(self.grants),
        )

    def take(self, entry: Entry) -> None:
        match entry.kind:
            case Kind.GRANTED:
                self._grant(entry)
            case Kind.RESERVED:
                self._reserve(entry)
            case Kind.POSTED:
                self._post(entry)
            case Kind.RELEASED:
                self._release(entry)
            case Kind.BREACH:
                self.breaches[entry.intent] += entry.micros
                self._add(entry, breached=entry.micros)

    def _grant(self, entry: Entry) -> None:
        if entry.intent in self.grants:
            raise MoneyError(
                f"grant {entry.intent!r} is in the books already: a second grant needs a name of its own."
            )
        self.grants.add(entry.intent)
        self.total = replace(self.total, granted=self.total.granted + entry.micros)
        phase = self.phases[entry.phase]
        self.phases[entry.phase] = replace(phase, granted=phase.granted + entry.micros)

    def _reserve(self, entry: Entry) -> None:
        if entry.intent in self.reservations:
            raise MoneyError(f"intent {entry.intent!r} has a reservation already.")
        # Only the phase's own grant counts: money granted for one phase must never pay for another.
        free = self.phases[entry.phase].available
        if entry.micros > free:
            raise NotGranted(
                f"intent {entry.intent!r} needs {entry.micros} micros, {entry.phase} has {free} available."
            )
        self.reservations[entry.intent] = Reservation(request_of(entry), entry.micros)
        self.played[entry.phase] = self.played[entry.phase] | {entry.day}
        self._add(entry, reserved=entry.micros)

    def _post(self, entry: Entry) -> None:
        held = self._held(entry)
        if held.posted is not None:
            raise MoneyError(f"intent {entry.intent!r} is posted already: a reservation resolves once.")
        if entry.micros > held.open_micros:
            raise MoneyError(
                f"intent {entry.intent!r} posts {entry.micros} micros, {held.open_micros} were reserved: "
                "the excess is a breach entry."
            )
        left = held.open_micros - entry.micros
        self.reservations[entry.intent] = replace(held, posted=entry.micros, open_micros=left)
        self._add(entry, reserved=-entry.micros, posted=entry.micros)

    def _release(self, entry: Entry) -> None:
        held = self._held(entry)
        if held.posted is None or held.released:
            raise MoneyError(
                f"intent {entry.intent!r} is not posted, or released already: nothing to release."
            )
        if entry.micros != held.open_micros:
            raise MoneyError(
                f"intent {entry.intent!r} releases {entry.micros} micros, {held.open_micros} are open."
            )
        self.reservations[entry.intent] = replace(held, open_micros=0, released=True)
        self._add(entry, reserved=-entry.micros)

    def _held(self, entry: Entry) -> Reservation:
        if entry.intent not in self.reservations:
            raise MoneyError(f"intent {entry.intent!r} has no reservation to settle.")
        held = self.reservations[entry.intent]
        asked = held.request
        if (entry.phase, entry.day, entry.episode) != (asked.phase, asked.day, asked.episode):
            raise MoneyError(
                f"intent {entry.intent!r} is reserved for {asked.phase}, day {asked.day}, {asked.episode!r}, not "
                f"for {entry.phase}, day {entry.day}, {entry.episode!r}."
            )
        return held

    def _add(self, entry: Entry, *, reserved: int = 0, posted: int = 0, breached: int = 0) -> None:
        def more(tally: Tally) -> Tally:
            return replace(
                tally,
                reserved=tally.reserved + reserved,
                posted=tally.posted + posted,
                breached=tally.breached + breached,
            )

        self.total = more(self.total)
        self.phases[entry.phase] = more(self.phases[entry.phase])
        self.days[entry.day] = more(self.days[entry.day])
        self.episodes[entry.episode] = more(self.episodes[entry.episode])


def may_reserve(books: Books, limits: Limits, request: Request) -> Verdict:
    """May this be set aside? PASS, or FAIL with the first limit that refuses, grants before limits."""
    asked, phase = request.micros, books.phase(request.phase)
    played = books.played_days(request.phase) | {request.day}
    checks = (
        ("grant", asked, phase.available, f"left of the grant for {request.phase}"),
        ("per_episode_limit", books.episode(request.episode).committed + asked, limits.per_episode_micros,
         f"allowed for episode {request.episode}"),
        ("per_day_limit", books.day(request.day).committed + asked, limits.per_day_micros,
         f"allowed on day {request.day}"),
        ("total_limit", phase.committed + asked, limits.total_micros, f"allowed for {request.phase} in all"),
    )  # fmt: skip
    verdicts = [
        Verdict(
            PASS if need <= have else FAIL,
            rule,
            f"{need} micros wanted, {have} {what}.",
            {"intent": request.intent, "micros": asked, "need_micros": need, "have_micros": have},
        )
        for rule, need, have, what in checks
    ]
    verdicts.append(
        Verdict(
            PASS if len(played) <= limits.days else FAIL,
            "days_limit",
            f"{len(played)} days with money, {limits.days} allowed for {request.phase}.",
            {"intent": request.intent, "days": len(played), "days_limit": limits.days},
        )
    )
    verdict = worst(verdicts)
    return verdict if not verdict else replace(verdict, rule="may_reserve")


def resolve(books: Books, intent: str, actual_micros: int) -> tuple[Entry, ...]:
    """The entries that settle `intent` at what the platform billed: posted, breach for any excess, released.

    Settled before at the same amount: nothing. Billed more since then: a breach of the difference, for
    recording may not refuse. Raises MoneyError for an unknown intent, an amount that is not whole micros, and
    a bill below what is recorded (credits are not booked yet; the books stay on the high side).
    """
    _check_amount(actual_micros, f"bill for {intent!r}")
    if intent not in books.reservations:
        raise MoneyError(f"intent {intent!r} has no reservation to settle: record its bill as a late charge.")
    held = books.reservations[intent]
    request = held.request

    def entry(kind: Kind, micros: int) -> Entry:
        return replace(request.entry(), kind=kind, micros=micros)

    recorded = books.spent_by(intent)
    if held.posted is None:
        unrecorded = max(0, actual_micros - recorded)
        within = min(unrecorded, held.open_micros)
        excess = unrecorded - within
        breach = (entry(Kind.BREACH, excess),) if excess > 0 else ()
        return (entry(Kind.POSTED, within), *breach, entry(Kind.RELEASED, held.open_micros - within))
    if actual_micros < recorded:
        raise MoneyError(
            f"intent {intent!r} is billed {actual_micros} micros, {recorded} are recorded: "
            "credits are not booked yet."
        )
    return (entry(Kind.BREACH, actual_micros - recorded),) if actual_micros > recorded else ()


def _check_amount(micros: int, what: str) -> None:
    # bool is an int to Python; True must not become one micro.
    if type(micros) is not int or micros < 0:
        raise MoneyError(f"{what}: {micros!r} is not an amount, expected whole micros of 0 or more.")
