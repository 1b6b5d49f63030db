"""Estimates with honest doubt: parameters against their priors, line items drawn to their pool; knows no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr
from scipy.stats import t as student

from gaelp.core.errors import BadInput
from gaelp.core.xp import Array

Z90 = 1.6448536
"""Half of a normal 90 % interval, in standard deviations."""
TELLING = 0.6
"""A log tells a parameter where its 90 % interval is at most this share of the prior's."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """What a fit says of one number of one line item (item None: of the account): estimate and 90 % interval.

    identified: the log tells it. Otherwise the interval is about as wide as the prior's, and `says` tells why.
    """

    name: str
    item: int | None
    estimate: float
    low: float
    high: float
    prior_low: float
    prior_high: float
    identified: bool
    says: str

    def __post_init__(self) -> None:
        if not self.low <= self.estimate <= self.high or not self.prior_low <= self.prior_high:
            raise BadInput(
                f"{self.name}: an estimate lies in its interval, got {self.low}, {self.estimate}, {self.high}."
            )


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What is believed before the log: a normal distribution cut off at `least`."""

    mean: float
    sd: float
    least: float = -np.inf

    @property
    def interval(self) -> tuple[float, float]:
        """Its 90 % interval, on the uncut scale's own bounds."""
        low, high = self.mean - Z90 * self.sd, self.mean + Z90 * self.sd
        return max(low, self.least), max(high, self.least)


@dataclass(frozen=True, kw_only=True)
class Marginal:
    """Means, standard deviations and 90 % intervals of G line items, [G]."""

    mean: Array
    sd: Array
    low: Array
    high: Array


def normal(mean: Array, sd: Array, least: float = -np.inf) -> Marginal:
    """Normal marginals cut off at `least`."""
    low, high = mean - Z90 * sd, mean + Z90 * sd
    return Marginal(
        mean=np.maximum(mean, least), sd=sd, low=np.maximum(low, least), high=np.maximum(high, least)
    )


def log_normal(mean: Array, sd: Array) -> Marginal:
    """Marginals of a positive number whose relative standard error is sd / mean."""
    ratio = np.exp(Z90 * sd / mean)
    return Marginal(mean=mean, sd=sd, low=mean / ratio, high=mean * ratio)


def widened(found: Marginal, extra: Array) -> Marginal:
    """Marginals of a number that cannot be negative, with an independent error of deviation `extra` added."""
    low = found.mean - np.hypot(found.mean - found.low, Z90 * extra)
    high = found.mean + np.hypot(found.high - found.mean, Z90 * extra)
    return Marginal(mean=found.mean, sd=np.hypot(found.sd, extra), low=np.maximum(low, 0.0), high=high)


def told(name: str, found: Marginal, prior: tuple[float, float], says: str, unknown: str) -> list[Parameter]:
    """One parameter a line item; `says` where the log tells it, `unknown` where it does not."""
    rows = []
    for item, (mean, low, high) in enumerate(zip(found.mean, found.low, found.high, strict=True)):
        known = bool(high - low <= TELLING * (prior[1] - prior[0]))
        rows.append(
            Parameter(
                name=name, item=item, estimate=float(mean), low=float(min(low, mean)), high=float(max(high, mean)),
                prior_low=prior[0], prior_high=prior[1], identified=known, says=says if known else unknown,
            )
        )  # fmt: skip
    return rows


def small_sample(days: int) -> float:
    """How much wider a 90 % interval is when its standard error was itself estimated from so many days."""
    return float(student.ppf(0.95, days - 1) / Z90)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Line items drawn to what they have in common, [G], and the common mean with its standard error.

    low, high: the 90 % interval. It is narrower than a normal's of the same deviation, whose tails are thinner.
    """

    mean: Array
    sd: Array
    low: Array
    high: Array
    common: float
    common_se: float


def pool(own: Array, se: Array) -> Pool:
    """Normal estimates `own` [G] with errors `se` [G] around a common mean, averaged over how far items truly differ.

    The prior on the common mean and on the standard deviation between items is flat; the latter is summed over a grid.
    A plug-in estimate of it would often be 0 and claim too much. Source: Gelman et al., Bayesian Data Analysis, 5.4.
    """
    between = np.linspace(0.0, 3.0 * max(float(own.std()), float(se.mean())), 61)[:, None]
    weight = 1.0 / (se**2 + between**2)
    total = weight.sum(1, keepdims=True)
    common = (weight * own).sum(1, keepdims=True) / total
    log_p = 0.5 * (np.log(weight).sum(1) - np.log(total[:, 0]) - (weight * (own - common) ** 2).sum(1))
    p = np.exp(log_p - log_p.max())[:, None]
    p = p / p.sum()
    trust = between**2 * weight
    mean_at = trust * own + (1.0 - trust) * common
    variance_at = trust * se**2 + (1.0 - trust) ** 2 / total
    mean, middle = (p * mean_at).sum(0), float((p * common).sum())
    return Pool(
        mean=mean,
        sd=np.sqrt((p * (variance_at + (mean_at - mean) ** 2)).sum(0)),
        low=mixture_quantile(0.05, p, mean_at, np.sqrt(variance_at)),
        high=mixture_quantile(0.95, p, mean_at, np.sqrt(variance_at)),
        common=middle,
        common_se=float(np.sqrt((p * (1.0 / total + (common - middle) ** 2)).sum())),
    )


def mixture_quantile(level: float, weight: Array, mean: Array, sd: Array) -> Array:
    """Quantile of mixtures of normals, all [K,G] with weights [K,1], by bisection; [G]."""
    low, high = (mean - 10.0 * sd).min(0), (mean + 10.0 * sd).max(0)
    for _ in range(40):
        middle = 0.5 * (low + high)
        above = (weight * ndtr((middle - mean) / sd)).sum(0) > level
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return 0.5 * (low + high)


def with_prior(mean: Array, sd: Array, prior: Prior) -> tuple[Array, Array]:
    """(mean, sd) after a normal prior has been added to normal estimates."""
    precision = 1.0 / sd**2 + 1.0 / prior.sd**2
    return (mean / sd**2 + prior.mean / prior.sd**2) / precision, precision**-0.5
