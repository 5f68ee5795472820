"""The tests that an orbit is put to after every doubling of its length, and what is said when none is passed."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn.dynamics.attractors._orbits import SEGMENT, LongOrbit
from rnndyn.dynamics.attractors._periodic_ends import PeriodicOrbit, closest_returns, polish_end
from rnndyn.dynamics.attractors._segments import skip
from rnndyn.dynamics.attractors.classified_attractor import (
    ClassifiedAttractor,
    attractor_with,
    is_kept,
    periodic_attractor,
)
from rnndyn.dynamics.attractors.verdicts import AttractorVerdict
from rnndyn.dynamics.cycles.invariant_circles import InvariantCircle, find_invariant_circle
from rnndyn.dynamics.cycles.limit_cycles import find_limit_cycle
from rnndyn.dynamics.flows import TimeMap
from rnndyn.dynamics.numerics.birkhoff import leading_frequencies

_CIRCLE_DIGITS = 8.0
"""Weighted averages that agree to so many digits: chaos needs 1e16 steps for that, a circle a few thousand."""

_MAX_NEWTON_SIZE = 16
"""Circles of longer states are not solved for: a Newton step works on a matrix N x N for each of hundreds of angles."""

_MAX_CIRCLES = 64
"""The most circles visited in turn that are told apart."""

_NUM_SAMPLES = 512
"""States that stand for a circle or a chaotic attractor."""


class Judge:
    """The tests that an orbit is put to after every doubling of its length."""

    def __init__(self, f: Callable, orbit: LongOrbit, max_period: int, flow: TimeMap | None, taken: int):
        self.f, self.orbit, self.max_period, self.flow, self.taken = f, orbit, max_period, flow, taken
        self.neighbours: list[PeriodicOrbit] = []
        self.refused = ""
        self.gap, self.time = np.inf, 0

    def verdict(self) -> ClassifiedAttractor | None:
        """The first kind whose every test is passed."""
        orbit = self.orbit
        candidates, gaps = closest_returns(orbit.states, self.max_period, orbit.scale)
        self.time = int(np.argmin(gaps)) + 1
        self.gap = float(gaps[self.time - 1])
        found = [polish_end(self.f, orbit.states, p, orbit.scale) for p in candidates]
        self.neighbours = [p for p in found if p is not None]
        for periodic in self.neighbours:
            if periodic.stability == "stable" and periodic.holds and (self.flow is None or periodic.period == 1):
                return self._periodic(periodic)
        if self.flow is not None:
            found = self._limit_cycle(self.flow)
            if found is not None:
                return found
        # On an unstable cycle the exponent is positive, on a marginal one it is zero: neither is an attractor.
        if any(p.stability != "stable" and p.distance <= 1e-6 for p in self.neighbours):
            return None
        growth = orbit.growth()
        if orbit.num_steps >= 2 * SEGMENT and growth.is_chaotic:
            volume, error = orbit.volume()
            result, reason = (
                AttractorVerdict.attracting,
                f"the exponent is positive by {growth.exponents[0] / growth.stderr[0]:.3g} standard errors, and was so "
                "before",
            )
            if is_kept(volume, error):
                result = AttractorVerdict.keeps_volume
                reason += f"; volume is kept (all exponents sum to {volume:.1g} +- {error:.1g}): not an attractor"
            return self._result(
                "chaotic", result, reason, points=self._sample(), volume_rate=volume, volume_rate_stderr=error
            )
        return self._circle()

    def _limit_cycle(self, flow: TimeMap) -> ClassifiedAttractor | None:
        """The attracting periodic orbit of the flow whose samples the orbit is."""
        orbit, growth = self.orbit, self.orbit.growth()
        if orbit.num_steps < 2 * SEGMENT or growth.is_chaotic or growth.exponents[0] < -1e-2:
            return None
        cycle = find_limit_cycle(flow.vector_field, orbit.x, transient=0)
        if not cycle.is_stable:
            return None
        # The orbit is on it: nearer to its points than they are to their neighbours.
        spacing = np.max(np.abs(np.roll(cycle.points, -1, axis=0) - cycle.points))
        if not np.min(np.max(np.abs(cycle.points - orbit.x), axis=1)) <= spacing:
            return None
        turns = flow.dt / cycle.period % 1.0
        across = np.real(cycle.log_multipliers[:1]) * flow.dt / cycle.period
        return self._result(
            "invariant circle",
            AttractorVerdict.attracting,
            f"limit cycle of the flow: a periodic orbit of the vector field with period {cycle.period:.9g}, attracting",
            points=self._sample(),
            rotation_number=min(turns, 1 - turns),
            residual=cycle.residual,
            exponents=np.concatenate([[0.0], across]),
            exponents_stderr=np.zeros(1 + across.size),
            num_circles=1,
            limit_cycle=cycle,
        )

    def _circle(self) -> ClassifiedAttractor | None:
        orbit, growth = self.orbit, self.orbit.growth()
        # Without a second direction there is no circle; a constant or periodic orbit averages well too.
        if growth.exponents.size < 2 or orbit.num_steps < 2 * SEGMENT or self.gap < 1e-8:
            return None
        along, across = growth.weighted
        if not (abs(along) <= 1e-6 and across < -1e-5 and orbit.birkhoff_digits() >= _CIRCLE_DIGITS):
            return None
        reason = "weighted averages converge, one exponent is zero and the next negative"
        lines = leading_frequencies(orbit.signal()[-SEGMENT:], 8)
        if lines.size == 0:
            return None
        num, residual, circle = _num_circles(lines), float("nan"), None
        if orbit.x.size <= _MAX_NEWTON_SIZE:
            num, circle = self._solved(num)
            if circle is None:
                return None
            rotation, residual = circle.rotation_number, circle.residual
            reason += "; the curve is solved for"
        elif num == 1:
            rotation = float(lines[0])
        else:
            within = leading_frequencies(orbit.signal()[::num], 1)
            if within.size == 0:
                return None
            rotation = float(within[0])
        if num > 1:
            reason += f"; lines of the spectrum at multiples of 1/{num}: {num} circles are visited in turn"
        return self._result(
            "invariant circle",
            AttractorVerdict.attracting,
            reason,
            points=self._sample(),
            rotation_number=rotation,
            residual=residual,
            circle=circle,
            num_circles=num,
        )

    def _solved(self, num: int) -> tuple[int, InvariantCircle | None]:
        """The number of circles visited in turn, and the curve of one of them; or why there is none, in `refused`."""
        x = self.orbit.x
        for k in [num, 1] if num > 1 else [1]:
            found = find_invariant_circle(
                self.f if k == 1 else _Iterated(self.f, k), x, num_transient=0, progress=False
            )
            if not found.converged:
                self.refused = found.reason or f"the orbit is on a {found.kind}"
                continue
            # One circle alone is a circle of every iterate too: its states come back to it after each step.
            curve = found.curve(np.arange(4096) / 4096)
            spacing = np.max(np.abs(np.roll(curve, -1, axis=0) - curve))
            ahead = np.asarray(skip(self.f, jnp.asarray(x), jnp.asarray(1)))
            if k > 1 and np.min(np.max(np.abs(curve - ahead), axis=1)) <= spacing:
                continue
            return k, found
        return num, None

    def _periodic(self, found: PeriodicOrbit) -> ClassifiedAttractor:
        return periodic_attractor(
            found,
            self.orbit.x,
            recurrence_gap=self.gap,
            recurrence_time=self.time,
            birkhoff_digits=self.orbit.birkhoff_digits(),
            num_steps=self.taken + self.orbit.num_steps,
        )

    def undecided(self) -> ClassifiedAttractor:
        """Why nothing can be said."""
        orbit = self.orbit
        near = self.neighbours or [p for p in [self._central_point()] if p is not None]
        best = min(near, key=lambda p: p.distance, default=None)
        sizes = np.max(np.abs(orbit.signal()), axis=1)
        grows = np.max(sizes[len(sizes) // 2 :]) > 1.2 * np.max(sizes[: len(sizes) // 2])
        growth = orbit.growth()
        rate, error = growth.exponents[0], growth.stderr[0]
        volume, volume_error = orbit.volume()
        # A point in the middle of such motion is no reason for it.
        if not self.neighbours and is_kept(volume, volume_error):
            result = AttractorVerdict.keeps_volume
            reason = f"the motion keeps volume (exponents sum to {volume:.1g} +- {volume_error:.1g}): nothing attracts"
        elif best is not None and best.stability == "unstable" and best.distance <= 1e-6:
            result = AttractorVerdict.unstable
            reason = f"the orbit stays on {_name(best)} that is unstable (|mu| = {best.spectral_radius:.6g})"
        elif best is not None and best.kink is not None and best.stability == "marginal":
            result = AttractorVerdict.on_kink
            reason = f"near {_name(best)} on a kink of the map: {best.kink.reason}"
        elif best is not None and best.stability == "marginal":
            result = AttractorVerdict.marginal
            reason = f"near {_name(best)} with a multiplier on the unit circle (|mu| = {best.spectral_radius:.9g})"
        elif best is not None and best.stability == "stable":
            result = AttractorVerdict.slow
            reason = (
                f"the orbit approaches {_name(best)} slowly or not at all (|mu| = {best.spectral_radius:.6g}, "
                f"{best.distance:.1g} of the scale away); raise max_map_steps"
            )
        elif grows:
            result = AttractorVerdict.growing
            reason = "the orbit still grows; raise max_map_steps or lower escape_radius"
        elif growth.is_chaotic or rate > 5 * error:
            result = AttractorVerdict.unsteady
            reason = f"the exponent {rate:.3g} +- {error:.1g} is positive, but it drifts or is correlated"
        elif self.refused:
            result = AttractorVerdict.no_curve
            reason = (
                f"regular, with one exponent zero and the next negative, but no curve solves for it: {self.refused}"
            )
        elif orbit.birkhoff_digits() >= _CIRCLE_DIGITS and growth.weighted[0] < -1e-6:
            result = AttractorVerdict.long_period
            reason = f"regular and contracting: a cycle longer than max_period = {self.max_period}?"
        elif orbit.birkhoff_digits() >= _CIRCLE_DIGITS:
            result = AttractorVerdict.torus
            reason = "quasi-periodic, but no attracting circle: a torus of more frequencies"
        else:
            result = AttractorVerdict.neutral
            reason = f"the exponent {rate:.3g} +- {error:.1g} is too close to zero, and averages converge slowly"
        reason = f"{reason} (after {orbit.num_steps} steps)"
        return self._result("undecided", result, reason, points=orbit.states[-1:])

    def _central_point(self) -> PeriodicOrbit | None:
        """The fixed point in the middle of the orbit, around which it may spiral."""
        states = self.orbit.states
        found = polish_end(self.f, np.concatenate([states, states.mean(axis=0)[None]]), 1, self.orbit.scale)
        if found is None:
            return None
        distance = float(np.max(np.abs(states[-64:] - found.points[0]))) / self.orbit.scale
        return found._replace(distance=distance)

    def _sample(self) -> np.ndarray:
        states = self.orbit.states
        return states[-_NUM_SAMPLES:]

    def _result(self, kind: str, result: Any, reason: str, **fields: Any) -> ClassifiedAttractor:
        growth = self.orbit.growth()
        evidence: dict[str, Any] = {
            "exponents": growth.exponents,
            "exponents_stderr": growth.stderr,
            "recurrence_gap": self.gap,
            "recurrence_time": self.time,
            "birkhoff_digits": self.orbit.birkhoff_digits(),
            "num_steps": self.taken + self.orbit.num_steps,
        }
        return attractor_with(kind, result, reason, self.orbit.x, **(evidence | fields))


class _Iterated(eqx.Module):
    """F^k."""

    f: Callable[[Array], Array]
    num: int = eqx.field(static=True)

    def __call__(self, x: Array) -> Array:
        return jax.lax.fori_loop(0, self.num, lambda _, x: self.f(x), x)


def _num_circles(lines: Float[np.ndarray, " K"]) -> int:
    """Of how many pieces a quasi-periodic set consists: what its spectrum shows of a motion from piece to piece.

    A line at m / q, known to 1e-12 from 4096 steps, belongs to a motion among pieces; that of a circle is irrational.
    """
    num = 1
    for line in lines:
        orders = np.arange(1, _MAX_CIRCLES + 1)
        near = np.abs(orders * line - np.round(orders * line)) <= 1e-9 * orders
        if near.any():
            num = int(np.lcm(num, orders[np.argmax(near)]))
    return num if num <= _MAX_CIRCLES else 1


def _name(found: PeriodicOrbit) -> str:
    return "a fixed point" if found.period == 1 else f"a cycle of period {found.period}"
