"""The episode contract: campaign-days as padded arrays, with what they cost and where they came from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import UnusableBatch


class End(IntEnum):
    """How a transition ends: the day goes on, the task is over (no future), or the clock cut it (bootstrap)."""

    RUNNING = 0
    TERMINATED = 1
    TRUNCATED = 2


class Source(StrEnum):
    """Where an episode was played."""

    SIMULATED = "simulated"
    REPLAYED = "replayed"
    LOGGED = "logged"
    LIVE = "live"


SOURCES = tuple(Source)


@dataclass(frozen=True, slots=True)
class Provenance:
    """One episode's origin. `settled_at` is the simulated or account time (UTC ISO 8601) when the bill was final."""

    source: Source
    phase: str
    arm: str
    campaign: str
    day: int
    actor_hash: str
    pacer_hash: str
    schema_hash: str
    seed: int
    settled_at: str


@dataclass(frozen=True)
class EpisodeBatch:
    """B campaign-days of at most T decisions each, padded, struct of arrays (NumPy or JAX).

    observation[B,T+1,O] float32; mask[B,T+1,A] bool (True = allowed); action[B,T] int32 (index of the
    joint move) or float32 [B,T,A]; executed[B,T] float32, the log multiplier that acted after guards;
    log_prob[B,T] float32 of the raw action under the behaviour policy; reward[B,T] float32, share of the
    episode's scale; end[B,T] int8 (End); valid[B,T] bool; weight[B] float32 > 0; segment[B,T] int32;
    hidden[B,T+1,H] float32, the simulator's truth for a privileged critic (H may be 0).
    Outcomes per episode [B]: spend, value, impressions, clicks, conversions, score (float64 for
    live and replayed, float32 in simulation; currency units), matured in [0, 1].
    sources[B] int8: index into SOURCES. provenance: one per episode, or one shared by all (simulation).
    """

    observation: NDArray[np.float32]
    mask: NDArray[np.bool_]
    action: NDArray[np.int32]
    executed: NDArray[np.float32]
    log_prob: NDArray[np.float32]
    reward: NDArray[np.float32]
    end: NDArray[np.int8]
    valid: NDArray[np.bool_]
    weight: NDArray[np.float32]
    segment: NDArray[np.int32]
    hidden: NDArray[np.float32]
    spend: NDArray[np.floating]
    value: NDArray[np.floating]
    impressions: NDArray[np.floating]
    clicks: NDArray[np.floating]
    conversions: NDArray[np.floating]
    score: NDArray[np.floating]
    matured: NDArray[np.floating]
    sources: NDArray[np.int8]
    provenance: tuple[Provenance, ...]

    @property
    def episodes(self) -> int:
        return int(self.reward.shape[0])

    @property
    def decisions(self) -> int:
        return int(self.reward.shape[1])

    @property
    def transitions(self) -> int:
        """Valid transitions, the ones a gradient is taken over."""
        return int(np.asarray(self.valid).sum())

    def to_numpy(self) -> EpisodeBatch:
        """The same batch with every array on the host."""
        arrays: dict[str, Any] = {n: np.asarray(getattr(self, n)) for n in ARRAY_FIELDS}
        return replace(self, **arrays)

    def check(self, *, observation_size: int, action_size: int) -> None:
        """Refuse what no gradient may be taken from; the message names the field and the episode.

        Raises UnusableBatch for an empty or wholly invalid batch, wrong shapes, NaN or infinite numbers,
        actions outside the space or masked, log-probabilities above 0 or missing, weights not above zero.
        """
        if self.reward.ndim != 2 or self.reward.shape[0] == 0:
            raise UnusableBatch(f"reward: no episodes in the batch (shape {self.reward.shape}).")
        b, t = self.reward.shape
        shapes: dict[str, tuple[int, ...]] = {
            "observation": (b, t + 1, observation_size), "mask": (b, t + 1, action_size), "action": (b, t),
            "executed": (b, t), "log_prob": (b, t), "end": (b, t), "valid": (b, t), "weight": (b,), "segment": (b, t),
            "sources": (b,), **dict.fromkeys(OUTCOMES, (b,)),
        }  # fmt: skip
        for name, want in shapes.items():
            got = getattr(self, name).shape
            if tuple(got) != want:
                raise UnusableBatch(f"{name}: shape {tuple(got)}, expected {want}.")
        if self.hidden.shape[:2] != (b, t + 1):
            raise UnusableBatch(f"hidden: shape {self.hidden.shape}, expected ({b}, {t + 1}, H).")
        host = self.to_numpy()
        if not host.valid.any():
            raise UnusableBatch("valid: every transition of the batch is marked invalid.")
        ok = host.valid
        for name in ("reward", "log_prob", "executed"):
            _refuse(name, ok & ~np.isfinite(getattr(host, name)), "is not finite")
        state_ok = np.concatenate([ok, ok[:, -1:]], axis=1)
        for name in ("observation", "hidden"):
            _refuse(name, state_ok & ~np.isfinite(getattr(host, name)).all(axis=-1), "is not finite")
        _refuse(
            "action", ok & ((host.action < 0) | (host.action >= action_size)), "is outside the action space"
        )
        chosen = np.take_along_axis(
            host.mask[:, :-1], np.clip(host.action, 0, action_size - 1)[..., None], -1
        )[..., 0]
        _refuse("action", ok & ~chosen, "is masked out")
        _refuse("log_prob", ok & (host.log_prob > 1e-5), "is above 0, more than a probability allows")
        _refuse("end", ok & ((host.end < 0) | (host.end > 2)), "is no End")
        _refuse("weight", ~(np.isfinite(host.weight) & (host.weight > 0)), "is not a positive number")


OUTCOMES = ("spend", "value", "impressions", "clicks", "conversions", "score", "matured")
ARRAY_FIELDS = tuple(f.name for f in fields(EpisodeBatch) if f.name != "provenance")


def _refuse(name: str, bad: NDArray[np.bool_], why: str) -> None:
    if bad.any():
        where = np.argwhere(bad)[0]
        step = f", step {int(where[1])}" if len(where) > 1 else ""
        raise UnusableBatch(f"{name}: episode {int(where[0])}{step} {why}.")


def concatenate(batches: list[EpisodeBatch]) -> EpisodeBatch:
    """Join batches of the same shapes along the episode axis. Provenance is kept one per episode."""
    if not batches:
        raise UnusableBatch("no episodes to join.")
    joined = {n: np.concatenate([np.asarray(getattr(b, n)) for b in batches]) for n in ARRAY_FIELDS}
    told = tuple(
        p
        for b in batches
        for p in (b.provenance if len(b.provenance) == b.episodes else b.provenance * b.episodes)
    )
    return EpisodeBatch(**joined, provenance=told)


def select(batch: EpisodeBatch, rows: NDArray[np.intp]) -> EpisodeBatch:
    """The episodes at `rows`, in that order."""
    told = (
        batch.provenance
        if len(batch.provenance) != batch.episodes
        else tuple(batch.provenance[int(i)] for i in rows)
    )
    return replace(batch, **{n: np.asarray(getattr(batch, n))[rows] for n in ARRAY_FIELDS}, provenance=told)
