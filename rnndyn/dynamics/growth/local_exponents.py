"""Where on an attractor nearby states are pulled apart."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from rnndyn._programs import compiled
from rnndyn.dynamics.growth._arguments import check_dt, check_growth_arguments
from rnndyn.dynamics.growth._step_qr import step_qr
from rnndyn.dynamics.growth.verdicts import GrowthVerdict
from rnndyn.dynamics.numerics.frames import push_frame, random_frame
from rnndyn.results import Judged, first_verdict


def local_exponents(
    f: Callable[..., Array],
    x0: ArrayLike,
    num_steps: int,
    *,
    inputs: ArrayLike | None = None,
    num_exponents: int = 1,
    num_transient: int = 100,
    dt: ArrayLike = 1.0,
) -> "LocalExponents":
    r"""One-step growth rates at every state visited: a map of where the attractor stretches and folds.

    $$DF(x_t) Q_t = Q_{t+1} R_{t+1}, \qquad \lambda_i(x_t) = \ln (R_{t+1})_{ii} / dt$$

    Their averages are the Lyapunov exponents. The first is the growth of the most unstable direction at $x_t$ and a
    property of the point alone; further ones are volume growths, $\lambda_1 + \dots + \lambda_i$ that of i-volumes.

    **Arguments:** as in `lyapunov_spectrum`, with one exponent by default.

    **Returns:** a `LocalExponents`.

    **Raises:** `ValueError` for wrong shapes or counts.

    Memory O(T N). Pure: `jit`, `vmap` and `grad` work.

    ??? cite "Reference"
        H. D. I. Abarbanel, R. Brown & M. B. Kennel (1991), "Variation of Lyapunov exponents on a strange attractor".
    """
    f, x0, inputs, num_exponents = check_growth_arguments(f, x0, num_steps, num_transient, inputs, num_exponents)
    check_dt(dt)
    return _local(f, x0, inputs, num_steps, num_exponents, num_transient, jnp.asarray(dt, x0.dtype))


class LocalExponents(Judged):
    """States on an attractor with the growth rates of k orthonormal directions there; their means are the exponents.

    T states `(T, N)`, and the rates over the step from each, `(T, k)`, in nats per step, or per unit time where `dt`
    was given. They belong to the Gram-Schmidt directions (G. Benettin et al. 1980), which depend on the norm: only
    their means do not. Error bars of the means: `lyapunov_spectrum`.
    """

    states: Float[Array, "T N"]
    """The states $x_t$ visited after the transient; NaN or infinite from where the trajectory escaped."""
    exponents: Float[Array, "T k"]
    """The growth rates over the step from $x_t$ to $x_{t+1}$, in nats per step or per unit time, in the order of the
    directions: not sorted at each step. -inf where the step destroys a direction, NaN after the trajectory escaped."""

    @property
    def result(self) -> Any:
        """Whether there are numbers for each step, a batch `(T,)` of `GrowthVerdict`: `converged` or `not_finite`."""
        lost = np.isnan(np.asarray(self.exponents)).any(axis=-1) | ~np.isfinite(np.asarray(self.states)).all(axis=-1)
        return first_verdict((lost, GrowthVerdict.not_finite), otherwise=GrowthVerdict.converged)


@compiled
def _local(f, x0, inputs, num_steps, num_exponents, num_transient, dt):
    transient, kept = (None, None) if inputs is None else (inputs[:num_transient], inputs[num_transient:])

    def step(carry, u):
        x, frame = carry
        args = () if inputs is None else (u,)
        x_next, vectors = push_frame(f, x, args, frame)
        frame, log_diagonal, _ = step_qr(f, x, args, frame, vectors)
        return (x_next, frame), (x, log_diagonal)

    start = (x0, random_frame(x0.size, num_exponents, x0.dtype))
    start, _ = jax.lax.scan(lambda c, u: (step(c, u)[0], None), start, transient, length=num_transient)
    _, (states, log_growth) = jax.lax.scan(step, start, kept, length=num_steps)
    return LocalExponents(states, log_growth / dt)
