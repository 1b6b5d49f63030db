"""Rare segments: which episodes a training call sees, and the fixed weights that make up for the choice.

The goal stays the population's, `sum_h P_h E_h[f]`. Of n episodes n_h are taken from stratum h, and each then
weighs `w_h = P_h / (n_h / n)`: what is seen more often counts less, once, in every loss (which divides by its
number of rows, not by the sum of weights). Gradients, values and estimates keep their expectation and lose
variance where the value is; nothing is counted twice, since a rare segment's value is in its reward already.

    allocation = neyman(shares, deviations(returns_of(pilot), strata_of(pilot)), n=64, floor=4)
    metrics = await engine.train_step(episode_results=draw(batch, allocation, rng), batch_size=64, num_epochs=4)

Whole episodes are drawn and not transitions, since returns are made of what follows. Episodes are as long as one
another in campaigns; where they are not, longer strata make every weighted mean smaller by one common factor.
Source: Horvitz and Thompson (1952); Neyman (1934); Cochran (1977), sections 5.5 and 5A.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gaelp.core.episode import EpisodeBatch, select
from gaelp.core.errors import BadInput, UnusableBatch

SHARE_SLACK = 1e-9
"""How far the population's shares may be from adding up to 1."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """How many episodes of each stratum a call sees: segment -> its share P_h of the population, its count n_h."""

    shares: Mapping[int, float]
    counts: Mapping[int, int]

    def __post_init__(self) -> None:
        _require_shares(self.shares)
        if set(self.counts) != set(self.shares):
            raise BadInput(f"counts are of segments {sorted(self.counts)}, shares of {sorted(self.shares)}.")
        for segment, count in self.counts.items():
            if count < 1:
                raise BadInput(
                    f"segment {segment} gets {count} episodes: a stratum that is never seen has no estimate."
                )

    @property
    def n(self) -> int:
        """Episodes in all."""
        return sum(self.counts.values())

    @property
    def weights(self) -> dict[int, float]:
        """`w_h = P_h / (n_h / n)` by segment. Fixed: what was drawn does not enter, so their mean is 1 exactly."""
        return {h: share * self.n / self.counts[h] for h, share in self.shares.items()}

    @property
    def effective_sample_share(self) -> float:
        """(sum w)^2 / (n sum w^2) of the weights: 1 when all are alike.

        What a statistic that varies alike everywhere would be worth; for one that varies where the allocation
        looks, `variance` is the figure to compare.
        """
        square = sum(count * self.weights[h] ** 2 for h, count in self.counts.items())
        return self.n / square

    def variance(self, deviations: Mapping[int, float]) -> float:
        """`sum_h P_h^2 sigma_h^2 / n_h`: of the weighted mean of a statistic with these deviations."""
        return sum(
            share**2 * _deviation(deviations, h) ** 2 / self.counts[h] for h, share in self.shares.items()
        )


def neyman(shares: Mapping[int, float], deviations: Mapping[int, float], *, n: int, floor: int) -> Allocation:
    """n episodes with n_h proportional to P_h sigma_h and at least `floor` for every stratum.

    shares: of the population. deviations: sigma_h of a pilot; strata that vary nowhere are shared out by P_h.
    Counts are rounded by largest remainder, the lower segment first among equals.
    Raises BadInput when n does not cover the floors.
    """
    _require_shares(shares)
    segments = sorted(shares)
    if floor < 1 or n < floor * len(segments):
        raise BadInput(
            f"{n} episodes cannot give {len(segments)} strata at least {floor} each (and at least 1)."
        )
    pull = {h: shares[h] * _deviation(deviations, h) for h in segments}
    if not any(pull.values()):
        pull = dict(shares)
    # Strata that would fall below the floor get it, and the rest is shared out anew among the others.
    floored: set[int] = set()
    while True:
        free = [h for h in segments if h not in floored]
        left, whole = n - floor * len(floored), math.fsum(pull[h] for h in free)
        exact = {h: left * pull[h] / whole for h in free}
        below = {h for h in free if exact[h] < floor}
        if not below:
            break
        floored |= below
    counts = dict.fromkeys(floored, floor) | {h: math.floor(exact[h]) for h in free}
    by_remainder = sorted(free, key=lambda h: (counts[h] - exact[h], h))
    for h in by_remainder[: n - sum(counts.values())]:
        counts[h] += 1
    return Allocation(dict(shares), {h: counts[h] for h in segments})


