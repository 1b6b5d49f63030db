"""The policy without JAX: every kind acts as the JAX policy does, in microseconds, and says what it was made of."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaelp.core.errors import BadInput, ShapeError
from gaelp.learn import distributions as dist
from gaelp.learn import policies
from gaelp.learn.export import ExportedPolicy, Kind, hash_of, policy_part
from gaelp.learn.networks import Dueling, Layer, Layers
from gaelp.learn.normalise import Scaling

MOVES = [Kind.CATEGORICAL, Kind.SOFT_CATEGORICAL, Kind.EPSILON_SOFT]
RESIDUALS = [Kind.GAUSSIAN, Kind.SQUASHED_GAUSSIAN]
TOLERANCE = 1e-6

O, A = 12, 5


def layers(rng: np.random.Generator, *widths: int) -> Layers:
    """Weights that keep numbers near unit size, and biases that matter."""
    return tuple(
        Layer(
            jnp.asarray(rng.normal(0, 1 / math.sqrt(i), (i, o)), jnp.float32),
            jnp.asarray(rng.normal(0, 0.3, o), jnp.float32),
        )
        for i, o in pairwise(widths)
    )


def policy_of(
    kind: Kind,
    rng: np.random.Generator,
    *,
    inputs: int = O,
    hidden: tuple[int, ...] = (16, 16),
    actions: int = A,
) -> policies.Policy:
    scaling = Scaling(
        jnp.asarray(rng.normal(0, 0.5, inputs), jnp.float32),
        jnp.asarray(rng.uniform(0.5, 2, inputs), jnp.float32),
    )
    bound = jnp.asarray(0.6, jnp.float32)
    match kind:
        case Kind.CATEGORICAL:
            return policies.Categorical(layers(rng, inputs, *hidden, actions), scaling)
        case Kind.SOFT_CATEGORICAL:
            return policies.SoftCategorical(layers(rng, inputs, *hidden, actions), scaling)
        case Kind.EPSILON_SOFT:
            (value,), (advantage,) = layers(rng, hidden[-1], 1), layers(rng, hidden[-1], actions)
            network = Dueling(layers(rng, inputs, *hidden), value, advantage)
            return policies.EpsilonSoft(network, scaling, jnp.asarray(0.15, jnp.float32))
        case Kind.GAUSSIAN:
            log_std = jnp.asarray(rng.normal(-0.5, 0.2, actions), jnp.float32)
            return policies.Gaussian(layers(rng, inputs, *hidden, actions), log_std, scaling, bound)
        case Kind.SQUASHED_GAUSSIAN:
            *trunk, head = layers(rng, inputs, *hidden, 2 * actions)
            # Deviations around 0.4: a deviation of 7 would blow a rounding of its logarithm up beyond any tolerance.
            scale, shift = (
                jnp.repeat(jnp.asarray([1.0, 0.3]), actions),
                jnp.repeat(jnp.asarray([0.0, -1.0]), actions),
            )
            head = Layer(head.weight * scale, head.bias * scale + shift)
            return policies.SquashedGaussian((*trunk, head), scaling, bound)


def exported(policy: policies.Policy) -> ExportedPolicy:
    return ExportedPolicy.from_arrays(policies.policy_arrays(policy))


def states(rng: np.random.Generator, n: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Observations [n, O], some so wild that they are clipped, and masks [n, A] that allow something."""
    observation = rng.normal(0, 3, (n, O)).astype(np.float32)
    mask = rng.random((n, A)) < 0.7
    mask[np.arange(n), rng.integers(0, A, n)] = True
    return observation, mask


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.mark.parametrize("kind", MOVES)
def test_moves_have_the_probabilities_modes_and_draws_of_the_jax_policy(kind, rng):
    policy = policy_of(kind, rng)
    plain = exported(policy)
    observation, mask = states(rng)
    log_probs = policy.log_probs(observation, mask)
    found = plain.probabilities(observation, mask)
    np.testing.assert_allclose(found, np.where(mask, np.exp(log_probs), 0.0), rtol=0, atol=TOLERANCE)
    assert (found[~mask] == 0).all()
    np.testing.assert_array_equal(plain.mode(observation, mask), dist.mode(log_probs))
    uniform = rng.random(len(mask)).astype(np.float32)
    np.testing.assert_array_equal(plain.sample(observation, mask, uniform), dist.sample(log_probs, uniform))
    assert plain.mode(observation, mask).dtype == np.int32


