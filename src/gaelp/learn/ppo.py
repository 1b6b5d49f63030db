"""PPO over masked joint moves or residuals, on episodes of its own or of any logged policy; read top to bottom.

There is one path. `pi_prox` is the policy when the call begins, `mu` the policy that was logged:

    loss = E[ min(rho_bar, pi_prox / mu)  min(u A, clip(u, 1 - clip, 1 + clip) A) ],   u = pi / pi_prox

with A by V-trace. For episodes of the current policy pi_prox / mu is 1 and this is plain PPO with GAE.
Source: Schulman et al. (2017); Hilton, Cobbe and Schulman (2021), decoupled PPO; Espeholt et al. (2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from gaelp.core.errors import BadInput
from gaelp.core.schema import Actions, AgentSchema
from gaelp.learn import distributions as dist
from gaelp.learn.descent import descend
from gaelp.learn.experience import Experience, Report
from gaelp.learn.networks import OUTPUT_SCALE, Layer, Layers, forward, stack
from gaelp.learn.normalise import Moments, Normaliser, Scaling, require_widths
from gaelp.learn.policies import Categorical, Gaussian, Policy, SquashedGaussian, gaussian_log_prob
from gaelp.learn.returns import vtrace


class Standardise(StrEnum):
    """Over what advantages get mean 0 and deviation 1.

    BATCH: the whole call, simulated transitions and all others apart; a minibatch of 16 live transitions
    says too little about its own mean. MINIBATCH: each minibatch by itself, as most libraries do.
    """

    BATCH = "batch"
    MINIBATCH = "minibatch"


class Statistics(StrEnum):
    """Whether the scaling of observations and rewards is FIXED from the start or RUNNING with the training.

    RUNNING: after each call both follow all that was seen so far; they are part of the state, and the
    scaling of the observation is part of what plays.
    """

    FIXED = "fixed"
    RUNNING = "running"


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """The settings of PPO, with the contract's defaults; checked at birth.

    reward_scale: multiplies rewards before anything else, so that the critic works near unit size.
    rho_bar: where pi_prox / mu is truncated, 1 to 2; a finite bound is a deliberate bias, and its size
    is reported. anchor_kl: weight of KL(policy || anchor) when an anchor is given. min_ess: smallest
    effective share of logged or live transitions. target_kl: a call stops early once a minibatch has
    moved 1.5 times as far; None never stops. zero_bias: head start of the zero move, in logits.

    learning_rate_final, entropy_final: reached linearly after `anneal_updates` gradient steps; None stays.
    entropy_target: holds the entropy there by moving its weight by a factor of exp(entropy_rate x shortfall)
    a call; for moves a share of the largest entropy, for residuals nats per active dimension; None leaves
    the weight to its schedule. log_std: the initial log deviation of residuals, in their own unit.
    """

    learning_rate: float = 3e-4
    learning_rate_final: float | None = None
    clip: float = 0.2
    gamma: float = 1.0
    gae_lambda: float = 0.95
    entropy: float = 0.0
    entropy_final: float | None = None
    entropy_target: float | None = None
    entropy_rate: float = 0.1
    anneal_updates: int = 1
    value_coef: float = 0.5
    max_grad_norm: float = 0.5
    reward_scale: float = 20.0
    hidden: tuple[int, ...] = (64, 64)
    zero_bias: float = 1.0
    log_std: float = 0.0
    rho_bar: float = 1.0
    target_kl: float | None = None
    anchor_kl: float = 0.0
    min_ess: float = 0.3
    standardise: Standardise = Standardise.BATCH
    statistics: Statistics = Statistics.FIXED

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "learning_rate": (0.0, 1.0), "clip": (1e-6, 1.0), "gamma": (0.0, 1.0), "gae_lambda": (0.0, 1.0),
            "entropy": (0.0, 10.0), "entropy_rate": (0.0, 10.0), "anneal_updates": (1, 2**31 - 1),
            "value_coef": (0.0, 100.0), "max_grad_norm": (1e-9, math.inf), "reward_scale": (1e-9, 1e9),
            "zero_bias": (0.0, 20.0), "log_std": (-20.0, 2.0), "rho_bar": (1.0, 2.0),
            "anchor_kl": (0.0, 1e3), "min_ess": (0.0, 1.0),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise BadInput(f"{name} is {getattr(self, name)}, expected {low:g} to {high:g}.")
        for name, (low, high) in {"learning_rate_final": (0.0, 1.0), "entropy_final": (0.0, 10.0),
                                  "entropy_target": (-20.0, 20.0)}.items():  # fmt: skip
            if getattr(self, name) is not None and not low <= getattr(self, name) <= high:
                raise BadInput(f"{name} is {getattr(self, name)}, expected {low:g} to {high:g}, or none.")
        if self.target_kl is not None and not self.target_kl > 0:
            raise BadInput(f"target_kl is {self.target_kl}, expected above 0, or none to never stop early.")
        if not self.hidden or min(self.hidden) < 1:
            raise BadInput(f"hidden is {self.hidden}, expected at least one layer of at least one unit.")


class Coefficients(eqx.Module):
    """The numbers of a PPOConfig as arrays: another learning rate must not mean another compilation."""

    learning_rate: Array
    learning_rate_final: Array
    clip: Array
    gamma: Array
    gae_lambda: Array
    entropy: Array
    entropy_final: Array
    entropy_target: Array
    entropy_rate: Array
    anneal_updates: Array
    value_coef: Array
    max_grad_norm: Array
    reward_scale: Array
    rho_bar: Array
    target_kl: Array
    anchor_kl: Array
    min_ess: Array
    by_minibatch: Array
    running: Array


def coefficients(config: PPOConfig) -> Coefficients:
    """The config as arrays; without a target the KL's is infinite and the entropy's is NaN."""
    numbers = {f.name: getattr(config, f.name) for f in fields(PPOConfig) if f.type == "float"}
    for name in ("learning_rate", "entropy"):
        final = getattr(config, f"{name}_final")
        numbers[f"{name}_final"] = numbers[name] if final is None else final
    numbers |= {
        "entropy_target": math.nan if config.entropy_target is None else config.entropy_target,
        "anneal_updates": config.anneal_updates,
        "target_kl": math.inf if config.target_kl is None else config.target_kl,
        "by_minibatch": config.standardise is Standardise.MINIBATCH,
        "running": config.statistics is Statistics.RUNNING,
    }
    return Coefficients(**{f.name: jnp.asarray(numbers[f.name], jnp.float32) for f in fields(Coefficients)})


class Agent(eqx.Module):
    """Everything that is trained.

    log_std [A]: of residuals; none for moves. critic: value of the observation; it serves every phase.
    privileged: value of observation and the simulator's hidden truth together, for the advantages of
    simulated episodes only; none where nothing is hidden (H = 0).
    """

    actor: Layers
    log_std: Array | None
    critic: Layers
    privileged: Layers | None


NETWORKS = (("actor", "log_std"), ("critic",), ("privileged",))
"""Fields of Agent whose gradients are clipped together, by their own norm."""


class AgentState(eqx.Module):
    """All that training carries from call to call: one pytree of plain arrays, saved and restored whole.

    optimiser: Adam's moments over all weights as one vector. observed [O], returned []: running moments of
    observations and of the critic's targets. entropy_coef: the weight that holds the entropy at its target.
    bound: of residuals. key: the raw data of the random key. updates: gradient steps so far; calls:
    training calls so far.
    """

    agent: Agent
    normaliser: Normaliser
    observed: Moments
    returned: Moments
    entropy_coef: Array
    bound: Array
    optimiser: optax.ScaleByAdamState
    key: Array
    updates: Array
    calls: Array

    @property
    def policy(self) -> Policy:
        """What plays."""
        scaling = self.normaliser.observation
        if self.agent.log_std is None:
            return Categorical(self.agent.actor, scaling)
        return Gaussian(self.agent.actor, self.agent.log_std, scaling, self.bound)


SCALARS = (
    "loss", "policy_loss", "value_loss", "privileged_value_loss", "entropy", "entropy_share", "anchor_kl",
    "approx_kl", "clip_fraction", "at_bound", "explained_variance", "effective_sample_share", "clipped_mass",
    "false_claim", "entropy_coef", "min_update_change", "updates",
)  # fmt: skip
PARTS = SCALARS[:10]
"""The scalars that each gradient step adds to; the report gives their means over the steps. anchor_kl: 0 where its
weight is 0."""


def optimiser() -> optax.GradientTransformation:
    """Adam's direction; the learning rate is applied in `update`, where it is an argument."""
    return optax.scale_by_adam(eps=ADAM_EPS)


