"""A map, its orbits and its Jacobians at many points in one call."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array


@eqx.filter_jit
def orbits_from(f: Callable[[Array], Array], starts: Any, length: int) -> Array:
    """The next `length` states of every start, `(K, length, N)`."""

    def orbit(x: Array) -> Array:
        def step(x: Array, _: None) -> tuple[Array, Array]:
            x = f(x)
            return x, x

        return jax.lax.scan(step, x, None, length=length)[1]

    return jax.vmap(orbit)(jnp.asarray(starts))


@eqx.filter_jit
def images_and_jacobians(f: Callable[[Array], Array], points: Any) -> tuple[Array, Array]:
    """F(x) and DF(x) at every point, `(K, N)` and `(K, N, N)`."""
    points = jnp.asarray(points)
    return jax.vmap(f)(points), jax.vmap(jax.jacfwd(f))(points)
