"""Vital signs of training: what the metrics and the networks' activations show, and which of it is alarming.

Nothing here proves learning. A hard alert vetoes, for no score can be trusted then; the others stand in the
verdict for people to read. Thresholds are those of Sokar et al. (2023, dormant units), Kumar et al. (2021, effective
rank) and common practice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import jax
import numpy as np
from numpy.typing import NDArray

from gaelp.core.errors import BadInput
from gaelp.core.verdict import FAIL, PASS, Verdict
from gaelp.learn.metrics import TrainingMetrics, Units
from gaelp.learn.networks import Dueling, Layers
from gaelp.learn.policies import Categorical, Gaussian, Policy

QUIET_NORM, QUIET_CALLS = 1e-8, 20
"""A tensor whose gradient stays below this for so many calls in a row is dead."""
SPIKE = 100.0
"""A gradient this many times its running median is a spike."""
MEMORY = 31
"""Calls that the running median looks back."""
RATIO_LOW, RATIO_HIGH = 1e-6, 1e-1
"""Where the change of a tensor in one update, as a share of its norm, should lie."""
DORMANT, DORMANT_SHARE = 0.025, 0.25
"""A unit is dormant when its mean activation is below this share of its layer's; alarming above this share of units."""
RANK_MASS = 0.99
"""The effective rank is the number of singular values that make up this share of their sum."""
SAMPLE = 64
"""Observations that are looked at for the above, at most."""
UNEXPLAINED_CALLS = 10
"""Explained variance below 0 for so many calls in a row: the critic knows less than nothing."""
FAR_KL, FAR_CLIPPED = 0.1, 0.4
COLLAPSED = 0.05
"""Share of the largest entropy below which a policy has all but decided."""
EARLY_CALLS = 20
"""Within the first so many calls nothing can have been decided on good grounds."""
AT_BOUND = 0.95
"""Share of residuals at their bound from which a policy is stuck there."""
OVERVALUED = 0.5
"""Deviations of the return by which values may exceed what was then earned."""


