"""The map on sequences of states whose fixed points are the cycles of a map."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class SequenceMap(NamedTuple):
    """The map on sequences whose fixed points are the cycles: (x_0, ..., x_{P-1}) -> (L_{P-1}(x_{P-1}), L_0(x_0), ...).

    The link L_i is the map F where `active`, and the identity elsewhere: with p active links the fixed points are the
    cycles of period p, padded with copies of a point, and one compilation serves all periods up to P. Sequences are
    passed and returned as one vector of P N entries.
    """

    f: Callable[[Array], Array]
    active: Bool[Array, " P"]

    def __call__(self, sequence: Array) -> Array:
        points = sequence.reshape(self.active.size, -1)
        images = jnp.where(self.active[:, None], jax.vmap(self.f)(points), points)
        return jnp.roll(images, 1, axis=0).ravel()

    def jacobians(self, sequence: Array) -> Float[Array, "P N N"]:
        """The Jacobians of the links."""
        points = sequence.reshape(self.active.size, -1)
        identity = jnp.eye(points.shape[1], dtype=points.dtype)
        return jnp.where(self.active[:, None, None], jax.vmap(jax.jacfwd(self.f))(points), identity)
