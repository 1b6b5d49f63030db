"""Does a training call do what it says? One gradient step is taken again by other means, and the call itself twice.

Nothing here trains. Three questions about one call, each answered by arithmetic of its own:

    slopes      the loss, only ever evaluated forwards and in float64, falls along the gradient that was used as
                steeply as that gradient is long, and along a random direction in every tensor as it says it must
    the step    float64 gradients, clipping, textbook Adam in NumPy: is that what `update` did to the weights?
    the call    from the state before it, played again: is the result what training went on with, bit by bit?

Along its own gradient a loss is steep also where half of the network was cut off from it; that is what the random
direction is for. Definition A of the design.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray

from gaelp.core.errors import BadInput
from gaelp.learn.algorithm import Algorithm
from gaelp.learn.experience import PER_TENSOR, Experience
from gaelp.learn.export import hash_of
from gaelp.learn.networks import named_arrays
from gaelp.learn.policies import Policy

Floats = NDArray[np.float64]

BETA_1, BETA_2 = 0.9, 0.999
"""Adam's decays, by its authors; every algorithm here uses them."""

NUDGES = (1e-4, 1e-6)
"""How far weights are moved to measure a slope; of two slopes the nearer to the gradient counts. In float64 a loss is
known to about 1e-12 of itself, so a slope to 1e-8 or 1e-6 of it. The farther one may have a kink of relu between its
ends, which cost a minibatch of 32 rows 2 % of the slope; the nearer one has too few digits where a gradient is tiny."""

SLOPE_TOLERANCE = 0.01
"""Share by which the measured slope may miss the length of the gradient that was used."""

PROBE_TOLERANCE = 0.05
"""The same for the random directions, as a share of the slope's standard deviation over such directions. An
activation with a kink costs some of it; a tensor left out of the graph costs about 1."""

GRADIENT_TOLERANCE = 1e-3
"""Share by which the gradient that moved Adam's mean may differ, tensor by tensor, from the one in float64. Single
precision over a few dozen rows that partly cancel leaves 1e-6 to 1e-5; another minibatch or loss leaves 0.1 or more."""

FAINT = 1e-3
"""A tensor with less than this share of its field's gradient is measured as if it had so much: an untrained output
layer leaves little for the layers before it, and float32 has no further digits there."""

STEP_TOLERANCE = 1e-6
"""Share of the step by which weights may differ from the textbook's, beside one rounding of each weight."""

ROUNDING = float(np.finfo(np.float32).eps)
"""A weight is stored in float32, and a step is often not much longer than its rounding."""


AUDIT_EVERY = 500
"""Calls between two audits of a phase, from its first on. One costs about what four calls of a demo do: 1 % of 500."""


class Scrutiny(StrEnum):
    """Which calls are audited: the first of a phase and every AUDIT_EVERY after it, or this one in any case."""

    SAMPLED = "sampled"
    ALWAYS = "always"


