"""Calibration: from aggregated hourly reports to a posterior over worlds, a landscape for the pacer, and what is
not known.

Prices, volumes, delay, conversions and rivals are fitted one after the other, each in a file of its own, which says
what it assumes. It sees only what a platform reports, plus the incumbent's own randomisation. What no hourly report
tells at all (refunds, a rare segment, how reports are corrected, the platform's autobidder) is left out of the worlds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gaelp.bidding.landscape import Landscape, tabulate
from gaelp.core.errors import BadInput
from gaelp.core.xp import Array
from gaelp.market import fit_conversions, fit_prices, fit_rivals, fit_volumes, paths
from gaelp.market.estimates import Z90, Marginal, Parameter, Prior, log_normal, normal, small_sample, told
from gaelp.market.fit_conversions import Conversions
from gaelp.market.fit_delay import Delay, fit_delay, matured, matured_at_reading
from gaelp.market.fit_prices import Prices
from gaelp.market.fit_rivals import RivalFit
from gaelp.market.fit_volumes import WEEKDAYS, Volumes
from gaelp.market.hours import Hours
from gaelp.market.world import BUDGETS, Posterior, absent


@dataclass(frozen=True)
class Interval90:
    """An estimate with its 90 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A posterior over worlds, the landscape a pacer solves on, and every parameter with its doubt.

    fatigue: the mean strength over line items.
    """

    posterior: Posterior
    landscape: Landscape
    fatigue: Interval90
    fatigue_memory: float
    days: int
    parameters: tuple[Parameter, ...]


def calibrate(hours: Hours, budget_low: float, budget_high: float) -> Fit:
    """Fit worlds to hourly reports; budgets of future campaign-days lie in [budget_low, budget_high] units.

    Raises BadInput for a log that is too short or too thin, naming the line item.
    """
    items, days, _ = hours.log_bid.shape
    if not 0.0 < budget_low <= budget_high:
        raise BadInput(f"budgets: expected 0 < lowest <= highest, got {budget_low:g} and {budget_high:g}.")
    prices, volumes, delay = fit_prices.fit_prices(hours), fit_volumes.fit_volumes(hours), fit_delay(hours)
    known = matured_at_reading(delay, hours)
    conversions = fit_conversions.fit_conversions(hours, volumes.volume, known)
    rivals = fit_rivals.fit_rivals(hours, prices)
    order_value, order_value_se = _order_values(hours)
    late = {"delay_share": np.tile(delay.share, (items, 1)), "delay_rate": np.tile(delay.rate, (items, 1))}
    shared = {
        "price_sd": prices.sd, "clicks_price": prices.clicks_price, "click_rate": prices.click_rate,
        "cost_scale": prices.cost_scale, "volume": volumes.volume, "order_value": order_value, **late,
    }  # fmt: skip
    landscape = tabulate(
        **shared, price_mean=prices.mean, price_hour=prices.by_hour, price_day_sd=prices.shocks.day_sd.mean,
        traffic=_common_traffic(volumes, hours), slot_gap=np.zeros(items), conversion_rate=_average_rate(hours, known),
    )  # fmt: skip
    # The worlds' rivals answer in them: what they do on an ordinary day is taken out of the level that was seen.
    usual = (landscape.traffic * rivals.usual).sum(1)
    posterior = Posterior(**{
        **absent(items), **shared,
        "price_mean": prices.mean - usual, "price_mean_se": prices.mean_se, "price_sd_se": prices.sd_se,
        "price_hour": prices.by_hour - rivals.usual + usual[:, None], "price_day_sd": prices.shocks.day_sd.mean,
        "price_tick_sd": prices.shocks.tick_sd.mean, "price_tick_memory": prices.shocks.memory.mean,
        "clicks_price_se": prices.clicks_price_se, "click_rate_se": prices.click_rate_se,
        "conversion_rate": conversions.rate, "conversion_rate_se": conversions.rate_se,
        "order_value_se": order_value_se, "fatigue": conversions.fatigue.mean, "fatigue_se": conversions.fatigue.sd,
        "fatigue_memory": np.repeat(conversions.memory.mean, items),
        "awareness": np.repeat(conversions.awareness.mean, items),
        "awareness_se": np.repeat(conversions.awareness.sd, items),
        "awareness_memory": np.repeat(conversions.aware_memory.mean, items), "carried": conversions.carried,
        "carried_sd": conversions.carried_sd, "volume_day_sd": volumes.shocks.day_sd.mean,
        "volume_tick_sd": volumes.shocks.tick_sd.mean, "volume_tick_memory": volumes.shocks.memory.mean,
        "weekday": volumes.weekday, "traffic": volumes.traffic, "rival_gain": rivals.gain.mean,
        "rival_gain_se": rivals.gain.sd, "rival_purse": rivals.purse.mean,
        "rival_sd": np.full(items, fit_rivals.RIVAL_SD),
        "budget_low": np.full(items, budget_low), "budget_high": np.full(items, budget_high),
        "target_cpa": np.repeat(hours.target_cpa[:, None], BUDGETS, axis=1),
    })  # fmt: skip
    tiring = conversions.fatigue_mean
    return Fit(
        posterior=posterior, landscape=landscape, fatigue=Interval90(*(float(x[0]) for x in (
            tiring.mean, tiring.low, tiring.high))),
        fatigue_memory=float(conversions.memory.mean[0]), days=days,
        parameters=_parameters(hours, prices, volumes, delay, conversions, rivals, order_value, order_value_se),
    )  # fmt: skip


def _common_traffic(volumes: Volumes, hours: Hours) -> Array:
    """[G,48] the shape of the log's days on average, for a pacer that knows one shape."""
    mean = volumes.traffic[:, hours.weekday].mean(1)
    return mean / mean.sum(1, keepdims=True)


