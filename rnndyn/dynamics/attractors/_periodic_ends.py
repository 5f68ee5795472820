"""Whether an orbit has settled on a fixed point or a cycle: closest returns, then Newton's method."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Complex, Float

from rnndyn._programs import Program
from rnndyn.dynamics.kinks import KinkVerdict, OneSidedLinearization, at_kinks
from rnndyn.dynamics.numerics.eigenvalues import product_eigenvalues
from rnndyn.dynamics.numerics.evidence import DEGENERATE_RESOLUTION, by_modulus, root_errors, rounding_floor
from rnndyn.dynamics.numerics.newton import polish
from rnndyn.dynamics.numerics.periodic_orbits import CyclicSystem, from_smallest, smallest_period
from rnndyn.dynamics.numerics.torus import difference, period_of
from rnndyn.results import is_verdict

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
    error: float
    """How far the points may lie from the true ones: this and the points are what tells two of them apart."""
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
        if self.kink is not None and not is_verdict(self.kink.result, KinkVerdict.stable, KinkVerdict.unstable):
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
    states: Float[np.ndarray, "L N"], max_period: int, scale: float, angles: np.ndarray | None = None
) -> tuple[list[int], Float[np.ndarray, " P"]]:
    """Times after which an orbit is back, shortest first, and the gap of every time as a fraction of the scale.

    The gap of p is the largest |x_t - x_{t-p}| of the last max(p, 64) states: a chaotic orbit comes back close, but
    does not stay so. A hidden period doubling leaves a small gap at p and a smaller one at 2 p, so both are listed.
    """
    longest = min(max_period, len(states) // 2)
    last = states[-1]
    gaps = np.max(np.abs(difference(states[-1 - longest : -1][::-1], last, angles)), axis=1) / scale
    # Only close returns of the last state are looked at in full.
    for p in np.flatnonzero(gaps <= 1e-3) + 1:
        span = min(max(int(p), 64), len(states) - int(p))
        gaps[p - 1] = np.max(np.abs(difference(states[-span:], states[-span - p : -p], angles))) / scale
    near = np.flatnonzero(gaps <= 1e-4) + 1
    # Of the multiples of a period the first ones say it all; those of the closest return are kept.
    chosen, best = [], np.inf
    for p in near:
        if gaps[p - 1] < 0.5 * best:
            chosen.append(int(p))
            best = gaps[p - 1]
    return chosen, gaps


def polish_end(
    f: Callable[[Array], Array], states: Float[np.ndarray, "L N"], period: int, scale: float
) -> PeriodicOrbit | None:
    """The cycle that Newton's method reaches from the last `period` states, with its minimal period; or `None`."""
    angles = period_of(f, states.shape[1])
    found = _newton(f, states[-period:], scale, angles)
    if found is None:
        return None
    points, _, _, error = found
    tolerance = max(2 * min(error, 1e-4 * scale), 1e-9 * scale)
    minimal = smallest_period(points, tolerance, angles)
    if minimal < period:
        found = _newton(f, points[:minimal], scale, angles) or found
    points, residual, jacobians, error = found
    return PeriodicOrbit(
        points=from_smallest(points[None], scale, angles)[0],
        residual=residual,
        multipliers=by_modulus(
            product_eigenvalues(jacobians) if len(jacobians) > 1 else np.linalg.eigvals(jacobians[0])
        ),
        distance=distance_from(points, states[-len(points) :], angles) / scale,
        error=error,
        kink=at_kinks(f, points, min(error, 1e-6 * scale)) if isinstance(f, Program) else None,
    )


def distance_from(
    points: Float[np.ndarray, "p N"], states: Float[np.ndarray, "p N"], angles: np.ndarray | None = None
) -> float:
    """The largest distance of successive states from a cycle, in the phase in which it is least."""
    apart = [np.max(np.abs(difference(np.roll(points, k, axis=0), states, angles))) for k in range(len(points))]
    return float(np.min(apart))


def is_same(first: PeriodicOrbit, second: PeriodicOrbit, scale: float, angles: np.ndarray | None = None) -> bool:
    """Whether two polished cycles are one: as far apart as their errors explain, in one of the phases."""
    if first.period != second.period:
        return False
    errors = min(2 * (first.error + second.error), DEGENERATE_RESOLUTION * scale)
    return distance_from(first.points, second.points, angles) <= errors + 1e-9 * scale


def _newton(
    f: Callable, points: np.ndarray, scale: float, angles: np.ndarray | None
) -> tuple[np.ndarray, float, np.ndarray, float] | None:
    """Points, residual, Jacobians and error estimate of the cycle next to `points`, or `None`."""
    polished = polish(f, points[None], period=angles)
    points, residual, jacobians = polished.points[0], float(polished.residuals[0]), polished.jacobians[0]
    if not np.isfinite(residual) or not np.isfinite(jacobians).all():
        return None
    row_sum = float(np.max(np.sum(np.abs(jacobians), axis=2)))
    size = max(scale, float(np.max(np.abs(points))))
    if not residual <= rounding_floor(size, row_sum):
        return None
    return points, residual, jacobians, float(root_errors(residual, size, row_sum, CyclicSystem(jacobians).gap))
