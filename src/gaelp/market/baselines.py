"""Baselines: the policies that a learner must beat, each tuned by one random search with one budget of world-days.

Search rounds narrow around the best candidates; the last one judges the finalists on 768 fresh worlds. There
are two kinds of policy, the controller and the receding-horizon pacer; a baseline is one with some of its knobs free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.controllers import Gains, Memory, Rule, control, opening, start_memory
from gaelp.bidding.landscape import Landscape
from gaelp.bidding.pacer import DEFAULT_PARAMS, DayState, PacerParams, after_report, start_day
from gaelp.bidding.rules import Format
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array
from gaelp.market.campaign import Certified, float32
from gaelp.market.world import (
    ONE_ITEM,
    Bank,
    Kind,
    Posterior,
    Truth,
    World,
    auctions_bank,
    day_score,
    half_hour,
    pacer_day,
    start_truth,
    worlds_of,
)

Knobs: TypeAlias = Gains | PacerParams
Floats: TypeAlias = NDArray[np.float64]

WORLDS = 768
"""Fewer tuning worlds overfit a baseline (notes on tuning: 192 cost half a percent)."""
PAIRS, CHUNK = 64, 192
"""Every round scores 64 (candidate, chunk of worlds) pairs: 64 candidates on 192 worlds, at the end 16 on 768."""
SEARCH_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A policy with knobs between `low` and `high`; where both are equal the knob is fixed.

    The knobs' type says what they steer: a controller (Gains) or the receding-horizon pacer (PacerParams).
    """

    name: str
    default: Knobs
    low: Knobs
    high: Knobs
    logarithmic: frozenset[str] = frozenset()
    """Knobs searched on a log scale."""
    other_starts: tuple[Knobs, ...] = ()
    """Where the search begins beside the default."""


def _pacer(name: str, keeps_target: float) -> Baseline:
    def params(*told: float) -> PacerParams:
        named = dict(zip(PacerParams._fields, (*told[:-1], keeps_target, told[-1]), strict=True))
        return PacerParams(**{name: np.float64(value) for name, value in named.items()})

    default = DEFAULT_PARAMS._replace(keeps_target=np.float64(keeps_target))
    # Where rates are known, trusting them is far from the defaults in three knobs at once: chance rarely goes there.
    trusting = params(0.03, 0.1, 1000.0, 1.0, 0.0, 0.0, 0.0, 2000.0)
    return Baseline(
        name=name, default=default, other_starts=(trusting,), low=params(0.01, 0.02, 5.0, 0.90, -1.2, -0.5, -0.4, 0.0),
        high=params(0.2, 0.6, 1000.0, 1.0, 1.2, 0.3, 0.25, 2000.0),
        logarithmic=frozenset({"price_walk", "volume_prior", "calibration_prior"}),
    )  # fmt: skip


PACER = _pacer("pacer, best projected score", 0.0)
KEEPER = _pacer("pacer, keeping the target", 1.0)
PACERS = (PACER, KEEPER)

_STILL = Gains(
    rule=Rule.LARGER_ERROR, shift=0.0, tilt=0.0, pace=0.0, integral=0.0, change=0.0, target=0.0, target_opening=0.0,
    shading=0.0, tracking=0.0,
)  # fmt: skip
_RANGES = {
    "shift": (-0.8, 0.0, 0.8), "tilt": (-1.2, 0.0, 1.2), "pace": (0.0, 3.0, 8.0), "integral": (0.0, 0.15, 0.8),
    "change": (0.0, 0.0, 8.0), "target": (0.0, 1.0, 4.0), "target_opening": (-3.0, 0.0, 3.0),
    "shading": (0.0, 1.0, 1.5), "tracking": (0.0, 1.0, 1.0),
}  # fmt: skip
"""Lowest, first and highest value of each knob that a controller leaves free."""


def _controller(name: str, rule: Rule, *free: str) -> Baseline:
    def end(k: int) -> Gains:
        told = _STILL._replace(rule=rule, **{knob: _RANGES[knob][k] for knob in free})
        return Gains(*(np.float64(x) for x in told))

    return Baseline(name=name, default=end(1), low=end(0), high=end(2))


def baselines_of(kind: Kind, *, target: float) -> tuple[Baseline, ...]:
    """The baselines that differ in such worlds; `target` is inf where no target is set.

    Without a target there is nothing to take the minimum with and no target to bid; in second price nothing is shaded.
    """
    shade = () if kind.rules.format is Format.SECOND_PRICE else ("shading", "tracking")
    found = [_controller("constant", Rule.LARGER_ERROR, "shift")]
    if shade:
        found.append(_controller("constant worth, shaded", Rule.LARGER_ERROR, "shift", "shading"))
    held = ("target",) if np.isfinite(target) else ()
    found.append(
        _controller("PID", Rule.LARGER_ERROR, "shift", "tilt", "pace", "integral", "change", *held, *shade)
    )
    opened = ("target", "target_opening") if held else ()
    found.append(_controller("dual pacing", Rule.DUALS, "shift", "tilt", "pace", *opened, *shade))
    if held:
        free = ("shift", "tilt", "pace", "integral", "target", *shade)
        found.append(_controller("minimum of multipliers", Rule.SMALLER_WORTH, *free))
        found.append(_controller("target x value", Rule.TARGET, "shift", *shade))
    return (*found, *PACERS)


class Days(NamedTuple):
    """What B campaign-days came to; [B]."""

    score: Array
    spent: Array
    units: Array
    budget: Array
    target: Array
    """inf for none."""
    win_rate: Array
    """Share of the eligible auctions of the day that were won, in any slot."""


