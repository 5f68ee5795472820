"""What a computed root says of itself: whether I - DF is singular there."""

from typing import Any

import numpy as np


def degeneracy_threshold(jacobians: np.ndarray) -> np.ndarray:
    """The gap below which I - DF counts as singular.

    A root with gap s is known to floor / s, over which DF changes by about as much in units of the scale: below
    s = sqrt(floor), with room of a factor 4, the sign of det(I - DF) is not determined.
    """
    row_sums = np.max(np.sum(np.abs(jacobians), axis=2), axis=1)
    return singular_gap(row_sums, np.finfo(float).eps)


def singular_gap(row_sums: Any, eps: float) -> Any:
    """The same from the largest row sum of |DF|, in any precision and for NumPy and JAX arrays."""
    return 4 * (32 * eps * (1 + row_sums)) ** 0.5


def is_degenerate(gaps: np.ndarray, jacobians: np.ndarray) -> np.ndarray:
    """Whether I - DF is singular to the accuracy at which DF is known at a computed root."""
    return gaps <= degeneracy_threshold(jacobians)
