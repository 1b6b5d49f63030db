"""The yardstick: the most that could have been had of sampled auctions, known afterwards, and what to call it.

It takes auctions as plain arrays and worlds as a function that plays them; it knows neither how worlds come about
nor any policy. The LP bound is exact, in NumPy and float64: a frontier is a sort and three running sums, and
XLA sorts slowly on a processor. Worlds count in float32, so compare a score with the bound to one part in 10^5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from gaelp.bidding.pacer import score
from gaelp.core.errors import BadInput, ShapeError
from gaelp.core.xp import Array

Floats = NDArray[np.float64]

CHUNK = 1 << 17
"""Slots of sampled auctions that are sorted together: their temporaries stay within a few megabytes."""
GAIN = 1e-4
"""A search keeps its step while a world gains more than this share of its score by it."""


class Prices(Enum):
    """Whether a bid changes what the next one meets."""

    GIVEN = "given"
    ANSWERING = "answering"
    """Rivals react, users carry over or line items interact."""


class Yardstick(Enum):
    """The two lines that scores are held against, with their names where prices are given."""

    LP = "LP bound"
    MULTIPLIER = "best hindsight multiplier"


def reference_name(yardstick: Yardstick, prices: Prices) -> str:
    """What every screen calls the line. Where the market answers, neither bounds anything, and the name says so."""
    if prices is Prices.GIVEN:
        return yardstick.value
    by_lp = ", by LP" if yardstick is Yardstick.LP else ""
    return f"price-taker reference (no bound){by_lp}"


class Auctions(NamedTuple):
    """N sampled auctions in each of B campaign-days, with K competing prices in each.

    A bidder whose multiplier is m holds slot s (0 is the top) when ratio[s] <= m < ratio[s-1], and pays at least
    ratio[s] x worth x exposure[s] there: exactly that in second price and GSP, its own bid in first price, where
    the cheapest winning bid of a clairvoyant is the same amount.
    """

    ratio: Array
    """[B,N,K] competing rank scores per unit of value, falling along K; at least 0, finite."""
    value: Array
    """[B,N] objective units of the auction at exposure 1, times the auctions it stands for; at least 0."""
    worth: Array
    """[B,N] money per unit of ratio: value as the platform ranks it, times the same weight; at least 0."""
    exposure: tuple[float, ...]
    """K shares in (0, 1], not rising; (1.0,) for one slot."""
    budget: Array
    """[B] at least 0; inf for none."""
    target: Array
    """[B] cost per unit, above 0; inf for none."""
    profit: Array
    """[B] bool: the objective is the score less the spend."""


def lp_bound(auctions: Auctions) -> Floats:
    """The best objective [B] that any bidding on these auctions could reach within the budget.

    The LP is the fractional multiple-choice knapsack: in auction i a mixture of "nothing" and its slots,

        U(S) = max sum_is units_is x_is   with   sum_is cost_is x_is <= S,  sum_s x_is <= 1,  x >= 0.

    U is the value of an LP in its right-hand side: concave, not falling, piecewise linear. Its pieces are the
    steps along each auction's upper hull of (cost, units), cheapest units first (Sinha and Zoltners 1979), so one
    sort gives all of U, and a budget ends in a fraction of one step.

    The objective is f(units, S) = units x min(1, (C units / S)^2), less S where it is profit. Why max over S <= budget
    of f(U(S), S) bounds it: whatever a bidder does, it spends some S <= budget and has, as a point of the LP, at most
    U(S) units; f does not fall in units. Why finitely many S suffice: on a piece U = a + r S with a >= 0. While
    C U >= S, f = U or U - S is linear. Beyond, f = C^2 (a + r S)^3 / S^2 = C^2 (a^3/S^2 + 3 a^2 r/S + 3 a r^2 + r^3 S)
    is convex, and less S still. So the maximum lies at an end of a piece, at the budget, or where C U = S,
    which, U being concave, happens at most once after the start.

    It bounds what is counted on these auctions, fractions included. Clicks that are drawn instead may be luckier.
    Raises ShapeError or BadInput naming field and place where the auctions are impossible.
    """
    _check(auctions)
    ratio, value, worth = (np.asarray(x) for x in (auctions.ratio, auctions.value, auctions.worth))
    budget, target = (np.asarray(x, np.float64) for x in (auctions.budget, auctions.target))
    profit = np.asarray(auctions.profit)
    worlds = budget.shape[0]
    rows = max(1, CHUNK // ratio[0].size)
    best = np.empty(worlds)
    for start in range(0, worlds, rows):
        these = slice(start, start + rows)
        spend, units = _frontier(ratio[these], value[these], worth[these], auctions.exposure)
        best[these] = _best_on_frontier(
            spend, units, budget[these, None], target[these, None], profit[these, None]
        )
    return best


class _Steps(NamedTuple):
    """Steps on upper hulls, all of one shape; one that no auction needs costs nothing and brings nothing."""

    cost: Floats
    units: Floats
    rate: Floats
    """cost / units; inf for a step that is not needed."""


class _Points(NamedTuple):
    """Points of frontiers, [b,P]."""

    spend: Floats
    units: Floats
    reached: NDArray[np.bool_]
    """Whether the budget allows the point and the frontier has it."""


def _hull_steps(cost: Floats, units: Floats) -> _Steps:
    """Each auction's climb along its upper hull, from nothing.

    cost, units: [K,...], not rising along K. Returns steps of the same shape, rates not falling along K.
    """
    steps = _Steps(np.zeros_like(cost), np.zeros_like(cost), np.full_like(cost, np.inf))
    at_cost, at_units = np.zeros_like(cost[0]), np.zeros_like(cost[0])
    for k in range(cost.shape[0]):
        # From the top slot down and strictly cheaper: of equal rates the furthest step is taken.
        for slot_cost, slot_units in zip(cost, units, strict=True):
            dearer, more = slot_cost - at_cost, slot_units - at_units
            rate = np.divide(dearer, more, out=np.full_like(more, np.inf), where=more > 0)
            better = rate < steps.rate[k]
            for line, new in zip(steps, (dearer, more, rate), strict=True):
                np.copyto(line[k], new, where=better)
        at_cost, at_units = at_cost + steps.cost[k], at_units + steps.units[k]
    return steps


def _frontier(ratio: Array, value: Array, worth: Array, exposure: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Spend and units at the ends of U's pieces, [b, 1 + N K], neither falling, from (0, 0)."""
    shown = np.array(exposure)[:, None, None]
    units = value.astype(np.float64) * shown
    cost = np.moveaxis(ratio, -1, 0).astype(np.float64) * worth.astype(np.float64) * shown
    steps = _Steps(*(np.moveaxis(x, 0, 1).reshape(len(ratio), -1) for x in _hull_steps(cost, units)))
    order = np.argsort(steps.rate, axis=-1)

    def ends(step: Floats) -> Floats:
        line = np.zeros((len(ratio), order.shape[1] + 1))
        np.cumsum(np.take_along_axis(step, order, axis=-1), axis=-1, out=line[:, 1:])
        return line

    return ends(steps.cost), ends(steps.units)


