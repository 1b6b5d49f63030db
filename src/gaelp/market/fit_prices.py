"""Prices from win shares: scale, level, hours, shocks, clicks that follow them, and the answer to our own wins.

In a half hour that wins the share s of its auctions, Phi^-1(s) = (log bid - level) / price_sd (bidding.landscape). The
bid follows the price, so only its randomised moves tell the scale: they are the instrument. Our wins of the same day
so far may move the level (rivals answer); they are a second regressor, and past moves its instrument.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaelp.bidding.landscape import normal_cdf, normal_quantile
from gaelp.core.errors import BadInput
from gaelp.core.xp import Array
from gaelp.market.estimates import Prior, pool, small_sample, with_prior
from gaelp.market.hours import Hours
from gaelp.market.paths import Shocks, fill, shocks, smoothed

SLOPE = Prior(mean=1.5, sd=0.7, least=0.0)
"""1 / price_sd."""
ANSWER = Prior(mean=0.5, sd=1.5)
"""Log price by which the level moves when we have won a day's auctions."""
CLICKS_PRICE = Prior(mean=0.0, sd=0.6)
LOG_CLICK_RATE = Prior(mean=float(np.log(0.02)), sd=1.5)
LOG_COST_SCALE = Prior(mean=0.0, sd=0.5)
PRICE_MEAN_SD = 2.0
"""Log price level around the bids, before the log is read."""
_FEWEST = 5.0
"""Expected wins, and losses, of a half hour whose win share is read: with fewer its Phi^-1 is bent."""
_FAR = 4.0
"""Deviations beyond which a half hour's level is not drift."""
_TRIED = 36
"""Half hours a line item must show: half a day on each of three days."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What the win shares tell of G line items, [G] unless said; `_se` are standard errors.

    answer_low, answer_high: ends of its 90 % interval. told_answer: the answer before its prior. by_hour: [G,48], mean
    0 over the day's traffic. score: [G,D,48], (log bid - level) / sd, as smoothed.
    """

    mean: Array
    mean_se: Array
    sd: Array
    sd_se: Array
    answer: Array
    answer_se: Array
    answer_low: Array
    answer_high: Array
    told_answer: Array
    told_answer_se: Array
    by_hour: Array
    shocks: Shocks
    clicks_price: Array
    clicks_price_se: Array
    click_rate: Array
    click_rate_se: Array
    cost_scale: Array
    cost_scale_se: Array
    score: Array


@dataclass(frozen=True)
class WinShares:
    """Win shares: Phi^-1 of each, its precision (0 where it is not read), and what the precision would be, [G,D,48]."""

    score: Array
    weight: Array
    read: NDArray[np.bool_]


