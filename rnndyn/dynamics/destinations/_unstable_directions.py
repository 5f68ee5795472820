"""The one-dimensional unstable manifold of a saddle, enclosed near it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from rnndyn._programs import compiled
from rnndyn.dynamics.destinations._sets import Ellipsoids, enclose_sets
from rnndyn.dynamics.destinations.trapping_balls import metrics
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs import verified_norms as vn
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point

_NUM_SHRINKS = 40
_WIDEST_CONE = 2e-3
"""The largest slope of the manifold against the unstable direction: with a smaller set it is smaller."""


class LocalManifold(NamedTuple):
    """Where the unstable manifold of a saddle runs, in coordinates x = c + A (u, s), for u between two distances.

    - `center`, `frame`: c (N,) and A (N, N), whose first column is the unstable direction.
    - `inner`, `outer`: every orbit of the manifold but the saddle itself has a point with inner <= |u - u*| <= outer,
      on the side where it stays (every second image, where the multiplier is negative).
    - `slope`: |s - s*| <= slope |u - u*| on it; `blur_u`, `blur_s`: bounds of |u*| and |s*|, the saddle itself.
    - `growth`: lower bound of what |u - u*| is multiplied by.
    """

    center: np.ndarray
    frame: np.ndarray
    inner: float
    outer: float
    slope: float
    blur_u: float
    blur_s: float
    growth: float


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
def enclose_manifold(f: Callable, center: np.ndarray, frame: np.ndarray, scale: float) -> LocalManifold | None:
    r"""The largest neighbourhood, by halving, in which covering and cone conditions hold; `None` where none does.

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
    for _ in range(_NUM_SHRINKS):
        sizes = np.concatenate([[wide], np.full(len(center) - 1, thin)])
        # The product of an interval and a ball lies in the ellipsoid of twice the square.
        sets = Ellipsoids(center[None], frame[None] * sizes, np.array([1.4142135623730951 * (1 + 1e-15)]))
        enclosure = enclose_sets(f, sets)
        blocks = ia.div(ia.matmul(inverse, enclosure.jacobian), point(sizes)).map(lambda end: end[0])
        away = ia.matvec(inverse, ia.sub(enclosure.value, point(center[None]))).map(lambda end: end[0])
        found = _conditions(blocks, away, wide, thin)
        if isinstance(found, LocalManifold):
            return found._replace(center=center, frame=frame)
        wide = wide / 2
        thin = float(np.nextafter(np.float32(min(max(found * wide, 1e-12 * scale), wide)), np.float32(np.inf)))
    return None


def _conditions(blocks: Interval, away: Interval, wide: float, thin: float) -> "LocalManifold | float":
    """The manifold, or how thin a set may be tried next, relative to its length."""

    def up(x: float) -> float:
        return float(vn.round_up(np.float64(x), 4))

    def down(x: float) -> float:
        return float(vn.round_down(np.float64(x), 4))

    entry = Interval(blocks.lo[0, 0], blocks.hi[0, 0])
    if not (entry.lo > 1 or entry.hi < -1):
        return 1.0
    least, most = float(min(abs(entry.lo), abs(entry.hi))), float(max(abs(entry.lo), abs(entry.hi)))
    from_one = down(min(abs(entry.lo - 1), abs(entry.hi - 1)))
    tilt = float(vn.vector_norm_bound(blocks.map(lambda end: end[0, 1:])))
    bend = float(vn.vector_norm_bound(blocks.map(lambda end: end[1:, 0])))
    squeeze = float(vn.spectral_norm_bound(blocks.map(lambda end: end[1:, 1:]))) if blocks.shape[0] > 1 else 0.0
    off_u = float(vn.vector_norm_bound(away.map(lambda end: end[:1])))
    off_s = float(vn.vector_norm_bound(away.map(lambda end: end[1:])))
    if not squeeze < 1 or not np.isfinite(bend + tilt):
        return 1.0
    slope = 1.25 * bend / (least - squeeze) + 1e-14
    growth = down(least - up(tilt * slope))
    thinner = 4 * (bend + off_s / wide) / (1 - squeeze)
    closes = (
        slope <= _WIDEST_CONE
        and growth > 1
        and up(bend + up(squeeze * slope)) < down(slope * growth)
        and up(bend + squeeze) < 1
        and down(least - tilt) > 1
        and up(wide + up(tilt * thin) + off_u) < down(least * wide)
        and up(up(bend * wide) + up(squeeze * thin) + off_s) < thin
    )
    room = down(1 - squeeze)
    denominator = down(from_one - up(up(tilt * bend) / room)) if room > 0 else 0.0
    if not closes or not denominator > 0:
        return thinner
    blur_u = up(up(up(tilt * off_s) / room + off_u) / denominator)
    blur_s = up(up(bend * blur_u + off_s) / room)
    outer = down(wide - blur_u)
    largest = up(most + up(tilt * slope))
    power = 1 if entry.lo > 0 else 2
    inner = down(down(outer / largest) / (largest if power == 2 else 1.0))
    nothing = np.zeros(0)
    return LocalManifold(nothing, nothing, inner, outer, slope, blur_u, blur_s, growth)


@np.errstate(all="ignore")
def pieces_of_branch(manifold: LocalManifold, side: int, starts: np.ndarray, ends: np.ndarray) -> Ellipsoids:
    """Ellipsoids that hold the manifold between the given distances from the saddle, on one side."""
    size, num = len(manifold.center), len(starts)
    middle = 0.5 * starts + 0.5 * ends
    exact = ia.add(
        point(manifold.center), ia.mul(point(side * middle[:, None]), point(manifold.frame[:, 0])).map(np.asarray)
    )
    centers = np.asarray(ia.midpoint(exact))
    inverse = vn.inverse(point(manifold.frame))
    lost = ia.magnitude(ia.matmul(ia.sub(exact, point(centers)), inverse.map(np.transpose)))
    along = vn.round_up(vn.round_up(np.maximum(ends - middle, middle - starts)) + manifold.blur_u + lost[:, 0], 2)
    across = vn.round_up(manifold.slope * ends + manifold.blur_s + vn.vector_norm_bound(point(lost[:, 1:])), 3)
    sizes = np.concatenate([along[:, None], np.repeat(across[:, None], size - 1, axis=1)], axis=1)
    # Numbers of float32 again, rounded up: then the products are exact.
    sizes = np.nextafter(sizes.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    factors = manifold.frame * sizes[:, None, :]
    return Ellipsoids(centers, factors, np.full(num, 1.4142135623730951 * (1 + 1e-15)))
