"""Calibration: from aggregated hourly reports to a posterior over worlds and a landscape for the pacer.

A plain fit, campaign by campaign: normal approximations, standard errors from Fisher information or from days, no
rivals' reaction, no day-to-day carry-over, one delay rate for all. What it assumes is written at each step; a
later version widens it. It sees only what a platform reports, plus the incumbent's own randomisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from gaelp.bidding.landscape import Landscape, normal_cdf, normal_quantile, tabulate
from gaelp.core.errors import BadInput
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array
from gaelp.market.world import BUDGETS, EXPOSURE_UNIT, Posterior, absent

MEMORIES = (0.8, 0.85, 0.9, 0.93, 0.95, 0.97)
"""Decays per half hour tried for fatigue; the most likely one is taken as known."""


@dataclass(frozen=True)
class Hours:
    """Hourly reports of G line items over D days, [G,D,48] unless said; money in currency units.

    move: the incumbent's randomised log multiplier, the instrument that makes the bid's effect identifiable.
    arrived: conversions of the day's clicks known by the end of the half hour. target_cpa, [G]. weekday, [D].
    """

    log_bid: Array
    eligible: Array
    impressions: Array
    clicks: Array
    cost: Array
    conversions: Array
    arrived: Array
    move: Array
    target_cpa: Array
    weekday: NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = self.log_bid.shape
        if len(shape) != 3 or shape[2] != TICKS_PER_DAY or shape[1] < 3:
            raise BadInput(
                f"calibration needs at least 3 whole days of {TICKS_PER_DAY} half hours, got shape {shape}."
            )
        for name in (
            "log_bid",
            "eligible",
            "impressions",
            "clicks",
            "cost",
            "conversions",
            "arrived",
            "move",
        ):
            array = getattr(self, name)
            if array.shape != shape or not np.isfinite(array).all():
                raise BadInput(f"{name}: shape {array.shape} or values do not fit {shape} finite numbers.")

    def days(self, rows: slice) -> Hours:
        """The same line items on some of the days."""
        cut = {n: getattr(self, n)[:, rows] for n in (
            "log_bid", "eligible", "impressions", "clicks", "cost", "conversions", "arrived", "move")}  # fmt: skip
        return Hours(**cut, target_cpa=self.target_cpa, weekday=self.weekday[rows])


@dataclass(frozen=True)
class Interval90:
    """An estimate with its 90 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A posterior over worlds, the landscape a pacer solves on, and what the log could tell of fatigue."""

    posterior: Posterior
    landscape: Landscape
    fatigue: Interval90
    fatigue_memory: float
    days: int


def calibrate(hours: Hours, budget_low: float, budget_high: float) -> Fit:
    """Fit worlds to hourly reports; budgets of future campaign-days lie in [budget_low, budget_high] units."""
    g_items, n_days, _ = hours.log_bid.shape
    slopes = [_price_slope(hours, g) for g in range(g_items)]
    pooled_slope, pooled_slope_se, slope_sd = _pool(*(np.array(x) for x in zip(*slopes, strict=True)))
    parts = []
    for g in range(g_items):
        slope, slope_se = _shrunk(*slopes[g], pooled_slope, slope_sd)
        # What is drawn to the pool shares the pool's own uncertainty.
        parts.append(_line_item(hours, g, slope, float(np.hypot(slope_se, pooled_slope_se))))
    arrival = _arrival(hours)
    fits = _fatigue(hours)
    best = max(fits, key=lambda fit: fit.likelihood)
    pooled, pooled_se, between = _pool(best.strength, best.strength_se)
    shrunk, shrunk_se = _shrunk(best.strength, best.strength_se, pooled, between)
    # What is drawn to the pool shares the pool's own uncertainty.
    shrunk_se = np.sqrt(shrunk_se**2 + pooled_se**2)
    shared = {name: np.array([part[name] for part in parts]) for name in parts[0]}
    known = (
        "price_mean",
        "price_sd",
        "clicks_price",
        "click_rate",
        "cost_scale",
        "volume",
        "traffic",
        "price_hour",
        "price_day_sd",
    )
    delay = {"delay_share": np.tile([1.0, 0.0], (g_items, 1)), "delay_rate": np.full((g_items, 2), arrival)}
    fitted: dict[str, Any] = {name: shared[name] for name in known} | delay
    landscape = tabulate(
        **fitted,
        conversion_rate=(hours.conversions.sum((1, 2)) + 1.0) / (hours.clicks.sum((1, 2)) + 4.0),
        order_value=np.ones(g_items), slot_gap=np.zeros(g_items),
    )  # fmt: skip
    told = {
        **absent(g_items), **shared, **delay, "conversion_rate": best.base, "conversion_rate_se": best.base_se,
        "fatigue": shrunk, "fatigue_se": shrunk_se, "fatigue_memory": np.full(g_items, best.memory),
        "budget_low": np.full(g_items, budget_low), "budget_high": np.full(g_items, budget_high),
        "target_cpa": np.repeat(hours.target_cpa[:, None], BUDGETS, axis=1),
        "traffic": np.repeat(shared["traffic"][:, None], 7, axis=1),
    }  # fmt: skip
    posterior = Posterior(**told)
    interval = _fatigue_interval(fits)
    return Fit(posterior, landscape, interval, best.memory, n_days)


def _demeaned(x: Array, weight: Array) -> Array:
    """Residual of x [D,48] after weighted day and half-hour effects (alternating projections)."""
    out = x.copy()
    for _ in range(12):
        out = out - (out * weight).sum(1, keepdims=True) / np.maximum(weight.sum(1, keepdims=True), 1e-9)
        out = out - (out * weight).sum(0, keepdims=True) / np.maximum(weight.sum(0, keepdims=True), 1e-9)
    return out


def _autoregression(residual: Array, weight: Array, noise: float) -> tuple[float, float]:
    """(sd, memory) of an AR(1) path in [D,48] residuals that also hold white measurement noise of variance `noise`."""
    ok = weight > 0
    total = float((residual[ok] ** 2).mean())
    pairs = ok[:, 1:] & ok[:, :-1]
    lag1 = float((residual[:, 1:] * residual[:, :-1])[pairs].mean()) if pairs.any() else 0.0
    variance = max(total - noise, 1e-4)
    memory = float(np.clip(lag1 / variance, 0.0, 0.98))
    return float(np.sqrt(variance)), memory


def _usable(hours: Hours, g: int) -> tuple[Array, Array, Array]:
    """(half hours with both won and lost auctions, Phi^-1 of the win rate, its precision in probit units), [D,48]."""
    eligible, impressions = hours.eligible[g], hours.impressions[g]
    share = (impressions + 0.5) / (eligible + 1.0)
    usable = (eligible >= 20) & (impressions >= 1) & (impressions < eligible)
    if usable.sum() < 3 * TICKS_PER_DAY // 2:
        raise BadInput(
            f"line item {g}: only {int(usable.sum())} half hours with both won and lost auctions; too few to fit."
        )
    z = normal_quantile(share, np)
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    return usable, z, np.where(usable, eligible * density**2 / (share * (1 - share)), 0.0)


def _price_slope(hours: Hours, g: int) -> tuple[float, float]:
    """(1 / price_sd, its standard error) of one line item, by two-stage least squares.

    Phi^-1(win rate) on the log bid within day and half-hour effects, with the randomised move as instrument, since the
    pacer's own bid follows the price; the standard error is clustered by day.
    """
    usable, z, _ = _usable(hours, g)
    # Weighted by volume, not by precision: a precision read off the win share itself would bend the slope.
    capped = np.where(usable, hours.eligible[g], 0.0)
    move, response, price = (_demeaned(x, capped) for x in (hours.move[g], z, hours.log_bid[g]))
    strength = (capped * move * price).sum()
    if abs(strength) < 1e-6:
        raise BadInput(
            f"line item {g}: the log holds no randomised bid variation, so the price scale cannot be told."
        )
    slope = float((capped * move * response).sum() / strength)
    scatter = capped * move * (response - slope * price)
    return slope, max(float(np.sqrt((scatter.sum(1) ** 2).sum()) / abs(strength)), 1e-3)


def _shrunk(own: Any, se: Any, pooled: float, between: float) -> tuple[Any, Any]:
    """(estimate, standard error) of each item, drawn to the pool by how far items truly differ (empirical Bayes)."""
    trust = between**2 / (between**2 + se**2)
    return trust * own + (1 - trust) * pooled, np.sqrt(trust) * se


def _line_item(hours: Hours, g: int, slope: float, slope_se: float) -> dict[str, Array]:
    """Landscape and traffic of one line item, given its (shrunk) price slope."""
    bid, eligible = hours.log_bid[g], hours.eligible[g]
    clicks, cost = hours.clicks[g], hours.cost[g]
    usable, z, weight = _usable(hours, g)
    capped = np.minimum(weight, np.median(weight[usable]))
    slope = float(np.clip(slope, 0.3, 4.0))
    sd = 1.0 / slope
    implied = bid - sd * z
    mean = float((capped * implied).sum() / capped.sum())
    by_hour = (capped * (implied - mean)).sum(0) / np.maximum(capped.sum(0), 1e-9)
    seen = capped.sum(1) > 0
    by_day = ((capped * (implied - mean - by_hour)).sum(1) / np.maximum(capped.sum(1), 1e-9))[seen]
    residual = np.where(usable, _demeaned(implied - mean, capped), 0.0)
    noise = float((sd**2 / np.maximum(weight[usable], 1e-9)).mean())
    tick_sd, tick_memory = _autoregression(residual, capped, noise)
    day_sd = float(by_day.std(ddof=1))

    correlations = np.linspace(-1.5, 1.0, 51)
    bought = eligible[usable, None] * normal_cdf(z[usable, None] - correlations, np)
    rates = clicks[usable].sum() / bought.sum(0)
    likelihood = (clicks[usable, None] * np.log(rates * bought + 1e-12) - rates * bought).sum(0)
    rho, rate = float(correlations[likelihood.argmax()]), float(rates[likelihood.argmax()])
    ratio = normal_cdf(z - rho - sd, np) / np.maximum(normal_cdf(z - rho, np), 1e-9)
    per_click = np.exp(implied + sd * rho + 0.5 * sd * sd) * ratio
    paid = usable & (clicks > 0)
    scale = cost[paid].sum() / (clicks[paid] * per_click[paid]).sum()

    volume_day = eligible.sum(1)
    traffic = (eligible / volume_day[:, None]).mean(0)
    log_day = np.log(volume_day / volume_day.mean())
    weekday = np.zeros(7)
    for day in range(7):
        on = hours.weekday == day
        weekday[day] = log_day[on].sum() / (on.sum() + 2.0)
    left = log_day - weekday[hours.weekday]
    volume_residual = np.log((eligible + 0.5) / (volume_day[:, None] * traffic + 0.5))
    volume_sd, volume_memory = _autoregression(
        volume_residual, eligible, float((1.0 / np.maximum(eligible, 1.0)).mean())
    )
    told = {
        "price_mean": mean,
        "price_mean_se": day_sd / np.sqrt(len(by_day)),
        "price_sd": sd,
        "price_sd_se": min(slope_se * sd * sd, 0.3 * sd),
        "clicks_price": rho,
        "click_rate": rate,
        "cost_scale": scale,
        "volume": volume_day.mean(),
        "volume_day_sd": left.std(ddof=1),
        "volume_tick_sd": volume_sd,
        "volume_tick_memory": volume_memory,
        "price_day_sd": day_sd,
        "price_tick_sd": tick_sd,
        "price_tick_memory": tick_memory,
        "weekday": weekday,
        "traffic": traffic / traffic.sum(),
        "price_hour": by_hour,
    }
    return {name: np.asarray(value, np.float64) for name, value in told.items()}


def _exposure(hours: Hours, memory: float) -> Array:
    """Decayed exposure before each half hour, in EXPOSURE_UNIT of an ordinary day's auctions, [G,D,48]."""
    per_tick = hours.impressions / (EXPOSURE_UNIT * hours.eligible.sum(2).mean(1)[:, None, None])
    out = np.zeros_like(per_tick)
    for t in range(1, TICKS_PER_DAY):
        out[..., t] = memory * out[..., t - 1] + per_tick[..., t - 1]
    return out