def day_of(world: World, truth: Truth, impressions: jax.Array) -> Days:
    """The sums of a day that is over; impressions: [B,I]."""
    return Days(
        day_score(truth, world), truth.spent, truth.units, world.terms.budget, world.terms.target_cpa,
        impressions.sum(-1) / world.volume_path.sum((-1, -2)),
    )  # fmt: skip


@partial(jax.jit, static_argnames="kind")
def play(world: World, landscape: Landscape, knobs: Knobs, bank: Bank, *, kind: Kind) -> Days:
    """The days of B worlds under one policy. One compiled program per kind of world and kind of policy."""
    if isinstance(knobs, PacerParams):
        truth, state = pacer_day(world, landscape, knobs, bank, kind)
        return day_of(world, truth, state.impressions)
    terms, gains = world.terms, knobs
    opened = opening(landscape, terms, jnp)

    def step(carry: _Carry, t: jax.Array) -> tuple[_Carry, None]:
        told = control(carry.state, carry.memory, opened, landscape, terms, gains, jnp)
        truth, report = half_hour(world, carry.truth, carry.state, told.log_bid, bank, t, kind)
        state = after_report(carry.state, report, landscape, terms, DEFAULT_PARAMS, jnp)
        return _Carry(truth, state, told.memory), None

    start = _Carry(start_truth(world), start_day(landscape, terms, jnp), start_memory(terms, jnp))
    end, _ = jax.lax.scan(step, start, jnp.arange(TICKS_PER_DAY))
    return day_of(world, end.truth, end.state.impressions)


class _Carry(NamedTuple):
    truth: Truth
    state: DayState
    memory: Memory


@partial(jax.jit, static_argnames="kind")
def drawn(posterior: Posterior, seeds: jax.Array, *, kind: Kind) -> World:
    """The worlds of `seeds`, by a compiled program."""
    return worlds_of(posterior, seeds, kind)


@dataclass(frozen=True)
class Tuned:
    """The chosen knobs, and how they came: the best mean score of each round, on that round's worlds."""

    baseline: Baseline
    knobs: Knobs
    rounds: tuple[float, ...]


def tune(
    baseline: Baseline, posterior: Posterior, landscape: Landscape, seed: int, kind: Kind = ONE_ITEM
) -> Tuned:
    """Choose a baseline's free knobs by mean score on worlds of `posterior`; the same world-days for every baseline.

    Each search round draws around the eight best of the round before, with a shrinking width, and keeps them among its
    candidates; the first begins at the defaults and at the baseline's other starts. The last round scores 15 elites
    and the defaults on 768 fresh worlds.
    Baselines that are tuned with one seed see the same worlds.
    """
    # Worlds and candidates have generators of their own, for the number of knobs must not move the worlds.
    rng, days = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    worlds, bids, bank = float32(posterior), float32(landscape), auctions_bank()
    low, high, best = (_inner(baseline, part) for part in (baseline.low, baseline.high, baseline.default))
    starts = (best, *(_inner(baseline, start) for start in baseline.other_starts))
    elite, width, means = np.stack(starts), 0.5, []
    for number in range(SEARCH_ROUNDS + 1):
        last = number == SEARCH_ROUNDS
        candidates = PAIRS * CHUNK // WORLDS if last else PAIRS
        around = elite[rng.integers(len(elite), size=candidates)]
        inner = np.clip(around + width * rng.normal(size=around.shape) * (high - low) / 2, low, high)
        if last:
            inner[:] = np.resize(elite, inner.shape)
        inner[: len(elite)] = elite[:candidates]
        inner[-1] = best
        seeds = days.integers(1 << 20, 1 << 30, size=(PAIRS // candidates, CHUNK))
        chunks = [drawn(worlds, jnp.asarray(row), kind=kind) for row in seeds]
        scores = [
            [play(chunk, bids, float32(_outer(baseline, one)), bank, kind=kind).score for chunk in chunks]
            for one in inner
        ]
        mean = np.asarray(jax.device_get(scores), np.float64).reshape(candidates, -1).mean(axis=1)
        order = np.argsort(-mean, kind="stable")
        elite = inner[order[: 15 if number + 1 == SEARCH_ROUNDS else 8]]
        means.append(float(mean[order[0]]))
        width *= 0.6
    return Tuned(baseline, _outer(baseline, elite[0]), tuple(means))


@dataclass(frozen=True)
class Tuning:
    """A tuned pacer and how it came: the best mean score of each round, on that round's worlds."""

    certified: Certified
    rounds: tuple[float, ...]


def tune_pacer(posterior: Posterior, landscape: Landscape, seed: int, kind: Kind = ONE_ITEM) -> Tuning:
    """The pacer of the best projected score, tuned; see `tune`."""
    tuned = tune(PACER, posterior, landscape, seed, kind)
    return Tuning(Certified(landscape, PacerParams(*tuned.knobs)), tuned.rounds)


def _inner(baseline: Baseline, knobs: Knobs) -> Floats:
    """Knobs as the search moves them: logarithms where it is told to."""
    return np.array([
        np.log(value) if name in baseline.logarithmic else value for name, value in knobs._asdict().items()
    ], np.float64)  # fmt: skip


def _outer(baseline: Baseline, inner: Floats) -> Knobs:
    names = baseline.default._fields
    return type(baseline.default)(*(
        np.float64(np.exp(value)) if name in baseline.logarithmic else np.float64(value)
        for name, value in zip(names, inner, strict=True)
    ))  # fmt: skip
