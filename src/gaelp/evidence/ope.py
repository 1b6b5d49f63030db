"""Off-policy estimates from logged probabilities: what one policy would have earned on another's days."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gaelp.core.errors import BadInput, ShapeError

Floats = NDArray[np.float64]

LOG_PROB_SLACK = 1e-5
"""How far above 0 a float32 log-softmax may round; anything more is no probability."""
ESS_MIN, ESS_SHARE_MIN, SHARE_MAX, Z_MAX = 100.0, 0.01, 0.05, 3.0
"""Starting bars: effective episodes, their share of all, one episode's share of the weight, |z| of its mean."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One check of the weights: its figure, the bar it is held against, and whether it is met."""

    name: str
    figure: float
    bar: float
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OPEResult:
    """A per-decision importance sampling estimate and how far it may be trusted.

    estimate, standard_error: reward units per episode; per_episode[n] averages to the estimate.
    weights[n]: the whole-episode weight W. ess = (sum W)^2 / sum W^2, ess_share = ess / n.
    mean_weight[T], mean_weight_z[T]: mean of W_{0:t} over all episodes and its distance from 1 in standard
    errors; an episode that ended earlier keeps its last weight, whose mean is 1 as well.
    largest_share: the share of sum W held by one episode. Where all weights are 0, ess and it are 0.
    """

    episodes: int
    estimate: float
    standard_error: float
    per_episode: Floats
    weights: Floats
    ess: float
    ess_share: float
    mean_weight: Floats
    mean_weight_z: Floats
    largest_share: float
    diagnostics: tuple[Diagnostic, ...]

    @property
    def final_mean_weight(self) -> float:
        """Mean of the whole-episode weights; 1 when the logged probabilities are the true ones."""
        return float(self.mean_weight[-1])

    @property
    def worst_z(self) -> float:
        """The mean weight's largest distance from 1 over the steps, in standard errors, with its sign."""
        return float(self.mean_weight_z[np.argmax(np.abs(self.mean_weight_z))])


@dataclass(frozen=True, slots=True)
class Placebo:
    """The behaviour policy judged against itself: anything but the plain mean is a fault of the estimator."""

    estimate: float
    empirical_mean: float

    @property
    def exact(self) -> bool:
        return self.estimate == self.empirical_mean


def pdis(log_pi_e: ArrayLike, log_pi_b: ArrayLike, reward: ArrayLike, valid: ArrayLike) -> OPEResult:
    """Per-decision importance sampling, (1/n) sum_i sum_t W_{0:t} r_t with W_{0:t} = prod_{s<=t} pi_e/pi_b.

    All arrays (n, T): log probabilities of the logged raw action under the judged and the behaviour policy,
    reward in any unit, valid as bool (False = padding, ignored). No discount. Unbiased when the logged
    probabilities are the true ones and the behaviour could do all that the judged policy does.
    log_pi_e may be -inf (the judged policy would never do this).

    Raises BadInput naming episode and step for a missing (NaN) or impossible probability (above 1, or 0 for
    the action that was taken), a reward that is not finite, an episode without valid steps, and fewer than
    two episodes; ShapeError when shapes differ.
    Source: Precup, Sutton and Singh (2000), Eligibility traces for off-policy policy evaluation.
    """
    judged, behaviour, earned = (np.asarray(a, dtype=np.float64) for a in (log_pi_e, log_pi_b, reward))
    kept = np.asarray(valid)
    _check(judged, behaviour, earned, kept)
    ratio = np.zeros_like(earned)
    np.subtract(judged, behaviour, out=ratio, where=kept)
    log_weight = np.cumsum(ratio, axis=1)
    _refuse(
        log_weight > 700.0,
        "the importance weight is beyond what a float can hold: the policies share no support",
    )
    weight = np.exp(log_weight)
    per_episode = np.where(kept, weight * np.where(kept, earned, 0.0), 0.0).sum(axis=1)
    n = len(per_episode)
    final = weight[:, -1]
    total, squares = float(final.sum()), float((final**2).sum())
    ess = total**2 / squares if squares > 0.0 else 0.0
    largest = float(final.max()) / total if total > 0.0 else 0.0
    mean = weight.mean(axis=0)
    # Equal weights have no spread; the floor keeps z finite, 0 at a mean of 1 and huge anywhere else.
    z = (mean - 1.0) / np.maximum(weight.std(axis=0, ddof=1) / math.sqrt(n), 1e-12)
    steepest = float(np.abs(z).max())
    return OPEResult(
        episodes=n,
        estimate=float(per_episode.mean()),
        standard_error=float(per_episode.std(ddof=1)) / math.sqrt(n),
        per_episode=per_episode,
        weights=final,
        ess=ess,
        ess_share=ess / n,
        mean_weight=mean,
        mean_weight_z=z,
        largest_share=largest,
        diagnostics=(
            Diagnostic("mean_weight_z", steepest, Z_MAX, steepest < Z_MAX),
            Diagnostic("effective_episodes", ess, ESS_MIN, ess >= ESS_MIN),
            Diagnostic("effective_share", ess / n, ESS_SHARE_MIN, ess / n >= ESS_SHARE_MIN),
            Diagnostic("largest_share", largest, SHARE_MAX, largest <= SHARE_MAX),
        ),
    )


def placebo(log_pi_b: ArrayLike, reward: ArrayLike, valid: ArrayLike) -> Placebo:
    """Judge the behaviour policy by its own log: the estimate must be the empirical mean, to the last bit.

    Shapes, units and errors as in `pdis`.
    """
    result = pdis(log_pi_b, log_pi_b, reward, valid)
    plain = np.where(np.asarray(valid), np.asarray(reward, dtype=np.float64), 0.0).sum(axis=1)
    return Placebo(result.estimate, float(plain.mean()))


def _check(judged: Floats, behaviour: Floats, earned: Floats, kept: NDArray[np.bool_]) -> None:
    if earned.ndim != 2 or any(a.shape != earned.shape for a in (judged, behaviour, kept)):
        raise ShapeError(
            f"log_pi_e {judged.shape}, log_pi_b {behaviour.shape}, reward {earned.shape} and valid "
            f"{kept.shape} must share one shape (episodes, steps)."
        )
    if kept.dtype != np.bool_:
        raise ShapeError(f"valid holds {kept.dtype}, expected bool.")
    if len(earned) < 2:
        raise BadInput(f"{len(earned)} episodes to judge by: a standard error needs at least 2.")
    empty = np.flatnonzero(~kept.any(axis=1))
    if empty.size:
        raise BadInput(f"episode {int(empty[0])} has no valid step.")
    _refuse(kept & np.isnan(behaviour), "the behaviour's log probability is missing (NaN)")
    _refuse(kept & np.isneginf(behaviour), "the behaviour's probability is 0 for the action that was taken")
    _refuse(kept & (behaviour > LOG_PROB_SLACK), "the behaviour's log probability is above 0")
    _refuse(kept & np.isnan(judged), "the judged policy's log probability is missing (NaN)")
    _refuse(kept & (judged > LOG_PROB_SLACK), "the judged policy's log probability is above 0")
    _refuse(kept & ~np.isfinite(earned), "the reward is not finite")


def _refuse(bad: NDArray[np.bool_], why: str) -> None:
    if bad.any():
        episode, step = (int(i) for i in np.argwhere(bad)[0])
        raise BadInput(f"episode {episode}, step {step}: {why}.")
