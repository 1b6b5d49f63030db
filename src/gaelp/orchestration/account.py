"""The account before the journey: its owner's campaigns, run by our pacer, exported, split by time and fitted.

The owner's money is the owner's: these campaigns keep the budgets the owner set, only their bids are edited, so
nothing here asks the ledger. Days are kept as they are played; a crash loses at most the day in progress.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.act import exploration, move_mask
from gaelp.bidding.landscape import Landscape, tabulate
from gaelp.bidding.pacer import DEFAULT_PARAMS
from gaelp.core.errors import BadInput
from gaelp.core.money import MICROS
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.verdict import Ruling, Verdict
from gaelp.logs.canonical import History, export_history, import_history
from gaelp.market.baselines import tune_pacer
from gaelp.market.calibrate import Fit, calibrate
from gaelp.market.campaign import Certified
from gaelp.market.history_fidelity import history_fidelity
from gaelp.market.hours import Hours, hours_of
from gaelp.orchestration.gather import history_tables
from gaelp.orchestration.live import FixedChances, LiveMarket, Pacing, PlayedDay, Slot, settled_conversions
from gaelp.orchestration.opening import Fitted, pacer_params, reread_certified
from gaelp.orchestration.run import OWNER_PREFIX, Run
from gaelp.platforms.platform import CampaignState, SettledRow
from gaelp.platforms.sandbox.client import SandboxPlatform
from gaelp.safety.gates import history_fidelity_gate

SETTLE_DAYS = 3
"""A day's conversions are final once the clock stands this many days later."""
HISTORY_STREAM = 1
WARMUP_KEEP = 0.3
"""Dual control is randomised more, since the first landscape is fitted on few days."""


@dataclass(frozen=True)
class Prepared:
    """What the phases start from."""

    fitted: Fitted
    history: History
    training_days: NDArray[np.int64]
    selection_days: NDArray[np.int64]
    certification_days: NDArray[np.int64]
    incumbent: FixedChances
    owner: tuple[Slot, ...]
    next_day: int
    fidelity: Verdict
    """How the worlds of the training days stand beside the selection days."""

    @property
    def certified(self) -> Certified:
        """The pacer of all four phases."""
        return self.fitted.certified


def incumbent_policy(run: Run, keep: float) -> FixedChances:
    """The pacer with its known randomisation over the moves; its hash names the probabilities."""
    chances = exploration(run.schema, move_mask(run.schema, line_items=1), keep)
    return FixedChances(chances, hashlib.sha256(chances.tobytes()).hexdigest()[:16])


def owner_slots(platform: SandboxPlatform) -> tuple[Slot, ...]:
    """The owner's own campaigns, one per market, in order of market."""
    campaigns = sorted(platform.campaigns(OWNER_PREFIX), key=lambda c: c.market)
    return tuple(
        Slot(
            campaign=c.name, label=c.name, arm="incumbent", item=k, budget_micros=c.daily_budget_micros,
            target_cpa_micros=_target_micros(c),
        )
        for k, c in enumerate(campaigns)
    )  # fmt: skip


def _target_micros(campaign: CampaignState) -> int:
    if campaign.target_cpa_micros is None:
        raise BadInput(f"campaign {campaign.name} has no target CPA: this version paces towards one.")
    return campaign.target_cpa_micros


def prepare(run: Run, platform: SandboxPlatform, market: LiveMarket) -> Prepared:
    """Warm up under dual control, certify the pacer, run it for the history, export, import, split, fit, retune.

    Each part is an event; what is already in the log is read back and not done again.
    """
    plan = run.config.history
    owner = owner_slots(platform)
    warm_days = range(plan.warmup_days)
    rough = _rough_landscape(_first_read(run, platform))
    warm = Pacing(rough, DEFAULT_PARAMS, "dual-control", dual=True)
    _play_days(
        run,
        platform,
        market,
        "warm-up under dual control",
        warm_days,
        owner,
        warm,
        incumbent_policy(run, WARMUP_KEEP),
    )
    certified = _certified(run, platform, market, list(warm_days), owner)
    first = plan.warmup_days + SETTLE_DAYS
    days = range(first, first + plan.days)
    incumbent = incumbent_policy(run, plan.keep)
    pacing = Pacing(certified.landscape, certified.params, certified.hash)
    _play_days(run, platform, market, "history under the certified pacer", days, owner, pacing, incumbent)
    history = _exported(run, platform, market, list(days), certified, owner)
    numbers = np.array(days)
    training_days, selection_days, certification_days = np.split(
        numbers, [plan.training_days, plan.training_days + plan.selection_days]
    )
    low, high = (x / MICROS for x in (run.config.simulation.budget_low, run.config.simulation.budget_high))
    run.progress.advance("fit worlds, retune the pacer", 0, 1, "")
    training_hours, selection_hours = (
        hours_of(history.hours, days) for days in (training_days, selection_days)
    )
    training = calibrate(training_hours, low, high)
    selection = calibrate(selection_hours, low, high)
    fidelity = _fidelity(run, training, training_hours, selection_hours)
    retuned = _retuned(run, training, selection)
    run.progress.advance("fit worlds, retune the pacer", 1, 1, f"fatigue {training.fatigue.estimate:.2f}")
    return Prepared(
        Fitted(certified, retuned, training, selection),
        history,
        training_days,
        selection_days,
        certification_days,
        incumbent,
        owner,
        first + plan.days + SETTLE_DAYS,
        fidelity,
    )


