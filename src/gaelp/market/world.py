"""Worlds: simulated campaign-days in JAX, sampled from a fitted posterior and stepped half hour by half hour.

A world is one line item in second price whose users tire within the day. It knows the truth; the bidder in
it sees only the reports. Plain in this version: one line item per campaign-day, price paths that no bid moves,
64 sampled auctions per half hour standing for the true volume (the last win of the budget is fractional),
clicks and arrivals drawn with common random numbers, so two policies in one world differ only by what they did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gaelp.bidding.landscape import GRID_HIGH, GRID_LOW, Landscape
from gaelp.bidding.pacer import DayState, PacerParams, Report, Terms, after_report, score, solve, start_day
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array

SAMPLES = 64
BANK = 4096
EXPOSURE_UNIT = 0.04
"""Exposure is counted in this share of an ordinary day's auctions."""
HIDDEN = ("price_dev", "volume_dev", "conversion_rate", "fatigue", "tired", "weariness")


class Posterior(NamedTuple):
    """What a fit says about G line items: means and standard errors, [G] unless said; see market.calibrate."""

    price_mean: Array
    price_mean_se: Array
    price_sd: Array
    price_sd_se: Array
    clicks_price: Array
    click_rate: Array
    cost_scale: Array
    conversion_rate: Array
    """Conversions per click of a user who has not been shown anything today."""
    conversion_rate_se: Array
    fatigue: Array
    """Strength k in exp(-k f), f the decayed exposure in EXPOSURE_UNIT."""
    fatigue_se: Array
    fatigue_memory: Array
    volume: Array
    volume_day_sd: Array
    volume_tick_sd: Array
    volume_tick_memory: Array
    price_day_sd: Array
    price_tick_sd: Array
    price_tick_memory: Array
    weekday: Array
    """[G,7] log volume by weekday."""
    traffic: Array
    price_hour: Array
    arrival: Array
    budget_low: Array
    budget_high: Array
    target_cpa: Array


class World(NamedTuple):
    """B sampled campaign-days: their terms and their hidden truth; [B] unless said."""

    terms: Terms
    price_mean: jax.Array
    price_sd: jax.Array
    clicks_price: jax.Array
    click_rate: jax.Array
    cost_scale: jax.Array
    conversion_rate: jax.Array
    fatigue: jax.Array
    fatigue_memory: jax.Array
    volume: jax.Array
    arrival: jax.Array
    price_path: jax.Array
    """[B,48] log price around price_mean, hour pattern and drift included."""
    volume_path: jax.Array
    """[B,48] eligible auctions of each half hour."""
    offsets: jax.Array
    """[B,48] where in the bank of auctions each half hour reads."""
    click_draws: jax.Array
    """[B,48] uniforms behind the clicks."""
    arrival_draws: jax.Array


class Truth(NamedTuple):
    """What the world itself adds up, unseen by any bidder; [B]."""

    tired: jax.Array
    pending: jax.Array
    conversions: jax.Array
    """Expected conversions of the clicks won: the objective's."""