ADAM_EPS = 1e-5


def init(
    config: PPOConfig, schema: AgentSchema, hidden_width: int, key: Array, normaliser: Normaliser
) -> AgentState:
    """An untrained agent: where the schema has a zero move its mode is that move, else residuals are about 0.

    hidden_width: H, the numbers a privileged critic sees beyond the observation; 0 where there are none.
    Orthogonal weights, drawn from `key`.
    """
    require_widths(normaliser, schema.observation_size, hidden_width)
    for_weights, for_training = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(for_weights)))
    inputs, outputs = schema.observation_size, schema.action_size
    # Without a zero move there is no pacer to begin as, and the usual small first policy explores best.
    scale = 0.01 if schema.zero_move is None and schema.actions is Actions.MOVES else OUTPUT_SCALE
    actor = stack(rng, (inputs, *config.hidden, outputs), scale)
    if schema.zero_move is not None:
        bias = actor[-1].bias.at[schema.zero_move].set(config.zero_bias)
        actor = (*actor[:-1], Layer(actor[-1].weight, bias))
    critic = stack(rng, (inputs, *config.hidden, 1), 1.0)
    privileged = stack(rng, (inputs + hidden_width, *config.hidden, 1), 1.0) if hidden_width else None
    log_std = jnp.full(outputs, config.log_std) if schema.actions is Actions.RESIDUALS else None
    agent = Agent(actor, log_std, critic, privileged)
    none = jnp.zeros((), jnp.int32)
    return AgentState(
        agent, normaliser, Moments.none(inputs), Moments.none(1), jnp.asarray(config.entropy, jnp.float32),
        jnp.asarray(schema.bound, jnp.float32), optimiser().init(_flat(agent)),
        jax.random.key_data(for_training), none, none,
    )  # fmt: skip