def played_days(run: Run, phase: str) -> list[PlayedDay]:
    """The days of a phase that the log holds, in order."""
    return [_restored(run, told["artifact"]) for told in run.found("day_played", phase=phase)]


def record_day(run: Run, phase: str, played: PlayedDay) -> dict[str, object]:
    """Keep a played day's arrays, and the payload of the event that tells of it: integers exact, step by step."""
    artifact = run.save(played.arrays(), played.manifest())
    steps = played.step_spend_micros(run.schema.ticks_per_decision)
    slots = [
        {
            "campaign": slot.label, "arm": slot.arm, "item": slot.item, "budget_micros": slot.budget_micros,
            "moves": played.move[k].tolist(), "step_spend_micros": steps[k].tolist(),
            "spend_micros": int(played.cost_micros[k].sum()), "impressions": int(played.impressions[k].sum()),
            "clicks": int(played.clicks[k].sum()),
        }
        for k, slot in enumerate(played.slots)
    ]  # fmt: skip
    tripped = (
        None if played.tripped is None else {"rule": played.tripped.rule, "reason": played.tripped.reason}
    )
    return {
        "phase": phase,
        "day": played.day,
        "artifact": artifact,
        "slots": slots,
        "refusals": list(played.refusals),
        "tripped": tripped,
    }


def _restored(run: Run, artifact: object) -> PlayedDay:
    saved = run.load(artifact)
    return PlayedDay.restored(saved.arrays, saved.manifest)


def _play_days(
    run: Run,
    platform: SandboxPlatform,
    market: LiveMarket,
    stage: str,
    days: range,
    owner: tuple[Slot, ...],
    pacing: Pacing,
    incumbent: FixedChances,
) -> None:
    done = {int(str(told["day"])) for told in run.found("day_played", phase="history")}
    todo = [day for day in days if day not in done]
    if todo:
        platform.enable([slot.campaign for slot in owner])
    for day in todo:
        run.progress.advance(stage, day - days.start, len(days), f"day {day}")
        played = market.play_day(
            day=day, slots=owner, pacing=pacing, choosers={"incumbent": incumbent}, stream=HISTORY_STREAM
        )
        run.append("day_played", record_day(run, "history", played))
    run.progress.advance(stage, len(days), len(days), "")
    if not run.found("worlds_fitted"):
        # Also when no day was left to play: a crash after the last one must not leave them running.
        platform.pause([slot.campaign for slot in owner])
        platform.skip(days.stop + SETTLE_DAYS, 0)


def _settled(
    run: Run, platform: SandboxPlatform, market: LiveMarket, days: list[int], pacer_hash: str
) -> History:
    played = [day for day in played_days(run, "history") if day.day in set(days)]
    rows = platform.settled(OWNER_PREFIX, days[0], days[-1])
    by_day: dict[int, list[SettledRow]] = {}
    for row in rows:
        by_day.setdefault(row.day, []).append(row)
    final = [settled_conversions(day, by_day[day.day]) for day in played]
    return history_tables(played, final, [pacer_hash] * len(played), market.schema)


def _certified(
    run: Run, platform: SandboxPlatform, market: LiveMarket, days: list[int], owner: tuple[Slot, ...]
) -> Certified:
    told = run.found("pacer_certified")
    if told:
        return reread_certified(run, told[0]["artifact"])
    run.progress.advance("tune the pacer on the warm-up", 0, 1, "")
    low, high = (x / MICROS for x in (run.config.simulation.budget_low, run.config.simulation.budget_high))
    fit = calibrate(
        hours_of(_settled(run, platform, market, days, "dual-control").hours, np.array(days)), low, high
    )
    tuning = tune_pacer(fit.posterior, fit.landscape, run.config.seed)
    certified = tuning.certified
    arrays = {name: np.asarray(x, np.float64) for name, x in certified.landscape._asdict().items()}
    arrays |= {f"params.{name}": np.asarray(x, np.float64) for name, x in certified.params._asdict().items()}
    run.append(
        "pacer_certified",
        {
            "hash": certified.hash, "artifact": run.save(arrays, {"what": "certified pacer"}), "days": days,
            "params": {name: float(x) for name, x in certified.params._asdict().items()},
            "tuning_scores": list(tuning.rounds), "fatigue": asdict(fit.fatigue),
        },
    )  # fmt: skip
    run.progress.advance("tune the pacer on the warm-up", 1, 1, f"pacer {certified.hash}")
    return certified


