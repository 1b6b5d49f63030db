"""Is it learning? A ruling on recorded evidence; it knows nothing of how weights come about.

Five parts. mechanism: the training calls did what they say, on weights that are those judged, in worlds that are
not those judged in. canaries: the same code learns what is known exactly. paired_return: on held-out seeds it beats
every reference. controls: random walks of the same length do not, nor does a twin trained on shuffled rewards,
and the weights act the same after being saved and loaded. health: no sign that vetoes.
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
from gaelp.learn.health import Vitals, judge_health
from gaelp.learn.metrics import TrainingMetrics

Scores = NDArray[np.float64]

REFERENCES = ("pacer", "retuned", "random")
"""The untrained agent, which is the certified pacer; the pacer retuned on the training days; random moves."""

WALKS = 19
"""Random walks to beat: the best of 20 by chance with probability 1/20."""
ISOTROPIC = 10
"""How many of them go in a random direction; the others permute the learned step."""


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
    """How much is asked: everything, or mechanism, paired return and health only (after each call on live data)."""

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
    """The outcome, its parts (mechanism, canaries, paired_return, controls, health) and what judges it again.

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


SEED_GAP = 4096
"""Ranges of world seeds closer than this are noted as one: an agent counts as trained in the gap as well."""


@dataclass(frozen=True, kw_only=True)
class Trail:
    """What the training calls since a phase began leave behind: a fold over their metrics.

    gradient, change: by tensor, the largest gradient norm and the largest change of any call.
    chained: every call started from the weights the one before had left. audits: calls that were looked at a second
    time; last_audit: the number within the phase of the newest of them; worst: the largest error of each kind;
    faults: what they found wrong. seeds: ranges [low, high) of the worlds trained in, over all phases.
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
    audits: int = 0
    last_audit: int = 0
    worst: Mapping[str, float] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    vitals: Vitals = field(default_factory=Vitals)
    seeds: tuple[tuple[int, int], ...] = ()

    def after(self, call: TrainingMetrics) -> Trail:
        """The trail with one more call."""
        norms = call.gradient_norm_before
        changes = {name: change.absolute for name, change in call.weight_change_by_tensor.items()}
        if self.calls and set(norms) != set(self.gradient):
            raise ShapeError("metrics: this call trained other tensors than the calls before it.")
        first = self.calls == 0
        looked = call.second_look
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
            audits=self.audits + (looked is not None),
            last_audit=self.last_audit if looked is None else self.calls + 1,
            worst=self.worst if looked is None else _larger(self.worst, looked.worst),
            faults=self.faults
            if looked is None
            else (*self.faults, *(f"call {call.call}: {x}" for x in looked.faults)),
            vitals=self.vitals.after(call, None if looked is None else looked.units),
            seeds=_merged((*self.seeds, *call.world_seeds)),
        )

    def begin_phase(self) -> Trail:
        """A trail for the next phase: the worlds that were trained in stay known, the calls do not count."""
        return Trail(weights_hash=self.weights_hash, actor_hash=self.actor_hash, seeds=self.seeds)

    def trained_in(self, seeds: NDArray[np.integer]) -> int:
        """How many of these world seeds lie in a range that was trained in."""
        wide = np.asarray(seeds, np.int64)
        inside = [(wide >= low) & (wide < high) for low, high in self.seeds]
        return int(np.any(inside, axis=0).sum()) if inside else 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Trail:
        told = json.loads(text)
        told["vitals"] = Vitals.from_plain(told["vitals"])
        told["faults"] = tuple(told["faults"])
        told["seeds"] = tuple((low, high) for low, high in told["seeds"])
        return Trail(**told)


def _larger(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: max(size, one[name]) if name in one else size for name, size in other.items()}


def _merged(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + SEED_GAP:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return tuple(out)


@dataclass(frozen=True, kw_only=True)
class Canary:
    """One known answer: in how many of `seeds` runs the same code found it, of `needed`; lowest: its worst run.

    asks: what was known, in a sentence. lowest is a share of the optimum, or 1 minus the share that a value was off;
    for the negative canary the share of runs that were, rightly, not LEARNING.
    """

    name: str
    asks: str
    seeds: int
    passed: int
    needed: int
    lowest: float

    @property
    def ok(self) -> bool:
        return self.passed >= self.needed


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """All known answers for one configuration of one version of the code, which `key` names."""

    key: str
    results: tuple[Canary, ...]

    def payload(self) -> dict[str, object]:
        """Ready for JSON."""
        return {"key": self.key, "results": [asdict(result) | {"ok": result.ok} for result in self.results]}

    @staticmethod
    def from_payload(told: Mapping[str, object]) -> Canaries:
        """Raises BadInput when `told` is not what `payload` gave."""
        key, results = told["key"], told["results"]
        if not isinstance(key, str) or not isinstance(results, list) or not results:
            raise BadInput("canaries: a key and a list of results are expected.")
        return Canaries(
            key=key, results=tuple(Canary(**{k: v for k, v in each.items() if k != "ok"}) for each in results)
        )


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What LEARNING takes. Scores are in units of the pacer's own, so 0.01 is one per cent of it.

    alpha holds for all comparisons together, by Holm's steps. Differences are clipped to [low, high], fixed
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
    twin: the same agent trained on shuffled rewards, none before there is one. standstill: the judged weights are the
    initial ones, so there is no walk to compare with.
    """

    seeds: NDArray[np.integer]
    now: Scores
    references: Mapping[str, Scores]
    promoted: Scores | None
    walks: Scores | None
    standstill: bool
    twin: Scores | None = None

    def __post_init__(self) -> None:
        n = len(self.seeds)
        if n == 0 or len(np.unique(self.seeds)) != n:
            raise BadInput(f"held-out seeds must be distinct and at least one, got {n}.")
        if set(self.references) != set(REFERENCES):
            raise BadInput(f"references are {sorted(self.references)}, expected {sorted(REFERENCES)}.")
        named = {"now": self.now, **self.references}
        if self.promoted is not None:
            named["promoted"] = self.promoted
        if self.twin is not None:
            named["twin"] = self.twin
        for name, scores in named.items():
            if scores.shape != (n,) or not np.isfinite(scores).all():
                raise BadInput(f"scores of {name!r} must be {n} finite numbers, got shape {scores.shape}.")
        if self.walks is not None and (self.walks.shape != (WALKS, n) or not np.isfinite(self.walks).all()):
            raise BadInput(
                f"scores of the walks must be {WALKS} x {n} finite numbers, got {self.walks.shape}."
            )


