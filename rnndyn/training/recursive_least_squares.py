"""Recursive least squares: a linear readout that is the ridge regression of all it has seen, after every step."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float

from rnndyn._programs import compiled
from rnndyn.results import Result


def recursive_least_squares(
    features: ArrayLike, targets: ArrayLike, *, alpha: ArrayLike = 1.0, weight: ArrayLike | None = None
) -> "RecursiveLeastSquares":
    r"""The weights of a linear readout, updated at each step in O(H^2) by what that step teaches.

    With $P_0 = I / \alpha$, for each pair of features $r_t$ and target $y_t$

    $$e_t = W_{t-1} r_t - y_t, \qquad k_t = \frac{P_{t-1} r_t}{1 + r_t^\top P_{t-1} r_t}, \qquad
    P_t = P_{t-1} - k_t\, r_t^\top P_{t-1}, \qquad W_t = W_{t-1} - e_t k_t^\top.$$

    After T steps W is the minimum of $\sum_t |W r_t - y_t|^2 + \alpha \|W - W_0\|^2$ and
    $P_T = (\alpha I + \sum_t r_t r_t^\top)^{-1}$: ridge regression, at any time. (A column of ones among the features
    gives a bias, which is then penalised like the other weights.)

    **Arguments:**

    - `features`: $r_t$, (T, H).
    - `targets`: $y_t$, (T, O).
    - `alpha`: $\alpha$, above 0: the larger, the slower it learns.
    - `weight`: $W_0$, (O, H); zero by default.

    **Returns:** a `RecursiveLeastSquares`.

    **Raises:** `ValueError` for wrong shapes, or an `alpha` that is not positive.

    Pure: `jit`, `vmap` and `grad` work. Rounding adds up in P: in float32 it may lose its positive sign after some
    thousand steps, where the features leave directions out and `alpha` is small beside them; use float64 then.

    ??? cite "Reference"
        S. Haykin (2002), *Adaptive Filter Theory*, chapter on recursive least squares; D. Sussillo & L. F. Abbott
        (2009), "Generating coherent patterns of activity from chaotic neural networks", Neuron 63.
    """
    features, targets = jnp.asarray(features), jnp.asarray(targets)
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets):
        raise ValueError(
            f"features, targets: expected shapes (T, H) and (T, O), got {features.shape} and {targets.shape}."
        )
    dtype = jnp.result_type(features, targets, float) if weight is None else jnp.result_type(features, targets, weight)
    inverse, weight = start_regression(features.shape[1], targets.shape[1], alpha, weight, dtype)
    return _regress(features.astype(dtype), targets.astype(dtype), inverse, weight)


class RecursiveLeastSquares(Result):
    """A readout after recursive least squares over T steps.

    - `weight`: W, `(O, H)`.
    - `inverse`: P, the inverse of the features' sum of squares, `(H, H)`.
    - `errors`: $e_t$, before the update of each step, `(T, O)`: errors on what was not seen so far.
    """

    weight: Float[Array, "O H"]
    inverse: Float[Array, "H H"]
    errors: Float[Array, "T O"]


def start_regression(
    num_features: int, num_targets: int, alpha: ArrayLike, weight: ArrayLike | None, dtype: DTypeLike
) -> tuple[Array, Array]:
    """P and W at the start.

    **Raises:** `ValueError` as `recursive_least_squares` for `alpha` and `weight`.
    """
    if not isinstance(alpha, Tracer) and not (np.ndim(alpha) == 0 and 0 < float(np.asarray(alpha)) < np.inf):
        raise ValueError(f"alpha: expected a positive number, got {alpha}.")
    if weight is not None and np.shape(weight) != (num_targets, num_features):
        raise ValueError(f"weight: expected shape {(num_targets, num_features)}, got {np.shape(weight)}.")
    inverse = jnp.eye(num_features, dtype=dtype) / jnp.asarray(alpha, dtype)
    return inverse, jnp.zeros((num_targets, num_features), dtype) if weight is None else jnp.asarray(weight, dtype)


def regression_step(inverse: Array, weight: Array, features: Array, error: Array) -> tuple[Array, Array]:
    """P and W after one pair, of which the error before it is known."""
    pushed = inverse @ features
    gain = pushed / (1 + features @ pushed)
    # A product of a vector with itself: P stays symmetric to the last bit.
    scaled = pushed / jnp.sqrt(1 + features @ pushed)
    return inverse - jnp.outer(scaled, scaled), weight - jnp.outer(error, gain)


@compiled
def _regress(features, targets, inverse, weight):
    def step(carry, pair):
        inverse, weight = carry
        now, target = pair
        error = weight @ now - target
        return regression_step(inverse, weight, now, error), error

    (inverse, weight), errors = jax.lax.scan(step, (inverse, weight), (features, targets))
    return RecursiveLeastSquares(weight, inverse, errors)
