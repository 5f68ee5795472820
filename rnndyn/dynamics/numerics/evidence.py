"""What a computed root says of itself: whether I - DF is singular there."""

import numpy as np


def degeneracy_threshold(jacobians: np.ndarray) -> np.ndarray:
    """The gap below which I - DF counts as singular.

    A root with gap s is known to floor / s, over which DF changes by about as much in units of the scale: below
    s = sqrt(floor), with room of a factor 4, the sign of det(I - DF) is not determined.
    """
    row_sums = np.max(np.sum(np.abs(jacobians), axis=2), axis=1)
    return 4 * np.sqrt(32 * np.finfo(float).eps * (1 + row_sums))


def is_degenerate(gaps: np.ndarray, jacobians: np.ndarray) -> np.ndarray:
    """Whether I - DF is singular to the accuracy at which DF is known at a computed root."""
    return gaps <= degeneracy_threshold(jacobians)
