"""A map, its orbits and its Jacobians at many points in one call."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn._programs import compiled, value_and_jacobian
from rnndyn.dynamics.numerics.drivers import map_in_chunks


def block_size(size: int) -> int:
    """How many states of `size` entries one compiled call takes: always so many, whatever the number of states is.

    Enough to share the overhead of a call; few enough that padding a handful of states costs no more than that.
    """
    if jax.default_backend() != "cpu":
        return 1024
    return 1024 if size <= 4 else 256 if size <= 16 else 32


def images_of(f: Callable[[Array], Array], points: Float[np.ndarray, "M N"]) -> Float[np.ndarray, "M N"]:
    """F(x) at every point, on the host."""
    size = points.shape[1]
    return map_in_chunks(
        lambda x: _images(f, x),
        points,
        bytes_per_item=64 * size,
        description="",
        progress=False,
        least_size=8 * block_size(size),
        most_size=8 * block_size(size),
    )


def evaluate(
    f: Callable[[Array], Array], points: Float[np.ndarray, "M N"], *, description: str = "", progress: bool = False
) -> tuple[Float[np.ndarray, "M N"], Float[np.ndarray, "M N N"]]:
    """F(x) and DF(x) at every point, on the host; one compilation for any number of points."""
    size = points.shape[1]
    return map_in_chunks(
        lambda x: images_and_jacobians(f, x),
        points,
        bytes_per_item=32 * size**2,
        description=description,
        progress=progress,
        least_size=block_size(size),
        most_size=block_size(size),
    )


@compiled
def orbits_from(f: Callable[[Array], Array], starts: Any, length: int) -> Array:
    """The next `length` states of every start, `(K, length, N)`."""

    def orbit(x: Array) -> Array:
        def step(x: Array, _: None) -> tuple[Array, Array]:
            x = f(x)
            return x, x

        return jax.lax.scan(step, x, None, length=length)[1]

    return jax.vmap(orbit)(jnp.asarray(starts))


@compiled
def states_after(f: Callable[[Array], Array], starts: Any, num_steps: Any) -> Array:
    """The state `num_steps` steps after every start, `(K, N)`; the number is not compiled in."""
    run = lambda x: jax.lax.fori_loop(0, num_steps, lambda _, x: f(x), x)
    return jax.vmap(run)(jnp.asarray(starts))


@compiled
def images_and_jacobians(f: Callable[[Array], Array], points: Any) -> tuple[Array, Array]:
    """F(x) and DF(x) at every point, `(K, N)` and `(K, N, N)`."""
    return jax.vmap(lambda x: value_and_jacobian(f, x))(jnp.asarray(points))


@compiled
def _images(f: Callable[[Array], Array], points: Any) -> Array:
    return jax.vmap(f)(jnp.asarray(points))
