"""Worlds: simulated campaign-days in JAX, sampled from a posterior and stepped half hour by half hour.

A world is a campaign of I line items in one auction format. It knows the truth; the bidder in it sees only the
reports, as a platform would show them. Sampled auctions stand for the true volume with their weights (a rare segment
of users is sampled more often and weighs less); the last win of the budget is fractional: of a half hour's
exchangeable auctions the share that the money left can pay is kept. Clicks, arrivals and volumes are drawn with
common random numbers, so two policies in one world differ only by what they did.

Users tire and become aware by exposure, also of earlier days; conversions arrive late, some after midnight; what a
platform shows at first is corrected in the following hours; rivals answer to prices with purses of their own
(`rivals`); a platform's autobidder may stand between the wish and the bid (`autobid`). Plain: every line item meets
auctions of its own; a day's effect on the next is carried in, and is not credited to the day before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gaelp.bidding.landscape import Landscape
from gaelp.bidding.pacer import (
    DayState,
    PacerParams,
    Report,
    Terms,
    after_report,
    objective,
    solve,
    start_day,
)
from gaelp.bidding.rules import SECOND_PRICE, Format, Rules
from gaelp.core.errors import BadInput
from gaelp.core.schema import TICKS_PER_DAY
from gaelp.core.xp import Array
from gaelp.market import autobid, rivals
from gaelp.market.auction import placed
from gaelp.market.oracle import Auctions

BANK = 4096
SLOTS = 4
"""The most slots that the sampled auctions of GSP hold prices for."""
EXPOSURE_UNIT = 0.04
"""Tiring exposure is counted in this share of an ordinary day's auctions."""
AWARE_UNIT = 0.15
"""The same for exposure that makes aware."""
BUDGETS = 16
"""Points of the curve that tells what a unit costs where a budget is spent."""
RIVALS = 4
HIDDEN = (
    "price_dev", "volume_dev", "conversion_rate", "fatigue", "tired", "weariness", "aware", "price_now",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What is the same in all worlds of a family, and what a compiled program is made for.

    items: line items of a campaign. samples: sampled auctions per line item and half hour, `rare` of them of the
    rare segment. levers: whether the platform's autobidder stands between wish and bid.
    """

    rules: Rules = SECOND_PRICE
    items: int = 1
    samples: int = 64
    rare: int = 0
    levers: bool = False

    def __post_init__(self) -> None:
        if self.rules.slots > SLOTS:
            raise BadInput(f"a world holds at most {SLOTS} slots, got {self.rules.slots}.")
        if self.rules.reserve:
            raise BadInput(
                f"reserve is {self.rules.reserve}, expected 0: a world's prices are those that must be beaten, a "
                "reserve among them."
            )
        if self.items < 1 or self.samples < 1 or not 0 <= self.rare < self.samples:
            raise BadInput(
                f"a world needs line items and samples, and some that are not rare: got items {self.items}, "
                f"samples {self.samples}, rare {self.rare}."
            )


ONE_ITEM = Kind()
"""A campaign of one line item in second price: what the sandbox sells."""


class Posterior(NamedTuple):
    """What a fit says about G line items: means and standard errors, [G] unless said; see market.calibrate."""

    price_mean: Array
    price_mean_se: Array
    price_sd: Array
    price_sd_se: Array
    clicks_price: Array
    clicks_price_se: Array
    slot_gap: Array
    click_rate: Array
    click_rate_se: Array
    cost_scale: Array
    conversion_rate: Array
    """Conversions per click of a user who has not been shown anything."""
    conversion_rate_se: Array
    conversion_common_se: Array
    """The part of that doubt which all line items of a campaign share."""
    order_value: Array
    order_value_se: Array
    refunds: Array
    """Share of conversions that are taken back."""
    fatigue: Array
    """Strength k in exp(-k f), f the decayed exposure in EXPOSURE_UNIT."""
    fatigue_se: Array
    fatigue_memory: Array
    awareness: Array
    """Strength b in 1 + b tanh(a), a the decayed exposure in AWARE_UNIT."""
    awareness_se: Array
    awareness_memory: Array
    carried: Array
    """Exposure remembered at midnight, in ordinary days' auctions, on average."""
    carried_sd: Array
    """Log standard deviation of that between days."""
    volume: Array
    volume_day_sd: Array
    volume_tick_sd: Array
    volume_tick_memory: Array
    price_day_sd: Array
    price_tick_sd: Array
    price_tick_memory: Array
    jump_chance: Array
    """Chance that the day's price level jumps once, and the jump's log standard deviation."""
    jump_sd: Array
    weekday: Array
    """[G,7] log volume by weekday."""
    traffic: Array
    """[G,7,48] share of the day's auctions by weekday and half hour; rows sum to 1."""
    price_hour: Array
    """[G,48]"""
    delay_share: Array
    """[G,2] how conversions divide between a fast and a slow delay."""
    delay_rate: Array
    """[G,2] chance per half hour that a pending conversion of either kind arrives."""
    shown_share: Array
    """Share of impressions, clicks and cost that a report shows at once; above 1 it is corrected downwards."""
    shown_rate: Array
    """Share of what is still missing that each later half hour's report adds."""
    rare_share: Array
    rare_worth: Array
    """How many times the average click a click of the rare segment is worth."""
    rare_price: Array
    """Log distance of the rare segment's prices."""
    rival_gain: Array
    rival_gain_se: Array
    rival_purse: Array
    """What a rival may spend, as a share of what it spends on an ordinary day; log standard deviation 0.4."""
    rival_sd: Array
    """Log standard deviation of rivals' strengths."""
    rival_moves: Array
    """Chance that a rival enters late or leaves early."""
    lever: Array
    smallest_edit: Array
    edits_a_day: Array
    learning_edit: Array
    learning_ticks: Array
    learning_noise: Array
    rate_error_sd: Array
    budget_low: Array
    """A campaign's budget is the sum over its line items."""
    budget_high: Array
    target_cpa: Array
    """[G,16] what a unit may cost at budgets from low to high (in logs); inf for no target."""
    target_low: Array
    """Log range around it from which a day's target is drawn."""
    target_high: Array
    by_value: Array
    profit: Array


class World(NamedTuple):
    """B sampled campaign-days: their terms and their hidden truth; [B,I] unless said."""

    terms: Terms
    price_mean: jax.Array
    price_sd: jax.Array
    clicks_price: jax.Array
    slot_gap: jax.Array
    click_rate: jax.Array
    cost_scale: jax.Array
    conversion_rate: jax.Array
    unit_worth: jax.Array
    """Units of the objective per conversion, refunds taken off."""
    fatigue: jax.Array
    fatigue_memory: jax.Array
    awareness: jax.Array
    awareness_memory: jax.Array
    volume: jax.Array
    delay_share: jax.Array
    """[B,I,2]"""
    delay_rate: jax.Array
    shown_share: jax.Array
    shown_rate: jax.Array
    rare_share: jax.Array
    rare_worth: jax.Array
    rare_price: jax.Array
    price_path: jax.Array
    """[B,I,48] log price around price_mean, hour pattern and drift included, rivals' answers left out."""
    volume_path: jax.Array
    """[B,I,48] eligible auctions of each half hour."""
    over: jax.Array
    """[B,I,48] share of an ordinary day's traffic that is over after each half hour."""
    offsets: jax.Array
    """[B,I,48] where in the bank of auctions each half hour reads."""
    click_draws: jax.Array
    """[B,I,48] uniforms behind the clicks."""
    arrival_draws: jax.Array
    rivals: rivals.Rivals
    controls: autobid.Controls


class Truth(NamedTuple):
    """What the world itself adds up, unseen by any bidder; [B,I] unless said."""

    spent: jax.Array
    """[B] what was charged; the budget binds on this, whatever is shown."""
    tired: jax.Array
    aware: jax.Array
    pending: jax.Array
    """[B,I,2] conversions on their way, by kind of delay."""
    conversions: jax.Array
    """Expected conversions of the clicks won."""
    units: jax.Array
    """[B] the same in units of the objective."""
    unshown: jax.Array
    """[B,I,3] impressions, clicks and cost that the reports have yet to add."""
    field: rivals.Field
    control: autobid.Field


class Bank(NamedTuple):
    """Sampled auctions, the same in every run."""

    price: jax.Array
    """[BANK] standard normal log prices."""
    gap: jax.Array
    """[BANK,SLOTS - 1] log gaps to the lower slots' prices, in slot_gap."""


def auctions_bank() -> Bank:
    """The bank of every world."""
    price, gap = jax.random.split(jax.random.key(104729))
    return Bank(jax.random.normal(price, (BANK,)), jax.random.exponential(gap, (BANK, SLOTS - 1)))


def absent(line_items: int) -> dict[str, Array]:
    """Fields of a posterior that leave out what a world need not have, for so many line items.

    Known rates, conversions that count 1 and are kept, users who remember nothing, no target, reports that are right at
    once, no rare segment, rivals who answer nothing, and bids that are taken as they are wished.
    """
    names = (
        "price_mean_se", "price_sd_se", "clicks_price_se", "slot_gap", "click_rate_se", "conversion_rate_se",
        "conversion_common_se", "order_value_se", "refunds", "fatigue", "fatigue_se", "fatigue_memory", "awareness",
        "awareness_se", "awareness_memory", "carried", "carried_sd", "volume_day_sd", "volume_tick_sd",
        "volume_tick_memory", "price_day_sd", "price_tick_sd", "price_tick_memory", "jump_chance", "jump_sd",
        "shown_rate", "rare_share", "rare_price", "rival_gain", "rival_gain_se", "rival_sd", "rival_moves", "lever",
        "smallest_edit", "learning_edit", "learning_ticks", "learning_noise", "rate_error_sd", "target_low",
        "target_high", "by_value", "profit",
    )  # fmt: skip
    nothing = dict.fromkeys(names, np.zeros(line_items))
    return nothing | {
        "cost_scale": np.ones(line_items), "order_value": np.ones(line_items), "shown_share": np.ones(line_items),
        "rare_worth": np.ones(line_items), "rival_purse": np.full(line_items, np.inf),
        "edits_a_day": np.full(line_items, np.inf), "weekday": np.zeros((line_items, 7)),
        "price_hour": np.zeros((line_items, TICKS_PER_DAY)),
        "traffic": np.full((line_items, 7, TICKS_PER_DAY), 1 / TICKS_PER_DAY),
        "delay_share": np.tile([1.0, 0.0], (line_items, 1)), "delay_rate": np.ones((line_items, 2)),
        "target_cpa": np.full((line_items, BUDGETS), np.inf),
    }  # fmt: skip


def check_posterior(posterior: Posterior, kind: Kind) -> None:
    """Refuse impossible worlds. Raises BadInput naming the field, the line item and the value."""
    g = len(np.asarray(posterior.price_mean))
    wide = {"weekday": (g, 7), "traffic": (g, 7, TICKS_PER_DAY), "price_hour": (g, TICKS_PER_DAY),
            "delay_share": (g, 2), "delay_rate": (g, 2), "target_cpa": (g, BUDGETS)}  # fmt: skip
    shares = {"click_rate", "refunds", "rare_share", "traffic", "delay_share", "delay_rate", "fatigue_memory",
              "awareness_memory", "volume_tick_memory", "price_tick_memory", "jump_chance", "rival_moves",
              "shown_rate", "by_value", "profit"}  # fmt: skip
    positive = {"price_sd", "volume", "cost_scale", "shown_share", "rival_purse", "budget_low", "budget_high",
                "target_cpa", "order_value", "rare_worth", "conversion_rate"}  # fmt: skip
    free = {"price_mean", "clicks_price", "weekday", "price_hour", "rare_price", "target_low", "target_high"}
    endless = {"rival_purse", "target_cpa", "edits_a_day"}
    for name in posterior._fields:
        array = np.asarray(getattr(posterior, name), np.float64)
        shape = wide[name] if name in wide else (g,)
        if array.shape != shape:
            raise BadInput(f"{name}: shape {array.shape}, expected {shape} for {g} line items.")
        rows = array.reshape(g, -1)
        for wrong, expected in (
            (np.isnan(rows) | (np.isinf(rows) if name not in endless else False), "a finite number"),
            (rows <= 0 if name in positive else np.zeros_like(rows, bool), "a number above 0"),
            ((rows < 0) | (rows > 1) if name in shares else np.zeros_like(rows, bool), "a share in [0, 1]"),
            (rows < 0 if name not in free else np.zeros_like(rows, bool), "a number of at least 0"),
        ):
            if wrong.any():
                where, column = np.argwhere(wrong)[0]
                raise BadInput(
                    f"{name}: line item {int(where)} has {rows[where, column]:g}, expected {expected}."
                )
    for name in ("traffic", "delay_share"):
        total = np.asarray(getattr(posterior, name)).sum(-1)
        if not np.allclose(total, 1.0, atol=1e-3):
            raise BadInput(
                f"{name}: rows must sum to 1, got {float(total.flat[np.abs(total - 1).argmax()]):g}."
            )
    if (np.asarray(posterior.budget_high) < np.asarray(posterior.budget_low)).any():
        raise BadInput("budget_high: a line item's highest budget is below its lowest.")
    if (np.asarray(posterior.rare_share) * np.asarray(posterior.rare_worth) > 1.0).any():
        raise BadInput("rare_worth: the rare segment cannot hold more than all of the value.")
    levers = np.asarray(posterior.lever)
    if not np.isin(levers, list(autobid.Lever)).all():
        raise BadInput(
            f"lever: {levers.tolist()}, expected one of {', '.join(f'{x} {x.name}' for x in autobid.Lever)}."
        )
    for name, given, what in (("lever", kind.levers, "levers"), ("rare_share", kind.rare, "rare samples")):
        if (np.asarray(getattr(posterior, name)) > 0).any() and not given:
            raise BadInput(f"{name}: the posterior asks for {what}, and this kind of world has none.")
    if kind.rules.format is Format.GSP and (np.asarray(posterior.slot_gap) <= 0).any():
        raise BadInput("slot_gap: GSP needs rivals below the first one, got a gap of 0.")
    if kind.items > g:
        raise BadInput(f"a campaign of {kind.items} line items cannot be drawn from {g}.")


def sample(posterior: Posterior, seed: jax.Array, kind: Kind) -> World:
    """One world (arrays without the batch axis) from one integer seed; vmap it for a batch."""
    key = jax.random.fold_in(jax.random.key(7919), seed)
    keys = jax.random.split(key, 16)
    known, n = posterior.price_mean.shape[0], kind.items
    item = (
        jnp.arange(n)
        if known == n
        else jax.random.randint(keys[0], (1,), 0, known)
        if n == 1
        else jax.random.permutation(keys[0], known)[:n]
    )
    p = jax.tree.map(lambda x: x[item], posterior)
    g = jax.random.normal(keys[1], (14, n))
    u = jax.random.uniform(keys[2], (6,))
    shared = jax.random.normal(keys[3], (2,))
    each = jax.random.uniform(keys[4], (6, n, RIVALS))
    weekday = jnp.floor(u[0] * 7).astype(jnp.int32)
    low, high = p.budget_low.sum(), p.budget_high.sum()
    budget = low * (high / low) ** u[1]
    at = u[1] * (BUDGETS - 1)
    below = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, BUDGETS - 2)
    curve = jnp.exp(jnp.log(p.target_cpa).mean(0))
    usual = jnp.where(
        jnp.isinf(curve[0]), jnp.inf, curve[below] + (at - below) * (curve[below + 1] - curve[below])
    )
    target = usual * jnp.exp(p.target_low.mean() + u[2] * (p.target_high.mean() - p.target_low.mean()))

    def path(key: jax.Array, memory: jax.Array, sd: jax.Array) -> jax.Array:
        shocks = jax.random.normal(key, (TICKS_PER_DAY, n)) * sd * jnp.sqrt(1.0 - memory**2)

        def step(x: Array, shock: jax.Array) -> tuple[Array, Array]:
            x = memory * x + shock
            return x, x

        return jax.lax.scan(step, jnp.zeros(n), shocks)[1].T

    jumps = (u[3] < p.jump_chance) * p.jump_sd * shared[0]
    jumped = jnp.arange(TICKS_PER_DAY) >= jnp.floor(u[4] * TICKS_PER_DAY)
    price_path = (
        p.price_hour
        + (p.price_day_sd * g[0])[:, None]
        + path(keys[5], p.price_tick_memory, p.price_tick_sd)
        + jumps[:, None] * jumped
    )
    traffic = p.traffic[:, weekday]
    log_volume = (
        p.weekday[:, weekday][:, None]
        + (p.volume_day_sd * g[1] - 0.5 * p.volume_day_sd**2)[:, None]
        + path(keys[6], p.volume_tick_memory, p.volume_tick_sd)
    )
    expected = p.volume[:, None] * traffic * jnp.exp(log_volume)
    strength = p.rival_sd[:, None] * jax.random.normal(keys[9], (n, RIVALS))
    purse = p.rival_purse[:, None] * jnp.exp(0.4 * jax.random.normal(keys[10], (n, RIVALS)))
    moved = each[0] < p.rival_moves[:, None]
    late = each[1] < 0.5
    hour = jnp.floor(each[2] * TICKS_PER_DAY)
    # What is unsure may not turn into its opposite: rates and strengths stay at or above 0.
    sd = jnp.maximum(p.price_sd + p.price_sd_se * g[3], 0.3 * p.price_sd)
    common = p.conversion_common_se * shared[1]
    own = jnp.exp(p.conversion_rate_se / p.conversion_rate * g[4] + common)
    worth = jnp.where(
        p.by_value > 0, p.order_value * jnp.exp(p.order_value_se / p.order_value * g[5]), 1.0
    ) * (1.0 - p.refunds)
    carried = p.carried * jnp.exp(p.carried_sd * g[6])
    return World(
        terms=Terms(
            item=item, budget=budget, target_cpa=target, weekday=weekday, by_value=p.by_value[0],
            profit=p.profit[0], carried=carried,
        ),
        price_mean=p.price_mean + p.price_mean_se * g[2],
        price_sd=sd,
        clicks_price=p.clicks_price + p.clicks_price_se * g[7],
        slot_gap=p.slot_gap,
        click_rate=p.click_rate * jnp.exp(p.click_rate_se / jnp.maximum(p.click_rate, 1e-9) * g[8]),
        cost_scale=p.cost_scale,
        conversion_rate=p.conversion_rate * own,
        unit_worth=worth,
        fatigue=jnp.maximum(p.fatigue + p.fatigue_se * g[9], 0.0),
        fatigue_memory=p.fatigue_memory,
        awareness=jnp.maximum(p.awareness + p.awareness_se * g[10], 0.0),
        awareness_memory=p.awareness_memory,
        volume=p.volume,
        delay_share=p.delay_share,
        delay_rate=p.delay_rate,
        shown_share=p.shown_share,
        shown_rate=p.shown_rate,
        rare_share=p.rare_share,
        rare_worth=p.rare_worth,
        rare_price=p.rare_price,
        price_path=price_path,
        volume_path=poisson_quantile(jax.random.uniform(keys[11], expected.shape), expected),
        over=jnp.cumsum(traffic, axis=-1),
        offsets=jax.random.randint(keys[7], (n, TICKS_PER_DAY), 0, BANK),
        click_draws=jax.random.uniform(keys[8], (n, TICKS_PER_DAY)),
        arrival_draws=jax.random.uniform(keys[12], (n, TICKS_PER_DAY)),
        rivals=rivals.Rivals(
            strength=strength, purse=purse, paces=jnp.broadcast_to((jnp.arange(RIVALS) % 2 == 0) * 1.0, purse.shape),
            gain=jnp.maximum(p.rival_gain + p.rival_gain_se * g[11], 0.0),
            enters=jnp.where(moved & late, hour, -1.0), leaves=jnp.where(moved & ~late, hour, 1e9),
        ),
        controls=autobid.Controls(
            lever=p.lever, smallest_edit=p.smallest_edit, edits_a_day=p.edits_a_day, learning_edit=p.learning_edit,
            learning_ticks=p.learning_ticks, learning_noise=p.learning_noise, rate_error=p.rate_error_sd * g[12],
            noise=jax.random.normal(keys[13], (n, TICKS_PER_DAY)),
        ),
    )  # fmt: skip


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
    """The day begins: nothing is spent, and users remember what the days before showed them."""
    zero = jnp.zeros_like(world.price_mean)
    carried = world.terms.carried
    return Truth(
        spent=jnp.zeros_like(world.terms.budget), tired=carried / EXPOSURE_UNIT, aware=carried / AWARE_UNIT,
        pending=jnp.zeros((*zero.shape, 2)), conversions=zero, units=jnp.zeros_like(world.terms.budget),
        unshown=jnp.zeros((*zero.shape, 3)), field=rivals.start_field(world.rivals),
        control=autobid.start_controls(world.controls),
    )  # fmt: skip


