"""The ladder of a suite: what every tuned baseline reaches of the reference line, on worlds that none was tuned on.

It tunes, certifies and judges on three separate sets of worlds. It prints nothing, and knows no learner.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import BadInput
from gaelp.market.baselines import (
    CHUNK,
    WORLDS,
    Baseline,
    Days,
    Knobs,
    baselines_of,
    drawn,
    play,
    tune,
)
from gaelp.market.campaign import float32
from gaelp.market.hindsight import KNOWING, best_constant, best_on_auctions, told_the_truth
from gaelp.market.oracle import Prices, Yardstick, reference_name
from gaelp.market.suites import Suite, expect_win_rate
from gaelp.market.world import World, auctions_bank

Floats = NDArray[np.float64]

TUNED_WITH = 20_261
"""The seed of tuning and certifying; --seeds move the worlds that are judged, and nothing else."""
RESAMPLES = 2000
CLAIRVOYANT = "clairvoyant pacer"
DECILE = 0.1


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of the reference: sum of scores over sum of reference scores, with a 95 % interval.

    The interval is the percentile bootstrap over worlds, those of all seeds together.
    """

    middle: float
    low: float
    high: float
    by_seed: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One policy on the judged worlds."""

    name: str
    share: Share
    spend_share: float
    """Mean spend as a share of the budget."""
    overspend: float
    """The largest spend beyond a budget, in money."""
    violations: float | None
    """Share of the days that cost more per unit than the target; None without targets."""
    excess: float | None
    """Mean of how far the cost per unit lay above the target, as a share of it; a day that kept it counts 0."""
    worst_decile: float
    """Mean share of the reference on the tenth of the days where it is lowest."""
    win_rate: float
    knobs: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Certified less another baseline on the worlds of certification: mean score, with a 95 % normal interval."""

    over: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a suite asks of its certified pacer: shares of the reference, the one it reached and the least asked."""

    name: str
    figure: float
    bar: float
    met: bool


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """A suite's policies on one set of worlds, each a share of the reference line."""

    suite: str
    version: int
    hash: str
    room_for: str
    reference: str
    """What the line is called: a bound only where prices are given."""
    reference_score: float
    lp: float | None
    """The LP bound as a share of the reference; None where it bounds nothing."""
    worlds: int
    seeds: int
    certified: str
    bar: Bar | None
    """None for a suite that asks nothing of its certified pacer."""
    margins: tuple[Margin, ...]
    best: str
    """The best tuned baseline on the judged worlds."""
    room: float
    """Reference less the best tuned baseline, as a share of the reference."""
    clairvoyant: Rung
    rungs: tuple[Rung, ...]


def climb(suite: Suite, *, worlds: int, seeds: int) -> Ladder:
    """Tune every baseline of a suite, certify the best, and judge them all on `seeds` times `worlds` fresh worlds.

    Raises BadInput for less than one seed or 20 worlds, and where the certified pacer's win rate says that the suite's
    budgets do not fit its prices.
    """
    if worlds < 20:
        raise BadInput(f"--worlds is {worlds}, expected at least 20: a tenth of the days must be some.")
    if seeds < 1:
        raise BadInput(f"--seeds is {seeds}, expected at least 1.")
    baselines = baselines_of(suite.kind, target=1.0 if suite.has_target else np.inf)
    tuned = [tune(b, suite.posterior, suite.landscape, TUNED_WITH, suite.kind) for b in baselines]
    chosen = np.random.default_rng([TUNED_WITH, 3]).integers(1 << 20, 1 << 30, size=WORLDS)
    selection = [judged(suite, one.knobs, chosen) for one in tuned]
    certified, margins = certify([one.baseline for one in tuned], selection)

    fresh = np.concatenate([
        np.random.default_rng([seed, 4]).integers(1 << 20, 1 << 30, size=worlds) for seed in range(seeds)
    ])  # fmt: skip
    line, lp = reference(suite, fresh)
    days = [judged(suite, one.knobs, fresh) for one in tuned]
    rungs = tuple(
        _rung(one.baseline.name, one.knobs, day, line, seeds) for one, day in zip(tuned, days, strict=True)
    )
    best = max(rungs, key=lambda rung: rung.share.middle)
    reached = next(rung for rung in rungs if rung.name == certified)
    expect_win_rate(reached.win_rate, suite.name)
    return Ladder(
        suite=suite.name, version=suite.version, hash=suite.hash, room_for=suite.room.value,
        reference=reference_name(Yardstick.MULTIPLIER, suite.prices), reference_score=float(line.mean()),
        lp=None if lp is None else float(lp.sum() / line.sum()), worlds=worlds, seeds=seeds, certified=certified,
        bar=None if suite.bar is None else bar(suite.name, reached.share.middle, suite.bar), margins=margins,
        best=best.name, room=1.0 - best.share.middle,
        clairvoyant=_rung(CLAIRVOYANT, KNOWING, told(suite, fresh), line, seeds), rungs=rungs,
    )  # fmt: skip


