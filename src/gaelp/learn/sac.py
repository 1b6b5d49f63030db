"""Soft actor-critic, for residuals and for moves, on a replay of everybody's episodes; read top to bottom.

Three objectives, all stepped from the same weights; Q is the pair of critics, Q' their slow copies, T the temperature:

    critic         E[ (Q1 - y)^2 + (Q2 - y)^2 ] / 2 + conservative E_logged[ log sum_a' exp Q(s, a') - Q(s, a) ]
                   y = r + gamma V(s'),  V(s) = E_{a ~ pi}[ min(Q'1, Q'2)(s, a) - T log pi(a | s) ]
    actor          E[ T log pi(a | s) - min(Q1, Q2)(s, a) ],  a ~ pi, through the noise that drew it
    temperature    log T  E[ H(pi(. | s)) - target(s) ]

For moves both expectations over actions are exact sums. With n_step above 1, y is Retrace's. Residuals are counted in
units of their bound throughout, so that entropies mean the same under every bound.
Source: Haarnoja et al. (2018), arXiv 1812.05905; Christodoulou (2019), arXiv 1910.07207, for moves; Munos et al.
(2016), Retrace; Kumar et al. (2020), arXiv 2006.04779, equation 4, CQL(H), for the conservative term.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from gaelp.core.errors import BadInput
from gaelp.core.schema import Actions, AgentSchema
from gaelp.learn import distributions as dist
from gaelp.learn.descent import descend
from gaelp.learn.experience import Experience, Report
from gaelp.learn.networks import OUTPUT_SCALE, Layer, Layers, forward, stack
from gaelp.learn.normalise import Normaliser, require_widths
from gaelp.learn.policies import (
    LOG_STD_HIGH,
    LOG_STD_LOW,
    Choice,
    Policy,
    SoftCategorical,
    SquashedGaussian,
    squashed,
)
from gaelp.learn.replay import Replay, Slots, Window, add, empty, sample, slots, windows
from gaelp.learn.returns import retrace

ADAM_EPS = 1e-8
"""Adam's epsilon, as in every published SAC."""

NEAR_BOUND = 0.99
"""From this share of the bound on, a residual counts as standing at it; a move with this probability as settled."""

INVERTIBLE = 1.0 - 1e-4
"""Up to this share of the bound float32 still knows the noise behind a residual; beyond, its density is a guess."""


@dataclass(frozen=True, kw_only=True)
class SACConfig:
    """The settings of SAC, with the published defaults; checked at birth.

    reward_scale: multiplies rewards before anything else. tau: how far the slow critics follow in a step.
    n_step, trace: transitions a target looks ahead, and Retrace's lambda. temperature: where it starts.
    residual_entropy: target in nats for each active residual, in units of its bound (uniform has log 2).
    move_entropy: target as a share of the largest entropy the mask allows. conservative, candidates: weight of
    the term that holds values down beside logged actions, and how many residuals of each kind it asks.
    anchor_kl: weight of KL(policy || anchor) when an anchor is given. min_ess: smallest effective share of
    logged or live transitions; 0, since one-step targets need no importance weights. max_grad_norm: for each
    network apart. zero_bias: head start of the zero move, in logits. replay_size: transitions remembered, in
    rows of replay_steps decisions, at least as many as a row of the batches has.
    """

    learning_rate: float = 3e-4
    gamma: float = 0.99
    tau: float = 0.005
    n_step: int = 1
    trace: float = 1.0
    temperature: float = 1.0
    residual_entropy: float = -1.0
    move_entropy: float = 0.3
    conservative: float = 1.0
    candidates: int = 4
    anchor_kl: float = 0.0
    min_ess: float = 0.0
    max_grad_norm: float = 1e3
    reward_scale: float = 20.0
    hidden: tuple[int, ...] = (256, 256)
    zero_bias: float = 1.0
    replay_size: int = 20_000
    replay_steps: int = 6

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "learning_rate": (0.0, 1.0), "gamma": (0.0, 1.0), "tau": (1e-6, 1.0), "n_step": (1, 100),
            "trace": (0.0, 1.0), "temperature": (1e-6, 1e3), "residual_entropy": (-20.0, math.log(2.0)),
            "move_entropy": (0.0, 1.0), "conservative": (0.0, 1e3), "candidates": (1, 100),
            "anchor_kl": (0.0, 1e3), "min_ess": (0.0, 1.0), "max_grad_norm": (1e-9, math.inf),
            "reward_scale": (1e-9, 1e9), "zero_bias": (0.0, 20.0), "replay_size": (1, 10**9),
            "replay_steps": (1, 10**6),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise BadInput(f"{name} is {getattr(self, name)}, expected {low:g} to {high:g}.")
        if not self.hidden or min(self.hidden) < 1:
            raise BadInput(f"hidden is {self.hidden}, expected at least one layer of at least one unit.")


