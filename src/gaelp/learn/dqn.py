"""DQN over masked joint moves, on a replay of its own and of anybody's logged episodes; read top to bottom.

Double, dueling, with a slow copy Q' of the network Q; over the rows of a minibatch drawn from the replay:

    loss   = E[ huber(Q(s, a) - y) ] + conservative E_logged[ log sum_a' exp Q(s, a') - Q(s, a) ]
             + anchor_kl E[ KL(anchor || softmax Q) ]
    y      = r + gamma V(s'),   V(s) = Q'(s, argmax_a Q(s, a)),   sums and maxima over allowed moves

With n_step above 1, y is Retrace's for the greedy policy: what follows a move that is not greedy does not count.
The anchor's term is the conservative one with the anchor's moves in place of the logged ones: the softmax of its own
Q where it is a policy of Q, and so nothing where Q has not moved.
Source: Mnih et al. (2015); van Hasselt et al. (2016), double; Wang et al. (2016), dueling; Munos et al. (2016),
Retrace; Schaul et al. (2016), prioritised replay; Kumar et al. (2020), CQL(H), equation 4.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import partial
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
from gaelp.learn.networks import OUTPUT_SCALE, Dueling, Layer, orthogonal
from gaelp.learn.normalise import Normaliser, require_widths
from gaelp.learn.policies import EpsilonSoft, Gaussian, Policy, SquashedGaussian
from gaelp.learn.replay import (
    Drawn,
    Replay,
    Slots,
    Window,
    add,
    empty,
    reprioritise,
    sample,
    sample_prioritised,
    slots,
    windows,
)
from gaelp.learn.returns import follows, retrace

ADAM_EPS = 1e-8
"""Adam's epsilon, as in most published DQNs after the first."""

SMALLEST_PRIORITY = 1e-3
"""Added to every |TD error|: a transition that is understood today must still be drawn some day."""

TIE = 1e-4
"""Values of Q this close, relative to the largest, may change places by rounding alone."""


LARGEST_EPSILON = 0.99
"""At 1 no move would be the likeliest, and the likeliest move is what is judged."""


class Sampling(StrEnum):
    """How minibatches are drawn from the replay: every transition alike, or by its last TD error."""

    UNIFORM = "uniform"
    PRIORITISED = "prioritised"


@dataclass(frozen=True, kw_only=True)
class DQNConfig:
    """The settings of DQN; checked at birth.

    reward_scale: multiplies rewards before anything else, so that Q works near unit size. huber: TD error
    from which the loss is linear; a huge one makes it squared. target_every, tau: after every so many gradient
    steps the slow network moves the share tau towards the network; 1 and 0.005 is Polyak averaging, 500 and 1
    a hard copy. n_step, trace: transitions a target looks ahead, and Retrace's lambda.
    epsilon, epsilon_final, epsilon_transitions: share of moves at random, linear in the transitions trained on.
    It never falls to 0: a log whose moves had no other chance can judge no other policy.
    priority_alpha, priority_beta: of prioritised sampling; below a beta of 1 the loss is biased.
    conservative: weight of the term that holds values down beside logged moves. anchor_kl: weight of
    KL(anchor || softmax Q) when an anchor is given; such calls take anchored_rate times the learning rate, since no
    ratio holds a step back where minibatches are small. min_ess: smallest effective share of logged or live
    transitions; 0, since one-step targets need no importance weights. zero_bias: head start of the zero move,
    in units of Q. replay_size: transitions remembered, in rows of replay_steps decisions, at least as many as a
    row of the batches has. max_grad_norm: of the whole network.
    """

    learning_rate: float = 1e-3
    anchored_rate: float = 0.25
    gamma: float = 1.0
    reward_scale: float = 20.0
    huber: float = 1.0
    hidden: tuple[int, ...] = (256, 256)
    max_grad_norm: float = 10.0
    target_every: int = 1
    tau: float = 0.01
    n_step: int = 1
    trace: float = 1.0
    epsilon: float = LARGEST_EPSILON
    epsilon_final: float = 0.1
    epsilon_transitions: int = 5_000
    sampling: Sampling = Sampling.UNIFORM
    priority_alpha: float = 0.6
    priority_beta: float = 1.0
    conservative: float = 1.0
    anchor_kl: float = 0.0
    min_ess: float = 0.0
    zero_bias: float = 0.5
    replay_size: int = 20_000
    replay_steps: int = 6

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "learning_rate": (0.0, 1.0), "anchored_rate": (1e-6, 1.0), "gamma": (0.0, 1.0),
            "reward_scale": (1e-9, 1e9), "huber": (1e-6, 1e6),
            "max_grad_norm": (1e-9, math.inf), "target_every": (1, 10**9), "tau": (1e-6, 1.0), "n_step": (1, 100),
            "trace": (0.0, 1.0), "epsilon": (1e-6, LARGEST_EPSILON), "epsilon_final": (1e-6, LARGEST_EPSILON),
            "epsilon_transitions": (1, 10**9), "priority_alpha": (0.0, 2.0), "priority_beta": (0.0, 1.0),
            "conservative": (0.0, 1e3), "anchor_kl": (0.0, 1e3), "min_ess": (0.0, 1.0), "zero_bias": (0.0, 20.0),
            "replay_size": (1, 10**9), "replay_steps": (1, 10**6),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise BadInput(f"{name} is {getattr(self, name)}, expected {low:g} to {high:g}.")
        if not self.hidden or min(self.hidden) < 1:
            raise BadInput(f"hidden is {self.hidden}, expected at least one layer of at least one unit.")


