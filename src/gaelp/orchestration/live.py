"""The live market: campaign-days on a platform, paced every half hour, decided by daypart.

It is platform + bidding + guards and nothing more: it asks for no money (the orchestrator has reserved it) and
learns nothing. A day is a fold over what the platform reported, so a day that was cut short by a crash is
read again from its first half hour and goes on where the platform's clock stands, bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.act import move_mask, pace_of, tilt_of
from gaelp.bidding.landscape import Landscape
from gaelp.bidding.observe import mark_decision, observe
from gaelp.bidding.pacer import (
    DayState,
    PacerParams,
    Report,
    Terms,
    after_report,
    bids,
    dual_log_bid,
    score,
    solve,
    start_day,
)
from gaelp.core.episode import SOURCES, End, EpisodeBatch, Provenance, Source
from gaelp.core.errors import PlatformError
from gaelp.core.money import MICROS
from gaelp.core.schema import TICKS_PER_DAY, Schema
from gaelp.core.verdict import FAIL, Verdict
from gaelp.platforms.platform import Platform, ReportRow, SettledRow
from gaelp.safety.guards import GuardBounds, bid_within_bounds

Array = NDArray[np.float64]


class SteppedPlatform(Platform, Protocol):
    """A platform whose clock moves when asked: the sandbox."""

    def step(self, day: int, tick: int) -> object:
        """Play half hour `tick` of `day`; done before, it changes nothing."""


class Chooser(Protocol):
    """How one arm picks its joint moves."""

    @property
    def hash(self) -> str:
        """Identity of the policy that chooses."""

    def choose(self, observation: NDArray[np.float32], mask: NDArray[np.bool_], uniform: Array) -> Choice:
        """Moves for observations [B,O], masks [B,A] and uniforms [B] in [0,1)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Moves [B] and their log-probabilities [B] under the chooser."""

    move: NDArray[np.int32]
    log_prob: Array


@dataclass(frozen=True)
class FixedChances:
    """Moves by fixed probabilities [A]: the randomised incumbent, or the pacer alone (all on the zero move)."""

    chances: Array
    hash: str

    def choose(self, observation: NDArray[np.float32], mask: NDArray[np.bool_], uniform: Array) -> Choice:
        edges = np.cumsum(self.chances)
        last = int(np.flatnonzero(self.chances)[-1])
        move = np.minimum(np.searchsorted(edges, uniform, side="right"), last).astype(np.int32)
        return Choice(move, np.log(self.chances[move]))


class Probabilities(Protocol):
    """An exported policy: probabilities [B,A] of the moves."""

    @property
    def hash(self) -> str: ...
    def probabilities(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> NDArray[np.float32]: ...


SHARPNESS = 6.0
"""The live actor plays its probabilities to this power, renormalised: exploration with other people's money is dear."""
FLOOR = 0.03
"""Share of the live actor's choices spread alike over all allowed moves, so that its log stays usable off-policy."""


