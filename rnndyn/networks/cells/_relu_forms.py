"""The form that all piecewise-linear cells have, and what follows from it alone: their linear regions."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from rnndyn.networks.initializers import uniform


class ReluForm(NamedTuple):
    """The arrays of z' = linear z + outer relu(inner z + inner_bias) + offset."""

    linear: Float[Array, "H H"]
    outer: Float[Array, "H L"]
    inner: Float[Array, "L H"]
    inner_bias: Float[Array, " L"]
    offset: Float[Array, " H"]


def pattern_of(form: ReluForm, state: Any) -> Array:
    """Which rectifiers are on at `state`; on a border they count as off."""
    return jnp.matmul(form.inner, state) + form.inner_bias > 0


def affine_of(form: ReluForm, pattern: Any) -> tuple[Array, Array]:
    """`(matrix, vector)` of z' = matrix z + vector where the rectifiers of `pattern` are on.

    **Raises:** `ValueError` for a pattern of another length.
    """
    if jnp.shape(pattern) != form.inner_bias.shape:
        raise ValueError(f"pattern: expected shape {form.inner_bias.shape}, got {jnp.shape(pattern)}.")
    gated = form.outer * jnp.asarray(pattern, form.outer.dtype)
    return form.linear + gated @ form.inner, gated @ form.inner_bias + form.offset


def slow_decay(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
    """Diagonals of A as these cells begin with: uniform on [0.5, 0.9]."""
    return 0.7 + uniform(0.2)(key, shape, dtype)