class Coefficients(eqx.Module):
    """The numbers of a DQNConfig as arrays: another learning rate must not mean another compilation.

    n_step is a shape and sampling another program, so these two are no arrays.
    """

    learning_rate: Array
    gamma: Array
    reward_scale: Array
    huber: Array
    max_grad_norm: Array
    target_every: Array
    tau: Array
    trace: Array
    epsilon: Array
    epsilon_final: Array
    epsilon_transitions: Array
    priority_alpha: Array
    priority_beta: Array
    conservative: Array
    anchor_kl: Array
    n_step: int = eqx.field(static=True)
    sampling: Sampling = eqx.field(static=True)


def coefficients(config: DQNConfig) -> Coefficients:
    """The config as arrays."""
    told: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(Coefficients)}
    if config.anchor_kl > 0:
        told["learning_rate"] *= config.anchored_rate
    for name in told.keys() - {"n_step", "sampling"}:
        # target_every is a count: float32 would lose it beyond 16 million.
        told[name] = jnp.asarray(told[name], jnp.int32 if name == "target_every" else jnp.float32)
    return Coefficients(**told)


class Agent(eqx.Module):
    """Everything that is trained by gradients: Q."""

    q: Dueling


NETWORKS = (("q",),)
"""Fields of Agent whose gradients are clipped together, by their own norm."""


class AgentState(eqx.Module):
    """All that training carries from call to call: one pytree of plain arrays, saved and restored whole.

    target: the slow network. replay: what was played, raw. epsilon []: of what plays now. seen []: valid transitions
    trained on so far. optimiser: Adam's moments over all weights as one vector. key: the raw data of the random
    key. updates: gradient steps so far; calls: training calls so far.
    """

    agent: Agent
    target: Dueling
    normaliser: Normaliser
    optimiser: optax.ScaleByAdamState
    replay: Replay
    epsilon: Array
    seen: Array
    key: Array
    updates: Array
    calls: Array

    @property
    def policy(self) -> EpsilonSoft:
        """What plays."""
        return EpsilonSoft(self.agent.q, self.normaliser.observation, self.epsilon)


