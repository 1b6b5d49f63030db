"""The observation: alive in every slot it promises, free of the currency's scale, the same under NumPy and JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.bidding.days import Truth, campaign, landscape, play, terms

from gaelp.bidding.observe import fits, mark_decision, observe
from gaelp.bidding.pacer import DEFAULT_PARAMS, Report, after_report, dual_log_bid, solve, start_day
from gaelp.core.errors import BadInput
from gaelp.core.schema import Schema, default_schema

SCHEMA = default_schema()
OFTEN = default_schema(decisions_per_day=12)
"""With twelve decisions every slot of the six dayparts remembered is filled by noon."""
L = landscape(
    items=4, conversion_rate=np.array([0.2, 0.25, 0.3, 0.35]), price_mean=np.log([0.04, 0.05, 0.05, 0.06])
)
EMPTY = {"holiday", "learning", "report_age"}
"""What no report of a platform tells in this version; declared in `observe`."""
CONSTANT = {"weight"}
"""One line item per campaign carries all of its weight."""


def watch_days(known, day, truth: Truth, seed: int, schema: Schema = SCHEMA) -> np.ndarray:
    """Observations [T+1,B,O] of a day with randomised moves, at its T decisions and after the last half hour."""
    rng = np.random.default_rng(seed)
    seen, kept = [], {"pace": np.zeros(len(day.item))}
    history: dict[str, np.ndarray] = {}

    def bidder(state):
        t = int(state.tick[0])
        # The bidder's memory of its own moves lives beside the fold of the reports.
        state = state._replace(**history)
        solution = solve(state, known, day, DEFAULT_PARAMS, np)
        if t % schema.ticks_per_decision == 0:
            seen.append(observe(state, solution, known, day, DEFAULT_PARAMS, schema, np))
            kept["pace"] = rng.choice(schema.pace_levels, size=len(day.item))
            marked = mark_decision(state, kept["pace"], np)
            history.update(
                {n: getattr(marked, n) for n in marked._fields if n.startswith(("past_", "mark_"))}
            )
        return solution.log_bid + kept["pace"][:, None]

    end = play(bidder, known, day, truth=truth, rng=np.random.default_rng(seed + 1)).state._replace(**history)
    end = end._replace(tick=np.full_like(end.tick, 47))
    seen.append(
        observe(end, solve(end, known, day, DEFAULT_PARAMS, np), known, day, DEFAULT_PARAMS, schema, np)
    )
    return np.stack(seen)


@pytest.fixture(scope="module")
def population() -> np.ndarray:
    """Seven weekdays of four line items, rich and poor, with and without a target, cheap and dear days: [N,256]."""
    rng = np.random.default_rng(5)
    days = []
    for k in range(14):
        day = terms(
            rng.uniform(1.0, 12.0, 4),
            np.where(np.arange(4) == k % 4, np.inf, rng.uniform(0.05, 0.2, 4)),
            items=4,
        )
        day = day._replace(weekday=np.full(4, k % 7))
        truth = Truth(rng.normal(0, 0.3), np.exp(rng.normal(0, 0.3)), np.exp(rng.normal(0, 0.3)))
        days.append(watch_days(L, day, truth, k, OFTEN).reshape(-1, SCHEMA.observation_size))
    return np.concatenate(days)


def test_an_observation_has_the_schemas_width_and_only_finite_numbers(population):
    assert population.dtype == np.float32
    assert population.shape[1] == SCHEMA.observation_size == 256
    assert np.isfinite(population).all()
    assert np.abs(population).max() <= 10.0


@pytest.mark.parametrize("name", sorted(set(SCHEMA.campaign_features) - EMPTY))
def test_a_campaign_feature_varies_over_a_population_of_days(population, name):
    values = population[:, SCHEMA.campaign_index(name)]
    assert len(np.unique(values)) > 1
    assert values.std() > 1e-3


@pytest.mark.parametrize("name", sorted(set(SCHEMA.profile.features) - CONSTANT))
def test_a_line_items_feature_varies_over_a_population_of_days(population, name):
    assert population[:, SCHEMA.item_index(0, name)].std() > 1e-3


def test_what_is_declared_empty_is_zero_and_so_is_every_slot_without_a_line_item(population):
    assert all((population[:, SCHEMA.campaign_index(name)] == 0.0).all() for name in EMPTY)
    assert all((population[:, SCHEMA.item_index(0, name)] == 1.0).all() for name in CONSTANT)
    assert (
        population[:, SCHEMA.item_index(1, "price_deviation") : SCHEMA.campaign_index("elapsed")] == 0.0
    ).all()


def test_no_two_campaign_features_are_one_number_under_two_names(population):
    columns = {
        name: population[:, SCHEMA.campaign_index(name)] for name in set(SCHEMA.campaign_features) - EMPTY
    }
    told = {("price_level", "price_level")}
    twins = {(a, b) for a, x in columns.items() for b, y in columns.items() if a < b and np.array_equal(x, y)}
    assert twins <= told


def test_a_name_stands_where_its_number_is():
    """At a decision whose answers are known by hand: half past ten on a Saturday, a quarter of the budget spent."""

    def each(value: float) -> np.ndarray:
        return np.full((4, 1), value)

    day = terms(8.0, 0.1, items=4)._replace(weekday=np.full(4, 5))
    state = start_day(L, day, np)._replace(
        tick=np.full(4, 24), spent=np.full(4, 2.0), cost=each(2.0), eligible=each(6000.0), clicks=each(30.0),
        matured_clicks=each(10.0), unmatured_clicks=np.tile([20.0, 10.0], (4, 1, 1)), conversions=each(3.0),
        impressions=each(900.0), price_dev=each(0.2), price_slow=each(0.05),
    )  # fmt: skip
    # The daypart before the last one brought all of this; the one since then, not a half hour old, nothing.
    state = mark_decision(state, np.full(4, -0.35), np)
    seen = observe(state, solve(state, L, day, DEFAULT_PARAMS, np), L, day, DEFAULT_PARAMS, SCHEMA, np)[0]
    told = {
        "elapsed": 0.5, "sine": 0.0, "cosine": -1.0, "traffic_left": 0.5, "budget_left": 0.75, "spend_share": 0.25,
        "pace_error": -0.25, "has_target": 1.0, "price_level": 0.2, "price_trend": 0.15, "matured_fraction": 0.25,
        "arrived_count": np.log(4.0), "saturday": 1.0, "monday": 0.0, "weekend": 1.0, "limited": 0.0,
        "action_0": -0.35, "action_1": 0.0, "spend_0": 0.0, "spend_1": 0.25, "win_rate_1": 0.15,
        # 3 conversions of 30 clicks, against the calibrated 0.2.
        "value_rate_1": 0.5, "volume_ratio": 0.0,
        # (2 + 0.05 x 8) / (3 x 0.1 + 0.05 x 8) = 2.4 / 0.7.
        "cost_against_target_raw": np.log(2.4 / 0.7),
    }  # fmt: skip
    got = {name: float(seen[SCHEMA.campaign_index(name)]) for name in told}
    assert got == pytest.approx(told, abs=1e-6)
    items = {"price_deviation": 0.2, "weight": 1.0, "base_price": np.log(0.04), "base_value": np.log(0.01),
             "spend_pace": -0.25, "last_action": -0.35, "matured_count": np.log(1 + 0.2 * 10)}  # fmt: skip
    assert {n: float(seen[SCHEMA.item_index(0, n)]) for n in items} == pytest.approx(items, abs=1e-6)


def test_a_campaign_a_thousand_times_dearer_looks_the_same_but_for_its_price_level():
    budget, target = np.array([2.0, 4.0, 8.0, 12.0]), np.array([0.08, 0.1, 0.15, np.inf])
    small = watch_days(L, terms(budget, target, items=4), Truth(0.2, 1.2, 0.9), 3)
    dear = landscape(
        items=4, conversion_rate=np.array([0.2, 0.25, 0.3, 0.35]), price_mean=np.log([40.0, 50.0, 50.0, 60.0])
    )
    large = watch_days(dear, terms(1000 * budget, 1000 * target, items=4), Truth(0.2, 1.2, 0.9), 3)
    price = SCHEMA.item_index(0, "base_price")
    assert large[..., price] - small[..., price] == pytest.approx(np.log(1000.0), abs=1e-5)
    rest = np.delete(np.arange(SCHEMA.observation_size), price)
    assert large[..., rest] == pytest.approx(small[..., rest], abs=1e-4)


def test_the_wide_profile_keeps_three_item_features_and_all_of_the_campaigns():
    wide = default_schema(profile="wide")
    day = terms(np.full(4, 6.0), 0.1, items=4)
    narrow_seen = watch_days(L, day, Truth(0.2), 1)
    wide_seen = watch_days(L, day, Truth(0.2), 1, schema=wide)
    assert wide_seen.shape == narrow_seen.shape
    assert np.array_equal(wide_seen[..., 192:], narrow_seen[..., 192:])
    for name in wide.profile.features:
        assert np.array_equal(
            wide_seen[..., wide.item_index(0, name)], narrow_seen[..., SCHEMA.item_index(0, name)]
        )


# ---- several line items


def look(state, day, **told) -> np.ndarray:
    solution = solve(state, L, day, DEFAULT_PARAMS, np)
    return observe(state, solution, L, day, DEFAULT_PARAMS, SCHEMA, np, **told)[0]


def test_each_line_item_fills_a_slot_of_its_own_and_the_campaigns_numbers_are_of_all():
    day = campaign(3, 8.0)
    state = start_day(L, day, np)._replace(
        tick=np.array([24]), spent=np.array([4.0]), cost=np.array([[3.0, 1.0, 0.0]]),
        price_dev=np.array([[0.3, 0.0, -0.3]]), clicks=np.array([[60.0, 20.0, 0.0]]),
        eligible=np.array([[6000.0, 6000.0, 3000.0]]), impressions=np.array([[900.0, 300.0, 0.0]]),
    )  # fmt: skip
    seen = look(mark_decision(state, np.zeros(1), np), day)
    items = {
        # Half of the traffic is over: an even share of the plan is a sixth of the budget each.
        "spend_pace": [3 / 8 - 1 / 6, 1 / 8 - 1 / 6, -1 / 6], "price_deviation": [0.3, 0.0, -0.3],
        "weight": [1 / 3] * 3, "base_price": np.log([0.04, 0.05, 0.05]),
        "base_value": np.log([0.2 * 0.05, 0.25 * 0.05, 0.3 * 0.05]),
    }  # fmt: skip
    for name, told in items.items():
        got = [float(seen[SCHEMA.item_index(i, name)]) for i in range(3)]
        assert got == pytest.approx(list(told), abs=1e-6), name
    assert (seen[SCHEMA.item_index(3, "price_deviation") : SCHEMA.campaign_index("elapsed")] == 0.0).all()
    # Volume: 15,000 auctions of 18,000, with 0.15 of an ordinary day as prior: (1/2 + .15) / (1/2 + .15) twice, and
    # (1/4 + .15) / (1/2 + .15) = 0.6154.
    whole = {"price_level": 0.0, "win_rate_1": 1200 / 15_000, "spend_1": 0.5, "spend_share": 0.5,
             "volume_ratio": np.log((2 + 0.4 / 0.65) / 3)}  # fmt: skip
    got = {name: float(seen[SCHEMA.campaign_index(name)]) for name in whole}
    assert got == pytest.approx(whole, abs=1e-6)


def test_the_agent_is_told_how_many_line_items_are_learning():
    day = campaign(2, 8.0)
    state = start_day(L, day, np)
    at = SCHEMA.campaign_index("learning")
    assert [float(look(state, day, learning=np.array([x]))[at]) for x in (0.0, 0.5)] == [0.0, 0.5]


def test_more_line_items_than_the_profile_holds_are_refused_with_what_would_help():
    fits(SCHEMA, 16)
    fits(default_schema(profile="wide"), 64)
    with pytest.raises(
        BadInput, match=r"'focused' holds 16 .* has 17: group some of them \(profile 'wide' holds 64\)"
    ):
        fits(SCHEMA, 17)
    with pytest.raises(
        BadInput, match=r"'wide' holds 64 line items, the campaign has 65: group some of them\.$"
    ):
        fits(default_schema(profile="wide"), 65)
    many = campaign(17, 8.0)._replace(item=np.zeros((1, 17), int))
    with pytest.raises(BadInput, match="the campaign has 17"):
        look(start_day(L, many, np), many)


# ---- NumPy and JAX


def single(tree):
    return jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32 if np.asarray(x).dtype.kind == "f" else None), tree
    )


@pytest.mark.parametrize("shape", [(4, 1), (1, 4)])
def test_numpy_in_double_and_jax_in_single_precision_tell_the_same_day(shape):
    """The same random reports folded by both: states, solutions and observations within 1e-4 (relative above 1).

    Four campaigns of one line item, and one campaign of four that counts by value and is steered by profit.
    """
    rng = np.random.default_rng(0)
    day = (
        terms(rng.uniform(3, 12, 4), rng.uniform(0.06, 0.2, 4), items=4)
        if shape == (4, 1)
        else campaign(4, 20.0, by_value=1.0, profit=1.0)
    )
    known32, day32, params32 = single(L), single(day), single(DEFAULT_PARAMS)
    fold = jax.jit(lambda s, r: after_report(s, r, known32, day32, params32, jnp))
    mark = jax.jit(lambda s, p: mark_decision(s, p, jnp))

    @jax.jit
    def look(state):
        solution = solve(state, known32, day32, params32, jnp)
        seen = observe(state, solution, known32, day32, params32, SCHEMA, jnp)
        return solution, seen, dual_log_bid(state, known32, day32, jnp)

    state, state32 = start_day(L, day, np), start_day(known32, day32, jnp)
    conversions = np.zeros(shape)
    for t in range(48):
        solution = solve(state, L, day, DEFAULT_PARAMS, np)
        solution32, seen32, dual32 = look(state32)
        seen = observe(state, solution, L, day, DEFAULT_PARAMS, SCHEMA, np)
        assert np.asarray(seen32) == pytest.approx(seen, rel=1e-4, abs=1e-4), t
        assert np.asarray(dual32) == pytest.approx(dual_log_bid(state, L, day, np), rel=1e-4, abs=1e-4)
        for name, value, value32 in zip(solution._fields, solution, solution32, strict=True):
            assert np.asarray(value32) == pytest.approx(value, rel=1e-4, abs=1e-4), (t, name)
        if t % 8 == 0:
            pace = rng.choice(SCHEMA.pace_levels, shape[0])
            state, state32 = mark_decision(state, pace, np), mark(state32, jnp.asarray(pace, jnp.float32))
        eligible = rng.poisson(12_000 * L.traffic[0, t], shape).astype(float)
        impressions = rng.binomial(eligible.astype(int), 0.4).astype(float)
        clicks = rng.poisson(0.05 * impressions).astype(float)
        conversions = conversions + rng.poisson(0.2 * clicks)
        report = Report(solution.log_bid, eligible, impressions, clicks, 0.04 * clicks, conversions)
        state = after_report(state, report, L, day, DEFAULT_PARAMS, np)
        state32 = fold(state32, single(report))
    for name, value, value32 in zip(state._fields, state, state32, strict=True):
        assert np.asarray(value32) == pytest.approx(value, rel=1e-4, abs=1e-4), name
