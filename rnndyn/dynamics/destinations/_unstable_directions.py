"""The one-dimensional unstable manifold of a saddle, enclosed near it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from rnndyn._programs import compiled
from rnndyn.dynamics.destinations._metrics import metrics
from rnndyn.dynamics.destinations._sets import Ellipsoids, enclose_sets
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs import verified_norms as vn
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point

_NUM_SHRINKS = 40
_WIDEST_CONE = 2e-3
"""The largest slope of the manifold against the unstable direction: with a smaller set it is smaller."""
_CLAIM_SLACK = 1e-10
"""Claims are this much weaker than what was computed, for a checker that rounds in another way."""

_OTHER_ROUNDING = 4.0


class LocalManifold(NamedTuple):
    """Where the unstable manifold of a saddle runs, in coordinates x = c + A (u, s), for u between two distances.

    - `center`, `frame`: c (N,) and A (N, N), whose first column is the unstable direction.
    - `sizes`: the set |u| <= r_u, |s|_2 <= r_s over which `bounds` hold, (2,).
    - `bounds`: of the derivative [[a, b], [c, D]] and of the offset o = F(c) - c: the least and the largest a, and
      upper bounds of |b|, |c|, |D|, |o_u| and |o_s|, (7,).
    - `slope`: |s - s*| <= slope |u - u*| on it; `blurs`: bounds of |u*| and |s*|, the saddle itself, (2,).
    - `inner`, `outer`: every orbit of the manifold but the saddle itself has a point with inner <= |u - u*| <= outer,
      on the side where it stays (every second image, where the multiplier is negative).
    """

    center: np.ndarray
    frame: np.ndarray
    sizes: np.ndarray
    bounds: np.ndarray
    slope: float
    blurs: np.ndarray
    inner: float
    outer: float


class NoManifold(NamedTuple):
    """Why none was enclosed: the inequality that came nearest to holding, and the quotient of its two sides."""

    words: str
    excess: float


@compiled
def _jacobian(f: Callable, x: np.ndarray | jax.Array) -> jax.Array:
    return jax.jacfwd(f)(jnp.asarray(x))


def unstable_direction(f: Callable, saddle: np.ndarray, name: str) -> tuple[np.ndarray, float]:
    """A frame (N, N), the unstable direction first and then a basis of the stable ones, and the multiplier.

    Entries are numbers of float32, so that products with other such numbers are exact.
    """
    jacobian = np.asarray(_jacobian(f, saddle))
    values, vectors = np.linalg.eig(jacobian)
    unstable = np.flatnonzero(np.abs(values) > 1)
    if unstable.size == 2 and np.iscomplexobj(values) and np.imag(values[unstable[0]]) != 0:
        raise ValueError(
            f"saddles: {name} has a complex unstable pair {values[unstable[0]]:.6g}; its unstable manifold is a "
            "surface. Pass points with one unstable direction, points[num_unstable == 1]."
        )
    if unstable.size != 1:
        raise ValueError(
            f"saddles: {name} has {unstable.size} unstable directions, needed is one. Pass points[num_unstable == 1]."
        )
    value, vector = np.real(values[unstable[0]]), np.real(vectors[:, unstable[0]])
    lefts, left_vectors = np.linalg.eig(jacobian.T)
    left = np.real(left_vectors[:, np.argmin(np.abs(lefts - value))])
    basis = scipy.linalg.null_space(left[None, :])
    # A map of one variable has no stable direction.
    stable = metrics((basis.T @ jacobian @ basis)[None], 0.5)[0] if basis.size else np.zeros((0, 0))
    vector = vector / np.linalg.norm(vector)
    # A side is a sign: the largest entry points up.
    vector = vector * np.sign(vector[np.argmax(np.abs(vector))])
    frame = np.column_stack([vector, basis @ stable])
    return frame.astype(np.float32).astype(np.float64), float(value)


@np.errstate(all="ignore")
def enclose_manifold(f: Callable, center: np.ndarray, frame: np.ndarray, scale: float) -> LocalManifold | NoManifold:
    r"""The largest neighbourhood, by halving, in which covering and cone conditions hold, or what stands in the way.

    Over the set |u| <= r_u, |s|_2 <= r_s the derivative of F is [[a, b], [c, D]] in coordinates (u, s). If

        |a| r_u - |b| r_s - o_u > r_u,   |c| r_u + |D| r_s + o_s < r_s                        (the set covers itself)
        |c| + |D| k < k (|a| - |b| k),   |a| - |b| k > 1     for k = 1 and for a small k      (cones of slope k)
        |c| + |D| < 1                                                                         (contraction outside)

    with o the offset F(c) - c, then the set holds one fixed point x*, with one unstable direction, which lies inside of
    the narrow cone about it. So do the states of its unstable manifold near x*, and, because cones about x* are
    kept, all their images up to the one that leaves the set, along u.

    Reference: P. Zgliczyński (2009), *Covering relations, cone conditions and the stable manifold theorem*.
    """
    inverse = vn.inverse(point(frame[None]))
    wide, thin = float(np.float32(scale)), float(np.float32(scale))
    nearest = NoManifold("no set was tried", np.inf)
    for _ in range(_NUM_SHRINKS):
        sizes = np.concatenate([[wide], np.full(len(center) - 1, thin)])
        # The product of an interval and a ball lies in the ellipsoid of twice the square.
        sets = Ellipsoids(center[None], frame[None] * sizes, np.array([_PRODUCT]))
        enclosure = enclose_sets(f, sets)
        blocks = ia.div(ia.matmul(inverse, enclosure.jacobian), point(sizes)).map(lambda end: end[0])
        away = ia.matvec(inverse, ia.sub(enclosure.value, point(center[None]))).map(lambda end: end[0])
        known = not (np.asarray(enclosure.jumps) | np.asarray(enclosure.undefined)).any()
        bounds = _bounds(blocks, away, wide) if known else np.full(7, np.nan)
        found = _conditions(bounds, wide, thin)
        if isinstance(found, LocalManifold):
            return found._replace(center=center, frame=frame)
        nearest = min(nearest, found, key=lambda attempt: attempt.excess)
        wide = wide / 2
        thin = float(np.nextafter(np.float32(_thickness(bounds, wide, scale)), np.float32(np.inf)))
    return nearest


_PRODUCT = 1.4142135623730951 * (1 + 1e-15)


def _up(x: float) -> float:
    return float(vn.round_up(np.float64(x), 4))


def _down(x: float) -> float:
    return float(vn.round_down(np.float64(x), 4))


def _bounds(blocks: Interval, away: Interval, wide: float) -> np.ndarray:
    """The seven numbers of `LocalManifold.bounds`, a little weaker than they are."""
    tilt = float(vn.vector_norm_bound(blocks.map(lambda end: end[0, 1:])))
    bend = float(vn.vector_norm_bound(blocks.map(lambda end: end[1:, 0])))
    squeeze = float(vn.spectral_norm_bound(blocks.map(lambda end: end[1:, 1:]))) if blocks.shape[0] > 1 else 0.0
    off_u = float(vn.vector_norm_bound(away.map(lambda end: end[:1])))
    off_s = float(vn.vector_norm_bound(away.map(lambda end: end[1:])))
    lowest, highest = float(blocks.lo[0, 0]), float(blocks.hi[0, 0])
    slack = _CLAIM_SLACK * max(1.0, abs(lowest), abs(highest))
    norms = np.array([tilt, bend, squeeze]) * (1 + _CLAIM_SLACK) + slack
    # Offsets are mere rounding, of which another program has other bounds.
    offsets = _OTHER_ROUNDING * np.array([off_u, off_s]) + slack * wide
    return np.concatenate([[lowest - slack, highest + slack], norms, offsets])


def _thickness(bounds: np.ndarray, wide: float, scale: float) -> float:
    """How thin a set may be tried next: as its image is, with room."""
    _, _, _, bend, squeeze, _, off_s = bounds
    if not squeeze < 1 or not np.isfinite(bounds).all():
        return wide
    return min(max(4 * (bend * wide + off_s) / (1 - squeeze), 1e-12 * scale), wide)


def _conditions(bounds: np.ndarray, wide: float, thin: float) -> LocalManifold | NoManifold:
    """The manifold, or the first inequality that fails; `bounds` are taken as they stand."""
    lowest, highest, tilt, bend, squeeze, off_u, off_s = map(float, bounds)
    set_ = f"over |u| <= {wide:.3g}, |s| <= {thin:.3g}"
    if not np.isfinite(bounds).all():
        return NoManifold(f"f is not known to be finite and smooth {set_}", np.inf)
    if not (lowest > 1 or highest < -1):
        return NoManifold(f"a is only known to lie in [{lowest:.6g}, {highest:.6g}] {set_}", np.inf)
    least, most = min(abs(lowest), abs(highest)), max(abs(lowest), abs(highest))
    room = _down(1 - squeeze)
    # The root of |c| + |D| k = k (|a| - |b| k), and a little more.
    gap = least - squeeze
    slope = 2 * bend / (gap + np.sqrt(max(gap**2 - 4 * tilt * bend, 0.0))) if gap > 0 else np.inf
    slope = float(slope * (1 + _CLAIM_SLACK) + 1e-13)
    growth = _down(least - _up(tilt * slope))
    from_one = _down(least - 1) if lowest > 1 else _down(least + 1)
    wanted = [  # (what, left side, right side): the left one has to be smaller
        ("|D| < 1", squeeze, 1.0),
        ("|c| + |D| < 1", _up(bend + squeeze), 1.0),
        ("1 < |a| - |b|", 1.0, _down(least - tilt)),
        ("1 < |a| - |b| k", 1.0, growth),
        ("|c| + |D| k < k (|a| - |b| k)", _up(bend + _up(squeeze * slope)), _down(slope * growth)),
        ("slope < the widest cone", slope, _WIDEST_CONE),
        ("r_u + |b| r_s + o_u < |a| r_u", _up(wide + _up(tilt * thin) + off_u), _down(least * wide)),
        ("|c| r_u + |D| r_s + o_s < r_s", _up(_up(bend * wide) + _up(squeeze * thin) + off_s), thin),
        ("|b| |c| < (1 - |D|) |a - 1|", _up(tilt * bend), _down(room * from_one)),
    ]
    for what, left, right in wanted:
        if not left < right:
            return NoManifold(f"{what} {set_} fails with {left:.6g} against {right:.6g}", left / max(right, 1e-300))
    denominator = _down(from_one - _up(_up(tilt * bend) / room))
    if not denominator > 0:
        return NoManifold(f"the saddle is not located {set_}", np.inf)
    weaker = 1 - _CLAIM_SLACK
    blur_u = _up(_up(_up(tilt * off_s) / room + off_u) / denominator) / weaker
    blur_s = _up(_up(bend * blur_u + off_s) / room) / weaker
    outer = _down(wide - blur_u) * weaker
    largest = _up(most + _up(tilt * slope))
    inner = (_down(outer / largest) if lowest > 1 else _down(_down(outer / largest) / largest)) * weaker
    nothing = np.zeros(0)
    sizes, blurs = np.array([wide, thin]), np.array([blur_u, blur_s])
    return LocalManifold(nothing, nothing, sizes, bounds, slope, blurs, inner, outer)


@np.errstate(all="ignore")
def pieces_of_branch(manifold: LocalManifold, side: int, starts: np.ndarray, ends: np.ndarray) -> Ellipsoids:
    """Ellipsoids that hold the manifold between the given distances from the saddle, on one side."""
    size, num = len(manifold.center), len(starts)
    blur_u, blur_s = manifold.blurs
    middle = 0.5 * starts + 0.5 * ends
    exact = ia.add(
        point(manifold.center), ia.mul(point(side * middle[:, None]), point(manifold.frame[:, 0])).map(np.asarray)
    )
    centers = np.asarray(ia.midpoint(exact))
    inverse = vn.inverse(point(manifold.frame))
    lost = ia.magnitude(ia.matmul(ia.sub(exact, point(centers)), inverse.map(np.transpose)))
    along = vn.round_up(vn.round_up(np.maximum(ends - middle, middle - starts)) + blur_u + lost[:, 0], 2)
    across = vn.round_up(manifold.slope * ends + blur_s + vn.vector_norm_bound(point(lost[:, 1:])), 3)
    sizes = np.concatenate([along[:, None], np.repeat(across[:, None], size - 1, axis=1)], axis=1)
    # Numbers of float32 again, rounded up: then the products are exact.
    sizes = np.nextafter(sizes.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    factors = manifold.frame * sizes[:, None, :]
    return Ellipsoids(centers, factors, np.full(num, _PRODUCT))