def _best_on_frontier(
    spend: Floats, units: Floats, budget: Floats, target: Floats, profit: NDArray[np.bool_]
) -> Floats:
    """The best objective [b] over the ends of pieces within the budget, the budget's end and the target's.

    budget, target, profit: [b,1].
    """
    # Where there is no budget or no target nothing crosses it: 0 stands in for inf in the differences alone.
    some_budget, some_target = (np.where(np.isfinite(x), x, 0.0) for x in (budget, target))
    ends = _Points(spend, units, spend <= budget)
    last = _crossing(spend, units, spend - some_budget, ~ends.reached)
    at_budget = last._replace(spend=np.minimum(last.spend, budget))
    too_dear = np.isfinite(target) & (some_target * units < spend)
    at_target = _crossing(spend, units, spend - some_target * units, too_dear)
    at_target = at_target._replace(reached=at_target.reached & (at_target.spend <= budget))

    def best(points: _Points) -> Floats:
        got = score(points.units, points.spend, target, np) - np.where(profit, points.spend, 0.0)
        return np.where(points.reached, got, -np.inf).max(axis=-1)

    return np.maximum(best(ends), np.maximum(best(at_budget), best(at_target)))


def _crossing(spend: Floats, units: Floats, excess: Floats, beyond: NDArray[np.bool_]) -> _Points:
    """Where `excess` rises through 0, in the piece whose end is the first point `beyond`; [b,1]."""
    there = beyond.any(axis=-1, keepdims=True)
    end = np.maximum(beyond.argmax(axis=-1), 1)[:, None]

    def piece(line: Floats) -> tuple[Floats, Floats]:
        start = np.take_along_axis(line, end - 1, axis=-1)
        return start, np.take_along_axis(line, end, axis=-1) - start

    below, rise = piece(excess)
    share = np.clip(np.divide(-below, rise, out=np.zeros_like(rise), where=there), 0.0, 1.0)
    (spent, more_spend), (had, more_units) = piece(spend), piece(units)
    return _Points(spent + share * more_spend, had + share * more_units, np.asarray(there))


