"""Is it learning? A ruling on recorded evidence; it knows nothing of how weights come about.

Three parts in this version (definitions A, C and D1 of the design): the mechanism is alive, the paired
return on held-out seeds beats every reference, and a random walk of the same length does not. Canaries,
finite differences, the re-executed step and the shuffled twin inside the verdict are not built yet.
The paired return is a claim about these very weights and not about the algorithm.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gaelp.core.episode import EpisodeBatch
from gaelp.core.errors import BadInput, ShapeError
from gaelp.core.verdict import FAIL, PASS, WAIT, Ruling, Verdict
from gaelp.evidence.sequences import betting_interval
from gaelp.learn.metrics import TrainingMetrics

Scores = NDArray[np.float64]

REFERENCES = ("pacer", "retuned", "random")
"""The untrained agent, which is the certified pacer; the pacer retuned on the training days; random moves."""

WALKS = 19
"""Random walks to beat: the best of 20 by chance with probability 1/20."""


class Evaluator(Protocol):
    """Plays whole policies in held-out worlds. `seeds` are disjoint from every training and selection seed."""

    @property
    def seeds(self) -> NDArray[np.integer]: ...

    def scores(self, policies: object, seeds: NDArray[np.integer]) -> NDArray[np.floating]:
        """Scores [P, n] of the modes of stacked policies (a `networks.Policy` with a leading axis P).

        Each is divided by the certified pacer's score in that world, on the same random numbers.
        """
        ...

    def reference(self, name: str, seeds: NDArray[np.integer]) -> NDArray[np.floating]:
        """Scores [n], on the same scale and seeds, of 'pacer', 'retuned' or 'random'."""
        ...


class Depth(StrEnum):
    """How much is asked: everything, or mechanism and paired return only (after each call on live data)."""

    FULL = "full"
    RETURN = "return"


class Outcome(StrEnum):
    LEARNING = "LEARNING"
    NOT_LEARNING = "NOT_LEARNING"
    INCONCLUSIVE = "INCONCLUSIVE"
    BROKEN = "BROKEN"


_RULINGS = {
    Outcome.LEARNING: PASS,
    Outcome.INCONCLUSIVE: WAIT,
    Outcome.NOT_LEARNING: FAIL,
    Outcome.BROKEN: FAIL,
}


@dataclass(frozen=True)
class LearningVerdict:
    """The outcome, its parts (mechanism, paired_return, random_walk) and what it takes to judge it again.

    Truthy for LEARNING only: INCONCLUSIVE never promotes.
    """

    outcome: Outcome
    reason: str
    parts: Mapping[str, Verdict]
    evidence: Mapping[str, object]

    def __bool__(self) -> bool:
        return self.outcome is Outcome.LEARNING

    @property
    def verdict(self) -> Verdict:
        """LEARNING = PASS, INCONCLUSIVE = WAIT, NOT_LEARNING and BROKEN = FAIL."""
        parts = {name: dict(part.evidence) for name, part in self.parts.items()}
        return Verdict(
            _RULINGS[self.outcome], "verify_learning", self.reason, {"outcome": str(self.outcome), **parts}
        )

    def payload(self) -> dict[str, object]:
        """Ready for JSON."""
        parts = {
            name: {"ruling": part.ruling.name, "reason": part.reason, **part.evidence}
            for name, part in self.parts.items()
        }
        return {
            "verdict": str(self.outcome),
            "reason": self.reason,
            "parts": parts,
            "evidence": dict(self.evidence),
        }


@dataclass(frozen=True, kw_only=True)
class Trail:
    """What the training calls since a phase began leave behind: a fold over their metrics.

    gradient, change: by tensor, the largest gradient norm and the largest change of any call.
    chained: every call started from the weights the one before had left.
    """

    weights_hash: str
    actor_hash: str
    calls: int = 0
    updates: int = 0
    min_update_change: float = math.inf
    finite: bool = True
    chained: bool = True
    simulated: bool = False
    gradient: Mapping[str, float] = field(default_factory=dict)
    change: Mapping[str, float] = field(default_factory=dict)

    def after(self, call: TrainingMetrics) -> Trail:
        """The trail with one more call."""
        norms = call.gradient_norm_before
        changes = {name: change.absolute for name, change in call.weight_change_by_tensor.items()}
        if self.calls and set(norms) != set(self.gradient):
            raise ShapeError("metrics: this call trained other tensors than the calls before it.")
        first = self.calls == 0
        return replace(
            self,
            weights_hash=call.weights_hash_after,
            actor_hash=call.actor_hash_after,
            calls=self.calls + 1,
            updates=self.updates + call.updates,
            min_update_change=min(self.min_update_change, call.min_update_change),
            finite=self.finite
            and all(math.isfinite(x) for x in (*norms.values(), *changes.values(), call.loss)),
            chained=self.chained and call.weights_hash_before == self.weights_hash,
            simulated=self.simulated or call.simulated_transitions > 0,
            gradient={
                name: norm if first else max(norm, self.gradient[name]) for name, norm in norms.items()
            },
            change={
                name: moved if first else max(moved, self.change[name]) for name, moved in changes.items()
            },
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Trail:
        return Trail(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What LEARNING takes. Scores are in units of the pacer's own, so 0.01 is one per cent of it.

    alpha is split evenly (Bonferroni) over the comparisons. Differences are clipped to [low, high], fixed
    before any was seen; the clip makes the claim one about clipped differences.
    """

    alpha: float = 0.05
    delta_min: float = 0.0
    margin: float = 0.01
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.alpha < 1 and self.low < 0 < self.high and self.margin >= 0):
            raise BadInput(
                f"alpha {self.alpha}, range [{self.low}, {self.high}] or margin {self.margin} is impossible."
            )


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Scores of whole policies on the same held-out seeds, each [n]; walks [19, n] or none when not asked for.

    references: by name, those of REFERENCES. promoted: the last promoted policy, none before there is one.
    standstill: the judged weights are the initial ones, so there is no walk to compare with.
    """

    seeds: NDArray[np.integer]
    now: Scores
    references: Mapping[str, Scores]
    promoted: Scores | None
    walks: Scores | None
    standstill: bool

    def __post_init__(self) -> None:
        n = len(self.seeds)
        if n == 0 or len(np.unique(self.seeds)) != n:
            raise BadInput(f"held-out seeds must be distinct and at least one, got {n}.")
        if set(self.references) != set(REFERENCES):
            raise BadInput(f"references are {sorted(self.references)}, expected {sorted(REFERENCES)}.")
        named = {"now": self.now, **self.references}
        if self.promoted is not None:
            named["promoted"] = self.promoted
        for name, scores in named.items():
            if scores.shape != (n,) or not np.isfinite(scores).all():
                raise BadInput(f"scores of {name!r} must be {n} finite numbers, got shape {scores.shape}.")
        if self.walks is not None and (self.walks.shape != (WALKS, n) or not np.isfinite(self.walks).all()):
            raise BadInput(
                f"scores of the walks must be {WALKS} x {n} finite numbers, got {self.walks.shape}."
            )


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """All that the judgement rests on. trials: none when no evaluator was there to play any.

    judged_hash: of the weights that were evaluated. played_hash: of the actor that played the episodes
    in question, when the caller knows it; it must then be the judged one.
    """

    trail: Trail
    judged_hash: str
    played_hash: str | None
    trials: Trials | None
    depth: Depth


def judge_learning(recorded: Recorded, terms: Terms) -> LearningVerdict:
    """Weigh the parts: a dead mechanism is BROKEN whatever the scores; LEARNING needs every part to pass."""
    parts = {"mechanism": judge_mechanism(recorded)}
    if recorded.trials is None:
        absent = "no evaluator was given, so nothing was played on held-out seeds."
        parts["paired_return"] = Verdict(WAIT, "paired_return", absent)
    else:
        parts["paired_return"] = judge_paired_return(recorded.trials, terms)
        if recorded.depth is Depth.FULL:
            parts["random_walk"] = judge_random_walk(recorded.trials)
    outcome, decisive = _weigh(parts)
    evidence: dict[str, object] = {
        "judged_hash": recorded.judged_hash,
        "trained_hash": recorded.trail.actor_hash,
        "played_hash": recorded.played_hash,
        "depth": str(recorded.depth),
        "calls": recorded.trail.calls,
        "updates": recorded.trail.updates,
        "terms": asdict(terms),
    }
    if recorded.trials is not None:
        evidence["seeds"] = [int(seed) for seed in recorded.trials.seeds]
    return LearningVerdict(outcome, decisive.reason, parts, evidence)


def _weigh(parts: Mapping[str, Verdict]) -> tuple[Outcome, Verdict]:
    mechanism = parts["mechanism"]
    if mechanism.ruling is FAIL:
        return Outcome.BROKEN, mechanism
    failed = [part for part in parts.values() if part.ruling is FAIL]
    # Nothing was trained: then even a lucky or unlucky score says nothing about learning.
    if failed and mechanism.ruling is PASS:
        return Outcome.NOT_LEARNING, failed[0]
    waiting = [part for part in parts.values() if part.ruling is WAIT]
    if waiting:
        return Outcome.INCONCLUSIVE, waiting[0]
    return Outcome.LEARNING, parts["paired_return"]


def judge_mechanism(recorded: Recorded) -> Verdict:
    """Weights moved in every update, every trainable tensor is alive, and what was trained is what is judged.

    The privileged critic counts as trainable only where simulated episodes were trained on.
    """
    trail = recorded.trail
    alive = {
        name: norm
        for name, norm in trail.gradient.items()
        if trail.simulated or not name.startswith("privileged.")
    }
    still = sorted(name for name in alive if not trail.change[name] > 0)
    dead = sorted(name for name, norm in alive.items() if not norm > 0)
    numbers: dict[str, object] = {
        "calls": trail.calls,
        "updates": trail.updates,
        "min_update_change": trail.min_update_change if trail.calls else None,
        "tensors": len(alive),
        "tensors_without_gradient": dead,
        "tensors_that_never_moved": still,
        "trained_hash": trail.actor_hash,
        "judged_hash": recorded.judged_hash,
        "played_hash": recorded.played_hash,
    }

    def ruled(ruling: Ruling, reason: str) -> Verdict:
        return Verdict(ruling, "mechanism", reason, numbers)

    if recorded.judged_hash != trail.actor_hash:
        return ruled(FAIL, "the weights that were judged are not the weights that were trained.")
    if recorded.played_hash is not None and recorded.played_hash != recorded.judged_hash:
        return ruled(FAIL, "the weights that played are not the weights that are judged.")
    if trail.calls == 0:
        return ruled(WAIT, "no training call yet in this phase, so there is no learning to speak of.")
    if not trail.chained:
        return ruled(FAIL, "a training call did not start from the weights the call before it had left.")
    if not trail.finite:
        return ruled(FAIL, "a gradient, a change or a loss was not finite.")
    if not trail.min_update_change > 0:
        return ruled(FAIL, f"an update left every weight unchanged (of {trail.updates} updates).")
    if dead:
        return ruled(FAIL, f"no gradient ever reached {', '.join(dead)}.")
    if still:
        return ruled(FAIL, f"these tensors never moved: {', '.join(still)}.")
    return ruled(
        PASS,
        f"{trail.updates} updates in {trail.calls} calls, each moved the weights, every tensor is alive.",
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """A mean paired difference with its interval, and the bound it must exceed."""

    mean: float
    lower: float
    upper: float
    bound: float
    alpha: float


def judge_paired_return(trials: Trials, terms: Terms) -> Verdict:
    """PASS when every lower bound exceeds its requirement, FAIL when one upper bound cannot, else WAIT."""
    rivals = dict(trials.references)
    bounds = {"pacer": terms.delta_min, "retuned": 0.0, "random": 0.0}
    if trials.promoted is not None:
        rivals["promoted"], bounds["promoted"] = trials.promoted, -terms.margin
    alpha = terms.alpha / len(rivals)
    found: dict[str, Comparison] = {}
    for name, scores in rivals.items():
        difference = np.clip(trials.now - scores, terms.low, terms.high)
        interval = betting_interval(difference, terms.low, terms.high, alpha)
        found[name] = Comparison(
            float(difference.mean()), interval.lower, interval.upper, bounds[name], alpha
        )
    clipped = max(
        float(np.mean((trials.now - scores < terms.low) | (trials.now - scores > terms.high)))
        for scores in rivals.values()
    )
    numbers: dict[str, object] = {
        "n": len(trials.seeds),
        "clipped_share": clipped,
        "comparisons": {name: asdict(comparison) for name, comparison in found.items()},
    }
    hopeless = [name for name, c in found.items() if c.upper <= c.bound]
    open_ones = [name for name, c in found.items() if not c.lower > c.bound]
    if hopeless:
        return Verdict(
            FAIL, "paired_return", f"{_told(hopeless[0], found)}: it cannot exceed its bound.", numbers
        )
    if open_ones:
        reason = f"{_told(open_ones[0], found)}: {len(trials.seeds)} seeds do not settle it."
        return Verdict(WAIT, "paired_return", reason, numbers)
    return Verdict(PASS, "paired_return", f"{_told('pacer', found)}; every requirement is met.", numbers)


def _told(name: str, found: Mapping[str, Comparison]) -> str:
    c = found[name]
    return f"against {name} {c.mean:+.4f} [{c.lower:+.4f}, {c.upper:+.4f}], must exceed {c.bound:+g}"


def judge_random_walk(trials: Trials) -> Verdict:
    """The trained weights must score above all 19 random walks of the same length from the same start."""
    if trials.standstill or trials.walks is None:
        return Verdict(
            FAIL, "random_walk", "the weights are the initial ones: there is no step to compare with."
        )
    means = trials.walks.mean(axis=1)
    mine = float(trials.now.mean())
    beaten = int((mine > means).sum())
    numbers = {
        "score": mine,
        "walks": [float(mean) for mean in means],
        "beaten": beaten,
        "p": 1 / (WALKS + 1),
    }
    if beaten == WALKS:
        return Verdict(PASS, "random_walk", f"it beats all {WALKS} random walks of its own length.", numbers)
    reason = f"{WALKS - beaten} of {WALKS} random walks of the same length do as well."
    return Verdict(FAIL, "random_walk", reason, numbers)


def random_walks(
    start: Mapping[str, NDArray[np.generic]],
    now: Mapping[str, NDArray[np.generic]],
    rng: np.random.Generator,
) -> list[dict[str, NDArray[np.float32]]]:
    """19 sets of weights `start + u`, u in a random direction, as long in every tensor as `now - start`."""
    walks = []
    for _ in range(WALKS):
        walk = {}
        for name, origin in start.items():
            noise = rng.standard_normal(origin.shape)
            begin = origin.astype(np.float64)
            length = np.linalg.norm(now[name].astype(np.float64) - begin)
            walk[name] = (begin + noise * (length / np.linalg.norm(noise))).astype(np.float32)
        walks.append(walk)
    return walks


def shuffle_rewards(batch: EpisodeBatch, rng: np.random.Generator) -> EpisodeBatch:
    """The same episodes with rewards permuted over all valid transitions: nothing is left to learn."""
    host = batch.to_numpy()
    reward = host.reward.copy()
    reward[host.valid] = rng.permutation(reward[host.valid])
    return replace(host, reward=reward)