@dataclass(frozen=True, kw_only=True)
class StepAudit:
    """What a second opinion on one training call found. Errors are shares, by field of the agent; NaN is a fault.

    faults: one sentence for each thing that is not as it must be; none of them is harmless.
    """

    call: int
    slope_error: Mapping[str, float]
    probe_error: Mapping[str, float]
    gradient_error: Mapping[str, float]
    step_error: float
    replayed_hash: str
    trained_hash: str
    faults: tuple[str, ...]

    @property
    def worst(self) -> dict[str, float]:
        """The largest error of each kind over all fields."""
        named = {"slope": self.slope_error, "probe": self.probe_error, "gradient": self.gradient_error}
        return {name: max(errors.values()) for name, errors in named.items()} | {"step": self.step_error}


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of one call of `update`, kept until it was looked at a second time."""

    state: Any
    experience: Experience
    anchor: Policy
    coefficients: Any
    num_epochs: np.int32
    batch_size: np.int32
    width: int


def audit(algorithm: Algorithm, call: Call, trained: Any) -> StepAudit:
    """Look at a call a second time. trained: the state that training went on with after it."""
    again = _played_again(algorithm, call, np.int32(2**31 - 1)).state
    once = _played_again(algorithm, call, np.int32(1))
    rows = algorithm.first_minibatch(
        call.state, call.experience, call.anchor, call.coefficients, call.num_epochs, call.batch_size,
        width=call.width,
    )  # fmt: skip
    in_force = algorithm.in_force(call.coefficients, call.state)
    before, after = _Weights.of(algorithm, call.state), _Weights.of(algorithm, once.state)
    used = {name: (after.mean[name] - BETA_1 * before.mean[name]) / (1 - BETA_1) for name in before.weight}
    exact = _second_opinion(algorithm, call.state.agent, rows, in_force, used, int(call.state.calls))
    resting = {n for n in used if _rests(n, before, after) and not exact[n].gradient.any()}
    moving = [name for name in used if name not in resting]
    claimed = _norms_by_field(algorithm, call.state, once.per_tensor)

    slope: dict[str, float] = {}
    probe: dict[str, float] = {}
    for name in moving:
        told = exact[name]
        slope[name] = _share(abs(told.slope - claimed[name]), claimed[name])
        length = _length(used[name])
        unclipped = used[name] * (claimed[name] / length if length > 0 else 0.0)
        probe[name] = _share(abs(told.probe - float((unclipped * told.direction).sum())), told.spread)
    clipped = _clipped(algorithm, {n: exact[n].gradient for n in used}, float(in_force.max_grad_norm))
    gradient = {n: _off(used[n], clipped[n], before.sizes[n]) for n in moving}
    step = max(
        (_step_error(before, after, clipped, n, algorithm, in_force) for n in moving), default=math.inf
    )
    hashes = (hash_of(named_arrays(again)), hash_of(named_arrays(trained)))
    faults = [
        *_beyond("the loss falls {:.3g} off the length of the gradient that was used in {}", slope, SLOPE_TOLERANCE),
        *_beyond("along a random direction the loss falls {:.3g} off the gradient in {}", probe, PROBE_TOLERANCE),
        *_beyond("the gradient that was used is {:.3g} off the loss's own in {}", gradient, GRADIENT_TOLERANCE),
    ]  # fmt: skip
    if not step <= STEP_TOLERANCE:
        faults.append(f"the step taken is {step:.3g} of its length off textbook Adam")
    if hashes[0] != hashes[1]:
        faults.append("the call, played again from the state before it, leads to other weights")
    if not moving:
        faults.append("no part of the agent was trained at all")
    return StepAudit(
        call=int(call.state.calls) + 1, slope_error=slope, probe_error=probe, gradient_error=gradient,
        step_error=step, replayed_hash=hashes[0], trained_hash=hashes[1], faults=tuple(faults),
    )  # fmt: skip


@dataclass(frozen=True)
class _Played:
    state: Any
    per_tensor: NDArray[np.floating]


def _played_again(algorithm: Algorithm, call: Call, limit: np.int32) -> _Played:
    state, report = algorithm.update(
        call.state, call.experience, call.anchor, call.coefficients, call.num_epochs, call.batch_size, limit,
        width=call.width,
    )  # fmt: skip
    return _Played(state, np.asarray(report.per_tensor))


@dataclass(frozen=True)
class _Weights:
    """Weights and Adam's moments by field of the agent, flat and in float64; sizes of its tensors; steps so far."""

    weight: dict[str, Floats]
    mean: dict[str, Floats]
    square: dict[str, Floats]
    sizes: dict[str, tuple[int, ...]]
    count: int

    @staticmethod
    def of(algorithm: Algorithm, state: Any) -> _Weights:
        weight, sizes = {}, {}
        for name in _fields(algorithm, state.agent):
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(getattr(state.agent, name))]
            weight[name] = np.concatenate([leaf.ravel() for leaf in leaves]).astype(np.float64)
            sizes[name] = tuple(leaf.size for leaf in leaves)
        moments: optax.ScaleByAdamState = state.optimiser
        # Fields are flattened in the order they are declared, and so are the moments.
        ends = np.cumsum([flat.size for flat in weight.values()])
        mean, square = (np.split(np.asarray(x, np.float64), ends[:-1]) for x in (moments.mu, moments.nu))
        if sum(part.size for part in mean) != ends[-1]:
            raise BadInput(f"optimiser: {sum(p.size for p in mean)} moments for {ends[-1]} weights.")
        names = list(weight)
        return _Weights(
            weight, dict(zip(names, mean, strict=True)), dict(zip(names, square, strict=True)), sizes,
            int(moments.count),
        )  # fmt: skip


def _fields(algorithm: Algorithm, agent: Any) -> list[str]:
    """Fields of the agent that hold weights, in the order of the flat vector."""
    names = [name for group in algorithm.networks for name in group]
    return [name for name in names if jax.tree.leaves(getattr(agent, name))]


