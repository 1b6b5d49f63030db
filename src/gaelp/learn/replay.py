"""A replay memory of whole rows of episodes: a ring of arrays, a sampler, and nothing about losses.

The memory is part of an agent's state: plain arrays, replaced and never altered, saved and restored whole by
name. Drawing needs only the memory and a key, so a resumed run draws what the unbroken one would have drawn.
"""

from __future__ import annotations

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from gaelp.core.episode import End
from gaelp.core.errors import BadInput, ShapeError
from gaelp.core.schema import Actions, AgentSchema
from gaelp.learn.experience import Experience


class Replay(eqx.Module):
    """R rows of T transitions, as an Experience has them, and what the sampler needs.

    observation [R,T+1,O], mask [R,T+1,A], action [R,T] int32 or [R,T,A] float32; log_prob, reward, end, valid
    [R,T]; weight, logged [R]. priority [R,T]: of each transition, above 0; largest []: the largest ever set, which
    new transitions get. cursor []: the row written next; filled []: rows written so far, at most R.
    """

    observation: Array
    mask: Array
    action: Array
    log_prob: Array
    reward: Array
    end: Array
    valid: Array
    weight: Array
    logged: Array
    priority: Array
    largest: Array
    cursor: Array
    filled: Array

    @property
    def rows(self) -> int:
        """R."""
        return int(self.valid.shape[0])

    @property
    def steps(self) -> int:
        """T."""
        return int(self.valid.shape[1])


