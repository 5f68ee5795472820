"""What a computed root says of itself: rounding floor, whether I - DF is singular, multipliers in order."""

from typing import Any

import numpy as np
from jaxtyping import Complex

ROUNDING_UNITS = 32
"""Units in the last place that evaluating F once may lose beyond what DF does to an error of one unit in x: room for
the sums inside F, which for networks of hundreds of units lose about the square root of their length."""

MIN_CONTINUUM = 8
"""So many degenerate points or cycles, apart by more than their errors, are taken for a sample of a continuum."""

DEGENERATE_RESOLUTION = 1e-4
"""Roots of a continuum closer to one another than this fraction of their size are not told apart."""


def rounding_floor(size: Any, norm: Any, dtype: Any = np.float64) -> Any:
    r"""The residual $|F(x) - x|_\infty$ that rounding alone can leave, $32\,\epsilon\,(1 + \|DF\|_\infty)\,s$.

    `size` is $\max(|x|_\infty, s)$ with a length s typical of states near x, `norm` the largest row sum of |DF|. For
    scalars, NumPy arrays and traced ones.
    """
    return ROUNDING_UNITS * float(np.finfo(dtype).eps) * (1 + norm) * size


def root_errors(residuals: Any, sizes: Any, norms: Any, gaps: Any) -> Any:
    r"""How far computed roots may lie from the true ones: the residual that remains, times the norm of the inverse.

    A residual cannot be told from one unit of rounding, which `rounding_floor` gives room for 32 of. `gaps` are the
    reciprocal norms of the inverse of the linearised equations; 0 gives infinity.
    """
    left = np.maximum(residuals, rounding_floor(sizes, norms) / ROUNDING_UNITS)
    with np.errstate(divide="ignore"):
        return left / np.asarray(gaps, float)


def robust_scale(states: np.ndarray) -> float:
    """The size of a typical state: the median of the largest entries of those that are finite and not 0; else 1.

    A median, because one state far out must not loosen what the others are measured against.
    """
    sizes = np.max(np.abs(states.reshape(-1, states.shape[-1])), axis=1, initial=0.0)
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    return float(np.median(sizes)) if sizes.size else 1.0


def robust_spread(points: np.ndarray) -> np.ndarray:
    """For each point the larger of its own and of the median distance from the median point, `(K,)`."""
    distances = np.max(np.abs(points - np.median(points, axis=0)), axis=1)
    return np.maximum(distances, np.median(distances))


def by_modulus(values: np.ndarray) -> Complex[np.ndarray, "*K N"]:
    """Eigenvalues by falling modulus along the last axis, complex; pairs stay together."""
    values = np.asarray(values).astype(complex)
    return np.take_along_axis(values, np.argsort(-np.abs(values), axis=-1, kind="stable"), axis=-1)


def degeneracy_threshold(jacobians: np.ndarray) -> np.ndarray:
    """The gap below which I - DF counts as singular.

    A root with gap s is known to floor / s, over which DF changes by about as much in units of the scale: below
    s = sqrt(floor), with room of a factor 4, the sign of det(I - DF) is not determined.
    """
    row_sums = np.max(np.sum(np.abs(jacobians), axis=2), axis=1)
    return singular_gap(row_sums, np.float64)


def singular_gap(row_sums: Any, dtype: Any) -> Any:
    """The same from the largest row sum of |DF|, in any precision and for NumPy and JAX arrays."""
    return 4 * rounding_floor(1.0, row_sums, dtype) ** 0.5


def is_degenerate(gaps: np.ndarray, jacobians: np.ndarray) -> np.ndarray:
    """Whether I - DF is singular to the accuracy at which DF is known at a computed root."""
    return gaps <= degeneracy_threshold(jacobians)


def degenerate_reach(errors: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """How far a degenerate root may lie from what it approximates: its error, which there is an estimate to a factor.

    Where the gap is zero there is no estimate, and the limit is `DEGENERATE_RESOLUTION`.
    """
    return np.minimum(4 * errors, DEGENERATE_RESOLUTION * sizes)