def _rests(name: str, before: _Weights, after: _Weights) -> bool:
    """Neither weights nor moments of the field were touched."""
    return all(
        np.array_equal(getattr(before, part)[name], getattr(after, part)[name])
        for part in ("weight", "mean", "square")
    )


@dataclass(frozen=True)
class _Opinion:
    """Of one field: its gradient by float64 differentiation; the slopes along the gradient that was used and along
    `direction`; spread: the standard deviation of the latter slope over such directions."""

    gradient: Floats
    slope: float
    probe: float
    direction: Floats
    spread: float


def _second_opinion(
    algorithm: Algorithm, agent: Any, rows: Any, coefficients: Any, used: Mapping[str, Floats], call: int
) -> dict[str, _Opinion]:
    names = _fields(algorithm, agent)
    fresh = np.random.default_rng([call, 3])
    found = {}
    with jax.enable_x64(True):
        whole, rows64, c64 = (_doubled(tree) for tree in (agent, rows, coefficients))
        for objective in dict.fromkeys(algorithm.objectives[name] for name in names):
            own = tuple(name for name in names if algorithm.objectives[name] is objective)
            sizes = {name: [x.size for x in jax.tree.leaves(getattr(whole, name))] for name in own}
            probes = {name: _probe(fresh, used[name], sizes[name]) for name in own}
            ends = np.cumsum([used[name].size for name in own])
            directions = np.zeros((2 * len(own), ends[-1]))
            for i, name in enumerate(own):
                span = slice(ends[i] - used[name].size, ends[i])
                directions[2 * i, span], directions[2 * i + 1, span] = (
                    _unit(used[name]),
                    probes[name].direction,
                )
            gradient, slopes = jax.device_get(_program(objective, own)(whole, rows64, c64, directions))
            parts = np.split(gradient, ends[:-1])
            for name, part, (along, across) in zip(own, parts, slopes.reshape(-1, 2), strict=True):
                probe = probes[name]
                found[name] = _Opinion(part, float(along), float(across), probe.direction, probe.spread)
    return found


@dataclass(frozen=True)
class _Probe:
    direction: Floats
    spread: float


def _probe(rng: np.random.Generator, gradient: Floats, sizes: list[int]) -> _Probe:
    """A random direction of length 1 in which every tensor counts alike, however small it or its gradient is.

    A block of n numbers at random, sqrt(n) long, has a slope of about the length of its tensor's gradient; divided by
    that length, about 1. Where a tensor is said to have no gradient at all, any that it has stands out.
    """
    # A network without any gradient, as the privileged critic on live data, has tensors that all count as they are.
    faint = FAINT * _length(gradient) if gradient.any() else 1.0
    blocks = [
        _unit(rng.standard_normal(block.size)) * math.sqrt(block.size) / (_length(block) + faint)
        for block in np.split(gradient, np.cumsum(sizes)[:-1])
    ]
    direction = np.concatenate(blocks)
    length = _length(direction)
    return _Probe(direction / length, math.sqrt(len(blocks)) / length)


@lru_cache(maxsize=16)
def _program(objective: Callable[..., Array], own: tuple[str, ...]) -> Callable[..., Any]:
    """Compiled once: the gradient in the fields `own`, flat, and the slopes along directions [D, N] by central
    differences, at the better of NUDGES. One evaluation of the loss serves all, for compiling is what this costs."""
    steps = np.array([(nudge, -nudge) for nudge in NUDGES])

    def measure(agent: Any, rows: Any, c: Any, directions: Array) -> tuple[Array, Array]:
        parts = {name: getattr(agent, name) for name in own}

        def loss(parts: dict[str, Any]) -> Array:
            return objective(_with(agent, parts), rows, c)

        gradient = jax.grad(loss)(parts)
        flat = jnp.concatenate([x.ravel() for name in own for x in jax.tree.leaves(gradient[name])])

        def slope(direction: Array) -> Array:
            ends = jax.lax.map(
                lambda step: loss(_moved(parts, own, step * direction)), jnp.array(steps.ravel())
            )
            found = (ends[::2] - ends[1::2]) / (steps[:, 0] - steps[:, 1])
            return found[jnp.argmin(jnp.abs(found - direction @ flat))]

        return flat, jax.lax.map(slope, directions)

    return jax.jit(measure)


def _with(agent: Any, parts: Mapping[str, Any]) -> Any:
    fields = {name: getattr(agent, name) for name in agent.__dataclass_fields__}
    return type(agent)(**(fields | dict(parts)))


