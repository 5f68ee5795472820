"""Cells with random weights made by NumPy: compiling JAX's generator for every shape is what tests would wait for."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def fill(build: Callable[[jax.Array], Any], *, seed: int = 0, scale: float = 0.7) -> Any:
    """The module `build(key)`, its weights normal of standard deviation `scale` instead of drawn from the key."""
    rng = np.random.default_rng(seed)
    skeleton = eqx.filter_eval_shape(lambda: build(jax.random.key(0)))
    return jax.tree.map(
        lambda leaf: (
            jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)
            if isinstance(leaf, jax.ShapeDtypeStruct)
            else leaf
        ),
        skeleton,
    )


@eqx.filter_jit
def jitted(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, compiled once as a whole, which is faster than operation by operation."""
    return function(*args, **kwargs)


def normal(*shape: int, seed: int = 1) -> jax.Array:
    """Normal numbers in JAX's default float."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.result_type(float))
