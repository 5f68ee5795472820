"""Whether a map jumps next to a computed root: its derivative there then says nothing of the other side."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Bool, Float

from rnndyn.dynamics.numerics.evaluation import images_of
from rnndyn.dynamics.numerics.evidence import rounding_floor
from rnndyn.dynamics.numerics.torus import difference

REACH = 4
"""How many errors away from a point the map is looked at."""


def near_jump(
    f: Callable[[Array], Array],
    points: Float[np.ndarray, "K N"],
    errors: Float[np.ndarray, " K"],
    jacobians: Float[np.ndarray, "K N N"],
    period: Float[np.ndarray, " N"] | None = None,
) -> Bool[np.ndarray, " K"]:
    """Whether F changes within four errors of each point by a thousand times what DF allows for.

    F is evaluated at the point and at four points around it, on both sides of every plane through it (the corners of a
    small cube, two pairs of opposite ones). Where the error is infinite, the rounding of the point is taken.
    """
    num, size = points.shape
    if num == 0:
        return np.zeros(0, bool)
    scale = np.maximum(np.max(np.abs(points), axis=1), np.finfo(float).tiny)
    row_sums = np.max(np.sum(np.abs(jacobians), axis=2), axis=1)
    least = 16 * np.finfo(float).eps * scale
    # An error beyond a thousandth of the state is no neighbourhood: DF is another one there.
    reach = REACH * np.clip(np.where(np.isfinite(errors), errors, least), least, 1e-3 * scale)
    corner = np.random.default_rng(0).choice([-1.0, 1.0], (2, size))
    corners = np.concatenate([corner, -corner])
    around = points[:, None] + reach[:, None, None] * corners
    images = images_of(f, np.concatenate([points[:, None], around], axis=1).reshape(-1, size)).reshape(num, 5, size)
    change = np.max(np.abs(difference(images[:, 1:], images[:, :1], period)), axis=(1, 2))
    allowed = 1e3 * ((1 + row_sums) * reach + rounding_floor(scale, row_sums))
    return ~(change <= allowed)
