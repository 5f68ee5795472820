"""The dimension of an attractor, from its Lyapunov exponents."""

import numpy as np
from jaxtyping import Array, Float

from rnndyn.dynamics.numerics.statistics import namespace


def kaplan_yorke_dimension(exponents: Float[Array | np.ndarray, " k"], num_units: int) -> Float[Array | np.ndarray, ""]:
    r"""The Kaplan-Yorke dimension of a descending spectrum.

    $$D = j + \frac{\lambda_1 + \dots + \lambda_j}{|\lambda_{j+1}|}, \qquad
    j = \max\{m : \lambda_1 + \dots + \lambda_m \ge 0\}$$

    **Arguments:**

    - `exponents`: the k largest exponents, descending.
    - `num_units`: N; with k < N exponents the dimension may be out of reach (NaN).

    **Returns:** the dimension, between 0 and N; differentiable except where j changes.

    ??? cite "Reference"
        J. L. Kaplan & J. A. Yorke (1979), "Chaotic behavior of multidimensional difference equations".
    """
    j, last_sum, next_exponent = _where_the_sum_turns(exponents)
    xp = namespace(exponents)
    inside = j < exponents.shape[0]
    dimension = j + last_sum / xp.where(inside, -next_exponent, 1)
    at_end = num_units if exponents.shape[0] == num_units else np.nan
    dimension = xp.where(inside, dimension, at_end).astype(exponents.dtype)
    return xp.where(xp.any(xp.isnan(exponents)), xp.nan, dimension).astype(exponents.dtype)


def kaplan_yorke_gradient(
    exponents: Float[Array | np.ndarray, " k"], num_units: int
) -> Float[Array | np.ndarray, " k"]:
    """Its derivative: 1 / |lambda_{j+1}| for the first j, (lambda_1 + ... + lambda_j) / lambda_{j+1}^2 for the next."""
    del num_units  # beyond j = k the dimension is constant, or unknown
    j, last_sum, next_exponent = _where_the_sum_turns(exponents)
    xp = namespace(exponents)
    safe = xp.where(j < exponents.shape[0], next_exponent, 1)
    index = xp.arange(exponents.shape[0])
    slope = xp.where(index < j, -1 / safe, xp.where(index == j, last_sum / safe**2, 0))
    return xp.where(j < exponents.shape[0], slope, 0).astype(exponents.dtype)


def _where_the_sum_turns(exponents):
    """j, the sum of the first j exponents, and the next one."""
    xp = namespace(exponents)
    partial_sums = xp.cumsum(exponents)
    j = xp.sum(xp.cumprod(partial_sums >= 0))
    last_sum = xp.where(j > 0, partial_sums[xp.maximum(j - 1, 0)], 0)
    return j, last_sum, exponents[xp.minimum(j, exponents.shape[0] - 1)]
