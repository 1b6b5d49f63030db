"""Judging worlds: policies played on held-out seeds in worlds fitted on selection days, beside every baseline."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import BadInput, nearest
from gaelp.market.campaign import SCALE_FLOOR, CampaignMarket, Certified

TRAINING_SEEDS, TUNING_SEEDS, JUDGING_SEEDS = 0, 1 << 20, 1 << 31
"""Where each use of world seeds begins; training worlds are drawn from posteriors of other days besides."""


@dataclass
class JudgingWorlds:
    """An evaluator for learning verification: `worlds` seeds of `market`, scores as shares of the certified pacer's."""

    market: CampaignMarket
    retuned: Certified
    worlds: int
    seed: int
    _raw: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def seeds(self) -> NDArray[np.integer]:
        return (JUDGING_SEEDS + self.seed * 65536 % (1 << 30) + np.arange(self.worlds)).astype(np.uint32)

    def raw(self, name: str) -> NDArray[np.float64]:
        """Scores [n] in conversions of 'pacer', 'retuned', 'random' or 'reference' on the judging seeds."""
        if name not in self._raw:
            played = {
                "pacer": lambda: self.market.pacer(self.market.certified, self.seeds),
                "retuned": lambda: self.market.pacer(self.retuned, self.seeds),
                "random": lambda: self.market.random(self.seeds),
                "reference": lambda: self.market.price_taker_reference(self.seeds),
            }
            if name not in played:
                raise BadInput(f"no reference policy {name!r}.{nearest(name, played)}")
            self._raw[name] = np.asarray(played[name](), np.float64)
        return self._raw[name]

    def scores(self, policies: object, seeds: NDArray[np.integer]) -> NDArray[np.floating]:
        """Shares [P,n] of the certified pacer's score, by the policies' modes."""
        return np.asarray(self.market.scores(policies, seeds)["score"], np.float64) / self._scale()

    def reference(self, name: str, seeds: NDArray[np.integer]) -> NDArray[np.floating]:
        """Shares [n] of 'pacer', 'retuned' or 'random'."""
        return self.raw(name) / self._scale()

    def _scale(self) -> NDArray[np.float64]:
        return np.maximum(self.raw("pacer"), SCALE_FLOOR)
