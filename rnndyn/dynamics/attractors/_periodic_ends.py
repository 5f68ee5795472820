"""Whether an orbit has settled on a fixed point or a cycle: closest returns, then Newton's method."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Complex, Float

from rnndyn._programs import Program
from rnndyn.dynamics.kinks import OneSidedLinearization, at_kinks
from rnndyn.dynamics.numerics.drivers import map_in_chunks
from rnndyn.dynamics.numerics.eigenvalues import product_eigenvalues
from rnndyn.dynamics.numerics.evaluation import images_and_jacobians
from rnndyn.dynamics.numerics.periodic_orbits import CyclicSystem, closing_defects, divisors, from_smallest

SETTLED = 1e-6
"""An orbit closer than this to an attracting cycle, as a fraction of the scale of the states, has settled on it."""

MARGIN = 1e-6
"""Multipliers this close to the unit circle decide nothing: at a fold, where a point is known to the square root of
rounding only, a computed multiplier is off by a tenth of it."""

Stability = Literal["stable", "marginal", "unstable"]


class PeriodicOrbit(NamedTuple):
    """A fixed point or cycle found by Newton's method next to an orbit."""

    points: Float[np.ndarray, "p N"]
    residual: float
    multipliers: Complex[np.ndarray, " N"]
    distance: float
    """How far the last states of the orbit lie from it, phase by phase, as a fraction of the scale."""
    kink: OneSidedLinearization | None = None
    """The linear maps that meet there, where it lies on a kink: the multipliers are those of one of them."""

    @property
    def period(self) -> int:
        return len(self.points)

    @property
    def spectral_radius(self) -> float:
        """The growth factor per turn in the long run: the largest modulus of a multiplier, but on a kink."""
        return float(np.max(np.abs(self.multipliers))) if self.kink is None else self.kink.growth

    @property
    def stability(self) -> Stability:
        if self.kink is not None and self.kink.stability == "undecided":
            return "marginal"
        if abs(self.spectral_radius - 1) <= MARGIN:
            return "marginal"
        return "stable" if self.spectral_radius < 1 else "unstable"

    @property
    def reach(self) -> float:
        """How close an orbit must come to count as settled, as a fraction of the scale.

        Where the multiplier is 1 - m, the next invariant point of a map whose curvature is of the order of one per
        scale lies about m away (the saddle of a fold): a hundredth of that is inside the basin.
        """
        return min(SETTLED, abs(1 - self.spectral_radius) / 100)

    @property
    def holds(self) -> bool:
        """Whether the orbit is on it."""
        return self.distance <= self.reach


