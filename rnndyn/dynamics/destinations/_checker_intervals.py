"""Intervals as pairs of NumPy arrays, for the second opinion; nothing is shared with the arithmetic of the proofs.

Every operation is pushed outward by `numpy.nextafter`, sums by their a-priori error bound.
"""

from typing import Any

import numpy as np

U = 2.0**-53
_LIBRARY = 32 * U
"""Relative error allowed to NumPy's exp and tanh, of which a few u are measured."""

TINY = 1e-290

Pair = Any


def up(x: Any) -> Any:
    return np.nextafter(x, np.inf)


def down(x: Any) -> Any:
    return np.nextafter(x, -np.inf)


def exactly(x: np.ndarray) -> Pair:
    return x, x


def cut(pair: Pair, start: int, stop: int) -> Pair:
    return tuple(end[start:stop] for end in pair)


def add(x: Pair, y: Pair) -> Pair:
    return down(x[0] + y[0]), up(x[1] + y[1])


def sub(x: Pair, y: Pair) -> Pair:
    return down(x[0] - y[1]), up(x[1] - y[0])


def mul(x: Pair, y: Pair) -> Pair:
    ends = [a * b for a in x for b in y]
    return down(np.minimum.reduce(ends)), up(np.maximum.reduce(ends))


def library(lo: np.ndarray, hi: np.ndarray) -> Pair:
    return down(lo - np.abs(lo) * _LIBRARY), up(hi + np.abs(hi) * _LIBRARY)


def tanh(x: Pair) -> Pair:
    lo, hi = library(np.tanh(x[0]), np.tanh(x[1]))
    return np.maximum(lo, -1.0), np.minimum(hi, 1.0)


def tanh_slope(y: Pair) -> Pair:
    squares = np.stack([y[0] ** 2, y[1] ** 2])
    least = np.where((y[0] <= 0) & (y[1] >= 0), 0.0, down(squares.min(axis=0)))
    return np.maximum(down(1 - up(squares.max(axis=0))), 0.0), np.minimum(up(1 - least), 1.0)


def sigmoid(x: Pair) -> Pair:
    small, large = library(np.exp(-x[1]), np.exp(-x[0]))
    return np.maximum(down(1 / up(1 + large)), 0.0), np.minimum(up(1 / down(1 + small)), 1.0)


def sigmoid_slope(y: Pair) -> Pair:
    low = [down(end * down(1 - end)) for end in y]
    high = [up(end * up(1 - end)) for end in y]
    peak = (y[0] <= 0.5) & (y[1] >= 0.5)
    top = np.where(peak, 0.25, np.maximum(*high))
    return np.clip(np.minimum(*low), 0.0, 0.25), np.clip(top, 0.0, 0.25)


def middle_of(x: Pair) -> np.ndarray:
    return 0.5 * x[0] + 0.5 * x[1]


def radius_about(x: Pair, middle: np.ndarray) -> np.ndarray:
    return np.maximum(up(x[1] - middle), up(middle - x[0]))


def apply_matrix(a: Pair, b: Pair) -> Pair:
    """The product of (matrix, error of its entries) and of an interval matrix."""
    matrix, error = a
    middle = middle_of(b)
    spread = radius_about(b, middle)
    count = matrix.shape[-1]
    size = np.abs(middle)
    slack = (count + 2) * U * 1.01
    radius = np.abs(matrix) @ (spread + slack * size) + error @ (size + spread)
    radius = radius * (1 + 4 * (count + 4) * U) + TINY
    center = matrix @ middle
    return down(center - radius), up(center + radius)


def apply(a: Pair, x: Pair) -> Pair:
    return tuple(end[..., 0] for end in apply_matrix(a, tuple(end[..., None] for end in x)))


def vector_norm(x: Pair) -> Any:
    """Upper bounds of the lengths of vectors in the last axis: an array, or one number."""
    size = np.maximum(np.abs(x[0]), np.abs(x[1]))
    return np.sqrt((size**2).sum(axis=-1)) * (1 + (size.shape[-1] + 4) * U) + 1e-150


def inverses_of(factors: np.ndarray) -> tuple[Pair, np.ndarray]:
    """Approximate inverses R, taken as exact matrices, and |I - R Q|: |Q⁻¹ v| <= |R v| / (1 - |I - R Q|)."""
    approximate = np.linalg.inv(factors)
    zero = np.zeros_like(approximate)
    defect = sub(exactly(np.eye(factors.shape[-1])), apply_matrix((approximate, zero), exactly(factors)))
    loss = np.sqrt((np.maximum(np.abs(defect[0]), np.abs(defect[1])) ** 2).sum(axis=(-2, -1))) * (1 + 1e-9)
    return (approximate, zero), loss


def _gram(a: np.ndarray) -> np.ndarray:
    """A'A, summed over as many rows as there are columns at a time: so its error is that of square matrices."""
    num = max(a.shape[1], 16)
    return sum(
        (a[first : first + num].T @ a[first : first + num] for first in range(0, len(a), num)),
        start=np.zeros((a.shape[1], a.shape[1])),
    )


def spectral_norm(a: Pair) -> np.ndarray:
    """Upper bounds of the spectral norm: s, if s² I - C'C is positive definite, plus that of the radii."""
    center = middle_of(a)
    radius = radius_about(a, center)
    num = center.shape[-1]
    usable = np.asarray(np.isfinite(center).all(axis=(-2, -1)) & np.isfinite(radius).all(axis=(-2, -1)))
    center = np.where(usable[:, None, None], center, 0.0)
    found = np.linalg.norm(center, 2, axis=(-2, -1)) * (1 + 2e-15 * (num + 2) ** 2)
    for k in np.flatnonzero(usable & (found > 0)):
        gram = _gram(center[k])
        # The rounding of the product and of the factorisation, and s² rounded.
        slack = (4 * num * U * np.trace(gram) + 8 * U * found[k] ** 2) * (1 + num * U) + 1e-280
        slack += 2 * (num + 2) * U * num * found[k] ** 2
        try:
            np.linalg.cholesky((found[k] ** 2 - slack) * np.eye(num) - gram)
        except np.linalg.LinAlgError:
            found[k] = np.sqrt(np.trace(gram)) * (1 + 4 * num * U)
    weights = np.ones((len(center), num, 1))
    radius = np.where(usable[:, None, None], radius, 0.0)
    for _ in range(6):
        weights = np.swapaxes(radius, 1, 2) @ (radius @ weights)
        largest = weights.max(axis=1, keepdims=True)
        weights = np.where(largest > 0, np.maximum(weights / largest, 1e-6), 1.0)
    ratios = (np.swapaxes(radius, 1, 2) @ (radius @ weights)) / weights * (
        1 + 8 * (num + a[0].shape[-2] + 2) * U
    ) + TINY
    return np.where(usable, (found + np.sqrt(ratios.max(axis=(1, 2)))) * (1 + 4 * U), np.inf)
