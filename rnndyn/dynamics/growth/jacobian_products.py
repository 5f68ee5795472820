"""Products of Jacobians: how far back a gradient reaches."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.dynamics.growth._arguments import check_growth_arguments
from rnndyn.dynamics.growth._graded_qr import graded_qr
from rnndyn.dynamics.growth._graded_svd import log_singular_values
from rnndyn.dynamics.growth._polar import polar
from rnndyn.dynamics.growth.verdicts import GrowthVerdict
from rnndyn.dynamics.numerics.frames import push_frame
from rnndyn.dynamics.numerics.statistics import batch_means
from rnndyn.results import Judged, first_verdict


def jacobian_product_spectrum(
    f: Callable[..., Array],
    x0: ArrayLike,
    lags: Sequence[int],
    *,
    inputs: ArrayLike | None = None,
    num_transient: int = 0,
) -> "JacobianProductSpectrum":
    r"""The singular values of the Jacobian over several lags, large and small ones alike.

    $$\sigma_1 \ge \dots \ge \sigma_N \quad\text{of}\quad
    \frac{\partial x_{t+\tau}}{\partial x_t} = DF(x_{t+\tau-1}) \cdots DF(x_t)$$

    The gradient of a loss of $x_{t+\tau}$ with respect to $x_t$ is stretched by between $\sigma_N$ and $\sigma_1$; and
    $\ln \sigma_i / \tau$ are the finite-time Lyapunov exponents.

    **Arguments:**

    - `f`: the map, `f(x)` or `f(x, u)`.
    - `x0`: the state, (N,).
    - `lags`: the lags $\tau \ge 1$, in steps.
    - `inputs`: one row per step, (num_transient + max(lags), ...), the transient's first.
    - `num_transient`: steps from `x0` to $x_t$.

    **Returns:** a `JacobianProductSpectrum`.

    **Raises:** `ValueError` for wrong shapes, or lags below 1.

    The product is never formed: it is kept as $Q D S$ with Q orthogonal, D diagonal (as logarithms) and S well
    conditioned, whose singular values one-sided Jacobi rotations find with a small error relative to each of them. So
    ratios of $10^{\pm 1000}$ are no difficulty. A direction that a step destroys, exactly or to the last digit of the
    rows it lives on, has the singular value 0 (logarithm -inf) from then on. Pure: `jit` and `vmap` work.

    ??? cite "Reference"
        G. W. Stewart (1997), "On graded QR decompositions of products of matrices"; Z. Drmač (1997), "Implementation of
        Jacobi rotations for accurate singular value computation in floating point arithmetic".
    """
    lags = tuple(int(lag) for lag in lags)
    if not lags or min(lags) < 1:
        raise ValueError(f"lags: expected at least one lag, each of at least one step, got {lags}.")
    lags = tuple(sorted(set(lags)))
    f, x0, inputs, _ = check_growth_arguments(f, x0, lags[-1], num_transient, inputs, None)
    return _product_spectrum(f, x0, inputs, lags, num_transient)


class JacobianProductSpectrum(Judged):
    """Singular values of the products of Jacobians over L lags: by what factors perturbations of the start may grow.

    Logarithms `(L, N)` in nats, for lags in steps; kept as logarithms of a graded factorisation, so that a product that
    spans more digits than a number has loses none. `result` says for each lag whether there are numbers.
    """

    lags: Int[Array, " L"]
    """The lags in steps, ascending, each once."""
    log_singular_values: Float[Array, "L N"]
    """$\\ln \\sigma_i$ of the product over each lag, nats, descending; -inf for a direction that a step destroys, NaN
    where the trajectory or a Jacobian left the floating-point range within the lag."""

    @property
    def result(self) -> Any:
        """Whether there are numbers for each lag, a batch `(L,)` of `GrowthVerdict`: `converged` or `not_finite`."""
        lost = np.isnan(np.asarray(self.log_singular_values)).any(axis=-1)
        return first_verdict((lost, GrowthVerdict.not_finite), otherwise=GrowthVerdict.converged)

    @property
    def finite_time_exponents(self) -> Float[Array, "... L N"]:
        """$\\ln \\sigma_i / \\tau$."""
        return self.log_singular_values / jnp.asarray(self.lags)[..., :, None]


def memory_horizon(
    f: Callable[..., Array],
    x0: ArrayLike,
    num_steps: int,
    max_lag: int,
    *,
    key: PRNGKeyArray,
    inputs: ArrayLike | None = None,
    num_transient: int = 0,
    factor: float | int = math.e,
    num_probes: int = 8,
    num_windows: int = 32,
) -> "MemoryHorizon":
    r"""The lag at which a backpropagated gradient has typically fallen by a factor, and the rate that sets it.

    $$g(\tau) = \Bigl\langle \ln \frac{|J_{t-\tau} \cdots J_{t-1}\, v|}{|v|} \Bigr\rangle_{t, v}, \qquad
    J_s = DF(x_s)^T, \qquad g(\tau_h) = -\ln(\text{factor})$$

    over times $t$ and random vectors $v$ that stand for the gradient of a loss at $t$. For long lags
    $g(\tau) \to \lambda_1 \tau$.

    **Arguments:**

    - `f`, `x0`, `inputs`, `num_transient`: as in `lyapunov_spectrum`; inputs have num_transient + num_steps rows.
    - `num_steps`: length of the trajectory that the windows are taken from.
    - `max_lag`: the longest lag looked at, at most `num_steps`.
    - `key`: draws the random vectors.
    - `factor`: the fall that counts, above 1.
    - `num_probes`: random vectors per window.
    - `num_windows`: times $t$, spread evenly over the trajectory.

    **Returns:** a `MemoryHorizon`.

    **Raises:** `ValueError` for wrong shapes, `max_lag` above `num_steps`, a factor not above 1.

    Pure: `jit` and `vmap` work.

    ??? cite "Reference"
        Y. Bengio, P. Simard & P. Frasconi (1994), "Learning long-term dependencies with gradient descent is difficult".
    """
    check_at_least("max_lag", max_lag, 1)
    check_at_least("num_probes", num_probes, 1)
    check_at_least("num_windows", num_windows, 1)
    if max_lag > num_steps:
        raise ValueError(f"max_lag: {max_lag} steps do not fit into num_steps={num_steps}. Raise num_steps.")
    if not factor > 1:
        raise ValueError(f"factor: expected a fall by a factor above 1, got {factor}.")
    f, x0, inputs, _ = check_growth_arguments(f, x0, num_steps, num_transient, inputs, None)
    num_windows = min(num_windows, num_steps - max_lag + 1)
    ends = np.unique(np.linspace(max_lag, num_steps, num_windows).round().astype(int))
    probes = jax.random.normal(key, (len(ends), num_probes, x0.shape[0]), x0.dtype)
    return _memory_horizon(f, x0, inputs, num_steps, num_transient, max_lag, ends, probes, math.log(factor))


class MemoryHorizon(Judged):
    """How the gradient falls with the lag, as a mean over times and random vectors.

    Lags in steps `(L,)`, logarithms in nats with their standard errors over windows, and the lag at which the typical
    gradient has fallen by the factor (S. Hochreiter 1991; R. Pascanu, T. Mikolov & Y. Bengio 2013). Where the
    orbit or a derivative leaves the floating-point range, the numbers are NaN and `result` is `not_finite`.
    """

    horizon: Float[Array, ""]
    """The first lag, interpolated, at which the typical gradient has fallen by the factor. When it has not within the
    lags looked at: extrapolated with `exponent` (see `extrapolated`), and inf when that is not negative. In steps."""
    extrapolated: Bool[Array, ""]
    """Whether the horizon lies beyond the lags looked at."""
    exponent: Float[Array, ""]
    """The growth rate over the second half of the lags, in nats per step. It sets the horizon of large factors and
    tends to the largest Lyapunov exponent."""
    exponent_stderr: Float[Array, ""]
    """Its standard error over windows."""
    lags: Int[Array, " L"]
    """The lags 0, ..., max_lag, in steps."""
    log_gradient: Float[Array, " L"]
    """$g(\\tau)$ at each, in nats: the mean of the logarithm of the length of what was of length 1; 0 at lag 0."""
    log_gradient_stderr: Float[Array, " L"]
    """Its standard error over windows."""
    result: GrowthVerdict
    """The verdict: `not_finite` where the orbit or a derivative left the floating-point range (nothing is known of the
    horizon then, and it is NaN), `correlated` where the windows are too few or too much alike for the error bars."""


@compiled
def _product_spectrum(f, x0, inputs, lags, num_transient):
    transient, kept = (None, None) if inputs is None else (inputs[:num_transient], inputs[num_transient:])
    call = lambda x, u: f(x, *(() if inputs is None else (u,)))
    x, _ = jax.lax.scan(lambda x, u: (call(x, u), None), x0, transient, length=num_transient)
    unit = jnp.eye(x0.size, dtype=x0.dtype)

    def step(carry, u):
        x, q, log_d, s = carry
        x, vectors = push_frame(f, x, () if inputs is None else (u,), q)
        q, log_d, t = graded_qr(vectors, log_d)
        return x, q, log_d, t @ s

    def segment(carry, rows, length):
        return jax.lax.scan(lambda c, u: (step(c, u), None), carry, rows, length=length)[0]

    carry = (x, unit, jnp.zeros(x0.size, x0.dtype), unit)
    spectra, done = [], 0
    for lag in lags:
        carry = segment(carry, None if kept is None else kept[done:lag], lag - done)
        spectra.append(carry[2:])
        done = lag
    log_d, s = jax.tree.map(lambda *a: jnp.stack(a), *spectra)
    return JacobianProductSpectrum(jnp.asarray(lags), jax.vmap(log_singular_values)(log_d, s))


@compiled
def _memory_horizon(f, x0, inputs, num_steps, num_transient, max_lag, ends, probes, log_factor):
    call = lambda x, u: f(x, *(() if inputs is None else (u,)))
    _, states = jax.lax.scan(lambda x, u: (call(x, u), x), x0, inputs, length=num_transient + num_steps)
    states = states[num_transient:]
    rows = None if inputs is None else inputs[num_transient:]

    def window(end, probes):
        cut = lambda a: jax.lax.dynamic_slice_in_dim(a, end - max_lag, max_lag)
        probes = probes / jnp.linalg.norm(probes, axis=1, keepdims=True)

        def back(carry, xu):
            vectors, log_norms = carry
            x, u = xu
            pulled = jax.vmap(lambda v: jax.vjp(lambda y: call(y, u), x)[1](v)[0])(vectors)
            vectors, log_lengths = jax.vmap(polar)(pulled)
            log_norms = log_norms + log_lengths
            return (vectors, log_norms), log_norms.mean()

        start = (probes, jnp.zeros(probes.shape[0], probes.dtype))
        _, falls = jax.lax.scan(back, start, (cut(states), None if rows is None else cut(rows)), reverse=True)
        return jnp.concatenate([jnp.zeros(1, falls.dtype), falls[::-1]])

    curves = jax.vmap(window)(jnp.asarray(ends), probes)  # (windows, lags)
    curve = curves.mean(axis=0)
    half = max_lag // 2
    # A gradient that some step destroys falls at an infinite rate, with no fluctuations to speak of.
    destroyed = jnp.isneginf(curve[-1])
    slopes = (curves[:, -1] - jnp.where(destroyed, 0, curves[:, half])) / (max_lag - half)
    exponent = slopes.mean()
    stderr, _, resolved = (value[0] for value in batch_means(jnp.where(destroyed, 0, slopes)[:, None]))
    lost = jnp.isnan(curve).any()

    crossed = curve <= -log_factor
    first = jnp.argmax(crossed)
    above, below = curve[first - 1], curve[first]
    inside = first - 1 + jnp.where(jnp.isneginf(below), 1, (above + log_factor) / (above - below))
    beyond = jnp.where(exponent < 0, max_lag + (curve[-1] + log_factor) / -exponent, jnp.inf)
    return MemoryHorizon(
        horizon=jnp.where(lost, jnp.nan, jnp.where(crossed.any(), inside, beyond)),
        extrapolated=~crossed.any(),
        exponent=exponent,
        exponent_stderr=stderr,
        lags=jnp.arange(max_lag + 1),
        log_gradient=curve,
        log_gradient_stderr=jnp.asarray(batch_means(jnp.where(jnp.isneginf(curve), 0, curves))[0]),
        result=_verdict(lost, resolved & (len(ends) > 1)),
    )


def _verdict(lost, resolved):
    fine = GrowthVerdict.where(resolved, GrowthVerdict.converged, GrowthVerdict.correlated)
    return GrowthVerdict.where(lost, GrowthVerdict.not_finite, fine)