class Coefficients(eqx.Module):
    """The numbers of a SACConfig as arrays: another learning rate must not mean another compilation.

    n_step and candidates are shapes, so they are no arrays; candidates is 0 where nothing is conservative.
    """

    learning_rate: Array
    gamma: Array
    tau: Array
    trace: Array
    residual_entropy: Array
    move_entropy: Array
    conservative: Array
    anchor_kl: Array
    max_grad_norm: Array
    reward_scale: Array
    n_step: int = eqx.field(static=True)
    candidates: int = eqx.field(static=True)


def coefficients(config: SACConfig) -> Coefficients:
    """The config as arrays."""
    names = [f.name for f in fields(Coefficients) if f.name not in ("n_step", "candidates")]
    numbers: dict[str, Any] = {name: jnp.asarray(getattr(config, name), jnp.float32) for name in names}
    candidates = config.candidates if config.conservative else 0
    return Coefficients(n_step=config.n_step, candidates=candidates, **numbers)


class Agent(eqx.Module):
    """Everything that is trained by gradients.

    critic: both critics in one, every array with a leading axis of 2; observation and action -> [1] for residuals,
    observation -> [A] for moves. log_temperature []: the price of a nat of entropy.
    """

    actor: Layers
    critic: Layers
    log_temperature: Array


class AgentState(eqx.Module):
    """All that training carries from call to call: one pytree of plain arrays, saved and restored whole.

    target: the slow critics. replay: what was played, raw. bound []: of residuals; 1 where there are moves.
    optimiser: Adam's moments over all weights as one vector. key: the raw data of the random key.
    updates: gradient steps so far; calls: training calls so far.
    """

    agent: Agent
    target: Layers
    normaliser: Normaliser
    optimiser: optax.ScaleByAdamState
    replay: Replay
    bound: Array
    key: Array
    updates: Array
    calls: Array
    actions: Actions = eqx.field(static=True)

    @property
    def policy(self) -> Policy:
        """What plays."""
        if self.actions is Actions.MOVES:
            return SoftCategorical(self.agent.actor, self.normaliser.observation)
        return SquashedGaussian(self.agent.actor, self.normaliser.observation, self.bound)


NETWORKS = (("actor",), ("critic",), ("log_temperature",))
"""Fields of Agent whose gradients are clipped together, by their own norm."""

PARTS = (
    "loss", "policy_loss", "q_loss", "temperature_loss", "conservative_loss", "q_mean", "temperature", "entropy",
    "entropy_share", "entropy_gap", "at_bound", "anchor_kl",
)  # fmt: skip
"""The scalars that each gradient step adds to; the report gives their means over the steps.

entropy: nats, for residuals those of each active one in units of its bound. entropy_share: of the largest; for
residuals the width of an equally uncertain uniform as a share of the whole. entropy_gap: above the target, in nats
a state. at_bound: share of the policy's residuals within 1 % of the bound, or of states with a settled move.
"""
JUDGED = ("effective_sample_share", "clipped_mass", "false_claim")
SCALARS = (*PARTS, *JUDGED, "approx_kl", "min_update_change", "updates")


def optimiser() -> optax.GradientTransformation:
    """Adam's direction; the learning rate is applied in `update`, where it is an argument."""
    return optax.scale_by_adam(eps=ADAM_EPS)