def closest_returns(
    states: Float[np.ndarray, "L N"], max_period: int, scale: float
) -> tuple[list[int], Float[np.ndarray, " P"]]:
    """Times after which an orbit is back, shortest first, and the gap of every time as a fraction of the scale.

    The gap of p is the largest |x_t - x_{t-p}| of the last max(p, 64) states: a chaotic orbit comes back close, but
    does not stay so. A hidden period doubling leaves a small gap at p and a smaller one at 2 p, so both are listed.
    """
    longest = min(max_period, len(states) // 2)
    last = states[-1]
    gaps = np.max(np.abs(states[-1 - longest : -1][::-1] - last), axis=1) / scale
    # Only close returns of the last state are looked at in full.
    for p in np.flatnonzero(gaps <= 1e-3) + 1:
        span = min(max(int(p), 64), len(states) - int(p))
        gaps[p - 1] = np.max(np.abs(states[-span:] - states[-span - p : -p])) / scale
    near = np.flatnonzero(gaps <= 1e-4) + 1
    # Of the multiples of a period the first ones say it all; those of the closest return are kept.
    chosen, best = [], np.inf
    for p in near:
        if gaps[p - 1] < 0.5 * best:
            chosen.append(int(p))
            best = gaps[p - 1]
    return chosen, gaps


def polish(
    f: Callable[[Array], Array], states: Float[np.ndarray, "L N"], period: int, scale: float
) -> "PeriodicOrbit | None":
    """The cycle that Newton's method reaches from the last `period` states, with its minimal period; or `None`."""
    found = _newton(f, states[-period:], scale)
    if found is None:
        return None
    points, residual, jacobians, error = found
    for divisor in divisors(period)[:-1]:
        shift = np.max(np.abs(np.roll(points, divisor, axis=0) - points))
        if shift <= max(2 * min(error, 1e-4 * scale), 1e-9 * scale):
            shorter = _newton(f, points[:divisor], scale)
            if shorter is not None:
                points, residual, jacobians, error = shorter
                break
    return PeriodicOrbit(
        points=from_smallest(points[None], scale)[0],
        residual=residual,
        multipliers=_multipliers(jacobians),
        distance=distance_from(points, states[-len(points) :]) / scale,
        kink=at_kinks(f, points, min(error, 1e-6 * scale)) if isinstance(f, Program) else None,
    )


def distance_from(points: Float[np.ndarray, "p N"], states: Float[np.ndarray, "p N"]) -> float:
    """The largest distance of successive states from a cycle, in the phase in which it is least."""
    shifts = [np.max(np.abs(np.roll(points, shift, axis=0) - states)) for shift in range(len(points))]
    return float(np.min(shifts))


def _newton(f: Callable, points: np.ndarray, scale: float) -> tuple[np.ndarray, float, np.ndarray, float] | None:
    """Points, residual, Jacobians and error estimate of the cycle next to `points`, or `None`."""
    best = None
    # An orbit that is close needs five steps; next to a degenerate cycle each step only halves the distance.
    for _ in range(40):
        images, jacobians = _evaluate(f, points)
        residual = float(closing_defects(points[None], images[None])[0])
        if best is not None and not residual < best[1]:
            break
        system = CyclicSystem(jacobians) if len(points) > 1 else _PointSystem(jacobians[0])
        best = (points, residual, jacobians, system)
        points = points + system.solve(images - np.roll(points, -1, axis=0))
        if not np.isfinite(points).all():
            break
    if best is None:
        return None
    points, residual, jacobians, system = best
    row_sum = float(np.max(np.sum(np.abs(jacobians), axis=2)))
    floor = np.finfo(float).eps * (1 + row_sum) * max(scale, float(np.max(np.abs(points))))
    # 64 units in the last place: room for the sums inside of F.
    if not residual <= 64 * floor:
        return None
    gap = system.gap
    return points, residual, jacobians, max(residual, floor) / gap if gap > 0 else np.inf


class _PointSystem:
    """The equation s - J s = b of a fixed point: the dense counterpart of `CyclicSystem`."""

    def __init__(self, jacobian: Float[np.ndarray, "N N"]):
        try:
            self._inverse = np.linalg.inv(np.eye(len(jacobian)) - jacobian)
        except np.linalg.LinAlgError:
            self._inverse = None

    def solve(self, rhs: Float[np.ndarray, "1 N"]) -> Float[np.ndarray, "1 N"]:
        return np.zeros_like(rhs) if self._inverse is None else rhs @ self._inverse.T

    @property
    def gap(self) -> float:
        return 0.0 if self._inverse is None else 1 / float(np.linalg.norm(self._inverse, np.inf))


def _multipliers(jacobians: Float[np.ndarray, "p N N"]) -> Complex[np.ndarray, " N"]:
    if len(jacobians) > 1:
        return product_eigenvalues(jacobians)
    values = np.linalg.eigvals(jacobians[0]).astype(complex)
    return values[np.argsort(-np.abs(values), kind="stable")]


def _evaluate(f: Callable, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return map_in_chunks(
        lambda x: images_and_jacobians(f, x),
        points,
        bytes_per_item=32 * points.shape[1] ** 2,
        description="polishing",
        progress=False,
    )
