"""A recorded log cut by order into training, selection and certification, each of whole episodes; draws nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import count

import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import BadInput
from gaelp.logs.theta import ThetaAuctions
from gaelp.market.auction_fit import FEWEST_AUCTIONS
from gaelp.market.log_episodes import HIGHEST, Terms
from gaelp.market.replay import ReplayOptions
from gaelp.market.stretch import Stretch

HELD_OUT = 5
"""Selection and certification are one episode in so many each, the last ones of the log; training is the rest."""
FEWEST_TRAINING, FEWEST_CERTIFICATION = 16, 8
"""Episodes: one training call of the historical phase, and as many as an interval needs to say anything at all."""


@dataclass(frozen=True, kw_only=True)
class LogSplit:
    """The parts of a log, in its order, and what every episode has. What is left of the last episode is unused."""

    training: ThetaAuctions
    selection: ThetaAuctions
    certification: ThetaAuctions
    terms: Terms
    unused: int

    def episodes(self, part: ThetaAuctions) -> int:
        """How many episodes a part holds."""
        return len(part) // self.terms.auctions

    def stretch(self, *parts: ThetaAuctions) -> Stretch:
        """Consecutive parts as the ladder of logs knows them, one budget an episode."""
        joined = _joined(parts)
        edges: NDArray[np.intp] = np.arange(0, len(joined) + 1, self.terms.auctions)
        highest = None if self.terms.max_bid == HIGHEST - 1 else Fraction(self.terms.max_bid)
        budget = Fraction(self.terms.budget)
        options = ReplayOptions(episode_auctions=self.terms.auctions, episode_budget=budget, max_bid=highest)
        return Stretch(joined, edges, budget, options)


def split_log(
    chunks: Iterable[ThetaAuctions], *, auctions: int, fraction: Fraction | None, budget: int | None,
    max_bid: int | None,
) -> LogSplit:  # fmt: skip
    """Cut the log into episodes of so many auctions, the last fifth certification, the fifth before it selection.

    The budget of an episode is `budget`, or `fraction` of what a mean training episode costs whole: later parts have no
    say in it. Raises BadInput, in one sentence, for a log that is too short or a budget below 1.
    """
    whole = _joined(list(chunks))
    n = len(whole)
    needed = fewest_auctions(auctions)
    if n < needed:
        raise BadInput(
            f"the log holds {n} auctions, a journey with episodes of {auctions} needs at least {needed}: the fifth for "
            f"selection must hold {FEWEST_AUCTIONS} auctions, that for certification {FEWEST_CERTIFICATION} episodes, "
            f"and training {FEWEST_TRAINING}."
        )
    episodes = n // auctions
    held_out = episodes // HELD_OUT * auctions
    used = episodes * auctions
    training = _rows(whole, 0, used - 2 * held_out)
    if fraction is not None:
        budget = math.floor(fraction * Fraction(cost_of(training) * auctions, len(training)))
        if not 1 <= budget < HIGHEST:
            raise BadInput(
                f"--budget-fraction {fraction} of a mean training episode is a budget of {budget}, expected 1 to "
                f"{HIGHEST - 1} whole units of the log's money."
            )
    if budget is None:
        raise BadInput("no budget is given, expected --budget-fraction or --episode-budget.")
    return LogSplit(
        training=training,
        selection=_rows(whole, used - 2 * held_out, used - held_out),
        certification=_rows(whole, used - held_out, used),
        terms=Terms(auctions=auctions, budget=budget, max_bid=HIGHEST - 1 if max_bid is None else max_bid),
        unused=n - used,
    )


def cost_of(part: ThetaAuctions) -> int:
    """What all its auctions cost, exactly."""
    # In two halves: more than 2^23 of the highest prices would overflow one sum.
    return (int((part.price >> 20).sum()) << 20) + int((part.price & ((1 << 20) - 1)).sum())


def fewest_auctions(episode_auctions: int) -> int:
    """The shortest log that can be split into episodes of this length."""

    def enough(episodes: int) -> bool:
        held_out = episodes // HELD_OUT
        return (
            held_out * episode_auctions >= FEWEST_AUCTIONS
            and held_out >= FEWEST_CERTIFICATION
            and episodes - 2 * held_out >= FEWEST_TRAINING
        )

    return next(n for n in count(HELD_OUT, HELD_OUT) if enough(n)) * episode_auctions


def _joined(parts: Iterable[ThetaAuctions]) -> ThetaAuctions:
    parts = list(parts)
    return ThetaAuctions(
        click=np.concatenate([np.empty(0, np.int8), *(part.click for part in parts)]),
        price=np.concatenate([np.empty(0, np.int64), *(part.price for part in parts)]),
        value=np.concatenate([np.empty(0), *(part.value for part in parts)]),
    )


def _rows(log: ThetaAuctions, start: int, end: int) -> ThetaAuctions:
    part = slice(start, end)
    return ThetaAuctions(click=log.click[part], price=log.price[part], value=log.value[part])
