"""Kinks inside loops that are not opened, seen from outside: the Jacobian on two sides, nearer and nearer."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from rnndyn.dynamics.numerics.evaluation import evaluate

_DISTANCES = np.array([1e-3, 1e-5, 1e-7, 1e-9])
"""At which the two sides are compared, as fractions of the state: smooth differences shrink a hundredfold each time."""

_NUM_DIRECTIONS = 4
"""Random lines through the point: every one of them crosses a kink that goes through it, but for those along it."""

_NOISE = 1e-6
"""Relative differences below this are the errors of integrators."""


class TwoSides(NamedTuple):
    """Jacobians next to each of K points, on both sides of it along several lines."""

    jumps: Float[np.ndarray, " K"]
    """By how much DF changes across a point, relative to its size; 0 where that vanishes with the distance."""
    jacobians: Float[np.ndarray, "K M N N"]
    directions: Float[np.ndarray, "M N"]

    @property
    def is_kinked(self) -> Bool[np.ndarray, " K"]:
        """At which points the derivative jumps."""
        return self.jumps > 0


def two_sides(
    f: Callable[[Array], Array], points: Float[np.ndarray, "K N"], errors: Float[np.ndarray, " K"]
) -> TwoSides:
    r"""Whether $DF(x + h d) - DF(x - h d)$ stays as large as it is while h shrinks from 1e-3 to 1e-9 of the state.

    For any map that can be differentiated at almost every point. A kink farther from a point than its error and than
    1e-9 of its size is not one of the point.
    """
    num, size = points.shape
    ds = np.random.default_rng(0).standard_normal((_NUM_DIRECTIONS, size))
    ds /= np.linalg.norm(ds, axis=1)[:, None]
    scale = np.maximum(np.linalg.norm(points, axis=1), 1e-3)
    errors = np.where(np.isfinite(errors), errors, 0.0)
    reach = np.maximum(_DISTANCES[:, None] * scale, 10 * errors)
    steps = reach[..., None, None] * np.stack([ds, -ds])[:, None, None]
    around = points[None, None, :, None] + steps
    jacobians = evaluate(f, around.reshape(-1, size))[1].reshape(2, _DISTANCES.size, num, _NUM_DIRECTIONS, size, size)
    norms = np.max(np.abs(jacobians), axis=(0, 1, 3, 4, 5))
    change = np.max(np.abs(jacobians[0] - jacobians[1]), axis=(3, 4)) / np.maximum(norms, 1e-300)[:, None]
    # Where the error is what limits the distance, there is no farther pair to compare with.
    stays = np.all(change[1:] > 0.5 * change[:-1], axis=0) & (change[-1] > _NOISE)
    jumps = np.max(np.where(stays, change[-1], 0.0), axis=1, initial=0.0)
    nearest = np.concatenate([jacobians[0, -1], jacobians[1, -1]], axis=1)
    return TwoSides(jumps, nearest, np.concatenate([ds, -ds]))
