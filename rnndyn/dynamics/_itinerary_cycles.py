"""From itineraries to cycles: which of their linear systems have solutions that are cycles of the map."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool

from rnndyn.dynamics._itinerary_families import BORDER_TOLERANCE, Family, repeated_family, solution_family
from rnndyn.dynamics._product_eigenvalues import product_eigenvalues
from rnndyn.dynamics._relu_map import ReluMap, solve_itineraries

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
        for divisor in range(1, period):
            if period % divisor == 0 and np.max(np.abs(np.roll(points, divisor, axis=0) - points)) <= 2 * tolerance:
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