def _average_rate(hours: Hours, known: Array) -> Array:
    """Conversions per click over the log's own exposure, with one click at the account's rate added."""
    seen, clicks = hours.conversions.sum((1, 2)), (hours.clicks * known).sum((1, 2))
    if seen.sum() <= 0:
        raise BadInput("the log holds no conversion at all: nothing tells what a click is worth.")
    return (seen + seen.sum() / clicks.sum()) / (clicks + 1.0)


def _order_values(hours: Hours) -> tuple[Array, Array]:
    """Mean value of a conversion and its standard error between days; 1 and 0 where the log tells no values."""
    if hours.worth is None:
        return np.ones(len(hours.log_bid)), np.zeros(len(hours.log_bid))
    worth, count = hours.worth.sum(2), hours.conversions.sum(2)
    if (worth.sum(1) <= 0).any():
        raise BadInput(f"worth: line item {int(worth.sum(1).argmin())} has no order of any value in the log.")
    mean = worth.sum(1) / count.sum(1)
    left = worth - mean[:, None] * count
    return mean, np.sqrt((left**2).sum(1)) / count.sum(1) * small_sample(worth.shape[1])


def _parameters(
    hours: Hours, prices: Prices, volumes: Volumes, delay: Delay, conversions: Conversions, rivals: RivalFit,
    order_value: Array, order_value_se: Array,
) -> tuple[Parameter, ...]:  # fmt: skip
    """Every fitted number with its interval, the prior's, and whether the log tells it."""
    level = float(hours.log_bid.mean())
    spread, memory = paths.PRIOR_SD, paths.PRIOR_MEMORY
    rare = "too few randomised moves"
    about = [
        told("price_mean", normal(prices.mean, prices.mean_se),
             (level - Z90 * fit_prices.PRICE_MEAN_SD, level + Z90 * fit_prices.PRICE_MEAN_SD),
             "win shares; log of the money per click", "win shares leave it open"),
        told("price_sd", log_normal(prices.sd, prices.sd_se), _inverse(fit_prices.SLOPE),
             "win shares against randomised moves", rare),
        told("price_day_sd", prices.shocks.day_sd, spread, "win shares between days", "too few days"),
        told("price_tick_sd", prices.shocks.tick_sd, spread, "win shares within days", "too few half hours"),
        told("price_tick_memory", prices.shocks.memory, memory, "win shares within days",
             "there is too little drift to see its memory"),
        told("clicks_price", normal(prices.clicks_price, prices.clicks_price_se), fit_prices.CLICKS_PRICE.interval,
             "clicks per impression against win shares", "win shares vary too little"),
        told("click_rate", log_normal(prices.click_rate, prices.click_rate_se),
             _exp(fit_prices.LOG_CLICK_RATE.interval), "clicks per impression", "too few clicks"),
        told("cost_scale", log_normal(prices.cost_scale, prices.cost_scale_se),
             _exp(fit_prices.LOG_COST_SCALE.interval), "cost per click", "too few clicks"),
        told("answer", Marginal(mean=prices.answer, sd=prices.answer_se, low=prices.answer_low,
                                high=prices.answer_high), fit_prices.ANSWER.interval,
             "levels after our own randomised wins", rare),
        told("rival_gain", rivals.gain, rivals.prior_gain, "levels after our own randomised wins",
             "its answer to our wins is too weak or too uncertain"),
        told("rival_purse", rivals.purse, rivals.prior_purse, "levels after our own randomised wins",
             "its answer to our wins is too weak or too uncertain"),
        told("volume", log_normal(volumes.volume, volumes.volume_se),
             _around(float(hours.eligible.sum(2).mean()), fit_volumes.LOG_VOLUME_SD), "eligible auctions",
             "too few days"),
        told("volume_day_sd", volumes.shocks.day_sd, spread, "eligible auctions between days", "too few days"),
        told("volume_tick_sd", volumes.shocks.tick_sd, spread, "eligible auctions within days", "too few half hours"),
        told("volume_tick_memory", volumes.shocks.memory, memory, "eligible auctions within days",
             "there is too little drift to see its memory"),
        *(told(f"weekday_{day}", normal(volumes.weekday[:, day], volumes.weekday_se[:, day]),
               (-Z90 * fit_volumes.WEEKDAY_SD, Z90 * fit_volumes.WEEKDAY_SD), "eligible auctions by weekday",
               "too few such days") for day in range(WEEKDAYS)),
        *_delay(delay),
        told("conversion_rate", log_normal(conversions.rate, conversions.rate_se),
             _exp(fit_conversions.LOG_RATE.interval), "conversions per click of fresh users", "too few conversions"),
        told("fatigue", conversions.fatigue, fit_conversions.FATIGUE.interval,
             "conversions per click against the day's exposure", "too few conversions"),
        _memory(conversions),
        _shared("awareness", conversions.awareness, fit_conversions.AWARENESS.interval,
                "conversions per click after the first exposure", "tiring hides it"),
        _shared("awareness_memory", conversions.aware_memory,
                (fit_conversions.AWARE_MEMORIES[0], fit_conversions.AWARE_MEMORIES[-1]),
                "conversions per click after the first exposure", "tiring hides it"),
        _shared("carried_share", conversions.carried_share, (0.0, Z90 * fit_conversions.CARRIED_SD),
                "mornings after days of more exposure", "users tire too little to see what is left of yesterday"),
    ]  # fmt: skip
    if hours.worth is None:
        about.append([
            Parameter(name="order_value", item=None, estimate=1.0, low=1.0, high=1.0, prior_low=1.0, prior_high=1.0,
                      identified=False, says="the log has no order values: each conversion counts 1")
        ])  # fmt: skip
    else:
        about.append(told("order_value", normal(order_value, order_value_se, 0.0),
                          _around(float(order_value.mean()), 3.0), "order values", "too few orders"))  # fmt: skip
    return tuple(parameter for rows in about for parameter in rows)