def init(
    config: SACConfig, schema: AgentSchema, hidden_width: int, key: Array, normaliser: Normaliser
) -> AgentState:
    """An untrained agent: its mode is the zero move, or residual 0, everywhere, so it is the certified pacer.

    hidden_width: H of the episodes; the hidden truth itself is not used, SAC has no privileged critic.
    """
    o, a = schema.observation_size, schema.action_size
    require_widths(normaliser, o, hidden_width)
    for_weights, for_training = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(for_weights)))
    moves = schema.actions is Actions.MOVES
    actor = stack(rng, (o, *config.hidden, a if moves else 2 * a), OUTPUT_SCALE)
    last = actor[-1]
    if not moves:
        # Not only small: a mean of exactly 0 is the pacer itself. The deviations' half starts small.
        last = Layer(last.weight.at[:, :a].set(0.0), last.bias)
    elif schema.zero_move is not None:
        last = Layer(last.weight, last.bias.at[schema.zero_move].set(config.zero_bias))
    widths = (o, *config.hidden, a) if moves else (o + a, *config.hidden, 1)
    twins = [stack(rng, widths, 1.0) for _ in range(2)]
    critic = jax.tree.map(lambda *both: jnp.stack(both), *twins)
    agent = Agent((*actor[:-1], last), critic, jnp.log(jnp.asarray(config.temperature, jnp.float32)))
    none = jnp.zeros((), jnp.int32)
    return AgentState(
        agent=agent, target=critic, normaliser=normaliser, optimiser=optimiser().init(ravel_pytree(agent)[0]),
        replay=empty(schema, transitions=config.replay_size, steps=config.replay_steps),
        bound=jnp.asarray(1.0 if moves else schema.bound, jnp.float32),
        key=jax.random.key_data(for_training), updates=none, calls=none, actions=schema.actions,
    )  # fmt: skip


class Rows(eqx.Module):
    """A minibatch [N, ...]: transitions, what their critics are to say, and the noise that is drawn for them.

    observation: scaled. action: moves [N] int32, or residuals [N,A] in units of the bound. target[N]: y.
    noise[N,A]: behind the actor's residuals; [N,0] for moves. candidate[N,2K,A], candidate_log_prob[N,2K]: the
    residuals that the conservative term asks about, half uniform, half from the actor. anchor: log-probabilities
    [N,A], or mean and log deviation [N,2A], of the anchor policy. valid[N]: False for padding.
    """

    observation: Array
    mask: Array
    action: Array
    target: Array
    noise: Array
    candidate: Array
    candidate_log_prob: Array
    anchor: Array
    weight: Array
    logged: Array
    valid: Array
    actions: Actions = eqx.field(static=True)


def twin(critic: Layers, observation: Array) -> Array:
    """Both critics' values of every move [2,N,A] for observations [N,O]."""
    return _rest(critic, observation @ critic[0].weight)


def twin_of(critic: Layers, observation: Array, action: Array) -> Array:
    """Both critics' values [2,N] of residuals [N,A] in units of the bound, for observations [N,O]."""
    # In two products: the observation's is the same for every action, and no gradient into it is asked for.
    seen, done = jnp.split(critic[0].weight, [observation.shape[-1]], axis=1)
    return _rest(critic, observation @ seen + action @ done)[..., 0]


def _chosen(q: Array, action: Array) -> Array:
    """Both critics' values [2,N] of the moves `action` [N], from those of every move [2,N,A]."""
    return jnp.take_along_axis(q, action[None, :, None], axis=-1)[..., 0]


def _rest(critic: Layers, x: Array) -> Array:
    for before, layer in pairwise(critic):
        x = jax.nn.relu(x + before.bias[:, None]) @ layer.weight
    return x + critic[-1].bias[:, None]


def head(actor: Layers, observation: Array, mask: Array, actions: Actions) -> Array:
    """What the actor says of scaled observations [..., O]: log-probabilities of moves [..., A], or mean and log
    deviation [..., 2A] of what tanh squashes."""
    out = forward(actor, observation, jax.nn.relu)
    if actions is Actions.MOVES:
        return dist.log_probabilities(out, mask)
    mean, log_std = jnp.split(out, 2, axis=-1)
    return jnp.concatenate([mean, jnp.clip(log_std, LOG_STD_LOW, LOG_STD_HIGH)], axis=-1)


