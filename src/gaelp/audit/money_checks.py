"""Does every micro add up? Steps, episodes, ledger, bill; grants before reservations, reservations before days.

All sums are of whole micros and are made again from single events; the books that the run kept are not asked.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gaelp.audit.record import (
    LIVE,
    REAL_TESTING,
    CampaignDay,
    Check,
    Line,
    Record,
    checked,
    text_of,
    whole_of,
)
from gaelp.core.config import MoneyLimits
from gaelp.platforms.platform import BillLine

LEDGER = ("granted", "reserved", "posted", "released", "breach")
BOUND = ("phase", "step", "limit_micros", "actor_hash", "evidence_hash")
"""What a person's approval is bound to."""


@dataclass
class Account:
    """What the ledger's events say of one intent; micros. reserved, released: None where it was never told."""

    seq: int = 0
    phase: str = ""
    day: int = 0
    reserved: int | None = None
    posted: int = 0
    released: int | None = None
    breached: int = 0

    @property
    def spent(self) -> int:
        return self.posted + self.breached

    @property
    def resolved(self) -> bool:
        return self.released is not None


@dataclass
class Purse:
    """What one phase has been granted and committed so far, while the log is read."""

    granted: int = 0
    open: int = 0
    spent: int = 0
    peak: int = 0
    days: set[int] = field(default_factory=set)


def accounts(record: Record) -> dict[str, Account]:
    """The ledger's events by intent, grants apart."""
    found: dict[str, Account] = defaultdict(Account)
    for line in record.of("reserved", "posted", "released", "breach"):
        account = found[line.text("intent")]
        if line.kind == "reserved":
            account.seq, account.phase, account.day = line.seq, line.text("phase"), line.whole("day")
            account.reserved = line.whole("micros")
        elif line.kind == "posted":
            account.posted = line.whole("micros")
        elif line.kind == "released":
            account.released = line.whole("micros")
        else:
            account.breached += line.whole("micros")
    return dict(found)


def step_spend(record: Record) -> Check:
    """Each live campaign-day's spend is the sum of its dayparts."""
    faults: list[str] = []
    days = record.campaign_days()
    for one in days:
        if len(one.step_spend_micros) != record.config.decisions_per_day or min(one.step_spend_micros) < 0:
            faults.append(
                f"{one.intent} tells {one.step_spend_micros} micros, {record.config.decisions_per_day} "
                "dayparts of 0 or more are due"
            )
        if sum(one.step_spend_micros) != one.spend_micros:
            faults.append(
                f"{one.intent} spent {one.spend_micros} micros, its dayparts add up to {sum(one.step_spend_micros)}"
            )
    faults += [
        f"{intent} was played {n} times" for intent, n in Counter(one.intent for one in days).items() if n > 1
    ]
    total = sum(one.spend_micros for one in days)
    said = (
        f"{total} micros in {len(days)} campaign-days, each the sum of its "
        f"{record.config.decisions_per_day} dayparts."
    )
    return checked("step_spend", faults, said, {"campaign_days": len(days), "spend_micros": total})


def settled_spend(record: Record) -> Check:
    """Each settled episode cost what was reported on the day; every day of a phase that ended is settled."""
    faults: list[str] = []
    settled: dict[str, int] = {}
    for line in record.of("episodes_settled"):
        for episode in line.parts("episodes"):
            intent = text_of(episode, "campaign", line.where)
            if intent in settled:
                faults.append(f"{intent} was settled twice")
            settled[intent] = whole_of(episode, "spend_micros", line.where)
    days = {one.intent: one for one in record.campaign_days()}
    faults += [f"{intent} was settled and never played" for intent in settled if intent not in days]
    for intent, one in days.items():
        if intent not in settled:
            if record.ended(one.phase) is not None:
                faults.append(f"{intent} was never settled, and {one.phase} has ended")
        elif settled[intent] != one.spend_micros:
            faults.append(
                f"{intent} was settled at {settled[intent]} micros, {one.spend_micros} were reported"
            )
    said = (
        f"{sum(settled.values())} micros in {len(settled)} settled episodes of {len(days)} campaign-days, "
        "each as reported."
    )
    return checked(
        "settled_spend", faults, said, {"episodes": len(settled), "spend_micros": sum(settled.values())}
    )