def fit_prices(hours: Hours) -> Prices:
    """Fit every line item; scales, answers and dependences are drawn to their pool and then to their priors."""
    shares = win_shares(hours)
    slope, slope_se, answer, answer_se, answer_low, answer_high, told_answer, told_answer_se = _slopes(
        hours, shares
    )
    sd, sd_se = 1.0 / slope, slope_se / slope**2
    won = won_so_far(hours)
    traffic = hours.eligible.sum(1)
    traffic = traffic / traffic.sum(1, keepdims=True)
    given = answer[:, None, None] * (won - won.mean(1, keepdims=True))
    implied = hours.log_bid - sd[:, None, None] * shares.score - given
    # No half hour counts for more than the usual one.
    usual = np.array([np.median(w[on]) for w, on in zip(shares.weight, shares.read, strict=True)])
    weight = np.minimum(shares.weight, usual[:, None, None])
    hourly = (weight * implied).sum(1) / np.maximum(weight.sum(1), 1e-9)
    hourly = np.stack([fill(row, w > 0) for row, w in zip(hourly, weight.sum(1), strict=True)])
    residual = np.where(shares.read, implied - hourly[:, None], 0.0)
    # A level that falls away when a rival's money is gone is the rivals' doing: drift is told from the others.
    robust = np.array([np.median(np.abs(row[on])) for row, on in zip(residual, shares.read, strict=True)])
    far = (_FAR / 0.6745 * robust)[:, None, None]
    beyond = residual - np.clip(residual, -far, far)
    shift = (weight * beyond).sum(1) / np.maximum(weight.sum(1), 1e-9)
    hourly = hourly - shift
    residual = np.where(shares.read, residual - beyond + shift[:, None], 0.0)
    mean = (traffic * hourly).sum(1)
    noise = np.where(shares.read, sd[:, None, None] ** 2 / np.maximum(shares.weight, 1e-9), np.inf)

    def off(error: Array, by: Array) -> Array:
        moved = error[:, None, None] * (by - (weight * by).sum(1, keepdims=True) / np.maximum(seen_at, 1e-9))
        return np.where(shares.read, residual - moved, 0.0)

    seen_at = weight.sum(1, keepdims=True)
    found = shocks(residual, noise, (off(sd_se, shares.score), off(answer_se, won)))
    by_day = (weight * residual).sum(2) / np.maximum(weight.sum(2), 1e-9)
    seen = weight.sum(2) > 0
    days = seen.sum(1)
    between = np.array([row[on].std(ddof=1) for row, on in zip(by_day, seen, strict=True)])
    centre = (weight * shares.score).sum((1, 2)) / weight.sum((1, 2))
    level = smoothed(residual, noise, found)
    score = (hours.log_bid - hourly[:, None] - level - given) / sd[:, None, None]
    rho, rho_se, rate, rate_se = _clicks(hours, shares.read, score)
    scale, scale_se = _cost_scale(hours, shares.read, score, sd, sd_se, rho, rho_se)
    return Prices(
        mean=mean, mean_se=np.hypot(between / np.sqrt(days) * small_sample(hours.log_bid.shape[1]), centre * sd_se),
        sd=sd, sd_se=sd_se, answer=answer, answer_se=answer_se, answer_low=answer_low, answer_high=answer_high,
        told_answer=told_answer, told_answer_se=told_answer_se, by_hour=hourly - mean[:, None], shocks=found,
        clicks_price=rho, clicks_price_se=rho_se, click_rate=rate,
        click_rate_se=rate_se, cost_scale=scale, cost_scale_se=scale_se, score=score,
    )  # fmt: skip


def won_so_far(hours: Hours) -> Array:
    """Auctions won before each half hour of the day, in ordinary days' auctions, [G,D,48]."""
    volume = hours.eligible.sum(2).mean(1)[:, None, None]
    return (np.cumsum(hours.impressions, axis=2) - hours.impressions) / volume


def win_shares(hours: Hours) -> WinShares:
    """Win shares of half hours in which both wins and losses were to be expected.

    Expected from the two half hours before and after, at this one's bid: chosen or weighed by what came out
    instead, dear
    half hours that happened to win something would stand for all dear ones.
    """
    n = hours.eligible
    score = normal_quantile((hours.impressions + 0.5) / (n + 1.0), np)
    on = hours.served & (n >= 20)
    weight = np.where(on, n, 0.0)
    level = score - SLOPE.mean * hours.log_bid
    around, total = np.zeros_like(n), np.zeros_like(n)
    for step in (1, 2):
        around[..., step:] += (weight * level)[..., :-step]
        total[..., step:] += weight[..., :-step]
        around[..., :-step] += (weight * level)[..., step:]
        total[..., :-step] += weight[..., step:]
    expected = np.clip(around / np.maximum(total, 1.0) + SLOPE.mean * hours.log_bid, -4.0, 4.0)
    share = normal_cdf(expected, np)
    read = on & (total > 0) & (n * share >= _FEWEST) & (n * (1.0 - share) >= _FEWEST)
    for item, row in enumerate(read & (hours.impressions > 0) & (hours.impressions < n)):
        if row.sum() < _TRIED:
            raise BadInput(
                f"line item {item}: only {int(row.sum())} half hours with both won and lost auctions; too few to fit."
            )
    density = np.exp(-0.5 * expected**2) / np.sqrt(2 * np.pi)
    return WinShares(score, np.where(read, n * density**2 / (share * (1.0 - share)), 0.0), read)


def _demeaned(x: Array, weight: Array) -> Array:
    """Residual of x [G,D,48] after weighted day and half-hour effects (alternating projections)."""
    out = x
    for _ in range(12):
        for axis in (2, 1):
            total = np.maximum(weight.sum(axis, keepdims=True), 1e-9)
            out = out - (out * weight).sum(axis, keepdims=True) / total
    return out