@partial(jax.jit, static_argnames="width")
def update(
    state: AgentState,
    experience: Experience,
    anchor: Policy,
    coefficients: Coefficients,
    num_epochs: Array,
    batch_size: Array,
    limit: Array,
    *,
    width: int,
) -> tuple[AgentState, Report]:
    """One training call: num_epochs x ceil(valid transitions / batch_size) gradient steps, at most `limit`.

    Compiles once per (padded shapes, width). How many episodes are valid, how many epochs are taken and the
    minibatch's size, at most `width`, are data: the phases' cadences then share one program. The caller
    refuses the result, and keeps the old state, when the report shows an effective sample too small, a
    false claim or a number that is not finite.
    """
    c = in_force(coefficients, state)
    found = _judge(state, experience, anchor, c)
    key, shuffling = jax.random.split(jax.random.wrap_key_data(state.key))
    count = jnp.sum(found.rows.valid)
    minibatches = (count + batch_size - 1) // batch_size

    def epoch(run: _Run) -> _Run:
        order = _order(found.rows, shuffling, run.epoch, width)

        def minibatch(run: _Run) -> _Run:
            part = _minibatch(found.rows, order, run.minibatch, count, minibatches, width)
            return _gradient_step(run, part, state.agent, c)

        def more(run: _Run) -> Array:
            return (run.minibatch < minibatches) & ~run.stopped & (run.tally.updates < limit)

        done = jax.lax.while_loop(more, minibatch, replace(run, minibatch=jnp.zeros_like(count)))
        return replace(done, epoch=done.epoch + 1)

    def unfinished(run: _Run) -> Array:
        return (run.epoch < num_epochs) & ~run.stopped & (run.tally.updates < limit)

    run = jax.lax.while_loop(unfinished, epoch, _Run.begin(state))
    run = _kept(state, run, jnp.any(found.rows.valid & found.rows.simulated))
    trained = _after(state, experience, found, run, c, jax.random.key_data(key))
    return trained, _report(state, trained, run, found.told)


