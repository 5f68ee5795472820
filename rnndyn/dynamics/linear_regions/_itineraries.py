"""From itineraries to cycles: which of their linear systems have solutions that are cycles of the map."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linprog

from rnndyn.dynamics.linear_regions._relu_map import SINGULAR_CONDITION, ReluMap, cyclic_system, solve_itineraries
from rnndyn.dynamics.numerics.eigenvalues import product_eigenvalues
from rnndyn.dynamics.numerics.periodic_orbits import smallest_period

ROOT_OF_UNITY = 1e-10
"""A multiplier whose m-th power is this near to 1 counts as an m-th root of unity: cycles of m times the period then
surround the cycle. The multipliers of a well-conditioned cycle are known better than that."""


class CycleTable:
    """The cycles of one period.

    - `points`, `words`, `errors`, `multipliers`: of the isolated cycles, and their itineraries.
    - `on_border`: whether a point lies on the border of its region within the error.
    - `families`: those that are not isolated.
    - `excluded_radius`: singular itineraries without a solution may have one beyond this.
    """

    def __init__(self, relu_map: ReluMap, itineraries: Bool[np.ndarray, "K p L"], shorter: "Iterable[CycleTable]"):
        self.map = relu_map
        self.excluded_radius = np.inf
        words = itineraries
        solutions = solve_itineraries(relu_map, words)
        self.words = words[solutions.inside]
        self.points = solutions.points[solutions.inside]
        self.errors = solutions.errors[solutions.inside]
        self.on_border = np.zeros(len(self.points), bool)
        self.families: list[Family] = []
        for word, points, error in zip(*(a[solutions.on_border] for a in (words, solutions.points, solutions.errors))):
            self._add_on_border(word, points, error)
        for word in words[solutions.singular]:
            family, radius = solution_family(relu_map, word)
            self.excluded_radius = min(self.excluded_radius, radius)
            if family is not None and family.margin > BORDER_TOLERANCE:
                self.families.append(family)
            elif family is not None:
                self._add_on_border(word, family.point, BORDER_TOLERANCE * (1 + np.max(np.abs(family.point))))
        matrices, _ = relu_map.pieces(self.words)
        self.multipliers = np.zeros((len(self.points), relu_map.state_size), complex)
        for k, factors in enumerate(matrices):
            self.multipliers[k] = product_eigenvalues(factors)
        for table in shorter:
            self._add_repeated(table)

    def _add_on_border(self, word: np.ndarray, points: np.ndarray, error: float) -> None:
        """Enter a cycle with a point on a border, unless it is one of a shorter period or already there.

        Every region that shares the border point gives the same cycle; only such cycles can be met twice.
        """
        period = len(points)
        tolerance = error + BORDER_TOLERANCE * (1 + np.max(np.abs(points)))
        if smallest_period(points, 2 * tolerance) < period:
            return
        for shift in range(period):
            distance = np.max(np.abs(self.points - np.roll(points, shift, axis=0)), axis=(1, 2), initial=0.0)
            if np.any(distance <= tolerance + self.errors):
                return
        self.words = np.concatenate([self.words, word[None]])
        self.points = np.concatenate([self.points, points[None]])
        self.errors = np.append(self.errors, error)
        self.on_border = np.append(self.on_border, True)

    def _add_repeated(self, shorter: "CycleTable") -> None:
        """Enter the families around shorter cycles with a multiplier that is a root of unity, as -1 is for two laps.

        Their itinerary repeats the shorter one, and the average of their laps is the shorter cycle, which is therefore
        in the list.
        """
        period, base = self.points.shape[1], shorter.points.shape[1]
        laps = period // base
        if base * laps != period:
            return
        for k in np.flatnonzero(~shorter.on_border):
            primitive = np.abs(shorter.multipliers[k] ** laps - 1) < ROOT_OF_UNITY
            for fewer in range(1, laps):
                primitive &= np.abs(shorter.multipliers[k] ** fewer - 1) > ROOT_OF_UNITY
            if primitive.any():
                self.families.append(repeated_family(self.map, shorter.words[k], shorter.points[k], laps))


BORDER_TOLERANCE = 1e-9
"""A family that reaches no further than this into its regions (whose borders are of order one) is at the border; the
linear program is solved to 1e-10."""


@dataclasses.dataclass(frozen=True)
class Family:
    """The cycles of a singular itinerary: an affine set, cut by the regions.

    - `point`: one of them, as far from the borders as can be, `(p, N)`.
    - `dimension`: of the affine set.
    - `margin`: how far its pre-activations are from the borders, at most 1.
    """

    point: Float[np.ndarray, "p N"]
    dimension: int
    margin: float


def solution_family(relu_map: ReluMap, itinerary: Bool[np.ndarray, "p L"]) -> tuple[Family | None, float]:
    """The cycles of a singular itinerary, or `None` and the radius within which there is none."""
    (system,), (vector,) = cyclic_system(relu_map, itinerary[None])
    left, sizes, right = np.linalg.svd(system)
    # Found singular in another norm, so at least one direction counts as null.
    rank = min(int(np.sum(sizes > sizes[0] / SINGULAR_CONDITION)), len(sizes) - 1)
    target = left.T @ vector
    # A system this near to singular has solutions only if the target is in its range, or far out.
    noise = max(sizes[rank:].max(initial=0.0), len(sizes) * relu_map.rounding() * max(1.0, sizes[0]))
    radius = float(np.max(np.abs(target[rank:]), initial=0.0)) / (np.sqrt(len(sizes)) * noise)
    # Rounding of the weights alone gives a target outside the range of up to a few units of noise.
    if radius > 10:
        return None, radius
    center = right[:rank].T @ (target[:rank] / sizes[:rank])
    return _admissible_part(relu_map, itinerary, center, right[rank:].T), np.inf


def repeated_family(
    relu_map: ReluMap, itinerary: Bool[np.ndarray, "p L"], points: Float[np.ndarray, "p N"], laps: int
) -> Family:
    """The cycles of `laps` times the period around a cycle with a multiplier that is a root of unity of that order."""
    (system,), _ = cyclic_system(relu_map, np.tile(itinerary, (laps, 1))[None])
    _, sizes, right = np.linalg.svd(system)
    # The multiplier was found near a root of unity to 1e-10, so the smallest singular values are known to be zero.
    dimension = max(1, int(np.sum(sizes < 1e-9 * sizes[0])))
    direction = right[-1].reshape(laps * len(itinerary), -1)
    signs = np.tile(np.where(itinerary, 1, -1), (laps, 1))
    center = np.tile(points, (laps, 1))
    slack, rate = signs * relu_map.borders(center), signs * (direction @ relu_map.inner.T)
    steps = np.min(slack[rate < 0] / -rate[rate < 0], initial=2.0)
    point = center + 0.5 * steps * direction
    margin = float(np.min(signs * relu_map.borders(point), initial=1.0))
    return Family(point, dimension, margin)


def _admissible_part(
    relu_map: ReluMap, itinerary: np.ndarray, center: np.ndarray, directions: np.ndarray
) -> Family | None:
    """The point of `center + directions c` deepest inside the regions."""
    period, dimension = len(itinerary), directions.shape[1]
    signs = np.where(itinerary, 1, -1)
    slack = (signs * relu_map.borders(center.reshape(period, -1))).ravel()
    moves = directions.T.reshape(dimension, period, -1) @ relu_map.inner.T
    rates = (signs * moves).reshape(dimension, -1).T
    solution = linprog(
        np.append(np.zeros(dimension), -1.0),
        A_ub=np.column_stack([-rates, np.ones(len(rates))]),
        b_ub=slack,
        bounds=[(None, None)] * dimension + [(None, 1.0)],
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solution.x is None:
        raise RuntimeError(f"The linear program of a singular itinerary was not solved: {solution.message}")
    margin = float(solution.x[-1])
    if margin < -BORDER_TOLERANCE:
        return None
    return Family((center + directions @ solution.x[:-1]).reshape(period, -1), dimension, margin)
