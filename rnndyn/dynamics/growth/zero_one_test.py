"""The 0-1 test: chaos or not, from a time series alone."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.dynamics.growth.verdicts import ChaosVerdict
from rnndyn.results import Judged


def zero_one_test(signal: ArrayLike, *, num_frequencies: int = 100) -> "ZeroOneTest":
    r"""The 0-1 test for chaos: K near 1 for a chaotic signal, near 0 for a regular one.

    The signal $\phi$ drives a plane motion
    $p_c(n) + i\, q_c(n) = \sum_{j \le n} \phi(j) e^{i c j}$, which stays bounded for regular and diffuses for chaotic
    dynamics. With the mean of the signal taken off first and $M_c(n)$ the mean square displacement,

    $$K_c = \operatorname{corr}\bigl((1, \dots, n_0),\; (M_c(1), \dots, M_c(n_0))\bigr), \qquad n_0 = T / 10,$$

    and K is the median over frequencies $c$ in $(\pi/5, 4\pi/5)$, away from resonances.

    **Arguments:**

    - `signal`: an observable along the trajectory, (T,), without its transient; T >= 100, and some
      thousands for a clear answer.
    - `num_frequencies`: how many frequencies to take the median over.

    **Returns:** a `ZeroOneTest`. A constant signal is regular; one with NaN or infinity is neither, and its K is NaN.

    **Raises:** `ValueError` for a signal of another shape or shorter than 100.

    It knows nothing of tangent vectors, so it is an independent check of the sign of $\lambda_1$. An oversampled signal
    of a flow looks regular: take about one value per characteristic time. Weak chaos needs long signals, and noise on
    a regular signal looks like chaos. Takes O(T^2 / 10) operations per frequency. Pure: `jit` and `vmap` work.

    ??? cite "Reference"
        G. A. Gottwald & I. Melbourne (2009), "On the implementation of the 0-1 test for chaos", SIAM Journal on
        Applied Dynamical Systems 8.
    """
    if np.ndim(signal) != 1 or np.shape(signal)[0] < 100:
        raise ValueError(f"signal: expected a series of shape (T,) with T >= 100, got shape {np.shape(signal)}.")
    check_at_least("num_frequencies", num_frequencies, 1)
    return _zero_one(jnp.asarray(signal) * 1.0, num_frequencies)


class ZeroOneTest(Judged):
    """The outcome of the 0-1 test for chaos of a scalar signal, which needs neither a model nor an embedding.

    For each of C frequencies the signal drives a walk in the plane; its mean square displacement grows with time where
    the signal is chaotic (correlation 1) and stays bounded where it is regular (0). Scalars, or batches under `vmap`.

    Reference: G. A. Gottwald & I. Melbourne (2009), "On the implementation of the 0-1 test for chaos".
    """

    statistic: Float[Array, ""]
    """K, the median over frequencies: 0 regular, 1 chaotic."""
    frequencies: Float[Array, " C"]
    """The frequencies $c$, in radians per sample."""
    correlations: Float[Array, " C"]
    """$K_c$ at each, from -1 to 1; NaN where the signal is not finite."""
    result: ChaosVerdict
    """The verdict, one of `ChaosVerdict`; `message` has it in words."""

    @property
    def is_chaotic(self) -> Bool[Array | np.ndarray, "..."]:
        """Whether K is nearer to 1 than to 0. False for a K of NaN, which `is_clear` and `result` tell apart."""
        return self.statistic > 0.5

    @property
    def is_clear(self) -> Bool[Array | np.ndarray, "..."]:
        """Whether K is within 0.2 of its nearer end; if not, the signal is too short or oversampled, or not finite."""
        return abs(self.statistic - 0.5) > 0.3


@compiled
def _zero_one(signal, num_frequencies):
    num_times = signal.shape[0]
    num_lags = num_times // 10
    # Multiples of the golden ratio fill the interval evenly without ever being commensurate with each other.
    golden = (np.sqrt(5) - 1) / 2
    fractions = (np.arange(1, num_frequencies + 1) * golden) % 1
    frequencies = jnp.asarray(np.pi / 5 + fractions * 3 * np.pi / 5, signal.dtype)
    lags = jnp.arange(1, num_lags + 1)
    # The displacement of an offset grows beyond that of the signal, and its square beyond all digits: it goes first. K
    # does not depend on the unit of the signal; one in which it is about 1 keeps squares in range.
    finite = jnp.all(jnp.isfinite(signal))
    largest = jnp.max(jnp.abs(signal))
    signal = signal / jnp.where(largest > 0, largest, 1)
    signal = signal - jnp.mean(signal)
    spread = jnp.max(jnp.abs(signal))
    # What is left of a constant signal is the rounding error of its mean.
    constant = spread <= 8 * jnp.finfo(signal.dtype).eps
    signal = jnp.where(constant, 0, signal / jnp.where(constant, 1, spread))

    def correlation(c):
        phases = c * jnp.arange(1, num_times + 1, dtype=signal.dtype)
        p, q = jnp.cumsum(signal * jnp.cos(phases)), jnp.cumsum(signal * jnp.sin(phases))
        base = num_times - num_lags

        def displacement(lag):
            dp = jax.lax.dynamic_slice_in_dim(p, lag, base) - p[:base]
            dq = jax.lax.dynamic_slice_in_dim(q, lag, base) - q[:base]
            return jnp.mean(dp**2 + dq**2)

        d = jax.lax.map(displacement, lags)
        n = lags.astype(signal.dtype)
        d, n = d - d.mean(), n - n.mean()
        spread = jnp.sqrt(jnp.sum(d**2) * jnp.sum(n**2))
        # A constant signal does not move at all: regular.
        return jnp.where(spread > 0, jnp.sum(d * n) / jnp.where(spread > 0, spread, 1), 0).astype(signal.dtype)

    correlations = jnp.where(finite, jax.lax.map(correlation, frequencies, batch_size=16), jnp.nan)
    statistic = jnp.median(correlations)
    verdict = ChaosVerdict.where(statistic > 0.5, ChaosVerdict.chaotic, ChaosVerdict.regular)
    verdict = ChaosVerdict.where(jnp.abs(statistic - 0.5) > 0.3, verdict, ChaosVerdict.unclear)
    verdict = ChaosVerdict.where(finite, verdict, ChaosVerdict.not_finite)
    return ZeroOneTest(statistic, frequencies, correlations, verdict)