@partial(jax.jit, static_argnames="width")
def first_minibatch(
    state: AgentState,
    experience: Experience,
    anchor: Policy,
    coefficients: Coefficients,
    num_epochs: Array,
    batch_size: Array,
    *,
    width: int,
) -> _Rows:
    """The rows of the first gradient step that `update` would take from the same arguments."""
    rows = _judge(state, experience, anchor, in_force(coefficients, state)).rows
    _, shuffling = jax.random.split(jax.random.wrap_key_data(state.key))
    count = jnp.sum(rows.valid)
    order = _order(rows, shuffling, jnp.zeros((), jnp.int32), width)
    return _minibatch(
        rows, order, jnp.zeros_like(count), count, (count + batch_size - 1) // batch_size, width
    )


def in_force(c: Coefficients, state: AgentState) -> Coefficients:
    """The coefficients as they stand at this call: schedules advanced, the entropy's weight in force."""
    done = jnp.minimum(state.updates / c.anneal_updates, 1.0)
    scheduled = c.entropy + done * (c.entropy_final - c.entropy)
    return replace(
        c,
        learning_rate=c.learning_rate + done * (c.learning_rate_final - c.learning_rate),
        entropy=jnp.where(jnp.isnan(c.entropy_target), scheduled, state.entropy_coef),
    )


class _Rows(eqx.Module):
    """Transitions [N, ...] with all that stays fixed while the call steps over them.

    anchor: the anchor's log-probabilities [N, A], or its means and log deviations [N, 2A].
    """

    observation: Array
    hidden: Array
    mask: Array
    action: Array
    prox_log_prob: Array
    anchor: Array
    importance: Array
    advantage: Array
    target: Array
    weight: Array
    simulated: Array
    bound: Array
    valid: Array


class _Found(eqx.Module):
    """What judging the experience gave: rows, targets [B,T] in reward units, and the scalars told of it."""

    rows: _Rows
    target: Array
    told: Array


def _order(rows: _Rows, shuffling: Array, epoch: Array, width: int) -> Array:
    """Valid rows first, in random order; the tail keeps every slice below inside the array."""
    n = rows.valid.size
    noise = jax.random.bits(jax.random.fold_in(shuffling, epoch), (n,))
    number = jnp.uint32((1 << n.bit_length()) - 1)
    # Padding in the first bit, the row's number in the last ones: one word to sort is 30 times as fast as two.
    # Rows whose noise before that is the same stay in order, one pair in 2^20 where there are 2,048 rows.
    word = (jnp.uint32(1 << 31) * ~rows.valid) | ((noise >> 1) & ~number) | jnp.arange(n, dtype=jnp.uint32)
    return jnp.pad((jax.lax.sort(word, is_stable=False) & number).astype(jnp.int32), (0, width))


def _minibatch(
    rows: _Rows, order: Array, number: Array, count: Array, minibatches: Array, width: int
) -> _Rows:
    # Sizes differ by at most one: a last minibatch of one transition would be all noise.
    first = number * count // minibatches
    size = (number + 1) * count // minibatches - first
    chosen = jax.lax.dynamic_slice(order, (first,), (width,))
    return replace(jax.tree.map(lambda x: x[chosen], rows), valid=jnp.arange(width) < size)


def _log_prob(agent: Agent, head: Array, action: Array, mask: Array) -> Array:
    """Log-probability [...] of actions under the actor's output `head` [..., A]."""
    if agent.log_std is None:
        return dist.log_prob_of(dist.log_probabilities(head, mask), action)
    return gaussian_log_prob((action - head) * jnp.exp(-agent.log_std), agent.log_std, mask)