@dataclass(frozen=True, kw_only=True)
class Reload:
    """Weights saved to bytes and loaded again: on how many observations the actions were asked, and were the same."""

    asked: int
    same: int


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """All that the judgement rests on. trials: none when no evaluator was there to play any.

    judged_hash: of the weights that were evaluated. played_hash: of the actor that played the episodes
    in question, when the caller knows it; it must then be the judged one. canaries: none when they were not run.
    reload: none when it was not tried. look: how many sets of held-out seeds these weights have been judged on, this
    one included.
    """

    trail: Trail
    judged_hash: str
    played_hash: str | None
    trials: Trials | None
    depth: Depth
    canaries: Canaries | None = None
    reload: Reload | None = None
    look: int = 1

    def __post_init__(self) -> None:
        if self.look < 1:
            raise BadInput(f"look is {self.look}: the first one is number 1.")


def judge_learning(recorded: Recorded, terms: Terms) -> LearningVerdict:
    """Weigh the parts: a dead mechanism is BROKEN whatever the scores; LEARNING needs every part to pass.

    Who judges the same weights again on other seeds has alpha / look^2 for it: however often, all looks together
    stay below 1.65 alpha.
    """
    terms = replace(terms, alpha=terms.alpha / recorded.look**2)
    full = recorded.depth is Depth.FULL
    parts = {"mechanism": judge_mechanism(recorded)}
    if full:
        parts["canaries"] = judge_canaries(recorded.canaries)
    if recorded.trials is None:
        absent = "no evaluator was given, so nothing was played on held-out seeds."
        parts["paired_return"] = Verdict(WAIT, "paired_return", absent)
        if full:
            parts["controls"] = Verdict(WAIT, "controls", absent)
    else:
        parts["paired_return"] = judge_paired_return(recorded.trials, terms)
        if full:
            parts["controls"] = judge_controls(recorded.trials, recorded.reload, terms)
    parts["health"] = judge_health(recorded.trail.vitals, frozenset(_alive(recorded.trail)))
    outcome, decisive = _weigh(parts)
    evidence: dict[str, object] = {
        "judged_hash": recorded.judged_hash,
        "trained_hash": recorded.trail.actor_hash,
        "played_hash": recorded.played_hash,
        "depth": str(recorded.depth),
        "calls": recorded.trail.calls,
        "updates": recorded.trail.updates,
        "look": recorded.look,
        "terms": asdict(terms),
        "trained_seeds": [list(pair) for pair in recorded.trail.seeds],
    }
    if recorded.canaries is not None and full:
        evidence["canaries_key"] = recorded.canaries.key
    if recorded.trials is not None:
        evidence["seeds"] = [int(seed) for seed in recorded.trials.seeds]
    return LearningVerdict(outcome, decisive.reason, parts, evidence)