def _slopes(hours: Hours, shares: WinShares) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array]:
    """(1 / price_sd, se, answer, se, its interval's ends, the answer before its prior, se) by two-stage least squares
    within days and hours.

    Standard errors are clustered by day.
    """
    # Weighted by volume, not by precision: a precision read off the win share itself would bend the slope.
    weight = np.where(shares.read, hours.eligible, 0.0)
    weight = weight / weight.sum((1, 2), keepdims=True)
    flow = hours.eligible / hours.eligible.sum(2, keepdims=True)
    past = np.cumsum(flow * hours.move, axis=2) - flow * hours.move
    move, before, bid, won, score = (
        _demeaned(x, weight) for x in (hours.move, past, hours.log_bid, won_so_far(hours), shares.score)
    )
    instruments = np.stack([move, before], -1)
    regressors = np.stack([bid, won], -1)
    cross = np.einsum("gdt,gdti,gdtj->gij", weight, instruments, regressors)
    scale = np.einsum("gdt,gdti->gi", weight, instruments**2)
    days = hours.log_bid.shape[1]
    own, cov = np.zeros((len(cross), 2)), np.zeros((len(cross), 2, 2))
    for item, (a, spread) in enumerate(zip(cross, scale, strict=True)):
        if spread.min() < 1e-12 or abs(np.linalg.det(a)) < 1e-12 * spread[0] * spread[1]:
            # Nobody randomised: nothing is told, and the priors stand.
            cov[item] = 1e12 * np.eye(2)
            continue
        back = np.linalg.inv(a)
        own[item] = back @ np.einsum("dt,dti,dt->i", weight[item], instruments[item], score[item])
        left = score[item] - regressors[item] @ own[item]
        by_day = np.einsum("dt,dti,dt->di", weight[item], instruments[item], left)
        # Two regressors and a mean are taken from the days.
        meat = by_day.T @ by_day * (days / max(days - 3.0, 1.0) * small_sample(days) ** 2)
        cov[item] = back @ meat @ back.T
    # First what past wins do, drawn to the pool and the prior; the slope follows by how the two errors go together.
    alone = pool(own[:, 0], np.sqrt(cov[:, 0, 0]) + 1e-4)
    usual = with_prior(alone.mean, alone.sd, SLOPE)[0].mean()
    reactions = pool(own[:, 1], np.sqrt(cov[:, 1, 1]) + 1e-6)
    prior = Prior(mean=-ANSWER.mean * usual, sd=ANSWER.sd * usual)
    reaction, reaction_se = with_prior(reactions.mean, reactions.sd, prior)
    tied = cov[:, 0, 1] / cov[:, 1, 1]
    rest = np.maximum(cov[:, 0, 0] - tied * cov[:, 0, 1], 0.0)
    slopes = pool(own[:, 0] + tied * (reaction - own[:, 1]), np.sqrt(rest) + 1e-4)
    # What is drawn together errs together.
    slope, slope_se = with_prior(slopes.mean, np.hypot(slopes.sd, np.abs(tied) * reaction_se), SLOPE)
    if (slope < 0.2).any():
        item = int(slope.argmin())
        raise BadInput(
            f"line item {item}: higher bids did not win more (slope {slope[item]:.2f}, expected above 0.2)."
        )
    # What is averaged over how far items differ has thick tails: a normal with its deviation would be too wide.
    kept = reaction_se / reactions.sd
    # z = slope (bid - level), so the second coefficient is -slope times the answer.
    return (
        slope,
        slope_se,
        -reaction / slope,
        reaction_se / slope,
        -(reaction + kept * (reactions.high - reactions.mean)) / slope,
        -(reaction + kept * (reactions.low - reactions.mean)) / slope,
        -reactions.mean / slope,
        reactions.sd / slope,
    )


