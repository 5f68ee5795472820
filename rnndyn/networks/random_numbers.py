"""Arrays of random numbers for weights of any shape, from a handful of compiled programs.

JAX compiles one program for every shape that is drawn, and a network has as many shapes as weights. Entry i of an array
of JAX's own generator depends on the key and on i only, so a longer one begins with the same numbers: a few lengths
serve all shapes, and what is drawn is what `jax.random` draws.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

_LENGTHS = tuple(4**k for k in range(3, 9))
"""Of what is drawn; longer arrays are compiled one by one, which costs less than drawing up to four times too much."""


def uniform_numbers(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any, bound: float) -> Array:
    """`jax.random.uniform(key, shape, dtype, -bound, bound)`."""
    return _drawn(_uniform, key, shape, dtype, jnp.asarray(bound, dtype))


def normal_numbers(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
    """`jax.random.normal(key, shape, dtype)`."""
    return _drawn(_normal, key, shape, dtype)


def joined_rows(blocks: list[Array]) -> Array:
    """`jnp.concatenate(blocks)`, on the host where that is possible: no program for every shape."""
    if any(isinstance(block, jax.core.Tracer) for block in blocks):
        return jnp.concatenate(blocks)
    return jnp.asarray(np.concatenate([np.asarray(block) for block in blocks]), blocks[0].dtype)


def _drawn(draw: Callable[..., Array], key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any, *args: Any) -> Array:
    num = math.prod(shape)
    length = next((length for length in _LENGTHS if length >= num), None)
    if length is None or isinstance(key, jax.core.Tracer) or not _counts_from_the_start(key):
        return draw(key, shape, np.dtype(dtype), *args)
    numbers = draw(key, (length,), np.dtype(dtype), *args)
    if isinstance(numbers, jax.core.Tracer):  # a known key within `jit`
        return numbers[:num].reshape(shape)
    return jnp.asarray(np.asarray(numbers)[:num].reshape(shape), dtype)


def _counts_from_the_start(key: PRNGKeyArray) -> bool:
    """Whether an entry of what is drawn does not depend on how many there are."""
    is_threefry = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and str(jax.random.key_impl(key)) == "threefry2x32"
    return is_threefry and bool(getattr(jax.config, "jax_threefry_partitionable", True))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _uniform(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any, bound: Any) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _normal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.normal(key, shape, dtype)
