"""Sets of states that are carried forward rigorously: ellipsoids, and boxes where growth does not matter."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from rnndyn.dynamics.numerics.drivers import map_in_chunks
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs import verified_norms as vn
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.intervals import Enclosure, enclose_boxes
from rnndyn.dynamics.proofs.set_images import enclose_balls

_FLATTEST = 1e-3
"""The shortest semi-axis of an image, as a share of their root mean square: flatter ones have inverses too large."""

_CHUNK = 64
"""Sets that one compiled call takes, padded where there are fewer: one compilation serves all sets of a map."""

_BOX_CHUNK = 1024


class Ellipsoids(NamedTuple):
    """K sets {c + Q y : |y|_2 <= r}: `centers` (K, N), `factors` (K, N, N), `radii` (K,)."""

    centers: Float[np.ndarray, "K N"]
    factors: Float[np.ndarray, "K N N"]
    radii: Float[np.ndarray, " K"]

    def take(self, rows: Any) -> "Ellipsoids":
        return Ellipsoids(*(a[rows] for a in self))


def points_as_sets(states: Float[np.ndarray, "K N"]) -> Ellipsoids:
    """Sets of one state each."""
    num, size = states.shape
    return Ellipsoids(states, np.broadcast_to(np.eye(size), (num, size, size)).copy(), np.zeros(num))


def enclose_sets(f: Callable, sets: Ellipsoids, *args: np.ndarray) -> Enclosure:
    """`enclose_balls`, as NumPy arrays and in chunks of one size."""
    size = sets.centers.shape[1]

    def enclose(batch: Any) -> Any:
        return jax.device_get(enclose_balls(f, *batch))

    return map_in_chunks(
        enclose,
        (*sets, *args),
        bytes_per_item=8 * 60 * size**2 + 4096,
        description="Enclosing",
        progress=False,
        least_size=_CHUNK,
        most_size=_CHUNK,
    )


def enclose_in_chunks(f: Callable, boxes: Interval) -> Enclosure:
    """Values over K boxes, as NumPy arrays."""
    return map_in_chunks(
        lambda batch: jax.device_get(enclose_boxes(f, *batch, with_jacobian=False)),
        (np.asarray(boxes.lo), np.asarray(boxes.hi)),
        bytes_per_item=8 * 64 * boxes.lo.shape[1],
        description="Enclosing",
        progress=False,
        least_size=_BOX_CHUNK,
        most_size=_BOX_CHUNK,
    )


@np.errstate(all="ignore")
def image_radii(
    enclosure: Enclosure, radii: np.ndarray, centers: np.ndarray, inverses: Interval
) -> tuple[np.ndarray, np.ndarray]:
    """How far images reach in norms |Q'⁻¹ (x - c')|, and the factor by which they bring states together, upper bounds.

    F(c + Q y) - c' = (F(c) - c') + [DF Q] y, so the reach is |Q'⁻¹ (F(c) - c')| + |Q'⁻¹ [DF Q]| r.
    """
    offset = vn.vector_norm_bound(ia.matvec(inverses, ia.sub(enclosure.value, point(centers))))
    factor = vn.spectral_norm_bound(ia.matmul(inverses, enclosure.jacobian))
    return vn.round_up(offset + vn.round_up(factor * radii)), factor


@np.errstate(all="ignore")
def advance(f: Callable, sets: Ellipsoids, *args: np.ndarray) -> Ellipsoids:
    """Sets that hold the images of sets; radii are infinite where nothing is known.

    The image is the sum of [DF Q](y) at its midpoint, an ellipsoid, and of what the curvature of F and rounding add, in
    a box of half-widths d. The new Q is a Cholesky factor of (1 + a) E + (1 + 1/a) N diag(d²), which holds the sum of
    both, E = r² DF Q Q' DF', with the least trace for a² = tr(N diag(d²)) / tr E (Schweppe 1973), and fattened so that
    it can be inverted. Any matrix would do, this one makes the new radius close to 1.
    """
    enclosure = enclose_sets(f, sets, *args)
    size = sets.centers.shape[1]
    centers = np.asarray(ia.midpoint(enclosure.value))
    linear = np.asarray(ia.midpoint(enclosure.jacobian))
    blur = np.linalg.norm(ia.radius_about(enclosure.jacobian, linear), axis=2) * sets.radii[:, None]
    blur = blur + ia.radius_about(enclosure.value, centers)
    known = ~(np.asarray(enclosure.jumps) | np.asarray(enclosure.undefined))
    known &= np.isfinite(centers).all(axis=1) & np.isfinite(linear).all(axis=(1, 2)) & np.isfinite(blur).all(axis=1)
    linear = np.where(known[:, None, None], linear * sets.radii[:, None, None], 0.0)
    # Larger ones hold nothing that could still be told, and their squares overflow.
    known &= (np.abs(linear).max(axis=(1, 2)) < 1e100) & (blur.max(axis=1) < 1e100)
    linear = np.where(known[:, None, None], linear, 0.0)
    image = linear @ np.swapaxes(linear, 1, 2)
    box = size * np.where(known[:, None], blur, 1.0) ** 2 + 1e-60
    total, added = np.trace(image, axis1=1, axis2=2), box.sum(axis=1)
    ratio = np.sqrt(added / np.maximum(total, 1e-30 * added))
    fat = (1 + 1 / ratio)[:, None] * box + (_FLATTEST**2 * total / size)[:, None]
    covariance = (1 + ratio)[:, None, None] * image + fat[:, None, :] * np.eye(size)
    factors = np.linalg.cholesky(covariance)
    inverses = vn.inverse(point(factors))
    radii, _ = image_radii(enclosure, sets.radii, centers, inverses)
    radii = np.where(known & np.isfinite(radii), radii, np.inf)
    return Ellipsoids(np.where(known[:, None], centers, 0.0), factors, radii)


class Balls(NamedTuple):
    """Targets {c + Q y : |y|_2 <= r}: `centers` (B, N), `inverses` of the factors enclosed (B, N, N), `radii` (B,)."""

    centers: Float[np.ndarray, "B N"]
    inverses: Interval
    radii: Float[np.ndarray, " B"]


@np.errstate(all="ignore")
def ball_of_each(sets: Ellipsoids, balls: Balls) -> np.ndarray:
    """The ball that wholly holds each set, -1 where none is shown to."""
    found = np.full(len(sets.centers), -1)
    near, distance = _nearest(sets.centers, balls)
    rows = np.flatnonzero(np.isfinite(sets.radii) & (distance < balls.radii[near]))
    if rows.size:
        chosen = near[rows]
        inverse = Interval(balls.inverses.lo[chosen], balls.inverses.hi[chosen])
        offset = ia.sub(point(sets.centers[rows]), point(balls.centers[chosen]))
        away = vn.vector_norm_bound(ia.matvec(inverse, offset))
        size = vn.round_up(vn.spectral_norm_bound(ia.matmul(inverse, point(sets.factors[rows]))) * sets.radii[rows])
        inside = vn.round_up(away + size) <= balls.radii[chosen]
        found[rows[inside]] = chosen[inside]
    return found


@np.errstate(all="ignore")
def place_of_each(sets: Ellipsoids, balls: Balls) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest ball of each set, its distance from the centre and its largest half-width in radii of that ball.

    In plain floating point, for messages only.
    """
    centers, axes = sets.centers, sets.factors * sets.radii[:, None, None]
    near, away = _nearest(centers, balls)
    relative = np.asarray(ia.midpoint(balls.inverses))[near] / balls.radii[near, None, None]
    usable = np.asarray(np.isfinite(axes).all(axis=(1, 2)))
    widths = np.linalg.norm(relative @ np.where(usable[:, None, None], axes, 0.0), 2, axis=(1, 2))
    return near, away / balls.radii[near], np.where(usable, widths, np.inf)


def _nearest(centers: np.ndarray, balls: Balls) -> tuple[np.ndarray, np.ndarray]:
    """The ball whose centre is relatively nearest to each state in the norm of the ball; in plain floating point."""
    middle = np.asarray(ia.midpoint(balls.inverses))
    away = np.stack([np.linalg.norm((centers - c) @ m.T, axis=1) for c, m in zip(balls.centers, middle)], axis=1)
    near = np.argmin(np.where(np.isnan(away), np.inf, away) / balls.radii, axis=1)
    return near, away[np.arange(len(centers)), near]
