"""What a training call reports, and what a set of weights can be compared by; numbers only, no JAX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import BadInput, ShapeError
from gaelp.learn.export import hash_of


@dataclass(frozen=True, slots=True)
class Change:
    """How far weights moved: L2 distance, and that distance over the L2 norm before (0 when that was 0)."""

    absolute: float
    relative: float


@dataclass(frozen=True, slots=True)
class SegmentShare:
    """A segment's share of the transitions, and of their total episode weight."""

    transitions: float
    weighted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """An actor's hidden units on a sample: share dormant; effective rank and width of the last layer."""

    dormant: float
    rank: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondLook:
    """What repeating a call by other means found (`mechanism.audit`), and its hidden units.

    worst: the largest error of each kind, as a share. replayed_hash, trained_hash: of the state after the call,
    played again and as training went on with it. faults: what is not as it must be, one sentence each.
    """

    worst: Mapping[str, float]
    replayed_hash: str
    trained_hash: str
    faults: tuple[str, ...]
    units: Units


@dataclass(frozen=True, kw_only=True)
class TrainingMetrics:
    """One call of `train_step`. Loss, parts, norms, entropy and KL are means over its gradient steps.

    weight_change: all weights; weight_change_by_tensor and gradient_norm_*: by dotted tensor name.
    min_update_change: the smallest L2 change of any single gradient step. entropy in nats; entropy_share
    of the largest entropy the masks allowed. approx_kl: E[(u - 1) - ln u] against the policy at the
    start (k3). parts: what only this algorithm has, by the names of its SCALARS (PPO: policy_loss, value_loss,
    clip_fraction, explained_variance of the value targets when the call began, ...). effective_sample_share:
    (sum w)^2 / (n sum w^2) of pi / mu over the logged and live transitions, or over all when there are
    none. clipped_mass: share of the importance weights cut off by rho_bar. transitions: valid ones,
    simulated_transitions of them simulated. weights_hash_*: all weights; actor_hash_*: what plays.
    seconds: wall-clock, and therefore no part of `payload`. world_seeds: ranges [low, high) of the simulated worlds.
    second_look: none where the call was not repeated. segment_shares: after sampling by transitions, and the
    population's again by weight. weight_effective_share: (sum w)^2 / (n sum w^2) of the transitions' sampling
    weights, 1 without any. utilities: what rewards were multiplied by, by declaration.
    """

    algorithm: str
    call: int
    updates: int
    transitions: int
    simulated_transitions: int
    batch_size: int
    num_epochs: int
    learning_rate: float
    weight_change: Change
    weight_change_by_tensor: Mapping[str, Change]
    min_update_change: float
    loss: float
    parts: Mapping[str, float]
    gradient_norm_before: Mapping[str, float]
    gradient_norm_after: Mapping[str, float]
    entropy: float
    entropy_share: float
    approx_kl: float
    effective_sample_share: float
    clipped_mass: float
    segment_shares: Mapping[str, SegmentShare]
    mean_reward: float
    weights_hash_before: str
    weights_hash_after: str
    actor_hash_before: str
    actor_hash_after: str
    seconds: float
    world_seeds: tuple[tuple[int, int], ...] = ()
    second_look: SecondLook | None = None
    weight_effective_share: float = 1.0
    utilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.updates < 1 or self.transitions < 1:
            raise BadInput(
                f"a training call of {self.updates} updates on {self.transitions} transitions is no call."
            )

    def payload(self) -> dict[str, object]:
        """Everything that another run with the same seed must reproduce, ready for JSON."""
        told = asdict(self)
        del told["seconds"]
        return told


@dataclass(frozen=True)
class WeightSnapshot:
    """Weights at one moment: step (gradient steps so far), hash, and the L2 norm of every array."""

    step: int
    hash: str
    norms: Mapping[str, float]
    arrays: Mapping[str, NDArray[np.generic]]

    @staticmethod
    def of(step: int, arrays: Mapping[str, NDArray[np.generic]]) -> WeightSnapshot:
        """Copy `arrays` and measure them."""
        own = {name: np.array(array) for name, array in arrays.items()}
        norms = {name: float(np.linalg.norm(array.astype(np.float64))) for name, array in own.items()}
        return WeightSnapshot(step, hash_of(own), norms, own)

    def distance(self, other: WeightSnapshot) -> float:
        """L2 distance over all arrays. Raises ShapeError between networks of different shapes."""
        shapes = {name: array.shape for name, array in self.arrays.items()}
        if shapes != {name: array.shape for name, array in other.arrays.items()}:
            raise ShapeError(
                "weights: these snapshots are of networks of different shapes, no distance is defined."
            )
        squares = (
            np.sum((array.astype(np.float64) - other.arrays[name].astype(np.float64)) ** 2)
            for name, array in self.arrays.items()
        )
        return float(np.sqrt(sum(squares)))


def segment_shares(
    segment: NDArray[np.integer], weight: NDArray[np.floating], valid: NDArray[np.bool_]
) -> dict[str, SegmentShare]:
    """Shares of every segment present: segment, valid [B,T]; weight [B], of the episode."""
    weights = np.broadcast_to(np.asarray(weight, np.float64)[:, None], valid.shape)[valid]
    names, where = np.unique(np.asarray(segment)[valid], return_inverse=True)
    counts = np.bincount(where)
    weighted = np.bincount(where, weights=weights)
    return {
        str(int(name)): SegmentShare(float(counts[i] / counts.sum()), float(weighted[i] / weighted.sum()))
        for i, name in enumerate(names)
    }
