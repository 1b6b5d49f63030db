"""The agent's networks: one plain MLP each for the actor and its two critics, on the flat observation.

What this is not: an encoder shared by line items. Every item slot has weights of its own, so what is
learned about one item says nothing about another. That is right for accounts of a few items; the
per-item encoder for accounts with many is not built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from gaelp.core.errors import ShapeError
from gaelp.core.schema import Schema
from gaelp.learn.normalise import Scaling

OUTPUT_SCALE = 1e-3
"""The actor's last layer starts this small: the untrained agent's mode is the zero move everywhere."""


class Layer(eqx.Module):
    """An affine map: weight [inputs, outputs], bias [outputs]."""

    weight: Array
    bias: Array


Layers = tuple[Layer, ...]

Tree = TypeVar("Tree")


def forward(layers: Layers, x: Array) -> Array:
    """Affine maps with tanh between them: x [..., inputs] -> [..., outputs of the last layer]."""
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer.weight + layer.bias)
    return x @ layers[-1].weight + layers[-1].bias


class Policy(eqx.Module):
    """What plays: the actor and the scaling of its observation. Arrays only, so policies can be stacked."""

    actor: Layers
    scaling: Scaling

    def logits(self, observation: Array) -> Array:
        """Unmasked logits [..., A] for raw observations [..., O]."""
        return forward(self.actor, self.scaling(observation))


class Agent(eqx.Module):
    """Everything that is trained.

    critic: value of the observation; it serves every phase. privileged: value of observation and the
    simulator's hidden truth together; it exists for the advantages of simulated episodes only.
    """

    actor: Layers
    critic: Layers
    privileged: Layers


def _orthogonal(rng: np.random.Generator, inputs: int, outputs: int, scale: float) -> Layer:
    # In NumPy, not JAX: a dozen little QR programs would cost more to compile than the training step.
    square = np.linalg.qr(rng.standard_normal((max(inputs, outputs), min(inputs, outputs))))
    q = square.Q * np.sign(np.diagonal(square.R))
    weight = scale * (q if inputs >= outputs else q.T)
    return Layer(jnp.asarray(weight, jnp.float32), jnp.zeros(outputs, jnp.float32))


def _stack(rng: np.random.Generator, widths: tuple[int, ...], last_scale: float) -> Layers:
    scales = [np.sqrt(2.0)] * (len(widths) - 2) + [last_scale]
    return tuple(_orthogonal(rng, i, o, s) for i, o, s in zip(widths[:-1], widths[1:], scales, strict=True))


def fresh_agent(
    schema: Schema, *, hidden: tuple[int, ...], hidden_width: int, zero_bias: float, rng: np.random.Generator
) -> Agent:
    """Orthogonal weights; the actor's bias favours the zero move, so an untrained agent is the pacer.

    hidden: widths of the tanh layers. hidden_width: H, how many numbers the privileged critic sees more.
    """
    actor = _stack(rng, (schema.observation_size, *hidden, schema.action_size), OUTPUT_SCALE)
    bias = actor[-1].bias.at[schema.zero_move].set(zero_bias)
    return Agent(
        actor=(*actor[:-1], Layer(actor[-1].weight, bias)),
        critic=_stack(rng, (schema.observation_size, *hidden, 1), 1.0),
        privileged=_stack(rng, (schema.observation_size + hidden_width, *hidden, 1), 1.0),
    )


def named_arrays(tree: eqx.Module | Layers) -> dict[str, NDArray[np.generic]]:
    """Every array of a pytree on the host, under a dotted name such as `actor.0.weight`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_dotted(path): np.asarray(leaf) for path, leaf in leaves}


def with_named_arrays(tree: Tree, arrays: Mapping[str, NDArray[np.generic]]) -> Tree:
    """The same pytree with its arrays replaced by those of the same names.

    Raises ShapeError when a name is missing or an array has another shape or type; further names are left alone.
    """
    leaves, shape = jax.tree_util.tree_flatten_with_path(tree)
    replaced = []
    for path, leaf in leaves:
        name = _dotted(path)
        if name not in arrays:
            raise ShapeError(f"weights: no array {name!r} among {len(arrays)} given.")
        new = np.asarray(arrays[name])
        if new.shape != leaf.shape or new.dtype != leaf.dtype:
            raise ShapeError(
                f"weights: {name!r} is {new.dtype}{list(new.shape)}, expected {leaf.dtype}{list(leaf.shape)}."
            )
        replaced.append(jnp.asarray(new))
    return jax.tree_util.tree_unflatten(shape, replaced)


def _dotted(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