PARTS = ("loss", "q_loss", "conservative_loss", "anchor_kl", "q_mean", "td_error")
"""The scalars that each gradient step adds to; the report gives their means over the steps.

q_mean: of the moves taken, in units of scaled reward. td_error: mean |Q - y|. anchor_kl: 0 where its weight is 0.
"""
JUDGED = (
    "entropy", "entropy_share", "explained_variance", "q_bias", "effective_sample_share", "clipped_mass",
    "false_claim", "approx_kl",
)  # fmt: skip
"""Of the episodes handed in, by the networks as they were when the call began; see `_judge`."""
SCALARS = (*PARTS, *JUDGED, "epsilon", "remembered", "min_update_change", "updates")
"""epsilon: of the next episodes. remembered: valid transitions in the replay."""


def optimiser() -> optax.GradientTransformation:
    """Adam's direction; the learning rate is applied in `update`, where it is an argument."""
    return optax.scale_by_adam(eps=ADAM_EPS)


def init(
    config: DQNConfig, schema: AgentSchema, hidden_width: int, key: Array, normaliser: Normaliser
) -> AgentState:
    """An untrained agent: where the schema has a zero move, that move is the best everywhere, by `zero_bias`.

    Everywhere: scaled observations are bounded, and the small advantage head cannot make up for a bias of 0.5.
    hidden_width: H of the episodes; the hidden truth itself is not used. Orthogonal weights, drawn from `key`.
    Raises BadInput for a schema of residuals: a maximum over them is no sum.
    """
    if schema.actions is not Actions.MOVES:
        raise BadInput("DQN chooses among moves; this task has residuals, use 'ppo' or 'sac'.")
    require_widths(normaliser, schema.observation_size, hidden_width)
    for_weights, for_training = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(for_weights)))
    widths = (schema.observation_size, *config.hidden)
    trunk = tuple(orthogonal(rng, i, o, math.sqrt(2.0)) for i, o in itertools.pairwise(widths))
    value = orthogonal(rng, widths[-1], 1, 1.0)
    advantage = orthogonal(
        rng, widths[-1], schema.action_size, 1.0 if schema.zero_move is None else OUTPUT_SCALE
    )
    if schema.zero_move is not None:
        advantage = Layer(advantage.weight, advantage.bias.at[schema.zero_move].set(config.zero_bias))
    agent = Agent(Dueling(trunk, value, advantage))
    none = jnp.zeros((), jnp.int32)
    return AgentState(
        agent=agent, target=agent.q, normaliser=normaliser, optimiser=optimiser().init(ravel_pytree(agent)[0]),
        replay=empty(schema, transitions=config.replay_size, steps=config.replay_steps),
        epsilon=jnp.asarray(config.epsilon, jnp.float32), seen=none,
        key=jax.random.key_data(for_training), updates=none, calls=none,
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
    """One training call: the episodes are remembered, then num_epochs x ceil(their valid transitions /
    batch_size) gradient steps, at most `limit`, each on batch_size transitions of the whole memory.

    Compiles once per (padded shapes, width, n_step, sampling); episodes, epochs and the minibatch's size, at most
    `width`, are data. The caller refuses the result, and keeps the old state, when the report shows a false claim
    or a number that is not finite.
    """
    c = coefficients
    begun = _begin(state, experience)
    count = jnp.sum(experience.valid, dtype=jnp.int32)
    steps = jnp.minimum(num_epochs * ((count + batch_size - 1) // batch_size), limit)
    _, shaped = ravel_pytree(state.agent)

    def minibatch(run: _Run) -> _Run:
        batch = _minibatch(
            begun, shaped(run.weights), shaped(run.target).q, run, state, anchor, c, batch_size, width
        )
        return _gradient_step(run, batch, shaped, begun, state.updates, c)

    run = jax.lax.while_loop(lambda r: r.tally.updates < steps, minibatch, _Run.begin(state, begun, c))
    seen = state.seen + count
    trained = AgentState(
        agent=shaped(run.weights), target=shaped(run.target).q, normaliser=state.normaliser, optimiser=run.moments,
        replay=_remembered(begun, run), epsilon=_epsilon(seen, c), seen=seen, key=begun.key,
        updates=state.updates + run.tally.updates, calls=state.calls + 1,
    )  # fmt: skip
    return trained, _report(state, trained, run, begun, _judge(state, trained, experience, c))


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
    """The rows of the first gradient step that `update` would take from the same arguments."""
    begun = _begin(state, experience)
    run = _Run.begin(state, begun, coefficients)
    return _minibatch(
        begun, state.agent, state.target, run, state, anchor, coefficients, batch_size, width
    ).rows


class Rows(eqx.Module):
    """A minibatch [N, ...] with all that a gradient step holds fixed.

    observation: scaled. target: y. anchor, anchor_entropy: its probabilities [N,A] and their entropy, zeros where
    it counts nothing. importance: of prioritised sampling, else 1. weight: of the episode. valid: False for padding.
    """

    observation: Array
    mask: Array
    action: Array
    target: Array
    anchor: Array
    anchor_entropy: Array
    importance: Array
    weight: Array
    logged: Array
    valid: Array


class _Minibatch(eqx.Module):
    """Rows, and where in the memory they came from."""

    rows: Rows
    drawn: Drawn


class _Begun(eqx.Module):
    """What all gradient steps of a call share: the memory with the new rows, its valid transitions, the key
    that minibatches are drawn by, the key and the memory's priorities that the next call begins with."""

    replay: Replay
    valid: Slots
    drawing: Array
    key: Array


def _begin(state: AgentState, played: Experience) -> _Begun:
    key, drawing = jax.random.split(jax.random.wrap_key_data(state.key))
    replay = add(state.replay, played)
    return _Begun(replay, slots(replay), drawing, jax.random.key_data(key))


class _Tally(eqx.Module):
    """Sums over the gradient steps of a call."""

    parts: Array
    norms: Array
    min_change: Array
    updates: Array


class _Run(eqx.Module):
    """What one gradient step hands to the next; `weights` is the whole agent as one vector, `target` the slow one.

    ranked: the memory's priorities, where they are used. The memory itself stays outside the loop.
    """

    weights: Array
    target: Array
    moments: optax.ScaleByAdamState
    ranked: tuple[Array, Array] | None
    tally: _Tally

    @staticmethod
    def begin(state: AgentState, begun: _Begun, c: Coefficients) -> _Run:
        norms = jnp.zeros((2, len(jax.tree.leaves(state.agent))))
        tally = _Tally(jnp.zeros(len(PARTS)), norms, jnp.full((), jnp.inf), jnp.zeros((), jnp.int32))
        ranked = (begun.replay.priority, begun.replay.largest) if c.sampling is Sampling.PRIORITISED else None
        weights, target = ravel_pytree(state.agent)[0], ravel_pytree(state.target)[0]
        return _Run(weights, target, state.optimiser, ranked, tally)


def _remembered(begun: _Begun, run: _Run) -> Replay:
    """The memory with the priorities as the run left them."""
    if run.ranked is None:
        return begun.replay
    return replace(begun.replay, priority=run.ranked[0], largest=run.ranked[1])


def _epsilon(seen: Array, c: Coefficients) -> Array:
    """The share of moves at random after `seen` transitions."""
    return c.epsilon + jnp.minimum(seen / c.epsilon_transitions, 1.0) * (c.epsilon_final - c.epsilon)


def greedy(q: Array, mask: Array) -> Array:
    """The best allowed move [...] int32 by q [..., A]."""
    return dist.mode(jnp.where(mask, q, dist.FORBIDDEN))


def of_move(q: Array, action: Array) -> Array:
    """Q [...] of the moves `action` [...] int, from q [..., A]."""
    return dist.log_prob_of(q, action)


def double_value(q: Array, slow: Array, mask: Array) -> Array:
    """What the slow network says of the move [...] that the network thinks best; 0 where no move is allowed.

    q, slow, mask [..., A]. Source: van Hasselt, Guez and Silver (2016), equation 4.
    """
    return jnp.where(jnp.any(mask, axis=-1), of_move(slow, greedy(q, mask)), 0.0)


def _targets(agent: Agent, slow: Dueling, played: Window, after: Array, c: Coefficients) -> Array:
    """Retrace targets [N,n] of the greedy policy; after [N,n,O]: the scaled observation after each transition."""
    q, q_slow, mask = agent.q.q_values(after), slow.q_values(after), played.mask[:, 1:]
    # Q and ratio of each transition but the first, whose own do not enter its target.
    kept = of_move(q_slow[:, :-1], played.action[:, 1:])
    is_greedy = greedy(q[:, :-1], mask[:, :-1]) == played.action[:, 1:]
    ratio = jnp.where(is_greedy, jnp.exp(-played.log_prob[:, 1:]), 0.0)
    late = ((0, 0), (1, 0))
    return retrace(
        played.reward * c.reward_scale, jnp.pad(kept, late), double_value(q, q_slow, mask), played.end,
        played.valid, jnp.pad(ratio, late), gamma=c.gamma, lam=c.trace,
    )  # fmt: skip


def _drawn(begun: _Begun, run: _Run, c: Coefficients, width: int) -> Drawn:
    key = jax.random.fold_in(begun.drawing, run.tally.updates)
    if c.sampling is Sampling.PRIORITISED:
        replay = _remembered(begun, run)
        return sample_prioritised(replay, key, width, alpha=c.priority_alpha, beta=c.priority_beta)
    return sample(begun.replay, begun.valid, key, width)


def _minibatch(
    begun: _Begun, agent: Agent, slow: Dueling, run: _Run, state: AgentState, anchor: Policy, c: Coefficients,
    batch_size: Array, width: int,
) -> _Minibatch:  # fmt: skip
    drawn = _drawn(begun, run, c, width)
    played = windows(begun.replay, drawn, c.n_step)
    scaled = state.normaliser.observation(played.observation)
    mask = played.mask[:, 0]
    if isinstance(anchor, Gaussian | SquashedGaussian):
        raise BadInput("anchor: a policy of residuals cannot be the anchor of one of moves.")

    def asked() -> tuple[Array, Array]:
        if isinstance(anchor, EpsilonSoft):
            # The softmax of its own Q: an anchor must not pull where nothing has moved, as one that all but always
            # plays one move would, whatever the gap in Q.
            q = anchor.actor.q_values(anchor.scaling(played.observation[:, 0]))
            log_probs = dist.log_probabilities(q, mask)
        else:
            log_probs = anchor.log_probs(played.observation[:, 0], mask)
        return jnp.where(mask, jnp.exp(log_probs), 0.0), dist.entropy(log_probs, mask)

    # Only asked where it counts: it is another network to evaluate.
    unasked = jnp.zeros(mask.shape), jnp.zeros(mask.shape[0])
    probability, entropy = jax.lax.cond(c.anchor_kl > 0, asked, lambda: unasked)
    rows = Rows(
        observation=scaled[:, 0], mask=mask, action=played.action[:, 0],
        target=_targets(agent, slow, played, scaled[:, 1:], c)[:, 0], anchor=probability,
        anchor_entropy=entropy, importance=drawn.importance, weight=played.weight, logged=played.logged,
        valid=jnp.arange(width) < batch_size,
    )  # fmt: skip
    return _Minibatch(rows, drawn)


def _loss(agent: Agent, rows: Rows, c: Coefficients) -> tuple[Array, tuple[Array, Array]]:
    """The loss over one minibatch, PARTS, and |TD error| [N]. Means are over present rows, by fixed episode weights.

    The divisor is the number of rows and not the sum of their weights: a self-normalised mean would
    undo a little of every Horvitz-Thompson weight, and of every importance.
    """
    share = rows.valid / jnp.maximum(jnp.sum(rows.valid), 1)
    q = agent.q.q_values(rows.observation)
    taken = of_move(q, rows.action)
    missed = jnp.abs(taken - rows.target)
    near = jnp.minimum(missed, c.huber)
    ceiling = jax.nn.logsumexp(jnp.where(rows.mask, q, dist.FORBIDDEN), axis=-1)
    above = rows.logged * (ceiling - taken)
    divergence = ceiling - jnp.sum(rows.anchor * q, axis=-1) - rows.anchor_entropy
    pull = jnp.where(c.anchor_kl > 0, divergence, 0.0)
    # Means by one small matrix product each: a dozen separate sums are a dozen kernels to launch.
    means = jnp.stack([near * (missed - 0.5 * near), above, pull]) @ (share * rows.weight * rows.importance)
    loss = means @ jnp.stack([jnp.ones(()), c.conservative, c.anchor_kl])
    seen = jnp.stack([taken, missed]) @ share
    return loss, (jnp.concatenate([loss[None], means, seen]), missed)


def _objective(agent: Agent, rows: Rows, c: Coefficients) -> Array:
    return _loss(agent, rows, c)[0]


OBJECTIVES: dict[str, Callable[[Agent, Rows, Coefficients], Array]] = {"q": _objective}
"""By field of Agent: the loss whose gradient in that field is the one a step takes, before clipping."""


def _gradient_step(
    run: _Run,
    batch: _Minibatch,
    shaped: Callable[[Array], Agent],
    begun: _Begun,
    updates: Array,
    c: Coefficients,
) -> _Run:
    """One step of Adam, after which the slow network follows where it is due.

    updates: gradient steps before this call, so that the slow network's rhythm does not begin anew with each.
    """
    gradient, (parts, missed) = jax.grad(_loss, has_aux=True)(shaped(run.weights), batch.rows, c)
    step = descend(
        run.weights, run.moments, (gradient,), optimiser(),
        learning_rate=c.learning_rate, max_grad_norm=c.max_grad_norm,
    )  # fmt: skip
    due = (updates + run.tally.updates + 1) % c.target_every == 0
    tau = jnp.where(due, c.tau, 0.0)
    # Not slow + tau x (now - slow): with tau 1 it must become the network itself, to the last bit.
    target = (1.0 - tau) * run.target + tau * step.weights
    ranked = run.ranked
    if ranked is not None:
        replay = reprioritise(
            _remembered(begun, run), batch.drawn, missed + SMALLEST_PRIORITY, batch.rows.valid
        )
        ranked = (replay.priority, replay.largest)
    tally = _Tally(
        parts=run.tally.parts + parts,
        norms=run.tally.norms + step.norms,
        min_change=jnp.minimum(run.tally.min_change, step.change),
        updates=run.tally.updates + 1,
    )
    return _Run(step.weights, target, step.moments, ranked, tally)


def _judge(state: AgentState, trained: AgentState, played: Experience, c: Coefficients) -> Array:
    """JUDGED, of the episodes handed in and by the networks as they were when the call began.

    approx_kl: KL(policy when the call began || after it), each with its epsilon.
    entropy: of the epsilon-soft policy, in nats; it depends on epsilon and the masks alone.
    explained_variance, q_bias: of Q against the return that was observed, discounted, bootstrapped where the
    clock or the row cut an episode; 1 - Var(G - Q) / Var(G), and mean(Q - G) in deviations of G. The return is that of
    the behaviour, random moves included, so some bias above 0 is the price of exploring and not an error.
    effective_sample_share: of pi / mu over transitions that are not simulated, or over all when there are
    none. clipped_mass: share of pi / mu above 1, which Retrace cuts off. false_claim: how far, in nats, claimed
    log-probabilities are from those of the weights they name.
    """
    valid, mask = played.valid, played.mask
    observation = state.normaliser.observation(played.observation)
    q, slow = state.agent.q.q_values(observation), state.target.q_values(observation[:, 1:])
    taken = of_move(q[:, :-1], played.action)
    # With the moves that were made as its own, Retrace is the plain return.
    next_taken = jnp.pad(taken[:, 1:], ((0, 0), (0, 1)))
    ahead = jnp.where(follows(played.end, valid), next_taken, double_value(q[:, 1:], slow, mask[:, 1:]))
    returned = retrace(
        played.reward * c.reward_scale,
        taken,
        ahead,
        played.end,
        valid,
        jnp.ones(valid.shape),
        gamma=c.gamma,
        lam=1.0,
    )
    spread = jnp.var(returned, where=valid)
    varies = jnp.where(spread > 0, spread, 1.0)
    count = jnp.sum(valid)
    bias = jnp.sum((taken - returned) * valid) / count / jnp.sqrt(varies)
    explained = 1.0 - jnp.var(returned - taken, where=valid) / varies

    log_probs = dist.epsilon_soft(q[:, :-1], mask[:, :-1], state.epsilon)
    now = dist.epsilon_soft(trained.agent.q.q_values(observation[:, :-1]), mask[:, :-1], trained.epsilon)
    ratio = jnp.exp(jnp.where(valid, dist.log_prob_of(log_probs, played.action) - played.log_prob, 0.0))
    real = valid & ~played.simulated[:, None]
    foreign = jnp.where(jnp.any(real), real, valid)
    claims = valid & played.claimed[:, None]
    untrue = _untrue(q[:, :-1], mask[:, :-1], played.action, played.log_prob, state.epsilon)
    entropy = jnp.sum(dist.entropy(log_probs, mask[:, :-1]) * valid)
    largest = jnp.sum(dist.largest_entropy(mask[:, :-1]) * valid)
    return jnp.stack([
        entropy / count,
        entropy / jnp.where(largest > 0, largest, 1.0),
        jnp.where(spread > 0, explained, 0.0),
        jnp.where(spread > 0, bias, 0.0),
        jnp.sum(ratio * foreign) ** 2 / (jnp.sum(ratio**2 * foreign) * jnp.sum(foreign)),
        1.0 - jnp.sum(jnp.minimum(ratio, 1.0) * valid) / jnp.sum(ratio * valid),
        jnp.max(jnp.where(claims, untrue, 0.0)),
        jnp.sum(dist.kl(log_probs, now, mask[:, :-1]) * valid) / count,
    ])  # fmt: skip


def _untrue(q: Array, mask: Array, action: Array, log_prob: Array, epsilon: Array) -> Array:
    """How far [...] a claimed log_prob is from the epsilon-soft policy's, in nats.

    Where two moves tie but for rounding, either may have been the best when it was played: the number of
    observations in a matrix product already decides. There the nearer of both answers counts.
    """
    allowed = jnp.where(mask, q, dist.FORBIDDEN)
    best = jnp.max(allowed, axis=-1)
    tied = allowed >= (best - TIE * jnp.maximum(1.0, jnp.abs(best)))[..., None]
    other = epsilon / jnp.maximum(jnp.sum(mask, axis=-1), 1)
    as_best = jnp.abs(log_prob - jnp.log(1.0 - epsilon + other))
    as_other = jnp.abs(log_prob - jnp.log(other))
    may_be_best = jnp.take_along_axis(tied, action[..., None], axis=-1)[..., 0]
    may_be_other = ~may_be_best | (jnp.sum(tied, axis=-1) > 1)
    return jnp.minimum(jnp.where(may_be_best, as_best, jnp.inf), jnp.where(may_be_other, as_other, jnp.inf))


def _report(before: AgentState, after: AgentState, run: _Run, begun: _Begun, judged: Array) -> Report:
    steps = jnp.maximum(run.tally.updates, 1)
    ends = jnp.stack([
        after.epsilon, begun.valid.count.astype(jnp.float32), run.tally.min_change,
        run.tally.updates.astype(jnp.float32),
    ])  # fmt: skip
    moved = jax.tree.map(jnp.subtract, after.agent, before.agent)
    squares = [jnp.sum(x * x) for tree in (moved, before.agent) for x in jax.tree.leaves(tree)]
    return Report(
        scalars=jnp.concatenate([run.tally.parts / steps, judged, ends]),
        per_tensor=jnp.concatenate([run.tally.norms / steps, jnp.sqrt(jnp.stack(squares)).reshape(2, -1)]),
    )