def proportional(shares: Mapping[int, float], *, n: int) -> Allocation:
    """n episodes by the population's shares alone, one each at least: what Neyman's allocation is compared to."""
    return neyman(shares, dict.fromkeys(shares, 1.0), n=n, floor=1)


def strata_of(batch: EpisodeBatch) -> NDArray[np.int32]:
    """The segment [B] of each episode.

    Raises UnusableBatch for an episode without valid transitions or of several segments: it belongs to no stratum.
    """
    valid, segment = np.asarray(batch.valid), np.asarray(batch.segment)
    if not valid.any(axis=1).all():
        raise UnusableBatch(f"valid: episode {int(np.argmin(valid.any(axis=1)))} has no valid transition.")
    first = segment[np.arange(len(valid)), valid.argmax(axis=1)]
    mixed = (valid & (segment != first[:, None])).any(axis=1)
    if mixed.any():
        raise UnusableBatch(
            f"segment: episode {int(np.argmax(mixed))} holds several; a stratum is made of whole episodes."
        )
    return first.astype(np.int32)


def shares_of(strata: NDArray[np.integer]) -> dict[int, float]:
    """P_h by segment, of a batch [B] that stands for the population."""
    segments, counts = np.unique(strata, return_counts=True)
    return {int(h): float(c) / len(strata) for h, c in zip(segments, counts, strict=True)}


def deviations(statistic: NDArray[np.floating], strata: NDArray[np.integer]) -> dict[int, float]:
    """sigma_h by segment of a pilot: statistic [B] or [B, K] per episode, strata [B].

    For K numbers (a gradient, say) sigma_h is the root of their summed variances, which is what Neyman's rule
    makes least for the sum of all K. Raises BadInput for a stratum of one episode: it has no deviation.
    """
    numbers = np.asarray(statistic, np.float64).reshape(len(strata), -1)
    if not np.isfinite(numbers).all():
        raise BadInput(
            f"statistic: episode {int(np.argwhere(~np.isfinite(numbers))[0, 0])} of the pilot is not finite."
        )
    found = {}
    for segment in np.unique(strata).tolist():
        rows = numbers[strata == segment]
        if len(rows) < 2:
            raise BadInput(f"segment {segment} has one episode in the pilot, a deviation takes at least two.")
        found[int(segment)] = float(np.sqrt(rows.var(axis=0, ddof=1).sum()))
    return found


def returns_of(batch: EpisodeBatch) -> NDArray[np.float64]:
    """The reward [B] of each episode in sum: the pilot's statistic where nothing closer to the gradient is at hand."""
    return np.where(batch.valid, batch.reward, 0.0).sum(axis=1, dtype=np.float64)


def draw(batch: EpisodeBatch, allocation: Allocation, rng: np.random.Generator) -> EpisodeBatch:
    """n episodes of `batch` by stratum, with their weights.

    Of a stratum of N_h episodes each is taken floor(n_h / N_h) times and the remainder without replacement, so
    each is expected n_h / N_h times. Raises UnusableBatch for a batch that is weighted already, or in which a
    stratum has no episode; BadInput for segments that the allocation does not know.
    """
    strata = strata_of(batch)
    _require_known(strata, allocation)
    rows = []
    for segment, count in sorted(allocation.counts.items()):
        (there,) = np.nonzero(strata == segment)
        if not len(there):
            raise UnusableBatch(
                f"segment: no episode of segment {segment} to draw from, {count} are to be seen."
            )
        again, left = divmod(count, len(there))
        rows += [np.repeat(there, again), rng.choice(there, left, replace=False)]
    return weighed(select(batch, np.concatenate(rows)), allocation)


def weighed(batch: EpisodeBatch, allocation: Allocation) -> EpisodeBatch:
    """Episodes that were played by the allocation, so many of each stratum, with their weights.

    Raises UnusableBatch for a batch that is weighted already (a second time would undo what the first time
    made right) or that holds other counts than were allocated.
    """
    weight = np.asarray(batch.weight)
    if (weight != 1).any():
        raise UnusableBatch(
            f"weight: episode {int(np.argmax(weight != 1))} weighs {weight[np.argmax(weight != 1)]:g} already; "
            "Horvitz-Thompson weights are applied once."
        )
    strata = strata_of(batch)
    _require_known(strata, allocation)
    for segment, count in allocation.counts.items():
        found = int((strata == segment).sum())
        if found != count:
            raise UnusableBatch(
                f"segment: {found} episodes of segment {segment}, {count} were allocated: their weights would be wrong."
            )
    by_segment = allocation.weights
    return replace(batch, weight=np.array([by_segment[int(h)] for h in strata], np.float32))


