"""The search behind `find_attractors`: rounds of orbits, and to which attractor each of them has come."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.spatial import KDTree

from rnndyn.dynamics.attractors._orbits import SEGMENT, least_scale
from rnndyn.dynamics.attractors._periodic_ends import PeriodicOrbit, closest_returns, is_same, polish_end
from rnndyn.dynamics.attractors._segments import follow, late_states, run_until_return
from rnndyn.dynamics.attractors.classification import classify
from rnndyn.dynamics.attractors.classified_attractor import ClassifiedAttractor, periodic_attractor
from rnndyn.dynamics.attractors.verdicts import AttractorVerdict
from rnndyn.dynamics.flows import TimeMap
from rnndyn.dynamics.numerics.evaluation import orbits_from
from rnndyn.dynamics.numerics.frames import random_frame
from rnndyn.dynamics.numerics.torus import difference, embedded, period_of

UNDECIDED, UNBOUNDED, _OPEN = -1, -2, -3

_FIRST_ROUND = 512
"""Steps of the first round; each further one doubles what was run before."""

_RETURN = 1e-8
"""Tolerance of a return in the first round, as a fraction of the scale; a tenth of it in each further one."""

_MAX_FAILURES = 64
"""So many ends in one round that are no attractors (a continuum of neutral points) leave the rest to the next round."""

_NUM_LATE, _LATE_EVERY = 16, 37
"""States by which an orbit is recognised, and the steps between them: not in step with the bands of an attractor."""


class AttractorSearch:
    """All initial states, where they are by now, and the attractors known so far."""

    def __init__(
        self,
        f: Callable[[Array], Array],
        starts: Float[np.ndarray, "K N"],
        *,
        max_map_steps: int,
        max_period: int,
        max_representatives: int,
        radius: float,
        progress: bool,
        flow: TimeMap | None = None,
    ):
        self.f, self.flow = f, flow
        self.angles = period_of(f, starts.shape[1])
        self.max_map_steps, self.max_period, self.radius, self.progress = max_map_steps, max_period, radius, progress
        self.representatives_left = max_representatives
        self.states = starts.copy()
        self.labels: Int[np.ndarray, " K"] = np.full(len(starts), _OPEN)
        self.reasons: dict[int, tuple[Any, str]] = {}
        """Of a state without an attractor the verdict, and its numbers."""
        self.attractors: list[ClassifiedAttractor] = []
        self.scale = 1.0
        self._least_scale = least_scale(starts)
        self._periodic: dict[int, PeriodicOrbit] = {}
        self._aperiodic: dict[int, OrbitSet] = {}
        self._without_verdict: list[tuple[OrbitSet, tuple[Any, str]]] = []

    def run(self) -> None:
        """Rounds of growing length, until every state has a label or the steps are used up."""
        total, tolerance = 0, _RETURN
        while total < self.max_map_steps and np.any(self.labels == _OPEN):
            num_steps = min(max(total, _FIRST_ROUND), self.max_map_steps - total)
            returned = self._round(num_steps, tolerance)
            self._settle(returned)
            if total > 0:
                last = total + num_steps >= self.max_map_steps
                self._recognise(np.flatnonzero((self.labels == _OPEN) & (returned == 0)), last)
            total, tolerance = total + num_steps, max(tolerance / 10, 1e-12)
        for row in np.flatnonzero(self.labels == _OPEN).tolist():
            late = f"not settled after {self.max_map_steps} steps; raise max_map_steps"
            self.reasons.setdefault(row, (AttractorVerdict.not_settled, late))
            self.labels[row] = UNDECIDED

    def _round(self, num_steps: int, tolerance: float) -> Int[np.ndarray, " K"]:
        """Run the open states on; gives the return times, 0 where there is none."""
        rows = np.flatnonzero(self.labels == _OPEN)
        ends = run_until_return(
            self.f,
            self.states[rows],
            num_steps=num_steps,
            tolerance=tolerance * self._current_scale(),
            radius=self.radius,
            num_rows=len(self.states),
            progress=self.progress,
        )
        self.states[rows] = ends.states
        self.labels[rows[ends.escaped]] = UNBOUNDED
        returned = np.zeros(len(self.states), int)
        returned[rows] = np.where(ends.escaped, 0, ends.periods)
        return returned

    def _current_scale(self) -> float:
        """The size of a typical state: a few that are on their way to infinity must not loosen the tolerances."""
        sizes = np.max(np.abs(self.states[self.labels != UNBOUNDED]), axis=1)
        self.scale = max(float(np.median(sizes)) if sizes.size else 0.0, self._least_scale)
        return self.scale

    def _settle(self, returned: Int[np.ndarray, " K"]) -> None:
        """Give the states that have come to fixed points and cycles their labels; new ones are verified."""
        self._current_scale()
        for index in self._periodic:
            self._assign(index)
        num_failures = 0
        judged = np.zeros(len(self.states), bool)
        for row in np.flatnonzero(returned).tolist():
            if self.labels[row] != _OPEN or judged[row]:
                continue
            found, reason, near = self._periodic_end(self.states[row])
            if found is None:
                # What was found of one state holds for all that stay on the same cycle, and there may be thousands.
                alike = np.array([row])
                if near is not None:
                    others = np.flatnonzero((returned > 0) & (self.labels == _OPEN))
                    alike = np.append(others[self._is_on(near, self.states[others])], row)
                judged[alike] = True
                self.reasons.update(dict.fromkeys(alike.tolist(), reason))
                num_failures += 1
                if num_failures == _MAX_FAILURES:
                    break
                continue
            self._add_periodic(found, self.states[row], row)

    def _periodic_end(self, x: np.ndarray) -> tuple[PeriodicOrbit | None, tuple[Any, str], PeriodicOrbit | None]:
        """The attracting cycle on which the orbit of x has settled; or why it is none, verdict and reason, and the
        cycle nearby that does not attract, if there is one."""
        orbit = np.asarray(orbits_from(self.f, x[None], 2 * self.max_period + 64))[0]
        if not np.isfinite(orbit).all():
            return None, (AttractorVerdict.left_late, "the orbit came back once, and then left for infinity"), None
        candidates, _ = closest_returns(orbit, self.max_period, self.scale, self.angles)
        why = f"the orbit came back once, but not with a period up to max_period = {self.max_period}"
        reason, near = (AttractorVerdict.long_period, why), None
        for period in candidates:
            found = polish_end(self.f, orbit, period, self.scale)
            if found is None:
                continue
            if found.stability == "stable" and found.holds and (self.flow is None or found.period == 1):
                return found, (AttractorVerdict.attracting, ""), None
            what = "a fixed point" if found.period == 1 else f"a cycle of period {found.period}"
            verdict, state = {
                "stable": (AttractorVerdict.slow, "slowly approached"),
                "marginal": (AttractorVerdict.marginal, "marginal"),
                "unstable": (AttractorVerdict.unstable, "unstable"),
            }[found.stability]
            words = f"near {what} that is {state} (|mu| = {found.spectral_radius:.6g})"
            if found.kink is not None and found.stability == "marginal":
                verdict, words = AttractorVerdict.on_kink, f"near {what} on a kink of the map: {found.kink.reason}"
            reason, near = (verdict, words), found
        return None, reason, near

    def _recognise(self, rows: Int[np.ndarray, " M"], last: bool) -> None:
        """Give orbits that do not return the label of the set they move on; new sets come from representatives."""
        if rows.size == 0:
            return
        late = late_states(self.f, self.states[rows], _NUM_LATE, _LATE_EVERY)
        inside = np.all(np.isfinite(late), axis=(1, 2))
        rows, late = rows[inside], late[inside]
        for index, known in self._aperiodic.items():
            self.labels[rows[known.holds(late)]] = index
        # Early on, most orbits that have not returned soon will.
        num = self.representatives_left if last else min(4, self.representatives_left)
        for _ in range(num):
            open_rows = np.flatnonzero(self.labels[rows] == _OPEN)
            if last and open_rows.size:
                for known, reason in self._without_verdict:
                    same = rows[open_rows][known.holds(late[open_rows])]
                    self.labels[same] = UNDECIDED
                    self.reasons.update(dict.fromkeys(same.tolist(), reason))
                open_rows = np.flatnonzero(self.labels[rows] == _OPEN)
            if open_rows.size == 0:
                return
            self.representatives_left -= 1
            index = self._classify(int(rows[open_rows[0]]))
            if index is not None and index in self._aperiodic:
                self.labels[rows[open_rows[self._aperiodic[index].holds(late[open_rows])]]] = index

    def _classify(self, row: int) -> int | None:
        """Classify the orbit of one state; gives the index of its attractor, if it has one."""
        x = self.states[row]
        verdict = classify(
            self.f,
            x,
            max_map_steps=max(2**16, 4 * self.max_map_steps),
            max_period=self.max_period,
            radius=self.radius,
            flow=self.flow,
        )
        if verdict.kind == "unbounded":
            self.labels[row] = UNBOUNDED
            return None
        self.states[row] = verdict.final_state
        if not verdict.is_attractor:
            self.labels[row] = UNDECIDED
            self.reasons[row] = (verdict.result, verdict.reason)
            self._without_verdict.append((OrbitSet(self.f, verdict.final_state), self.reasons[row]))
            return None
        if verdict.is_periodic:
            found = polish_end(self.f, verdict.points, len(verdict.points), self.scale)
            assert found is not None  # the points are those that Newton's method found before
            found = found._replace(distance=verdict.distance)
            return self._add_periodic(found, verdict.final_state, row)
        late = late_states(self.f, verdict.final_state[None], _NUM_LATE, _LATE_EVERY)
        for index, known in self._aperiodic.items():
            if known.holds(late)[0]:
                self.labels[row] = index
                return index
        index = len(self.attractors)
        self.attractors.append(verdict)
        self._aperiodic[index] = OrbitSet(self.f, verdict.final_state)
        self.labels[row] = index
        return index

    def _add_periodic(self, found: PeriodicOrbit, state: np.ndarray, row: int) -> int:
        """The index of a verified cycle, new or known; it takes the states that have come to it."""
        for index, known in self._periodic.items():
            if is_same(known, found, self.scale, self.angles):
                self.labels[row] = index
                return index
        index = len(self.attractors)
        self.attractors.append(periodic_attractor(found, state))
        self._periodic[index] = found
        self.labels[row] = index
        self._assign(index)
        return index

    def _assign(self, index: int) -> None:
        """Label the open states that have come to a known cycle."""
        rows = np.flatnonzero(self.labels == _OPEN)
        self.labels[rows[self._is_on(self._periodic[index], self.states[rows])]] = index

    def _is_on(self, known: PeriodicOrbit, states: Float[np.ndarray, "K N"]) -> Bool[np.ndarray, " K"]:
        near = np.zeros(len(states), bool)
        for point in known.points:
            near |= np.max(np.abs(difference(states, point, self.angles)), axis=1) <= known.reach * self.scale
        return near


_SAMPLE_EVERY = 2
"""Every other state of a segment makes a sample of 2048: the distance to a million states takes seconds."""

_TREE_SIZE = 6
"""Up to so many coordinates a tree finds the nearest state without a look at most others; beyond, at all of them."""


class OrbitSet:
    """A sample of the set that an orbit moves on, and how near to it the orbit's later states come.

    Another orbit moves on the same set when three quarters of its states lie nearer to the sample than 99 % of the
    later states of the first orbit do. No grid is laid over the state space, so N may be large; but two sets that
    are closer to each other than the states of the sample are among themselves count as one.
    """

    def __init__(self, f: Callable[[Array], Array], x: Float[np.ndarray, " N"]):
        frame = jnp.asarray(random_frame(x.size, min(2, x.size), np.float64))
        first = jax.device_get(follow(f, jnp.asarray(x), frame, SEGMENT)).states
        second = jax.device_get(follow(f, jnp.asarray(first[-1]), frame, SEGMENT)).states
        self.angles = period_of(f, x.size)
        self.sample = embedded(first[::_SAMPLE_EVERY], self.angles)
        self.tree = KDTree(self.sample) if self.sample.shape[1] <= _TREE_SIZE else None
        # Three is coprime to most periods of bands; a thousand states fix a quantile of 99 % well.
        self.reach = float(np.quantile(self._distances(second[::3]), 0.99))

    def holds(self, states: Float[np.ndarray, "K M N"]) -> Bool[np.ndarray, " K"]:
        """Which of K orbits, each given by M of its states, move on the set."""
        if len(states) == 0:
            return np.zeros(0, bool)
        distances = self._distances(states.reshape(-1, states.shape[2])).reshape(states.shape[:2])
        return np.quantile(distances, 0.75, axis=1) <= self.reach

    def _distances(self, states: np.ndarray) -> np.ndarray:
        """From each state to the nearest of the sample."""
        if self.tree is not None:
            return self.tree.query(embedded(states, self.angles))[0]
        centre = self.sample.mean(axis=0)
        sample = self.sample - centre
        states = embedded(states, self.angles)
        squares = np.sum(sample**2, axis=1)
        nearest = []
        for first in range(0, len(states), 4096):
            part = states[first : first + 4096] - centre
            between = np.sum(part**2, axis=1)[:, None] + squares - 2 * part @ sample.T
            nearest.append(np.sqrt(np.maximum(between.min(axis=1), 0)))
        return np.concatenate(nearest)
