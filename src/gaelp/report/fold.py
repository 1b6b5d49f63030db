"""The fold: events of one run, in order, into a `Summary`; knows every kind of event and judges none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean

from gaelp.report.facts import (
    INCONCLUSIVE,
    LEARNING,
    Amounts,
    ArmDay,
    ArmsCompared,
    Comparison,
    Ending,
    Fatigue,
    FidelityRow,
    FittedWorlds,
    Grant,
    History,
    Judgement,
    Learning,
    LedgerDay,
    LiveDay,
    LogPacer,
    LogPart,
    LogSplit,
    LogWorlds,
    OwnerDays,
    Part,
    PhaseSummary,
    Promotion,
    Replayed,
    Ruling,
    Summary,
    TrainingCall,
    in_order,
)
from gaelp.report.reading import Fields
from gaelp.store.log import GENESIS, Event

NOT_ENDED = "the phase has not ended: nothing has ruled on it yet."
NOT_PROMOTED = (
    "the last candidate was judged LEARNING and not promoted: what plays is the untrained agent, the pacer."
)
OWNER_PHASES = ("history", "shadow")
"""Days of the owner's own campaigns; every other day_played is a day of this run's campaigns."""
_LEDGER = {"breach": "breached"} | {name: name for name in ("granted", "reserved", "released", "posted")}
"""Kinds of ledger events and the sums that they add to."""


@dataclass
class Draft:
    """Lists that grow while the log is read; `summary` turns them into the frozen result."""

    last_at: str | None = None
    events: int = 0
    head_hash: str = GENESIS
    began: list[Fields] = field(default_factory=list)
    began_seq: dict[str, int] = field(default_factory=dict)
    ended: dict[str, Ruling] = field(default_factory=dict)
    gain: dict[str, float | None] = field(default_factory=dict)
    calls: list[TrainingCall] = field(default_factory=list)
    untrained_hash: str | None = None
    judgements: list[Judgement] = field(default_factory=list)
    promotions: list[Promotion] = field(default_factory=list)
    rulings: list[Ruling] = field(default_factory=list)
    rolled_back: list[Ruling] = field(default_factory=list)
    pacer_hash: str | None = None
    retuned_hash: str | None = None
    history: History | None = None
    fatigue: list[Fatigue] = field(default_factory=list)
    fidelity: FittedWorlds | None = None
    money: dict[str, Amounts] = field(default_factory=dict)
    grants: list[Grant] = field(default_factory=list)
    breach_seqs: list[int] = field(default_factory=list)
    ledger_days: dict[tuple[str, int], LedgerDay] = field(default_factory=dict)
    owner_days: dict[str, OwnerDays] = field(default_factory=dict)
    live_days: dict[tuple[str, int], LiveDay] = field(default_factory=dict)
    comparisons: list[ArmsCompared] = field(default_factory=list)
    settled_spend_micros: int = 0
    ending: Ending | None = None
    log_split: LogSplit | None = None
    log_pacer: LogPacer | None = None
    log_worlds: LogWorlds | None = None
    replayed: Replayed | None = None

    def take(self, event: Event) -> None:
        """Fold one event in. Kinds that tell no number of the report (checkpoints, approvals) only count."""
        self.last_at, self.events, self.head_hash = event.at, event.seq, event.hash
        if event.kind not in ("granted", "approved", "halted", "halt_lifted"):
            # A stopped journey that was resumed has not ended, and its bill is no longer the last one.
            self.ending = None
        told, seq = Fields.of(event), event.seq
        match event.kind:
            case "pacer_certified":
                self.pacer_hash = told.text("hash")
                self.fatigue.append(
                    _fatigue(seq, "warm-up days", len(told.items("days")), told.inner("fatigue"))
                )
            case "history_exported":
                names = ("first_day", "last_day", "rows", "decisions", "campaigns", "owner_spend_micros")
                self.history = History(seq=seq, **{name: told.whole(name) for name in names})
            case "worlds_fitted":
                self.retuned_hash = told.text("retuned_hash")
                for name in ("training", "selection"):
                    fit = told.inner(name)
                    self.fatigue.append(
                        _fatigue(seq, f"{name} days", fit.whole("days"), fit.inner("fatigue"))
                    )
            case "fidelity":
                self.fidelity = _fidelity(seq, told)
            case "log_split":
                self.log_split = _log_split(seq, told)
            case "block_pacer_certified":
                self.pacer_hash, self.retuned_hash = told.text("hash"), told.text("retuned_hash")
                self.log_pacer = _log_pacer(seq, told)
            case "log_fidelity":
                self.log_worlds = LogWorlds(
                    seq=seq,
                    ruling=told.text("verdict"),
                    reason=told.text("reason"),
                    rows=_fidelity_rows(told),
                )
            case "phase_began":
                self.began.append(told)
                self.began_seq[told.text("name")] = seq
            case "played":
                # Logged episodes are scored against the pacer's projection, not against its day: no gain over it.
                beside = told.text("source") in ("simulated", "replayed")
                self.gain[told.text("phase")] = told.number("mean_gain") if beside else None
            case "trained":
                self._trained(seq, told)
            case "batch_refused":
                self._rule(seq, told.text("phase"), "batch_refused", "FAIL", told.text("reason"))
            case "judged":
                self.judgements.append(_judgement(seq, told))
                self._rule(
                    seq, told.text("phase"), "verify_learning", told.text("verdict"), told.text("reason")
                )
            case "certified":
                if told.text("rule") == "replay_gate":
                    self.replayed = _replayed(seq, told.inner("evidence"))
                self._rule(
                    seq, told.text("phase"), told.text("rule"), told.text("verdict"), told.text("reason")
                )
            case "promoted":
                self.promotions.append(
                    Promotion(seq=seq, phase=told.text("phase"), actor_hash=told.text("actor_hash"))
                )
                self._rule(seq, told.text("phase"), "promotion_gate", "PASS", told.text("reason"))
            case "not_promoted":
                self._rule(
                    seq, told.text("phase"), "promotion_gate", told.text("verdict"), told.text("reason")
                )
            case "rolled_back":
                self._rule(
                    seq, told.text("phase"), told.text("rule"), "FAIL", f"rolled back: {told.text('reason')}"
                )
                self.rolled_back.append(self.rulings[-1])
            case "held":
                self._rule(seq, told.text("phase"), "held", "WAIT", told.text("reason"))
            case "ramp_step":
                where = f"step {told.whole('step') + 1}: {told.text('reason')}"
                self._rule(seq, told.text("phase"), "ramp_step_gate", told.text("verdict"), where)
            case "window_judged":
                where = f"window {told.whole('window') + 1}: {told.text('reason')}"
                self._rule(seq, told.text("phase"), "live_gate", told.text("verdict"), where)
            case "day_played":
                self._day(seq, told)
            case "episodes_settled":
                self._settled(seq, told)
            case "arms_compared":
                self.comparisons.append(_arms(seq, told))
            case "granted" | "reserved" | "posted" | "released" | "breach":
                self._money(seq, event.kind, told)
            case "phase_ended":
                name = told.text("name")
                self._rule(seq, name, told.text("rule"), told.text("verdict"), told.text("reason"))
                self.ended[name] = self.rulings[-1]
            case "halted":
                self._rule(seq, "", "halted", "FAIL", told.text("reason"))
            case "halt_lifted":
                self._rule(seq, "", "halt_lifted", "PASS", told.text("reason"))
            case "journey_ended":
                self.ending = Ending(
                    seq=seq,
                    platform_bill_micros=told.whole("platform_bill_micros"),
                    reached_end=told.yes("reached_end"),
                    reason=told.text("reason"),
                )

    def _rule(self, seq: int, phase: str, rule: str, ruling: str, reason: str) -> None:
        self.rulings.append(Ruling(seq=seq, phase=phase, rule=rule, ruling=ruling, reason=reason))

    def _trained(self, seq: int, told: Fields) -> None:
        phase = told.text("phase")
        if self.untrained_hash is None:
            self.untrained_hash = told.text("actor_hash_before")
        self.calls.append(
            TrainingCall(
                seq=seq, phase=phase, call=len(self.calls) + 1, episodes=told.whole("episodes"),
                gain=self.gain.pop(phase) if phase in self.gain else None, entropy_share=told.number("entropy_share"),
                weight_change=told.inner("weight_change").number("absolute"),
            )
        )  # fmt: skip

    def _day(self, seq: int, told: Fields) -> None:
        phase, day, slots = told.text("phase"), told.whole("day"), told.inners("slots")
        spent = sum(slot.whole("spend_micros") for slot in slots)
        if phase in OWNER_PHASES:
            before = self.owner_days[phase] if phase in self.owner_days else OwnerDays(
                first_seq=seq, last_seq=seq, phase=phase, days=0, spend_micros=0
            )  # fmt: skip
            self.owner_days[phase] = replace(
                before, last_seq=seq, days=before.days + 1, spend_micros=before.spend_micros + spent
            )
            return
        tripped = told.value("tripped")
        if tripped is not None:
            why = told.inner("tripped")
            self._rule(seq, phase, why.text("rule"), "FAIL", f"day {day}: {why.text('reason')}")
        self.live_days[phase, day] = LiveDay(
            seq=seq, settled_seq=None, phase=phase, day=day, actor_hash=told.text("actor_hash"), arms=_arm_days(slots),
            pairs=0, difference=None, step_spend_micros=sum(slot.sum("step_spend_micros") for slot in slots),
            refusals=told.texts("refusals"),
        )  # fmt: skip

    def _settled(self, seq: int, told: Fields) -> None:
        phase, day, episodes = told.text("phase"), told.whole("day"), told.inners("episodes")
        self.settled_spend_micros += sum(episode.whole("spend_micros") for episode in episodes)
        shares: dict[str, dict[str, float]] = {"agent": {}, "control": {}}
        for episode in episodes:
            # A pair is one market on one day; the last part of the label names it.
            shares[episode.text("arm")][episode.text("campaign").rpartition("/")[2]] = episode.number("share")
        both = sorted(set(shares["agent"]) & set(shares["control"]))
        differences = [max(-1.0, min(1.0, shares["agent"][k] - shares["control"][k])) for k in both]
        played = self.live_days[phase, day]
        arms = {
            arm: _settled_arm(before, [episode for episode in episodes if episode.text("arm") == arm])
            for arm, before in played.arms.items()
        }
        self.live_days[phase, day] = replace(
            played,
            settled_seq=seq,
            arms=arms,
            pairs=len(both),
            difference=fmean(differences) if differences else None,
        )

    def _money(self, seq: int, kind: str, told: Fields) -> None:
        phase, micros, day = told.text("phase"), told.whole("micros"), told.whole("day")
        self.money[phase] = _more(self._phase_money(phase), kind, micros)
        if kind == "granted":
            self.grants.append(Grant(seq=seq, phase=phase, micros=micros, by=told.text("by"), first_day=None))
            return
        if kind == "breach":
            self.breach_seqs.append(seq)
        if kind == "reserved":
            self.grants = [replace(g, first_day=day) if g.first_day is None else g for g in self.grants]
        committed = sum(amounts.open + amounts.spent for amounts in self.money.values())
        before = self.ledger_days[phase, day] if (phase, day) in self.ledger_days else LedgerDay(
            phase=phase, day=day, amounts=Amounts(), committed_micros=0, first_seq=seq, last_seq=seq
        )  # fmt: skip
        self.ledger_days[phase, day] = replace(
            before, amounts=_more(before.amounts, kind, micros), last_seq=seq,
            committed_micros=max(before.committed_micros, committed if kind in ("reserved", "breach") else 0),
        )  # fmt: skip

    def _phase_money(self, phase: str) -> Amounts:
        return self.money[phase] if phase in self.money else Amounts()

    def phases(self) -> tuple[PhaseSummary, ...]:
        """The phases that were reached, in order, as far as they got."""
        return tuple(self._phase(told) for told in self.began)

    def _phase(self, told: Fields) -> PhaseSummary:
        name = told.text("name")
        calls = [call for call in self.calls if call.phase == name]
        changes = [call.weight_change for call in calls]
        open_one = Ruling(
            seq=self.began_seq[name], phase=name, rule="not_ended", ruling="WAIT", reason=NOT_ENDED
        )
        ruling = self.ended[name] if name in self.ended else open_one
        return PhaseSummary(
            seq=ruling.seq, name=name, ended=name in self.ended, train_every=told.whole("train_every"),
            batch_size=told.whole("batch_size"), num_epochs=told.whole("num_epochs"),
            episodes=sum(call.episodes for call in calls), train_calls=len(calls),
            min_weight_change=min(changes) if changes else 0.0, mean_weight_change=fmean(changes) if changes else 0.0,
            verdict=ruling.ruling, rule=ruling.rule, reason=ruling.reason, amounts=self._phase_money(name),
        )  # fmt: skip

    def weights_hash(self) -> str | None:
        """The weights that play at the end: promoted last, or untrained; None before anything was trained."""
        if self.promotions:
            return self.promotions[-1].actor_hash
        return self.untrained_hash

    def learning(self) -> Learning:
        """The newest judgement of what plays at the end. Without a promotion that is the pacer: never LEARNING."""
        if not self.judgements:
            return Learning(seq=None, verdict=INCONCLUSIVE, reason="nothing has been judged yet.")
        last = self.judgements[-1]
        if not self.promotions:
            if last.verdict != LEARNING:
                return Learning(seq=last.seq, verdict=last.verdict, reason=last.reason)
            return Learning(seq=last.seq, verdict=INCONCLUSIVE, reason=NOT_PROMOTED)
        own = [found for found in self.judgements if found.actor_hash == self.promotions[-1].actor_hash]
        if not own:
            return Learning(
                seq=None, verdict=INCONCLUSIVE, reason="the promoted weights have no judgement in the log."
            )
        return Learning(seq=own[-1].seq, verdict=own[-1].verdict, reason=own[-1].reason)


def fold(events: Iterable[Event]) -> Draft:
    """All events, in order."""
    draft = Draft()
    for event in events:
        draft.take(event)
    return draft


def summary_of(
    draft: Draft,
    *,
    run: str,
    created_at: str,
    journey: Mapping[str, object],
    seed: int,
    algorithm: str,
    currency: str,
) -> Summary:
    """The frozen result; the configuration's words are handed in, all else is from the events."""
    total = Amounts(
        **{name: sum(getattr(amounts, name) for amounts in draft.money.values()) for name in _LEDGER.values()}
    )
    return Summary(
        run=run, created_at=created_at, last_at=draft.last_at, events=draft.events, head_hash=draft.head_hash,
        journey=journey, seed=seed, algorithm=algorithm, currency=currency, weights_hash=draft.weights_hash(),
        learning=draft.learning(), pacer_hash=draft.pacer_hash, retuned_hash=draft.retuned_hash, phases=draft.phases(),
        calls=tuple(draft.calls), judgements=tuple(draft.judgements), promotions=tuple(draft.promotions),
        rulings=tuple(draft.rulings), rolled_back=tuple(draft.rolled_back), history=draft.history,
        fatigue=tuple(draft.fatigue), fidelity=draft.fidelity, amounts=total,
        grants=tuple(draft.grants), breach_seqs=tuple(draft.breach_seqs), ledger_days=tuple(draft.ledger_days.values()),
        owner_days=tuple(draft.owner_days.values()), live_days=tuple(draft.live_days.values()),
        comparisons=tuple(draft.comparisons), settled_spend_micros=draft.settled_spend_micros, ending=draft.ending,
        log_split=draft.log_split, log_pacer=draft.log_pacer, log_worlds=draft.log_worlds, replayed=draft.replayed,
    )  # fmt: skip


