"""Judging worlds: policies played on held-out seeds in worlds fitted on selection days, beside every baseline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import BadInput, nearest

TRAINING_SEEDS, TUNING_SEEDS, JUDGING_SEEDS = 0, 1 << 20, 1 << 31
"""Where each use of world seeds begins; training worlds are drawn from posteriors of other days besides."""


Pacer = TypeVar("Pacer")


class JudgedMarket(Protocol[Pacer]):
    """Plays whole policies and pacers on chosen seeds; scores in the objective's own unit."""

    @property
    def certified(self) -> Pacer:
        """The pacer around which policies move."""
        ...

    def scale(self, pacer: Any) -> Any:
        """What a score of 1 is, [n], where the certified pacer scores `pacer`."""
        ...

    @property
    def hidden_width(self) -> int:
        """H of its episodes."""
        ...

    def scores(self, policies: Any, seeds: Any) -> Any:
        """By name, 'score' among them, [P,n] of P stacked policies by their modes."""
        ...

    def pacer(self, certified: Pacer, seeds: Any) -> Any:
        """[n] of a pacer by itself."""
        ...

    def random(self, seeds: Any) -> Any:
        """[n] of moves drawn alike from all allowed ones."""
        ...

    def best_in_hindsight(self, seeds: Any) -> Any:
        """[n] of the line that scores are told as shares of."""
        ...


@dataclass
class JudgingWorlds(Generic[Pacer]):
    """An evaluator for learning verification: `worlds` seeds of `market`, scores as shares of the certified pacer's."""

    market: JudgedMarket[Pacer]
    retuned: Pacer
    worlds: int
    seed: int
    _raw: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def seeds(self) -> NDArray[np.integer]:
        return (JUDGING_SEEDS + self.seed * 65536 % (1 << 30) + np.arange(self.worlds)).astype(np.uint32)

    def raw(self, name: str) -> NDArray[np.float64]:
        """Scores [n] of 'pacer', 'retuned', 'random' or 'reference' on the judging seeds, in the objective's unit."""
        if name not in self._raw:
            played = {
                "pacer": lambda: self.market.pacer(self.market.certified, self.seeds),
                "retuned": lambda: self.market.pacer(self.retuned, self.seeds),
                "random": lambda: self.market.random(self.seeds),
                "reference": lambda: self.market.best_in_hindsight(self.seeds),
            }
            if name not in played:
                raise BadInput(f"no reference policy {name!r}.{nearest(name, played)}")
            self._raw[name] = np.asarray(played[name](), np.float64)
        return self._raw[name]

    def scores(self, policies: object, seeds: NDArray[np.integer]) -> NDArray[np.floating]:
        """Shares [P,n] of the certified pacer's score, by the policies' modes."""
        return np.asarray(self.market.scores(policies, seeds)["score"], np.float64) / self.scale()

    def reference(self, name: str, seeds: NDArray[np.integer]) -> NDArray[np.floating]:
        """Shares [n] of 'pacer', 'retuned' or 'random'."""
        return self.raw(name) / self.scale()

    def scale(self) -> NDArray[np.float64]:
        """What a share of 1 is, [n], in the objective's own unit."""
        return np.asarray(self.market.scale(self.raw("pacer")), np.float64)
