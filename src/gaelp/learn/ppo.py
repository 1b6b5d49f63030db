"""PPO over masked joint moves, on episodes of its own or of any logged policy; read from top to bottom.

There is one path. `pi_prox` is the policy when the call begins, `mu` the policy that was logged:

    loss = E[ min(rho_bar, pi_prox / mu)  min(u A, clip(u, 1 - clip, 1 + clip) A) ],   u = pi / pi_prox

with A by V-trace. For episodes of the current policy pi_prox / mu is 1 and this is plain PPO with GAE.
Source: Schulman et al. (2017); Hilton, Cobbe and Schulman (2021), decoupled PPO; Espeholt et al. (2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from gaelp.core.errors import BadInput
from gaelp.core.schema import Schema
from gaelp.learn import distributions as dist
from gaelp.learn.networks import Agent, Layers, Policy, forward, fresh_agent
from gaelp.learn.normalise import Normaliser
from gaelp.learn.returns import vtrace


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """The settings of PPO, with the contract's defaults; checked at birth.

    reward_scale: multiplies rewards before anything else, so that the critic works near unit size.
    rho_bar: where pi_prox / mu is truncated, 1 to 2; a finite bound is a deliberate bias, and its size
    is reported. anchor_kl: weight of KL(policy || anchor) when an anchor is given. min_ess: smallest
    effective share of logged or live transitions. target_kl: a call stops early once a minibatch has
    moved 1.5 times as far; None never stops. zero_bias: head start of the zero move, in logits.
    """

    learning_rate: float = 3e-4
    clip: float = 0.2
    gamma: float = 1.0
    gae_lambda: float = 0.95
    entropy: float = 0.0
    value_coef: float = 0.5
    max_grad_norm: float = 0.5
    reward_scale: float = 20.0
    hidden: tuple[int, ...] = (64, 64)
    zero_bias: float = 1.0
    rho_bar: float = 1.0
    target_kl: float | None = None
    anchor_kl: float = 0.0
    min_ess: float = 0.3

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "learning_rate": (0.0, 1.0), "clip": (1e-6, 1.0), "gamma": (0.0, 1.0), "gae_lambda": (0.0, 1.0),
            "entropy": (0.0, 10.0), "value_coef": (0.0, 100.0), "max_grad_norm": (1e-9, math.inf),
            "reward_scale": (1e-9, 1e9), "zero_bias": (0.0, 20.0), "rho_bar": (1.0, 2.0),
            "anchor_kl": (0.0, 1e3), "min_ess": (0.0, 1.0),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise BadInput(f"{name} is {getattr(self, name)}, expected {low:g} to {high:g}.")
        if self.target_kl is not None and not self.target_kl > 0:
            raise BadInput(f"target_kl is {self.target_kl}, expected above 0, or none to never stop early.")
        if not self.hidden or min(self.hidden) < 1:
            raise BadInput(f"hidden is {self.hidden}, expected at least one layer of at least one unit.")


class Coefficients(eqx.Module):
    """The numbers of a PPOConfig as arrays: another learning rate must not mean another compilation."""

    learning_rate: Array
    clip: Array
    gamma: Array
    gae_lambda: Array
    entropy: Array
    value_coef: Array
    max_grad_norm: Array
    reward_scale: Array
    rho_bar: Array
    target_kl: Array
    anchor_kl: Array
    min_ess: Array


def coefficients(config: PPOConfig) -> Coefficients:
    """The config as arrays; `target_kl=None` becomes infinity."""
    numbers = {f.name: getattr(config, f.name) for f in fields(Coefficients)}
    numbers["target_kl"] = math.inf if config.target_kl is None else config.target_kl
    return Coefficients(**{name: jnp.asarray(number, jnp.float32) for name, number in numbers.items()})


class AgentState(eqx.Module):
    """All that training carries from call to call: one pytree of plain arrays, saved and restored whole.

    optimiser: Adam's moments over all weights as one vector. key: the raw data of the random key.
    updates: gradient steps so far; calls: training calls so far.
    """

    agent: Agent
    normaliser: Normaliser
    optimiser: optax.ScaleByAdamState
    key: Array
    updates: Array
    calls: Array

    @property
    def policy(self) -> Policy:
        """What plays."""
        return Policy(self.agent.actor, self.normaliser.observation)


class Experience(eqx.Module):
    """Episodes as `update` takes them: the arrays of an EpisodeBatch, padded to a bucket of episodes.

    simulated[B]: the hidden truth is real, so the privileged critic judges. claimed[B]: provenance says
    that exactly these weights played, so the logged log-probabilities must be theirs.
    """

    observation: Array
    mask: Array
    action: Array
    log_prob: Array
    reward: Array
    end: Array
    valid: Array
    weight: Array
    hidden: Array
    simulated: Array
    claimed: Array


SCALARS = (
    "loss", "policy_loss", "value_loss", "privileged_value_loss", "entropy", "entropy_share", "anchor_kl",
    "approx_kl", "clip_fraction", "explained_variance", "effective_sample_share", "clipped_mass",
    "false_claim", "min_update_change", "updates",
)  # fmt: skip
PARTS = SCALARS[:9]
"""The scalars that each gradient step adds to; the report gives their means over the steps."""

PER_TENSOR = ("gradient_norm_before", "gradient_norm_after", "weight_change", "weight_norm")


class Report(eqx.Module):
    """What a call measured, in two arrays so that it is fetched at once: scalars [15] in the order of
    SCALARS, per_tensor [4, K] in that of PER_TENSOR, with one column for each tensor of the agent."""

    scalars: Array
    per_tensor: Array


def optimiser() -> optax.GradientTransformation:
    """Adam's direction; the learning rate is applied in `update`, where it is an argument."""
    return optax.scale_by_adam(eps=1e-5)