def _delay(delay: Delay) -> list[list[Parameter]]:
    """The mixture's own numbers, and the share known after 4 and 24 hours, which are told when they are not."""

    def known(points: Array, half_hours: int) -> Array:
        return matured(points[:, :2], points[:, 2:], np.array(half_hours))

    best = np.concatenate([delay.share, delay.rate])[None]
    hidden, few = "one delay alone explains the arrivals", "too few conversions"
    out = []
    for name, of, unknown in (
        ("delay_share_fast", lambda p: p[:, 0], hidden), ("delay_rate_fast", lambda p: p[:, 2], hidden),
        ("delay_rate_slow", lambda p: p[:, 3], hidden), ("arrived_in_4_hours", lambda p: known(p, 8), few),
        ("arrived_in_24_hours", lambda p: known(p, 48), few),
    ):  # fmt: skip
        values, at = of(delay.inside), of(best)
        prior = np.quantile(of(delay.prior), [0.05, 0.95])
        low, high = np.minimum(values.min(keepdims=True), at), np.maximum(values.max(keepdims=True), at)
        found = Marginal(mean=at, sd=(high - low) / (2.0 * Z90), low=low, high=high)
        out.append(_shared(name, found, (float(prior[0]), float(prior[1])), "arrivals by half hour", unknown))
    return out


def _shared(
    name: str, found: Marginal, prior: tuple[float, float], says: str, unknown: str
) -> list[Parameter]:
    """A parameter of the whole account."""
    one = told(name, found, prior, says, unknown)[0]
    return [Parameter(**{**one.__dict__, "item": None})]


def _memory(conversions: Conversions) -> list[Parameter]:
    """How fast users rest. Where they may not tire at all, nothing rests, and it is the prior's however it came out."""
    ends = (fit_conversions.MEMORIES[0], fit_conversions.MEMORIES[-1])
    unknown = "users tire too little to see how fast they rest"
    (found,) = _shared(
        "fatigue_memory", conversions.memory, ends, "how conversions per click follow exposure", unknown
    )
    if conversions.fatigue_mean.low[0] > 0.0:
        return [found]
    return [replace(found, low=ends[0], high=ends[1], identified=False, says=unknown)]


def _exp(interval: tuple[float, float]) -> tuple[float, float]:
    return float(np.exp(interval[0])), float(np.exp(interval[1]))


def _inverse(prior: Prior) -> tuple[float, float]:
    """The interval of 1 / x, told as that of a fitted one is."""
    one = log_normal(np.array([1.0 / prior.mean]), np.array([prior.sd / prior.mean**2]))
    return float(one.low[0]), float(one.high[0])


def _around(middle: float, log_sd: float) -> tuple[float, float]:
    ratio = float(np.exp(Z90 * log_sd))
    return middle / ratio, middle * ratio
