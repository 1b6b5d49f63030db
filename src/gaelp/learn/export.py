"""The policy without JAX: NumPy on exported weights, for serving one decision in microseconds.

It holds no training code; the hash it answers with is the hash the engine gave to the same weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import BadInput, ShapeError, nearest

FORBIDDEN = np.float32(-1e30)
LARGEST = np.float32(10.0)
LOG_STD_LOW, LOG_STD_HIGH = np.float32(-20.0), np.float32(2.0)
POLICY_PREFIXES = ("actor.", "scaling.")
POLICY_NAMES = ("policy.kind", "epsilon", "log_std", "bound")

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Actions = NDArray[np.int32] | Floats


class Kind(StrEnum):
    """How an action comes out of the network; what `policies.py` holds a class for each of."""

    CATEGORICAL = "categorical"
    SOFT_CATEGORICAL = "soft_categorical"
    EPSILON_SOFT = "epsilon_soft"
    GAUSSIAN = "gaussian"
    SQUASHED_GAUSSIAN = "squashed_gaussian"


RESIDUALS = frozenset({Kind.GAUSSIAN, Kind.SQUASHED_GAUSSIAN})
EXTRAS: Mapping[Kind, tuple[str, ...]] = {
    Kind.CATEGORICAL: (),
    Kind.SOFT_CATEGORICAL: (),
    Kind.EPSILON_SOFT: ("epsilon",),
    Kind.GAUSSIAN: ("log_std", "bound"),
    Kind.SQUASHED_GAUSSIAN: ("bound",),
}
"""The arrays that a kind has beside its actor and its scaling."""


def hash_of(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256 over names, types, shapes and bytes, in order of name: the identity of weights."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.data)
    return digest.hexdigest()


def policy_part(weights: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """Of all saved weights those that act: the actor, the scaling of its observation, and what its kind adds."""
    return {
        name: array
        for name, array in weights.items()
        if name.startswith(POLICY_PREFIXES) or name in POLICY_NAMES
    }


class Layer(NamedTuple):
    """An affine map: weight [in, out], bias [out]."""

    weight: Floats
    bias: Floats


class Played(NamedTuple):
    """One action, an int32 [] or residuals float32 [A], and its log_prob [] under the policy."""

    action: Actions
    log_prob: np.float32


@dataclass(frozen=True, kw_only=True)
class ExportedPolicy:
    """An actor in NumPy, on raw observations.

    trunk: layers with the kind's activation after each. heads: the output layer; of a dueling network the
    heads of value and advantage. mean, factor [O]: the scaling of the observation. epsilon: share of choices
    spread alike over the allowed moves. log_std [A]: of a Gaussian. bound: residuals end there or are cut there.
    What a kind has no use for is 0 or empty.
    """

    kind: Kind
    trunk: tuple[Layer, ...]
    heads: tuple[Layer, ...]
    mean: Floats
    factor: Floats
    epsilon: np.float32
    log_std: Floats
    bound: np.float32
    hash: str

    @staticmethod
    def from_arrays(weights: Mapping[str, NDArray[np.generic]]) -> ExportedPolicy:
        """Take the policy out of `engine.weights()` or a file of it.

        Raises BadInput when an array is missing or unknown to the kind, or when widths do not fit one another.
        """
        part = policy_part(weights)
        kind = _kind(part)
        stem = "actor.trunk." if kind is Kind.EPSILON_SOFT else "actor."
        depth = sum(name.startswith(stem) and name.endswith(".weight") for name in part)
        if kind is Kind.EPSILON_SOFT:
            trunk_names = [f"actor.trunk.{i}" for i in range(depth)]
            head_names = ["actor.value", "actor.advantage"]
        else:
            trunk_names = [f"actor.{i}" for i in range(depth - 1)]
            head_names = [f"actor.{max(depth - 1, 0)}"]
        expected = {
            f"{layer}.{what}" for layer in (*trunk_names, *head_names) for what in ("weight", "bias")
        } | {"scaling.mean", "scaling.factor", "policy.kind", *EXTRAS[kind]}
        if set(part) != expected:
            differs = sorted(set(part) ^ expected)
            raise BadInput(f"weights: these arrays are missing or unknown: {', '.join(differs)}.")
        floats = {
            name: np.asarray(array, dtype=np.float32) for name, array in part.items() if name != "policy.kind"
        }
        width = floats["scaling.mean"].shape[0]
        for name in trunk_names:
            width = _fits(name, floats, width)
        ends = [_fits(name, floats, width) for name in head_names]
        if kind is Kind.EPSILON_SOFT and ends[0] != 1:
            raise BadInput(f"weights: actor.value has {ends[0]} outputs, expected 1.")
        if kind is Kind.SQUASHED_GAUSSIAN and ends[0] % 2:
            raise BadInput(
                f"weights: {head_names[0]} has {ends[0]} outputs, expected means and deviations alike."
            )
        if kind is Kind.GAUSSIAN and floats["log_std"].shape != (ends[0],):
            raise BadInput(f"weights: log_std has shape {floats['log_std'].shape}, expected ({ends[0]},).")

        def layers(names: list[str]) -> tuple[Layer, ...]:
            return tuple(Layer(floats[f"{n}.weight"], floats[f"{n}.bias"]) for n in names)

        nothing = np.float32(0.0)
        return ExportedPolicy(
            kind=kind,
            trunk=layers(trunk_names),
            heads=layers(head_names),
            mean=floats["scaling.mean"],
            factor=floats["scaling.factor"],
            epsilon=np.float32(floats["epsilon"]) if "epsilon" in EXTRAS[kind] else nothing,
            log_std=floats["log_std"] if "log_std" in EXTRAS[kind] else np.zeros(0, np.float32),
            bound=np.float32(floats["bound"]) if "bound" in EXTRAS[kind] else nothing,
            hash=hash_of(part),
        )

    def probabilities(self, observation: Floats, mask: Mask) -> Floats:
        """Probabilities [B, A] of the moves for raw observations [B, O]; exactly 0 where masked.

        Raises ShapeError for wrong shapes, BadInput for a row that allows no move and for a policy of residuals.
        """
        out = self._out(observation, mask, 2)
        if self.kind in RESIDUALS:
            raise BadInput(f"policy: a {self.kind} has a density and no probabilities of moves.")
        if not mask.any(axis=1).all():
            raise BadInput(f"mask: row {int(np.argmin(mask.any(axis=1)))} allows no move at all.")
        return self._chances(out, mask)

    def mode(self, observation: Floats, mask: Mask) -> Actions:
        """The likeliest moves [B], or the middle residuals [B, A] (0 where masked)."""
        if self.kind in RESIDUALS:
            middle, log_std = self._density(self._out(observation, mask, 2))
            return self._residuals(middle, log_std, np.zeros_like(middle), mask).action
        return self.probabilities(observation, mask).argmax(axis=1).astype(np.int32)

    def sample(self, observation: Floats, mask: Mask, noise: Floats) -> Actions:
        """Moves [B] by inversion from uniform noise [B] in [0, 1), or residuals [B, A] from standard normal
        noise [B, A]; as the JAX policy does with the same numbers."""
        if self.kind in RESIDUALS:
            middle, log_std = self._density(self._out(observation, mask, 2))
            return self._residuals(middle, log_std, noise, mask).action
        return self._drawn(self.probabilities(observation, mask), mask, noise)

    def act(self, observation: Floats, mask: Mask, noise: Floats | float) -> Played:
        """One action for one raw observation [O] under one mask [A], with the log-probability to be logged.

        noise: a uniform number in [0, 1) for moves, standard normal numbers [A] for residuals.
        """
        out = self._out(observation, mask, 1)
        if self.kind in RESIDUALS:
            return self._residuals(*self._density(out), np.asarray(noise, np.float32), mask)
        if not mask.any():
            raise BadInput("mask: it allows no move at all.")
        chances = self._chances(out, mask)
        move = self._drawn(chances, mask, np.float32(noise))
        return Played(move, np.float32(np.log(chances[move])))

    def _out(self, observation: Floats, mask: Mask, rank: int) -> Floats:
        """What the network says [..., outputs]; Q-values for a dueling one."""
        x = observation.astype(np.float32, copy=False)
        if x.ndim != rank or x.shape[-1] != self.mean.shape[0]:
            rows = "B, " if rank == 2 else ""
            raise ShapeError(f"observation has shape {x.shape}, expected ({rows}{self.mean.shape[0]}).")
        x = np.minimum(np.maximum((x - self.mean) * self.factor, -LARGEST), LARGEST)
        activation = _ACTIVATIONS[self.kind]
        for weight, bias in self.trunk:
            x = activation(x @ weight + bias)
        out = x @ self.heads[-1].weight + self.heads[-1].bias
        if self.kind is Kind.EPSILON_SOFT:
            value = x @ self.heads[0].weight + self.heads[0].bias
            out = value + out - out.mean(axis=-1, keepdims=True)
        width = out.shape[-1] // 2 if self.kind is Kind.SQUASHED_GAUSSIAN else out.shape[-1]
        if mask.dtype != np.bool_ or mask.shape != (*x.shape[:-1], width):
            raise ShapeError(
                f"mask is {mask.dtype}{list(mask.shape)}, expected bool{[*x.shape[:-1], width]}."
            )
        return out

    def _chances(self, out: Floats, mask: Mask) -> Floats:
        """Probabilities [..., A] from logits or Q-values [..., A]."""
        masked = np.where(mask, out, FORBIDDEN)
        if self.kind is Kind.EPSILON_SOFT:
            alike = self.epsilon / np.maximum(mask.sum(axis=-1, keepdims=True), 1).astype(np.float32)
            best = masked.argmax(axis=-1)[..., None] == np.arange(mask.shape[-1])
            return np.where(mask, alike + (1 - self.epsilon) * best, np.float32(0.0))
        odds = np.exp(masked - masked.max(axis=-1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=-1, keepdims=True))

    def _drawn(self, chances: Floats, mask: Mask, uniform: Floats | np.float32) -> NDArray[np.int32]:
        cumulative = chances.cumsum(axis=-1)
        below = (cumulative <= np.asarray(uniform * cumulative[..., -1])[..., None]).sum(axis=-1)
        # Rounding may carry the product up to the total itself, past the last move that is possible.
        possible = chances > 0 if self.kind is Kind.EPSILON_SOFT else mask
        last = mask.shape[-1] - 1 - possible[..., ::-1].argmax(axis=-1)
        return np.asarray(np.minimum(below, last), np.int32)

    def _density(self, out: Floats) -> tuple[Floats, Floats]:
        """Means and log deviations [..., A] before anything is squashed."""
        if self.kind is Kind.GAUSSIAN:
            return out, self.log_std
        middle, log_std = np.split(out, 2, axis=-1)
        return middle, np.minimum(np.maximum(log_std, LOG_STD_LOW), LOG_STD_HIGH)

    def _residuals(self, middle: Floats, log_std: Floats, noise: Floats, mask: Mask) -> Played:
        if noise.shape != middle.shape:
            raise ShapeError(f"noise has shape {noise.shape}, expected {middle.shape}.")
        u = middle + np.exp(log_std) * noise
        each = -0.5 * noise**2 - log_std - np.float32(0.5 * math.log(2.0 * math.pi))
        if self.kind is Kind.SQUASHED_GAUSSIAN:
            # log(1 - tanh(u)^2) as 2 (log 2 - u - softplus(-2u)): exact also where tanh has reached 1.
            each -= np.log(self.bound) + 2.0 * (np.float32(math.log(2.0)) - u - np.logaddexp(0.0, -2.0 * u))
            u = self.bound * np.tanh(u)
        still = np.float32(0.0)
        return Played(np.where(mask, u, still), np.where(mask, each, still).sum(axis=-1))


def _relu(x: Floats) -> Floats:
    return np.maximum(x, np.float32(0.0))


_ACTIVATIONS: Mapping[Kind, Callable[[Floats], Floats]] = {
    Kind.CATEGORICAL: np.tanh,
    Kind.SOFT_CATEGORICAL: _relu,
    Kind.EPSILON_SOFT: _relu,
    Kind.GAUSSIAN: np.tanh,
    Kind.SQUASHED_GAUSSIAN: _relu,
}


def _kind(part: Mapping[str, NDArray[np.generic]]) -> Kind:
    if "policy.kind" not in part:
        raise BadInput("weights: policy.kind is missing, so nothing says how an action comes out of them.")
    name = np.asarray(part["policy.kind"]).tobytes().decode("ascii", "replace")
    if name not in set(Kind):
        raise BadInput(
            f"weights: policy.kind {name!r} is unknown.{nearest(name, [str(kind) for kind in Kind])}"
        )
    return Kind(name)


def _fits(name: str, floats: Mapping[str, Floats], width: int) -> int:
    """The outputs of a layer that must take `width` inputs."""
    weight, bias = floats[f"{name}.weight"], floats[f"{name}.bias"]
    if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
        raise BadInput(
            f"weights: {name} has weight {weight.shape} and bias {bias.shape} after width {width}."
        )
    return int(weight.shape[1])