def init(
    config: PPOConfig, schema: Schema, hidden_width: int, key: Array, normaliser: Normaliser
) -> AgentState:
    """An untrained agent: its mode is the zero move everywhere, so it is the certified pacer.

    hidden_width: H, the numbers a privileged critic sees beyond the observation; 0 where there are none.
    """
    for name, scaling, width in (
        ("observation", normaliser.observation, schema.observation_size),
        ("hidden", normaliser.hidden, hidden_width),
    ):
        if scaling.mean.shape != (width,):
            raise BadInput(f"normaliser: {name} has width {scaling.mean.shape[0]}, expected {width}.")
    for_weights, for_training = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(for_weights)))
    agent = fresh_agent(
        schema, hidden=config.hidden, hidden_width=hidden_width, zero_bias=config.zero_bias, rng=rng
    )
    none = jnp.zeros((), jnp.int32)
    moments = optimiser().init(_flat(agent))
    return AgentState(agent, normaliser, moments, jax.random.key_data(for_training), none, none)


class Choice(NamedTuple):
    """action [...] int32 and its log_prob [...] under the policy that chose it."""

    action: Array
    log_prob: Array


def act(policy: Policy, observation: Array, mask: Array, key: Array) -> Choice:
    """Sample moves for observations [..., O] under masks [..., A]; log_prob is what must be logged."""
    log_probs = dist.log_probabilities(policy.logits(observation), mask)
    action = dist.sample(log_probs, jax.random.uniform(key, log_probs.shape[:-1]))
    return Choice(action, dist.log_prob_of(log_probs, action))


def act_mode(policy: Policy, observation: Array, mask: Array) -> Choice:
    """The most likely moves, which is what is judged and what an untrained agent leaves at zero."""
    log_probs = dist.log_probabilities(policy.logits(observation), mask)
    action = dist.mode(log_probs)
    return Choice(action, dist.log_prob_of(log_probs, action))


