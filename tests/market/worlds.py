"""Plain posteriors with known numbers, and a market on them: what the fitted ones look like, without luck in the fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from tests.bidding.days import HOUR, TRAFFIC, landscape

from gaelp.bidding.landscape import Landscape
from gaelp.bidding.pacer import DEFAULT_PARAMS
from gaelp.core.schema import Schema, default_schema
from gaelp.market.campaign import CampaignMarket, Certified
from gaelp.market.world import BUDGETS, Posterior, absent

SCHEMA: Schema = default_schema()
KNOWN: Landscape = landscape(conversion_rate=0.2)
"""What the pacer believes: the rate is the average over tired and fresh users."""


def posterior(**changes: float | NDArray[np.float64]) -> Posterior:
    """One line item; by default every day differs in price, volume and tiredness, and the parameters are uncertain."""
    usual: dict[str, float] = {
        "price_mean": np.log(0.05), "price_mean_se": 0.05, "price_sd": 0.6, "price_sd_se": 0.05, "clicks_price": -0.3,
        "click_rate": 0.05, "cost_scale": 0.8, "conversion_rate": 0.3, "conversion_rate_se": 0.02, "fatigue": 0.1,
        "fatigue_se": 0.02, "fatigue_memory": 0.9, "volume": 12_000.0, "volume_day_sd": 0.15, "volume_tick_sd": 0.1,
        "volume_tick_memory": 0.5, "price_day_sd": 0.2, "price_tick_sd": 0.1, "price_tick_memory": 0.7,
        "budget_low": 3.0, "budget_high": 12.0,
    }  # fmt: skip
    told = {
        name: np.atleast_1d(np.asarray(value, np.float64)) for name, value in {**usual, **changes}.items()
    }
    shaped = {
        "traffic": np.broadcast_to(TRAFFIC, (1, 7, 48)),
        "price_hour": 0.2 * np.sin(2 * np.pi * HOUR)[None],
        "delay_rate": np.full((1, 2), 0.1),
        "target_cpa": np.full((1, BUDGETS), 0.12),
    }
    return Posterior(**{**absent(1), **shaped, **told})


CERTAIN = dict.fromkeys(("price_mean_se", "price_sd_se", "conversion_rate_se", "fatigue_se"), 0.0)
"""A posterior without doubt: every world has the planted parameters."""


def always(
    policy: jax.Array, seen: jax.Array, mask: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The policy is one joint move."""
    return jnp.full(seen.shape[0], policy, jnp.int32), jnp.zeros(seen.shape[0])


def always_mode(policy: jax.Array, seen: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.full(seen.shape[0], policy, jnp.int32)


def at_random(
    policy: jax.Array, seen: jax.Array, mask: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The policy holds logits [A] over the moves, and draws from those the mask leaves."""
    logits = jnp.where(mask, policy, -jnp.inf)
    move = jax.random.categorical(key, logits)
    chances = jax.nn.log_softmax(logits)
    return move, jnp.take_along_axis(chances, move[:, None], 1)[:, 0]


def market(told: Posterior, sample=always, mode=always_mode) -> CampaignMarket:
    return CampaignMarket(
        posterior=told, certified=Certified(KNOWN, DEFAULT_PARAMS), schema=SCHEMA, sample_move=sample, mode_move=mode,
        phase="simulation",
    )  # fmt: skip
