"""The worlds the benchmarks play in: eight made-up line items whose users tire, around a pacer that nobody tuned.

It fits nothing and reads nothing: a benchmark must find the same market on every machine.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gaelp.bidding.landscape import tabulate
from gaelp.bidding.pacer import DEFAULT_PARAMS
from gaelp.core.schema import TICKS_PER_DAY, Schema, default_schema
from gaelp.learn.policies import act_mode
from gaelp.market.campaign import CampaignMarket, Certified, SampleMove
from gaelp.market.world import BUDGETS, Kind, Posterior, absent

LINE_ITEMS = 8
FRESH_SHARE = 0.6
"""What an ordinary day's exposure leaves of a fresh user's conversion rate, as the landscape knows it."""


def posterior_and_pacer(line_items: int = LINE_ITEMS) -> tuple[Posterior, Certified]:
    """About 800 clicks a day at 0.5 units each if everything is bought, budgets from 5 % to 50 % of that."""
    rng = np.random.default_rng(2026)

    def about(centre: float, spread: float) -> np.ndarray:
        return centre * np.exp(spread * rng.standard_normal(line_items))

    def each(value: float) -> np.ndarray:
        return np.full(line_items, value)

    hour = np.arange(TICKS_PER_DAY) / 2
    peaks = 0.3 + np.exp(-(((hour - 12) / 3) ** 2)) + 1.2 * np.exp(-(((hour - 20) / 2.5) ** 2))
    traffic = np.tile(peaks / peaks.sum(), (line_items, 7, 1))
    price_hour = np.tile(0.3 * np.sin(2 * np.pi * (hour - 9) / 24), (line_items, 1))
    shared = {
        "price_mean": np.log(about(0.5, 0.2)), "price_sd": about(0.7, 0.1), "clicks_price": each(0.3),
        "click_rate": about(0.02, 0.1), "cost_scale": each(1.0), "volume": about(40_000.0, 0.1),
        "price_hour": price_hour, "price_day_sd": each(0.3), "order_value": each(1.0), "slot_gap": each(0.0),
        "delay_share": np.tile([1.0, 0.0], (line_items, 1)), "delay_rate": np.full((line_items, 2), 0.1),
    }  # fmt: skip
    fresh = about(0.05, 0.1)
    told = {
        **absent(line_items), **shared, "traffic": traffic, "price_mean_se": each(0.03), "price_sd_se": each(0.02),
        "conversion_rate": fresh, "conversion_rate_se": 0.1 * fresh, "fatigue": about(0.3, 0.1),
        "fatigue_se": each(0.03), "fatigue_memory": each(0.93), "volume_day_sd": each(0.2),
        "volume_tick_sd": each(0.25), "volume_tick_memory": each(0.8), "price_tick_sd": each(0.2),
        "price_tick_memory": each(0.9), "budget_low": each(24.0), "budget_high": each(240.0),
        "target_cpa": np.repeat(about(10.0, 0.15)[:, None], BUDGETS, axis=1),
    }  # fmt: skip
    landscape = tabulate(**shared, traffic=traffic[:, 0], conversion_rate=FRESH_SHARE * fresh)
    return Posterior(**told), Certified(landscape, DEFAULT_PARAMS)


def benchmark_market(schema: Schema, sample_move: SampleMove) -> CampaignMarket:
    """The market both contestants play in."""
    posterior, certified = posterior_and_pacer()
    return CampaignMarket(
        posterior=posterior, certified=certified, schema=schema, sample_move=sample_move, mode_move=_mode,
        phase="benchmark",
    )  # fmt: skip


def sized_market(*, items: int, samples: int, chunk: int) -> CampaignMarket:
    """Campaigns of so many line items, with so many sampled auctions each a half hour; `chunk` worlds at a time."""
    posterior, certified = posterior_and_pacer(items)
    return CampaignMarket(
        posterior=posterior, certified=certified, schema=default_schema(profile="wide"), sample_move=_any_move,
        mode_move=_mode, phase="benchmark", kind=Kind(items=items, samples=samples), chunk=chunk,
    )  # fmt: skip


def _mode(policy: object, seen: jax.Array, mask: jax.Array) -> jax.Array:
    return act_mode(policy, seen, mask).action  # type: ignore[arg-type]


def _any_move(
    policy: object, seen: jax.Array, mask: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Drawn alike from what the mask leaves."""
    return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf)), -jnp.log(mask.sum(-1))