def residuals(told: Array, noise: Array, mask: Array) -> Choice:
    """Residuals in units of the bound that `noise` [..., A] draws from a head's moments, and their log-density."""
    mean, log_std = jnp.split(told, 2, axis=-1)
    return squashed(mean, log_std, noise, mask, jnp.ones((), told.dtype))


def log_prob_of(told: Array, action: Array, mask: Array, actions: Actions) -> Array:
    """The log-probability or log-density [...] of actions under a head; residuals in units of the bound.

    Where they are not `certain`, the residual counts as one just inside the bound.
    """
    if actions is Actions.MOVES:
        return dist.log_prob_of(told, action)
    mean, log_std = jnp.split(told, 2, axis=-1)
    u = jnp.arctanh(jnp.clip(action, -INVERTIBLE, INVERTIBLE))
    return residuals(told, (u - mean) * jnp.exp(-log_std), mask).log_prob


def certain(action: Array, actions: Actions) -> Array:
    """Whether float32 still knows the log-density [...] of actions; at the bound the noise behind them is lost."""
    if actions is Actions.MOVES:
        return jnp.ones(action.shape, bool)
    return jnp.all(jnp.abs(action) <= INVERTIBLE, axis=-1)


def kl(here: Array, there: Array, mask: Array, actions: Actions) -> Array:
    """KL [...] in nats between two heads; squashing changes nothing, so residuals have that of their Gaussians."""
    if actions is Actions.MOVES:
        return dist.kl(here, there, mask)
    (m, s), (n, t) = jnp.split(here, 2, axis=-1), jnp.split(there, 2, axis=-1)
    each = t - s + 0.5 * (jnp.exp(2.0 * (s - t)) + (m - n) ** 2 * jnp.exp(-2.0 * t) - 1.0)
    return jnp.sum(jnp.where(mask, each, 0.0), axis=-1)


def _losses(agent: Agent, rows: Rows, c: Coefficients) -> tuple[Array, Array]:
    """Losses of actor, critics (without the conservative term) and temperature [3], and what PARTS tell.

    Each depends on its own field alone; the others are held. Means are over present rows, by fixed episode
    weights: a self-normalised mean would undo a little of every Horvitz-Thompson weight.
    """
    share = rows.valid / jnp.maximum(jnp.sum(rows.valid), 1)
    held, temperature = jax.lax.stop_gradient((agent.critic, jnp.exp(agent.log_temperature)))
    told = head(agent.actor, rows.observation, rows.mask, rows.actions)
    if rows.actions is Actions.MOVES:
        q = twin(agent.critic, rows.observation)
        taken = _chosen(q, rows.action)
        probability = jnp.where(rows.mask, jnp.exp(told), 0.0)
        expected = jnp.sum(probability * jax.lax.stop_gradient(jnp.min(q, axis=0)), axis=-1)
        entropy, size = dist.entropy(told, rows.mask), dist.largest_entropy(rows.mask)
        target = c.move_entropy * size
        stuck = (jnp.max(probability, axis=-1) > NEAR_BOUND) & (size > 0)
    else:
        taken = twin_of(agent.critic, rows.observation, rows.action)
        choice = residuals(told, rows.noise, rows.mask)
        both = twin_of(held, rows.observation, choice.action)
        expected, entropy = jnp.min(both, axis=0), -choice.log_prob
        size = jnp.sum(rows.mask, axis=-1)
        target = c.residual_entropy * size
        stuck = jnp.sum(jnp.abs(choice.action) > NEAR_BOUND, axis=-1)

    policy_loss = -expected - temperature * entropy
    q_loss = 0.5 * jnp.sum((taken - rows.target) ** 2, axis=0)
    temperature_loss = agent.log_temperature * jax.lax.stop_gradient(entropy - target)
    # Without an anchor its place holds zeros, which are no policy.
    pull = jnp.where(c.anchor_kl > 0, kl(told, rows.anchor, rows.mask, rows.actions), 0.0)
    # Means by two small matrix products: a dozen separate sums are a dozen kernels to launch.
    means = jnp.stack([policy_loss, q_loss, temperature_loss, pull]) @ (share * rows.weight)
    losses = means[:3] + jnp.zeros(3).at[0].set(c.anchor_kl) * means[3]
    seen = jnp.stack([jnp.mean(taken, axis=0), entropy, entropy - target, stuck, size]) @ share
    states = jnp.where(seen[4] > 0, seen[4], 1.0)
    if rows.actions is Actions.MOVES:
        spread = [seen[1], seen[1] / states, seen[2], seen[3]]
    else:
        spread = [seen[1] / states, jnp.exp(seen[1] / states) / 2.0, seen[2], seen[3] / states]
    none = jnp.zeros_like(temperature)
    return losses, jnp.stack([jnp.sum(losses), *means[:3], none, seen[0], temperature, *spread, means[3]])


