"""What a report knows of a run: frozen records, each with the number of the event it was read from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

LEARNING, INCONCLUSIVE = "LEARNING", "INCONCLUSIVE"
POLICIES = ("agent", "pacer", "retuned", "random")


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Policies as they are told everywhere: the agent first, its rivals, then any other."""
    found = set(names)
    known = tuple(name for name in POLICIES if name in found)
    return known + tuple(sorted(found - set(known)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """Sums of ledger entries in micros. `reserved`: all that was ever set aside; `open`: what still is."""

    granted: int = 0
    reserved: int = 0
    released: int = 0
    posted: int = 0
    breached: int = 0

    @property
    def open(self) -> int:
        return self.reserved - self.posted - self.released

    @property
    def spent(self) -> int:
        return self.posted + self.breached


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a person let a phase spend. `first_day`: the first account day reserved after it, if there is one."""

    seq: int
    phase: str
    micros: int
    by: str
    first_day: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerDay:
    """An account day of a phase. `committed_micros`: spent or still open in the whole run, at its highest that day.

    seq: of its first and last entries.
    """

    phase: str
    day: int
    amounts: Amounts
    committed_micros: int
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSummary:
    """One phase that was reached. seq: of the event that ended it, or of its beginning while it goes on."""

    seq: int
    name: str
    ended: bool
    train_every: int
    batch_size: int
    num_epochs: int
    episodes: int
    train_calls: int
    min_weight_change: float
    mean_weight_change: float
    verdict: str
    rule: str
    reason: str
    amounts: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCall:
    """One training call. `gain`: mean gain over the pacer of the simulated episodes in it, None when there are none."""

    seq: int
    phase: str
    call: int
    episodes: int
    gain: float | None
    entropy_share: float
    weight_change: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Agent minus `rival` in the judging worlds, in units of the certified pacer's score, with its interval."""

    rival: str
    mean: float
    lower: float
    upper: float
    bound: float

    @property
    def met(self) -> bool:
        return self.lower > self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of learning verification and the plain numbers it rests on."""

    name: str
    ruling: str
    reason: str
    numbers: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One learning verification.

    shares: of the summary's `reference`, by policy. worlds_lost: share of the worlds with a score below the pacer's.
    """

    seq: int
    phase: str
    call: int
    depth: str
    actor_hash: str
    verdict: str
    reason: str
    shares: Mapping[str, float]
    worlds: int
    worlds_lost: float
    comparisons: tuple[Comparison, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """Any verdict in the log: a gate, a guard, a judgement, a person's halt."""

    seq: int
    phase: str
    rule: str
    ruling: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmDay:
    """One arm on one live day; what settles later is None until then. `share`: mean of the pacer's projection."""

    campaigns: int
    spend_micros: int
    clicks: int
    impressions: int
    conversions: float | None
    score: float | None
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveDay:
    """A day on the platform. `difference`: mean over pairs (one market, both arms) of agent minus control."""

    seq: int
    settled_seq: int | None
    phase: str
    day: int
    actor_hash: str
    arms: Mapping[str, ArmDay]
    pairs: int
    difference: float | None
    step_spend_micros: int
    refusals: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerDays:
    """Days of the owner's own campaigns, on the owner's money: outside grant and ledger."""

    first_seq: int
    last_seq: int
    phase: str
    days: int
    spend_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmsCompared:
    """Agent against control on the platform, all settled days of a phase, with a time-uniform interval."""

    seq: int
    phase: str
    agent_mean: float
    control_mean: float
    pairs: int
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fatigue:
    """How strongly users tire, as fitted from some days, with its 90 % interval."""

    seq: int
    fitted_on: str
    days: int
    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityRow:
    """One figure of the held-out days beside what the fitted worlds say of it, with their 90 % interval."""

    name: str
    fitted: float
    low: float
    high: float
    held_out: float
    within: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedWorlds:
    """How the worlds of the training days stand beside the selection days, and what the gate ruled."""

    seq: int
    ruling: str
    reason: str
    fitted_days: int
    held_out_days: int
    rows: tuple[FidelityRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPart:
    """A part of a recorded log. cost: what all its auctions cost, in the log's own money."""

    name: str
    auctions: int
    episodes: int
    clicks: int
    cost: int
    predicted_clicks: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSplit:
    """A recorded log as it was cut, by order, into episodes with one budget each."""

    seq: int
    log: str
    sha256: str
    episode_auctions: int
    episode_budget: int
    unused_auctions: int
    parts: tuple[LogPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPacer:
    """The certified pacer of a journey on a log, and what it and the LP bound buy in a mean training episode."""

    seq: int
    knobs: Mapping[str, float]
    retuned_knobs: Mapping[str, float]
    mean_value: float
    mean_lp_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LogWorlds:
    """How the worlds of the training part stand beside the selection part, and what the gate ruled."""

    seq: int
    ruling: str
    reason: str
    rows: tuple[FidelityRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The candidate on the certification part: differences to the pacer, and every policy's share of the LP bound."""

    seq: int
    episodes: int
    episodes_lost: int
    mean: float
    lower: float
    upper: float
    plain_mean: float
    shares: Mapping[str, float]
    agent_spend_share: float
    pacer_spend_share: float
    agent_clicks: int
    pacer_clicks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What was exported for the fit, and the hashes of the pacers made from it."""

    seq: int
    first_day: int
    last_day: int
    rows: int
    decisions: int
    campaigns: int
    owner_spend_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """The learner became the actor."""

    seq: int
    phase: str
    actor_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the journey ended. The platform's bill is that of this run's campaigns, both arms."""

    seq: int
    platform_bill_micros: int
    reached_end: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """The verdict about the weights that play at the end. seq: of the judgement, None when nothing was judged."""

    seq: int | None
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run as far as it got: a fold of its events."""

    run: str
    created_at: str
    last_at: str | None
    events: int
    head_hash: str
    journey: Mapping[str, object]
    seed: int
    algorithm: str
    currency: str
    weights_hash: str | None
    learning: Learning
    pacer_hash: str | None
    retuned_hash: str | None
    phases: tuple[PhaseSummary, ...]
    calls: tuple[TrainingCall, ...]
    judgements: tuple[Judgement, ...]
    promotions: tuple[Promotion, ...]
    rulings: tuple[Ruling, ...]
    rolled_back: tuple[Ruling, ...]
    history: History | None
    fatigue: tuple[Fatigue, ...]
    fidelity: FittedWorlds | None
    amounts: Amounts
    grants: tuple[Grant, ...]
    breach_seqs: tuple[int, ...]
    ledger_days: tuple[LedgerDay, ...]
    owner_days: tuple[OwnerDays, ...]
    live_days: tuple[LiveDay, ...]
    comparisons: tuple[ArmsCompared, ...]
    settled_spend_micros: int
    ending: Ending | None
    log_split: LogSplit | None
    log_pacer: LogPacer | None
    log_worlds: LogWorlds | None
    replayed: Replayed | None

    @property
    def reference(self) -> str:
        """The line that shares are told of; on a log it is a bound, elsewhere it is none."""
        return "price-taker reference" if self.log_split is None else "LP bound"

    @property
    def platform_bill_micros(self) -> int | None:
        """What the platform bills; None until the journey has ended."""
        return None if self.ending is None else self.ending.platform_bill_micros

    @property
    def overspend_micros(self) -> int:
        """The bill beyond the grants, and every breach. Before there is a bill, the books stand for it."""
        bill = self.amounts.spent if self.ending is None else self.ending.platform_bill_micros
        return max(0, bill - self.amounts.granted) + self.amounts.breached

    @property
    def judged_actor(self) -> Judgement | None:
        """The newest judgement of the weights that play at the end, else the newest of any."""
        own = [found for found in self.judgements if found.actor_hash == self.weights_hash]
        if own:
            return own[-1]
        return self.judgements[-1] if self.judgements else None

    def ruled(self, *rules: str) -> tuple[Ruling, ...]:
        """The verdicts of some rules, in order."""
        return tuple(found for found in self.rulings if found.rule in rules)

    def answer(self, *, seconds: float, sandbox_db: str | None) -> dict[str, object]:
        """The JSON object of `demo` and `run`. seconds, sandbox_db: known to the caller, not to the log."""
        judged = self.judged_actor
        return {
            "run": self.run,
            "seconds": seconds,
            "weights_hash": self.weights_hash,
            "sandbox_db": sandbox_db,
            "phases": [_phase_answer(phase) for phase in self.phases],
            "money": {
                "currency": self.currency,
                "granted_micros": self.amounts.granted,
                "reserved_micros": self.amounts.open,
                "spent_micros": self.amounts.spent,
                "platform_bill_micros": self.platform_bill_micros,
                "overspend_micros": self.overspend_micros,
                "reserved_in_all_micros": self.amounts.reserved,
                "released_micros": self.amounts.released,
                "breached_micros": self.amounts.breached,
            },
            "learning": {
                "verdict": self.learning.verdict,
                "reason": self.learning.reason,
                "event": self.learning.seq,
            },
            f"shares_of_{self.reference.replace('-', '_').replace(' ', '_').lower()}": (
                None if judged is None else dict(judged.shares)
            ),
            "worlds_lost": None if judged is None else judged.worlds_lost,
            "live": [
                {
                    "phase": c.phase, "agent_mean": c.agent_mean, "control_mean": c.control_mean, "pairs": c.pairs,
                    "difference": c.difference, "low": c.low, "high": c.high,
                }
                for c in self.comparisons
            ],
            "replayed": None if self.replayed is None else asdict(self.replayed),
            "refused": {
                "batches": len(self.ruled("batch_refused")),
                "candidates": len([r for r in self.ruled("promotion_gate") if r.ruling != "PASS"]),
                "bids": sum(len(day.refusals) for day in self.live_days),
            },
            "reached_end": self.ending is not None and self.ending.reached_end,
            "reason": "the journey has not ended." if self.ending is None else self.ending.reason,
            "seed": self.seed,
            "pacer_hash": self.pacer_hash,
            "events": self.events,
            "head_hash": self.head_hash,
        }  # fmt: skip


def _phase_answer(phase: PhaseSummary) -> dict[str, object]:
    return {
        "name": phase.name,
        "episodes": phase.episodes,
        "train_calls": phase.train_calls,
        "min_weight_change": phase.min_weight_change,
        "mean_weight_change": phase.mean_weight_change,
        "verdict": phase.verdict,
        "reason": phase.reason,
        "rule": phase.rule,
        "ended": phase.ended,
        "train_every": phase.train_every,
        "granted_micros": phase.amounts.granted,
        "reserved_micros": phase.amounts.open,
        "spent_micros": phase.amounts.spent,
    }
