"""The straight line between two maps of one structure, with the place on it as a parameter."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike


def interpolate_maps(start: Callable[[Array], Array], end: Callable[[Array], Array]) -> "InterpolatedMap":
    r"""A map with a parameter that is `start` at p = 0 and `end` at p = 1: its numbers are $(1 - p)\,a + p\,b$.

    **Arguments:**

    - `start`, `end`: maps `(N,) -> (N,)` that are `equinox.Module`s (or other trees that can be called) of the same
        structure: floating-point arrays may differ, nothing else.

    **Returns:** the map, `(N,), () -> (N,)`.

    **Raises:** `ValueError` when they differ in structure, shapes, or anything that is not a floating-point array.
    """
    numbers_a, rest_a = eqx.partition(start, eqx.is_inexact_array)
    numbers_b, rest_b = eqx.partition(end, eqx.is_inexact_array)
    same = jax.tree.structure(start) == jax.tree.structure(end) and bool(eqx.tree_equal(rest_a, rest_b))
    shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(numbers)] for numbers in (numbers_a, numbers_b)]
    if not same or shapes[0] != shapes[1]:
        raise ValueError(
            "end: expected a map of the same structure as start, with arrays of the same shapes: checkpoints of one "
            "network. A plain function has no numbers to interpolate; make it an equinox.Module."
        )
    if not shapes[0]:
        raise ValueError(
            "start: holds no floating-point array to interpolate. Make it an equinox.Module with its weights."
        )
    return InterpolatedMap(start, end)


class InterpolatedMap(eqx.Module):
    """A map on the line between two others; see `interpolate_maps`."""

    start: Callable[[Array], Array]
    end: Callable[[Array], Array]

    def at(self, p: Any) -> Callable[[Array], Array]:
        """The map at one place of the line."""
        return jax.tree.map(
            lambda a, b: (1 - p) * jnp.asarray(a) + p * jnp.asarray(b) if eqx.is_inexact_array(a) else a,
            self.start,
            self.end,
        )

    def __call__(self, x: ArrayLike, p: ArrayLike) -> Array:
        return self.at(p)(jnp.asarray(x))