def _conservative(critic: Layers, rows: Rows, c: Coefficients) -> Array:
    """The conservative term: logged rows only, both critics; how far values rise beside what the log holds."""
    share = (rows.valid & rows.logged) / jnp.maximum(jnp.sum(rows.valid), 1) * rows.weight
    if rows.actions is Actions.MOVES:
        q = twin(critic, rows.observation)
        taken = _chosen(q, rows.action)
        soft = jax.nn.logsumexp(jnp.where(rows.mask, q, dist.FORBIDDEN), axis=-1)
    else:
        taken = twin_of(critic, rows.observation, rows.action)
        q = jax.vmap(twin_of, (None, None, 1), -1)(critic, rows.observation, rows.candidate)
        # By importance, so that the mean over candidates is the integral over all residuals.
        soft = jax.nn.logsumexp(q - rows.candidate_log_prob, axis=-1) - math.log(q.shape[-1])
    return c.conservative * jnp.sum((soft - taken) @ share)


def _whole_critic_loss(agent: Agent, rows: Rows, c: Coefficients) -> Array:
    loss = _losses(agent, rows, c)[0][1]
    return loss + _conservative(agent.critic, rows, c) if c.candidates else loss


OBJECTIVES: Mapping[str, Callable[[Agent, Rows, Coefficients], Array]] = {
    "actor": lambda agent, rows, c: _losses(agent, rows, c)[0][0],
    "critic": _whole_critic_loss,
    "log_temperature": lambda agent, rows, c: _losses(agent, rows, c)[0][2],
}
"""By field of the agent, the loss whose gradient for that field a step takes, before clipping."""


class _Source(eqx.Module):
    """What every minibatch of a call is drawn from."""

    replay: Replay
    slots: Slots
    normaliser: Normaliser
    bound: Array
    anchor: Layers
    key: Array
    batch_size: Array


def _source(
    state: AgentState, played: Experience, anchor: Policy, batch_size: Array
) -> tuple[_Source, Array]:
    """The memory with the new rows, and the key that the next call starts from."""
    if not isinstance(anchor, SoftCategorical | SquashedGaussian) or type(anchor) is not type(state.policy):
        raise BadInput(f"anchor is a {type(anchor).__name__}, expected a {type(state.policy).__name__}.")
    key, drawing = jax.random.split(jax.random.wrap_key_data(state.key))
    memory = add(state.replay, played)
    source = _Source(
        replay=memory, slots=slots(memory), normaliser=state.normaliser, bound=state.bound, anchor=anchor.actor,
        key=jax.random.key_data(drawing), batch_size=batch_size,
    )  # fmt: skip
    return source, jax.random.key_data(key)


