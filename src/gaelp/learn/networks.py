"""The parts that agents are built of: plain MLPs on the flat observation, and every array by its name.

What this is not: an encoder shared by line items. Every item slot has weights of its own, so what is
learned about one item says nothing about another. That is right for accounts of a few items; the
per-item encoder for accounts with many is not built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from gaelp.core.errors import ShapeError

OUTPUT_SCALE = 1e-3
"""The actor's last layer starts this small: the untrained agent's mode is the zero move everywhere."""


class Layer(eqx.Module):
    """An affine map: weight [inputs, outputs], bias [outputs]."""

    weight: Array
    bias: Array


Layers = tuple[Layer, ...]
Activation = Callable[[Array], Array]

Tree = TypeVar("Tree")


@jax.custom_vjp
def product(x: Array, weight: Array) -> Array:
    """x @ weight: x [..., inputs], weight [inputs, outputs] -> [..., outputs]; only its gradient is computed otherwise.

    The gradient of a weight multiplies two factors that both lie the wrong way, which XLA does on a processor at
    a half to a tenth of its speed; and where they are transposed first, it folds that back into the product. Barriers
    hold it off, around the narrower of the two.
    """
    return x @ weight


def _product_forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ weight, (x, weight)


def _product_backward(kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, weight = kept
    rows, slopes = (a.reshape(-1, a.shape[-1]) for a in (x, slope))
    as_it_is = jax.lax.optimization_barrier
    if slopes.shape[1] < rows.shape[1]:
        return slope @ weight.T, as_it_is(as_it_is(slopes.T) @ rows).T
    return slope @ weight.T, as_it_is(rows.T) @ slopes


product.defvjp(_product_forward, _product_backward)


def forward(layers: Layers, x: Array, activation: Activation = jnp.tanh) -> Array:
    """Affine maps with `activation` between them: x [..., inputs] -> [..., outputs of the last layer]."""
    for layer in layers[:-1]:
        x = activation(product(x, layer.weight) + layer.bias)
    return product(x, layers[-1].weight) + layers[-1].bias


class Dueling(eqx.Module):
    """A relu trunk under two heads: the value of the state and the advantage of every move.

    Source: Wang et al. (2016), equation 9: Q = V + A - mean(A), the mean over all moves, allowed or not.
    """

    trunk: Layers
    value: Layer
    advantage: Layer

    def q_values(self, x: Array) -> Array:
        """Q [..., A] for scaled observations x [..., O]."""
        for layer in self.trunk:
            x = jax.nn.relu(product(x, layer.weight) + layer.bias)
        advantage = product(x, self.advantage.weight) + self.advantage.bias
        value = product(x, self.value.weight) + self.value.bias
        return value + advantage - jnp.mean(advantage, axis=-1, keepdims=True)


def orthogonal(rng: np.random.Generator, inputs: int, outputs: int, scale: float) -> Layer:
    """A layer with an orthogonal weight times `scale` and no bias."""
    # In NumPy, not JAX: a dozen little QR programs would cost more to compile than the training step.
    square = np.linalg.qr(rng.standard_normal((max(inputs, outputs), min(inputs, outputs))))
    q = square.Q * np.sign(np.diagonal(square.R))
    weight = scale * (q if inputs >= outputs else q.T)
    return Layer(jnp.asarray(weight, jnp.float32), jnp.zeros(outputs, jnp.float32))


def stack(rng: np.random.Generator, widths: tuple[int, ...], last_scale: float) -> Layers:
    """Orthogonal layers of the given widths, scale sqrt(2), the last one `last_scale`; biases 0."""
    scales = [np.sqrt(2.0)] * (len(widths) - 2) + [last_scale]
    return tuple(orthogonal(rng, i, o, s) for i, o, s in zip(widths[:-1], widths[1:], scales, strict=True))


def named_arrays(tree: eqx.Module | Layers) -> dict[str, NDArray[np.generic]]:
    """Every array of a pytree on the host, under a dotted name such as `actor.0.weight`."""
    leaves, structure = jax.tree_util.tree_flatten(tree)
    return dict(zip(_names(structure), map(np.asarray, leaves), strict=True))


@lru_cache(maxsize=256)
def _names(structure: jax.tree_util.PyTreeDef) -> tuple[str, ...]:
    # Walking the paths takes ten times as long as the arrays themselves, and every call asks for them.
    numbered = jax.tree_util.tree_unflatten(structure, range(structure.num_leaves))
    return tuple(_dotted(path) for path, _ in jax.tree_util.tree_flatten_with_path(numbered)[0])


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
