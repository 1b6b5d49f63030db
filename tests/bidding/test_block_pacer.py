"""The block pacer by hand: what it plans to spend, what it makes of evidence, and the same in NumPy and in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaelp.bidding.block_pacer import (
    BlockReport,
    Curve,
    Knobs,
    Pace,
    after_block,
    level,
    log_multiplier,
    pacer_hash,
    start_pace,
)
from gaelp.bidding.observe_log import mark_decision, observe_log
from gaelp.core.schema import default_schema

SCHEMA = default_schema()
# Doubling the multiplier doubles the spend: 1 an auction at 100, 2 at 200, 4 at 400.
CURVE = Curve(
    log_multiplier=np.log([100.0, 200.0, 400.0]).astype(np.float32), spend=np.array([1, 2, 4], np.float32),
    won=np.array([0.1, 0.2, 0.4], np.float32), value=np.array([0.01, 0.015, 0.02], np.float32),
    mean_price=np.float32(10.0),
)  # fmt: skip
PLAIN = Knobs(*(np.float64(x) for x in (1.0, 0.5, 0.0, 0.0)))
BUDGET = np.array([200.0], np.float32)


def begun(auctions: int = 100) -> Pace:
    return start_pace(np.array([auctions]), np)


def report(auctions: float, won: float, cost: float, value: float) -> BlockReport:
    return BlockReport(*(np.array([x], np.float32) for x in (auctions, won, cost, value)))


def test_at_first_it_bids_what_spends_the_budget_evenly() -> None:
    assert np.exp(log_multiplier(begun(), BUDGET, CURVE, PLAIN, np)) == pytest.approx(200.0)


def test_what_was_saved_is_spread_over_what_is_left() -> None:
    # 50 auctions cost 20 where 100 were planned: 180 are left for 50, 3.6 an auction. With endless prior trust the
    # curve is believed all the same.
    trusting = PLAIN._replace(prior=np.float64(1e9))
    later = after_block(begun(), np.log([200.0]), report(50, 5, 20, 0.5), BUDGET, CURVE, trusting, np)
    asked = np.interp(3.6, CURVE.spend, CURVE.log_multiplier)
    assert log_multiplier(later, BUDGET, CURVE, trusting, np) == pytest.approx(asked, rel=1e-5)


def test_an_episode_that_costs_twice_the_curve_is_bid_on_lower() -> None:
    # 10 auctions at 200 cost 40, the curve says 20. Prior trust is 100: (40 + 100) / (20 + 100).
    later = after_block(begun(), np.log([200.0]), report(10, 2, 40, 0.5), BUDGET, CURVE, PLAIN, np)
    assert np.exp(level(later, BUDGET, PLAIN, np)) == pytest.approx(140 / 120)
    asked = np.interp(160 / 90 * 120 / 140, CURVE.spend, CURVE.log_multiplier)
    assert log_multiplier(later, BUDGET, CURVE, PLAIN, np) == pytest.approx(asked, rel=1e-5)


def test_old_evidence_is_forgotten_as_told() -> None:
    forgetful = PLAIN._replace(keep=np.float64(0.5))
    pace = begun()
    for cost in (40.0, 20.0):
        pace = after_block(pace, np.log([200.0]), report(10, 2, cost, 0.5), BUDGET, CURVE, forgetful, np)
    # Half of the first block's: 20 + 20 spent, 10 + 20 foreseen.
    assert np.exp(level(pace, BUDGET, forgetful, np)) == pytest.approx((40 + 100) / (30 + 100))


def test_a_reserve_is_kept_for_the_dearest_to_come() -> None:
    careful = PLAIN._replace(reserve=np.float64(20.0))
    # Of 200 the share 200 / (200 + 20 x 10) is planned for: 1 an auction.
    assert np.exp(log_multiplier(begun(), BUDGET, CURVE, careful, np)) == pytest.approx(100.0)


def test_without_money_nothing_is_learned() -> None:
    broke = begun()._replace(spent=BUDGET)
    later = after_block(broke, np.log([200.0]), report(10, 0, 0, 0), BUDGET, CURVE, PLAIN, np)
    assert (later.evidence[0], later.foreseen[0]) == (0.0, 0.0)


def test_the_hash_is_of_curve_and_knobs() -> None:
    told = pacer_hash(CURVE, PLAIN)
    assert told == pacer_hash(Curve(*(jnp.asarray(x) for x in CURVE)), PLAIN)
    assert told != pacer_hash(CURVE, PLAIN._replace(offset=np.float64(0.01)))
    assert told != pacer_hash(CURVE._replace(mean_price=np.float32(11.0)), PLAIN)


def under_way(xp: Any) -> Pace:
    """Two decisions and three blocks into two episodes."""
    curve, knobs = Curve(*map(xp.asarray, CURVE)), Knobs(*map(xp.asarray, PLAIN))
    budget = xp.asarray([200.0, 300.0], dtype=xp.float32)
    pace = start_pace(xp.asarray([100, 100]), xp)
    for k in range(3):
        if k != 1:
            pace = mark_decision(pace, xp.asarray([0.1, -0.2], dtype=xp.float32), xp)
        at = log_multiplier(pace, budget, curve, knobs, xp) + 0.1
        brought = BlockReport(
            *(xp.asarray(x, dtype=xp.float32) for x in ([10, 10], [3, 1], [30, 5], [0.2, 0.1]))
        )
        pace = after_block(pace, at, brought, budget, curve, knobs, xp)
    return pace


def observed(xp: Any) -> np.ndarray:
    budget = xp.asarray([200.0, 300.0], dtype=xp.float32)
    return np.asarray(observe_log(under_way(xp), budget, CURVE, PLAIN, SCHEMA, xp))


def test_numpy_and_jax_remember_and_see_the_same() -> None:
    for mine, theirs in zip(under_way(np), under_way(jnp), strict=True):
        assert np.asarray(theirs) == pytest.approx(np.asarray(mine), rel=1e-5, abs=1e-6)
    assert observed(jnp) == pytest.approx(observed(np), rel=1e-4, abs=1e-5)


def test_an_observation_tells_the_episode_and_leaves_empty_what_a_log_does_not_show() -> None:
    seen = observed(np)
    assert seen.shape == (2, SCHEMA.observation_size)
    assert seen.dtype == np.float32
    told = {name: seen[:, SCHEMA.campaign_index(name)] for name in SCHEMA.campaign_features}
    assert told["elapsed"] == pytest.approx([0.3, 0.3])
    assert told["spend_share"] == pytest.approx([90 / 200, 15 / 300])
    assert told["pace_error"] == pytest.approx([0.15, -0.25])
    assert told["action_0"] == pytest.approx([0.1, -0.2])
    # The last stretch is the third block alone: 30 and 5 spent, 3 and 1 of 10 won.
    assert told["spend_0"] == pytest.approx([30 / 200, 5 / 300])
    assert told["win_rate_0"] == pytest.approx([0.3, 0.1])
    assert told["price_level"][0] > 0 > told["price_level"][1]
    for name in ("has_target", "matured_fraction", "monday", "holiday", "learning", "volume_ratio"):
        assert not told[name].any()
    assert seen[:, SCHEMA.item_index(0, "share_won")] == pytest.approx([0.3, 0.1])
    assert not seen[:, SCHEMA.item_index(1, "share_won")].any()


def test_an_episode_of_nothing_is_still_finite() -> None:
    blank = observe_log(begun(), BUDGET, CURVE, PLAIN, SCHEMA, np)
    spent = observe_log(begun()._replace(spent=BUDGET, auctions_left=np.zeros(1), seen=np.array([100.0])), BUDGET,
                        CURVE, PLAIN, SCHEMA, np)  # fmt: skip
    assert np.isfinite(blank).all()
    assert np.isfinite(spent).all()
    assert jax.numpy.abs(spent).max() <= 10.0
