"""Weights of a cell: drawn gate by gate, or given."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from rnndyn.networks.cells.checks import check_weights
from rnndyn.networks.initializers import Initializer
from rnndyn.networks.precision import as_leaves
from rnndyn.networks.random_numbers import joined_rows

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
    return joined_rows([draw(name, init, block_key, shape, dtype) for block_key in keys])


def build_with_weights(kind: Callable[..., C], settings: dict[str, Any], weights: dict[str, Any]) -> C:
    """The cell `kind(**settings, key=...)` with the given `weights` in place of drawn ones.

    Nothing is drawn: the constructor is only traced, for the shapes that the weights must have. Raises `ValueError` for
    a weight of another shape, or with NaN or infinity. float64 weights stay float64 (`rnndyn.networks.precision`).
    """
    try:
        skeleton = _kept_skeleton(kind, tuple(settings.items()))
    except TypeError:  # a setting that cannot be hashed: an array
        skeleton = _skeleton(kind, tuple(settings.items()))
    arrays = as_leaves(weights)
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
        if len(shape_of(weight)) != 2:
            raise ValueError(f"{name}: expected a matrix (rows out, columns in), got shape {shape_of(weight)}.")
    return shape_of(weight_ih)[1], shape_of(weight_hh)[1]


def shape_of(weight: Any) -> tuple[int, ...]:
    """The shape of a weight, an array of another library included."""
    return tuple(weight.shape) if hasattr(weight, "shape") else np.shape(weight)


def _skeleton(kind: Callable[..., C], settings: tuple[tuple[str, Any], ...]) -> C:
    return eqx.filter_eval_shape(lambda: kind(**dict(settings), key=jax.random.key(0)))


# Tracing a constructor takes a millisecond, and a foreign cell is built again at every call outside of jit.
_kept_skeleton = functools.lru_cache(maxsize=256)(_skeleton)
