"""How long, and how well, a copy predicts its system."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float

from rnndyn.dynamics.comparison._series import check_values
from rnndyn.results import Result


def valid_prediction_time(
    truth: ArrayLike,
    prediction: ArrayLike,
    *,
    threshold: float = 0.4,
    lyapunov_exponent: float | None = None,
    dt: float = 1.0,
) -> "ValidPredictionTime":
    r"""For how long a prediction stays within a tolerance of the truth, from each of many starts.

    $$e_t = \sqrt{\frac1N \sum_{i=1}^N \frac{(y_{t,i} - x_{t,i})^2}{\sigma_i^2}}, \qquad
    t_{valid} = dt \cdot \min\,\{t : e_t > \theta\}, \; t = 0, 1, \dots$$

    with the standard deviation $\sigma_i$ of channel i over all of the truth: t_valid is the time that the prediction
    stays valid, `dt` times the number of rows before the first bad one.

    **Arguments:**

    - `truth`: what happened, (K, T, N) from K starts, or (T, N) from one. Row 0 is one step after the start.
    - `prediction`: what the copy said, of the same shape. A prediction that is not finite is not valid.
    - `threshold`: $\theta$, in standard deviations.
    - `lyapunov_exponent`: the system's largest exponent per unit of time: times then come in Lyapunov times.
    - `dt`: the time of one row.

    **Returns:** a `ValidPredictionTime`.

    **Raises:** `ValueError` for other or different shapes, NaN or infinity in the truth, a constant channel, options
    that are not positive.

    Papers differ in $\theta$ and in the norm: Vlachas et al. take this one with 0.5, Pathak et al. the norm of the
    error over the root mean square norm of the state with 0.4. An attractor is followed for longer from some places
    than from others: the spread over starts belongs to the number. Pure: `jit` and `vmap` work.

    ??? cite "Reference"
        J. Pathak, B. Hunt, M. Girvan, Z. Lu & E. Ott (2018), "Model-free prediction of large spatiotemporally chaotic
        systems from data: a reservoir computing approach", Physical Review Letters 120; P. R. Vlachas et al. (2020),
        "Backpropagation algorithms and reservoir computing in recurrent neural networks for the forecasting of complex
        spatiotemporal dynamics", Neural Networks 126.
    """
    truth, prediction = _forecasts(truth, prediction)
    for name, value in (("threshold", threshold), ("dt", dt), ("lyapunov_exponent", lyapunov_exponent)):
        if value is not None and not isinstance(value, Tracer) and not value > 0:
            raise ValueError(f"{name}: expected a positive number, got {value}.")
    errors = jnp.sqrt(jnp.mean(_squares(truth, prediction), axis=2))
    # Written so that NaN is over it.
    over = ~(errors <= threshold)
    lasted = ~jnp.any(over, axis=1)
    steps = jnp.where(lasted, truth.shape[1], jnp.argmax(over, axis=1))
    times = steps.astype(truth.dtype) * dt * (1 if lyapunov_exponent is None else lyapunov_exponent)
    return ValidPredictionTime(times, lasted, "time" if lyapunov_exponent is None else "Lyapunov times")


class ValidPredictionTime(Result):
    """How long predictions from K starts stayed valid.

    - `times`: of each start, (K,).
    - `lasted`: which of them were valid to the last row: their time is a lower bound, (K,).
    - `unit`: "time" or "Lyapunov times".
    """

    times: Float[Array, " K"]
    lasted: Bool[Array, " K"]
    unit: str = eqx.field(static=True)

    @property
    def median(self) -> Float[Array, ""]:
        """The median over starts: a lower bound where `lasted` holds for half of them or more."""
        return jnp.median(jnp.asarray(self.times))

    @property
    def quartiles(self) -> Float[Array, "2"]:
        """Between which times the middle half of the starts lies."""
        return jnp.quantile(jnp.asarray(self.times), jnp.asarray([0.25, 0.75]))

    def table(self) -> str:
        low, high = np.asarray(self.quartiles)
        return (
            f"Valid prediction time: {float(self.median):.3g} {self.unit} in the median of {len(self.times)} starts\n"
            f"  half of them between  {low:.3g} and {high:.3g}\n"
            f"  valid to the end      {int(np.sum(np.asarray(self.lasted)))}"
        )


def prediction_error(truth: ArrayLike, prediction: ArrayLike) -> Float[Array, " T"]:
    r"""The mean square error of a prediction at each horizon, in units of the variance of the truth.

    $$E_t = \frac{1}{K N} \sum_{k=1}^K \sum_{i=1}^N \frac{(y_{k,t,i} - x_{k,t,i})^2}{\sigma_i^2}$$

    Entry n - 1 is the error of n steps: 0 for a perfect copy, 2 for one that is on the attractor but knows nothing, and
    1 for the mean of the truth.

    **Arguments:**

    - `truth`: what happened, (K, T, N) from K starts, or (T, N) from one. Row 0 is one step after the start.
    - `prediction`: what the copy said, of the same shape.

    **Returns:** the error at each of the T horizons; NaN or infinite where a prediction is.

    **Raises:** `ValueError` for other or different shapes, NaN or infinity in the truth, a constant channel.

    On series standardised by the truth this is the PE(n) of Brenner et al. Pure: `jit`, `vmap` and `grad` work.

    ??? cite "Reference"
        M. Brenner et al. (2022), "Tractable dendritic RNNs for reconstructing nonlinear dynamical systems", ICML.
    """
    truth, prediction = _forecasts(truth, prediction)
    return jnp.mean(_squares(truth, prediction), axis=(0, 2))


def _forecasts(truth: ArrayLike, prediction: ArrayLike) -> tuple[Array, Array]:
    shape = np.shape(truth)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"truth: expected forecasts of shape (K, T, N), or one (T, N), got shape {shape}.")
    if np.shape(prediction) != shape:
        raise ValueError(f"prediction: expected the shape {shape} of the truth, got {np.shape(prediction)}.")
    if not isinstance(truth, Tracer):
        check_values("truth", np.asarray(truth, float).reshape(-1, shape[-1]), varies=True)
    dtype = jnp.promote_types(jnp.result_type(truth, prediction), jnp.float32)
    return tuple(jnp.asarray(a, dtype).reshape(-1, *shape[-2:]) for a in (truth, prediction))  # pyright: ignore


def _squares(truth: Array, prediction: Array) -> Array:
    """Squared errors (K, T, N) in units of the variance of each channel."""
    return (prediction - truth) ** 2 / jnp.var(truth, axis=(0, 1))
