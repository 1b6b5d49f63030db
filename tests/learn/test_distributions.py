"""The masked categorical distribution and the scaling of observations."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.learn import toys

from gaelp.core.errors import BadInput
from gaelp.learn import distributions as dist
from gaelp.learn.normalise import LARGEST, fit_normaliser, fit_scaling


def test_masked_moves_have_no_probability_and_the_rest_sums_to_one():
    log_probs = dist.log_probabilities(jnp.array([0.0, 5.0, 0.0]), jnp.array([True, False, True]))
    np.testing.assert_allclose(jnp.exp(log_probs), [0.5, 0.0, 0.5], atol=1e-7)


def test_entropy_counts_allowed_moves_only():
    mask = jnp.array([True, False, True, False])
    log_probs = dist.log_probabilities(jnp.zeros(4), mask)
    assert float(dist.entropy(log_probs, mask)) == pytest.approx(np.log(2))
    assert float(dist.largest_entropy(mask)) == pytest.approx(np.log(2))


def test_kl_worked_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2) = 0.1308
    mask = jnp.array([True, True, False])
    p = dist.log_probabilities(jnp.log(jnp.array([3.0, 1.0, 1.0])), mask)
    q = dist.log_probabilities(jnp.zeros(3), mask)
    assert float(dist.kl(p, q, mask)) == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5), rel=1e-5)


def test_a_state_that_allows_nothing_stays_finite_and_has_no_gradient():
    mask = jnp.zeros((2, 4), bool)

    def everything(logits):
        log_probs = dist.log_probabilities(logits, mask)
        return (dist.entropy(log_probs, mask) + dist.kl(log_probs, log_probs, mask)).sum()

    value, gradient = jax.value_and_grad(everything)(jnp.ones((2, 4)))
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((2, 4)))


def test_sampling_inverts_the_cumulative_distribution():
    # p = (1/4, 0, 1/4, 1/2): cumulative 0.25, 0.25, 0.5, 1
    mask = jnp.array([True, False, True, True])
    log_probs = dist.log_probabilities(jnp.log(jnp.array([1.0, 9.0, 1.0, 2.0])), mask)
    uniform = jnp.array([0.0, 0.2, 0.3, 0.6, 0.99999997])
    drawn = dist.sample(jnp.broadcast_to(log_probs, (5, 4)), uniform)
    assert drawn.tolist() == [0, 0, 2, 3, 3]


def test_a_masked_move_is_never_drawn():
    # Allowed are the middle moves; not even a number that rounding has carried up to 1 reaches the masked ones.
    mask = jnp.array([False, True, True, False])
    log_probs = jnp.broadcast_to(dist.log_probabilities(jnp.zeros(4), mask), (3, 4))
    assert set(dist.sample(log_probs, jnp.array([0.0, 0.5, 1.0])).tolist()) == {1, 2}


def test_scaling_has_mean_zero_and_deviation_one_where_the_feature_moves():
    rows = np.array([[0.0, 7.0, 1.00], [2.0, 7.0, 1.02]])
    scaling = fit_scaling(rows)
    # Feature 0: mean 1, deviation 1. Feature 1 is constant: 0 for good. Feature 2: deviation 0.01, floor 0.05.
    np.testing.assert_allclose(scaling(jnp.asarray(rows)), [[-1, 0, -0.2], [1, 0, 0.2]], atol=1e-5)
    assert float(scaling(jnp.array([1.0, 1e9, 1.01]))[1]) == 0.0


def test_a_wild_report_is_clipped():
    scaling = fit_scaling(np.array([[0.0], [2.0]]))
    assert float(scaling(jnp.array([1e9]))[0]) == LARGEST


def test_a_fit_on_one_row_is_refused():
    with pytest.raises(BadInput, match="at least two rows"):
        fit_scaling(np.ones((1, 4)))


def test_a_fit_on_nan_is_refused_by_feature_and_row():
    with pytest.raises(BadInput, match="feature 1 of row 1"):
        fit_scaling(np.array([[1.0, 2.0], [3.0, np.nan]]))


def test_the_normaliser_is_fitted_on_valid_transitions_only():
    batch = toys.episodes(None, np.random.default_rng(0), count=6)
    batch.observation[4:] = 1e6
    fitted = fit_normaliser(
        replace(batch, valid=np.repeat(np.arange(6) < 4, toys.STEPS).reshape(6, toys.STEPS))
    )
    assert float(jnp.abs(fitted.observation.mean).max()) <= 1.0


def test_a_normaliser_of_no_hidden_truth_has_no_width():
    batch = toys.episodes(None, np.random.default_rng(0), count=6)
    blind = replace(batch, hidden=np.zeros((6, toys.STEPS + 1, 0), np.float32))
    assert fit_normaliser(blind).hidden.mean.shape == (0,)