@dataclass(frozen=True)
class _Tiring:
    """A fit of conversions ~ Poisson(clicks x base x exp(-strength x exposure)) at one memory; arrays [G]."""

    likelihood: float
    memory: float
    strength: Array
    strength_se: Array
    base: Array
    base_se: Array


def _fatigue(hours: Hours) -> list[_Tiring]:
    """The fit at every memory of the grid, by Newton's method on (log base, strength) per line item."""
    fits: list[_Tiring] = []
    clicks, seen = hours.clicks, hours.conversions
    for memory in MEMORIES:
        tired = _exposure(hours, memory)
        log_base = np.log((seen.sum((1, 2)) + 1) / (clicks.sum((1, 2)) + 2))
        strength = np.zeros_like(log_base)
        for _ in range(25):
            mean = clicks * np.exp(log_base[:, None, None] - strength[:, None, None] * tired)
            score = np.stack([(seen - mean).sum((1, 2)), (-(seen - mean) * tired).sum((1, 2))], -1)
            a, b, c = mean.sum((1, 2)), -(mean * tired).sum((1, 2)), (mean * tired**2).sum((1, 2))
            determinant = np.maximum(a * c - b * b, 1e-9)
            log_base = log_base + np.clip((c * score[:, 0] - b * score[:, 1]) / determinant, -0.5, 0.5)
            strength = strength + np.clip((a * score[:, 1] - b * score[:, 0]) / determinant, -0.2, 0.2)
        mean = clicks * np.exp(log_base[:, None, None] - strength[:, None, None] * tired)
        likelihood = float((seen * np.log(mean + 1e-12) - mean).sum())
        base = np.exp(log_base)
        se, base_se = np.sqrt(a / determinant), base * np.sqrt(c / determinant)
        fits.append(_Tiring(likelihood, memory, strength, se, base, base_se))
    return fits


