"""The ladder of a recorded log: every baseline's value beside the LP bound of the same auctions and budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.online_lp import OnlineLp
from gaelp.bidding.stream import HIGHEST_MULTIPLIER, Bidder
from gaelp.core.errors import BadInput
from gaelp.logs.theta import ThetaAuctions
from gaelp.market.log_baselines import DualPacing, Pid, Progress
from gaelp.market.log_oracle import LpBound, best_multiplier, lp_bound
from gaelp.market.replay import Policy, ReplayOptions
from gaelp.market.stretch import (
    Bought,
    Stretch,
    bought,
    episode_of,
    halves,
    whole_log,
    won_by_bidder,
    won_by_bids,
)

FIRST_MULTIPLIER_ERRORS = (10.0, 0.1)
"""The certified pacer is also shown beginning so many times the best multiplier in hindsight."""


class Part(Enum):
    """The part of the log on which a row's figures were bought."""

    WHOLE = "whole log"
    REST = "second half"


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One policy's row. `lp_value` and `budget` (of all its episodes) are those of the part it was scored on."""

    name: str
    scored_on: Part
    bought: Bought
    lp_value: float
    budget: Fraction

    @property
    def share_of_lp(self) -> float:
        """Value over the LP bound; 1 where the bound is 0 and so is the value."""
        return self.bought.value / self.lp_value if self.lp_value > 0.0 else 1.0

    @property
    def spend_share(self) -> float:
        """Spend over all budgets; 0 where there was nothing to spend."""
        return float(self.bought.spend / self.budget) if self.budget > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Every policy on one log. `budget` is that of one episode; `best_multiplier` the best single one in hindsight."""

    auctions: int
    episodes: int
    budget: Fraction
    log_clicks: int
    log_cost: int
    lp_value: float
    best_multiplier: float
    rungs: tuple[Rung, ...]


def climb(
    chunks: Iterable[ThetaAuctions],
    options: ReplayOptions,
    *,
    first_multiplier_error: float | None = None,
    policy: Policy | None = None,
) -> Ladder:
    """Play every baseline, and `policy` where one is given, on the log; it is held in memory.

    first_multiplier_error: begin PID, dual pacing and the certified pacer at so many times the best multiplier in
    hindsight; without it they begin by their own rule, and the certified pacer is shown ten times wrong as well.
    Raises BadInput for a log or episodes too short (stretch.py), or an error that is no number above 0.
    """
    wrong = first_multiplier_error
    if wrong is not None and not (np.isfinite(wrong) and wrong > 0):
        raise BadInput(
            f"--first-multiplier-error is {wrong}, expected a finite number above 0 such as 10 or 0.1."
        )
    log = whole_log(chunks, options)
    bound = lp_bound(log)
    best = best_multiplier(log, bound)
    first_half, rest = halves(log)
    tuned = best_multiplier(first_half, lp_bound(first_half))

    episode = episode_of(log, 0)
    progress = Progress(episode=episode)
    first = None if wrong is None else _times(wrong, best)
    mark = "" if wrong is None else f" x{wrong:g}"
    pacers: list[tuple[str, Bidder]] = [
        (f"pid{mark}", Pid(progress=progress, multiplier=first)),
        (f"dual{mark}", DualPacing(progress=progress, multiplier=first)),
        (f"certified pacer{mark}", OnlineLp(episode=episode, multiplier=first)),
    ]
    if wrong is None:
        pacers += [
            (f"certified pacer x{error:g}", OnlineLp(episode=episode, multiplier=_times(error, best)))
            for error in FIRST_MULTIPLIER_ERRORS
        ]
    value = log.auctions.value
    rungs = [
        _rung("hindsight", Part.WHOLE, log, bound, won_by_bids(log, best * value)),
        _rung("constant", Part.REST, rest, lp_bound(rest), won_by_bids(rest, tuned * rest.auctions.value)),
        *(_rung(name, Part.WHOLE, log, bound, won_by_bidder(log, bidder)) for name, bidder in pacers),
    ]
    if policy is not None:
        rungs.append(_rung(policy.name, Part.WHOLE, log, bound, won_by_bids(log, policy.bids(value))))
    return Ladder(
        auctions=len(log.auctions),
        episodes=log.episodes,
        budget=log.budget,
        log_clicks=int(log.auctions.click.sum()),
        log_cost=int(log.auctions.price.sum()),
        lp_value=bound.value,
        best_multiplier=best,
        rungs=tuple(rungs),
    )


def _rung(name: str, part: Part, stretch: Stretch, bound: LpBound, won: NDArray[np.bool_]) -> Rung:
    return Rung(
        name=name,
        scored_on=part,
        bought=bought(stretch, won),
        lp_value=bound.value,
        budget=stretch.budget * stretch.episodes,
    )


def _times(error: float, best: float) -> float:
    return min(error * best, HIGHEST_MULTIPLIER)
