"""What every algorithm is fed and what it answers with; shapes only, no learning."""

from __future__ import annotations

import equinox as eqx
from jax import Array


class Experience(eqx.Module):
    """Episodes as `update` takes them: the arrays of an EpisodeBatch, padded to a bucket of rows.

    observation[B,T+1,O], mask[B,T+1,A], action [B,T] int32 or [B,T,A] float32, log_prob, reward, end, valid
    [B,T], weight[B], hidden[B,T+1,H]. simulated[B]: the hidden truth is real, so a privileged critic may judge.
    claimed[B]: provenance says that exactly these weights played, so the logged log-probabilities must be
    theirs. logged[B]: a log that no policy of ours chose, on which values must not be trusted beyond it.

    A row may hold several episodes: after a transition that ends one, observation[t+1] is its final
    observation; an invalid transition follows, whose next observation is the first of the next episode.
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
    logged: Array


PER_TENSOR = ("gradient_norm_before", "gradient_norm_after", "weight_change", "weight_norm")


class Report(eqx.Module):
    """What a call measured, in two arrays so that it is fetched at once: scalars [S] in the order of the
    algorithm's SCALARS, per_tensor [4, K] in that of PER_TENSOR, one column for each tensor of the agent."""

    scalars: Array
    per_tensor: Array