@pytest.mark.parametrize("kind", RESIDUALS)
def test_residuals_have_the_means_draws_and_densities_of_the_jax_policy(kind, rng):
    policy = policy_of(kind, rng)
    plain = exported(policy)
    observation, mask = states(rng)
    key = jax.random.key(3)
    drawn, middle = policies.act(policy, observation, mask, key), policies.act_mode(policy, observation, mask)
    # The noise that `act` draws from this key.
    noise = np.asarray(jax.random.normal(key, mask.shape))
    np.testing.assert_allclose(plain.mode(observation, mask), middle.action, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(plain.sample(observation, mask, noise), drawn.action, rtol=0, atol=TOLERANCE)
    assert (plain.sample(observation, mask, noise)[~mask] == 0).all()
    single = [plain.act(o, m, n) for o, m, n in zip(observation, mask, noise, strict=True)]
    np.testing.assert_allclose(np.stack([p.action for p in single]), drawn.action, rtol=0, atol=TOLERANCE)
    # A log-density is a sum over residuals and may be far from 1: relative where it is large.
    np.testing.assert_allclose([p.log_prob for p in single], drawn.log_prob, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("kind", MOVES)
def test_one_state_alone_is_answered_as_in_a_batch(kind, rng):
    policy = policy_of(kind, rng)
    plain = exported(policy)
    observation, mask = states(rng, 64)
    uniform = rng.random(64).astype(np.float32)
    together = plain.sample(observation, mask, uniform)
    chances = plain.probabilities(observation, mask)
    for k in range(64):
        alone = plain.act(observation[k], mask[k], float(uniform[k]))
        assert alone.action == together[k]
        assert alone.log_prob == pytest.approx(np.log(chances[k, together[k]]), abs=1e-5)


def test_a_squashed_residual_far_out_stays_within_its_bound_and_its_density_finite():
    # u = 30 + 0: tanh is 1 in every float, and 1 - tanh^2 would be 0.
    head = Layer(jnp.zeros((1, 2)), jnp.asarray([30.0, 0.0]))
    policy = policies.SquashedGaussian((head,), Scaling(jnp.zeros(1), jnp.ones(1)), jnp.asarray(0.5))
    told = exported(policy).act(np.zeros(1, np.float32), np.ones(1, bool), np.zeros(1, np.float32))
    assert told.action == 0.5
    # -ln sqrt(2 pi) - ln 0.5 - 2 (ln 2 - 30) = -0.918939 + 0.693147 - 1.386294 + 60.
    assert told.log_prob == pytest.approx(58.387914, rel=1e-6)


def test_epsilon_is_spread_over_the_allowed_moves_alone(rng):
    # Q is 0, 1, 2, 3 before its mean is taken off; the best, 3, is masked; two of the rest are allowed.
    still = Layer(jnp.zeros((1, 1)), jnp.zeros(1))
    advantage = Layer(jnp.zeros((1, 4)), jnp.arange(4.0))
    network = Dueling((still,), still, advantage)
    policy = policies.EpsilonSoft(network, Scaling(jnp.zeros(1), jnp.ones(1)), jnp.asarray(0.2))
    found = exported(policy).probabilities(
        np.zeros((1, 1), np.float32), np.array([[True, False, True, False]])
    )
    np.testing.assert_allclose(found, [[0.1, 0.0, 0.9, 0.0]], atol=1e-7)


def test_without_epsilon_the_best_move_is_drawn_whatever_the_noise():
    still = Layer(jnp.zeros((1, 1)), jnp.zeros(1))
    network = Dueling((still,), still, Layer(jnp.zeros((1, 3)), jnp.asarray([0.0, 1.0, 0.0])))
    policy = policies.EpsilonSoft(network, Scaling(jnp.zeros(1), jnp.ones(1)), jnp.asarray(0.0))
    for uniform in (0.0, 0.5, np.nextafter(np.float32(1), np.float32(0))):
        assert exported(policy).act(np.zeros(1, np.float32), np.ones(3, bool), uniform).action == 1


@pytest.mark.parametrize("kind", Kind)
def test_the_hash_is_that_of_everything_that_acts_and_of_nothing_else(kind, rng):
    arrays = policies.policy_arrays(policy_of(kind, rng))
    more = arrays | {
        "critic.0.weight": np.zeros((2, 2), np.float32),
        "log_temperature": np.zeros((), np.float32),
    }
    assert policy_part(more).keys() == arrays.keys()
    assert ExportedPolicy.from_arrays(more).hash == hash_of(arrays)
    for name in set(arrays) - {"policy.kind"}:
        other = more | {name: arrays[name] + np.float32(1e-3)}
        assert ExportedPolicy.from_arrays(other).hash != hash_of(arrays)


def test_two_kinds_of_the_same_numbers_are_two_policies(rng):
    tanh = policy_of(Kind.CATEGORICAL, rng)
    relu = policies.SoftCategorical(tanh.actor, tanh.scaling)
    observation, mask = states(rng, 8)
    assert exported(tanh).hash != exported(relu).hash
    assert not np.allclose(
        exported(tanh).probabilities(observation, mask),
        exported(relu).probabilities(observation, mask),
        atol=1e-3,
    )


@pytest.mark.parametrize("kind", Kind)
def test_every_array_is_needed_and_no_other_is_taken(kind, rng):
    arrays = policies.policy_arrays(policy_of(kind, rng))
    for name in arrays:
        with pytest.raises(BadInput, match="weights: "):
            ExportedPolicy.from_arrays({n: a for n, a in arrays.items() if n != name})
    with pytest.raises(BadInput, match=r"unknown: actor\.extra\.bias"):
        ExportedPolicy.from_arrays(arrays | {"actor.extra.bias": np.zeros(1, np.float32)})


def test_an_unknown_kind_is_refused_with_the_nearest_that_is_known(rng):
    arrays = policies.policy_arrays(policy_of(Kind.GAUSSIAN, rng))
    for name, said in ((b"gausian", "Did you mean 'gaussian'"), (b"\xff", "unknown")):
        with pytest.raises(BadInput, match=said):
            ExportedPolicy.from_arrays(arrays | {"policy.kind": np.frombuffer(name, np.uint8)})


@pytest.mark.parametrize(
    ("kind", "name", "shape", "said"),
    [(Kind.CATEGORICAL, "actor.1.weight", (15, 16), "after width 16"),
     (Kind.CATEGORICAL, "actor.1.bias", (15,), "after width 16"),
     (Kind.EPSILON_SOFT, "actor.advantage.weight", (15, A), "after width 16"),
     (Kind.GAUSSIAN, "log_std", (A + 1,), "log_std has shape")],
)  # fmt: skip
def test_widths_that_do_not_fit_are_refused(kind, name, shape, said, rng):
    arrays = policies.policy_arrays(policy_of(kind, rng))
    with pytest.raises(BadInput, match=said):
        ExportedPolicy.from_arrays(arrays | {name: np.zeros(shape, np.float32)})


def test_a_squashed_gaussian_needs_as_many_deviations_as_means(rng):
    arrays = policies.policy_arrays(policy_of(Kind.SQUASHED_GAUSSIAN, rng))
    cut = arrays | {
        "actor.2.weight": arrays["actor.2.weight"][:, 1:],
        "actor.2.bias": arrays["actor.2.bias"][1:],
    }
    with pytest.raises(BadInput, match="means and deviations alike"):
        ExportedPolicy.from_arrays(cut)


@pytest.mark.parametrize("kind", Kind)
def test_arrays_of_a_wrong_shape_are_refused_and_never_broadcast(kind, rng):
    plain = exported(policy_of(kind, rng))
    observation, mask = states(rng, 4)
    noise = np.zeros((4, A) if kind in RESIDUALS else 4, np.float32)
    for seen, allowed in (
        (observation[:, :-1], mask), (observation[0], mask), (observation, mask[:, :-1]), (observation, mask[:1]),
        (observation, mask.astype(np.float32)),
    ):  # fmt: skip
        with pytest.raises(ShapeError):
            plain.sample(seen, allowed, noise)
        with pytest.raises(ShapeError):
            plain.mode(seen, allowed)
    with pytest.raises(ShapeError):
        plain.act(observation, mask, noise)
    if kind in RESIDUALS:
        with pytest.raises(ShapeError, match="noise"):
            plain.sample(observation, mask, noise[:1])


def test_a_mask_that_allows_nothing_is_refused_for_moves(rng):
    plain = exported(policy_of(Kind.CATEGORICAL, rng))
    observation, mask = states(rng, 4)
    mask[2] = False
    with pytest.raises(BadInput, match="row 2 allows no move"):
        plain.probabilities(observation, mask)
    with pytest.raises(BadInput, match="allows no move"):
        plain.act(observation[2], mask[2], 0.5)


@pytest.mark.parametrize("kind", RESIDUALS)
def test_residuals_have_no_probabilities(kind, rng):
    with pytest.raises(BadInput, match="no probabilities"):
        exported(policy_of(kind, rng)).probabilities(*states(rng, 4))


def test_the_kinds_here_are_the_kinds_that_play():
    assert {str(kind) for kind in Kind} == set(policies.KINDS)


def test_the_export_needs_no_jax():
    code = "import sys, gaelp.learn.export, gaelp.learn.metrics; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_equality_holds_at_the_real_size_too(rng):
    # 256-256-256-64, tanh and relu: longer sums, the same tolerance.
    observation, mask = rng.normal(0, 1, (64, 256)).astype(np.float32), np.ones((64, 64), bool)
    for kind in MOVES:
        policy = policy_of(kind, rng, inputs=256, hidden=(256, 256), actions=64)
        log_probs = eqx.filter_jit(type(policy).log_probs)(policy, observation, mask)
        found = exported(policy).probabilities(observation, mask)
        np.testing.assert_allclose(found, np.exp(log_probs), rtol=0, atol=TOLERANCE)
    for kind in RESIDUALS:
        policy = policy_of(kind, rng, inputs=256, hidden=(256, 256), actions=64)
        found = exported(policy).mode(observation, mask)
        want = policies.act_mode(policy, observation, mask).action
        # Means of about unit size are sums of 256 products in another order: 1e-6 of the largest of them.
        np.testing.assert_allclose(found, want, rtol=0, atol=TOLERANCE * max(1.0, np.abs(want).max()))
