"""Covering relations between h-sets: one set is laid across another by a map, as the strips of a horseshoe are."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float

from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs import verified_norms as norms
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


@dataclasses.dataclass(frozen=True)
class Covering:
    """What is proved of the image of one h-set in the coordinates (p', q') of another.

    - `expansion`: |p'| is at least this for |p| = 1, during the whole homotopy to the linear map p -> L_uu p. Above 1,
      and with `contraction` below 1, the first set covers the second.
    - `contraction`: |q'| is at most this.
    - `growth`, `mixing`, `shear`, `squeeze`: of the blocks of the derivative, |D_uu p| >= growth |p|,
      |D_us| <= mixing, |D_su| <= shear, |D_ss| <= squeeze.
    """

    expansion: float
    contraction: float
    growth: float
    mixing: float
    shear: float
    squeeze: float

    @property
    def holds(self) -> bool:
        return self.expansion > 1 and self.contraction < 1


def images(f: Callable, source: HSet, num_unstable: int, num_pieces: int = 1) -> "Images":
    """Enclosures of f and of its derivative over an h-set, on the host.

    With one unstable direction the set may be cut across it into pieces, each with a mean value form of its own, and
    its two faces p = -1 and p = 1 are evaluated by themselves.
    """

    def image(place: float, width: float) -> SetImage:
        center, blur, axes = piece(source, place, width)
        return jax.device_get(image_of_set(f, center, blur, axes, num_unstable))

    if num_unstable > 1:
        return Images([image(0.0, 1.0)], [1.0], None)
    places = cuts(num_pieces)
    return Images([image(*cut) for cut in places], [w for _, w in places], [image(-1.0, 0.0), image(1.0, 0.0)])


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of the pieces of an h-set and, where there is one unstable direction, of its two faces."""

    pieces: list[SetImage]
    widths: list[float]
    faces: list[SetImage] | None

    @property
    def is_known(self) -> bool:
        return all(bool(image.is_known) for image in [*self.pieces, *(self.faces or [])])


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


def covering(image: Images, target: HSet, num_unstable: int, *, with_cones: bool = True) -> Covering:
    r"""Bounds of the image of an h-set in the coordinates of another.

    With $B = A'^{-1}$, L the midpoint of the derivative and R its radii, for every z of the set (or of a piece)

    $$B(f(c + A z) - c') = B(f(c) - c') + B L z + B e, \qquad
      |e_i| \le |R_{i,1..u}| + |R_{i,u+1..N}|,$$

    because |p|, |q| <= 1. `contraction` is the sum of the norms of all terms of the stable rows, the largest of the
    pieces. With u = 1, `expansion` is how far out the images of the two faces lie on opposite sides; with u > 1 the
    least singular value of (BL)_uu less the other terms of its rows. With expansion > 1 > contraction the homotopy
    (1 - t) B(f - c') + t (M p, 0), M the linear map (BL)_uu or the sign, keeps the unstable boundary of the set
    outside of the target and its image away from the stable boundary, and it ends at a linear map of degree 1 or -1.

    Zgliczynski & Gidea (2004), *Covering relations for multidimensional dynamical systems*, definition 6.
    """
    inverse = target.coordinates()
    with np.errstate(all="ignore"):
        over = [
            _bounds(one, width, target, inverse, num_unstable, with_cones)
            for one, width in zip(image.pieces, image.widths)
        ]
        expansion = over[0].expansion
        if image.faces is not None:
            left, right = (_along(one, target, inverse) for one in image.faces)
            expansion = float(max(min(right.lo, -left.hi), min(left.lo, -right.hi)))
    found = Covering(
        expansion,
        max(one.contraction for one in over),
        min(one.growth for one in over),
        max(one.mixing for one in over),
        max(one.shear for one in over),
        max(one.squeeze for one in over),
    )
    if not (image.is_known and np.isfinite([found.expansion, found.contraction]).all()):
        return Covering(-np.inf, np.inf, -np.inf, np.inf, np.inf, np.inf)
    return found


def _parts(image: SetImage) -> tuple[np.ndarray, np.ndarray]:
    linear = np.asarray(ia.midpoint(image.derivative))
    return linear, np.asarray(ia.radius_about(image.derivative, linear))


def _along(image: SetImage, target: HSet, inverse: Interval) -> Interval:
    """The unstable coordinate of the image of a face."""
    linear, radius = _parts(image)
    row = inverse.map(lambda end: end[:1])
    offset = ia.matvec(row, ia.sub(image.center, point(target.center)))
    across = float(norms.vector_norm_bound(ia.matmul(row, point(linear[:, 1:])))[0]) if linear.shape[1] > 1 else 0.0
    rest = _at_most(ia.magnitude(row), _length(radius[:, 1:]))
    reach = norms.round_up(across + rest, 1)
    return ia.widen(offset.lo[0] - reach, offset.hi[0] + reach)


