"""The return map of successive maxima: Lorenz's way from a flow to a map of the interval."""

from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float

from rnndyn.dynamics.comparison._series import check_values
from rnndyn.results import Result


def return_map(signal: ArrayLike | Any, *, dt: float = 1.0) -> "ReturnMap":
    r"""Each local maximum of a signal against the next one.

    On a strongly contracting attractor such as Lorenz's the points $(m_k, m_{k+1})$ lie close to a curve, the graph of
    a map of the interval: its slope, fixed points and cusp are those of the attractor.

    **Arguments:**

    - `signal`: one channel of a flow, (T,), sampled finely enough that maxima span several samples.
    - `dt`: the time between samples.

    **Returns:** a `ReturnMap`. Heights and times of the maxima are those of the parabola through the highest sample and
    its neighbours.

    **Raises:** `ValueError` for another shape, NaN or infinity, fewer than two maxima.

    ??? cite "Reference"
        E. N. Lorenz (1963), "Deterministic nonperiodic flow", Journal of the Atmospheric Sciences 20, figure 4.
    """
    values = np.asarray(signal, float)
    if values.ndim != 1 or values.size < 3:
        raise ValueError(f"signal: expected one channel of shape (T,) with T >= 3, got shape {values.shape}.")
    if not dt > 0:
        raise ValueError(f"dt: expected a positive time between samples, got {dt}.")
    check_values("signal", values[:, None], varies=False)
    left, middle, right = values[:-2], values[1:-1], values[2:]
    at = np.flatnonzero((middle > left) & (middle >= right))
    if at.size < 2:
        raise ValueError(f"signal: expected at least two maxima, found {at.size}. Take a longer series.")
    left, middle, right = left[at], middle[at], right[at]
    # The vertex of the parabola, less than half a sample away.
    curvature = left - 2 * middle + right
    shift = 0.5 * (left - right) / curvature
    return ReturnMap(middle - 0.25 * (left - right) * shift, (at + 1 + shift) * dt)


class ReturnMap(Result):
    """Successive maxima of a signal: where they lie on a curve, one maximum decides the next.

    - `maxima`: their heights in the unit of the signal, from the parabola through three samples, `(M,)`.
    - `times`: when they are reached, from the first sample on, in the unit of `dt`, `(M,)`.

    Reference: E. N. Lorenz (1963), "Deterministic nonperiodic flow" (the cusp map of the maxima of z).
    """

    maxima: Float[np.ndarray, " M"]
    times: Float[np.ndarray, " M"]

    @property
    def pairs(self) -> Float[np.ndarray, "P 2"]:
        """Each maximum and the next one."""
        return np.stack([self.maxima[:-1], self.maxima[1:]], axis=1)

    def table(self) -> str:
        gaps = np.diff(self.times)
        return (
            f"{len(self.maxima)} maxima between {self.maxima.min():.6g} and {self.maxima.max():.6g}, "
            f"{gaps.mean():.4g} +- {gaps.std():.2g} apart in time"
        )
