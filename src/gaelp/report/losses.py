"""What was lost as well as won: sentences about everything that went against the agent, with their events."""

from __future__ import annotations

from dataclasses import dataclass

from gaelp.report.facts import LiveDay, Summary
from gaelp.report.summary import units


@dataclass(frozen=True, slots=True)
class Loss:
    """One sentence and the events it was read from, at most a few."""

    text: str
    seqs: tuple[int, ...]


def losses(summary: Summary) -> tuple[Loss, ...]:
    """In the order of the journey. An absence is told too: nothing refused is a fact of its own."""
    return (
        *_in_judging_worlds(summary),
        *_waiting(summary),
        *_on_the_platform(summary),
        *_money(summary),
        *_refused(summary),
    )


def _in_judging_worlds(summary: Summary) -> list[Loss]:
    last = summary.judged_actor
    if last is None:
        return [Loss("Nothing was judged, so nothing is known of the agent.", ())]
    lost = round(last.worlds_lost * last.worlds)
    where = f"{lost} of {last.worlds} judging worlds ({last.worlds_lost:.1%})"
    found = [Loss(f"In {where} the agent scored below the certified pacer.", (last.seq,))]
    for c in last.comparisons:
        if not c.met:
            told = f"{c.mean:+.4f} [{c.lower:+.4f}, {c.upper:+.4f}], must exceed {c.bound:+g}"
            found.append(
                Loss(f"The judging worlds do not show the agent above {c.rival}: {told}.", (last.seq,))
            )
    short = 1.0 - last.shares["agent"] if "agent" in last.shares else None
    if short is not None and short > 0:
        found.append(Loss(f"The agent leaves {short:.1%} of the {summary.reference}.", (last.seq,)))
    return found


def _waiting(summary: Summary) -> list[Loss]:
    return [
        Loss(f"{phase.name} ended with {phase.verdict}, not PASS: {phase.reason}", (phase.seq,))
        if phase.ended
        else Loss(f"{phase.name} has not ended.", (phase.seq,))
        for phase in summary.phases
        if phase.verdict != "PASS"
    ]


def _on_the_platform(summary: Summary) -> list[Loss]:
    found = []
    for compared in summary.comparisons:
        if not compared.low > 0:
            how = "below" if compared.high < 0 else "not distinguishable from"
            told = f"{compared.difference:+.3f} [{compared.low:+.3f}, {compared.high:+.3f}]"
            where = f"In {compared.phase} the agent is {how} the control arm on the platform"
            found.append(Loss(f"{where}: {told}.", (compared.seq,)))
    for phase in dict.fromkeys(day.phase for day in summary.live_days):
        days = [day for day in summary.live_days if day.phase == phase and day.difference is not None]
        losing = [day for day in days if _difference(day) < 0]
        if losing:
            worst = min(losing, key=_difference)
            told = f"In {phase} the agent lost {len(losing)} of {len(days)} settled days, the worst day {worst.day}"
            found.append(Loss(f"{told} ({_difference(worst):+.3f}).", _settled_events(worst)))
    return found


def _money(summary: Summary) -> list[Loss]:
    found = []
    currency = summary.currency
    if summary.amounts.breached:
        told = f"The platform took {units(summary.amounts.breached)} {currency} beyond what was reserved."
        found.append(Loss(told, tuple(summary.breach_seqs[:5])))
    for owner in summary.owner_days:
        told = f"{owner.days} days of {owner.phase} cost the owner {units(owner.spend_micros)} {currency}"
        found.append(Loss(f"{told} on campaigns of their own.", (owner.first_seq, owner.last_seq)))
    return found


def _refused(summary: Summary) -> list[Loss]:
    batches = summary.ruled("batch_refused")
    candidates = tuple(r for r in summary.ruled("promotion_gate") if r.ruling != "PASS")
    found = [
        Loss(f"Batches refused as unusable: {len(batches)}.", tuple(r.seq for r in batches[:5])),
        Loss(f"Candidates not promoted: {len(candidates)}.", tuple(r.seq for r in candidates[:5])),
    ]
    refusing = [day for day in summary.live_days if day.refusals]
    bids = sum(len(day.refusals) for day in refusing)
    found.append(
        Loss(
            f"{bids} bids were refused by a guard, the last one held.", tuple(day.seq for day in refusing[:5])
        )
    )
    for rule, told in (("held", "Held"), ("halted", "Halted")):
        found += [Loss(f"{told}: {r.reason}", (r.seq,)) for r in summary.ruled(rule)]
    found += [
        Loss(f"{r.phase}: {r.reason} ({r.rule})", (r.seq,))
        for r in summary.rulings
        if r.reason.startswith("rolled back:")
    ]
    return found


def _difference(day: LiveDay) -> float:
    return 0.0 if day.difference is None else day.difference


def _settled_events(day: LiveDay) -> tuple[int, ...]:
    return (day.seq,) if day.settled_seq is None else (day.seq, day.settled_seq)
