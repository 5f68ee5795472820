"""Covering relations between h-sets: one set is laid across another by a map, as the strips of a horseshoe are."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rnndyn.dynamics.chaos._h_sets import HSet, Images
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs import verified_norms as norms
from rnndyn.dynamics.proofs.curved_images import CurvedImage
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.set_images import SetImage


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


def covering(image: Images, target: HSet, num_unstable: int, *, with_cones: bool = True) -> Covering:
    r"""Bounds of the image of an h-set in the coordinates of another.

    With $B = A'^{-1}$, for every z = (p, q) of the set (or of a piece of it)

    $$B(f(c + A z) - c') = B(f(c) - c') + B G p + \tfrac12 \sum_k p_k B H_k p
      + B \Bigl(S + \sum_k p_k K_k\Bigr) q + B e,$$

    with the middles G, H, S, K of what `CurvedImage` encloses, and their radii in e: |e_i| is at most the sum of the
    Euclidean norms of the radii in row i, because |p|, |q| <= 1. `contraction` is the sum of the norms of all terms of
    the stable rows, the largest of the pieces; for u = 1 a norm of terms in p, which is convex, is largest at an end.
    With u = 1, `expansion` is how far out the images of the two faces lie on opposite sides; with u > 1 the least
    singular value of (BG)_u less the other terms of its rows. With expansion > 1 > contraction the homotopy
    (1 - t) B(f - c') + t (M p, 0), M the linear map (BG)_u or the sign, keeps the unstable boundary of the set
    outside of the target and its image away from the stable boundary, and it ends at a linear map of degree 1 or -1.
    Where second derivatives are not known, the mean value form takes their place.

    Zgliczynski & Gidea (2004), *Covering relations for multidimensional dynamical systems*, definition 6.
    """
    inverse = target.coordinates
    with np.errstate(all="ignore"):
        found = _bounds(image.pieces, image.widths, target, inverse, num_unstable, with_cones)
        if image.faces is not None:
            low, high = _along(image.faces, target, inverse)
            expansion = float(max(min(low[1], -high[0]), min(low[0], -high[1])))
            found = dataclasses.replace(found, expansion=expansion)
    if not (image.is_known and np.isfinite([found.expansion, found.contraction]).all()):
        return Covering(-np.inf, np.inf, -np.inf, np.inf, np.inf, np.inf)
    return found


def _along(images: SetImage, target: HSet, inverse: Interval) -> tuple[np.ndarray, np.ndarray]:
    """Between what the unstable coordinate of the images of faces lies."""
    linear, radius = _middle(images.derivative)
    row = inverse.map(lambda end: end[:1])
    offset = ia.matvec(row, ia.sub(images.center, point(target.center)))
    across = norms.vector_norm_bound(ia.matmul(row, point(linear[..., 1:])))[..., 0]
    rest = _at_most(ia.magnitude(row), _length(radius[..., 1:]))
    reach = norms.round_up(across + rest, 1)
    ends = ia.widen(offset.lo[..., 0] - reach, offset.hi[..., 0] + reach)
    return ends.lo, ends.hi


class Terms(NamedTuple):
    """The middles and radii of G, H, S, K of images (...,).

    Without second derivatives H = K = 0, and the radii hold all.

    - `outward` G (..., N, u), `inward` S (..., N, S), `bend` H (..., N, u, u), `twist` K (..., N, u, S).
    - `radius_u`, `radius_s`: of Df(c + A z) A_p, (..., N, u), and of Df(c + A z) A_q, (..., N, S), over the set.
    - `rest`: bounds |e|, (..., N).
    """

    outward: np.ndarray
    inward: np.ndarray
    bend: np.ndarray
    twist: np.ndarray
    radius_u: np.ndarray
    radius_s: np.ndarray
    rest: np.ndarray


def terms(image: CurvedImage, u: int) -> Terms:
    """What `covering` needs of images."""
    known = np.asarray(image.is_bend_known)
    if known.all():
        return _second_order(image, u)
    if not known.any():
        return _first_order(image, u)
    choices = zip(_second_order(image, u), _first_order(image, u))
    return Terms(*(np.where(known.reshape(-1, *(1,) * (a.ndim - 1)), a, b) for a, b in choices))


def _first_order(image: CurvedImage, u: int) -> Terms:
    linear, radius = _middle(image.plain.derivative)
    size = linear.shape[-1]
    rest = norms.round_up(_length(radius[..., :u]) + _length(radius[..., u:]))
    bend, twist = (np.zeros((*linear.shape[:-1], u, num)) for num in (u, size - u))
    return Terms(linear[..., :u], linear[..., u:], bend, twist, radius[..., :u], radius[..., u:], np.asarray(rest))


def _second_order(image: CurvedImage, u: int) -> Terms:
    (outward, blur), (inward, spread), (curved, unknown) = map(_middle, (image.outward, image.inward, image.bend))
    bent, twisted = _length(unknown[..., :u]), _length(unknown[..., u:])
    radius_u = norms.round_up(blur + bent + twisted, 2)
    radius_s = norms.round_up(spread + _length(np.swapaxes(unknown[..., u:], -1, -2)), 1)
    # |sum_kl p_k p_l H_kl| and |sum_kl p_k q_l K_kl| are at most the root of the sum of squares.
    flat = [_length(_flat(part)) for part in (unknown[..., :u], unknown[..., u:])]
    rest = norms.round_up(_length(blur) + 0.5 * flat[0] + _length(spread) + flat[1], 4)
    return Terms(outward, inward, curved[..., :u], curved[..., u:], radius_u, radius_s, np.asarray(rest))


def _middle(x: Interval) -> tuple[np.ndarray, np.ndarray]:
    middle = np.asarray(ia.midpoint(x))
    return middle, np.asarray(ia.radius_about(x, middle))


def _flat(x: np.ndarray) -> np.ndarray:
    """(..., N, k, l) as (..., N, k l)."""
    return x.reshape(*x.shape[:-2], -1)


def _bounds(
    image: CurvedImage, widths: np.ndarray, target: HSet, inverse: Interval, u: int, with_cones: bool
) -> Covering:
    """The bounds that hold for all pieces (leading axis) of an image."""
    one = terms(image, u)
    size = ia.magnitude(inverse)
    rows = [inverse.map(lambda end, part=part: end[part]) for part in _halves(u)]
    offset = ia.matvec(inverse, ia.sub(image.plain.center, point(target.center)))
    offset_u, offset_s = (offset.map(lambda end, part=part: end[..., part]) for part in _halves(u))
    outward_u, outward_s = (ia.matmul(row, point(one.outward)) for row in rows)
    inward_u, inward_s = (ia.matmul(row, point(one.inward)) for row in rows)
    # Half of it: exact.
    bend_u, bend_s = (ia.matmul(row, point(_flat(0.5 * one.bend))) for row in rows)
    twist_u, twist_s = (ia.matmul(row, point(_flat(one.twist))) for row in rows)
    rest_u, rest_s = _at_most(size[:u], one.rest), _smallest(rows[1], size[u:], one.rest)
    shear, mixing, cross_u, across_u = (norms.spectral_norm_bound(x) for x in (outward_s, inward_u, twist_u, bend_u))
    growth = norms.smallest_singular_value_bound(outward_u)
    lost = norms.round_up(norms.vector_norm_bound(offset_u) + mixing + rest_u + across_u + cross_u, 5)
    expansion = np.nextafter(growth - lost, -np.inf)
    if u == 1:
        # Convex in p and in p^2: the largest values are at the ends.
        ends = [offset_s, ia.add(offset_s, bend_s.map(lambda end: end[..., 0]))]
        away = np.maximum(*(norms.vector_norm_bound(end) for end in ends))
        squeeze = np.maximum(*(norms.spectral_norm_bound(turned(inward_s, twist_s)) for turned in (ia.add, ia.sub)))
    else:
        away = norms.round_up(norms.vector_norm_bound(offset_s) + norms.spectral_norm_bound(bend_s), 1)
        squeeze = norms.round_up(norms.spectral_norm_bound(inward_s) + norms.spectral_norm_bound(twist_s), 1)
    contraction = norms.round_up(away + shear + squeeze + rest_s, 4)
    if not with_cones:
        return Covering(float(np.min(expansion)), float(np.max(contraction)), -np.inf, np.inf, np.inf, np.inf)
    # How far the derivative over the set may be from G and S, in each block: D_p is G + 2 (p H / 2) + q K.
    spread = [_spread(size, inverse, radius, part) for part in _halves(u) for radius in (one.radius_u, one.radius_s)]
    growth = np.nextafter(growth - norms.round_up(2 * across_u + cross_u + spread[0], 3), -np.inf)
    mixing = norms.round_up(mixing + cross_u + spread[1], 2)
    bent_s, twisted_s = (norms.spectral_norm_bound(x) for x in (bend_s, twist_s))
    shear = norms.round_up(shear + 2 * bent_s + twisted_s + spread[2], 4)
    squeeze = norms.round_up(squeeze + spread[3], 1)
    # The unstable coordinate of a piece is that of the set divided by its width.
    growth = np.nextafter(growth / widths, -np.inf)
    shear = norms.round_up(shear / widths)
    largest = (float(np.max(x)) for x in (contraction, mixing, shear, squeeze))
    contraction, mixing, shear, squeeze = largest
    return Covering(float(np.min(expansion)), contraction, float(np.min(growth)), mixing, shear, squeeze)


def _smallest(inward: Interval, size: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The least of three bounds of |B_s e|: signs by themselves, B_s as a whole, B_s in units of the entries of e."""
    scaled = norms.spectral_norm_bound(ia.mul(inward, point(rest[..., None, :])))
    whole = norms.round_up(norms.spectral_norm_bound(inward) * norms.vector_norm_bound(point(rest)), 1)
    scaled = norms.round_up(scaled * np.sqrt(rest.shape[-1]), 2)
    return np.minimum(_at_most(size, rest), np.minimum(whole, scaled))


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


def _at_most(size: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """|B e| for every e with entries of at most `rest`, with entries of B of at most `size`."""
    return norms.vector_norm_bound(ia.matvec(point(size), point(rest)))


def _spread(size: np.ndarray, inverse: Interval, radius: np.ndarray, rows: slice) -> np.ndarray:
    """|B E| in some rows of B, for every E with entries of at most `radius`."""
    entries = norms.nonnegative_norm_bound(ia.matmul(point(size[rows]), point(radius)).hi)
    part = norms.spectral_norm_bound(inverse.map(lambda end: end[rows]))
    return np.minimum(entries, norms.round_up(part * norms.nonnegative_norm_bound(radius), 1))