def _more(amounts: Amounts, kind: str, micros: int) -> Amounts:
    name = _LEDGER[kind]
    return replace(amounts, **{name: getattr(amounts, name) + micros})


def _fatigue(seq: int, fitted_on: str, days: int, told: Fields) -> Fatigue:
    numbers = {name: told.number(name) for name in ("estimate", "low", "high")}
    return Fatigue(seq=seq, fitted_on=fitted_on, days=days, **numbers)


def _fidelity(seq: int, told: Fields) -> FittedWorlds:
    return FittedWorlds(
        seq=seq, ruling=told.text("verdict"), reason=told.text("reason"), fitted_days=told.whole("fitted_days"),
        held_out_days=told.whole("held_out_days"), rows=_fidelity_rows(told),
    )  # fmt: skip


def _fidelity_rows(told: Fields) -> tuple[FidelityRow, ...]:
    return tuple(
        FidelityRow(
            name=line.text("name"), within=line.yes("within"),
            **{name: line.number(name) for name in ("fitted", "low", "high", "held_out")},
        )
        for line in told.inners("lines")
    )  # fmt: skip


def _log_split(seq: int, told: Fields) -> LogSplit:
    wholes = ("episode_auctions", "episode_budget", "unused_auctions")
    parts = tuple(
        LogPart(
            name=part.text("name"), predicted_clicks=part.number("predicted_clicks"),
            **{name: part.whole(name) for name in ("auctions", "episodes", "clicks", "cost")},
        )
        for part in told.inners("parts")
    )  # fmt: skip
    return LogSplit(
        seq=seq, log=told.text("log"), sha256=told.text("sha256"), parts=parts,
        **{name: told.whole(name) for name in wholes},
    )  # fmt: skip


