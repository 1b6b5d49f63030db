"""The policy without JAX: NumPy on exported weights, for serving one decision in microseconds.

It holds no training code; the hash it answers with is the hash the engine gave to the same weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import BadInput, ShapeError

FORBIDDEN = np.float32(-1e30)
LARGEST = np.float32(10.0)
POLICY_PREFIXES = ("actor.", "scaling.")

Floats = NDArray[np.float32]


def hash_of(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256 over names, types, shapes and bytes, in order of name: the identity of weights."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.data)
    return digest.hexdigest()


def policy_part(weights: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """Of all saved weights those that act: the actor and the scaling of its observation."""
    return {name: array for name, array in weights.items() if name.startswith(POLICY_PREFIXES)}


@dataclass(frozen=True)
class ExportedPolicy:
    """An actor in NumPy: `layers` of (weight [in, out], bias [out]) with tanh between, on scaled observations."""

    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]
    mean: Floats
    factor: Floats
    hash: str

    @staticmethod
    def from_arrays(weights: Mapping[str, NDArray[np.generic]]) -> ExportedPolicy:
        """Take the policy out of `engine.weights()` or a file of it.

        Raises BadInput when an array is missing, or when widths do not fit one another.
        """
        part = policy_part(weights)
        depth = sum(name.startswith("actor.") for name in part) // 2
        expected = {f"actor.{i}.{what}" for i in range(depth) for what in ("weight", "bias")}
        expected |= {"scaling.mean", "scaling.factor"}
        if depth == 0 or set(part) != expected:
            differs = sorted(set(part) ^ expected)
            raise BadInput(f"weights: these arrays are missing or unknown: {', '.join(differs)}.")
        floats = {name: np.asarray(array, dtype=np.float32) for name, array in part.items()}
        width = floats["scaling.mean"].shape[0]
        for i in range(depth):
            weight, bias = floats[f"actor.{i}.weight"], floats[f"actor.{i}.bias"]
            if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
                raise BadInput(
                    f"weights: actor.{i} has weight {weight.shape} and bias {bias.shape} after width {width}."
                )
            width = weight.shape[1]
        return ExportedPolicy(
            tuple(floats[f"actor.{i}.weight"] for i in range(depth)),
            tuple(floats[f"actor.{i}.bias"] for i in range(depth)),
            floats["scaling.mean"],
            floats["scaling.factor"],
            hash_of(part),
        )

    def logits(self, observation: Floats) -> Floats:
        """Unmasked logits [B, A] for raw observations [B, O]."""
        if observation.ndim != 2 or observation.shape[1] != self.mean.shape[0]:
            raise ShapeError(
                f"observation has shape {observation.shape}, expected (B, {self.mean.shape[0]})."
            )
        x = (observation.astype(np.float32, copy=False) - self.mean) * self.factor
        x = np.minimum(np.maximum(x, -LARGEST), LARGEST)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.tanh(x @ weight + bias)
        return x @ self.weights[-1] + self.biases[-1]

    def probabilities(self, observation: Floats, mask: NDArray[np.bool_]) -> Floats:
        """Probabilities [B, A] of the moves, 0 where masked. Raises BadInput where nothing is allowed."""
        logits = self.logits(observation)
        if mask.shape != logits.shape:
            raise ShapeError(f"mask has shape {mask.shape}, expected {logits.shape}.")
        if not mask.any(axis=1).all():
            raise BadInput(f"mask: row {int(np.argmin(mask.any(axis=1)))} allows no move at all.")
        masked = np.where(mask, logits, FORBIDDEN)
        odds = np.exp(masked - masked.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def mode(self, observation: Floats, mask: NDArray[np.bool_]) -> NDArray[np.int32]:
        """The most likely moves [B]."""
        return self.probabilities(observation, mask).argmax(axis=1).astype(np.int32)

    def sample(self, observation: Floats, mask: NDArray[np.bool_], uniform: Floats) -> NDArray[np.int32]:
        """Draw moves [B] by inversion from uniform [B] in [0, 1), as the JAX policy does."""
        probabilities = self.probabilities(observation, mask)
        cumulative = probabilities.cumsum(axis=1)
        below = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(axis=1)
        last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
        return np.minimum(below, last).astype(np.int32)
