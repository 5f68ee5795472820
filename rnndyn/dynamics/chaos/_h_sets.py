"""The images of an h-set under a map: of the pieces that it is cut into, and of its two ends."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float

from rnndyn.dynamics.proofs import verified_norms as norms
from rnndyn.dynamics.proofs.curved_images import CurvedImage, curved_images_of_sets
from rnndyn.dynamics.proofs.interval_arithmetic import UNIT_ROUNDOFF, Interval, point
from rnndyn.dynamics.proofs.set_images import SetImage, Sets, images_of_sets

MOST_PIECES = 16
"""Of a set that is cut: one compiled program serves every number up to this."""


@dataclasses.dataclass(frozen=True)
class HSet:
    """The set c + A z with |p| <= 1 and |q| <= 1 for z = (p, q), p the first u coordinates.

    - `center`: c, shape (N,); `axes`: A, shape (N, N).
    """

    center: Float[np.ndarray, " N"]
    axes: Float[np.ndarray, "N N"]

    @functools.cached_property
    def coordinates(self) -> Interval:
        """An enclosure of the inverse of A; NaN where A is not proved to be regular."""
        return norms.inverse(point(self.axes))


def images(f: Callable, source: HSet, num_unstable: int, num_pieces: int = 1) -> "Images":
    """Enclosures of f and of its derivative over an h-set, on the host.

    With one unstable direction the set may be cut across it into pieces, each evaluated about a middle of its own, and
    its two faces p = -1 and p = 1 are evaluated by themselves.
    """
    places = cuts(num_pieces)
    most = MOST_PIECES if num_unstable == 1 else 1
    parts = _stacked(source, [*places, *[places[-1]] * (most - len(places))])
    found = jax.device_get(curved_images_of_sets(f, parts, num_unstable, np.asarray(len(places))))
    pieces = jax.tree.map(lambda a: a[: len(places)], found)
    faces = None
    if num_unstable == 1:
        faces = jax.device_get(images_of_sets(f, _stacked(source, [(-1.0, 0.0), (1.0, 0.0)]), num_unstable))
    return Images(pieces, np.array([width for _, width in places]), faces)


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of the pieces of an h-set, with a leading axis K, and their half-widths (K,).

    Where there is one unstable direction, also those of its two faces, with a leading axis of two.
    """

    pieces: CurvedImage
    widths: Float[np.ndarray, " K"]
    faces: SetImage | None

    @property
    def is_known(self) -> bool:
        return bool(np.all(self.pieces.plain.is_known) and (self.faces is None or np.all(self.faces.is_known)))


def cuts(num_pieces: int) -> list[tuple[float, float]]:
    """Middles and half-widths of intervals that cover [-1, 1] and, for rounding, overlap a little."""
    if num_pieces == 1:
        return [(0.0, 1.0)]
    width = 1 / num_pieces
    return [((2 * k + 1) * width - 1, width * (1 + 1e-12)) for k in range(num_pieces)]


def piece(one: HSet, place: float, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, error bound of the centre, and axes of the part of an h-set with |p - place| <= width."""
    if (place, width) == (0.0, 1.0):
        return one.center, np.zeros_like(one.center), one.axes
    direction = one.axes[:, 0]
    center = one.center + direction * place
    # Two roundings, of numbers of this size.
    blur = norms.round_up(4 * UNIT_ROUNDOFF * (np.abs(one.center) + np.abs(direction)), 4)
    # The product with the width is rounded as well: by less than u |direction|, which the blur has room for.
    return center, blur, np.concatenate([(direction * width)[:, None], one.axes[:, 1:]], axis=1)


def _stacked(one: HSet, places: list[tuple[float, float]]) -> Sets:
    return Sets(*(np.stack(arrays) for arrays in zip(*(piece(one, *place) for place in places))))