def ledger_spend(record: Record) -> Check:
    """What the ledger posted (and recorded as breach) for each campaign-day is what the day reported."""
    faults: list[str] = []
    held, days = accounts(record), {one.intent: one for one in record.campaign_days()}
    for intent, account in held.items():
        if not account.resolved:
            continue
        if intent not in days:
            faults.append(f"{intent} was billed {account.spent} micros and never played")
        elif account.spent != days[intent].spend_micros:
            faults.append(
                f"{intent}: {account.spent} micros in the ledger, {days[intent].spend_micros} reported"
            )
    resolved = [account for account in held.values() if account.resolved]
    total = sum(account.spent for account in resolved)
    breached = sum(account.breached for account in held.values())
    said = (
        f"{total} micros in {len(resolved)} settled intents, each what its day reported; {breached} beyond "
        "a reservation."
    )
    return checked(
        "ledger_spend",
        faults,
        said,
        {"intents": len(resolved), "spent_micros": total, "breached_micros": breached},
    )


def platform_bill(record: Record, bill: Iterable[BillLine]) -> Check:
    """The platform bills this run's campaigns, day by day, what the ledger holds, and nothing besides."""
    faults: list[str] = []
    billed: dict[str, int] = defaultdict(int)
    final: dict[str, bool] = {}
    held = accounts(record)
    # A line without money is a day on which a campaign stood still; it says nothing.
    for line in (line for line in bill if line.campaign.startswith(record.prefix) and line.cost_micros):
        intent = line.campaign.removeprefix(record.prefix)
        billed[intent] += line.cost_micros
        final[intent] = line.final and (intent not in final or final[intent])
        if intent in held and held[intent].day != line.day:
            faults.append(f"{intent} is billed for day {line.day}, reserved was day {held[intent].day}")
    for intent, micros in billed.items():
        if intent not in held:
            faults.append(f"the platform bills {micros} micros for {intent}, which the ledger does not know")
        elif held[intent].resolved and micros != held[intent].spent:
            faults.append(
                f"{intent}: the platform bills {micros} micros, the ledger holds {held[intent].spent}"
            )
        elif held[intent].resolved and not final[intent]:
            faults.append(f"{intent} is settled in the ledger, the platform may still change its bill")
    faults += [
        f"{intent}: the ledger holds {a.spent} micros, the platform bills nothing"
        for intent, a in held.items()
        if a.spent and intent not in billed
    ]
    total, spent = sum(billed.values()), sum(account.spent for account in held.values())
    if record.finished and total != spent:
        faults.append(f"the platform bills {total} micros in all, the ledger holds {spent}")
    for ended in record.of("journey_ended")[-1:]:
        if ended.whole("platform_bill_micros") != total:
            faults.append(
                f"{ended.where} notes a bill of {ended.whole('platform_bill_micros')} micros, "
                f"the platform bills {total}"
            )
    said = (
        f"the platform bills {total} micros for {len(billed)} campaign-days under {record.prefix}, the "
        f"ledger holds {spent}."
    )
    return checked(
        "platform_bill",
        faults,
        said,
        {"bill_micros": total, "spent_micros": spent, "campaign_days": len(billed)},
    )


def no_bill(why: str) -> Check:
    """Said by name where no bill could be read: nothing is proved against the platform then."""
    return Check("platform_bill", False, f"no bill of the platform could be compared with the ledger: {why}")


def reserved_first(record: Record) -> Check:
    """Every live campaign-day had its money set aside before it was played."""
    faults: list[str] = []
    held, days = accounts(record), record.campaign_days()
    for one in days:
        if one.intent not in held or held[one.intent].reserved is None:
            faults.append(f"{one.intent} was played without a reservation")
        elif held[one.intent].seq > one.seq:
            faults.append(
                f"{one.intent} was played at event {one.seq}, reserved only at event {held[one.intent].seq}"
            )
    reserved = sum(account.reserved for account in held.values() if account.reserved is not None)
    said = (
        f"{len(days)} campaign-days, each reserved before it was played, {reserved} micros at the worst case."
    )
    return checked("reserved_first", faults, said, {"campaign_days": len(days), "reserved_micros": reserved})