def _weigh(parts: Mapping[str, Verdict]) -> tuple[Outcome, Verdict]:
    """A or E fails: BROKEN. C or D fails: NOT_LEARNING. All pass: LEARNING. Else, also when B fails: INCONCLUSIVE."""
    for name in ("mechanism", "health"):
        if parts[name].ruling is FAIL:
            return Outcome.BROKEN, parts[name]
    failed = [parts[n] for n in ("paired_return", "controls") if n in parts and parts[n].ruling is FAIL]
    # Nothing was trained: then even a lucky or unlucky score says nothing about learning.
    if failed and parts["mechanism"].ruling is PASS:
        return Outcome.NOT_LEARNING, failed[0]
    # In order of what is said first; a failed canary speaks before whatever else only waits.
    open_ones = sorted(
        (p for p in parts.values() if p.ruling is not PASS), key=lambda p: p.ruling is not FAIL
    )
    if open_ones:
        return Outcome.INCONCLUSIVE, open_ones[0]
    return Outcome.LEARNING, parts["paired_return"]


def _alive(trail: Trail) -> dict[str, float]:
    """Largest gradient norms of the tensors that must be trained.

    The privileged critic counts as trainable only where simulated episodes were trained on.
    """
    return {
        name: norm
        for name, norm in trail.gradient.items()
        if trail.simulated or not name.startswith("privileged.")
    }


def judge_mechanism(recorded: Recorded) -> Verdict:
    """Weights moved in every update, every trainable tensor is alive, what was trained is what is judged, the worlds
    are other ones, and the calls that were looked at a second time did what they say.
    """
    trail = recorded.trail
    alive = _alive(trail)
    seen = 0 if recorded.trials is None else trail.trained_in(recorded.trials.seeds)
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
        "held_out_seeds_trained_on": seen,
        "calls_audited": trail.audits,
        "last_audited": trail.last_audit,
        "worst_error": dict(trail.worst),
        "audit_faults": list(trail.faults),
    }

    def ruled(ruling: Ruling, reason: str) -> Verdict:
        return Verdict(ruling, "mechanism", reason, numbers)

    if recorded.judged_hash != trail.actor_hash:
        return ruled(FAIL, "the weights that were judged are not the weights that were trained.")
    if recorded.played_hash is not None and recorded.played_hash != recorded.judged_hash:
        return ruled(FAIL, "the weights that played are not the weights that are judged.")
    if seen:
        return ruled(FAIL, f"{seen} of the held-out seeds are of worlds that were trained in.")
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
    if trail.faults:
        return ruled(FAIL, f"{trail.faults[0]}.")
    if recorded.depth is Depth.FULL and not trail.audits:
        return ruled(WAIT, "no training call of this phase was looked at a second time.")
    return ruled(
        PASS,
        f"{trail.updates} updates in {trail.calls} calls, each moved the weights, every tensor is alive; "
        f"{trail.audits} calls repeated by other means, none differs.",
    )


