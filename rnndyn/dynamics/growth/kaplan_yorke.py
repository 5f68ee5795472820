"""The dimension of an attractor, from its Lyapunov exponents."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def kaplan_yorke_dimension(exponents: Float[Array, " k"], num_units: int) -> Float[Array, ""]:
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
    num_exponents = exponents.shape[0]
    partial_sums = jnp.cumsum(exponents)
    j = jnp.sum(jnp.cumprod(partial_sums >= 0))
    last_sum = jnp.where(j > 0, partial_sums[jnp.maximum(j - 1, 0)], 0)
    next_exponent = exponents[jnp.minimum(j, num_exponents - 1)]
    inside = j < num_exponents
    dimension = j + last_sum / jnp.where(inside, -next_exponent, 1)
    at_end = num_units if num_exponents == num_units else jnp.nan
    return jnp.where(inside, dimension, at_end).astype(exponents.dtype)
