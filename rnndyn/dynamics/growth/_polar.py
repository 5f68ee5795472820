"""Vectors as directions and log lengths, so that neither leaves the range of floating-point numbers."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def polar(vector: Float[Array, " N"]) -> tuple[Float[Array, " N"], Float[Array, ""]]:
    """Unit direction and log length; the zero vector is (0, -inf), a vector with NaN or infinity is all NaN."""
    scale = jnp.max(jnp.abs(vector))  # keeps the squares of small and large entries in range
    safe = jnp.where(scale > 0, scale, 1)
    length = jnp.where(scale > 0, jnp.linalg.norm(vector / safe), 1)
    return vector / safe / length, jnp.log(scale) + jnp.log(length)


def scaled(directions: Float[Array, "..."], log_lengths: Float[Array, "..."]) -> Float[Array, "..."]:
    """`directions` times e^log_lengths; 0 stays 0 where the factor overflows, and e^-inf is 0."""
    return jnp.where(directions == 0, 0, directions * jnp.exp(log_lengths))
