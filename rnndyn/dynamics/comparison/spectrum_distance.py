"""D_H: how different the power spectra of two series are."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from rnndyn.dynamics.comparison._series import check_pair, check_series


def spectrum_distance(x: ArrayLike, y: ArrayLike, *, smoothing: float = 20.0) -> Float[Array, ""]:
    r"""D_H: the Hellinger distance of the power spectra of two series, averaged over channels.

    $$D_H = \frac1N \sum_{i=1}^N \frac{1}{\sqrt2} \Bigl\| \sqrt{f_i} - \sqrt{g_i} \Bigr\|_2$$

    where $f_i$ is the power spectrum $|\hat x_i|^2$ of channel i (less its mean), smoothed over frequencies by a
    Gaussian and scaled to sum 1; $g_i$ that of y.

    **Arguments:**

    - `x`, `y`: series of the same length and sampling, (T, N).
    - `smoothing`: the standard deviation of the Gaussian in bins of the spectrum, that is in units of 1 / (T dt); 0 for
        none. One bin is a finer step the longer the series is: keep T fixed over what you compare.

    **Returns:** the distance, between 0 (equal) and 1 (no frequency in common). For one channel pass `x[:, [i]]`.

    **Raises:** `ValueError` for other shapes, different lengths or channels, NaN or infinity, a constant channel, a
    series too short for the Gaussian; under `jit` the values are not looked at.

    Definition and default are those of the code of Hess et al. (GTF-shPLRNN, `power_spectrum_error`): sigma = 20, the
    kernel cut at four sigma, edges reflected as SciPy's `gaussian_filter1d` does. Pure: `jit`, `vmap` and `grad` work.

    ??? cite "Reference"
        J. M. Mikhaeil, Z. Monfared & D. Durstewitz (2022), "On the difficulty of learning chaotic dynamics with RNNs",
        NeurIPS; F. Hess, Z. Monfared, M. Brenner & D. Durstewitz (2023), "Generalized teacher forcing for learning
        chaotic dynamics", ICML.
    """
    if not smoothing >= 0:
        raise ValueError(f"smoothing: expected a width of 0 or more, got {smoothing}.")
    # The reflected edges must not reach beyond the other end of the spectrum.
    least = max(2, 2 * int(4 * smoothing + 0.5))
    x = check_series("x", x, least=least, varies=True)
    y = check_series("y", y, least=least, varies=True)
    check_pair(x, y, same_length=True)
    kernel = jnp.asarray(gaussian_kernel(smoothing), jnp.promote_types(x.dtype, y.dtype))
    return hellinger_distance(smoothed_spectra(x, kernel), smoothed_spectra(y, kernel))


def gaussian_kernel(smoothing: float) -> np.ndarray:
    """Weights of a Gaussian of this width, cut at four of it, of sum 1."""
    radius = int(4 * smoothing + 0.5)
    places = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (places / max(smoothing, np.finfo(float).tiny)) ** 2) if radius else np.ones(1)
    return kernel / kernel.sum()


@jax.jit
def smoothed_spectra(series: Array, kernel: Array) -> Array:
    """Smoothed power spectra of the channels, (frequencies, N), each of sum 1."""
    # The scale of a channel drops out; taken off first it keeps squares in range.
    deviation = series - jnp.mean(series, axis=0)
    deviation = deviation / jnp.std(deviation, axis=0)
    power = jnp.abs(jnp.fft.rfft(deviation, axis=0)) ** 2
    radius = kernel.size // 2
    padded = jnp.pad(power, ((radius, radius), (0, 0)), mode="symmetric")
    smooth = lambda channel: jnp.convolve(channel, kernel.astype(series.dtype), mode="valid", precision="highest")
    smoothed = jax.vmap(smooth, in_axes=1, out_axes=1)(padded)
    return smoothed / jnp.sum(smoothed, axis=0)


def hellinger_distance(f: Array, g: Array) -> Array:
    """The mean over channels of the distances of distributions (frequencies, N)."""
    return jnp.mean(jnp.sqrt(jnp.sum((jnp.sqrt(f) - jnp.sqrt(g)) ** 2, axis=0) / 2))
