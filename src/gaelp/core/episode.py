"""The episode contract: campaign-days as padded arrays, with what they cost and where they came from."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import UnusableBatch
from gaelp.core.schema import Actions


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
    utility: str = ""
    """What multiplied the rewards by declaration, if anything did; empty for rewards as they were earned."""


@dataclass(frozen=True)
class EpisodeBatch:
    """B campaign-days of at most T decisions each, padded, struct of arrays (NumPy or JAX).

    observation[B,T+1,O] float32; mask[B,T+1,A] bool (True = allowed); action[B,T] int32 (index of the
    joint move) or float32 [B,T,A] (raw residuals, 0 where the mask says no); executed[B,T] (or [B,T,A] for
    residuals) float32, the log multiplier that acted after guards;
    log_prob[B,T] float32 of the raw action under the behaviour policy; reward[B,T] float32, share of the
    episode's scale; end[B,T] int8 (End); valid[B,T] bool; weight[B] float32 > 0; segment[B,T] int32;
    hidden[B,T+1,H] float32, the simulator's truth for a privileged critic (H may be 0).
    A row may hold several episodes: after one that was cut, observation[t+1] is its final observation, and an
    invalid transition leads from it to the first observation of the next.
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
        """The same batch with every array on the host. Raises UnusableBatch for rows of unequal lengths."""
        arrays: dict[str, Any] = {}
        for name in ARRAY_FIELDS:
            try:
                arrays[name] = np.asarray(getattr(self, name))
            except ValueError as error:
                raise UnusableBatch(f"{name}: no array: {error}.") from None
        return replace(self, **arrays)

    def check(
        self,
        *,
        observation_size: int,
        action_size: int,
        actions: Actions = Actions.MOVES,
        bound: float = math.inf,
        deviation_floor: float = 0.0,
    ) -> None:
        """Refuse what no gradient may be taken from; the message names the field and the episode.

        bound: residuals beyond [-bound, bound] are refused; infinite for a policy whose raw actions the
        environment clips, as a Gaussian's are. deviation_floor: the least standard deviation the behaviour policy
        can have in one dimension, 0 when none is declared; a log-density above what it allows is refused.
        Raises UnusableBatch for an empty or wholly invalid batch, arrays of a wrong kind or shape, NaN or
        infinite numbers, actions outside the space or masked, a mask that leaves nothing to do,
        log-probabilities missing or above what the space allows, unknown endings and sources, a cut episode
        whose final observation was overwritten, weights not above zero, provenance not one each or one for all.
        """
        host = self.to_numpy()
        _check_kinds(host, actions)
        _check_shapes(host, observation_size, action_size, actions)
        ok = host.valid
        if not ok.any():
            raise UnusableBatch("valid: every transition of the batch is marked invalid.")
        for name in ("reward", "executed", "log_prob"):
            _refuse(name, ok & ~_finite(getattr(host, name)), "is not finite")
        state_ok = np.concatenate([ok, ok[:, -1:]], axis=1)
        for name in ("observation", "hidden"):
            _refuse(name, state_ok & ~np.isfinite(getattr(host, name)).all(axis=-1), "is not finite")
        _refuse("end", ok & ((host.end < End.RUNNING) | (host.end > End.TRUNCATED)), "is no End")
        # What follows a cut episode at once would stand where its final observation has to.
        cut = ok[:, :-1] & (host.end[:, :-1] == End.TRUNCATED) & ok[:, 1:]
        _refuse("end", cut, "is truncated, yet the next transition is valid: its final observation is lost")
        anything = np.asarray(host.mask.any(axis=-1))
        _refuse("mask", ok & ~anything[:, :-1], "allows nothing")
        goes_on = ok & (host.end != End.TERMINATED)
        _refuse("mask", goes_on & ~anything[:, 1:], "is followed by a state that allows nothing")
        if actions is Actions.MOVES:
            _check_moves(host, action_size)
        else:
            _check_residuals(host, bound, deviation_floor)
        _refuse("weight", ~(np.isfinite(host.weight) & (host.weight > 0)), "is not a positive number")
        _refuse("sources", (host.sources < 0) | (host.sources >= len(SOURCES)), "is of no known source")
        if len(host.provenance) not in (1, host.episodes):
            raise UnusableBatch(
                f"provenance: {len(host.provenance)} given for {host.episodes} episodes, "
                "expected one each or one for all."
            )