def effective_sample_share(batch: EpisodeBatch) -> float:
    """(sum w)^2 / (n sum w^2) of the weights over the batch's valid transitions: what its metrics tell of them."""
    valid = np.asarray(batch.valid)
    weight = np.broadcast_to(np.asarray(batch.weight, np.float64)[:, None], valid.shape)[valid]
    return float(weight.sum() ** 2 / (weight.size * np.square(weight).sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilityWeight:
    """The business values a segment's reward at `factor` times what was earned: another objective, not a correction.

    It has nothing to do with sampling. version: counted up whenever segment or factor change.
    """

    segment: int
    factor: float
    version: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise BadInput(f"utility: factor {self.factor} of segment {self.segment}, expected above 0.")
        if self.version < 1:
            raise BadInput(f"utility: version {self.version}, versions are counted from 1.")

    @property
    def hash(self) -> str:
        """What an approval is given to: changes with segment, factor and version."""
        told = [self.segment, float(self.factor), self.version]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class UtilityApproval:
    """One person's yes to one utility weight, by its hash."""

    utility_hash: str
    by: str

    def __post_init__(self) -> None:
        if not self.by.strip():
            raise BadInput("utility: an approval names the person who gave it.")


def valued(batch: EpisodeBatch, utility: UtilityWeight, approval: UtilityApproval) -> EpisodeBatch:
    """The batch with the segment's rewards times the declared factor; weights stay, provenance says what was done.

    Raises BadInput when the approval is for another utility weight, UnusableBatch when the rewards were
    multiplied already.
    """
    if approval.utility_hash != utility.hash:
        raise BadInput(
            f"utility: {approval.by} approved {approval.utility_hash!r}, this is {utility.hash!r} (segment "
            f"{utility.segment}, factor {utility.factor:g}, version {utility.version}): have it approved."
        )
    for i, told in enumerate(batch.provenance):
        if told.utility:
            raise UnusableBatch(f"reward: episode {i} is valued by {told.utility!r} already, once is enough.")
    said = f"segment {utility.segment} x {utility.factor:g}, version {utility.version}, approved by {approval.by}"
    reward = np.asarray(batch.reward)
    factor = np.where(np.asarray(batch.segment) == utility.segment, utility.factor, 1.0)
    return replace(
        batch,
        reward=(reward * factor).astype(reward.dtype),
        provenance=tuple(replace(told, utility=said) for told in batch.provenance),
    )


def utilities_of(batch: EpisodeBatch) -> tuple[str, ...]:
    """What multiplied rewards in this batch, each declaration once; empty where all are as they were earned."""
    return tuple(sorted({told.utility for told in batch.provenance if told.utility}))


def _require_shares(shares: Mapping[int, float]) -> None:
    if not shares or not all(math.isfinite(p) and p > 0 for p in shares.values()):
        raise BadInput(f"shares of the population are {dict(shares)}, expected each above 0.")
    if abs(math.fsum(shares.values()) - 1.0) > SHARE_SLACK:
        raise BadInput(
            f"shares of the population add up to {math.fsum(shares.values()):g}, expected 1: {dict(shares)}."
        )


def _require_known(strata: NDArray[np.integer], allocation: Allocation) -> None:
    unknown = sorted(set(strata.tolist()) - set(allocation.shares))
    if unknown:
        raise BadInput(
            f"segments {unknown} are in the batch, the allocation knows {sorted(allocation.shares)}: "
            "their share of the population would be lost."
        )


def _deviation(deviations: Mapping[int, float], segment: int) -> float:
    if segment not in deviations:
        raise BadInput(f"segment {segment} has a share and no deviation: it is not in the pilot.")
    sigma = deviations[segment]
    if not (math.isfinite(sigma) and sigma >= 0):
        raise BadInput(f"segment {segment} has deviation {sigma}, expected 0 or more.")
    return sigma
