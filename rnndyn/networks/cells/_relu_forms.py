"""What follows from a cell's ReLU form alone: its linear regions."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from rnndyn.networks.cells.piecewise_linear import ReluForm


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