class Sampled(NamedTuple):
    """The sampled auctions of one half hour, S per line item; [B,I,S] unless said."""

    weight: jax.Array
    """How much of the half hour's traffic each stands for; sums to 1 over S."""
    clicks: jax.Array
    """Clicks at full exposure, in average clicks, times the weight."""
    worth: jax.Array
    """What one of these clicks is worth, in average clicks."""
    prices: tuple[jax.Array, ...]
    """Competing log price per click of each slot, around the level, falling."""


def sampled(world: World, kind: Kind, bank: Bank, t: jax.Array) -> Sampled:
    """The auctions that half hour `t` samples."""
    at = (world.offsets[..., t][..., None] + jnp.arange(kind.samples)) % BANK
    eps = bank.price[at]
    rho = world.clicks_price[..., None]
    weight, worth = jnp.asarray(1.0 / kind.samples), jnp.asarray(1.0)
    price = world.price_sd[..., None] * eps
    if kind.rare:
        # The rare users' auctions are sampled more often than they come, and weigh as much less.
        common = kind.samples - kind.rare
        is_rare = jnp.arange(kind.samples) >= common
        share, value = world.rare_share[..., None], world.rare_worth[..., None]
        weight = jnp.where(is_rare, share / kind.rare, (1.0 - share) / common)
        worth = jnp.where(is_rare, value, (1.0 - share * value) / jnp.maximum(1.0 - share, 1e-9))
        price = price + jnp.where(is_rare, world.rare_price[..., None], 0.0)
    prices = [price]
    for slot in range(1, kind.rules.slots):
        prices.append(prices[-1] - world.slot_gap[..., None] * bank.gap[at, slot - 1])
    return Sampled(weight, weight * jnp.exp(rho * eps - 0.5 * rho * rho), worth, tuple(prices))