def granted_first(record: Record) -> Check:
    """At every moment what a phase had open and spent was covered by what a person had granted it."""
    faults: list[str] = []
    purses: dict[str, Purse] = defaultdict(Purse)
    opened: dict[str, int] = {}
    for line in record.of(*LEDGER):
        purse, intent, micros = purses[line.text("phase")], line.text("intent"), line.whole("micros")
        if line.kind == "granted":
            purse.granted += micros
            if not line.text("by"):
                faults.append(f"{line.where} names nobody who granted it")
        elif line.kind == "breach":
            purse.spent += micros
        elif line.kind == "reserved":
            if intent in opened:
                faults.append(f"{intent} was reserved twice")
            opened[intent] = micros
            purse.open += micros
        else:
            left = opened[intent] - micros if intent in opened else -1
            if left < 0 or (line.kind == "released" and left != 0):
                faults.append(f"{line.where} moves {micros} micros of {intent}, which holds others")
            opened[intent] = left
            purse.open -= micros
            purse.spent += micros if line.kind == "posted" else 0
        purse.peak = max(purse.peak, purse.open + purse.spent)
        if purse.open + purse.spent > purse.granted:
            faults.append(
                f"{line.where}: {line.text('phase')} had {purse.open + purse.spent} micros committed, "
                f"{purse.granted} granted"
            )
    granted, spent = sum(p.granted for p in purses.values()), sum(p.spent for p in purses.values())
    by_phase = ", ".join(f"{name} at most {p.peak} of {p.granted}" for name, p in purses.items())
    said = (
        f"{granted} micros granted, {spent} spent{', committed at any time: ' if by_phase else ''}{by_phase}."
    )
    return checked("granted_first", faults, said, {"granted_micros": granted, "spent_micros": spent})


def reservations_resolved(record: Record) -> Check:
    """No phase that ended leaves a reservation open; what is open elsewhere is told."""
    faults: list[str] = []
    held = accounts(record)
    for intent, account in held.items():
        if account.reserved is None:
            faults.append(f"{intent} has ledger entries and no reservation")
        elif not account.resolved and record.ended(account.phase) is not None:
            faults.append(f"{intent} still holds {account.reserved} micros, and {account.phase} has ended")
        elif account.released is not None and account.reserved != account.posted + account.released:
            faults.append(
                f"{intent} reserved {account.reserved} micros, "
                f"posted {account.posted} and released {account.released}"
            )
    pending = [
        account.reserved for account in held.values() if account.reserved is not None and not account.resolved
    ]
    said = (
        f"{len(held)} reservations, {len(held) - len(pending)} resolved to the micro, {len(pending)} open "
        f"with {sum(pending)} micros."
    )
    return checked(
        "reservations_resolved",
        faults,
        said,
        {"reservations": len(held), "open": len(pending), "open_micros": sum(pending)},
    )


def within_limits(record: Record) -> Check:
    """Each step's written limits held: per episode, per day with the control arm, in all, and in days."""
    faults: list[str] = []
    held = accounts(record)
    most_episode = most_day = 0
    for phase in LIVE:
        purse, opened, spent = Purse(), dict[str, int](), dict[str, int]()
        of_day: dict[int, int] = defaultdict(int)
        for line in (
            line for line in record.of(*LEDGER) if line.text("phase") == phase and line.kind != "granted"
        ):
            intent, micros, day = line.text("intent"), line.whole("micros"), line.whole("day")
            change = {"reserved": micros, "posted": 0, "released": -micros, "breach": micros}[line.kind]
            purse.open += change
            of_day[day] += change
            opened[intent] = (opened[intent] if intent in opened else 0) + change
            if line.kind in ("posted", "breach"):
                spent[intent] = (spent[intent] if intent in spent else 0) + micros
            purse.days.add(day)
            bounds = _limits(record, phase, _step_at(record, phase, line))
            for what, now, most in (
                (f"episode {intent}", opened[intent], bounds.per_episode),
                (f"day {day}", of_day[day], bounds.per_day),
                (phase, purse.open, bounds.total),
                (f"days with money in {phase}:", len(purse.days), bounds.days),
            ):
                if now > most and change > 0:
                    faults.append(f"{line.where}: {what} {now} committed, {most} allowed")
            most_episode, most_day = max(most_episode, opened[intent]), max(most_day, of_day[day])
    said = (
        f"{len(held)} episodes, committed at most {most_episode} micros for one and {most_day} on a day, "
        "within each step's limits."
    )
    return checked(
        "within_limits",
        faults,
        said,
        {"episodes": len(held), "most_for_an_episode": most_episode, "most_on_a_day": most_day},
    )


def _step_at(record: Record, phase: str, line: Line) -> int:
    """The step whose limits bind a ledger line: that of its campaign-day, or the last one authorised before it."""
    played = [day for day in record.of("day_played", phase=phase) if day.whole("day") == line.whole("day")]
    if played:
        return played[0].whole("step")
    before = [told.whole("step") for told in record.of("authorised", phase=phase) if told.seq < line.seq]
    return before[-1] if before else 0