def _clicks(hours: Hours, read: NDArray[np.bool_], score: Array) -> tuple[Array, Array, Array, Array]:
    """(clicks_price, se, click_rate, se): clicks ~ Poisson(impressions x rate x Phi(z - rho) / Phi(z)).

    Per impression, since errors of the win share then hardly matter. Newton's method; errors clustered by day.
    """
    won = np.where(read, hours.impressions, 0.0)
    clicks = np.where(read, hours.clicks, 0.0)
    log_all = np.log(normal_cdf(score, np))
    days = hours.log_bid.shape[1]

    def bend(rho: Array) -> tuple[Array, Array]:
        at = score - rho[:, None, None]
        log_part = np.log(normal_cdf(at, np))
        return log_part - log_all, -np.exp(-0.5 * at**2 - log_part) / np.sqrt(2 * np.pi)

    rho = np.zeros(len(won))
    log_rate = np.log((clicks.sum((1, 2)) + 0.5) / (won.sum((1, 2)) + 1.0))
    for _ in range(15):
        ratio, tilt = bend(rho)
        mean = won * np.exp(log_rate[:, None, None] + ratio)
        left = clicks - mean
        slope = np.stack([np.ones_like(tilt), tilt], -1)
        score_of = np.einsum("gdt,gdti->gi", left, slope)
        score_of[:, 1] -= (rho - CLICKS_PRICE.mean) / CLICKS_PRICE.sd**2
        information = np.einsum("gdt,gdti,gdtj->gij", mean, slope, slope)
        information[:, 1, 1] += CLICKS_PRICE.sd**-2
        information[:, 0, 0] += 1e-6
        step = np.linalg.solve(information, score_of[..., None])[..., 0]
        log_rate = log_rate + np.clip(step[:, 0], -0.5, 0.5)
        rho = np.clip(rho + np.clip(step[:, 1], -0.3, 0.3), -2.5, 2.5)
    by_day = np.einsum("gdt,gdti->gdi", left, slope)
    meat = np.einsum("gdi,gdj->gij", by_day, by_day) * (days / (days - 1.0) * small_sample(days) ** 2)
    meat[:, 1, 1] += CLICKS_PRICE.sd**-2
    back = np.linalg.inv(information)
    cov = back @ meat @ back
    drawn = pool(rho, np.sqrt(cov[:, 1, 1]) + 1e-6)
    # A dependence that is drawn to the pool takes the rate with it.
    tied = cov[:, 0, 1] / np.maximum(cov[:, 1, 1], 1e-12)
    rest = np.maximum(cov[:, 0, 0] - tied * cov[:, 0, 1], 0.0)
    rate = np.exp(log_rate + tied * (drawn.mean - rho))
    return drawn.mean, drawn.sd, rate, rate * np.sqrt(rest + tied**2 * drawn.sd**2)


def _cost_scale(
    hours: Hours, read: NDArray[np.bool_], score: Array, sd: Array, sd_se: Array, rho: Array, rho_se: Array
) -> tuple[Array, Array]:
    """(what a click costs against the landscape's price of it, its standard error: days, price_sd and clicks_price)."""
    paid = read & (hours.clicks > 0)
    cost = np.where(paid, hours.cost, 0.0)
    bid = hours.log_bid

    def scale(sd: Array, rho: Array) -> tuple[Array, Array]:
        sd, rho = sd[:, None, None], rho[:, None, None]
        ratio = normal_cdf(score - rho - sd, np) / np.maximum(normal_cdf(score - rho, np), 1e-12)
        expected = np.where(
            paid, hours.clicks * np.exp(bid - sd * score + sd * rho + 0.5 * sd * sd) * ratio, 0.0
        )
        found = cost.sum((1, 2)) / np.maximum(expected.sum((1, 2)), 1e-12)
        left = (cost - found[:, None, None] * expected).sum(2)
        return found, np.sqrt((left**2).sum(1)) / np.maximum(expected.sum((1, 2)), 1e-12)

    if (cost.sum((1, 2)) <= 0).any():
        raise BadInput(
            f"line item {int(cost.sum((1, 2)).argmin())}: no click cost anything; no price can be fitted."
        )
    found, se = scale(sd, rho)
    moved = [scale(sd + sd_se, rho)[0] - found, scale(sd, rho + rho_se)[0] - found]
    return found, np.sqrt(se**2 + moved[0] ** 2 + moved[1] ** 2)
