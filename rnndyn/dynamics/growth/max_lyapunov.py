"""The largest Lyapunov exponent, measured in two independent ways."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.growth._arguments import check_dt, check_growth_arguments
from rnndyn.dynamics.growth._polar import polar
from rnndyn.dynamics.growth.verdicts import GrowthVerdict
from rnndyn.dynamics.numerics.statistics import batch_means, block_sums
from rnndyn.results import Judged


def max_lyapunov_exponent(
    f: Callable[..., Array],
    x0: ArrayLike,
    num_steps: int,
    *,
    inputs: ArrayLike | None = None,
    num_transient: int = 0,
    dt: ArrayLike = 1.0,
    separation: float | None = None,
) -> "MaxLyapunovExponent":
    r"""The largest Lyapunov exponent, from a tangent vector and from two nearby trajectories, one against the other.

    $$\lambda_1 \approx \frac{1}{T\,dt} \sum_t \ln |DF(x_t)\, v_t|, \qquad
    \lambda_1 \approx \frac{1}{T\,dt} \sum_t \ln \frac{|F(x_t + d_t w_t) - F(x_t)|}{d_t}$$

    with unit vectors $v_{t+1} \propto DF(x_t) v_t$ and $w_{t+1} \propto F(x_t + d_t w_t) - F(x_t)$. The second uses no
    derivative, so the two agree only when the derivative of `f` is that of `f`: where `f` rounds, branches or has a
    custom derivative, they may not.

    **Arguments:**

    - `f`, `x0`, `num_steps`, `inputs`, `num_transient`, `dt`: as in `lyapunov_spectrum`.
    - `separation`: $d$, the distance of the two trajectories, relative to the largest entry of the state (or to one, if
      that is larger). Default: the root of the machine epsilon, where errors of rounding and of curvature balance.

    **Returns:** a `MaxLyapunovExponent`.

    **Raises:** `ValueError` for wrong shapes or counts.

    Pure: `jit`, `vmap` and `grad` work.

    ??? cite "Reference"
        G. Benettin, L. Galgani & J.-M. Strelcyn (1976), "Kolmogorov entropy and numerical experiments",
        Phys. Rev. A 14.
    """
    f, x0, inputs, _ = check_growth_arguments(f, x0, num_steps, num_transient, inputs, 1)
    check_dt(dt)
    if separation is not None and not separation > 0:
        raise ValueError(f"separation: expected a positive distance, got {separation}.")
    if separation is None:
        separation = float(np.sqrt(jnp.finfo(x0.dtype).eps))
    return _max_exponent(f, x0, inputs, num_steps, num_transient, jnp.asarray(dt, x0.dtype), separation)


class MaxLyapunovExponent(Judged):
    """The largest Lyapunov exponent by two methods that share an orbit, in nats per step, or per unit time with `dt`.

    Scalars, or a batch `(B,)` under `vmap`. The tangent vector (G. Benettin et al. 1980) is the value; two trajectories
    at a small distance, pulled back to it after each step, are the check: they need no derivative. `agree` says whether
    the two do, and `result` whether the error bars can be believed.
    """

    exponent: Float[Array, ""]
    """From the tangent vector. NaN when the trajectory leaves the floating-point range."""
    stderr: Float[Array, ""]
    """Its standard error (batch means)."""
    two_trajectory_exponent: Float[Array, ""]
    """From two nearby trajectories along the same orbit."""
    two_trajectory_stderr: Float[Array, ""]
    """Its standard error."""
    discrepancy_stderr: Float[Array, ""]
    """The standard error of the difference of the two: they share the orbit, so it is far below either error."""
    result: GrowthVerdict
    """The verdict: `not_finite` where the trajectory left the floating-point range, `correlated` where the window is
    too short for the error bars."""

    @property
    def discrepancy(self) -> Float[Array | np.ndarray, "..."]:
        """How far the two are apart."""
        return abs(self.two_trajectory_exponent - self.exponent)

    @property
    def agree(self) -> Bool[Array | np.ndarray, "..."]:
        """Whether they differ by less than the larger standard error, or by rounding.

        Rounding and curvature bias the second; a bias below the statistical error is harmless.
        """
        error = jnp.maximum(jnp.asarray(self.stderr), jnp.asarray(self.two_trajectory_stderr))
        floor = 1e3 * jnp.sqrt(jnp.finfo(error.dtype).eps) * jnp.maximum(1, jnp.abs(jnp.asarray(self.exponent)))
        return jnp.asarray(self.discrepancy) <= jnp.maximum(error, floor)


@compiled
def _max_exponent(f, x0, inputs, num_steps, num_transient, dt, separation):
    direction = jax.random.normal(jax.random.key(0), x0.shape, x0.dtype)
    direction = direction / jnp.linalg.norm(direction)

    def step(carry, u):
        x, v, w = carry
        args = () if inputs is None else (u,)
        next_x, pushed = jax.jvp(lambda y: f(y, *args), (x,), (v,))
        distance = separation * jnp.maximum(1, jax.lax.stop_gradient(jnp.max(jnp.abs(x))))
        apart = (f(x + distance * w, *args) - next_x) / distance
        v, log_tangent = _renormalise(pushed, v)
        w, log_apart = _renormalise(apart, w)
        return (next_x, v, w), jnp.stack([log_tangent, log_apart])

    _, logs = jax.lax.scan(step, (x0, direction, direction), inputs, length=num_transient + num_steps)
    logs = logs[num_transient:]
    exponents = logs.mean(axis=0) / dt
    both = jnp.concatenate([logs, logs[:, :1] - logs[:, 1:]], axis=1)
    blocks, block = block_sums(jnp.where(jnp.isneginf(both), 0, both))
    errors, _, resolved = batch_means(blocks / (block * dt))
    verdict = GrowthVerdict.where(
        resolved[:2].all() & (num_steps > 1), GrowthVerdict.converged, GrowthVerdict.correlated
    )
    verdict = GrowthVerdict.where(jnp.isnan(exponents).any(), GrowthVerdict.not_finite, verdict)
    return MaxLyapunovExponent(exponents[0], errors[0], exponents[1], errors[1], errors[2], verdict)


def _renormalise(pushed, before):
    """The direction and log length of a vector; a vector that vanished (log length -inf) keeps its direction."""
    direction, log_length = polar(pushed)
    return jnp.where(jnp.isneginf(log_length), before, direction), log_length