def _fatigue_interval(fits: list[_Tiring]) -> Interval90:
    """The mean strength over line items, averaged over the memories by their likelihood.

    The memory is not known either: its share of the doubt is the spread of the estimates between memories.
    """
    weight = np.exp(np.array([fit.likelihood for fit in fits]) - max(fit.likelihood for fit in fits))
    weight = weight / weight.sum()
    pools = [_pool(fit.strength, fit.strength_se) for fit in fits]
    means, ses = np.array([p[0] for p in pools]), np.array([p[1] for p in pools])
    mean = float(weight @ means)
    sd = float(np.sqrt(weight @ (ses**2 + (means - mean) ** 2)))
    return Interval90(mean, mean - 1.645 * sd, mean + 1.645 * sd)


def _pool(strength: Array, se: Array) -> tuple[float, float, float]:
    """Random-effects mean, its standard error and the between-item sd (DerSimonian and Laird, 1986)."""
    weight = 1 / se**2
    fixed = (weight * strength).sum() / weight.sum()
    spread = (weight * (strength - fixed) ** 2).sum() - (len(se) - 1)
    between2 = max(0.0, spread / (weight.sum() - (weight**2).sum() / weight.sum()))
    weight = 1 / (se**2 + between2)
    return (
        float((weight * strength).sum() / weight.sum()),
        float(weight.sum() ** -0.5),
        float(np.sqrt(between2)),
    )


def _arrival(hours: Hours) -> float:
    """The geometric delay's rate per half hour: least squares of what was known against what arrived in the end."""

    def known(rate: float) -> Array:
        pending = np.zeros(hours.conversions.shape[:2])
        total = np.zeros_like(pending)
        out = np.zeros_like(hours.conversions)
        for t in range(TICKS_PER_DAY):
            pending = pending + hours.conversions[..., t]
            total = total + rate * pending
            pending = (1 - rate) * pending
            out[..., t] = total
        return out

    found = minimize_scalar(
        lambda r: float(((known(r) - hours.arrived) ** 2).sum()), bounds=(0.005, 0.9), method="bounded"
    )
    return float(found.x)
