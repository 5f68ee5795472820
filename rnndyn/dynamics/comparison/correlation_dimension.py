"""The correlation dimension of an attractor, from a series of states."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from rnndyn._validation import check_at_least
from rnndyn.dynamics.comparison._series import check_series
from rnndyn.dynamics.comparison.verdicts import DimensionVerdict
from rnndyn.results import Judged

_NUM_BLOCKS = 16
_PER_OCTAVE, _NUM_OCTAVES = 8, 32
"""Radii: from the size of the set down to the rounding of its states in float32 and a little beyond."""


def correlation_dimension(
    x: ArrayLike,
    *,
    theiler_window: int | None = None,
    num_references: int = 1000,
    least_pairs: int = 200,
    largest_share: float = 0.02,
) -> "CorrelationDimension":
    r"""The correlation dimension $D_2$: how the number of close pairs falls with their distance.

    $$C(r) = \Pr\bigl(\|x_i - x_j\| \le r,\; |i - j| > w\bigr) \sim r^{D_2}$$

    by least squares of $\ln C$ over $\ln r$ (Grassberger & Procaccia) where C is at most `largest_share` and at least
    `least_pairs` pairs are counted.

    **Arguments:**

    - `x`: states on the attractor, (T, N), without the transient; its dimension D needs of the order of 10^(D + 1).
    - `theiler_window`: w, pairs closer in time than this are not counted, since they are close because little time
        passed. By default four times the time in which the autocorrelation falls below 1/e.
    - `num_references`: from how many of the states, evenly spaced in time, distances to all others are taken.
    - `least_pairs`: the fewest pairs that a radius must hold.
    - `largest_share`: the largest C that still counts as small.

    **Returns:** a `CorrelationDimension`. Its error has two parts: the spread of the slope over 16 stretches of
    reference states, and half the difference of the slopes over the lower and the upper half of the radii, for a set
    that does not scale.

    **Raises:** `ValueError` for another shape, NaN or infinity, fewer than 100 states, options out of range.

    Noise gives N at radii below its amplitude. Choose channels of like scale: the norm is Euclidean. Pure: `jit` and
    `vmap` work.

    ??? cite "Reference"
        P. Grassberger & I. Procaccia (1983), "Measuring the strangeness of strange attractors", Physica D 9; J. Theiler
        (1986), "Spurious dimension from correlation algorithms applied to limited time-series data", Physical Review
        A 34.
    """
    x = check_series("x", x, least=100)
    check_at_least("num_references", num_references, _NUM_BLOCKS)
    check_at_least("least_pairs", least_pairs, 1)
    if not 0 < largest_share <= 1:
        raise ValueError(f"largest_share: expected a share between 0 and 1, got {largest_share}.")
    if theiler_window is not None and not 0 <= theiler_window < x.shape[0] // 2:
        raise ValueError(
            f"theiler_window: expected 0 to less than half of the {x.shape[0]} states, got {theiler_window}."
        )
    window = decorrelation_time(x) * 4 if theiler_window is None else jnp.asarray(theiler_window)
    window = jnp.minimum(window, x.shape[0] // 4 if theiler_window is None else x.shape[0])
    # Whole stretches of references, so that each has as many.
    per_block = max(1, min(num_references, x.shape[0]) // _NUM_BLOCKS)
    references = np.linspace(0, x.shape[0] - 1, per_block * _NUM_BLOCKS).astype(np.int32)
    found = _measure(x, references.reshape(_NUM_BLOCKS, per_block), window, least_pairs, largest_share)
    return CorrelationDimension(**found._asdict(), theiler_window=window)


class CorrelationDimension(Judged):
    """The correlation dimension of a set of states, with the evidence for it.

    - `dimension`: the slope of ln C over ln r.
    - `stderr`: its error, both parts together.
    - `statistical_error`, `scaling_error`: the parts.
    - `radii`: the range of radii of the fit, (2,).
    - `log_radii`, `log_sums`: ln r and ln C at all radii, (R,); -inf where no pair is counted.
    - `theiler_window`: the one used.
    - `result`: a `DimensionVerdict`.
    """

    dimension: Float[Array, ""]
    stderr: Float[Array, ""]
    statistical_error: Float[Array, ""]
    scaling_error: Float[Array, ""]
    radii: Float[Array, "2"]
    log_radii: Float[Array, " R"]
    log_sums: Float[Array, " R"]
    result: DimensionVerdict
    theiler_window: Int[Array, ""]

    def table(self) -> str:
        low, high = np.asarray(self.radii)
        return (
            f"Correlation dimension {float(self.dimension):.4g} +- {float(self.stderr):.2g} "
            f"(statistics {float(self.statistical_error):.2g}, scaling {float(self.scaling_error):.2g})\n"
            f"  radii {low:.3g} to {high:.3g}, pairs more than {int(self.theiler_window)} steps apart\n"
            f"  {self.message}"
        )


@jax.jit
def decorrelation_time(x: Float[Array, "T N"]) -> Int[Array, ""]:
    """The first lag at which the autocorrelation, averaged over channels, is below 1/e."""
    deviation = x - jnp.mean(x, axis=0)
    spectrum = jnp.fft.rfft(deviation, 2 * x.shape[0], axis=0)
    covariance = jnp.sum(jnp.fft.irfft(jnp.abs(spectrum) ** 2, 2 * x.shape[0], axis=0), axis=1)[: x.shape[0]]
    return jnp.argmax(covariance < covariance[0] / np.e)


class _Measured(NamedTuple):
    dimension: Array
    stderr: Array
    statistical_error: Array
    scaling_error: Array
    radii: Array
    log_radii: Array
    log_sums: Array
    result: DimensionVerdict


@jax.jit
def _measure(x: Array, references: Array, window: Array, least_pairs: Array, largest_share: Array) -> _Measured:
    num_radii = _PER_OCTAVE * _NUM_OCTAVES
    size = jnp.sqrt(jnp.sum((jnp.max(x, axis=0) - jnp.min(x, axis=0)) ** 2))
    size = jnp.where(size > 0, size, 1).astype(x.dtype)
    times = jnp.arange(x.shape[0])

    def counts(reference: Array) -> Array:
        """How many pairs of one reference lie between two radii, (R,)."""
        distance = jnp.sqrt(jnp.sum((x - x[reference]) ** 2, axis=1)) / size
        place = jnp.ceil(num_radii - 1 + _PER_OCTAVE * jnp.log2(jnp.maximum(distance, jnp.finfo(x.dtype).tiny)))
        far = jnp.abs(times - reference) > window
        return (
            jnp.zeros(num_radii, jnp.int32)
            .at[jnp.clip(place, 0, num_radii - 1).astype(jnp.int32)]
            .add(far.astype(jnp.int32))
        )

    blocks = jax.lax.map(lambda block: jnp.sum(jax.vmap(counts)(block), axis=0), references)
    sums = jnp.cumsum(blocks, axis=1).astype(x.dtype)
    total = jnp.sum(sums, axis=0)
    share = total / jnp.maximum(total[-1], 1)
    log_radii = (jnp.arange(num_radii) - (num_radii - 1)) / _PER_OCTAVE * np.log(2) + jnp.log(size)
    log_radii = log_radii.astype(x.dtype)
    fits = (total >= least_pairs) & (share <= largest_share)
    enough = jnp.sum(fits) >= 2 * _PER_OCTAVE

    def slope(counted: Array, weights: Array) -> Array:
        weights = weights * (counted > 0)
        mass = jnp.maximum(jnp.sum(weights), 1)
        logs = jnp.log(jnp.maximum(counted, 1))
        dx = log_radii - jnp.sum(weights * log_radii) / mass
        dy = logs - jnp.sum(weights * logs) / mass
        spread = jnp.sum(weights * dx**2)
        return jnp.sum(weights * dx * dy) / jnp.where(spread > 0, spread, 1)

    fitted = fits.astype(x.dtype)
    half = jnp.cumsum(fitted) <= jnp.sum(fitted) / 2
    dimension = slope(total, fitted)
    each = jax.vmap(lambda counted: slope(counted, fitted))(sums)
    statistical = jnp.std(each, ddof=1) / np.sqrt(_NUM_BLOCKS)
    scaling = 0.5 * jnp.abs(slope(total, fitted * half) - slope(total, fitted * ~half))
    # A finite set of points: at the smallest radius already many pairs are closer.
    discrete = share[0] > largest_share
    verdict = DimensionVerdict.where(enough, DimensionVerdict.converged, DimensionVerdict.no_scaling)
    verdict = DimensionVerdict.where(discrete, DimensionVerdict.discrete, verdict)
    verdict = DimensionVerdict.where(jnp.isfinite(size), verdict, DimensionVerdict.not_finite)
    zero_if_discrete = lambda value: jnp.where(discrete, 0, value).astype(x.dtype)
    low = log_radii[jnp.argmax(fits)]
    high = log_radii[num_radii - 1 - jnp.argmax(fits[::-1])]
    return _Measured(
        dimension=zero_if_discrete(dimension),
        stderr=zero_if_discrete(jnp.hypot(statistical, scaling)),
        statistical_error=zero_if_discrete(statistical),
        scaling_error=zero_if_discrete(scaling),
        radii=jnp.exp(jnp.stack([low, high])),
        log_radii=log_radii,
        log_sums=jnp.log(share),
        result=verdict,
    )