def _exported(run: Run, platform: SandboxPlatform, market: LiveMarket, days: list[int], certified: Certified,
              owner: tuple[Slot, ...]) -> History:  # fmt: skip
    folder = run.directory / "history"
    if not run.found("history_exported"):
        tables = _settled(run, platform, market, days, certified.hash)
        export_history(tables, folder)
        spent = sum(int(x) for x in tables.hours["cost_micros"])
        run.append("history_exported", {
            "rows": tables.hours.height, "decisions": tables.decisions.height, "pacer_hash": certified.hash,
            "first_day": days[0], "last_day": days[-1], "owner_spend_micros": spent, "campaigns": len(owner),
        })  # fmt: skip
    return import_history(folder)


def _fidelity(run: Run, fit: Fit, fitted: Hours, held_out: Hours) -> Verdict:
    """What the selection days say of worlds fitted on the training days; an event, read back when it is there."""
    told = run.found("fidelity")
    if not told:
        found = history_fidelity(fit, fitted, held_out, np.random.default_rng(run.config.seed))
        verdict = history_fidelity_gate(found)
        run.append(
            "fidelity",
            {
                "verdict": verdict.ruling.name, "rule": verdict.rule, "reason": verdict.reason,
                "surprise": found.surprise, "fitted_days": found.fitted_days, "held_out_days": found.held_out_days,
                "conversions": found.conversions,
                "lines": [asdict(line) | {"within": line.within} for line in found.lines],
            },
        )  # fmt: skip
        return verdict
    return Verdict(Ruling[str(told[0]["verdict"])], str(told[0]["rule"]), str(told[0]["reason"]))


def _retuned(run: Run, training: Fit, selection: Fit) -> Certified:
    told = run.found("worlds_fitted")
    if told:
        return Certified(training.landscape, pacer_params(told[0]["retuned_params"]))
    tuning = tune_pacer(training.posterior, training.landscape, run.config.seed + 1)
    run.append(
        "worlds_fitted",
        {
            "training": _told(training), "selection": _told(selection), "retuned_hash": tuning.certified.hash,
            "retuned_params": {name: float(x) for name, x in tuning.certified.params._asdict().items()},
            "tuning_scores": list(tuning.rounds),
        },
    )  # fmt: skip
    return tuning.certified


def _told(fit: Fit) -> dict[str, object]:
    means = {
        name: [float(x) for x in getattr(fit.posterior, name)]
        for name in (
            "price_mean",
            "price_sd",
            "click_rate",
            "conversion_rate",
            "fatigue",
            "fatigue_se",
            "price_day_sd",
            "volume",
        )
    }
    return {
        "days": fit.days,
        "fatigue": asdict(fit.fatigue),
        "fatigue_memory": fit.fatigue_memory,
        "line_items": means,
    }


def _first_read(run: Run, platform: SandboxPlatform) -> list[dict[str, int]]:
    """The owner's bids and targets as they stood before our first edit, in order of market.

    Kept as an event: later the bids on the platform are ours, and a resumed run must not start from those.
    """
    if not run.found("account_read"):
        campaigns = sorted(platform.campaigns(OWNER_PREFIX), key=lambda c: c.market)
        seen = [
            {"campaign": c.name, "bid_micros": c.bid_micros, "target_cpa_micros": _target_micros(c)}
            for c in campaigns
        ]
        run.append("account_read", {"campaigns": seen})
    told: list[dict[str, int]] = run.found("account_read")[0]["campaigns"]  # type: ignore[assignment]
    return told


def _rough_landscape(campaigns: list[dict[str, int]]) -> Landscape:
    """What is known before any report: the owner's bids and targets, and nothing of traffic or prices.

    Dual control reads only the price level (from the bid), the conversion rate (bid over target) and the flat traffic.
    """
    n = len(campaigns)
    bid = np.array([c["bid_micros"] / MICROS for c in campaigns])
    target = np.array([c["target_cpa_micros"] / MICROS for c in campaigns])
    flat = np.full((n, TICKS_PER_DAY), 1.0 / TICKS_PER_DAY)
    one = np.ones(n)
    return tabulate(
        price_mean=np.log(bid),
        price_sd=0.8 * one,
        clicks_price=0.0 * one,
        click_rate=0.05 * one,
        cost_scale=one,
        conversion_rate=bid / target,
        volume=10_000.0 * one,
        traffic=flat,
        price_hour=0.0 * flat,
        price_day_sd=0.3 * one,
        order_value=one,
        slot_gap=0.0 * one,
        delay_share=np.tile([1.0, 0.0], (n, 1)),
        delay_rate=np.full((n, 2), 0.1),
    )