@partial(jax.jit, static_argnames="width")
def update(
    state: AgentState,
    experience: Experience,
    anchor: Policy,
    coefficients: Coefficients,
    num_epochs: Array,
    batch_size: Array,
    *,
    width: int,
) -> tuple[AgentState, Report]:
    """One training call: num_epochs x ceil(valid transitions / batch_size) gradient steps.

    Compiles once per (padded shapes, width). How many episodes are valid, how many epochs are taken and the
    minibatch's size, at most `width`, are data: the phases' cadences then share one program. The caller
    refuses the result, and keeps the old state, when the report shows an effective sample too small, a
    false claim or a number that is not finite.
    """
    rows, judged = _judge(state, experience, anchor, coefficients)
    key, shuffling = jax.random.split(jax.random.wrap_key_data(state.key))
    count = jnp.sum(rows.valid)
    minibatches = (count + batch_size - 1) // batch_size

    def epoch(run: _Run) -> _Run:
        noise = jax.random.bits(jax.random.fold_in(shuffling, run.epoch), rows.valid.shape)
        # Valid rows first, in random order; the tail keeps every slice below inside the array.
        order = jnp.pad(jnp.lexsort((noise, ~rows.valid)), (0, width))

        def minibatch(run: _Run) -> _Run:
            # Sizes differ by at most one: a last minibatch of one transition would be all noise.
            first = run.minibatch * count // minibatches
            size = (run.minibatch + 1) * count // minibatches - first
            chosen = jax.lax.dynamic_slice(order, (first,), (width,))
            part = replace(jax.tree.map(lambda x: x[chosen], rows), valid=jnp.arange(width) < size)
            return _gradient_step(run, part, state.agent, coefficients)

        def more(run: _Run) -> Array:
            return (run.minibatch < minibatches) & ~run.stopped

        done = jax.lax.while_loop(more, minibatch, replace(run, minibatch=jnp.zeros_like(count)))
        return replace(done, epoch=done.epoch + 1)

    run = jax.lax.while_loop(lambda r: (r.epoch < num_epochs) & ~r.stopped, epoch, _Run.begin(state))
    run = _kept(state, run, jnp.any(rows.valid & rows.simulated))
    trained = AgentState(
        _shaped(run.weights, state.agent), state.normaliser, run.moments, jax.random.key_data(key),
        state.updates + run.tally.updates, state.calls + 1,
    )  # fmt: skip
    return trained, _report(state, trained, run, judged)


class _Rows(eqx.Module):
    """Transitions [N, ...] with all that stays fixed while the call steps over them."""

    observation: Array
    hidden: Array
    mask: Array
    action: Array
    prox_log_prob: Array
    anchor_log_probs: Array
    importance: Array
    advantage: Array
    target: Array
    weight: Array
    simulated: Array
    valid: Array


def _judge(state: AgentState, played: Experience, anchor: Policy, c: Coefficients) -> tuple[_Rows, Array]:
    """Weigh and value every transition by the policy and the critics as they are when the call begins.

    Beside the rows: explained variance, effective sample share, clipped mass and false claim.
    """
    observation = state.normaliser.observation(played.observation)
    hidden = state.normaliser.hidden(played.hidden)
    prox = dist.log_probabilities(forward(state.agent.actor, observation[:, :-1]), played.mask[:, :-1])
    anchored = dist.log_probabilities(anchor.logits(played.observation[:, :-1]), played.mask[:, :-1])
    prox_log_prob = dist.log_prob_of(prox, played.action)

    plain = forward(state.agent.critic, observation)[..., 0]
    privileged = forward(state.agent.privileged, jnp.concatenate([observation, hidden], -1))[..., 0]
    value = jnp.where(played.simulated[:, None], privileged, plain)
    ratio = jnp.exp(jnp.where(played.valid, prox_log_prob - played.log_prob, 0.0))
    found = vtrace(
        played.reward * c.reward_scale, value, played.end, played.valid, ratio,
        gamma=c.gamma, lam=c.gae_lambda, rho_bar=c.rho_bar,
    )  # fmt: skip

    simulated = jnp.broadcast_to(played.simulated[:, None], played.valid.shape)
    weight = jnp.broadcast_to(played.weight[:, None], played.valid.shape)
    foreign = jnp.where(jnp.any(played.valid & ~simulated), played.valid & ~simulated, played.valid)
    kept = jnp.minimum(ratio, c.rho_bar)
    claims = played.valid & played.claimed[:, None]
    judged = jnp.stack([
        _explained(found.target, value[:, :-1], played.valid),
        jnp.sum(ratio * foreign) ** 2 / (jnp.sum(ratio**2 * foreign) * jnp.sum(foreign)),
        1.0 - jnp.sum(kept * played.valid) / jnp.sum(ratio * played.valid),
        jnp.max(jnp.where(claims, jnp.abs(prox_log_prob - played.log_prob), 0.0)),
    ])  # fmt: skip
    rows = _Rows(
        observation=observation[:, :-1], hidden=hidden[:, :-1], mask=played.mask[:, :-1], action=played.action,
        prox_log_prob=prox_log_prob, anchor_log_probs=anchored, importance=kept,
        advantage=_standardised(found.advantage, weight, played.valid, simulated), target=found.target,
        weight=weight, simulated=simulated, valid=played.valid,
    )  # fmt: skip
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows), judged