def _judge(state: AgentState, played: Experience, anchor: Policy, c: Coefficients) -> _Found:
    """Weigh and value every transition by the policy and the critics as they are when the call begins.

    Told: explained variance, effective sample share, clipped mass and false claim.
    """
    agent = state.agent
    observation = state.normaliser.observation(played.observation)
    hidden = state.normaliser.hidden(played.hidden)
    mask = played.mask[:, :-1]
    prox_log_prob = _log_prob(agent, forward(agent.actor, observation[:, :-1]), played.action, mask)
    anchored = _anchored(anchor, played.observation[:, :-1], mask, c)
    value = forward(agent.critic, observation)[..., 0]
    if agent.privileged is not None:
        informed = forward(agent.privileged, jnp.concatenate([observation, hidden], -1))[..., 0]
        value = jnp.where(played.simulated[:, None], informed, value)
    ratio = jnp.exp(jnp.where(played.valid, prox_log_prob - played.log_prob, 0.0))
    scale = c.reward_scale * jnp.where(c.running > 0, state.returned.inverse_deviation()[0], 1.0)
    found = vtrace(
        played.reward * scale, value, played.end, played.valid, ratio,
        gamma=c.gamma, lam=c.gae_lambda, rho_bar=c.rho_bar,
    )  # fmt: skip

    simulated = jnp.broadcast_to(played.simulated[:, None], played.valid.shape)
    weight = jnp.broadcast_to(played.weight[:, None], played.valid.shape)
    foreign = jnp.where(jnp.any(played.valid & ~simulated), played.valid & ~simulated, played.valid)
    kept = jnp.minimum(ratio, c.rho_bar)
    claims = played.valid & played.claimed[:, None]
    told = jnp.stack([
        _explained(found.target.ravel(), value[:, :-1].ravel(), played.valid.ravel()),
        jnp.sum(ratio * foreign) ** 2 / (jnp.sum(ratio**2 * foreign) * jnp.sum(foreign)),
        1.0 - jnp.sum(kept * played.valid) / jnp.sum(ratio * played.valid),
        jnp.max(jnp.where(claims, jnp.abs(prox_log_prob - played.log_prob), 0.0)),
        c.entropy,
    ])  # fmt: skip
    # Flat, because a sum over two axes rounds by how the array happens to lie in memory.
    across = (found.advantage, weight, played.valid, simulated)
    standardised = _standardised(*(x.ravel() for x in across)).reshape(weight.shape)
    rows = _Rows(
        observation=observation[:, :-1], hidden=hidden[:, :-1], mask=mask, action=played.action,
        prox_log_prob=prox_log_prob, anchor=anchored, importance=kept,
        advantage=jnp.where(c.by_minibatch > 0, found.advantage, standardised), target=found.target,
        weight=weight, simulated=simulated, bound=jnp.broadcast_to(state.bound, weight.shape), valid=played.valid,
    )  # fmt: skip
    flat = jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), rows)
    return _Found(flat, found.target / scale, told)


def _anchored(anchor: Policy, observation: Array, mask: Array, c: Coefficients) -> Array:
    """What the anchor says [B,T,A], or [B,T,2A] of residuals; zeros where it counts nothing."""
    if isinstance(anchor, SquashedGaussian):
        raise BadInput("anchor: a squashed Gaussian cannot be the anchor of PPO's plain one.")

    def asked() -> Array:
        if not isinstance(anchor, Gaussian):
            return anchor.log_probs(observation, mask)
        mean = anchor.mean(observation)
        return jnp.concatenate([mean, jnp.broadcast_to(anchor.log_std, mean.shape)], -1)

    # Only asked where it counts: it is another network to evaluate.
    width = mask.shape[-1] * (2 if isinstance(anchor, Gaussian) else 1)
    return jax.lax.cond(c.anchor_kl > 0, asked, lambda: jnp.zeros((*mask.shape[:-1], width)))


def _explained(target: Array, value: Array, valid: Array) -> Array:
    """1 - Var(target - value) / Var(target) over valid transitions; 0 when the target does not vary."""
    left, whole = jnp.var(target - value, where=valid), jnp.var(target, where=valid)
    return jnp.where(whole > 0, 1.0 - left / jnp.where(whole > 0, whole, 1.0), 0.0)


def _centred(x: Array, group: Array, weight: Array) -> Array:
    """x to mean 0 and deviation 1 over a group, by weight."""
    share = weight * group / jnp.maximum(jnp.sum(weight * group), 1e-12)
    centred = x - jnp.sum(share * x)
    return centred / (jnp.sqrt(jnp.sum(share * centred**2)) + 1e-8)


def _standardised(advantage: Array, weight: Array, valid: Array, simulated: Array) -> Array:
    """Advantages to mean 0 and deviation 1 by weight, apart for simulated transitions and for all others.

    Apart, because a few real transitions of another size would else vanish beside many simulated ones.
    """
    whole = jnp.zeros_like(advantage)
    for group in (valid & simulated, valid & ~simulated):
        whole = jnp.where(group, _centred(advantage, group, weight), whole)
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