def empty(schema: AgentSchema, *, transitions: int, steps: int) -> Replay:
    """A memory for at least `transitions` transitions, in rows of `steps`: R = ceil(transitions / steps).

    Bytes: about transitions x (1 + 1 / steps) x (4 observation_size + action_size); 20,000 transitions of a
    campaign are 26 MB.
    """
    if steps < 1 or transitions < 1:
        raise BadInput(f"replay: {transitions} transitions in rows of {steps}, expected both above 0.")
    r, o, a = -(-transitions // steps), schema.observation_size, schema.action_size
    action = jnp.zeros((r, steps), jnp.int32)
    return Replay(
        observation=jnp.zeros((r, steps + 1, o)), mask=jnp.zeros((r, steps + 1, a), bool),
        action=action if schema.actions is Actions.MOVES else jnp.zeros((r, steps, a)),
        log_prob=jnp.zeros((r, steps)), reward=jnp.zeros((r, steps)), end=jnp.zeros((r, steps), jnp.int8),
        valid=jnp.zeros((r, steps), bool), weight=jnp.zeros(r), logged=jnp.zeros(r, bool),
        priority=jnp.ones((r, steps)), largest=jnp.ones(()),
        cursor=jnp.zeros((), jnp.int32), filled=jnp.zeros((), jnp.int32),
    )  # fmt: skip


def add(replay: Replay, played: Experience) -> Replay:
    """The memory with the rows of `played` that hold a valid transition, over the oldest ones.

    Padded rows neither overwrite nor advance anything. Of more rows than the memory holds the last ones stay.
    Raises ShapeError when `played` has more decisions than a row of the memory, or other sizes.
    """
    b, t = played.valid.shape
    r, steps = replay.valid.shape
    if t > steps:
        raise ShapeError(f"replay: episodes have {t} decisions, rows hold {steps}; set a longer row.")
    for name in ("observation", "mask", "action"):
        got, want = getattr(played, name).shape[2:], getattr(replay, name).shape[2:]
        if got != want:
            raise ShapeError(f"replay: {name} has {list(got)} per decision, expected {list(want)}.")
    real = jnp.any(played.valid, axis=1)
    rank, count = jnp.cumsum(real) - 1, jnp.sum(real, dtype=jnp.int32)
    # Rows beyond the capacity would meet in one place, and which of them stays would be anybody's guess.
    kept = real & (rank >= count - r)
    where = jnp.where(kept, (replay.cursor + rank) % r, r)

    def put(memory: Array, new: Array) -> Array:
        late = [(0, have - got) for have, got in zip(memory.shape[1:], new.shape[1:], strict=True)]
        return memory.at[where].set(jnp.pad(new, [(0, 0), *late]).astype(memory.dtype), mode="drop")

    names = ("observation", "mask", "action", "log_prob", "reward", "end", "valid", "weight", "logged")
    fresh = jnp.broadcast_to(replay.largest, (b, steps))
    return replace(
        replay,
        **{name: put(getattr(replay, name), getattr(played, name)) for name in names},
        priority=put(replay.priority, fresh),
        cursor=(replay.cursor + count) % r,
        filled=jnp.minimum(replay.filled + count, r),
    )


class Slots(eqx.Module):
    """Where the valid transitions are: the first `count` [] of index [R*T], each row * T + step."""

    index: Array
    count: Array


def slots(replay: Replay) -> Slots:
    """The valid transitions of the memory; found once per call, however many minibatches are then drawn."""
    flat = replay.valid.ravel()
    (index,) = jnp.nonzero(flat, size=flat.size, fill_value=0)
    return Slots(index.astype(jnp.int32), jnp.sum(flat, dtype=jnp.int32))


class Drawn(eqx.Module):
    """Transitions by row [N] and step [N], and the importance [N] that makes their mean the memory's mean."""

    row: Array
    step: Array
    importance: Array


def sample(replay: Replay, valid: Slots, key: Array, n: int) -> Drawn:
    """n transitions, each valid one as likely as any other, with replacement; importance 1."""
    # What is left over by 2^32 makes the first ones likelier, by count / 2^32: too little ever to be seen.
    number = jax.random.bits(key, (n,)) % jnp.maximum(valid.count, 1).astype(jnp.uint32)
    at = valid.index[number]
    return Drawn(at // replay.steps, at % replay.steps, jnp.ones(n))


def sample_prioritised(
    replay: Replay, key: Array, n: int, *, alpha: Array | float, beta: Array | float
) -> Drawn:
    """n transitions with P(i) = priority_i^alpha / sum, with replacement.

    importance_i = (count x P(i))^-beta, count the valid transitions: nothing else is normalised. With beta 1
    the mean of importance x f over the draws has exactly the mean of f over the memory as its expectation;
    dividing by the largest importance of the minibatch, as is often done, would lose that.
    Source: Schaul et al. (2016), section 3.4.
    """
    mass = jnp.where(replay.valid, replay.priority**alpha, 0.0)
    by_row = jnp.sum(mass, axis=1)
    uniform = jax.random.uniform(key, (2, n))
    row = _invert(jnp.broadcast_to(by_row, (1, replay.rows)), uniform[:1])[0]
    step = _invert(mass[row], uniform[1][:, None])[:, 0]
    probability = mass[row, step] / jnp.sum(by_row)
    count = jnp.sum(replay.valid)
    return Drawn(row, step, (count * probability) ** -beta)


def _invert(mass: Array, uniform: Array) -> Array:
    """The index [K,N] int32 at which the cumulative mass [K,M] first exceeds uniform [K,N] x the total.

    An index without mass is never drawn, although rounding may carry the product up to the total itself.
    """
    cumulative = jnp.cumsum(mass, axis=-1)
    below = jax.vmap(lambda c, u: jnp.searchsorted(c, u, side="right"))(
        cumulative, uniform * cumulative[:, -1:]
    )
    last = mass.shape[-1] - 1 - jnp.argmax((mass > 0)[:, ::-1], axis=-1)
    return jnp.minimum(below, last[:, None]).astype(jnp.int32)


def reprioritise(replay: Replay, drawn: Drawn, priority: Array, present: Array) -> Replay:
    """The memory with new priorities [N] (above 0) for the drawn transitions that are `present` [N] bool."""
    where = jnp.where(present, drawn.row, replay.rows)
    largest = jnp.max(jnp.where(present, priority, 0.0))
    return replace(
        replay,
        priority=replay.priority.at[where, drawn.step].set(priority, mode="drop"),
        largest=jnp.maximum(replay.largest, largest),
    )


class Window(eqx.Module):
    """n consecutive transitions from each of N: observation [N,n+1,O], mask [N,n+1,A], action [N,n] or [N,n,A];
    log_prob, reward, end, valid [N,n]; weight, logged [N].

    valid: the transition exists and belongs to the same episode as the first. What stands elsewhere is noise.
    """

    observation: Array
    mask: Array
    action: Array
    log_prob: Array
    reward: Array
    end: Array
    valid: Array
    weight: Array
    logged: Array


def windows(replay: Replay, drawn: Drawn, n: int) -> Window:
    """The n transitions from each drawn one on; a window ends with its episode or its row."""
    row, ahead = drawn.row[:, None], drawn.step[:, None] + jnp.arange(n + 1)
    at, after = jnp.minimum(ahead[:, :-1], replay.steps - 1), jnp.minimum(ahead, replay.steps)
    end = replay.end[row, at]
    exists = replay.valid[row, at] & (ahead[:, :-1] < replay.steps)
    goes_on = jnp.pad(end[:, :-1] == End.RUNNING, ((0, 0), (1, 0)), constant_values=True)
    valid = jnp.cumprod(exists & goes_on, axis=1).astype(bool)
    return Window(
        observation=replay.observation[row, after], mask=replay.mask[row, after], action=replay.action[row, at],
        log_prob=replay.log_prob[row, at], reward=replay.reward[row, at], end=end, valid=valid,
        weight=replay.weight[drawn.row], logged=replay.logged[drawn.row],
    )  # fmt: skip
