"""The images of an h-set under a map: of the pieces that it is cut into, and of its two ends."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float

from rnndyn.dynamics.proofs import verified_norms as norms
from rnndyn.dynamics.proofs.curved_images import CurvedImage, curved_image_of_set
from rnndyn.dynamics.proofs.interval_arithmetic import UNIT_ROUNDOFF, Interval, point
from rnndyn.dynamics.proofs.set_images import SetImage, image_of_set


@dataclasses.dataclass(frozen=True)
class HSet:
    """The set c + A z with |p| <= 1 and |q| <= 1 for z = (p, q), p the first u coordinates.

    - `center`: c, shape (N,); `axes`: A, shape (N, N).
    """

    center: Float[np.ndarray, " N"]
    axes: Float[np.ndarray, "N N"]

    def coordinates(self) -> Interval:
        """An enclosure of the inverse of A; NaN where A is not proved to be regular."""
        return norms.inverse(point(self.axes))


def images(f: Callable, source: HSet, num_unstable: int, num_pieces: int = 1) -> "Images":
    """Enclosures of f and of its derivative over an h-set, on the host.

    With one unstable direction the set may be cut across it into pieces, each evaluated about a middle of its own, and
    its two faces p = -1 and p = 1 are evaluated by themselves.
    """

    def image(place: float, width: float) -> CurvedImage:
        return jax.device_get(curved_image_of_set(f, *piece(source, place, width), num_unstable))

    def face(place: float) -> SetImage:
        return jax.device_get(image_of_set(f, *piece(source, place, 0.0), num_unstable))

    if num_unstable > 1:
        return Images([image(0.0, 1.0)], [1.0], None)
    places = cuts(num_pieces)
    return Images([image(*cut) for cut in places], [w for _, w in places], [face(-1.0), face(1.0)])


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of the pieces of an h-set and, where there is one unstable direction, of its two faces."""

    pieces: list[CurvedImage]
    widths: list[float]
    faces: list[SetImage] | None

    @property
    def is_known(self) -> bool:
        return all(bool(image.is_known) for image in [*(one.plain for one in self.pieces), *(self.faces or [])])


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
