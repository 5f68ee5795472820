"""Sequences of states that come back: their linear equations, their shifts, their closing defects."""

import numpy as np
import scipy.sparse
from jaxtyping import Float
from scipy.sparse.linalg import SuperLU, aslinearoperator, onenormest, splu

from rnndyn.dynamics.numerics.torus import difference, embedded, wrapped


class CyclicSystem:
    """The equations s_{i+1} - J_i s_i = b_i of a cycle on the host, factorised once."""

    def __init__(self, jacobians: Float[np.ndarray, "p N N"]):
        period, size, _ = jacobians.shape
        self.shape = (period, size)
        block, row, column = np.indices(jacobians.shape)
        diagonal = np.arange(period * size)
        data = np.concatenate([-jacobians.ravel(), np.ones(period * size)])
        rows = np.concatenate([(block * size + row).ravel(), diagonal])
        columns = np.concatenate([(block * size + column).ravel(), (diagonal + size) % (period * size)])
        matrix = scipy.sparse.csc_array((data, (rows, columns)), shape=(period * size, period * size))
        try:
            self._factors = splu(matrix)
        except RuntimeError:  # SuperLU's way to say that the matrix is singular
            self._factors = None

    def solve(self, rhs: Float[np.ndarray, "p N"]) -> Float[np.ndarray, "p N"]:
        """The solution; zero where the system is singular."""
        return np.zeros(self.shape) if self._factors is None else self._factors.solve(rhs.ravel()).reshape(self.shape)

    @property
    def gap(self) -> float:
        """The reciprocal of the largest row sum of the inverse: 0 for a singular system."""
        if self._factors is None:
            return 0.0
        factors, size = self._factors, self.shape[0] * self.shape[1]
        transposed = aslinearoperator(_TransposedInverse(factors, size))
        # One column at a time draws no random numbers (Hager's method); it is rarely off by more than a factor of 2.
        return 1 / float(onenormest(transposed, t=1))  # pyright: ignore[reportArgumentType]


def closing_defects(
    points: Float[np.ndarray, "K p N"],
    images: Float[np.ndarray, "K p N"],
    period: Float[np.ndarray, " N"] | None = None,
) -> Float[np.ndarray, " K"]:
    """The largest |F(x_i) - x_{i+1}| of each sequence; infinite where it is not a number. `period`: of the angles."""
    residuals = np.max(np.abs(difference(images, np.roll(points, -1, axis=1), period)), axis=(1, 2))
    return np.where(np.isnan(residuals), np.inf, residuals)


def smallest_period(
    points: Float[np.ndarray, "p N"], tolerance: float, period: Float[np.ndarray, " N"] | None = None
) -> int:
    """After how many points a periodic sequence repeats, within `tolerance`: a divisor of p, p itself where none does.

    `period`: of the angles, if there are any.
    """
    for divisor in divisors(len(points)):
        if np.max(np.abs(difference(np.roll(points, divisor, axis=0), points, period))) <= tolerance:
            return divisor
    return len(points)


def divisors(period: int) -> list[int]:
    return [d for d in range(1, period + 1) if period % d == 0]


def from_smallest(
    points: Float[np.ndarray, "K p N"], scale: float, period: Float[np.ndarray, " N"] | None = None
) -> Float[np.ndarray, "K p N"]:
    """The sequences, each from its smallest point in the order of coordinates; differences of rounding are none."""
    points = wrapped(points, period)
    rounded = np.round(points / (1e-9 * scale))
    if period is not None:
        # Just below the period is just above zero.
        rounded = np.where(np.isfinite(period), rounded % np.round(period / (1e-9 * scale)), rounded)
    return _rotated(points, np.array([np.lexsort(row.T[::-1])[0] for row in rounded], int))


class _TransposedInverse:
    """What `scipy.sparse.linalg.aslinearoperator` asks of an operator."""

    def __init__(self, factors: SuperLU, size: int):
        self.factors, self.shape, self.dtype = factors, (size, size), np.dtype(float)

    def matvec(self, v: np.ndarray) -> np.ndarray:
        return self.factors.solve(v, "T")

    def rmatvec(self, v: np.ndarray) -> np.ndarray:
        return self.factors.solve(v)


def _rotated(points: np.ndarray, starts: np.ndarray) -> np.ndarray:
    order = (starts[:, None] + np.arange(points.shape[1])) % points.shape[1]
    return np.take_along_axis(points, order[:, :, None], axis=1)


def canonical(
    points: Float[np.ndarray, "K p N"], period: Float[np.ndarray, " N"] | None = None
) -> Float[np.ndarray, "K M"]:
    """The sequences, each from the point that is farthest along a fixed generic direction, as vectors (`embedded`)."""
    points = embedded(points, period)
    direction = np.random.default_rng(0).standard_normal(points.shape[2])
    num, period, size = points.shape
    return _rotated(points, np.argmax(points @ direction, axis=1)).reshape(num, period * size)