class Bought(NamedTuple):
    """What bids buy in a half hour of auctions, each of equal weight, before any budget; [B,I]."""

    impressions: jax.Array
    """Share of the sampled auctions that are won, in any slot."""
    clicks: jax.Array
    """Per click_rate."""
    cost: jax.Array
    """In the unit of the level's price, per click_rate."""
    rivals_paid: jax.Array
    """What rivals pay where we do not win, as a share of what they pay where we never do."""
    worth: jax.Array
    """Units of the clicks, counted in average clicks."""


def buy(world: World, kind: Kind, bank: Bank, level: jax.Array, log_bid: jax.Array, t: jax.Array) -> Bought:
    """The sampled auctions of half hour `t` at `log_bid` [B,I], with competing log prices around `level` [B,I]."""
    weight, clicks_each, worth, prices = sampled(world, kind, bank, t)
    bid = log_bid - level
    place = placed(kind.rules, bid, prices, money=jnp.exp)
    mass = weight * jnp.exp(prices[0])
    # Rivals pay for what we do not win; what we win in a lower slot leaves them the ones above.
    rivals_paid = _over_samples(jnp.where(bid[..., None] >= prices[0], 0.0, mass)) / _over_samples(mass)
    shown = jnp.where(place.held, 1.0, 0.0)
    clicks = clicks_each * place.seen
    return Bought(
        _over_samples(weight * shown), _over_samples(clicks), _over_samples(clicks * place.price), rivals_paid,
        _over_samples(clicks * worth),
    )  # fmt: skip


