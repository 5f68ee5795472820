"""Bounds of pre-activations, from which cells derive the box that their states cannot leave."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn.networks.cells.checks import check_input


def input_bounds(input: Any, input_size: int) -> tuple[Array, Array]:
    """`(lower, upper)` of an input that is held (one vector) or stays between two (a pair of vectors)."""
    lower, upper = input if isinstance(input, tuple) else (input, input)
    check_input(lower, input_size)
    check_input(upper, input_size)
    return jnp.asarray(lower), jnp.asarray(upper)


def affine_bounds(
    weight: Float[Array | np.ndarray, "M N"], lower: Float[Array, " N"], upper: Float[Array, " N"]
) -> tuple[Float[Array, " M"], Float[Array, " M"]]:
    """Bounds of `weight @ x` over the box of `x`, rounded outwards."""
    middle, radius = (lower + upper) / 2, (upper - lower) / 2
    largest = jnp.maximum(jnp.abs(lower), jnp.abs(upper))
    magnitude = jnp.abs(weight)
    # Rounding of a sum of N products is below N eps times the sum of their sizes, once here and once in the cell.
    slack = 2 * (weight.shape[1] + 2) * jnp.finfo(jnp.result_type(weight)).eps * (magnitude @ largest)
    reach = magnitude @ radius + slack
    centre = jnp.matmul(weight, middle)
    return centre - reach, centre + reach