def judge_canaries(canaries: Canaries | None) -> Verdict:
    """PASS when every known answer was found often enough, FAIL when one was not, WAIT when none was asked."""
    if canaries is None:
        return Verdict(WAIT, "canaries", "no canaries were run for this configuration.")
    numbers = canaries.payload()
    failed = [result for result in canaries.results if not result.ok]
    if failed:
        one = failed[0]
        reason = f"{one.name}: {one.passed} of {one.seeds} seeds, {one.needed} needed ({one.asks})."
        return Verdict(FAIL, "canaries", reason, numbers)
    n = len(canaries.results)
    return Verdict(PASS, "canaries", f"all {n} known answers were found by the same code.", numbers)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A mean paired difference with its interval, and the bound it must exceed."""

    mean: float
    lower: float
    upper: float
    bound: float
    alpha: float


def judge_paired_return(trials: Trials, terms: Terms) -> Verdict:
    """PASS when every lower bound exceeds its requirement, FAIL when one upper bound cannot, else WAIT.

    alpha by Holm: all at alpha / k first; what is settled there leaves the rest more room, and so on.
    """
    rivals = dict(trials.references)
    bounds = {"pacer": terms.delta_min, "retuned": 0.0, "random": 0.0}
    if trials.promoted is not None:
        rivals["promoted"], bounds["promoted"] = trials.promoted, -terms.margin
    found: dict[str, Comparison] = {}
    left = list(rivals)
    while left:
        alpha = terms.alpha / len(left)
        found |= {name: _compare(trials.now - rivals[name], bounds[name], alpha, terms) for name in left}
        settled = [name for name in left if found[name].lower > found[name].bound]
        if not settled:
            break
        left = [name for name in left if name not in settled]
    clipped = max(
        float(np.mean((trials.now - scores < terms.low) | (trials.now - scores > terms.high)))
        for scores in rivals.values()
    )
    numbers: dict[str, object] = {
        "n": len(trials.seeds),
        "clipped_share": clipped,
        "comparisons": {name: asdict(found[name]) for name in rivals},
    }
    hopeless = [name for name in left if found[name].upper <= found[name].bound]
    if hopeless:
        return Verdict(
            FAIL, "paired_return", f"{_told(hopeless[0], found)}: it cannot exceed its bound.", numbers
        )
    if left:
        reason = f"{_told(left[0], found)}: {len(trials.seeds)} seeds do not settle it."
        return Verdict(WAIT, "paired_return", reason, numbers)
    return Verdict(PASS, "paired_return", f"{_told('pacer', found)}; every requirement is met.", numbers)


def _compare(difference: Scores, bound: float, alpha: float, terms: Terms) -> Comparison:
    clipped = np.clip(difference, terms.low, terms.high)
    interval = betting_interval(clipped, terms.low, terms.high, alpha)
    return Comparison(float(clipped.mean()), interval.lower, interval.upper, bound, alpha)


def _told(name: str, found: Mapping[str, Comparison]) -> str:
    c = found[name]
    return f"against {name} {c.mean:+.4f} [{c.lower:+.4f}, {c.upper:+.4f}], must exceed {c.bound:+g}"


def judge_controls(trials: Trials, reload: Reload | None, terms: Terms) -> Verdict:
    """D1 random walks, D2 the twin trained on shuffled rewards, D3 saved and loaded: all must hold; see each."""
    parts = {
        "random_walk": judge_random_walk(trials),
        "shuffled_twin": judge_twin(trials, terms),
        "reload": judge_reload(reload),
    }
    numbers = {
        name: {"ruling": part.ruling.name, "reason": part.reason, **part.evidence}
        for name, part in parts.items()
    }
    for ruling in (FAIL, WAIT):
        for part in parts.values():
            if part.ruling is ruling:
                return Verdict(ruling, "controls", part.reason, numbers)
    return Verdict(
        PASS, "controls", "; ".join(part.reason.rstrip(".") for part in parts.values()) + ".", numbers
    )


def judge_twin(trials: Trials, terms: Terms) -> Verdict:
    """The twin saw the same code, worlds and rewards, in the wrong order: what it earns is earned without learning."""
    if trials.twin is None:
        return Verdict(WAIT, "shuffled_twin", "no twin was trained on shuffled rewards.")
    found = _compare(trials.now - trials.twin, 0.0, terms.alpha, terms)
    told = f"against its twin on shuffled rewards {found.mean:+.4f} [{found.lower:+.4f}, {found.upper:+.4f}]"
    if found.lower > 0:
        return Verdict(PASS, "shuffled_twin", f"{told}.", asdict(found))
    ruling = FAIL if found.upper <= 0 else WAIT
    return Verdict(ruling, "shuffled_twin", f"{told}: it does not stand above it.", asdict(found))


def judge_reload(reload: Reload | None) -> Verdict:
    """The weights act the same after a round through bytes."""
    if reload is None or reload.asked == 0:
        return Verdict(WAIT, "reload", "the weights were not saved and loaded again.")
    numbers = asdict(reload)
    if reload.same != reload.asked:
        differs = reload.asked - reload.same
        return Verdict(
            FAIL, "reload", f"loaded again, it acts otherwise on {differs} of {reload.asked}.", numbers
        )
    return Verdict(
        PASS, "reload", f"loaded again, it acts the same on all {reload.asked} observations.", numbers
    )


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
    """19 sets of weights `start + u`, u as long in every tensor as `now - start`: 10 in a random direction, 9 with
    the elements of the learned step itself in random order.

    A step whose direction is random is exchangeable with either kind, so all 19 together still cost chance 1/20. The
    permuted ones keep what Adam makes of a step, a few large elements among many small ones; noise does not.
    """
    walks = []
    for number in range(WALKS):
        walk = {}
        for name, origin in start.items():
            begin = origin.astype(np.float64)
            step = now[name].astype(np.float64) - begin
            if number < ISOTROPIC:
                noise = rng.standard_normal(origin.shape)
                turned = noise * (np.linalg.norm(step) / np.linalg.norm(noise))
            else:
                turned = rng.permutation(step.ravel()).reshape(step.shape)
            walk[name] = (begin + turned).astype(np.float32)
        walks.append(walk)
    return walks


def shuffle_rewards(batch: EpisodeBatch, rng: np.random.Generator) -> EpisodeBatch:
    """The same episodes with rewards permuted over all valid transitions: nothing is left to learn."""
    host = batch.to_numpy()
    reward = host.reward.copy()
    reward[host.valid] = rng.permutation(reward[host.valid])
    return replace(host, reward=reward)