def _over_samples(x: jax.Array) -> jax.Array:
    """Sums over the last axis, by a product with ones: on a processor XLA adds up a row of a fused expression number
    after number, and multiplies by vectors."""
    return x @ jnp.ones(x.shape[-1], x.dtype)


def day_auctions(world: World, kind: Kind, bank: Bank) -> Auctions:
    """All sampled auctions of B days as the yardstick takes them, [B, 48 I S] and as many slots as the format has.

    Expected clicks, conversion rates of users who have not been shown anything, and the prices that rivals make before
    they answer: where nobody answers and nobody tires, those very auctions that `half_hour` plays.
    """
    units = world.conversion_rate * world.unit_worth

    def one(t: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        found = sampled(world, kind, bank, t)
        level = world.price_mean + world.price_path[..., t]
        ratio = jnp.exp(jnp.stack(found.prices, -1) + (level - jnp.log(units))[..., None, None])
        clicks = (world.click_rate * world.volume_path[..., t])[..., None] * found.clicks
        worth = clicks * (world.cost_scale * units)[..., None]
        return ratio, clicks * found.worth * units[..., None], worth

    ratio, value, worth = jax.lax.map(one, jnp.arange(TICKS_PER_DAY))
    days = world.terms.budget.shape[0]

    def flat(x: jax.Array, *slots: int) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(days, -1, *slots)

    return Auctions(
        flat(ratio, kind.rules.slots), flat(value), flat(worth), kind.rules.exposure, world.terms.budget,
        world.terms.target_cpa, world.terms.profit > 0,
    )  # fmt: skip


def half_hour(
    world: World, truth: Truth, state: DayState, log_bid: jax.Array, bank: Bank, t: jax.Array, kind: Kind
) -> tuple[Truth, Report]:
    """Play half hour `t` (scalar) of B worlds at `log_bid` [B,I]; returns the truth after it and the report.

    Costs are charged per click. The budget binds inside the half hour: of exchangeable auctions the share that the
    money left can pay is kept, on all line items alike.
    """
    control = truth.control
    if kind.levers:
        control = autobid.edit(world.controls, control, log_bid, t)
        log_bid = autobid.log_bids(world.controls, control, t)
    answer = rivals.level(world.rivals, truth.field, world.price_sd, t)
    level = world.price_mean + world.price_path[..., t] + answer
    bought = buy(world, kind, bank, level, log_bid, t)
    eligible = world.volume_path[..., t]
    clicks_mean = world.click_rate * eligible * bought.clicks
    cost_per_click = world.cost_scale * jnp.exp(level) * bought.cost / jnp.maximum(bought.clicks, 1e-9)
    clicks = poisson_quantile(world.click_draws[..., t], clicks_mean)
    cost = clicks * cost_per_click
    left = jnp.maximum(world.terms.budget - truth.spent, 0.0)
    # Not `auction.affordable_share`: views without a click cost nothing here, and whoever is broke gets none of them.
    share = jnp.minimum(1.0, left / jnp.maximum(cost.sum(-1), 1e-9))[..., None]
    clicks, cost, impressions = clicks * share, cost * share, eligible * bought.impressions * share
    weariness = jnp.exp(-world.fatigue * truth.tired)
    interest = 1.0 + world.awareness * jnp.tanh(truth.aware)
    rate = world.conversion_rate * weariness * interest * bought.worth / jnp.maximum(bought.clicks, 1e-9)
    expected = clicks * rate
    pending = truth.pending + world.delay_share * expected[..., None]
    due = world.delay_rate * pending
    arrived = poisson_quantile(world.arrival_draws[..., t], due.sum(-1))
    new = jnp.stack([impressions, clicks, cost], axis=-1)
    late = world.shown_rate[..., None] * truth.unshown
    seen = world.shown_share[..., None] * new + late
    report = Report(
        log_bid=log_bid, eligible=eligible, impressions=seen[..., 0], clicks=seen[..., 1], cost=seen[..., 2],
        conversions_so_far=state.conversions + arrived,
    )  # fmt: skip
    exposed = impressions / world.volume
    # Rounding may carry the last share a digit beyond the budget, and nobody is charged that.
    spent = jnp.minimum(truth.spent + cost.sum(-1), world.terms.budget)
    over = world.over[..., t]
    flow = over - jnp.where(t > 0, world.over[..., t - 1], 0.0)
    if kind.levers:
        control = autobid.after_spend(control, (spent / world.terms.budget)[..., None], over)
    # Prices that rivals pay follow the level; what all of them pay on an ordinary day is the unit of their purses.
    # They pay for what our money did not reach, too.
    paid = (1.0 - share * (1.0 - bought.rivals_paid)) * flow * jnp.exp(answer)
    after = Truth(
        spent=spent,
        tired=world.fatigue_memory * truth.tired + exposed / EXPOSURE_UNIT,
        aware=world.awareness_memory * truth.aware + exposed / AWARE_UNIT,
        pending=pending - due,
        conversions=truth.conversions + expected,
        units=truth.units + (expected * world.unit_worth).sum(-1),
        unshown=truth.unshown - late + (1.0 - world.shown_share[..., None]) * new,
        field=rivals.after(world.rivals, truth.field, world.price_sd, paid, over, t),
        control=control,
    )
    return after, report


def learning_share(truth: Truth) -> jax.Array:
    """Share of each campaign's line items that the platform says are in their learning period, [B]."""
    return (truth.control.learning > 0).mean(-1)


def hidden(world: World, truth: Truth, landscape: Landscape, t: jax.Array) -> jax.Array:
    """The simulator's truth at half hour `t` for a privileged critic, [B, len(HIDDEN)], means over line items."""
    item = world.terms.item
    now = jnp.minimum(t, TICKS_PER_DAY - 1)
    answer = rivals.level(world.rivals, truth.field, world.price_sd, now)
    given = world.price_mean + world.price_path[..., now] - landscape.price_mean[item]
    told = (
        given,
        jnp.log(world.volume_path.sum(-1) / landscape.volume[item]),
        jnp.log(world.conversion_rate / landscape.conversion_rate[item]),
        world.fatigue,
        truth.tired,
        world.fatigue * truth.tired,
        truth.aware,
        given + answer,
    )
    return jnp.stack([x.mean(-1) for x in told], axis=-1)


def day_score(truth: Truth, world: World) -> jax.Array:
    """The objective of the day so far, on expected conversions, [B]."""
    return objective(truth.units, truth.spent, world.terms, jnp)


Bidder = Callable[[DayState, Terms], jax.Array]


def play_day(
    world: World, bidder: Bidder, landscape: Landscape, params: PacerParams, bank: Bank, kind: Kind
) -> tuple[Truth, DayState]:
    """A whole day of B worlds under `bidder` (state, terms -> log bid [B,I]); jit-able, one scan."""

    def step(carry: tuple[Truth, DayState], t: jax.Array) -> tuple[tuple[Truth, DayState], None]:
        truth, state = carry
        truth, report = half_hour(world, truth, state, bidder(state, world.terms), bank, t, kind)
        return (truth, after_report(state, report, landscape, world.terms, params, jnp)), None

    start = (start_truth(world), start_day(landscape, world.terms, jnp))
    return jax.lax.scan(step, start, jnp.arange(TICKS_PER_DAY))[0]


def pacer_day(
    world: World, landscape: Landscape, params: PacerParams, bank: Bank, kind: Kind
) -> tuple[Truth, DayState]:
    """The day under the pacer alone."""
    return play_day(
        world, lambda s, terms: solve(s, landscape, terms, params, jnp).log_bid, landscape, params, bank, kind
    )


def pacer_scores(
    world: World, landscape: Landscape, params: PacerParams, bank: Bank, kind: Kind
) -> jax.Array:
    """The day's score under the pacer alone, [B]."""
    return day_score(pacer_day(world, landscape, params, bank, kind)[0], world)


def worlds_of(posterior: Posterior, seeds: np.ndarray | jax.Array, kind: Kind) -> World:
    """The worlds of integer `seeds`, batched."""
    return jax.vmap(lambda seed: sample(posterior, seed, kind))(jnp.asarray(seeds))