class _Head(eqx.Module):
    """What the actor says of the rows [N]: entropy, its largest value, KL to the anchor (0 where that counts
    nothing), share at a bound."""

    log_prob: Array
    entropy: Array
    largest: Array
    pull: Array
    at_bound: Array


def _head(agent: Agent, rows: _Rows, c: Coefficients) -> _Head:
    out = forward(agent.actor, rows.observation)
    still = jnp.zeros(rows.valid.shape)
    if agent.log_std is None:
        log_probs = dist.log_probabilities(out, rows.mask)
        pull = jax.lax.cond(
            c.anchor_kl > 0, lambda: dist.kl(log_probs, rows.anchor, rows.mask), lambda: still
        )
        return _Head(
            dist.log_prob_of(log_probs, rows.action), dist.entropy(log_probs, rows.mask),
            dist.largest_entropy(rows.mask), pull, still,
        )  # fmt: skip
    own = agent.log_std

    def divergence() -> Array:
        mean, log_std = jnp.split(rows.anchor, 2, axis=-1)
        each = log_std - own - 0.5 + 0.5 * (
            jnp.exp(2.0 * (own - log_std)) + (out - mean) ** 2 * jnp.exp(-2.0 * log_std)
        )  # fmt: skip
        return jnp.sum(jnp.where(rows.mask, each, 0.0), axis=-1)

    active = jnp.sum(rows.mask, axis=-1)
    nats = jnp.sum(jnp.where(rows.mask, own, 0.0), axis=-1)
    edge = jnp.sum(rows.mask & (jnp.abs(rows.action) >= rows.bound[:, None]), axis=-1) / jnp.maximum(
        active, 1
    )
    return _Head(
        _log_prob(agent, out, rows.action, rows.mask), nats + active * 0.5 * math.log(2.0 * math.pi * math.e),
        active * jnp.log(2.0 * rows.bound), jax.lax.cond(c.anchor_kl > 0, divergence, lambda: still), edge,
    )  # fmt: skip


def _loss(agent: Agent, rows: _Rows, c: Coefficients) -> tuple[Array, Array]:
    """The loss over one minibatch, and PARTS. Means are over present rows, by fixed episode weights.

    The divisor is the number of rows and not the sum of their weights: a self-normalised mean would
    undo a little of every Horvitz-Thompson weight.
    """
    share = rows.valid / jnp.maximum(jnp.sum(rows.valid), 1)
    head = _head(agent, rows, c)
    log_u = jnp.where(rows.valid, head.log_prob - rows.prox_log_prob, 0.0)
    u = jnp.exp(log_u)
    advantage = jnp.where(
        c.by_minibatch > 0, _centred(rows.advantage, rows.valid, rows.weight), rows.advantage
    )
    clipped = jnp.clip(u, 1.0 - c.clip, 1.0 + c.clip)
    gain = rows.importance * jnp.minimum(u * advantage, clipped * advantage)

    value = forward(agent.critic, rows.observation)[:, 0]
    missed = jnp.zeros_like(value)
    if agent.privileged is not None:
        both = jnp.concatenate([rows.observation, rows.hidden], -1)
        missed = rows.simulated * (forward(agent.privileged, both)[:, 0] - rows.target) ** 2
    # Means by one small matrix product each: a dozen separate sums are a dozen kernels to launch.
    means = jnp.stack([-gain, (value - rows.target) ** 2, missed, head.pull, head.entropy]) @ (
        share * rows.weight
    )
    loss = means @ jnp.stack([jnp.ones(()), c.value_coef, c.value_coef, c.anchor_kl, -c.entropy])
    kl_of_move = (u - 1.0) - log_u
    far = jnp.abs(u - 1.0) > c.clip
    seen = jnp.stack([head.entropy, head.largest, kl_of_move, far, head.at_bound]) @ share
    entropy_share = seen[0] / jnp.where(seen[1] == 0, 1.0, seen[1])
    told = [loss, *means[:3], seen[0], entropy_share, means[3], *seen[2:]]
    return loss, jnp.stack(told)