def _draw(
    agent: Agent, target: Layers, source: _Source, step: Array, c: Coefficients, actions: Actions, width: int
) -> Rows:
    """The minibatch of gradient step `step`: windows of the memory, their targets, and all noise."""
    picking, drawing, proposing = jax.random.split(
        jax.random.fold_in(jax.random.wrap_key_data(source.key), step), 3
    )
    seen = windows(source.replay, sample(source.replay, source.slots, picking, width), c.n_step)
    seen = eqx.tree_at(
        lambda w: (w.observation, w.action), seen,
        (source.normaliser.observation(seen.observation),
         seen.action if actions is Actions.MOVES else seen.action / source.bound),
    )  # fmt: skip
    observation, mask, action = seen.observation[:, 0], seen.mask[:, 0], seen.action[:, 0]
    # For the actor's own residuals, then for those it would choose after each transition.
    noise = jax.random.normal(
        drawing, (width, c.n_step + 1, 0 if actions is Actions.MOVES else mask.shape[1])
    )
    valid = seen.valid[:, 0] & (jnp.arange(width) < source.batch_size)
    logged = seen.logged & valid
    candidate, candidate_log_prob = _candidates(agent.actor, observation, mask, logged, proposing, c, actions)
    # Where nothing pulls towards an anchor, nobody need ask it.
    anchor = jax.lax.cond(
        c.anchor_kl > 0,
        lambda: head(source.anchor, observation, mask, actions),
        lambda: jnp.zeros((width, source.anchor[-1].bias.size)),
    )
    return Rows(
        observation=observation, mask=mask, action=action,
        target=_targets(agent, target, seen, noise[:, 1:], c, source.bound, actions),
        noise=noise[:, 0], candidate=candidate, candidate_log_prob=candidate_log_prob,
        anchor=anchor, weight=seen.weight, logged=logged, valid=valid, actions=actions,
    )  # fmt: skip


def _targets(
    agent: Agent, target: Layers, seen: Window, noise: Array, c: Coefficients, bound: Array, actions: Actions
) -> Array:
    """What both critics are to say of each window's first transition [N], by the slow critics."""
    n, steps = seen.reward.shape

    def flat(x: Array) -> Array:
        return x.reshape(n * steps, *x.shape[2:])

    observation, mask = flat(seen.observation[:, 1:]), flat(seen.mask[:, 1:])
    told = head(agent.actor, observation, mask, actions)
    temperature = jnp.exp(agent.log_temperature)
    if actions is Actions.MOVES:
        lowest = jnp.min(twin(target, observation), axis=0)
        expected = jnp.sum(jnp.where(mask, jnp.exp(told) * lowest, 0.0), axis=-1)
        value = expected + temperature * dist.entropy(told, mask)
    else:
        choice = residuals(told, flat(noise), mask)
        lowest = jnp.min(twin_of(target, observation, choice.action), axis=0)
        value = lowest - temperature * choice.log_prob
    q, ratio = _traced(agent, target, seen, bound, actions)
    reward, value = seen.reward * c.reward_scale, value.reshape(n, steps)
    found = retrace(reward, q, value, seen.end, seen.valid, ratio, gamma=c.gamma, lam=c.trace)
    return found[:, 0]


def _traced(
    agent: Agent, target: Layers, seen: Window, bound: Array, actions: Actions
) -> tuple[Array, Array]:
    """Q and pi / mu [N,n] of the windows' actions. The first ones enter no target, so with n = 1 none is asked."""
    n, steps = seen.reward.shape
    if steps == 1:
        return jnp.zeros((n, 1)), jnp.ones((n, 1))
    observation, mask, action = seen.observation[:, :-1], seen.mask[:, :-1], seen.action
    told = head(agent.actor, observation, mask, actions)
    if actions is Actions.MOVES:
        every = jnp.min(twin(target, observation.reshape(n * steps, -1)), axis=0).reshape(n, steps, -1)
        q = jnp.take_along_axis(every, action[..., None], axis=-1)[..., 0]
    else:
        q = jnp.min(jax.vmap(twin_of, (None, 1, 1), -1)(target, observation, action), axis=0)
    logged = _in_units(seen.log_prob, mask, bound, actions)
    ratio = jnp.exp(jnp.minimum(log_prob_of(told, action, mask, actions) - logged, 0.0))
    # Odds that nobody knows end a trace: Retrace may always look less far, never further.
    return q, jnp.where(certain(action, actions), ratio, 0.0)


def _in_units(log_prob: Array, mask: Array, bound: Array, actions: Actions) -> Array:
    """A logged log-density [...] as one of residuals in units of the bound; those of moves stay as they are."""
    if actions is Actions.MOVES:
        return log_prob
    return log_prob + jnp.sum(mask, axis=-1) * jnp.log(bound)


