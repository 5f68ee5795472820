"""Weights of a cell: drawn gate by gate, or given."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from rnndyn.networks.cells.checks import check_weights
from rnndyn.networks.initializers import Initializer

C = TypeVar("C")


def draw(name: str, init: Initializer, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
    """What `init` draws, after a check of its shape."""
    array = jnp.asarray(init(key, shape, dtype), dtype)
    if array.shape != shape:
        raise ValueError(f"{name}: expected an initialiser that returns shape {shape}, got {array.shape}.")
    return array


def draw_blocks(
    name: str, init: Initializer, key: PRNGKeyArray, num_blocks: int, shape: tuple[int, ...], dtype: Any
) -> Array:
    """`num_blocks` independent draws of `shape`, one per gate, stacked along the rows."""
    keys = jax.random.split(key, num_blocks)
    return jnp.concatenate([draw(name, init, block_key, shape, dtype) for block_key in keys])


def build_with_weights(build: Callable[[PRNGKeyArray], C], weights: dict[str, Any]) -> C:
    """The cell that `build(key)` describes, with the given `weights` in place of drawn ones.

    Nothing is drawn: `build` is only traced, for the shapes that the weights must have. Raises `ValueError` for a
    weight of another shape, or with NaN or infinity.
    """
    skeleton = eqx.filter_eval_shape(lambda: build(jax.random.key(0)))
    dtype = jnp.result_type(float, *(jnp.result_type(weight) for weight in weights.values()))
    arrays = {name: jnp.asarray(weight, dtype) for name, weight in weights.items()}
    for name, array in arrays.items():
        expected = getattr(skeleton, name).shape
        if array.shape != expected:
            raise ValueError(f"{name}: expected shape {expected}, got {array.shape}.")
    check_weights(arrays, name="weights")
    names = list(arrays)
    return eqx.tree_at(lambda cell: [getattr(cell, name) for name in names], skeleton, [arrays[name] for name in names])


def sizes_of(weight_ih: Any, weight_hh: Any) -> tuple[int, int]:
    """`(input_size, hidden_size)` of two weights, whose columns these are."""
    for name, weight in (("weight_ih", weight_ih), ("weight_hh", weight_hh)):
        if np.ndim(weight) != 2:
            raise ValueError(f"{name}: expected a matrix (rows out, columns in), got shape {np.shape(weight)}.")
    return np.shape(weight_ih)[1], np.shape(weight_hh)[1]
