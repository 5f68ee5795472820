"""Approximate inverses, infinite for the matrices that have none."""

import numpy as np
from jaxtyping import Inexact


def inverses(matrices: Inexact[np.ndarray, "K N N"]) -> Inexact[np.ndarray, "K N N"]:
    """The inverse of each matrix as LAPACK computes it; infinite where a pivot is exactly zero."""
    try:
        return np.linalg.inv(matrices)
    except np.linalg.LinAlgError:  # says that one of them is singular, not which
        if len(matrices) == 1:
            return np.full_like(matrices, np.inf)
        half = len(matrices) // 2
        return np.concatenate([inverses(matrices[:half]), inverses(matrices[half:])])
