"""What a transition is worth: bootstrapping, V-trace, Retrace, and nothing about networks.

`continues` alone decides whether there is a future, `follows` alone whether what comes next belongs to the same
episode; every algorithm asks them.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from gaelp.core.episode import End
from gaelp.core.errors import ShapeError


def continues(end: Array, valid: Array) -> Array:
    """1.0 where the value of the observation after a transition counts, else 0.0; shapes [...].

    RUNNING and TRUNCATED: the world goes on and only our watching may have stopped, so the next value
    counts. TERMINATED: there is no future. Padding: nothing counts.
    """
    return jnp.where(valid & (end != End.TERMINATED), 1.0, 0.0)


def follows(end: Array, valid: Array) -> Array:
    """True [B,T] where transition t+1 of the row belongs to the same episode as t."""
    return (end == End.RUNNING) & valid & jnp.pad(valid[:, 1:], ((0, 0), (0, 1)))


class Estimates(eqx.Module):
    """advantage [B,T]: of the logged move, without its own importance weight. target [B,T]: for the critic."""

    advantage: Array
    target: Array


def vtrace(
    reward: Array,
    value: Array,
    end: Array,
    valid: Array,
    ratio: Array,
    *,
    gamma: Array | float,
    lam: Array | float,
    rho_bar: Array | float,
) -> Estimates:
    """V-trace(lambda) over padded episodes; with ratios of 1 it is GAE(lambda), term by term.

    reward, end, valid, ratio [B,T]; value [B,T+1]; ratio = pi / mu of the logged move. With
    d_t = r_t + gamma V_{t+1} - V_t, rho = min(rho_bar, ratio) and c = lam min(1, ratio):

        e_t      = rho_t d_t + gamma c_t e_{t+1}      (e = v - V, the corrected error)
        target_t = V_t + e_t
        adv_t    = d_t + gamma lam e_{t+1}

    With ratio 1: e_t = d_t + gamma lam e_{t+1}, which is GAE's recursion, and adv_t = e_t. The move's own
    rho is left to the policy loss, where it stands as the weight of the sample. Errors are carried from
    one transition to the next of the same episode only; what `continues` says is bootstrapped.
    Raises ShapeError when shapes differ: broadcasting here would learn nonsense quietly.
    Source: Espeholt et al. (2018), IMPALA, section 4.1; the lambda form of rlax.
    """
    b, t = reward.shape
    if value.shape != (b, t + 1) or not (end.shape == valid.shape == ratio.shape == (b, t)):
        raise ShapeError(
            f"returns: reward {reward.shape} needs value {(b, t + 1)} and end, valid, ratio {(b, t)}; "
            f"got {value.shape}, {end.shape}, {valid.shape}, {ratio.shape}."
        )
    delta = jnp.where(valid, reward + gamma * continues(end, valid) * value[:, 1:] - value[:, :-1], 0.0)
    # Two days may follow each other in one row: an error never crosses from one into the other.
    carry = gamma * lam * follows(end, valid)

    def back(error_after: Array, step: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        delta_t, carry_t, ratio_t = step
        error = jnp.minimum(rho_bar, ratio_t) * delta_t + carry_t * jnp.minimum(1.0, ratio_t) * error_after
        return error, (error, delta_t + carry_t * error_after)

    steps = (delta.T, carry.T, jnp.where(valid, ratio, 1.0).T)
    _, (error, advantage) = jax.lax.scan(back, jnp.zeros(b, delta.dtype), steps, reverse=True)
    return Estimates(advantage=advantage.T, target=value[:, :-1] + error.T)


def retrace(
    reward: Array,
    q: Array,
    next_value: Array,
    end: Array,
    valid: Array,
    ratio: Array,
    *,
    gamma: Array | float,
    lam: Array | float,
) -> Array:
    """Retrace(lambda) targets [N,n] for the moves taken in windows of n transitions.

    reward, q, next_value, end, valid, ratio [N,n]: q = Q(s_t, a_t); next_value = E_pi Q(s_{t+1}, .), with
    whatever the algorithm subtracts for entropy; ratio = pi / mu of the move taken. With c = lam min(1, ratio),
    d_t = r_t + gamma V_{t+1} - Q_t and e_t = target_t - Q_t:

        target_t = r_t + gamma V_{t+1} + gamma c_{t+1} e_{t+1}

    that is Q_t + sum_k gamma^(k-t) (prod c) d_k. With n = 1 it is the one-step target; with ratio and lam 1
    the n-step return where V is Q of the move taken. A transition's own Q and ratio do not enter its own target,
    so what stands in the first column is free. The sum stays within an episode (`follows`) and what
    `continues` says is bootstrapped. Where a transition is invalid, its target is 0.
    Raises ShapeError when shapes differ: broadcasting here would learn nonsense quietly.
    Source: Munos et al. (2016), equation 4.
    """
    if len({x.shape for x in (reward, q, next_value, end, valid, ratio)}) > 1 or reward.ndim != 2:
        raise ShapeError(
            f"returns: reward {reward.shape}, q {q.shape}, next_value {next_value.shape}, end {end.shape}, "
            f"valid {valid.shape} and ratio {ratio.shape} must have one shape [N, n]."
        )
    one_step = jnp.where(valid, reward + gamma * continues(end, valid) * next_value, 0.0)
    carry = gamma * follows(end, valid)
    trace = jnp.where(valid, lam * jnp.minimum(1.0, ratio), 0.0)

    def back(traced_after: Array, step: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        one_step_t, carry_t, trace_t, q_t = step
        target = one_step_t + carry_t * traced_after
        return trace_t * (target - q_t), target

    steps = (one_step.T, carry.T, trace.T, jnp.where(valid, q, 0.0).T)
    _, target = jax.lax.scan(back, jnp.zeros(reward.shape[0], reward.dtype), steps, reverse=True)
    return target.T