def _check(auctions: Auctions) -> None:
    """Raise ShapeError or BadInput unless these are auctions."""
    ratio, budget = np.asarray(auctions.ratio), np.asarray(auctions.budget)
    slots = len(auctions.exposure)
    if ratio.ndim != 3 or 0 in ratio.shape or ratio.shape[2] != slots:
        raise ShapeError(
            f"auctions: ratio has shape {ratio.shape}, expected (days, auctions, {slots}), none of them 0: "
            f"exposure names {slots} slots."
        )
    days, per_day = ratio.shape[:2]
    shapes = {
        "value": (days, per_day),
        "worth": (days, per_day),
        "budget": (days,),
        "target": (days,),
        "profit": (days,),
    }
    for name, shape in shapes.items():
        if np.shape(getattr(auctions, name)) != shape:
            raise ShapeError(
                f"auctions: {name} has shape {np.shape(getattr(auctions, name))}, expected {shape}."
            )
    if np.asarray(auctions.profit).dtype != np.bool_:
        raise BadInput(f"auctions: profit has type {np.asarray(auctions.profit).dtype}, expected bool.")
    falls = all(a >= b for a, b in pairwise(auctions.exposure))
    if not (falls and all(0 < share <= 1 for share in auctions.exposure)):
        raise BadInput(
            f"auctions: exposure is {auctions.exposure}, expected shares in (0, 1] that do not rise."
        )
    target = np.asarray(auctions.target)
    _refuse("budget", budget, budget >= 0, "at least 0, or inf for none")
    _refuse("target", target, target > 0, "above 0, or inf for none")
    for name in ("ratio", "value", "worth"):
        field = np.asarray(getattr(auctions, name))
        _refuse(name, field, (field >= 0) & (field < np.inf), "a finite number of at least 0")
    falls_along = np.ones(ratio.shape, bool)
    falls_along[..., 1:] = ratio[..., 1:] <= ratio[..., :-1]
    _refuse("ratio", ratio, falls_along, "at most that of the slot above")


def _refuse(name: str, field: NDArray[np.floating], fine: NDArray[np.bool_], expected: str) -> None:
    if not fine.all():
        place = np.unravel_index(fine.argmin(), fine.shape)
        raise BadInput(f"auctions: {name}{[int(i) for i in place]} is {field[place]}, expected {expected}.")


@dataclass(frozen=True)
class Axis:
    """One knob of a constant policy: its range in each world, [B], and on how many points the search begins."""

    low: Array
    high: Array
    points: int

    def __post_init__(self) -> None:
        low, high = np.asarray(self.low), np.asarray(self.high)
        if low.ndim != 1 or low.shape != high.shape or low.shape[0] == 0:
            raise ShapeError(
                f"axis: low has shape {low.shape}, high {high.shape}, expected (worlds,) for both."
            )
        fine = np.isfinite(low) & np.isfinite(high) & (low < high)
        if not fine.all():
            b = int(fine.argmin())
            raise BadInput(
                f"axis: world {b} has low {low[b]}, high {high[b]}, expected low < high, both finite."
            )
        if self.points < 3:
            raise BadInput(f"axis: points is {self.points}, expected at least 3.")