def _limits(record: Record, phase: str, step: int) -> MoneyLimits:
    """A step's own limits for an episode and a day; total and days count the phase, the steps before included."""
    steps = (
        [record.campaigns.real_testing.limits]
        if phase == REAL_TESTING
        else [s.limits for s in record.campaigns.scaled.steps]
    )
    own, upto = steps[step], steps[: step + 1]
    return own.model_copy(update={"total": sum(s.total for s in upto), "days": sum(s.days for s in upto)})


def approvals(record: Record) -> Check:
    """Each live step was approved by a person, bound to exactly what was authorised, before its first reservation."""
    faults: list[str] = []
    first: dict[tuple[str, int], CampaignDay] = {}
    for one in record.campaign_days():
        first.setdefault((one.phase, one.step), one)
    held = accounts(record)
    for (phase, step), one in first.items():
        name = f"step {step} of {phase}"
        reserved = held[one.intent].seq if one.intent in held else one.seq
        authorised = [
            told
            for told in record.of("authorised", phase=phase, step=step)
            if told.seq < min(reserved, one.seq)
        ]
        if not authorised:
            faults.append(f"{name} was reserved for at event {reserved} before anybody authorised it")
            continue
        bound = _binding(authorised[-1].told)
        consumed = [
            told
            for told in record.of("approval_consumed")
            if _binding(told.told) == bound and told.seq < authorised[-1].seq
        ]
        if not consumed:
            faults.append(f"{name} was authorised without using an approval of the same binding")
        played = next(line for line in record.lines if line.seq == one.seq)
        if played.text("actor_hash") != authorised[-1].text("actor_hash"):
            faults.append(
                f"{name} was approved for actor {authorised[-1].text('actor_hash')[:12]}, "
                f"{played.text('actor_hash')[:12]} played it"
            )
        spent = sum(
            day.spend_micros for day in record.campaign_days() if (day.phase, day.step) == (phase, step)
        )
        if spent > authorised[-1].whole("limit_micros"):
            faults.append(
                f"{name} spent {spent} micros, {authorised[-1].whole('limit_micros')} were approved"
            )
    faults += _unapproved(record)
    given = record.of("approved")
    people = sorted({line.text("by") for line in given})
    said = (
        f"{len(first)} live steps, each approved before its first reservation; {len(given)} approvals"
        f"{' by ' if people else ''}{', '.join(people)}."
    )
    return checked("approvals", faults, said, {"steps": len(first), "approvals": len(given)})


def _unapproved(record: Record) -> list[str]:
    """Approvals that were used without having been given, or oftener than given."""
    faults: list[str] = []
    given: Counter[tuple[object, ...]] = Counter()
    for line in record.of("approved", "approval_consumed"):
        bound = _binding(line.told)
        given[bound] += 1 if line.kind == "approved" else -1
        if given[bound] < 0:
            faults.append(
                f"{line.where} uses an approval of step {line.whole('step')} of {line.text('phase')} that nobody gave"
            )
    return faults


def _binding(told: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(told[name] for name in BOUND)


def shadow_is_free(record: Record) -> Check:
    """Days that were only watched, and the owner's own history, have no entry in the ledger."""
    faults: list[str] = []
    watched = record.of("day_played", phase="shadow") + record.of("day_played", phase="history")
    days = {line.whole("day") for line in watched}
    labels = {text_of(slot, "campaign", line.where) for line in watched for slot in line.parts("slots")}
    for line in record.of(*LEDGER):
        if line.text("phase") not in LIVE:
            faults.append(f"{line.where} moves money of {line.text('phase')}, which has none")
        elif line.kind != "granted" and (line.whole("day") in days or line.text("intent") in labels):
            faults.append(
                f"{line.where} moves {line.whole('micros')} micros for {line.text('intent')}, a day that "
                "was only watched"
            )
    faults += [
        f"{line.where} settles a day that was only watched"
        for line in record.of("episodes_settled")
        if line.whole("day") in days
    ]
    shadow = record.of("day_played", phase="shadow")
    if record.ended(REAL_TESTING) is not None and len(shadow) != record.campaigns.real_testing.shadow_days:
        faults.append(
            f"{len(shadow)} shadow days were played, {record.campaigns.real_testing.shadow_days} are configured"
        )
    said = (
        f"{len(shadow)} shadow days and {len(watched) - len(shadow)} days of history, none with an entry "
        "in the ledger."
    )
    return checked(
        "shadow_is_free",
        faults,
        said,
        {"shadow_days": len(shadow), "history_days": len(watched) - len(shadow)},
    )