def _log_pacer(seq: int, told: Fields) -> LogPacer:
    knobs, retuned = told.inner("knobs"), told.inner("retuned_knobs")
    return LogPacer(
        seq=seq, knobs={name: knobs.number(name) for name in knobs.told},
        retuned_knobs={name: retuned.number(name) for name in retuned.told},
        mean_value=told.number("mean_value"), mean_lp_value=told.number("mean_lp_value"),
    )  # fmt: skip


def _replayed(seq: int, told: Fields) -> Replayed:
    shares = told.inner("shares")
    numbers = ("mean", "lower", "upper", "plain_mean", "agent_spend_share", "pacer_spend_share")
    return Replayed(
        seq=seq, episodes=told.whole("episodes"), episodes_lost=told.whole("episodes_lost"),
        shares={name: shares.number(name) for name in shares.told},
        agent_clicks=told.whole("agent_clicks"), pacer_clicks=told.whole("pacer_clicks"),
        **{name: told.number(name) for name in numbers},
    )  # fmt: skip


def _judgement(seq: int, told: Fields) -> Judgement:
    parts = told.inner("parts")
    comparisons: tuple[Comparison, ...] = ()
    if "paired_return" in parts.told and "comparisons" in parts.inner("paired_return").told:
        rivals = parts.inner("paired_return").inner("comparisons")
        comparisons = tuple(
            Comparison(
                rival=name, **{k: rivals.inner(name).number(k) for k in ("mean", "lower", "upper", "bound")}
            )
            for name in in_order(rivals.told)
        )
    shares = told.inner("shares")
    return Judgement(
        seq=seq, phase=told.text("phase"), call=told.whole("call"), depth=told.text("depth"),
        actor_hash=told.text("actor_hash"), verdict=told.text("verdict"), reason=told.text("reason"),
        shares={name: shares.number(name) for name in shares.told}, worlds=told.whole("worlds"),
        worlds_lost=told.number("worlds_lost"), comparisons=comparisons,
        parts=tuple(_part(name, parts.inner(name)) for name in parts.told),
    )  # fmt: skip


