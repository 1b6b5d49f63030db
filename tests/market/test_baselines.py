"""Tuning: the same seed gives the same policy, never a worse one than it began with, and planted errors are found."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.bidding.days import landscape
from tests.market.worlds import CERTAIN, KNOWN, posterior

from gaelp.bidding.landscape import Landscape
from gaelp.bidding.pacer import DEFAULT_PARAMS
from gaelp.bidding.rules import Format, Rules
from gaelp.market.baselines import (
    CHUNK,
    PACER,
    PACERS,
    PAIRS,
    SEARCH_ROUNDS,
    WORLDS,
    Knobs,
    Tuning,
    baselines_of,
    drawn,
    play,
    tune,
    tune_pacer,
)
from gaelp.market.campaign import float32
from gaelp.market.world import ONE_ITEM, Kind, Posterior, auctions_bank

MARKET = posterior()


@pytest.fixture(scope="module")
def tuned() -> Tuning:
    return tune_pacer(MARKET, KNOWN, seed=1)


def last_worlds(seed: int) -> np.ndarray:
    """The worlds of the last round [4,192]: four rounds have drawn 192 before."""
    days = np.random.default_rng([seed, 2])
    for _ in range(SEARCH_ROUNDS):
        days.integers(1 << 20, 1 << 30, size=(1, CHUNK))
    return days.integers(1 << 20, 1 << 30, size=(WORLDS // CHUNK, CHUNK))


def scores(
    knobs: Knobs, worlds: np.ndarray, market: Posterior = MARKET, known: Landscape = KNOWN
) -> np.ndarray:
    """Scores on the worlds of seeds [n,192], in the shapes that tuning has compiled."""
    bank, told = auctions_bank(), float32(known)
    played = [
        play(
            drawn(float32(market), jnp.asarray(row), kind=ONE_ITEM), told, float32(knobs), bank, kind=ONE_ITEM
        ).score
        for row in worlds
    ]
    return np.concatenate(jax.device_get(played)).astype(np.float64)


def test_the_shapes_of_every_round_are_the_same_so_that_it_compiles_once():
    assert (PAIRS * CHUNK) % WORLDS == 0
    assert last_worlds(1).size == WORLDS


def test_the_same_seed_tunes_the_same_pacer_and_another_seed_another(tuned):
    again, other = tune_pacer(MARKET, KNOWN, seed=1), tune_pacer(MARKET, KNOWN, seed=2)
    assert again.certified.hash == tuned.certified.hash
    assert again.rounds == tuned.rounds
    assert other.certified.hash != tuned.certified.hash


def test_on_its_own_worlds_the_tuned_pacer_is_the_best_of_the_last_round_and_no_worse_than_the_defaults(
    tuned,
):
    winner, defaults = (scores(x, last_worlds(1)).mean() for x in (tuned.certified.params, DEFAULT_PARAMS))
    assert winner == pytest.approx(tuned.rounds[-1], rel=1e-5), "these are the worlds it was tuned on"
    assert winner >= defaults


def test_on_fresh_worlds_it_is_not_worse_than_the_defaults_either(tuned):
    # 768 worlds it never saw; the paired difference has a standard error near 0.2 of about 70 conversions.
    fresh = np.random.default_rng(99).integers(1 << 20, 1 << 30, size=(WORLDS // CHUNK, CHUNK))
    winner, defaults = (scores(x, fresh).mean() for x in (tuned.certified.params, DEFAULT_PARAMS))
    assert winner > defaults - 0.5


def test_the_parameters_stay_inside_their_bounds_and_the_landscape_is_kept(tuned):
    for name, value in tuned.certified.params._asdict().items():
        # exp(log(bound)) may differ from the bound in the last digit.
        assert getattr(PACER.low, name) - 1e-9 <= value <= getattr(PACER.high, name) + 1e-9, name
    assert tuned.certified.landscape is KNOWN
    assert len(tuned.rounds) == SEARCH_ROUNDS + 1


def test_users_who_tire_are_worth_a_different_pacer():
    fresh = tune_pacer(posterior(**{**CERTAIN, "fatigue": 0.0}), KNOWN, seed=1)
    weary = tune_pacer(posterior(**{**CERTAIN, "fatigue": 0.4}), KNOWN, seed=1)
    assert weary.rounds[-1] < fresh.rounds[-1]
    assert weary.certified.hash != fresh.certified.hash


def test_a_landscape_whose_prices_are_planted_too_low_is_corrected_by_every_knob_it_takes():
    # Prices are exp(0.5) times what the landscape says, so the constant opens too low. What it wins more by bidding more
    # costs more, and the budget binds: the best shift lies above 0 and below 0.5.
    wrong = landscape(conversion_rate=0.2, price_mean=np.log(0.05) - 0.5)
    market = posterior(**{**CERTAIN, "fatigue": 0.0, "target_cpa": np.full((1, 16), np.inf)})
    constant = baselines_of(ONE_ITEM, target=np.inf)[0]
    found = tune(constant, market, wrong, seed=3)
    assert 0.05 < float(found.knobs.shift) < 0.5
    fresh = np.random.default_rng(98).integers(1 << 20, 1 << 30, size=(1, CHUNK))
    ahead = scores(found.knobs, fresh, market, wrong) - scores(constant.default, fresh, market, wrong)
    # One-sided at three standard errors: an untuned shift passes once in 700 times.
    assert ahead.mean() > 3 * ahead.std() / np.sqrt(CHUNK)


def test_baselines_are_named_where_they_differ_and_fixed_knobs_stay_fixed():
    plain, wanted = (baselines_of(ONE_ITEM, target=target) for target in (np.inf, 1.0))
    assert [b.name for b in plain] == ["constant", "PID", "dual pacing", *(b.name for b in PACERS)]
    assert {b.name for b in wanted} - {b.name for b in plain} == {"minimum of multipliers", "target x value"}
    shaded = {b.name for b in baselines_of(Kind(rules=Rules(Format.FIRST_PRICE)), target=np.inf)}
    assert shaded - {b.name for b in plain} == {"constant worth, shaded"}
    for baseline in (*plain, *wanted):
        for low, first, high in zip(baseline.low, baseline.default, baseline.high, strict=True):
            assert low <= first <= high, baseline.name