def bar(name: str, figure: float, least: float) -> Bar:
    """Does the share `figure` of suite `name` reach `least`?"""
    return Bar(name=name, figure=figure, bar=least, met=figure >= least)


def certify(baselines: list[Baseline], days: list[Days]) -> tuple[str, tuple[Margin, ...]]:
    """The baseline with the best mean score among those that never spent beyond a budget, and its margins.

    Raises BadInput when all of them did.
    """
    kept = [k for k, day in enumerate(days) if not np.any(day.spent > day.budget)]
    if not kept:
        raise BadInput("no baseline kept its budget on every world: nothing can be certified.")
    best = max(kept, key=lambda k: float(np.mean(days[k].score)))
    margins = []
    for k, (baseline, day) in enumerate(zip(baselines, days, strict=True)):
        if k != best:
            ahead = np.asarray(days[best].score, np.float64) - day.score
            half = 1.96 * ahead.std(ddof=1) / np.sqrt(len(ahead))
            mean = float(ahead.mean())
            margins.append(
                Margin(over=baseline.name, mean=mean, low=float(mean - half), high=float(mean + half))
            )
    return baselines[best].name, tuple(margins)


def judged(suite: Suite, knobs: Knobs, seeds: NDArray[np.int64]) -> Days:
    """The days of a policy on the worlds of `seeds`, [n]."""
    landscape, bank, told_knobs = float32(suite.landscape), auctions_bank(), float32(knobs)
    return _joined(
        [play(w, landscape, told_knobs, bank, kind=suite.kind) for w in _chunks(suite, seeds)], len(seeds)
    )


def told(suite: Suite, seeds: NDArray[np.int64]) -> Days:
    """The days of a pacer that is told each world's price path, volume and rates, but not how the world answers."""
    bank, found = auctions_bank(), []
    for world in _chunks(suite, seeds):
        known = told_the_truth(world, suite.worn, suite.kind)
        found.append(play(known.world, float32(known.landscape), float32(KNOWING), bank, kind=suite.kind))
    return _joined(found, len(seeds))


def reference(suite: Suite, seeds: NDArray[np.int64]) -> tuple[Floats, Floats | None]:
    """The best constant worth's score [n] in each world, and the LP bound where it is one."""
    landscape, bank = float32(suite.landscape), auctions_bank()
    given = suite.prices is Prices.GIVEN
    line, lp = [], []
    for world in _chunks(suite, seeds):
        line.append(best_constant(world, landscape, bank, suite.kind).score)
        if given:
            lp.append(best_on_auctions(world, bank, suite.kind))
    return np.concatenate(line)[: len(seeds)], np.concatenate(lp)[: len(seeds)] if given else None


def _chunks(suite: Suite, seeds: NDArray[np.int64]) -> list[World]:
    """The worlds of `seeds`, CHUNK at a time so that one compiled program serves any number; the last filled up."""
    whole = np.concatenate([seeds, seeds[-1] + 1 + np.arange(-len(seeds) % CHUNK)])
    posterior = float32(suite.posterior)
    return [drawn(posterior, jnp.asarray(part), kind=suite.kind) for part in whole.reshape(-1, CHUNK)]


def _joined(days: list[Days], n: int) -> Days:
    parts = jax.device_get(days)
    return Days(*(np.concatenate(field)[:n].astype(np.float64) for field in zip(*parts, strict=True)))


def _rung(name: str, knobs: Knobs, day: Days, line: Floats, seeds: int) -> Rung:
    limited = bool(np.isfinite(day.target).all())
    cost = day.spent / np.maximum(day.units, 1e-9)
    over = np.maximum(cost / day.target - 1.0, 0.0)
    each = np.sort(day.score / line)
    return Rung(
        name=name, share=share_of(day.score, line, seeds), spend_share=float(np.mean(day.spent / day.budget)),
        overspend=float(np.maximum(day.spent - day.budget, 0.0).max()),
        violations=float(np.mean(over > 0.0)) if limited else None, excess=float(over.mean()) if limited else None,
        worst_decile=float(each[: max(1, round(DECILE * len(each)))].mean()), win_rate=float(day.win_rate.mean()),
        knobs={name: float(value) for name, value in knobs._asdict().items()},
    )  # fmt: skip


def share_of(score: Floats, line: Floats, seeds: int) -> Share:
    """Sum of `score` over sum of `line`, [n] each, the first n / seeds of them of the first seed."""
    rng = np.random.default_rng(RESAMPLES)
    pick = rng.integers(len(line), size=(RESAMPLES, len(line)))
    low, high = np.quantile(score[pick].sum(1) / line[pick].sum(1), (0.025, 0.975))
    by_seed = score.reshape(seeds, -1).sum(1) / line.reshape(seeds, -1).sum(1)
    return Share(
        middle=float(score.sum() / line.sum()), low=float(low), high=float(high),
        by_seed=tuple(float(x) for x in by_seed),
    )  # fmt: skip
