"""Orbit diagrams: the states that remain at each value of a parameter, and how nearby ones separate."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least, check_states
from rnndyn.dynamics.growth.max_lyapunov import max_lyapunov_exponent
from rnndyn.dynamics.growth.verdicts import ChaosVerdict
from rnndyn.dynamics.numerics.drivers import double_precision, let_in, map_in_chunks
from rnndyn.results import Judged, first_verdict, is_verdict


def orbit_diagram(
    f: Callable[[Array, Array], Array],
    x0: ArrayLike,
    parameters: ArrayLike,
    *,
    num_states: int = 200,
    num_transient: int = 1000,
    num_steps: int = 2000,
    progress: bool = True,
    devices: "Sequence[jax.Device] | jax.sharding.Mesh | None" = None,
) -> "OrbitDiagram":
    r"""Iterate a map at each value of a parameter, and keep what remains after a transient.

    $x_{t+1} = F(x_t, p)$ runs from `x0`; the last `num_states` states are what is drawn, and

    $$\lambda_1 = \frac1T \sum_t \ln |DF(x_t, p)\,v_t|, \qquad v_{t+1} \propto DF(x_t, p)\,v_t$$

    over `num_steps` steps tells chaos ($\lambda_1 > 0$) from cycles ($\lambda_1 < 0$).

    **Arguments:**

    - `f`: the map with its parameter, `(N,), () -> (N,)`.
    - `x0`: the initial state for all parameters `(N,)`, or one for each `(K, N)`.
    - `parameters`: shape `(K,)`.
    - `num_states`: how many states to keep, per parameter.
    - `num_transient`: how many steps to forget.
    - `num_steps`: the length of the average of the exponent, at least `num_states`.
    - `progress`: show a bar when it takes longer than two seconds.
    - `devices`: JAX devices, or a `jax.sharding.Mesh` of them, that share the work; also those of other processes
        (`jax.distributed`), which then all make this call. By default the default device.

    **Returns:** an `OrbitDiagram` in float64.

    **Raises:** `ValueError` for bad shapes, NaN, or a map that changes its state's shape or dtype.

    All parameters run side by side, each from its own initial state: where several attractors coexist, the diagram
    shows the one that `x0` leads to. Near a bifurcation the transient decays slowly, and `num_transient` steps may not
    be enough; `bifurcation_diagram` computes what such a diagram samples.

    Reference: R. May (1976), *Simple mathematical models with very complicated dynamics*.
    """
    p = np.asarray(parameters, np.float64)
    if p.ndim != 1 or p.size == 0 or not np.isfinite(p).all():
        raise ValueError(f"parameters: expected a non-empty vector of finite numbers, got shape {p.shape}.")
    starts = np.asarray(x0)
    if starts.ndim == 1:
        starts = np.broadcast_to(starts, (p.size, starts.size))
    check_states("x0", starts)
    if len(starts) != p.size:
        raise ValueError(f"x0: expected one state, or {p.size} states, one per parameter, got {len(starts)}.")
    check_at_least("num_states", num_states, 1)
    check_at_least("num_transient", num_transient, 0)
    check_at_least("num_steps", num_steps, num_states)
    starts = starts.astype(np.float64)
    with double_precision(devices):
        f = let_in(f, starts[0], np.float64(p[0]))
        run = _Run(num_states, num_transient, num_steps)
        states, exponents, stderr = map_in_chunks(
            lambda batch: _orbits(f, run, *batch),
            (starts, p),
            # The states that are kept, and a number per step for the error of the average.
            bytes_per_item=8 * (2 * num_states * starts.shape[1] + 8 * num_steps),
            description="orbits",
            progress=progress,
        )
    return OrbitDiagram(p, states, exponents, stderr)


class OrbitDiagram(Judged):
    r"""What remains of an orbit at each value of a parameter.

    - `parameters`: `(K,)`.
    - `states`: the last states, `(K, T, N)`; NaN or infinite where the orbit left the floating-point range.
    - `exponents`: $\lambda_1$ in nats per step, `(K,)`; NaN where the orbit left the floating-point range.
    - `stderr`: their standard errors, `(K,)`.
    """

    parameters: Float[np.ndarray, " K"]
    states: Float[np.ndarray, "K T N"]
    exponents: Float[np.ndarray, " K"]
    stderr: Float[np.ndarray, " K"]

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def result(self) -> Any:
        """What each orbit does, a batch `(K,)` of `ChaosVerdict`: chaotic (regular) where the exponent is positive
        (negative) by more than three standard errors, unclear between, not finite where the orbit was lost."""
        return first_verdict(
            (~np.isfinite(self.states).all(axis=(1, 2)) | np.isnan(self.exponents), ChaosVerdict.not_finite),
            (self.exponents > 3 * self.stderr, ChaosVerdict.chaotic),
            (self.exponents < -3 * self.stderr, ChaosVerdict.regular),
            otherwise=ChaosVerdict.unclear,
        )

    @property
    def is_chaotic(self) -> Bool[np.ndarray, " K"]:
        """Where the exponent is positive by more than three standard errors."""
        return is_verdict(self.result, ChaosVerdict.chaotic)

    def table(self) -> str:
        lost = int(np.sum(is_verdict(self.result, ChaosVerdict.not_finite)))
        lines = [
            f"Orbit diagram: {len(self)} parameters from {self.parameters.min():.6g} to {self.parameters.max():.6g}, "
            f"{self.states.shape[1]} states of {self.states.shape[2]} units each",
            f"  chaotic at {int(self.is_chaotic.sum())}; largest exponent {np.nanmax(self.exponents):.4g}",
        ]
        return "\n".join(lines + ([f"  unbounded at {lost}"] if lost else []))


class _Run(eqx.Module):
    num_states: int = eqx.field(static=True)
    num_transient: int = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)


@compiled
def _orbits(f: Callable, run: _Run, starts: Any, parameters: Any) -> tuple[Array, Array, Array]:
    def one(x: Array, p: Array) -> tuple[Array, Array, Array]:
        def settle(x: Array, _: None) -> tuple[Array, None]:
            return f(x, p), None

        def record(x: Array, _: None) -> tuple[Array, Array]:
            x = f(x, p)
            return x, x

        x, _ = jax.lax.scan(settle, x, None, length=run.num_transient)
        spread = max_lyapunov_exponent(lambda x: f(x, p), x, run.num_steps)
        _, states = jax.lax.scan(record, x, None, length=run.num_states)
        return states, spread.exponent, spread.stderr

    return jax.vmap(one)(jnp.asarray(starts), jnp.asarray(parameters))