def sample(posterior: Posterior, seed: jax.Array) -> World:
    """One world (arrays without the batch axis) from one integer seed; vmap it for a batch."""
    key = jax.random.fold_in(jax.random.key(7919), seed)
    keys = jax.random.split(key, 8)
    item = jax.random.randint(keys[0], (), 0, posterior.price_mean.shape[0])
    p = jax.tree.map(lambda x: x[item], posterior)
    g = jax.random.normal(keys[1], (8,))
    u = jax.random.uniform(keys[2], (4,))
    weekday = jnp.floor(u[0] * 7).astype(jnp.int32)
    budget = p.budget_low * (p.budget_high / p.budget_low) ** u[1]

    def path(key: jax.Array, memory: jax.Array, sd: jax.Array) -> jax.Array:
        shocks = jax.random.normal(key, (TICKS_PER_DAY,)) * sd * jnp.sqrt(1.0 - memory**2)

        def step(x: Array, shock: jax.Array) -> tuple[Array, Array]:
            x = memory * x + shock
            return x, x

        return jax.lax.scan(step, 0.0, shocks)[1]

    price_path = p.price_hour + p.price_day_sd * g[0] + path(keys[3], p.price_tick_memory, p.price_tick_sd)
    log_volume = (
        p.weekday[weekday] + p.volume_day_sd * g[1] + path(keys[4], p.volume_tick_memory, p.volume_tick_sd)
    )
    sd = jnp.maximum(p.price_sd + p.price_sd_se * g[3], 0.3)
    return World(
        terms=Terms(item=item, budget=budget, target_cpa=p.target_cpa, weekday=weekday),
        price_mean=p.price_mean + p.price_mean_se * g[2],
        price_sd=sd,
        clicks_price=p.clicks_price,
        click_rate=p.click_rate,
        cost_scale=p.cost_scale,
        conversion_rate=p.conversion_rate * jnp.exp(p.conversion_rate_se / p.conversion_rate * g[4]),
        fatigue=jnp.maximum(p.fatigue + p.fatigue_se * g[5], 0.0),
        fatigue_memory=p.fatigue_memory,
        volume=p.volume,
        arrival=p.arrival,
        price_path=price_path,
        volume_path=p.volume * p.traffic * jnp.exp(log_volume - 0.5 * p.volume_day_sd**2),
        offsets=jax.random.randint(keys[5], (TICKS_PER_DAY,), 0, BANK),
        click_draws=jax.random.uniform(keys[6], (TICKS_PER_DAY,)),
        arrival_draws=jax.random.uniform(keys[7], (TICKS_PER_DAY,)),
    )


def auctions_bank() -> jax.Array:
    """BANK standard normals: the log prices of sampled auctions before they are scaled; fixed for every run."""
    return jax.random.normal(jax.random.key(104729), (BANK,))


def poisson_quantile(uniform: jax.Array, mean: jax.Array) -> jax.Array:
    """The Poisson quantile of `uniform` at `mean`, [B]: exact below a mean of 12, the rounded normal above.

    Monotone in both, so common random numbers keep two policies in one world comparable.
    """
    # Beyond this, single precision cannot tell the uniform from the sum of all terms.
    uniform = jnp.clip(uniform, 1e-6, 1 - 1e-6)
    small = jnp.minimum(mean, 12.0)
    term = cdf = jnp.exp(-small)
    exact = jnp.zeros_like(mean)
    # Unrolled: one kernel for the whole sum, where a cumulative product and sum are a dozen each.
    for k in range(1, 34):
        exact = exact + (uniform > cdf)
        term = term * (small / k)
        cdf = cdf + term
    z = jax.scipy.special.ndtri(uniform)
    # Cornish and Fisher's first term: a Poisson number is skewed, and without it the join at 12 would fall.
    normal = jnp.ceil(mean + jnp.sqrt(mean) * z + (z * z - 1.0) / 6.0 - 0.5)
    # `exact` stands at a mean of 12 here: never below it, or a higher bid could lose clicks at the join.
    return jnp.where(mean < 12.0, exact, jnp.maximum(normal, exact))


def start_truth(world: World) -> Truth:
    """Nobody has been shown anything yet."""
    zero = jnp.zeros_like(world.price_mean)
    return Truth(zero, zero, zero)