def _explained(target: Array, value: Array, valid: Array) -> Array:
    """1 - Var(target - value) / Var(target) over valid transitions; 0 when the target does not vary."""
    left, whole = jnp.var(target - value, where=valid), jnp.var(target, where=valid)
    return jnp.where(whole > 0, 1.0 - left / jnp.where(whole > 0, whole, 1.0), 0.0)


def _standardised(advantage: Array, weight: Array, valid: Array, simulated: Array) -> Array:
    """Advantages to mean 0 and deviation 1 by weight, apart for simulated transitions and for all others.

    Apart, because a few real transitions of another size would else vanish beside many simulated ones.
    """
    whole = jnp.zeros_like(advantage)
    for group in (valid & simulated, valid & ~simulated):
        share = weight * group / jnp.maximum(jnp.sum(weight * group), 1e-12)
        centred = advantage - jnp.sum(share * advantage)
        whole = jnp.where(group, centred / (jnp.sqrt(jnp.sum(share * centred**2)) + 1e-8), whole)
    return whole


class _Tally(eqx.Module):
    """Sums over the gradient steps of a call."""

    parts: Array
    norms: Array
    min_change: Array
    updates: Array


class _Run(eqx.Module):
    """What one gradient step hands to the next; `weights` is the whole agent as one vector."""

    weights: Array
    moments: optax.ScaleByAdamState
    tally: _Tally
    epoch: Array
    minibatch: Array
    stopped: Array

    @staticmethod
    def begin(state: AgentState) -> _Run:
        none = jnp.zeros((), jnp.int32)
        norms = jnp.zeros((2, len(jax.tree.leaves(state.agent))))
        tally = _Tally(jnp.zeros(len(PARTS)), norms, jnp.full((), jnp.inf), none)
        return _Run(_flat(state.agent), state.optimiser, tally, none, none, jnp.zeros((), bool))


def _loss(agent: Agent, rows: _Rows, c: Coefficients) -> tuple[Array, Array]:
    """The loss over one minibatch, and PARTS. Means are over present rows, by fixed episode weights.

    The divisor is the number of rows and not the sum of their weights: a self-normalised mean would
    undo a little of every Horvitz-Thompson weight.
    """
    share = rows.valid / jnp.maximum(jnp.sum(rows.valid), 1)
    log_probs = dist.log_probabilities(forward(agent.actor, rows.observation), rows.mask)
    log_u = dist.log_prob_of(log_probs, rows.action) - rows.prox_log_prob
    u = jnp.exp(jnp.where(rows.valid, log_u, 0.0))
    clipped = jnp.clip(u, 1.0 - c.clip, 1.0 + c.clip)
    gain = rows.importance * jnp.minimum(u * rows.advantage, clipped * rows.advantage)
    entropy = dist.entropy(log_probs, rows.mask)

    value = forward(agent.critic, rows.observation)[:, 0]
    both = jnp.concatenate([rows.observation, rows.hidden], -1)
    privileged = forward(agent.privileged, both)[:, 0]
    # Means by one small matrix product each: a dozen separate sums are a dozen kernels to launch.
    losses = [-gain, (value - rows.target) ** 2, rows.simulated * (privileged - rows.target) ** 2]
    pull = dist.kl(log_probs, rows.anchor_log_probs, rows.mask)
    means = jnp.stack([*losses, pull, entropy]) @ (share * rows.weight)
    loss = means @ jnp.stack([jnp.ones(()), c.value_coef, c.value_coef, c.anchor_kl, -c.entropy])
    kl_of_move = (u - 1.0) - jnp.where(rows.valid, log_u, 0.0)
    far = jnp.abs(u - 1.0) > c.clip
    seen = jnp.stack([entropy, dist.largest_entropy(rows.mask), kl_of_move, far]) @ share
    entropy_share = seen[0] / jnp.where(seen[1] > 0, seen[1], 1.0)
    told = [loss, *means[:3], seen[0], entropy_share, means[3], *seen[2:]]
    return loss, jnp.stack(told)