class Hindsight(NamedTuple):
    """The best constant knobs of each world, known afterwards."""

    knobs: Floats
    """[D,B] in the order of the axes."""
    score: Floats
    """[B] what they score."""
    at_edge: NDArray[np.bool_]
    """[B] the knobs stand at an end of an axis and a little inside is worse: the range may be too narrow."""


def best_multiplier(
    score_of: Callable[..., Array], *axes: Axis, starts: int = 2, halvings: int = 9
) -> Hindsight:
    """The best constant knobs in hindsight, world by world, all worlds played at once.

    score_of: takes one array [B] for each axis (the log multiplier; in first price the shading beside it), plays all
    worlds once and returns scores [B]. It must answer alike when asked alike.
    First every point of the grid; then a pattern search (Torczon 1997) from each of the `starts` best points that no
    neighbour beats: the step, at first half a cell, goes to the best of the 3^D - 1 points around, is kept while
    a world gains by it and halved when it does not, `halvings` times. Never below the grid's best point.

    Raises BadInput when a score is not finite: the best of such would mean nothing.
    """
    low, high = (np.stack([np.asarray(end, np.float64) for end in ends])
                 for ends in ([a.low for a in axes], [a.high for a in axes]))  # fmt: skip
    cell = 1.0 / (np.array([axis.points for axis in axes])[:, None] - 1)
    worlds = np.arange(low.shape[1])

    def play(place: Floats) -> Floats:
        """Scores [B] at `place` [D,B] or [D,1], in shares of the axes."""
        knobs = low + (high - low) * place
        return _finite(np.asarray(score_of(*knobs), np.float64), knobs)

    cube = tuple(axis.points for axis in axes)
    grid = np.indices(cube).reshape(len(cube), -1) * cell
    found = np.stack([play(place[:, None]) for place in grid.T])
    shaped = found.reshape(*cube, -1)
    hill = (shaped == maximum_filter(shaped, size=(*(3 for _ in cube), 1))).reshape(found.shape)
    ranked = np.argsort(np.where(hill, -found, np.inf), axis=0, kind="stable")
    around = [np.array(d)[:, None] * cell for d in product((-1, 0, 1), repeat=len(cube)) if any(d)]

    best, at = found[ranked[0], worlds], grid[:, ranked[0]]
    for first in ranked[:starts]:
        here, top = grid[:, first], found[first, worlds]
        halved = np.ones(len(worlds))
        while (halved <= halvings).any():
            places = np.stack([np.clip(here + step * 0.5**halved, 0.0, 1.0) for step in around])
            scores = np.stack([play(place) for place in places])
            pick = scores.argmax(axis=0)
            # A world that is done stands still, whatever others still look for: it finds the same in any company.
            reached = np.where(halved <= halvings, scores[pick, worlds], top)
            here = np.where(reached > top, places[pick, :, worlds].T, here)
            halved = halved + (reached <= top + GAIN * np.abs(top))
            top = np.maximum(reached, top)
        at, best = np.where(top > best, here, at), np.maximum(top, best)
    little = cell * 0.5**halvings
    return Hindsight(low + (high - low) * at, best, play(np.clip(at, little, 1.0 - little)) < best)


def _finite(scores: Floats, knobs: Floats) -> Floats:
    if scores.shape != knobs.shape[1:]:
        raise ShapeError(f"the scores have shape {scores.shape}, expected {knobs.shape[1:]}.")
    if not np.isfinite(scores).all():
        b = int(np.isfinite(scores).argmin())
        raise BadInput(f"world {b} scores {scores[b]} at {knobs[:, b].tolist()}, expected a finite number.")
    return scores