def half_hour(
    world: World, truth: Truth, state: DayState, log_bid: jax.Array, bank: jax.Array, t: jax.Array
) -> tuple[Truth, Report]:
    """Play half hour `t` (scalar) of B worlds at `log_bid` [B]; returns the truth after it and the report.

    Costs are charged per click at the auctions' second price. The budget binds inside the half hour: of
    exchangeable auctions the share that the money left can pay is kept.
    """
    eps = bank[(world.offsets[:, t, None] + jnp.arange(SAMPLES)) % BANK]
    level = world.price_mean + world.price_path[:, t]
    z = (log_bid - level) / world.price_sd
    won = (eps <= z[:, None]).astype(eps.dtype)
    rho = world.clicks_price[:, None]
    clicks_each = won * jnp.exp(rho * eps - 0.5 * rho * rho)
    price_each = clicks_each * jnp.exp(world.price_sd[:, None] * eps)
    stands_for = world.volume_path[:, t] / SAMPLES
    clicks_mean = world.click_rate * stands_for * clicks_each.sum(-1)
    cost_per_click = (
        world.cost_scale * jnp.exp(level) * price_each.sum(-1) / jnp.maximum(clicks_each.sum(-1), 1e-9)
    )
    clicks = poisson_quantile(world.click_draws[:, t], clicks_mean)
    cost = clicks * cost_per_click
    share = jnp.minimum(1.0, jnp.maximum(world.terms.budget - state.spent, 0.0) / jnp.maximum(cost, 1e-9))
    clicks, cost, impressions = clicks * share, cost * share, stands_for * won.sum(-1) * share
    rate = world.conversion_rate * jnp.exp(-world.fatigue * truth.tired)
    expected = clicks * rate
    pending = truth.pending + expected
    arrived = poisson_quantile(world.arrival_draws[:, t], world.arrival * pending)
    report = Report(
        log_bid=log_bid, eligible=world.volume_path[:, t], impressions=impressions, clicks=clicks, cost=cost,
        conversions_so_far=state.conversions + arrived,
    )  # fmt: skip
    tired = world.fatigue_memory * truth.tired + impressions / (EXPOSURE_UNIT * world.volume)
    return Truth(tired, pending * (1.0 - world.arrival), truth.conversions + expected), report


def hidden(world: World, truth: Truth, landscape: Landscape, t: jax.Array) -> jax.Array:
    """The simulator's truth at half hour `t` for a privileged critic, [B, len(HIDDEN)]."""
    item = world.terms.item
    now = jnp.minimum(t, TICKS_PER_DAY - 1)
    return jnp.stack(
        [
            world.price_mean + world.price_path[:, now] - landscape.price_mean[item],
            jnp.log(world.volume_path.sum(-1) / landscape.volume[item]),
            jnp.log(world.conversion_rate / landscape.conversion_rate[item]),
            world.fatigue,
            truth.tired,
            world.fatigue * truth.tired,
        ],
        axis=-1,
    )


def day_score(truth: Truth, state: DayState, world: World) -> jax.Array:
    """The objective of the day so far, on expected conversions, [B]."""
    return score(truth.conversions, state.spent, world.terms.target_cpa, jnp)


Bidder = Callable[[DayState, Terms], jax.Array]


def play_day(
    world: World, bidder: Bidder, landscape: Landscape, params: PacerParams, bank: jax.Array
) -> tuple[Truth, DayState]:
    """A whole day of B worlds under `bidder` (state, terms -> log bid [B]); jit-able, one scan."""

    def step(carry: tuple[Truth, DayState], t: jax.Array) -> tuple[tuple[Truth, DayState], None]:
        truth, state = carry
        truth, report = half_hour(world, truth, state, bidder(state, world.terms), bank, t)
        return (truth, after_report(state, report, landscape, world.terms, params, jnp)), None

    start = (start_truth(world), start_day(landscape, world.terms, jnp))
    return jax.lax.scan(step, start, jnp.arange(TICKS_PER_DAY))[0]


def pacer_scores(world: World, landscape: Landscape, params: PacerParams, bank: jax.Array) -> jax.Array:
    """The day's score under the pacer alone, [B]."""
    truth, state = play_day(
        world, lambda s, terms: solve(s, landscape, terms, params, jnp).log_bid, landscape, params, bank
    )
    return day_score(truth, state, world)


def constant_scores(
    world: World, landscape: Landscape, params: PacerParams, bank: jax.Array, points: int = 33
) -> jax.Array:
    """Scores of `points` constant bids around each world's true price level, [points, B]."""
    grid = jnp.linspace(GRID_LOW, GRID_HIGH, points)

    def one(z: jax.Array) -> jax.Array:
        bid = world.price_mean + world.price_sd * z
        truth, state = play_day(world, lambda s, terms: bid, landscape, params, bank)
        return day_score(truth, state, world)

    return jax.lax.map(one, grid)


def worlds_of(posterior: Posterior, seeds: np.ndarray | jax.Array) -> World:
    """The worlds of integer `seeds`, batched."""
    return jax.vmap(sample, in_axes=(None, 0))(posterior, jnp.asarray(seeds))