def _part(name: str, told: Fields) -> Part:
    numbers = {k: v for k, v in told.told.items() if k not in ("ruling", "reason", "comparisons")}
    return Part(name=name, ruling=told.text("ruling"), reason=told.text("reason"), numbers=numbers)


def _arms(seq: int, told: Fields) -> ArmsCompared:
    names = ("agent_mean", "control_mean", "difference", "low", "high")
    return ArmsCompared(
        seq=seq,
        phase=told.text("phase"),
        pairs=told.whole("pairs"),
        **{name: told.number(name) for name in names},
    )


def _arm_days(slots: list[Fields]) -> dict[str, ArmDay]:
    arms: dict[str, ArmDay] = {}
    for arm in sorted({slot.text("arm") for slot in slots}):
        own = [slot for slot in slots if slot.text("arm") == arm]
        arms[arm] = ArmDay(
            campaigns=len(own), spend_micros=sum(slot.whole("spend_micros") for slot in own),
            clicks=sum(slot.whole("clicks") for slot in own),
            impressions=sum(slot.whole("impressions") for slot in own), conversions=None, score=None, share=None,
        )  # fmt: skip
    return arms


def _settled_arm(arm: ArmDay, episodes: list[Fields]) -> ArmDay:
    if not episodes:
        return arm
    return replace(
        arm, conversions=sum(e.number("conversions") for e in episodes), score=sum(e.number("score") for e in episodes),
        share=fmean(e.number("share") for e in episodes),
    )  # fmt: skip