def _moved(parts: Mapping[str, Any], own: tuple[str, ...], flat: Array) -> dict[str, Any]:
    """The parts with `flat` added, in the order of `own`."""
    out, start = {}, 0
    for name in own:
        leaves, structure = jax.tree.flatten(parts[name])
        moved = []
        for leaf in leaves:
            moved.append(leaf + flat[start : start + leaf.size].reshape(leaf.shape))
            start += leaf.size
        out[name] = jax.tree.unflatten(structure, moved)
    return out


def _doubled(tree: Any) -> Any:
    def one(leaf: Any) -> NDArray[np.generic]:
        host = np.asarray(leaf)
        return host.astype(np.float64) if host.dtype == np.float32 else host

    return jax.tree.map(one, tree)


def _length(x: Floats) -> float:
    """Without BLAS: its threads cost more than they save here, and their number would decide the last digit."""
    return math.sqrt(float(np.square(x).sum()))


def _unit(flat: Floats) -> Floats:
    length = _length(flat)
    return flat / length if length > 0 else flat


def _norms_by_field(algorithm: Algorithm, state: Any, per_tensor: NDArray[np.floating]) -> dict[str, float]:
    """Lengths of the gradient before clipping, as the call reported them."""
    told = per_tensor[PER_TENSOR.index("gradient_norm_before")]
    counts = [len(jax.tree.leaves(getattr(state.agent, n))) for n in _fields(algorithm, state.agent)]
    parts = np.split(np.asarray(told, np.float64), np.cumsum(counts)[:-1])
    return {n: _length(p) for n, p in zip(_fields(algorithm, state.agent), parts, strict=True)}


def _clipped(algorithm: Algorithm, gradient: Mapping[str, Floats], longest: float) -> dict[str, Floats]:
    """Each network's gradient shortened to `longest`, its fields together."""
    out: dict[str, Floats] = {}
    for group in algorithm.networks:
        own = {name: gradient[name] for name in group if name in gradient}
        length = math.hypot(*(_length(g) for g in own.values()))
        factor = min(1.0, longest / length) if length > 0 else 1.0
        out |= {name: g * factor for name, g in own.items()}
    return out


def _step_error(
    before: _Weights, after: _Weights, clipped: Mapping[str, Floats], name: str, algorithm: Algorithm, c: Any
) -> float:
    """How far the new weights are from the textbook's, as a share of the step, beyond their own rounding.

    Adam divides by what may be nearly nothing, so a gradient's last digit can turn a whole step. Therefore the
    moments are held against the float64 gradient here, and the step against the moments.
    """
    g = clipped[name]
    mean = BETA_1 * before.mean[name] + (1 - BETA_1) * g
    square = BETA_2 * before.square[name] + (1 - BETA_2) * g**2
    sizes = before.sizes[name]
    moments = max(_off(after.mean[name], mean, sizes), _off(after.square[name], square, sizes))
    if after.count != before.count + 1 or not moments <= GRADIENT_TOLERANCE:
        return math.inf
    unbiased = after.mean[name] / (1 - BETA_1**after.count)
    deviation = np.sqrt(after.square[name] / (1 - BETA_2**after.count))
    step = -float(c.learning_rate) * unbiased / (deviation + algorithm.adam_eps)
    largest = np.maximum(np.abs(before.weight[name]), np.abs(after.weight[name]))
    # float32 rounds the direction, and worst of all 1 - 0.999^count, which is small at first; and then the sum.
    roundings = 8 + 1 / (1 - BETA_1**after.count) + 0.5 / (1 - BETA_2**after.count)
    allowed = ROUNDING * (largest + roundings * np.abs(step))
    missed = np.abs(after.weight[name] - before.weight[name] - step) - allowed
    return _share(_length(np.maximum(missed, 0.0)), _length(step))


def _off(found: Floats, exact: Floats, sizes: tuple[int, ...]) -> float:
    """The largest share, over the tensors, by which `found` differs from `exact`."""
    faint = FAINT * _length(exact)
    ends = np.cumsum(sizes)[:-1]
    return max(
        _share(_length(a - b), _length(b) + faint)
        for a, b in zip(np.split(found, ends), np.split(exact, ends), strict=True)
    )


def _share(part: float, whole: float) -> float:
    """part / whole; 0 when both are nothing, infinite when only the whole is."""
    if whole > 0:
        return part / whole
    return 0.0 if part == 0 else math.inf


def _beyond(sentence: str, errors: Mapping[str, float], tolerance: float) -> list[str]:
    return [sentence.format(error, name) for name, error in errors.items() if not error <= tolerance]
