"""Whether a map jumps: next to a computed root, where DF says nothing of the other side, or in a box."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Bool, Float

from rnndyn.dynamics.numerics.evaluation import images_of
from rnndyn.dynamics.numerics.evidence import robust_scale, rounding_floor
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
    look = JumpLook(points, errors, jacobians, period)
    return look.judge(images_of(f, look.places) if len(points) else points)


class JumpLook:
    """The look of `near_jump`, with F left to others: where it is wanted, and what follows from it."""

    def __init__(self, points: np.ndarray, errors: np.ndarray, jacobians: np.ndarray, period: np.ndarray | None):
        num, size = points.shape
        self.shape, self.period = (num, 5, size), period
        # A point at zero is a point of the size of the others: its error is.
        scale = np.maximum(np.max(np.abs(points), axis=1, initial=0.0), 1e-3 * robust_scale(points))
        row_sums = np.max(np.sum(np.abs(jacobians), axis=2), axis=1, initial=0.0)
        least = 16 * np.finfo(float).eps * scale
        # An error beyond a thousandth of the state is no neighbourhood: DF is another one there.
        reach = REACH * np.clip(np.where(np.isfinite(errors), errors, least), least, 1e-3 * scale)
        corner = np.random.default_rng(0).choice([-1.0, 1.0], (2, size))
        around = points[:, None] + reach[:, None, None] * np.concatenate([corner, -corner])
        self.places = np.concatenate([points[:, None], around], axis=1).reshape(-1, size)
        self.allowed = 1e3 * ((1 + row_sums) * reach + rounding_floor(scale, row_sums))

    def judge(self, images: np.ndarray) -> Bool[np.ndarray, " K"]:
        """Which points have a jump beside them, F at `places` given."""
        images = images.reshape(self.shape)
        change = np.max(np.abs(difference(images[:, 1:], images[:, :1], self.period)), axis=(1, 2), initial=0.0)
        return ~(change <= self.allowed)


def jumps_in(f: Callable[[Array], Array], box: Float[np.ndarray, "2 N"]) -> bool:
    """Whether F is seen to jump inside a box: on 32 random lines across it, where F changes most between 64 places.

    There the interval is halved 40 times. What is continuous changes less and less; what keeps a thousandth of its
    first change over a width of 1e-12 jumps.
    """
    rng = np.random.default_rng(0)
    ends = rng.uniform(box[0], box[1], (2, 32, box.shape[1]))
    shares = np.linspace(0, 1, 65)[:, None, None]
    lines = (1 - shares) * ends[0] + shares * ends[1]
    images = images_of(f, lines.reshape(-1, box.shape[1])).reshape(lines.shape)
    changes = np.max(np.abs(np.diff(images, axis=0)), axis=2)
    which, line = np.argmax(changes, axis=0), np.arange(32)
    low, high = lines[which, line], lines[which + 1, line]
    at_low, at_high = images[which, line], images[which + 1, line]
    for _ in range(40):
        middle = 0.5 * (low + high)
        at_middle = images_of(f, middle)
        first = np.max(np.abs(at_middle - at_low), axis=1) >= np.max(np.abs(at_high - at_middle), axis=1)
        low, high = np.where(first[:, None], low, middle), np.where(first[:, None], middle, high)
        at_low, at_high = np.where(first[:, None], at_low, at_middle), np.where(first[:, None], at_middle, at_high)
    last = np.max(np.abs(at_high - at_low), axis=1)
    return bool(np.any(~(last <= 1e-3 * changes[which, line])))