@dataclass(frozen=True)
class Actor:
    """The frozen agent as it plays live: sharpened towards its mode, with a floor; what it logs is exact."""

    policy: Probabilities

    @property
    def hash(self) -> str:
        return self.policy.hash

    def chances(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> Array:
        """The probabilities [B,A] that are played and logged, float64; rows sum to 1."""
        sharp = self.policy.probabilities(observation, mask).astype(np.float64) ** SHARPNESS
        alike = mask / mask.sum(axis=1, keepdims=True)
        return (1.0 - FLOOR) * sharp / sharp.sum(axis=1, keepdims=True) + FLOOR * alike

    def choose(self, observation: NDArray[np.float32], mask: NDArray[np.bool_], uniform: Array) -> Choice:
        chances = self.chances(observation, mask)
        edges = chances.cumsum(axis=1)
        move = (edges <= (uniform * edges[:, -1])[:, None]).sum(axis=1).astype(np.int32)
        return Choice(move, np.log(chances[np.arange(len(move)), move]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One campaign-day to play: `campaign` on the platform, `label` in the log (no run name), its arm and terms."""

    campaign: str
    label: str
    arm: str
    item: int
    budget_micros: int
    target_cpa_micros: int


@dataclass(frozen=True)
class Pacing:
    """What drives the bids between decisions: the certified pacer, or dual control before there is one."""

    landscape: Landscape
    params: PacerParams
    hash: str
    dual: bool = False


@dataclass(frozen=True)
class PlayedDay:
    """What was decided and reported on one day. S slots, T decisions.

    observation[S,T+1,O] float32, move[S,T] int32, pace[S,T], log_prob[S,T], scale[S] (the pacer's projected score at
    the day's start); per half hour [S,48]: log_bid, eligible, impressions, clicks, cost_micros (int64), arrived.
    proposed[S,T]: a shadow agent's moves, -1 where there was none. refusals: bids a guard refused, last one held.
    tripped: the guard that stopped the day, if one did.
    """

    day: int
    slots: tuple[Slot, ...]
    observation: NDArray[np.float32]
    move: NDArray[np.int32]
    pace: Array
    log_prob: Array
    scale: Array
    log_bid: Array
    eligible: Array
    impressions: Array
    clicks: Array
    cost_micros: NDArray[np.int64]
    arrived: Array
    proposed: NDArray[np.int32]
    refusals: tuple[str, ...] = ()
    tripped: Verdict | None = None

    ARRAYS = ("observation", "move", "pace", "log_prob", "scale", "log_bid", "eligible", "impressions", "clicks",
              "cost_micros", "arrived", "proposed")  # fmt: skip

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """For a checkpoint file."""
        return {name: getattr(self, name) for name in self.ARRAYS}

    def manifest(self) -> dict[str, object]:
        """For a checkpoint's manifest."""
        return {"day": self.day, "slots": [asdict(slot) for slot in self.slots]}

    @staticmethod
    def restored(arrays: Mapping[str, NDArray[np.generic]], manifest: Mapping[str, object]) -> PlayedDay:
        """The day back from `arrays` and `manifest`."""
        slots = tuple(Slot(**told) for told in manifest["slots"])  # type: ignore[attr-defined]
        return PlayedDay(day=int(manifest["day"]), slots=slots, **{n: arrays[n] for n in PlayedDay.ARRAYS})  # type: ignore[arg-type,call-overload]

    def step_spend_micros(self, ticks_per_decision: int) -> NDArray[np.int64]:
        """Spend of each decision's daypart, [S,T] integer micros."""
        slots, ticks = self.cost_micros.shape
        return self.cost_micros.reshape(slots, ticks // ticks_per_decision, ticks_per_decision).sum(axis=2)


Watch = Callable[[int, int, int], Verdict]
"""(tick, spent_micros, planned_micros) of the whole day's slots -> may it go on?"""


@dataclass
class LiveMarket:
    """Plays days on a stepped platform. `bounds` guard each bid; `halted` is read before every half hour."""

    platform: SteppedPlatform
    schema: Schema
    bounds: GuardBounds
    seed: int
    halted: Callable[[], Verdict]
    mask: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.mask = move_mask(self.schema, line_items=1)

    def play_day(
        self, *, day: int, slots: Sequence[Slot], pacing: Pacing, choosers: Mapping[str, Chooser], stream: int,
        watch: Watch | None = None, shadow: Chooser | None = None,
    ) -> PlayedDay:  # fmt: skip
        """Play `day` with `slots`, each arm choosing by its own chooser; `stream` separates random numbers by phase.

        shadow: an agent that proposes at each decision and is not obeyed. Raises PlatformError when the platform
        refuses or reports other campaigns than those played.
        """
        schema, n = self.schema, len(slots)
        decisions = schema.decisions_per_day
        item = np.array([slot.item for slot in slots])
        terms = Terms(
            item=item[:, None],
            budget=np.array([slot.budget_micros / MICROS for slot in slots]),
            target_cpa=np.array([slot.target_cpa_micros / MICROS for slot in slots]),
            weekday=np.full(n, day % 7),
            by_value=np.zeros(n),
            profit=np.zeros(n),
            carried=np.zeros((n, 1)),
        )
        arms = np.array([slot.arm for slot in slots])
        uniform = np.random.Generator(np.random.Philox(key=[self.seed, (stream << 32) + day])).random(
            (decisions, n)
        )
        proposals = np.random.Generator(
            np.random.Philox(key=[self.seed, (stream << 32) + day + (1 << 31)])
        ).random((decisions, n))
        masks = np.broadcast_to(self.mask, (n, len(self.mask)))
        state = start_day(pacing.landscape, terms, np)
        kept: dict[str, list[NDArray[np.generic]]] = {name: [] for name in PlayedDay.ARRAYS}
        micros = [slot.budget_micros for slot in slots]
        refusals: list[str] = []
        tripped: Verdict | None = None
        pace = tilt = np.zeros(n)
        last_bids: dict[str, int] = {}
        for tick in range(TICKS_PER_DAY):
            stop = self.halted()
            if stop.ruling is FAIL:
                raise Stopped(stop)
            solution = solve(state, pacing.landscape, terms, pacing.params, np)
            if tick == 0:
                kept["scale"] = [np.asarray(solution.projected_score)]
            if tick % schema.ticks_per_decision == 0:
                decision = tick // schema.ticks_per_decision
                seen = observe(state, solution, pacing.landscape, terms, pacing.params, schema, np)
                move, log_prob = np.zeros(n, np.int32), np.zeros(n)
                for arm in dict.fromkeys(arms):
                    rows = arms == arm
                    chosen = choosers[arm].choose(seen[rows], masks[rows], uniform[decision][rows])
                    move[rows], log_prob[rows] = chosen.move, chosen.log_prob
                pace = np.asarray(pace_of(move, schema, np), np.float64)
                tilt = np.asarray(tilt_of(move, schema, np), np.float64)
                proposed = (
                    np.full(n, -1, np.int32)
                    if shadow is None
                    else shadow.choose(seen, masks, proposals[decision]).move
                )
                state = mark_decision(state, pace, np)
                for name, value in (
                    ("observation", seen),
                    ("move", move),
                    ("pace", pace),
                    ("log_prob", log_prob),
                    ("proposed", proposed),
                ):
                    kept[name].append(value)
                if watch is not None and tripped is None and tick > 0:
                    spent = int(np.sum(kept["cost_micros"]))
                    planned = (
                        float((terms.budget * (1.0 - pacing.landscape.traffic_left[item, tick])).sum())
                        * MICROS
                    )
                    ruling = watch(tick, spent, int(planned + 0.25 * sum(micros)))
                    if ruling.ruling is FAIL:
                        tripped = ruling
                        self.platform.pause([slot.campaign for slot in slots])
            wished = (
                dual_log_bid(state, pacing.landscape, terms, np) + pace[:, None]
                if pacing.dual
                else bids(solution, pace, tilt, state, pacing.landscape, terms, pacing.params, np)
            )
            micros_of, refused = self._guarded(slots, wished[:, 0], last_bids)
            refusals += [f"tick {tick}: {why}" for why in refused.values()]
            account = self.platform.account() if tick == 0 else None
            if account is not None and account.day > day:
                # A resumed day that the platform has left behind: its reports alone tell it.
                already = TICKS_PER_DAY
            elif account is not None:
                already = account.tick if account.day == day else 0
            if tick >= already:
                self.platform.edit_bids(micros_of)
                self.platform.step(day, tick)
            # Only what passed is a last bid: the micro that stands in for none must not bound what follows.
            last_bids |= {campaign: bid for campaign, bid in micros_of.items() if campaign not in refused}
            rows = self._rows(slots, day, tick)
            report = Report(
                log_bid=np.log(np.array([[row.bid_micros] for row in rows]) / MICROS),
                eligible=np.array([[row.eligible] for row in rows], float),
                impressions=np.array([[row.impressions] for row in rows], float),
                clicks=np.array([[row.clicks] for row in rows], float),
                cost=np.array([[row.cost_micros] for row in rows]) / MICROS,
                conversions_so_far=np.array([[row.conversions_so_far] for row in rows], float),
            )
            state = after_report(state, report, pacing.landscape, terms, pacing.params, np)
            for name in ("log_bid", "eligible", "impressions", "clicks"):
                kept[name].append(getattr(report, name)[:, 0])
            kept["cost_micros"].append(np.array([row.cost_micros for row in rows], np.int64))
            kept["arrived"].append(report.conversions_so_far[:, 0])
        kept["observation"].append(self._final(state, pacing, terms))
        stacked = {
            name: values[0] if name == "scale" else np.stack(values, axis=1) for name, values in kept.items()
        }
        return PlayedDay(day=day, slots=tuple(slots), refusals=tuple(refusals), tripped=tripped, **stacked)  # type: ignore[arg-type]

    def _final(self, state: DayState, pacing: Pacing, terms: Terms) -> NDArray[np.float32]:
        over = state._replace(tick=np.full_like(state.tick, TICKS_PER_DAY - 1))
        solution = solve(over, pacing.landscape, terms, pacing.params, np)
        return observe(over, solution, pacing.landscape, terms, pacing.params, self.schema, np)

    def _guarded(
        self, slots: Sequence[Slot], log_bid: Array, last: Mapping[str, int]
    ) -> tuple[dict[str, int], dict[str, str]]:
        """Bids in micros by campaign, at least 1, and the reasons of refusals. One that a guard refuses is replaced by
        the last one that passed on that campaign and day, or by 1: a new day's first bid has only the maximum above it,
        since its budget is fresh."""
        bids: dict[str, int] = {}
        refused: dict[str, str] = {}
        for slot, wanted in zip(slots, np.exp(log_bid) * MICROS, strict=True):
            before = last[slot.campaign] if slot.campaign in last else None
            ruling = bid_within_bounds(float(wanted), before, self.bounds)
            if ruling.ruling is FAIL:
                refused[slot.campaign] = f"{slot.label}: {ruling.reason}"
                bids[slot.campaign] = 1 if before is None else before
            else:
                bids[slot.campaign] = max(1, round(float(wanted)))
        return bids, refused

    def _rows(self, slots: Sequence[Slot], day: int, tick: int) -> list[ReportRow]:
        prefix = _common_prefix([slot.campaign for slot in slots])
        rows = {row.campaign: row for row in self.platform.report(prefix, day, tick)}
        missing = [slot.campaign for slot in slots if slot.campaign not in rows]
        if missing:
            raise PlatformError(
                f"the platform reported nothing for {', '.join(missing)} on day {day}, half hour {tick}."
            )
        return [rows[slot.campaign] for slot in slots]


class Stopped(Exception):
    """A safety verdict of FAIL in the middle of a day; the orchestrator records it and ends the phase."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def _common_prefix(names: Sequence[str]) -> str:
    low, high = min(names), max(names)
    same = next((k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[: low.rfind("/", 0, same + 1) + 1]


def settled_conversions(day: PlayedDay, rows: Sequence[SettledRow]) -> Array:
    """Conversions [S,48] by the half hour of their click, from the platform's final rows of that day.

    Raises PlatformError when a half hour's final cost differs from what was reported when it was played.
    """
    index = {slot.campaign: k for k, slot in enumerate(day.slots)}
    conversions = np.full(day.cost_micros.shape, np.nan)
    for row in rows:
        if row.day == day.day and row.campaign in index:
            k = index[row.campaign]
            conversions[k, row.tick] = row.conversions
            if row.cost_micros != day.cost_micros[k, row.tick]:
                raise PlatformError(
                    f"{row.campaign}, day {row.day}, half hour {row.tick}: settled cost {row.cost_micros} micros, "
                    f"{int(day.cost_micros[k, row.tick])} were reported."
                )
    if np.isnan(conversions).any():
        raise PlatformError(
            f"day {day.day}: the platform's settled rows do not cover every campaign and half hour."
        )
    return conversions


def episodes_of(
    day: PlayedDay, conversions: Array, *, schema: Schema, mask: NDArray[np.bool_], source: Source, phase: str,
    actor_hashes: Mapping[str, str], pacer_hash: str, seed: int, hidden_width: int, settled_at: str,
) -> EpisodeBatch:  # fmt: skip
    """The day's campaign-days as training episodes.

    Reward: increments of the settled score so far, as a share of the pacer's projected score at the day's start; it
    telescopes to the objective. The day's end terminates: the objective is the day's.
    """
    s, t = day.move.shape
    per = schema.ticks_per_decision
    target = np.array([slot.target_cpa_micros / MICROS for slot in day.slots])
    spend = day.step_spend_micros(per).cumsum(axis=1) / MICROS
    done = conversions.reshape(s, t, per).sum(axis=2).cumsum(axis=1)
    so_far = score(done, spend, target[:, None], np)
    reward = np.diff(so_far, axis=1, prepend=0.0) / np.maximum(day.scale, 2.0)[:, None]
    end = np.full((s, t), int(End.RUNNING), np.int8)
    end[:, -1] = int(End.TERMINATED)
    told = tuple(
        Provenance(
            source=source,
            phase=phase,
            arm=slot.arm,
            campaign=slot.label,
            day=day.day,
            actor_hash=actor_hashes[slot.arm],
            pacer_hash=pacer_hash,
            schema_hash=schema.hash,
            seed=seed,
            settled_at=settled_at,
        )
        for slot in day.slots
    )
    return EpisodeBatch(
        observation=day.observation,
        mask=np.broadcast_to(mask, (s, t + 1, len(mask))),
        action=day.move,
        executed=day.pace.astype(np.float32),
        log_prob=day.log_prob.astype(np.float32),
        reward=reward.astype(np.float32),
        end=end,
        valid=np.ones((s, t), bool),
        weight=np.ones(s, np.float32),
        segment=np.zeros((s, t), np.int32),
        hidden=np.zeros((s, t + 1, hidden_width), np.float32),
        spend=spend[:, -1],
        value=done[:, -1],
        impressions=day.impressions.sum(axis=1),
        clicks=day.clicks.sum(axis=1),
        conversions=done[:, -1],
        score=so_far[:, -1],
        matured=np.ones(s),
        sources=np.full(s, SOURCES.index(source), np.int8),
        provenance=told,
    )