def units(policy: Policy, observation: NDArray[np.floating]) -> Units:
    """Look at the hidden units of `policy` on raw observations [N, O]."""
    if observation.ndim != 2 or len(observation) == 0:
        raise BadInput(f"observations have shape {observation.shape}, expected (N, O) with N above 0.")
    layers: Layers = policy.actor.trunk if isinstance(policy.actor, Dueling) else policy.actor[:-1]
    squashing = isinstance(policy, Categorical | Gaussian)
    scaling = jax.tree.map(np.asarray, policy.scaling)
    # A few are enough for a rank of at most the layer's width, and the decomposition is what this costs.
    observation = observation[:: -(-len(observation) // SAMPLE)]
    x = np.clip((observation - scaling.mean) * scaling.factor, -10.0, 10.0).astype(np.float64)
    asleep = total = 0
    for layer in layers:
        x = x @ np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)
        x = np.tanh(x) if squashing else np.maximum(x, 0.0)
        activity = np.abs(x).mean(axis=0)
        asleep += int((activity <= DORMANT * activity.mean()).sum())
        total += activity.size
    values = np.linalg.svd(x, compute_uv=False)
    mass = np.cumsum(values)
    rank = int(np.searchsorted(mass, RANK_MASS * mass[-1]) + 1) if mass[-1] > 0 else 0
    return Units(dormant=asleep / total, rank=rank, width=x.shape[1])


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """A fold over the calls of a phase. Lists hold the newest MEMORY calls; counts are of calls in a row.

    quiet: by tensor. dormant, rank: at the first and at the last look. explained, value_bias: none where the
    algorithm does not tell them.
    """

    calls: int = 0
    entropy_shares: tuple[float, ...] = ()
    lowest_early_entropy: float = 1.0
    gradient_norms: tuple[float, ...] = ()
    largest_spike: float = 0.0
    quiet: Mapping[str, int] = field(default_factory=dict)
    longest_quiet: Mapping[str, int] = field(default_factory=dict)
    smallest_ratio: float = math.inf
    largest_ratio: float = 0.0
    unexplained: int = 0
    longest_unexplained: int = 0
    explained: float | None = None
    largest_kl: float = 0.0
    largest_clipped: float | None = None
    at_bound: float | None = None
    value_bias: tuple[float, ...] = ()
    dormant: tuple[float, ...] = ()
    rank: tuple[int, ...] = ()

    def after(self, call: TrainingMetrics, seen: Units | None) -> Vitals:
        """With one more call, and what its units looked like when it was audited."""
        norm = math.hypot(*call.gradient_norm_before.values())
        middle = float(np.median(self.gradient_norms)) if self.gradient_norms else norm
        quiet = {
            name: (self.quiet[name] + 1 if name in self.quiet else 1) if size < QUIET_NORM else 0
            for name, size in call.gradient_norm_before.items()
        }
        # Weights that were 0 have no size to compare with.
        ratios = [c.relative / call.updates for c in call.weight_change_by_tensor.values() if c.relative > 0]
        told = call.parts
        explained = told["explained_variance"] if "explained_variance" in told else None
        unexplained = self.unexplained + 1 if explained is not None and explained < 0 else 0
        clipped = self.largest_clipped
        if "clip_fraction" in told:
            clipped = max(told["clip_fraction"], 0.0 if clipped is None else clipped)
        share = call.entropy_share
        early = self.calls < EARLY_CALLS
        return replace(
            self,
            calls=self.calls + 1,
            entropy_shares=(*self.entropy_shares, share)[-MEMORY:],
            lowest_early_entropy=min(self.lowest_early_entropy, share)
            if early
            else self.lowest_early_entropy,
            gradient_norms=(*self.gradient_norms, norm)[-MEMORY:],
            largest_spike=max(self.largest_spike, norm / middle if middle > 0 else 0.0),
            quiet=quiet,
            longest_quiet={
                n: max(k, self.longest_quiet[n] if n in self.longest_quiet else 0) for n, k in quiet.items()
            },
            smallest_ratio=min([self.smallest_ratio, *ratios]),
            largest_ratio=max([self.largest_ratio, *ratios]),
            unexplained=unexplained,
            longest_unexplained=max(self.longest_unexplained, unexplained),
            explained=explained,
            largest_kl=max(self.largest_kl, call.approx_kl),
            largest_clipped=clipped,
            at_bound=told["at_bound"] if "at_bound" in told else None,
            value_bias=(*self.value_bias, told["q_bias"])[-MEMORY:] if "q_bias" in told else (),
            dormant=self.dormant if seen is None else (*self.dormant[:1], seen.dormant),
            rank=self.rank if seen is None else (*self.rank[:1], seen.rank),
        )

    @staticmethod
    def from_plain(told: Mapping[str, object]) -> Vitals:
        """From `asdict` by way of JSON, which knows no tuples."""
        return Vitals(**{name: tuple(x) if isinstance(x, list) else x for name, x in told.items()})  # type: ignore[arg-type]

    @property
    def falling(self) -> float:
        """Share of the calls remembered in which the entropy fell."""
        steps = np.diff(self.entropy_shares)
        return float((steps < 0).mean()) if steps.size else 0.0


def judge_health(vitals: Vitals, trained: frozenset[str]) -> Verdict:
    """FAIL on a hard alert; else PASS, with the alerts that annotate. trained: tensors that must be alive."""
    hard, soft = _hard(vitals, trained), _soft(vitals)
    told = {k: v for k, v in asdict(vitals).items() if k not in ("gradient_norms", "quiet", "longest_quiet")}
    told |= {"smallest_ratio": vitals.smallest_ratio if math.isfinite(vitals.smallest_ratio) else None}
    told |= {"entropy_shares": list(vitals.entropy_shares[:1] + vitals.entropy_shares[-1:])}
    told |= {name: list(told[name]) for name in ("value_bias", "dormant", "rank")}
    numbers: dict[str, object] = {"hard": hard, "alerts": soft, **told}
    if hard:
        return Verdict(FAIL, "health", f"{hard[0]}.", numbers)
    if soft:
        return Verdict(
            PASS, "health", f"nothing that vetoes; {len(soft)} to look at: {'; '.join(soft)}.", numbers
        )
    return Verdict(PASS, "health", f"{vitals.calls} calls without an alert.", numbers)


def _hard(v: Vitals, trained: frozenset[str]) -> list[str]:
    dead = sorted(n for n, calls in v.longest_quiet.items() if n in trained and calls >= QUIET_CALLS)
    alerts = (
        [f"the gradient of {', '.join(dead)} stayed below {QUIET_NORM:g} for {QUIET_CALLS} calls"]
        if dead
        else []
    )
    if not all(math.isfinite(x) for x in (*v.gradient_norms, *v.entropy_shares, v.largest_kl)):
        alerts.append("a gradient, an entropy or a divergence was not finite")
    return alerts


def _soft(v: Vitals) -> list[str]:
    alerts = []
    last = v.entropy_shares[-1] if v.entropy_shares else 1.0
    if v.lowest_early_entropy < COLLAPSED:
        alerts.append(
            f"the entropy fell to {v.lowest_early_entropy:.1%} of its largest within {EARLY_CALLS} calls"
        )
    if last < COLLAPSED and v.falling > 0.9:
        alerts.append(
            f"the entropy falls call by call and stands at {last:.1%} of its largest: stuck at a bound"
        )
    if v.at_bound is not None and v.at_bound > AT_BOUND:
        alerts.append(f"{v.at_bound:.0%} of the residuals stand at their bound")
    if v.largest_spike > SPIKE:
        alerts.append(f"a gradient was {v.largest_spike:.0f} times the running median")
    if v.smallest_ratio < RATIO_LOW or v.largest_ratio > RATIO_HIGH:
        alerts.append(
            f"updates changed tensors by {v.smallest_ratio:.2g} to {v.largest_ratio:.2g} of their size, "
            f"expected {RATIO_LOW:g} to {RATIO_HIGH:g}"
        )
    if v.longest_unexplained >= UNEXPLAINED_CALLS:
        alerts.append(f"the critic explained less than nothing for {v.longest_unexplained} calls in a row")
    if v.largest_kl > FAR_KL:
        alerts.append(f"a call moved the policy by {v.largest_kl:.2g} nats")
    if v.largest_clipped is not None and v.largest_clipped > FAR_CLIPPED:
        alerts.append(f"a call clipped {v.largest_clipped:.0%} of its ratios")
    if v.largest_clipped == 0.0:
        alerts.append("no ratio was ever clipped")
    if v.dormant and (v.dormant[-1] > DORMANT_SHARE or v.dormant[-1] > 2 * v.dormant[0] > 0):
        alerts.append(
            f"{v.dormant[-1]:.0%} of the hidden units are dormant, {v.dormant[0]:.0%} were at first"
        )
    if v.rank and v.rank[-1] < 0.5 * v.rank[0]:
        alerts.append(f"the effective rank fell from {v.rank[0]} to {v.rank[-1]}")
    if len(v.value_bias) > 1 and v.value_bias[-1] > OVERVALUED and v.value_bias[-1] > v.value_bias[0]:
        alerts.append(f"values exceed returns by {v.value_bias[-1]:.2g} deviations, and more than before")
    return alerts