def _candidates(
    actor: Layers,
    observation: Array,
    mask: Array,
    logged: Array,
    key: Array,
    c: Coefficients,
    actions: Actions,
) -> tuple[Array, Array]:
    """Residuals [N,2K,A] for the conservative term, and the log-density [N,2K] each was drawn with.

    Half uniform, half from the actor; zeros where no row is logged, and none (K = 0) for moves.
    """
    n, a = mask.shape
    k = 0 if actions is Actions.MOVES else c.candidates

    def drawn() -> tuple[Array, Array]:
        flat, own = jax.random.split(key)
        every = jnp.broadcast_to(mask[:, None], (n, k, a))
        uniform = jnp.where(every, jax.random.uniform(flat, (n, k, a), minval=-1.0, maxval=1.0), 0.0)
        told = head(actor, observation, mask, actions)[:, None]
        choice = residuals(told, jax.random.normal(own, (n, k, a)), every)
        wide = jnp.broadcast_to(-math.log(2.0) * jnp.sum(mask, axis=-1)[:, None], (n, k))
        return jnp.concatenate([uniform, choice.action], 1), jnp.concatenate([wide, choice.log_prob], 1)

    def none() -> tuple[Array, Array]:
        return jnp.zeros((n, 2 * k, a)), jnp.zeros((n, 2 * k))

    return jax.lax.cond(jnp.any(logged), drawn, none) if k else none()


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
) -> Rows:
    """Exactly the rows that the first gradient step of such an `update` uses."""
    source, _ = _source(state, experience, anchor, batch_size)
    step = jnp.zeros((), jnp.int32)
    return _draw(state.agent, state.target, source, step, coefficients, state.actions, width)


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
    """One training call: num_epochs x ceil(new valid transitions / batch_size) gradient steps, `limit` at most.

    The new rows enter the memory first; every step draws batch_size transitions from all of it. Compiles once
    per (padded shapes, width): how many rows are valid, how many epochs are taken and the minibatch's size, at
    most `width`, are data. Pure: the caller may refuse the result and keep the old state.
    """
    source, key = _source(state, experience, anchor, batch_size)
    count = jnp.sum(experience.valid)
    steps = jnp.minimum(num_epochs * ((count + batch_size - 1) // batch_size), limit)
    shaped, target_shaped = ravel_pytree(state.agent)[1], ravel_pytree(state.target)[1]

    def step(run: _Run) -> _Run:
        agent = shaped(run.weights)
        rows = _draw(
            agent, target_shaped(run.target), source, run.updates, coefficients, state.actions, width
        )
        return _gradient_step(run, agent, rows, coefficients)

    run = jax.lax.while_loop(lambda run: run.updates < steps, step, _Run.begin(state))
    trained = AgentState(
        agent=shaped(run.weights), target=target_shaped(run.target),
        normaliser=state.normaliser, optimiser=run.moments, replay=source.replay, bound=state.bound, key=key,
        updates=state.updates + run.updates, calls=state.calls + 1, actions=state.actions,
    )  # fmt: skip
    return trained, _report(state, trained, run, experience)


class _Run(eqx.Module):
    """What one gradient step hands to the next; weights and target are the agent and the slow critics as vectors.

    parts, norms: sums over the steps; smallest: the smallest change of a step.
    """

    weights: Array
    target: Array
    moments: optax.ScaleByAdamState
    parts: Array
    norms: Array
    smallest: Array
    updates: Array

    @staticmethod
    def begin(state: AgentState) -> _Run:
        norms = jnp.zeros((2, len(jax.tree.leaves(state.agent))))
        weights, target = ravel_pytree(state.agent)[0], ravel_pytree(state.target)[0]
        begun = (jnp.zeros(len(PARTS)), norms, jnp.full((), jnp.inf), jnp.zeros((), jnp.int32))
        return _Run(weights, target, state.optimiser, *begun)


def _gradient_step(run: _Run, agent: Agent, rows: Rows, c: Coefficients) -> _Run:
    """One step of Adam for actor, critics and temperature at once, then the slow critics follow."""

    def whole(agent: Agent) -> tuple[Array, Array]:
        losses, parts = _losses(agent, rows, c)
        return jnp.sum(losses), parts

    gradient, parts = jax.grad(whole, has_aux=True)(agent)
    if c.candidates:
        # Apart from the rest, so that minibatches without a logged row do not pay for it.
        term, extra = jax.lax.cond(
            jnp.any(rows.logged),
            lambda critic: jax.value_and_grad(_conservative)(critic, rows, c),
            lambda critic: (jnp.zeros(()), jax.tree.map(jnp.zeros_like, critic)),
            agent.critic,
        )
        gradient = eqx.tree_at(lambda g: g.critic, gradient, jax.tree.map(jnp.add, gradient.critic, extra))
        parts = parts.at[jnp.array([PARTS.index("loss"), PARTS.index("conservative_loss")])].add(term)
    networks = (gradient.actor, gradient.critic, gradient.log_temperature)
    step = descend(
        run.weights, run.moments, networks, optimiser(),
        learning_rate=c.learning_rate, max_grad_norm=c.max_grad_norm,
    )  # fmt: skip
    # The agent's fields are flattened in the order they are declared: the critics lie before the temperature.
    critic = step.weights[-run.target.size - 1 : -1]
    return _Run(
        weights=step.weights, target=run.target + c.tau * (critic - run.target), moments=step.moments,
        parts=run.parts + parts, norms=run.norms + step.norms, smallest=jnp.minimum(run.smallest, step.change),
        updates=run.updates + 1,
    )  # fmt: skip


def _report(before: AgentState, after: AgentState, run: _Run, played: Experience) -> Report:
    """The call's scalars and norms. What is judged on the new transitions is judged by the policy of before."""
    observation, mask = before.normaliser.observation(played.observation[:, :-1]), played.mask[:, :-1]
    actions, valid = before.actions, played.valid
    old = head(before.agent.actor, observation, mask, actions)
    new = head(after.agent.actor, observation, mask, actions)
    action = played.action if actions is Actions.MOVES else played.action / before.bound
    logged = _in_units(played.log_prob, mask, before.bound, actions)
    apart = jnp.where(valid, log_prob_of(old, action, mask, actions) - logged, 0.0)

    known = valid & certain(action, actions)
    weighed = jnp.where(jnp.any(known), known, valid)
    foreign = weighed & ~played.simulated[:, None]
    judged = jnp.stack([
        _effective_share(apart, jnp.where(jnp.any(foreign), foreign, weighed)),
        _clipped_mass(apart, weighed),
        jnp.max(jnp.where(known & played.claimed[:, None], jnp.abs(apart), 0.0)),
        jnp.sum(kl(old, new, mask, actions) * valid) / jnp.sum(valid),
        run.smallest,
        run.updates.astype(jnp.float32),
    ])  # fmt: skip
    steps = jnp.maximum(run.updates, 1)
    moved = jax.tree.map(jnp.subtract, after.agent, before.agent)
    squares = [jnp.sum(x * x) for tree in (moved, before.agent) for x in jax.tree.leaves(tree)]
    return Report(
        scalars=jnp.concatenate([run.parts / steps, judged]),
        per_tensor=jnp.concatenate([run.norms / steps, jnp.sqrt(jnp.stack(squares)).reshape(2, -1)]),
    )


def _effective_share(log_weight: Array, where: Array) -> Array:
    """(sum w)^2 / (n sum w^2) over the n elements of `where`."""
    weight = _relative(log_weight, log_weight, where)
    return jnp.sum(weight) ** 2 / (jnp.sum(weight**2) * jnp.sum(where))


def _clipped_mass(log_weight: Array, where: Array) -> Array:
    """Share of the weights' sum that truncating them at 1 cuts off."""
    kept = _relative(jnp.minimum(log_weight, 0.0), log_weight, where)
    return 1.0 - jnp.sum(kept) / jnp.sum(_relative(log_weight, log_weight, where))


def _relative(log_weight: Array, to: Array, where: Array) -> Array:
    """Weights over the largest of `to`: densities of many residuals differ by more than float32 can hold."""
    return jnp.where(where, jnp.exp(log_weight - jnp.max(to, where=where, initial=-jnp.inf)), 0.0)