OUTCOMES = ("spend", "value", "impressions", "clicks", "conversions", "score", "matured")
ARRAY_FIELDS = tuple(f.name for f in fields(EpisodeBatch) if f.name != "provenance")


KINDS = {
    "mask": "b", "valid": "b", "end": "iu", "segment": "iu", "sources": "iu",
}  # fmt: skip
"""Array kinds that are not plain numbers; a float mask or a boolean ending would be read as something else."""
ROUNDING = 1e-5
"""How far a log-probability in float32 may stand above its bound, and a residual, relatively, outside its own."""


def _check_kinds(host: EpisodeBatch, actions: Actions) -> None:
    if host.log_prob.dtype.kind == "O":
        raise UnusableBatch(
            "log_prob: missing; a batch without the behaviour's log-probabilities cannot be trained on."
        )
    kinds = dict.fromkeys(ARRAY_FIELDS, "fiu") | KINDS
    kinds["action"] = "iu" if actions is Actions.MOVES else "f"
    told = {"b": "booleans", "iu": "whole numbers", "f": "real numbers", "fiu": "numbers"}
    for name, kind in kinds.items():
        dtype = getattr(host, name).dtype
        if dtype.kind not in kind:
            raise UnusableBatch(f"{name}: an array of {dtype}, expected {told[kind]}.")


def _check_shapes(host: EpisodeBatch, observation_size: int, action_size: int, actions: Actions) -> None:
    if host.reward.ndim != 2 or 0 in host.reward.shape:
        raise UnusableBatch(f"reward: no episodes in the batch (shape {host.reward.shape}).")
    b, t = host.reward.shape
    per_step = (b, t) if actions is Actions.MOVES else (b, t, action_size)
    shapes: dict[str, tuple[int, ...]] = {
        "observation": (b, t + 1, observation_size), "mask": (b, t + 1, action_size), "action": per_step,
        "log_prob": (b, t), "end": (b, t), "valid": (b, t), "weight": (b,), "segment": (b, t),
        "sources": (b,), **dict.fromkeys(OUTCOMES, (b,)),
    }  # fmt: skip
    for name, want in shapes.items():
        got = getattr(host, name).shape
        if got != want:
            raise UnusableBatch(f"{name}: shape {got}, expected {want}.")
    if host.executed.shape not in ((b, t), per_step):
        raise UnusableBatch(f"executed: shape {host.executed.shape}, expected {per_step}.")
    if host.hidden.ndim != 3 or host.hidden.shape[:2] != (b, t + 1):
        raise UnusableBatch(f"hidden: shape {host.hidden.shape}, expected ({b}, {t + 1}, H).")


def _check_moves(host: EpisodeBatch, action_size: int) -> None:
    ok = host.valid
    outside = (host.action < 0) | (host.action >= action_size)
    _refuse("action", ok & outside, "is outside the action space")
    move = np.where(outside, 0, host.action).astype(np.intp)
    _refuse(
        "action", ok & ~np.take_along_axis(host.mask[:, :-1], move[..., None], -1)[..., 0], "is masked out"
    )
    _refuse("log_prob", ok & (host.log_prob > ROUNDING), "is above 0, more than a probability allows")


def _check_residuals(host: EpisodeBatch, bound: float, deviation_floor: float) -> None:
    ok, active = host.valid, host.mask[:, :-1]
    _refuse("action", ok & ~_finite(host.action), "is not finite")
    moved = (host.action != 0) & ~active
    _refuse("action", ok & moved.any(axis=-1), "moves a residual that is masked out")
    beyond = np.abs(host.action) > bound * (1.0 + ROUNDING)
    _refuse("action", ok & beyond.any(axis=-1), f"is outside [-{bound:g}, {bound:g}]")
    if deviation_floor > 0:
        # The density of independent Gaussians is largest at their mean, where each has 1 / (s sqrt(2 pi)).
        each = -math.log(deviation_floor) - 0.5 * math.log(2.0 * math.pi)
        above = host.log_prob > each * active.sum(axis=-1) + ROUNDING * max(1.0, abs(each)) * active.shape[-1]
        _refuse("log_prob", ok & above, f"is above what a deviation of at least {deviation_floor:g} allows")


def _finite(numbers: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Are all numbers of each step finite? [B,T] or [B,T,A] -> [B,T]."""
    finite = np.isfinite(numbers)
    return finite if finite.ndim == 2 else finite.all(axis=-1)


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
