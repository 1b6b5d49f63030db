"""One page of HTML about a run: everything in one file, nothing loaded from elsewhere, every number with its event."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from pathlib import Path

import jinja2
from markupsafe import Markup

from gaelp.core.money import MICROS
from gaelp.report import charts
from gaelp.report.facts import ArmDay, Judgement, LiveDay, Ruling, Summary, in_order
from gaelp.report.losses import losses
from gaelp.report.summary import LOG_POLICIES, bill_sentence, doubts, summarise, units
from gaelp.store.store import Store

_TEMPLATE = "report.html"
_LIVE_ARMS = ("agent", "control")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmTotal:
    """One arm of a live phase over its settled days."""

    phase: str
    arm: str
    campaign_days: int
    spend_micros: int
    clicks: int
    conversions: float
    score: float

    @property
    def cost_per_conversion_micros(self) -> int | None:
        return round(self.spend_micros / self.conversions) if self.conversions > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRulings:
    """The verdicts between one phase's beginning and the next, and how many there are of each ruling."""

    phase: str
    rulings: tuple[Ruling, ...]

    @property
    def counts(self) -> str:
        found = Counter(ruling.ruling for ruling in self.rulings)
        return ", ".join(f"{count} {ruling}" for ruling, count in found.items())


def write_report(store: Store, run_id: str, path: Path) -> None:
    """Write the page, whole or not at all. Raises StoreError for a run that is not there."""
    text = page(summarise(store, run_id))
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def page(summary: Summary) -> str:
    """The page as text. Whatever comes from the log is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "units": units, "fine": _fine, "signed": _signed, "percent": _percent, "numbers": numbers, "short": _short,
    }  # fmt: skip
    last = summary.judged_actor
    return environment.get_template(_TEMPLATE).render(
        s=summary, last=last, doubts=doubts(summary), bill_sentence=bill_sentence(summary), losses=losses(summary),
        policies=() if last is None else in_order(last.shares), log_policies=LOG_POLICIES,
        gain_chart=_gain_chart(summary),
        entropy_chart=_call_chart(summary, "entropy_share"), change_chart=_call_chart(summary, "weight_change"),
        share_chart=_share_chart(last, summary.reference), interval_chart=_interval_chart(last),
        arms_chart=_arms_chart(summary),
        money_chart=_money_chart(summary), rulings=_by_phase(summary), arm_totals=_arm_totals(summary),
        step_spend=sum(day.step_spend_micros for day in summary.live_days), rivals=_rivals(summary.judgements),
        journey=json.dumps(summary.journey, indent=2, sort_keys=True),
    )  # fmt: skip


# ---- charts of this run


def _gain_chart(summary: Summary) -> Markup:
    panels = _panels(summary, lambda k: summary.calls[k].gain, lambda v: f"mean gain {v:+.4f}")
    return charts.curve(panels, height=250, form=lambda v: f"{v:+.2f}", smooth=_window(summary))


def _call_chart(summary: Summary, name: str) -> Markup:
    panels = _panels(summary, lambda k: getattr(summary.calls[k], name), lambda v: f"{v:.4f}")
    return charts.curve(panels, height=150, form=lambda v: f"{v:.2f}", smooth=_window(summary))


def _window(summary: Summary) -> int:
    return max(3, len(summary.calls) // 30)


def _panels(summary: Summary, value_of: charts.ValueOf, told: charts.Form) -> list[charts.Panel]:
    """The training calls by phase; what the pointer shows names call and event."""
    panels = []
    for name in dict.fromkeys(call.phase for call in summary.calls):
        places = [k for k, call in enumerate(summary.calls) if call.phase == name]
        values = [value_of(k) for k in places]
        titles = [
            f"call {summary.calls[k].call}: {'no figure' if v is None else told(v)}, event {summary.calls[k].seq}"
            for k, v in zip(places, values, strict=True)
        ]
        foot = f"{summary.calls[places[0]].call} to {summary.calls[places[-1]].call}"
        panels.append(charts.Panel(name=name, foot=foot, values=tuple(values), titles=tuple(titles)))
    return panels


def _share_chart(last: Judgement | None, reference: str) -> Markup:
    if last is None:
        return Markup("")
    rows = [
        charts.Bar(
            name=name, value=last.shares[name], style="agent" if name == "agent" else "other",
            title=f"{name}: {last.shares[name]:.4f} of the {reference}, event {last.seq}",
        )
        for name in in_order(last.shares)
    ]  # fmt: skip
    return charts.bars(rows, form=_percent)


def _interval_chart(last: Judgement | None) -> Markup:
    if last is None or not last.comparisons:
        return Markup("")
    rows = [
        charts.Interval(
            name=f"minus {c.rival}", middle=c.mean, low=c.lower, high=c.upper, bound=c.bound,
            title=f"agent minus {c.rival}: {c.mean:+.4f} [{c.lower:+.4f}, {c.upper:+.4f}], event {last.seq}",
        )
        for c in last.comparisons
    ]  # fmt: skip
    return charts.intervals(rows, form=lambda v: f"{v:+.3f}")


def _arms_chart(summary: Summary) -> Markup:
    rows = [
        charts.Pair(
            label=str(day.day), group=day.phase, first=_share(day, "agent"), second=_share(day, "control"),
            title=f"day {day.day}, event {day.settled_seq}: agent {_told(_share(day, 'agent'))}, "
            f"control {_told(_share(day, 'control'))}",
        )
        for day in summary.live_days
        if day.settled_seq is not None
    ]  # fmt: skip
    return charts.pairs(rows, height=250, form=lambda v: f"{v:.1f}")


def _money_chart(summary: Summary) -> Markup:
    days = summary.ledger_days
    # A grant counts from the first day that was reserved after it.
    granted = [
        sum(grant.micros for grant in summary.grants if grant.first_day in {day.day for day in days[: k + 1]})
        for k in range(len(days))
    ]
    spent = list(accumulate(day.amounts.spent for day in days))
    stake = [day.committed_micros for day in days]

    def line(name: str, style: str, micros: Sequence[int]) -> charts.Steps:
        titles = tuple(
            f"{name} on day {day.day}: {units(x)} {summary.currency}, events {day.first_seq} to {day.last_seq}"
            for day, x in zip(days, micros, strict=True)
        )
        return charts.Steps(name=name, style=style, values=tuple(x / MICROS for x in micros), titles=titles)

    series = (
        line("granted so far", "grant", granted),
        line("spent or at stake", "stake", stake),
        line("spent so far", "agent", spent),
    )
    return charts.stairs([str(day.day) for day in days], series, height=250, form=lambda v: f"{v:,.0f}")


# ---- tables of this run


def _by_phase(summary: Summary) -> list[PhaseRulings]:
    names = dict.fromkeys(ruling.phase for ruling in summary.rulings)
    return [
        PhaseRulings(
            phase=name if name else "the whole run",
            rulings=tuple(r for r in summary.rulings if r.phase == name),
        )
        for name in names
    ]


def _arm_totals(summary: Summary) -> list[ArmTotal]:
    found = []
    for phase in dict.fromkeys(day.phase for day in summary.live_days):
        for arm in _LIVE_ARMS:
            days = [day.arms[arm] for day in summary.live_days if day.phase == phase and arm in day.arms]
            settled = [day for day in days if day.conversions is not None]
            found.append(
                ArmTotal(
                    phase=phase, arm=arm, campaign_days=sum(day.campaigns for day in settled),
                    spend_micros=sum(day.spend_micros for day in settled), clicks=sum(day.clicks for day in settled),
                    conversions=sum(day.conversions for day in settled if day.conversions is not None),
                    score=sum(day.score for day in settled if day.score is not None),
                )
            )  # fmt: skip
    return found


def _rivals(judgements: Sequence[Judgement]) -> tuple[str, ...]:
    """Everything that some judgement was compared with, in the usual order."""
    return in_order(c.rival for judgement in judgements for c in judgement.comparisons)


def _share(day: LiveDay, arm: str) -> float | None:
    own: ArmDay | None = day.arms[arm] if arm in day.arms else None
    return None if own is None else own.share


# ---- words


def numbers(told: Mapping[str, object]) -> list[tuple[str, str]]:
    """The numbers of a part of verification as short words; long lists by their range."""
    return [(name.replace("_", " "), _value(value)) for name, value in told.items()]


def _value(value: object) -> str:
    if value is None:
        return "not told"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        plain = [x for x in value if isinstance(x, int | float)]
        if len(plain) > 3:
            return f"{len(plain)} values, {min(plain):.5g} to {max(plain):.5g}"
        return ", ".join(map(str, value)) if value else "none"
    return _short(value) if isinstance(value, str) else str(value)


def _short(value: str) -> str:
    """A hash by its beginning; any other word whole."""
    return f"{value[:12]}…" if len(value) > 16 and " " not in value else value


def _signed(value: float | None) -> str:
    return "none" if value is None else f"{value:+.4f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _fine(micros: int) -> str:
    """Small amounts, such as a cost per conversion, with four places."""
    return f"{Decimal(micros) / MICROS:.4f}"


def _told(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
