"""The stages of a portrait: what is computed under one held input, cheap evidence first, each as far as time allows."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rnndyn.dynamics.attractors.attractors import Attractors, find_attractors
from rnndyn.dynamics.candidates import sample_candidates
from rnndyn.dynamics.cycles.cycle_list import CycleSet
from rnndyn.dynamics.cycles.cycles import find_cycles
from rnndyn.dynamics.fixed_points.fixed_points import find_fixed_points
from rnndyn.dynamics.fixed_points.point_list import FixedPoints
from rnndyn.dynamics.fixed_points.slow_points import SlowPoints, find_slow_points
from rnndyn.dynamics.growth.jacobian_products import MemoryHorizon, memory_horizon
from rnndyn.dynamics.growth.lyapunov import LyapunovSpectrum, lyapunov_spectrum
from rnndyn.dynamics.proofs.certificates import FixedPointCertificates, certify_fixed_points
from rnndyn.dynamics.trajectory import trajectory
from rnndyn.portrait._budget import Budget

NUM_PATHS, PATH_LENGTH = 32, 128
"""Trajectories that candidates are taken from."""

PERIODS = (2, 3, 4)
"""Cycles of these periods are searched for; attracting ones of any period up to 256 show among the attractors."""

_MOST_PROVED = 64
_SHORT = 100  # slow points and cycles cost decompositions of N x N matrices: a second or two each at N = 256
_NUM_EXPONENTS = 16
_MAX_LAG = 100


class Place:
    """What is known under one held input, filled stage by stage (`None`: not looked at)."""

    def __init__(self, name: str, input: np.ndarray | None, f: Callable, starts: np.ndarray, origin: str) -> None:
        self.name, self.input, self.f, self.starts, self.origin = name, input, f, starts, origin
        self.paths = np.zeros((0, 0, starts.shape[1]))
        self.fixed_points: FixedPoints | None = None
        self.certificates: FixedPointCertificates | None = None
        self.attractors: Attractors | None = None
        self.slow_points: SlowPoints | None = None
        self.cycles: CycleSet | None = None
        self.spectrum: LyapunovSpectrum | None = None
        self._seconds_of_search = 0.0

    def follow(self, budget: Budget) -> None:
        """Trajectories from the first states."""
        starts = self.starts[:NUM_PATHS]
        paths = budget.run("trajectories", self.name, lambda: _paths(self.f, starts))
        if paths is not None:
            self.paths = paths[np.isfinite(paths).all(axis=(1, 2))]

    def candidates(self, num: int, others: np.ndarray, seed: int) -> np.ndarray:
        """States to search from: of the orbits here, of those under the other inputs, and starts; known points too."""
        key_here, key_there = jax.random.split(jax.random.key(seed))
        rows = [self.starts[: max(num // 4, 4)]]
        own = self.paths.reshape(-1, self.starts.shape[1])
        with jax.enable_x64(True):
            if len(own):
                rows.append(np.asarray(sample_candidates(own, num - num // 2, key=key_here)))
            if len(others):
                rows.append(np.asarray(sample_candidates(others, num // 4, key=key_there)))
        if self.fixed_points is not None and len(self.fixed_points):
            rows.append(self.fixed_points.points)
        return np.concatenate(rows)

    def find_points(self, budget: Budget, others: np.ndarray) -> None:
        """Fixed points from few candidates, in one round."""
        self._search(budget, others, 16, max_rounds=1)

    def find_more_points(self, budget: Budget, others: np.ndarray, share: float) -> None:
        """Fixed points from as many candidates as a share of the time allows, then until the index sum is right."""
        if self.fixed_points is None:
            return
        # The first calls compile, so their time says little of the next ones: only long ones are a reason to stop.
        for num, ratio in ((64, 1.0), (128, 2.0), (512, 4.0)):
            estimate = ratio * self._seconds_of_search
            if estimate > share * budget.left and num > 64:
                break
            self._search(budget, others, num, estimate=estimate)
        points = self.fixed_points
        if points.is_balanced is False and points.region is not None:
            estimate = 2 * self._seconds_of_search
            self._search(budget, others, 64, max_rounds=8, until_complete=True, estimate=estimate)

    def _search(self, budget: Budget, others: np.ndarray, num: int, estimate: float = 0.0, **options: Any) -> None:
        complete = options.get("until_complete", False)
        name = "fixed points, until the index sum is right" if complete else f"fixed points, {num} candidates"
        search = lambda: find_fixed_points(self.f, self.candidates(num, others, num), progress=False, **options)
        found = budget.run(name, self.name, lambda: _quietly(search), estimate=estimate)
        if found is not None:
            # A search that was left out took no time, which says nothing of what the next one takes.
            self.fixed_points, self._seconds_of_search = found, budget.last_seconds

    def prove(self, budget: Budget) -> None:
        """Certificates of the points, the most stable first."""
        if self.fixed_points is None or len(self.fixed_points) == 0:
            return
        points = self.fixed_points.points[:_MOST_PROVED]
        self.certificates = budget.run(
            f"proofs of {len(points)} fixed points" if len(points) > 1 else "proof of the fixed point",
            self.name,
            lambda: certify_fixed_points(self.f, points, progress=False),
        )

    def settle(self, budget: Budget, share: float) -> None:
        """Where states end."""
        estimate = 0.0
        for num, ratio in ((16, 1.0), (64, 1.0), (128, 4.0), (512, 1.0)):
            starts = self.starts[:num]
            ends = budget.run(
                f"attractors of {len(starts)} states", self.name, _caller(_ends, self.f, starts), estimate=estimate
            )
            if ends is None:
                return
            self.attractors = ends
            estimate = ratio * budget.last_seconds
            if len(starts) == len(self.starts) or estimate > share * budget.left:
                return

    def find_cycles(self, budget: Budget, others: np.ndarray) -> None:
        """Cycles of short periods, unstable ones too."""
        num = 64 if self.starts.shape[1] <= _SHORT else 16
        starts = self.candidates(num, others, 4)[:num]
        search = lambda: find_cycles(self.f, starts, PERIODS, max_rounds=2, progress=False)
        # A search for cycles of period p costs p steps of the map, and more Newton steps than one for fixed points.
        estimate = 0.0 if num == 64 else sum(PERIODS) / 2 * self._seconds_of_search
        name = f"cycles of period {PERIODS[0]} to {PERIODS[-1]}"
        self.cycles = budget.run(name, self.name, lambda: _quietly(search), estimate=estimate)

    def find_slow(self, budget: Budget, others: np.ndarray) -> None:
        """Slow points and the manifold they lie on; the costliest search, so few candidates of long states."""
        num = 64 if self.starts.shape[1] <= _SHORT else 16
        search = lambda: find_slow_points(
            self.f, self.candidates(num, others, 5)[:num], num_samples=num, progress=False
        )
        estimate = 0.0 if num == 64 else 1.5 * self._seconds_of_search
        self.slow_points = budget.run("slow points", self.name, lambda: _quietly(search), estimate=estimate)

    def measure_spectrum(self, budget: Budget) -> None:
        """Exponents on the first attractor that is no point and no cycle (there the multipliers tell exactly)."""
        aperiodic = [a for a in (self.attractors.attractors if self.attractors else ()) if not a.is_periodic]
        aperiodic = [a for a in aperiodic if a.kind != "unbounded" and np.isfinite(a.final_state).all()]
        if not aperiodic:
            return
        for num_steps in (1000, 8000):
            spectrum = budget.run(
                f"exponents over {num_steps} steps",
                self.name,
                _caller(exponents, self.f, aperiodic[0].final_state, num_steps),
                estimate=0.0 if num_steps == 1000 else 8 * budget.last_seconds,
            )
            self.spectrum = spectrum if spectrum is not None else self.spectrum
            if spectrum is None or bool(spectrum.converged):
                break


def exponents(f: Callable, x0: np.ndarray, num_steps: int, inputs: np.ndarray | None = None) -> LyapunovSpectrum:
    """The leading exponents in float64, after a tenth of the steps as transient; with `inputs` those given them."""
    num_transient = num_steps // 10
    with jax.enable_x64(True):
        return _to_numpy(
            lyapunov_spectrum(
                f,
                np.asarray(x0, np.float64),
                num_steps,
                inputs=None if inputs is None else inputs[: num_steps + num_transient],
                num_transient=num_transient,
                num_exponents=min(len(x0), _NUM_EXPONENTS),
            )
        )


def horizon(f: Callable, x0: np.ndarray, inputs: np.ndarray, seed: int) -> MemoryHorizon:
    """How far back gradients reach under `inputs`, in float64."""
    num_transient = len(inputs) // 5
    num_steps = len(inputs) - num_transient
    max_lag = min(_MAX_LAG, num_steps // 8)
    with jax.enable_x64(True):
        return _to_numpy(
            memory_horizon(
                f,
                np.asarray(x0, np.float64),
                num_steps,
                max_lag,
                key=jax.random.key(seed),
                inputs=inputs,
                num_transient=num_transient,
                num_windows=num_steps // max_lag,  # windows that do not overlap are independent enough for error bars
            )
        )


def _paths(f: Callable, starts: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(lambda x: trajectory(f, x, PATH_LENGTH))(np.asarray(starts, np.float64)))


def _ends(f: Callable, starts: np.ndarray) -> Attractors:
    return find_attractors(f, starts, max_representatives=8, progress=False)


def _caller(function: Callable, *args: Any) -> Callable[[], Any]:
    """`function(*args)` for later, with the arguments of now."""
    return lambda: function(*args)


def _quietly(search: Callable[[], Any]) -> Any:
    """`search()` without the warning that sets are missing: the verdict says it in words."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The indices of the")
        return search()


def _to_numpy(result: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, result)