def _objective(agent: Agent, rows: _Rows, c: Coefficients) -> Array:
    return _loss(agent, rows, c)[0]


OBJECTIVES: dict[str, Callable[[Agent, _Rows, Coefficients], Array]] = dict.fromkeys(
    ("actor", "log_std", "critic", "privileged"), _objective
)
"""By field of Agent: the loss whose gradient in that field is the one a step takes, before clipping."""


def _gradient_step(run: _Run, rows: _Rows, whole: Agent, c: Coefficients) -> _Run:
    """One step of Adam. `whole` gives the shapes only."""
    gradient, parts = jax.grad(_loss, has_aux=True)(_shaped(run.weights, whole), rows, c)
    networks = [tuple(getattr(gradient, name) for name in names) for names in NETWORKS]
    step = descend(
        run.weights, run.moments, networks, optimiser(),
        learning_rate=c.learning_rate, max_grad_norm=c.max_grad_norm,
    )  # fmt: skip
    tally = _Tally(
        parts=run.tally.parts + parts,
        norms=run.tally.norms + step.norms,
        min_change=jnp.minimum(run.tally.min_change, step.change),
        updates=run.tally.updates + 1,
    )
    stopped = parts[PARTS.index("approx_kl")] > 1.5 * c.target_kl
    return _Run(step.weights, step.moments, tally, run.epoch, run.minibatch + 1, stopped)


def _flat(tree: Agent | tuple[Layers | Array | None, ...]) -> Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def _shaped(flat: Array, like: Agent) -> Agent:
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [flat[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(structure, parts)


def _kept(state: AgentState, run: _Run, simulated: Array) -> _Run:
    """What the call leaves behind. Without simulated rows the privileged critic has had no gradient, and
    Adam's momentum alone must not move it: it stays as it was, moments included."""
    if state.agent.privileged is None:
        return run
    apart = _flat((state.agent.actor, state.agent.log_std, state.agent.critic)).size
    # The agent's fields are flattened in the order they are declared: the privileged critic is the tail.
    keep = simulated | (jnp.arange(run.weights.size) < apart)
    old = state.optimiser
    mu, nu = jnp.where(keep, run.moments.mu, old.mu), jnp.where(keep, run.moments.nu, old.nu)
    return replace(
        run,
        weights=jnp.where(keep, run.weights, _flat(state.agent)),
        moments=optax.ScaleByAdamState(run.moments.count, mu, nu),
    )


def _after(
    state: AgentState, played: Experience, found: _Found, run: _Run, c: Coefficients, key: Array
) -> AgentState:
    """The state after the call; running statistics and the entropy's weight move only here, between calls."""
    valid = played.valid.reshape(-1)
    seen = played.observation[:, :-1].reshape(valid.size, -1)
    observed = state.observed.with_rows(seen, valid)
    returned = state.returned.with_rows(found.target.reshape(-1, 1), valid)
    scaling = state.normaliser.observation
    followed = jax.tree.map(
        lambda new, old: jnp.where(c.running > 0, new, old),
        Scaling(observed.mean, observed.inverse_deviation()),
        scaling,
    )
    parts = run.tally.parts / jnp.maximum(run.tally.updates, 1)
    dimensions = jnp.sum(played.mask[:, :-1] * played.valid[..., None]) / jnp.maximum(jnp.sum(valid), 1)
    measured = (
        parts[PARTS.index("entropy_share")]
        if state.agent.log_std is None
        else parts[PARTS.index("entropy")] / jnp.maximum(dimensions, 1.0)
    )
    held = state.entropy_coef * jnp.exp(c.entropy_rate * jnp.clip(c.entropy_target - measured, -1.0, 1.0))
    return AgentState(
        agent=_shaped(run.weights, state.agent),
        normaliser=Normaliser(followed, state.normaliser.hidden),
        observed=observed,
        returned=returned,
        entropy_coef=jnp.where(jnp.isnan(held), state.entropy_coef, jnp.clip(held, 1e-5, 1.0)),
        bound=state.bound,
        optimiser=run.moments,
        key=key,
        updates=state.updates + run.tally.updates,
        calls=state.calls + 1,
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
