"""Cycles as arrays: the table of those found, their linear equations, and telling them apart up to cyclic shifts."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from rnndyn.dynamics.numerics.deduplication import group_points
from rnndyn.dynamics.numerics.torus import embedded


@dataclasses.dataclass(frozen=True)
class CycleTable:
    """Distinct cycles of one minimal period, one row each; the fields are those of `Cycles`."""

    points: np.ndarray
    residuals: np.ndarray
    errors: np.ndarray
    multipliers: np.ndarray
    gaps: np.ndarray
    degenerate: np.ndarray
    hits: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    @property
    def period(self) -> int:
        return self.points.shape[1]

    def take(self, rows: np.ndarray) -> "CycleTable":
        """The given rows (a mask, or indices)."""
        return CycleTable(**{name: column[rows] for name, column in vars(self).items()})

    def join(self, other: "CycleTable") -> "CycleTable":
        """The rows of both."""
        columns = vars(other)
        return CycleTable(**{name: np.concatenate([column, columns[name]]) for name, column in vars(self).items()})

    def sorted(self) -> "CycleTable":
        """By the number of unstable directions, then by the coordinates of the first point."""
        num_unstable = np.sum(np.abs(self.multipliers) > 1, axis=1)
        return self.take(np.lexsort((*self.points[:, 0].T[::-1], num_unstable)))


def empty_cycles(period: int, size: int) -> CycleTable:
    """A table without rows."""
    scalar = np.zeros(0)
    multipliers = np.zeros((0, size), complex)
    return CycleTable(
        np.zeros((0, period, size)), scalar, scalar, multipliers, scalar, scalar.astype(bool), scalar.astype(int)
    )


def group_cycles(
    points: Float[np.ndarray, "K p N"], tolerances: Float[np.ndarray, " K"], angles: np.ndarray | None = None
) -> Int[np.ndarray, " K"]:
    """Label cycles so that two share a label when they are equal within tolerances, up to a cyclic shift."""
    points = embedded(points, angles)
    # Equal cycles have equal means, whatever their shift; only those with equal means are compared point by point.
    groups = group_points(points.mean(axis=1), tolerances)
    labels = np.full(len(points), -1)
    num_labels = 0
    for group in range(groups.max(initial=-1) + 1):
        open_rows = np.flatnonzero(groups == group)
        while open_rows.size:
            first = open_rows[0]
            others = points[open_rows]
            distances = np.full(len(open_rows), np.inf)
            for shift in range(points.shape[1]):
                apart = np.max(np.abs(others - np.roll(points[first], shift, axis=0)), axis=(1, 2))
                distances = np.minimum(distances, apart)
            same = distances <= tolerances[first] + tolerances[open_rows]
            same[0] = True
            labels[open_rows[same]] = num_labels
            num_labels += 1
            open_rows = open_rows[~same]
    return labels