def _bounds(image: SetImage, width: float, target: HSet, inverse: Interval, u: int, with_cones: bool) -> Covering:
    linear, radius = _parts(image)
    rest = norms.round_up(_length(radius[:, :u]) + _length(radius[:, u:]))
    offset = ia.matvec(inverse, ia.sub(image.center, point(target.center)))
    blocks = ia.matmul(inverse, point(linear))
    size = ia.magnitude(inverse)
    rest_u = _at_most(size[:u], rest)
    # Three bounds of |B_s e|: signs by themselves, B_s as a whole, and B_s in units of the entries of e.
    inward = inverse.map(lambda end: end[u:])
    scaled = _norm(ia.mul(inward, point(rest[None, :])))
    rest_s = min(
        _at_most(size[u:], rest),
        float(norms.round_up(_norm(inward) * norms.vector_norm_bound(point(rest)), 1)),
        float(norms.round_up(scaled * np.sqrt(len(rest)), 2)),
    )
    growth = float(norms.smallest_singular_value_bound(blocks.map(lambda end: end[:u, :u])))
    mixing = _norm(blocks.map(lambda end: end[:u, u:]))
    shear = _norm(blocks.map(lambda end: end[u:, :u]))
    squeeze = _norm(blocks.map(lambda end: end[u:, u:]))
    offset_u = float(norms.vector_norm_bound(offset.map(lambda end: end[:u])))
    offset_s = float(norms.vector_norm_bound(offset.map(lambda end: end[u:])))
    lost = norms.round_up(offset_u + mixing + rest_u, 3)
    expansion = float(np.nextafter(growth - lost, -np.inf))
    contraction = float(norms.round_up(offset_s + shear + squeeze + rest_s, 4))
    if not with_cones:
        return Covering(expansion, contraction, -np.inf, np.inf, np.inf, np.inf)
    # How far the derivative over the set may be from its midpoint, in each block.
    spread = [_spread(size, inverse, radius, rows, columns) for rows in _halves(u) for columns in _halves(u)]
    growth = float(np.nextafter(growth - spread[0], -np.inf))
    mixing, shear, squeeze = (float(norms.round_up(a + b)) for a, b in zip((mixing, shear, squeeze), spread[1:]))
    # The unstable coordinate of a piece is that of the set divided by its width.
    growth = float(np.nextafter(growth / width, -np.inf))
    shear = float(norms.round_up(shear / width))
    return Covering(expansion, contraction, growth, mixing, shear, squeeze)


def is_disjoint(first: HSet, second: HSet, functionals: Float[np.ndarray, "M N"]) -> bool:
    """Whether some row l of `functionals` is proved to separate two h-sets: |l (c - c')| > sum of their reaches."""
    with np.errstate(all="ignore"):
        rows = point(functionals)
        gap = ia.matvec(rows, ia.sub(point(first.center), point(second.center)))
        apart = np.maximum(gap.lo, -gap.hi)
        reach = 0.0
        for one in (first, second):
            # |l A z| <= |l A| |z|, and |z|^2 <= 2.
            reach = reach + norms.round_up(norms.vector_norm_bound(ia.matmul(rows, point(one.axes))) * np.sqrt(2.0), 2)
        return bool(np.any(apart > norms.round_up(reach, 1)))


def _halves(u: int) -> tuple[slice, slice]:
    return slice(None, u), slice(u, None)


def _length(rows: np.ndarray) -> np.ndarray:
    return norms.vector_norm_bound(point(rows))


def _norm(a: Interval) -> float:
    return float(norms.spectral_norm_bound(a)) if min(a.shape) else 0.0


def _at_most(size: np.ndarray, rest: np.ndarray) -> float:
    """|B e| for every e with entries of at most `rest`, with entries of B of at most `size`."""
    return float(norms.vector_norm_bound(ia.matvec(point(size), point(rest)))) if len(size) else 0.0


def _spread(size: np.ndarray, inverse: Interval, radius: np.ndarray, rows: slice, columns: slice) -> float:
    """|B E| in a block, for every E with entries of at most `radius`."""
    part, of = size[rows], radius[:, columns]
    if not (len(part) and of.shape[1]):
        return 0.0
    entries = ia.matmul(point(part), point(of)).hi
    whole = norms.round_up(_norm(inverse.map(lambda end: end[rows])) * float(norms.nonnegative_norm_bound(of)), 1)
    return float(min(norms.nonnegative_norm_bound(entries), whole))