def _gradient_step(run: _Run, rows: _Rows, whole: Agent, c: Coefficients) -> _Run:
    """One step of Adam. `whole` gives the shapes only.

    Adam runs on one flat vector: tensor by tensor it would be twice as many kernels to compile and launch.
    """
    gradient, parts = jax.grad(_loss, has_aux=True)(_shaped(run.weights, whole), rows, c)
    networks = (gradient.actor, gradient.critic, gradient.privileged)
    norms = [jnp.sqrt(jnp.stack([jnp.sum(g * g) for g in jax.tree.leaves(net)])) for net in networks]
    # Each network by its own norm: a critic that is far off must not shrink the actor's step.
    factors = [jnp.minimum(1.0, c.max_grad_norm / jnp.maximum(jnp.linalg.norm(n), 1e-15)) for n in norms]
    ends = np.cumsum([_flat(net).size for net in networks])
    at = jnp.arange(ends[2])
    factor = jnp.where(at < ends[0], factors[0], jnp.where(at < ends[1], factors[1], factors[2]))
    direction, moments = optimiser().update(_flat(gradient) * factor, run.moments)
    change = -c.learning_rate * direction
    after_clipping = [n * f for n, f in zip(norms, factors, strict=True)]
    tally = _Tally(
        parts=run.tally.parts + parts,
        norms=run.tally.norms + jnp.stack([jnp.concatenate(norms), jnp.concatenate(after_clipping)]),
        min_change=jnp.minimum(run.tally.min_change, jnp.linalg.norm(change)),
        updates=run.tally.updates + 1,
    )
    stopped = parts[PARTS.index("approx_kl")] > 1.5 * c.target_kl
    return _Run(run.weights + change, moments, tally, run.epoch, run.minibatch + 1, stopped)


def _flat(tree: Agent | Layers | tuple[Layers, ...]) -> Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def _shaped(flat: Array, like: Agent) -> Agent:
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [flat[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(structure, parts)


def _kept(state: AgentState, run: _Run, simulated: Array) -> _Run:
    """What the call leaves behind. Without simulated rows the privileged critic has had no gradient, and
    Adam's momentum alone must not move it: it stays as it was, moments included."""
    apart = _flat((state.agent.actor, state.agent.critic)).size
    # The agent's fields are flattened in the order they are declared: the privileged critic is the tail.
    keep = simulated | (jnp.arange(run.weights.size) < apart)
    old = state.optimiser
    mu, nu = jnp.where(keep, run.moments.mu, old.mu), jnp.where(keep, run.moments.nu, old.nu)
    return replace(
        run,
        weights=jnp.where(keep, run.weights, _flat(state.agent)),
        moments=optax.ScaleByAdamState(run.moments.count, mu, nu),
    )


def _report(before: AgentState, after: AgentState, run: _Run, judged: Array) -> Report:
    steps = jnp.maximum(run.tally.updates, 1)
    ends = jnp.stack([run.tally.min_change, run.tally.updates.astype(jnp.float32)])
    moved = jax.tree.map(jnp.subtract, after.agent, before.agent)
    squares = [jnp.sum(x * x) for tree in (moved, before.agent) for x in jax.tree.leaves(tree)]
    return Report(
        scalars=jnp.concatenate([run.tally.parts / steps, judged, ends]),
        per_tensor=jnp.concatenate([run.tally.norms / steps, jnp.sqrt(jnp.stack(squares)).reshape(2, -1)]),
    )
